"""A worker that runs one job after the other in its own process.

It sends {"ready": PID, "usage"}. For each job the launcher sends what forking.py describes, but with the
output as the only descriptor. Before the job runs, the worker notes its number in the memory that it shares
with the launcher: for most jobs this takes the place of a message. It sends {"id", "stale"} or {"id",
"errno"} if it does not run the job. When the job has ended, it sends {"id", "code", "usage", "left_children",
"spent", "result"}: what it has used so far; whether the job left processes behind; whether the worker has
reached its limit of jobs or memory; and the result document as text. Of a long document it has sent the
beginning before, as {"id", "result"}. If processes are left, or the limit is reached, the launcher gives this
worker no other job.

What a job leaves in memory, the next job finds. The worker undoes changes to the environment, the working
directory, the umask, signals, the standard streams and sys.path. If the job left threads, closed the channel
to the launcher or was stopped, the worker ends with the job, like an interpreter.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # it has no type stubs
import os
import resource
import signal
import sys
import threading

from .channel import LauncherChannel, SharedMemory
from .job import carry_out, read, to_json
from .process import exit_if_forked, log, redirect_output, redirect_to_null
from .stopping import StopHandler
from .warm_job import EnvironmentMark, LoadedFiles, exit_code_of, exit_process

TYPE_CHECKING = False  # not typing's: a worker keeps its memory small
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

# signal.getsignal would make an enumeration member of each answer, 62 times a job
_getsignal = _signal.getsignal

# Characters of a JSON result in one packet; each takes at most four bytes
_PIECE = 16_000


def serve_in_turn(channel: LauncherChannel, memory: SharedMemory, recycle: list[int | None]) -> None:
    """Run jobs until the launcher closes the channel; `recycle`: limits of jobs and of memory in bytes."""
    worker = _ReusedWorker(channel, memory, *recycle)
    while (received := channel.receive()) is not None:
        worker.serve(*received)


class _ReusedWorker:
    def __init__(
        self, channel: LauncherChannel, memory: SharedMemory, max_jobs: int | None, max_memory: int | None
    ) -> None:
        self._channel = channel
        self._memory = memory
        self._jobs_left = max_jobs
        self._max_memory = max_memory
        self._document = b""
        self._files = LoadedFiles()
        self._mark = EnvironmentMark()
        self._environment = _Environment()
        self._path = list(sys.path)
        self._streams = sys.stdin, sys.stdout, sys.stderr
        self._signals = _signal_handlers()
        self._limit = resource.getrlimit(resource.RLIMIT_RTTIME)[1]
        redirect_to_null(os.O_RDWR, 0, 1, 2)
        self._null = os.fstat(0).st_rdev
        channel.send_json(b'{"ready":%d,"usage":%b}' % (os.getpid(), _usage()[0]))

    def serve(self, job: dict[str, Any], descriptors: list[int]) -> None:
        """Run one job and report how it ended."""
        if not self._begin(job):
            os.close(descriptors[0])
            return
        redirect_output(descriptors[0])
        code = exit_code_of(lambda: carry_out(read(job["text"]), self))
        exit_if_forked(code)
        if not self._channel.is_intact:
            if self._document:
                log("the job closed the channel for its result, so the result is lost\n")
                code = 1
            exit_process(code)
        result, self._document = self._document.decode(), b""
        # the slot of a job that was to end is free once this process has ended
        must_exit = threading.active_count() > 1 or self._memory.stop_reason()
        while len(result) > _PIECE or (result and must_exit):
            piece, result = result[:_PIECE], result[_PIECE:]
            self._channel.send_json(b'{"id":%d,"result":%b}' % (job["id"], to_json(piece).encode()))
        if must_exit:
            exit_process(code)
        self._restore()
        self._files.add_new()
        self._report(job["id"], code, result)

    def write(self, document: bytes) -> None:
        """Keep the result document of the job until it is sent."""
        self._document = document

    def stop_handler(self, signal_name: str | None) -> StopHandler:
        """Return the handler that raises in the job when it is stopped."""
        return StopHandler(signal_name, self._memory.stop_reason)

    def _begin(self, job: dict[str, Any]) -> bool:
        """Return whether the job can run; if not, tell the launcher."""
        changed = self._files.changed()
        if changed is not None:
            self._channel.send(id=job["id"], stale=changed)
            return False
        try:
            os.chdir(job["cwd"])
        except OSError as error:
            self._channel.send(id=job["id"], errno=error.errno or 0)
            return False
        os.umask(job["umask"])
        if job["stamp"] is not None:
            resource.setrlimit(resource.RLIMIT_RTTIME, (job["stamp"], self._limit))
        self._mark.set(job["mark"])
        self._environment.change(job["env"])
        self._memory.take(job["id"])
        return True

    def _restore(self) -> None:
        """Undo what the job changed and the beginning of the next job does not set."""
        sys.stdin, sys.stdout, sys.stderr = self._streams
        if not self._has_null_input():
            redirect_to_null(os.O_RDWR, 0)
        os.dup2(0, 1)
        os.dup2(0, 2)
        signal.setitimer(signal.ITIMER_REAL, 0)
        for signum, handler in self._signals.items():
            if _getsignal(signum) is not handler:
                signal.signal(signum, handler)
        if sys.path != self._path:
            sys.path[:] = self._path
        os.chdir("/")  # not to keep a file system busy

    def _has_null_input(self) -> bool:
        try:
            return os.fstat(0).st_rdev == self._null
        except OSError:
            return False

    def _report(self, job_id: int, code: int, result: str) -> None:
        if self._jobs_left is not None:
            self._jobs_left -= 1
        left = b"true" if _has_children() else b"false"
        usage, peak = _usage()
        is_full = self._max_memory is not None and peak > self._max_memory and _resident() > self._max_memory
        spent = b"true" if is_full or self._jobs_left == 0 else b"false"
        report = job_id, code, usage, left, spent, to_json(result).encode()
        self._channel.send_json(
            b'{"id":%d,"code":%d,"usage":%b,"left_children":%b,"spent":%b,"result":%b}' % report
        )


class _Environment:
    """The environment variables that the worker was started with, changed for one job after the other."""

    def __init__(self) -> None:
        self._variables = os.environ
        # the bytes behind os.environ: comparing through os.environ would decode each of them
        self._present: dict[bytes, bytes] = os.environ._data  # type: ignore[attr-defined]  # noqa: SLF001
        self._own = dict(self._present)

    def change(self, changes: Mapping[str, str | None]) -> None:
        """Set the worker's own variables with these changes; a variable that is None is removed."""
        os.environ = self._variables  # noqa: B003 - the same object, whatever a job has put in its place
        wanted = self._own.copy()
        for name, value in changes.items():
            if value is None:
                wanted.pop(os.fsencode(name), None)
            else:
                wanted[os.fsencode(name)] = os.fsencode(value)
        present = self._present
        for each in [each for each in present if each not in wanted]:
            del os.environb[each]
        for each, text in wanted.items():
            if present.get(each) != text:
                os.environb[each] = text


def _signal_handlers() -> dict[int, Any]:
    """Return the handler of each signal, as far as Python can set it again."""
    fixed = {signal.SIGKILL, signal.SIGSTOP}
    found = {signum: _getsignal(signum) for signum in signal.valid_signals() - fixed}
    return {signum: handler for signum, handler in found.items() if handler is not None}


def _usage() -> tuple[bytes, int]:
    """Return as JSON what was used so far, user and system seconds and peak KiB; and the peak in bytes.

    The times include those of reaped children.
    """
    own, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    peak = own.ru_maxrss
    totals = own.ru_utime + children.ru_utime, own.ru_stime + children.ru_stime, peak
    return b"[%.6f,%.6f,%d]" % totals, peak * 1024


def _has_children() -> bool:
    """Return whether the job left processes that still run; reap those that have ended."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return False
    return True


def _resident() -> int:
    """Return the bytes of memory that this process uses now."""
    with open("/proc/self/statm", "rb") as file:  # noqa: PTH123  pathlib is slow to import
        return int(file.read().split()[1]) * resource.getpagesize()
