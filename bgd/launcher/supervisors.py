"""Supervisors on the launcher's socket, what they ask of attempts, and when the launcher may exit.

The launcher obeys the supervisor of the highest generation (R1) and declines all others. A supervisor learns
what happened while none was connected from the snapshot that it gets after its greeting.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import socket
import struct
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import chain

from bgd.clock import elapsed
from bgd.core.job import Outcome
from bgd.errors import ProtocolError
from bgd.frames import FrameWriter
from bgd.launcher.attempt import Attempt, Executor
from bgd.launcher.cluster.controller import Controller
from bgd.launcher.cluster.pilots import PilotPool
from bgd.launcher.cluster.run import pilot_start
from bgd.launcher.context import Context
from bgd.launcher.held_sockets import HeldSockets
from bgd.launcher.journal import Began, Journal
from bgd.launcher.local import LocalExecutor
from bgd.launcher.tree import StopReason
from bgd.launcher.warm.worker import WorkerPool
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
    CheckAttempt,
    Checked,
    ContinueProcesses,
    Declined,
    FromLauncher,
    Goodbye,
    Greeting,
    KeepAlive,
    Launch,
    LogGrew,
    OutputPart,
    OutputStored,
    PilotNode,
    Ready,
    RenewWorkers,
    SignalProcesses,
    StopProcesses,
    SuspendProcesses,
    ToLauncher,
    TradeSockets,
    WatchLog,
    Welcome,
    decode_to_launcher,
    encode,
    readable_by,
)

log = logging.getLogger(__name__)


# --- All supervisors that connect: the one of the highest generation is active, others are declined.


class Supervisors:
    """Handle no message until `open`; call `changed` when a supervisor becomes active, goes, or says goodbye.

    `prepare` is called with the store of the first greeting; that greeting is then handled after the next
    `open`. `node`: that of a pilot.
    """

    def __init__(
        self,
        attempts: KnownAttempts,
        channel: SupervisorChannel,
        journal: Journal,
        changed: Callable[[], None],
        abilities: Abilities,
        prepare: Callable[[str], None] | None = None,
        *,
        node: PilotNode | None = None,
    ) -> None:
        self._attempts = attempts
        self._channel = channel
        self._journal = journal
        self._changed = changed
        self._abilities = abilities
        self._prepare = prepare
        self._node = node
        self._held = HeldSockets()
        self.received = 0  # messages
        self._active: SupervisorConnection | None = None
        self._is_open = False
        self._is_closed = False
        self._waiting: list[tuple[SupervisorConnection, ToLauncher]] = []
        self._finished: list[SupervisorConnection] = []  # sent everything, with messages not yet handled
        self.has_goodbye = False
        self._alive_at = -math.inf  # elapsed clock: when a KeepAlive was answered last

    @property
    def has_active(self) -> bool:
        """Whether a supervisor is active, or one waits that may become active."""
        return self._active is not None or bool(self._waiting)

    def open(self) -> None:
        """Handle the messages that wait, in their order, and all later ones."""
        self._is_open = True
        waiting, self._waiting = self._waiting, []
        for connection, message in waiting:
            if connection.transport.is_closing():
                continue
            try:
                self.receive(connection, message)
            except ProtocolError as error:
                connection.reject(error)
        if self._is_open:  # else the first greeting has started `prepare`, after which this is called again
            finished, self._finished = self._finished, []
            for connection in finished:
                connection.transport.close()
        self._changed()

    def close(self) -> None:
        """Handle no further message: supervisors must connect to the next launcher."""
        self._is_closed = True
        if self._active is not None:
            self._channel.frames.flush()
            self._active.transport.close()

    def eof(self, connection: SupervisorConnection) -> bool:
        """Note that a connection sends no more; return whether to keep it until its messages are handled."""
        if not self._is_open:
            self._finished.append(connection)
        return not self._is_open

    def receive(self, connection: SupervisorConnection, message: ToLauncher) -> None:
        """Handle a message, or keep it until `open`.

        Raises:
            ProtocolError: it is not a greeting, and the connection is not the active supervisor's.
        """
        self.received += 1
        if self._is_closed:
            return
        if isinstance(message, TradeSockets):
            self._held.trade(connection.transport)
            return
        if self._is_open and self._prepare and isinstance(message, Greeting):
            prepare, self._prepare = self._prepare, None
            self._is_open = False
            prepare(message.store)
        if not self._is_open:
            self._waiting.append((connection, message))
            self._changed()
        elif isinstance(message, Greeting):
            self._accept(connection, message)
        elif connection is not self._active:
            raise ProtocolError("the first message must be a greeting")
        else:
            self._handle(message)

    def disconnected(self, connection: SupervisorConnection) -> None:
        """Note that a connection is lost; if it was the active one, sync the journal."""
        if connection is not self._active:
            return
        self._active = None
        self._channel.disconnect()
        try:
            self._journal.sync()  # no supervisor is there to store these ends
        except OSError as error:  # the next one, or a next sync, may still come before a power failure
            log.warning("cannot sync the journal: %s", error.strerror)
        self._changed()

    def set_slow(self, connection: SupervisorConnection, *, is_slow: bool) -> None:
        """Note whether a connection's peer is slow to read."""
        if connection is self._active:
            self._channel.is_slow = is_slow
            self._attempts.send_growth()

    def _accept(self, connection: SupervisorConnection, greeting: Greeting) -> None:
        """Make it the active supervisor, unless its store has had one of a higher generation (R1)."""
        problem = self._problem_with(greeting)
        if problem:
            log.warning("declined a supervisor: %s", problem)
            highest = self._journal.generation(greeting.store)
            position = self._journal.position(greeting.store)
            connection.transport.write(
                frame(encode(Declined(problem, highest, position)), MAX_LAUNCHING_FRAME)
            )
            connection.transport.close()
            return
        if connection is not self._active:
            self._channel.connect(connection.transport, greeting.newest)
            self._active = connection
        self.has_goodbye = False
        self._record(greeting)
        self._attempts.unwatch_all()
        instance = self._journal.instance
        position = self._journal.position(greeting.store)
        covers, abilities, node = instance.covers, self._abilities, self._node
        self._welcome = Welcome(
            LAUNCHING_PROTOCOL, instance.id, os.getpid(), covers, abilities, position, node
        )
        self._channel.send(self._welcome)
        for each in chain(self._attempts.unstored_output(), self._attempts.snapshot()):
            self._channel.send(each)
        self._channel.send(Ready())
        self._changed()

    def _be_alive(self) -> None:
        """Show that the connection works, at a pace that no peer can make a storm of."""
        if elapsed() - self._alive_at >= _ALIVE_APART:
            self._alive_at = elapsed()
            self._channel.send(self._welcome)

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

    def _record(self, greeting: Greeting) -> None:
        self._journal.raise_position(greeting.store, greeting.position)
        try:
            self._journal.record_generation(greeting.store, greeting.generation)
        except OSError as error:  # this launcher remembers it nevertheless, as long as it lives
            log.warning("cannot write a supervisor's generation to the journal: %s", error.strerror)

    def _handle(self, message: ToLauncher) -> None:  # noqa: C901 (a flat list of cases)
        match message:
            case Launch():
                self._journal.raise_position(message.key.store, message.position)
                self._attempts.launch(message)
            case StopProcesses():
                self._attempts.stop(message.key, message.grace, is_cancel=message.is_cancel)
            case SignalProcesses() | SuspendProcesses() | ContinueProcesses():
                self._attempts.steer(message)
            case Acknowledge():
                self._journal.raise_position(message.key.store, message.position)
                self._attempts.acknowledge(message.key)
            case WatchLog():
                self._attempts.watch(message.key, on=message.on)
            case CheckAttempt(key, number):
                self._channel.send(Checked(number, self._attempts.is_alive(key)))
            case RenewWorkers():
                self._attempts.workers.renew()
            case OutputStored():
                self._attempts.stored(message)
            case KeepAlive():
                self._be_alive()
            case Greeting() | TradeSockets():
                pass  # `receive` has handled it
            case Goodbye():
                self.has_goodbye = True
                self._changed()


_ALIVE_APART = 1.0  # seconds between two answers to KeepAlive; a launcher sends one in 10 seconds


# --- One connection to the launcher's socket; the process at its other end may become the active supervisor.


class SupervisorConnection(asyncio.BufferedProtocol):
    """Read into one buffer that is kept: asyncio would allocate and free one for each read."""

    transport: asyncio.Transport

    def __init__(self, supervisors: Supervisors) -> None:
        self._supervisors = supervisors
        self._frames = FrameReader(MAX_LAUNCHING_FRAME)
        self._buffer = bytearray(_BUFFER_SIZE)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101  a stream socket's is
        self.transport = transport
        uid = _peer_uid(transport.get_extra_info("socket"))
        if uid not in {0, os.getuid()}:
            log.warning("refused a connection from a process of user %d", uid)
            transport.abort()

    def get_buffer(self, _sizehint: int) -> bytearray:
        return self._buffer

    def buffer_updated(self, count: int) -> None:
        try:
            for payload in self._frames.feed(self._buffer[:count]):
                self._supervisors.receive(self, decode_to_launcher(payload))
                if self.transport.is_closing():
                    return
        except ProtocolError as error:
            self.reject(error)

    def reject(self, error: ProtocolError) -> None:
        """Close the connection after a violation of the protocol."""
        log.warning("dropped a connection: %s", error)
        self.transport.abort()

    def eof_received(self) -> bool:
        return self._supervisors.eof(self)

    def connection_lost(self, _error: Exception | None) -> None:
        self._supervisors.disconnected(self)

    def pause_writing(self) -> None:
        self._supervisors.set_slow(self, is_slow=True)

    def resume_writing(self) -> None:
        self._supervisors.set_slow(self, is_slow=False)


_BUFFER_SIZE = 1 << 16  # bytes: room for some Launch messages with their environments


def _peer_uid(connection: socket.socket) -> int:
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    uid: int = struct.unpack("3i", credentials)[1]
    return uid


# --- The channel to the active supervisor: without one, messages are dropped, as the next snapshot has them.


class SupervisorChannel:
    """Send messages in few writes: each write wakes the supervisor, which costs as much as a part of a job.

    `is_slow`: the supervisor does not read what was sent, so send only what is necessary.
    """

    def __init__(self) -> None:
        self.frames = FrameWriter(MAX_LAUNCHING_FRAME)
        self._newest = 0  # protocol of the supervisor
        self._timer: asyncio.TimerHandle | None = None
        self.is_slow = False

    @property
    def is_connected(self) -> bool:
        """Whether there is an active supervisor."""
        return self.frames.transport is not None

    def connect(self, transport: asyncio.WriteTransport, newest: int) -> None:
        """Send to this supervisor from now on; drop the one before, with everything unread and unsent."""
        self.disconnect()
        self.frames.transport = transport
        self._newest = newest

    def disconnect(self) -> None:
        """Close the connection at once; drop everything unread and unsent."""
        self.frames.abort()
        self.is_slow = False

    def send(self, message: FromLauncher) -> None:
        """Send a message at the end of this turn of the loop, together with others."""
        if self.is_connected:
            self.frames.send(encode(readable_by(message, self._newest)))

    def send_soon(self, message: FromLauncher) -> None:
        """Send a message with the next one that `send` takes, or soon: only people wait for it."""
        if self.is_connected:
            self.frames.add(encode(readable_by(message, self._newest)))
            if self._timer is None:
                self._timer = asyncio.get_running_loop().call_later(_SOON, self._flush_timer)

    def _flush_timer(self) -> None:
        self._timer = None
        self.frames.flush()


_SOON = 0.01  # seconds


# --- Every attempt that this launcher knows: starting, running, or ended and not yet acknowledged.


class KnownAttempts:
    """Do what the supervisor asks of attempts, and report to it; call `idle` when no attempt runs."""

    def __init__(self, context: Context, channel: SupervisorChannel, idle: Callable[[], None]) -> None:
        self._context = context
        self.workers = WorkerPool(context)
        self._channel = channel
        self._idle = idle
        self._known: dict[AttemptKey, Attempt | AttemptEnded] = {}
        self._local = LocalExecutor(context, self.workers)
        self._controllers: dict[str, Controller] = {}  # of each Slurm, by its configuration
        self._pools: dict[str, PilotPool] = {}  # by their executors
        self._running = 0
        self._is_closing = False
        self._deferred: set[AttemptKey] = set()  # launched while closing, and not begun
        self._watched: set[AttemptKey] = set()
        self._grown: set[AttemptKey] = set()

    @property
    def running(self) -> int:
        """The number of attempts that have not ended."""
        return self._running

    def remember(self, ends: Iterable[AttemptEnded]) -> None:
        """Take over ends that a predecessor left unacknowledged."""
        self._known.update((ended.key, ended) for ended in ends)

    def adopt(self, records: Iterable[Began]) -> None:
        """Take over attempts that outlived a predecessor."""
        for began in records:
            if began.launch is not None:
                attempt = self._known[began.key] = self._new_attempt(began.launch, began)
                self._begin(attempt)

    def snapshot(self) -> Iterator[AttemptStarted | AttemptEnded]:
        """Yield the state or the end of every known attempt."""
        for known in self._known.values():
            yield known if isinstance(known, AttemptEnded) else known.state

    def launch(self, launch: Launch) -> None:
        """Start an attempt once: if its key is known, report its state again (R2)."""
        known = self._known.get(launch.key)
        if known is not None:
            self._channel.send(known if isinstance(known, AttemptEnded) else known.state)
            return
        attempt = self._new_attempt(launch)
        self._known[launch.key] = attempt
        if self._is_closing:
            # the journal has nothing of it, so it counts as never started and the next launcher gets it;
            # interrupting it would fail all queued jobs, one after the other
            self._deferred.add(launch.key)
        else:
            self._begin(attempt)

    def stop(self, key: AttemptKey, grace: float, *, is_cancel: bool) -> None:
        """Stop an attempt that has not ended; `is_cancel`: let a class job know that it is cancelled."""
        if attempt := self._unended(key):
            told = StopReason.CANCELLED if is_cancel else StopReason.OTHER
            attempt.stop(Outcome.CANCELLED, grace, told)
            if key in self._deferred:
                self._deferred.remove(key)
                self._begin(attempt)  # it ends at once

    def steer(self, message: SignalProcesses | SuspendProcesses | ContinueProcesses) -> None:
        """Signal, suspend or continue an attempt that has not ended."""
        attempt = self._unended(message.key)
        if attempt is None:
            return
        match message:
            case SignalProcesses():
                attempt.signal(message.signum, whole_tree=message.whole_tree)
            case SuspendProcesses():
                attempt.suspend()
            case ContinueProcesses():
                attempt.resume()

    def interrupt(self) -> None:
        """Stop all attempts, and begin no more."""
        self._is_closing = True
        for known in self._known.values():
            if not isinstance(known, AttemptEnded):
                known.stop(Outcome.INTERRUPTED, known.launch.grace)

    def acknowledge(self, key: AttemptKey) -> None:
        """Forget an attempt that has ended (R4)."""
        if not isinstance(self._known.get(key), AttemptEnded):
            return
        del self._known[key]
        self._watched.discard(key)
        if self._context.outbox is not None:
            self._context.outbox.forget(key)
        try:
            self._context.journal.forget(key)
        except OSError as error:  # after a restart it is reported and acknowledged again
            log.warning("cannot remove job %d from the journal: %s", key.job, error.strerror)

    def watch(self, key: AttemptKey, *, on: bool) -> None:
        """Start or stop reporting the growth of an attempt's log."""
        if not on:
            self._watched.discard(key)
            self._grown.discard(key)
        elif key in self._known:
            self._watched.add(key)
            self._note_growth(key)

    def is_alive(self, key: AttemptKey) -> bool:
        """Return whether an attempt has not ended, even if this launcher has yet to learn that."""
        attempt = self._unended(key)
        return attempt is not None and not attempt.has_exited

    def unstored_output(self) -> Iterator[OutputPart]:
        """Yield the output that the supervisor of a pilot has not stored."""
        return iter(()) if self._context.outbox is None else self._context.outbox.parts()

    def stored(self, message: OutputStored) -> None:
        """Let an attempt of a pilot go on that waited until its output is stored."""
        outbox, known = self._context.outbox, self._known.get(message.key)
        if outbox is not None and outbox.stored(message.key, message.offset) and isinstance(known, Attempt):
            known.go_on()

    async def end(self) -> None:
        """End warm workers, and give back what is held in Slurm if that does not take long."""
        self.workers.end()
        for pool in self._pools.values():
            await pool.end()

    def unwatch_all(self) -> None:
        """Stop reporting the growth of all logs."""
        self._watched.clear()
        self._grown.clear()

    def send_growth(self) -> None:
        """Send Grew for each log in `_grown`; a slow supervisor gets it later, once."""
        if self._channel.is_slow:
            return
        for key in self._grown:
            if known := self._known.get(key):
                self._channel.send(LogGrew(key, known.log_bytes, known.log_problem))
        self._grown.clear()

    def _new_attempt(self, launch: Launch, adopted: Began | None = None) -> Attempt:
        grew, executor = partial(self._note_growth, launch.key), self._executor_of(launch)
        return Attempt(launch, self._context, executor, self._channel.send_soon, grew, adopted)

    def _executor_of(self, launch: Launch) -> Executor:
        if launch.slurm is None:
            return self._local
        controller = self._controllers.get(launch.slurm.conf)
        if controller is None:
            controller = self._controllers[launch.slurm.conf] = Controller(self._context, launch.slurm)
        controller.set_rate(launch.slurm.requests_per_second)  # as configured last
        executor = pilot_start(launch).executor
        if executor not in self._pools:
            self._pools[executor] = PilotPool(self._context, controller, launch)
        return self._pools[executor]

    def _begin(self, attempt: Attempt) -> None:
        self._running += 1
        self._context.group.create_task(self._see_to_its_end(attempt))

    async def _see_to_its_end(self, attempt: Attempt) -> None:
        try:
            ended = await attempt.live()
        except Exception as error:  # one job's trouble must not end the others with the launcher
            log.exception("job %d: an error in the launcher", attempt.launch.key.job)
            ended = attempt.abandon(f"an error in the launcher: {type(error).__name__}: {error}")
        try:
            is_unheard = self._is_closing or not self._channel.is_connected
            self._context.journal.add_end(ended, durable=is_unheard)
            attempt.acknowledge()
        except OSError as error:  # report it rather than wait for space: the supervisor stores it
            log.warning("cannot write the end of job %d to the journal: %s", ended.key.job, error.strerror)
        self._known[ended.key] = ended
        self._running -= 1
        self._channel.send(ended)
        if not self._running:
            self._idle()

    def _unended(self, key: AttemptKey) -> Attempt | None:
        known = self._known.get(key)
        return None if isinstance(known, AttemptEnded) else known

    def _note_growth(self, key: AttemptKey) -> None:
        known = self._known[key]
        if key in self._watched or known.log_problem is not None:
            if not self._grown:
                asyncio.get_running_loop().call_soon(self.send_growth)
            self._grown.add(key)
