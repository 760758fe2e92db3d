"""A daemon that follows a test's scripts, one for each connection, on a real socket and in a thread."""

from __future__ import annotations

import select
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import msgspec

import bgd
from bgd import State
from bgd.wire import replies, requests, views
from bgd.wire.framing import FrameReader, frame
from bgd.wire.messages import PROTOCOL, Hello, decode_hello, decode_request, encode
from bgd.wire.replies import Reply
from bgd.wire.requests import Request
from tests.support import DEADLINE

FULL_SECONDS = 0.2  # a socket that accepts no data for this long is full


class Peer:
    """The daemon's end of one connection."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._reader = FrameReader()
        self._payloads: list[bytes] = []

    def greet(
        self,
        protocol: int = PROTOCOL,
        newest: int | msgspec.UnsetType = msgspec.UNSET,
        version: str = bgd.__version__,
    ) -> Hello:
        hello = decode_hello(self._next())
        self.send_bytes(frame(encode(Hello(protocol, version, "scripted", newest))))
        return hello

    def receive(self) -> Request:
        return decode_request(self._next())

    def send(self, *answers: Reply) -> None:
        self.send_bytes(b"".join(frame(encode(reply)) for reply in answers))

    def send_bytes(self, data: bytes) -> None:
        self._connection.sendall(data)

    def flood(self, reply: Reply, limit: int) -> list[Reply]:
        """Send a reply again and again until the socket is full; return what was sent."""
        sent: list[Reply] = []
        poller = select.poll()
        poller.register(self._connection, select.POLLOUT)
        while len(sent) < limit and poller.poll(FULL_SECONDS * 1000):
            self.send(reply)
            sent.append(reply)
        return sent

    def wait_for_end(self) -> None:
        """Return when the client has gone."""
        with suppress(ConnectionError):
            while self._connection.recv(65536):
                pass

    def _next(self) -> bytes:
        while not self._payloads:
            data = self._connection.recv(65536)
            if not data:
                raise EOFError
            self._payloads += self._reader.feed(data)
        return self._payloads.pop(0)


Script = Callable[[Peer], None]


class ScriptedDaemon:
    """Plays one script after another, each on one connection, and keeps their errors."""

    def __init__(self, path: str, scripts: tuple[Script, ...]) -> None:
        self.path = path
        self._scripts = scripts
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(path)
        self._listener.listen()
        self._listener.settimeout(DEADLINE)
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._play, daemon=True)
        self._thread.start()

    def finish(self) -> None:
        """Wait for the end of the last script; raise what failed in any."""
        self._thread.join(DEADLINE)
        assert not self._thread.is_alive(), "the script has not come to its end"
        if self._failure is not None:
            raise self._failure

    def _play(self) -> None:
        try:
            with self._listener:
                for script in self._scripts:
                    connection, _ = self._listener.accept()
                    with connection:
                        connection.settimeout(DEADLINE)
                        script(Peer(connection))
        except BaseException as failure:  # noqa: BLE001 - it belongs to the test's own thread
            self._failure = failure


def view_of(job_id: int, state: State = State.SUCCEEDED) -> views.JobView:
    fields: dict[str, Any] = {
        field.name: None for field in msgspec.structs.fields(views.JobView) if field.required
    }
    fields |= {"id": job_id, "kind": "command", "state": state, "user": "me", "queue": "default", "tags": []}
    fields |= {
        "priority": 0,
        "retries": 0,
        "retry_delay": 5.0,
        "backoff": 1.0,
        "max_delay": 9.0,
        "jitter": 0.1,
    }
    return views.JobView(**fields | {"delay": 0.0, "attempt": 1, "created_at": 1.0})


def serve(*job_ids: int) -> Script:
    """Return a script that greets and accepts this many jobs."""

    def script(peer: Peer) -> None:
        peer.greet()
        for job_id in job_ids:
            peer.send(replies.Submitted(peer.receive().id, [job_id]))

    return script


def accept(jobs: int) -> Script:
    """Return a script that accepts this many jobs and ends the streams that a client forgets."""

    def script(peer: Peer) -> None:
        peer.greet()
        accepted = 0
        while accepted < jobs:
            request = peer.receive()
            if isinstance(request, requests.Submit):
                accepted += 1
                peer.send(replies.Submitted(request.id, [accepted]))
            elif isinstance(request, requests.Forget):
                peer.send(replies.End(request.request))

    return script
