"""Run the real worker program in real interpreters, as the launcher does."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from bgd.core.target import python_target
from bgd.wire.class_jobs import worker_request
from bgd.worker import WORKER

SYSTEM_PYTHON = Path("/usr/bin/python3")  # one without bgd, if the machine has it
INTERPRETERS = [sys.executable, *([str(SYSTEM_PYTHON)] if SYSTEM_PYTHON.exists() else [])]
LONG_ENOUGH = 60  # seconds; a deadline, not a wait


class Run(NamedTuple):
    code: int
    raw: bytes
    log: str

    @property
    def told(self) -> dict[str, Any]:
        document: dict[str, Any] = json.loads(self.raw)
        return document

    @property
    def error(self) -> dict[str, str]:
        error: dict[str, str] = self.told["error"]
        return error

    @property
    def final_error(self) -> dict[str, str]:
        """The error after which another attempt would not help."""
        error: dict[str, str] = self.told["wish"]
        assert error["aim"] == "fail"
        return error


Call = Callable[..., Run]


@pytest.fixture(params=INTERPRETERS)
def call(request: pytest.FixtureRequest, tmp_path: Path) -> Call:
    """Return a function that runs target(*args, **kwargs) of modules that `module` wrote."""

    def run(target: str, *args: object, **kwargs: object) -> Run:
        return _run_worker(tmp_path, target, json.dumps({"args": args, "kwargs": kwargs}), request.param)

    return run


@pytest.fixture
def worker(tmp_path: Path) -> Call:
    """Return a function that runs the program with any options of `_run_worker`."""
    return functools.partial(_run_worker, tmp_path)


@pytest.fixture
def module(tmp_path: Path) -> Callable[[str, str], None]:
    """Return a function that writes a module, by its dotted name, as `package/module.py`."""

    def write(name: str, source: str) -> None:
        file = tmp_path / f"{name.replace('.', '/')}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(source)

    return write


def _run_worker(  # noqa: PLR0913 - a launcher sets each separately
    folder: Path,
    target: str,
    arguments: str | None = None,
    interpreter: str = sys.executable,
    *,
    stdin: bytes | None = None,
    stdout: int = subprocess.PIPE,
    env: dict[str, str] | None = None,
    program: Path = WORKER,
    allowed: Sequence[str] | None = None,
) -> Run:
    result = folder / "result.json"
    descriptor = os.open(result, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
    try:
        ended = subprocess.run(
            [interpreter, program],
            input=worker_request(python_target(target), arguments, [str(folder)], allowed)
            if stdin is None
            else stdin,
            stdout=stdout,
            stderr=subprocess.STDOUT if stdout == subprocess.PIPE else subprocess.PIPE,
            cwd="/",
            env={"PATH": os.environ["PATH"], **(env or {}), "BGD_RESULT_FD": str(descriptor)},
            pass_fds=[descriptor],
            timeout=LONG_ENOUGH,
            check=False,
        )
    finally:
        os.close(descriptor)
    return Run(
        ended.returncode, result.read_bytes(), ((ended.stdout or b"") + (ended.stderr or b"")).decode()
    )
