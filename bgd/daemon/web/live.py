"""Keep open pages up to date with server-sent events: the parts of a page that changed, and output.

Only what running jobs use is polled. What several browsers look at is read and rendered once for all of them.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

from msgspec import Struct

from bgd.daemon.storage import summaries
from bgd.daemon.storage.store import Store
from bgd.daemon.streams import Subscription
from bgd.daemon.supervisor import Supervisor
from bgd.daemon.web.log_text import LogPart, LogText, LogThreads
from bgd.daemon.web.queries import LiveQuery, read_query
from bgd.daemon.web.responses import PageResponse, event_stream, html_response, render_part
from bgd.daemon.web.seals import Seals
from bgd.errors import BgdError
from bgd.logs.files import LogReader
from bgd.wire.http import HttpRequest, RequestRefused

logger = logging.getLogger(__name__)

KEEP_ALIVE = 15.0  # seconds of silence after which a page learns that it is still connected
MAX_AGE = 1800.0  # seconds until a browser connects again, and is checked again
LIVE = "/live"  # at the end of a path: the updates of the page
PAUSE = 0.06  # seconds between two updates of a page
FAILURES_SHOWN = 86_400.0  # seconds since a failure in which the icon shows it
PAUSE_FACTOR = 10  # and this many times what the last one took, so that pages never take much of a processor


class Part(Struct, frozen=True):
    """A part of a page: what it shows, by which a change is noticed, and how that is rendered.

    `has_version`: what it shows changes only with an event. Otherwise every page that connects is sent it.
    """

    shown: object
    render: Callable[[], str]
    has_version: bool = True


class Snapshot(Struct, frozen=True):
    """The parts of a page by the ids of their elements, and the ids of those that follow each other."""

    parts: dict[str, Part]
    order: list[str] = []


def row_parts(rows: list[dict[str, Any]], template: str, *, has_version: bool = True) -> dict[str, Part]:
    """Return the parts of rows, each with an `id`. What a job uses changes without an event."""
    return {
        row["id"]: Part(
            row,
            partial(render_part, template, {"row": row}),
            has_version=has_version and not row.get("usage"),
        )
        for row in rows
    }


class Layout(Struct, frozen=True):
    """How a page is rendered from its values, and which parts are rendered again when these change.

    Attributes:
        template: of the page.
        parts: by the ids of their elements, the template of a part and the names of the values that it shows;
            without names it shows all that no other part shows.
        row: the template of each of the `rows`; None: the page has none.
        has_version: as of a Part.
        pause: seconds between two updates of an open page, at least.
    """

    template: str
    parts: Mapping[str, tuple[str, ...]]
    row: str | None = None
    has_version: bool = True
    pause: float = PAUSE

    def snapshot(self, values: dict[str, Any]) -> Snapshot:
        """Return the parts of the page with these values."""
        named = {name for _, *names in self.parts.values() for name in names}
        rest = values.keys() - named - {"rows"}
        parts = {
            id_: Part(
                {name: values[name] for name in names or rest},
                partial(render_part, template, values),
                has_version=self.has_version,
            )
            for id_, (template, *names) in self.parts.items()
        }
        rows = row_parts(values["rows"], self.row, has_version=self.has_version) if self.row else {}
        return Snapshot(parts | rows, list(rows))


class LiveViews:
    """All that browsers look at now, by address, and what every page shows of the daemon."""

    def __init__(self, tasks: asyncio.TaskGroup, supervisor: Supervisor, store: Store, seals: Seals) -> None:
        self._tasks = tasks
        self.supervisor = supervisor
        self.store = store
        self._seals = seals
        self._views: dict[str, LiveView] = {}

    async def frame(self) -> dict[str, object]:
        """Return the values for the templates banner.html and icon.html, by their names."""
        has_failed = await self.store.read(summaries.has_failed_within, FAILURES_SHOWN)
        return {"banner": self.banner(), "icon": "icon-failed.svg" if has_failed else "icon.svg"}

    def banner(self) -> dict[str, object]:
        """Return why no job starts, or none is accepted; None or False: nothing is wrong."""
        supervisor = self.supervisor
        folder = supervisor.config.daemon.state_dir if supervisor.space.is_full() else None
        obstacle = supervisor.link.obstacle
        return {"is_paused": supervisor.controls.paused, "obstacle": obstacle, "full_disk": folder}

    async def values(self, live: str | None, version: int) -> dict[str, object]:
        """Return what base.html needs; without the address of a stream the page is not kept up to date."""
        frame = await self.frame()
        return {"live": live, "version": version, "now": time.time(), **self._seals.new_page(), **frame}

    async def page(
        self, template: str, values: Awaitable[dict[str, object]], live: str | None
    ) -> PageResponse:
        """Return a page; `values` are read after its version is known, so that its stream misses nothing."""
        version = self.store.position
        return await html_response(template, await values | await self.values(live, version))

    async def show(
        self,
        request: HttpRequest,
        layout: Layout,
        address: str,
        read: Callable[[], Awaitable[dict[str, Any]]],
        subscribe: Callable[[], AbstractContextManager[Subscription]] | None = None,
    ) -> PageResponse:
        """Return the page at this address, or its updates as of `stream` if the path ends with LIVE."""

        async def build() -> Snapshot:
            return layout.snapshot(await read())

        if request.path.endswith(LIVE):
            return self.stream(request, address, build, subscribe, pause=layout.pause)
        path, mark, query = address.partition("?")
        return await self.page(layout.template, read(), f"{path}{LIVE}{mark}{query}")

    def stream(
        self,
        request: HttpRequest,
        address: str,
        build: Callable[[], Awaitable[Snapshot]],
        subscribe: Callable[[], AbstractContextManager[Subscription]] | None = None,
        *,
        pause: float = PAUSE,
    ) -> PageResponse:
        """Return the updates of a page, until MAX_AGE is over, at most one in `pause` seconds.

        `build` reads what the page shows; `subscribe` yields what tells that it may have changed, by default
        whenever any job does.
        """
        since = read_query(request.query, LiveQuery).since
        subscribe = subscribe or self.supervisor.subscriptions.subscribe_to_all
        return event_stream(self._updates(address, partial(LiveView, build, subscribe, self, pause), since))

    async def _updates(
        self, address: str, new_view: Callable[[], LiveView], since: int
    ) -> AsyncGenerator[bytes, None]:
        if (view := self._views.get(address)) is None:
            view = self._views[address] = new_view()
            view.task = self._tasks.create_task(view.run())
        loop = asyncio.get_running_loop()
        until = loop.time() + MAX_AGE
        viewer = view.add_viewer(since)
        try:
            yield HEARTBEAT
            while loop.time() < until and not view.has_ended:
                has_news = await _is_set_within(viewer.news, KEEP_ALIVE)
                if view.has_ended:
                    break
                if has_news:
                    yield event(viewer.take())
                else:
                    yield HEARTBEAT
                    if self.supervisor.space.is_full():  # nothing tells that there is room again
                        self.supervisor.subscriptions.look_soon()
            if view.why_gone is not None:
                yield event({"gone": view.why_gone})
        finally:
            view.viewers.remove(viewer)
            if not view.viewers:
                view.task.cancel()
                self._views.pop(address, None)


class LiveView:
    """What some browsers look at; `run` keeps it up to date as long as there are any."""

    task: asyncio.Task[None]

    def __init__(
        self,
        build: Callable[[], Awaitable[Snapshot]],
        subscribe: Callable[[], AbstractContextManager[Subscription]],
        views: LiveViews,
        pause: float,
    ) -> None:
        self._build = build
        self._pause = pause
        self._views = views
        self._version = self._newest = 0  # events that the latest snapshot shows for sure, and may show
        self._subscribe = subscribe
        self._latest: Snapshot | None = None
        self._rendered: dict[str, str] = {}
        self.viewers: set[_Viewer] = set()
        self.has_ended = False
        self.why_gone: str | None = None  # there is nothing to look at any more

    def add_viewer(self, since: int) -> _Viewer:
        """Return a new viewer, whose page has this version."""
        viewer = _Viewer(since)
        if self._latest is not None:
            viewer.begin(self._latest, self._version, self._newest, self._rendered)
        self.viewers.add(viewer)
        return viewer

    async def run(self) -> None:
        """Read, render and hand out what changed, again and again. A failure ends streams, not the daemon."""
        try:
            views = self._views
            with self._subscribe() as news, views.supervisor.subscriptions.watch(news, views.banner):
                while True:
                    news.take_moved()
                    news.take_progress()
                    await self._update()
                    await news.changed.wait()
        except RequestRefused as error:
            self.why_gone = str(error)
        except (BgdError, OSError) as error:
            logger.error("open pages are not updated: %s", error)  # noqa: TRY400 - it says what is wrong
        except Exception:
            logger.exception("a bug, in the update of open pages")
        self.has_ended = True
        for viewer in self.viewers:
            viewer.news.set()

    async def _update(self) -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        version = self._views.store.position
        before, after = self._latest, await self._build()
        frame = await self._views.frame()
        for name, value in frame.items():
            render = partial(render_part, f"{name}.html", {name: value})
            after.parts[name] = Part(value, render, has_version=False)
        newest = self._views.store.position  # what happened while it was read may be in it, too
        old = before.parts if before else {}
        changed = {
            id_: part for id_, part in after.parts.items() if id_ not in old or old[id_].shown != part.shown
        }
        rendered = await asyncio.to_thread(lambda: {id_: part.render() for id_, part in changed.items()})
        self._latest, self._version, self._newest = after, version, newest
        self._rendered = {id_: rendered.get(id_) or self._rendered[id_] for id_ in after.parts}
        order = None if before and before.order == after.order else after.order
        for viewer in self.viewers:
            if before is None or viewer.is_behind:
                viewer.begin(after, version, newest, self._rendered)
            else:
                viewer.add(version, rendered, order)
        took = loop.time() - began if before else 0.0  # the first one in a process also compiles templates
        await asyncio.sleep(max(self._pause, PAUSE_FACTOR * took))


class _Viewer:
    """One open page: what it has not been sent yet. Later news of a part replace earlier ones.

    Attributes:
        is_behind: it waits for the next snapshot: the latest one may be older than the page, or newer.
        news: set while there is something to take, or nothing will follow.
    """

    def __init__(self, since: int) -> None:
        self._version = since
        self._parts: dict[str, str] = {}
        self._order: list[str] | None = None
        self.news = asyncio.Event()
        self.is_behind = False

    def begin(self, snapshot: Snapshot, version: int, newest: int, rendered: dict[str, str]) -> None:
        """Send everything if the snapshot is newer than the page.

        If it may be older or newer, send the parts without a version, except rows of a snapshot that may be
        older; what the page shows and has changed since `version` is in the next snapshot, which is sure to
        follow.
        """
        self.is_behind = version <= self._version < newest
        rows = set(snapshot.order)
        if version > self._version:
            self.add(version, rendered, snapshot.order)
        elif newest >= self._version:
            old = rows if version < self._version else set()
            wanted = [id_ for id_, part in snapshot.parts.items() if not part.has_version and id_ not in old]
            parts = {id_: rendered[id_] for id_ in wanted}
            self.add(self._version, parts, snapshot.order if parts.keys() & rows else None)

    def add(self, version: int, rendered: dict[str, str], order: list[str] | None) -> None:
        self._version = version
        self._parts |= rendered
        self._order = self._order if order is None else order
        if rendered or order is not None:
            self.news.set()

    def take(self) -> dict[str, object]:
        self.news.clear()
        news: dict[str, object] = {"parts": self._parts, "version": self._version}
        if self._order is not None:
            news["order"] = self._order
        self._parts, self._order = {}, None
        return news


async def follow_log(
    threads: LogThreads,
    log: LogReader,
    shown: LogText,
    render: Callable[[LogPart], dict[str, object]],
    subscription: AbstractContextManager[Subscription],
    has_ended: Callable[[], Awaitable[bool]],
) -> AsyncGenerator[bytes, None]:
    """Yield the output of an attempt that is not `shown` yet, as server-sent events, until it has ended.

    A reader that is far behind misses what is in between, and is told.
    """

    def read() -> tuple[bytes, float] | None:
        """Return what comes next, and the processor time that it took."""
        began = time.thread_time()
        part = shown.read_on()
        return None if part is None else (event(render(part)), time.thread_time() - began)

    with subscription as grown:
        yield HEARTBEAT
        while True:
            grown.take_moved()
            is_last = await has_ended()  # before the log is read: it may grow until then
            while found := await threads.run(log, read):
                news, took = found
                yield news
                await asyncio.sleep(max(PAUSE, PAUSE_FACTOR * took))
            if is_last:
                yield event({"end": True})
                return
            if not await _is_set_within(grown.changed, KEEP_ALIVE):
                yield HEARTBEAT


# --- server-sent events: https://html.spec.whatwg.org/multipage/server-sent-events.html

HEARTBEAT = b"data: null\n\n"  # scripts do not see comments


def event(value: object) -> bytes:
    """Return an event with a value as JSON, which has no newline."""
    return f"data: {json.dumps(value, ensure_ascii=False)}\n\n".encode(errors="replace")


async def _is_set_within(happened: asyncio.Event, seconds: float) -> bool:
    try:
        async with asyncio.timeout(seconds):
            await happened.wait()
    except TimeoutError:
        return False
    return True
