"""Run bgctl, bgd and the launcher in forks of a process that has imported them, which saves most of a start.

.venv/bin/python -m tests.forking PROGRAM FD [FD] SPACES
    serve the requests that come through the first socket, until it is closed; the daemons that it forks
    ask for launchers through the second. The spaces are room for the command lines of forks.
"""

from __future__ import annotations

import atexit
import ctypes
import fcntl
import functools
import gc
import json
import locale
import os
import pkgutil
import resource
import select
import selectors
import socket
import subprocess
import sys
import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack, suppress
from importlib import import_module
from pathlib import Path
from typing import Any

_LONGEST = 100_000  # bytes of a request, and of its input; a pipe takes as many without a reader
_PIPE = 65_536
_LONGEST_LINE = 5_000  # bytes of a command line of bgd
_ROOT = str(Path(__file__).parents[1])
_OF_PYTHON = ("PYTHON", "LANG", "LC_", "LD_")  # variables that Python reads only when it starts
_MOST_STREAMS = 20
_LIMITS = sorted({value for name, value in vars(resource).items() if name.startswith("RLIMIT_")})
_DAEMON, _LAUNCHER = "bgd", "bgd.launcher"


def run(
    arguments: tuple[str, ...], env: dict[str, str], cwd: Path, read: str, timeout: float
) -> subprocess.CompletedProcess[str] | None:
    """Run bgctl to its end, with pipes for its streams, as subprocess.run does; None: this needs a Python.

    Raises:
        subprocess.TimeoutExpired: it has been killed.
    """
    given = read.encode(locale.getencoding())
    if len(given) > _PIPE:
        return None
    (stdin, writer), (out, stdout), (err, stderr) = (os.pipe() for _ in range(3))
    theirs = {0: stdin, 1: stdout, 2: stderr}
    try:
        os.write(writer, given)
        os.close(writer)
        forked = _fork("bgctl", arguments, env, str(cwd), theirs)
        for each in theirs.values():
            os.close(each)
        if forked is None:
            return None
        with forked:
            parts = _read(out, err, time.monotonic() + timeout)
            if parts is None:
                forked.kill()
                raise subprocess.TimeoutExpired(["bgctl", *arguments], timeout)
            code = forked.wait()
    finally:
        for each in (out, err):
            os.close(each)
    return subprocess.CompletedProcess(["bgctl", *arguments], code, *map(_text, parts))


def start(
    program: str,
    arguments: Sequence[str],
    env: Mapping[str, str],
    cwd: str,
    streams: Mapping[int, int],
    *,
    new_session: bool = False,
) -> subprocess.Popen[bytes]:
    """Start the daemon ("bgd") or a launcher ("bgd.launcher"), forked if that can be.

    `streams`: its descriptors, by the numbers that they have there.
    """
    forked = _fork(program, arguments, env, cwd, streams, new_session=new_session)
    return forked or subprocess.Popen(
        [sys.executable, "-P", "-m", program, *arguments],
        env=env,
        cwd=cwd,
        stdin=streams[0],
        stdout=streams[1],
        stderr=streams[2],
        pass_fds=[each for each in streams if each > 2],
        start_new_session=new_session,
    )


class Launchers:
    """Stands in for the module subprocess in the daemon, and forks launchers."""

    DEVNULL = subprocess.DEVNULL

    @staticmethod
    def Popen(  # noqa: N802 - its name there
        argv: Sequence[str], *, pass_fds: Collection[int], stdin: int, start_new_session: bool
    ) -> subprocess.Popen[bytes]:
        assert argv[:4] == [sys.executable, "-P", "-m", _LAUNCHER]
        assert stdin == subprocess.DEVNULL
        with Path(os.devnull).open("rb") as nothing:
            streams = {0: nothing.fileno(), 1: 1, 2: 2} | {each: each for each in pass_fds}
            return start(_LAUNCHER, argv[4:], os.environ, "/", streams, new_session=start_new_session)


class _Forked(subprocess.Popen[bytes]):
    """A process that the server has forked, which reports its pid and its exit code through a pipe."""

    def __init__(self, args: Sequence[str], status: int) -> None:
        self.args = args
        self.stdin = self.stdout = self.stderr = None
        self.returncode: int | None = None
        self._status = status
        self.pid = int(os.read(status, 16))

    def poll(self) -> int | None:
        return self._look(0)

    def wait(self, timeout: float | None = None) -> int:
        code = self._look(None if timeout is None else timeout * 1000)
        if code is None:
            assert timeout is not None
            raise subprocess.TimeoutExpired(self.args, timeout)
        return code

    def _look(self, patience: float | None) -> int | None:
        if self.returncode is None:
            ready = select.poll()
            ready.register(self._status, select.POLLIN)
            if ready.poll(patience):
                self.returncode = int(os.read(self._status, 16))
                os.close(self._status)
        return self.returncode


def _fork(
    program: str,
    arguments: Sequence[str],
    env: Mapping[str, str],
    cwd: str,
    streams: Mapping[int, int],
    *,
    new_session: bool = False,
) -> _Forked | None:
    """Let the server fork a program; None: this needs a Python."""
    umask = os.umask(0)
    os.umask(umask)
    limits = [(each, *resource.getrlimit(each)) for each in _LIMITS]
    request = json.dumps([list(streams), arguments, dict(env), cwd, umask, limits, new_session]).encode()
    of_python = tuple(sorted((name, value) for name, value in env.items() if name.startswith(_OF_PYTHON)))
    if len(request) > _LONGEST or sum(map(len, arguments)) > _LONGEST_LINE:
        return None
    if program != "bgctl" and env.get("PYTHONPATH") != _ROOT:  # a copy of bgd
        return None
    status, teller = os.pipe()
    try:
        socket.send_fds(_server(program, of_python), [request], [*streams.values(), teller])
    finally:
        os.close(teller)
    return _Forked([program, *arguments], status)


def _read(out: int, err: int, deadline: float) -> tuple[bytes, bytes] | None:
    """Return all that comes through both pipes; None if they are open after the deadline."""
    parts: dict[int, list[bytes]] = {out: [], err: []}
    with selectors.DefaultSelector() as ready:
        for pipe in parts:
            ready.register(pipe, selectors.EVENT_READ)
        while ready.get_map():
            events = ready.select(max(0, deadline - time.monotonic()))
            if not events:
                return None
            for key, _ in events:
                part = os.read(key.fd, _PIPE)
                parts[key.fd].append(part)
                if not part:
                    ready.unregister(key.fd)
    return b"".join(parts[out]), b"".join(parts[err])


def _text(data: bytes) -> str:
    return data.decode(locale.getencoding()).replace("\r\n", "\n").replace("\r", "\n")


@functools.cache
def _server(program: str, of_python: tuple[tuple[str, str], ...]) -> socket.socket:
    """Start the server of a program for these variables; return the socket that it serves."""
    if program == _LAUNCHER and _launchers is not None:
        return _launchers
    others = {name: value for name, value in os.environ.items() if not name.startswith(_OF_PYTHON)}
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    passed = [its, _server(_LAUNCHER, of_python)] if program == _DAEMON else [its]
    numbers = [each.fileno() for each in passed]
    with its:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.forking", program, *map(str, numbers), " " * 2 * _LONGEST_LINE],
            env=others | dict(of_python),
            pass_fds=numbers,
            stdin=subprocess.PIPE,  # pipes, as the streams of each fork will be
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def end() -> None:
        ours.close()
        process.communicate()

    atexit.register(end)
    return ours


_launchers: socket.socket | None = None
"""The socket of the server of launchers, in a forked daemon."""


def _call_itself(argv: Sequence[str]) -> None:
    """Let /proc show these words as the command line of this process, by which tests find it."""
    words = b"".join(os.fsencode(each) + b"\0" for each in argv)
    stat = Path("/proc/self/stat").read_text()
    start, end = map(int, stat[stat.rindex(")") :].split()[46:48])  # arg_start, arg_end: fields 48 and 49
    ctypes.memmove(start, words.ljust(end - start, b"\0"), end - start)


def main() -> None:
    """Fork for each request; send back the pid, and the exit code once there is one."""
    global _launchers  # noqa: PLW0603 - the daemons that are forked use it
    program, channel = sys.argv[1], socket.socket(fileno=int(sys.argv[2]))
    if program == "bgctl":
        for module in pkgutil.iter_modules(["bgctl"]):
            import_module(f"bgctl.{module.name}")
    begin = import_module(f"{program}.__main__")
    if program == _DAEMON:
        import_module("bgd.daemon.launching").subprocess = Launchers  # type: ignore[attr-defined]
        _launchers = socket.socket(fileno=int(sys.argv[3]))
    gc.freeze()
    request = _serve(channel)
    if request is None:
        return
    arguments, new_session = request
    if new_session:
        os.setsid()
    sys.argv = [str(begin.__file__), *arguments]
    if program != "bgctl":
        _call_itself([sys.executable, "-P", "-m", program, *arguments])
        del sys.path[0]
    sys.exit(begin.main())


def _serve(channel: socket.socket) -> tuple[list[str], bool] | None:
    """Fork for each request; return in the fork what it is to do, and None when the channel is closed."""
    with ExitStack() as stack:
        stack.enter_context(channel)
        events = stack.enter_context(selectors.DefaultSelector())
        events.register(channel, selectors.EVENT_READ)
        while True:
            for key, _ in events.select():
                if key.data is not None:
                    pid, teller = key.data
                    events.unregister(key.fd)
                    os.close(key.fd)
                    _tell(teller, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
                    os.close(teller)
                    continue
                request, descriptors, _, _ = socket.recv_fds(channel, _LONGEST, _MOST_STREAMS)
                if not request:
                    return None
                *streams, teller = descriptors
                pid = os.fork()
                if pid == 0:
                    stack.close()
                    return _prepare(json.loads(request), streams)
                for each in streams:
                    os.close(each)
                _tell(teller, pid)
                events.register(os.pidfd_open(pid), selectors.EVENT_READ, (pid, teller))


def _tell(teller: int, number: int) -> None:
    with suppress(BrokenPipeError):  # the test has given up
        os.write(teller, f"{number:<16}".encode())


def _prepare(request: list[Any], streams: list[int]) -> tuple[list[str], bool]:
    """Give this fork its descriptors, environment, folder, umask and limits."""
    numbers, arguments, env, cwd, umask, limits, new_session = request
    kept = {*numbers, *([_launchers.fileno()] if _launchers else [])}
    free = max(*kept, *streams) + 1
    moved = [fcntl.fcntl(each, fcntl.F_DUPFD, free) for each in streams]
    for number, each in zip(numbers, moved, strict=True):
        os.dup2(each, number)
    for each in map(int, os.listdir("/proc/self/fd")):  # noqa: PTH208 - numbers, not paths
        if each not in kept:
            with suppress(OSError):  # the one that has listed them
                os.close(each)
    os.chdir(cwd)
    os.umask(umask)
    for limit, soft, hard in limits:
        resource.setrlimit(limit, (soft, hard))
    sys.path[0] = cwd
    os.environ.clear()
    os.environ.update(env)
    time.tzset()
    return arguments, new_session


if __name__ == "__main__":
    main()
