"""What most tests of pages use: a client, a browser that sends bytes, and a real one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser as Chromium
from playwright.sync_api import BrowserContext, Page

from bgd import Client
from tests.daemon.web.browsing import Browser
from tests.daemon.web.chromium import chromium
from tests.support import DEADLINE, Daemon


@pytest.fixture(scope="module")
def client(daemon: Daemon) -> Iterator[Client]:
    """A client of the module's daemon."""
    with daemon.client() as client:
        yield client


@pytest.fixture(scope="module")
def browser(daemon: Daemon) -> Browser:
    """A browser that has logged in and sends exactly what it is given."""
    return Browser(daemon).log_in()


@pytest.fixture(scope="module")
def chrome() -> Iterator[Chromium]:
    """Debian's Chromium."""
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def context(chrome: Chromium) -> Iterator[BrowserContext]:
    """What the tabs of a module share: a context of its own would cost each a second of processor time."""
    context = chrome.new_context()
    context.set_default_timeout(1000 * DEADLINE)
    yield context
    context.close()


@pytest.fixture
def tab(context: BrowserContext) -> Iterator[Page]:
    """A tab without cookies; any error or message on its console fails the test, except a lost connection."""
    tab = context.new_page()
    complaints: list[str] = []
    tab.on("console", lambda message: complaints.append(message.text))
    tab.on("pageerror", lambda error: complaints.append(str(error)))
    yield tab
    if tab.url.startswith("http"):
        tab.evaluate("localStorage.clear()")
    for each in context.pages:
        each.close()
    context.clear_cookies()
    context.clear_permissions()
    assert [text for text in complaints if "net::ERR" not in text] == []
