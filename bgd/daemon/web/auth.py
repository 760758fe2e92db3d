"""Who may see pages: which host was meant, which user asks, and whether that user is logged in."""

from __future__ import annotations

import asyncio
import errno
import hmac
import ipaddress
import logging
import re
import secrets
import socket
from collections import deque
from hashlib import sha256
from http import HTTPStatus
from pathlib import Path
from struct import Struct as Packing
from struct import unpack_from

from msgspec import Struct

from bgd import clock
from bgd.config import Auth
from bgd.daemon.access import Actor, may_connect
from bgd.settings import Address, TcpAddress, UnixAddress
from bgd.wire.http import Request, RequestRefused

# --- Peers: which user has the other end of a connection over the loopback.


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


# --- Sessions: who has logged in. A link that works once gives a cookie that works for some hours.


LINK_SECONDS = 60.0
SESSION_SECONDS = 8 * 3600.0
MAX_KEPT = 100  # links, and sessions; the oldest falls out

_BYTES = 32  # 256 bits of chance


class Sessions:
    """Links that were given out and nobody has used, and the sessions of those that were used.

    Instants are of the elapsed clock. Only hashes are kept: what can be read here opens no door.
    """

    def __init__(self) -> None:
        self._links = _Secrets(LINK_SECONDS)
        self._sessions = _Secrets(SESSION_SECONDS)

    def invite(self, uid: int, at: float) -> str:
        """Return a token that logs this user in, once."""
        return self._links.make(uid, at)

    def log_in(self, token: str, at: float) -> str | None:
        """Use a token up; return the new session's secret, None if there was no such token."""
        uid = self._links.take(token, at)
        return None if uid is None else self._sessions.make(uid, at)

    def uid_of(self, secret: str, at: float) -> int | None:
        """Return whose session this is, None if it is none, or no longer."""
        return self._sessions.uid_of(secret, at)


class _Kept(Struct, frozen=True):
    digest: bytes
    uid: int
    until: float


class _Secrets:
    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._kept: deque[_Kept] = deque(maxlen=MAX_KEPT)

    def make(self, uid: int, at: float) -> str:
        secret = secrets.token_urlsafe(_BYTES)
        self._kept.append(_Kept(_digest(secret), uid, at + self._seconds))
        return secret

    def uid_of(self, secret: str, at: float) -> int | None:
        found = self._find(secret, at)
        return None if found is None else found.uid

    def take(self, secret: str, at: float) -> int | None:
        found = self._find(secret, at)
        if found is None:
            return None
        self._kept.remove(found)
        return found.uid

    def _find(self, secret: str, at: float) -> _Kept | None:
        digest = _digest(secret)
        # all of them are compared, so that the time tells nothing of where one stands
        found = [kept for kept in self._kept if hmac.compare_digest(kept.digest, digest)]
        return found[0] if found and at < found[0].until else None


def _digest(secret: str) -> bytes:
    return sha256(secret.encode()).digest()


# --- The entrance: who may see pages. Every request passes it, whatever it asks for.


_ANY_HOST = re.compile(r"[A-Za-z0-9._-]{1,255}(:[0-9]{1,5})?|\[[0-9A-Fa-f:.]{2,45}\](:[0-9]{1,5})?")

NOT_LOGGED_IN = "You are not logged in."


class Ends(Struct, frozen=True):
    """The two ends of a connection over the loopback, as address and port."""

    peer: tuple[str, int]
    own: tuple[str, int]


class Entrance:
    """Lets in by four questions: which host was meant, from which page, by which user, and logged in or not.

    Of a connection by a unix socket the kernel names the proxy, not the browser's user; there the last
    question decides alone, and whoever may open the socket may ask.
    """

    def __init__(self, address: Address, auth: Auth, uid: int) -> None:
        self._address = address
        self._auth = auth
        self._uid = uid
        self._sessions = Sessions()
        # of a unix socket nobody here knows what it is called where the browser is
        self._origin = f"http://{address if isinstance(address, TcpAddress) else 'localhost'}"
        # browsers send a cookie to every port: those of several daemons must differ by name
        self._cookie = f"bgd_{address.port}" if isinstance(address, TcpAddress) else "bgd"

    @property
    def place(self) -> str:
        """Where the pages are, for people: the address of the list, or the unix socket."""
        return f"{self._origin}/job-logs" if isinstance(self._address, TcpAddress) else str(self._address)

    def invite(self, uid: int) -> str:
        """Return a link that logs this user in, once and soon."""
        return f"{self._origin}/login/{self._sessions.invite(uid, clock.elapsed())}"

    def log_in(self, token: str, request: Request) -> tuple[str, str]:
        """Use up the token of a link; return the header that gives the browser its cookie.

        Raises:
            RequestRefused: the link does not work, or no longer.
        """
        secret = self._sessions.log_in(token, clock.elapsed())
        if secret is None:
            raise RequestRefused(
                HTTPStatus.UNAUTHORIZED, "This link has been used before, or is older than a minute."
            )
        is_behind_tls = (
            isinstance(self._address, UnixAddress) and request.headers.get("x-forwarded-proto") == "https"
        )
        cookie = f"{self._cookie}={secret}; Path=/; Max-Age={SESSION_SECONDS:.0f}; HttpOnly; SameSite=Strict"
        return "Set-Cookie", cookie + ("; Secure" if is_behind_tls else "")

    def check_host(self, request: Request) -> None:
        """Refuse a host that is not ours: a stranger's name may be made to lead here (DNS rebinding)."""
        host = request.headers["host"].lower()
        match self._address:
            case TcpAddress(port=port):
                is_ours = host in {str(self._address), *(f"{name}:{port}" for name in _OWN_NAMES)}
            case UnixAddress():
                is_ours = _ANY_HOST.fullmatch(host) is not None
        if not is_ours:
            raise RequestRefused(HTTPStatus.MISDIRECTED_REQUEST, "there is no such host here")

    async def check_user(self, ends: Ends | None) -> None:
        """Refuse a browser of another user. `ends` None: it came by a unix socket.

        Raises:
            RequestRefused: of another user, or the kernel does not say of which.
        """
        if ends is not None:
            uid = await asyncio.to_thread(uid_of, ends.peer, ends.own)
            if uid is None or not may_connect(Actor(uid), self._uid):
                raise RequestRefused(
                    HTTPStatus.FORBIDDEN,
                    f"These pages are for user {self._uid} of this machine, and for root.",
                )

    def check_session(self, request: Request) -> None:
        """Refuse who is not logged in, and what another site's page asks for in a browser that is.

        Raises:
            RequestRefused: one of both.
        """
        site = request.headers.get("sec-fetch-site", "none")  # not sent by old browsers, nor by programs
        is_visit = request.headers.get("sec-fetch-mode") == "navigate"
        if site in {"cross-site", "same-site"} and not is_visit:
            raise RequestRefused(HTTPStatus.FORBIDDEN, "These pages are not for other sites.")
        is_logged_in = site != "cross-site" and any(map(self._opens, request.cookies(self._cookie)))
        if self._auth is Auth.TOKEN and not is_logged_in:
            raise RequestRefused(HTTPStatus.UNAUTHORIZED, NOT_LOGGED_IN)

    def check_write(self, request: Request) -> None:
        """Refuse a change that a page of another origin asks for.

        The ports of a host are one site to browsers, so SameSite does not keep the cookie from a form that a
        program on another port serves. The token shows that our own page made the form.

        Raises:
            RequestRefused: the browser names another origin or none, or the token is not the session's.
        """
        site = request.headers.get("sec-fetch-site")  # not sent by old browsers
        host = request.headers["host"].lower()
        is_own = request.headers.get("origin") in {f"http://{host}", f"https://{host}"}
        if site != "same-origin" and (site is not None or not is_own):
            raise RequestRefused(HTTPStatus.FORBIDDEN, "Only these pages themselves may change something.")
        given = request.headers.get("x-bgd-token", "").encode()
        sessions = filter(self._opens, request.cookies(self._cookie))
        if not any(hmac.compare_digest(given, form_token(secret).encode()) for secret in sessions):
            raise RequestRefused(HTTPStatus.FORBIDDEN, "The token of this session is missing or wrong.")

    def _opens(self, secret: str) -> bool:
        uid = self._sessions.uid_of(secret, clock.elapsed())
        return uid is not None and may_connect(Actor(uid), self._uid)


def form_token(secret: str) -> str:
    """Return what a page of a session sends back with a change; the cookie cannot be worked out from it."""
    return hmac.new(secret.encode(), b"form", "sha256").hexdigest()


_OWN_NAMES = ("127.0.0.1", "localhost", "[::1]")
