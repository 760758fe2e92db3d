"""Warm workers: interpreters that have imported what class jobs need before they come."""
