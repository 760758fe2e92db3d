"""The search in all logs: what it finds and shows, where it ends and goes on, and what it costs others."""

from __future__ import annotations

import html
import json
import os
import re
from contextlib import aclosing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from playwright.sync_api import expect

from bgd.core.job import JobId, Outcome, State
from bgd.daemon.storage.lists import LoggedAttempt
from bgd.daemon.storage.records import AttemptEnd, NewAttempt, Transaction
from bgd.daemon.web import search as web_search
from bgd.daemon.web.log_text import LogThreads
from bgd.daemon.web.search import LogsSearch
from bgd.logs.files import BLOCK, LogReader
from bgd.logs.search import Needle
from bgd.wire.http import HttpRequest, RequestRefused
from bgd.wire.launching import log_name
from tests.daemon.storage.builders import NOW, a_job, new, put, saves
from tests.daemon.web.browsing import Browser
from tests.daemon.web.chromium import needs_chromium
from tests.support import DEADLINE


class Logs:
    """Some logs on disk; the number of a log is that of its job."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.jobs: list[int] = []

    def add(self, data: bytes, job: int | None = None, part: str = "") -> int:
        job = job or len(self.jobs) + 1
        path = Path(self.folder, log_name(job, 1) + part)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
        if job not in self.jobs:
            self.jobs.append(job)
        return job

    def paths(self) -> list[Path]:
        return [self.folder / log_name(job, 1) for job in self.jobs]

    def search(self, text: str) -> LogsSearch:
        search = LogsSearch(str(self.folder), Needle.of(text))
        search.add(attempt(job) for job in reversed(self.jobs))
        return search


@pytest.fixture
def logs(tmp_path):
    return Logs(tmp_path)


def attempt(job: int) -> LoggedAttempt:
    return LoggedAttempt(
        job=job, attempt=1, name=None, at=1e9, outcome=Outcome.EXIT, exit_code=3, signal=None
    )


def all_of(search):
    found = []
    while not search.is_idle and search.ended is None:
        if (result := search.step()) is not None:
            found.append(result)
    return found


def texts(place):
    return [("> " if line.is_found else "  ") + line.text for line in place]


# --- what is found


def test_each_place_has_the_lines_around_it_and_the_newest_log_is_first(logs):
    logs.add(b"one\ntwo\nthree\nfour error here\nfive\nsix\nseven\n")
    logs.add(b"nothing\n")
    logs.add(b"error at once\nand more\n")
    search = logs.search("error")
    newest, oldest = all_of(search)

    assert (newest.attempt.job, oldest.attempt.job) == (3, 1)
    assert [texts(place) for place in newest.places] == [["> error at once", "  and more"]]
    assert [texts(place) for place in oldest.places] == [
        ["  two", "  three", "> four error here", "  five", "  six"]
    ]
    assert oldest.places[0][2].at == len(b"one\ntwo\nthree\nfour ")
    assert (search.logs, search.places, search.ended) == (3, 2, None)


def test_places_that_touch_are_shown_together_and_others_apart(logs):
    lines = [b"x"] * 30
    for number in (3, 4, 8, 20):
        lines[number] = b"error"
    logs.add(b"\n".join(lines))
    (found,) = all_of(logs.search("error"))

    assert [len(place) for place in found.places] == [10, 5]
    assert [sum(line.is_found for line in place) for place in found.places] == [3, 1]
    shown = [line.at for place in found.places for line in place]
    assert shown == sorted(set(shown))


@pytest.mark.parametrize(
    ("text", "count"), [("error", 3), ("Error", 1), ("ERROR", 1), ("größe", 1), ("e r", 0), ("\u00dcber", 1)]
)
def test_capitals_count_only_if_the_text_has_one(logs, text, count):
    for line in ("an error", "an Error", "an ERROR", "die Größe", "Über alles"):
        logs.add(line.encode())

    assert len(all_of(logs.search(text))) == count


def test_lines_look_as_in_a_terminal_and_a_hidden_place_with_all_its_bytes(logs):
    logs.add(b"\x1b[31mred er\x1b[0mror: error\n")
    logs.add(b"error 10 %\rdone 100 %\n")
    hidden, coloured = all_of(logs.search("error"))

    assert texts(coloured.places[0]) == ["> red error: error"]
    assert texts(hidden.places[0]) == ["> error 10 %\N{SYMBOL FOR CARRIAGE RETURN}done 100 %"]


def test_a_long_line_is_shortened_around_the_place(logs):
    logs.add(b"a" * 100_000 + b"error" + b"b" * 100_000 + b"\nnext\n")
    (found,) = all_of(logs.search("error"))
    (line,) = found.places[0]

    assert line.at == 100_000
    assert "aaaerrorbbb" in line.text
    assert len(line.text) == web_search.MAX_SHOWN + 2


def test_a_large_log_is_searched_across_its_blocks_and_behind_its_gap(logs):
    head = b"x" * (BLOCK - 3) + b"error" + b"y" * BLOCK
    job = logs.add(head)
    logs.add(b"after the gap\nerror\n", job, part=".9000000")
    (found,) = all_of(logs.search("error"))

    assert [line.at for place in found.places for line in place if line.is_found] == [BLOCK - 3, 9_000_014]
    assert texts(found.places[1]) == ["  after the gap", "> error"]
    assert not found.has_more


def test_of_one_log_only_the_first_places_are_shown(logs, monkeypatch):
    logs.add(b"error\n\n\n\n\n\n" * 20)
    (found,) = all_of(logs.search("error"))
    assert (len(found.places), found.has_more) == (web_search.MAX_PLACES_OF_LOG, True)

    monkeypatch.setattr(web_search, "MAX_PLACES_OF_LOG", 20)
    (found,) = all_of(logs.search("error"))
    assert (len(found.places), found.has_more) == (20, False)


def test_a_log_that_cannot_be_read_is_told_and_does_not_stop_the_search(logs):
    logs.add(b"error\n")
    fifo = logs.add(b"")
    path = LogReader(str(logs.folder), fifo, 1).path
    path.unlink()
    os.mkfifo(path)
    search = logs.search("error")

    assert [found.attempt.job for found in all_of(search)] == [1]
    assert (search.unreadable, search.problem) == (1, f"{path}: the log is not a regular file")


def test_logs_that_were_opened_ahead_are_searched_once_in_their_order(logs, monkeypatch):
    monkeypatch.setattr(web_search, "MAX_PLACES", 1000)
    jobs = [logs.add(b"an error\n" if number % 3 else b"nothing\n") for number in range(4 * web_search.AHEAD)]
    large = logs.add(b"x\n" * BLOCK + b"error\n")
    descriptors = sorted(Path("/proc/self/fd").iterdir())
    search = logs.search("error")

    found = [found.attempt.job for found in all_of(search)]
    assert found == [large, *(job for job in reversed(jobs) if (job - 1) % 3)]
    assert (search.logs, search.read_bytes) == (len(logs.jobs), sum(map(os.path.getsize, logs.paths())))
    assert sorted(Path("/proc/self/fd").iterdir()) == descriptors


def test_logs_are_searched_although_their_folder_cannot_be_listed(logs, monkeypatch):
    def forbidden(folder):
        raise PermissionError(13, "Permission denied", str(folder))

    logs.add(b"error\n")
    monkeypatch.setattr(web_search, "logs_in", forbidden)

    assert [found.attempt.job for found in all_of(logs.search("error"))] == [1]


def test_attempts_without_a_log_are_skipped(logs):
    logs.add(b"error\n", job=5)
    logs.jobs = [1, 5, 2_000]
    search = logs.search("error")

    assert [found.attempt.job for found in all_of(search)] == [5]
    assert search.logs == 1


@pytest.mark.parametrize(("limit", "most"), [("MAX_PLACES", 2), ("MAX_BYTES", 12)])
def test_a_search_ends_at_its_limits(logs, monkeypatch, limit, most):
    monkeypatch.setattr(web_search, limit, most)
    for _ in range(5):
        logs.add(b"error\n")
    search = logs.search("error")

    assert [found.attempt.job for found in all_of(search)] == [5, 4]
    assert search.ended is not None
    assert search.last is not None
    assert search.last.job == 4


# --- searches, and what ends them


class NoFrame:
    """What a page without banners needs."""

    async def values(self, live: str | None, version: int) -> dict[str, object]:
        return {"live": live, "version": version}


@pytest.fixture
async def stored(store, logs, monkeypatch):
    """A site with six jobs that each have a log; slow searches send no signs of life."""
    monkeypatch.setattr(web_search, "SIGN_OF_LIFE", DEADLINE)
    await put(store, *(new(number, name=f"job <{number}>") for number in range(1, 7)))
    for number in range(1, 7):
        logs.add(f"error {number}\n".encode())
        await run_once(store, number)
    config = SimpleNamespace(log_dir=str(logs.folder))
    supervisor = SimpleNamespace(config=config)
    return SimpleNamespace(
        store=store, supervisor=supervisor, views=NoFrame(), threads=LogThreads(), searches={}
    )


async def run_once(store, number, *, log_bytes=8):
    job = JobId(number)
    start = NewAttempt(job, 1, 1, "launcher", NOW.wall)
    await store.commit(
        Transaction(now=NOW, saves=saves(a_job(number, State.RUNNING, attempt=1)), attempts=[start])
    )
    end = AttemptEnd(job=job, attempt=1, outcome=Outcome.SUCCEEDED, finished_at=1e9, log_bytes=log_bytes)
    await store.commit(
        Transaction(now=NOW, saves=saves(a_job(number, State.SUCCEEDED, attempt=1)), ends=[end])
    )


def asking(query, cookie="", accept="text/html"):
    headers = {"cookie": cookie, "accept": accept}
    return HttpRequest(is_head=False, path="/job-logs/search", query=query, headers=headers)


async def search(site, request) -> Any:
    return await web_search.search(site, request)


async def lines_of(site, query):
    answer = await search(site, asking(query, accept="application/json"))
    async with aclosing(answer.chunks) as chunks:
        return [json.loads(chunk) async for chunk in chunks]


async def test_the_page_begins_before_anything_is_found_and_nothing_goes_on_after_it(stored):
    answer = await search(stored, asking("text=error"))
    head = await anext(answer.chunks)
    first = await anext(answer.chunks)

    assert b"Searching" in head
    assert b"job &lt;6&gt;" in first
    assert len(stored.searches) == 1
    await answer.chunks.aclose()
    assert not stored.searches

    answer = await search(stored, asking("text=error"))
    await anext(answer.chunks)
    await answer.chunks.aclose()
    assert not stored.searches


async def test_a_search_that_is_cut_goes_on_where_it_was(stored, monkeypatch):
    monkeypatch.setattr(web_search, "MAX_SECONDS", -1.0)  # after each step
    seen, before = [], ""
    while before is not None:
        *found, end = await lines_of(stored, f"text=error&before={before}")
        seen += [line["job"] for line in found]
        assert (end["ended"] is None) == (end["before"] is None)
        before = end["before"]

    assert seen == [6, 5, 4, 3, 2, 1]


async def test_attempts_are_read_in_parts_and_those_without_output_left_out(stored, store, logs, monkeypatch):
    monkeypatch.setattr(web_search, "ATTEMPTS_AT_ONCE", 2)
    await put(store, new(7), new(8))
    logs.add(b"error\n", job=7)
    await run_once(store, 7, log_bytes=0)
    *found, end = await lines_of(stored, "text=error")

    assert [line["job"] for line in found] == [6, 5, 4, 3, 2, 1]
    assert end == {
        "end": True, "logs": 6, "bytes": 48, "places": 6, "unreadable": 0, "ended": None, "before": None
    }  # fmt: skip


async def test_a_silent_search_sends_signs_of_life(stored, monkeypatch):
    monkeypatch.setattr(web_search, "SIGN_OF_LIFE", -1.0)
    *signs, end = await lines_of(stored, "text=nowhere")

    assert signs
    assert set(signs[0]) == {"logs", "bytes"}
    assert (end["logs"], end["places"]) == (6, 0)


async def test_a_browser_has_one_search_and_all_together_a_few(stored):
    async def begin(cookie):
        answer = await search(stored, asking("text=error", cookie))
        await anext(answer.chunks)
        await anext(answer.chunks)
        return answer.chunks

    first, *others = [await begin(f"session={number}") for number in range(web_search.MAX_SEARCHES)]
    with pytest.raises(RequestRefused, match="searches are already running"):
        await begin("session=new")
    again = await begin("session=0")
    rest = [chunk async for chunk in first]
    assert b"this browser has started another search" in rest[-1]
    for each in (first, again, *others):
        await each.aclose()
    await (await begin("session=new")).aclose()
    assert not stored.searches


async def test_a_search_counts_before_its_answer_is_sent(stored):
    answers = [
        await search(stored, asking("text=error", f"session={number}"))
        for number in range(web_search.MAX_SEARCHES)
    ]
    with pytest.raises(RequestRefused, match="searches are already running"):
        await search(stored, asking("text=error", "session=new"))
    for answer in answers:
        async for _ in answer.chunks:
            pass
    assert not stored.searches


# --- on the page of a daemon


@pytest.fixture(scope="module")
def job(client):
    script = "echo before; echo 'the <b>Needle</b> is here'; echo after; exit 3"
    job = client.submit(["/bin/sh", "-c", script], name="hay <i>stack</i>")
    client.wait([job.id], timeout=DEADLINE)
    return job


def test_a_place_links_to_the_log(browser, job):
    page = browser.get("/job-logs/search?text=needle")
    link, line = re.findall(r'<a href="([^"]*/view[^"]*)">(.*)\n</a>', page.text)[0]
    raw = browser.get(f"/job-logs/{job.id}/1").body

    assert line == "the &lt;b&gt;<mark>Needle</mark>&lt;/b&gt; is here"
    assert raw[int(link.partition("at=")[2]) :].startswith(b"Needle")
    assert link.startswith(f"/job-logs/{job.id}/1/view?")
    for words in (
        "hay &lt;i&gt;stack&lt;/i&gt;",
        "exit code 3",
        "before",
        "after",
        "1 place found in 1 logs",
    ):
        assert words in page.text


def test_what_was_asked_stays_in_the_form(browser):
    page = browser.get("/job-logs/search?text=%22%3E%3Cscript%3E%26")

    assert re.findall('name="text" value="([^"]*)"', page.text) == [
        html.escape('"><script>&').replace("&quot;", "&#34;")
    ]
    assert "0 places found" in page.text
    assert 'id="searched"' not in browser.get("/job-logs/search").text


@pytest.mark.parametrize(
    ("query", "problem"),
    [
        ("text=" + "x" * 201, "must be text of at most 200 characters on one line."),
        ("text=a%0Ab", "text: 'a\\nb' must be text of at most 200 characters on one line."),
        ("text=a&before=1", "before: '1' must be JOB.ATTEMPT."),
        ("text=a&before=0.1", "before: '0.1' must be JOB.ATTEMPT."),
        ("text=a&before=x", "before: 'x' must be JOB.ATTEMPT."),
    ],
)
def test_a_bad_query_is_refused(browser, query, problem):
    answered = browser.get(f"/job-logs/search?{query}", "Accept: application/json")

    assert answered.status == 400
    assert problem in answered.json["error"]


def test_json_needs_a_text(browser):
    assert browser.get("/job-logs/search", "Accept: application/json").status == 400


def test_only_those_who_are_logged_in_may_search(daemon):
    assert Browser(daemon).get("/job-logs/search?text=needle").status == 401


@needs_chromium
def test_a_person_searches(chrome, client, job):
    tab = chrome.new_page()
    complaints: list[str] = []
    tab.on("console", lambda message: complaints.append(message.text))
    tab.on("pageerror", lambda error: complaints.append(str(error)))
    tab.set_default_timeout(1000 * DEADLINE)
    tab.goto(client.login_link())
    tab.wait_for_url("**/job-logs")
    tab.click("nav.sections >> text=Search")
    tab.fill("input[name=text]", "NEEDLE")
    tab.press("input[name=text]", "Enter")
    expect(tab.locator("#searched")).to_contain_text("0 places found")
    tab.fill("input[name=text]", "needle")
    tab.click("button >> text=Search")
    expect(tab.locator("mark")).to_have_text("Needle")
    expect(tab.locator("#searching")).to_be_hidden()
    expect(tab.locator(".hits h2")).to_contain_text(f"Job {job.id}")

    assert complaints == []
