"""What running jobs use, on the list and on the page of a job, while one of them is open."""

from __future__ import annotations

import asyncio
import re
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from bgd import Client
from bgd.daemon.streams import Subscriptions
from bgd.daemon.web import usage
from bgd.daemon.web.usage import UsageWatch
from bgd.wire.views import JobUsage
from tests.daemon.waiting import soon
from tests.daemon.web.chromium import needs_chromium

IDLE = JobUsage(cpu_percent=0.0, memory_bytes=5_000_000, processes=1)
BUSY = JobUsage(cpu_percent=97.5, memory_bytes=64_000_000, processes=3)


class Asked:
    """Stands in for the Supervisor and its launcher, and counts the questions."""

    def __init__(self, *, running: int = 1) -> None:
        self.scheduler = SimpleNamespace(running=running)
        self.questions = 0
        self.answer = {7: IDLE}
        self.subscriptions = Subscriptions()
        self.dispatcher = SimpleNamespace(usage=self.usage)

    async def usage(self) -> tuple[dict[int, JobUsage], None]:
        self.questions += 1
        return self.answer, None


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(usage, "INTERVAL", 0.01)


async def test_the_launcher_is_asked_only_while_somebody_looks():
    asked: Any = Asked()
    async with asyncio.timeout(60), asyncio.TaskGroup() as tasks:  # which waits for a task that goes on
        watch = UsageWatch(asked, tasks)
        with (
            asked.subscriptions.subscribe_to_all() as first,
            asked.subscriptions.subscribe_to_all() as second,
        ):
            assert asked.questions == 0
            with watch.watch(first, lambda: watch.jobs):
                await soon(first.changed.wait())
                with watch.watch(second, lambda: watch.jobs.get(7)):
                    asked.answer = {7: BUSY}
                    await soon(second.changed.wait())
                    assert watch.jobs == {7: BUSY}
                first.changed.clear()
                asked.answer = {}
                await soon(first.changed.wait())
            questions = asked.questions
            assert questions >= 3
            assert watch.jobs == {}
    assert asked.questions == questions


async def test_a_second_look_starts_again():
    asked: Any = Asked()
    async with asyncio.timeout(60), asyncio.TaskGroup() as tasks:
        watch = UsageWatch(asked, tasks)
        for _ in range(2):
            with (
                asked.subscriptions.subscribe_to_all() as subscription,
                watch.watch(subscription, lambda: watch.jobs),
            ):
                await soon(subscription.changed.wait())
                assert watch.jobs == {7: IDLE}


async def test_the_launcher_is_not_asked_before_a_job_runs():
    asked: Any = Asked(running=0)
    async with asyncio.timeout(60), asyncio.TaskGroup() as tasks:
        watch = UsageWatch(asked, tasks)
        with (
            asked.subscriptions.subscribe_to_all() as subscription,
            watch.watch(subscription, lambda: watch.jobs),
        ):
            for _ in range(3):
                asked.subscriptions.notify_moved([])
                await asyncio.sleep(0)
            assert asked.questions == 0
            subscription.changed.clear()
            asked.scheduler.running = 1
            asked.subscriptions.notify_moved([])
            while not watch.jobs:
                await soon(subscription.changed.wait())
                subscription.changed.clear()
    assert asked.questions >= 1


@needs_chromium
def test_the_list_shows_what_running_jobs_use(client: Client, tab: Page):
    job = client.submit(["sleep", "1000"])
    tab.goto(client.login_link())
    row = tab.locator(f"#job-{job.id}")

    expect(row.locator(".usage")).to_have_text(re.compile(r"^0% CPU, [\d.]+MB$"))

    client.cancel([job.id])
    expect(row.locator(".badge")).to_have_text("cancelled")
    expect(row.locator(".usage")).to_have_count(0)


@needs_chromium
@pytest.mark.parametrize("width", [1280, 900, 390])
def test_a_line_of_the_list_has_room_for_it(client: Client, tab: Page, width: int):
    command = "sleep 1000; : a command that is much longer than the line"
    job = client.submit(["sh", "-c", command], name="a name that is long", tags=["nightly"], priority=3)
    tab.set_viewport_size({"width": width, "height": 700})
    tab.goto(client.login_link())
    words = tab.locator(f"#job-{job.id} .description > div").first
    expect(words.locator(".usage")).to_be_visible()

    boxes = [each.bounding_box() for each in words.locator("code, .tag, .usage").all()]

    areas = [(box["x"], box["y"], box["x"] + box["width"], box["y"] + box["height"]) for box in boxes if box]
    assert len(areas) == 3
    assert [pair for pair in pairwise(areas) if _overlap(*pair)] == []
    client.cancel([job.id])


def _overlap(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


@needs_chromium
def test_the_page_of_a_job_shows_what_its_processes_use(client: Client, tab: Page):
    job = client.submit(["sh", "-c", "sleep 1000 & sleep 1000 & wait"])
    tab.goto(client.login_link())
    tab.wait_for_url("**/job-logs")
    tab.goto(f"{tab.url}/{job.id}")
    uses = tab.locator("#attempt-1-facts div", has=tab.locator("dt", has_text="Uses")).locator("dd")

    expect(uses).to_have_text(re.compile(r"^0% CPU, [\d.]+MB, 3 processes$"))

    client.cancel([job.id])
    expect(tab.locator("#summary .badge")).to_have_text("cancelled")
    expect(uses).to_have_count(0)
