"""The control socket: what clients ask over it, and what they are answered."""
