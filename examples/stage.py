"""The demo's folder and daemon, and the commands it types there, shown with their output."""
# ruff: noqa: INP001, T201 - part of a program that prints for people

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
PATIENCE = 30.0  # seconds; on an idle machine everything takes one or two

CONFIGURATION = """\
[daemon]
state_dir = "state"
slots = 1                 # to show the order of the jobs

[security]
allowed_classes = ["app.services.*"]

[python]
path = [{path}]
"""


class End(NamedTuple):
    """How a job should end. `exit_code` None: it does not exit by itself."""

    state: str = "succeeded"
    outcome: str = "succeeded"
    exit_code: int | None = 0
    attempts: int = 1


SUCCEEDED = End()


class Stage:
    """The folder of the demo, its daemon, and what its jobs should do."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.sources = folder / "source"
        self.configuration = folder / "bgd.toml"
        self.ends: dict[int, End] = {}  # how jobs should end
        self.results: dict[int, object] = {}  # what class jobs should return
        self.order: list[int] = []  # in which jobs should start
        self.problems: list[str] = []
        self._daemon: subprocess.Popen[bytes] | None = None
        self.launcher: int | None = None
        self._launcher_process: int | None = None  # its pidfd: a pid may be reused
        self._environment = {name: value for name, value in os.environ.items() if not name.startswith("BGD_")}
        self._environment["BGD_SOCKET"] = "state/bgd.sock"

    def prepare(self) -> None:
        """Copy bgd's own sources to the folder, for the jobs to work on."""
        shutil.copytree(SOURCES, self.sources, ignore=shutil.ignore_patterns("__pycache__"))
        self.configuration.write_text(CONFIGURATION.format(path=json.dumps(str(EXAMPLES))))
        os.mkfifo(self.folder / "gate")
        # also open for reading, so that a line written to it waits for a reader
        self._gate = os.open(self.folder / "gate", os.O_RDWR)

    # --- the daemon ---------------------------------------------------------------------------------------

    def start_daemon(self) -> None:
        """Start bgd in the background; return when its socket answers."""
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
        """Keep a pidfd of the launcher, to check at the end that it is gone. The first job has started it."""
        self.launcher = self.ask("info")["launcher_pid"]
        self._launcher_process = os.pidfd_open(self.launcher)

    def kill_daemon(self) -> None:
        assert self._daemon is not None  # noqa: S101 - it has been started
        print(f"\n$ kill -9 {self._daemon.pid}  # bgd")
        self._daemon.kill()
        self._daemon.wait()

    def who_stays(self) -> list[str]:
        """Return which processes have not ended after a shutdown."""
        daemon_stays = self._daemon is not None and not ends(os.pidfd_open(self._daemon.pid), PATIENCE)
        launcher_stays = self._launcher_process is not None and not ends(self._launcher_process, PATIENCE)
        return ["daemon"] * daemon_stays + ["launcher"] * launcher_stays

    def clear(self) -> None:
        """End what is left after an error: the daemon first, because it would start the launcher again."""
        if self._daemon is not None:
            self._daemon.kill()
            self._daemon.wait()
        if self._launcher_process is not None and not ends(self._launcher_process, within=0):
            signal.pidfd_send_signal(self._launcher_process, signal.SIGTERM)  # it ends its jobs, then itself
            ends(self._launcher_process, within=PATIENCE)

    # --- its jobs -----------------------------------------------------------------------------------------

    def queue(self, *words: str, end: End = SUCCEEDED) -> int:
        """Submit a job that should end in this way; return its id."""
        _say_command(words)
        job_id = int(self._bgctl(words, stdout=subprocess.PIPE).stdout)
        print(job_id)
        self.ends[job_id] = end
        return job_id

    def show(self, *words: str, code: int = 0) -> None:
        """Run a command and show its output."""
        _say_command(words)
        self._bgctl(words, code=code)
        if code:
            print(f"(exit code {code})")

    def ask(self, *words: str) -> Any:
        """Return the JSON output of a command."""
        return json.loads(self._bgctl(("--json", *words), stdout=subprocess.PIPE).stdout)

    def wait_for(self, *job_ids: int) -> None:
        self.show("wait", *map(str, job_ids))

    def open_gate(self) -> None:
        """Write a line for the job that reads from the gate."""
        print("\n$ echo open >gate")
        os.write(self._gate, b"open\n")

    @contextmanager
    def following(self, job_id: int, until: str) -> Iterator[None]:
        """Follow a job's output up to a line; at the end show the rest of what the same follower got."""
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
            print(f"\nWhat `bgctl logs -f {job_id}`, has shown since then, without being restarted:")
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
    """Wait until the process of this pidfd has ended; return False if it did not within these seconds."""
    ended, _, _ = select.select([process], [], [], within)
    return bool(ended)


def parent_of(pid: int) -> int:
    # the name in brackets before it may contain anything
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def _say_command(words: tuple[str, ...]) -> None:
    print(f"\n$ {shlex.join(['bgctl', *words])}")


def _program(name: str) -> list[str]:
    # -P: import installed modules, not those in the folder of the demo
    return [sys.executable, "-P", "-m", name]
