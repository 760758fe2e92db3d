"""What the machine offers: clocks, mounts, streams, its service manager."""
