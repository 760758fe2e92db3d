"""What stands around every page: banners that come and go on open pages, and an icon that shows failures."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from playwright.sync_api import expect

from bgd.daemon.space import DiskSpace
from bgd.daemon.streams import LOOK_FACTOR, Subscriptions
from tests.daemon.web.browsing import Browser
from tests.daemon.web.chromium import needs_chromium
from tests.daemon.web.test_live import MILLISECONDS, events_in
from tests.support import DEADLINE, Daemon, wait_until

ADDRESSES = ("/job-logs", "/job-logs/{job}")


@needs_chromium
def test_a_pause_shows_on_open_pages_and_ends_by_their_button(chrome, own_daemon):
    with own_daemon.client() as client:
        job = client.submit(["/bin/true"], hold=True)
        context = chrome.new_context()
        tabs = [context.new_page() for _ in ADDRESSES]
        tabs[0].goto(client.login_link())
        tabs[0].wait_for_url("**/job-logs")
        for tab, address in zip(tabs, ADDRESSES, strict=True):
            tab.set_default_timeout(MILLISECONDS)
            tab.goto(tabs[0].url.partition("/job-logs")[0] + address.format(job=job.id))
            expect(tab.locator("#banner")).to_have_text("")
        places = [places_of_buttons(tab) for tab in tabs]
        client.pause()
        for tab in tabs:
            expect(tab.locator("#banner")).to_contain_text("All queues are paused: no job starts.")
            expect(tab.locator("#banner")).to_be_in_viewport()
        assert [places_of_buttons(tab) for tab in tabs] == places  # nothing moves under a pointer
        tabs[1].click("button:text-is('Resume')")
        for tab in tabs:
            expect(tab.locator("#banner")).to_have_text("")
        assert not client.queues().paused


@needs_chromium
def test_the_header_stays_in_place_between_pages_and_a_chosen_theme_too(chrome, daemon):
    with daemon.client() as client:
        tall = client.submit(["seq", "500"]).wait(timeout=DEADLINE)
        context = chrome.new_context(viewport={"width": 2560, "height": 900}, color_scheme="light")
        tab, other = context.new_page(), context.new_page()
        tab.goto(client.login_link())
        tab.wait_for_url("**/job-logs")
        origin = tab.url
        light = background(tab)
        tab.click("#theme")
        tab.click("#theme")
        assert background(tab) != light
        places = []
        for address in (
            "",
            "/overview",
            "/queues",
            "/schedules",
            "/search",
            f"/{tall.id}",
            f"/{tall.id}/1/view",
            "/new",
        ):
            tab.goto(origin + address)
            places.append([each.bounding_box() for each in tab.locator(".brand, .sections a").all()])
            assert background(tab) != light
        assert all(each == places[0] for each in places)
        other.goto(origin)
        other.click("#theme")
        expect(tab.locator("#theme")).to_have_text("Theme: system")
        assert background(tab) == light
        tab.emulate_media(media="print")
        expect(tab.locator(".sections, button, footer").locator("visible=true")).to_have_count(0)


def background(tab) -> str:
    colour: str = tab.evaluate("getComputedStyle(document.body).backgroundColor")
    return colour


def test_a_page_that_connects_after_a_pause_is_told(own_daemon):
    """A pause is no event, so the page is as new as the newest event."""
    with own_daemon.client() as client, stream_of(own_daemon, "/job-logs") as events:
        assert "paused" not in next(events)["parts"]["banner"]
        client.pause()
        assert "All queues are paused" in next(events)["parts"]["banner"]
        with stream_of(own_daemon, "/job-logs") as later:
            assert "All queues are paused" in next(later)["parts"]["banner"]


def test_a_page_says_that_there_is_no_launcher_and_when_there_is_one_again(own_daemon):
    with own_daemon.client() as client, stream_of(own_daemon, "/job-logs") as events:
        assert "launcher" not in next(events)["parts"]["banner"]
        with without_launcher(own_daemon, client.info().launcher_pid):
            assert "No job can start: there is no launcher" in next(events)["parts"]["banner"]
            assert "No job can start" in Browser(own_daemon).log_in().get("/job-logs").text
        assert "launcher" not in next(events)["parts"]["banner"]


def test_strangers_see_no_banner(own_daemon):
    with own_daemon.client() as client:
        client.pause()
    assert "paused" not in Browser(own_daemon).get("/job-logs").text
    assert "All queues are paused" in Browser(own_daemon).log_in().get("/job-logs").text


def test_the_icon_shows_that_a_job_failed(own_daemon):
    with own_daemon.client() as client:
        browser = Browser(own_daemon).log_in()
        assert "/static/icon.svg?" in icon_of(browser)
        with stream_of(own_daemon, "/job-logs") as events:
            next(events)
            job = client.submit(["/bin/false"])
            client.wait([job.id])
            while "icon" not in (news := next(events) or {"parts": {}})["parts"]:
                pass
        assert "icon-failed.svg" in news["parts"]["icon"]
        assert "icon-failed.svg" in icon_of(browser)
        assert browser.get("/static/icon-failed.svg").headers["content-type"] == "image/svg+xml"
        client.remove([job.id])
        wait_until(lambda: "/static/icon.svg?" in icon_of(browser))


async def test_a_watch_wakes_only_when_its_value_changes():
    subscriptions, values = Subscriptions(), [1]
    with subscriptions.subscribe([]) as subscription, subscriptions.watch(subscription, lambda: values[0]):
        subscriptions.look_soon()
        assert subscriptions._look_timer is not None
        subscriptions._look()
        assert not subscription.changed.is_set()
        values[0] = 2
        subscriptions._look()
        assert subscription.changed.is_set()
    subscription.changed.clear()
    values[0] = 3
    subscriptions._look()
    assert not subscription.changed.is_set()
    subscriptions.look_soon()
    assert subscriptions._look_timer is None  # nobody watches, so there is no timer


async def test_slow_looks_are_rare(monkeypatch):
    subscriptions, seconds = Subscriptions(), iter([100.0, 101.0])
    monkeypatch.setattr("bgd.daemon.streams.time.perf_counter", lambda: next(seconds))
    with subscriptions.subscribe([]) as subscription, subscriptions.watch(subscription, int):
        subscriptions._look()
        subscriptions.look_soon()
        assert subscriptions._look_timer is not None
        assert subscriptions._look_timer.when() - asyncio.get_running_loop().time() > LOOK_FACTOR / 2
        subscriptions._look_timer.cancel()


def test_a_disk_that_gets_full_tells_once_and_once_when_it_has_room_again(tmp_path):
    space, told = DiskSpace(str(tmp_path), 0), []
    space.when_changed = lambda: told.append(space.is_full())
    assert not space.is_full()
    for floor in (1 << 60, 1 << 59, 0, 0):
        space.configure(floor)
        assert space.is_full() == (floor > 0)
    assert told == [True, False]


@contextmanager
def stream_of(daemon: Daemon, address: str) -> Iterator[Iterator[Any]]:
    """Yield the events of a page that is as new as the newest event, without those that say nothing."""
    browser = Browser(daemon).log_in()
    version = browser.get(address).text.partition('data-version="')[2].partition('"')[0]
    with browser.connect() as connection:
        connection.sendall(
            f"GET {address}/live?since={version} HTTP/1.1\r\nHost: {browser.host}\r\n"
            f"Cookie: {browser.cookie}\r\n\r\n".encode()
        )
        yield (news for news in events_in(connection) if news)


@contextmanager
def without_launcher(daemon: Daemon, pid: int) -> Iterator[None]:
    """Kill the launcher, and let no other one start during the block: its lock is a folder."""
    lock = daemon.state_dir / "launcher.lock"
    lock.unlink()
    lock.mkdir()
    os.kill(pid, signal.SIGKILL)
    yield
    lock.rmdir()


def places_of_buttons(tab) -> list[object]:
    return [each.bounding_box() for each in tab.locator("main > :not(#banner) button:visible").all()]


def icon_of(browser: Browser) -> str:
    return browser.get("/job-logs").text.partition('<link rel="icon"')[2].partition(">")[0]
