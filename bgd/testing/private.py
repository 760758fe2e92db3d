"""A private daemon: a real one in a folder of its own, that goes with all it has started."""

from __future__ import annotations

import errno
import json
import os
import select
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from msgspec import Struct

from bgd.client.autostart import start_daemon
from bgd.client.blocking import Client
from bgd.config import ClientSocket
from bgd.errors import DaemonUnreachable

PATIENCE = 30.0  # seconds for its start, and for its end

# what pidfd_open says of a number that is nobody's; on some kernels, of a process being reaped (EINVAL);
# and of a thread that has the number by now (EINVAL or ENOENT)
_NO_PROCESS = {errno.ESRCH, errno.EINVAL, errno.ENOENT}

Settings = Mapping[str, object]
"""Keys of the configuration with their values, tables with further ones."""


class PrivateDaemon(Struct, frozen=True):
    """A daemon that runs for a test.

    Attributes:
        folder: its own; the configuration is in it, and the state with database, logs and socket.
        config: its configuration file.
        socket: where it listens; $BGD_SOCKET says so as well.
    """

    folder: Path
    config: Path
    socket: Path

    def client(self, timeout: float = PATIENCE) -> Client:
        """Return a new client of it."""
        return Client(str(self.socket), timeout=timeout)


@contextmanager
def private_daemon(
    *,
    allowed: Sequence[str] = (),
    path: Sequence[str | os.PathLike[str]] | None = None,
    settings: Settings | None = None,
) -> Iterator[PrivateDaemon]:
    """Run a daemon of its own for the block, and end it then with its launcher and all jobs.

    Meanwhile $BGD_SOCKET names it, so whoever names no daemon finds this one: in all threads of this process,
    in programs that it starts and in the jobs. Other variables of bgd are put away.

    Args:
        allowed: `[security] allowed_classes`; nothing listed: class jobs are refused.
        path: `[python] path` of class jobs; None: what can be imported here and does not belong to Python.
        settings: the rest of the configuration, as {"daemon": {"slots": 2}, "retry": {"delay": "0s"}}; they
            come before what is usual here: no pages, and one second for jobs to end.

    Raises:
        ConfigError: the settings cannot be used.
        DaemonUnreachable: it does not start; the message says why.
        TimeoutError: it does not end.
    """
    with tempfile.TemporaryDirectory(prefix="bgd-") as name:  # short: the path of a socket has 107 bytes
        folder = Path(name)
        daemon = PrivateDaemon(folder, folder / "bgd.toml", folder / "state/bgd.sock")
        usual = {
            "daemon": {"state_dir": str(folder / "state"), "grace": "1s"},
            "http": {"listen": ""},
            "security": {"allowed_classes": list(allowed)},
            "python": {"path": _importable() if path is None else _absolute(path)},
        }
        daemon.config.write_text(_toml(_merged(usual, settings or {})))
        with _environment(daemon):
            _start(daemon)
            try:
                yield daemon
            finally:
                _end(daemon)


def _start(daemon: PrivateDaemon) -> None:
    own = ClientSocket(str(daemon.socket), is_own=True)
    start_daemon(str(daemon.config), own, time.monotonic() + PATIENCE)


def _end(daemon: PrivateDaemon) -> None:
    with daemon.client() as client:
        try:
            info = client.info()
        except DaemonUnreachable:  # the test has killed it, which ended no job
            _start(daemon)
            info = client.info()
        with _watched(info.launcher_pid) as launcher:
            client.shutdown("cancel", timeout=PATIENCE)
            if launcher is not None and not select.select([launcher], [], [], PATIENCE)[0]:
                raise TimeoutError(f"the launcher of a private daemon has not ended within {PATIENCE:g} s")


@contextmanager
def _watched(pid: int | None) -> Iterator[int | None]:
    """Give a descriptor that can be read when the process is gone, None if there is no process."""
    try:
        descriptor = None if pid is None else os.pidfd_open(pid)
    except OSError as error:
        if error.errno not in _NO_PROCESS:
            raise
        descriptor = None
    try:
        yield descriptor
    finally:
        if descriptor is not None:
            os.close(descriptor)


@contextmanager
def _environment(daemon: PrivateDaemon) -> Iterator[None]:
    """Have the environment name this daemon and no other."""
    before = {name: value for name, value in os.environ.items() if name.startswith("BGD_")}
    for name in before:
        del os.environ[name]
    os.environ["BGD_SOCKET"] = str(daemon.socket)
    try:
        yield
    finally:
        del os.environ["BGD_SOCKET"]
        os.environ.update(before)


def _absolute(path: Sequence[str | os.PathLike[str]]) -> list[str]:
    return [str(Path(each).absolute()) for each in path]


def _importable() -> list[str]:
    """Return what there is on sys.path but Python's own folders, which a worker has too."""
    own = {os.path.realpath(each) for each in (sys.prefix, sys.base_prefix, sys.exec_prefix)}
    folders = dict.fromkeys(os.path.realpath(each) for each in sys.path)
    return [each for each in folders if Path(each).is_dir() and not any(_is_below(each, top) for top in own)]


def _is_below(folder: str, top: str) -> bool:
    return top != os.sep and Path(folder).is_relative_to(top)


def _merged(usual: Settings, settings: Settings) -> dict[str, object]:
    merged = dict(usual)
    for key, value in settings.items():
        below = merged.get(key)
        if isinstance(value, Mapping) and isinstance(below, Mapping):
            merged[key] = _merged(below, value)
        else:
            merged[key] = value
    return merged


def _toml(settings: Settings, table: str = "") -> str:
    """Return settings as a configuration is written: JSON's texts, numbers and lists are TOML's too."""
    plain = {key: value for key, value in settings.items() if not isinstance(value, Mapping)}
    lines = [f"[{table}]\n"] if table and plain else []
    lines += [f"{json.dumps(key)} = {json.dumps(value)}\n" for key, value in plain.items()]
    for key, value in settings.items():
        if isinstance(value, Mapping):
            name = json.dumps(key)
            lines.append(_toml(value, f"{table}.{name}" if table else name))
    return "".join(lines)
