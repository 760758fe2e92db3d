"""How much a browser loads: pages are compressed for those that can read that, except the page of a login."""

from __future__ import annotations

import gzip
import re

import pytest

from tests.daemon.web.browsing import Browser
from tests.daemon.web.every_page import CONFIGURATION, PAGES
from tests.support import ROOT, serving

FIRST_LOAD = 60_000  # bytes, with styles, scripts and icons
SCRIPTS = 900  # lines of code of all scripts together


@pytest.fixture(scope="module")
def browser():
    with serving(CONFIGURATION, {}) as daemon, daemon.client() as client:
        jobs = [
            client.submit(
                ["/bin/echo", "some output", str(number)], name=f"job {number}", tags=["nightly"]
            ).id
            for number in range(60)  # more than a page shows
        ]
        client.wait(jobs)
        client.batch([["true"]])
        yield Browser(daemon).log_in()


def unpacked(answered):
    assert answered.headers["content-encoding"] == "gzip"
    assert answered.headers["vary"] == "Accept-Encoding"
    return gzip.decompress(answered.body)


@pytest.mark.parametrize("page", PAGES)
def test_the_first_load_of_a_page_is_small(browser, page):
    answered = browser.get(page.format(job=1), "Accept-Encoding: gzip, deflate, br")
    assert answered.status == 200
    loaded = len(answered.body)
    if "content-encoding" in answered.headers:
        for path in set(re.findall(r'(?:src|href)="(/static/[^"]*)"', unpacked(answered).decode())):
            loaded += len(browser.get(path, "Accept-Encoding: gzip").body)

    assert loaded < FIRST_LOAD


def test_a_browser_keeps_styles_and_scripts_until_their_content_changes(browser):
    page = browser.get("/job-logs").text
    addresses = set(re.findall(r'"(/static/[^"]*)"', page))

    assert any("style.css?" in address for address in addresses)
    assert {browser.get(address).headers["cache-control"] for address in addresses} == {
        "public, max-age=31536000, immutable"
    }


@pytest.mark.parametrize("address", ["/static/style.css", "/static/style.css?0123456789abcdef", "/job-logs"])
def test_nothing_else_is_kept(browser, address):
    """With the version of another bgd, a file must not be kept under an address that is not its own."""
    assert browser.get(address).headers["cache-control"] == "no-store"


def test_compressed_pages_are_the_same_pages(browser):
    plain = browser.get("/static/style.css")

    assert "content-encoding" not in plain.headers
    assert unpacked(browser.get("/static/style.css", "Accept-Encoding: deflate, gzip")) == plain.body
    assert len(browser.get("/static/style.css", "Accept-Encoding: gzip").body) < len(plain.body) / 2


@pytest.mark.parametrize("accepted", ["br", "gzip;q=0", "x-gzip-not", ""])
def test_a_client_that_does_not_ask_for_gzip_gets_plain_pages(browser, accepted):
    assert "content-encoding" not in browser.get("/job-logs", f"Accept-Encoding: {accepted}").headers


def test_the_secret_of_a_login_and_short_answers_are_not_compressed(browser):
    for path in (browser.link(), "/healthz"):
        assert "content-encoding" not in browser.get(path, "Accept-Encoding: gzip").headers


def test_a_compressed_page_has_no_body_in_the_answer_to_head(browser):
    answered = browser.get("/job-logs", "Accept-Encoding: gzip", method="HEAD")

    assert (answered.status, answered.body) == (200, b"")


def test_scripts_are_short_enough_to_be_read():
    scripts = list((ROOT / "bgd/daemon/web/static").glob("*.js"))

    assert scripts
    lines = [line.strip() for script in scripts for line in script.read_text().splitlines()]
    assert len([line for line in lines if line and not line.startswith("//")]) <= SCRIPTS
