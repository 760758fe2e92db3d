"""A worker that runs one job after the other in its own process.

The launcher says of a job what forking.py tells. The answer is {"id", "usage"}, what the worker has used so
far; or {"id", "stale"} or {"id", "errno"}. At the job's end comes {"id", "code", "usage", "left_children",
"spent"}: whether it left processes behind, and whether the worker has had its fill of jobs or memory. After
either the launcher gives this worker no other job.

What a job leaves behind in memory the next one finds. What it did to the environment, the folder, the umask,
signals, the standard streams and sys.path is undone. If it has left threads, or closed the line to the
launcher, the worker ends with the job, as an interpreter does.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # of which there are no types
import contextlib
import os
import resource
import signal
import sys
import threading

from . import process
from .changes import Sources
from .job import carry_out, read
from .leaving import exit_code_of, leave
from .link import Link
from .place import Environment, MarkedPlace, change_environment
from .streams import point_to, point_to_nothing

TYPE_CHECKING = False  # as typing's: the worker keeps its memory small
if TYPE_CHECKING:
    from typing import Any

# without what signal.getsignal does beyond: it makes an enumeration of each, 62 times a job
_getsignal = _signal.getsignal

_UMASK = 0o022
_NOBODY = "-"  # the mark between two jobs


def serve_in_turn(link: Link, recycle: list[int | None]) -> None:
    """Run jobs until the launcher wants nothing more; `recycle`: at most so many, and in so many bytes."""
    worker = _Reusing(link, *recycle)
    while (told := link.hear()) is not None:
        worker.take(*told)


class _Reusing:
    def __init__(self, link: Link, most_jobs: int | None, most_memory: int | None) -> None:
        self._link = link
        self._jobs_left = most_jobs
        self._most_pages = most_memory and most_memory // resource.getpagesize()
        self._sources = Sources()
        self._place = MarkedPlace()
        self._environment = Environment()
        self._path = list(sys.path)
        self._streams = sys.stdin, sys.stdout, sys.stderr
        self._signals = _handlers()
        self._limit = resource.getrlimit(resource.RLIMIT_RTTIME)

    def take(self, job: dict[str, Any], descriptors: list[int]) -> None:
        """Run one job and tell how it ended."""
        output, result = descriptors
        try:
            if not self._begin(job, result):
                os.close(output)
                return
            point_to(output)  # which closes it
            self._run(job, result)
        finally:
            with contextlib.suppress(OSError):  # the job has closed it
                os.close(result)

    def _begin(self, job: dict[str, Any], result: int) -> bool:
        """Answer the launcher, and return whether the job is to be run."""
        changed = self._sources.changed()
        if changed is not None:
            self._link.tell(id=job["id"], stale=changed)
            return False
        try:
            os.chdir(job["cwd"])
        except OSError as error:
            self._link.tell(id=job["id"], errno=error.errno or 0)
            return False
        os.umask(job["umask"])
        if job["stamp"] is not None:
            resource.setrlimit(resource.RLIMIT_RTTIME, (job["stamp"], self._limit[1]))
        os.lseek(result, 1, os.SEEK_SET)  # from here on it may run: no other worker must be given it
        self._link.say(b'{"id":%d,"usage":%b}' % (job["id"], _used()))
        return True

    def _run(self, job: dict[str, Any], result: int) -> None:
        self._place.show(job["mark"])
        change_environment(job["env"])
        code = exit_code_of(lambda: carry_out(read(job["text"]), result))
        process.leave_if_forked(code)
        if threading.active_count() > 1 or not self._link.is_intact:
            leave(code)
        self._clear_up()
        self._sources.note_new()
        if self._jobs_left is not None:
            self._jobs_left -= 1
        is_full = self._most_pages is not None and _pages() > self._most_pages
        left = b"true" if _has_children() else b"false"
        spent = b"true" if is_full or self._jobs_left == 0 else b"false"
        told = job["id"], code, _used(), left, spent
        self._link.say(b'{"id":%d,"code":%d,"usage":%b,"left_children":%b,"spent":%b}' % told)

    def _clear_up(self) -> None:
        """Undo what the job did to what the next one is to find as it was."""
        sys.stdin, sys.stdout, sys.stderr = self._streams
        point_to_nothing(os.O_RDONLY, 0)
        point_to_nothing(os.O_WRONLY, 1, 2)
        self._place.show(_NOBODY)
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


def _handlers() -> dict[int, Any]:
    """Return what is done about each signal, as far as Python can do it again."""
    fixed = {signal.SIGKILL, signal.SIGSTOP}
    found = {signum: _getsignal(signum) for signum in signal.valid_signals() - fixed}
    return {signum: handler for signum, handler in found.items() if handler is not None}


def _used() -> bytes:
    """Tell seconds of computing so far, for the user and in the system, children's too; the peak in KiB."""
    own, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    totals = own.ru_utime + children.ru_utime, own.ru_stime + children.ru_stime, own.ru_maxrss
    return b"[%.6f,%.6f,%d]" % totals


def _has_children() -> bool:
    """Whether the job left processes that live; those that have ended are reaped."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return False
    return True


def _pages() -> int:
    with open("/proc/self/statm", "rb") as file:  # noqa: PTH123  pathlib is slow to import
        return int(file.read().split()[1])
