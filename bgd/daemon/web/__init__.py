"""The pages: what a browser sees of the daemon, read from the store and the log files; nothing is decided."""
