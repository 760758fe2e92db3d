"""A scripted launcher on the launcher's real socket; every message is encoded and decoded."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
from collections.abc import Iterable
from pathlib import Path
from typing import TypeVar

from bgd.core.job import Outcome
from bgd.system import clock
from bgd.wire.framing import HEADER, frame
from bgd.wire.launching import (
    LAUNCHING_PROTOCOL,
    MAX_LAUNCHING_FRAME,
    AttemptEnded,
    AttemptKey,
    AttemptStarted,
    CheckAttempt,
    Checked,
    FromLauncher,
    Greeting,
    Ready,
    ToLauncher,
    Welcome,
    decode_to_launcher,
    encode,
)
from bgd.wire.limits import Abilities
from tests.daemon.waiting import soon

BOOT = clock.boot_id()
FIRST = f"{BOOT}:first"  # ids of launchers
SECOND = f"{BOOT}:second"
EARLIER_BOOT = "0b6c1e1f-earlier-boot:first"

T = TypeVar("T")


class ScriptedLauncher:
    """Sends what the test says and returns what it receives; it holds the lock, so no real one starts."""

    def __init__(self, state_dir: str) -> None:
        self._path = Path(state_dir, "launcher.sock")
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lock = os.open(self._path.with_name("launcher.lock"), os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        self._waiting: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = asyncio.Queue()
        self._connected: list[asyncio.StreamWriter] = []
        self._heard: asyncio.Queue[ToLauncher]
        self.answers: bool | None = True  # whether attempts are alive
        self._writer: asyncio.StreamWriter | None = None

    async def start(self) -> None:
        async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self._connected.append(writer)
            self._waiting.put_nowait((reader, writer))

        self._server = await asyncio.start_unix_server(accept, self._path)

    async def greet(
        self,
        *known: AttemptStarted | AttemptEnded,
        instance: str = FIRST,
        covers: Iterable[str] = (),
        protocol: int = LAUNCHING_PROTOCOL,
        abilities: Abilities | None = None,
        pid: int | None = None,
    ) -> Greeting:
        """Answer the next supervisor that connects, and report the `known` attempts to it."""
        await self.accept()
        greeting = await self.hear(Greeting)
        self.say(Welcome(protocol, instance, pid or os.getpid(), list(covers), abilities), *known, Ready())
        return greeting

    async def accept(self) -> None:
        """Talk to the next supervisor that connects, and hang up on the one before."""
        self.hang_up()
        reader, self._writer = await soon(self._waiting.get())
        self._heard = asyncio.Queue()
        self._reading = asyncio.get_running_loop().create_task(self._read(reader, self._heard))

    def say(self, *messages: FromLauncher) -> None:
        assert self._writer is not None
        for message in messages:
            self._writer.write(frame(encode(message), MAX_LAUNCHING_FRAME))

    def say_raw(self, data: bytes) -> None:
        assert self._writer is not None
        self._writer.write(data)

    async def hear(self, kind: type[T]) -> T:
        """Return the next message, which must be of this kind."""
        message = await self.next()
        assert isinstance(message, kind), message
        return message

    async def next(self) -> ToLauncher:
        return await soon(self._heard.get())

    async def _read(self, reader: asyncio.StreamReader, heard: asyncio.Queue[ToLauncher]) -> None:
        """Answer each CheckAttempt, unless `answers` is None; keep all other messages for `next`."""
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionResetError):
            while True:
                header = await reader.readexactly(HEADER)
                message = decode_to_launcher(await reader.readexactly(int.from_bytes(header, "big")))
                if not isinstance(message, CheckAttempt) or self.answers is None:
                    heard.put_nowait(message)
                else:
                    self.say(Checked(message.number, self.answers))

    def hang_up(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    async def hang_up_on_all(self) -> None:
        """Hang up on all supervisors, also on those that got no answer, and wait until they are gone."""
        self.hang_up()
        while self._connected:
            writer = self._connected.pop()
            writer.close()
            await soon(writer.wait_closed())
        while not self._waiting.empty():
            self._waiting.get_nowait()

    async def close(self) -> None:
        await self.hang_up_on_all()
        self._server.close()
        os.close(self._lock)


def end(key: AttemptKey, outcome: Outcome = Outcome.SUCCEEDED, exit_code: int | None = 0) -> AttemptEnded:
    return AttemptEnded(key=key, outcome=outcome, exit_code=exit_code, started_at=1.0, finished_at=2.0)
