"""The worker: run class jobs inside the user's own interpreter, by the program `run.py`.

The launcher starts that file by its path, and a launcher of an earlier release does so too. Its name stays.
"""

from pathlib import Path

WORKER = Path(__file__).with_name("run.py")
