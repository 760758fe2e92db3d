"""The laws find bugs: each of these is put into bgd or bgctl on purpose."""

from __future__ import annotations

import pytest

from tests.agents.run import run_agents

# Each second reader dies where a kill shows the bug: on a busy machine agents rarely kill one just then.
ACKNOWLEDGES_BEFORE_IT_WRITES = """
import os, signal
from bgd import Client
right = Client.inbox

def inbox(self, *given, peek=False, **options):
    ends = right(self, *given, peek=peek, **options)
    if ends and not peek:
        self.acknowledge(ends)
        if os.getpid() % 2:
            os.kill(os.getpid(), signal.SIGKILL)
    return ends

Client.inbox = inbox
"""
DOES_NOT_MARK_BEFORE_IT_SENDS = """
import time
from bgd import Client
from bgd.daemon.storage import inbox
right = Client.acknowledge

def acknowledge(self, ends):
    time.sleep(0.1)
    right(self, ends)

Client.acknowledge = acknowledge
inbox.mark_handed_out = lambda db, events: dict.fromkeys(events, False)
"""
GIVES_UP_WAITING = """
from bgd import Client
right = Client.inbox
Client.inbox = lambda self, session, *, wait, **options: right(self, session, wait=wait or 0.05, **options)
"""


@pytest.mark.parametrize(
    ("bug", "violation"),
    [
        (ACKNOWLEDGES_BEFORE_IT_WRITES, "was not told of the end of job"),
        (DOES_NOT_MARK_BEFORE_IT_SENDS, ", not marked"),
        (GIVES_UP_WAITING, "nothing new (exit code 75): inbox --wait"),
    ],
    ids=["acknowledges before it writes", "does not mark before it sends", "gives up waiting"],
)
def test_a_bug_is_found(tmp_path, bug, violation):
    plant, world = tmp_path / "plant", tmp_path / "world"
    plant.mkdir()
    world.mkdir()
    (plant / "sitecustomize.py").write_text(bug)

    found = run_agents(world, commands=48, sessions=8, at_once=8, plant=plant)

    assert any(violation in each for each in found.violations), found
