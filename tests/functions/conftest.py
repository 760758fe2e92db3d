"""A daemon that allows the functions of tests/functions/tasks.py, and that clients find."""

from __future__ import annotations

import pytest

from tests.support import ROOT, Daemon, serving

CONFIGURATION = f"""\
[security]
allowed_classes = ["tests.functions.tasks.*", "tests.functions.scheduled.*"]

[python]
path = ["{ROOT}"]
preload = ["tests.functions.tasks"]  # else each job imports it, and bgd, once more

[daemon]
slots = 4
"""


@pytest.fixture(scope="module")
def _running():
    with serving(CONFIGURATION) as running:
        yield running


@pytest.fixture
def served(_running: Daemon, monkeypatch: pytest.MonkeyPatch):
    """The daemon that clients without a socket find."""
    monkeypatch.setenv("BGD_SOCKET", str(_running.socket))
    return _running


@pytest.fixture
def own_served():
    """A daemon of this test, which may kill and restart it. Clients find it only by its socket."""
    with serving(CONFIGURATION) as running:
        yield running
