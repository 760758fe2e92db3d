"""Doctor: what of the installation, the machine and the database is not as it should be, and what to do."""

from __future__ import annotations

import ctypes
import os
import resource
import shutil
import sqlite3
import stat
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import msgspec
from msgspec.structs import replace

from bgd.config import Config
from bgd.core.job import ballast_on
from bgd.daemon.backups import backups_in
from bgd.daemon.dispatch import missing_installation
from bgd.daemon.space import BALLAST_NAME, least_on
from bgd.daemon.storage.database import StoreBroken
from bgd.daemon.storage.recovery import check_database, newest_good
from bgd.daemon.storage.schema import VERSION
from bgd.errors import BgdError
from bgd.escape import as_utf8
from bgd.paths import obstacle_at
from bgd.startup import check_system_calls, file_size_limit
from bgd.units import format_duration, format_size
from bgd.wire.views import Finding, Level

# --- The machine: what of it a daemon would trip over, and what to do about each.


_NETWORK = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "9p", "afs", "ceph", "glusterfs", "lustre", "fuse.sshfs"}
)
_PASSING = frozenset({"tmpfs", "ramfs", "overlay"})  # gone with the machine, or with the container
_CARELESS = frozenset({"nobarrier", "barrier=0"})  # mount options under which a sync is none
_FEW_FILES = 1024
_EARLIEST = 1_735_689_600.0  # 2025: a clock before that was never set
_MEMORY_LEFT = 256  # bytes, more than struct timex has on any machine
_UNSYNCHRONIZED = 5  # TIME_ERROR of adjtimex(2)
_FIXED = (3, 51, 3)
_BACKPORTS: dict[tuple[int, ...], int] = {(3, 44): 6, (3, 50): 7}  # the patch since which a line has the fix


def sqlite_is_fixed(version: tuple[int, ...]) -> bool:
    """Tell whether this SQLite is free of the bug by which two connections that write can lose commits."""
    return version >= _FIXED or version[2:] >= (_BACKPORTS.get(version[:2], 1 << 30),)


def sqlite() -> Finding:
    version = sqlite3.sqlite_version
    if sqlite_is_fixed(sqlite3.sqlite_version_info):
        return Finding("SQLite", Level.OK, version)
    return Finding(
        "SQLite",
        Level.NOTE,
        f"{version} can lose what two connections write at once (WAL reset bug); bgd writes with one",
        "let no other program write to bgd.db, and update SQLite to 3.51.3, 3.50.7 or 3.44.6 when you can",
    )


def file_system(folder: str) -> Finding:
    subject = "file system"
    kind, options = _mount_of(folder)
    if kind in _NETWORK:
        return Finding(
            subject,
            Level.PROBLEM,
            f"{folder} is on {kind}, a network file system: its locks and syncs do not keep a database safe",
            "put [daemon] state_dir on a local disk",
        )
    if kind in _PASSING:
        return Finding(
            subject,
            Level.WARNING,
            f"{folder} is on {kind}: the jobs are gone with the machine or the container",
            "put [daemon] state_dir on a disk, or a volume, if they are to last",
        )
    careless = sorted(_CARELESS & set(options.split(",")))
    if careless:
        return Finding(
            subject,
            Level.WARNING,
            f"{folder} is mounted with {careless[0]}: what is answered may be lost when the power fails",
            f"mount it without {careless[0]}, unless the disk's cache has a battery",
        )
    return Finding(subject, Level.OK, f"{kind}, local")


def _mount_of(folder: str) -> tuple[str, str]:
    """Return type and options of the file system that a folder, or what there is of its path, is on."""
    path = Path(folder)
    while not path.exists():
        path = path.parent
    device = path.stat().st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    found = ("unknown", "")
    for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace").splitlines():
        about, _, of_kind = line.partition(" - ")
        words = about.split()
        if words[2] == wanted:
            kind, _, options = of_kind.split(" ", 2)
            found = (kind, f"{words[5]},{options}")
    return found


def open_files(slots: int) -> Finding:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = max(_FEW_FILES, 8 * slots)
    if 0 <= soft < needed:
        return Finding(
            "open files",
            Level.WARNING,
            f"{soft} may be open at once, and {slots} slots with their clients may need {needed}",
            f"ulimit -n {needed} before bgd starts, or LimitNOFILE={needed} in its unit (hard limit: {hard})",
        )
    return Finding("open files", Level.OK, f"up to {soft}")


def system_calls() -> Finding:
    try:
        check_system_calls()
    except BgdError as error:
        return Finding("system calls", Level.PROBLEM, str(error), "bgd does not start without it")
    return Finding("system calls", Level.OK, "all that jobs need")


def file_size() -> Finding:
    limit = file_size_limit()
    if limit is not None:
        return Finding(
            "file size",
            Level.PROBLEM,
            f"no file may be larger than {format_size(limit)}: the database will fail there",
            "ulimit -f unlimited before bgd is started, or LimitFSIZE=infinity in its unit",
        )
    return Finding("file size", Level.OK, "unlimited")


def control_groups() -> Finding:
    subject = "control groups"
    own = [line[3:] for line in _lines("/proc/self/cgroup") if line.startswith("0::")]
    roots = [
        root for root in ("/sys/fs/cgroup", "/sys/fs/cgroup/unified") if Path(root, "cgroup.procs").exists()
    ]
    if not own or not roots:
        return Finding(subject, Level.NOTE, "no version 2 here", "limits on memory and processors need it")
    folder = f"{roots[0]}{own[0].rstrip('/')}"
    controllers = " ".join(_lines(f"{folder}/cgroup.controllers")).split()
    missing = [each for each in ("memory", "cpu", "pids") if each not in controllers]
    if not os.access(folder, os.W_OK):
        return Finding(
            subject,
            Level.NOTE,
            f"{folder} is not bgd's to divide",
            "Delegate=yes in the unit of the launcher, as bgd's own units have it",
        )
    if missing:
        return Finding(
            subject,
            Level.NOTE,
            f"{', '.join(missing)} cannot be limited in {folder}",
            "Delegate=cpu memory pids in the unit, and version 2 for these controllers",
        )
    return Finding(subject, Level.OK, f"{folder} is delegated, with {', '.join(controllers)}")


def clock() -> Finding:
    if time.time() < _EARLIEST:
        return Finding(
            "clock", Level.PROBLEM, "it was never set", "set it: dates, retention and backups go by it"
        )
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.adjtimex(ctypes.create_string_buffer(_MEMORY_LEFT)) == _UNSYNCHRONIZED:
        return Finding(
            "clock",
            Level.NOTE,
            "nothing here keeps it right, as far as the kernel knows",
            "run chrony or systemd-timesyncd (a guest may leave it to its host)",
        )
    return Finding("clock", Level.OK, "kept right")


def user() -> Finding:
    if os.geteuid() == 0:
        return Finding(
            "user",
            Level.WARNING,
            "bgd runs as root, and so does every job",
            "run it as a user of its own, as the units of make install do",
        )
    return Finding("user", Level.OK, f"uid {os.geteuid()}")


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text(encoding="utf-8").splitlines()
    except OSError:
        return []


# --- Safekeeping: whether the database and its backups are such that the next start finds all jobs.


PATIENCE = 10.0  # seconds for the database, and as many for the backups: whoever asks waits
_BACKUPS_LATE = 2.5  # times the interval


def database(config: Config, patience: float = PATIENCE) -> Finding:
    """Return what is found of the database, with or without a daemon that has it open."""
    subject = "database"
    path = f"{config.daemon.state_dir}/bgd.db"
    try:
        found = check_database(path, patience)
    except FileNotFoundError:
        remedy = "the first start makes it"
        if backups_in(config.backup.folder):
            remedy += "; if there was one, `bgd --recover` puts the newest backup in its place"
        return Finding(subject, Level.NOTE, f"{path} is not there", remedy)
    except PermissionError:
        return Finding(subject, Level.PROBLEM, f"{path} may not be read", "ask as the user of the daemon")
    except StoreBroken as error:
        return Finding(subject, Level.PROBLEM, error.problem, error.remedy or "see the daemon's log")
    version = f"version {found.version} of its tables"
    if not found.is_whole:
        return Finding(
            subject,
            Level.NOTE,
            f"{path}: {version}, no damage found in {patience:g} s, which was too short for all of it",
            "`bgctl backup FILE` writes a copy that is checked to its end",
        )
    if found.version < VERSION:
        return Finding(
            subject,
            Level.NOTE,
            f"{path} is sound, and of an earlier bgd ({version}, this bgd makes {VERSION})",
            "the next start upgrades it; earlier releases do not read it any more then",
        )
    return Finding(subject, Level.OK, f"{path} is sound, {version}")


def backups(config: Config, patience: float = PATIENCE) -> Finding:
    """Return what is found of the backups, of which the newest are checked as `bgd --recover` does."""
    subject = "backups"
    every = config.backup.every
    if every is None:
        return Finding(subject, Level.NOTE, "none are written", "set [backup] every, or use bgctl backup")
    if (problem := _obstacle_to(config.backup.folder)) is not None:
        return Finding(subject, Level.PROBLEM, f"none can be written: {problem}", "see [backup] folder")
    paths = backups_in(config.backup.folder)
    if not paths:
        return Finding(
            subject, Level.NOTE, f"none yet in {config.backup.folder}", "bgctl backup FILE writes one"
        )
    return _checked(paths, every, patience)


def _obstacle_to(folder: str) -> str | None:
    """Return why nothing can be written to a folder, which is made when it is needed; None: it can."""
    if (in_the_way := obstacle_at(Path(folder))) is not None:
        return in_the_way
    there = folder
    while not os.path.exists(there):  # noqa: PTH110 - Path.exists raises where one may not look
        there = str(Path(there).parent)
    if not os.access(there, os.R_OK | os.W_OK | os.X_OK):
        return f"{there} may not be written to"
    return None


def _checked(paths: list[str], every: float, patience: float) -> Finding:
    subject = "backups"
    try:
        good, problems = newest_good(paths, patience)
    except TimeoutError:
        return Finding(
            subject,
            Level.NOTE,
            f"{_number_and_age(paths, paths[0])}; it could not be checked to its end in {patience:g} s",
            "nothing is to be done: it was checked when it was written, and bgd --recover does so again",
        )
    if good is None:
        return Finding(
            subject, Level.PROBLEM, f"none is good: {problems[0]}", f"delete it; {_WRITE_ONE} meanwhile"
        )
    if problems:
        return Finding(
            subject,
            Level.WARNING,
            f"{_number_and_age(paths, good.path)} of the good ones: {problems[0]}",
            f"delete what is damaged (bgd --recover passes it over); {_WRITE_ONE} meanwhile",
        )
    found = _number_and_age(paths, good.path)
    if _age_of(good.path) > _BACKUPS_LATE * every:
        return Finding(subject, Level.WARNING, found, "the daemon's log says why, if it has run meanwhile")
    return Finding(subject, Level.OK, f"{found} and sound")


def _number_and_age(paths: list[str], newest: str) -> str:
    return f"{len(paths)}, the newest {format_duration(_age_of(newest) // 60 * 60)} old"


def _age_of(path: str) -> float:
    return max(time.time() - Path(path).stat().st_mtime, 0)  # if the clock was not set back since


_WRITE_ONE = "`bgctl backup FILE` writes one"


# --- Checkup: what of the installation is not as it should be, and what to do about each finding.


def look(config: Config) -> list[Finding]:
    """Look at all that can be seen without a daemon; it reads files, the database and a backup among them.

    That takes some milliseconds, or twice `safekeeping.PATIENCE` where they are very large.
    """
    checks: list[Callable[[], Finding]] = [
        sqlite,
        partial(file_system, config.daemon.state_dir),
        partial(_room, config.daemon.state_dir, config.daemon.min_free),
        partial(_room_of_logs, config.log_dir, config.daemon.state_dir),
        partial(_private, "state folder", config.daemon.state_dir),
        partial(_private, "log folder", config.log_dir),
        partial(_configuration, config.source),
        partial(_socket, config.daemon.socket),
        partial(open_files, config.daemon.slots),
        file_size,
        system_calls,
        control_groups,
        clock,
        user,
        partial(_interpreter, config),
        partial(database, config),
        partial(backups, config),
    ]
    return [_looked(check) for check in checks]


def _looked(check: Callable[[], Finding]) -> Finding:
    try:
        return check()
    except OSError as error:  # a folder with the wrong mode is what people call a doctor for
        return Finding(
            "access",
            Level.PROBLEM,
            f"{error.filename} cannot be looked at: {error.strerror}",
            "give it to the user who runs bgd, as a folder of mode 700",
        )


def look_as_json(config: Config) -> str:
    """Return the findings for another program of bgd."""
    return msgspec.json.encode(
        [replace(each, message=as_utf8(each.message)) for each in look(config)]
    ).decode()


def _room(folder: str, floor: int | None) -> Finding:
    path = _existing(folder)
    disk = os.statvfs(path)
    if _lacks_inodes(disk):
        return _no_inodes("disk", folder)
    free = disk.f_bavail * disk.f_frsize
    size = disk.f_blocks * disk.f_frsize
    least = least_on(size, floor)
    if not os.access(Path(folder, BALLAST_NAME), os.F_OK):
        least += ballast_on(size)  # it is put back before a new job is taken
    if free < least:
        return Finding(
            "disk",
            Level.PROBLEM,
            f"{folder} has {format_size(free)} free, less than the {format_size(least)} that "
            "[daemon] min_free and the ballast keep: new jobs are refused",
            "make room there, as by bgctl prune",
        )
    return Finding("disk", Level.OK, f"{format_size(free)} free")


def _room_of_logs(folder: str, state_dir: str) -> Finding:
    path = _existing(folder)
    disk = os.statvfs(path)
    if _lacks_inodes(disk):
        return _no_inodes("log disk", folder)
    free = disk.f_bavail * disk.f_frsize
    least = ballast_on(disk.f_blocks * disk.f_frsize)
    if free <= least:
        return Finding(
            "log disk",
            Level.PROBLEM,
            f"{folder} has {format_size(free)} free, and logs leave {format_size(least)}: output is lost",
            "make room there, as by bgctl prune",
        )
    is_same = path.stat().st_dev == _existing(state_dir).stat().st_dev
    return Finding("log disk", Level.OK, "the same" if is_same else f"{format_size(free)} free")


def _existing(folder: str) -> Path:
    """Return the folder, or the nearest one above it that exists."""
    path = Path(folder)
    while not path.exists():
        path = path.parent
    return path


def _lacks_inodes(disk: os.statvfs_result) -> bool:
    return bool(disk.f_files) and not disk.f_favail  # some file systems count none


def _no_inodes(subject: str, folder: str) -> Finding:
    return Finding(
        subject, Level.PROBLEM, f"{folder} has no inode free: no file can be made there", "delete files there"
    )


def _private(subject: str, folder: str) -> Finding:
    try:
        found = os.stat(f"{folder}/.")  # noqa: PTH116 - Path would drop the dot, which has it be a folder
    except FileNotFoundError:
        return Finding(subject, Level.NOTE, f"{folder} is not there yet", "the first start makes it")
    except OSError as error:
        in_the_way = obstacle_at(Path(folder))
        remedy = "the next start makes the folder" if in_the_way else "ask as the user of the daemon"
        return Finding(subject, Level.PROBLEM, in_the_way or f"{folder}: {error.strerror}", remedy)
    if found.st_uid != os.geteuid():
        return Finding(
            subject,
            Level.PROBLEM,
            f"{folder} belongs to uid {found.st_uid}, and bgd would run as uid {os.geteuid()}",
            "run bgd as that user, or choose another [daemon] state_dir",
        )
    if stat.S_IMODE(found.st_mode) & 0o077:
        return Finding(
            subject,
            Level.WARNING,
            f"{folder} is open to others (mode {stat.S_IMODE(found.st_mode):o}), environments and all",
            f"chmod 700 {folder}",
        )
    if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):  # its mode, or a file system that is read-only
        return Finding(
            subject,
            Level.PROBLEM,
            f"{folder} may not be written to (mode {stat.S_IMODE(found.st_mode):o})",
            f"chmod 700 {folder}, if its file system is writable",
        )
    return Finding(subject, Level.OK, folder)


def _configuration(source: str | None) -> Finding:
    if source is None:
        return Finding("configuration", Level.OK, "built-in defaults")
    found = Path(source).stat()
    if found.st_mode & 0o022 or found.st_uid not in {0, os.geteuid()}:
        return Finding(
            "configuration",
            Level.PROBLEM,
            f"{source} can be written by others, who can have any class run by that",
            f"chown it to yourself or root, and chmod go-w {source}",
        )
    return Finding("configuration", Level.OK, source)


def _socket(path: str) -> Finding:
    try:
        found = Path(path).lstat()
    except FileNotFoundError:
        return Finding(
            "socket", Level.NOTE, f"{path} is not there", "start bgd, or bgctl submit starts your own"
        )
    except OSError as error:
        return Finding("socket", Level.PROBLEM, f"{path}: {error.strerror}", "see [daemon] socket")
    if not stat.S_ISSOCK(found.st_mode):
        return Finding("socket", Level.PROBLEM, f"{path} is no socket", "move it away, and start bgd again")
    return Finding("socket", Level.OK, path)


def _interpreter(config: Config) -> Finding:
    program = config.python.interpreter
    if not config.security.allowed_classes:
        return Finding("class jobs", Level.OK, "none are allowed")
    gone = missing_installation(config.python)
    if gone is not None:
        return Finding(
            "class jobs",
            Level.PROBLEM,
            gone.removesuffix("; restart bgd"),
            "restart bgd: until then class jobs do not start, and use up no retries",
        )
    if shutil.which(program) is None:
        return Finding(
            "class jobs",
            Level.PROBLEM,
            f"{program} is no program that can be run",
            "see [python] interpreter",
        )
    return Finding("class jobs", Level.OK, f"run by {program}")
