"""Steps: records the parts of a job that are done, so that a later attempt does not do them again.

The first step imports this file. docs/class-jobs.md of bgd says what steps promise.
"""

from __future__ import annotations

import hashlib
import json
import os
import select
import socket
import threading
import time
from collections import Counter
from contextvars import ContextVar

from . import Fail, StepMismatch, current
from ._wire import Connection, frame, hello, unpacked

TYPE_CHECKING = False  # not typing's, to avoid its import
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from types import TracebackType
    from typing import Any

    Loaded = tuple[str, dict[int, tuple[str, bool, bytes]]]
    """The id of the daemon's database; by position each step's name, whether it is done, and its value."""

# bgd.wire.requests has these too, and cannot be imported here; a test compares them.
MAX_STEPS = 10_000  # of a job
MAX_NAME = 200  # characters
MAX_VALUE = 100_000  # bytes of JSON: a result and a cursor

PAUSE = 0.1  # seconds between two tries to reach a daemon that does not answer

_READ_SIZE = 65_536  # bytes
_HEADER = 4  # bytes of a frame's length
_FULL = "full"  # the daemon has no room now
_encoded = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode

log: ContextVar[StepLog | None] = ContextVar("bgd_job.steps", default=None)
"""The log to use in place of that of the job: of bgd.testing, or one that keeps nothing, within a step."""


class Step:
    """One step; in a `with` block it is for loops, and its body always runs.

    Attributes:
        key: the same in every attempt of the job, and of no other step. A remote service that gets it can
            recognize a call that is made twice, because bgd died before it knew of the first.
        cursor: the latest argument of `set`, in this attempt or an earlier one; None: there is none.
        result: what an earlier attempt that finished the block recorded; what the body assigns is recorded
            at its end.
    """

    def __init__(self, name: str) -> None:
        if not isinstance(name, str):
            raise TypeError(f"the name of a step must be text, not {name!r}")
        if not 0 < len(name) <= MAX_NAME:
            raise ValueError(f"the name of a step has 1 to {MAX_NAME} characters, not {len(name)}")
        self.name = name
        self.cursor: Any = None
        self.result: Any = None
        self._recorded: tuple[bool, bytes] = (False, b"")
        self._is_awaited = False
        self._interrupted: threading.Event | None = None

    def __enter__(self) -> Step:  # noqa: PYI034 - Python 3.9 has no Self
        self._log = log.get() or _log_of_job()
        self._position, self._occurrence, (_, is_done, value) = self._log.begin(self.name)
        known = json.loads(value) if value else {}
        self.cursor, self.result = known.get("cursor"), known.get("result")
        self._is_awaited = "awaited" in known
        self._recorded = is_done, value
        self._began = time.monotonic()
        return self

    @property
    def key(self) -> str:
        return self._log.key_of(self.name, self._occurrence)

    def set(self, cursor: Any) -> None:
        """Record how far the loop is: in the next attempt it is `cursor`. It is on disk when this returns."""
        self.cursor = cursor
        self._record(is_done=False)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is None:
            self._record(is_done=True)

    def call(self, function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """Call the function, unless an earlier attempt did; return its result, awaitable if it is async."""
        self.__enter__()
        if self._recorded[0]:
            return _ready(self.result) if self._is_awaited else self.result
        outer = log.set(_unrecorded())  # steps inside of a step are a part of it
        try:
            value = function(*args, **kwargs)
        finally:
            log.reset(outer)
        if hasattr(type(value), "__await__"):
            return self._awaited(value)
        return self._finish(value)

    async def _awaited(self, value: Any) -> Any:
        import asyncio  # noqa: PLC0415 - slow, and here it is loaded

        outer = log.set(_unrecorded())
        try:
            result = await value
        finally:
            log.reset(outer)
        self._is_awaited, self._interrupted = True, threading.Event()
        try:
            # in a thread, because other coroutines go on meanwhile
            return await asyncio.get_running_loop().run_in_executor(None, self._finish, result)
        except asyncio.CancelledError:
            self._interrupted.set()
            self._log.interrupt()
            raise

    def _finish(self, result: Any) -> Any:
        self.result = result
        self._record(is_done=True)
        return self.result

    def _record(self, *, is_done: bool) -> None:
        """Record the step. What JSON makes of its values is what every attempt gets, this one too."""
        document = {"result": self.result, "cursor": self.cursor, "awaited": self._is_awaited or None}
        known = {name: value for name, value in document.items() if value is not None}
        try:
            text = _encoded(known)
            value = text.encode()
        except (TypeError, ValueError, RecursionError) as error:
            raise Fail(f"the value of step {self.name!r} is not JSON: {error}") from error
        if len(value) > MAX_VALUE:
            raise Fail(
                f"the value of step {self.name!r} has {len(value)} bytes of JSON, the limit is {MAX_VALUE}:"
                " write it to a file, and return the path"
            )
        if (is_done, value) != self._recorded:
            step = {"position": self._position, "name": self.name, "done": is_done, "value": value}
            self._log.save({**step, "seconds": time.monotonic() - self._began}, self._interrupted)
            self._recorded = is_done, value
        known = json.loads(text)
        self.cursor, self.result = known.get("cursor"), known.get("result")


async def _ready(value: Any) -> Any:
    return value


class StepLog:
    """The steps of one attempt, which begin in the same order in each attempt of the job.

    Args:
        job: its id.
        load: returns what earlier attempts have recorded; the first step calls it.
        save: records a step, given as the fields of bgd's request, and returns when that is on disk; it ends
            early if the event is set.
        interrupt: lets a `save` in another thread look at its event.
    """

    def __init__(
        self,
        job: int,
        load: Callable[[], Loaded],
        save: Callable[[dict[str, Any], threading.Event | None], object],
        interrupt: Callable[[], None] = lambda: None,
    ) -> None:
        self.save = save
        self.interrupt = interrupt
        self._job = job
        self._load = load
        self._lock = threading.Lock()
        self._loaded: Loaded | None = None
        self._position = 0
        self._names: Counter[str] = Counter()

    def begin(self, name: str) -> tuple[int, int, tuple[str, bool, bytes]]:
        """Begin the next step; return its position, its number among steps of its name, and its record.

        Raises:
            StepMismatch: in an earlier attempt another step was in its place.
        """
        with self._lock:
            if self._loaded is None:
                self._loaded = self._load()
            earlier = self._loaded[1]
            position = self._position + 1
            if position > MAX_STEPS:
                raise Fail(f"step {position} ({name!r}) is one too many: a job has at most {MAX_STEPS} steps")
            known = earlier.pop(position, (name, False, b""))
            if known[0] != name:
                earlier[position] = known  # the code may catch this, and try again
                raise StepMismatch(
                    f"step {position} was {known[0]!r} in an earlier attempt, and is {name!r} now: run the"
                    " code that began the job, or submit a new one"
                )
            self._position = position
            self._names[name] += 1
            return position, self._names[name], known

    def key_of(self, name: str, occurrence: int) -> str:
        """Return the key of a step that has begun."""
        store = self._loaded[0] if self._loaded else ""
        text = json.dumps([store, self._job, name, occurrence])
        return hashlib.sha256(text.encode()).hexdigest()[:32]


def _unrecorded() -> StepLog:
    """Return a log that keeps nothing: outside of a job, and inside of a step."""
    return StepLog(0, lambda: ("", {}), lambda *_: None)


# --- the daemon


def _log_of_job() -> StepLog:
    """Return the log of the job that this process runs now."""
    global _latest  # noqa: PLW0603 - a process is in one job at a time
    owner = os.getpid(), *map(os.environ.get, _OF_ATTEMPT)
    with _lock:
        if _latest is None or _latest[0] != owner:
            job, path = current(), os.environ.get("BGD_SOCKET")
            if job is None or not path:
                return _unrecorded()
            daemon = _Daemon(job.id, job.attempt, path)
            _latest = owner, StepLog(job.id, daemon.load, daemon.save, daemon.interrupt), daemon
        return _latest[1]


_OF_ATTEMPT = ("BGD_JOB_ID", "BGD_ATTEMPT", "BGD_SOCKET")


_latest: tuple[object, StepLog, _Daemon] | None = None
_lock = threading.Lock()


def end() -> None:
    """Close the connection: the job has ended, and its process may run another."""
    global _latest  # noqa: PLW0603 - as above
    if _latest is not None:
        _latest[2].close()
        _latest = None


class _Daemon:
    """The connection of one attempt to the daemon, for one process and all its threads.

    While bgd is down, or its disk is full, a call waits. The time limit of the job ends it.
    """

    def __init__(self, job: int, attempt: int, path: str) -> None:
        self._of = {"job": job, "attempt": attempt}
        self._path = path
        self._busy = threading.Lock()
        self._connection: Connection | None = None
        self._loaded: Loaded | None = None
        self._arrived = b""
        self._requests = 0

    def load(self) -> Loaded:
        """Return what earlier attempts recorded.

        Raises:
            Fail: bgd refuses to tell.
        """
        node = os.environ.get("BGD_ON_NODE_OF")
        if node is not None:
            raise Fail(
                f"bgd_job.step cannot reach bgd from a node of executor {node}: run the job on bgd's machine,"
                ' with executor="local"'
            )
        with self._busy:
            self._ask_until_answered(None)
        assert self._loaded is not None  # noqa: S101 - every connection begins with that
        return self._loaded

    def save(self, step: dict[str, Any], interrupted: threading.Event | None) -> None:
        """Record a step; return when it is on disk.

        Raises:
            Fail: bgd refuses to record it.
            OSError: it was interrupted.
        """
        with self._busy:
            self._ask_until_answered(interrupted, type="save_step", **self._of, **step)

    def interrupt(self) -> None:
        """Break the connection, so that no thread waits for an answer; those not interrupted ask again."""
        connection = self._connection
        if connection is not None and connection.is_ours():
            connection.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _ask_until_answered(self, interrupted: threading.Event | None, **request: object) -> None:
        while True:
            try:
                if self._connection is None or not self._connection.is_ours():
                    self.close()
                    self._connect()
                if request:
                    self._ask(**request)
            except OSError:
                self.close()
                if (interrupted or threading.Event()).wait(PAUSE):
                    raise
            except BaseException:  # Stopped too: half a frame may be sent, or an answer on its way
                self.close()
                raise
            else:
                return

    def _connect(self) -> None:
        self._connection, self._arrived = Connection(self._path), b""
        self._readable = select.poll()
        self._readable.register(self._connection, select.POLLIN)
        self._connection.settimeout(None)
        self._connection.sendall(hello(), socket.MSG_NOSIGNAL)
        self._receive()
        # Each connection begins with this, because it tells the daemon which process records the steps
        after = 0 if self._loaded is None else MAX_STEPS
        parts = self._ask(type="steps", **self._of, after=after)
        if self._loaded is None:
            found = [step for part in parts for step in part["steps"]]
            self._loaded = (
                parts[0]["store"],
                {step["position"]: (step["name"], step["state"] == "done", step["value"]) for step in found},
            )

    def _ask(self, **request: object) -> list[dict[str, Any]]:
        """Return the parts of the answer, without its end."""
        assert self._connection is not None  # noqa: S101 - it was just connected
        self._requests += 1
        # MSG_NOSIGNAL: a job that restored SIGPIPE must not die of a daemon that went away
        self._connection.sendall(frame(id=self._requests, **request), socket.MSG_NOSIGNAL)
        parts = []
        while (reply := self._receive())["type"] not in {"done", "end"}:
            parts.append(reply)
        return parts

    def _receive(self) -> dict[str, Any]:
        size = _HEADER + int.from_bytes(self._read(_HEADER)[:_HEADER], "big")
        reply = unpacked(self._read(size)[_HEADER:size])
        self._arrived = self._arrived[size:]
        if reply["type"] == "failed":
            if reply["code"] == _FULL:
                raise OSError(reply["message"])
            raise Fail(f"bgd does not record this step: {reply['message']}")
        return reply

    def _read(self, size: int) -> bytes:
        """Return what has arrived and is not used: at least `size` bytes."""
        assert self._connection is not None  # noqa: S101 - likewise
        while len(self._arrived) < size:
            self._readable.poll()  # a mere recv also wakes up when the daemon reads the request
            piece = self._connection.recv(_READ_SIZE)
            if not piece:
                raise OSError("the daemon has hung up")
            self._arrived += piece
        return self._arrived
