"""Run a daemon in its own home for tests, run bgctl against it, and wait with a deadline."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pexpect  # type: ignore[import-untyped]  # it has no types

from bgd import Client
from bgd.errors import DaemonUnreachable
from tests import forking

ROOT = Path(__file__).parents[1]
SLOWNESS = float(os.environ.get("TESTS_SLOWNESS", "1"))  # more than 1 on an emulated machine
DEADLINE = 60.0 * SLOWNESS  # seconds; far more than anything takes, so that tests pass on a busy machine

WIDTH = 80  # columns of a terminal, by default
_OF_CALLER = ("BGD_", "XDG_", "CI", "FORCE_COLOR", "NO_COLOR")  # variables that change what bgd and bgctl do


class Home:
    """The home folder of a user, which holds only files of bgd.

    `prefix`: what is put before each command, for example to make it another user's.
    """

    prefix: tuple[str, ...] = ()

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.state_dir = folder / ".local/state/bgd"
        self.socket = self.state_dir / "bgd.sock"
        kept = {name: value for name, value in os.environ.items() if not name.startswith(_OF_CALLER)}
        self.env = kept | {"HOME": str(folder), "PYTHONPATH": str(ROOT), "TERM": "xterm", "LANG": "C.UTF-8"}
        self.env["BGD_HTTP_LISTEN"] = "127.0.0.1:0"  # any free port: another daemon may have the default one

    def configure(self, text: str) -> None:
        path = self.folder / ".config/bgd/bgd.toml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def bgctl(
        self, *arguments: str, env: dict[str, str] | None = None, cwd: Path | None = None, read: str = ""
    ) -> subprocess.CompletedProcess[str]:
        """Run bgctl to its end, with pipes for its streams and `read` as its stdin."""
        env, cwd = self.env | (env or {}), cwd or self.folder
        if not self.prefix and (done := forking.run(arguments, env, cwd, read, DEADLINE)) is not None:
            return done
        return self.execute(sys.executable, "-m", "bgctl", *arguments, env=env, cwd=cwd, read=read)

    def execute(
        self,
        *command: str,
        env: dict[str, str] | None = None,
        cwd: Path | None = None,
        read: str = "",
        timeout: float = DEADLINE,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command to its end as `bgctl` does."""
        return subprocess.run(
            [*self.prefix, *command],
            env=self.env | (env or {}),
            cwd=cwd or self.folder,
            input=read,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def submit(self, *arguments: str) -> str:
        """Queue a job with bgctl; return its id."""
        done = self.bgctl("submit", *arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def finished_job(self, *arguments: str) -> str:
        """Queue a job with bgctl and wait for its end; return its id."""
        return self.bgctl("submit", "--wait", *arguments).stdout.strip()

    def shown(self, job_id: str) -> dict[str, Any]:
        """Return what `bgctl show --json` prints about a job."""
        job: dict[str, Any] = json.loads(self.bgctl("show", "--json", job_id).stdout)
        return job

    def client(self, timeout: float = DEADLINE) -> Client:
        """Return a Client of this home's daemon; the client never starts one."""
        return Client(str(self.socket), timeout=timeout)

    def shut_down(self) -> None:
        """Stop the daemon if there is one, with its jobs and its launcher."""
        try:
            with self.client() as client:
                client.shutdown("cancel", timeout=DEADLINE)
        except DaemonUnreachable:
            pass


class Daemon(Home):
    """A home whose daemon is a child process of the test."""

    process: subprocess.Popen[bytes]  # once it has been started
    program = ("-m", "bgd")

    def start(self, *options: str) -> None:
        """Start the daemon and wait until it serves."""
        reading, writing = os.pipe()
        arguments = ["--ready-fd", str(writing), *options]
        with (self.folder / "bgd.log").open("ab") as log, Path(os.devnull).open("rb") as nothing:
            if self.program == ("-m", "bgd") and not self.prefix:
                streams = {0: nothing.fileno(), 1: log.fileno(), 2: log.fileno(), writing: writing}
                self.process = forking.start("bgd", arguments, self.env, str(self.folder), streams)
            else:
                self.process = subprocess.Popen(
                    [*self.prefix, sys.executable, "-P", *self.program, *arguments],
                    env=self.env,
                    cwd=self.folder,
                    stdin=nothing,
                    stdout=log,
                    stderr=log,
                    pass_fds=[writing],
                )
        os.close(writing)
        with os.fdopen(reading) as pipe:
            ready = select.poll()  # select takes no descriptor above 1023, and in-process daemons leave many
            ready.register(pipe, select.POLLIN)
            assert ready.poll(DEADLINE * 1000), "the daemon was not ready in time"
            assert pipe.readline() == "ready\n", (self.folder / "bgd.log").read_text()

    def stop(self) -> None:
        """Stop what runs, whether the test has started it here, or a client."""
        self.shut_down()
        if hasattr(self, "process"):
            self.process.wait(DEADLINE)


@contextmanager
def serving(
    configuration: str = "", files: Mapping[str, str] | None = None, env: Mapping[str, str] | None = None
) -> Iterator[Daemon]:
    """Run a daemon in a new home with these files; "{folder}" is replaced by the home's path in all texts.

    A file that starts with "#!" becomes a program. Without a configuration there is no configuration file.
    """
    with tempfile.TemporaryDirectory(prefix="bgd-") as folder:  # a short path, as sockets need
        running = Daemon(Path(folder))
        for name, text in (files or {}).items():
            path = running.folder / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(text.replace("{folder}", folder))
            if text.startswith("#!"):
                path.chmod(0o700)
        if configuration:
            running.configure(configuration.replace("{folder}", folder))
        running.env |= {name: text.replace("{folder}", folder) for name, text in (env or {}).items()}
        running.start()
        try:
            yield running
        finally:
            running.stop()


def seen(child: pexpect.spawn) -> str:
    """Wait for the end of a program; return what it wrote to its terminal since the last look."""
    child.expect(pexpect.EOF)
    child.wait()
    text = child.before
    assert isinstance(text, str)
    return text


def wait_until(condition: Callable[[], object]) -> None:
    """Return as soon as the condition holds; fail if that takes longer than the deadline.

    Use this only for events that nothing reports; wait for all others. A condition that starts programs is
    looked at less often, because it takes the processor from what it waits for.
    """
    deadline = time.monotonic() + DEADLINE
    began = time.monotonic()
    while not condition():
        now = time.monotonic()
        assert now < deadline, "the condition did not hold in time"
        select.select([], [], [], min(max(0.01, 3 * (now - began)), 0.2))
        began = time.monotonic()


def has_all_of(now: Any, then: Any) -> bool:
    """Tell whether decoded MessagePack holds everything that an older version held, and perhaps more."""
    if isinstance(then, dict):
        return isinstance(now, dict) and all(key in now and has_all_of(now[key], then[key]) for key in then)
    if isinstance(then, list):
        return isinstance(now, list) and len(now) >= len(then) and all(map(has_all_of, now, then))
    return type(now) is type(then) and bool(now == then)
