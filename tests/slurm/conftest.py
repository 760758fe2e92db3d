"""One Slurm for all tests of this folder, but test_site.py, and a daemon for each module."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from tests.slurm.gate import Gate
from tests.slurm.two_nodes import USER, running_cluster, serving_as_user, what_is_missing


@pytest.fixture(scope="session")
def slurm():
    missing = what_is_missing()
    if missing is not None:
        pytest.skip(missing)
    with running_cluster() as cluster:
        yield cluster


@pytest.fixture(scope="module")
def daemon(slurm):
    with serving_as_user(slurm) as running:
        yield running
        # shown if the last test failed
        print(
            slurm.run("squeue"),
            slurm.run("sinfo", "-N"),
            (slurm.folder / "slurmctld.log").read_text()[-3000:],
        )
        print(running.bgctl("show", "last").stdout, (running.folder / "bgd.log").read_text())
        print(slurm.run("ps", "-U", USER, "-o", "pid,ppid,stat,wchan:20,args"))


@pytest.fixture(scope="module")
def client(daemon):
    with daemon.client() as connected:
        yield connected


@pytest.fixture
def gate():
    with tempfile.TemporaryDirectory(prefix="gate-") as folder:  # pytest's own folders are root's alone
        Path(folder).chmod(0o777)
        yield Gate(Path(folder))
