"""Warm workers: interpreters that have imported in advance what class jobs need."""
