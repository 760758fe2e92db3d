"""Listen for browsers: on a port of the loopback, or the next free one, or on a unix socket."""

from __future__ import annotations

import errno
import secrets
import socket
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from msgspec import Struct

from bgd.daemon.folder import BACKLOG, bind_unix_socket, is_listened_on
from bgd.daemon.launching import NOTHING_HELD, Held, LauncherLink
from bgd.errors import ConfigError
from bgd.settings.values import MAX_PORT, Address, TcpAddress, UnixAddress

# What browsers connect to for a name below .localhost; another user must not have one of them
LOOPBACK = ("127.0.0.1", "::1")
SECRET_BYTES = 32
SLOW_LAUNCHER = 5.0  # seconds
ANY_PORT_TRIES = 100
_SOCKET_UMASK = 0o117  # a unix socket is for its owner and group, for example that of a proxy


class Listening(Struct, frozen=True):
    """Listening sockets and their address. `secret` is made with those of a port and lost with them."""

    sockets: list[socket.socket]
    address: Address
    secret: bytes


async def open_sockets(wanted: Address, ports: int, last: int, link: LauncherLink) -> Listening:
    """Listen as `listen` does, and give the launcher the sockets for the next daemon.

    Of a unix socket it holds only the secret: no other user can take the path.

    Raises:
        ConfigError: the address is taken, or cannot be used.
    """
    if not link.has_started_launcher:  # an earlier one may hold them, and be slow to answer
        await link.wait_until_tried(SLOW_LAUNCHER)
    opened = listen(wanted, ports, last, await link.held_sockets())
    held = opened.sockets if isinstance(wanted, TcpAddress) else []
    await link.hold_sockets(Held(opened.secret, held))
    return opened


def listen(wanted: Address, ports: int, last: int = 0, held: Held = NOTHING_HELD) -> Listening:
    """Take what was held for this address, or else listen on the first free port of `ports` in a row.

    If the port `last` is one of them, it is tried first.

    Raises:
        ConfigError: the address is taken, or cannot be used.
    """
    is_secret = len(held.packet) == SECRET_BYTES
    if is_secret and isinstance(wanted, TcpAddress) and (port := _port_of(held.sockets, wanted, ports)):
        return Listening(held.sockets, TcpAddress(wanted.host, port), held.packet)
    for each in held.sockets:
        each.close()
    secret = secrets.token_bytes(SECRET_BYTES)
    try:
        match wanted:
            case TcpAddress():
                opened = Listening(*_listen_on_port(wanted, ports, last), secret)
            case UnixAddress():
                is_kept = is_secret and not held.sockets
                listening = _listen_on_path(Path(wanted.path))
                opened = Listening([listening], wanted, held.packet if is_kept else secret)
    except OSError as error:
        raise ConfigError(f"cannot serve pages at {wanted}: {error.strerror}; see [http] listen") from error
    for each in opened.sockets:
        each.setblocking(False)
    return opened


def _port_of(sockets: Sequence[socket.socket], wanted: TcpAddress, ports: int) -> int | None:
    """Return the port of these sockets, if they are what `wanted` asks for."""
    found = [each.getsockname()[:2] for each in sockets if each.family != socket.AF_UNIX]
    hosts = {host for host, _ in found}
    is_wanted = wanted.host in hosts and hosts <= set(_hosts(wanted))
    port: int = found[0][1] if is_wanted else 0
    return port if port in _allowed(wanted, ports) or wanted.port == 0 else None


def _allowed(wanted: TcpAddress, ports: int) -> Sequence[int]:
    return range(wanted.port, min(wanted.port + ports, MAX_PORT + 1)) if wanted.port else [0] * ANY_PORT_TRIES


def _hosts(wanted: TcpAddress) -> Sequence[str]:
    return LOOPBACK if wanted.host in LOOPBACK else [wanted.host]


def _listen_on_port(wanted: TcpAddress, ports: int, last: int) -> tuple[list[socket.socket], TcpAddress]:
    allowed = _allowed(wanted, ports)
    if last and (last in allowed or wanted.port == 0):
        with suppress(OSError):
            return _bind_port(wanted, last), TcpAddress(wanted.host, last)
    for tried, port in enumerate(allowed, 1):
        try:
            listening = _bind_port(wanted, port)
        except OSError as error:
            if error.errno != errno.EADDRINUSE or tried == len(allowed):
                raise
        else:
            return listening, TcpAddress(wanted.host, listening[0].getsockname()[1])
    raise AssertionError  # there is at least one


def _bind_port(wanted: TcpAddress, port: int) -> list[socket.socket]:
    """Listen on a port of the wanted host; on that of both loopback addresses, if it is one of them."""
    listening = [_bind(wanted.host, port)]
    for other in set(_hosts(wanted)) - {wanted.host}:
        try:
            listening.append(_bind(other, listening[0].getsockname()[1]))
        except OSError as error:
            if error.errno not in _NO_FAMILY:
                listening[0].close()
                raise
    return listening


def _bind(host: str, port: int) -> socket.socket:
    listening = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        # a port that was ours a moment ago is not taken
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
        listening.listen(BACKLOG)
    except OSError:
        listening.close()
        raise
    return listening


def _listen_on_path(path: Path) -> socket.socket:
    if path.exists() and not path.is_socket():
        raise FileExistsError(errno.EEXIST, "something that is not a socket has this name")
    if is_listened_on(path):
        raise OSError(errno.EADDRINUSE, "another process listens there")
    return bind_unix_socket(path, umask=_SOCKET_UMASK, backlog=BACKLOG)


_NO_FAMILY = {errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL}  # this machine has no IPv6, or no IPv4
