"""Resume: what is left of a stream that broke off with its daemon, to ask the next daemon for."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from msgspec.structs import replace

from bgd.client.session import UNNUMBERED, expected
from bgd.errors import Refused
from bgd.wire.replies import EventsPart, JobsPart, LogPart, ProgressPart, Reply
from bgd.wire.requests import GetEvents, Logs, Wait
from bgd.wire.views import EventView, JobProgress, JobView

Hearer = Callable[[JobProgress], object]


class LogRemainder:
    """The output that has not come yet: none of it is lost, and none comes twice."""

    def __init__(self, request: Logs) -> None:
        self._rest = request
        # one that broke off is asked for by place, and then the daemon goes on to later attempts
        self._is_one_attempt = request.attempt != 0 and not request.follow
        self._is_complete = False

    def request(self) -> Logs | None:
        """Return what to ask for, None: nothing."""
        return None if self._is_complete else self._rest

    def take(self, reply: Reply) -> LogPart | None:
        """Return the next piece of output, None: there is none in this reply."""
        part = expected(reply, LogPart)
        if self._is_one_attempt and self._rest.offset is not None and part.attempt != self._rest.attempt:
            self._is_complete = True
            return None
        self._rest = replace(self._rest, attempt=part.attempt, offset=part.offset + len(part.data), tail=None)
        return part if part.data or part.left_out else None


class WaitRemainder:
    """The jobs that have not finished yet. `on_progress` is told how far they are, None: nobody is.

    `only_now`: the daemon does not wait for those that have not finished when it is asked.
    """

    def __init__(
        self, job_ids: Iterable[int], on_progress: Hearer | None = None, *, only_now: bool = False
    ) -> None:
        self._waiting: dict[int, None] = dict.fromkeys(job_ids)
        self._on_progress = on_progress
        self._only_now = only_now

    @property
    def first(self) -> int | None:
        """The first of them, None: there is none left."""
        return next(iter(self._waiting), None)

    def request(self) -> Wait | None:
        """Return what to ask for, None: nothing."""
        if not self._waiting:
            return None
        return Wait(
            UNNUMBERED, list(self._waiting), progress=self._on_progress is not None, only_now=self._only_now
        )

    def take(self, reply: Reply) -> list[JobView]:
        """Return the jobs that have finished now."""
        if isinstance(reply, ProgressPart) and self._on_progress is not None:
            for told in reply.jobs:
                self._on_progress(told)
            return []
        views = expected(reply, JobsPart).jobs
        for view in views:
            self._waiting.pop(view.id, None)
        return views


class EventRemainder:
    """The events that have not come yet."""

    def __init__(self, request: GetEvents) -> None:
        self._rest = request

    def request(self) -> GetEvents:
        """Return what to ask for."""
        return self._rest

    def take(self, reply: Reply) -> list[EventView]:
        """Return the events that have come.

        Raises:
            Refused: some that were asked for are no longer kept.
        """
        part = expected(reply, EventsPart)
        if (
            part.lost and self._rest.since
        ):  # 0 is before all events: whoever says it wants those that are kept
            raise Refused(
                f"events after {self._rest.since} are no longer kept: look at the jobs, "
                "then ask for events from now on, without since"
            )
        self._rest = replace(self._rest, since=part.last)
        return part.events
