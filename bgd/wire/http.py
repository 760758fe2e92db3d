"""HTTP/1.1 as bgd speaks it, as bytes: one request without a body, one answer, then the connection ends.

h11 reads and writes the syntax. This module also refuses requests that two readers may understand
differently. Without bodies, unusual line ends and second requests, request smuggling is impossible.
"""

from __future__ import annotations

import re
from http import HTTPStatus

import h11
from msgspec import Struct

from bgd.errors import ProtocolError

MAX_LINE = 4 * 1024  # bytes of the request line
MAX_HEADERS = 16 * 1024  # bytes of all headers together, as in nginx and h11
MAX_COUNT = 64  # headers

TEXT = "text/plain; charset=utf-8"
HTML = "text/html; charset=utf-8"
JSON = "application/json"

# On every answer. Pages load only the styles, the script and the icon of the daemon, and can be read without
# the script. Only its policy `bgd` makes elements of text.
SECURITY_HEADERS = (
    (
        "Content-Security-Policy",
        (
            "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src 'self'; "
            "form-action 'self'; base-uri 'none'; frame-ancestors 'none'; "
            "require-trusted-types-for 'script'; trusted-types bgd"
        ),
    ),
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "no-referrer"),
    ("Cross-Origin-Opener-Policy", "same-origin"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
)

SAFE_METHODS = ("GET", "HEAD")  # methods that change nothing
_METHODS = (b"GET", b"HEAD", b"POST")
_VERSIONS = (b"1.0", b"1.1")
_END = b"\r\n\r\n"
# A line that ends in another way, or continues in the next: two readers may see two different requests
_AMBIGUOUS = re.compile(rb"(?<!\r)\n|\r(?!\n|\Z)|\n[ \t]")


class HttpRequest(Struct, frozen=True, kw_only=True):
    """The head of a request. `path` and `query` are as they were sent, still percent-encoded."""

    is_head: bool
    method: str = "GET"
    path: str
    query: str
    headers: dict[str, str]  # names in lower case; several of one name are joined by commas

    def cookies(self, name: str) -> list[str]:
        """Return the values of all cookies with this name. Pages on other ports of this host may set some."""
        pairs = self.headers.get("cookie", "").replace(",", ";").split(";")
        return [value for found, _, value in (pair.strip().partition("=") for pair in pairs) if found == name]


class HttpResponse(Struct, frozen=True, kw_only=True):
    """An answer. `body` None: the body is sent in parts, and its length is not known yet.

    `caching` is its Cache-Control header.
    """

    status: HTTPStatus = HTTPStatus.OK
    content_type: str = TEXT
    body: bytes | None = b""
    headers: tuple[tuple[str, str], ...] = ()
    caching: str = "no-store"


class RequestRefused(ProtocolError):
    """The request is refused; `response` says why."""

    def __init__(self, status: HTTPStatus, message: str, *headers: tuple[str, str]) -> None:
        super().__init__(message)
        self.response = refusal(status, message, *headers)


def bad_request(message: str) -> RequestRefused:
    """Return the error for a request that is wrong in itself (400); the client is told `message`."""
    return RequestRefused(HTTPStatus.BAD_REQUEST, message)


def not_found(message: str) -> RequestRefused:
    """Return the error for a page or a job that does not exist (404)."""
    return RequestRefused(HTTPStatus.NOT_FOUND, message)


def unavailable(message: str) -> RequestRefused:
    """Return the error for what cannot be answered now, and may be later (503)."""
    return RequestRefused(HTTPStatus.SERVICE_UNAVAILABLE, message)


def refusal(status: HTTPStatus, message: str, *headers: tuple[str, str]) -> HttpResponse:
    """Return an answer of one line of plain text."""
    return HttpResponse(status=status, body=f"{message}\n".encode(), headers=headers)


class HttpExchange:
    """One request and its answer: bytes in, bytes out."""

    def __init__(self) -> None:
        self._connection = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_LINE + MAX_HEADERS)
        self._received = bytearray()
        self._is_head = False

    def receive(self, data: bytes) -> HttpRequest | None:
        """Take some bytes, and return the request once its head is complete. Ignore what follows the head.

        Raises:
            RequestRefused: such a request is not served.
        """
        looked_at = max(len(self._received) - len(_END), 0)
        self._received += data
        end = self._received.find(_END, looked_at)
        head = self._received if end < 0 else self._received[: end + len(_END)]
        _check_size(head)
        if _AMBIGUOUS.search(head, looked_at):
            raise bad_request("a line of the request does not end with CR LF")
        if end < 0:
            return None
        return self._parsed(bytes(head))

    def begin(self, response: HttpResponse) -> bytes:
        """Return the bytes of an answer, or of its head if the body comes in parts."""
        headers = [("Content-Type", response.content_type), ("Cache-Control", response.caching)]
        headers += [*response.headers, *SECURITY_HEADERS]
        if response.body is not None:
            headers.append(("Content-Length", str(len(response.body))))
        headers.append(("Connection", "close"))
        head = self._send(
            h11.Response(status_code=response.status, reason=response.status.phrase, headers=headers)
        )
        return head if response.body is None else head + self.more(response.body) + self.end()

    def more(self, data: bytes) -> bytes:
        """Return the bytes of one part of the body: none if the client asked for the head alone."""
        return b"" if self._is_head else self._send(h11.Data(data=data))

    def end(self) -> bytes:
        """Return the bytes that end a body that came in parts."""
        return self._send(h11.EndOfMessage())

    def _parsed(self, head: bytes) -> HttpRequest:
        self._connection.receive_data(head)
        try:
            event = self._connection.next_event()
        except h11.RemoteProtocolError as error:
            raise bad_request(f"this is not HTTP/1.1: {error}") from error
        assert isinstance(event, h11.Request)  # noqa: S101 - the head is complete
        self._is_head = event.method == b"HEAD"
        headers = _joined(event)
        _check(event, headers)
        path, _, query = event.target.decode("ascii").partition("?")
        method = event.method.decode("ascii")
        return HttpRequest(is_head=self._is_head, method=method, path=path, query=query, headers=headers)

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
    """Refuse what h11 accepts and bgd does not."""
    if event.http_version not in _VERSIONS:
        raise RequestRefused(HTTPStatus.HTTP_VERSION_NOT_SUPPORTED, "this server speaks HTTP/1.1")
    if "transfer-encoding" in headers or headers.get("content-length", "0") != "0":
        raise bad_request("requests may not have a body")
    if event.method not in _METHODS:
        raise RequestRefused(
            HTTPStatus.METHOD_NOT_ALLOWED, "pages can only be read, with GET or HEAD", ("Allow", "GET, HEAD")
        )
    if "host" not in headers:  # h11 refuses this in HTTP/1.1, and two of them
        raise bad_request("the Host header is missing")
    if not event.target.startswith(b"/"):
        raise bad_request("the target must be a path")


def _joined(event: h11.Request) -> dict[str, str]:
    headers: dict[str, str] = {}
    for name, value in event.headers:
        key, text = name.decode("ascii"), value.decode("latin-1")
        headers[key] = f"{headers[key]}, {text}" if key in headers else text
    return headers
