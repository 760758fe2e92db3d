"""The log files of attempts."""
