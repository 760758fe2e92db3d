"""Launching: the daemon's connection to the launcher: finds or starts it, greets it, reads its reports."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import itertools
import logging
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from msgspec import Struct

from bgd.daemon.folder import bind_unix_socket
from bgd.daemon.storage.store import Store, begin_generation, generation
from bgd.errors import BgdError, ProtocolError, Refused
from bgd.launcher.journal import read as read_journal
from bgd.settings.paths import lock_error
from bgd.system import clock
from bgd.system.frames import FrameWriter
from bgd.wire import launching
from bgd.wire.framing import FrameReader, frame
from bgd.wire.launching import (
    AttemptEnded,
    AttemptKey,
    AttemptStarted,
    AttemptUsage,
    FromLauncher,
    ToLauncher,
    encode,
)
from bgd.wire.limits import Abilities

if TYPE_CHECKING:
    from bgd.daemon.supervisor import Supervisor

logger = logging.getLogger(__name__)

FIRST_PAUSE = 0.1  # seconds until the next try to reach or start a launcher, doubled after each try
LONGEST_PAUSE = 30.0
LONGEST_SERVICE_PAUSE = 1.0  # likewise, if a service manager starts the launcher
LAUNCHER_PATIENCE = 10.0  # seconds without a launcher until its absence is a problem
GOODBYE_SECONDS = 5.0  # for the last messages to be read
ALONE_SECONDS = 5.0  # for a launcher to answer a message that is sent alone
_BACKLOG = 16  # connections
_ABOUT_USAGE = 0  # number of the question what attempts use; those about single attempts count from 1
_RESTART_SECONDS = 2.0  # in which a service manager starts the next launcher


class LauncherLink:
    """The connection to the one launcher of a state folder, for the daemon's whole life.

    Attributes:
        problem: why no launcher is connected, as last logged; empty if nothing was logged.
        looking_since: the elapsed time since which no launcher is connected.
        instance, pid, protocol: of the launcher that was greeted last.
        abilities: the limits it can enforce; None if it is unknown or there are none.
    """

    def __init__(
        self, state_dir: str, log_dir: str, store: Store, generation: int, *, is_service: bool = False
    ) -> None:
        """Take the folders of a store; with `is_service`, wait for the launcher and never start one."""
        self._state_dir = Path(state_dir)
        self._is_service = is_service
        self._log_dir = log_dir
        self._store = store
        self._generation = generation
        # The store's position at the start, until a launcher has shown that it knows nothing later: jobs that
        # are submitted meanwhile move the store's position, but do not prove that it is up to date
        self._first_position: int | None = store.position
        self._connection: _Connection | None = None
        self._is_ending = False
        self._child: subprocess.Popen[bytes] | None = None
        self._was_stopped = False
        self._to_hold: Held | None = None
        self._questions: dict[int, asyncio.Future[Any]] = {}  # that the launcher has not answered
        self._numbers = itertools.count(_ABOUT_USAGE + 1)
        self._has_tried = asyncio.Event()  # to reach a launcher, with or without success
        self.problem = ""
        self.looking_since = clock.elapsed()
        self.instance = ""
        self.pid: int | None = None
        self.protocol = launching.OLDEST_LAUNCHING_PROTOCOL
        self.abilities: Abilities | None = None

    @property
    def is_connected(self) -> bool:
        """Whether a launcher is connected and ready."""
        connection = self._connection
        return connection is not None and connection.is_ready and not connection.is_closing

    @property
    def starts_jobs(self) -> bool:
        """Whether a launcher is connected that no signal has stopped."""
        return self.is_connected and not self._is_stopped()

    @property
    def obstacle(self) -> str | None:
        """Why nothing can start: there is no launcher, or a signal such as SIGSTOP has stopped it."""
        if self.is_connected and self._is_stopped():
            return f"the launcher (process {self.pid}) is stopped; kill -CONT {self.pid} continues it"
        return self.absence

    @property
    def absence(self) -> str | None:
        """Why there is no launcher; None if there is one, was one a moment ago, or one is being started."""
        if not self.problem or self.is_connected or self._patience_left > 0:
            return None
        return f"there is no launcher: {self.problem}"

    def _is_stopped(self) -> bool:
        """Look at the process, and log a change."""
        was_stopped, self._was_stopped = self._was_stopped, False
        with contextlib.suppress(OSError):  # it is gone
            self._was_stopped = b"\nState:\tT" in Path(f"/proc/{self.pid}/status").read_bytes()
        if self._was_stopped and not was_stopped:
            logger.error("the launcher (process %s) is stopped, so no job starts: kill -CONT it", self.pid)
        elif was_stopped and not self._was_stopped:
            logger.warning("the launcher (process %s) is no longer stopped", self.pid)
        return self._was_stopped

    @property
    def _patience_left(self) -> float:
        """The seconds until a missing launcher counts as an obstacle."""
        return max(self.looking_since + _RESTART_SECONDS - clock.elapsed(), 0.0)

    async def wait_until_absent(self) -> None:
        """Wait until the launcher has been missing for too long to expect one."""
        while True:
            if self.is_connected and (connection := self._connection) is not None:
                await connection.lost.wait()
            left = self.looking_since + LAUNCHER_PATIENCE - clock.elapsed()
            if left <= 0 and not self.is_connected:
                return
            await asyncio.sleep(max(left, FIRST_PAUSE))

    async def run(self, listener: Supervisor) -> None:
        """Keep a launcher connected; if there is none, start one or wait for the service."""
        longest = LONGEST_SERVICE_PAUSE if self._is_service else LONGEST_PAUSE
        pauses = clock.doubling(FIRST_PAUSE, longest)
        while not self._is_ending:
            if await self._serve(listener):
                pauses = clock.doubling(FIRST_PAUSE, longest)
                if not self._is_ending:
                    logger.warning("the launcher is gone; looking for another")
            else:
                # its absence is then an obstacle, which watchers must learn
                look = listener.subscriptions.look_soon
                asyncio.get_running_loop().call_later(self._patience_left, look)
                await asyncio.sleep(next(pauses))

    def send(self, message: ToLauncher) -> bool:
        """Send a message at the end of this turn of the loop; return False if no launcher is ready for it."""
        connection = self._connection
        if connection is None or not connection.is_ready or connection.is_closing:
            return False
        connection.frames.send(encode(message))
        return True

    def flush(self) -> None:
        """Write at once what was sent in this turn of the loop."""
        if self._connection is not None:
            self._connection.frames.flush()

    def ask(self, key: AttemptKey, *, settled: bool = False) -> asyncio.Future[bool | None]:
        """Ask the launcher whether an attempt has not ended; None: no launcher is connected.

        `settled`: as in CheckAttempt.
        """
        question = launching.CheckAttempt(key, next(self._numbers), settled)
        return self._ask(question, question.number)

    def ask_usage(self) -> asyncio.Future[list[AttemptUsage] | None]:
        """Ask the launcher what running attempts use; None: no launcher is connected.

        Requests that come before the answer share it.
        """
        return self._questions.get(_ABOUT_USAGE) or self._ask(launching.MeasureUsage(), _ABOUT_USAGE)

    def _ask(self, question: ToLauncher, number: int) -> asyncio.Future[Any]:
        """Return the answer to a question, None without a launcher."""
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        if self.send(question):
            self._questions[number] = answer
        else:
            answer.set_result(None)
        return answer

    def answer(self, number: int, result: object) -> None:
        """Deliver the answer to a question, None: there will be none."""
        answer = self._questions.pop(number, None)
        if answer is not None and not answer.done():
            answer.set_result(result)

    @property
    def has_started_launcher(self) -> bool:
        """Whether this daemon started the launcher, which then holds nothing of an earlier daemon."""
        return self._child is not None

    async def held_sockets(self) -> Held:
        """Return the sockets that the launcher holds from an earlier daemon; none if no launcher is ready."""
        return await asyncio.to_thread(self._trade) if self.is_connected else NOTHING_HELD

    async def hold_sockets(self, held: Held) -> None:
        """Give sockets to this launcher and any later one, so that they outlive this daemon."""
        self._to_hold = held
        await asyncio.to_thread(self._give_sockets)

    async def open_keyboard(self, key: AttemptKey) -> tuple[socket.socket, int] | None:
        """Return a keyboard of an attempt's terminal, and the size of its log; None: it has no terminal now.

        Raises:
            Refused: the launcher does not answer, or the terminal has too many.
        """
        if not self.is_connected:
            return None
        request, refusal = launching.OpenKeyboard(key), f"job {key.job} has no keyboard now"
        if (obstacle := self.obstacle) is not None:
            raise Refused(f"{refusal}: {obstacle}")
        try:
            async with asyncio.timeout(ALONE_SECONDS):
                with self._asked(request, timeout=0.0) as connection:
                    await _readable(connection)
                    answer, fds, *_ = socket.recv_fds(
                        connection, launching.MAX_KEYBOARD_ANSWER, 1, socket.MSG_CMSG_CLOEXEC
                    )
        except TimeoutError:
            raise Refused(f"{refusal}: the launcher does not answer") from None
        except OSError as error:
            raise Refused(f"{refusal}: the launcher: {error}") from error
        if fds:
            return socket.socket(fileno=fds[0]), int(answer)
        if answer:
            raise Refused(f"{refusal}: {answer.decode()}")
        return None

    @contextlib.contextmanager
    def _asked(self, message: ToLauncher, timeout: float) -> Iterator[socket.socket]:
        """Yield a connection with this timeout on which a message was sent that is sent alone.

        Raises:
            OSError: the launcher is gone, or does not answer in time.
        """
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(timeout)
            connection.connect(str(self._state_dir / "launcher.sock"))
            connection.sendall(frame(encode(message), launching.MAX_LAUNCHING_FRAME))
            yield connection

    def _give_sockets(self) -> None:
        for replaced in self._trade().sockets:
            replaced.close()

    def _trade(self) -> Held:
        held, fds = launching.NO_SOCKETS, list[int]()
        if not self.is_connected:
            return NOTHING_HELD  # without a launcher the sockets end with this daemon
        try:
            with self._asked(launching.TradeSockets(), ALONE_SECONDS) as connection:
                held, fds, *_ = socket.recv_fds(
                    connection, launching.MAX_SOCKETS_PACKET, launching.MAX_HELD_SOCKETS
                )
                if self._to_hold is not None:
                    numbers = [each.fileno() for each in self._to_hold.sockets]
                    socket.send_fds(connection, [self._to_hold.packet], numbers)
        except OSError as error:
            logger.warning("the launcher does not hold the sockets of the pages: %s", error)
        sockets = [listening for fd in fds if (listening := _listening_socket(fd))]
        if len(sockets) < len(fds):  # any program of this user can have given the launcher something else
            for each in sockets:
                each.close()
            return NOTHING_HELD
        return Held(held, sockets)

    async def stop_launcher(self) -> None:
        """Stop the launcher, which first stops all jobs; wait until it has reported their ends."""
        self._is_ending = True
        connection = self._connection
        if connection is None or self.pid is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGTERM)
        await connection.lost.wait()

    async def say_goodbye(self) -> None:
        """Announce an orderly end to the launcher, then close the connection.

        Call it only after `run` was cancelled. A launcher that is stopped and does not read delays this
        by GOODBYE_SECONDS at most.
        """
        connection, self._connection = self._connection, None
        if connection is not None:
            # a launcher that has not answered yet gets it, too: it reads in order
            connection.frames.send(encode(launching.Goodbye(self._store.store_id, self._position)))
            connection.hang_up()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(connection.lost.wait(), GOODBYE_SECONDS)

    def accept(self, welcome: launching.Welcome) -> bool:
        """Take a launcher that has answered; return False if it knows later events than the database."""
        if welcome.position > self._position:
            return False
        self._first_position = None
        self._has_tried.set()
        self.instance, self.pid = welcome.instance, welcome.pid
        self.protocol, self.abilities = welcome.protocol, welcome.abilities
        return True

    def hold_again(self) -> None:
        """Give a launcher that has just connected what `hold_sockets` was given."""
        if self._to_hold is not None:
            asyncio.get_running_loop().run_in_executor(None, self._give_sockets)

    async def wait_until_tried(self, seconds: float) -> None:
        """Wait until a launcher has answered or could not be reached, or for this many seconds."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._has_tried.wait(), seconds)

    async def _serve(self, listener: Supervisor) -> bool:
        """Greet one launcher and pass on its messages until it is gone; return False if it never answered."""
        connection = _Connection(self, listener)
        try:
            await self._connect(connection)
        except (OSError, BgdError) as error:
            self._report_problem(str(error))
            return False
        self._connection = connection
        connection.frames.send(encode(self._greeting()))
        await connection.lost.wait()
        self._connection = None
        for number in list(self._questions):
            self.answer(number, None)
        if connection.is_ready:
            self.looking_since = clock.elapsed()
            self.problem = ""
            listener.launcher_lost()
        elif connection.position > self._position:
            raise DatabaseOutdated(connection.position)
        elif connection.declined is not None:
            await self._raise_generation(connection.declined)
        else:
            self._report_problem("it closed the connection without an answer")
        return connection.is_ready

    def _greeting(self) -> launching.Greeting:
        oldest, newest = launching.OLDEST_LAUNCHING_PROTOCOL, launching.LAUNCHING_PROTOCOL
        return launching.Greeting(oldest, self._store.store_id, self._generation, self._position, newest)

    @property
    def _position(self) -> int:
        return self._store.position if self._first_position is None else self._first_position

    async def _raise_generation(self, declined: launching.Declined) -> None:
        """Take a higher generation than the one the launcher obeys, unless that one is a newer bgd's.

        Only a supervisor of this database should have greeted the launcher, but any process of this user can.
        """
        if declined.generation < self._generation:  # another reason
            self._report_problem(f"it declined: {declined.problem}")
        elif await self._store.read(generation) > self._generation:
            self._report_problem("it serves another bgd with the same database: stop one of them")
        elif declined.generation > launching.MAX_GENERATION:
            self._report_problem(f"it obeys generation {declined.generation}, and there is no higher one")
        else:
            self._generation = await self._store.write(begin_generation, declined.generation)
            logger.warning(
                "launcher: another process greeted it as generation %d; continuing as generation %d",
                declined.generation,
                self._generation,
            )

    def _report_problem(self, problem: str) -> None:
        """Log why no launcher is connected, once until the reason changes."""
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
                raise BgdError(f"no launcher listens at {path}: is bgd-launcher.service running?") from error
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
                    "launcher.lock is held by a launcher that no longer listens: it is ending"
                ) from None
            except OSError as error:
                raise lock_error(self._state_dir / "launcher.lock", error) from error
            if self._child is not None:
                self._child.wait()  # it held the lock, so it is dead: reap it
            with bind_unix_socket(Path(path), umask=0o177, backlog=_BACKLOG) as listening:
                self._child = subprocess.Popen(
                    self._argv(lock_fd, listening.fileno()),
                    pass_fds=(lock_fd, listening.fileno()),
                    stdin=subprocess.DEVNULL,
                    start_new_session=True,
                )
        finally:
            os.close(lock_fd)

    def _argv(self, lock_fd: int, listen_fd: int) -> list[str]:
        # -P: the current folder must not provide modules
        program = [sys.executable, "-P", "-m", "bgd.launcher"]
        folders = ["--state", str(self._state_dir), "--logs", self._log_dir]
        return [*program, *folders, "--lock-fd", str(lock_fd), "--listen-fd", str(listen_fd)]


def journal_positions(state_dir: str) -> dict[str, int]:
    """Return the newest event that the launcher has noted of each store, even if no launcher runs."""
    with contextlib.suppress(OSError):  # it answers what it knows when it is greeted
        return read_journal(Path(state_dir, "launcher.journal")).positions
    return {}


async def _readable(connection: socket.socket) -> None:
    """Wait until something has arrived, without a thread: a launcher that hangs must not hold many."""
    loop, arrived = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(connection, arrived.set)
    try:
        await arrived.wait()
    finally:
        loop.remove_reader(connection)


def _listening_socket(fd: int) -> socket.socket | None:
    """Return the socket of a descriptor; close what does not listen and return None."""
    os.set_inheritable(fd, False)
    try:
        opened = socket.socket(fileno=fd)
    except OSError:  # no socket
        os.close(fd)
        return None
    if opened.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        return opened
    opened.close()
    return None


class Held(NamedTuple):
    """Listening sockets, and what a later daemon needs to know about them."""

    packet: bytes
    sockets: list[socket.socket]


NOTHING_HELD = Held(launching.NO_SOCKETS, [])


class LauncherSnapshot(Struct, frozen=True):
    """The snapshot of a launcher after a greeting.

    `instance`: its id. `covers`: ids of earlier launchers whose attempts it knows. `started`: attempts that
    run. `ended`: ends that were not acknowledged.
    """

    instance: str
    covers: frozenset[str]
    started: dict[AttemptKey, AttemptStarted]
    ended: list[AttemptEnded]

    def knows(self, launcher: str) -> bool:
        """Return whether it has all attempts that a launcher has begun and not ended for good."""
        return launcher == self.instance or launcher in self.covers


class DatabaseOutdated(BgdError):
    """The launcher knows later events than the database: the database is an older copy."""

    def __init__(self, position: int) -> None:
        super().__init__(f"the launcher knows event {position}, which the database does not have")
        self.position = position


class _Connection(asyncio.Protocol):
    """One connection to a launcher: collects the snapshot, then passes each message on."""

    def __init__(self, link: LauncherLink, listener: Supervisor) -> None:
        self._link = link
        self._listener = listener
        self._reader = FrameReader(launching.MAX_LAUNCHING_FRAME)
        self._transport: asyncio.Transport | None = None
        self.frames = FrameWriter(launching.MAX_LAUNCHING_FRAME)
        self._welcome: launching.Welcome | None = None
        self._started: dict[AttemptKey, AttemptStarted] = {}
        self._ended: list[AttemptEnded] = []
        self.declined: launching.Declined | None = None
        self.position = 0  # the highest that the launcher knows, if that is too high
        self.is_ready = False
        self.lost = asyncio.Event()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # of a stream
        self._transport = self.frames.transport = transport
        transport.set_write_buffer_limits(high=0)  # uvloop would write only at the end of the turn

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self._transport = self.frames.transport = None
        self.lost.set()

    def data_received(self, data: bytes) -> None:
        try:
            for payload in self._reader.feed(data):
                self._take(launching.decode_from_launcher(payload))
        except ProtocolError as error:
            logger.error("launcher: %s; closing the connection", error)  # noqa: TRY400
            if self._transport is not None:
                self._transport.abort()

    @property
    def is_closing(self) -> bool:
        return self._transport is None or self._transport.is_closing()

    def hang_up(self) -> None:
        """End the sending side; the launcher closes once it has read everything, so nothing is lost."""
        if self._transport is not None and not self._transport.is_closing():
            self.frames.flush()
            self._transport.write_eof()

    def _take(self, message: FromLauncher) -> None:  # noqa: C901 (a flat list of cases)
        match message:
            case launching.Welcome():
                self._welcome = message
            case launching.Declined():
                self.declined = message
                self.position = message.position
            case launching.Ready():
                self._be_ready()
            case AttemptStarted() if self.is_ready:
                self._listener.attempt_started(message)
            case AttemptStarted():
                self._started[message.key] = message
            case AttemptEnded() if self.is_ready:
                self._listener.attempt_ended(message)
            case AttemptEnded():
                self._ended.append(message)
            case launching.LogGrew():
                self._listener.log_grew(message)
            case launching.Checked(number, is_alive):
                self._link.answer(number, is_alive)
            case launching.Measured(usages):
                self._link.answer(_ABOUT_USAGE, usages)
            case launching.OutputPart():
                raise ProtocolError("it sends output, as only a pilot does")

    def _be_ready(self) -> None:
        if self.is_ready:
            return  # the snapshot was handled, and is out of date by now
        if self._welcome is None:
            raise ProtocolError("it sent Ready before Welcome")
        if not self._link.accept(self._welcome):
            self.position = self._welcome.position
            raise ProtocolError("it knows later events than the database holds")
        self.is_ready = True
        self._link.hold_again()
        covers = frozenset(self._welcome.covers)
        self._listener.launcher_ready(
            LauncherSnapshot(self._welcome.instance, covers, self._started, self._ended)
        )
