"""What a fault costs the others: a client that goes on asking meanwhile, and the daemon's memory."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Self

import pytest

from bgd.core.spec import JobSpec
from bgd.wire.framing import frame
from bgd.wire.messages import PROTOCOL, Hello, encode
from bgd.wire.replies import Info, Submitted
from bgd.wire.requests import GetInfo, Submit
from tests.end_to_end.chaos import Caller, Rig

HELLO = frame(encode(Hello(PROTOCOL, "1")))
HELD = JobSpec(argv=("/bin/true",), env={}, cwd="/", hold=True)
PAUSE = 0.005  # seconds between two questions of the good client
NO_LONGER = 60.0  # seconds that anybody is waited for


class Bystander:
    """Asks and submits while the block lasts; afterwards it tells how that went.

    Attributes:
        grown: MiB by which the daemon grew at the most.
        served: how often it was answered.
    """

    def __init__(self, rig: Rig) -> None:
        self._rig = rig
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._live)
        self._waited: list[float] = []
        self._failure: Exception | None = None
        self.grown = 0.0

    @property
    def served(self) -> int:
        return len(self._waited)

    @property
    def p99(self) -> int:
        """Milliseconds, in which 99 of 100 of its questions were answered; rounded up."""
        return int(1000 * sorted(self._waited)[self.served * 99 // 100]) + 1

    def __enter__(self) -> Self:
        self._before = memory(self._rig.pid, "VmRSS")
        Path(f"/proc/{self._rig.pid}/clear_refs").write_text("5")  # the peak is counted anew
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self.grown = (memory(self._rig.pid, "VmHWM") - self._before) / 1024
        if self._failure is not None:
            raise self._failure

    def _live(self) -> None:
        try:
            with closing(Caller(self._rig.socket)) as caller:
                while not self._stop.wait(PAUSE):
                    began = time.monotonic()
                    assert isinstance(caller.ask(GetInfo(1)), Info)
                    assert isinstance(caller.ask(Submit(2, HELD)), Submitted)
                    self._waited += [(time.monotonic() - began) / 2] * 2
        except Exception as error:  # noqa: BLE001  told by the test, whose thread this is not
            self._failure = error


def memory(pid: int, what: str) -> int:
    """Return KiB, as /proc/PID/status counts them."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{what}:"))


def processor_seconds(pid: int) -> float:
    """Return how much processor time a process has had."""
    user, system = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def connected(rig: Rig, *, greet: bool = True) -> socket.socket:
    """Return a connection that says what the test likes; greeted, unless it is to say nothing."""
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(str(rig.socket))
    connection.settimeout(NO_LONGER)
    if greet:
        connection.sendall(HELLO)
        connection.recv(1 << 16)
    return connection


def push(connection: socket.socket, data: bytes) -> int:
    """Send as much as is taken now; return how much that is."""
    taken = 0
    connection.setblocking(False)
    try:
        while taken < len(data):
            taken += connection.send(data[taken:])
    except OSError:  # it takes no more, or has hung up
        pass
    connection.settimeout(NO_LONGER)
    return taken


def say(connection: socket.socket, data: bytes) -> None:
    """Send all of it, or as much as is heard."""
    with suppress(OSError):
        connection.sendall(data)


def rest_of(connection: socket.socket) -> bytes:
    """Return all that comes until the other side hangs up."""
    received = b""
    try:
        while data := connection.recv(1 << 16):
            received += data
    except ConnectionResetError:
        pass
    return received


@contextmanager
def injected(pid: int, calls: str, fault: str, otherwise: str) -> Iterator[None]:
    """Do this to system calls of a process, and of those it starts, by strace.

    `otherwise`: what has not been tried where that is not possible.
    """
    if shutil.which("strace") is None:
        pytest.skip(f"{otherwise}: strace is not installed")
    command = ["strace", "-f", "-o", "/dev/null", "-e", f"trace={calls}", "-e", f"inject={calls}:{fault}"]
    with subprocess.Popen([*command, "-p", str(pid)], stderr=subprocess.PIPE, text=True) as tracer:
        assert tracer.stderr is not None
        line = tracer.stderr.readline()
        if "attached" not in line:
            tracer.wait()
            pytest.skip(f"{otherwise}: strace may not trace: {line.strip()}")
        try:
            yield
        finally:
            tracer.terminate()
