"""Requests that must be refused: each gets its exact status, never data of a job, and never a 500."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

import pytest

from bgd.daemon.web.auth import derived
from tests.daemon.web.browsing import (
    Answered,
    Browser,
    answered_with,
    heard,
    held_secret,
    log_of,
)
from tests.support import DEADLINE, serving, wait_until

SECRET = "the-secret-name"
LONG = "x" * 20_000
STRANGER = 4_000_000  # a uid that nobody has

# Sessions that are in the file before the daemon starts
EXPIRED, FOREIGN, SECOND = "expired-secret", "secret-of-another-user", "secret-of-a-second-browser"
UNBOUND = "secret-of-an-earlier-bgd"  # or of a unix socket


@pytest.fixture(scope="module")
def daemon():
    with serving() as running:
        key = derived(held_secret(running), "sessions")
        running.process.kill()
        running.process.wait()
        until = time.time() + 86_400
        sessions = [
            session(key, EXPIRED, os.geteuid(), 1.0),
            session(key, FOREIGN, STRANGER, until),
            session(key, SECOND, os.geteuid(), until),
            session(b"", UNBOUND, os.geteuid(), until),
        ]
        (running.state_dir / "sessions.json").write_text(json.dumps({"port": 0, "sessions": sessions}))
        running.start()
        assert (
            Browser(running).get("/job-logs", f"Cookie: bgd_{Browser(running).port}={SECOND}").status == 200
        )
        yield running


def session(key: bytes, secret: str, uid: int, until: float) -> dict[str, object]:
    """Return a session as it is saved; the token of its pages is the secret with "-token"."""
    digests = [sha256(key + text.encode()).hexdigest() for text in (secret, f"{secret}-token")]
    return {"digest": digests[0], "write_digest": digests[1], "uid": uid, "until": until}


@pytest.fixture(scope="module")
def browser(daemon):
    """A browser that has logged in to a daemon with a finished job, 1, and a held one, 2."""
    with daemon.client() as client:
        client.wait([client.submit(["/bin/echo", "the secret output"], name=SECRET).id])
        client.submit(["/bin/true"], name=SECRET, hold=True)
        yield Browser(daemon).log_in()
        # nothing that was refused has had an effect
        assert [(job.id, job.state) for job in client.jobs()] == [(2, "held"), (1, "succeeded")]
        assert not client.queues().paused


@pytest.fixture(autouse=True)
def _nothing_breaks(daemon):
    yield
    assert "Traceback" not in log_of(daemon)


class Attack(NamedTuple):
    """A request that must be refused.

    `headers`: {cookie} is that of somebody who is logged in, {token} that of its session, {host} the daemon's
    own. Without `host` there is no Host header.
    """

    what: str
    status: int
    line: str = "GET /job-logs HTTP/1.1"
    headers: tuple[str, ...] = ("Cookie: {cookie}",)
    host: str | None = "{host}"

    def request(self, browser: Browser) -> bytes:
        own = [f"Host: {self.host}"] if self.host is not None else []
        values = {
            "host": browser.host,
            "port": browser.port,
            "cookie": browser.cookie,
            "token": browser.token,
        }
        lines = [line.format(**values) for line in (self.line, *own, *self.headers)]
        return "\r\n".join([*lines, "", ""]).encode("latin-1")


def get(path: str) -> str:
    return f"GET {path} HTTP/1.1"


COOKIE = "Cookie: {cookie}"
HASH = sha256(SECOND.encode()).hexdigest()
POST = "POST /job-logs/2/release HTTP/1.1"
TOKEN = "X-Bgd-Token: {token}"
OWN_SITE = "Sec-Fetch-Site: same-origin"
OWN_ORIGIN = "Origin: http://{host}"


def from_site(site: str, mode: str) -> tuple[str, ...]:
    return (COOKIE, f"Sec-Fetch-Site: {site}", f"Sec-Fetch-Mode: {mode}")


WITHOUT_LOGIN = [
    *(
        Attack(f"no cookie: {path}", 401, get(path), ())
        for path in (
            *("/job-logs", "/job-logs/1", "/job-logs/1/1", "/job-logs/live", "/job-logs/1/live"),
            *("/job-logs/1/1/live", "/job-logs/all/retry", "/job-logs?state=failed"),
        )
    ),
    Attack("a cookie without a value", 401, headers=("Cookie: bgd_{port}=",)),
    Attack("a forged cookie", 401, headers=("Cookie: bgd_{port}=" + "A" * 43,)),
    Attack("a cookie that is too long", 401, headers=("Cookie: {cookie}x",)),
    Attack("an expired cookie", 401, headers=(f"Cookie: bgd_{{port}}={EXPIRED}",)),
    Attack("a cookie of another user", 401, headers=(f"Cookie: bgd_{{port}}={FOREIGN}",)),
    Attack("a cookie that is not bound to these sockets", 401, headers=(f"Cookie: bgd_{{port}}={UNBOUND}",)),
    Attack("a cookie of another port", 401, headers=(f"Cookie: bgd_1={SECOND}",)),
    Attack("the hash of a secret", 401, headers=(f"Cookie: bgd_{{port}}={HASH}",)),
    Attack("a secret in another header", 401, headers=(f"Authorization: Bearer {SECOND}",)),
    Attack("a secret in the address", 401, get(f"/job-logs?bgd_{{port}}={SECOND}"), ()),
    Attack("the token in place of the cookie", 401, headers=("Cookie: bgd_{port}={token}",)),
    Attack("a link that was never given out", 401, get("/login/" + "A" * 43)),
    Attack("a change without a cookie", 401, POST, (OWN_SITE, TOKEN)),
    Attack(
        "a change with an expired cookie", 401, POST,
        (f"Cookie: bgd_{{port}}={EXPIRED}", OWN_SITE, f"X-Bgd-Token: {EXPIRED}-token"),
    ),
    Attack(
        "a change with a cookie of another user", 401, POST,
        (f"Cookie: bgd_{{port}}={FOREIGN}", OWN_SITE, f"X-Bgd-Token: {FOREIGN}-token"),
    ),
]  # fmt: skip

FROM_OTHER_SITES = [
    *(
        Attack(f"{site}, {mode}", 403, headers=from_site(site, mode))
        for site in ("cross-site", "same-site")
        for mode in ("no-cors", "cors", "websocket", "same-origin")
    ),
    Attack("a stream for another site", 403, get("/job-logs/live"), from_site("cross-site", "cors")),
    Attack("a link on another site's page", 401, headers=from_site("cross-site", "navigate")),
    Attack(
        "a frame of another site", 401,
        headers=(*from_site("cross-site", "navigate"), "Sec-Fetch-Dest: iframe"),
    ),
]  # fmt: skip

REBINDING_HOSTS = [
    Attack(f"host {host!r}", 421, host=host)
    for host in (
        *(
            "evil.example",
            "evil.example:{port}",
            "127.0.0.1",
            "127.0.0.1:1",
            "localhost",
            "localhost.:{port}",
            "bgd-00000000000000000000.localhost:{port}",
        ),
        *("localhost.evil.example:{port}", "127.0.0.1:{port}.evil.example", "127.0.0.1:{port}@evil.example"),
        *("0.0.0.0:{port}", "[::]:{port}", "127.1:{port}", "2130706433:{port}", "127.0.0.2:{port}", ""),
    )
]

FORGED_CHANGES = [
    Attack("no token", 403, POST, (COOKIE, OWN_SITE)),
    Attack("an empty token", 403, POST, (COOKIE, OWN_SITE, "X-Bgd-Token: ")),
    Attack("a wrong token", 403, POST, (COOKIE, OWN_SITE, "X-Bgd-Token: " + "A" * 43)),
    Attack("the token of another session", 403, POST, (COOKIE, OWN_SITE, f"X-Bgd-Token: {SECOND}-token")),
    Attack("two tokens", 403, POST, (COOKIE, OWN_SITE, TOKEN, TOKEN)),
    Attack(
        "the token in the address", 403, "POST /job-logs/2/release?token={token} HTTP/1.1", (COOKIE, OWN_SITE)
    ),
    Attack("no origin", 403, POST, (COOKIE, TOKEN)),
    Attack("another origin", 403, POST, (COOKIE, TOKEN, "Origin: http://evil.example")),
    Attack("another port", 403, POST, (COOKIE, TOKEN, "Origin: http://127.0.0.1:1")),
    Attack(
        "an origin that begins like ours", 403, POST, (COOKIE, TOKEN, "Origin: http://{host}.evil.example")
    ),
    Attack("no origin to speak of", 403, POST, (COOKIE, TOKEN, "Origin: null")),
    Attack("two origins", 403, POST, (COOKIE, TOKEN, OWN_ORIGIN, OWN_ORIGIN)),
    Attack(
        "another port, as the browser says",
        403,
        POST,
        (COOKIE, TOKEN, OWN_ORIGIN, "Sec-Fetch-Site: same-site"),
    ),
    Attack("an address that somebody typed", 403, POST, (COOKIE, TOKEN, OWN_ORIGIN, "Sec-Fetch-Site: none")),
    Attack("two sites", 403, POST, (COOKIE, TOKEN, OWN_SITE, "Sec-Fetch-Site: cross-site")),
    *(
        Attack(
            f"a form with {kind}", 403, POST, (COOKIE, "Sec-Fetch-Site: cross-site", f"Content-Type: {kind}")
        )
        for kind in ("application/x-www-form-urlencoded", "multipart/form-data", "text/plain")
    ),
    Attack("a form with fields", 400, POST, (COOKIE, OWN_SITE, TOKEN, "Content-Length: 7")),
    *(
        Attack(f"a GET of {path}", 404, get(path))
        for path in (
            "/job-logs/2/release",
            "/job-logs/2/cancel",
            "/job-logs/pause",
            "/job-logs/queues/default/pause",
        )
    ),
    *(
        Attack(f"{method}", 405, f"{method} /job-logs/2/release HTTP/1.1", (COOKIE, OWN_SITE, TOKEN))
        for method in ("PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "get", "SUBMIT")
    ),
    Attack("a change of a page", 405, "POST /job-logs HTTP/1.1", (COOKIE, OWN_SITE, TOKEN)),
    Attack("a change of a login", 405, "POST /login/x HTTP/1.1", (COOKIE, OWN_SITE, TOKEN)),
]

BAD_SYNTAX = [
    Attack("two kinds of length", 400, headers=(COOKIE, "Content-Length: 4", "Transfer-Encoding: chunked")),
    Attack("two lengths", 400, headers=(COOKIE, "Content-Length: 0", "Content-Length: 5")),
    Attack("a body", 400, headers=(COOKIE, "Content-Length: 4")),
    Attack("a chunked body", 400, headers=(COOKIE, "Transfer-Encoding: chunked")),
    Attack("a folded header", 400, headers=(COOKIE, "X: y", " folded")),
    Attack("a bare LF", 400, "GET /job-logs HTTP/1.1\nX: y"),
    Attack("a bare CR", 400, headers=(COOKIE, "X: y\rZ: z")),
    Attack("a NUL", 400, headers=(COOKIE, "X: \0")),
    Attack("a space before the colon", 400, headers=(COOKIE, "X : y")),
    Attack("a header without a name", 400, headers=(COOKIE, ": y")),
    Attack("a target on another host", 400, get("http://127.0.0.1/job-logs")),
    Attack("a target that is no path", 400, get("*")),
    Attack("two hosts", 400, headers=(COOKIE, "Host: {host}")),
    Attack("no host", 400, host=None),
    Attack("no host in HTTP/1.0", 400, "GET /job-logs HTTP/1.0", host=None),
    Attack("HTTP/0.9", 400, "GET /job-logs", (), host=None),
    Attack("HTTP/2", 505, "PRI * HTTP/2.0", ()),
    Attack("a tunnel", 405, "CONNECT evil.example:443 HTTP/1.1"),
    Attack("a line that is too long", 414, get(f"/{LONG}")),
    Attack("a header that is too long", 431, headers=(COOKIE, f"X: {LONG}")),
    Attack("too many headers", 431, headers=(COOKIE, *["X: y"] * 100)),
    Attack("a cookie that is too large", 431, headers=(COOKIE, f"Cookie: a={LONG}")),
]

PATH_TRICKS = [
    *(
        Attack(f"path {path}", 404, get(path))
        for path in (
            *(
                "/job-logs/..%2f..%2fetc%2fpasswd",
                "/job-logs/../../etc/passwd",
                "/job-logs/%2e%2e/1",
                "/./job-logs",
            ),
            *("//job-logs", "/job-logs/", "/job-logs/%31", "/job-logs/1/", "/job-logs/1/1/", "/job-logs;/1"),
            *(
                "/JOB-LOGS",
                "/job-logs/0",
                "/job-logs/01",
                "/job-logs/-1",
                "/job-logs/+1",
                "/job-logs/1.0",
                "/job-logs/1e3",
            ),
            *("/job-logs/1%00", "/job-logs/1%0a", "/job-logs\\1", "/job-logs/1/1/../../../etc/passwd"),
            *("/job-logs/999999999999999999", "/job-logs/9999999999999999999999", "/job-logs/1/999999999"),
            *(
                "/static/..%2fpages.py",
                "/static/../pages.py",
                "/static/",
                "/static/site.py",
                "/static//style.css",
            ),
            *(
                "/static/style.css/",
                "/static/style.css%00",
                "/login/",
                "/login/a/b",
                "/metrics/",
                "/sessions.json",
            ),
        )
    ),
    *(
        Attack(f"query {query}", 400, get(f"/job-logs?{query}"))
        for query in (
            *(
                "limit=99999999999999999999999",
                "limit=-1",
                "before=x",
                "state=%ff",
                "state=bogus",
                "queue=%00",
            ),
            "a=1&" * 100,
        )
    ),
    Attack("a tail before the beginning", 400, get("/job-logs/1/1?tail=-1")),
    Attack("no such action", 404, get("/job-logs/all/reboot")),
    Attack("a path that is not ASCII", 400, get("/job-logs/\xe9")),
]

ATTACKS = [
    *WITHOUT_LOGIN,
    *FROM_OTHER_SITES,
    *REBINDING_HOSTS,
    *FORGED_CHANGES,
    *BAD_SYNTAX,
    *PATH_TRICKS,
]


def assert_refused(answered: Answered, status: int) -> None:
    assert answered.status == status
    assert SECRET.encode() not in answered.body
    assert "set-cookie" not in answered.headers
    policy = answered.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert answered.headers["x-content-type-options"] == "nosniff"
    assert answered.headers["connection"] == "close"


def test_a_logged_in_user_sees_the_jobs_and_may_not_be_framed(browser):
    answered = browser.say(Attack("", 200).request(browser))

    assert SECRET in answered.text
    assert "frame-ancestors 'none'" in answered.headers["content-security-policy"]
    assert answered.headers["cross-origin-resource-policy"] == "same-origin"
    assert answered.headers["cross-origin-opener-policy"] == "same-origin"


def test_the_requests_of_the_tests_below_would_be_served_without_what_is_wrong_with_them(browser):
    second = f"Cookie: bgd_{browser.port}={SECOND}"
    change = (second, OWN_SITE, f"X-Bgd-Token: {SECOND}-token")

    assert browser.say(Attack("", 200, headers=(second,)).request(browser)).status == 200
    hold = Attack("", 200, "POST /job-logs/2/hold HTTP/1.1", change)  # it is held already
    assert browser.say(hold.request(browser)).status == 200


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.what[:40])
def test_an_attack_is_refused(browser, attack):
    assert_refused(browser.say(attack.request(browser)), attack.status)


def test_each_attack_is_another_one():
    assert len(set(ATTACKS)) == len(ATTACKS) >= 60


def test_a_stolen_link_does_not_work_again(browser):
    link = browser.link()
    assert browser.get(link).status == 200

    assert_refused(browser.get(link), 401)


@pytest.mark.skipif(os.geteuid() != 0, reason="NOT TESTED: only root can become somebody else")
def test_another_user_is_refused_with_a_valid_cookie_a_valid_token_or_a_new_link(browser):
    link = browser.link()
    attacks = [
        Attack("a page", 403),
        Attack("a job", 403, get("/job-logs/1")),
        Attack("a log", 403, get("/job-logs/1/1")),
        Attack("a stream", 403, get("/job-logs/live")),
        Attack("a link", 403, get(link)),
        Attack("a change", 403, POST, (COOKIE, OWN_SITE, TOKEN)),
    ]
    done = subprocess.run(
        [sys.executable, "-c", ASK, str(STRANGER), str(browser.port)],
        input=json.dumps([attack.request(browser).decode("latin-1") for attack in attacks]),
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=True,
    )

    for attack, answer in zip(attacks, json.loads(done.stdout), strict=True):
        assert_refused(answered_with(answer.encode("latin-1")), attack.status)
    assert browser.get(link).status == 200  # a stranger does not use it up


# modules are loaded as root, whose folders may be closed to others
ASK = """
import json, os, socket, sys
os.setuid(int(sys.argv[1]))
answers = []
for request in json.load(sys.stdin):
    with socket.socket() as stranger:
        stranger.connect(("127.0.0.1", int(sys.argv[2])))
        stranger.sendall(request.encode("latin-1"))
        answer = b""
        while data := stranger.recv(65536):
            answer += data
    answers.append(answer.decode("latin-1"))
json.dump(answers, sys.stdout)
"""


OTHER_NAMES = pytest.mark.parametrize("host", ["127.0.0.1:{port}", "LOCALHOST:{port}", "[::1]:{port}"])


@OTHER_NAMES
def test_under_another_name_of_this_machine_pages_say_what_to_type(browser, host):
    for target in ("/job-logs", "/job-logs/1/1", "/job-logs/live", browser.link()):
        answered = browser.get(target, host=host.format(port=browser.port))
        assert answered.status == 401
        assert "bgctl dashboard" in answered.text
        assert "Already logged in" not in answered.text
        assert "set-cookie" not in answered.headers
    changed = Attack("", 401, POST, (COOKIE, OWN_SITE, TOKEN), host).request(browser)
    assert browser.say(changed).status == 401


@OTHER_NAMES
@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/static/style.css"])
def test_what_says_nothing_about_jobs_is_there_under_all_names(browser, host, path):
    assert browser.get(path, host=host.format(port=browser.port)).status == 200
    assert browser.get(path, host=browser.host.upper()).status == 200
    assert browser.get(path, host="evil.example").status == 421


# --- slow connections ---------------------------------------------------------------------------------------


def test_slow_connections_keep_nobody_waiting(daemon, browser):
    """200 connections: half-sent heads, readers that do not read, and streams of pages that do not change.

    None of them is dropped before its time is up: clients that are dropped come back at once, and a queue of
    connects that is full costs a good one a second.
    """
    page = Attack("", 200).request(browser)
    stream = Attack("", 200, get("/job-logs/live")).request(browser)
    slow = [browser.connect() for _ in range(200)]
    for number, each in enumerate(slow):
        each.sendall([b"GET /job-logs HTTP/1.1\r\nHost:", page, stream, b""][number % 4])
    slow[0].sendall(page.partition(b"Host:")[2])
    slow[3].sendall(page)
    assert (heard(slow[0]).status, heard(slow[3]).status) == (200, 200)

    assert [browser.say(page).status for _ in range(60)] == [200] * 60
    for each in slow:
        each.close()
    assert "Traceback" not in log_of(daemon)


def test_connects_wait_in_the_kernel_while_the_daemon_is_busy(daemon, browser):
    """One that finds no place there is tried again only after a second."""
    daemon.process.send_signal(signal.SIGSTOP)
    try:
        waiting = [browser.connect() for _ in range(300)]
    finally:
        daemon.process.send_signal(signal.SIGCONT)

    waiting[-1].sendall(Attack("", 200).request(browser))
    assert heard(waiting[-1]).status == 200
    for each in waiting:
        each.close()


def test_connections_without_a_request_make_room_for_new_ones(browser):
    """The oldest one is told why; the newest ones that have begun a request have HEAD_SECONDS for it."""
    slow = [browser.connect() for _ in range(400)]
    for each in slow[-64:]:
        each.sendall(b"GET /job-logs HTTP/1.1\r\nHost:")

    assert [browser.say(Attack("", 200).request(browser)).status for _ in range(60)] == [200] * 60
    assert heard(slow[-1]).status in {408, 503}
    assert_refused(heard(slow[0]), 503)
    for each in slow:
        each.close()


def test_a_client_that_does_not_read_a_long_log_is_disconnected(daemon, browser):
    """The log is larger than the kernel's buffer for a reader."""
    with daemon.client() as client:
        job = client.submit(["/bin/sh", "-c", "head -c 30000000 /dev/zero"])
        client.wait([job.id])
    with browser.connect() as connection:
        connection.sendall(Attack("", 200, get(f"/job-logs/{job.id}/1?raw=1")).request(browser))
        connection.recv(1)
        port = connection.getsockname()[1]
        wait_until(lambda: f":{port:04X} 01 " not in Path("/proc/net/tcp").read_text())
    with daemon.client() as client:
        client.remove([job.id])
