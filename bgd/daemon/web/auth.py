"""Access control of pages: the host of the request, its user, and the login."""

from __future__ import annotations

import asyncio
import errno
import hmac
import ipaddress
import logging
import re
import secrets
import socket
import time
from collections import deque
from collections.abc import Iterable
from hashlib import sha256
from http import HTTPStatus
from pathlib import Path
from struct import Struct as Packing
from struct import unpack_from

import msgspec
from msgspec import Struct

from bgd.daemon.access import may_connect, user_name
from bgd.daemon.folder import replace_file
from bgd.daemon.web.listening import LOOPBACK
from bgd.daemon.web.responses import NOT_LOGGED_IN
from bgd.settings.config import Auth, HttpConfig
from bgd.settings.values import HOST, Address, TcpAddress, UnixAddress
from bgd.system import clock
from bgd.wire.http import HttpRequest, RequestRefused, bad_request

logger = logging.getLogger(__name__)


Endpoints = tuple[tuple[str, int], tuple[str, int]]
"""The two ends of a connection over the loopback, the browser's and our own, each as address and port."""


class Authenticator:
    """Checks every request: the host it names, the page it comes from, its user, and the user's session.

    Behind a unix socket the kernel knows the proxy's user, not the browser's. There the session alone
    decides, or a header in which the proxy names the user; every process that can open the socket may ask.

    On a port the pages have a name of their own, made of the secret of its sockets. Once these are lost, a
    server of another user can have the port and the name, and leave a service worker in the browser. The
    next sockets have another name, to which that does not apply.

    Attributes:
        base: what stands before the paths of all pages.
        uid: the user of the daemon.
    """

    def __init__(
        self, address: Address, http: HttpConfig, uid: int, sessions: Sessions, secret: bytes
    ) -> None:
        self.address = address
        self._own_host = ""
        if isinstance(address, TcpAddress) and address.host in LOOPBACK:  # where browsers look for .localhost
            self._own_host = f"bgd-{derived(secret, 'name').hex()[:20]}.localhost:{address.port}"
        self._auth = http.auth
        self._hosts = None if http.serves_any_host else {*map(str.lower, http.host), *_LOOPBACK_NAMES}
        self.base = http.base
        self.uid = uid
        self._sessions = sessions
        # any program of this machine may send headers to a port
        self._user_header = http.user_header.lower() if isinstance(address, UnixAddress) else ""
        # behind a unix socket, the name that the browser uses is not known here
        self._origin = (
            f"http://{self._own_host or (address if isinstance(address, TcpAddress) else 'localhost')}"
        )
        # browsers send a cookie to every port of a host, so each daemon needs a name of its own
        self._cookie = f"bgd_{address.port}" if isinstance(address, TcpAddress) else "bgd"

    @property
    def url(self) -> str:
        """The address of the pages, for people: the URL of the list of jobs, or the unix socket."""
        is_port = isinstance(self.address, TcpAddress)
        return f"{self._origin}{self.base}/job-logs" if is_port else str(self.address)

    def login_link(self, uid: int, *, can_write: bool = True) -> str:
        """Return a link that logs this user in, once and within LINK_SECONDS."""
        token = self._sessions.issue_link(uid, clock.elapsed(), can_write=can_write)
        return f"{self._origin}{self.base}/login/{token}"

    async def log_in(self, token: str, request: HttpRequest) -> tuple[tuple[str, str], str]:
        """Use up a link's token; return a header with a cookie, and the token that pages send with a change.

        The token is empty if this session can only read.

        Raises:
            RequestRefused: the link never worked, or does not work any more.
        """
        session = self._sessions.log_in(token, clock.elapsed(), time.time())
        if session is None:
            raise RequestRefused(
                HTTPStatus.UNAUTHORIZED, "This link has been used before, or is older than a minute."
            )
        await asyncio.to_thread(self._sessions.save)
        is_behind_tls = (
            isinstance(self.address, UnixAddress) and request.headers.get("x-forwarded-proto") == "https"
        )
        limits = f"Path={self.base or '/'}; Max-Age={SESSION_SECONDS:.0f}; HttpOnly; SameSite=Strict"
        limits += "; Secure" if is_behind_tls else ""
        secret, write_token = session
        return ("Set-Cookie", f"{self._cookie}={secret}; {limits}"), write_token

    def check_host(self, request: HttpRequest) -> None:
        """Refuse a host that is not ours: a stranger's name may resolve to this machine (DNS rebinding)."""
        host = request.headers["host"].lower()
        match self.address:
            case TcpAddress(port=port):
                names = (f"{name}:{port}" for name in _LOOPBACK_NAMES)
                is_ours = host in {str(self.address), self._own_host, *names}
                remedy = "type `bgctl dashboard` for the address of the pages"
            case UnixAddress():
                name = _HOST.fullmatch(host)
                is_ours = name is not None and (self._hosts is None or name[1] in self._hosts)
                remedy = "if browsers reach your proxy by this name, add it to [http] host"
        if not is_ours:
            raise RequestRefused(HTTPStatus.MISDIRECTED_REQUEST, f"this host is not served here: {remedy}")

    def check_name(self, request: HttpRequest) -> None:
        """Refuse to show pages under another name of this machine: any user may have served pages under that.

        Without logins lead on to their own name.

        Raises:
            RequestRefused: they have a name of their own, and the browser used another one.
        """
        if not self._own_host or request.headers["host"].lower() == self._own_host:
            return
        if self._auth is Auth.TOKEN:
            raise RequestRefused(HTTPStatus.UNAUTHORIZED, OTHER_NAME)
        target = f"{request.path}?{request.query}" if request.query else request.path
        raise RequestRefused(
            HTTPStatus.TEMPORARY_REDIRECT, OTHER_NAME, ("Location", f"{self._origin}{target}")
        )

    async def check_user(self, endpoints: Endpoints | None) -> None:
        """Refuse a browser of another user. `endpoints` is None for a unix socket, where all may ask.

        Raises:
            RequestRefused: it is another user's, or the kernel does not say whose.
        """
        if endpoints is not None:
            uid = await asyncio.to_thread(peer_uid, *endpoints)
            if uid is None or not may_connect(uid, self.uid):
                raise RequestRefused(
                    HTTPStatus.FORBIDDEN,
                    f"These pages are for user {self.uid} of this machine, and for root.",
                )

    def check_session(self, request: HttpRequest) -> None:
        """Refuse a browser that is not logged in, and requests that another site's page makes.

        Raises:
            RequestRefused: it is one of the two.
        """
        site = request.headers.get("sec-fetch-site", "none")  # old browsers and programs do not send it
        is_visit = request.headers.get("sec-fetch-mode") == "navigate"
        if site in {"cross-site", "same-site"} and not is_visit:
            raise RequestRefused(HTTPStatus.FORBIDDEN, "These pages are not for other sites.")
        is_logged_in = site != "cross-site" and self._uid_of(request) is not None
        if self._auth is Auth.TOKEN and not is_logged_in and self._user_of_proxy(request) is None:
            raise RequestRefused(HTTPStatus.UNAUTHORIZED, NOT_LOGGED_IN)

    def check_write(self, request: HttpRequest) -> str:
        """Return the user of a change, and refuse one from a page of another origin.

        Browsers treat all ports of a host as one site: despite SameSite they send the cookie with a form that
        a program on another port serves, and to that program, too. The token is kept by the browser for
        pages of this origin alone. A user whom the proxy names has no cookie that could be collected.

        Raises:
            RequestRefused: the browser names another origin or none, or the token is not the session's.
        """
        site = request.headers.get("sec-fetch-site")  # old browsers do not send it
        host = request.headers["host"].lower()
        is_own = request.headers.get("origin") in {f"http://{host}", f"https://{host}"}
        if site != "same-origin" and (site is not None or not is_own):
            raise RequestRefused(HTTPStatus.FORBIDDEN, "Changes are accepted only from these pages.")
        if (user := self._user_of_proxy(request)) is not None:
            return f"{user}, through the proxy"
        if (uid := self._uid_of(request, request.headers.get("x-bgd-token", ""))) is not None:
            return f"{user_name(uid)}, on the page"
        raise RequestRefused(
            HTTPStatus.FORBIDDEN,
            "This browser cannot make changes: open a new link of `bgctl dashboard`, without --read-only.",
        )

    def _user_of_proxy(self, request: HttpRequest) -> str | None:
        """Return the user whom the proxy names; None if it names none, or may not.

        Raises:
            RequestRefused: the name cannot be shown, or there are two; the browser may have sent one of them.
        """
        value = request.headers.get(self._user_header, "")
        if not value:
            return None
        name = value.encode("latin-1").decode(errors="replace")
        if len(name) > MAX_USER or "," in name or "\ufffd" in name or not name.isprintable():
            raise bad_request(
                f"The header {self._user_header} must name one user, in at most {MAX_USER} characters.",
            )
        return name

    def _uid_of(self, request: HttpRequest, write_token: str | None = None) -> int | None:
        """Return the user of a browser's session, as Sessions do; None also if that user may not connect."""
        secrets_ = request.cookies(self._cookie)
        uids = (self._sessions.uid_of(secret, time.time(), write_token) for secret in secrets_)
        return next((uid for uid in uids if uid is not None and may_connect(uid, self.uid)), None)


PATIENCE_SECONDS = 5.0  # after a click; see act.js


def check_in_time(request: HttpRequest, now: float) -> None:
    """Refuse a change that comes after its page has given up on it, because the daemon was away or busy.

    The page counts from the time that the daemon told it, so their clocks may differ. A time that is too far
    ahead is of an earlier boot.
    """
    if (until := request.headers.get("x-bgd-until")) is None:  # a program that does not mind
        return
    try:
        is_in_time = now < float(until) <= now + PATIENCE_SECONDS
    except ValueError:
        raise bad_request(f"X-Bgd-Until: {until!r} must be a number of seconds.") from None
    if not is_in_time:
        raise RequestRefused(HTTPStatus.CONFLICT, "bgd got this too late, so nothing was done. Try again.")


OTHER_NAME = "The log page has a name of its own, which is not the one in this address: see bgctl info."
MAX_USER = 100  # characters of a name that a proxy sends
_HOST = re.compile(f"({HOST})(:[0-9]{{1,5}})?")
_LOOPBACK_NAMES = ("127.0.0.1", "localhost", "[::1]")


# --- Sessions: a link that works once gives a cookie that works for some days, also after a restart


LINK_SECONDS = 60.0
SESSION_SECONDS = 7 * 86_400.0
MAX_SECRETS = 100  # of links and of sessions; the oldest is dropped
_SECRET_BYTES = 32  # 256 random bits


class _Session(Struct, frozen=True):
    """A session, or a link that begins one.

    `until`: epoch time, because a session outlives the daemon and the machine; of a link elapsed time.
    """

    digest: str
    write_digest: str  # of a link, and of a session that can only read, empty
    uid: int
    until: float
    can_write: bool = True


class _Saved(Struct, frozen=True):
    port: int
    sessions: list[_Session]


class Sessions:
    """Unused login links, and sessions, which are saved.

    Only hashes are kept, so reading this file does not let you in.

    Args:
        path: the file of the sessions.

    Attributes:
        port: where pages were served last, 0 for nowhere.
        key: without this the sessions are worth nothing. It is not saved.
    """

    def __init__(self, path: Path, key: bytes = b"") -> None:
        self._path = path
        self.key = key
        self._links: deque[_Session] = deque(maxlen=MAX_SECRETS)
        saved = self._read()
        self.port = saved.port
        self._sessions = deque(saved.sessions, maxlen=MAX_SECRETS)

    def _read(self) -> _Saved:
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=_Saved)
        except FileNotFoundError:
            pass
        except (OSError, msgspec.MsgspecError) as error:
            logger.warning("%s cannot be read, so all browsers have to log in again: %s", self._path, error)
        return _Saved(0, [])

    def save(self) -> None:
        """Write the sessions to their file. A failure costs a login after a restart, so it is only logged."""
        saved = msgspec.json.encode(_Saved(self.port, list(self._sessions)))
        try:
            replace_file(self._path, saved)
        except OSError as error:
            logger.warning("%s cannot be written, so logins end with the daemon: %s", self._path, error)

    def issue_link(self, uid: int, at: float, *, can_write: bool = True) -> str:
        """Return a token that logs this user in once; `at` is of the elapsed clock."""
        token = secrets.token_urlsafe(_SECRET_BYTES)
        self._links.append(_Session(self._digest(token), "", uid, at + LINK_SECONDS, can_write))
        return token

    def log_in(self, token: str, at: float, now: float) -> tuple[str, str] | None:
        """Use up a token; return the secret and the write token of a new session that begins `now`.

        Only their hashes are kept. Of a session that can only read, the write token is empty. None: the token
        is not valid.
        """
        link = _found(self._links, self._digest(token))
        if link is None or at >= link.until:
            return None
        self._links.remove(link)
        secret, write_token = secrets.token_urlsafe(_SECRET_BYTES), ""
        if link.can_write:
            write_token = secrets.token_urlsafe(_SECRET_BYTES)
        digests = self._digest(secret), self._digest(write_token) if write_token else ""
        self._sessions.append(_Session(*digests, link.uid, now + SESSION_SECONDS, link.can_write))
        return secret, write_token

    def uid_of(self, secret: str, now: float, write_token: str | None = None) -> int | None:
        """Return the user of a session; None: its secret, or a write token that is passed, is not valid."""
        session = _found(self._sessions, self._digest(secret))
        if session is None or now >= session.until:
            return None
        may = write_token is None or hmac.compare_digest(session.write_digest, self._digest(write_token))
        return session.uid if may else None

    def _digest(self, secret: str) -> str:
        return sha256(self.key + secret.encode()).hexdigest()


def _found(kept: Iterable[_Session], digest: str) -> _Session | None:
    # all are compared, so that the time taken does not reveal which one matches
    found = [each for each in kept if hmac.compare_digest(each.digest, digest)]
    return found[0] if found else None


def derived(secret: bytes, use: str) -> bytes:
    """Return 32 bytes that are made of a secret for one use and reveal nothing about it."""
    return hmac.digest(secret, use.encode(), "sha256")


# --- Peers: which user has the other end of a connection over the loopback


def peer_uid(peer: tuple[str, int], own: tuple[str, int]) -> int | None:
    """Return the user of the socket `peer` that is connected to `own`; None if it is closed."""
    try:
        return _uid_from_netlink(peer, own)
    except OSError as error:  # a kernel or a sandbox without netlink
        logger.debug("netlink does not tell the owner of a connection: %s", error)
        return _uid_from_proc(peer, own)


def _uid_from_netlink(peer: tuple[str, int], own: tuple[str, int]) -> int | None:
    """Ask for this one socket; the cost does not depend on the number of sockets."""
    addresses = [ipaddress.ip_address(peer[0]).packed, ipaddress.ip_address(own[0]).packed]
    family = socket.AF_INET if len(addresses[0]) == 4 else socket.AF_INET6  # noqa: PLR2004 - bytes of IPv4
    wanted = _ID.pack(peer[1], own[1], *addresses, _ANY_COOKIE)
    request = _REQUEST.pack(family, socket.IPPROTO_TCP, 0, 0, _ANY_STATE) + wanted
    header = _HEADER.pack(_HEADER.size + len(request), _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST, 1, 0)
    with socket.socket(
        socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_SOCK_DIAG
    ) as asking:
        asking.settimeout(1.0)  # a precaution: the answer is there when send returns
        asking.send(header + request)
        answer = asking.recv(_MAX_REPLY)
    _, kind, *_ = _HEADER.unpack_from(answer)
    if kind != _SOCK_DIAG_BY_FAMILY:
        (code,) = unpack_from("=i", answer, _HEADER.size)
        if -code == errno.ENOENT:
            return None
        raise OSError(-code, "sock_diag")
    if _ID.unpack_from(answer, _ID_AT)[:4] != _ID.unpack(wanted)[:4]:
        return None  # if there is no such connection, the kernel answers with a listening socket
    *_, uid, inode = _OWNER.unpack_from(answer, _OWNER_AT)
    return int(uid) if inode else None  # inode 0: its owner has closed it, and the kernel says root


def _uid_from_proc(peer: tuple[str, int], own: tuple[str, int]) -> int | None:
    wanted = [_as_in_proc(peer), _as_in_proc(own)]
    name = "tcp6" if ":" in peer[0] else "tcp"
    with Path("/proc/net", name).open(encoding="ascii") as table:
        for line in table:
            fields = line.split()
            if fields[1:3] == wanted and fields[9] != "0":
                return int(fields[7])
    return None


def _as_in_proc(address: tuple[str, int]) -> str:
    """Return an address as in /proc/net/tcp: words of four bytes in the machine's byte order."""
    packed = ipaddress.ip_address(address[0]).packed
    words = unpack_from(f"={len(packed) // 4}I", packed)
    return "".join(f"{word:08X}" for word in words) + f":{address[1]:04X}"


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
_MAX_REPLY = 4096  # bytes; the reply for a socket without options has a few hundred
