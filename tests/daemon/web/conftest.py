"""What most tests of pages use: a client, a browser that sends bytes, and a real one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser as Chromium

from bgd import Client
from tests.daemon.web.browsing import Browser
from tests.daemon.web.chromium import chromium
from tests.support import Daemon


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
