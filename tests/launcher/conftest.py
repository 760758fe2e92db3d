"""Fixtures of the launcher's tests."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.launcher.host import PATIENCE, Host, Supervisor
from tests.launcher.scripted_slurm import ScriptedSlurm


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    """Yield a host without a launcher yet; everything started there has ended after the test."""
    host = Host(tmp_path)
    yield host
    host.clear_up()
    assert "Traceback" not in host.said, host.said


@pytest.fixture
def supervisor(host: Host) -> Supervisor:
    """Return the active supervisor of a launcher that has just started."""
    host.start()
    return host.supervise()


@pytest.fixture
def tamper(host: Host) -> Iterator[Callable[..., None]]:
    """Yield a function that makes system calls of the launcher fail or take time, by strace's `inject`."""
    tracers: list[subprocess.Popen[bytes]] = []

    def begin(calls: str, how: str, *options: str) -> None:
        words = ["-e", f"trace={calls}", "-e", f"inject={calls}:{how}", *options]
        argv = ["strace", *words, "-p", str(host.launchers[-1].pid)]
        tracers.append(subprocess.Popen(argv, stderr=subprocess.PIPE))
        assert tracers[-1].stderr is not None
        assert b"attached" in tracers[-1].stderr.readline()

    yield begin
    for tracer in tracers:
        tracer.terminate()
        tracer.communicate(timeout=PATIENCE)


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ScriptedSlurm]:
    """Yield scripts in place of Slurm's programs, which launchers find first."""
    folder = tmp_path / "slurm"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    slurm = ScriptedSlurm(folder)
    yield slurm
    slurm.end()
