"""Another user of the machine does not get hold of the pages while the daemon is down."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil  # type: ignore[import-untyped]  # it has no types
import pytest
from playwright.sync_api import Browser as Chromium
from playwright.sync_api import BrowserContext, Page, expect

from tests.daemon.web.browsing import Browser, configure_pages, held_secret
from tests.daemon.web.chromium import needs_chromium
from tests.daemon.web.test_live import connections_of, wait_for_streams
from tests.faults.figures import times
from tests.support import DEADLINE, Daemon, wait_until

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="NOT TESTED: only root can become somebody else")
pytestmark = needs_root

HOSTILE = Path(__file__).with_name("hostile.py")
STRANGER = 65534  # nobody
KILLS = times(100, 3)
# Try to take a port on any address until stdin is closed; then say what was taken
GRAB = """
import os, select, socket, sys
os.setuid(int(sys.argv[1]))
taken = []
print("trying", flush=True)
is_over = False
while not is_over:
    is_over = bool(select.select([sys.stdin], [], [], 0.001)[0])
    for host in ("127.0.0.1", "::1", "0.0.0.0", "::"):
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as grabbing:
            for option in (socket.SO_REUSEADDR, socket.SO_REUSEPORT):
                grabbing.setsockopt(socket.SOL_SOCKET, option, 1)
            if ":" in host:
                grabbing.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            try:
                grabbing.bind((host, int(sys.argv[2])))
                grabbing.listen()
            except OSError:
                continue
            taken.append(host)
print(sorted(set(taken)))
"""


@pytest.fixture
def daemon(home):
    configure_pages(home, "127.0.0.1:0")
    home.start()
    held_secret(home)
    return home


@contextmanager
def grabbing(port: int) -> Iterator[list[str]]:
    """Have another user try all the time to take a port; in the end, fill the list with what was taken."""
    taken: list[str] = []
    with subprocess.Popen(
        [sys.executable, "-c", GRAB, str(STRANGER), str(port)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as stranger:
        assert stranger.stdout is not None
        assert stranger.stdout.readline() == "trying\n"
        yield taken
        said, _ = stranger.communicate(timeout=DEADLINE)
        taken.append(said.strip())


def kill(process: psutil.Process) -> None:
    process.kill()
    process.wait(DEADLINE)


def launcher_of(daemon: Daemon) -> int | None:
    with daemon.client() as client:
        return client.info().launcher_pid


def test_a_killed_daemon_never_frees_its_port_and_takes_it_again(daemon):
    browser = Browser(daemon).log_in()
    with grabbing(browser.port) as taken:
        for _ in range(KILLS):
            kill(psutil.Process(daemon.process.pid))
            daemon.process.wait()
            with browser.connect() as waiting:
                waiting.sendall(browser.request("/job-logs"))
                daemon.start()
                assert waiting.recv(12) == b"HTTP/1.1 200"
            assert Browser(daemon).port == browser.port

    assert taken == ["[]"]


def test_a_port_is_held_again_after_the_launcher_was_killed(daemon):
    browser = Browser(daemon).log_in()
    with grabbing(browser.port) as taken:
        first = launcher_of(daemon)
        kill(psutil.Process(first))
        wait_until(lambda: launcher_of(daemon) not in {first, None})
        held_secret(daemon)
        kill(psutil.Process(daemon.process.pid))
        daemon.process.wait()
        daemon.start()
        assert browser.get("/job-logs").status == 200

    assert taken == ["[]"]


def test_each_time_that_both_are_killed_the_port_has_another_name_and_no_cookie_is_valid(daemon):
    names, cookies = [], []
    for _ in range(KILLS):
        browser = Browser(daemon).log_in()
        names.append(browser.host)
        cookies.append(browser.cookie)
        kill_both(daemon)
        daemon.start()
    browser = Browser(daemon)

    assert len({browser.host, *names}) == KILLS + 1
    for browser.cookie in cookies:
        assert browser.get("/job-logs").status == 401


def test_a_daemon_without_pages_frees_the_port_of_an_earlier_one_whose_jobs_run(daemon):
    port = Browser(daemon).port
    with daemon.client() as client:
        job = client.submit(["/bin/sleep", "1000"])
        wait_until(lambda: job.refresh().state == "running")
    kill(psutil.Process(daemon.process.pid))
    daemon.process.wait()
    daemon.configure('[http]\nlisten = ""\n')
    daemon.start()

    with grabbing(port) as taken:
        pass

    assert taken != ["[]"]


def test_an_orderly_end_frees_the_port(daemon):
    browser = Browser(daemon)
    launcher = psutil.Process(launcher_of(daemon))
    daemon.stop()
    launcher.wait(DEADLINE)

    with grabbing(browser.port) as taken:
        pass

    assert taken != ["[]"]
    daemon.start()


# --- A page that is open, a hostile server in place of the daemon, and the next daemon


class Hostile:
    """Another user's server on the daemon's port."""

    def __init__(self, process: subprocess.Popen[str], log: Path) -> None:
        self._process = process
        self._log = log

    @property
    def requests(self) -> list[tuple[str, str, dict[str, str]]]:
        """Return method, target and headers of all requests."""
        text = self._log.read_text()
        return [tuple(json.loads(line)) for line in text.splitlines(keepends=True) if line.endswith("\n")]

    def count(self, part: str) -> int:
        """Return how many requests had this in their target."""
        return sum(part in target for _, target, _ in self.requests)

    def stop(self) -> None:
        self._process.communicate(timeout=DEADLINE)


@contextmanager
def hostile_server(port: int) -> Iterator[Hostile]:
    with tempfile.TemporaryDirectory(prefix="hostile-") as folder:
        program, log = Path(folder, "hostile.py"), Path(folder, "log")
        shutil.copy(HOSTILE, program)  # its own user can read it there
        log.touch()
        for path, mode in ((Path(folder), 0o755), (program, 0o644), (log, 0o666)):
            path.chmod(mode)
        with subprocess.Popen(
            [sys.executable, str(program), str(STRANGER), str(port), str(log)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "serving\n"
            hostile = Hostile(process, log)
            yield hostile
            if process.poll() is None:
                hostile.stop()


def kill_both(daemon: Daemon) -> None:
    """Kill bgd and its launcher, which would take its place in a moment."""
    held_secret(daemon)  # so the daemon knows the launcher
    launcher = launcher_of(daemon)
    assert launcher is not None
    daemon.process.kill()
    daemon.process.wait()
    kill(psutil.Process(launcher))


@pytest.fixture
def own_context(chrome: Chromium) -> BrowserContext:
    own = chrome.new_context()
    own.set_default_timeout(1000 * DEADLINE)
    return own


def opened(context: BrowserContext, daemon: Daemon, path: str = "") -> Page:
    """Log in; return a tab with one of the pages, once all its streams have heard of the daemon."""
    tab = context.new_page()
    with daemon.client() as client:
        tab.goto(client.login_link())
        tab.wait_for_url("**/job-logs")
    tab.goto(f"{tab.url}{path}")
    wait_for_streams(tab)
    return tab


def origin_of(daemon: Daemon) -> str:
    return f"http://{Browser(daemon).host}"


@needs_chromium
def test_a_hostile_server_gets_nothing_from_pages_opened_before_during_or_after_the_gap(daemon, own_context):
    with daemon.client() as client:
        held = client.submit(["/bin/true"], name="held", hold=True)
        running = client.submit(["/bin/sh", "-c", "seq 100; sleep 1000"])
        wait_until(lambda: running.refresh().state == "running")
    browser = Browser(daemon)
    before = origin_of(daemon)
    tabs = [
        opened(own_context, daemon, path)
        for path in ("", f"/{held.id}", f"/{running.id}", f"/{running.id}/1/view")
    ]
    for tab in tabs:
        tab.evaluate("window.isSamePage = true")
    kill_both(daemon)
    with hostile_server(browser.port) as hostile:
        attack(tabs, hostile)
        during = own_context.new_page()
        during.goto(f"{before}/job-logs")
        expect(during.locator("body")).to_have_text("registered")
        requests = hostile.requests
        hostile.stop()
    sent = [headers for _, _, headers in requests]
    assert not [headers for headers in sent if "x-bgd-token" in {name.lower() for name in headers}]
    assert {method for method, _, _ in requests} == {"GET"}
    stolen = next(headers["Cookie"] for headers in sent if "Cookie" in headers)

    daemon.start()
    later = Browser(daemon)
    assert (later.port, later.host == browser.host) == (browser.port, False)
    later.cookie = stolen
    assert later.get("/job-logs").status == 401
    assert later.get("/job-logs", host=browser.host).status == 421
    assert_clean(daemon, own_context)
    during.reload()  # the old name is lost for ever, but nothing there has access to the pages
    assert during.title() == "OWNED"
    page = f"{origin_of(daemon)}/job-logs"
    asked = f"fetch('{page}', {{ credentials: 'include' }}).then(() => 'got it', () => 'refused')"
    assert during.evaluate(asked) == "refused"


def attack(tabs: list[Page], hostile: Hostile) -> None:
    """Have pages of the list, a held job, a running one and its log ask a hostile server; check all."""
    for tab in tabs:
        tab.bring_to_front()
        seen = hostile.count("/live?")
        tab.evaluate("for (const stream of streams) { stream.close(); stream.open(); }")
        wait_until(lambda seen=seen: hostile.count("/live?") >= seen + 2)  # type: ignore[misc]  # it has a default
        expect(tab.locator("#connection")).to_be_visible()
    _, job, _, log = tabs
    job.click("button[data-verb=release]")
    expect(job.locator("#notice")).to_contain_text("Nothing was done")
    log.locator(".tools input[name=text]").fill("5")
    log.locator(".tools input[name=text]").press("Enter")
    wait_until(lambda: hostile.count("/search?"))
    log.click(".places a >> nth=0")
    wait_until(lambda: hostile.count("/part?"))
    for tab in tabs:
        assert tab.evaluate("window.isSamePage")
        assert "owned" not in tab.content().lower()


def assert_clean(daemon: Daemon, context: BrowserContext) -> None:
    """Check that a new visit shows the daemon's pages, which work, and that nothing else runs there."""
    tab = opened(context, daemon)
    for _ in range(2):
        assert tab.title() == "Jobs · bgd"
        assert tab.evaluate("navigator.serviceWorker.getRegistrations().then((all) => all.length)") == 0
        with daemon.client() as client:
            job = client.submit(["/bin/true"], name="after the gap")
            expect(tab.locator(f"#job-{job.id}")).to_be_visible()
        tab.reload()


@needs_chromium
def test_a_hostile_server_gets_nothing_from_pages_that_try_again_after_bgd_was_shut_down(daemon, own_context):
    browser = Browser(daemon)
    with daemon.client() as client:
        job = client.submit(["/bin/true"], hold=True)
    tabs = [opened(own_context, daemon, path) for path in ("", f"/{job.id}")]
    for tab in tabs:
        tab.evaluate("window.isSamePage = true")
    launcher = psutil.Process(launcher_of(daemon))
    daemon.stop()
    launcher.wait(DEADLINE)

    with hostile_server(browser.port) as hostile:
        for tab in tabs:
            tab.bring_to_front()
            wait_until(lambda: hostile.count("/shared/"))
            expect(tab.locator("#connection")).to_be_visible()
            assert tab.evaluate("window.isSamePage")
            assert "owned" not in tab.content().lower()
        requests = hostile.requests
    assert {method for method, _, _ in requests} == {"GET"}
    assert not [headers for _, _, headers in requests if "x-bgd-token" in map(str.lower, headers)]
    stolen = next(headers["Cookie"] for _, _, headers in requests if "Cookie" in headers)
    daemon.start()
    later = Browser(daemon)
    later.cookie = stolen
    assert (later.get("/job-logs").status, later.get("/job-logs", host=browser.host).status) == (401, 421)


@needs_chromium
def test_an_event_that_is_repeated_reordered_or_of_another_connection_is_not_taken(daemon, own_context):
    tab = opened(own_context, daemon)
    script = """async ([texts, order, again]) => {
        const seal = new Seal(), other = new Seal();
        const key = await crypto.subtle.importKey(
            "raw", bytesOf(document.body.dataset.key), { name: "HMAC", hash: "SHA-256" }, false, ["sign"]);
        const sealed = [];
        for (const [count, text] of texts.entries()) {
            const bytes = new TextEncoder().encode(`${seal.nonce}\\n${count}\\n${text}`);
            const mac = await crypto.subtle.sign("HMAC", key, bytes);
            sealed.push([text, btoa(String.fromCharCode(...new Uint8Array(mac)))]);
        }
        const taken = [];
        for (const at of order) taken.push(await (again ? other : seal).isOn(...sealed[at]));
        return taken;
    }"""
    texts = ["null", '{"version": 1}', '{"version": 2}']

    assert tab.evaluate(script, [texts, [0, 1, 2], False]) == [True, True, True]
    assert tab.evaluate(script, [texts, [0, 0], False]) == [True, False]
    assert tab.evaluate(script, [texts, [1, 0, 2], False]) == [False, False, True]
    assert tab.evaluate(script, [texts, [0, 1, 2], True]) == [False, False, False]


@needs_chromium
def test_a_browser_without_webcrypto_shows_pages_that_do_not_change_and_says_so(daemon, own_context):
    own_context.add_init_script("Object.defineProperty(Crypto.prototype, 'subtle', { value: undefined })")
    with daemon.client() as client:
        job = client.submit(["/bin/true"], hold=True)
        tab = own_context.new_page()
        tab.goto(client.login_link())
        tab.wait_for_url("**/job-logs")
        tab.goto(f"{tab.url}/{job.id}")
        expect(tab.locator("#connection")).to_contain_text("reload")
        with tab.expect_navigation():  # what a button did is seen at once
            tab.click("button[data-verb=release]")
        client.wait([job.id])
        tab.reload()
        expect(tab.locator("h1 .badge")).to_have_text("succeeded")
    wait_until(lambda: connections_of(daemon) == 0)
