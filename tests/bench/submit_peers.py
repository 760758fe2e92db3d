"""Measures how fast the peers take jobs: by a Python library, on a bare socket, by a program for each job."""

from __future__ import annotations

import multiprocessing
import os
import selectors
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

from tests.bench import foreign_peers, installing
from tests.bench.peer_programs import PROGRAMS, answer

PUT = b"put 0 0 120 64\r\n" + b"j" * 64 + b"\r\n"
PROCESSES = 2
PATIENCE = 180.0  # seconds until a library is taken for stuck


class Amounts(NamedTuple):
    """How many jobs are handed over."""

    one_by_one: int
    clients: int
    each: int  # by each of the clients
    bulk: int
    programs: int  # by programs that hand over one each


Rates = Mapping[str, float | None]  # one_by_one, at_once, bulk: jobs a second; None: there is no such call


def library(name: str, amounts: Amounts) -> Rates:
    """Return the rates of a Python library, which runs with the peers' Python."""
    numbers = (amounts.one_by_one, amounts.clients, amounts.each, amounts.bulk)
    rates: Rates = answer(name, PROGRAMS / "enqueue.py", name, *numbers, deadline=PATIENCE)
    return rates


def foreign(name: str, amounts: Amounts) -> Rates:
    return foreign_peers.submit_rates(name, amounts.one_by_one, amounts.clients, amounts.each, amounts.bulk)


def beanstalkd(amounts: Amounts) -> Rates:
    """Return what beanstalkd takes from bare sockets."""
    with tempfile.TemporaryDirectory(prefix="bgd-bench-") as folder, installing.beanstalkd(Path(folder)):
        path = f"{folder}/beanstalkd.sock"
        return {
            "one_by_one": amounts.one_by_one / _put(path, 1, amounts.one_by_one),
            "at_once": _put_at_once(path, amounts),
            "bulk": amounts.bulk / _pipeline(path, amounts.bulk),
        }


def task_spooler(amounts: Amounts) -> Rates:
    """Return what `tsp` takes: each job by a program, which stays as the process that waits for its turn."""
    path, environment = installing.program("tsp")
    with tempfile.TemporaryDirectory() as folder:
        env = environment | {"TS_SOCKET": f"{folder}/socket", "TMPDIR": folder, "TS_MAXFINISHED": "2000"}
        with _behind_a_job([path, "-n"], env, Path(folder)):
            rate = _by_programs([path, "-n", "/bin/true"], env, amounts.programs)
        subprocess.run([path, "-w"], env=env, check=True)
        subprocess.run([path, "-K"], env=env, check=True)
    return {"one_by_one": rate}


def nq(amounts: Amounts) -> Rates:
    path, environment = installing.program("nq")
    with tempfile.TemporaryDirectory() as folder:
        queue = environment | {"NQDIR": folder}
        with _behind_a_job([path, "-q"], queue, Path(folder)):
            rate = _by_programs([path, "-q", "/bin/true"], queue, amounts.programs)
        subprocess.run([path, "-w"], env=queue, check=True)
    return {"one_by_one": rate}


def hyperqueue(amounts: Amounts) -> Rates:
    """Return what HyperQueue takes in one job of many tasks; it has no worker here that would run them."""
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [installing.peers_python(), PROGRAMS / "commands_of_hyperqueue.py", str(amounts.bulk), "0"],
            env={"HOME": folder, "PATH": os.environ["PATH"]},
            cwd=folder,
            capture_output=True,
            check=True,
        )
    return {"bulk": float(done.stdout.split()[-1])}


PEERS: dict[str, Callable[[Amounts], Rates]] = {
    "rq": lambda amounts: library("rq", amounts),
    "celery": lambda amounts: library("celery", amounts),
    "dramatiq": lambda amounts: library("dramatiq", amounts),
    "huey": lambda amounts: library("huey", amounts),
    "procrastinate": lambda amounts: library("procrastinate", amounts),
    "oban": lambda amounts: library("oban", amounts),
    "beanstalkd": beanstalkd,
    "task_spooler": task_spooler,
    "nq": nq,
    "hyperqueue": hyperqueue,
    **{name: partial(foreign, name) for name in foreign_peers.PEERS},
}


@contextmanager
def _behind_a_job(submit: list[str], environment: dict[str, str], folder: Path) -> Iterator[None]:
    """Run a job that ends with the block, so that those that are submitted in it only wait."""
    end = folder / "end"
    os.mkfifo(end)
    subprocess.run([*submit, "/bin/cat", str(end)], env=environment, stdout=subprocess.DEVNULL, check=True)
    try:
        yield
    finally:
        end.write_bytes(b"")


def _by_programs(command: list[str], environment: dict[str, str], count: int) -> float:
    began = time.perf_counter()
    for _ in range(count):
        subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, check=True)
    return count / (time.perf_counter() - began)


def _put(path: str, clients: int, each: int) -> float:
    """Put jobs by so many connections, each with one in flight; return the seconds it took."""
    selector = selectors.DefaultSelector()
    for _ in range(clients):
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(path)
        selector.register(connection, selectors.EVENT_READ, [connection, each])
    began = time.perf_counter()
    for key in selector.get_map().values():
        key.data[0].sendall(PUT)
    while selector.get_map():
        for key, _ in selector.select():
            connection, left = key.data
            answer = connection.recv(4096)
            if not answer.startswith(b"INSERTED"):
                raise RuntimeError(f"beanstalkd answers {answer!r}")
            key.data[1] = left - 1
            if left > 1:
                connection.sendall(PUT)
            else:
                selector.unregister(connection)
                connection.close()
    return time.perf_counter() - began


def _put_at_once(path: str, amounts: Amounts) -> float:
    share = amounts.clients // PROCESSES
    processes = [
        multiprocessing.Process(target=_put, args=(path, share, amounts.each)) for _ in range(PROCESSES)
    ]
    began = time.perf_counter()
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    return amounts.clients * amounts.each / (time.perf_counter() - began)


def _pipeline(path: str, count: int) -> float:
    """Put jobs without waiting for the answers, a hundred at a time; return the seconds it took."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(path)
        began = time.perf_counter()
        for start in range(0, count, 100):
            portion = min(100, count - start)
            connection.sendall(PUT * portion)
            answered = 0
            while answered < portion:
                answered += connection.recv(1 << 16).count(b"\n")
        return time.perf_counter() - began
