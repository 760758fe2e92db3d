"""Memory stays bounded if clients ask for more than can be done, or do not read the answers."""

from __future__ import annotations

import selectors
import socket
import time
from collections.abc import Callable
from contextlib import ExitStack, closing

import pytest

from bgd.core.spec import JobSpec
from bgd.wire.framing import frame
from bgd.wire.messages import encode
from bgd.wire.replies import Submitted
from bgd.wire.requests import GetEvents, GetInfo, List, Logs, Request, Show, Submit, SubmitMany, Wait
from tests.end_to_end.chaos import Caller, Rig
from tests.faults.figures import record, seconds, times
from tests.faults.watching import HELD, Bystander, connected, injected

LARGE = JobSpec(argv=("/bin/true", *["x" * 100_000] * 9), env={}, cwd="/", hold=True)
SMALL = JobSpec(argv=("/bin/true", "x" * 4000), env={}, cwd="/", hold=True)
LOUD = JobSpec(argv=("/bin/sh", "-c", "yes | head -c 20000000"), env={"PATH": "/usr/bin:/bin"}, cwd="/")
MOST_GROWN = 200  # MiB; without bounds it would be gigabytes. docs/faults.md has the measured figure
SECONDS = seconds(15.0, 3.0)
CLIENTS = 64
SLOW = "delay_enter=300000"  # microseconds


@pytest.fixture
def rig(tmp_path):
    rig = Rig(tmp_path)
    rig.start()
    yield rig
    rig.close()


def flood(rig: Rig, clients: int, request: Callable[[int], Request], *, reads: bool) -> int:
    """Send requests for a while, as fast as the daemon takes them; return how many."""
    sent = 0
    with ExitStack() as stack, selectors.DefaultSelector() as selector:
        rests: dict[socket.socket, bytes] = {}
        for _ in range(clients):
            connection = stack.enter_context(closing(connected(rig)))
            connection.setblocking(False)
            rests[connection] = b""
            selector.register(connection, selectors.EVENT_WRITE | (selectors.EVENT_READ if reads else 0))
        until = time.monotonic() + SECONDS
        while time.monotonic() < until:
            for key, events in selector.select(0.1):
                connection = key.fileobj  # type: ignore[assignment]  # a socket was registered
                if events & selectors.EVENT_READ:
                    assert connection.recv(1 << 18)
                if events & selectors.EVENT_WRITE:
                    if not rests[connection]:
                        sent += 1
                        rests[connection] = frame(encode(request(sent)))
                    rests[connection] = rests[connection][connection.send(rests[connection]) :]
    return sent


def test_endless_requests_whose_answers_nobody_reads_take_bounded_memory(rig):
    with closing(Caller(rig.socket)) as caller:
        loud = caller.ask(Submit(1, LOUD))
        assert isinstance(loud, Submitted)
        caller.wait(loud.jobs)
        large = [job for number in range(100) for job in submitted(caller, Submit(number, LARGE))]
        many = submitted(caller, SubmitMany(id=1, specs=[HELD] * 5000))
    questions: list[Callable[[int], Request]] = [
        GetInfo,
        lambda number: List(id=number, limit=10_000),
        lambda number: Show(number, large[0]),
        lambda number: Logs(id=number, job=loud.jobs[0]),
        lambda number: Logs(id=number, job=loud.jobs[0], follow=True),
        lambda number: GetEvents(id=number, since=0),
    ]
    with Bystander(rig) as bystander:
        sent = sum(flood(rig, 4, question, reads=False) for question in questions)
        sent += flood(rig, 1, lambda number: Wait(number, many), reads=True)
    assert bystander.grown < MOST_GROWN
    record(
        "questions without end, whose answers are not read: lists, logs, followers, waits",
        questions=sent,
        grown_by_MiB=round(bystander.grown),
        p99_of_others_in_ms=bystander.p99,
    )


@pytest.mark.parametrize(("spec", "what"), [(SMALL, "4 kB"), (LARGE, "900 kB")])
def test_jobs_that_come_faster_than_the_disk_takes_them_take_bounded_memory(rig, spec, what):
    with injected(rig.pid, "fdatasync", SLOW, "NO DISK WAS SLOW"), Bystander(rig) as bystander:
        sent = flood(rig, times(CLIENTS, 16), lambda number: Submit(number, spec), reads=True)
    assert bystander.grown < MOST_GROWN
    record(
        f"clients submit jobs of {what} without waiting for answers, while each sync takes 300 ms",
        clients=times(CLIENTS, 16),
        jobs=sent,
        grown_by_MiB=round(bystander.grown),
    )


def submitted(caller: Caller, request: Request) -> list[int]:
    reply = caller.ask(request)
    assert isinstance(reply, Submitted), reply
    return reply.jobs
