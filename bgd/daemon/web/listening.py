"""Listening for browsers: a port of the loopback, the next ones if it is taken, or a unix socket."""

from __future__ import annotations

import errno
import os
import socket
from pathlib import Path

from bgd.addresses import MAX_PORT, Address, TcpAddress, UnixAddress
from bgd.daemon.folder import is_listened_on
from bgd.errors import BgdError

BACKLOG = 128

_FOR_OTHERS = 0o117  # umask: a unix socket is for its owner and group, as of a proxy


class CannotListen(BgdError):
    """Nothing can be served at this address; the message says which and why."""


def listen(address: Address, ports: int) -> tuple[socket.socket, Address]:
    """Return a listening socket and the address it has, on the first free one of so many ports.

    Raises:
        CannotListen: the address is taken, or cannot be had.
    """
    try:
        match address:
            case TcpAddress():
                listening, address = _listen_on_port(address, ports)
            case UnixAddress():
                listening = _listen_on_path(Path(address.path))
    except OSError as error:
        raise CannotListen(f"cannot serve pages at {address}: {error.strerror}; see [http] listen") from error
    listening.setblocking(False)
    return listening, address


def _listen_on_port(address: TcpAddress, ports: int) -> tuple[socket.socket, TcpAddress]:
    last = min(address.port + ports - 1, MAX_PORT)
    while True:
        try:
            listening = _bound(address)
        except OSError as error:
            if error.errno != errno.EADDRINUSE or address.port >= last:
                raise
            address = TcpAddress(address.host, address.port + 1)
        else:
            return listening, TcpAddress(address.host, listening.getsockname()[1])


def _bound(address: TcpAddress) -> socket.socket:
    listening = socket.socket(socket.AF_INET6 if ":" in address.host else socket.AF_INET)
    try:
        # a port that was ours a moment ago is not taken
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((address.host, address.port))
        listening.listen(BACKLOG)
    except OSError:
        listening.close()
        raise
    return listening


def _listen_on_path(path: Path) -> socket.socket:
    if path.exists() and not path.is_socket():
        raise FileExistsError(errno.EEXIST, "something stands there that is no socket")
    if is_listened_on(path):
        raise OSError(errno.EADDRINUSE, "somebody listens there")
    listening = socket.socket(socket.AF_UNIX)
    before = os.umask(_FOR_OTHERS)
    try:
        path.unlink(missing_ok=True)
        listening.bind(str(path))
        listening.listen(BACKLOG)
    except OSError:
        listening.close()
        raise
    finally:
        os.umask(before)
    return listening
