"""The entrance: who may see pages. Every request passes it, whatever it asks for."""

from __future__ import annotations

import asyncio
import hmac
import re
from http import HTTPStatus

from msgspec import Struct

from bgd import clock
from bgd.addresses import Address, Auth, TcpAddress, UnixAddress
from bgd.daemon.access import Actor, may_connect
from bgd.daemon.web import peers
from bgd.daemon.web.sessions import SESSION_SECONDS, Sessions
from bgd.wire.http import Request, RequestRefused

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
            uid = await asyncio.to_thread(peers.uid_of, ends.peer, ends.own)
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
