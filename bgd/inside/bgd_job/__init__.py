"""What a job can tell bgd from inside: its progress, its steps, and to retry, fail or run again later.

And the exceptions that bgd raises in a class job that is stopped: TimedOut or Cancelled.

Every class job can import it. Elsewhere, for example in tests of the job's code or in a script that runs as a
job, install it alone: `pip install ./bgd/inside` in a checkout of bgd. It uses only the standard library of
Python 3.9. Outside of a job everything here works too, and does nothing.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from datetime import datetime, timedelta
from typing import NamedTuple, SupportsFloat, Union

__all__ = ["Cancelled", "Fail", "Job", "Retry", "Snooze", "StepMismatch", "Stopped", "TimedOut", "batch"]
__all__ += ["current", "progress", "step"]

TYPE_CHECKING = False  # not typing's: a Python that has no ParamSpec runs this too
if TYPE_CHECKING:
    from typing import Any, ParamSpec, TypeVar, overload

    from bgd.client.blocking.batches import Batch

    from ._steps import Step

    P = ParamSpec("P")
    R = TypeVar("R")

Duration = Union[str, float, timedelta]  # noqa: UP007 - Python 3.9 evaluates it too
"""Text such as "500ms", "30s" or "1h30m"; or a number of seconds; or a timedelta."""

MAX_SECONDS = 366 * 86_400.0  # bgd's limit for every duration; a longer one is a typing mistake
MAX_INSTANT = 253_402_300_799.0  # epoch seconds: the end of the year 9999
MAX_MESSAGE = 200  # characters of a progress message

Listener = Callable[..., object]  # takes a fraction and a message; both may be None
listener: ContextVar[Listener | None] = ContextVar("bgd_job.listener", default=None)
"""Receives what `progress` is given, in place of bgd; for bgd.testing."""

_ROUNDING = 1e-6  # by which a sum of parts may exceed 1

_SECONDS = {"d": 86_400.0, "h": 3_600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
_PART = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,15})?)(ms|[dhms])")
_WHOLE = re.compile(rf"(?:{_PART.pattern})+")


class Retry(Exception):
    """Raise it to fail the attempt and retry the job, if it has retries left.

    Args:
        after: how long to wait before the retry; None: the job's retry delay.
        message: why, for people.

    Raises:
        ValueError: `after` is not a duration.
    """

    def __init__(self, message: str = "", *, after: Duration | None = None) -> None:
        super().__init__(message)
        self.after = None if after is None else _seconds(after)

    @property
    def bgd_wish(self) -> Mapping[str, object]:
        """What the worker writes into the result file (see docs/class-jobs.md of bgd)."""
        return {"aim": "retry", "after": self.after}


class Fail(Exception):
    """Raise it to fail the job at once, whatever retries are left, because another attempt would not help."""

    @property
    def bgd_wish(self) -> Mapping[str, object]:
        """What the worker writes into the result file."""
        return {"aim": "fail"}


class Snooze(Exception):
    """Raise it to run the job again later; this uses no retry and is not a failure.

    Args:
        after: how long to wait, at least a second.
        until: an instant to wait for instead: a datetime (without a time zone: local), or epoch seconds.
        message: why, for people.

    Raises:
        ValueError: `after` and `until` are both given or both missing, or the given one is invalid.
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
        """What the worker writes into the result file."""
        return {"aim": "snooze", "after": self.after, "until": self.until}


class StepMismatch(Fail):
    """The step in this place had another name in an earlier attempt: the code has changed."""


class Stopped(BaseException):
    """Raised in the main thread of a class job that is to end, so that it can clean up within the grace time.

    It is not an Exception, so `except Exception` lets it through. Catching it changes nothing about how the
    attempt ends.
    """


class TimedOut(Stopped):
    """The time limit of the attempt is over."""

    def __init__(self, message: str = "its time limit is over") -> None:
        super().__init__(message)


class Cancelled(Stopped):
    """The job was cancelled."""

    def __init__(self, message: str = "it was cancelled") -> None:
        super().__init__(message)


class Job(NamedTuple):
    """The job that this code runs in."""

    id: int
    attempt: int
    queue: str
    slot: int


def current() -> Job | None:
    """Return the job that this code runs in; None outside of a job."""
    try:
        return Job(
            id=int(os.environ["BGD_JOB_ID"]),
            attempt=int(os.environ["BGD_ATTEMPT"]),
            queue=os.environ["BGD_QUEUE"],
            slot=int(os.environ["BGD_SLOT"]),
        )
    except (KeyError, ValueError):  # ValueError: variables of another program with these names
        return None


def batch() -> Batch | None:
    """Look up the batch that this job belongs to, for `counts`, `add` or `jobs`; None: it belongs to none.

    This needs bgd itself in the interpreter of the job.
    """
    batch_id = os.environ.get("BGD_BATCH_ID")
    if current() is None or batch_id is None:
        return None
    from bgd.client.background import default_client  # noqa: PLC0415 - bgd_job may be installed alone

    return default_client().find_batch(int(batch_id))


def progress(fraction: SupportsFloat | None = None, message: str | None = None) -> None:
    """Report the job's progress; it replaces the report before. Outside of a job nothing happens.

    Any thread may call it, as often as it likes. A call takes microseconds and never waits: while bgd is down
    or slow, or has just received many reports, the latest one is held back. It is sent with a later call or
    at the end of the job.

    Args:
        fraction: how much of the job is done, from 0 to 1; None: unknown.
        message: what the job is doing, for people; it is cut at 200 characters.

    Raises:
        ValueError: the fraction is not between 0 and 1.
        TypeError: the fraction is not a number, or the message is not text.
    """
    share = None if fraction is None else _share(fraction)
    text = None if message is None else _text(message)
    listen = listener.get()
    job, path = current(), os.environ.get("BGD_SOCKET")
    if listen is not None:
        listen(share, text)
    elif job is not None and path:
        from ._reporter import report  # noqa: PLC0415 - most jobs never need it

        report(job, path, share, text)


if TYPE_CHECKING:

    @overload
    def step(name: str, /) -> Step: ...
    @overload
    def step(name: str, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R: ...


def step(name: str, function: Callable[..., Any] | None = None, /, *args: Any, **kwargs: Any) -> Any:
    """Call a function as a step of the job: when the job runs again, return what it returned.

    The result is on disk when this returns; it is what JSON makes of what the function returned. If the
    function is async, await what this returns. Without a function, return a context manager for loops: its
    body always runs, and finds what it recorded in an earlier attempt.

    Steps begin in the same order in each attempt. While bgd is down, a step waits. Outside of a job nothing
    is recorded. Any thread may call it, but only one process of the job.

    Args:
        name: for people, and to notice that the code has changed; at most 200 characters.
        function: what to call.
        *args: its arguments.
        **kwargs: likewise.

    Raises:
        StepMismatch: in an earlier attempt another step was in this place.
        Fail: the result is not JSON or too large, the job has too many steps, or bgd refuses the step.
    """
    from ._steps import Step  # noqa: PLC0415 - most jobs have no steps

    begun = Step(name)
    return begun if function is None else begun.call(function, args, kwargs)


def _share(fraction: SupportsFloat) -> float:
    if not hasattr(fraction, "__float__"):
        raise TypeError(f"progress takes a number from 0 to 1, or None, not {fraction!r}")
    share = float(fraction)
    if not -_ROUNDING <= share <= 1 + _ROUNDING:  # NaN too
        raise ValueError(f"{fraction!r} is not a fraction: progress takes a number from 0 to 1")
    return min(max(share, 0.0), 1.0)


def _text(message: str) -> str | None:
    if not isinstance(message, str):
        raise TypeError(f"the message of progress must be text, not {message!r}")
    beginning = message[:MAX_MESSAGE].encode(errors="backslashreplace").decode()
    return beginning[:MAX_MESSAGE] or None


def _seconds(duration: Duration) -> float:
    if isinstance(duration, timedelta):
        seconds = duration.total_seconds()
    elif isinstance(duration, str):
        seconds = _parsed(duration)
    else:
        seconds = float(duration)
    if not 0 <= seconds <= MAX_SECONDS:  # NaN too
        raise ValueError(f"{duration!r} is not a duration from 0 to {MAX_SECONDS:.0f} seconds")
    return seconds


def _parsed(text: str) -> float:
    if not _WHOLE.fullmatch(text):
        raise ValueError(f"{text!r} is not a duration: write 500ms, 5s, 10m, 2h, 1d or 1h30m")
    return sum(float(number) * _SECONDS[unit] for number, unit in _PART.findall(text))


def _instant(until: datetime | float) -> float:
    at = until.timestamp() if isinstance(until, datetime) else float(until)
    if not 0 <= at <= MAX_INSTANT:
        raise ValueError(f"{until!r} is not an instant from 1970 to 9999")
    return at
