"""Clients of a process that forks: each child has its own connection, and breaks nothing of its parent."""

from __future__ import annotations

import asyncio
import http.client
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import pytest

from bgd import AsyncClient, Client, using
from bgd.client import specs
from bgd.executor import Executor
from tests.functions import tasks
from tests.support import DEADLINE, ROOT, Daemon, wait_until

pytestmark = pytest.mark.usefixtures("served")

CHILDREN, CALLS = 4, 25  # of a server that forks, and what each of them serves


def in_child(action: Callable[[], object]) -> str:
    """Return what an action returns or raises in a forked child, as text."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            answer = str(action())
        except BaseException as error:  # noqa: BLE001 - the parent looks at it
            answer = f"{type(error).__name__}: {error}"
        os.write(writing, answer.encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        answer = pipe.read()
    os.waitpid(child, 0)
    return answer


@pytest.fixture
def client():
    with Client(timeout=DEADLINE) as made:
        yield made


def submit(client: Client) -> int:
    return client.submit(["true"]).wait(DEADLINE).exit_code or 0


def test_a_child_and_its_parent_use_one_client_over_two_connections(client):
    submit(client)

    assert in_child(lambda: [submit(client) for _ in range(3)]) == "[0, 0, 0]"
    assert submit(client) == 0


def test_a_child_uses_a_client_that_has_never_connected(client):
    assert in_child(lambda: submit(client)) == "0"
    assert submit(client) == 0


def test_a_child_of_a_child_has_its_own_connection_too(client):
    submit(client)

    assert in_child(lambda: (submit(client), in_child(lambda: submit(client)))) == "(0, '0')"


def test_a_child_asks_about_the_jobs_of_its_parent(client):
    job, held = client.submit(["sh", "-c", "exit 3"]), client.submit(["true"], hold=True)

    assert in_child(lambda: job.wait(DEADLINE).exit_code) == "3"
    assert in_child(lambda: held.cancel() and held.refresh().state) == "cancelled"
    assert job.wait(DEADLINE).exit_code == 3


def test_a_child_uses_the_client_that_its_parent_has_chosen(client):
    with using(client):
        assert tasks.add.submit(1).result(DEADLINE) == 3
        assert in_child(lambda: tasks.add.submit(2).result(DEADLINE)) == "4"


def test_a_child_may_close_and_use_the_client(client):
    submit(client)

    assert in_child(lambda: client.close() or submit(client)) == "0"
    assert submit(client) == 0


def test_a_child_needs_no_lock_that_another_thread_held(client):
    held = client.submit(["true"], hold=True)
    with ThreadPoolExecutor(2) as pool:
        waiting = [pool.submit(held.wait, DEADLINE) for _ in range(2)]  # one of them reads for both
        wait_until(client._channel._connection._reading.locked)

        assert in_child(lambda: submit(client)) == "0"

        held.release()
        assert [done.result(DEADLINE).state for done in waiting] == ["succeeded"] * 2


def test_a_child_does_not_wait_for_a_thread_that_read_the_environment(client, monkeypatch):
    inherited, reads, goes_on = specs._inherited, threading.Event(), threading.Event()

    def read_slowly():
        if threading.current_thread() is not threading.main_thread():
            reads.set()
            goes_on.wait(DEADLINE)
        return inherited()

    def submit_in_time() -> int:
        signal.alarm(int(DEADLINE))
        return submit(client)

    monkeypatch.setattr(specs, "_inherited", read_slowly)
    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(submit, client)
        reads.wait(DEADLINE)

        answer = in_child(submit_in_time)

        goes_on.set()
        assert other.result(DEADLINE) == 0
    assert answer == "0"


def test_a_thread_of_a_child_uses_the_client(client):
    submit(client)

    def in_thread() -> int:
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(submit, client).result(DEADLINE)

    assert in_child(in_thread) == "0"


def test_a_child_that_ends_a_stream_does_not_end_that_of_its_parent(client, tmp_path: Path):
    os.mkfifo(tmp_path / "gate")
    output = client.submit(["sh", "-c", "echo one; cat gate; echo two"], cwd=str(tmp_path)).logs(follow=True)
    first = next(output)

    assert in_child(output.close) == "None"
    (tmp_path / "gate").write_text("")
    assert b"".join(part.data for part in [first, *output]) == b"one\ntwo\n"


def test_a_child_that_leaves_a_map_cancels_no_job_of_its_parent(client):
    results = client.map(tasks.add, range(20))
    first = next(results)
    of_parent = "BgdError: this map belongs to the parent process: begin one after fork"

    assert in_child(results.close) == "None"
    assert in_child(lambda: next(results)) == of_parent
    assert [first, *results] == list(range(2, 22))


def test_an_executor_runs_calls_of_a_child_and_leaves_those_of_its_parent_alone(client):
    with Executor(client, hold=True) as executor:
        of_parent = executor.submit(tasks.add, 1)

        def in_turn() -> object:
            future = executor.submit(tasks.add, 2)
            future.job.release()
            executor.shutdown(cancel_futures=True)
            return future.result(DEADLINE)

        assert in_child(in_turn) == "4"
        assert of_parent.job.refresh().state == "held"
        of_parent.job.release()
        assert of_parent.result(DEADLINE) == 3


def test_an_async_client_of_the_parent_is_refused_in_a_child():
    client = AsyncClient(timeout=DEADLINE)

    async def use() -> int:
        return (await client.submit(["true"])).id

    with asyncio.Runner() as runner:
        runner.run(use())

        refused = "BgdError: this AsyncClient belongs to the parent process: make a new one after fork"
        assert in_child(lambda: asyncio.run(use())) == refused
        assert in_child(lambda: asyncio.run(client.close())) == "None"
        assert runner.run(use()) > 0
        runner.run(client.close())


def test_a_child_uses_an_async_client_that_has_never_connected():
    client = AsyncClient(timeout=DEADLINE)

    async def use() -> str:
        async with client:
            return (await (await client.submit(["true"])).wait(DEADLINE)).state

    assert in_child(lambda: asyncio.run(use())) == "succeeded"
    assert asyncio.run(use()) == "succeeded"


# --- servers that fork --------------------------------------------------------------------------------------


SHARED = Client(timeout=DEADLINE)


def work(_: int) -> int:
    return submit(SHARED)


def test_the_processes_of_a_pool_use_the_client_of_a_module():
    work(0)
    context = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(CHILDREN, mp_context=context) as pool:
        codes = list(pool.map(work, range(CHILDREN * CALLS)))

    assert codes == [0] * CHILDREN * CALLS
    SHARED.close()


def test_workers_that_are_forked_without_exec_submit_while_their_parent_does(client):
    """Celery's prefork pool works like this."""
    submit(client)
    reading, writing = os.pipe()
    children = []
    for _ in range(CHILDREN):
        children.append(os.fork())
        if children[-1] == 0:
            try:
                for _ in range(CALLS):
                    os.write(writing, f"{client.submit(['true']).id}\n".encode())
            finally:
                os._exit(0)
    own = [client.submit(["true"]).id for _ in range(CALLS)]
    os.close(writing)
    with os.fdopen(reading) as pipe:
        ids = [*own, *map(int, pipe.read().split())]
    for child in children:
        os.waitpid(child, 0)

    assert len(set(ids)) == len(ids) == (CHILDREN + 1) * CALLS


APPLICATION = """
from bgd import Client

client = Client(timeout={timeout})
client.submit(["true"])  # before gunicorn forks


def application(environ, start_response):
    body = str(client.submit(["true"]).id).encode()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]
"""


class OverSocket(http.client.HTTPConnection):
    """An HTTP connection over a Unix socket."""

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(DEADLINE)
        self.sock.connect(self.host)


def test_gunicorn_may_load_an_application_with_a_client_before_it_forks(served: Daemon, tmp_path: Path):
    (tmp_path / "app.py").write_text(APPLICATION.format(timeout=DEADLINE))
    path = tmp_path / "http.sock"
    options = ["--preload", "--workers", str(CHILDREN), "--threads", "2", "--bind", f"unix:{path}"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "BGD_SOCKET": str(served.socket)}
    server = subprocess.Popen(
        [sys.executable, "-m", "gunicorn", *options, "app:application"],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_until(path.exists)
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda _: answer_at(path), range(4 * CHILDREN * CALLS)))
    finally:
        server.terminate()
        server.wait(DEADLINE)

    assert {status for status, _ in answers} == {200}
    assert len({job for _, job in answers}) == len(answers)


def answer_at(path: Path) -> tuple[int, bytes]:
    connection = OverSocket(str(path))
    try:
        connection.request("GET", "/")
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()
