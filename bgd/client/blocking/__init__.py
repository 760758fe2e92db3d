"""The client for programs that wait in threads; most of it is generated from `bgd.client.async_`."""
