"""Run bgctl in forks of a process that has imported it, four times as fast as by starting Python.

.venv/bin/python -m tests.forking FD    serve the requests that come through this socket, until it is closed
"""

from __future__ import annotations

import atexit
import functools
import gc
import json
import locale
import os
import pkgutil
import selectors
import socket
import subprocess
import sys
import time
from contextlib import suppress
from importlib import import_module
from pathlib import Path

from bgctl import __main__ as program

_LONGEST = 100_000  # bytes of a request, and of its input; a pipe takes as many without a reader
_PIPE = 65_536
_OF_PYTHON = ("PYTHON", "LANG", "LC_", "LD_")  # variables that Python reads only when it starts


def run(
    arguments: tuple[str, ...], env: dict[str, str], cwd: Path, read: str, timeout: float
) -> subprocess.CompletedProcess[str] | None:
    """Run bgctl to its end, with pipes for its streams, as subprocess.run does; None: this needs a Python.

    Raises:
        subprocess.TimeoutExpired: it has been killed.
    """
    request = json.dumps([arguments, env, str(cwd)]).encode()
    given = read.encode(locale.getencoding())
    of_python = tuple(sorted((name, value) for name, value in env.items() if name.startswith(_OF_PYTHON)))
    if len(request) > _LONGEST or len(given) > _PIPE:
        return None
    (stdin, writer), (out, stdout), (err, stderr), (status, teller) = (os.pipe() for _ in range(4))
    try:
        os.write(writer, given)
        os.close(writer)
        theirs = [stdin, stdout, stderr, teller]
        socket.send_fds(_server(of_python), [request], theirs)
        for each in theirs:
            os.close(each)
        pid = int(os.read(status, 16))
        parts = _read(out, err, time.monotonic() + timeout)
        if parts is None:
            os.kill(pid, 9)
            raise subprocess.TimeoutExpired(["bgctl", *arguments], timeout)
        code = int(os.read(status, 16))
    finally:
        for each in (out, err, status):
            os.close(each)
    return subprocess.CompletedProcess(["bgctl", *arguments], code, *map(_text, parts))


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
def _server(of_python: tuple[tuple[str, str], ...]) -> socket.socket:
    """Start the server for these variables; return the socket that it serves."""
    others = {name: value for name, value in os.environ.items() if not name.startswith(_OF_PYTHON)}
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with its:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.forking", str(its.fileno())],
            env=others | dict(of_python),
            pass_fds=[its.fileno()],
            stdin=subprocess.PIPE,  # pipes, as the streams of each fork will be
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def end() -> None:
        ours.close()
        process.communicate()

    atexit.register(end)
    return ours


def main() -> None:
    """Fork for each request; send back the pid, and the exit code once there is one."""
    channel = socket.socket(fileno=int(sys.argv[1]))
    for module in pkgutil.iter_modules(["bgctl"]):
        import_module(f"bgctl.{module.name}")
    gc.freeze()
    with selectors.DefaultSelector() as events:
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
                request, descriptors, _, _ = socket.recv_fds(channel, _LONGEST, 4)
                if not request:
                    return
                *streams, teller = descriptors
                pid = os.fork()
                if pid == 0:
                    arguments, env, cwd = json.loads(request)
                    _become_bgctl(arguments, env, cwd, streams)
                for each in streams:
                    os.close(each)
                _tell(teller, pid)
                events.register(os.pidfd_open(pid), selectors.EVENT_READ, (pid, teller))


def _tell(teller: int, number: int) -> None:
    with suppress(BrokenPipeError):  # the test has given up
        os.write(teller, f"{number:<16}".encode())


def _become_bgctl(arguments: list[str], env: dict[str, str], cwd: str, streams: list[int]) -> None:
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
    os.closerange(3, 1024)
    os.chdir(cwd)
    sys.path[0] = cwd
    os.environ.clear()
    os.environ.update(env)
    time.tzset()
    sys.argv = [str(program.__file__), *arguments]
    program.main()


if __name__ == "__main__":
    main()
