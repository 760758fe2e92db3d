"""Every number that is a link opens a list of as many jobs, and acts on as many."""

from __future__ import annotations

import html
import random
import re
import time
from typing import NamedTuple
from urllib.parse import parse_qs, urlencode, urlsplit

import pytest
from msgspec.structs import asdict

from bgd.core.job import JobId, Now, Outcome, State
from bgd.core.spec import NOTIFICATION_QUEUE
from bgd.daemon.storage import summaries
from bgd.daemon.storage.records import AttemptEnd, NewAttempt, Transaction
from bgd.daemon.storage.store import Store, adopt_boot
from bgd.system import clock
from bgd.wire.views import JobError
from tests.daemon.storage.builders import BOOT, a_job, new, saves, submitted
from tests.daemon.web.browsing import Browser
from tests.support import serving, wait_until

DAY, HOUR = 86_400.0, 3_600.0
AGES = (10.0, HOUR - 60, HOUR + 60, DAY - 60, DAY + 60, 3 * DAY)  # of ends
NAMES = (None, None, "nightly", "nightly", "night", 'a * [b] "c" \\d', "app:Report")
QUEUES = ("default", "default", "mail", "far-away", NOTIFICATION_QUEUE)
LONG = "the same beginning of a message, " * 5

# (outcome, exit code, signal, type and message of the error)
FAILURES = (
    (Outcome.EXIT, 1, None, None),
    (Outcome.EXIT, 1, None, ("exit", "no such directory")),
    (Outcome.EXIT, 11, None, None),
    (Outcome.EXIT, 137, None, None),
    (Outcome.SIGNAL, None, 9, None),
    (Outcome.SIGNAL, None, 15, None),
    (Outcome.SIGNAL, None, 34, None),
    (Outcome.OOM, None, 9, None),
    (Outcome.LOG_LIMIT, None, 9, None),
    (Outcome.TIMEOUT, None, 9, None),
    (Outcome.TIMEOUT, None, 15, None),
    (Outcome.UNKNOWN, None, None, ("unknown", "its launcher died; outcome unknown")),
    (Outcome.INTERRUPTED, None, None, ("interrupted", "the machine went down while it ran")),
    (Outcome.REFUSED, None, None, ("refused", "no longer allowed")),
    (Outcome.NOT_STARTED, None, None, ("not_started", "program not found: exit:1")),
    (Outcome.NOT_STARTED, None, None, ("not_started", LONG + "one")),
    (Outcome.NOT_STARTED, None, None, ("not_started", LONG + "two")),
    (Outcome.NOT_STARTED, None, None, ("not_started", 'quoted "name" \\ and\nmore lines')),
    (Outcome.ERROR, None, None, ("ValueError", "exit:1")),
    (Outcome.ERROR, None, None, ("ValueErrorInside", "exit:1")),
    (Outcome.ERROR, None, None, ("app.exit:1", "signal")),
    (Outcome.ERROR, None, None, None),
    (Outcome.CANCELLED, None, 15, None),
)


async def fill(path: str, seed: int) -> None:
    """Write jobs of all kinds, of which none will start."""
    chance = random.Random(seed)
    store = await Store.open(path)
    now = Now(clock.elapsed(), time.time())
    for number in range(1, 161):
        queue, name = chance.choice(QUEUES), chance.choice(NAMES)
        target = chance.choice((None, "app:Report", "app:Report.run", "app:Reports.run"))
        call = {"argv": None, "target": target, "arguments": "{}"} if target else {}
        job = new(
            number, queue=queue, name=name, at=now.wall - 4 * DAY + number, due=now.elapsed + 9e6, **call
        )
        await store.commit(submitted(job, now=now, wall_ahead=now.wall - now.elapsed))
        kind = chance.choice(("succeeded", "failed", "failed", "failed", "failed", "cancelled", "waits"))
        ago = chance.choice(AGES)
        then = Now(now.elapsed - ago, now.wall - ago)
        if kind == "cancelled":
            gone = a_job(number, State.CANCELLED, queue=queue)
            await store.commit(Transaction(now=then, saves=saves(gone, before=State.SCHEDULED)))
        elif kind != "waits":
            await end(store, number, queue, then, chance.choice(FAILURES) if kind == "failed" else None)
    await store.close()


async def end(store, number, queue, then, failure):
    running = a_job(number, State.RUNNING, attempt=1, queue=queue)
    start = NewAttempt(JobId(number), 1, 1, "launcher", then.wall - 1)
    await store.commit(Transaction(now=then, saves=saves(running, before=State.SCHEDULED), attempts=[start]))
    outcome, code, signal, error = failure or (Outcome.SUCCEEDED, 0, None, None)
    ended = AttemptEnd(
        job=JobId(number),
        attempt=1,
        outcome=outcome,
        exit_code=code,
        signal=signal,
        finished_at=then.wall,
        run_seconds=1.0,
        error=None if error is None else JobError(*error),
    )
    after = a_job(number, State.FAILED if failure else State.SUCCEEDED, attempt=1, queue=queue)
    moved = saves(after, at=then.wall, before=State.RUNNING)
    await store.commit(Transaction(now=then, saves=moved, ends=[ended]))


class LinkedNumber(NamedTuple):
    """A number of a page; `is_least`: or more."""

    jobs: int
    is_least: bool
    url: str


LINK = re.compile(r'<a\b[^>]*href="(/job-logs(?:\?[^"]*)?)"[^>]*>(.*?)</a>', re.DOTALL)
NUMBER = re.compile(r"^(?:[a-z]+ )?([0-9,]+)(\+?)(?: in a row)?$")


def numbers_on(page: str) -> list[LinkedNumber]:
    found = []
    for url, content in LINK.findall(page):
        if match := NUMBER.match(html.unescape(re.sub("<.*?>", "", content)).strip()):
            address = html.unescape(url) + "?" * ("?" not in url)
            found.append(LinkedNumber(int(match[1].replace(",", "")), bool(match[2]), address))
    return found


def jobs_behind(browser: Browser, url: str) -> list[int]:
    """Return all jobs of a list, as JSON, page after page."""
    ids: list[int] = []
    while True:
        before = f"&before={ids[-1]}" if ids else ""
        part = [job["id"] for job in browser.json(f"{url}&limit=200{before}")]
        ids += part
        if len(part) < 200:
            return ids


def check(browser: Browser, page: str) -> int:
    """Compare each number on a page with the list that it opens, and with what an action would reach."""
    numbers = numbers_on(browser.get(page).text)
    for number in numbers:
        jobs = jobs_behind(browser, number.url)
        assert len(jobs) >= number.jobs if number.is_least else len(jobs) == number.jobs, (page, number, jobs)
        shown = browser.get(f"{number.url}&limit=200")
        assert shown.ids == jobs[:200] or "Search older" in shown.text  # after 30 ms
        query = urlsplit(number.url).query
        states = re.findall(r"state:(\w+)", parse_qs(query)["q"][0]) if "q=" in query else []
        if states == ["failed"]:
            assert browser.json(f"/job-logs/all/retry?{query}") == {"count": len(jobs)}, number
    return len(numbers)


@pytest.mark.parametrize("seed", range(3))
async def test_each_number_of_a_page_opens_as_many_jobs(seed):
    with serving() as daemon:
        daemon.stop()
        await fill(str(daemon.state_dir / "bgd.db"), seed)
        daemon.start()
        browser = Browser(daemon).log_in()

        assert check(browser, "/job-logs/overview") > 20
        assert "in a row" in browser.get("/job-logs/overview").text
        assert check(browser, "/job-logs/queues") > 10
        for words in FILTERS_OF_LISTS:
            page = f"/job-logs?{urlencode({'q': words})}"
            assert check(browser, page) == 1 + len(State)
            check_buttons(browser, words)


FILTERS_OF_LISTS = (
    "",
    "state:failed",
    "state:suspended",
    "-state:failed finished:1d",
    "finished:1h",
    f"queue:{NOTIFICATION_QUEUE}",
    "-queue:mail name:night",
    'name:="" class:=app:Report',
    "-class:=app:Report",
    "error:exit:1",
    'error:="" -outcome:none',
    "exit:137",
    "signal:kill",
    "signal:34",
    "id:20-40,77,150- until:1h",
    "-id:20-40 outcome:error",
)


def check_buttons(browser: Browser, words: str) -> None:
    """Compare the number of each button for all that match with how many jobs it would reach."""
    query = urlencode({"q": words})

    def buttons() -> dict[str, str]:
        page = browser.get(f"/job-logs?{query}").text
        return dict(re.findall(r'data-many="(\w+)"[^>]*>\w+ (?:all|the) ([0-9,]+) that match', page))

    wait_until(lambda: "retry" in buttons())  # a count that takes over 30 ms is left out
    for verb, number in buttons().items():
        assert browser.json(f"/job-logs/all/{verb}?{query}") == {"count": int(number)}, (words, verb)


def test_each_number_of_jobs_that_run_wait_and_are_removed_opens_as_many():
    with serving("[daemon]\nslots = 3\n", {}) as daemon, daemon.client() as client:
        whole = client.batch([["true"], ["false"], ["sleep", "1000"], ["sleep", "1000"], ["true"]], "whole")
        part = client.batch([["false"], ["false"], ["true"]], "part")
        wait_until(lambda: [each.view.succeeded for each in client.batches()] == [1, 2])
        [removed, _] = client.jobs(states=[State.FAILED], name=None, words=f"batch:{part.id}")
        client.remove([removed.id])
        client.submit(["true"], hold=True, name="held")
        running, _ = client.jobs(states=[State.RUNNING])
        client.suspend([running.id])
        client.pause()
        client.submit(["true"], name="queued")
        browser = Browser(daemon).log_in()

        assert check(browser, "/job-logs/batches") == 2
        assert check(browser, f"/job-logs/batches/{whole.id}") == 3
        assert check(browser, f"/job-logs/batches/{part.id}") == 0
        assert "<dt>Removed</dt><dd>1 of these</dd>" in browser.get(f"/job-logs/batches/{part.id}").text
        for page in ("/job-logs", "/job-logs/overview", "/job-logs/queues", "/job-logs?q=state:suspended"):
            check(browser, page)


async def test_a_number_that_is_cut_has_a_plus(monkeypatch, tmp_path):
    monkeypatch.setattr(summaries, "MAX_FAILED", 5)
    monkeypatch.setattr(summaries, "MAX_ENDS", 5)
    path = str(tmp_path / "bgd.db")
    store = await Store.open(path)
    now = Now(clock.elapsed(), time.time())
    await store.write(adopt_boot, now, BOOT)
    jobs = [new(number, name="nightly", due=now.elapsed + 9e6) for number in range(1, 9)]
    await store.commit(submitted(*jobs, now=now, wall_ahead=now.wall - now.elapsed))
    for number in range(1, 9):
        then = Now(now.elapsed - (number > 6) * 2 * HOUR, now.wall)
        await end(store, number, "default", then, FAILURES[0])

    failures, finished = await store.read(summaries.failures), await store.read(summaries.finished)

    assert ([group.jobs for group in failures.groups], failures.is_cut) == ([6], True)
    assert [str(count) for count in asdict(finished.in_all()).values()] == ["6+", "6+", "6+", "6+"]
    assert str(finished.of("mail").day) == "0+"
    await store.close()
