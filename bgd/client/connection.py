"""A connection to a daemon: its socket, and as many requests and streams at once as there are callers."""

from __future__ import annotations

import itertools
import os
import socket
import struct
import time
import weakref
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Protocol, Self

from msgspec import Struct
from msgspec.structs import replace

from bgd.client.session import UNNUMBERED, Broken, HungUp, NotSent, Session, framed
from bgd.errors import BgdError, ConfigError, DaemonUnreachable, NotAllowed, ProtocolError
from bgd.settings.paths import SYSTEM_PATHS, DaemonPaths, check_socket, user_paths
from bgd.wire.replies import End, Failed, KeyboardOpened, Reply
from bgd.wire.requests import Forget, Request

if TYPE_CHECKING:
    from bgd.client.concurrency import Bell, Concurrency

_UCRED = struct.Struct("3i")  # pid, uid, gid: struct ucred of unix(7)
NO_WAY_IN = (FileNotFoundError, ConnectionRefusedError, NotADirectoryError, PermissionError)
READ_SIZE = 64 * 1024  # bytes; malloc maps and unmaps much larger ones each time
_RECEIVE = socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC
_FORGET_SECONDS = 1.0  # to tell a busy daemon that the rest of a stream is not needed
_CLOSE_SECONDS = 1.0  # for others to leave a connection that is being closed


class Connection:
    """Requests and streams over one socket, which several threads or tasks may use at once.

    It has none of its own: of those that wait for a reply, the one that holds `_reading` reads for
    all. What is not waited for stays in the socket, so that the daemon stops sending a stream that is not
    read. Deadlines are on the monotonic clock; None: no limit.
    """

    def __init__(self, path: str, connection: socket.socket, io: Concurrency) -> None:
        self._path = path
        self._socket = connection
        self._io = io
        self._session = Session()
        self._ids = itertools.count(1)
        self._sending = io.new_lock()
        self._reading = io.new_lock()
        self._inboxes: dict[int, Inbox] = {}  # of all requests, by their ids
        self._waiting: dict[int, Inbox] = {}  # of those whose callers wait for a reply
        self._descriptors: list[int] = []  # that came with what was read
        self._failure: Callable[[], BgdError] | None = None  # why this connection is broken
        renew_after_fork(self)

    @classmethod
    async def open(cls, place: ClientSocket, deadline: float | None, io: Concurrency) -> Self:
        """Connect to a daemon and exchange hellos.

        Raises:
            OSError: one of NO_WAY_IN: no daemon listens there, or the caller may not use it.
            NotAllowed: an unexpected user serves a socket that the caller did not name.
            DaemonUnreachable: a program listens, but does not answer as a daemon does.
            BgdError: the daemon refuses the connection.
        """
        try:
            return await cls._open(place, deadline, io)
        except NO_WAY_IN:
            raise
        except (BlockingIOError, TimeoutError) as error:
            raise DaemonUnreachable(
                f"the daemon at {place.path} does not answer: it is stopped or very busy"
            ) from error
        except OSError as error:
            raise DaemonUnreachable(f"{place.path} is not a daemon's socket: {error.strerror}") from error

    @classmethod
    async def _open(cls, place: ClientSocket, deadline: float | None, io: Concurrency) -> Self:
        connection = cls(place.path, await io.connected_socket(place.path, deadline), io)
        try:
            check_server(connection._socket, place)
            await connection._shake_hands(deadline)
        except BaseException:
            connection._socket.close()
            raise
        return connection

    @property
    def is_broken(self) -> bool:
        return self._failure is not None

    @property
    def newest(self) -> int:
        """The newest job that the daemon told of."""
        return self._session.newest

    async def exchange(self, frames: Callable[[int], bytes], deadline: float | None) -> Reply:
        """Send a request and return its only reply. `frames` makes the request's frames, given its id.

        Raises:
            TimeoutError: the reply did not come in time.
            NotSent: the daemon has not taken the request.
            Broken: the daemon may or may not have taken it.
        """
        return await self.reply_to(await self.post(frames, deadline), deadline)

    async def post(self, frames: Callable[[int], bytes], deadline: float | None) -> Inbox:
        """Send a request, whose only reply `reply_to` waits for. Raises as `exchange` does."""
        inbox = Inbox(next(self._ids), self._io.new_bell())
        self._inboxes[inbox.id] = inbox
        try:
            await self._send(frames(inbox.id), deadline)
        except BaseException:
            del self._inboxes[inbox.id]
            raise
        return inbox

    async def reply_to(self, inbox: Inbox, deadline: float | None) -> Reply:
        """Return the reply to a request that was posted. Raises as `exchange` does."""
        try:
            return await self._receive(inbox, deadline)
        finally:
            del self._inboxes[inbox.id]

    def drop(self, inbox: Inbox) -> None:
        """Ignore the reply to a request that was posted."""
        self._inboxes.pop(inbox.id, None)

    async def stream(self, request: Request, deadline: float | None) -> AsyncGenerator[Reply, None]:
        """Send a request and yield its replies up to the end mark. Closing the generator ends the stream."""
        inbox = await self.post(partial(framed, request), deadline)
        try:
            while not isinstance(reply := await self._receive(inbox, deadline), End):
                yield reply
        except BgdError:
            raise  # the stream has ended
        except BaseException:
            forget = framed(Forget(UNNUMBERED, inbox.id), next(self._ids))
            with suppress(NotSent):  # the stream has ended with its connection
                await self._send(forget, time.monotonic() + _FORGET_SECONDS)
            raise
        finally:
            del self._inboxes[inbox.id]

    async def wait_for_end(self, deadline: float | None) -> None:
        """Wait until the daemon closes the connection.

        Raises:
            TimeoutError: it has not done so in time.
        """
        with suppress(BgdError):
            await self._receive(Inbox(next(self._ids), self._io.new_bell()), deadline)

    async def close(self) -> None:
        """Close the connection; callers that still wait get DaemonUnreachable."""
        self._break(partial(DaemonUnreachable, "the connection was closed"))
        deadline = time.monotonic() + _CLOSE_SECONDS
        # Others may be about to use the descriptor, whose number could belong to the next connection once it
        # is closed. They leave soon, and later callers find that the connection is broken. If this runs in a
        # signal handler, they may be in the same thread: then the socket is closed when its last reference
        # goes.
        with suppress(TimeoutError):
            for lock in (self._reading, self._sending):
                await self._io.acquire(lock, deadline)
                lock.release()
            self._socket.close()

    def renew(self) -> None:
        """Leave the connection to the parent process: a child closes its descriptor and breaks nothing."""
        self._socket.close()
        self._sending, self._reading = self._io.new_lock(), self._io.new_lock()
        self._failure = partial(Broken, f"the connection to {self._path} belongs to the parent process")

    # --- sending ------------------------------------------------------------------------------------

    async def _send(self, data: bytes, deadline: float | None) -> None:
        try:
            await self._io.acquire(self._sending, deadline)
        except TimeoutError as error:
            raise NotSent(f"the daemon at {self._path} reads nothing") from error
        rest = memoryview(data)
        try:
            if self._failure is not None:
                raise NotSent(str(self._failure()))
            while rest:
                rest = rest[await self._write_some(rest, deadline) :]
        except OSError as error:
            self._break(partial(Broken, f"the connection to {self._path} broke: {error}"))
            problem = str(error) or "the daemon reads nothing"
            raise NotSent(f"no request could be sent to {self._path}: {problem}") from error
        finally:
            if rest:  # also after an interrupt: nothing can follow half a frame
                self._break(partial(Broken, f"a request to {self._path} was interrupted"))
            self._sending.release()

    async def _write_some(self, data: memoryview, deadline: float | None) -> int:
        """Send as many bytes as fit, at least one; return how many."""
        while True:
            try:
                return self._socket.send(data, socket.MSG_DONTWAIT)
            except BlockingIOError:
                await self._io.wait_ready(self._socket, deadline, to_write=True)

    # --- receiving ----------------------------------------------------------------------------------

    async def _receive(self, inbox: Inbox, deadline: float | None) -> Reply:
        """Return the next reply to a request. Until it arrives, read for all, or wait while another does."""
        self._waiting[inbox.id] = inbox
        try:
            while not inbox:
                if self._failure is not None:
                    raise self._failure()
                if await self._io.try_acquire(self._reading):
                    try:
                        # the previous reader may have filled this inbox, or found the end
                        if not inbox and self._failure is None:
                            self._sort(await self._read_some(deadline))
                    finally:
                        self._reading.release()
                else:
                    await inbox.bell.wait(deadline)
        finally:
            del self._waiting[inbox.id]
            self._let_another_read()
        reply = inbox.popleft()
        if isinstance(reply, Failed):
            raise self._session.error_in(reply)
        return reply

    async def _read_some(self, deadline: float | None) -> bytes:
        """Return what arrives next; empty at the end of the connection."""
        while True:
            await self._io.wait_ready(self._socket, deadline)
            try:
                data, descriptors, *_ = socket.recv_fds(self._socket, READ_SIZE, 1, _RECEIVE)
            except BlockingIOError:
                continue
            except OSError:  # a daemon killed with our request unread resets the connection, an end as well
                return b""
            self._descriptors += descriptors
            return data

    def _sort(self, data: bytes) -> None:
        """Put the replies that these bytes complete into the inboxes of their requests."""
        if not data:
            self._break(self._session.end(self._path))
            return
        try:
            for received in self._session.feed(data):
                reply = self._with_descriptor(received) if isinstance(received, KeyboardOpened) else received
                # None: the caller no longer waits for this answer or the rest of this stream
                if (inbox := self._inboxes.get(reply.id)) is not None:
                    inbox.append(reply)
                    inbox.bell.ring()
        except BgdError as error:
            self._break(partial(type(error), str(error)))

    def _with_descriptor(self, opened: KeyboardOpened) -> KeyboardOpened:
        if not self._descriptors:
            raise ProtocolError("the daemon has sent a keyboard without its socket")
        return replace(opened, descriptor=self._descriptors.pop())

    def _let_another_read(self) -> None:
        """Wake one waiter for a reply if none is reading. Each reader calls this when it leaves."""
        if self._waiting and not self._reading.locked():
            for inbox in list(self._waiting.values()):
                if not inbox:
                    inbox.bell.ring()
                    return

    async def _shake_hands(self, deadline: float | None) -> None:
        try:
            await self._send(self._session.hello(), deadline)
        except NotSent:
            self._failure = None  # refused at once; the reason may be there to read
        while not self._session.is_greeted:
            if self._failure is not None:
                raise self._failure()
            self._sort(await self._read_some(deadline))

    def _break(self, failure: Callable[[], BgdError]) -> None:
        if self._failure is None:
            self._failure = failure
        with suppress(OSError):  # the daemon may have closed it already
            self._socket.shutdown(socket.SHUT_RDWR)  # ends reads and writes, which close() would not
        for inbox in list(self._waiting.values()):
            inbox.bell.ring()


# --- forked children ------------------------------------------------------------------------------------


class Renewable(Protocol):
    """Has locks, threads or connections that a forked child cannot use."""

    def renew(self) -> None:
        """Start over in a forked child, where only the thread that forked exists."""


def renew_after_fork(inherited: Renewable) -> None:
    """Let a forked child renew this object."""
    _inherited.add(inherited)


def _renew_inherited() -> None:
    for inherited in list(_inherited):
        inherited.renew()


_inherited: weakref.WeakSet[Renewable] = weakref.WeakSet()
os.register_at_fork(after_in_child=_renew_inherited)


# --- replies --------------------------------------------------------------------------------------------


class Inbox(deque[Reply]):
    """The replies to one request that its caller has not taken. The bell rings for new ones."""

    def __init__(self, request_id: int, bell: Bell) -> None:
        super().__init__()
        self.id = request_id
        self.bell = bell


# --- sockets -------------------------------------------------------------------------------------------


class Socket(socket.socket):
    """A Unix socket that closes without a warning when its last reference goes.

    A job object may outlive the block of its client and open a connection that stays open. In a reference
    cycle, a plain socket would warn about that.
    """

    def __init__(self) -> None:
        super().__init__(socket.AF_UNIX, socket.SOCK_STREAM)

    def __del__(self) -> None:
        self.close()


def check_server(connection: socket.socket, place: ClientSocket) -> None:
    """Refuse a server of an untrusted user, which could read and forge everything.

    A socket that the caller named is trusted.

    Raises:
        NotAllowed: the message names the user.
    """
    if place.is_explicit:
        return
    # the system's daemon owns its folder in /run
    folder = os.path.dirname(place.path)  # noqa: PTH120 - pathlib takes two milliseconds to import
    trusted = {0, os.geteuid() if place.is_own else os.stat(folder).st_uid}  # noqa: PTH116
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    _, uid, _ = _UCRED.unpack(credentials)  # of the process that called listen()
    if uid not in trusted:
        raise NotAllowed(
            f"{place.path} is served by uid {uid}, not by uid {' or '.join(map(str, sorted(trusted)))}, "
            "so nothing was sent: if you trust that user, set BGD_SOCKET to this path"
        )


@contextmanager
def process_descriptor(pid: int | None) -> Iterator[int | None]:
    """Yield a descriptor that becomes readable when a process ends.

    None if there is no such process here: `pid` is None, the process has ended, or it runs in a container,
    where the number means another one.
    """
    from pathlib import Path  # noqa: PLC0415 - as in check_server

    try:
        is_here = pid is not None and b"bgd" in Path(f"/proc/{pid}/cmdline").read_bytes()
        descriptor = os.pidfd_open(pid) if is_here and pid is not None else None
    except OSError:
        # ESRCH; on some kernels EINVAL while it is reaped; EINVAL or ENOENT if a thread has the number by now
        descriptor = None
    try:
        yield descriptor
    finally:
        if descriptor is not None:
            os.close(descriptor)


def seconds_left(deadline: float | None) -> float | None:
    """Return the seconds until a deadline on the monotonic clock, None if there is no deadline."""
    return None if deadline is None else max(0.0, deadline - time.monotonic())


# --- which socket --------------------------------------------------------------------------------------


class ClientSocket(Struct, frozen=True):
    """A socket that a client may try.

    `is_own`: it is that of the caller's own daemon, which the client may start. `is_explicit`: the caller
    named it, so the client trusts the program that serves it.
    """

    path: str
    is_own: bool
    is_explicit: bool = False

    def is_used(self) -> bool:
        """Return whether a daemon has ever run here, judging by its folder."""
        return os.path.exists(os.path.dirname(self.path))  # noqa: PTH110, PTH120 - pathlib is slow to import


def client_sockets(
    explicit: str | None = None,
    *,
    config: str | None = None,
    user: bool = False,
    system: bool = False,
    environ: Mapping[str, str] = os.environ,
) -> Iterator[ClientSocket]:
    """Yield the sockets that a client tries; it uses the first that answers.

    `explicit` (--socket), else $BGD_SOCKET, else that of the caller's own daemon, then the system's. `user`
    and `system` choose one of them, and so does a named configuration. Each is computed only when needed: a
    broken system configuration does not affect users of another daemon.

    Raises:
        ConfigError: as from `load`.
    """
    given = explicit or (None if user or system or config else environ.get("BGD_SOCKET"))
    if given:
        check_socket(given, "give a shorter path")
        yield ClientSocket(_absolute(given), is_own=False, is_explicit=True)
        return
    own = None
    if not system:
        own = _configured_socket(config, user_paths(environ), environ)
        yield ClientSocket(own, is_own=True)
    if system or not (user or config or environ.get("BGD_CONFIG")):
        shared = _configured_socket(config, SYSTEM_PATHS, environ)
        if shared != own:  # the environment may have named one for both
            yield ClientSocket(shared, is_own=False)


def _absolute(path: str) -> str:
    if path.startswith("/"):
        return path
    from pathlib import Path  # noqa: PLC0415 - as in check_server

    return str(Path(path).absolute())


def _configured_socket(config: str | None, usual: DaemonPaths, environ: Mapping[str, str]) -> str:
    """Return the socket of the daemon with this configuration file. None: the usual file, if there is one.

    Raises:
        ConfigError: as from `bgd.settings.config.load`.
    """
    is_configured = (
        config or any(name.startswith("BGD_") for name in environ) or os.path.lexists(usual.config)
    )
    if not is_configured:
        check_socket(usual.socket, "set [daemon] socket to a shorter path")
        return usual.socket
    from bgd.settings.config import load  # noqa: PLC0415 - most users have no configuration, and bgctl starts often

    try:
        return load(config, system=usual is SYSTEM_PATHS, environ=environ).daemon.socket
    except ConfigError as error:
        is_closed = usual is SYSTEM_PATHS and not config and isinstance(error.__cause__, PermissionError)
        if is_closed and not environ.get("BGD_CONFIG"):
            return usual.socket  # the machine's file may have a secret; users of that daemon can read it
        raise ConfigError(f"{error}; BGD_SOCKET reaches a running daemon without it") from error


class Connector(Struct, frozen=True, kw_only=True):
    """Where to find a daemon: see `client_sockets`.

    `autostart`: start the caller's own daemon if none answers, and call `on_autostart` with its pid and log.
    """

    socket: str | None = None
    config: str | None = None
    user: bool = False
    system: bool = False
    autostart: bool = True
    on_autostart: Callable[[int, str], None] | None = None

    async def connect(self, deadline: float, io: Concurrency, *, may_start: bool = True) -> Connection:
        """Connect to the first daemon that answers. Without `may_start`, do not start one this time.

        Raises:
            DaemonUnreachable: no daemon answers, and none was to be started or it did not start.
            NotAllowed: there is a daemon that this user may not use.
            ConfigError: the configuration that names the socket cannot be used.
        """
        try:
            return await self._connect(deadline, io, may_start=may_start)
        except HungUp:  # it may just have ended: then another one answers, or is started
            with suppress(DaemonUnreachable):
                return await self._connect(deadline, io, may_start=may_start)
            raise

    async def _connect(self, deadline: float, io: Concurrency, *, may_start: bool) -> Connection:
        failed: list[tuple[ClientSocket, OSError]] = []
        places = client_sockets(self.socket, config=self.config, user=self.user, system=self.system)
        while (place := await io.run_blocking(next, places, None)) is not None:
            try:
                return await Connection.open(place, deadline, io)
            except NO_WAY_IN as error:
                failed.append((place, error))
        own = next((place for place, _ in failed if place.is_own), None)
        if not (self.autostart and may_start) or own is None:
            raise _unreachable(failed)
        await self._start(own, deadline, io)
        try:
            return await Connection.open(own, deadline, io)
        except OSError as error:
            raise _unreachable([(own, error)]) from error

    async def _start(self, own: ClientSocket, deadline: float, io: Concurrency) -> None:
        from bgd.client.autostart import start_daemon  # noqa: PLC0415 - few calls need what it imports

        started = await io.run_blocking(start_daemon, self.config, own, deadline)
        if started is not None and self.on_autostart is not None:
            self.on_autostart(*started)


def _unreachable(failed: list[tuple[ClientSocket, OSError]]) -> DaemonUnreachable | NotAllowed:
    place, error = failed[0]
    if isinstance(error, PermissionError):
        return NotAllowed(f"you may not use the daemon at {place.path}: {error.strerror}")
    closed = [other.path for other, why in failed if isinstance(why, PermissionError)]
    paths = " or ".join(other.path for other, _ in failed if other.path not in closed)
    if place.is_own:
        kept = "your jobs are kept; " if place.is_used() else ""
        remedy = f"{kept}`bgctl submit` or `bgd` starts a daemon of your own"
    elif place.path == SYSTEM_PATHS.socket:
        remedy = "start it with `systemctl restart bgd`"
    else:
        remedy = "is the daemon running, and is that its socket?"
    if closed:
        remedy += f" (you may not use the one at {closed[0]})"
    return DaemonUnreachable(f"no daemon answers at {paths}: {remedy}")
