"""The pages that browsers see, read from the store and the log files; nothing is decided here."""
