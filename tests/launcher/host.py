"""A real launcher process in a folder of its own, and a stand-in for the supervisor that connects to it."""

from __future__ import annotations

import itertools
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from bgd.launcher.cgroup import own_group
from bgd.wire.framing import FrameReader, frame
from bgd.wire.launching import (
    LAUNCHING_PROTOCOL,
    MAX_LAUNCHING_FRAME,
    Acknowledge,
    AttemptEnded,
    AttemptKey,
    AttemptStarted,
    FromLauncher,
    Greeting,
    Launch,
    Ready,
    ToLauncher,
    Welcome,
    decode_from_launcher,
    encode,
    log_name,
)
from tests import forking
from tests.support import DEADLINE, wait_until

SOURCE = Path(__file__).parents[2]
STORE = (
    f"store-{os.getpid()}"  # a launcher ends processes with its store's mark, so other test runs need another
)
PATIENCE = DEADLINE

needs_strace = pytest.mark.skipif(not shutil.which("strace"), reason="NOT RUN: watches or fails system calls")
OWN_GROUP = own_group()
needs_groups = pytest.mark.skipif(
    OWN_GROUP is None or not os.access(OWN_GROUP, os.W_OK), reason="NOT RUN: makes control groups (cgroup v2)"
)
needs_root = pytest.mark.skipif(os.getuid() != 0, reason="NOT RUN: becomes another user, which only root can")


_job_ids = itertools.count(1)


def is_alive(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat[stat.rindex(b")") + 2 :][:1] not in (b"Z", b"X")


def is_stopped(pid: int) -> bool:
    """Return whether a process was stopped by SIGSTOP; False if it is gone.

    A process whose child is between vfork and exec shows a D, as shells do for a moment before each program.
    It stops only once the child has gone on. If the child was stopped too, SIGSTOP stays pending.
    """
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    fields = {name: value.strip() for name, _, value in (line.partition(":") for line in status.splitlines())}
    return fields["State"][0] == "T" or bool(int(fields["ShdPnd"], 16) & 1 << signal.SIGSTOP - 1)


def written(path: Path, lines: int = 1) -> str:
    """Return the text of a file that a job writes, once it has this many lines."""
    wait_until(lambda: path.exists() and path.read_text().count("\n") >= lines)
    return path.read_text()


def open_files(host: Host) -> int:
    """Return how many descriptors the latest launcher has open."""
    return len(list(Path(f"/proc/{host.launchers[-1].pid}/fd").iterdir()))


@contextmanager
def without_descriptors(host: Host) -> Iterator[None]:
    """Let the latest launcher open no more descriptors meanwhile."""
    pid = host.launchers[-1].pid
    limits = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (3, limits[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)


def pids_in(words: str) -> list[int]:
    """Return the pids of all processes whose command line contains these words, separated by NUL."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if words.encode() in (process / "cmdline").read_bytes():
                found.append(int(process.name))
    return found


class Host:
    """The folders of one daemon, and the launchers started in them."""

    def __init__(self, folder: Path) -> None:
        self.state = folder
        self.logs = folder / "logs"
        self.launchers: list[subprocess.Popen[bytes]] = []
        self._supervisors: list[Supervisor] = []

    def start(
        self, *options: str, source: Path = SOURCE, module: str = "bgd.launcher", **popen: Any
    ) -> subprocess.Popen[bytes]:
        """Start a launcher by hand; its stderr goes to state/stderr."""
        folders = ["--state", str(self.state), "--logs", str(self.logs)]
        environment = {**os.environ, "PYTHONPATH": str(source)}
        with (self.state / "stderr").open("ab") as stderr:
            if source == SOURCE and module == "bgd.launcher" and popen.keys() <= {"pass_fds"}:
                streams = {0: 0, 1: 1, 2: stderr.fileno()} | {
                    each: each for each in popen.get("pass_fds", ())
                }
                launcher = forking.start(
                    module, [*folders, *options], environment, str(Path.cwd()), streams, new_session=True
                )
            else:
                launcher = subprocess.Popen(
                    [sys.executable, "-P", "-m", module, *folders, *options],
                    env=environment,
                    stderr=stderr,
                    start_new_session=True,
                    **popen,
                )
        self.launchers.append(launcher)
        return launcher

    def kill(self) -> None:
        """Kill the latest launcher, as a crash or the OOM killer would."""
        self.launchers[-1].send_signal(signal.SIGKILL)
        self.launchers[-1].wait(PATIENCE)

    def clear_up(self) -> None:
        """End everything that was started here, jobs too."""
        for supervisor in self._supervisors:
            supervisor.close()
        for launcher in self.launchers:
            if launcher.poll() is None:
                launcher.terminate()
        for launcher in self.launchers:
            launcher.wait(PATIENCE)

    @property
    def said(self) -> str:
        return (self.state / "stderr").read_text()

    @property
    def journal(self) -> Path:
        return self.state / "launcher.journal"

    def log(self, key: AttemptKey) -> Path:
        return self.logs / log_name(key.job, key.attempt)

    def output(self, key: AttemptKey) -> bytes:
        """Return what an attempt wrote; nothing if it has no log file."""
        path = self.log(key)
        return path.read_bytes() if path.exists() else b""

    def connect(self, path: str | None = None) -> Supervisor:
        supervisor = Supervisor(path or str(self.state / "launcher.sock"))
        self._supervisors.append(supervisor)
        return supervisor

    def supervise(self, generation: int = 1) -> Supervisor:
        supervisor = self.connect()
        supervisor.greet(generation)
        return supervisor


def launch_of(*argv: str, **options: Any) -> Launch:
    """Return a Launch of a new job."""
    defaults: dict[str, Any] = {"env": {"PATH": os.environ["PATH"]}, "cwd": "/"}
    return Launch(key=AttemptKey(STORE, next(_job_ids), 1), argv=list(argv), **{**defaults, **options})


class Supervisor:
    """Send what bgd would send. `hear` fails after PATIENCE, so no test waits forever."""

    def __init__(self, path: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(PATIENCE)
        self._frames = FrameReader(MAX_LAUNCHING_FRAME)
        self._heard: list[FromLauncher] = []
        self.usual: dict[str, Any] = {}  # options for every launch
        wait_until(lambda: self.socket.connect_ex(path) == 0)

    def say(self, *messages: ToLauncher) -> None:
        self.socket.sendall(b"".join(frame(encode(each), MAX_LAUNCHING_FRAME) for each in messages))

    def hear(self) -> FromLauncher | None:
        """Return the next message, None if the launcher has closed the connection."""
        while not self._heard:
            try:
                data = self.socket.recv(1 << 20)
            except ConnectionResetError:
                return None
            if not data:
                return None
            self._heard += [decode_from_launcher(payload) for payload in self._frames.feed(data)]
        return self._heard.pop(0)

    def greet(self, generation: int = 1, store: str = STORE) -> None:
        """Become the active supervisor; keep the welcome and the snapshot."""
        self.say_greeting(generation, store)
        self.be_welcomed()

    def say_greeting(self, generation: int = 1, store: str = STORE) -> None:
        """Greet, and read no answer."""
        self.say(Greeting(LAUNCHING_PROTOCOL, store, generation, newest=LAUNCHING_PROTOCOL))

    def be_welcomed(self) -> None:
        """Read the answer to a greeting."""
        welcome = self.hear()
        assert isinstance(welcome, Welcome), welcome
        self.welcome = welcome
        self.snapshot: dict[AttemptKey, AttemptStarted | AttemptEnded] = {}
        while not isinstance(message := self.hear(), Ready):
            assert isinstance(message, AttemptStarted | AttemptEnded), message
            self.snapshot[message.key] = message

    def launch(self, *argv: str, **options: Any) -> AttemptKey:
        """Launch an attempt of a new job."""
        self.say(request := launch_of(*argv, **{**self.usual, **options}))
        return request.key

    def started(self, key: AttemptKey) -> AttemptStarted:
        while not (isinstance(message := self.hear(), AttemptStarted) and message.key == key):
            assert message is not None, "the launcher hung up"
            assert not (isinstance(message, AttemptEnded) and message.key == key), message
        return message

    def all_started(self, keys: Sequence[AttemptKey]) -> list[AttemptStarted]:
        """Wait until these attempts have started, in any order."""
        found: dict[AttemptKey, AttemptStarted] = {}
        while not found.keys() >= set(keys):
            message = self.hear()
            assert message is not None, "the launcher hung up"
            assert not (isinstance(message, AttemptEnded) and message.key in keys), message
            if isinstance(message, AttemptStarted):
                found[message.key] = message
        return [found[key] for key in keys]

    def ended(self, key: AttemptKey) -> AttemptEnded:
        """Wait for the attempt's end, and acknowledge it."""
        while not (isinstance(message := self.hear(), AttemptEnded) and message.key == key):
            assert message is not None, "the launcher hung up"
        self.say(Acknowledge(key))
        return message

    def all_ended(self, keys: list[AttemptKey]) -> list[AttemptEnded]:
        """Wait for the ends of these attempts, in any order, and acknowledge them."""
        ends: dict[AttemptKey, AttemptEnded] = {}
        while not ends.keys() >= set(keys):
            message = self.hear()
            assert message is not None, "the launcher hung up"
            if isinstance(message, AttemptEnded):
                ends[message.key] = message
                self.say(Acknowledge(message.key))
        return [ends[key] for key in keys]

    def run(self, *argv: str, **options: Any) -> AttemptEnded:
        return self.ended(self.launch(*argv, **options))

    def shell(self, script: str, **options: Any) -> AttemptEnded:
        return self.run("/bin/sh", "-c", script, **options)

    def close(self) -> None:
        self.socket.close()
