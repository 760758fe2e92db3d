"""The client for programs that wait in threads; setup.py makes most of it from `bgd.client.async_`."""
