"""What follows a batch starts exactly once, wherever bgd and its launcher are killed while its jobs end."""

from __future__ import annotations

import os
import random
import signal
from collections import Counter
from contextlib import suppress

from bgd import Client
from bgd.client.blocking.batches import Batch
from bgd.errors import DaemonUnreachable
from bgd.wire.requests import MAX_LIST
from tests.faults.figures import record, times
from tests.support import DEADLINE, Daemon, serving

KILLS = times(300, 4)
LAUNCHERS = 4  # every fourth kill also kills the launcher
JOBS = times(300, 40)  # of each batch
LONGEST = 0.25  # seconds between two kills
WAYS = ("true", "exit 3", "sleep 0.01", "sleep 0.05; exit 4")
HELD = {"argv": ["true"], "hold": True}


def test_what_follows_a_batch_starts_once_over_kills():
    dice, batches = random.Random(31), list[Batch]()
    with serving("daemon.slots = 8", {}) as daemon:
        with daemon.client() as client:
            for number in range(KILLS):
                if number % 2 == 0:
                    batches.append(made(client, number, dice))
                kill_at_a_random_moment(daemon, client, dice, with_launcher=number % LAUNCHERS == 1)
                if number % 3 == 0:
                    with suppress(DaemonUnreachable):  # a retry is not repeated
                        batches[-1].retry_failed()
            for batch in batches:
                batch.wait(10 * DEADLINE)
        started, outcomes = Counter[str](), Counter[str]()
        with daemon.client() as client:
            names = Counter(str(job.name) for job in client.jobs(states=["held"], limit=MAX_LIST))
            for batch in map(client.find_batch, [each.id for each in batches]):
                check(batch, names)
                outcomes.update(batch.counts)
                started.update(event for event in ("then", "catch", "finally_") if has_started(batch, event))
    record(
        "bgd, at times with its launcher, is killed while batches end",
        kills=KILLS,
        batches=len(batches),
        jobs=outcomes["total"],
        started_then=started["then"],
        started_catch=started["catch"],
        started_finally=started["finally_"],
        started_twice=0,
        not_started=0,
    )


def made(client: Client, number: int, dice: random.Random) -> Batch:
    """Make a batch; in half of them no job fails by itself."""
    ways = WAYS if number % 4 else WAYS[:1]
    calls = [["sh", "-c", dice.choice(ways)] for _ in range(JOBS)]
    follow_ups = {event: {**HELD, "name": f"{event} {number}"} for event in ("then", "catch", "finally_")}
    return client.batch(calls, f"batch {number}", rerun=True, **follow_ups)


def kill_at_a_random_moment(
    daemon: Daemon, client: Client, dice: random.Random, *, with_launcher: bool
) -> None:
    launcher = client.info().launcher_pid
    with suppress(TimeoutError):  # it lasts as long as some jobs need
        client.wait([client.job()], timeout=dice.uniform(0.0, LONGEST))
    daemon.process.kill()
    daemon.process.wait(DEADLINE)
    if with_launcher and launcher is not None:
        os.kill(launcher, signal.SIGKILL)
    daemon.start()


def has_started(batch: Batch, event: str) -> bool:
    follow_up = getattr(batch.view, event)
    return follow_up is not None and follow_up.job is not None


def check(batch: Batch, names: Counter[str]) -> None:
    """Check that counts equal the jobs, and that what was due has started, once."""
    states = Counter(job.state.value for job in batch.jobs())
    counts = {name: count for name, count in batch.counts.items() if count and name != "total"}
    assert counts == states, batch.view
    number = str(batch.name).split()[1]
    due = {"then": counts.keys() == {"succeeded"}, "catch": "failed" in counts, "finally_": True}
    for event, is_due in due.items():
        started = names[f"{event} {number}"]
        assert started <= 1, f"{event} of {batch.view} started {started} times"
        assert started or not is_due, f"{event} of {batch.view} has not started"
        assert has_started(batch, event) == bool(started), batch.view
