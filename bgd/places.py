"""Places: where the configuration, the state, the logs and the socket of a daemon are unless it says so."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from bgd.errors import ConfigError


class Places(Struct, frozen=True, kw_only=True):
    config: str
    state_dir: str
    log_dir: str
    socket: str


SYSTEM = Places(
    config="/etc/bgd/bgd.toml",
    state_dir="/var/lib/bgd",
    log_dir="/var/log/bgd",
    socket="/run/bgd/bgd.sock",
)


def own_places(environ: Mapping[str, str]) -> Places:
    """Return the places of a daemon that runs for one user."""
    config_home = _base_folder(environ, "XDG_CONFIG_HOME", ".config")
    state_home = _base_folder(environ, "XDG_STATE_HOME", ".local/state")
    return Places(config=f"{config_home}/bgd/bgd.toml", **_inside(f"{state_home}/bgd"))


def places_in(state_dir: str, usual: Places) -> Places:
    """Return the places of a daemon whose state folder is a chosen one: its logs go along.

    So does a socket that is usually inside; the machine's stays where every user looks for it.
    """
    moved = replace(usual, **_inside(state_dir))
    is_socket_inside = usual.socket.startswith(f"{usual.state_dir}/")
    return moved if is_socket_inside else replace(moved, socket=usual.socket)


def in_the_way_of(folder: Path) -> str | None:
    """Say what is where a folder, or one above it, is to be; None: nothing is."""
    for path in (folder, *folder.parents):
        with suppress(PermissionError):  # what it is, is seen from above at most
            if path.is_dir():
                return None
            if path.is_file():
                return f"{path} is a file, and no folder: move it away"
            if path.exists():
                return f"{path} is no folder: move it away"
            if path.is_symlink():
                return f"{path} is a link that leads nowhere: remove it, or make the folder that it names"
    return None


def home_of(environ: Mapping[str, str]) -> str:
    """Return the home folder, which the database of users names where the environment does not.

    Raises:
        ConfigError: neither names one, as for the bare number of a user that containers run as.
    """
    if home := environ.get("HOME"):
        if not home.startswith("/"):  # each process would look for it from where it is
            raise ConfigError(f"HOME is {home!r}, and no absolute path: correct it")
        return home
    import pwd  # noqa: PLC0415 - clients start often, and hardly ever without HOME

    user = os.getuid()
    try:
        return pwd.getpwuid(user).pw_dir
    except KeyError:
        raise ConfigError(f"there is no HOME, and no user with the uid {user}: set HOME") from None


def _base_folder(environ: Mapping[str, str], variable: str, usual: str) -> str:
    folder = environ.get(variable, "")
    # the XDG base directory specification has relative paths ignored
    return folder if folder.startswith("/") else f"{home_of(environ).rstrip('/')}/{usual}"


def _inside(state_dir: str) -> dict[str, str]:
    return {"state_dir": state_dir, "log_dir": f"{state_dir}/logs", "socket": f"{state_dir}/bgd.sock"}
