"""Fixtures for tests on a real systemd: one machine, booted once, with bgd from `make install`."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import ROOT
from tests.systemd.machine import Machine, why_not


@pytest.fixture(scope="session")
def stage() -> Iterator[Path]:
    """The files that `make install` writes below /usr/local, in a staging folder with an odd name."""
    with tempfile.TemporaryDirectory(prefix="bgd-stage a|b&c 100% it's-") as folder:
        subprocess.run(["make", "install", f"DESTDIR={folder}"], cwd=ROOT, check=True, capture_output=True)
        yield Path(folder)


@pytest.fixture(scope="session")
def dist() -> Iterator[Path]:
    """The folder with the source package and the wheel that `make dist` builds."""
    with tempfile.TemporaryDirectory(prefix="bgd-dist-") as folder:
        build = [str(ROOT / "systemd/dist.sh"), sys.executable, folder]
        subprocess.run(build, check=True, capture_output=True)
        yield Path(folder)


@pytest.fixture(scope="session")
def machine(request: pytest.FixtureRequest) -> Iterator[Machine]:
    """A machine on which the commands that `make install` prints have been run."""
    reason = why_not()
    if reason is not None:
        pytest.skip(f"NOT RUN ON A REAL SYSTEMD: {reason}")
    stage = request.getfixturevalue("stage")
    python = (stage / "usr/local/lib/bgd/bin/python").resolve()
    if python.is_relative_to("/root") or python.is_relative_to("/home"):
        pytest.skip(f"NOT RUN ON A REAL SYSTEMD: {python} is out of a service's reach")
    with tempfile.TemporaryDirectory(prefix="bgd-machine-") as folder:
        place = Path(folder, "root")
        place.mkdir()
        machine = Machine(place, stage)
        try:
            machine.run("systemd-sysusers")
            machine.run("systemctl", "daemon-reload")
            machine.run("systemctl", "enable", "--now", "bgd")
            machine.run("loginctl", "enable-linger", "ada")
            yield machine
            assert "Traceback" not in machine.run("journalctl", "--unit", "bgd*")
        finally:
            machine.power_off()
