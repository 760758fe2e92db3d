"""Open pages stay up to date: in a real browser, and as streams of events on the socket."""

from __future__ import annotations

import json
import os
import re
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import psutil  # type: ignore[import-untyped]  # it has no types
import pytest
from playwright.sync_api import Locator, Page, expect

from bgd.daemon.web.live import Part, Snapshot, _Viewer
from bgd.daemon.web.log_text import LogText, plain
from bgd.logs.files import LogReader
from bgd.wire.requests import DEFAULT_LIST
from tests.daemon.web.browsing import Browser
from tests.daemon.web.chromium import needs_chromium
from tests.support import DEADLINE, Daemon, wait_until

MILLISECONDS = 1000 * DEADLINE


def open_pages(tab, client):
    """Log in; return the address of the list."""
    tab.goto(client.login_link())
    tab.wait_for_url("**/job-logs")
    return tab.url


# --- in a browser -------------------------------------------------------------------------------------------


@needs_chromium
def test_a_list_shows_new_jobs_and_changes_without_a_reload(tab, daemon):
    with daemon.client() as client:
        open_pages(tab, client)
        tab.evaluate("window.isSamePage = true")
        job = client.submit(["/bin/false"], name="new one", hold=True)
        row = tab.locator(f"#job-{job.id}")
        expect(row).to_contain_text("held")
        client.release([job.id])
        expect(row).to_contain_text("exit code 1")
        expect(tab.locator("#tabs .failed")).to_contain_text("1")
        client.remove([job.id])
        expect(row).to_have_count(0)

        assert tab.evaluate("window.isSamePage")


@needs_chromium
def test_nothing_moves_under_the_pointer(tab, daemon):
    with daemon.client() as client:
        first = client.submit(["/bin/true"], hold=True)
        open_pages(tab, client)
        tab.hover(f"#job-{first.id}")
        second = client.submit(["/bin/true"], hold=True)
        client.edit([first.id], name="edited")
        expect(tab.locator(f"#job-{first.id}")).to_contain_text("edited")
        assert tab.locator(f"#job-{second.id}").count() == 0

        tab.hover("header")
        expect(tab.locator(f"#job-{second.id}")).to_be_visible()

        tab.hover(f"#job-{second.id}")
        others = [client.submit(["/bin/true"], hold=True) for _ in range(3 * DEFAULT_LIST)]
        wait_until(lambda: tab.evaluate(f"waiting.has('job-{others[-1].id}')"))
        assert tab.evaluate("waiting.size") == DEFAULT_LIST  # only what would be shown
        tab.evaluate("waitsSince -= REST")
        tab.click(f"text={DEFAULT_LIST} new jobs")
        expect(tab.locator(f"#job-{others[-1].id}")).to_be_visible()
        assert tab.locator("#ordered tr").count() == DEFAULT_LIST
        assert tab.locator(".offer").count() == 0


@needs_chromium
def test_new_jobs_wait_for_a_button_where_a_finger_touched_the_list(chrome, daemon):
    phone = chrome.new_context(has_touch=True, is_mobile=True, viewport={"width": 390, "height": 800})
    phone.set_default_timeout(MILLISECONDS)
    tab = phone.new_page()
    with daemon.client() as client:
        first = client.submit(["/bin/true"], hold=True)
        open_pages(tab, client)
        tab.tap(f"#job-{first.id} .state")
        second = client.submit(["/bin/true"], hold=True)
        tab.tap("text=1 new job")
        expect(tab.locator(f"#job-{second.id}")).to_be_visible()
        third = client.submit(["/bin/true"], hold=True)  # nothing on the list is touched now
        expect(tab.locator(f"#job-{third.id}")).to_be_visible()
    phone.close()


@needs_chromium
def test_a_progress_bar_looks_as_in_a_terminal_and_the_page_follows_to_the_end(tab, daemon, tmp_path):
    gate = tmp_path / "gate"
    script = f"printf '10%%\\r\\033[32m20%%\\033[0m'; cat {gate}; printf '\\r100%%\\ndone\\n'"
    with daemon.client() as client:
        os.mkfifo(gate)
        job = client.submit(["/bin/sh", "-c", script])
        list_url = open_pages(tab, client)
        tab.goto(f"{list_url}/{job.id}")
        log = tab.locator(".log pre")
        expect(log).to_have_text("20%")
        expect(log.locator(".f2")).to_have_text("20%")

        gate.write_text("middle\n")
        expect(log).to_have_text("20%middle\n100%\ndone\n")
        expect(tab.locator("h1 .badge")).to_have_text("succeeded")
        expect(tab.locator("#attempt-1-head .badge")).to_have_text("succeeded")


@needs_chromium
def test_a_page_says_that_the_connection_is_lost_and_goes_on_after_a_restart(tab, request, tmp_path):
    """It is still logged in, and at the address that it was opened at: any free port, here."""
    daemon = Daemon(tmp_path)
    daemon.start()
    request.addfinalizer(daemon.stop)
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    with daemon.client() as client:
        list_url = open_pages(tab, client)
        job = client.submit(["/bin/sh", "-c", f"seq 1000; cat {gate}; cat {gate}; echo last"])
    tab.goto(f"{list_url}/{job.id}")
    log = tab.locator(".log pre")
    expect(log).to_contain_text("1000")
    daemon.process.kill()
    daemon.process.wait()
    expect(tab.locator("#connection")).to_be_visible()
    gate.write_text("while it was down\n")
    daemon.start()
    expect(tab.locator("#connection")).to_be_hidden()
    gate.write_text("and after\n")
    expect(tab.locator("h1 .badge")).to_have_text("succeeded")

    expect(log).to_contain_text("last")
    lines = [str(number) for number in range(1, 1001)]
    assert log.inner_text().split() == [*lines, *["while", "it", "was", "down", "and", "after", "last"]]


@needs_chromium
def test_a_page_of_a_chatty_job_stays_small_shows_the_end_and_lets_its_reader_read(tab, daemon, tmp_path):
    os.mkfifo(gate := tmp_path / "gate")
    line = f"\\033[32mgreen\\033[0m {'x' * 500}"
    rounds = [
        f"cat {gate}; yes \"$(printf '{line}')\" | head -n 350; echo done {number}" for number in range(4)
    ]
    last = f"cat {gate}; yes \"$(printf '{line}')\" | head -n 2000; echo last"
    with daemon.client() as client:
        job = client.submit(["/bin/sh", "-c", "; ".join([*rounds, last])])
        list_url = open_pages(tab, client)
        tab.goto(f"{list_url}/{job.id}")
        log, gap = tab.locator(".log pre"), tab.locator(".log .gap")
        for number in range(len(rounds)):
            gate.write_text("")
            wait_until(partial(has_text, log, f"done {number}"))
        assert tab.evaluate("document.querySelector('.log code').innerHTML.length") < 500_000
        assert not has_text(log, "done 0")
        assert tab.evaluate("isAtEnd(document.querySelector('.log pre'))")

        log.evaluate("box => box.scrollTop = 0")
        first = log.evaluate("box => box.textContent.slice(0, 100_000)")
        gate.write_text("")  # soon the job has ended
        expect(tab.locator("h1 .badge")).to_have_text("succeeded")
        assert log.evaluate("box => box.scrollTop") == 0
        assert log.evaluate("box => box.textContent.slice(0, 100_000)") == first

        log.evaluate("box => box.scrollTop = box.scrollHeight")
        wait_until(lambda: has_text(log, "last"))
        assert re.fullmatch(r"==> [0-9,]+ bytes are not shown here <==", gap.last.text_content() or "")
        gap.last.click()
        tab.locator("#log .target").wait_for()


def has_text(log: Locator, text: str) -> bool:
    """Tell whether a log has a text, without printing it all if it has not."""
    return bool(log.evaluate("(log, text) => log.textContent.includes(text)", text))


def test_a_page_that_connects_again_after_its_job_was_removed_says_so(daemon):
    with daemon.client() as client:
        job = client.submit(["/bin/true"])
        job.wait(timeout=DEADLINE)
        client.remove([job.id])
    for page in ("", "/1/view"):
        with events_of(daemon, f"/job-logs/{job.id}{page}/live?since=0") as events:
            assert next(filter(None, events)) == {
                "gone": f"There is no job {job.id}. It was removed or never submitted."
            }


@needs_chromium
def test_the_page_of_a_removed_job_says_so(tab, daemon):
    with daemon.client() as client:
        job = client.submit(["/bin/true"], hold=True)
        list_url = open_pages(tab, client)
        tab.goto(f"{list_url}/{job.id}")
        client.cancel([job.id])
        expect(tab.locator("h1 .badge")).to_have_text("cancelled")  # so the page has its stream
        client.remove([job.id])
        expect(tab.locator("#connection")).to_contain_text(f"There is no job {job.id}. It was removed")
        expect(tab.locator(".actions button:visible")).to_have_count(0)


@needs_chromium
def test_a_page_whose_login_is_over_says_so_and_goes_on_after_the_next_until_its_job_is_removed(tab, daemon):
    with daemon.client() as client:
        job = client.submit(["/bin/true"], hold=True)
        address = open_pages(tab, client)
        page = tab.context.new_page()  # its console names the requests that are refused
        page.goto(f"{address}/{job.id}")
        wait_for_streams(page)
        page.context.clear_cookies()
        hide(page, is_hidden=True)
        hide(page, is_hidden=False)
        expect(page.locator("#connection")).to_contain_text("This login is over. Type bgctl dashboard")
        page.click("[data-verb=release]")
        expect(page.locator("#notice")).to_contain_text("Nothing was done")

        open_pages(tab, client)
        expect(page.locator("#connection")).to_be_hidden()
        page.click("[data-verb=release]")
        expect(page.locator("h1 .badge")).to_have_text("succeeded")
        page.on("dialog", lambda dialog: dialog.accept())
        page.click("[data-verb=remove]")
        page.wait_for_url("**/job-logs")


@needs_chromium
def test_a_hidden_page_closes_its_streams_and_catches_up(tab, daemon):
    with daemon.client() as client:
        open_pages(tab, client)
        expect(tab.locator(f"#job-{client.submit(['/bin/true']).id}")).to_be_visible()
        hide(tab, is_hidden=True)
        wait_until(lambda: connections_of(daemon) == 0)
        job = client.submit(["/bin/true"])
        assert tab.locator(f"#job-{job.id}").count() == 0
        hide(tab, is_hidden=False)
        expect(tab.locator(f"#job-{job.id}")).to_be_visible()


@needs_chromium
def test_twelve_windows_are_all_live_over_one_connection_and_their_buttons_answer(tab, daemon, tmp_path):
    """A browser opens only six connections to a host. All tabs of a headless browser count as visible."""
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    with daemon.client() as client:
        job = client.submit(["/bin/sh", "-c", f"echo first; cat {gate}; sleep 1000"])
        address = open_pages(tab, client)
        kinds = ["", f"/{job.id}", f"/{job.id}/1/view", "/queues"]
        tabs = [tab, *(tab.context.new_page() for _ in range(11))]
        for each, kind in zip(tabs, 3 * kinds, strict=True):
            each.goto(address + kind)
        for each in tabs:
            wait_for_streams(each)
        assert connections_of(daemon) == 1

        gate.write_text("second\n")
        for each in [*tabs[1::4], *tabs[2::4]]:
            expect(each.locator(".log")).to_contain_text("second")
        client.pause("default")
        for each in tabs[3::4]:
            expect(each.locator("#queue-default")).to_contain_text("paused")
        tabs[-1].click("#queue-default [data-path$=resume]")
        tabs[-3].click("[data-verb=suspend]")
        for each in tabs[:1] + tabs[4:6] + tabs[8:10]:
            expect(each.locator(f"#job-{job.id}, h1").last).to_contain_text("suspended")
        for each in tabs[1:]:
            each.close()
        expect(tab.locator(f"#job-{client.submit(['/bin/true']).id}")).to_be_visible()
        client.cancel([job.id])


@needs_chromium
def test_without_shared_workers_a_page_and_its_log_need_one_connection(tab, daemon):
    tab.add_init_script("delete window.SharedWorker")
    with daemon.client() as client:
        job = client.submit(["/bin/sh", "-c", "echo first; sleep 1000"])
        tab.goto(f"{open_pages(tab, client)}/{job.id}")
        expect(tab.locator(".log")).to_contain_text("first")
        wait_for_streams(tab)
        assert tab.evaluate("streams.size") == 2
        assert connections_of(daemon) == 1
        client.cancel([job.id])
        expect(tab.locator("h1 .badge")).to_have_text("cancelled")


# --- streams ------------------------------------------------------------------------------------------------


def first_with_jobs(events):
    """Return the first news with rows, and the parts of those before it.

    The list may have been read once more before there were any, with the counts of a moment later.
    """
    parts: dict[str, str] = {}
    for news in filter(None, events):
        parts |= news["parts"]
        if news.get("order"):
            return news | {"parts": parts}
    raise AssertionError("the stream ended")


def test_a_stream_sends_nothing_to_a_page_that_is_up_to_date(daemon):
    with daemon.client() as client, events_of(daemon, "/job-logs/live?queue=quiet&since=") as events:
        assert next(events) is None
        job = client.submit(["/bin/true"], hold=True, name="<b>", queue="quiet")
        news = first_with_jobs(events)

    assert news["order"] == [f"job-{job.id}"]
    assert "&lt;b&gt;" in news["parts"][f"job-{job.id}"]
    assert set(news["parts"]) >= {"tabs", "empty"}


def test_what_many_look_at_is_read_once(daemon):
    address = "/job-logs/live?queue=shared&since="
    with daemon.client() as client, ExitStack() as opened:
        pages = [opened.enter_context(events_of(daemon, address)) for _ in range(100)]
        assert {next(page) for page in pages} == {None}
        job = client.submit(["/bin/true"], hold=True, queue="shared")
        assert {tuple(first_with_jobs(page)["order"]) for page in pages} == {(f"job-{job.id}",)}
        assert Browser(daemon).log_in().get("/job-logs").status == 200  # streams leave room for pages


@pytest.mark.parametrize(("version", "sent"), [(4, True), (5, True), (6, False)])
def test_a_page_that_is_newer_than_what_others_see_is_sent_nothing_old(version, sent):
    viewer = _Viewer(version)
    row = Part({"usage": "97%"}, str, has_version=False)

    viewer.begin(Snapshot({"job-1": row}), 3, 5, {"job-1": "running"})

    assert viewer.take()["parts"] == ({"job-1": "running"} if sent else {})


@pytest.mark.parametrize(("version", "is_sent"), [(2, True), (3, True), (4, False), (5, False), (6, False)])
def test_a_page_never_gets_a_row_with_usage_that_may_be_older_than_itself(version, is_sent):
    viewer = _Viewer(version)
    row = Part({"usage": "97%"}, str, has_version=False)

    viewer.begin(Snapshot({"job-1": row}, ["job-1"]), 3, 5, {"job-1": "running"})

    assert viewer.take()["parts"] == ({"job-1": "running"} if is_sent else {})


@pytest.mark.parametrize(
    ("version", "is_sent", "is_behind"),
    [(2, True, False), (3, False, True), (4, False, True), (5, False, False), (6, False, False)],
)
def test_a_page_never_gets_what_may_be_older_than_itself(version, is_sent, is_behind):
    viewer = _Viewer(version)
    viewer.begin(Snapshot({}, ["job-1"]), 3, 5, {"job-1": "<tr></tr>"})

    assert (viewer.take()["parts"] == {"job-1": "<tr></tr>"}) == is_sent
    assert viewer.is_behind == is_behind


def test_a_page_that_is_neither_older_nor_newer_gets_the_next_snapshot():
    viewer = _Viewer(4)
    viewer.begin(Snapshot({}, ["job-1"]), 3, 5, {"job-1": "running"})
    viewer.begin(Snapshot({}, ["job-1"]), 5, 5, {"job-1": "cancelled"})

    assert viewer.take()["parts"] == {"job-1": "cancelled"}
    assert not viewer.is_behind


def test_a_stream_of_a_log_goes_on_where_the_page_is(daemon):
    with daemon.client() as client:
        job = client.submit(["/bin/sh", "-c", "printf 'one\\n\\033[1mtwo\\nthree'"])
        client.wait([job.id])
    with events_of(daemon, f"/job-logs/{job.id}/1/live?at=0") as events:
        whole = [event for event in events if event]
    with events_of(daemon, f"/job-logs/{job.id}/1/live?at={whole[0]['at']}&style=1") as events:
        rest = [event for event in events if event]

    assert whole[0]["lines"] == '<span class="block">one\n<span class="bold">two</span>\n</span>'
    assert (whole[0]["open"], whole[0]["style"]) == ('<span class="bold">three</span>', "1")
    assert rest == [{**whole[0], "lines": ""}, {"end": True}]


@pytest.mark.parametrize("address", ["at=-1", "at=x", "since=x", f"style={'1' * 101}"])
def test_a_bad_position_is_refused(daemon, address):
    with daemon.client() as client:
        job = client.submit(["/bin/true"])
    assert Browser(daemon).log_in().get(f"/job-logs/{job.id}/1/live?{address}").status == 400


def test_streams_are_for_those_who_are_logged_in(daemon):
    for address in ("/job-logs/live", "/job-logs/1/live", "/job-logs/1/1/live"):
        assert Browser(daemon).get(address).status == 401


# --- logs ---------------------------------------------------------------------------------------------------


def test_a_line_without_an_end_is_broken(tmp_path):
    log = LogReader(str(tmp_path), 1, 1)
    log.path.parent.mkdir()
    log.path.write_bytes(b"x" * 40_000)
    lines = LogText(log, 0).read()

    assert lines is not None
    shown = plain(lines)
    assert shown["lines"] == f'<span class="block">{"x" * 40_000}\n</span>'
    assert (shown["open"], lines.at) == ("", 40_000)


FRAME = {"banner", "icon"}


# --- help ---------------------------------------------------------------------------------------------------


@contextmanager
def events_of(daemon: Daemon, address: str) -> Iterator[Iterator[Any]]:
    """Yield the events of a stream as they come; an address that ends with `since=` begins now.

    They are without those that have only the banner and the icon.
    """
    browser = Browser(daemon).log_in()
    if address.endswith("since="):
        version = re.search(r'data-version="(\d+)"', browser.get("/job-logs").text)
        assert version is not None
        address += version[1]
    with browser.connect() as connection:
        head = f"GET {address} HTTP/1.1\r\nHost: {browser.host}\r\nCookie: {browser.cookie}\r\n\r\n"
        connection.sendall(head.encode())
        yield (news for news in events_in(connection) if not (news and set(news.get("parts", ())) == FRAME))


def events_in(connection: socket.socket) -> Iterator[Any]:
    received = b""
    while data := connection.recv(65536):
        received += data
        *whole, received = received.split(b"\n\n")
        for message in whole:
            if found := re.search(rb"data: (.*)", message):
                yield json.loads(found[1])


def wait_for_streams(tab: Page) -> None:
    """Wait until all streams of a page have heard of the daemon."""
    is_heard = "streams.size > 0 && [...streams].every((stream) => stream.isLost === false)"
    wait_until(lambda: tab.evaluate(is_heard))


def hide(tab: Page, *, is_hidden: bool) -> None:
    """Tell the page that its tab is in the background, or not."""
    script = (
        f"Object.defineProperty(document, 'hidden', {{value: {str(is_hidden).lower()}, configurable: true}})"
    )
    tab.evaluate(script)
    tab.evaluate("document.dispatchEvent(new Event('visibilitychange'))")


def connections_of(daemon: Daemon) -> int:
    """Return the number of browsers that are connected to a daemon."""
    port = psutil.Process(daemon.process.pid)
    return sum(each.status == "ESTABLISHED" for each in port.net_connections("tcp"))
