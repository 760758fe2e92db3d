"""Who may see the pages and who may not, on a port and behind a unix socket."""

from __future__ import annotations

import os
import re
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.daemon.web.browsing import Browser, configure_pages, log_of
from tests.support import DEADLINE, Daemon

STRANGER = 4_000_000  # a uid that nobody has
# modules are loaded as root, whose folders may be closed to others
ASK = """
import os, socket, sys
os.setuid(int(sys.argv[1]))
stranger = socket.socket()
stranger.connect(("127.0.0.1", int(sys.argv[2])))
stranger.sendall(os.fsencode(sys.argv[3]))
while data := stranger.recv(65536):
    os.write(1, data)
"""
PAGES = ["/job-logs", "/job-logs/1", "/job-logs/1/1"]

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="NOT TESTED: only root can become somebody else")


@pytest.fixture(scope="module", autouse=True)
def _job(daemon):
    """Run a job whose output a stranger could see."""
    with daemon.client() as client:
        client.wait([client.submit(["/bin/echo", "the secret output"]).id])


@pytest.fixture
def browser(daemon):
    return Browser(daemon)


@pytest.fixture
def machine():
    """A daemon that the test configures and starts."""
    with tempfile.TemporaryDirectory(prefix="bgd-") as folder:
        machine = Daemon(Path(folder))
        yield machine
        machine.stop()


def asked_by_stranger(browser, target):
    """Return what another user of this machine is answered, with the same cookie."""
    request = f"GET {target} HTTP/1.1\r\nHost: {browser.host}\r\nCookie: {browser.cookie}\r\n\r\n"
    done = subprocess.run(
        [sys.executable, "-c", ASK, str(STRANGER), str(browser.port), request],
        capture_output=True,
        timeout=DEADLINE,
        check=True,
    )
    return done.stdout


@pytest.mark.parametrize("page", PAGES)
def test_a_visitor_without_login_is_told_what_to_type(browser, page):
    answered = browser.get(page)

    assert answered.status == 401
    assert "bgctl dashboard" in answered.text
    assert "secret" not in answered.text
    assert browser.get(page, "Accept: application/json").json == {"error": "You are not logged in."}


def test_a_link_works_once_and_a_head_request_does_not_use_it_up(browser):
    link = browser.link()
    assert browser.get(link, method="HEAD").status == 200
    assert "set-cookie" not in browser.get(link, method="HEAD").headers

    cookie = browser.get(link).headers["set-cookie"]
    assert re.fullmatch(
        rf"bgd_{browser.port}=[\w-]{{43}}; Path=/; Max-Age=604800; HttpOnly; SameSite=Strict", cookie
    )
    again = browser.get(link)
    assert (again.status, "set-cookie" in again.headers) == (401, False)
    assert "has been used before" in again.text


@pytest.mark.parametrize("page", PAGES)
def test_a_valid_cookie_opens_the_pages(browser, page):
    assert browser.log_in().get(page).status == 200


def test_a_cookie_of_the_same_name_from_another_port_does_no_harm(browser):
    browser.log_in()
    assert browser.get("/job-logs", f"Cookie: bgd_{browser.port}=from-another-port").status == 200


def test_a_wrong_cookie_is_refused(browser):
    browser.log_in()
    browser.cookie = browser.cookie[:-1] + ("x" if browser.cookie[-1] != "x" else "y")
    assert browser.get("/job-logs").status == 401


@needs_root
@pytest.mark.parametrize("page", [*PAGES, "login"])
def test_another_user_is_refused_even_with_a_valid_cookie_or_link(browser, page):
    browser.log_in()
    said = asked_by_stranger(browser, browser.link() if page == "login" else page)

    assert said.startswith(b"HTTP/1.1 403 ")
    assert f"These pages are for user {os.geteuid()} of this machine".encode() in said
    assert b"secret" not in said
    assert b"Set-Cookie" not in said


@needs_root
def test_any_user_may_ask_whether_the_daemon_is_well(browser):
    assert asked_by_stranger(browser, "/healthz").endswith(b"\r\n\r\nok\n")
    assert asked_by_stranger(browser, "/readyz").endswith(b"\r\n\r\nready\n")


def test_the_root_redirects_to_the_list(browser):
    answered = browser.get("/")
    assert (answered.status, answered.headers["location"]) == (303, "/job-logs")


def test_behind_a_unix_socket_only_the_login_counts(machine):
    configure_pages(machine, f"unix:{machine.folder}/http.sock")
    machine.start()
    browser = Browser(machine)

    assert browser.get("/job-logs").status == 401
    assert browser.log_in().get("/job-logs", host="bgd.example.org").status == 200
    assert browser.get("/job-logs", host="not a host").status == 421
    cookie = browser.get(browser.link(), "X-Forwarded-Proto: https").headers["set-cookie"]
    assert cookie.endswith("; SameSite=Strict; Secure")


@pytest.mark.parametrize(
    ("settings", "strangers"),
    [
        ("", 401),  # it has no cookie
        ('host = ["Jobs.example.org", "10.0.0.7", "[fd00::7]"]', 421),
        ('auth = "none"', 421),
        ('user_header = "X-Remote-User"', 421),
        ('auth = "none"\nhost = ["jobs.example.org", "10.0.0.7", "[fd00::7]"]', 421),
    ],
)
def test_a_strangers_name_for_the_address_of_a_proxy_shows_nothing(machine, settings, strangers):
    """DNS rebinding: a page of that name in a browser that reaches the proxy asks for jobs."""
    configure_pages(machine, f"unix:{machine.folder}/http.sock", settings)
    machine.start()
    browser = Browser(machine)
    user = "X-Remote-User: alice"
    statuses = {host: browser.get("/job-logs", user, host=host).status for host in STRANGE_HOSTS}
    own = {host: browser.get("/job-logs", user, host=host).status for host in OWN_HOSTS}

    assert set(statuses.values()) == {strangers}
    assert (browser.get("/healthz", host="evil.example").status == 421) == (strangers == 421)
    assert set(own.values()) == {401 if "auth" not in settings and "header" not in settings else 200}
    if "host" in settings:
        assert browser.get("/job-logs", user, host="JOBS.example.org:8443").status in own.values()
        assert browser.log_in().get("/job-logs", host="jobs.example.org").status == 200
    elif strangers == 421:
        refused = browser.get("/job-logs", user, host="jobs.example.org")
        assert (refused.status, "add it to [http] host" in refused.text) == (421, True)


STRANGE_HOSTS = (
    *("evil.example", "evil.example:8643", "jobs.example.org.", "jobs.example.org.evil.example", "[fd00::8]"),
    *("xjobs.example.org", "localhost.evil.example", "localhost.", "10.0.0.70", "127.0.0.2", "0.0.0.0"),
)
OWN_HOSTS = ("localhost", "localhost:8643", "127.0.0.1", "[::1]:8643")


@needs_root
def test_without_login_only_the_own_user_may_read_and_other_names_lead_to_that_of_the_pages(machine):
    configure_pages(machine, "127.0.0.1:0", 'auth = "none"')
    machine.start()
    browser = Browser(machine)

    assert browser.get("/job-logs").status == 200
    for name in ("127.0.0.1", "localhost", "[::1]"):
        led = browser.get("/job-logs?q=mail", host=f"{name}:{browser.port}")
        assert (led.status, led.headers["location"]) == (307, f"http://{browser.host}/job-logs?q=mail")
    assert browser.get("/job-logs", "Sec-Fetch-Site: cross-site", "Sec-Fetch-Mode: cors").status == 403
    assert asked_by_stranger(browser, "/job-logs").startswith(b"HTTP/1.1 403 ")


def test_a_daemon_without_pages_says_so(machine):
    configure_pages(machine, "")
    machine.start()

    assert "pages      none" in machine.bgctl("info").stdout
    refused = machine.bgctl("dashboard")
    assert refused.returncode == 1
    assert refused.stderr == "bgctl: this daemon serves no pages: see [http] listen, and the daemon's log\n"


def test_jobs_run_even_if_the_pages_cannot_listen(machine):
    configure_pages(machine, f"unix:{machine.folder}/gone/http.sock")
    machine.start()

    assert "cannot serve pages at unix:" in log_of(machine)
    assert machine.bgctl("run", "echo", "hello").stdout == "hello\n"


def test_bgctl_prints_the_link(daemon, browser):
    said = daemon.bgctl("dashboard")
    assert re.fullmatch(rf"http://{re.escape(browser.host)}/login/[\w-]{{43}}\n", said.stdout)
    assert '"url": "http' in daemon.bgctl("dashboard", "--json").stdout


class Opening:
    """A program in place of the browser: it records its arguments, which others could see, and its file."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._program = folder / "opener"
        self._program.write_text(
            f"#!/bin/sh\ntr '\\0' '\\n' < /proc/$$/cmdline > {folder}/seen\n"
            f'cat "${{1#file://}}" > {folder}/read\n'
        )
        self._program.chmod(0o755)

    def ask(self, daemon: Daemon, **env: str) -> subprocess.CompletedProcess[str]:
        return daemon.bgctl("dashboard", "--open", env={"BROWSER": str(self._program)} | env)

    @property
    def arguments(self) -> list[str]:
        return (self._folder / "seen").read_text().splitlines()

    @property
    def page(self) -> Path:
        return Path(self.arguments[-1].removeprefix("file://"))

    @property
    def link(self) -> str:
        found = re.search(r'<meta http-equiv="refresh" content="0; url=([^"]+)">', self.text)
        assert found is not None, self.text
        return found[1]

    @property
    def text(self) -> str:
        return (self._folder / "read").read_text()


def test_browser_that_bgctl_opens_gets_a_link_that_other_users_cannot_read(daemon, browser, tmp_path):
    opening = Opening(tmp_path)

    opened = opening.ask(daemon)

    assert (opened.returncode, opened.stdout) == (0, f"{opening.link}\n")
    token = opening.link.rpartition("/")[2]
    assert not [argument for argument in opening.arguments if token in argument]
    assert opening.page.parent == daemon.folder / ".local/state/bgd"
    assert stat.S_IMODE(opening.page.stat().st_mode) == 0o600
    assert stat.S_IMODE(opening.page.parent.stat().st_mode) == 0o700
    assert "script" not in opening.text
    answered = browser.get(opening.link.removeprefix(f"http://{browser.host}"))
    assert answered.headers["set-cookie"].startswith("bgd")
    assert (
        f"the browser opens {opening.page}; if it cannot read that file (snap, flatpak), open the link"
        in opened.stderr
    )


def test_pages_for_browsers_are_removed_when_their_links_no_longer_work(daemon, tmp_path):
    opening = Opening(tmp_path)
    opening.ask(daemon)
    first = opening.page
    opening.ask(daemon)
    assert first.exists()  # the browser may be slow
    os.utime(first, (1, 1))

    opening.ask(daemon)

    assert not first.exists()
    assert opening.page.exists()


def test_link_is_printed_if_no_file_for_a_browser_can_be_written(daemon, tmp_path):
    (tmp_path / "state").write_text("")

    state = str(tmp_path / "state")
    opened = Opening(tmp_path).ask(daemon, XDG_STATE_HOME=state, BGD_SOCKET=str(daemon.socket))

    assert opened.returncode == 1
    assert opened.stdout.startswith("http://")
    assert "no browser was opened, because its page cannot be written (" in opened.stderr
    assert opened.stderr.endswith("open the link yourself\n")
    assert opened.stderr.count("\n") == 1
    assert not (tmp_path / "seen").exists()


def test_a_daemon_stops_although_browsers_stay_connected(machine):
    configure_pages(machine, "127.0.0.1:0")
    machine.start()
    with machine.client() as client:
        client.wait([client.submit(["/bin/sh", "-c", "head -c 30000000 /dev/zero"]).id])
    browser = Browser(machine).log_in()
    with browser.connect(), browser.connect() as reading:
        request = f"GET /job-logs/1/1 HTTP/1.1\r\nHost: {browser.host}\r\nCookie: {browser.cookie}\r\n\r\n"
        reading.sendall(request.encode())
        assert reading.recv(8) == b"HTTP/1.1"
        machine.stop()

    assert machine.process.returncode == 0
    assert "Traceback" not in log_of(machine)
