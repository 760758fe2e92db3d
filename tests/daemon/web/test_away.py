"""bgd is stopped, killed or restarted while its pages are open: what a click does, and how they go on."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from playwright.sync_api import expect

from bgd.daemon.web.auth import PATIENCE_SECONDS
from bgd.system import clock
from tests.daemon.web.browsing import Browser, heard, held_secret
from tests.daemon.web.chromium import needs_chromium
from tests.daemon.web.test_actions import post
from tests.daemon.web.test_live import open_pages, wait_for_streams
from tests.support import DEADLINE, Daemon, wait_until

SCHEDULE = """
[schedules.nightly]
cron = "0 3 * * *"
command = ["/bin/true"]
"""
NOTHING_DONE = "Nothing was done, because bgd did not answer. Try again."


@contextmanager
def stopped(daemon: Daemon) -> Iterator[None]:
    """Stop the daemon during the block, as a debugger or a machine without memory does."""
    os.kill(daemon.process.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(daemon.process.pid, signal.SIGCONT)


def test_a_page_is_told_the_time_with_the_seal(browser):
    before = clock.elapsed()

    assert before <= browser.json("/job-logs/seal") <= clock.elapsed()


@pytest.mark.parametrize("path", ["/job-logs/{job}/release", "/job-logs/all/release?ids={job}"])
@pytest.mark.parametrize(
    ("until", "status"),
    [(PATIENCE_SECONDS - 1, 200), (-0.001, 409), (PATIENCE_SECONDS + 1, 409), (1e9, 409)],
)
def test_a_change_is_made_only_as_long_as_its_page_waits_for_it(client, browser, path, until, status):
    job = client.submit(["/bin/true"], hold=True)
    answered = post(browser, path.format(job=job.id), f"X-Bgd-Until: {clock.elapsed() + until}")

    assert answered.status == status
    assert (client.job(job.id).state == "held") == (status == 409)


@pytest.mark.parametrize(("until", "status"), [("soon", 400), ("", 400), ("nan", 409), ("1, 2", 400)])
def test_a_time_that_is_none_is_refused(client, browser, until, status):
    job = client.submit(["/bin/true"], hold=True)

    assert post(browser, f"/job-logs/{job.id}/release", f"X-Bgd-Until: {until}").status == status
    assert client.job(job.id).state == "held"


def test_a_change_that_waited_in_the_socket_of_a_stopped_daemon_is_not_made(daemon, client, browser):
    job = client.submit(["/bin/true"], hold=True)
    until = clock.elapsed() + 0.5
    own = ["Sec-Fetch-Site: same-origin", f"X-Bgd-Token: {browser.token}", f"X-Bgd-Until: {until}"]
    with stopped(daemon), browser.connect() as connection:
        connection.sendall(browser.request(f"/job-logs/{job.id}/release", *own, method="POST"))
        wait_until(lambda: clock.elapsed() > until)
        os.kill(daemon.process.pid, signal.SIGCONT)
        answered = heard(connection)

    assert (answered.status, "nothing was done" in answered.text) == (409, True)
    assert client.job(job.id).state == "held"


# --- in a browser


@pytest.fixture
def away(home):
    """A daemon with a schedule, which a test may stop."""
    home.configure(SCHEDULE)
    home.start()
    return home


@needs_chromium
def test_no_click_while_bgd_is_stopped_is_done_later(tab, away):
    """The page of a job, all that match, the form, a schedule, queues, a batch: every kind of button."""
    with away.client() as client:
        job = client.submit(["/bin/true"], name="held", hold=True)
        batch = client.batch([{"argv": ["/bin/true"], "hold": True}], "months")
        address = open_pages(tab, client)
        clicks = {
            f"/{job.id}": "[data-verb=release]",
            "": "#matching [data-many=release]",
            "/new": "button[name=submit]",
            "/schedules": "[data-path$=run]",
            "/queues": "#slots [data-path$=pause]",
            f"/batches/{batch.id}": "[data-post]",
        }
        tabs = [tab, *(tab.context.new_page() for _ in range(len(clicks) - 1))]
        for page, path in zip(tabs, clicks, strict=True):
            page.on("dialog", lambda dialog: dialog.accept())
            page.goto(address + path)
            if path == "/new":
                page.fill("textarea[name=command]", "true")
            else:
                wait_for_streams(page)
        with stopped(away):
            for page, button in zip(tabs, clicks.values(), strict=True):
                page.click(button)
                expect(page.locator(button)).to_have_attribute("aria-busy", "true")
                page.click(button, force=True)
            for page, button in zip(tabs, clicks.values(), strict=True):
                expect(page.locator("#notice")).to_contain_text(NOTHING_DONE)
                expect(page.locator(button)).not_to_have_attribute("aria-busy", "true")
        client.submit(["/bin/true"]).wait(timeout=DEADLINE)
        assert [client.job(job.id).state, *(each.state for each in batch.jobs())] == ["held", "held"]
        assert not client.queues().paused
        assert len(client.jobs()) == 3
        tab.click(clicks[f"/{job.id}"])
        expect(tab.locator("h1 .badge")).to_have_text("succeeded")
        expect(tab.locator("#notice")).to_be_hidden()


@needs_chromium
def test_a_click_that_bgd_gets_too_late_is_refused_and_the_page_says_so(tab, away):
    with away.client() as client:
        job = client.submit(["/bin/true"], hold=True)
        address = open_pages(tab, client)
        page = tab.context.new_page()  # its console names the request that is refused
        page.goto(f"{address}/{job.id}")
        wait_for_streams(page)

        def stop_before(route) -> None:
            os.kill(away.process.pid, signal.SIGSTOP)
            route.continue_()

        page.route("**/release", stop_before)  # the daemon has said who it is by then
        page.click("[data-verb=release]")
        try:
            expect(page.locator("#notice")).to_contain_text("bgd does not answer. Wait")
            expect(page.locator("[data-verb=release]")).to_have_attribute("aria-busy", "true")
        finally:
            os.kill(away.process.pid, signal.SIGCONT)
        expect(page.locator("#notice")).to_contain_text("bgd got this too late, so nothing was done.")
        assert client.job(job.id).state == "held"


@needs_chromium
def test_a_click_that_a_proxy_answers_in_place_of_bgd_is_not_called_a_lost_login(tab, daemon):
    with daemon.client() as client:
        job = client.submit(["/bin/true"], hold=True)
        address = open_pages(tab, client)
        page = tab.context.new_page()  # its console names the request that is refused
        page.goto(f"{address}/{job.id}")
        page.route("**/job-logs/seal?*", lambda route: route.fulfill(status=502, body="Bad Gateway"))
        page.click("[data-verb=release]")

        expect(page.locator("#notice")).to_contain_text(NOTHING_DONE)
        assert client.job(job.id).state == "held"


@needs_chromium
def test_a_page_says_that_an_action_on_many_jobs_is_stuck(tab, daemon):
    with daemon.client() as client:
        open_pages(tab, client)
    news = 'data: {"done": 2000, "of": 9000, "refused": 0, "why": []}\\n\\n'
    start = f"(stream) => stream.enqueue(new TextEncoder().encode('{news}'))"
    tab.evaluate(f"void showProgress({{ body: new ReadableStream({{ start: {start} }}) }}, 'Retry')")

    expect(tab.locator("#notice")).to_contain_text("Retry: 2,000 of 9,000 jobs. bgd does not answer.")


@needs_chromium
@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL])
def test_all_pages_go_on_after_a_restart(tab, away, end):
    with away.client() as client:
        running = client.submit(["/bin/sh", "-c", "echo out; sleep 1000"])
        wait_until(lambda: running.refresh().state == "running")
        batch = client.batch([{"argv": ["/bin/true"], "hold": True}], "months")
        address = open_pages(tab, client)
        held_secret(away)
        paths = [
            *("", f"/{running.id}", f"/{running.id}/1/view", "/overview", "/charts", "/queues"),
            *("/schedules", "/schedules/nightly", "/batches", f"/batches/{batch.id}"),
        ]
        tabs = [tab, *(tab.context.new_page() for _ in range(len(paths) - 1))]
        for page, path in zip(tabs, paths, strict=True):
            page.goto(address + path)
            wait_for_streams(page)
            page.evaluate("window.isSamePage = true")
        away.process.send_signal(end)
        away.process.wait(DEADLINE)
        for page in tabs:
            expect(page.locator("#connection")).to_have_text("Connection lost. Trying again …")
            expect(page.locator("#connection")).to_be_visible()
        away.start()
        for page in tabs:
            expect(page.locator("#connection")).to_be_hidden()
            wait_for_streams(page)

        def is_suspended() -> bool:
            """On a busy machine the first click may come too late, and the page then says so."""
            if tabs[1].locator("#notice").is_visible():
                tabs[1].click("[data-verb=suspend]")
            return bool(running.refresh().suspended)

        tabs[1].click("[data-verb=suspend]")
        wait_until(is_suspended)
        for page in (tabs[0].locator(f"#job-{running.id}"), tabs[1].locator("h1")):
            expect(page).to_contain_text("suspended")
        assert all(page.evaluate("window.isSamePage") for page in tabs)


@needs_chromium
def test_a_page_says_that_its_login_is_over_if_bgd_came_back_under_another_name(tab, away):
    with away.client() as client:
        address = open_pages(tab, client)
        page = tab.context.new_page()  # its console names the requests that are refused
        page.goto(address)
        tab.goto("about:blank")
        wait_for_streams(page)
        host = Browser(away).host
        away.stop()  # with its launcher, so the port was free
        expect(page.locator("#connection")).to_have_text("Connection lost. Trying again …")
        away.start()
        assert Browser(away).host != host
        expect(page.locator("#connection")).to_contain_text("This login is over. Type bgctl dashboard")
