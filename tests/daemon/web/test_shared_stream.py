"""All streams of a browser over one connection: each event has the nonce of its page, and a seal for that."""

from __future__ import annotations

import asyncio
import re
from contextlib import closing
from types import SimpleNamespace
from typing import Any

import pytest

from bgd.daemon.web import shared_stream
from bgd.daemon.web.live import event
from bgd.daemon.web.seals import Seal
from bgd.daemon.web.shared_stream import add_to_shared, drop_from_shared, open_shared
from bgd.errors import BgdError
from bgd.wire.http import HttpRequest, RequestRefused
from tests.daemon.web.browsing import Browser
from tests.support import wait_until

NAME, ONE, TWO = "0" * 32, "1" * 32, "2" * 32
REQUEST = HttpRequest(is_head=False, path="/", query="", headers={})


async def numbers(count, *, fails_with=None):
    for number in range(count):
        yield event(number)
    if fails_with:
        raise fails_with


def found(pattern, text):
    match = re.search(pattern, text)
    assert match is not None
    return match


async def opened(tasks):
    """Return a site, a connection, and a function that returns its next event as nonce and data."""
    site: Any = SimpleNamespace(tasks=tasks, shared={})
    response = await open_shared(site, REQUEST, NAME)

    async def heard():
        assert response.chunks is not None
        received = (await anext(response.chunks)).decode()
        return found(r"(?:id: (\w+)(?: .{44})?\n)?data: (.*)\n\n", received).groups()

    return site, response, heard


async def test_streams_end_alone_and_one_that_fails_ends_no_other(caplog):
    async with asyncio.TaskGroup() as tasks:
        site, response, heard = await opened(tasks)
        assert await heard() == (None, "null")
        await add_to_shared(
            site, Seal(b"key", ONE, NAME), numbers(2, fails_with=BgdError("the log cannot be read"))
        )
        assert [await heard() for _ in range(3)] == [(ONE, "0"), (ONE, "1"), (ONE, "null")]
        await add_to_shared(site, Seal(b"key", TWO, NAME), numbers(1, fails_with=ValueError("a bug")))
        assert [await heard() for _ in range(2)] == [(TWO, "0"), (TWO, "null")]
        await response.chunks.aclose()

    assert [record.message for record in caplog.records] == [
        "an open page is not updated: the log cannot be read",
        "a bug, in the stream of an open page",
    ]


async def test_a_nonce_that_comes_again_takes_the_place_of_its_stream():
    ended = []

    async def endless():
        try:
            while True:
                yield event("old")
        finally:
            ended.append(True)

    async with asyncio.TaskGroup() as tasks:
        site, response, heard = await opened(tasks)
        await heard()
        await add_to_shared(site, Seal(b"key", ONE, NAME), endless())
        assert await heard() == (ONE, '"old"')
        await add_to_shared(site, Seal(b"key", ONE, NAME), numbers(1))
        while (news := await heard()) == (ONE, '"old"'):
            pass
        assert (news, await heard(), ended) == ((ONE, "0"), (ONE, "null"), [True])
        await response.chunks.aclose()


async def test_a_stream_needs_its_connection_and_a_connection_has_a_limit(monkeypatch):
    monkeypatch.setattr(shared_stream, "MAX_SHARED", 1)
    async with asyncio.TaskGroup() as tasks:
        site, response, heard = await opened(tasks)
        with pytest.raises(RequestRefused, match="lost"):  # not open yet
            await add_to_shared(site, Seal(b"key", ONE, NAME), numbers(9))
        await heard()
        await add_to_shared(site, Seal(b"key", ONE, NAME), numbers(9))
        with pytest.raises(RequestRefused, match="too many"):
            await add_to_shared(site, Seal(b"key", TWO, NAME), numbers(9))
        await drop_from_shared(site, REQUEST, NAME, ONE)
        await drop_from_shared(site, REQUEST, NAME, ONE)
        await add_to_shared(site, Seal(b"key", TWO, NAME), numbers(9))
        await response.chunks.aclose()
        with pytest.raises(RequestRefused, match="lost"):
            await add_to_shared(site, Seal(b"key", ONE, NAME), numbers(9))


def test_a_browser_adds_and_drops_streams_and_all_end_with_its_connection(daemon):
    browser = Browser(daemon).log_in()
    page = found(r' data-page="([\w-]{22})"', browser.get("/job-logs").text)
    added = f"/job-logs/live?since=0&page={page[1]}&nonce={ONE}&shared={NAME}"
    assert browser.get(added).status == 503
    assert Browser(daemon).get(f"/job-logs/shared/{NAME}").status == 401
    with closing(browser.connect()) as connection, closing(connection.makefile()) as received:
        connection.sendall(browser.request(f"/job-logs/shared/{NAME}"))
        next(line for line in received if line.startswith("data: null"))
        answered = browser.get(added)
        assert (answered.status, answered.body) == (200, b"")
        assert next(line for line in received if line.startswith("id: ")).startswith(f"id: {ONE} ")
        assert browser.get(f"/job-logs/shared/{NAME}/{ONE}/drop").status == 200
        assert browser.get(added).status == 200
    wait_until(lambda: browser.get(added).status == 503)  # once bgd has noticed that it is closed
