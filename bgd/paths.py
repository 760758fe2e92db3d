"""Paths: where the configuration, state, logs and socket of a daemon are by default."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from bgd.errors import ConfigError

OTHERS = 0o077  # what a private folder's mode does not have

_PROOFS = frozenset({"bgd.lock", "bgd.db"})  # one that holds these is bgd's
_LEFT_BY_AUTOSTART = frozenset({"bgd.log", "autostart.lock"})  # which may have come before bgd refused it
_MOST_LINKS = 40  # as the kernel follows


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


def make_private(path: Path) -> None:
    """Make a state or log folder and refuse one that is shared, before anything is written to it.

    Raises:
        ConfigError: it is another user's, or another user can put something else in its place; or others may
            read it and it holds files that are not bgd's.
    """
    _check_way_to(path)
    found = make_folder(path)
    mode = stat.S_IMODE(found.st_mode)
    if not mode & OTHERS:
        return
    names = set(os.listdir(path))  # noqa: PTH208 - names are what is judged
    foreign = sorted(name for name in names - _LEFT_BY_AUTOSTART if not name.isdecimal())
    if mode & stat.S_ISVTX or (foreign and not names & _PROOFS):
        holds = f", and holds {foreign[0]!r}, which is not bgd's" if foreign else ""
        raise ConfigError(
            f"the folder {path} has mode {mode:04o}, so it is shared with others{holds}: "
            f"choose a folder of its own, see [daemon] state_dir (or close this one: chmod 700 {path})"
        )
    path.chmod(0o700)


def make_folder(path: Path) -> os.stat_result:
    """Make a folder, 0700, and those above it, 0755, whatever the umask.

    Raises:
        ConfigError: it cannot be made, or its path is not UTF-8, which neither SQLite nor a message takes.
    """
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise ConfigError(
            f"the path {str(path)!r} is not UTF-8: set HOME, or [daemon] state_dir and socket, to one that is"
        ) from None
    try:
        for each in reversed([path, *path.parents]):
            with suppress(FileExistsError):
                if not each.exists():
                    each.mkdir(mode=0o700)
                    each.chmod(0o700 if each == path else 0o755)
        path.mkdir(mode=0o700, exist_ok=True)  # tells what is in the way
        return path.stat()
    except OSError as error:
        raise ConfigError(
            f"cannot make the folder {path}: {in_the_way_of(path) or error.strerror}; "
            "see [daemon] state_dir and socket"
        ) from error


def cannot_lock(path: Path, error: OSError) -> ConfigError:
    """Return what to say where flock(2) fails for another reason than that the lock is held."""
    return ConfigError(
        f"cannot lock {path}: {error.strerror}: put [daemon] state_dir on a file system that has locks,"
        " as local disks do, or start the network file system's lock service"
    )


def _check_way_to(path: Path) -> None:
    """Refuse a path on which a link or folder is another user's, who could lead it elsewhere."""
    trusted = {0, os.geteuid(), Path("/").stat().st_uid}  # in a user namespace root may have another uid
    here, ahead, links = Path("/"), list(reversed(path.parts[1:])), 0
    while ahead and links <= _MOST_LINKS:
        name = ahead.pop()
        here = here.parent if name == ".." else here / name
        try:
            found = here.lstat()
            target = str(here.readlink()) if stat.S_ISLNK(found.st_mode) else None
        except OSError:  # who makes or opens it says what is wrong
            return
        if found.st_uid not in trusted:
            raise ConfigError(
                f"the {'folder' if target is None else 'link'} {here} belongs to uid {found.st_uid}, "
                f"not to the daemon's uid {os.geteuid()}: choose another [daemon] state_dir"
            )
        if target is not None:
            links += 1
            ahead += reversed([part for part in Path(target).parts if part != "/"])
            here = Path("/") if target.startswith("/") else here.parent
        elif ahead and found.st_mode & stat.S_IWOTH and not found.st_mode & stat.S_ISVTX:
            raise ConfigError(
                f"every user can replace what is in the folder {here}: "
                f"chmod o-w {here}, or choose another [daemon] state_dir"
            )


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
