"""A follower continues when the daemon is killed and restarted, and gets all output exactly once."""

from __future__ import annotations

import asyncio
import re
import signal
import subprocess
import sys
from contextlib import aclosing
from functools import partial

from bgd import AsyncClient, AsyncJob, Client, State
from bgd.wire.views import EventView
from tests.support import Daemon, Home, wait_until

KILLS = 3
LINES = 200
COUNT = f"for i in $(seq {LINES}); do echo $BGD_ATTEMPT.$i; sleep 0.01; done; test $BGD_ATTEMPT = 2"
OUTPUT = b"".join(b"%d.%d\n" % (attempt, line) for attempt in (1, 2) for line in range(1, LINES + 1))


async def test_logs_waits_results_and_events_continue_through_kills(own_daemon: Daemon):
    output = bytearray()
    async with AsyncClient(str(own_daemon.socket)) as client, asyncio.TaskGroup() as tasks:
        job = await client.submit(COUNT, shell=True, retries=1, retry_delay=0.2)
        logs = tasks.create_task(follow(job, output))
        blocking = tasks.create_task(asyncio.to_thread(followed, str(own_daemon.socket), job.id))
        events = tasks.create_task(events_of(client, job))
        waiting = tasks.create_task(client.wait([job]))
        result = tasks.create_task(job.result())
        for kill in range(KILLS):
            mark = len(OUTPUT) * (2 * kill + 1) // (2 * KILLS)
            await asyncio.to_thread(wait_until, partial(is_long, output, mark))
            own_daemon.process.send_signal(signal.SIGKILL)
            await asyncio.to_thread(own_daemon.process.wait)
            await asyncio.to_thread(own_daemon.start)
        await logs

        assert bytes(output) == OUTPUT
        assert await blocking == OUTPUT
        [finished] = await waiting
        assert (finished.state, finished.attempt) == (State.SUCCEEDED, 2)
        assert await result == 0
        told = await events
        assert [event.what for event in told] == [
            "submit",
            "start",
            "retry",
            "come due",
            "start",
            "succeed",
        ]
        assert told == [event async for event in client.events(0, follow=False) if event.job == job.id]


FOLLOWER = """
import os, signal, sys
from bgd import Client
from bgd.client import channel

channel._OTHERS_FIRST = float(sys.argv[1])
with Client(timeout=float(sys.argv[2]), on_autostart=lambda pid, log: print("started", pid)) as client:
    job = client.submit("echo before; sleep 2; echo after", shell=True)
    for part in job.logs(follow=True):
        print(part.data, flush=True)
        if part.data == b"before\\n":
            os.kill(client.info().pid, signal.SIGKILL)
"""


def test_client_that_lost_its_own_daemon_starts_another_if_nobody_else_does(home: Home):
    done = run(home, FOLLOWER, "0", "20")

    assert re.fullmatch(r"started \d+\nb'before\\n'\nstarted \d+\nb'after\\n'\n", done.stdout), done


def test_others_may_start_a_lost_daemon_first(home: Home):
    done = run(home, FOLLOWER, "60", "5")  # seconds, enough for a daemon to start on a slow machine

    assert "DaemonUnreachable: no daemon answers" in done.stderr
    assert done.stdout.count("started") == 1


def run(home: Home, program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return home.execute(sys.executable, "-c", program, *arguments)


def is_long(output: bytearray, mark: int) -> bool:
    return len(output) >= mark


async def follow(job: AsyncJob, output: bytearray) -> None:
    async for part in job.logs(attempt=0, follow=True):
        output += part.data


def followed(socket: str, job_id: int) -> bytes:
    with Client(socket) as client:
        return b"".join(part.data for part in client.logs(job_id, attempt=0, follow=True))


async def events_of(client: AsyncClient, job: AsyncJob) -> list[EventView]:
    told: list[EventView] = []
    async with aclosing(client.events(0)) as events:
        async for event in events:
            told += [event] if event.job == job.id else []
            if event.job == job.id and event.state is State.SUCCEEDED:
                break
    return told
