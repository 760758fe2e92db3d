"""The stage of the demo: a folder, its daemon, and the commands typed there, shown with what they say."""
# ruff: noqa: INP001, T201 - beside a program to be run, and it speaks to people

from __future__ import annotations

import json
import os
import select
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple

EXAMPLES = Path(__file__).absolute().parent
SOURCES = EXAMPLES.parent / "bgd"
PATIENCE = 30.0  # seconds for anything that takes one or two on an idle machine

CONFIGURATION = """\
[daemon]
state_dir = "state"
slots = 1                 # so that it shows who comes first

[security]
allowed_classes = ["app.services.*"]

[python]
path = [{path}]
"""


class End(NamedTuple):
    """How a job has to end. `exit_code` None: not by an exit of its own."""

    state: str = "succeeded"
    outcome: str = "succeeded"
    exit_code: int | None = 0
    attempts: int = 1


SUCCEEDED = End()


class Stage:
    """The folder where it all happens, its daemon, and what is known of its jobs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.sources = folder / "source"
        self.configuration = folder / "bgd.toml"
        self.ends: dict[int, End] = {}  # that jobs have to come to
        self.results: dict[int, object] = {}  # that class jobs have to return
        self.order: list[int] = []  # in which jobs have to start
        self.problems: list[str] = []
        self._daemon: subprocess.Popen[bytes] | None = None
        self.launcher: int | None = None
        self._launcher_process: int | None = None  # its descriptor: a number may be given to another
        self._environment = {name: value for name, value in os.environ.items() if not name.startswith("BGD_")}
        self._environment["BGD_SOCKET"] = "state/bgd.sock"

    def prepare(self) -> None:
        """Put into the folder what the jobs work on: a copy of bgd's own sources."""
        shutil.copytree(SOURCES, self.sources, ignore=shutil.ignore_patterns("__pycache__"))
        self.configuration.write_text(CONFIGURATION.format(path=json.dumps(str(EXAMPLES))))
        os.mkfifo(self.folder / "gate")
        # for reading too: so a line written to it waits for its reader
        self._gate = os.open(self.folder / "gate", os.O_RDWR)

    # --- the daemon ---------------------------------------------------------------------------------------

    def start_daemon(self) -> None:
        """Start bgd in the background; returns when its socket answers."""
        print("\n$ bgd --config bgd.toml 2>>bgd.log &")
        reading, writing = os.pipe()
        with os.fdopen(reading) as pipe, (self.folder / "bgd.log").open("ab") as log:
            self._daemon = subprocess.Popen(
                [*_program("bgd"), "--config", "bgd.toml", "--ready-fd", str(writing)],
                cwd=self.folder,
                env=self._environment,
                stderr=log,
                pass_fds=[writing],
            )
            os.close(writing)
            if pipe.readline() != "ready\n":
                raise SystemExit(f"bgd did not start:\n{(self.folder / 'bgd.log').read_text()}")

    def remember_launcher(self) -> None:
        """Hold on to the launcher, to see in the end that it is gone; after the first job it is there."""
        self.launcher = self.ask("info")["launcher_pid"]
        self._launcher_process = os.pidfd_open(self.launcher)

    def kill_daemon(self) -> None:
        assert self._daemon is not None  # noqa: S101 - it has been started
        print(f"\n$ kill -9 {self._daemon.pid}  # bgd")
        self._daemon.kill()
        self._daemon.wait()

    def who_stays(self) -> list[str]:
        """Return who has not ended after a shutdown."""
        daemon_stays = self._daemon is not None and not ends(os.pidfd_open(self._daemon.pid), PATIENCE)
        launcher_stays = self._launcher_process is not None and not ends(self._launcher_process, PATIENCE)
        return ["daemon"] * daemon_stays + ["launcher"] * launcher_stays

    def clear(self) -> None:
        """End what is left if something went wrong: first who would start it again."""
        if self._daemon is not None:
            self._daemon.kill()
            self._daemon.wait()
        if self._launcher_process is not None and not ends(self._launcher_process, within=0):
            signal.pidfd_send_signal(self._launcher_process, signal.SIGTERM)  # it ends its jobs, then itself
            ends(self._launcher_process, within=PATIENCE)

    # --- its jobs -----------------------------------------------------------------------------------------

    def queue(self, *words: str, end: End = SUCCEEDED) -> int:
        """Submit a job that has to end in this way; return its id."""
        _say_command(words)
        job_id = int(self._bgctl(words, stdout=subprocess.PIPE).stdout)
        print(job_id)
        self.ends[job_id] = end
        return job_id

    def show(self, *words: str, code: int = 0) -> None:
        """Type a command; what it says goes where the demo's own words go."""
        _say_command(words)
        self._bgctl(words, code=code)
        if code:
            print(f"(exit code {code})")

    def ask(self, *words: str) -> Any:
        """Return what a command says to programs."""
        return json.loads(self._bgctl(("--json", *words), stdout=subprocess.PIPE).stdout)

    def wait_for(self, *job_ids: int) -> None:
        self.show("wait", *map(str, job_ids))

    def open_gate(self) -> None:
        """Let the job that reads from the gate go on."""
        print("\n$ echo open >gate")
        os.write(self._gate, b"open\n")

    @contextmanager
    def following(self, job_id: int, until: str) -> Iterator[None]:
        """Follow a job's output up to a line; in the end show what else came to who went on following."""
        words = ("logs", "-f", str(job_id))
        _say_command(words)
        follower = subprocess.Popen(
            [*_program("bgctl"), *words],
            cwd=self.folder,
            env=self._environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        with follower:
            assert follower.stdout is not None  # noqa: S101 - it is a pipe
            for line in follower.stdout:
                print(line, end="")
                if line.strip() == until:
                    break
            yield
            print(f"\nWhat `bgctl logs -f {job_id}`, which nobody started again, has shown since then:")
            print(follower.stdout.read(), end="")

    def _bgctl(
        self, words: tuple[str, ...], *, code: int = 0, stdout: int | IO[str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        sys.stdout.flush()
        done = subprocess.run(
            [*_program("bgctl"), *words],
            cwd=self.folder,
            env=self._environment,
            stdout=stdout,
            stderr=sys.stdout,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        if done.returncode != code:
            raise SystemExit(f"bgctl ended with exit code {done.returncode}, not {code}")
        return done


def headline(text: str) -> None:
    print(f"\n\n=== {text} ===")


def ends(process: int, within: float) -> bool:
    """Wait until the process of this descriptor has ended; False: it did not within so many seconds."""
    ended, _, _ = select.select([process], [], [], within)
    return bool(ended)


def parent_of(pid: int) -> int:
    # the name before it, in brackets, may hold anything
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def _say_command(words: tuple[str, ...]) -> None:
    print(f"\n$ {shlex.join(['bgctl', *words])}")


def _program(name: str) -> list[str]:
    # -P: modules come from where they were installed, not from the folder of the demo
    return [sys.executable, "-P", "-m", name]
