"""A worker that forks for each job and stays each child's parent.

The launcher says {"id", "text", "env", "cwd", "umask", "mark", "stamp"} of a job and hands over where its
output goes and its result file. The answer is {"id"} with a pidfd, so that no number need be trusted; or
{"id", "stale": FILE}, a module changed, so another worker has to do it; {"id", "errno"}, it cannot be started
so; {"id", "lost": "why"}, it had to be killed. At its end comes {"id", "code"}, which is looked up without
reaping; and when the launcher has said {"reap": ID}, {"id", "usage"}. If the worker dies in between, the
launcher inherits the child, or what is left of it, and reads its end itself.
"""

from __future__ import annotations

import gc
import os
import resource
import select
import signal
import sys

from . import process
from .changes import Sources
from .job import carry_out, read
from .leaving import exit_code_of, leave
from .link import Link
from .place import MarkedPlace, change_environment
from .streams import point_to

TYPE_CHECKING = False  # as typing's: the worker keeps its memory small
if TYPE_CHECKING:
    from typing import Any


def serve_by_forks(link: Link) -> None:
    """Fork for every job until the launcher wants nothing more."""
    worker = _Forking(link)
    while worker.hears():
        pass


class _Forking:
    def __init__(self, link: Link) -> None:
        self._link = link
        self._sources = Sources()
        self._place = MarkedPlace()
        self._collects = gc.isenabled()
        self._children: dict[int, tuple[int, int]] = {}  # by pidfd: the job's number and the pid
        self._ended: dict[int, int] = {}  # by the job's number: pids of those not yet reaped
        self._hard_limit = resource.getrlimit(resource.RLIMIT_RTTIME)[1]
        self._poll = select.poll()
        self._poll.register(link.fileno(), select.POLLIN)
        gc.disable()
        # what a preloaded module does about children must not be done about the worker's
        self._on_child_end = signal.signal(signal.SIGCHLD, signal.SIG_DFL)

    def hears(self) -> bool:
        """Do what is to be done now, and wait for it if there is nothing; False: the line is closed."""
        for fd, _ in self._poll.poll():
            if fd in self._children:
                self._end(fd)
            elif fd == self._link.fileno():
                told = self._link.hear()
                if told is None:
                    return False
                content, descriptors = told
                if "reap" in content:
                    self._reap(content["reap"])
                else:
                    self._begin(content, descriptors)
        return True

    def _begin(self, job: dict[str, Any], descriptors: list[int]) -> None:
        output, result = descriptors
        try:
            changed = self._sources.changed()
            if changed is not None:
                self._link.tell(id=job["id"], stale=changed)
                return
            os.chdir(job["cwd"])
            os.umask(job["umask"])
            job["work"] = read(job["text"])  # here once, for a child would first copy all that this touches
            os.lseek(result, 1, os.SEEK_SET)  # from here on it may run: no other worker must be given it
            pid = os.fork()
            if not pid:
                self._become(job, output, result)
        except OSError as error:
            os.lseek(result, 0, os.SEEK_SET)
            self._link.tell(id=job["id"], errno=error.errno or 0)
        else:
            self._started(job["id"], pid)
        finally:
            os.chdir("/")  # not to keep a file system busy
            os.close(output)
            os.close(result)

    def _started(self, number: int, pid: int) -> None:
        try:
            pidfd = os.pidfd_open(pid)
        except OSError as error:  # nobody could be sure of it, so it must not run
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            self._link.tell(id=number, lost=f"its process could not be watched: {error.strerror}")
            return
        self._children[pidfd] = number, pid
        self._poll.register(pidfd, select.POLLIN)
        self._link.say(b'{"id":%d}' % number, pidfd)

    def _end(self, pidfd: int) -> None:
        number, pid = self._children.pop(pidfd)
        self._poll.unregister(pidfd)
        os.close(pidfd)
        seen = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        assert seen is not None  # noqa: S101  it is only with WNOHANG that there may be none
        self._ended[number] = pid
        code = seen.si_status if seen.si_code == os.CLD_EXITED else -seen.si_status
        self._link.say(b'{"id":%d,"code":%d}' % (number, code))

    def _reap(self, number: int) -> None:
        usage = os.wait4(self._ended.pop(number), 0)[2]
        used = usage.ru_utime, usage.ru_stime, usage.ru_maxrss
        self._link.say(b'{"id":%d,"usage":[%.6f,%.6f,%d]}' % (number, *used))

    def _become(self, job: dict[str, Any], output: int, result: int) -> None:
        """Be the job, and nothing else any more."""
        code = 1
        try:
            os.setsid()
            if job["stamp"] is not None:
                resource.setrlimit(resource.RLIMIT_RTTIME, (job["stamp"], self._hard_limit))
            point_to(output)
            self._link.close()
            for pidfd in self._children:
                os.close(pidfd)
            code = exit_code_of(lambda: self._carry_out(job, result))
        finally:
            leave(code)

    def _carry_out(self, job: dict[str, Any], result: int) -> int:
        process.begin()
        self._place.show(job["mark"])
        change_environment(job["env"])
        if self._on_child_end not in (None, signal.SIG_DFL):
            signal.signal(signal.SIGCHLD, self._on_child_end)
        if self._collects:
            gc.enable()
        _reseed()
        return carry_out(job["work"], result)


def _reseed() -> None:
    """Give the child random numbers of its own, where Python does not by itself."""
    numpy = sys.modules.get("numpy.random")
    if numpy is not None:
        numpy.seed()
