"""A home whose daemon and launcher are killed and restarted, and the exit codes that its commands record."""

from __future__ import annotations

import itertools
import math
import os
import random
import re
import select
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from bgd import BgdError, Client, State
from bgd.wire.requests import MAX_LIST
from bgd.wire.views import JobView
from tests import forking
from tests.end_to_end.chaos import is_alive
from tests.support import DEADLINE, Home, wait_until

T = TypeVar("T")

SLOTS = 12
CONFIGURATION = f"""
[daemon]
slots = {SLOTS}
grace = "500ms"
"""
MARK = "WORLD_OF_AGENTS"  # a variable that tells its processes from all others
NO_DAEMON = 69  # the exit code of bgctl
_spawning = threading.Lock()  # a fork reads the umask by changing it, which all threads share


class World:
    """One user's home; `plant`: a folder whose `sitecustomize.py` puts a bug into daemon and bgctl.

    Attributes:
        gaps: when the daemon was killed, and when the next one served, on the monotonic clock.
        kills: how often which process was killed.
    """

    def __init__(self, folder: Path, plant: Path | None = None) -> None:
        self.home = Home(folder)
        self.home.configure(CONFIGURATION)
        self.truth = folder / "truth"
        self.truth.touch()
        self.env = {name: value for name, value in self.home.env.items() if not name.startswith(_OF_AGENTS)}
        del self.env["BGD_HTTP_LISTEN"]
        # with $BGD_SOCKET bgctl starts no daemon of its own
        self.env |= {"BGD_SOCKET": str(self.home.socket), MARK: str(folder)}
        if plant is not None:
            self.env["PYTHONPATH"] = f"{plant}:{self.env['PYTHONPATH']}"
        self.up = threading.Event()
        self.gaps: list[tuple[float, float]] = []
        self.kills = {"bgd": 0, "launcher": 0}
        self._pids = (0, 0)

    def spawn(
        self, program: str, arguments: tuple[str, ...], env: Mapping[str, str], streams: Mapping[int, int]
    ) -> Any:
        """Start bgctl or bgd in a process group of its own."""
        with _spawning:
            return forking.start(program, arguments, env, str(self.home.folder), streams, new_session=True)

    def start(self) -> None:
        """Start the daemon; return when it serves and has a launcher."""
        reading, writing = os.pipe()
        log = self.home.folder / "bgd.log"
        env = self.env | {"BGD_HTTP_LISTEN": "127.0.0.1:0"}
        with log.open("ab") as told, Path(os.devnull).open("rb") as nothing:
            streams = {0: nothing.fileno(), 1: told.fileno(), 2: told.fileno(), writing: writing}
            self._daemon = self.spawn("bgd", ("--ready-fd", str(writing)), env, streams)
        os.close(writing)
        with os.fdopen(reading) as pipe:
            ready = select.poll()
            ready.register(pipe, select.POLLIN)
            assert ready.poll(DEADLINE * 1000), "the daemon was not ready in time"
            assert pipe.readline() == "ready\n", log.read_text()
        wait_until(self._has_launcher)
        self.up.set()

    def _has_launcher(self) -> bool:
        """Note the pids of the daemon and its launcher; return whether the launcher is alive."""
        info = self._asked(Client.info)
        self._pids = info.pid, info.launcher_pid or 0
        return info.launcher_pid is not None and is_alive(info.launcher_pid)

    def kill(self, *victims: str) -> None:
        """Kill the daemon, the launcher or both, and start what is needed again."""
        self.gaps.append((time.monotonic(), math.inf))
        self.up.clear()
        for victim in victims:
            self.kills[victim] += 1
            with suppress(ProcessLookupError):
                os.kill(self._pids[victim == "launcher"], signal.SIGKILL)
        if "bgd" in victims:
            self._daemon.wait(DEADLINE)
            self.start()
        else:
            wait_until(self._has_launcher)
            self.up.set()
        self.gaps[-1] = self.gaps[-1][0], time.monotonic()

    @contextmanager
    def killing(self, seed: int, pauses: tuple[float, float]) -> Iterator[None]:
        """Kill daemon and launcher in turn, at random times, until the block ends."""
        dice, victims, stop = random.Random(seed), itertools.cycle(_VICTIMS), threading.Event()
        failures: list[Exception] = []

        def live() -> None:
            try:
                while not stop.wait(dice.uniform(*pauses)):
                    self.kill(*next(victims))
            except Exception as error:  # noqa: BLE001  raised again on the thread of the test
                failures.append(error)
                self.up.set()

        thread = threading.Thread(target=live)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
        if failures:
            raise failures[0]

    def was_down(self, began: float, ended: float) -> bool:
        """Return whether the daemon was down when a process started that lived from `began` to `ended`.

        A process that has a connection must continue with the next daemon.
        """
        return any(began < up and ended > down and began > down - _TIME_TO_CONNECT for down, up in self.gaps)

    def codes(self) -> dict[str, int]:
        """Return the exit codes that commands recorded before they ended, by job and by name."""
        rows = (line.split() for line in self.truth.read_text().splitlines())
        return {key: int(code) for *keys, code in rows for key in keys}

    def jobs(self, session: str | None = None) -> list[JobView]:
        """Return the jobs of a session as the daemon knows them, or all."""
        words = None if session is None else f"session:{session}"

        def pages(client: Client) -> list[JobView]:
            found: list[JobView] = []
            while page := client.jobs(
                states=tuple(State), words=words, before=found[-1].id if found else None, limit=MAX_LIST
            ):
                found += [job.view for job in page]
            return found

        return self._asked(pages)

    def is_silent(self, session: str) -> bool:
        """Return whether all jobs of a session have ended and its inbox is empty."""
        return all(job.finished_at for job in self.jobs(session)) and not self._asked(
            lambda client: client.inbox(session, peek=True)
        )

    def _asked(self, ask: Callable[[Client], T]) -> T:
        """Ask the daemon; if it is killed meanwhile, ask the next one."""
        deadline = time.monotonic() + DEADLINE
        while time.monotonic() < deadline:
            with suppress(BgdError), self.home.client() as client:
                return ask(client)
            self.up.wait(0.1)
        raise AssertionError("no daemon came up")

    def processes(self) -> list[str]:
        """Return the command lines of the living processes of agents and jobs."""
        found = []
        marked = f"\0{MARK}={self.home.folder}\0".encode()
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with suppress(OSError):
                    words = (entry / "cmdline").read_text().replace("\0", " ")
                    if marked in (entry / "environ").read_bytes() and not _SERVERS.search(words):
                        found.append(words)
        return found

    def stop(self) -> None:
        """End the daemon with all jobs."""
        self.home.shut_down()
        self._daemon.wait(DEADLINE)


_OF_AGENTS = ("CLAUDE", "CODEX", "TRACEPARENT")  # variables that would name a session to bgctl, or its span
_VICTIMS = [
    ("bgd", "launcher"),
    ("bgd",),
    ("launcher",),
    ("bgd",),
    ("bgd",),
]  # both first: a run may be short
_SERVERS = re.compile(r" -m bgd(\.launcher)? ")
_TIME_TO_CONNECT = 2.0  # seconds from the start of bgctl on a busy machine
