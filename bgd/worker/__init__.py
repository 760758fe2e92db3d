"""The worker program: runs one class job inside the user's own interpreter."""

from pathlib import Path

WORKER = Path(__file__).with_name("run.py")
