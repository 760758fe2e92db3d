"""Supervisors that come to the socket, what they ask of attempts, and when the launcher may leave.

The supervisor of the highest generation is obeyed (R1), all others are sent away. What happens while none is
connected is told by the snapshot that the next one gets.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import struct
from collections.abc import Callable, Iterable, Iterator

from bgd.core.job import Outcome
from bgd.errors import ProtocolError
from bgd.launcher.attempt import Attempt
from bgd.launcher.context import Tools
from bgd.launcher.deadlines import Deadline, Deadlines
from bgd.launcher.journal import Journal
from bgd.launcher.warm.worker import Workers
from bgd.wire.framing import FrameReader, frame
from bgd.wire.launching import (
    LAUNCHING_PROTOCOL,
    MAX_GENERATION,
    MAX_LAUNCHING_FRAME,
    Abilities,
    Acknowledge,
    AttemptEnded,
    AttemptKey,
    AttemptStarted,
    ContinueProcesses,
    Declined,
    FromLauncher,
    Goodbye,
    Greeting,
    Launch,
    LogGrew,
    Ready,
    RenewWorkers,
    SignalProcesses,
    StopProcesses,
    SuspendProcesses,
    ToLauncher,
    WatchLog,
    Welcome,
    decode_to_launcher,
    encode,
)

# --- The line to the master: what is told while there is none is told by the next snapshot.


class Line:
    """`is_slow`: the master does not read what it was told, so that only what must be said should be.

    Each time it is spoken to the master wakes up, which costs as much as a small part of a job.
    """

    def __init__(self) -> None:
        self._transport: asyncio.WriteTransport | None = None
        self._unsaid: list[bytes] = []
        self._is_due = False  # to speak, at the end of this turn of the loop
        self._moment: asyncio.TimerHandle | None = None
        self.is_slow = False

    @property
    def is_attended(self) -> bool:
        return self._transport is not None

    def connect(self, transport: asyncio.WriteTransport) -> None:
        """Talk to this one from now on; an older one is dropped with all it has not yet said or heard."""
        self.disconnect()
        self._transport = transport

    def disconnect(self) -> None:
        if self._transport is not None:
            self._transport.abort()
        self._transport = None
        self._unsaid.clear()
        self.is_slow = False

    def tell(self, message: FromLauncher) -> None:
        """Say it with all else that is to be said by the end of this turn of the loop."""
        if self._transport is not None:
            self._unsaid.append(framed(message))
            if not self._is_due:
                self._is_due = True
                asyncio.get_running_loop().call_soon(self.speak)

    def tell_soon(self, message: FromLauncher) -> None:
        """Say it with the next thing that must be said, or in a moment: only people wait for it."""
        if self._transport is not None:
            self._unsaid.append(framed(message))
            if self._moment is None:
                self._moment = asyncio.get_running_loop().call_later(_MOMENT, self._pass_moment)

    def speak(self) -> None:
        """Say all that is unsaid."""
        self._is_due = False
        # to a master that has just died and is not yet known to be lost, asyncio logs every word
        if self._transport is not None and self._unsaid and not self._transport.is_closing():
            self._transport.write(b"".join(self._unsaid))
        self._unsaid.clear()

    def _pass_moment(self) -> None:
        self._moment = None
        self.speak()


_MOMENT = 0.01  # seconds


def framed(message: FromLauncher) -> bytes:
    return frame(encode(message), MAX_LAUNCHING_FRAME)


# --- Every attempt this launcher knows: starting, running, or ended and not yet acknowledged.


log = logging.getLogger(__name__)


class Attempts:
    """What the master asks of attempts and is told of them. `idle` is called when none runs any more."""

    def __init__(self, tools: Tools, workers: Workers, line: Line, idle: Callable[[], None]) -> None:
        self._tools = tools
        self._workers = workers
        self._line = line
        self._idle = idle
        self._known: dict[AttemptKey, Attempt | AttemptEnded] = {}
        self._running = 0
        self._is_closing = False
        self._unbegun: set[AttemptKey] = set()  # asked for while closing
        self._watched: set[AttemptKey] = set()
        self._grown: set[AttemptKey] = set()

    @property
    def running(self) -> int:
        """How many have not ended."""
        return self._running

    def remember(self, ends: Iterable[AttemptEnded]) -> None:
        """Take over ends that a predecessor left to be told."""
        self._known.update((ended.key, ended) for ended in ends)

    def snapshot(self) -> Iterator[AttemptStarted | AttemptEnded]:
        for known in self._known.values():
            yield known if isinstance(known, AttemptEnded) else known.state

    def launch(self, launch: Launch) -> None:
        """Start an attempt, once: if its key is known, say again how it stands (R2)."""
        known = self._known.get(launch.key)
        if known is not None:
            self._line.tell(known if isinstance(known, AttemptEnded) else known.state)
            return
        attempt = Attempt(
            launch, self._tools, self._workers, self._line.tell_soon, lambda: self._note_growth(launch.key)
        )
        self._known[launch.key] = attempt
        if self._is_closing:
            # nothing of it is written down, so it was never started and the next launcher is given it; to
            # interrupt it would fail, one after the other, all jobs that are queued
            self._unbegun.add(launch.key)
        else:
            self._begin(attempt)

    def stop(self, key: AttemptKey, grace: float) -> None:
        if attempt := self._unended(key):
            attempt.stop(Outcome.CANCELLED, grace)
            if key in self._unbegun:
                self._unbegun.remove(key)
                self._begin(attempt)  # so that it ends

    def signal(self, key: AttemptKey, signum: int, *, whole_tree: bool) -> None:
        if attempt := self._unended(key):
            attempt.signal(signum, whole_tree=whole_tree)

    def suspend(self, key: AttemptKey) -> None:
        if attempt := self._unended(key):
            attempt.suspend()

    def go_on(self, key: AttemptKey) -> None:
        if attempt := self._unended(key):
            attempt.go_on()

    def renew_workers(self) -> None:
        """Start what is launched from now on in new warm workers."""
        self._workers.renew()

    def interrupt(self) -> None:
        """End all that runs, and begin nothing more."""
        self._is_closing = True
        for known in self._known.values():
            if isinstance(known, Attempt):
                known.stop(Outcome.INTERRUPTED, known.launch.grace)

    def acknowledge(self, key: AttemptKey) -> None:
        """Forget an attempt that has ended (R4)."""
        if not isinstance(self._known.get(key), AttemptEnded):
            return
        del self._known[key]
        self._watched.discard(key)
        try:
            self._tools.journal.forget(key)
        except OSError as error:  # told again after a restart, and acknowledged again
            log.warning("the journal cannot forget job %d: %s", key.job, error.strerror)

    def watch(self, key: AttemptKey, *, on: bool) -> None:
        if not on:
            self._watched.discard(key)
            self._grown.discard(key)
        elif key in self._known:
            self._watched.add(key)
            self._note_growth(key)

    def unwatch_all(self) -> None:
        self._watched.clear()
        self._grown.clear()

    def tell_growth(self) -> None:
        """Say Grew of each log in `_grown`; a master that is slow to read hears of it later, once."""
        if self._line.is_slow:
            return
        for key in self._grown:
            if known := self._known.get(key):
                self._line.tell(LogGrew(key, known.log_bytes, known.log_problem))
        self._grown.clear()

    def _begin(self, attempt: Attempt) -> None:
        self._running += 1
        self._tools.group.create_task(self._see_to_its_end(attempt))

    async def _see_to_its_end(self, attempt: Attempt) -> None:
        try:
            ended = await attempt.live()
        except Exception as error:  # one job's trouble must not end the others with the launcher
            log.exception("job %d: its launcher failed it", attempt.launch.key.job)
            ended = attempt.abandon(f"its launcher failed it: {type(error).__name__}: {error}")
        try:
            self._tools.journal.finish(ended, durable=self._is_closing or not self._line.is_attended)
        except OSError as error:  # telling it is better than waiting for room: who hears it stores it
            log.warning("the journal cannot take the end of job %d: %s", ended.key.job, error.strerror)
        self._known[ended.key] = ended
        self._running -= 1
        self._line.tell(ended)
        if not self._running:
            self._idle()

    def _unended(self, key: AttemptKey) -> Attempt | None:
        known = self._known.get(key)
        return known if isinstance(known, Attempt) else None

    def _note_growth(self, key: AttemptKey) -> None:
        known = self._known[key]
        if key in self._watched or known.log_problem is not None:
            if not self._grown:
                asyncio.get_running_loop().call_soon(self.tell_growth)
            self._grown.add(key)


# --- One connection to the launcher's socket: whoever comes is a visitor, and may become the master.


class Visitor(asyncio.BufferedProtocol):
    """What it says comes into one buffer: one for each piece would be had from the kernel, and given back."""

    transport: asyncio.Transport

    def __init__(self, masters: Masters) -> None:
        self._masters = masters
        self._frames = FrameReader(MAX_LAUNCHING_FRAME)
        self._room = bytearray(_ROOM)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101  a stream socket's is
        self.transport = transport
        uid = _peer_uid(transport.get_extra_info("socket"))
        if uid not in {0, os.getuid()}:
            log.warning("turned a process of user %d away from the socket", uid)
            transport.abort()

    def get_buffer(self, _sizehint: int) -> bytearray:
        return self._room

    def buffer_updated(self, count: int) -> None:
        try:
            for payload in self._frames.feed(self._room[:count]):
                self._masters.hear(self, decode_to_launcher(payload))
                if self.transport.is_closing():
                    return
        except ProtocolError as error:
            self.drop(error)

    def drop(self, error: ProtocolError) -> None:
        """Hang up on who does not speak the protocol."""
        log.warning("dropped a connection: %s", error)
        self.transport.abort()

    def eof_received(self) -> bool:
        return self._masters.finish(self)

    def connection_lost(self, _error: Exception | None) -> None:
        self._masters.lose(self)

    def pause_writing(self) -> None:
        self._masters.listen(self, is_slow=True)

    def resume_writing(self) -> None:
        self._masters.listen(self, is_slow=False)


_ROOM = 1 << 16  # bytes: some launches with their environments


def _peer_uid(connection: socket.socket) -> int:
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    uid: int = struct.unpack("3i", credentials)[1]
    return uid


# --- Supervisors that come to the socket: that of the highest generation is master, others are sent away.


class Masters:
    """Hears nobody until `open`; `changed` is called when a master comes, goes, or says goodbye.

    `prepare` is called with the store of the first greeting, which is then heard after the next `open`.
    """

    def __init__(
        self,
        attempts: Attempts,
        line: Line,
        journal: Journal,
        changed: Callable[[], None],
        abilities: Abilities,
        prepare: Callable[[str], None] | None = None,
    ) -> None:
        self._attempts = attempts
        self._line = line
        self._journal = journal
        self._changed = changed
        self._abilities = abilities
        self._prepare = prepare
        self._master: Visitor | None = None
        self._is_open = False
        self._is_closed = False
        self._waiting: list[tuple[Visitor, ToLauncher]] = []
        self._finished: list[Visitor] = []  # have said all, and not yet been heard
        self.has_goodbye = False

    @property
    def has_master(self) -> bool:
        """Whether there is one, or somebody waits to be heard who may become it."""
        return self._master is not None or bool(self._waiting)

    def open(self) -> None:
        """Hear those who came, in their order, and all who come."""
        self._is_open = True
        waiting, self._waiting = self._waiting, []
        for visitor, message in waiting:
            if visitor.transport.is_closing():
                continue
            try:
                self.hear(visitor, message)
            except ProtocolError as error:
                visitor.drop(error)
        if self._is_open:  # else the first greeting has begun a look, after which this is called again
            finished, self._finished = self._finished, []
            for visitor in finished:
                visitor.transport.close()
        self._changed()

    def close(self) -> None:
        """Hear nobody any more: whoever still speaks has to find the next launcher."""
        self._is_closed = True
        if self._master is not None:
            self._line.speak()
            self._master.transport.close()

    def finish(self, visitor: Visitor) -> bool:
        """Take that a visitor will say no more; return whether to keep him until he has been heard."""
        if not self._is_open:
            self._finished.append(visitor)
        return not self._is_open

    def hear(self, visitor: Visitor, message: ToLauncher) -> None:
        """Do what a visitor says.

        Raises:
            ProtocolError: it has not greeted.
        """
        if self._is_closed:
            return
        if self._is_open and self._prepare and isinstance(message, Greeting):
            prepare, self._prepare = self._prepare, None
            self._is_open = False
            prepare(message.store)
        if not self._is_open:
            self._waiting.append((visitor, message))
            self._changed()
        elif isinstance(message, Greeting):
            self._greet(visitor, message)
        elif visitor is not self._master:
            raise ProtocolError("the first message must be a greeting")
        else:
            self._obey(message)

    def lose(self, visitor: Visitor) -> None:
        if visitor is not self._master:
            return
        self._master = None
        self._line.disconnect()
        self._journal.sync()  # nobody is there to store these ends
        self._changed()

    def listen(self, visitor: Visitor, *, is_slow: bool) -> None:
        """Note how well a visitor takes in what it is told."""
        if visitor is self._master:
            self._line.is_slow = is_slow
            self._attempts.tell_growth()

    def _greet(self, visitor: Visitor, greeting: Greeting) -> None:
        """Make the visitor master, unless a younger supervisor of its store has been (R1)."""
        problem = self._problem_with(greeting)
        if problem:
            log.warning("sent a supervisor away: %s", problem)
            highest = self._journal.generation(greeting.store)
            position = self._journal.position(greeting.store)
            visitor.transport.write(framed(Declined(problem, highest, position)))
            visitor.transport.close()
            return
        if visitor is not self._master:
            self._line.connect(visitor.transport)
            self._master = visitor
        self.has_goodbye = False
        self._remember(greeting)
        self._attempts.unwatch_all()
        instance = self._journal.instance
        position = self._journal.position(greeting.store)
        self._line.tell(
            Welcome(LAUNCHING_PROTOCOL, instance.id, os.getpid(), instance.covers, self._abilities, position)
        )
        for known in self._attempts.snapshot():
            self._line.tell(known)
        self._line.tell(Ready())
        self._changed()

    def _problem_with(self, greeting: Greeting) -> str | None:
        if greeting.protocol > LAUNCHING_PROTOCOL:
            return (
                f"it needs launching protocol {greeting.protocol}, this launcher speaks {LAUNCHING_PROTOCOL}"
            )
        highest = self._journal.generation(greeting.store)
        if greeting.generation > MAX_GENERATION:
            return f"its generation is {greeting.generation}, and {MAX_GENERATION} is the highest"
        if greeting.generation < highest:
            return f"its generation is {greeting.generation}, and one of generation {highest} has taken over"
        return None

    def _remember(self, greeting: Greeting) -> None:
        self._journal.pass_position(greeting.store, greeting.position)
        try:
            self._journal.obey(greeting.store, greeting.generation)
        except OSError as error:  # it holds for this launcher's life all the same
            log.warning("the journal cannot take a supervisor's generation: %s", error.strerror)

    def _obey(
        self,
        message: Launch
        | StopProcesses
        | SignalProcesses
        | SuspendProcesses
        | ContinueProcesses
        | Acknowledge
        | WatchLog
        | RenewWorkers
        | Goodbye,
    ) -> None:
        match message:
            case Launch():
                self._journal.pass_position(message.key.store, message.position)
                self._attempts.launch(message)
            case StopProcesses():
                self._attempts.stop(message.key, message.grace)
            case SignalProcesses():
                self._attempts.signal(message.key, message.signum, whole_tree=message.whole_tree)
            case SuspendProcesses():
                self._attempts.suspend(message.key)
            case ContinueProcesses():
                self._attempts.go_on(message.key)
            case Acknowledge():
                self._journal.pass_position(message.key.store, message.position)
                self._attempts.acknowledge(message.key)
            case WatchLog():
                self._attempts.watch(message.key, on=message.on)
            case RenewWorkers():
                self._attempts.renew_workers()
            case Goodbye():
                self.has_goodbye = True
                self._changed()


# --- When the launcher may leave (R6).


class Departure:
    """Leaves only while nothing runs: when told to, after a goodbye, or `idle` seconds without a supervisor.

    With `idle` None only when told to, as a service does.
    Ends that nobody has acknowledged are no reason to stay: the journal keeps them.
    """

    _attempts: Attempts
    _masters: Masters

    def __init__(self, deadlines: Deadlines, idle: float | None) -> None:
        self._deadlines = deadlines
        self._idle = idle
        self._is_told = False
        self._idle_end: Deadline | None = None
        self._leave = asyncio.Event()

    def oversee(self, attempts: Attempts, masters: Masters) -> None:
        """Name what can keep it; before anything happens to them."""
        self._attempts = attempts
        self._masters = masters

    def tell(self) -> None:
        """Leave once all that runs has been ended."""
        self._is_told = True
        self._attempts.interrupt()
        self.consider()

    def consider(self) -> None:
        """Look whether it is time; to be called whenever something ended, came or went."""
        if self._idle_end is not None:
            self._idle_end.cancel()
            self._idle_end = None
        if self._attempts.running:
            return
        if self._is_told:
            self._leave.set()
        elif self._idle is None:
            return
        elif self._masters.has_goodbye:
            self._leave.set()
        elif not self._masters.has_master:
            self._idle_end = self._deadlines.after(self._idle, self._leave.set)

    async def wait(self) -> None:
        """Return when it is time, and still is: somebody may have come after it was."""
        while not self._leave.is_set() or self._attempts.running:
            self._leave.clear()
            await self._leave.wait()
