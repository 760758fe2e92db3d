"""How fast do the peers take jobs? Run as peers.py is, in a folder that holds their broker:

`enqueue.py NAME COUNT CLIENTS EACH BULK` hands over COUNT jobs one by one, then EACH jobs by each of CLIENTS
clients at once (threads of two processes), then BULK jobs by the peer's call for many, if it has one. It
prints a line of JSON with the jobs a second of each.
"""

from __future__ import annotations

import asyncio
import gc
import json
import multiprocessing
import sys
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import peers
from redis import Redis
from rq import Queue

PROCESSES = 2
CONTEXT = multiprocessing.get_context("fork")


class Rq:
    def __init__(self) -> None:
        self._queue = Queue(connection=Redis(unix_socket_path=peers.BROKER))

    def one(self) -> None:
        self._queue.enqueue(peers.work.nothing)

    def many(self, count: int) -> None:
        self._queue.enqueue_many([Queue.prepare_data(peers.work.nothing) for _ in range(count)])


class Oban:
    """A loop and a connection for each thread, since all its calls are coroutines."""

    def __init__(self) -> None:
        import oban
        from oban.schema import install

        class Nothing:
            async def process(self, _: object) -> None:
                peers.work.nothing()

        self._oban, self._install = oban.Oban, install
        self._job = oban.worker(queue="default")(Nothing).new
        self._of_thread = threading.local()

    def one(self) -> None:
        self.many(1)

    def many(self, count: int) -> None:
        loop, oban = self._opened()
        loop.run_until_complete(oban.enqueue_many([self._job() for _ in range(count)]))

    def prepare(self) -> None:
        loop, _ = self._opened()
        loop.run_until_complete(self._install(self._of_thread.pool))

    def _opened(self) -> tuple[asyncio.AbstractEventLoop, Any]:
        ours = self._of_thread
        if not hasattr(ours, "loop"):
            ours.loop = asyncio.new_event_loop()
            address = f"host={peers.DATABASE['host']} user=bench dbname=postgres"
            ours.pool = ours.loop.run_until_complete(self._oban.create_pool(address, min_size=1, max_size=1))
            ours.oban = self._oban(pool=ours.pool, name=str(threading.get_ident()))
        return ours.loop, ours.oban


def celery_one() -> None:
    peers.celery_nothing.apply_async(ignore_result=True)  # whoever wants results waits for a subscription too


def procrastinate_many(count: int) -> None:
    peers.procrastinate_nothing.batch_defer(*({} for _ in range(count)))


# what hands over one job, and what hands over many at once; None: the library has no such call
CALLS: dict[str, Callable[[], tuple[Callable[[], object], Callable[[int], None] | None]]] = {
    "rq": lambda: ((queue := Rq()).one, queue.many),
    "celery": lambda: (celery_one, None),
    "dramatiq": lambda: (peers.dramatiq_nothing.send, None),
    "huey": lambda: (peers.huey_nothing, None),
    "oban": lambda: ((oban := Oban()).one, oban.many),
    "procrastinate": lambda: (peers.procrastinate_nothing.defer, procrastinate_many),
}


def opened(name: str) -> AbstractContextManager[object]:
    return peers.procrastinate_app.open() if name == "procrastinate" else nullcontext()


def one_by_one(name: str, count: int) -> float:
    with opened(name):
        one, _ = CALLS[name]()
        one()  # it connects
        began = time.perf_counter()
        for _ in range(count):
            one()
        return count / (time.perf_counter() - began)


def in_threads(name: str, clients: int, each: int, ready: threading.Barrier) -> None:
    """Each thread waits for the answer to a job before it hands over the next one."""

    def submit() -> None:
        one()
        begin.wait()
        for _ in range(each):
            one()

    with opened(name):
        one, _ = CALLS[name]()
        begin = threading.Barrier(clients + 1)
        threads = [threading.Thread(target=submit) for _ in range(clients)]
        for thread in threads:
            thread.start()
        begin.wait()
        ready.wait()
        for thread in threads:
            thread.join()
        ready.wait()


def at_once(name: str, clients: int, each: int) -> float:
    ready = CONTEXT.Barrier(PROCESSES + 1)
    share = clients // PROCESSES
    processes = [
        CONTEXT.Process(target=in_threads, args=(name, share, each, ready)) for _ in range(PROCESSES)
    ]
    for process in processes:
        process.start()
    ready.wait()
    began = time.perf_counter()
    ready.wait()
    rate = clients * each / (time.perf_counter() - began)
    for process in processes:
        process.join()
    return rate


def in_bulk(name: str, count: int) -> float | None:
    with opened(name):
        one, many = CALLS[name]()
        if many is None:
            return None
        one()  # it connects
        began = time.perf_counter()
        many(count)
        return count / (time.perf_counter() - began)


def in_child(function: Callable[..., float | None], *arguments: object) -> float | None:
    """Run it in a process of its own, so that no connection is there before the fork of another one."""
    receiver, sender = CONTEXT.Pipe(duplex=False)
    process = CONTEXT.Process(target=lambda: sender.send(function(*arguments)))
    process.start()
    sender.close()
    rate: float | None = receiver.recv()
    process.join()
    return rate


def main(name: str, count: int, clients: int, each: int, bulk: int) -> None:
    gc.freeze()  # the 60 MB of objects that jobs need are nothing that handing over has to do with
    if name == "procrastinate":
        with opened(name):
            peers.procrastinate_app.schema_manager.apply_schema()
    elif name == "oban":
        in_child(Oban.prepare, Oban())
    rates = {
        "one_by_one": in_child(one_by_one, name, count),
        "at_once": at_once(name, clients, each),
        "bulk": in_child(in_bulk, name, bulk),
    }
    print(json.dumps(rates))


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
