"""The machine: what of it a daemon would trip over, and what to do about each."""

from __future__ import annotations

import ctypes
import os
import resource
import sqlite3
import time
from pathlib import Path

from bgd.errors import BgdError
from bgd.signals import check_system_calls
from bgd.ulimits import file_size_limit
from bgd.units import format_size
from bgd.wire.views import Finding, Level

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
