"""Supervisors on the launcher's socket, what they ask for, and when the launcher may exit.

The launcher obeys the supervisor of the highest generation (R1) and declines all others. The snapshot after
its greeting tells a supervisor what happened while none was connected.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import struct
from contextlib import suppress
from functools import partial
from itertools import chain

from bgd.errors import ProtocolError
from bgd.launcher.context import Context
from bgd.launcher.deadlines import Deadline
from bgd.launcher.journal import or_without
from bgd.launcher.known_attempts import KnownAttempts
from bgd.launcher.sweep import LauncherBusy, end_strays
from bgd.system.frames import FrameWriter
from bgd.wire import launching
from bgd.wire.framing import FrameReader, frame
from bgd.wire.launching import (
    MAX_LAUNCHING_FRAME,
    AttemptKey,
    FromLauncher,
    Launch,
    PilotNode,
    ToLauncher,
    encode,
)

log = logging.getLogger(__name__)


# --- All supervisors that connect: the one of the highest generation is active, others are declined.


class Supervisors:
    """Handle no message until `open`; let the launcher exit when no attempt runs (R6).

    That is on request, after a goodbye, or after `idle` seconds without a supervisor. With `idle` None it
    exits only on request, as a service does. Ends that no supervisor has acknowledged are no reason to stay:
    the journal keeps them.

    Args:
        must_search: before starting anything, end processes that a lost journal does not name.
        lease: seconds without a message after which a pilot ends its jobs and itself, without those for which
            it was stopped, as Slurm does when it suspends its allocation.
            None: this launcher is not a pilot. `node`: what the node of a pilot has.
    """

    def __init__(
        self,
        context: Context,
        attempts: KnownAttempts,
        channel: SupervisorChannel,
        *,
        must_search: bool,
        idle: float | None,
        lease: float | None = None,
        node: PilotNode | None = None,
    ) -> None:
        self._context = context
        self._journal = context.journal
        self._attempts = attempts
        self._channel = channel
        self._must_search = must_search
        self._idle = idle
        self._node = node
        self._held = HeldSockets()
        self._received = 0  # messages
        self._active: SupervisorConnection | None = None
        self._is_open = False
        self._is_closed = False
        self._waiting: list[tuple[SupervisorConnection, ToLauncher]] = []
        self._finished: list[SupervisorConnection] = []  # sent everything, with messages not yet handled
        self._has_goodbye = False
        self._must_exit = False
        self._idle_deadline: Deadline | None = None
        self._may_exit = asyncio.Event()
        attempts.idle = self.check_exit
        if lease is not None:
            self._look_at_lease(lease, 0, -1)

    # --- when the launcher may exit

    def exit(self) -> None:
        """Stop all attempts, and let the launcher exit when they have ended."""
        self._must_exit = True
        self._attempts.interrupt()
        self.check_exit()

    def check_exit(self) -> None:
        """Check whether the launcher may exit; call it when an attempt has ended or a supervisor changed."""
        if self._idle_deadline is not None:
            self._idle_deadline.cancel()
            self._idle_deadline = None
        if self._attempts.is_running:
            return
        if self._must_exit or (self._has_goodbye and self._idle is not None):
            self._may_exit.set()
        elif self._idle is not None and self._active is None and not self._waiting:
            self._idle_deadline = self._context.deadlines.after(self._idle, self._may_exit.set)

    async def wait_for_exit(self) -> None:
        """Wait until the launcher may exit and no attempt was launched since."""
        while not self._may_exit.is_set() or self._attempts.is_running:
            self._may_exit.clear()
            await self._may_exit.wait()

    def _look_at_lease(self, lease: float, silent: int, received: int) -> None:
        silent = silent + 1 if self._received == received else 0
        if silent == _LEASE_BEATS:
            log.warning("no message from bgd for %g s: ending its jobs", lease)
            self.exit()
            return
        look = partial(self._look_at_lease, lease, silent, self._received)
        self._context.deadlines.after(lease / _LEASE_BEATS, look)

    # --- what connections bring

    def open(self) -> None:
        """Handle waiting messages, in order, and all later ones."""
        self._is_open = True
        waiting, self._waiting = self._waiting, []
        for connection, message in waiting:
            if connection.transport.is_closing():
                continue
            try:
                self.receive(connection, message)
            except ProtocolError as error:
                connection.reject(error)
        if self._is_open:  # else the first greeting has begun a search, after which this is called again
            finished, self._finished = self._finished, []
            for connection in finished:
                connection.transport.close()
        self.check_exit()

    def close(self) -> None:
        """Handle no further message: supervisors must connect to the next launcher."""
        self._is_closed = True
        if self._active is not None:
            self._channel.frames.flush()
            self._active.transport.close()

    def eof(self, connection: SupervisorConnection) -> bool:
        """Record the end of a connection; return whether to keep it until its messages are handled."""
        if not self._is_open:
            self._finished.append(connection)
        return not self._is_open

    def receive(self, connection: SupervisorConnection, message: ToLauncher) -> None:
        """Handle a message, or keep it until `open`.

        Raises:
            ProtocolError: it is not a greeting, and the connection is not the active supervisor's.
        """
        self._received += 1
        if self._is_closed:
            return
        if isinstance(message, launching.TradeSockets):
            self._held.trade(connection.transport)
            return
        if isinstance(message, launching.OpenKeyboard):
            self._open_keyboard(message.key, connection.transport)
            return
        if self._is_open and self._must_search and isinstance(message, launching.Greeting):
            self._must_search = self._is_open = False
            self._context.group.create_task(self._search(message.store))
        if not self._is_open:
            self._waiting.append((connection, message))
            self.check_exit()
        elif isinstance(message, launching.Greeting):
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
        with or_without("the latest ends"):  # a next sync may still come before a power failure
            self._journal.sync()  # no supervisor is there to store these ends
        self.check_exit()

    def set_slow(self, connection: SupervisorConnection, *, is_slow: bool) -> None:
        """Record whether a connection's peer is slow to read."""
        if connection is self._active:
            self._channel.is_slow = is_slow
            self._attempts.send_growth()

    def _open_keyboard(self, key: AttemptKey, transport: asyncio.Transport) -> None:
        """Answer on this connection, then close it."""
        attempt = self._attempts.unended.get(key)
        output = attempt.output if attempt is not None else None
        with suppress(OSError), _without_transport(transport) as connection:  # else the daemon is gone
            if output is None or output.terminal is None:
                return
            try:
                keyboard = output.terminal.keyboards.open()
            except OSError as error:
                connection.send(str(error.strerror).encode())
                return
            with keyboard:
                socket.send_fds(connection, [b"%d" % output.log.total], [keyboard.fileno()])

    async def _search(self, store: str) -> None:
        """End what a lost journal does not name, then handle the first greeting."""
        try:
            await end_strays(store, self._context)
        except LauncherBusy as error:
            log.error("%s", error)  # noqa: TRY400  a traceback would not help
            self.exit()
        else:
            self.open()

    def _accept(self, connection: SupervisorConnection, greeting: launching.Greeting) -> None:
        """Make it the active supervisor, unless its store has had one of a higher generation (R1)."""
        store, highest = greeting.store, self._journal.generation(greeting.store)
        if (problem := _problem_with(greeting, highest)) is not None:
            log.warning("declined a supervisor: %s", problem)
            declined = launching.Declined(problem, highest, self._journal.position(store))
            connection.transport.write(frame(encode(declined), MAX_LAUNCHING_FRAME))
            connection.transport.close()
            return
        if connection is not self._active:
            self._channel.connect(connection.transport)
            self._active = connection
        self._has_goodbye = False
        with or_without("a supervisor's generation"):
            self._journal.record_supervisor(store, greeting.generation, greeting.position)
        self._attempts.unwatch_all()
        instance, position = self._journal.instance, self._journal.position(store)
        who = launching.LAUNCHING_PROTOCOL, instance.id, os.getpid(), instance.covers
        self._welcome = launching.Welcome(*who, self._context.delegation.abilities, position, self._node)
        self._channel.send(self._welcome)
        unstored = () if self._context.outbox is None else self._context.outbox.parts()
        for each in chain(unstored, self._attempts.snapshot()):
            self._channel.send(each)
        self._channel.send(launching.Ready())
        self.check_exit()

    def _handle(self, message: ToLauncher) -> None:  # noqa: C901, PLR0912  a flat list of cases
        match message:
            case Launch():
                self._journal.raise_position(message.key.store, message.position)
                self._attempts.launch(message)
            case launching.StopProcesses():
                self._attempts.stop(message.key, message.grace, is_cancel=message.is_cancel)
            case launching.SignalProcesses(key, signum, whole_tree):
                if attempt := self._attempts.unended.get(key):
                    attempt.signal(signum, whole_tree=whole_tree)
            case launching.SuspendProcesses(key):
                if attempt := self._attempts.unended.get(key):
                    attempt.suspend()
            case launching.ContinueProcesses(key):
                if attempt := self._attempts.unended.get(key):
                    attempt.resume()
            case launching.Acknowledge():
                self._journal.raise_position(message.key.store, message.position)
                self._attempts.acknowledge(message.key)
            case launching.WatchLog():
                self._attempts.watch(message.key, on=message.on)
            case launching.CheckAttempt(key, settled=True):
                self._context.begin(self._attempts.check(message), f"job {key.job}")
            case launching.CheckAttempt(key, number):
                self._channel.send(launching.Checked(number, self._attempts.is_alive(key)))
            case launching.MeasureUsage():
                self._attempts.measure()
            case launching.RenewWorkers():
                self._attempts.workers.renew()
            case launching.OutputStored(key, offset):
                if self._context.outbox is not None:
                    self._context.outbox.stored(key, offset)
            case launching.KeepAlive():
                self._channel.send(self._welcome)
            case launching.Greeting() | launching.TradeSockets() | launching.OpenKeyboard():
                pass  # `receive` has handled it
            case launching.Goodbye(store, position):
                with or_without("a supervisor's position"):
                    self._journal.record_supervisor(store, self._journal.generation(store), position)
                self._has_goodbye = True
                self.check_exit()


def _problem_with(greeting: launching.Greeting, highest: int) -> str | None:
    """Return why a supervisor is declined; `highest`: the highest generation that was obeyed."""
    if greeting.protocol > launching.LAUNCHING_PROTOCOL:
        newest = launching.LAUNCHING_PROTOCOL
        return f"it needs launching protocol {greeting.protocol}, this launcher speaks {newest}"
    if greeting.generation > launching.MAX_GENERATION:
        return f"its generation is {greeting.generation}, and {launching.MAX_GENERATION} is the highest"
    if greeting.generation < highest:
        return f"its generation is {greeting.generation}, and one of generation {highest} has taken over"
    return None


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
                self._supervisors.receive(self, launching.decode_to_launcher(payload))
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


_LEASE_BEATS = 6  # looks at the lease until it is over
_BUFFER_SIZE = 1 << 16  # bytes: room for some Launch messages with their environments


def _peer_uid(connection: socket.socket) -> int:
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    uid: int = struct.unpack("3i", credentials)[1]
    return uid


def _without_transport(transport: asyncio.Transport) -> socket.socket:
    """Return the socket of a connection, whose transport would read packets without their descriptors.

    Raises:
        OSError: this process has no descriptors left.
    """
    try:
        own: socket.socket = transport.get_extra_info("socket").dup()
    finally:
        transport.abort()
    return own


# --- The channel to the active supervisor: without one, messages are dropped, as the next snapshot has them.


class SupervisorChannel:
    """Send messages in few writes, because each write wakes the supervisor.

    `is_slow`: the supervisor does not read what was sent, so send only what is necessary.
    """

    def __init__(self) -> None:
        self.frames = FrameWriter(MAX_LAUNCHING_FRAME)
        self._timer: asyncio.TimerHandle | None = None
        self.is_slow = False

    @property
    def is_connected(self) -> bool:
        """Whether there is an active supervisor."""
        return self.frames.transport is not None

    def connect(self, transport: asyncio.WriteTransport) -> None:
        """Send to this supervisor from now on; drop the previous one, with everything unread and unsent."""
        self.disconnect()
        self.frames.transport = transport

    def disconnect(self) -> None:
        """Close the connection at once; drop everything unread and unsent."""
        self.frames.abort()
        self.is_slow = False

    def send(self, message: FromLauncher) -> None:
        """Send a message at the end of this turn of the loop, together with others."""
        if self.is_connected:
            self.frames.send(encode(message))

    def send_soon(self, message: FromLauncher) -> None:
        """Send a message with the next one from `send`, or soon: it is not urgent."""
        if self.is_connected:
            self.frames.add(encode(message))
            if self._timer is None:
                self._timer = asyncio.get_running_loop().call_later(_SOON, self._flush_timer)

    def _flush_timer(self) -> None:
        self._timer = None
        self.frames.flush()


_SOON = 0.01  # seconds


# --- The listening sockets of the pages while no daemon runs, so that no other user takes their port.


class HeldSockets:
    """The sockets that a daemon last gave to the launcher, with their description."""

    def __init__(self) -> None:
        self._packet = launching.NO_SOCKETS
        self._fds: list[int] = []

    def trade(self, transport: asyncio.Transport) -> None:
        """Send the held sockets on a connection, then accept new ones from it, if any."""
        try:
            connection = _without_transport(transport)
        except OSError as error:
            log.warning("cannot hold sockets for bgd: %s", error.strerror)
            return
        try:
            socket.send_fds(connection, [self._packet], self._fds)
        except OSError:  # the daemon is gone
            connection.close()
        else:
            asyncio.get_running_loop().add_reader(connection, self._take, connection)

    def _take(self, connection: socket.socket) -> None:
        asyncio.get_running_loop().remove_reader(connection)
        packet, fds, flags = b"", list[int](), 0
        limits = launching.MAX_SOCKETS_PACKET, launching.MAX_HELD_SOCKETS
        with connection, suppress(OSError):  # the daemon is gone
            packet, fds, flags, _ = socket.recv_fds(connection, *limits)
        for fd in fds:
            os.set_inheritable(fd, False)  # jobs must not get them
        if packet and not flags & socket.MSG_CTRUNC:  # cut: this process has no descriptors left
            self._packet, self._fds, fds = packet, fds, self._fds
        for fd in fds:
            os.close(fd)
