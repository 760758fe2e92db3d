"""The control socket: requests of clients and their answers."""
