"""Starts the caller's own daemon when none answers."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import BinaryIO

import bgd.settings.config
from bgd.client.blocking import concurrency
from bgd.client.connection import ClientSocket, Connection
from bgd.client.inherited import public_environment
from bgd.errors import DaemonUnreachable
from bgd.settings.paths import AUTOSTART_LOG, lock_error, make_private_folder, obstacle_at

LOCK_NAME = "autostart.lock"
_MAX_STATUS = 4096  # bytes that a daemon writes to the pipe: PIPE_BUF, so they arrive in one piece


def start_daemon(config: str | None, own: ClientSocket, deadline: float) -> tuple[int, str] | None:
    """Start the caller's own daemon and wait until it serves; None: another program has started one.

    Returns its pid and its log file.

    Args:
        config: the configuration file, None: the usual one.
        own: the socket of the caller's own daemon.
        deadline: on the monotonic clock.

    Raises:
        DaemonUnreachable: the daemon does not start. The message says why.
        ConfigError: the configuration cannot be used, or its state_dir, which is then left as it is.
    """
    state_dir = Path(bgd.settings.config.load(config).daemon.state_dir)
    is_up = partial(_answers, own, deadline)
    try:
        make_private_folder(state_dir)
        with _locked(state_dir / LOCK_NAME, deadline):
            # after a wait for the lock, its last holder has started a daemon
            return None if is_up() else _start(config, state_dir / AUTOSTART_LOG, is_up, deadline)
    except OSError as error:
        reason = obstacle_at(state_dir) or error.strerror
        raise DaemonUnreachable(f"no daemon could be started for you in {state_dir}: {reason}") from error


def _start(
    config: str | None, log: Path, is_up: Callable[[], bool], deadline: float
) -> tuple[int, str] | None:
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb", buffering=0) as pipe:
        try:
            process = _spawn(config, log, writing)
        finally:
            os.close(writing)
        status = _read_status(pipe.fileno(), deadline)
    # this thread reaps the daemon if it ends before this program
    threading.Thread(target=process.wait, name="bgd reaper", daemon=True).start()
    if status == "ready":
        return process.pid, str(log)
    if is_up():  # someone else won the race
        return None
    raise DaemonUnreachable(f"the daemon started for you ended ({status or 'without a message'}): see {log}")


def _answers(own: ClientSocket, deadline: float) -> bool:
    try:
        connection = concurrency.run(Connection.open(own, deadline, concurrency))
        concurrency.run(connection.close())
    except OSError:
        return False
    return True


def _spawn(config: str | None, log: Path, ready_fd: int) -> subprocess.Popen[bytes]:
    # -P: do not import modules from the folder where it starts
    command = [sys.executable, "-P", "-m", "bgd", "--autostarted", "--ready-fd", str(ready_fd)]
    if named := config or os.environ.get("BGD_CONFIG"):
        command += ["--config", str(Path(named).absolute())]  # the daemon starts in another folder
    with _appending(log) as output:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd=log.parent,  # it outlives the caller and must not keep a file system of the caller's busy
            env={name: value for name, value in public_environment().items() if not _is_of_job(name)},
            pass_fds=[ready_fd],
            start_new_session=True,
        )


def _read_status(pipe: int, deadline: float) -> str:
    """Return what the new daemon writes: "ready", or why it is not; empty if it ended silently."""
    try:
        concurrency.run(concurrency.wait_ready(pipe, deadline))
    except TimeoutError:
        return "not ready in time"
    return os.read(pipe, _MAX_STATUS).decode(errors="replace").strip()


@contextmanager
def _locked(path: Path, deadline: float) -> Iterator[None]:
    """Let one caller at a time start a daemon. The lock is released when its holder dies.

    Raises:
        DaemonUnreachable: another program held it until the deadline.
        ConfigError: its file system has no locks.
    """
    with _appending(path) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _wait_for_lock(path, file.fileno(), deadline)
        except OSError as error:
            raise lock_error(path, error) from error
        yield


def _wait_for_lock(path: Path, fd: int, deadline: float) -> None:
    # flock has no timeout, so a thread waits, with a descriptor that stays open after the caller gives up
    waiting = threading.Thread(target=_lock_and_close, args=[os.dup(fd)], name="bgd autostart", daemon=True)
    waiting.start()
    waiting.join(max(0.0, deadline - time.monotonic()))
    if waiting.is_alive():
        raise DaemonUnreachable(
            f"another program holds {path} to start a daemon and did not finish in time: try again"
        )


def _lock_and_close(fd: int) -> None:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)  # locks the open file, which the caller's descriptor shares
    finally:
        os.close(fd)


def _appending(path: Path) -> BinaryIO:
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, 0o600), "ab")


def _is_of_job(name: str) -> bool:
    return name in _JOB_VARIABLES or name.startswith("BGD_RESOURCE_")


# variables that tell a job about itself; a daemon started from inside a job is not part of that job
_JOB_VARIABLES = frozenset(
    {
        "BGD_RUN",
        "BGD_JOB_ID",
        "BGD_ATTEMPT",
        "BGD_QUEUE",
        "BGD_SLOT",
        "BGD_SOCKET",
        "BGD_RESULT_FD",
        "BGD_ON_NODE_OF",
    }
)
