"""Whatever arrives at the socket, however slowly, memory and time are bounded, and others are served."""

from __future__ import annotations

import random
import socket
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path

from bgd.core.spec import JobSpec
from bgd.wire.framing import MAX_FRAME, frame
from bgd.wire.messages import encode
from bgd.wire.requests import GetEvents, GetInfo, Submit
from tests.end_to_end.chaos import Rig
from tests.faults.figures import record, times
from tests.faults.watching import Bystander, connected, push, rest_of, say

MOST_GROWN = 40  # MiB; docs/faults.md has the measured figure
LARGE = frame(encode(Submit(1, JobSpec(argv=("/bin/true", *["x" * 100_000] * 9), env={}, cwd="/"))))
STALLED = (
    b"half a frame arrived",
    b"no byte of a large request",
)  # without others that wait for memory, and with some
LIST_WITH = b"\x83\xa4type\xa4list\xa2id\x01\xa1z"  # and an unknown field


def test_others_are_served_whatever_strangers_send(tmp_path: Path):
    rig = Rig(tmp_path)
    rig.start()
    try:
        with Bystander(rig) as bystander, ExitStack() as stack:
            idle = [stack.enter_context(closing(connected(rig))) for _ in range(times(700, 70))]
            for attack in ATTACKS:
                for number in range(times(200, 10)):
                    with closing(connected(rig, greet=number % 4 > 0)) as connection:
                        attack(connection, random.Random(number))
            slow = [stack.enter_context(closing(connected(rig))) for _ in range(times(120, 6))]
            for number, connection in enumerate(slow):
                push(connection, LARGE[: -1 if number % 2 else 1 + number])
            for connection in slow:
                told = rest_of(connection)
                assert any(words in told for words in STALLED), told
            for connection in idle:
                connection.sendall(frame(encode(GetInfo(1))))
                assert connection.recv(1 << 16)
    finally:
        rig.close()
    assert bystander.served > 0
    assert bystander.grown < MOST_GROWN
    record(
        "random bytes, huge lengths, nesting, halves of requests, half closed and idle connections",
        connections=len(idle) + len(slow) + times(200, 10) * len(ATTACKS),
        grown_by_MiB=round(bystander.grown),
        p99_of_others_in_ms=bystander.p99,
    )


def noise(connection: socket.socket, dice: random.Random) -> None:
    say(connection, dice.randbytes(dice.randrange(1, 1 << 16)))


def noisy_frames(connection: socket.socket, dice: random.Random) -> None:
    for _ in range(10):
        say(connection, frame(dice.randbytes(dice.randrange(1, 2000))))


def huge_length(connection: socket.socket, dice: random.Random) -> None:
    say(connection, dice.randrange(MAX_FRAME + 1, 1 << 32).to_bytes(4, "big") + b"x" * 1000)
    assert b"over the limit" in rest_of(connection)


def nesting(connection: socket.socket, dice: random.Random) -> None:
    say(connection, frame(dice.choice((b"\x91", b"\x81\xa1a", b"\x81")) * 100_000))
    rest_of(connection)


def nesting_in_a_field(connection: socket.socket, dice: random.Random) -> None:
    del dice
    say(connection, frame(LIST_WITH + b"\x91" * 100_000))
    connection.shutdown(socket.SHUT_WR)
    rest_of(connection)


def a_million_values(connection: socket.socket, dice: random.Random) -> None:
    say(connection, frame(dice.choice((b"", LIST_WITH)) + b"\xdd\0\x0f\x42\x40" + b"\x80" * 1_000_000))
    connection.shutdown(socket.SHUT_WR)
    rest_of(connection)


def half_close(connection: socket.socket, dice: random.Random) -> None:
    say(connection, frame(encode(dice.choice((GetInfo(1), GetEvents(id=1, since=0))))))
    connection.shutdown(socket.SHUT_WR)
    rest_of(connection)


def large_and_away(connection: socket.socket, dice: random.Random) -> None:
    push(connection, LARGE[: dice.randrange(len(LARGE))])


ATTACKS: tuple[Callable[[socket.socket, random.Random], None], ...] = (
    noise,
    noisy_frames,
    huge_length,
    nesting,
    nesting_in_a_field,
    a_million_values,
    half_close,
    large_and_away,
)
