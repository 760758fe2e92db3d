"""Peers: which user has the other end of a connection over the loopback.

A cookie alone is no proof on a machine that several people share. Browsers send a cookie to every port of a
host, so the web server of another user, on another port of 127.0.0.1, is sent ours as soon as we look at it.
But the kernel knows who made each socket. On the loopback it is asked for the browser's, and only the
daemon's own user and root are let in, whatever they show.
"""

from __future__ import annotations

import errno
import ipaddress
import logging
import socket
from pathlib import Path
from struct import Struct as Packing
from struct import unpack_from

logger = logging.getLogger(__name__)

# struct nlmsghdr, struct inet_diag_req_v2 and struct inet_diag_msg of linux/netlink.h and linux/inet_diag.h
_HEADER = Packing("=IHHII")
_REQUEST = Packing("=BBBBI")
_ID = Packing("!HH16s16s12s")  # ports, addresses, then interface and cookie
_OWNER = Packing("=IIIII")  # expiry, two queues, uid, inode
_ID_AT = _HEADER.size + 4
_OWNER_AT = _ID_AT + _ID.size

_NETLINK_SOCK_DIAG = 4
_SOCK_DIAG_BY_FAMILY = 20
_NLM_F_REQUEST = 1
_ANY_STATE = 0xFFFFFFFF
_ANY_COOKIE = b"\0" * 4 + b"\xff" * 8
_MOST_ANSWER = 4096  # bytes; a socket without its options has some hundred


def uid_of(peer: tuple[str, int], own: tuple[str, int]) -> int | None:
    """Return who made the socket at `peer` that is connected to `own`; None if nobody has it (any more)."""
    try:
        return _uid_by_netlink(peer, own)
    except OSError as error:  # a kernel, or a sandbox, without it
        logger.debug("the kernel does not answer by netlink whose a connection is: %s", error)
        return _uid_by_table(peer, own)


def _uid_by_netlink(peer: tuple[str, int], own: tuple[str, int]) -> int | None:
    """Ask for this one socket; costs the same however many there are."""
    addresses = [ipaddress.ip_address(peer[0]).packed, ipaddress.ip_address(own[0]).packed]
    family = socket.AF_INET if len(addresses[0]) == 4 else socket.AF_INET6  # noqa: PLR2004 - bytes of IPv4
    wanted = _ID.pack(peer[1], own[1], *addresses, _ANY_COOKIE)
    request = _REQUEST.pack(family, socket.IPPROTO_TCP, 0, 0, _ANY_STATE) + wanted
    header = _HEADER.pack(_HEADER.size + len(request), _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST, 1, 0)
    with socket.socket(
        socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_SOCK_DIAG
    ) as asking:
        asking.settimeout(1.0)  # the answer is there when send returns
        asking.send(header + request)
        answer = asking.recv(_MOST_ANSWER)
    _, kind, *_ = _HEADER.unpack_from(answer)
    if kind != _SOCK_DIAG_BY_FAMILY:
        (code,) = unpack_from("=i", answer, _HEADER.size)
        if -code == errno.ENOENT:
            return None
        raise OSError(-code, "sock_diag")
    if _ID.unpack_from(answer, _ID_AT)[:4] != _ID.unpack(wanted)[:4]:
        return None  # the kernel looks for a listening socket where there is no connection
    *_, uid, inode = _OWNER.unpack_from(answer, _OWNER_AT)
    return int(uid) if inode else None  # closed by its owner: the kernel names root then


def _uid_by_table(peer: tuple[str, int], own: tuple[str, int]) -> int | None:
    wanted = [_in_table(peer), _in_table(own)]
    name = "tcp6" if ":" in peer[0] else "tcp"
    with Path("/proc/net", name).open(encoding="ascii") as table:
        for line in table:
            fields = line.split()
            if fields[1:3] == wanted and fields[9] != "0":
                return int(fields[7])
    return None


def _in_table(address: tuple[str, int]) -> str:
    """Return an address as /proc/net/tcp writes it: words of four bytes in the machine's own order."""
    packed = ipaddress.ip_address(address[0]).packed
    words = unpack_from(f"={len(packed) // 4}I", packed)
    return "".join(f"{word:08X}" for word in words) + f":{address[1]:04X}"
