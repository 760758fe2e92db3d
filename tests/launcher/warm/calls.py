"""Class jobs for a launcher in every isolation, with modules that tests write."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import msgspec

from bgd.core.spec import Isolation
from bgd.core.target import python_target
from bgd.wire.class_jobs import worker_request
from bgd.wire.launching import AttemptEnded, AttemptKey, Launch, WarmStart
from bgd.worker import WORKER
from tests.launcher.host import Host, Supervisor, launch_of

FORK, SPAWN, REUSE = Isolation.FORK, Isolation.SPAWN, Isolation.REUSE
SYSTEM_PYTHON = Path("/usr/bin/python3")  # one without bgd, if the machine has it
INTERPRETERS = [sys.executable, *([str(SYSTEM_PYTHON)] if SYSTEM_PYTHON.exists() else [])]


class Calls:
    """Launch class jobs of one isolation; `preload` and `further` fields of WarmStart apply to all."""

    def __init__(self, host: Host, supervisor: Supervisor, isolation: Isolation) -> None:
        self.host = host
        self.supervisor = supervisor
        self.isolation = isolation
        self.interpreter = sys.executable
        self.worker = WORKER
        self.folder = host.state / "modules"
        self.folder.mkdir()
        self.preload: list[str] = []
        self.around = ""
        self.further: dict[str, Any] = {}

    def write(self, name: str, source: str) -> Path:
        """Write a module. Each version has another modification time."""
        file = self.folder / f"{name}.py"
        file.write_text(source)
        return file

    def launch(self, target: str, *args: object, **options: Any) -> AttemptKey:
        self.supervisor.say(launch := self.launch_of(target, *args, **options))
        return launch.key

    def launch_of(
        self, target: str, *args: object, env: dict[str, str] | None = None, **options: Any
    ) -> Launch:
        path = [str(self.folder)]
        text = worker_request(
            python_target(target),
            json.dumps({"args": args}),
            path,
            stop_signal=options.get("stop_signal"),
            around=self.around,
        )
        own = {"BGD_JOB_ID": "7", **(env or {})}
        warm = None
        if self.isolation is not SPAWN:
            base = dict.fromkeys(own)
            warm = WarmStart(
                isolation=self.isolation, path=path, preload=self.preload, base=base, **self.further
            )
        return launch_of(
            *(self.interpreter, str(self.worker)),
            stdin=text,
            result=True,
            env={"PATH": os.environ["PATH"], **own},
            warm=warm,
            **options,
        )

    def run(self, target: str, *args: object, **options: Any) -> AttemptEnded:
        return self.supervisor.ended(self.launch(target, *args, **options))

    def value(self, target: str, *args: object, **options: Any) -> Any:
        """Run it; return what it returned."""
        return value_of(self.run(target, *args, **options))

    def output(self, ended: AttemptEnded) -> str:
        return self.host.output(ended.key).decode()

    def workers(self) -> list[int]:
        """Return the pids of warm workers of this host's launcher."""
        launcher = self.host.launchers[-1].pid
        children = Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split()
        return [int(pid) for pid in children if is_worker(pid)]


def is_worker(pid: int | str) -> bool:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except (FileNotFoundError, ProcessLookupError):
        return False
    return str(WORKER).encode() in words[:-2]  # the descriptor of the channel follows it


def value_of(ended: AttemptEnded) -> Any:
    assert ended.result, ended
    document = msgspec.json.decode(ended.result)
    assert "ok" in document, document
    return document["ok"]
