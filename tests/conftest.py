"""Fixtures for all tests."""

import os
import sys
import tempfile
from pathlib import Path

import pexpect  # type: ignore[import-untyped]  # it has no types
import pytest
from hypothesis import settings

from tests.support import DEADLINE, WIDTH, Daemon, Home

settings.register_profile("ci", max_examples=200, stateful_step_count=40, deadline=None, print_blob=True)
settings.register_profile(
    "long", parent=settings.get_profile("ci"), max_examples=2000, stateful_step_count=60
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


@pytest.fixture(scope="module")
def daemon():
    """A daemon in its own home, shared by the tests of one module."""
    with tempfile.TemporaryDirectory(prefix="bgd-") as folder:  # a short path, as sockets need
        running = Daemon(Path(folder))
        running.start()
        yield running
        running.stop()


@pytest.fixture
def own_daemon():
    """A daemon for one test, which may kill and restart it."""
    with tempfile.TemporaryDirectory(prefix="bgd-") as folder:
        running = Daemon(Path(folder))
        running.start()
        yield running
        running.stop()


@pytest.fixture
def home():
    """A home in which nothing runs; a daemon that the test starts there is stopped afterwards."""
    with tempfile.TemporaryDirectory(prefix="bgd-") as folder:
        empty = Home(Path(folder))
        yield empty
        empty.shut_down()


@pytest.fixture
def terminal(daemon: Daemon):
    """Start bgctl on a terminal; kill what still runs after the test."""
    children: list[pexpect.spawn] = []

    def start(*arguments: str, width: int = WIDTH, **env: str) -> pexpect.spawn:
        child = pexpect.spawn(
            sys.executable,
            ["-m", "bgctl", *arguments],
            env=daemon.env | env,
            cwd=str(daemon.folder),
            timeout=DEADLINE,
            dimensions=(24, width),
            encoding="utf-8",
        )
        children.append(child)
        return child

    yield start
    for child in children:
        child.close(force=True)
