"""How soon do the peers' callers have a result? Run with their Python, in a folder that holds their broker:

`python -c 'import results; results.main()' NAME COUNT CLIENTS EACH` starts a worker for each client. One
client makes COUNT calls, one after the other, and waits for each result; then CLIENTS processes make
EACH calls like that.
It prints a line of JSON with the seconds of each call: [of the one client, of all clients].
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import calls
import dramatiq
import peers
import trees
import work
from dramatiq.results import Results
from dramatiq.results.backends import RedisBackend
from redis import Redis
from rq import Queue, SimpleWorker, Worker

PATIENCE = 20  # seconds until a result is taken for lost
EAGER = 0.005  # seconds between two looks of a Huey that looks often

huey, app = peers.huey, peers.app  # under the names by which workers find them
huey_same = huey.task()(work.same)
celery_same = app.task(work.same)
broker = dramatiq.get_broker()
broker.add_middleware(Results(backend=RedisBackend(client=Redis(unix_socket_path=peers.BROKER, db=3))))
dramatiq_same = dramatiq.actor(work.same, store_results=True)


def rq_call() -> calls.Call:
    queue = Queue(connection=Redis(unix_socket_path=peers.BROKER))

    def call(number: int) -> object:
        result = queue.enqueue(work.same, number).latest_result(timeout=PATIENCE)
        return None if result is None else result.return_value

    return call


def huey_call(number: int) -> object:
    return huey_same(number).get(blocking=True, timeout=PATIENCE)


def huey_call_looking_often(number: int) -> object:
    result = huey_same(number)
    while (found := result.get()) is None:
        threading.Event().wait(EAGER)
    return found


def celery_call(number: int) -> object:
    return celery_same.delay(number).get(timeout=PATIENCE)


def dramatiq_call(number: int) -> object:
    return dramatiq_same.send(number).get_result(block=True, timeout=PATIENCE * 1000)


def huey_programs(*options: str) -> Callable[[int], list[list[str]]]:
    consumer = str(Path(sys.executable).with_name("huey_consumer"))
    command = [consumer, "results.huey", "--worker-type", "process", "--quiet", *options]
    return lambda at_once: [[*command, "--workers", str(at_once)]]


def celery_programs(at_once: int) -> list[list[str]]:
    options = [f"--concurrency={at_once}", "--pool=prefork", "--loglevel=ERROR"]
    return [[sys.executable, "-m", "celery", "-A", "results:app", "worker", *options]]


def dramatiq_programs(at_once: int) -> list[list[str]]:
    program = str(Path(sys.executable).with_name("dramatiq"))
    return [[program, "results", "--processes", str(at_once), "--threads", "1"]]


OFTEN = ("--delay", str(EAGER), "--backoff", "1", "--max-delay", str(EAGER))

# what returns a call that waits for its result, and the programs that work
PEERS: dict[str, tuple[Callable[[], calls.Call], Callable[[int], list[list[str]]]]] = {
    "rq_forking": (rq_call, peers.Rq("rq_forking", Worker).programs),
    "rq_simple": (rq_call, peers.Rq("rq_simple", SimpleWorker).programs),
    "huey_processes": (lambda: huey_call, huey_programs()),
    "huey_looking_often": (lambda: huey_call_looking_often, huey_programs(*OFTEN)),
    "celery_pool": (lambda: celery_call, celery_programs),
    "dramatiq_processes": (lambda: dramatiq_call, dramatiq_programs),
}


def main() -> None:
    connect, programs_of = PEERS[sys.argv[1]]
    count, clients, each = map(int, sys.argv[2:])
    programs = [
        subprocess.Popen(command, stdout=sys.stderr, start_new_session=True)
        for command in programs_of(clients)
    ]
    try:
        # in processes of their own, so that no connection is there before a fork
        calls.by_clients(connect, clients, 3)  # until then the workers start
        print(json.dumps([calls.by_clients(connect, 1, count), calls.by_clients(connect, clients, each)]))
    finally:
        for program in programs:
            trees.end_tree(program)
