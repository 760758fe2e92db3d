"""What most tests of pages use: a client, a browser that sends bytes, and a real one."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser as Chromium
from playwright.sync_api import BrowserContext, Page, expect

from bgd import Client
from tests.daemon.web.browsing import Browser
from tests.daemon.web.chromium import chromium
from tests.support import DEADLINE, Daemon

expect.set_options(timeout=1000 * DEADLINE)


@pytest.fixture(scope="module")
def client(daemon: Daemon) -> Iterator[Client]:
    """A client of the module's daemon."""
    with daemon.client() as client:
        yield client


@pytest.fixture(scope="module")
def browser(daemon: Daemon) -> Browser:
    """A browser that has logged in and sends exactly what it is given."""
    return Browser(daemon).log_in()


@pytest.fixture(scope="session")
def shared() -> Iterator[tuple[BrowserContext, asyncio.AbstractEventLoop]]:
    """A browser context and its event loop, which is hidden from tests that run their own."""
    with chromium() as browser:
        context = browser.new_context()
        context.set_default_timeout(1000 * DEADLINE)
        loop = asyncio.get_running_loop()
        asyncio._set_running_loop(None)
        yield context, loop
        asyncio._set_running_loop(loop)


@pytest.fixture
def context(shared: tuple[BrowserContext, asyncio.AbstractEventLoop]) -> Iterator[BrowserContext]:
    """What all tabs share: a context of its own would cost each a second of processor time."""
    context, loop = shared
    asyncio._set_running_loop(loop)
    yield context
    asyncio._set_running_loop(None)


@pytest.fixture
def chrome(context: BrowserContext) -> Iterator[Chromium]:
    """Debian's Chromium; the contexts that a test opens are closed after it."""
    browser = context.browser
    assert browser is not None
    yield browser
    for each in browser.contexts:
        if each != context:
            each.close()


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
