"""A worker that forks for each job and stays the parent of each child.

For each job the launcher sends {"id", "text", "env", "cwd", "umask", "mark", "stamp"} with two descriptors,
for the output and for the result file. "stamp" is the tag of the attempt's processes. The worker answers with
- {"id"} and a pidfd, so that the launcher need not trust a number;
- {"id", "stale": FILE}: a loaded file has changed, so another worker must run the job;
- {"id", "errno"}: the job cannot be started;
- {"id", "lost": "why"}: the worker had to kill the child.
When the child ends, the worker reads the end without reaping it and sends {"id", "code"}. When the launcher
sends {"reap": ID}, the worker reaps it and sends {"id", "usage"}. If the worker dies before that, the
launcher inherits the child, alive or dead, and reads its end itself.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import gc
import os
import resource
import select
import signal
import sys
import threading

from .channel import LauncherChannel
from .job import ResultFile, carry_out, read
from .process import become_job_process, redirect_output
from .warm_job import EnvironmentMark, LoadedFiles, change_environment, exit_code_of, exit_process

TYPE_CHECKING = False  # not typing's: a worker keeps its memory small
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any


def serve_by_forks(channel: LauncherChannel) -> None:
    """Fork for every job until the launcher closes the channel."""
    server = _ForkServer(channel)
    while server.serve_once():
        pass


class _ForkServer:
    def __init__(self, channel: LauncherChannel) -> None:
        self._channel = channel
        self._files = LoadedFiles()
        self._mark = EnvironmentMark()
        self._collects_garbage = gc.isenabled()
        self._children: dict[int, tuple[int, int]] = {}  # pidfd -> id of the job, pid
        self._ended: dict[int, int] = {}  # id of the job -> pid of a child that is not yet reaped
        self._hard_limit = resource.getrlimit(resource.RLIMIT_RTTIME)[1]
        self._poll = select.poll()
        self._poll.register(channel.fileno(), select.POLLIN)
        gc.disable()
        # a preloaded module's handler must not touch the worker's children
        self._on_child_end = signal.signal(signal.SIGCHLD, signal.SIG_DFL)

    def serve_once(self) -> bool:
        """Wait for messages and ended children, and handle them; return False if the channel is closed."""
        for fd, _ in self._poll.poll():
            if fd in self._children:
                self._end(fd)
            elif fd == self._channel.fileno():
                received = self._channel.receive()
                if received is None:
                    return False
                content, descriptors = received
                if "reap" in content:
                    self._reap(content["reap"])
                else:
                    self._start(content, descriptors)
        return True

    def _start(self, job: dict[str, Any], descriptors: list[int]) -> None:
        output, result = descriptors
        try:
            changed = self._files.changed()
            if changed is not None:
                self._channel.send(id=job["id"], stale=changed)
                return
            os.chdir(job["cwd"])
            os.umask(job["umask"])
            job["work"] = read(job["text"])  # once here: in a child it would first copy all memory it touches
            # a moved file offset says that the job may run from here on: no other worker must be given it
            os.lseek(result, 1, os.SEEK_SET)
            pid = os.fork()
            if not pid:
                self._become(job, output, result)
        except OSError as error:
            os.lseek(result, 0, os.SEEK_SET)
            self._channel.send(id=job["id"], errno=error.errno or 0)
        else:
            self._report_started(job["id"], pid)
        finally:
            os.chdir("/")  # not to keep a file system busy
            os.close(output)
            os.close(result)

    def _report_started(self, job_id: int, pid: int) -> None:
        try:
            pidfd = os.pidfd_open(pid)
        except OSError as error:  # without a pidfd it cannot be identified safely, so it must not run
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            self._channel.send(id=job_id, lost=f"its process could not be watched: {error.strerror}")
            return
        self._children[pidfd] = job_id, pid
        self._poll.register(pidfd, select.POLLIN)
        self._channel.send_json(b'{"id":%d}' % job_id, pidfd)

    def _end(self, pidfd: int) -> None:
        job_id, pid = self._children.pop(pidfd)
        self._poll.unregister(pidfd)
        os.close(pidfd)
        seen = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        assert seen is not None  # noqa: S101  it is None only with WNOHANG
        self._ended[job_id] = pid
        code = seen.si_status if seen.si_code == os.CLD_EXITED else -seen.si_status
        self._channel.send_json(b'{"id":%d,"code":%d}' % (job_id, code))

    def _reap(self, job_id: int) -> None:
        usage = os.wait4(self._ended.pop(job_id), 0)[2]
        used = usage.ru_utime, usage.ru_stime, usage.ru_maxrss
        self._channel.send_json(b'{"id":%d,"usage":[%.6f,%.6f,%d]}' % (job_id, *used))

    def _become(self, job: dict[str, Any], output: int, result: int) -> None:
        """Run the job in this child, and exit."""
        code = 1
        try:
            os.setsid()
            if job["stamp"] is not None:
                resource.setrlimit(resource.RLIMIT_RTTIME, (job["stamp"], self._hard_limit))
            redirect_output(output)
            self._channel.close()
            for pidfd in self._children:
                os.close(pidfd)
            code = exit_code_of(lambda: self._carry_out(job, result))
        finally:
            exit_process(code)

    def _carry_out(self, job: dict[str, Any], result: int) -> int:
        become_job_process()
        self._mark.set(job["mark"])
        change_environment(job["env"])
        if self._on_child_end not in (None, signal.SIG_DFL):
            signal.signal(signal.SIGCHLD, self._on_child_end)
        if self._collects_garbage:
            gc.enable()
        _reseed()
        return carry_out(job["work"], ResultFile(result))


def _reseed() -> None:
    """Seed random number generators that Python does not reseed after a fork."""
    numpy = sys.modules.get("numpy.random")
    if numpy is not None:
        numpy.seed()


# --- What a fork would break: threads, which it does not copy, and event loops, which it would share.


def fork_hazards() -> str | None:
    """Return in one line why this process must not fork, None if it may."""
    found = [*_threads(), *_event_loops()]
    if not found:
        native = _native_threads()
        if native:
            found.append(f"{native} threads of native code")
    return ", ".join(found) or None


def _threads() -> list[str]:
    own = threading.current_thread()
    return [f"thread {each.name!r}" for each in threading.enumerate() if each is not own]


def _event_loops() -> list[str]:
    events = sys.modules.get("asyncio.events")
    if events is None:
        return []
    kind = events.AbstractEventLoop
    loops = [each for each in gc.get_objects(generation=None) if issubclass(type(each), kind)]
    return [f"event loop {type(each).__name__}" for each in loops if not each.is_closed()]


def _native_threads() -> int:
    """Count the threads that remain after a fork: libraries that handle forks end their threads before it."""
    if len(os.listdir("/proc/self/task")) == 1:  # noqa: PTH208  pathlib is slow to import
        return 0
    child = os.fork()
    if not child:
        os._exit(0)
    os.waitpid(child, 0)
    return len(os.listdir("/proc/self/task")) - 1  # noqa: PTH208


# --- Huge pages for the memory that the worker shares with its children: a fork copies fewer of them.

_LARGE = (32 << 20) - 8192  # bytes: just below the largest size that the C library ever takes apart by itself
_MADV_COLLAPSE = 25  # linux/mman.h, since Linux 6.1; an older kernel refuses it
_SETTINGS = "/sys/kernel/mm/transparent_hugepage/"
_SPARE = 4  # collapse a huge page if at most this fraction (1/4) is unused: that part takes memory afterwards
_ENTRY = 8  # bytes of /proc/self/pagemap for each page; the highest bit of the last byte: it is in memory


def avoid_gaps() -> None:
    """Make the C library allocate in one piece from now on, without gaps that huge pages cannot cover.

    By default a large block lies apart from the others, and leaves a gap when it is freed. After that free
    the C library puts blocks of its size among the others (mallopt(3), M_MMAP_THRESHOLD). So free a large
    one.
    """
    with contextlib.suppress(MemoryError):  # the address space may be limited
        bytes(_LARGE)  # unwritten zeros take no memory


def collapse_huge_pages() -> None:
    """Ask the kernel to move memory that nearly fills huge pages into huge pages."""
    with contextlib.suppress(
        OSError
    ):  # a kernel without huge pages, or one that hides which pages are in use
        if b"[never]" not in _content(f"{_SETTINGS}enabled"):  # the machine's owner may have forbidden them
            _collapse(int(_content(f"{_SETTINGS}hpage_pmd_size")))


def _collapse(size: int) -> None:
    madvise = ctypes.CDLL(None, use_errno=True).madvise
    madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    for address in _full(size):
        if madvise(address, size, _MADV_COLLAPSE) and ctypes.get_errno() == errno.ENOMEM:
            return  # each further try would make the kernel search for free memory again


def _full(size: int) -> Iterator[int]:
    """Yield the aligned addresses of blocks of `size` bytes that are this process's own and mostly in use."""
    pages = size // os.sysconf("SC_PAGE_SIZE")
    with open("/proc/self/pagemap", "rb", buffering=0) as pagemap:  # noqa: PTH123  pathlib is slow to import
        for start, end in _areas():
            for address in range(-(-start // size) * size, end - size + 1, size):
                entries = os.pread(pagemap.fileno(), pages * _ENTRY, address // size * pages * _ENTRY)
                present = sum(last >> 7 for last in entries[_ENTRY - 1 :: _ENTRY])
                if present * _SPARE >= pages * (_SPARE - 1):
                    yield address


def _areas() -> list[tuple[int, int]]:
    """Return start and end of each memory area that is writable and not from a file."""
    lines = [line.split(maxsplit=5) for line in _content("/proc/self/maps").splitlines()]
    areas = [line[0].split(b"-") for line in lines if line[1] == b"rw-p" and line[4] == b"0"]
    return [(int(start, 16), int(end, 16)) for start, end in areas]


def _content(path: str) -> bytes:
    with open(path, "rb") as file:  # noqa: PTH123  pathlib is slow to import
        return file.read()
