"""How late do the peers start jobs? Run with their Python, in a folder that holds their broker:

`python -c 'import lateness; lateness.main()' delayed NAME AT_ONCE COUNT RATE LEAD` submits COUNT jobs.
RATE of them become due in each second, the first one LEAD seconds after the first submit.

`... quiet NAME AT_ONCE NOISY REST COUNT PAUSE` queues NOISY jobs that take REST seconds each, then starts
workers, and submits COUNT jobs to another queue, one after the other, with PAUSE seconds after each.

Both print a line of JSON: how many seconds after its time each of the jobs ran.

`... printing NAME AT_ONCE COUNT` queues COUNT jobs that print the time, one by one, then starts workers. It
prints how many a second were queued, and how many ran, from when a tenth is done to when all are.
"""

from __future__ import annotations

import json
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

import dramatiq
import peers
import procrastinate
import trees
import work
from redis import Redis
from rq import Queue, SimpleWorker, Worker

LOOK_EVERY = 0.005  # seconds
TIMES, NOISE = str(Path("times").absolute()), str(Path("noise").absolute())
PRINTING = 900.0  # seconds for all jobs that print: a fork for each takes minutes
SIZE = struct.calcsize("d")
MODULE = [sys.executable, "-c"]


class Peer(Protocol):
    """How a system is given one job: due later, noisy, of a quiet queue, or one that prints."""

    def delayed(self, at: float) -> None: ...
    def noisy(self, rest: float) -> None: ...
    def quiet(self) -> None: ...
    def printing(self) -> None: ...
    def programs(self, at_once: int) -> list[list[str]]: ...


KINDS = {"SimpleWorker": SimpleWorker, "Worker": Worker}


class Rq:
    """Workers that look at their queues in an order; one of them has a scheduler."""

    def __init__(self, kind: str = "SimpleWorker") -> None:
        self._kind = kind
        redis = Redis(unix_socket_path=peers.BROKER)
        self._queues = {name: Queue(name, connection=redis) for name in ("quiet", "default", "noisy")}

    def delayed(self, at: float) -> None:
        self._queues["default"].enqueue_at(datetime.fromtimestamp(at, UTC), work.late, TIMES, at)

    def noisy(self, rest: float) -> None:
        self._queues["noisy"].enqueue(work.rest, NOISE, rest)

    def quiet(self) -> None:
        self._queues["quiet"].enqueue(work.late, TIMES, time.time())

    def printing(self) -> None:
        self._queues["default"].enqueue(work.tell, NOISE)

    def programs(self, at_once: int) -> list[list[str]]:
        return [[*MODULE, f"import lateness; lateness.Rq({self._kind!r}).work()"]] * at_once

    def work(self) -> None:
        queues = list(self._queues.values())
        worker = KINDS[self._kind](queues, connection=queues[0].connection)
        worker.work(logging_level="ERROR", with_scheduler=True)


huey = peers.huey
huey_late, huey_rest, huey_tell = map(huey.task(), (work.late, work.rest, work.tell))


class Huey:
    """A job of the quiet queue is one with a priority, since there is one queue."""

    def delayed(self, at: float) -> None:
        huey_late.schedule(args=(TIMES, at), eta=datetime.fromtimestamp(at, UTC))

    def noisy(self, rest: float) -> None:
        huey_rest(NOISE, rest)

    def quiet(self) -> None:
        huey_late(TIMES, time.time(), priority=1)

    def printing(self) -> None:
        huey_tell(NOISE)

    def programs(self, at_once: int) -> list[list[str]]:
        consumer = str(Path(sys.executable).with_name("huey_consumer"))
        return [[consumer, "lateness.huey", "--workers", str(at_once), "--worker-type", "process", "--quiet"]]


app = peers.app
celery_late, celery_rest, celery_tell = map(app.task, (work.late, work.rest, work.tell))


class Celery:
    """A queue for each kind, which a pool takes from in turns."""

    def delayed(self, at: float) -> None:
        eta = datetime.fromtimestamp(at, UTC)
        celery_late.apply_async((TIMES, at), eta=eta, ignore_result=True)

    def noisy(self, rest: float) -> None:
        celery_rest.apply_async((NOISE, rest), queue="noisy", ignore_result=True)

    def quiet(self) -> None:
        celery_late.apply_async((TIMES, time.time()), queue="quiet", ignore_result=True)

    def printing(self) -> None:
        celery_tell.apply_async((NOISE,), ignore_result=True)

    def programs(self, at_once: int) -> list[list[str]]:
        options = [
            f"--concurrency={at_once}",
            "--pool=prefork",
            "--loglevel=ERROR",
            "-Q",
            "quiet,celery,noisy",
        ]
        return [[sys.executable, "-m", "celery", "-A", "lateness:app", "worker", *options]]


dramatiq_late = dramatiq.actor(work.late)
dramatiq_quiet = dramatiq.actor(work.late, actor_name="quiet", queue_name="quiet")
dramatiq_rest = dramatiq.actor(work.rest, queue_name="noisy")
dramatiq_tell = dramatiq.actor(work.tell)


class Dramatiq:
    """A queue for each kind; each process fetches some of its jobs ahead."""

    def delayed(self, at: float) -> None:
        dramatiq_late.send_with_options(args=(TIMES, at), delay=round((at - time.time()) * 1000))

    def noisy(self, rest: float) -> None:
        dramatiq_rest.send(NOISE, rest)

    def quiet(self) -> None:
        dramatiq_quiet.send(TIMES, time.time())

    def printing(self) -> None:
        dramatiq_tell.send(NOISE)

    def programs(self, at_once: int) -> list[list[str]]:
        program = str(Path(sys.executable).with_name("dramatiq"))
        return [[program, "lateness", "--processes", str(at_once), "--threads", "1"]]


procrastinate_late = peers.procrastinate_app.task(name="late")(work.late)
procrastinate_rest = peers.procrastinate_app.task(name="rest")(work.rest)
procrastinate_tell = peers.procrastinate_app.task(name="tell")(work.tell)


class Procrastinate:
    """Workers with one job at a time each; a job of the quiet queue has a priority."""

    def delayed(self, at: float) -> None:
        due = datetime.fromtimestamp(at, UTC)
        procrastinate_late.configure(schedule_at=due).defer(path=TIMES, at=at)

    def noisy(self, rest: float) -> None:
        procrastinate_rest.configure(queue="noisy").defer(path=NOISE, seconds=rest)

    def quiet(self) -> None:
        procrastinate_late.configure(queue="quiet", priority=1).defer(path=TIMES, at=time.time())

    def printing(self) -> None:
        procrastinate_tell.defer(path=NOISE)

    def programs(self, at_once: int) -> list[list[str]]:
        return [[*MODULE, "import lateness; lateness.Procrastinate().work()"]] * at_once

    def work(self) -> None:
        connector = procrastinate.PsycopgConnector(kwargs=peers.DATABASE)
        with peers.procrastinate_app.replace_connector(connector) as workers_app:
            workers_app.run_worker(concurrency=1, install_signal_handlers=False)


PEERS: dict[str, Callable[[], Peer]] = {
    "rq_forking": lambda: Rq("Worker"),
    "rq_simple": Rq,
    "huey_processes": Huey,
    "celery_pool": Celery,
    "dramatiq_processes": Dramatiq,
    "procrastinate": Procrastinate,
}


class Workers:
    """The programs that work, until the end of the block."""

    def __init__(self, commands: list[list[str]]) -> None:
        self._commands = commands

    def __enter__(self) -> None:
        self._programs = [
            subprocess.Popen(command, stdout=sys.stderr, start_new_session=True) for command in self._commands
        ]

    def __exit__(self, *_: object) -> None:
        for program in self._programs:
            trees.end_tree(program)


def delayed(peer: Peer, at_once: int, count: int, rate: float, lead: float) -> None:
    with Workers(peer.programs(at_once)):
        first = time.time() + lead
        for number in range(count):
            peer.delayed(first + number / rate)
        if time.time() > first:
            raise RuntimeError(f"it took more than {lead} s to submit the jobs")
        wait_for(TIMES, count * SIZE, lead + count / rate + peers.PATIENCE)


def quiet(peer: Peer, at_once: int, noisy: int, rest: float, count: int, pause: float) -> None:
    for _ in range(noisy):
        peer.noisy(rest)
    with Workers(peer.programs(at_once)):
        wait_for(NOISE, at_once)
        for number in range(count):
            peer.quiet()
            wait_for(TIMES, (number + 1) * SIZE)
            threading.Event().wait(pause)
        if size(NOISE) >= noisy:
            raise RuntimeError("the noisy jobs did not last until the end")


def printing(peer: Peer, at_once: int, count: int) -> tuple[float, float]:
    """Return how many jobs a second were queued, and how many ran."""
    began = time.perf_counter()
    for _ in range(count):
        peer.printing()
    queued = count / (time.perf_counter() - began)
    with Workers(peer.programs(at_once)):
        wait_for(NOISE, count // 10, PRINTING)
        first, began = size(NOISE), time.perf_counter()
        wait_for(NOISE, count, PRINTING)
        return queued, (count - first) / (time.perf_counter() - began)


def wait_for(path: str, length: int, patience: float = peers.PATIENCE) -> None:
    end = time.monotonic() + patience
    while size(path) < length:
        if time.monotonic() > end:
            raise TimeoutError(f"{size(path)} of {length} bytes were written in {patience} s")
        threading.Event().wait(LOOK_EVERY)


def size(path: str) -> int:
    return Path(path).stat().st_size if Path(path).exists() else 0


def opened(name: str) -> AbstractContextManager[object]:
    return peers.procrastinate_app.open() if name == "procrastinate" else nullcontext()


def main() -> None:
    question, name, at_once, count, *numbers = sys.argv[1:]
    with opened(name):
        if name == "procrastinate":
            peers.procrastinate_app.schema_manager.apply_schema()
        peer = PEERS[name]()
        if question == "printing":
            print(json.dumps(printing(peer, int(at_once), int(count))))
            return
        if question == "delayed":
            rate, lead = map(float, numbers)
            delayed(peer, int(at_once), int(count), rate, lead)
        else:
            rest, samples, pause = map(float, numbers)
            quiet(peer, int(at_once), int(count), rest, int(samples), pause)
    print(json.dumps([late for (late,) in struct.iter_unpack("d", Path(TIMES).read_bytes())]))
