"""Peers in other languages: bunqueue, Graphile Worker and Restate in JavaScript, Sidekiq in Ruby."""

from __future__ import annotations

import json
import os
import select
import socket
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from tests.bench import installing

PROGRAMS = Path(__file__).with_name("other_languages")
PROCESSES = 2  # clients share them
LOOK_EVERY = 0.01  # seconds
STARTING = 60.0  # seconds until a server must have come up
PATIENCE = 180.0  # seconds until a peer is taken for stuck


class Setting(NamedTuple):
    """What a peer needs while its broker runs."""

    client: list[str]  # what hands jobs over; the task follows
    worker: list[str]  # what runs them; `{at_once}` and `{file}` stand for numbers of the task
    environment: dict[str, str]


@contextmanager
def bunqueue(folder: Path, *, synced: bool = False) -> Iterator[Setting]:
    packages = installing.node_packages()
    bun = str(installing.bun())
    port, http_port = _free_ports(2)  # a path of a Unix socket is taken, but no such socket is there then
    environment = {**os.environ, "HOST": "127.0.0.1", "TCP_PORT": str(port), "HTTP_PORT": str(http_port)}
    server = [
        *(bun, *(["--preload", str(_copy(packages, "bunqueue_sync.mjs"))] if synced else [])),
        *(str(packages / "bunqueue/dist/cli/index.js"), "start", "--data-path", str(folder / "jobs.db")),
    ]
    with _program(server, environment, folder):
        _until_answered(lambda: socket.create_connection(("127.0.0.1", port)).close())
        client = [bun, str(_copy(packages, "bunqueue.mjs"))]
        yield Setting(client, [*client, "work", "{at_once}", "{file}"], environment)


@contextmanager
def graphile_worker(folder: Path) -> Iterator[Setting]:
    packages = installing.node_packages()
    with installing.postgresql(folder):
        client = [str(installing.node()), str(_copy(packages, "graphile_worker.mjs"))]
        environment = {**os.environ, "DATABASE_FOLDER": str(folder)}
        yield Setting(client, [*client, "work", "{at_once}", "{file}"], environment)


@contextmanager
def sidekiq(folder: Path) -> Iterator[Setting]:
    ruby, program, environment = installing.sidekiq()
    driver = str(PROGRAMS / "sidekiq_driver.rb")
    with installing.redis(folder):
        yield Setting(
            [ruby, driver],
            [ruby, program, "--require", driver, "--concurrency", "{at_once}"],
            environment | {"REDIS_SOCKET": str(folder / "redis.sock"), "DONE_FILE": str(folder / "done")},
        )


PEERS: dict[str, Callable[[Path], AbstractContextManager[Setting]]] = {
    "bunqueue": bunqueue,
    "bunqueue_synced": partial(bunqueue, synced=True),
    "graphile_worker": graphile_worker,
    "sidekiq": sidekiq,
}


def submit_rates(name: str, one_by_one: int, clients: int, each: int, bulk: int) -> dict[str, float]:
    """Return the jobs a second that a peer takes one by one, from clients at once, and in one call."""
    with tempfile.TemporaryDirectory(prefix="bgd-bench-") as folder, PEERS[name](Path(folder)) as setting:
        share = clients // PROCESSES
        return {
            "one_by_one": one_by_one / _seconds(setting, Path(folder), 1, "submit", 1, one_by_one),
            "at_once": clients * each / _seconds(setting, Path(folder), PROCESSES, "submit", share, each),
            "bulk": bulk / _seconds(setting, Path(folder), 1, "many", bulk),
        }


def run_rate(name: str, at_once: int, count: int) -> float:
    """Return the jobs a second that a peer runs, from when a tenth is done to when all are."""
    with tempfile.TemporaryDirectory(prefix="bgd-bench-") as folder, PEERS[name](Path(folder)) as setting:
        done = Path(folder, "done")
        done.touch()
        _seconds(setting, Path(folder), 1, "many", count)
        numbers = {"at_once": at_once, "file": done}
        command = [word.format_map(numbers) if word.startswith("{") else word for word in setting.worker]
        with _program(command, setting.environment, Path(folder)):
            _wait_for(done, count // 10)
            first, began = done.stat().st_size, time.perf_counter()
            _wait_for(done, count)
            return (count - first) / (time.perf_counter() - began)


def _wait_for(file: Path, length: int) -> None:
    end = time.monotonic() + PATIENCE
    while (size := file.stat().st_size) < length:
        if time.monotonic() > end:
            raise TimeoutError(f"{size} of {length} jobs have run")
        select.select([], [], [], LOOK_EVERY)


def _seconds(setting: Setting, folder: Path, processes: int, *task: object) -> float:
    """Return how many seconds the processes took for a task, counted from when all had connected."""
    command = [*setting.client, *map(str, task)]
    programs = [
        subprocess.Popen(
            command,
            env=setting.environment,
            cwd=folder,
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for _ in range(processes)
    ]
    try:
        for program in programs:
            _expect(program, "ready\n")
        began = time.perf_counter()
        for program in programs:
            assert program.stdin
            program.stdin.write("go\n")
            program.stdin.flush()
        for program in programs:
            _expect(program, "done\n")
        return time.perf_counter() - began
    finally:
        for program in programs:
            program.kill()
            program.wait()


def _expect(program: subprocess.Popen[str], line: str) -> None:
    assert program.stdout
    assert program.stderr
    if (answer := program.stdout.readline()) != line:
        program.kill()
        raise RuntimeError(f"{program.args!r} failed: {answer}{program.stderr.read()[-2000:]}")


@contextmanager
def _program(command: list[str], environment: dict[str, str], folder: Path) -> Iterator[None]:
    with (folder / f"{Path(command[-1]).name}.log").open("wb") as log:
        program = subprocess.Popen(command, env=environment, cwd=folder, stdout=log, stderr=log)
    try:
        yield
    finally:
        program.kill()
        program.wait()


def _copy(packages: Path, name: str) -> Path:
    """Copy the programs beside the packages, since imports of JavaScript are looked up from there."""
    for path in PROGRAMS.glob("*.mjs"):
        (packages.parent / path.name).write_text(path.read_text())
    return packages.parent / name


# --- steps -------------------------------------------------------------------------------------------------


def restate_rates(each: int, at_once: int) -> dict[str, float]:
    """Return how many steps a second one call of Restate records, and how many calls at once do."""
    packages = installing.node_packages()
    ports = dict(
        zip(("INGRESS__BIND_PORT", "ADMIN__BIND_PORT", "BIND_PORT", "service"), _free_ports(4), strict=True)
    )
    with tempfile.TemporaryDirectory(prefix="bgd-bench-") as folder:
        service_port = ports.pop("service")
        environment = {
            **os.environ,
            **{f"RESTATE_{name}": str(port) for name, port in ports.items()},
            "RESTATE_BASE_DIR": folder,
            "RESTATE_DISABLE_TELEMETRY": "true",
        }
        server = [str(next(packages.glob("@restatedev/restate-server-linux-*/bin/restate-server")))]
        service = [str(installing.node()), str(_copy(packages, "restate_steps.mjs")), str(service_port)]
        with _program(server, environment, Path(folder)), _program(service, environment, Path(folder)):
            admin = f"http://127.0.0.1:{ports['ADMIN__BIND_PORT']}"
            deployment = {"uri": f"http://127.0.0.1:{service_port}", "use_http_11": False}
            _until_answered(lambda: _post(f"{admin}/deployments", deployment))
            call = f"http://127.0.0.1:{ports['INGRESS__BIND_PORT']}/steps/record"
            _until_answered(lambda: _post(call, 10))
            began, ended = _post(call, each)
            with ThreadPoolExecutor(at_once) as threads:
                spans = list(threads.map(lambda _: _post(call, each), range(at_once)))
    together = max(span[1] for span in spans) - min(span[0] for span in spans)
    return {
        "restate_one_call": each / (ended - began) * 1000,
        "restate_all_calls": each * at_once / together * 1000,
    }


def _post(url: str, body: object) -> Any:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
        return json.load(answer)


def _until_answered(ask: Callable[[], object]) -> None:
    """Ask until the server, which says nowhere else that it is ready, has come up."""
    end = time.monotonic() + STARTING
    while True:
        try:
            ask()
        except (OSError, ValueError):
            if time.monotonic() > end:
                raise
            select.select([], [], [], 0.1)
        else:
            return


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
