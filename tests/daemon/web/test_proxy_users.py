"""Users whom a proxy names in a header: they need no login, and nobody else can pretend to be one."""

from __future__ import annotations

import pytest

from tests.daemon.web.browsing import Browser
from tests.support import serving

ALICE = "X-Remote-User: alice"
OWN = "Sec-Fetch-Site: same-origin"


# Behind a proxy that names its users
LISTEN = {"BGD_HTTP_LISTEN": "unix:{folder}/http.sock"}
pytestmark = pytest.mark.daemon('http.user_header = "X-Remote-User"\n', env=LISTEN)


@pytest.fixture
def browser(daemon):
    return Browser(daemon)


@pytest.fixture
def held(daemon):
    with daemon.client() as client:
        return client.submit(["/bin/true"], hold=True)


def test_a_user_of_the_proxy_reads_and_acts_without_a_login(browser, held):
    page = browser.get(f"/job-logs/{held.id}", ALICE)
    assert page.status == 200
    assert '<body data-base="" data-proxy' in page.text  # the script shows the buttons

    acted = browser.get(f"/job-logs/{held.id}/cancel", ALICE, OWN, method="POST")

    assert (acted.status, acted.json["state"]) == (200, "cancelled")
    assert "alice, through the proxy" in browser.get(f"/job-logs/{held.id}", ALICE).text


def test_the_history_of_a_job_names_the_user_of_the_proxy_who_submitted_it(browser):
    own = [ALICE, OWN, "Accept: application/json", "X-Bgd-Form: command=true"]
    job = browser.get("/job-logs/submit", *own, method="POST").json["id"]

    page = browser.get(f"/job-logs/{job}", ALICE).text
    assert "submitted" in page.partition('id="history"')[2].partition("alice, through the proxy")[0]


@pytest.mark.parametrize("name", ["Zoë Ω", "alice@example.org", "a" * 100])
def test_names_of_all_scripts_are_taken(browser, held, name):
    request = browser.request(f"/job-logs/{held.id}/cancel", "X-Remote-User: NAME", OWN, method="POST")
    assert browser.say(request.replace(b"NAME", name.encode())).status == 200

    assert f"{name}, through the proxy" in browser.get(f"/job-logs/{held.id}", ALICE).text


def test_links_of_other_sites_lead_to_pages_which_are_not_compressed(browser):
    """Another site may choose a text to search for; the length of the answer must not tell what is there."""
    visit = ("Sec-Fetch-Site: cross-site", "Sec-Fetch-Mode: navigate", "Accept-Encoding: gzip")

    page = browser.get("/job-logs/search?text=secret", ALICE, *visit)
    assert (page.status, "content-encoding" in page.headers) == (200, False)
    assert "content-encoding" in browser.get("/job-logs", ALICE, "Accept-Encoding: gzip").headers


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ((), 401),
        (("X-Remote-User: ",), 401),
        (("Remote-User: alice",), 401),
        (("X_Remote_User: alice",), 401),
        (("Cookie: X-Remote-User=alice",), 401),
        (("X-Remote-User: mallory", ALICE), 400),
        (("X-Remote-User: alice,mallory",), 400),
        (("X-Remote-User: al\tice",), 400),
        (("X-Remote-User: \xff",), 400),
        (("X-Remote-User: " + "a" * 101,), 400),
        ((ALICE, "Sec-Fetch-Site: cross-site", "Sec-Fetch-Mode: no-cors"), 403),
        ((ALICE, "Sec-Fetch-Site: same-site", "Sec-Fetch-Mode: cors"), 403),
    ],
)
def test_without_one_name_nobody_is_let_in(browser, headers, status):
    request = "\r\n".join(["GET /job-logs HTTP/1.1", "Host: localhost", *headers, "", ""])

    assert browser.say(request.encode("latin-1")).status == status


@pytest.mark.parametrize(
    "headers",
    [
        (ALICE,),
        (ALICE, "Sec-Fetch-Site: same-site"),
        (ALICE, "Sec-Fetch-Site: cross-site", "Origin: http://localhost"),
        (ALICE, "Origin: http://evil.example"),
        (ALICE, "Origin: null"),
    ],
)
def test_pages_of_other_origins_change_nothing(browser, held, headers):
    assert browser.get(f"/job-logs/{held.id}/cancel", *headers, method="POST").status == 403
    assert held.refresh().state == "held"


def test_a_session_of_a_link_works_as_always(browser):
    browser.log_in()

    assert browser.get("/job-logs").status == 200
    assert browser.get("/job-logs/resume", OWN, method="POST").status == 403
    assert browser.get("/job-logs/resume", OWN, f"X-Bgd-Token: {browser.token}", method="POST").status == 200


@pytest.fixture(scope="module")
def plain_daemon():
    """A daemon on a unix socket whose configuration names no header."""
    with serving(env=LISTEN) as running:
        yield running


def test_without_the_setting_the_header_says_nothing(plain_daemon):
    browser = Browser(plain_daemon)

    assert browser.get("/job-logs", ALICE).status == 401
    assert browser.get("/job-logs/resume", ALICE, OWN, method="POST").status == 401
    assert "data-proxy" not in browser.log_in().get("/job-logs").text
