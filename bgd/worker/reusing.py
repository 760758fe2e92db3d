"""A worker that runs one job after the other in its own process.

For each job the launcher sends what forking.py describes. The worker answers {"id", "usage"}, which is what
it has used so far; or {"id", "stale"} or {"id", "errno"}. When the job ends, it sends {"id", "code", "usage",
"left_children", "spent"}: whether the job left processes behind, and whether the worker has reached its limit
of jobs or memory. In both cases the launcher gives this worker no other job.

What a job leaves in memory, the next job finds. The worker undoes changes to the environment, the working
directory, the umask, signals, the standard streams and sys.path. If the job left threads, or closed the
channel to the launcher, the worker ends with the job, as an interpreter would.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # there are no types for it
import contextlib
import os
import resource
import signal
import sys
import threading

from .channel import LauncherChannel
from .job import carry_out, read
from .process import exit_if_forked, redirect_output, redirect_to_null
from .warm_job import EnvironmentMark, LoadedFiles, change_environment, exit_code_of, exit_process

TYPE_CHECKING = False  # not typing's: a worker keeps its memory small
if TYPE_CHECKING:
    from typing import Any

# signal.getsignal would make an enumeration member of each answer, 62 times a job
_getsignal = _signal.getsignal

_UMASK = 0o022
_IDLE_MARK = "-"  # the mark between two jobs


def serve_in_turn(channel: LauncherChannel, recycle: list[int | None]) -> None:
    """Run jobs until the launcher closes the channel; `recycle`: limits of jobs and of memory in bytes."""
    worker = _ReusedWorker(channel, *recycle)
    while (received := channel.receive()) is not None:
        worker.serve(*received)


class _ReusedWorker:
    def __init__(self, channel: LauncherChannel, max_jobs: int | None, max_memory: int | None) -> None:
        self._channel = channel
        self._jobs_left = max_jobs
        self._max_pages = max_memory and max_memory // resource.getpagesize()
        self._files = LoadedFiles()
        self._mark = EnvironmentMark()
        self._environment = _SavedEnvironment()
        self._path = list(sys.path)
        self._streams = sys.stdin, sys.stdout, sys.stderr
        self._signals = _signal_handlers()
        self._limit = resource.getrlimit(resource.RLIMIT_RTTIME)

    def serve(self, job: dict[str, Any], descriptors: list[int]) -> None:
        """Run one job and report how it ended."""
        output, result = descriptors
        try:
            if not self._begin(job, result):
                os.close(output)
                return
            redirect_output(output)
            self._run(job, result)
        finally:
            with contextlib.suppress(OSError):  # the job has closed it
                os.close(result)

    def _begin(self, job: dict[str, Any], result: int) -> bool:
        """Answer the launcher; return whether the job can run."""
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
            resource.setrlimit(resource.RLIMIT_RTTIME, (job["stamp"], self._limit[1]))
        # a moved file offset says that the job may run from here on: no other worker must be given it
        os.lseek(result, 1, os.SEEK_SET)
        self._channel.send_json(b'{"id":%d,"usage":%b}' % (job["id"], _usage()))
        return True

    def _run(self, job: dict[str, Any], result: int) -> None:
        self._mark.set(job["mark"])
        change_environment(job["env"])
        code = exit_code_of(lambda: carry_out(read(job["text"]), result))
        exit_if_forked(code)
        if threading.active_count() > 1 or not self._channel.is_intact:
            exit_process(code)
        self._restore()
        self._files.add_new()
        if self._jobs_left is not None:
            self._jobs_left -= 1
        is_full = self._max_pages is not None and _resident_pages() > self._max_pages
        left = b"true" if _has_children() else b"false"
        spent = b"true" if is_full or self._jobs_left == 0 else b"false"
        report = job["id"], code, _usage(), left, spent
        self._channel.send_json(b'{"id":%d,"code":%d,"usage":%b,"left_children":%b,"spent":%b}' % report)

    def _restore(self) -> None:
        """Undo the job's changes to everything that the next job must find unchanged."""
        sys.stdin, sys.stdout, sys.stderr = self._streams
        redirect_to_null(os.O_RDONLY, 0)
        redirect_to_null(os.O_WRONLY, 1, 2)
        self._mark.set(_IDLE_MARK)
        resource.setrlimit(resource.RLIMIT_RTTIME, self._limit)
        signal.setitimer(signal.ITIMER_REAL, 0)
        for signum, handler in self._signals.items():
            if _getsignal(signum) is not handler:
                signal.signal(signum, handler)
        self._environment.restore()
        if sys.path != self._path:
            sys.path[:] = self._path
        os.chdir("/")
        os.umask(_UMASK)


class _SavedEnvironment:
    """The environment variables as they are now, to be restored later."""

    def __init__(self) -> None:
        self._variables = os.environ
        # the bytes behind os.environ: comparing through os.environ would decode each of them
        self._present: dict[bytes, bytes] = os.environ._data  # type: ignore[attr-defined]  # noqa: SLF001
        self._saved = dict(self._present)

    def restore(self) -> None:
        os.environ = self._variables  # noqa: B003 - the same object, whatever a job has put in its place
        for name in {name for name, _ in self._saved.items() ^ self._present.items()}:
            if name in self._saved:
                os.environb[name] = self._saved[name]
            else:
                del os.environb[name]


def _signal_handlers() -> dict[int, Any]:
    """Return the handler of each signal, as far as Python can set it again."""
    fixed = {signal.SIGKILL, signal.SIGSTOP}
    found = {signum: _getsignal(signum) for signum in signal.valid_signals() - fixed}
    return {signum: handler for signum, handler in found.items() if handler is not None}


def _usage() -> bytes:
    """Return as JSON: user and system seconds so far, reaped children included; peak memory in KiB."""
    own, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    totals = own.ru_utime + children.ru_utime, own.ru_stime + children.ru_stime, own.ru_maxrss
    return b"[%.6f,%.6f,%d]" % totals


def _has_children() -> bool:
    """Return whether the job left processes that still run; reap those that have ended."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return False
    return True


def _resident_pages() -> int:
    with open("/proc/self/statm", "rb") as file:  # noqa: PTH123  pathlib is slow to import
        return int(file.read().split()[1])
