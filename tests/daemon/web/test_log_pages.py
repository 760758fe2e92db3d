"""The page of a log without a script: parts and what leads to others, searches, and bad addresses."""

from __future__ import annotations

import asyncio
import html
import json
import re
import threading
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path
from unittest import mock

import pytest

from bgd.daemon.web import log_pages, log_text
from bgd.daemon.web.log_pages import LAST_LINES, MAX_SEARCHES
from bgd.daemon.web.log_text import LogThreads, line_begin, part_before
from bgd.daemon.web.queries import SearchQuery
from bgd.logs import files as logfiles
from bgd.logs import search as log_search
from bgd.logs.files import LogReader
from bgd.wire.http import HttpRequest, RequestRefused
from tests.daemon.web.browsing import Browser
from tests.support import Daemon, wait_until


@pytest.fixture(scope="module")
def path(client):
    """The path of a log of 30,000 lines."""
    job = client.submit(["/bin/sh", "-c", "seq -f 'line %.0f of all' 30000; printf 'the End'"])
    client.wait([job.id])
    return f"/job-logs/{job.id}/1"


def lines_of(page: str) -> list[str]:
    """Return the lines that a page shows, as text."""
    code = page.partition("<pre><code>")[2].partition("</pre>")[0]
    return [html.unescape(re.sub("<[^>]*>", "", line)) for line in code.splitlines()][:-1]


def numbers_of(page: str) -> list[str]:
    return re.findall('data-n="([0-9]*)"', page)


def followed(browser, address, words):
    """Return the page that a link of another page leads to."""
    found = re.search(f'<a href="([^"]*)">{words}</a>', browser.get(address).text)
    assert found is not None
    target = html.unescape(found[1])
    return target if target.startswith("/") else address.rpartition("/view")[0] + "/" + target


def test_the_page_of_a_log_says_that_its_job_is_suspended(client, browser):
    job = client.submit(["/bin/sleep", "1000"])
    wait_until(lambda: job.refresh().state == "running")
    client.suspend([job.id])

    assert "suspended" in browser.get(f"/job-logs/{job.id}/1/view").text.partition("</header>")[2]
    client.cancel([job.id])


def test_the_page_of_a_job_leads_to_the_end_of_each_log(browser, path):
    job = path.split("/")[2]
    assert f'href="{path}/view#end"' in browser.get(f"/job-logs/{job}").text

    lines = lines_of(browser.get(f"{path}/view").text)
    assert lines[-2:] == ["line 30000 of all", "the End"]
    assert len(lines) == LAST_LINES + 1


def test_links_lead_from_part_to_part_over_the_whole_log(browser, path):
    address = followed(browser, f"{path}/view", "Start")
    lines: list[str] = []
    numbers: list[str] = []
    while True:
        page = browser.get(address).text
        lines += lines_of(page)
        numbers += numbers_of(page)
        if ">Later</a>" not in page:
            break
        address = followed(browser, address, "Later")

    assert lines == [*(f"line {number} of all" for number in range(1, 30001)), "the End"]
    assert numbers == [str(number) for number in range(1, 30002)]

    seen = len(lines)
    for _ in range(5):
        page = browser.get(address).text
        assert lines_of(page) == lines[seen - len(lines_of(page)) : seen]
        seen -= len(lines_of(page))
        address = followed(browser, address, "Earlier")


def test_a_link_to_a_place_marks_its_line(browser, path):
    raw = browser.get(path).body
    offset = raw.index(b"777 of")
    page = browser.get(f"{path}/view?at={offset}").text

    assert lines_of(page)[0] == "line 777 of all"
    marked = re.findall('<span class="target"><a[^>]*href="([^"]*)"[^>]*></a>([^<]*)', page)
    assert marked == [(f"view?at={raw.index(b'line 777 ')}", "line 777 of all\n")]
    assert len(re.findall('class="target"', browser.get(f"{path}/view?at={len(raw) - 1}").text)) == 1
    assert 'class="target"' not in browser.get(f"{path}/view?at={len(raw)}").text


def test_a_search_leads_to_its_text_in_its_place(browser, client):
    text = "one, \N{HOURGLASS} One and one"
    job = client.submit(["/usr/bin/printf", "%s\n", "first", text])
    client.wait([job.id])
    raw = browser.get(f"/job-logs/{job.id}/1").body
    for number, place in enumerate((raw.index(b"one"), raw.index(b"One"), raw.rindex(b"one"))):
        page = browser.get(f"/job-logs/{job.id}/1/view?at={place}&text=one").text
        marks = re.findall("<mark[^>]*>", page)
        assert [mark != "<mark>" for mark in marks] == [index == number for index in range(3)]
    assert "view?at=6&amp;text=one#found" in browser.get(f"/job-logs/{job.id}/1/search?text=one").text


def test_a_part_is_shown_as_json_with_offsets_numbers_and_times(browser, path):
    part = browser.json(f"{path}/view?after=0")

    assert (part["begin"], part["lines"][1]["text"], part["lines"][1]["line"]) == (0, "line 2 of all", 2)
    assert part["lines"][1]["offset"] == len("line 1 of all\n")
    assert part["lines"][1]["at"].endswith("Z")
    assert browser.json(f"{path}/view")["end"] == part["size"] == len(browser.get(path).body)


def test_a_search_counts_and_lists_lines_that_lead_to_their_places(browser, path):
    page = browser.get(f"{path}/search?text=77+of").text
    assert "Found 300 times; these are the lines of the first 100." in page
    assert lines_of(page)[:2] == ["line 77 of all", "line 177 of all"]
    place = re.search('href="(view[^"]*)"', page)
    assert place is not None
    assert lines_of(browser.get(f"{path}/{html.unescape(place[1])}").text)[0] == "line 77 of all"

    found = browser.json(f"{path}/search?text=OF&limit=3")
    assert found == {"count": 0, "hits": []}
    assert browser.json(f"{path}/search?text=the+end")["count"] == 1
    found = browser.json(f"{path}/search?text=of&limit=3")
    assert (found["count"], len(found["hits"])) == (30_000, 3)
    assert browser.json(f"{path}/search?text=%3Cb%3E") == {"count": 0, "hits": []}
    assert "Found 0 times." in browser.get(f"{path}/search?text=%3Cb%3E").text


def test_a_script_sees_how_far_a_search_is(browser, path):
    answer = browser.get(f"{path}/search?text=line", "Accept: text/event-stream")
    events = [json.loads(data) for data in re.findall("data: (.*)", answer.text)]

    assert answer.headers["content-type"].startswith("text/event-stream")
    assert events[-1]["end"]
    assert events[-1]["text"] == "30,000 found"
    assert sum(len(event["hits"]) for event in events) == 1000


@pytest.mark.parametrize(
    "query",
    [
        *(
            "view?at=-1",
            "view?at=x",
            "view?after=.",
            "view?before=1_0",
            "view?line=0",
            f"view?at={2**62 + 1}",
        ),
        *("part?at=-1", "part?line=x", "search?text=x&limit=0", "search?text=x&limit=1001"),
        *("search", "search?text=", "search?text=a%0Ab", f"search?text={'x' * 201}"),
        *("view?at=1&after=1", "view?before=1&after=1", "live?line=x", "live?linked=maybe"),
        *("live?style=x", "live?style=%C2%B2", "live?style=1%0A", "live?at=%C2%B2", "view?line=%D9%A3"),
    ],
)
def test_a_bad_value_is_refused_in_the_words_of_bgd(browser, path, query):
    answer = browser.get(f"{path}/{query}")
    assert answer.status == 400
    assert "`" not in answer.text
    assert "$." not in answer.text
    assert "Expected" not in answer.text
    assert re.search("must|Search for|only one of", answer.text)


def test_a_log_that_does_not_exist_is_not_found(browser, path):
    job = path.split("/")[2]
    for address in (f"/job-logs/{job}/2/view", "/job-logs/999999/1/view", f"/job-logs/{job}/2/search?text=x"):
        assert browser.get(address).status == 404


def test_log_pages_are_for_those_who_are_logged_in(daemon, path):
    for page in ("view", "view/live", "part", "search?text=x"):
        assert Browser(daemon).get(f"{path}/{page}").status == 401


def test_a_cut_log_shows_the_gap_and_the_right_offsets(tmp_path, request):
    daemon = Daemon(tmp_path)
    daemon.configure('[logs]\nmax_bytes = "40KB"\n')
    daemon.start()
    request.addfinalizer(daemon.stop)
    with daemon.client() as client:
        job = client.submit(["/bin/sh", "-c", "seq -f 'number %06.0f' 20000"])
        client.wait([job.id])
    browser = Browser(daemon).log_in()
    path = f"/job-logs/{job.id}/1"
    address, lines = f"{path}/view?after=0", []
    while True:
        part = browser.json(address)
        lines += part["lines"]
        if part["end"] == part["size"]:
            break
        address = f"{path}/view?after={part['end']}"

    size = len("number 000001\n")
    (gap,) = [index for index, line in enumerate(lines) if line["text"].startswith("==> ")]
    left_out = int(lines[gap]["text"].split()[1])
    assert part["size"] == 20000 * size
    assert lines[gap + 1]["offset"] - lines[gap]["offset"] == left_out
    whole = [
        line for line in lines if re.fullmatch(r"number \d{6}", line["text"]) and line["offset"] % size == 0
    ]
    assert len(whole) > 1000
    assert all(int(line["text"][-6:]) == line["offset"] // size + 1 for line in whole)
    assert [line["line"] for line in lines[: gap - 1]] == list(range(1, gap))
    assert {line["line"] for line in lines[gap:]} == {None}
    assert lines_of(browser.get(f"{path}/view?at={lines[gap]['offset'] + 99}").text)[0] == lines[gap]["text"]
    assert browser.json(f"{path}/search?text=number+020000")["hits"] == [19_999 * size]


def test_a_log_that_is_gone_says_so(browser, client):
    job = client.submit(["/bin/echo", "hello"])
    client.wait([job.id])
    log = Path(client.attempts(job.id)[0].log_path)
    log.unlink()

    assert lines_of(browser.get(f"/job-logs/{job.id}/1/view").text) == [
        f"==> 6 bytes missing: {log} is not there <=="
    ]


def test_an_empty_log_says_so(browser, client):
    job = client.submit(["/bin/true"])
    client.wait([job.id])

    assert "No output." in browser.get(f"/job-logs/{job.id}/1/view").text


def test_searches_at_once_are_bounded_and_end_with_their_connections(tmp_path, monkeypatch):
    reader = LogReader(str(tmp_path), 1, 1)
    reader.path.parent.mkdir()
    reader.path.write_bytes(b"x" * 100)
    monkeypatch.setattr(log_search, "STEP", 10)
    monkeypatch.setattr(log_search, "MAX_LINE", 9)
    monkeypatch.setattr(logfiles, "BLOCK", 10)
    site = mock.Mock(threads=LogThreads())
    monkeypatch.setattr(log_pages, "_log", mock.AsyncMock(return_value=mock.Mock(reader=reader)))
    headers = {"accept": "text/event-stream"}
    request = HttpRequest(is_head=False, path="", query="text=x", headers=headers)

    async def begun() -> AsyncGenerator[bytes, None]:
        chunks = (await log_pages.search(site, request, "1", "1")).chunks
        assert chunks is not None
        assert b'"count": 10,' in await anext(chunks)
        return chunks

    async def run() -> None:
        searches = [await begun() for _ in range(MAX_SEARCHES)]
        with pytest.raises(RequestRefused, match="4 searches are already running"):
            await log_pages.search(site, request, "1", "1")
        await searches.pop().aclose()  # as when a browser hangs up
        searches.append(await begun())
        for search in searches:
            await search.aclose()
        # answers that are not sent yet count, too; these end with the loop
        answers = [await log_pages.search(site, request, "1", "1") for _ in range(MAX_SEARCHES)]
        with pytest.raises(RequestRefused, match="4 searches are already running"):
            await log_pages.search(site, request, "1", "1")
        answers.clear()

    asyncio.run(run())
    assert site.threads.searches == 0


def test_all_threads_for_logs_may_hang_while_other_pages_are_answered(monkeypatch):
    monkeypatch.setattr(log_text, "MAX_SECONDS", 0.05)
    go_on = threading.Event()

    async def run() -> None:
        threads = LogThreads()
        calls = [asyncio.create_task(threads.run(None, go_on.wait)) for _ in range(2 * log_text.THREADS)]
        await asyncio.wait(calls)
        for call in calls:
            with pytest.raises(RequestRefused, match="takes longer than"):
                call.result()
        assert await asyncio.to_thread(str) == ""

    try:
        asyncio.run(run())
    finally:
        go_on.set()


def test_a_log_is_read_no_further_once_its_browser_has_hung_up(tmp_path):
    reader = LogReader(str(tmp_path), 1, 1)
    reader.path.parent.mkdir()
    reader.path.write_bytes(b"x" * 100)
    ended: list[OSError] = []
    has_begun, has_ended = threading.Event(), threading.Event()

    def read_for_ever() -> None:
        try:
            while True:
                reader.read(0, 10)
                has_begun.set()
        except InterruptedError as error:
            ended.append(error)
        has_ended.set()

    async def run() -> None:
        call = asyncio.create_task(LogThreads().run(reader, read_for_ever))
        await asyncio.to_thread(has_begun.wait)
        call.cancel()  # as when a browser hangs up
        with pytest.raises(asyncio.CancelledError):
            await call
        await asyncio.to_thread(has_ended.wait)

    asyncio.run(run())
    assert "no longer needed" in str(ended[0])


def test_a_line_of_many_megabytes_is_read_about_once_for_all_that_a_search_finds_in_it(tmp_path, monkeypatch):
    reader = LogReader(str(tmp_path), 1, 1)
    reader.path.parent.mkdir()
    reader.path.write_bytes(b"first\n" + b"\r50 % and more text" * 500_000)
    size = reader.size()
    has_read = 0
    blocks = LogReader.blocks

    def counted(log: LogReader, offset: int, end: int) -> Iterator[tuple[int, bytes]]:
        nonlocal has_read
        for begin, block in blocks(log, offset, end):
            has_read += len(block)
            yield begin, block

    monkeypatch.setattr(LogReader, "blocks", counted)
    assert line_begin(reader, size - 1) == 6
    assert part_before(reader, size).lines == []
    assert has_read < 3 * size
    has_read = 0
    job = mock.Mock(reader=reader, attempt=mock.Mock(outcome=None))
    hits = [size - 19 * number for number in range(100, 0, -1)]
    monkeypatch.setattr(log_pages, "_head", mock.Mock(return_value={}))

    values = log_pages._search_values(job, SearchQuery("50 %"), 100, hits)

    assert str(values["lines"]).count("view?at=6") == str(values["lines"]).count("view?at=") == 1
    assert has_read < 2 * size
