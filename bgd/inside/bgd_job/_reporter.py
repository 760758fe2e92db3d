"""The reporter: tells bgd what `progress` was given, and never lets the job wait for that.

It speaks the little of docs/protocol.md of bgd that this takes. It is imported by the first report.
"""

from __future__ import annotations

import atexit
import os
import socket
import struct
import threading
import time

TYPE_CHECKING = False  # as typing's, without its import
if TYPE_CHECKING:
    from . import Job

BURST = 20  # reports that go out one after the other
PER_SECOND = 10.0  # and so many in the long run; bgd writes them down once a second
PAUSE = 1.0  # seconds between two looks for a daemon that does not answer
LAST_WORDS = 0.1  # seconds that the end of a job waits at most for the daemon to have read them

_PROTOCOL = 1
_LIBRARY = "0.1.0"
_READ_AT_ONCE = 65_536  # bytes
_STREAMS = 3  # descriptors below it are the job's standard streams, open or not


def report(job: Job, path: str, fraction: float | None, message: str | None) -> None:
    """Tell bgd how far the job is, now or with the next call; the latest of what was held back is told."""
    global _reporter  # noqa: PLW0603 - a process is in one job, and a worker in one after the other
    whose = (os.getpid(), job.id, job.attempt, path)
    current = _reporter
    if current is None or current.whose != whose:
        if current is not None:
            current.close()  # of the job before, or of the process that this one was forked from
        current = _reporter = Reporter(whose)
    current.take(fraction, message)


def end() -> None:
    """Tell bgd what was held back, and see that it has read it: once the job has ended it is too late."""
    if _reporter is not None and _reporter.whose[0] == os.getpid():
        _reporter.end()


class Reporter:
    """The way of one attempt to the daemon, in one process and all of its threads.

    Nothing but `end` waits, for the daemon or for another thread, and nothing is raised: what cannot be told
    is held back until the next call. So it may be called by signal handlers, too.

    Args:
        whose: pid, job, attempt, and path of the socket.
    """

    def __init__(self, whose: tuple[int, int, int, str]) -> None:
        self.whose = whose
        self._busy = threading.Lock()  # of whoever is telling
        self._said: tuple[float | None, str | None] | None = None
        self._is_held = False
        self._credit = float(BURST)
        self._credited_at = time.monotonic()
        self._tried_at: float | None = None
        self._socket: socket.socket | None = None
        self._file: os.stat_result | None = None
        self._unsent = b""
        self._requests = 0

    def take(self, fraction: float | None, message: str | None) -> None:
        said = (fraction, message)
        if said != self._said:
            self._said, self._is_held = said, True
        if self._is_held:
            self._tell(is_last=False)

    def end(self) -> None:
        if self._said is None:
            return
        self._tell(is_last=True)
        if self._busy.acquire(blocking=False):
            try:
                self._wait_until_read()
            finally:
                self._said, self._is_held = None, False
                self.close()
                self._busy.release()

    def close(self) -> None:
        """Close this process's end; another process that has the connection keeps it."""
        connection, self._socket = self._socket, None
        if connection is None:
            return
        if self._is_ours(connection):
            connection.close()
        else:
            connection.detach()

    def _tell(self, *, is_last: bool) -> None:
        if not self._busy.acquire(blocking=False):
            return  # what the other thread does not see any more is held back
        try:
            if self._may_tell(is_last):
                self._send(is_last)
        except (OSError, ValueError):  # it is down, or was never there; ValueError: its path is none
            self.close()
        finally:
            self._busy.release()

    def _may_tell(self, is_last: bool) -> bool:  # noqa: FBT001 - private, and said by name above
        now = time.monotonic()
        self._credit = min(BURST, self._credit + (now - self._credited_at) * PER_SECOND)
        self._credited_at = now
        is_down = self._socket is None and self._tried_at is not None and now - self._tried_at < PAUSE
        return is_last or (self._credit >= 1 and not is_down)

    def _send(self, is_last: bool) -> None:  # noqa: FBT001 - likewise
        if self._is_lost():
            self._connect()
            self._is_held = True  # perhaps the daemon before did not get it
        elif self._is_unsent():
            return
        if not (self._is_held and self._said):
            return
        fraction, message = self._said
        self._is_held = False
        self._credit -= 0 if is_last else 1
        self._requests += 1
        _, job, attempt, _ = self.whose
        # together with a hello: an older daemon whose answer to that finds nobody reads no further
        self._unsent += _frame(
            type="set_progress",
            id=self._requests,
            job=job,
            attempt=attempt,
            fraction=fraction,
            message=message,
        )
        self._is_unsent()

    def _wait_until_read(self) -> None:
        """Wait for the daemon to hang up, which it does when it has done all that it was sent."""
        connection, give_up_at = self._socket, time.monotonic() + LAST_WORDS
        if connection is None or self._unsent or not self._is_ours(connection):
            return
        try:
            connection.shutdown(socket.SHUT_WR)
            connection.settimeout(LAST_WORDS)
            while connection.recv(_READ_AT_ONCE) and time.monotonic() < give_up_at:
                pass
        except OSError:  # it is slow, or gone
            pass

    def _is_lost(self) -> bool:
        """Take what the daemon has answered, of which nothing matters; tell whether it has hung up."""
        connection = self._socket
        if connection is None or not self._is_ours(connection):
            self.close()
            return True
        try:
            while connection.recv(_READ_AT_ONCE, socket.MSG_DONTWAIT):
                pass
        except BlockingIOError:
            return False
        except OSError:
            pass
        self.close()
        return True

    def _connect(self) -> None:
        self._tried_at = time.monotonic()
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        if connection.fileno() < _STREAMS:
            connection.close()
            raise OSError("the job has closed a standard stream, whose place this would take")
        try:
            connection.setblocking(False)
            connection.connect(self.whose[-1])
            self._file = os.fstat(connection.fileno())
        except BaseException:
            connection.close()
            raise
        self._socket = connection
        self._unsent = _frame(type="hello", protocol=_PROTOCOL, version=_LIBRARY, program="bgd_job")

    def _is_unsent(self) -> bool:
        """Send what there is, as far as the daemon takes it; a frame that was begun has to be ended first."""
        assert self._socket is not None  # noqa: S101 - it was just connected
        while self._unsent:
            try:
                # a job that has SIGPIPE end it is not ended by a daemon that went away
                sent = self._socket.send(self._unsent, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
            except BlockingIOError:
                return True
            self._unsent = self._unsent[sent:]
        return False

    def _is_ours(self, connection: socket.socket) -> bool:
        """Whether the descriptor is still that of the connection: a job may close what it has not opened."""
        try:
            return self._file is not None and os.path.samestat(os.fstat(connection.fileno()), self._file)
        except OSError:
            return False


_reporter: Reporter | None = None
atexit.register(end)


def _frame(**message: object) -> bytes:
    payload = bytes([0x80 | len(message)])
    for name, value in message.items():
        payload += _packed(name) + _packed(value)
    return struct.pack(">I", len(payload)) + payload


def _packed(value: object) -> bytes:
    """Return the MessagePack of what a report has in it."""
    if value is None:
        return b"\xc0"
    if isinstance(value, int):
        return b"\xcf" + struct.pack(">Q", value)
    if isinstance(value, float):
        return b"\xcb" + struct.pack(">d", value)
    text = str(value).encode()
    return b"\xda" + struct.pack(">H", len(text)) + text
