"""Where files are: the folders and the socket of a daemon, and the program that a command names."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING

from msgspec import Struct
from msgspec.structs import replace

from bgd.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

MAX_SOCKET_PATH = 107  # bytes: sun_path of linux/un.h, less its NUL
OTHERS_BITS = 0o077  # permissions of group and others, which a private folder does not have
_WRITE_BITS = 0o022


class DaemonPaths(Struct, frozen=True, kw_only=True):
    """The paths that a daemon uses unless its configuration names others."""

    config: str
    state_dir: str
    log_dir: str
    socket: str


SYSTEM_PATHS = DaemonPaths(
    config="/etc/bgd/bgd.toml",
    state_dir="/var/lib/bgd",
    log_dir="/var/log/bgd",
    socket="/run/bgd/bgd.sock",
)


def user_paths(environ: Mapping[str, str]) -> DaemonPaths:
    """Return the paths of a daemon that runs for one user."""
    config_home = _base_folder(environ, "XDG_CONFIG_HOME", ".config")
    state_home = _base_folder(environ, "XDG_STATE_HOME", ".local/state")
    return DaemonPaths(config=f"{config_home}/bgd/bgd.toml", **_inside(f"{state_home}/bgd"))


def paths_in(state_dir: str, usual: DaemonPaths) -> DaemonPaths:
    """Return the paths of a daemon with this state folder instead of the usual one.

    The logs move along. So does the socket if it is usually in the state folder; the system daemon's socket
    stays where every user looks for it.
    """
    moved = replace(usual, **_inside(state_dir))
    is_socket_inside = usual.socket.startswith(f"{usual.state_dir}/")
    return moved if is_socket_inside else replace(moved, socket=usual.socket)


def _inside(state_dir: str) -> dict[str, str]:
    return {"state_dir": state_dir, "log_dir": f"{state_dir}/logs", "socket": f"{state_dir}/bgd.sock"}


def _base_folder(environ: Mapping[str, str], variable: str, usual: str) -> str:
    folder = environ.get(variable, "")
    # the XDG base directory specification says that relative paths are ignored
    return folder if folder.startswith("/") else f"{home_folder(environ).rstrip('/')}/{usual}"


def home_folder(environ: Mapping[str, str]) -> str:
    """Return $HOME, or the home folder in the user database if that is not set.

    Raises:
        ConfigError: neither names one, for example in a container that runs as a uid without a name.
    """
    if home := environ.get("HOME"):
        if not home.startswith("/"):  # each process would resolve it from its own working directory
            raise ConfigError(f"HOME is {home!r}, which is not an absolute path: correct it")
        return home
    import pwd  # noqa: PLC0415 - clients start often, and hardly ever without HOME

    user = os.getuid()
    try:
        return pwd.getpwuid(user).pw_dir
    except KeyError:
        raise ConfigError(f"HOME is not set, and no user has the uid {user}: set HOME") from None


def check_socket(path: str, remedy: str) -> None:
    """Refuse the path of a socket that the kernel does not take; `remedy` says what to do.

    Raises:
        ConfigError: it is too long.
    """
    length = len(os.fsencode(path))
    if length > MAX_SOCKET_PATH:
        raise ConfigError(
            f"the socket path {path} has {length} bytes, the kernel takes {MAX_SOCKET_PATH}: {remedy}"
        )


# --- Folders


_BGD_FILES = frozenset({"bgd.lock", "bgd.db"})  # a folder that holds these belongs to bgd
AUTOSTART_LOG = "bgd.log"  # what the daemon and its launcher log, if a client started the daemon
_AUTOSTART_FILES = frozenset({AUTOSTART_LOG, "autostart.lock"})  # written before bgd could refuse the folder
_MAX_LINKS = 40  # the kernel follows as many


_NAMES_ON_CLUSTER = ("bgd-", "probe-")


def make_private_folder(path: Path) -> None:
    """Make a state or log folder, and refuse a shared one before anything is written to it.

    Raises:
        ConfigError: the folder belongs to another user, another user could replace it, or others may read it
            and it holds files that are not bgd's.
    """
    _make_own_folder(path, "[daemon] state_dir", OTHERS_BITS, ())


def make_cluster_folder(path: Path) -> None:
    """Make the folder that the nodes of a cluster share, and refuse one that others may write to.

    Raises:
        ConfigError: the folder belongs to another user, another user could replace it or write to it.
    """
    _make_own_folder(path, "folder of the executor", _WRITE_BITS, _NAMES_ON_CLUSTER)


def _make_own_folder(path: Path, key: str, denied: int, names_of_own: tuple[str, ...]) -> None:
    """Make a folder; if others have a permission of `denied`, close it, or refuse it if it is shared."""
    _check_way_to(path, key)
    found = make_folder(path, key)
    mode = stat.S_IMODE(found.st_mode)
    if not mode & denied:
        return
    with os.scandir(path) as entries:
        owners = {each.name: each.stat(follow_symlinks=False).st_uid for each in entries}
    planted = sorted(name for name, uid in owners.items() if uid not in {0, os.geteuid()})
    foreign = sorted(
        name
        for name in owners.keys() - _AUTOSTART_FILES
        if not (name.isdecimal() or name.startswith(names_of_own))
    )
    is_own = found.st_uid == os.geteuid() and not mode & stat.S_ISVTX and not planted
    if not is_own or (foreign and not owners.keys() & _BGD_FILES):
        named = planted or foreign
        holds = f", and holds {named[0]!r}, which is not bgd's" if named else ""
        raise ConfigError(
            f"the folder {path} has mode {mode:04o}, so it is shared with others{holds}: "
            f"choose a folder of its own, see {key} (or close this one: chmod 700 {path})"
        )
    path.chmod(0o700)


def make_folder(path: Path, key: str = "[daemon] state_dir and socket") -> os.stat_result:
    """Make a folder with mode 0700, and its parents with 0755, whatever the umask.

    Raises:
        ConfigError: it cannot be made, or its path is not UTF-8, which SQLite and messages need.
    """
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise ConfigError(
            f"the path {str(path)!r} is not UTF-8: set HOME, or {key}, to one that is"
        ) from None
    try:
        for each in reversed([path, *path.parents]):
            with suppress(FileExistsError):
                if not each.exists():
                    each.mkdir(mode=0o700)
                    each.chmod(0o700 if each == path else 0o755)
        path.mkdir(mode=0o700, exist_ok=True)  # fails if something else has the name
        return path.stat()
    except OSError as error:
        obstacle = obstacle_at(path) or error.strerror
        home = os.environ.get("HOME", "")
        if home and str(path).startswith(f"{home}/") and not os.path.lexists(home):
            obstacle = f"the home folder {home} does not exist: set HOME to one that does"
        raise ConfigError(f"cannot make the folder {path}: {obstacle}; see {key}") from error


def obstacle_at(folder: Path) -> str | None:
    """Say what prevents a folder, or one above it, from being made; None if nothing stands in its place."""
    for path in (folder, *folder.parents):
        with suppress(PermissionError):  # then the folder above says more
            if path.is_dir():
                return None
            if path.is_file():
                return f"{path} is a file, not a folder: move it away"
            if path.exists():
                return f"{path} is not a folder: move it away"
            if path.is_symlink():
                return f"{path} is a dangling link: remove it, or make the folder that it names"
    return None


def lock_error(path: Path, error: OSError) -> ConfigError:
    """Return the error to raise if flock(2) fails for another reason than that the lock is held."""
    return ConfigError(
        f"cannot lock {path}: {error.strerror}: put [daemon] state_dir on a file system that has locks,"
        " such as a local disk, or start the network file system's lock service"
    )


def _check_way_to(path: Path, key: str) -> None:
    """Refuse a path with a link or folder of another user, which could redirect it."""
    from pathlib import Path  # noqa: PLC0415 - clients make no folders, and start often

    trusted = {0, os.geteuid(), Path("/").stat().st_uid}  # in a user namespace root may have another uid
    here, ahead, links = Path("/"), list(reversed(path.parts[1:])), 0
    while ahead and links <= _MAX_LINKS:
        name = ahead.pop()
        here = here.parent if name == ".." else here / name
        try:
            found = here.lstat()
            target = str(here.readlink()) if stat.S_ISLNK(found.st_mode) else None
        except OSError:  # the code that makes or opens the path reports what is wrong
            return
        if found.st_uid not in trusted:
            raise ConfigError(
                f"the {'folder' if target is None else 'link'} {here} belongs to uid {found.st_uid}, "
                f"not to the daemon's uid {os.geteuid()}: choose another {key}"
            )
        if target is not None:
            links += 1
            ahead += reversed([part for part in Path(target).parts if part != "/"])
            here = Path("/") if target.startswith("/") else here.parent
        elif ahead and found.st_mode & stat.S_IWOTH and not found.st_mode & stat.S_ISVTX:
            raise ConfigError(
                f"every user can replace files in the folder {here}: "
                f"chmod o-w {here}, or choose another {key}"
            )


# --- Programs


def find_program(name: str, env: Mapping[str, str], folder: str) -> str:
    """Return the file that execvp(3) would run for a process with this environment in this folder.

    A name with a slash is a path relative to the folder; any other name is searched for in PATH. Files that
    may not be executed and folders that may not be searched are skipped, and reported if nothing else is
    found.

    Raises:
        PermissionError: the file in `filename` may not be executed, or not even looked at.
        FileNotFoundError: there is no such file.
    """
    refused: str | None = None
    for entry in [""] if "/" in name else os.get_exec_path(env):
        path = os.path.join(folder, entry, name)  # noqa: PTH118  plain strings here
        try:
            is_file = stat.S_ISREG(os.stat(path).st_mode)  # noqa: PTH116
        except PermissionError:
            refused = refused or path
            continue
        except (OSError, ValueError):  # it does not exist; no file has a NUL in its name, or half a surrogate
            continue
        if is_file and os.access(path, os.X_OK):
            return path
        refused = refused or path
    if refused is not None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), refused)
    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name)
