"""Malformed and hostile requests get the right status, never data of a job, and never a 500."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.daemon.web.browsing import Browser, heard, log_of
from tests.support import wait_until

SECRET = "the-secret-name"
LONG = b"x" * 20_000


@pytest.fixture(scope="module")
def browser(daemon):
    with daemon.client() as client:
        client.wait([client.submit(["/bin/echo", "the secret output"], name=SECRET).id])
    return Browser(daemon).log_in()


@pytest.fixture(autouse=True)
def _nothing_breaks(daemon):
    yield
    assert "Traceback" not in log_of(daemon)


def said(browser, line=b"GET /job-logs HTTP/1.1", *headers, host=True):
    """Return the bytes of a request with the cookie of a user who is logged in."""
    own = [f"Host: {browser.host}".encode()] if host else []
    return b"\r\n".join([line, *own, f"Cookie: {browser.cookie}".encode(), *headers, b"", b""])


def assert_refused(answered, *statuses):
    assert answered.status in statuses
    assert SECRET.encode() not in answered.body
    assert "default-src 'none'" in answered.headers["content-security-policy"]
    assert answered.headers["x-content-type-options"] == "nosniff"


def test_a_logged_in_user_sees_the_jobs(browser):
    assert SECRET in browser.say(said(browser)).text


@pytest.mark.parametrize(
    ("line", "headers", "status"),
    [
        (b"GET /job-logs HTTP/1.1", [b"Content-Length: 4", b"Transfer-Encoding: chunked"], 400),
        (b"GET /job-logs HTTP/1.1", [b"Content-Length: 4"], 400),
        (b"GET /job-logs HTTP/1.1", [b"X: y", b" folded"], 400),
        (b"GET /job-logs HTTP/1.1\nX: y", [], 400),
        (b"GET http://127.0.0.1/job-logs HTTP/1.1", [], 400),
        (b"GET /job-logs HTTP/1.1", [b"Host: 127.0.0.1"], 400),
        (b"POST /job-logs HTTP/1.1", [], 403),
        (b"PUT /job-logs HTTP/1.1", [], 405),
        (b"GET /job-logs/..%2f..%2fetc%2fpasswd HTTP/1.1", [], 404),
        (b"GET /job-logs/../../etc/passwd HTTP/1.1", [], 404),
        (b"GET /static/..%2fpages.py HTTP/1.1", [], 404),
        (b"GET /static/site.py HTTP/1.1", [], 404),
        (b"GET /job-logs/%31 HTTP/1.1", [], 404),
        (b"GET /job-logs/1/1/ HTTP/1.1", [], 404),
        (b"GET /job-logs/999999999999999999 HTTP/1.1", [], 404),
        (b"GET /job-logs/9999999999999999999999 HTTP/1.1", [], 404),
        (b"GET /job-logs/1/999999999 HTTP/1.1", [], 404),
        (b"GET /job-logs?limit=99999999999999999999999 HTTP/1.1", [], 400),
        (b"GET /job-logs?state=%ff HTTP/1.1", [], 400),
        (b"GET /job-logs?queue=%00 HTTP/1.1", [], 400),
        (b"GET /job-logs?" + b"a=1&" * 100 + b" HTTP/1.1", [], 400),
        (b"GET /job-logs/1/1?tail=-1 HTTP/1.1", [], 400),
        (b"GET /" + LONG + b" HTTP/1.1", [], 414),
        (b"GET /job-logs HTTP/1.1", [b"X: " + LONG], 431),
        (b"GET /job-logs HTTP/1.1", [b"X: y"] * 100, 431),
        (b"GET /job-logs HTTP/1.1", [b"Sec-Fetch-Site: cross-site", b"Sec-Fetch-Mode: no-cors"], 403),
        (b"GET /job-logs HTTP/1.1", [b"Sec-Fetch-Site: same-site", b"Sec-Fetch-Mode: cors"], 403),
        (b"GET /job-logs HTTP/1.1", [b"Sec-Fetch-Site: cross-site", b"Sec-Fetch-Mode: navigate"], 401),
    ],
)
def test_a_bad_request_is_refused_even_with_a_valid_cookie(browser, line, headers, status):
    assert_refused(browser.say(said(browser, line, *headers)), status)


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:{port}", "127.0.0.1", "127.0.0.1:1", "localhost."]
)
def test_a_foreign_host_name_is_refused(browser, host):
    assert_refused(browser.get("/job-logs", host=host.format(port=browser.port)), 421)


@pytest.mark.parametrize("host", ["127.0.0.1:{port}", "LOCALHOST:{port}", "[::1]:{port}"])
def test_our_own_host_names_are_served(browser, host):
    assert browser.get("/job-logs", host=host.format(port=browser.port)).status == 200


@pytest.mark.parametrize("line", [b"GET /job-logs HTTP/1.0", b"GET /job-logs HTTP/1.1"])
def test_a_request_without_host_is_refused(browser, line):
    assert_refused(browser.say(said(browser, line, host=False)), 400)


def test_slow_requests_time_out_and_keep_nobody_waiting(browser):
    slow = [browser.connect() for _ in range(200)]
    for each in slow[-64:]:
        each.sendall(b"GET /job-logs HTTP/1.1\r\nHost:")

    assert [browser.say(said(browser)).status for _ in range(60)] == [200] * 60
    assert_refused(heard(slow[-1]), 408, 503)
    assert_refused(heard(slow[0]), 503)
    for each in slow:
        each.close()


def test_a_client_that_does_not_read_a_long_log_is_disconnected(daemon, browser):
    """The log is larger than the kernel's buffer for a reader."""
    with daemon.client() as client:
        job = client.submit(["/bin/sh", "-c", "head -c 30000000 /dev/zero"])
        client.wait([job.id])
    with browser.connect() as connection:
        connection.sendall(said(browser, f"GET /job-logs/{job.id}/1 HTTP/1.1".encode()))
        connection.recv(1)
        port = connection.getsockname()[1]
        wait_until(lambda: f":{port:04X} 01 " not in Path("/proc/net/tcp").read_text())


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ([], 403),
        (["Sec-Fetch-Site: same-site", "Origin: http://127.0.0.1:1"], 403),
        (["Sec-Fetch-Site: same-site", "Origin: http://{host}"], 403),
        (["Sec-Fetch-Site: none", "Origin: http://{host}"], 403),
        (["Origin: http://127.0.0.1:1"], 403),
        (["Origin: null"], 403),
        (["Sec-Fetch-Site: same-origin"], 405),  # pages cannot change anything yet
        (["Origin: http://{host}"], 405),
    ],
)
def test_only_pages_of_this_origin_with_the_sessions_token_may_change_anything(browser, headers, status):
    own = [header.format(host=browser.host).encode() for header in headers]
    token = f"X-Bgd-Token: {browser.token}".encode()
    line = b"POST /job-logs HTTP/1.1"

    answered = browser.say(said(browser, line, *own, token))
    assert_refused(answered, status)
    assert answered.headers.get("allow") == ("GET, HEAD" if status == 405 else None)
    assert_refused(browser.say(said(browser, line, *own)), 403)
    assert_refused(browser.say(said(browser, line, *own, b"X-Bgd-Token: wrong")), 403)
