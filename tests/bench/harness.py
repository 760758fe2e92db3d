"""What the benchmarks share: a private daemon, a bare client, and one JSON line of figures."""

from __future__ import annotations

import json
import os
import platform
import shutil
import socket
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import bgd
from bgd.core.spec import JobSpec
from bgd.wire.framing import FrameReader, frame
from bgd.wire.messages import PROTOCOL, Hello, decode_hello, decode_reply, encode
from bgd.wire.replies import AttemptsPart, End, Info, Reply, Submitted
from bgd.wire.requests import GetInfo, Request, Show, Shutdown, ShutdownMode, Submit, SubmitMany, Wait
from bgd.wire.views import AttemptView

# an installed bgd has its bytecode: do not compile each module at each start, even if the machine says so
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# about the size of a real shell's environment
ENVIRONMENT = {"PATH": os.environ["PATH"], "HOME": "/"} | {f"VARIABLE_{n:02}": "v" * 85 for n in range(48)}

PART = 500  # jobs in one frame


class BareClient:
    """Send and read frames on a blocking socket: measures the daemon without a client library."""

    def __init__(self, path: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(path)
        self._reader = FrameReader()
        self._waiting: list[bytes] = []
        self.socket.sendall(frame(encode(Hello(PROTOCOL, bgd.__version__, "bench"))))
        decode_hello(self._next())

    def send(self, *requests: Request) -> None:
        self.socket.sendall(b"".join(frame(encode(request)) for request in requests))

    def receive(self) -> Reply:
        return decode_reply(self._next())

    def ask(self, request: Request) -> Reply:
        self.send(request)
        return self.receive()

    def wait(self, jobs: list[int]) -> None:
        """Return when all these jobs have finished."""
        for start in range(0, len(jobs), 10_000):
            self.send(Wait(1, jobs[start : start + 10_000]))
            while not isinstance(self.receive(), End):
                pass

    def attempt(self, job: int) -> AttemptView:
        """Return the first attempt of a job."""
        return self.attempts(job)[0]

    def attempts(self, job: int) -> list[AttemptView]:
        self.send(Show(1, job))
        found: list[AttemptView] = []
        while not isinstance(reply := self.receive(), End):
            if isinstance(reply, AttemptsPart):
                found += reply.attempts
        return found

    def _next(self) -> bytes:
        while not self._waiting:
            data = self.socket.recv(1 << 18)
            if not data:
                raise ConnectionError("the daemon hung up")
            self._waiting.extend(self._reader.feed(data))
        return self._waiting.pop(0)


class Daemon:
    """A private bgd; `folder` holds its state, on a real disk. It took `start_time` seconds to be ready."""

    def __init__(self, folder: Path, process: subprocess.Popen[bytes], start_time: float) -> None:
        self.folder = folder
        self.process = process
        self.start_time = start_time
        self.socket = str(folder / "bgd.sock")
        self.launcher_pid = 0

    def connect(self) -> BareClient:
        return BareClient(self.socket)

    def seconds_of(self, pid: int) -> float:
        """Return the CPU seconds that a process has used so far."""
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def resident_megabytes(self, pid: int | None = None) -> float:
        """Return the resident memory of a process; None: of the daemon."""
        status = Path(f"/proc/{pid or self.process.pid}/status").read_text()
        (line,) = [line for line in status.splitlines() if line.startswith("VmRSS:")]
        return round(int(line.split()[1]) / 1024, 1)


@contextmanager
def daemon(
    slots: int, extra: str = "", prepare: Callable[[Path], object] = lambda _: None
) -> Iterator[Daemon]:
    """Run a daemon with this many slots during the block; `prepare` may fill its folder first."""
    folder = Path(tempfile.mkdtemp(prefix="bgd-bench-", dir=os.environ.get("BGD_BENCH_DIR")))
    config = folder / "bgd.toml"
    config.write_text(f'[daemon]\nstate_dir = "{folder}"\nslots = {slots}\n{extra}')
    prepare(folder)
    ready, told = os.pipe()
    command = [sys.executable, "-m", "bgd", "--config", str(config), "--log-level", "warning"]
    began = time.perf_counter()
    process = subprocess.Popen([*command, "--ready-fd", str(told)], pass_fds=[told])
    os.close(told)
    with os.fdopen(ready) as pipe:
        line = pipe.readline()
    if line != "ready\n":
        raise RuntimeError(f"the daemon did not come up: {line}")
    running = Daemon(folder, process, time.perf_counter() - began)
    try:
        client = running.connect()
        while not running.launcher_pid:
            info = client.ask(GetInfo(1))
            assert isinstance(info, Info)
            running.launcher_pid = info.launcher_pid or 0
        yield running
        client.ask(Shutdown(1, ShutdownMode.CANCEL))
        process.wait(30)
    finally:
        process.kill()
        process.wait()
        shutil.rmtree(folder)


def submit(number: int, argv: Iterable[str] = ("/bin/true",)) -> Submit:
    """Return a submit of a command with a real environment."""
    spec = JobSpec(argv=tuple(argv), cwd="/", umask=0o022, env=ENVIRONMENT)
    return Submit(number, spec, token=os.urandom(16))


def submitted(client: BareClient, request: Submit) -> int:
    """Submit a job and return its id."""
    reply = client.ask(request)
    assert isinstance(reply, Submitted), reply
    return reply.jobs[0]


def submitted_many(client: BareClient, specs: list[JobSpec], env: dict[str, str] | None = None) -> list[int]:
    """Submit jobs in one request and return their ids."""
    client.send(
        *(
            SubmitMany(id=1, specs=specs[at : at + PART], env=env, more=at + PART < len(specs))
            for at in range(0, len(specs), PART)
        )
    )
    reply = client.receive()
    assert isinstance(reply, Submitted), reply
    return reply.jobs


def raw_commits_a_second(folder: Path, seconds: float = 1.0) -> float:
    """Measure bare SQLite on this disk: one row of this size per durable commit."""
    path = folder / "raw.db"
    db = sqlite3.connect(path, isolation_level=None)
    db.execute("PRAGMA journal_mode=wal")
    db.execute("PRAGMA synchronous=full")
    db.execute("CREATE TABLE t (n INTEGER PRIMARY KEY, p BLOB)")
    row = os.urandom(300)
    count, end = 0, time.perf_counter() + seconds
    began = time.perf_counter()
    while time.perf_counter() < end:
        db.execute("INSERT INTO t (p) VALUES (?)", (row,))
        count += 1
    rate = count / (time.perf_counter() - began)
    db.close()
    return rate


def percentiles(values: list[float]) -> dict[str, float]:
    """Return the usual percentiles of latencies in seconds, as milliseconds."""
    ordered = sorted(values)
    cuts = {"p50": 0.5, "p95": 0.95, "p99": 0.99, "p999": 0.999}
    named = {name: ordered[min(int(len(ordered) * cut), len(ordered) - 1)] for name, cut in cuts.items()}
    return {name: round(value * 1000, 3) for name, value in (named | {"max": ordered[-1]}).items()}


def spread(values: list[float], digits: int = 1) -> dict[str, float]:
    return {
        "min": round(min(values), digits),
        "median": round(statistics.median(values), digits),
        "max": round(max(values), digits),
        "n": len(values),
    }


def latencies(rounds: Mapping[str, list[list[float]]]) -> dict[str, dict[str, dict[str, float]]]:
    """Return p50 and p99 in milliseconds, over rounds, of times in seconds, by name."""
    return {
        name: {
            cut: spread([percentiles(seconds)[cut] for seconds in each], digits=2) for cut in ("p50", "p99")
        }
        for name, each in rounds.items()
    }


def report(question: str, **figures: object) -> None:
    """Print one JSON line: the figures, the host and the versions."""
    about = {
        "question": question,
        "host": platform.node(),
        "cpus": os.cpu_count(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        "bgd": bgd.__version__,
    }
    print(json.dumps(about | figures))
