"""A client that sends any bytes to the daemon's end of its connection."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any

from msgspec import UNSET

from bgd.daemon.control.connection import ClientConnection
from bgd.daemon.control.limits import SharedMemory
from bgd.wire.framing import frame
from bgd.wire.messages import PROTOCOL, Hello, encode
from bgd.wire.replies import Done, Reply
from bgd.wire.requests import SaveStep, SetProgress, Submit, SubmitMany
from tests.simulation.event_queue import EventQueue
from tests.simulation.loop import SimulatedLoop

HELLO = frame(encode(Hello(PROTOCOL, "1")))
ENDS = socket.socketpair()  # the kernel can name its peer
ENDS[0].setblocking(False)
MOST = 10_000  # steps until the end of a conversation


def converse(data: bytes) -> None:
    """Send the data in pieces, then hang up; nothing may be left of the connection."""
    event_queue = EventQueue()
    loop = SimulatedLoop(event_queue, lambda _: asyncio.Transport())  # type: ignore[abstract]  # all that is asked for is there
    control = _Control(loop)
    connection = ClientConnection(control)  # type: ignore[arg-type]  # stands for it
    wire = _Wire()
    cut = data[0] if data else 0

    def receive(piece: bytes) -> None:
        while piece and not wire.is_closed and not wire.is_paused:
            buffer = connection.get_buffer(-1)
            count = min(len(buffer), len(piece))
            buffer[:count] = piece[:count]
            piece = piece[count:]
            connection.buffer_updated(count)

    loop.run(connection.connection_made, wire)
    for piece in (HELLO if cut % 4 else b"", data[1:cut], data[max(cut, 1) :]):
        loop.run(receive, piece)
    loop.run(connection.connection_lost, None)
    while event_queue.step():
        assert event_queue.done < MOST
    if loop.failure is not None:
        raise loop.failure
    assert not control.connections
    memory = control.memory
    assert (memory.batches._used, memory.streams._used, memory.unsaved, memory.partial) == (0, 0, 0, 0)


class _Control:
    """What connections share; it handles every request, at once or in a turn of the loop."""

    def __init__(self, loop: SimulatedLoop) -> None:
        self.uid = 0
        self.connections: set[ClientConnection] = set()
        self.max_connections = 10
        self.memory = SharedMemory()
        self.handler = self
        self.newest = 0
        self.tasks = loop

    def may_be_duplicate(self, request: Submit | SubmitMany) -> bool:
        return request.again is not UNSET

    def may_follow_finished(self, parts: list[SubmitMany]) -> bool:
        return any(part.chain is True for part in parts)

    def submit(self, request: Submit, uid: int, reply: Callable[[Reply], None]) -> None:
        del uid
        asyncio.get_running_loop().call_soon(reply, Done(request.id))

    def submit_many(self, parts: list[SubmitMany], uid: int, reply: Callable[[Reply], None]) -> None:
        del uid
        reply(Done(parts[0].id))

    def save_step(self, step: SaveStep, pid: int, reply: Callable[[Reply], None]) -> None:
        del pid
        reply(Done(step.id))

    def report(self, request: SetProgress, reply: Callable[[Reply], None]) -> None:
        reply(Done(request.id))

    async def submit_once(self, parts: list[SubmitMany], uid: int) -> Reply:
        del uid
        return Done(parts[0].id)

    async def answer(self, request: Any, replies: ClientConnection) -> None:
        await replies.send_and_drain(Done(request.id))


class _Wire(asyncio.Transport):
    """A transport that accepts everything."""

    is_closed = False
    is_paused = False

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return ENDS[0] if name == "socket" else default

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        del high, low

    def write(self, data: bytes | bytearray | memoryview) -> None:
        assert data

    def is_closing(self) -> bool:
        return self.is_closed

    def close(self) -> None:
        self.is_closed = True

    def pause_reading(self) -> None:
        self.is_paused = True

    def resume_reading(self) -> None:
        self.is_paused = False
