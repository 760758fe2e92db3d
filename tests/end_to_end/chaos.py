"""A load of jobs that write down their own truth, and a checker that holds the history against it."""

from __future__ import annotations

import json
import os
import random
import select
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import closing
from pathlib import Path
from typing import Self

from msgspec.structs import replace

from bgd import __version__
from bgd.core.job import Outcome, State
from bgd.core.spec import Isolation, JobSpec
from bgd.wire.framing import FrameReader, frame
from bgd.wire.messages import PROTOCOL, Hello, decode_hello, decode_reply, encode
from bgd.wire.replies import AttemptsPart, End, Info, Reply, Shown, Submitted
from bgd.wire.requests import Request, Show, Submit, Wait
from bgd.wire.steering import GetInfo
from bgd.wire.views import AttemptView, JobView

# Every attempt takes a lock of its job (two at once would show), writes that it began, and with which code
# it is about to end. $1: folder, $2: seconds to sleep, $3: exit code, $4: code of the first attempt.
SCRIPT = """
exec 9>"$1/lock.$BGD_JOB_ID"
flock -n 9 || echo "overlap $BGD_JOB_ID $BGD_ATTEMPT" >> "$1/truth"
echo "start $BGD_JOB_ID $BGD_ATTEMPT" >> "$1/truth"
sleep "$2"
code="$3"
[ "$BGD_ATTEMPT" = 1 ] && code="$4"
echo "end $BGD_JOB_ID $BGD_ATTEMPT $code" >> "$1/truth"
exit "$code"
"""

# the same as a class job
MODULE = """
import fcntl, os, sys, time

def run(kind, folder, seconds, code, first):
    who = os.environ["BGD_JOB_ID"] + " " + os.environ["BGD_ATTEMPT"]

    def tell(text):
        with open(folder + "/truth", "a") as truth:
            truth.write(text + "\\n")

    with open(folder + "/lock." + os.environ["BGD_JOB_ID"], "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            tell("overlap " + who)
        tell("start " + who)
        time.sleep(float(seconds))
        if os.environ["BGD_ATTEMPT"] == "1":
            code = first
        tell("end " + who + " " + code)
    if code != "0":
        sys.exit(int(code))
"""
CLASSES = """
[security]
allowed_classes = ["truth.*"]
[python]
path = ["{folder}"]
preload = ["truth"]
[retry]
delay = "100ms"
"""

KINDS = {"quick": 60, "long": 10, "fails once": 15, "fails": 10, "too slow": 5}  # of 100 jobs

WAIT_SECONDS = 60.0


class Gone(Exception):
    """The daemon went away in the middle."""


class Caller:
    """One connection of plain blocking calls: no client library stands between test and daemon."""

    def __init__(self, path: Path) -> None:
        import socket

        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(WAIT_SECONDS)
        self._reader = FrameReader()
        self._payloads: list[bytes] = []
        try:
            self._socket.connect(str(path))
            self._socket.sendall(frame(encode(Hello(PROTOCOL, __version__, "chaos"))))
        except OSError as error:
            self.close()
            raise Gone from error
        decode_hello(self._next())

    def ask(self, request: Request) -> Reply:
        try:
            self._socket.sendall(frame(encode(request)))
        except OSError as error:
            self.close()
            raise Gone from error
        return self.next()

    def next(self) -> Reply:
        return decode_reply(self._next())

    def show(self, job: int) -> tuple[JobView, list[AttemptView]]:
        shown = self.ask(Show(1, job))
        assert isinstance(shown, Shown), shown
        attempts: list[AttemptView] = []
        while isinstance(part := self.next(), AttemptsPart):
            attempts += part.attempts
        return shown.job, attempts

    def wait(self, jobs: list[int]) -> None:
        reply = self.ask(Wait(1, jobs))
        while not isinstance(reply, End):
            reply = self.next()

    def close(self) -> None:
        self._socket.close()

    def _next(self) -> bytes:
        while not self._payloads:
            try:
                data = self._socket.recv(1 << 16)
            except OSError:
                data = b""
            if not data:
                self.close()
                raise Gone
            self._payloads.extend(self._reader.feed(data))
        return self._payloads.pop(0)


class Rig:
    """A daemon in a folder of its own that can be killed and started again."""

    def __init__(self, folder: Path, slots: int = 16, more: str = "", state: Path | None = None) -> None:
        state = state or folder / "state"
        self.folder = folder
        self.socket = state / "bgd.sock"
        self.config = folder / "bgd.toml"
        self.config.write_text(
            f'[daemon]\nstate_dir = "{state}"\nslots = {slots}\ngrace = "500ms"\n'
            f'[retry.commands]\ndelay = "100ms"\n{more}'
        )
        self._log = (folder / "log").open("ab")
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        ready, told = os.pipe()
        command = [sys.executable, "-m", "bgd", "--config", str(self.config), "--ready-fd", str(told)]
        self._process = subprocess.Popen(command, pass_fds=[told], stderr=self._log)
        os.close(told)
        with os.fdopen(ready) as pipe:
            line = pipe.readline()
        assert line == "ready\n", f"{line!r}: see {self.folder}/log"

    def kill(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def stop(self) -> None:
        """End the daemon in good order; what runs runs on."""
        assert self._process is not None
        self._process.terminate()
        assert self._process.wait(WAIT_SECONDS) == 0

    def take(self, process: subprocess.Popen[bytes]) -> None:
        """Take a daemon that was started otherwise, and return when it answers."""
        self._process = process
        while True:
            try:
                self.launcher_pid()
            except Gone:
                assert process.poll() is None, f"see {self.folder}/log"
                select.select([], [], [], 0.05)
            else:
                return

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def launcher_pid(self) -> int:
        """Return the launcher's pid, waiting until the daemon has one."""
        with closing(Caller(self.socket)) as caller:
            return self._launcher_pid(caller)

    def _launcher_pid(self, caller: Caller) -> int:
        deadline = time.monotonic() + WAIT_SECONDS
        while time.monotonic() < deadline:
            info = caller.ask(GetInfo(1))
            assert isinstance(info, Info)
            if info.launcher_pid and Path(f"/proc/{info.launcher_pid}").exists():
                return info.launcher_pid
        raise AssertionError("no launcher came up")

    def close(self) -> None:
        """End everything, whatever state it is in."""
        if self._process is not None and self._process.poll() is None:
            pid = self.launcher_pid()
            self.kill()
            os.kill(pid, signal.SIGTERM)
        self._log.close()


class Crowd:
    """Runs what each client does in a thread of its own, which is to end when its Event is set."""

    def __init__(self, clients: Iterable[Callable[[threading.Event], None]]) -> None:
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=live, args=(self._stop,)) for live in clients]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def run_for(self, seconds: float) -> None:
        """Let them go on: the moment of a kill is drawn, not waited for."""
        self._stop.wait(seconds)


class Load:
    """Clients that submit all the time, and remember only what they were told."""

    def __init__(
        self, rig: Rig, clients: int = 4, seed: int = 0, isolations: tuple[Isolation, ...] = ()
    ) -> None:
        """`isolations`: of class jobs, which all jobs then are; none: all are commands."""
        self._rig = rig
        self._dice = random.Random(seed)
        self._isolations = isolations
        self._lock = threading.Lock()
        self.acknowledged: dict[int, JobSpec] = {}
        self.unanswered = 0
        self.crowd = Crowd([self._submit] * clients)

    def _submit(self, stop: threading.Event) -> None:
        caller: Caller | None = None
        while not stop.wait(0.02):
            spec = self._spec()
            try:
                if caller is None:
                    caller = Caller(self._rig.socket)
                reply = caller.ask(Submit(1, spec))
            except Gone:
                self.unanswered += 1
                caller = None
                continue
            assert isinstance(reply, Submitted), reply
            with self._lock:
                self.acknowledged[reply.jobs[0]] = spec
        if caller is not None:
            caller.close()

    def _spec(self) -> JobSpec:
        """Draw a job: mostly quick, some longer than a daemon lives, some failing once, some too slow."""
        with self._lock:
            kind = self._dice.choices(
                ("quick", "long", "fails once", "fails", "too slow"), (60, 10, 15, 10, 5)
            )[0]
            seconds = self._dice.uniform(0.0, 0.1) if kind != "long" else self._dice.uniform(0.5, 1.5)
            code = self._dice.randint(1, 100)
            isolation = self._dice.choice(self._isolations) if self._isolations else None
        codes = {"fails once": (0, code), "fails": (code, code)}.get(kind, (0, 0))
        retries = {"fails once": 3, "long": 3}.get(kind, 0)
        sleep = 30.0 if kind == "too slow" else seconds
        words = (kind, str(self._rig.folder), f"{sleep:.3f}", *map(str, codes))
        common = JobSpec(
            cwd="/",
            retries=retries,
            timeout=0.4 if kind == "too slow" else None,
            priority=1 if seconds > 0.05 else 0,
        )
        if isolation is None:
            return replace(common, argv=("/bin/sh", "-c", SCRIPT, *words), env={"PATH": os.environ["PATH"]})
        return replace(common, target="truth:run", arguments=json.dumps({"args": words}), isolation=isolation)


def check_history(rig: Rig, load: Load, *, may_be_unseen: bool, may_be_killed: bool = False) -> Counter[str]:
    """Hold what the daemon says of every acknowledged job against what the jobs wrote down themselves.

    `may_be_unseen`: the launcher was killed too, so attempts may have ended `unknown`. `may_be_killed`: warm
    workers were, which take along what they are just starting, or run themselves.
    """
    jobs = sorted(load.acknowledged)
    allowed = {Outcome.UNKNOWN} if may_be_unseen else set()
    if may_be_killed:
        allowed |= {Outcome.SIGNAL, Outcome.INTERRUPTED, Outcome.NOT_STARTED}
    with closing(Caller(rig.socket)) as caller:
        caller.wait(jobs)
        return _check_jobs(caller, jobs, Truth.read(rig.folder / "truth"), allowed)


class Truth:
    """What the attempts wrote down themselves: starts, codes, and whom they should not have met."""

    def __init__(self) -> None:
        self.starts: Counter[tuple[int, int]] = Counter()
        self.codes: dict[tuple[int, int], int] = {}

    @classmethod
    def read(cls, path: Path) -> Self:
        truth = cls()
        for line in path.read_text().splitlines():
            what, job, attempt, *code = line.split()
            assert what != "overlap", f"job {job} met another attempt of {attempt}, and there is room for one"
            key = int(job), int(attempt)
            if what == "start":
                truth.starts[key] += 1
                assert truth.starts[key] == 1, f"attempt {key} was started twice"
            else:
                assert key not in truth.codes, f"attempt {key} ended twice"
                truth.codes[key] = int(code[0])
        return truth


def _check_jobs(caller: Caller, jobs: list[int], truth: Truth, allowed: set[Outcome]) -> Counter[str]:
    outcomes: Counter[str] = Counter()
    for job in jobs:
        view, attempts = caller.show(job)
        assert [attempt.attempt for attempt in attempts] == list(range(1, view.attempt + 1))
        for attempt in attempts:
            key = job, attempt.attempt
            assert attempt.outcome is not None, f"attempt {key} has no end"
            outcomes[attempt.outcome] += 1
            _check_attempt(attempt, truth.starts[key], truth.codes.get(key), allowed)
        assert view.outcome == attempts[-1].outcome
        assert (view.state is State.SUCCEEDED) == (attempts[-1].outcome is Outcome.SUCCEEDED)
    return outcomes


def _check_attempt(attempt: AttemptView, starts: int, code: int | None, allowed: set[Outcome]) -> None:
    match attempt.outcome:
        case Outcome.SUCCEEDED | Outcome.EXIT:
            assert starts == 1
            assert attempt.exit_code == code
        case Outcome.TIMEOUT:  # on a busy machine perhaps before its first line
            assert code is None
        case Outcome.UNKNOWN | Outcome.SIGNAL | Outcome.INTERRUPTED if attempt.outcome in allowed:
            assert starts <= 1
        case Outcome.NOT_STARTED if attempt.outcome in allowed:
            assert starts == 0
        case _:
            raise AssertionError(f"no job of the load can end like this: {attempt}")
