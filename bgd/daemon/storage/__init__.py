"""Jobs, attempts and events on disk: one SQLite file, behind the Store."""
