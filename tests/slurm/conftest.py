"""One Slurm and one daemon for all tests of this folder."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import pytest

from tests.slurm.two_nodes import AS_USER, USER, TwoNodes, what_is_missing
from tests.support import Daemon

MODULE = """
import os, pathlib

def where(number):
    print("on", os.environ["SLURMD_NODENAME"])
    return [os.environ["SLURMD_NODENAME"], number + 1]

def fail():
    raise ValueError("as asked")
"""
CONFIGURATION = """
[daemon]
slots = 8
grace = "1s"
[security]
allowed_classes = ["work.*"]
[python]
interpreter = "/usr/bin/python3"  # that of the tests may be in root's home
path = ["{folder}"]
[executors.cluster]
kind = "slurm"
folder = "{folder}/shared"
conf = "{conf}"
memory = "100MB"
requests_per_second = 30
[executors.later]
kind = "slurm"
folder = "{folder}/shared"
conf = "{conf}"
options = ["--begin=now+1hour"]
requests_per_second = 30
[queues.big]
executor = "cluster"
"""


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
    with tempfile.TemporaryDirectory(prefix="bgd-") as folder:
        running = Daemon(Path(folder))
        running.prefix = AS_USER
        running.env |= {"BGD_SOCKET": str(running.socket)}
        (running.folder / "work.py").write_text(MODULE)
        texts = {"{folder}": folder, "{conf}": str(slurm.configuration)}
        text = CONFIGURATION
        for mark, value in texts.items():
            text = text.replace(mark, value)
        running.configure(text)
        for path in [running.folder, *running.folder.rglob("*")]:
            shutil.chown(path, USER)
        running.start()
        yield running
        # shown if the last test failed
        print(
            slurm.run("squeue"),
            slurm.run("sinfo", "-N"),
            (slurm.folder / "slurmctld.log").read_text()[-3000:],
        )
        print(running.bgctl("show", "last").stdout, (running.folder / "bgd.log").read_text())
        print(slurm.run("ps", "-U", USER, "-o", "pid,ppid,stat,wchan:20,args"))
        running.stop()


@pytest.fixture(scope="session")
def client(daemon):
    with daemon.client() as connected:
        yield connected
