"""Checks the machine, the folders, the database and the backups, and suggests remedies."""

from __future__ import annotations

import asyncio
import ctypes
import os
import resource
import shutil
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple

import msgspec
from msgspec.structs import replace

import bgd
from bgd.daemon.backups import Backups, backups_in, open_to_others, some_of
from bgd.daemon.cluster_doctor import check_cluster, note, ok, problem, warning
from bgd.daemon.foreign import ForeignFolders, NoAnswer
from bgd.daemon.launches import missing_installation
from bgd.daemon.launching import LAUNCHER_PATIENCE, LauncherLink
from bgd.daemon.queue_controls import most_slots
from bgd.daemon.space import BALLAST_NAME, MAKE_ROOM, lacks_inodes, room_on, shortage
from bgd.daemon.storage import recovery
from bgd.daemon.storage.database import StoreBroken
from bgd.daemon.storage.schema import VERSION, copy_name
from bgd.errors import BgdError, ConfigError
from bgd.settings.config import Config, HttpConfig
from bgd.settings.paths import obstacle_at
from bgd.settings.startup import check_system_calls, file_size_limit, open_descriptors
from bgd.settings.values import UnixAddress
from bgd.system import clock
from bgd.text.escape import as_utf8
from bgd.text.units import format_duration, format_size
from bgd.wire.launching import LAUNCHING_PROTOCOL, ballast_on
from bgd.wire.views import Finding, Level


async def check_all(config: Config, folders: ForeignFolders) -> list[Finding]:
    """Return a finding for everything that can be checked without a daemon.

    Reads files, the database and a backup among them. That takes some milliseconds, or up to twice PATIENCE
    if those two are very large; and up to some seconds for each Slurm cluster. A folder that does not answer
    is a finding.
    """
    checks = _checks(config)
    apart = [check for check in checks if folders.may_hang(check.folder)]
    local = [check for check in checks if check not in apart]
    found = await asyncio.gather(
        asyncio.to_thread(lambda: [_finding_of(check.subject, check.run) for check in local]),
        asyncio.gather(*(_check_apart(folders, check) for check in apart)),
    )
    return [each for part in found for each in part]


class _Check(NamedTuple):
    """A check, its subject, and the folder that it reads."""

    subject: str
    folder: str
    run: Callable[[], Finding]


def _checks(config: Config) -> list[_Check]:
    state_dir, logs, socket = config.daemon.state_dir, config.log_dir, config.daemon.socket
    return [
        _Check("version", _OWN, lambda: ok(f"bgd {bgd.__version__}")),
        _Check("file system", _OWN, partial(_check_file_system, state_dir)),
        _Check("disk", _OWN, partial(_check_disk, state_dir, config.daemon.min_free)),
        _Check("log disk", logs, partial(_check_log_disk, logs, state_dir)),
        _Check("state folder", _OWN, partial(_check_folder, state_dir)),
        _Check("log folder", logs, partial(_check_folder, logs)),
        _Check("configuration", config.source or _OWN, partial(_check_configuration, config.source)),
        _Check("socket", socket, partial(_check_socket, socket)),
        _Check("open files", _OWN, partial(check_open_files, most_slots(config))),
        _Check("file size", _OWN, check_file_size),
        _Check("system calls", _OWN, _check_system_calls),
        _Check("clock", _OWN, _check_clock),
        _Check("user", _OWN, _check_user),
        _Check("class jobs", config.python.interpreter, partial(_check_class_jobs, config)),
        _Check("resources", _OWN, partial(check_resources, config.resources)),
        _Check("pages", _OWN, partial(check_pages, config.http)),
        _Check("database", _OWN, partial(check_database, config)),
        _Check("backups", config.backup.folder, partial(check_backups, config)),
        *(
            _Check(f"executor {name}", executor.folder, partial(check_cluster, executor))
            for name, executor in config.executors.items()
            if executor.kind.has_nodes
        ),
    ]


_OWN = "/"  # for checks inside the daemon: only the daemon can open its database


async def _check_apart(folders: ForeignFolders, check: _Check) -> Finding:
    try:
        return await folders.call(check.folder, _finding_of, check.subject, check.run)
    except NoAnswer as error:
        remedy = "unmount that file system (umount -f -l), or make its server answer"
        return Finding(check.subject, Level.PROBLEM, str(error), remedy)


def findings_as_json(config: Config) -> str:
    """Return all findings as a JSON array, which `bgctl doctor` reads."""
    found = asyncio.run(check_all(config, ForeignFolders()))
    as_text = [
        replace(each, message=as_utf8(each.message), remedy=each.remedy and as_utf8(each.remedy))
        for each in found
    ]
    return msgspec.json.encode(as_text).decode()


def check_python(config: Config) -> None:
    """Check that class jobs could start. Only `bgd --check` does: a daemon may start before its application.

    Raises:
        ConfigError: the interpreter is not a program, or a folder of the path does not exist.
    """
    interpreter = config.python.interpreter
    if shutil.which(interpreter) is None:
        raise ConfigError(f"[python] interpreter: {interpreter} is not a program that can be run")
    for path in config.python.path:
        if not Path(path).exists():
            raise ConfigError(f"[python] path: there is no {path}")


def _finding_of(subject: str, check: Callable[[], Finding]) -> Finding:
    try:
        return replace(check(), subject=subject)
    except OSError as error:  # a folder with the wrong mode is one thing to find
        words = f"{error.filename} cannot be checked: {error.strerror}"
        remedy = "give it to the user who runs bgd, as a folder of mode 700"
        return Finding("access", Level.PROBLEM, words, remedy)


# --- The machine


def _check_file_system(folder: str) -> Finding:
    kind, options = _file_system_of(folder)
    if kind in _NETWORK_TYPES:
        return problem(
            f"{folder} is on {kind}, a network file system: its locks and syncs do not keep a database safe",
            "put [daemon] state_dir on a local disk",
        )
    if kind in _VOLATILE_TYPES:
        return warning(
            f"{folder} is on {kind}: jobs are lost when the machine or container stops",
            "to keep them, put [daemon] state_dir on a disk or a volume",
        )
    careless = sorted(_UNSAFE_OPTIONS & set(options.split(",")))
    if careless:
        return warning(
            f"{folder} is mounted with {careless[0]}: acknowledged jobs may be lost in a power failure",
            f"mount it without {careless[0]}, unless the disk's cache has a battery",
        )
    return ok(f"{kind}, local")


def _file_system_of(folder: str) -> tuple[str, str]:
    """Return type and mount options of the file system that holds a folder, even one that does not exist."""
    device = _existing(folder).stat().st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    found = ("unknown", "")
    for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace").splitlines():
        about, _, of_kind = line.partition(" - ")
        words = about.split()
        if words[2] == wanted:
            kind, _, options = of_kind.split(" ", 2)
            found = (kind, f"{words[5]},{options}")
    return found


_NETWORK_TYPES = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "9p", "afs", "ceph", "glusterfs", "lustre", "fuse.sshfs"}
)
_VOLATILE_TYPES = frozenset({"tmpfs", "ramfs", "overlay"})  # lost with the machine or the container
_UNSAFE_OPTIONS = frozenset({"nobarrier", "barrier=0"})  # mount options that make a sync do nothing


def check_open_files(slots: int) -> Finding:
    """Check that enough files can be open for this number of slots."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = max(_MIN_FILES, 8 * slots)
    if 0 <= soft < needed:
        return warning(
            f"{soft} may be open at once, and {slots} slots with their clients may need {needed}",
            f"ulimit -n {needed} before bgd starts, or LimitNOFILE={needed} in its unit (hard limit: {hard})",
        )
    return ok(f"up to {soft}")


_MIN_FILES = 1024


def _check_system_calls() -> Finding:
    try:
        check_system_calls()
    except BgdError as error:
        return problem(str(error), "bgd does not start without it")
    return ok("all that jobs need")


def check_file_size() -> Finding:
    """Check that no limit on the size of files stops the database from growing."""
    limit = file_size_limit()
    if limit is not None:
        return problem(
            f"no file may be larger than {format_size(limit)}: the database will fail there",
            "ulimit -f unlimited before bgd starts, or LimitFSIZE=infinity in its unit",
        )
    return ok("unlimited")


def _check_clock() -> Finding:
    if time.time() < _EARLIEST:
        return problem("it was never set", "set it: dates, retention and backups depend on it")
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.adjtimex(ctypes.create_string_buffer(_TIMEX_BYTES)) == _UNSYNCHRONIZED:
        return note(
            "as far as the kernel knows, nothing keeps it synchronized",
            "run chrony or systemd-timesyncd (a guest may leave it to its host)",
        )
    return ok("synchronized")


_EARLIEST = 1_735_689_600.0  # 2025, before which there was no bgd
_TIMEX_BYTES = 256  # more than struct timex has on any machine
_UNSYNCHRONIZED = 5  # TIME_ERROR of adjtimex(2)


def _check_user() -> Finding:
    if os.geteuid() == 0:
        return warning(
            "bgd runs as root, and so does every job",
            "run it as a user of its own, as the units from `make install` do",
        )
    return ok(f"uid {os.geteuid()}")


# --- The folders, the socket and the configuration


def _check_disk(folder: str, floor: int | None) -> Finding:
    path = _existing(folder)
    disk = os.statvfs(path)
    if lacks_inodes(disk):
        return _no_inodes(folder)
    ballast = Path(folder, BALLAST_NAME)
    size = ballast.stat().st_size if ballast.exists() else 0
    free, least = room_on(disk, floor, recovery.unused_bytes(f"{folder}/bgd.db"), size)
    if free <= least:
        return problem(f"{shortage(folder, free, least)}: they are refused", MAKE_ROOM)
    return ok(f"{format_size(free)} free")


def _check_log_disk(folder: str, state_dir: str) -> Finding:
    path = _existing(folder)
    disk = os.statvfs(path)
    if lacks_inodes(disk):
        return _no_inodes(folder)
    free = disk.f_bavail * disk.f_frsize
    least = ballast_on(disk.f_blocks * disk.f_frsize)
    if free <= least:
        return problem(
            f"{folder} has {format_size(free)} free, and logs leave {format_size(least)}: output is lost",
            MAKE_ROOM,
        )
    is_same = path.stat().st_dev == _existing(state_dir).stat().st_dev
    return ok("the same" if is_same else f"{format_size(free)} free")


def _existing(folder: str) -> Path:
    """Return the folder, or the nearest one above it that exists."""
    path = Path(folder)
    while not path.exists():
        path = path.parent
    return path


def _no_inodes(folder: str) -> Finding:
    return problem(f"{folder} has no free inodes: files cannot be created there", "delete files there")


def _check_folder(folder: str) -> Finding:
    try:
        found = os.stat(f"{folder}/.")  # noqa: PTH116 - Path would drop the dot, which requires a folder
    except FileNotFoundError:
        return _check_absent(folder)
    except OSError as error:
        in_the_way = obstacle_at(Path(folder))
        remedy = "the next start makes the folder" if in_the_way else "run this as the daemon's user"
        return problem(in_the_way or f"{folder}: {error.strerror}", remedy)
    if found.st_uid != os.geteuid():
        return problem(
            f"{folder} belongs to uid {found.st_uid}, and bgd would run as uid {os.geteuid()}",
            "run bgd as that user, or choose another [daemon] state_dir",
        )
    if stat.S_IMODE(found.st_mode) & 0o077:
        return warning(
            f"{folder} is open to others (mode {stat.S_IMODE(found.st_mode):o}), and so are environments",
            f"chmod 700 {folder}",
        )
    if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):  # because of its mode or a read-only file system
        return problem(
            f"{folder} may not be written to (mode {stat.S_IMODE(found.st_mode):o})",
            f"chmod 700 {folder}, if its file system is writable",
        )
    return ok(folder)


def _check_absent(folder: str) -> Finding:
    above = _existing(folder)
    if not os.access(above, os.W_OK | os.X_OK):
        message = f"{folder} cannot be made: {above} may not be written to"
        return problem(message, "choose another [daemon] state_dir")
    return note(f"{folder} is not there yet", "the first start makes it")


def _check_configuration(source: str | None) -> Finding:
    if source is None:
        return ok("built-in defaults")
    found = Path(source).stat()
    if found.st_mode & 0o022 or found.st_uid not in {0, os.geteuid()}:
        return problem(
            f"{source} can be written by others, who can then make bgd run any class",
            f"chown it to yourself or root, and chmod go-w {source}",
        )
    return ok(source)


def check_resources(resources: Mapping[str, tuple[str, ...]]) -> Finding:
    """Warn of cards whose tokens were counted from 1: CUDA and its like count cards from 0."""
    for name, tokens in resources.items():
        if name.startswith(_CARDS) and tokens and tokens == tuple(map(str, range(1, len(tokens) + 1))):
            cards = ", ".join(f'"{number}"' for number in range(min(len(tokens), _MOST_CARDS)))
            more = ", ..." if len(tokens) > _MOST_CARDS else ""
            return warning(
                f"[resources] {name} has the tokens 1 to {len(tokens)}, but cards are numbered from 0",
                f"if they are the numbers of cards, write {name} = [{cards}{more}]",
            )
    return ok(", ".join(f"{len(tokens)} {name}" for name, tokens in sorted(resources.items())) or "none")


_CARDS = ("gpu", "cuda", "card")  # names of resources that are cards
_MOST_CARDS = 8  # in a message


def check_pages(http: HttpConfig) -> Finding:
    """Warn of pages that a proxy reaches only as localhost."""
    if not isinstance(http.listen, UnixAddress) or http.host or http.serves_any_host:
        return ok(str(http.listen or "none"))
    return warning(
        f"{http.listen} is served only as localhost, because browsers need no login of bgd there",
        'list the names of your proxy, for example [http] host = ["jobs.example.org"]',
    )


def check_served(configured: HttpConfig, served: HttpConfig) -> list[Finding]:
    """Return a finding if the daemon serves no pages although it is configured to."""
    if configured.listen is None or served.listen is not None:
        return []
    return [Finding("pages", Level.PROBLEM, f"not at {configured.listen}", "the daemon's log says why")]


def _check_socket(path: str) -> Finding:
    try:
        found = Path(path).lstat()
    except FileNotFoundError:
        return note(f"{path} is not there", "start bgd, or bgctl submit starts your own")
    except OSError as error:
        return problem(f"{path}: {error.strerror}", "see [daemon] socket")
    if not stat.S_ISSOCK(found.st_mode):
        return problem(f"{path} is not a socket", "move it away, then start bgd")
    return ok(path)


def _check_class_jobs(config: Config) -> Finding:
    program = config.python.interpreter
    if not config.security.allowed_classes:
        return ok("none are allowed")
    gone = missing_installation(config.python)
    if gone is not None:
        return problem(
            gone.removesuffix("; restart bgd"),
            "restart bgd: until then class jobs do not start, and use up no retries",
        )
    if shutil.which(program) is None:
        return problem(f"{program} is not a program that can be run", "see [python] interpreter")
    return ok(f"run by {program}")


# --- The database and its backups


PATIENCE = 10.0  # seconds for the database, and again for the backups: a user waits for the result
_OVERDUE = 2.5  # intervals without a new backup


def check_database(config: Config, patience: float = PATIENCE) -> Finding:
    """Check the database, whether or not a daemon has it open."""
    path = f"{config.daemon.state_dir}/bgd.db"
    try:
        tables, unreadable = recovery.check_file(path, patience)
    except FileNotFoundError:
        remedy = "the first start makes it; if there was one, `bgd --recover` restores the newest backup"
        return note(f"{path} is not there", remedy)
    except PermissionError:
        return problem(f"{path} may not be read", "run this as the daemon's user")
    except StoreBroken as error:
        return problem(error.problem, error.remedy or "see the daemon's log")
    return _verdict(path, tables, unreadable, patience)


def _verdict(path: str, tables: int, unreadable: list[str] | None, patience: float) -> Finding:
    version = f"version {tables} of its tables"
    if unreadable is None:
        return note(
            f"{path}: {version}, no damage found in {patience:g} s, which was too short to check all of it",
            "`bgctl backup FILE` writes a copy that is checked completely",
        )
    if unreadable:
        return warning(
            f"{path} is intact, except for what cannot be read and is set aside: {some_of(unreadable)}",
            "`bgctl list --state held` shows such jobs: submit them again, then `bgctl cancel` these",
        )
    if tables < VERSION:
        return note(
            f"{path} is intact, and from an earlier bgd ({version}, this bgd makes {VERSION})",
            "the next start upgrades it, and keeps a copy for earlier releases, if there is room:"
            f" {copy_name(path, tables)}",
        )
    return ok(f"{path} is intact, {version}")


def check_backups(config: Config, patience: float = PATIENCE) -> Finding:
    """Check that backups are written, and that the newest are intact, as `bgd --recover` checks them."""
    every = config.backup.every
    if every is None:
        return note("none are written", "set [backup] every, or use bgctl backup")
    if (obstacle := _obstacle_to(config.backup.folder)) is not None:
        return problem(f"none can be written: {obstacle}", "see [backup] folder")
    if (reason := open_to_others(config.backup.folder)) is not None:
        return warning(
            f"{reason}, and a backup can make bgd run anything: `bgd --recover` takes none from there",
            f"chmod go-w {config.backup.folder}, or choose another [backup] folder",
        )
    paths = backups_in(config.backup.folder, every_name=True)
    if not paths:
        return note(
            f"none yet in {config.backup.folder}", f"bgctl backup {config.backup.folder}/NAME.db writes one"
        )
    return _check_copies(paths, every, patience)


def _obstacle_to(folder: str) -> str | None:
    """Return why nothing can be written to a folder, which is made when it is needed; None if it can."""
    if (in_the_way := obstacle_at(Path(folder))) is not None:
        return in_the_way
    there = folder
    while not os.path.exists(there):  # noqa: PTH110 - Path.exists raises if the folder may not be searched
        there = str(Path(there).parent)
    if not os.access(there, os.R_OK | os.W_OK | os.X_OK):
        return f"{there} may not be written to"
    return None


def _check_copies(paths: list[str], every: float, patience: float) -> Finding:
    try:
        good, problems = recovery.newest_sound_copy(paths, patience)
    except TimeoutError:
        return note(
            f"{_count_and_age(paths, paths[0])}; it could not be checked completely in {patience:g} s",
            "nothing to do: it was checked when it was written, and bgd --recover checks it again",
        )
    if good is None:
        return problem(
            f"none can be restored: {problems[0]}", f"delete what is damaged; {_WRITE_ONE} meanwhile"
        )
    if problems:
        return warning(
            f"{_count_and_age(paths, good.path)} of the intact ones: {problems[0]}",
            f"delete what is damaged (bgd --recover skips it); {_WRITE_ONE} meanwhile",
        )
    found = _count_and_age(paths, good.path)
    if _age_of(good.path) > _OVERDUE * every:
        return warning(found, "the daemon's log says why, if it has run meanwhile")
    return ok(f"{found} and intact")


def _count_and_age(paths: list[str], newest: str) -> str:
    return f"{len(paths)}, the newest {format_duration(_age_of(newest) // 60 * 60)} old"


def _age_of(path: str) -> float:
    return max(time.time() - Path(path).stat().st_mtime, 0)  # negative if the clock was set back since


_WRITE_ONE = "`bgctl backup FILE` writes one"


# --- The parts of a daemon that runs


def check_parts(link: LauncherLink, backups: Backups) -> Iterator[Finding]:
    """Yield what the daemon itself knows of its backups, its launcher, and the control groups of jobs."""
    if backups.problem is not None:
        failed = f"the last attempt failed: {backups.problem}"
        yield Finding("backups", Level.PROBLEM, failed, "remove the cause: bgd tries again within the hour")
    if (abilities := link.abilities) is not None:
        reason, _, remedy = abilities.problem.partition("; ")
        groups = ok(f"can limit {', '.join(abilities.controllers)}")
        if reason:
            groups = note(f"no limits on whole jobs: {reason}", remedy)
        yield replace(groups, subject="control groups")
    yield replace(_check_launcher(link), subject="launcher")
    yield from check_descriptors("the daemon", os.getpid())
    if link.pid is not None:
        yield from check_descriptors("the launcher", link.pid)


def check_descriptors(owner: str, pid: int) -> Iterator[Finding]:
    """Yield what holds the open files of a process if it can open few more."""
    with suppress(OSError):  # the process is gone, or belongs to another user
        count, limit, kinds = open_descriptors(pid)
        if limit - count < min(_FEW_LEFT, limit // 3):
            yield Finding(
                "open files",
                Level.PROBLEM,
                f"{owner} (pid {pid}) has {count} open, of at most {limit}, mostly {kinds}",
                "raise its limit (ulimit -n before bgd starts, LimitNOFILE= in its unit) and restart it",
            )


_FEW_LEFT = 40  # of which the launcher keeps 32 in reserve, so it starts no job then


def _check_launcher(link: LauncherLink) -> Finding:
    if not link.is_connected:
        if not link.problem and clock.elapsed() - link.looking_since < LAUNCHER_PATIENCE:
            return note("it has not answered yet: it is being started", "ask again in a moment")
        return problem(
            f"no launcher is connected, so nothing starts{': ' if link.problem else ''}{link.problem}",
            "the daemon's log says why; as a service: systemctl status bgd-launcher",
        )
    if not link.starts_jobs:
        return problem(
            f"it is stopped: no job starts, and ends of jobs are not noticed (pid {link.pid})",
            f"kill -CONT {link.pid}",
        )
    if link.protocol < LAUNCHING_PROTOCOL:
        return note(
            f"it is from an earlier bgd (protocol {link.protocol}, this bgd speaks {LAUNCHING_PROTOCOL})",
            "when no job runs, kill the pid that bgctl info shows: new features need a new launcher",
        )
    return ok(f"pid {link.pid}, protocol {link.protocol}")
