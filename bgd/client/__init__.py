"""The client of the daemon: `bgd.client.blocking` for threads, `bgd.client.async_` for event loops."""
