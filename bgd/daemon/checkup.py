"""Checkup: what of the installation is not as it should be, and what to do about each finding."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable
from functools import partial
from pathlib import Path

import msgspec
from msgspec.structs import replace

from bgd.config import Config
from bgd.core.job import ballast_on
from bgd.daemon import machine, safekeeping
from bgd.daemon.launches import what_is_gone
from bgd.daemon.space import BALLAST_NAME, least_on
from bgd.harmless import as_utf8
from bgd.places import in_the_way_of
from bgd.units import format_size
from bgd.wire.views import Finding, Level


def look(config: Config) -> list[Finding]:
    """Look at all that can be seen without a daemon; it reads files, the database and a backup among them.

    That takes some milliseconds, or twice `safekeeping.PATIENCE` where they are very large.
    """
    checks: list[Callable[[], Finding]] = [
        machine.sqlite,
        partial(machine.file_system, config.daemon.state_dir),
        partial(_room, config.daemon.state_dir, config.daemon.min_free),
        partial(_room_of_logs, config.log_dir, config.daemon.state_dir),
        partial(_private, "state folder", config.daemon.state_dir),
        partial(_private, "log folder", config.log_dir),
        partial(_configuration, config.source),
        partial(_socket, config.daemon.socket),
        partial(machine.open_files, config.daemon.slots),
        machine.file_size,
        machine.system_calls,
        machine.control_groups,
        machine.clock,
        machine.user,
        partial(_interpreter, config),
        partial(safekeeping.database, config),
        partial(safekeeping.backups, config),
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
        in_the_way = in_the_way_of(Path(folder))
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
    gone = what_is_gone(config.python)
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
