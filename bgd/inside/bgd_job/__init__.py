"""What a job of bgd says to it from inside: how far it is; try again, give up, not now.

In a class job it can always be imported; elsewhere, as in tests of the job's code or in a script that is a
job, it is installed alone: `pip install ./bgd/inside` in a checkout of bgd. It uses nothing but the standard
library of Python 3.9. Outside of a job all of it works too, and does nothing.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from datetime import datetime, timedelta
from typing import NamedTuple, SupportsFloat, Union

__all__ = ["Fail", "Job", "Retry", "Snooze", "current", "progress"]

Duration = Union[str, float, timedelta]  # noqa: UP007 - evaluated by Python 3.9 too
"""Text as "500ms", "30s" or "1h30m", or a number of seconds, or a timedelta."""

MAX_SECONDS = 366 * 86_400.0  # as of every duration of bgd; a longer one is a slip of the pen
MAX_INSTANT = 253_402_300_799.0  # epoch seconds: the end of the year 9999
MAX_MESSAGE = 200  # characters of what a job is at

Hearer = Callable[..., object]  # takes a fraction and a message, either of which may be None
hearer: ContextVar[Hearer | None] = ContextVar("bgd_job.hearer", default=None)
"""Hears what `progress` is given, in place of bgd; for bgd.testing."""

_ROUNDING = 1e-6  # by which a sum of parts may be more than 1

_SECONDS = {"d": 86_400.0, "h": 3_600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
_PART = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,15})?)(ms|[dhms])")
_WHOLE = re.compile(rf"(?:{_PART.pattern})+")


class Retry(Exception):
    """Raise it to end the attempt as failed and have it tried again, if there are retries left.

    Args:
        after: how long to wait before; None: as the job's retry delay says.
        message: why, for people.

    Raises:
        ValueError: `after` is no duration.
    """

    def __init__(self, message: str = "", *, after: Duration | None = None) -> None:
        super().__init__(message)
        self.after = None if after is None else _seconds(after)

    @property
    def bgd_wish(self) -> Mapping[str, object]:
        """What the worker writes down of it (see docs/class-jobs.md of bgd)."""
        return {"aim": "retry", "after": self.after}


class Fail(Exception):
    """Raise it to end the job as failed at once, whatever retries are left: another attempt is of no use."""

    @property
    def bgd_wish(self) -> Mapping[str, object]:
        """What the worker writes down of it."""
        return {"aim": "fail"}


class Snooze(Exception):
    """Raise it to have the job run again later, which uses up no retry and is no failure.

    Args:
        after: how long to wait, at least a second.
        until: an instant to wait for instead: a datetime (without a time zone: local), or epoch seconds.
        message: why, for people.

    Raises:
        ValueError: not just one of `after` and `until` is given, or it is none.
    """

    def __init__(
        self,
        after: Duration | None = None,
        *,
        until: datetime | float | None = None,
        message: str = "",
    ) -> None:
        super().__init__(message)
        if (after is None) == (until is None):
            raise ValueError("a Snooze takes either after=, a duration, or until=, an instant")
        self.after = None if after is None else _seconds(after)
        self.until = None if until is None else _instant(until)

    @property
    def bgd_wish(self) -> Mapping[str, object]:
        """What the worker writes down of it."""
        return {"aim": "snooze", "after": self.after, "until": self.until}


class Job(NamedTuple):
    """The job that this code runs in."""

    id: int
    attempt: int
    queue: str
    slot: int


def current() -> Job | None:
    """Return the job that this code runs in; None if it runs in none."""
    try:
        return Job(
            id=int(os.environ["BGD_JOB_ID"]),
            attempt=int(os.environ["BGD_ATTEMPT"]),
            queue=os.environ["BGD_QUEUE"],
            slot=int(os.environ["BGD_SLOT"]),
        )
    except (KeyError, ValueError):  # ValueError: somebody else's variables of these names
        return None


def progress(fraction: SupportsFloat | None = None, message: str | None = None) -> None:
    """Say how far the job is; it replaces what was said before. Outside of a job nothing happens.

    It may be called as often as one likes, by any thread. It takes microseconds and waits for nothing: while
    bgd is down, slow, or was told very much just now, the latest of what is said is held back, and goes out
    with a later call or with the end of the job.

    Args:
        fraction: of all there is to do, from 0 to 1; None: nobody knows.
        message: what it is at, for people; it is cut at 200 characters.

    Raises:
        ValueError: the fraction is none.
        TypeError: it is no number, or the message no text.
    """
    share = None if fraction is None else _share(fraction)
    text = None if message is None else _text(message)
    hear = hearer.get()
    job, path = current(), os.environ.get("BGD_SOCKET")
    if hear is not None:
        hear(share, text)
    elif job is not None and path:
        from ._reporter import report  # noqa: PLC0415 - most jobs do without

        report(job, path, share, text)


def _share(fraction: SupportsFloat) -> float:
    if not hasattr(fraction, "__float__"):
        raise TypeError(f"progress takes a number from 0 to 1, or None, not {fraction!r}")
    share = float(fraction)
    if not -_ROUNDING <= share <= 1 + _ROUNDING:  # which is so of no NaN, either
        raise ValueError(f"{fraction!r} is no fraction: progress takes a number from 0 to 1")
    return min(max(share, 0.0), 1.0)


def _text(message: str) -> str | None:
    if not isinstance(message, str):
        raise TypeError(f"a message of progress is a text, not {message!r}")
    beginning = message[:MAX_MESSAGE].encode(errors="backslashreplace").decode()
    return beginning[:MAX_MESSAGE] or None


def _seconds(duration: Duration) -> float:
    if isinstance(duration, timedelta):
        seconds = duration.total_seconds()
    elif isinstance(duration, str):
        seconds = _parsed(duration)
    else:
        seconds = float(duration)
    if not 0 <= seconds <= MAX_SECONDS:  # which is so of no NaN, either
        raise ValueError(f"{duration!r} is no duration from 0 to {MAX_SECONDS:.0f} seconds")
    return seconds


def _parsed(text: str) -> float:
    if not _WHOLE.fullmatch(text):
        raise ValueError(f"{text!r} is not a duration: write 500ms, 5s, 10m, 2h, 1d or 1h30m")
    return sum(float(number) * _SECONDS[unit] for number, unit in _PART.findall(text))


def _instant(until: datetime | float) -> float:
    at = until.timestamp() if isinstance(until, datetime) else float(until)
    if not 0 <= at <= MAX_INSTANT:
        raise ValueError(f"{until!r} is no instant until the year 9999")
    return at
