"""One Slurm and one daemon for all tests of this folder."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from tests.slurm.gate import Gate
from tests.slurm.two_nodes import USER, TwoNodes, serving_as_user, what_is_missing


@pytest.fixture(scope="session")
def slurm():
    missing = what_is_missing()
    if missing is not None:
        pytest.skip(missing)
    with tempfile.TemporaryDirectory(prefix="slurm-") as folder:
        cluster = TwoNodes(Path(folder))
        try:
            cluster.start()
            yield cluster
        finally:
            cluster.stop()


@pytest.fixture(scope="session")
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


@pytest.fixture(scope="session")
def client(daemon):
    with daemon.client() as connected:
        yield connected


@pytest.fixture
def gate():
    with tempfile.TemporaryDirectory(prefix="gate-") as folder:  # pytest's own folders are root's alone
        Path(folder).chmod(0o777)
        yield Gate(Path(folder))
