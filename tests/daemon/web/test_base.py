"""Pages below a path of a proxy: every link, script, stream and button stays below it."""

from __future__ import annotations

import re
import socket
import socketserver
import tempfile
import threading
from collections import Counter
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.daemon.web.browsing import Browser, configure_pages
from tests.daemon.web.chromium import chromium, needs_chromium
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


@pytest.fixture(params=[False, True], ids=["prefix kept", "prefix removed"])
def proxy(behind_proxy, request):
    with behind_proxy.client() as client:
        place = client.info().http
    with Proxy(place.removeprefix("unix:"), removes_prefix=request.param) as proxy:
        thread = threading.Thread(target=proxy.serve_forever)
        thread.start()
        yield proxy
        proxy.shutdown()
        thread.join()


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


def links_of(tab, proxy):
    """Return the addresses that a page leads to, all of which have to be on this server."""
    address = "new URL(link.getAttribute('href'), location).href"  # some links are in pictures
    found = tab.eval_on_selector_all("a[href]", f"links => links.map(link => {address})")
    assert all(link.startswith(proxy.origin) for link in found), found
    return [link.partition("#")[0] for link in found]


@needs_chromium
def test_every_link_script_stream_and_button_of_every_page_is_below_the_base(behind_proxy, proxy):
    with behind_proxy.client() as client, chromium() as browser:
        login = re.sub("^http://[^/]*", proxy.origin, client.login_link())
        held = client.submit(["/bin/true"], name="released on the page", hold=True)
        tab = browser.new_page()
        complaints: list[str] = []
        tab.on("console", lambda message: complaints.append(message.text))
        tab.on("pageerror", lambda error: complaints.append(str(error)))
        tab.goto(login)
        tab.wait_for_url(f"**{BASE}/job-logs")

        walk(tab, proxy)
        streams = [urlsplit(target).path for target in proxy.passed if "shared=" in target]
        assert {re.sub(r"\d+", "ID", stream) for stream in streams} >= {
            f"{BASE}/job-logs/live",
            f"{BASE}/job-logs/ID/live",
            f"{BASE}/job-logs/ID/ID/live",
        }
        tab.goto(f"{proxy.origin}{BASE}/job-logs/{held.id}")
        tab.click("button[data-verb=release]")
        tab.wait_for_selector("text=succeeded")
        assert held.refresh().state == "succeeded"
    assert proxy.lost == []
    assert complaints == []


def walk(tab, proxy) -> None:
    """Open some pages of every kind, until they have their streams, and load everything else."""
    found = [tab.url]
    done: set[str] = set()
    opened: Counter[tuple[str, str]] = Counter()
    while found:
        link = found.pop(0)
        kind = kind_of(link)
        if link in done or opened[kind] == OF_A_KIND:
            continue
        done.add(link)
        opened[kind] += 1
        answered = tab.request.get(link, timeout=DEADLINE * 1000)
        assert answered.status == 200, link
        if answered.headers["content-type"].startswith("text/html"):
            tab.goto(link)
            if " data-live=" in answered.text():  # all but the search
                wait_for_streams(tab)
            found += links_of(tab, proxy)
    assert len(done) > 10


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
