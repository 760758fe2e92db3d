"""The reporter: send bgd what `progress` was given, without ever making the job wait.

The first report imports it.
"""

from __future__ import annotations

import atexit
import os
import socket
import threading
import time

from ._wire import Connection, frame, hello

TYPE_CHECKING = False  # not typing's, to avoid its import
if TYPE_CHECKING:
    from . import Job

BURST = 20  # reports that may be sent at once
PER_SECOND = 10.0  # reports in the long run; bgd stores them once a second
PAUSE = 1.0  # seconds between two tries to reach a daemon that does not answer
END_PATIENCE = 0.1  # seconds that the end of a job waits at most for the daemon to read the last report

_READ_SIZE = 65_536  # bytes


def report(job: Job, path: str, fraction: float | None, message: str | None) -> None:
    """Report progress to bgd, now or with the next call; of reports held back only the latest is sent."""
    global _reporter  # noqa: PLW0603 - a process is in one job at a time
    owner = (os.getpid(), job.id, job.attempt, path)
    current = _reporter
    if current is None or current.owner != owner:
        if current is not None:
            current.close()  # the reporter of the job before, or of the parent process
        current = _reporter = Reporter(owner)
    current.report(fraction, message)


def end() -> None:
    """Send what was held back, and wait until bgd has read it: after the job it would be too late."""
    if _reporter is not None and _reporter.owner[0] == os.getpid():
        _reporter.end()


class Reporter:
    """The connection of one attempt to the daemon, for one process and all its threads.

    Nothing except `end` waits for the daemon or for another thread, and nothing raises: a report that cannot
    be sent is held back until the next call. So signal handlers may call it too.

    Args:
        owner: pid, job, attempt, and path of the socket.
    """

    def __init__(self, owner: tuple[int, int, int, str]) -> None:
        self.owner = owner
        self._busy = threading.Lock()  # held while sending
        self._latest: tuple[float | None, str | None] | None = None
        self._is_held = False
        self._credit = float(BURST)
        self._credited_at = time.monotonic()
        self._tried_at: float | None = None
        self._socket: Connection | None = None
        self._unsent = b""
        self._requests = 0

    def report(self, fraction: float | None, message: str | None) -> None:
        """Send this report, unless it repeats the one before; hold it back if it cannot be sent now."""
        latest = (fraction, message)
        if latest != self._latest:
            self._latest, self._is_held = latest, True
        if self._is_held:
            self._try_to_send(is_last=False)

    def end(self) -> None:
        """Send what is held back, wait until the daemon has read it, and close the connection."""
        if self._latest is None:
            return
        self._try_to_send(is_last=True)
        if self._busy.acquire(blocking=False):
            try:
                self._wait_until_read()
            finally:
                self._latest, self._is_held = None, False
                self.close()
                self._busy.release()

    def close(self) -> None:
        """Close this process's end; another process that has the connection keeps it."""
        connection, self._socket = self._socket, None
        if connection is not None:
            connection.close()

    def _try_to_send(self, *, is_last: bool) -> None:
        if not self._busy.acquire(blocking=False):
            return  # another thread is sending; if it does not see this report, the report is held back
        try:
            if self._may_send(is_last):
                self._send(is_last)
        except (OSError, ValueError):  # bgd is down, or never ran; ValueError: the path is not valid
            self.close()
        finally:
            self._busy.release()

    def _may_send(self, is_last: bool) -> bool:  # noqa: FBT001 - private, and named by its caller
        now = time.monotonic()
        self._credit = min(BURST, self._credit + (now - self._credited_at) * PER_SECOND)
        self._credited_at = now
        is_down = self._socket is None and self._tried_at is not None and now - self._tried_at < PAUSE
        return is_last or (self._credit >= 1 and not is_down)

    def _send(self, is_last: bool) -> None:  # noqa: FBT001 - likewise
        if self._is_lost():
            self._connect()
            self._is_held = True  # the daemon before may not have received it
        elif self._is_unsent():
            return
        if not (self._is_held and self._latest):
            return
        fraction, message = self._latest
        self._is_held = False
        self._credit -= 0 if is_last else 1
        self._requests += 1
        _, job, attempt, _ = self.owner
        self._unsent += frame(
            type="set_progress",
            id=self._requests,
            job=job,
            attempt=attempt,
            fraction=fraction,
            message=message,
        )
        self._is_unsent()

    def _wait_until_read(self) -> None:
        """Wait for the daemon to close the connection, which it does once it has handled every request."""
        connection, give_up_at = self._socket, time.monotonic() + END_PATIENCE
        if connection is None or self._unsent or not connection.is_ours():
            return
        try:
            connection.shutdown(socket.SHUT_WR)
            connection.settimeout(END_PATIENCE)
            while connection.recv(_READ_SIZE) and time.monotonic() < give_up_at:
                pass
        except OSError:  # it is slow, or gone
            pass

    def _is_lost(self) -> bool:
        """Read and ignore the daemon's answers; return whether it has closed the connection."""
        connection = self._socket
        if connection is None or not connection.is_ours():
            self.close()
            return True
        try:
            while connection.recv(_READ_SIZE, socket.MSG_DONTWAIT):
                pass
        except BlockingIOError:
            return False
        except OSError:
            pass
        self.close()
        return True

    def _connect(self) -> None:
        self._tried_at = time.monotonic()
        self._socket = Connection(self.owner[-1])
        self._unsent = hello()

    def _is_unsent(self) -> bool:
        """Send what the daemon takes now; return whether something is left, as a frame must be completed."""
        assert self._socket is not None  # noqa: S101 - it was just connected
        while self._unsent:
            try:
                # MSG_NOSIGNAL: a job that restored SIGPIPE must not die of a daemon that went away
                sent = self._socket.send(self._unsent, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
            except BlockingIOError:
                return True
            self._unsent = self._unsent[sent:]
        return False


_reporter: Reporter | None = None
atexit.register(end)
