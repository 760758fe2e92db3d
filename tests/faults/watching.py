"""Measure what a fault costs others: answers to another client, and the daemon's memory."""

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
PAUSE = 0.005  # seconds between two rounds of the bystander
NO_LONGER = 60.0  # seconds to wait for the other side


class Bystander:
    """A client that asks and submits for the duration of the block, and measures how it is served.

    Attributes:
        grown: MiB by which the daemon grew at most.
        served: number of answers.
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
        """99th percentile of the time until an answer, in milliseconds, rounded up."""
        return int(1000 * sorted(self._waited)[self.served * 99 // 100]) + 1

    def __enter__(self) -> Self:
        self._before = memory(self._rig.pid, "VmRSS")
        Path(f"/proc/{self._rig.pid}/clear_refs").write_text("5")  # resets the peak
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
        except Exception as error:  # noqa: BLE001  raised again on the thread of the test
            self._failure = error


def memory(pid: int, what: str) -> int:
    """Return a field of /proc/PID/status, in KiB."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{what}:"))


def processor_seconds(pid: int) -> float:
    """Return the processor time of a process."""
    user, system = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def connected(rig: Rig, *, greet: bool = True) -> socket.socket:
    """Return a raw connection to the daemon, greeted unless the test wants to send everything itself."""
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(str(rig.socket))
    connection.settimeout(NO_LONGER)
    if greet:
        connection.sendall(HELLO)
        connection.recv(1 << 16)
    return connection


def push(connection: socket.socket, data: bytes) -> int:
    """Send as much as the socket takes now; return the number of bytes."""
    taken = 0
    connection.setblocking(False)
    try:
        while taken < len(data):
            taken += connection.send(data[taken:])
    except OSError:  # it is full, or the daemon has hung up
        pass
    connection.settimeout(NO_LONGER)
    return taken


def say(connection: socket.socket, data: bytes) -> None:
    """Send everything, or as much as the daemon reads."""
    with suppress(OSError):
        connection.sendall(data)


def rest_of(connection: socket.socket) -> bytes:
    """Return everything that comes until the daemon hangs up."""
    received = b""
    try:
        while data := connection.recv(1 << 16):
            received += data
    except ConnectionResetError:
        pass
    return received


@contextmanager
def injected(pid: int, calls: str, fault: str, otherwise: str) -> Iterator[None]:
    """Inject a fault into system calls of a process and its children, with strace.

    If strace cannot do that, skip the test and say `otherwise`, which names what was not tried.
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
