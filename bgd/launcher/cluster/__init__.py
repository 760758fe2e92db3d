"""Attempts on a Slurm cluster: pilots run them, in allocations that this launcher requests."""
