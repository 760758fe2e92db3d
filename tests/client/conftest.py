"""Daemons for the client's tests."""

import pytest

from tests.client.scripted import ScriptedDaemon


@pytest.fixture
def play(tmp_path):
    """Start a scripted daemon; at the end of the test it must have come to the end of its scripts."""
    daemons: list[ScriptedDaemon] = []

    def start(*scripts):
        daemons.append(ScriptedDaemon(str(tmp_path / f"{len(daemons)}.sock"), scripts))
        return daemons[-1].path

    yield start
    for daemon in daemons:
        daemon.finish()
