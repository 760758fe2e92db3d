"""A browser that sends exactly the bytes that a test gives it."""

from __future__ import annotations

import json
import os
import re
import socket
from pathlib import Path
from typing import Any, NamedTuple

from bgd.wire.framing import frame
from bgd.wire.launching import (
    MAX_HELD_SOCKETS,
    MAX_LAUNCHING_FRAME,
    MAX_SOCKETS_PACKET,
    NO_SOCKETS,
    TradeSockets,
    encode,
)
from tests.support import DEADLINE, Daemon, wait_until


class Answered(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def ids(self) -> list[int]:
        """Return the ids in a list of jobs, in its order."""
        return [int(found) for found in re.findall(r'class="number id"><a href="/job-logs/(\d+)"', self.text)]


class Browser:
    """Requests pages of one daemon; `log_in` gives it a session."""

    def __init__(self, daemon: Daemon) -> None:
        with daemon.client() as client:
            place = client.info().http
            assert place is not None
        found = re.fullmatch(r"http://(bgd-[0-9a-f]{20}\.localhost:(\d+))[/a-z]*/job-logs", place)
        self.unix = place.removeprefix("unix:") if found is None else None
        self.port = 0 if found is None else int(found[2])
        self.host = "localhost" if found is None else found[1]
        self.cookie: str | None = None
        self.token = ""
        self._daemon = daemon

    def link(self, *, read_only: bool = False) -> str:
        """Return the path of a new login link."""
        with self._daemon.client() as client:
            return re.sub("^http://[^/]*", "", client.login_link(read_only=read_only))

    def log_in(self, *, read_only: bool = False) -> Browser:
        page = self.get(self.link(read_only=read_only))
        self.cookie = page.headers["set-cookie"].partition(";")[0]
        self.token = page.text.partition('data-token="')[2].partition('"')[0]
        return self

    def get(self, target: str, *headers: str, method: str = "GET", host: str | None = None) -> Answered:
        return self.say(self.request(target, *headers, method=method, host=host))

    def request(self, target: str, *headers: str, method: str = "GET", host: str | None = None) -> bytes:
        """Return the bytes of a request, with the cookie of the session if there is one."""
        lines = [f"{method} {target} HTTP/1.1", f"Host: {host or self.host}", *headers]
        if self.cookie is not None:
            lines.append(f"Cookie: {self.cookie}")
        return "".join(f"{line}\r\n" for line in [*lines, ""]).encode()

    def json(self, target: str) -> Any:
        return self.get(target, "Accept: application/json").json

    def say(self, data: bytes) -> Answered:
        """Send these bytes; return the complete answer."""
        with self.connect() as connection:
            connection.sendall(data)
            return heard(connection)

    def connect(self) -> socket.socket:
        connection = socket.socket(socket.AF_INET if self.unix is None else socket.AF_UNIX)
        connection.settimeout(DEADLINE)
        connection.connect(("127.0.0.1", self.port) if self.unix is None else self.unix)
        return connection


def heard(connection: socket.socket) -> Answered:
    """Read the answer on a connection to its end and return it."""
    data = bytearray()
    while piece := connection.recv(65536):
        data += piece
    return answered_with(bytes(data))


def answered_with(data: bytes) -> Answered:
    """Return the answer that has these bytes."""
    head, _, body = data.partition(b"\r\n\r\n")
    status, *lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    if body and headers.get("transfer-encoding") == "chunked":
        body = _unchunked(body)
    return Answered(int(status.split()[1]), headers, body)


def _unchunked(body: bytes) -> bytes:
    text = bytearray()
    while True:
        size, _, rest = body.partition(b"\r\n")
        if not int(size, 16):
            return bytes(text)
        text += rest[: int(size, 16)]
        body = rest[int(size, 16) + 2 :]


def configure_pages(daemon: Daemon, listen: str, rest: str = "") -> None:
    """Configure the address of the pages of a daemon that has not started yet."""
    daemon.env.pop("BGD_HTTP_LISTEN")
    daemon.configure(f'[http]\nlisten = "{listen}"\n{rest}\n')


def held_secret(daemon: Daemon) -> bytes:
    """Return the secret of the pages that the launcher holds for the next daemon, once it has it."""
    wait_until(lambda: _held(daemon) != NO_SOCKETS)  # it may still be starting
    return _held(daemon)


def _held(daemon: Daemon) -> bytes:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(DEADLINE)
        connection.connect(str(daemon.state_dir / "launcher.sock"))
        connection.sendall(frame(encode(TradeSockets()), MAX_LAUNCHING_FRAME))
        secret, fds, *_ = socket.recv_fds(connection, MAX_SOCKETS_PACKET, MAX_HELD_SOCKETS)
    for fd in fds:
        os.close(fd)
    return secret


def log_of(daemon: Daemon) -> str:
    return Path(daemon.folder, "bgd.log").read_text()
