"""HTTP/1.1 as bgd speaks it, as bytes: one request without a body, one answer, and the connection ends.

h11 reads and writes the syntax. What it lets through and could be read in two ways is refused here: without
bodies, line ends of other kinds and second requests, request smuggling has nothing to hold on to.
"""

from __future__ import annotations

import re
from http import HTTPStatus

import h11
from msgspec import Struct

from bgd.errors import ProtocolError

MAX_LINE = 4 * 1024  # bytes of the request line
MAX_HEADERS = 16 * 1024  # bytes of all headers together, as nginx and h11 have it
MAX_COUNT = 64  # headers

TEXT = "text/plain; charset=utf-8"
HTML = "text/html; charset=utf-8"
JSON = "application/json"

# On every answer. Nothing is loaded but the daemon's own style and icon; there is no script to be let run.
SECURITY_HEADERS = (
    (
        "Content-Security-Policy",
        (
            "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; base-uri 'none'; "
            "frame-ancestors 'none'; require-trusted-types-for 'script'"
        ),
    ),
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "no-referrer"),
    ("Cross-Origin-Opener-Policy", "same-origin"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("Cache-Control", "no-store"),
)

READING = ("GET", "HEAD")  # methods that change nothing
_METHODS = (b"GET", b"HEAD", b"POST")
_VERSIONS = (b"1.0", b"1.1")
_END = b"\r\n\r\n"
# A line that ends otherwise, or goes on in the next one: two readers may see two different requests in it
_AMBIGUOUS = re.compile(rb"(?<!\r)\n|\r(?!\n|\Z)|\n[ \t]")


class Request(Struct, frozen=True, kw_only=True):
    """A request's head. `path` and `query` are as they were sent, still with their percent signs."""

    is_head: bool
    method: str = "GET"
    path: str
    query: str
    headers: dict[str, str]  # names in small letters; several of one name are joined by a comma

    def cookies(self, name: str) -> list[str]:
        """Return the values of all cookies of this name: any page of this host, on any port, may set one."""
        pairs = self.headers.get("cookie", "").replace(",", ";").split(";")
        return [value for found, _, value in (pair.strip().partition("=") for pair in pairs) if found == name]


class Response(Struct, frozen=True, kw_only=True):
    """An answer. `body` None: it is sent in parts, and its length is not known yet."""

    status: HTTPStatus = HTTPStatus.OK
    content_type: str = TEXT
    body: bytes | None = b""
    headers: tuple[tuple[str, str], ...] = ()


class RequestRefused(ProtocolError):
    """What came is no request that is served; `response` says so, and why."""

    def __init__(self, status: HTTPStatus, message: str, *headers: tuple[str, str]) -> None:
        super().__init__(message)
        self.response = refusal(status, message, *headers)


def refusal(status: HTTPStatus, message: str, *headers: tuple[str, str]) -> Response:
    """Return an answer of one plain line."""
    return Response(status=status, body=f"{message}\n".encode(), headers=headers)


class Exchange:
    """One request and its answer: bytes in, bytes out."""

    def __init__(self) -> None:
        self._connection = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_LINE + MAX_HEADERS)
        self._received = bytearray()
        self._is_head = False

    def receive(self, data: bytes) -> Request | None:
        """Take some bytes; return the request once its head is complete.

        What comes behind the head is never looked at.

        Raises:
            RequestRefused: it is none that is served.
        """
        looked_at = max(len(self._received) - len(_END), 0)
        self._received += data
        end = self._received.find(_END, looked_at)
        head = self._received if end < 0 else self._received[: end + len(_END)]
        _check_size(head)
        if _AMBIGUOUS.search(head, looked_at):
            raise RequestRefused(HTTPStatus.BAD_REQUEST, "a line of the request does not end as lines do")
        if end < 0:
            return None
        return self._parsed(bytes(head))

    def begin(self, response: Response) -> bytes:
        """Return the bytes of an answer: all of them, or its head if the body comes in parts."""
        headers = [("Content-Type", response.content_type), *response.headers, *SECURITY_HEADERS]
        if response.body is not None:
            headers.append(("Content-Length", str(len(response.body))))
        headers.append(("Connection", "close"))
        head = self._send(
            h11.Response(status_code=response.status, reason=response.status.phrase, headers=headers)
        )
        return head if response.body is None else head + self.more(response.body) + self.end()

    def more(self, data: bytes) -> bytes:
        """Return the bytes of one part of the body; a request for the head alone gets none."""
        return b"" if self._is_head else self._send(h11.Data(data=data))

    def end(self) -> bytes:
        return self._send(h11.EndOfMessage())

    def _parsed(self, head: bytes) -> Request:
        self._connection.receive_data(head)
        try:
            event = self._connection.next_event()
        except h11.RemoteProtocolError as error:
            raise RequestRefused(HTTPStatus.BAD_REQUEST, f"this is not HTTP/1.1: {error}") from error
        assert isinstance(event, h11.Request)  # noqa: S101 - the head is complete
        self._is_head = event.method == b"HEAD"
        headers = _joined(event)
        _check(event, headers)
        path, _, query = event.target.decode("ascii").partition("?")
        method = event.method.decode("ascii")
        return Request(is_head=self._is_head, method=method, path=path, query=query, headers=headers)

    def _send(self, event: h11.Event) -> bytes:
        return self._connection.send(event) or b""


def _check_size(head: bytes | bytearray) -> None:
    line = head.find(b"\r\n")
    if line > MAX_LINE or (line < 0 and len(head) > MAX_LINE):
        raise RequestRefused(
            HTTPStatus.REQUEST_URI_TOO_LONG, f"the request line has more than {MAX_LINE} bytes"
        )
    if line >= 0 and len(head) - line > MAX_HEADERS:
        raise RequestRefused(
            HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, f"the headers have more than {MAX_HEADERS} bytes"
        )
    if head.count(b"\r\n") > MAX_COUNT + 2:  # the request line and the empty one
        raise RequestRefused(
            HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, f"there are more than {MAX_COUNT} headers"
        )


def _check(event: h11.Request, headers: dict[str, str]) -> None:
    """Refuse what h11 lets through."""
    if event.http_version not in _VERSIONS:
        raise RequestRefused(HTTPStatus.HTTP_VERSION_NOT_SUPPORTED, "this server speaks HTTP/1.1")
    if "transfer-encoding" in headers or headers.get("content-length", "0") != "0":
        raise RequestRefused(HTTPStatus.BAD_REQUEST, "requests have no body here")
    if event.method not in _METHODS:
        raise RequestRefused(
            HTTPStatus.METHOD_NOT_ALLOWED, "pages can only be read: GET and HEAD", ("Allow", "GET, HEAD")
        )
    if "host" not in headers:  # h11 has looked after those of HTTP/1.1, and after doubled ones
        raise RequestRefused(HTTPStatus.BAD_REQUEST, "the Host header is missing")
    if not event.target.startswith(b"/"):
        raise RequestRefused(HTTPStatus.BAD_REQUEST, "the target must be a path")


def _joined(event: h11.Request) -> dict[str, str]:
    headers: dict[str, str] = {}
    for name, value in event.headers:
        key, text = name.decode("ascii"), value.decode("latin-1")
        headers[key] = f"{headers[key]}, {text}" if key in headers else text
    return headers
