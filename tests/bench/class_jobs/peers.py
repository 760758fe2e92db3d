"""The peers at the same work. Run with their own Python, in a folder that holds their broker:

`peers.py NAME AT_ONCE COUNT` queues COUNT jobs, then starts workers, and prints a line of JSON: jobs a second
from when a tenth is done to when all are, and megabytes that a running job's process has for itself.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import dramatiq
import memory
import procrastinate
import psycopg
import trees
import work
from celery import Celery
from dramatiq.brokers.redis import RedisBroker
from huey import SqliteHuey
from redis import Redis
from rq import Queue, SimpleWorker, Worker
from rq.registry import FinishedJobRegistry

BROKER = "redis.sock"  # in the working directory
LOOK_EVERY = 0.02  # seconds; looking more often would be work for the broker
PATIENCE = 120.0  # seconds until something that must happen is taken for lost


class Peer(Protocol):
    """One system: how it is given jobs, which programs work at them, and how many are done."""

    def queue(self, count: int) -> None: ...
    def queue_stay(self, folder: str) -> None: ...
    def programs(self, at_once: int) -> list[list[str]]: ...
    def finished(self) -> int: ...


class Rq:
    """A worker does one job at a time: in a process it forks for each, or in itself."""

    def __init__(self, name: str, kind: type[Worker]) -> None:
        self._name = name
        self._kind = kind
        self._queue = Queue(connection=Redis(unix_socket_path=BROKER))

    def queue(self, count: int) -> None:
        self._queue.enqueue_many([Queue.prepare_data(work.nothing) for _ in range(count)])

    def queue_stay(self, folder: str) -> None:
        self._queue.enqueue(work.stay, folder)

    def programs(self, at_once: int) -> list[list[str]]:
        return [[sys.executable, __file__, "work", self._name]] * at_once

    def finished(self) -> int:
        return int(FinishedJobRegistry(queue=self._queue).get_job_count(cleanup=False))

    def work(self) -> None:
        self._kind([self._queue], connection=self._queue.connection).work(logging_level="ERROR")


huey = SqliteHuey(filename="huey.db", fsync=True, store_none=True)
huey_nothing = huey.task()(work.nothing)
huey_stay = huey.task()(work.stay)


class Huey:
    """Processes that do one job after the other; on SQLite, each change synced."""

    def queue(self, count: int) -> None:
        for _ in range(count):
            huey_nothing()

    def queue_stay(self, folder: str) -> None:
        huey_stay(folder)

    def programs(self, at_once: int) -> list[list[str]]:
        consumer = str(Path(sys.executable).with_name("huey_consumer"))
        return [[consumer, "peers.huey", "--workers", str(at_once), "--worker-type", "process", "--quiet"]]

    def finished(self) -> int:
        return int(huey.result_count())


url = f"redis+socket://{Path(BROKER).absolute()}"
app = Celery("peers", broker=url, backend=f"{url}?virtual_host=1")
celery_nothing = app.task(work.nothing)
celery_stay = app.task(work.stay)


class CeleryPool:
    """Forked processes that do one job after the other, or each only so many."""

    def __init__(self, jobs_of_a_process: int | None = None) -> None:
        self._limit = [] if jobs_of_a_process is None else [f"--max-tasks-per-child={jobs_of_a_process}"]

    def queue(self, count: int) -> None:
        for _ in range(count):
            celery_nothing.delay()

    def queue_stay(self, folder: str) -> None:
        celery_stay.delay(folder)

    def programs(self, at_once: int) -> list[list[str]]:
        options = [f"--concurrency={at_once}", "--pool=prefork", "--loglevel=ERROR", *self._limit]
        return [[sys.executable, "-m", "celery", "-A", "peers:app", "worker", *options]]

    def finished(self) -> int:
        return int(Redis(unix_socket_path=BROKER, db=1).dbsize())


dramatiq.set_broker(RedisBroker(client=Redis(unix_socket_path=BROKER, db=2)))
DONE = Path("dramatiq.done")  # workers add a byte for each job, since Dramatiq keeps no count of its own


@dramatiq.actor  # type: ignore[untyped-decorator]  # the peers are not installed where types are checked
def dramatiq_nothing() -> None:
    work.nothing()
    fd = os.open(DONE, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(fd, b".")
    os.close(fd)


@dramatiq.actor  # type: ignore[untyped-decorator]
def dramatiq_stay(folder: str) -> None:
    work.stay(folder)


class Dramatiq:
    """Processes with one thread each that do one job after the other."""

    def queue(self, count: int) -> None:
        for _ in range(count):
            dramatiq_nothing.send()

    def queue_stay(self, folder: str) -> None:
        for _ in range(4):  # a process fetches some ahead, which none of the others then gets
            dramatiq_stay.send(folder)

    def programs(self, at_once: int) -> list[list[str]]:
        program = str(Path(sys.executable).with_name("dramatiq"))
        return [[program, "peers", "--processes", str(at_once), "--threads", "1"]]

    def finished(self) -> int:
        return DONE.stat().st_size if DONE.exists() else 0


DATABASE = {"host": str(Path.cwd()), "user": "bench", "dbname": "postgres"}
procrastinate_app = procrastinate.App(connector=procrastinate.SyncPsycopgConnector(kwargs=DATABASE))
procrastinate_nothing = procrastinate_app.task(name="nothing")(work.nothing)
procrastinate_stay = procrastinate_app.task(name="stay")(work.stay)


class Procrastinate:
    """A process for each job at a time, which does one after the other; on PostgreSQL."""

    def queue(self, count: int) -> None:
        with procrastinate_app.open():
            procrastinate_app.schema_manager.apply_schema()
            for _ in range(count):
                procrastinate_nothing.defer()

    def queue_stay(self, folder: str) -> None:
        with procrastinate_app.open():
            procrastinate_stay.defer(folder=folder)

    def programs(self, at_once: int) -> list[list[str]]:
        return [[sys.executable, __file__, "work", "procrastinate"]] * at_once

    def finished(self) -> int:
        with psycopg.connect(**DATABASE) as connection:
            query = "SELECT count(*) FROM procrastinate_jobs WHERE status = 'succeeded'"
            row = connection.execute(query).fetchone()
        return 0 if row is None else int(row[0])

    def work(self) -> None:
        connector = procrastinate.PsycopgConnector(kwargs=DATABASE)
        with procrastinate_app.replace_connector(connector) as app:
            app.run_worker(concurrency=1, install_signal_handlers=False)


PEERS: dict[str, Callable[[], Peer]] = {
    "rq_forking": lambda: Rq("rq_forking", Worker),
    "rq_simple": lambda: Rq("rq_simple", SimpleWorker),
    "huey_processes": Huey,
    "celery_pool": CeleryPool,
    "celery_process_each": lambda: CeleryPool(1),
    "dramatiq_processes": Dramatiq,
    "procrastinate": Procrastinate,
}


def measure(peer: Peer, at_once: int, count: int) -> dict[str, float]:
    peer.queue(count)
    programs = [
        subprocess.Popen(command, stdout=sys.stderr, start_new_session=True)
        for command in peer.programs(at_once)
    ]
    try:
        wait_until(lambda: peer.finished() >= count / 10)
        first, began = peer.finished(), time.perf_counter()
        wait_until(lambda: peer.finished() >= count)
        rate = (count - first) / (time.perf_counter() - began)
        stayers = Path.cwd() / "stayers"
        stayers.mkdir()
        for _ in range(at_once):
            peer.queue_stay(str(stayers))
        wait_until(lambda: len(list(stayers.iterdir())) == at_once)
        sizes = [memory.own_megabytes(int(stayer.name)) for stayer in stayers.iterdir()]
    finally:
        for program in programs:
            trees.end_tree(program)
    return {"rate": rate, "megabytes": sum(sizes) / len(sizes)}


def wait_until(is_so: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not is_so():
        if time.monotonic() > end:
            raise TimeoutError("the peer does not get on")
        threading.Event().wait(LOOK_EVERY)


def main() -> None:
    match sys.argv[1:]:
        case ["work", name]:
            peer = PEERS[name]()
            assert isinstance(peer, Rq | Procrastinate)
            peer.work()
        case [name, at_once, count]:
            print(json.dumps(measure(PEERS[name](), int(at_once), int(count))))
        case _:
            raise SystemExit(__doc__)


if __name__ == "__main__":
    import peers  # under the name by which its tasks are known to the workers

    peers.main()
