"""A real daemon in a temporary folder, which ends with everything that it has started."""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from msgspec import Struct

from bgd.client.autostart import start_daemon
from bgd.client.blocking.client import Client
from bgd.client.blocking.concurrency import run, wait_ready
from bgd.client.connection import ClientSocket, process_descriptor
from bgd.client.options import Duration
from bgd.errors import DaemonUnreachable
from bgd.testing.inline import hide_frames

PATIENCE = 30.0  # seconds for the daemon's start, and for its end

Settings = Mapping[str, object]
"""Keys of the configuration and their values; a table is a mapping."""


class PrivateDaemon(Struct, frozen=True):
    """A daemon that runs for a test.

    Attributes:
        folder: its folder, with the configuration, database, logs and socket.
        config: its configuration file.
        socket: where it listens, as in $BGD_SOCKET.
    """

    folder: Path
    config: Path
    socket: Path

    def client(self, timeout: Duration = PATIENCE) -> Client:
        """Return a new client of this daemon."""
        return Client(str(self.socket), timeout=timeout)


@contextmanager
def private_daemon(
    *,
    allowed: Sequence[str] = (),
    path: Sequence[str | os.PathLike[str]] | None = None,
    settings: Settings | None = None,
) -> Iterator[PrivateDaemon]:
    """Run a private daemon during the block; at its end, end the daemon, its launcher and all jobs.

    During the block $BGD_SOCKET names the daemon, and other BGD_* variables are unset. So clients without a
    socket find this daemon: in all threads of this process, in programs that it starts and in the jobs.

    Args:
        allowed: `[security] allowed_classes`; if empty, class jobs are refused.
        path: `[python] path` of class jobs; None: the folders of sys.path that are not Python's own.
        settings: the rest of the configuration, such as {"daemon": {"slots": 2}, "retry": {"delay": "0s"}}.
            They override the defaults here: no dashboard, and a grace time of one second.

    Raises:
        ConfigError: the settings cannot be used.
        DaemonUnreachable: the daemon does not start. The message says why.
        TimeoutError: the daemon does not end.
    """
    with tempfile.TemporaryDirectory(prefix="bgd-") as name:  # short: a socket's path has 107 bytes
        folder = Path(name)
        daemon = PrivateDaemon(folder, folder / "bgd.toml", folder / "state/bgd.sock")
        usual = {
            "daemon": {"state_dir": str(folder / "state"), "grace": "1s"},
            "http": {"listen": ""},
            "security": {"allowed_classes": list(allowed)},
            "python": {"path": _importable() if path is None else _absolute(path)},
        }
        wanted = _in_toml(usual) | _in_toml(settings or {})
        daemon.config.write_text("".join(f"{key} = {value}\n" for key, value in wanted.items()))
        with _environment(daemon):
            _start(daemon)
            try:
                yield daemon
            finally:
                hide_frames()
                _end(daemon)


def _start(daemon: PrivateDaemon) -> None:
    own = ClientSocket(str(daemon.socket), is_own=True)
    start_daemon(str(daemon.config), own, time.monotonic() + PATIENCE)


def _end(daemon: PrivateDaemon) -> None:
    with daemon.client() as client:
        try:
            info = client.info()
        except DaemonUnreachable:  # the test killed it, which ended no job: a new daemon takes the jobs over
            _start(daemon)
            info = client.info()
        with process_descriptor(info.launcher_pid) as launcher:
            client.shutdown("cancel", timeout=PATIENCE)
            try:
                if launcher is not None:
                    run(wait_ready(launcher, time.monotonic() + PATIENCE))
            except TimeoutError:
                raise TimeoutError(
                    f"the launcher of a private daemon has not ended within {PATIENCE:g} s"
                ) from None


@contextmanager
def _environment(daemon: PrivateDaemon) -> Iterator[None]:
    """Let the environment name this daemon and no other."""
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
    """Return sys.path without Python's own folders, which a worker has too."""
    own = {os.path.realpath(each) for each in (sys.prefix, sys.base_prefix, sys.exec_prefix)}
    folders = dict.fromkeys(os.path.realpath(each) for each in sys.path)
    return [each for each in folders if Path(each).is_dir() and not any(_is_below(each, top) for top in own)]


def _is_below(folder: str, top: str) -> bool:
    return top != os.sep and Path(folder).is_relative_to(top)


def _in_toml(settings: Settings, table: str = "") -> dict[str, str]:
    """Return the values of settings by their dotted keys; TOML has values as in JSON."""
    found: dict[str, str] = {}
    for key, value in settings.items():
        name = f"{table}{json.dumps(key)}"
        found |= _in_toml(value, f"{name}.") if isinstance(value, Mapping) else {name: json.dumps(value)}
    return found
