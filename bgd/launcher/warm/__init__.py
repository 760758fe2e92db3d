"""Warm workers: interpreters that have imported what class jobs need before the jobs come."""
