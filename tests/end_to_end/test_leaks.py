"""Jobs, followers, streams and pages leave no memory, descriptor or process behind."""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path
from typing import NamedTuple

from bgd import AsyncClient
from bgd.wire.requests import GetEvents
from tests.daemon.web.browsing import Browser
from tests.end_to_end.chaos import Caller
from tests.support import Daemon, wait_until

DRIFT = 5 << 10  # KiB


class Figures(NamedTuple):
    """What a process uses: descriptors, KiB of its own memory, dead children."""

    descriptors: int
    memory: int
    zombies: int


def figures_of(pid: int) -> Figures:
    process = Path(f"/proc/{pid}")
    fields = dict(line.split(":") for line in (process / "status").read_text().splitlines() if ":" in line)
    children = (process / f"task/{pid}/children").read_text().split()
    states = [Path(f"/proc/{child}/stat").read_text().rpartition(") ")[2][0] for child in children]
    memory = int(fields["RssAnon"].split()[0])
    return Figures(len(list((process / "fd").iterdir())), memory, states.count("Z"))


def has_at_most(pid: int, descriptors: int) -> bool:
    return figures_of(pid).descriptors <= descriptors


async def run_short_jobs(path: str, count: int) -> None:
    async with AsyncClient(path) as client:
        await client.wait(await client.submit_many([["true"]] * count))


async def follow_and_leave(path: str, count: int) -> None:
    """Follow the output of a running job, and hang up in the middle of it."""
    async with AsyncClient(path) as client:
        job = await client.submit(["sh", "-c", "while echo more; do sleep 0.05; done"])
        for _ in range(count // 20):
            await asyncio.gather(*(_follow_once(path, job.id) for _ in range(20)))
        await client.cancel([job])
        await client.wait([job])


async def _follow_once(path: str, job: int) -> None:
    async with AsyncClient(path) as client:
        async for part in client.logs(job, follow=True, tail=1):
            if part.data:
                break


async def read_events_and_leave(path: str, count: int) -> None:
    for _ in range(count // 20):
        await asyncio.gather(*(_read_event(path) for _ in range(20)))


async def _read_event(path: str) -> None:
    async with AsyncClient(path) as client:
        async for _ in client.events(since=0):
            break


def look_at_pages(browser: Browser, count: int) -> None:
    for number in range(count // 4):
        for page in "/job-logs", f"/job-logs/{number + 1}", f"/job-logs/{number + 1}/1", "/nothing":
            assert browser.get(page).status in {200, 404}


def test_jobs_followers_and_pages_leave_nothing_behind(own_daemon: Daemon):
    path = str(own_daemon.socket)
    browser = Browser(own_daemon).log_in()

    def come_and_go(scale: int) -> None:
        asyncio.run(run_short_jobs(path, 15 * scale))
        asyncio.run(follow_and_leave(path, 2 * scale))
        asyncio.run(read_events_and_leave(path, scale))
        look_at_pages(browser, 2 * scale)

    come_and_go(40)  # modules and caches that are loaded once
    with own_daemon.client() as client:
        launcher = client.info().launcher_pid
    assert launcher is not None
    pids = own_daemon.process.pid, launcher
    before = [figures_of(pid) for pid in pids]

    come_and_go(100)

    for pid, old in zip(pids, before, strict=True):
        wait_until(partial(has_at_most, pid, old.descriptors))
    after = [figures_of(pid) for pid in pids]
    assert [new.zombies for new in after] == [0, 0]
    grown = [new.memory - old.memory for new, old in zip(after, before, strict=True)]
    assert max(grown) < DRIFT, f"grown by {grown} KiB"


def test_clients_that_do_not_read_their_answers_cost_little(own_daemon: Daemon):
    with own_daemon.client() as client:
        client.submit_many([{"argv": ["true"], "hold": True}] * 20_000)
    before = figures_of(own_daemon.process.pid).memory

    callers = [Caller(own_daemon.socket) for _ in range(100)]
    for caller in callers:
        caller.ask(GetEvents(id=1, since=0))  # none of the 20,000 events to come is read

    with own_daemon.client() as client:  # meanwhile all others were sent theirs
        assert sum(1 for _ in client.events(since=0, follow=False)) == 20_000
    grown = figures_of(own_daemon.process.pid).memory - before
    for caller in callers:
        caller.close()
    assert grown < len(callers) * 200, f"grown by {grown // len(callers)} KiB for each"
