"""The supervisor's end of the launcher's socket: finds the launcher or starts one, greets it, hears it."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Protocol

from msgspec import Struct

from bgd import clock
from bgd.daemon.storage.store import Store
from bgd.errors import BgdError, ProtocolError
from bgd.paths import lock_error
from bgd.wire.framing import FrameReader, frame
from bgd.wire.launching import (
    MAX_GENERATION,
    MAX_LAUNCHING_FRAME,
    OLDEST_LAUNCHING_PROTOCOL,
    Abilities,
    AttemptEnded,
    AttemptKey,
    AttemptStarted,
    Declined,
    FromLauncher,
    Goodbye,
    Greeting,
    LogGrew,
    Ready,
    ToLauncher,
    Welcome,
    decode_from_launcher,
    encode,
    protocol_of,
)

logger = logging.getLogger(__name__)

FIRST_PAUSE = 0.1  # seconds before a launcher that ended at once is started again, doubled each time
LONGEST_PAUSE = 30.0
LONGEST_WAIT = 1.0  # before a launcher is looked for again that somebody else starts
LAUNCHER_PATIENCE = 10.0  # seconds that a launcher may take before its absence is a problem
PARTING_SECONDS = 5.0  # for what was sent to get out


class LauncherSnapshot(Struct, frozen=True):
    """What a launcher knows at the moment it is greeted."""

    instance: str
    covers: frozenset[str]
    started: dict[AttemptKey, AttemptStarted]
    ended: list[AttemptEnded]


class DatabaseOutdated(BgdError):
    """The launcher has heard of later events than the database holds: it is an older copy."""

    def __init__(self, position: int) -> None:
        super().__init__(f"the launcher has heard of event {position}, which the database does not have")
        self.position = position


class LauncherListener(Protocol):
    """Who is told what the launcher says: the Supervisor."""

    def launcher_ready(self, snapshot: LauncherSnapshot) -> None: ...
    def launcher_lost(self) -> None: ...
    def attempt_started(self, started: AttemptStarted) -> None: ...
    def attempt_ended(self, ended: AttemptEnded) -> None: ...
    def log_grew(self, grew: LogGrew) -> None: ...


class LauncherLink:
    """The connection to the one launcher of a state folder, for as long as the daemon lives."""

    def __init__(
        self, state_dir: str, log_dir: str, store: Store, generation: int, *, is_service: bool = False
    ) -> None:
        """Serve a store's folders; `is_service`: the launcher is waited for, and never started from here."""
        self._state_dir = Path(state_dir)
        self._is_service = is_service
        self._log_dir = log_dir
        self._store = store
        self._generation = generation
        # until a launcher has been found to know nothing later: what is submitted meanwhile proves nothing
        self._first_position: int | None = store.position
        self._connection: _Connection | None = None
        self._is_ending = False
        self._child: subprocess.Popen[bytes] | None = None
        self.problem = ""  # why no launcher is connected, as it was last said
        self.looking_since = clock.elapsed()  # for one that answers, unless it is connected
        self._has_tried = asyncio.Event()  # to reach one, with whatever success
        self.instance = ""  # of the launcher last greeted
        self.pid: int | None = None
        self.protocol = OLDEST_LAUNCHING_PROTOCOL  # that it speaks
        self.abilities: Abilities | None = None  # None: not known, or it can set no limits

    @property
    def is_connected(self) -> bool:
        """Whether a launcher is there to be told."""
        connection = self._connection
        return connection is not None and connection.is_ready and not connection.is_closing

    @property
    def obstacle(self) -> str | None:
        """Why nothing can start; None: there is or was a moment ago a launcher, or one is being started."""
        if not self.problem or self.is_connected or clock.elapsed() - self.looking_since < _A_MOMENT:
            return None
        return f"there is no launcher: {self.problem}"

    async def wait_until_absent(self) -> None:
        """Return once there has been no launcher for so long that none is to be expected."""
        while True:
            if self.is_connected and (connection := self._connection) is not None:
                await connection.lost.wait()
            left = self.looking_since + LAUNCHER_PATIENCE - clock.elapsed()
            if left <= 0 and not self.is_connected:
                return
            await asyncio.sleep(max(left, FIRST_PAUSE))

    async def run(self, listener: LauncherListener) -> None:
        """Keep a launcher connected; whenever there is none, start one, or wait for the service."""
        pause = FIRST_PAUSE
        longest = LONGEST_WAIT if self._is_service else LONGEST_PAUSE
        while not self._is_ending:
            if await self._serve(listener):
                pause = FIRST_PAUSE
                if not self._is_ending:
                    logger.warning("the launcher is gone; looking for another")
            else:
                await asyncio.sleep(pause)
                pause = min(pause * 2, longest)

    def send(self, message: ToLauncher) -> bool:
        """Send, and say whether there is somebody to send to."""
        if self._connection is None or not self.is_connected:
            return False
        self._connection.send(message)
        return True

    def supports(self, message: ToLauncher) -> bool:
        """Say whether the launcher last greeted would do as the message says; an older one might not (R7).

        A launcher is replaced only when bgd is started while no job runs.
        """
        return protocol_of(message) <= self.protocol

    async def stop_launcher(self) -> None:
        """Tell the launcher to end, which ends all jobs first; return once it has told how they ended."""
        self._is_ending = True
        connection = self._connection
        if connection is None or self.pid is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGTERM)
        await connection.lost.wait()

    async def say_goodbye(self) -> None:
        """Tell the launcher that this daemon ends in good order, and hang up once it is told.

        Only after `run` was cancelled. A launcher that is stopped is not waited for.
        """
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.send(Goodbye())  # also to one that has not answered yet: it reads in order
            connection.hang_up()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(connection.lost.wait(), PARTING_SECONDS)

    async def _serve(self, listener: LauncherListener) -> bool:
        """Greet one launcher and pass on what it says until it is gone. False: it never answered."""
        connection = _Connection(self, listener)
        try:
            await self._connect(connection)
        except (OSError, BgdError) as error:
            self._report_problem(str(error))
            return False
        self._connection = connection
        connection.send(self._greeting())
        await connection.lost.wait()
        self._connection = None
        if connection.is_ready:
            self.looking_since = clock.elapsed()
            self.problem = ""
            listener.launcher_lost()
        elif connection.position > self._position:
            raise DatabaseOutdated(connection.position)
        elif connection.declined is not None:
            await self._raise_generation(connection.declined)
        else:
            self._report_problem("it hung up without an answer")
        return connection.is_ready

    def _greeting(self) -> Greeting:
        protocol = OLDEST_LAUNCHING_PROTOCOL
        return Greeting(protocol, self._store.store_id, self._generation, self._position)

    @property
    def _position(self) -> int:
        return self._store.position if self._first_position is None else self._first_position

    def accept_position(self, position: int) -> bool:
        """Say whether the database holds all events up to this position, the highest a launcher heard of."""
        if position > self._position:
            return False
        self._first_position = None
        return True

    async def _raise_generation(self, declined: Declined) -> None:
        """Take a higher generation than that of whoever greeted the launcher, unless it is a younger bgd.

        Nothing else than a supervisor of this database should have: but any process of this user can.
        """
        if declined.generation < self._generation:  # it is another reason, or an older launcher
            self._report_problem(f"it declined: {declined.problem}{'' if declined.generation else _OF_OLD}")
        elif await self._store.generation() > self._generation:
            self._report_problem(
                "it works for another bgd that has this database open as well: stop one of them"
            )
        elif declined.generation > MAX_GENERATION:
            self._report_problem(f"it obeys generation {declined.generation}, and there is no higher one")
        else:
            self._generation = await self._store.begin_generation(declined.generation)
            logger.warning(
                "launcher: somebody else greeted it as generation %d; going on as generation %d",
                declined.generation,
                self._generation,
            )

    def launcher_answered(self) -> None:
        """Take it that a launcher has answered, and knows nothing later than the database."""
        self._has_tried.set()

    async def wait_until_tried(self, seconds: float) -> None:
        """Return when a launcher has answered or cannot be reached, or after so many seconds."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._has_tried.wait(), seconds)

    def _report_problem(self, problem: str) -> None:
        """Say why no launcher is connected; once, however often it is tried."""
        self._has_tried.set()
        if problem != self.problem:
            logger.error("launcher: %s; trying until one answers", problem)
        self.problem = problem

    async def _connect(self, connection: _Connection) -> None:
        path = str(self._state_dir / "launcher.sock")
        loop = asyncio.get_running_loop()
        try:
            await loop.create_unix_connection(lambda: connection, path)
        except (FileNotFoundError, ConnectionRefusedError) as error:
            if self._is_service:
                raise BgdError(f"none listens at {path}: is bgd-launcher.service running?") from error
            self._start(path)
            await loop.create_unix_connection(lambda: connection, path)

    def _start(self, path: str) -> None:
        """Start a launcher that holds the lock and the listening socket from its first instant (R6)."""
        lock_fd = os.open(self._state_dir / "launcher.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise BgdError(
                    "launcher.lock is held by a launcher that does not listen any more: it is ending"
                ) from None
            except OSError as error:
                raise lock_error(self._state_dir / "launcher.lock", error) from error
            if self._child is not None:
                self._child.wait()  # it held the lock, so it is dead: reap it
            with _listen(path) as listening:
                self._child = subprocess.Popen(
                    self._argv(lock_fd, listening.fileno()),
                    pass_fds=(lock_fd, listening.fileno()),
                    stdin=subprocess.DEVNULL,
                    start_new_session=True,
                )
        finally:
            os.close(lock_fd)

    def _argv(self, lock_fd: int, listen_fd: int) -> list[str]:
        # -P: the folder it happens to be started in must not provide modules
        program = [sys.executable, "-P", "-m", "bgd.launcher"]
        folders = ["--state", str(self._state_dir), "--logs", self._log_dir]
        return [*program, *folders, "--lock-fd", str(lock_fd), "--listen-fd", str(listen_fd)]


_A_MOMENT = 2.0  # seconds in which a service manager has started another launcher

_OF_OLD = (
    " (a launcher of an earlier bgd cannot tell whether the database is an older copy; if it is, stop bgd,"
    " rename it, and restore it with bgd --recover FILE)"
)


class _Connection(asyncio.Protocol):
    """One connection: collects the snapshot, then passes each message on."""

    def __init__(self, link: LauncherLink, listener: LauncherListener) -> None:
        self._link = link
        self._listener = listener
        self._reader = FrameReader(MAX_LAUNCHING_FRAME)
        self._transport: asyncio.Transport | None = None
        self._unsaid: list[bytes] = []
        self._welcome: Welcome | None = None
        self._started: dict[AttemptKey, AttemptStarted] = {}
        self._ended: list[AttemptEnded] = []
        self.declined: Declined | None = None
        self.position = 0  # the highest that the launcher has heard of, where it is too high
        self.is_ready = False
        self.lost = asyncio.Event()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # of a stream
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self._transport = None
        self.lost.set()

    def data_received(self, data: bytes) -> None:
        try:
            for payload in self._reader.feed(data):
                self._take(decode_from_launcher(payload))
        except ProtocolError as error:
            logger.error("launcher: %s; closing the connection", error)  # noqa: TRY400
            if self._transport is not None:
                self._transport.abort()

    @property
    def is_closing(self) -> bool:
        return self._transport is None or self._transport.is_closing()

    def send(self, message: ToLauncher) -> None:
        """Send, with all else that is sent in this turn of the loop: each write wakes the launcher up."""
        if not self._unsaid:
            asyncio.get_running_loop().call_soon(self._speak)
        self._unsaid.append(frame(encode(message), MAX_LAUNCHING_FRAME))

    def hang_up(self) -> None:
        """Say no more; the other end closes once it has read everything, so nothing of it is lost."""
        self._speak()
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write_eof()

    def _speak(self) -> None:
        unsaid, self._unsaid = self._unsaid, []
        # it may be gone a moment before anybody hears of it, and uvloop raises at a write to what is closed
        if unsaid and self._transport is not None and not self._transport.is_closing():
            self._transport.write(b"".join(unsaid))

    def _take(self, message: FromLauncher) -> None:
        match message:
            case Welcome():
                self._welcome = message
            case Declined():
                self.declined = message
                self.position = message.position
            case Ready():
                self._be_ready()
            case AttemptStarted() if self.is_ready:
                self._listener.attempt_started(message)
            case AttemptStarted():
                self._started[message.key] = message
            case AttemptEnded() if self.is_ready:
                self._listener.attempt_ended(message)
            case AttemptEnded():
                self._ended.append(message)
            case LogGrew():
                self._listener.log_grew(message)

    def _be_ready(self) -> None:
        if self._welcome is None:
            raise ProtocolError("it is ready without a welcome")
        if not self._link.accept_position(self._welcome.position):
            self.position = self._welcome.position
            raise ProtocolError("it has heard of later events than the database holds")
        self.is_ready = True
        self._link.launcher_answered()
        self._link.instance = self._welcome.instance
        self._link.pid = self._welcome.pid
        self._link.protocol = self._welcome.protocol
        self._link.abilities = self._welcome.abilities
        covers = frozenset(self._welcome.covers)
        self._listener.launcher_ready(
            LauncherSnapshot(self._welcome.instance, covers, self._started, self._ended)
        )


def _listen(path: str) -> socket.socket:
    """Bind a fresh listening socket, private from its birth; the caller holds the lock that allows it."""
    Path(path).unlink(missing_ok=True)
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)
    try:
        listening.bind(path)
        listening.listen()
    except OSError:
        listening.close()
        raise
    finally:
        os.umask(before)
    return listening
