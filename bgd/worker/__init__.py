"""The worker: runs class jobs inside the user's own interpreter, by the program `run.py`."""

from pathlib import Path

WORKER = Path(__file__).with_name("run.py")
