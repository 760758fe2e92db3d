"""Times calls whose results are waited for, by clients in processes of their own: of bgd and of the peers."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier

Call = Callable[[int], object]
CONTEXT = multiprocessing.get_context("fork")


def by_clients(connect: Callable[[], Call], clients: int, each: int) -> list[float]:
    """Return the seconds of each call. Each client makes its calls one after the other."""
    ready = CONTEXT.Barrier(clients)
    receivers, processes = [], []
    for _ in range(clients):
        receiver, sender = CONTEXT.Pipe(duplex=False)
        process = CONTEXT.Process(target=_client, args=(connect, each, ready, sender), daemon=True)
        process.start()
        sender.close()
        receivers.append(receiver)
        processes.append(process)
    times = [seconds for receiver in receivers for seconds in receiver.recv()]
    for process in processes:
        process.join()
    return times


def _client(connect: Callable[[], Call], count: int, ready: Barrier, sender: Connection) -> None:
    call = connect()
    call(0)  # it connects
    ready.wait()
    times = []
    for number in range(count):
        began = time.perf_counter()
        answer = call(number)
        times.append(time.perf_counter() - began)
        if answer != number:
            raise RuntimeError(f"the result of {number} is {answer!r}")
    sender.send(times)
