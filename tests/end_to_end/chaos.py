"""A daemon that a test can kill and restart, and clients that survive that."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import closing
from pathlib import Path
from typing import Self

from bgd import __version__
from bgd.wire.framing import FrameReader, frame
from bgd.wire.messages import PROTOCOL, Hello, decode_hello, decode_reply, encode
from bgd.wire.replies import AttemptsPart, End, Info, JobsPart, Reply, Shown
from bgd.wire.requests import GetInfo, Request, Show, Wait
from bgd.wire.views import AttemptView, JobView
from tests import forking
from tests.support import ROOT

WAIT_SECONDS = 60.0
MOST_WAITED_FOR = 10_000  # jobs in one request


class Gone(Exception):
    """The daemon went away before it answered."""


class Caller:
    """A connection with plain blocking calls, so that no client library is between test and daemon."""

    def __init__(self, path: Path) -> None:
        import socket

        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(WAIT_SECONDS)
        self._reader = FrameReader()
        self._payloads: list[bytes] = []
        try:
            self._socket.connect(str(path))
            self._socket.sendall(frame(encode(Hello(PROTOCOL, __version__, "chaos"))))
        except OSError as error:
            self.close()
            raise Gone from error
        decode_hello(self._next())

    def ask(self, request: Request) -> Reply:
        try:
            self._socket.sendall(frame(encode(request)))
        except OSError as error:
            self.close()
            raise Gone from error
        return self.next()

    def next(self) -> Reply:
        return decode_reply(self._next())

    def show(self, job: int) -> tuple[JobView, list[AttemptView]]:
        shown = self.ask(Show(1, job))
        assert isinstance(shown, Shown), shown
        attempts: list[AttemptView] = []
        while isinstance(part := self.next(), AttemptsPart):
            attempts += part.attempts
        return shown.job, attempts

    def wait(self, jobs: list[int]) -> None:
        """Return when all these jobs have finished."""
        for start in range(0, len(jobs), MOST_WAITED_FOR):
            reply = self.ask(Wait(1, jobs[start : start + MOST_WAITED_FOR]))
            while not isinstance(reply, End):
                assert isinstance(reply, JobsPart), reply
                reply = self.next()

    def close(self) -> None:
        self._socket.close()

    def _next(self) -> bytes:
        while not self._payloads:
            try:
                data = self._socket.recv(1 << 16)
            except OSError:
                data = b""
            if not data:
                self.close()
                raise Gone
            self._payloads.extend(self._reader.feed(data))
        return self._payloads.pop(0)


class Rig:
    """A daemon in its own folder, which the test can kill and restart."""

    def __init__(self, folder: Path, slots: int = 16, more: str = "", state: Path | None = None) -> None:
        state = state or folder / "state"
        self.folder = folder
        self.socket = state / "bgd.sock"
        self.config = folder / "bgd.toml"
        self.config.write_text(
            f'[daemon]\nstate_dir = "{state}"\nslots = {slots}\ngrace = "500ms"\n'
            f'[retry.commands]\ndelay = "100ms"\n{more}'
        )
        self._log = (folder / "log").open("ab")
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, source: Path = ROOT) -> None:
        """Start the bgd whose source is in this folder; return when it serves."""
        ready, told = os.pipe()
        arguments = ["--config", str(self.config), "--ready-fd", str(told)]
        env = os.environ | {"PYTHONPATH": str(source)}  # for its launcher
        if source == ROOT:
            streams = {0: 0, 1: 1, 2: self._log.fileno(), told: told}
            self._process = forking.start("bgd", arguments, env, str(source), streams)
        else:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "bgd", *arguments],
                cwd=source,
                env=env,
                pass_fds=[told],
                stderr=self._log,
            )
        os.close(told)
        with os.fdopen(ready) as pipe:
            line = pipe.readline()
        assert line == "ready\n", f"{line!r}: see {self.folder}/log"

    def kill(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def stop(self) -> None:
        """Stop the daemon cleanly; its jobs keep running."""
        assert self._process is not None
        self._process.terminate()
        assert self._process.wait(WAIT_SECONDS) == 0

    def take(self, process: subprocess.Popen[bytes]) -> None:
        """Adopt a daemon that somebody else started; return when it answers."""
        self._process = process
        while True:
            try:
                self.launcher_pid()
            except Gone:
                assert process.poll() is None, f"see {self.folder}/log"
                select.select([], [], [], 0.05)
            else:
                return

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def launcher_pid(self) -> int:
        """Wait until the daemon has a launcher; return the launcher's pid."""
        with closing(Caller(self.socket)) as caller:
            return self._launcher_pid(caller)

    @staticmethod
    def _info(caller: Caller) -> Info:
        info = caller.ask(GetInfo(1))
        assert isinstance(info, Info)
        return info

    def _launcher_pid(self, caller: Caller) -> int:
        deadline = time.monotonic() + WAIT_SECONDS
        while time.monotonic() < deadline:
            info = self._info(caller)
            if info.launcher_pid and is_alive(info.launcher_pid):
                return info.launcher_pid
            select.select([], [], [], 0.01)
        raise AssertionError("no launcher came up")

    def close(self) -> None:
        """End daemon and launcher, whatever state they are in."""
        if self._process is not None and self._process.poll() is None:
            pid = self.launcher_pid()
            self.kill()
            os.kill(pid, signal.SIGTERM)
        self._log.close()


def is_alive(pid: int) -> bool:
    """Return whether a process exists and was not killed."""
    try:
        return not is_dying(*(Path(f"/proc/{pid}", name).read_text() for name in ("stat", "status")))
    except OSError:
        return False


def is_dying(stat: str, status: str) -> bool:
    """Return whether a process runs no program any more: it was killed, and the kernel is removing it."""
    flags = int(stat.rpartition(")")[2].split()[6])
    pending = [
        int(line.split()[1], 16) for line in status.splitlines() if line.startswith(("SigPnd", "ShdPnd"))
    ]
    return bool(flags & PF_EXITING) or any(each & 1 << (signal.SIGKILL - 1) for each in pending)


PF_EXITING = 4  # linux/sched.h


class ClientThreads:
    """Runs each client on its own thread until the block ends; then each client's Event is set."""

    def __init__(self, clients: Iterable[Callable[[threading.Event], None]]) -> None:
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=live, args=(self._stop,)) for live in clients]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def run_for(self, seconds: float) -> None:
        """Let the clients run: the time of a kill is random, so nothing can be waited for."""
        self._stop.wait(seconds)
