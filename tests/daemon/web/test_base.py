"""Pages below a path of a proxy: every link, script, stream and button stays below it."""

from __future__ import annotations

import html
import re
import socket
import socketserver
import tempfile
import threading
from collections import Counter
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urljoin, urlsplit

import pytest

from tests.daemon.web.browsing import Browser, configure_pages
from tests.daemon.web.chromium import needs_chromium
from tests.daemon.web.test_live import wait_for_streams
from tests.support import DEADLINE, Daemon

BASE = "/jobs"
OF_A_KIND = 5  # pages that differ in their job or filter only


@contextmanager
def serving_below(base: str, listen: str):
    with tempfile.TemporaryDirectory(prefix="bgd-") as folder:
        running = Daemon(Path(folder))
        configure_pages(running, listen.format(folder=folder), f'base = "{base}"')
        running.start()
        yield running
        running.stop()


@pytest.fixture(scope="module")
def behind_proxy():
    """A daemon with jobs of all kinds, below a path and on a unix socket."""
    with serving_below(BASE, "unix:{folder}/http.sock") as daemon:
        with daemon.client() as client:
            ended = [
                client.submit(["/bin/echo", "hello"], name="one", tags=["a tag"], queue="mail").id,
                client.submit(["/bin/false"], name="two").id,
                client.submit(["/nowhere"], check=False).id,
            ]
            client.wait(ended)
            client.submit(["/bin/sleep", "1000"], name="running")
            client.submit(["/bin/true"], name="held", hold=True)
        yield daemon


@contextmanager
def proxied(daemon, *, removes_prefix):
    with daemon.client() as client:
        place = client.info().http
    with Proxy(place.removeprefix("unix:"), removes_prefix=removes_prefix) as proxy:
        thread = threading.Thread(target=proxy.serve_forever)
        thread.start()
        yield proxy
        proxy.shutdown()
        thread.join()
    assert proxy.lost == []


class Proxy(socketserver.ThreadingTCPServer):
    """Passes on what is below BASE to a unix socket; anything else it notes, and does not find."""

    daemon_threads = True

    def __init__(self, path: str, *, removes_prefix: bool) -> None:
        super().__init__(("127.0.0.1", 0), _Passing)
        self.path = path
        self.removes_prefix = removes_prefix
        self.lost: list[str] = []
        self.passed: list[str] = []
        self.origin = f"http://127.0.0.1:{self.server_address[1]}"


class _Passing(socketserver.BaseRequestHandler):
    server: Proxy

    def handle(self) -> None:
        head = b""
        while b"\r\n\r\n" not in head:
            if not (data := self.request.recv(65536)):
                return
            head += data
        method, target, rest = head.split(b" ", 2)
        if not target.startswith(f"{BASE}/".encode()):
            self.server.lost.append(target.decode())
            self.request.sendall(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            return
        self.server.passed.append(target.decode())
        if self.server.removes_prefix:
            target = target.removeprefix(BASE.encode())
        with socket.socket(socket.AF_UNIX) as daemon:
            daemon.connect(self.server.path)
            daemon.sendall(b" ".join([method, target, rest]))
            try:
                while data := daemon.recv(65536):
                    self.request.sendall(data)
            except OSError:  # the browser has left
                pass


def open_below(tab, client, proxy) -> list[str]:
    """Log in; return the list that gets all messages on the console."""
    complaints: list[str] = []
    tab.on("console", lambda message: complaints.append(message.text))
    tab.goto(re.sub("^http://[^/]*", proxy.origin, client.login_link()))
    tab.wait_for_url(f"**{BASE}/job-logs")
    return complaints


def release(tab, client, proxy):
    """Start a job by the button on its page, and wait until the page shows that it succeeded."""
    held = client.submit(["/bin/true"], name="released on the page", hold=True)
    tab.goto(f"{proxy.origin}{BASE}/job-logs/{held.id}")
    tab.click("button[data-verb=release]")
    tab.wait_for_selector("text=succeeded")
    assert held.refresh().state == "succeeded"


def streams_of(proxy):
    return {re.sub(r"\d+", "ID", urlsplit(target).path) for target in proxy.passed if "shared=" in target}


STREAMS = {f"{BASE}/job-logs/live", f"{BASE}/job-logs/ID/live", f"{BASE}/job-logs/ID/ID/live"}


@needs_chromium
def test_every_link_script_stream_and_button_of_every_page_is_below_the_base(tab, behind_proxy):
    with behind_proxy.client() as client, proxied(behind_proxy, removes_prefix=False) as proxy:
        complaints = open_below(tab, client, proxy)
        walk(tab, proxy)
        assert streams_of(proxy) >= STREAMS
        release(tab, client, proxy)
        assert complaints == []


@needs_chromium
def test_pages_work_behind_a_proxy_that_removes_the_base(tab, behind_proxy):
    with behind_proxy.client() as client, proxied(behind_proxy, removes_prefix=True) as proxy:
        complaints = open_below(tab, client, proxy)
        walk(tab, proxy, is_shown=False)
        [running] = client.jobs(name="running")
        for page in ("", f"/{running.id}", f"/{running.id}/1/view"):
            tab.goto(f"{proxy.origin}{BASE}/job-logs{page}")
            wait_for_streams(tab)
        assert streams_of(proxy) >= STREAMS
        release(tab, client, proxy)
        assert complaints == []


def walk(tab, proxy, *, is_shown: bool = True) -> None:
    """Load some pages of every kind and all that they link to; show pages until they have their streams.

    Of pages that differ in their query only, the browser shows one.
    """
    found = [tab.url]
    done: set[str] = set()
    loaded: Counter[tuple[str, str]] = Counter()
    while found:
        link = found.pop(0)
        kind = kind_of(link)
        if link in done or loaded[kind] == OF_A_KIND:
            continue
        done.add(link)
        loaded[kind] += 1
        answered = tab.request.get(link, timeout=DEADLINE * 1000)
        assert answered.status == 200, link
        if answered.headers["content-type"].startswith("text/html"):
            found += below(proxy, re.findall(HREF, answered.text()), link)
            if is_shown and (loaded[kind] == 1 or not kind[1]):
                tab.goto(link)
                if " data-live=" in answered.text():  # all but the search
                    wait_for_streams(tab)
                found += below(proxy, tab.eval_on_selector_all("a[href]", HREFS), link)
    assert len(done) > 30


HREF = r'<a [^>]*?href="([^"]*)"'
HREFS = "links => links.map(link => link.getAttribute('href'))"  # some links are in pictures


def below(proxy, links, page):
    """Return the addresses of these links, and check that all of them are below the base."""
    found = [urljoin(page, html.unescape(link)) for link in links]
    assert all(link.startswith(f"{proxy.origin}{BASE}/") for link in found), found
    return [link.partition("#")[0] for link in found]


def kind_of(link: str) -> tuple[str, str]:
    """Return what an address has in common with those of other jobs and other filters."""
    parts = urlsplit(link)
    return re.sub(r"\d+", "ID", parts.path), re.sub("=[^&]*", "", parts.query)


@pytest.fixture
def browser():
    """A browser of a daemon on a port, below a path."""
    with serving_below(BASE, "127.0.0.1:0") as daemon:
        yield Browser(daemon)


def test_cookie_links_and_redirects_have_the_base(browser):
    assert browser.link().startswith(f"{BASE}/login/")
    answered = browser.get(browser.link())
    assert f"; Path={BASE};" in answered.headers["set-cookie"]
    assert f'content="0; url={BASE}/job-logs"' in answered.text
    for path in ("/", BASE, f"{BASE}/"):
        redirected = browser.get(path)
        assert (redirected.status, redirected.headers["location"]) == (303, f"{BASE}/job-logs")


def test_paths_are_served_with_the_base_once_or_without_it(browser):
    browser.log_in()
    statuses = {
        path: browser.get(path).status
        for path in (
            *(f"{BASE}/job-logs", "/job-logs", f"{BASE}/healthz", "/healthz", f"{BASE}/static/style.css"),
            *(f"{BASE}{BASE}/job-logs", f"{BASE}x/job-logs", "/JOBS/job-logs", f"{BASE}//job-logs"),
        )
    }

    assert list(statuses.values()) == [200] * 5 + [404] * 4, statuses


def test_changes_are_taken_below_the_base(browser):
    browser.log_in()
    own = ("Sec-Fetch-Site: same-origin", f"X-Bgd-Token: {browser.token}")

    assert browser.get(f"{BASE}/job-logs/pause", *own, method="POST").json["paused"] is True
    assert browser.get("/job-logs/resume", *own, method="POST").json["paused"] is False
