"""The files of bgd are moved away while the daemon runs."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path

from tests.support import ROOT, Daemon, wait_until

JOBS = "class Area:\n    def submit(self, side):\n        return side\n"


def test_class_jobs_wait_and_keep_their_retries_while_the_installation_is_gone():
    with tempfile.TemporaryDirectory(prefix="bgd-") as folder:
        running = Daemon(Path(folder))
        copied, moved = running.folder / "installed", running.folder / "moved"
        shutil.copytree(ROOT / "bgd", copied / "bgd")
        (running.folder / "app.py").write_text(JOBS)
        running.configure(f'[security]\nallowed_classes = ["app.Area"]\n[python]\npath = ["{folder}"]\n')
        running.env["PYTHONPATH"] = f"{copied}"
        running.start()
        running.env["PYTHONPATH"] = str(ROOT)
        try:
            before = running.bgctl("call", "app:Area.submit", "2").stdout.strip()
            assert running.bgctl("wait", before).returncode == 0

            copied.rename(moved)
            jobs = [
                running.bgctl("call", "--retries", "1", "app:Area.submit", "3").stdout.strip() for _ in "ab"
            ]
            wait_until(lambda: all(running.shown(job)["snoozes"] for job in jobs))
            shown = running.shown(jobs[0])
            told = running.bgctl("doctor").stdout
            command = running.submit("true")
            assert running.bgctl("wait", command).returncode == 0
            moved.rename(copied)
            after = running.bgctl("call", "app:Area.submit", "4").stdout.strip()

            gone = f"{copied}/bgd/worker/run.py is gone: the virtual environment of bgd was moved or rebuilt"
            assert (shown["state"], shown["outcome"], shown["snoozes"]) == ("scheduled", "snoozed", 1)
            assert gone in json.dumps(shown)
            assert gone in told
            assert running.bgctl("wait", after).returncode == 0
            said = (running.folder / "bgd.log").read_text()
            assert said.count(gone) == said.count("class jobs start again") == 1
        finally:
            running.stop()
