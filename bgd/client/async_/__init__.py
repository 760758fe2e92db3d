"""The client for programs that run on an event loop."""
