"""Control groups (cgroup v2), which hold processes with all descendants."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import re
import resource
import select
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from msgspec import Struct

from bgd.launcher.deadlines import readable
from bgd.launcher.process import own_status
from bgd.wire.launching import AttemptKey
from bgd.wire.limits import CONTROLLERS, Abilities, Limits

log = logging.getLogger(__name__)


# --- Delegation: where this launcher may make control groups, and what they can limit there.


class Delegation:
    """A folder in which this launcher can make groups for attempts.

    `path` None: there is none. `abilities`: the limits that this launcher can set, there and otherwise.
    """

    def __init__(self, path: str | None, controllers: list[str], problem: str) -> None:
        self.path = path
        may_raise = _has_capability(_CAP_SYS_RESOURCE)
        most_files = Path("/proc/sys/fs/nr_open").read_text(encoding="ascii")
        self.abilities = Abilities(
            controllers=controllers,
            problem=problem,
            least_nice=_least_nice(),
            most_open_files=int(most_files) if may_raise else _hard_limit(resource.RLIMIT_NOFILE),
            most_core=None if may_raise else _hard_limit(resource.RLIMIT_CORE),
        )
        self._made = 0

    def new_group(self, key: AttemptKey, limits: Limits) -> Group | None:
        """Return a new group for an attempt, None if groups cannot be made.

        Raises:
            OSError: it cannot be made, or not with these limits.
        """
        if self.path is None:
            return None
        self._made += 1
        group = Group(f"{self.path}/{key.job}.{key.attempt}.{self._made}")
        os.makedirs(group.path)  # noqa: PTH103  a plain string here
        try:
            group.limit(limits)
        except OSError:
            group.remove()
            raise
        return group

    def give_up(self) -> None:
        """Remove the folder if it is empty."""
        if self.path is not None:
            Group(self.path).remove()


def delegation(name: str) -> Delegation:
    """Find the cgroup delegated to this process, and make a folder of this name in it.

    The kernel does not allow processes and controllers in one group. If they would be, this process moves
    into a group of its own below.
    """
    own = own_group()
    if own is None:
        return Delegation(None, [], "none is mounted on this machine")
    path = own / name
    try:
        path.mkdir()
    except OSError as error:
        return Delegation(None, [], f"{own} is not bgd's to use ({error.strerror}); {_REMEDY}")
    problem = _hand_down(own, path)
    controllers = _read_words(path / _ENABLED)
    if not controllers:  # the folder may never be needed, so it is made again when it is
        Group(str(path)).remove()  # with the group below it that this process may have failed to enter
    missing = [each for each in CONTROLLERS.values() if each not in _read_words(own / _AVAILABLE)]
    if not problem and missing:
        problem = f"{own} has no {', '.join(missing)}; {_whereabouts(own, missing)}"
    return Delegation(str(path), [each for each in CONTROLLERS.values() if each in controllers], problem)


def own_group(mounts: str = "/proc/self/mountinfo", groups: str = "/proc/self/cgroup") -> Path | None:
    """Return the folder of the group that this process is in, None if no cgroup v2 is mounted."""
    return _folder_of_group("0::", r"cgroup2 ", mounts, groups)


def own_oom_kills(mounts: str = "/proc/self/mountinfo", groups: str = "/proc/self/cgroup") -> int:
    """Return how many processes of this process's group were killed for lack of memory; 0: it does not count.

    Slurm may limit the memory of an allocation with version 1.
    """
    for file, hierarchy, kind in _COUNTERS:
        folder = _folder_of_group(hierarchy, kind, mounts, groups)
        for line in [] if folder is None else _lines(str(folder / file)):
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    return 0


# of version 2 and of 1: the file with the counter, the line in cgroup(7), and the mount in proc(5)
_COUNTERS = (
    ("memory.events", "0::", "cgroup2 "),
    ("memory.oom_control", r"\d+:(?:\S+,)?memory(?:,\S+)?:", r"cgroup \S+ (?:\S+,)?memory(?:,|$)"),
)


def _folder_of_group(hierarchy: str, mount_kind: str, mounts: str, groups: str) -> Path | None:
    """Return the folder of this process's group in a hierarchy, None if it is not mounted."""
    name = next(
        (line[found.end() :] for line in _lines(groups) if (found := re.match(hierarchy, line))), None
    )
    if name is None:
        return None
    for mount in _lines(mounts):
        fields, _, kind = mount.partition(" - ")
        if not re.match(mount_kind, kind):
            continue
        root, point = map(_unescaped, fields.split(" ")[3:5])
        inside = os.path.relpath(name, root)
        folder = Path(point) / inside
        # os.path: a folder above that may not be searched means no group either; a job can cause that
        if inside.split("/")[0] != ".." and os.path.isdir(folder):  # noqa: PTH112
            return folder
    return None


_ENABLED = "cgroup.subtree_control"
_AVAILABLE = "cgroup.controllers"
_PROCESSES = "cgroup.procs"
_REMEDY = "as a systemd service it has a group of its own (docs/limits.md)"


def _hand_down(own: Path, path: Path) -> str:
    """Enable all controllers for the groups below `path`; return what prevented it, "" if nothing did."""
    wanted = " ".join(f"+{each}" for each in CONTROLLERS.values() if each in _read_words(own / _AVAILABLE))
    if not wanted:
        return ""
    leaf = path / "launcher"
    try:
        try:
            (own / _ENABLED).write_text(wanted)
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise
            _move_into(leaf, own, wanted)
        (path / _ENABLED).write_text(wanted)
    except OSError as error:
        if error.errno == errno.EBUSY:
            return f"other processes are in {own}; {_REMEDY}"
        return f"{own} is not bgd's to use ({error.strerror}); {_REMEDY}"
    return ""


def _move_into(leaf: Path, own: Path, wanted: str) -> None:
    leaf.mkdir()
    (leaf / _PROCESSES).write_text("0")
    try:
        (own / _ENABLED).write_text(wanted)
    except OSError:  # other processes were in the group
        (own / _PROCESSES).write_text("0")
        leaf.rmdir()
        raise


def _whereabouts(own: Path, controllers: list[str]) -> str:
    """Say why a group has no controllers, and what to do."""
    highest = [each for each in (own, *own.parents) if (each / _AVAILABLE).exists()][-1]
    if set(controllers) <= set(_read_words(highest / _AVAILABLE)):
        return _REMEDY
    # proc(5), /proc/cgroups: a controller of version 1 has a hierarchy other than 0
    if any(line.split()[0] in controllers and line.split()[1] != "0" for line in _lines("/proc/cgroups")):
        return "the kernel has them as cgroup v1: start it with systemd.unified_cgroup_hierarchy=1"
    return f"{highest} has none either: the kernel, or the container's host, does not offer them"


def _read_words(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="ascii").split()
    except OSError:
        return []


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return []


def _unescaped(word: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), word)


# --- A control group.


class Usage(Struct, frozen=True):
    """What a process used, or a whole control group; None: unknown.

    `memory_peak`: bytes of all together. `oom_kills`: how many were killed for lack of memory.
    """

    user_seconds: float | None = None
    system_seconds: float | None = None
    max_rss_bytes: int | None = None
    memory_peak: int | None = None
    oom_kills: int = 0


class PresentUsage(Struct, frozen=True):
    """What living processes use: processor time until now, and bytes of memory now."""

    cpu_seconds: float
    memory: int
    processes: int


class Group:
    """A control group, by the path of its folder; a folder that does not exist is an empty group.

    Its processes may own its files and remove every permission. An unusable file counts as missing: the
    processes are then found and killed in other ways.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._is_reported = False  # whether a warning was logged that it cannot be used

    def join(self) -> None:
        """Move this process into the group.

        Raises:
            OSError: it cannot join.
        """
        self._write(_PROCESSES, 0)

    def limit(self, limits: Limits) -> None:
        """Set the limits that a group enforces.

        Raises:
            OSError: one cannot be set.
        """
        if limits.memory_max is not None:
            self._write("memory.max", limits.memory_max)
            with suppress(FileNotFoundError):  # swap is not counted, or there is none
                self._write("memory.swap.max", 0)
            self._write("memory.oom.group", 1)  # kill the whole job: half a job is worse than none
        if limits.cpu_max is not None:
            self._write("cpu.max", f"{limits.cpu_max * _PERIOD // 100} {_PERIOD}")
        if limits.pids_max is not None:
            self._write("pids.max", limits.pids_max)

    def pids(self) -> set[int]:
        """Return the pids in the group and in groups that its processes made below it."""
        found: set[int] = set()
        for folder in self._folders():
            with self._if_usable(), open(f"{folder}/{_PROCESSES}", encoding="ascii") as file:  # noqa: PTH123
                found.update(map(int, file))
        return found

    @property
    def is_populated(self) -> bool:
        """Whether a process in the group or below it has not ended."""
        with self._if_usable():
            return _POPULATED in self._read("cgroup.events")
        return False

    def kill(self) -> None:
        """Kill all processes in the group and below it at once, even those that are forking."""
        with self._if_usable():  # kernels before 5.14 lack the file: processes are then killed one by one
            self._write("cgroup.kill", 1)

    async def emptied(self, until: asyncio.Future[None]) -> None:
        """Return when the group is empty, or `until` is done."""
        # the file is always readable; a change is an EPOLLPRI event, for which an asyncio loop cannot wait
        with self._if_usable(), closing(select.epoll()) as changes:
            events = os.open(f"{self.path}/cgroup.events", os.O_RDONLY | os.O_CLOEXEC)
            try:
                changes.register(events, select.EPOLLPRI)
                while _POPULATED.encode() in os.pread(events, _MAX_READ, 0) and not until.done():
                    await readable(changes.fileno(), until)
            finally:
                os.close(events)

    def figures(self) -> Usage | None:
        """Return what its processes have used, None if that cannot be read."""
        used = dict[str, int]()
        with self._if_usable():
            used = self._numbers("cpu.stat")
        if not used:
            return None
        peak, kills = None, 0
        with self._if_usable():  # without the memory controller
            kills = self._numbers("memory.events").get("oom_kill", 0)
            peak = int(self._read("memory.peak"))
        user, system = used.get("user_usec", 0), used.get("system_usec", 0)
        return Usage(user / 1e6, system / 1e6, memory_peak=peak, oom_kills=kills)

    def present_usage(self) -> PresentUsage | None:
        """Return what its processes use now; None if it does not count their memory."""
        with self._if_usable():
            memory, used = int(self._read("memory.current")), self._numbers("cpu.stat")
            return PresentUsage(used["usage_usec"] / 1e6, memory, len(self.pids()))
        return None

    def remove(self) -> bool:
        """Remove the group and its subgroups, if empty; return whether it is gone."""
        for folder in sorted(self._folders(), key=len, reverse=True):
            try:
                os.rmdir(folder)  # noqa: PTH106  a plain string here
            except FileNotFoundError:
                continue
            except OSError:  # it is not empty, or one below it that cannot be listed
                return False
        return True

    def _folders(self) -> Iterator[str]:
        """Yield its folder, and those below if it can be listed."""
        yield self.path
        for folder, below, _ in os.walk(self.path):
            for name in below:
                yield f"{folder}/{name}"

    @contextmanager
    def _if_usable(self) -> Iterator[None]:
        """Skip the rest of the block if the file or group is gone, or cannot be used."""
        try:
            yield
        except (
            OSError,
            ValueError,
        ) as error:  # ValueError: the content is not from the kernel, so this is not a group
            is_gone = isinstance(error, OSError) and error.errno in {errno.ENOENT, errno.ENODEV}
            if not is_gone and not self._is_reported:
                self._is_reported = True
                why = error.strerror if isinstance(error, OSError) else "its files are not from the kernel"
                log.warning(_UNUSABLE, self.path, why)

    def _numbers(self, name: str) -> dict[str, int]:
        pairs = (line.split() for line in self._read(name).splitlines())
        return {key: int(value) for key, value in pairs}

    def _read(self, name: str) -> str:
        with open(f"{self.path}/{name}", encoding="ascii") as file:  # noqa: PTH123  a plain string here
            return file.read()

    def _write(self, name: str, value: object) -> None:
        fd = os.open(f"{self.path}/{name}", os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, str(value).encode())
        finally:
            os.close(fd)


_PERIOD = 100_000  # microseconds, the kernel's own choice
_POPULATED = "populated 1"
_UNUSABLE = "control group %s cannot be used (%s): its processes are found in other ways"
_MAX_READ = 4096


# --- The limits without a group that this launcher can set.


_CAP_SYS_NICE = 23  # linux/capability.h
_CAP_SYS_RESOURCE = 24
_LOWEST = -20


def _least_nice() -> int:
    if _has_capability(_CAP_SYS_NICE):
        return _LOWEST
    soft, _ = resource.getrlimit(resource.RLIMIT_NICE)
    allowed = _LOWEST if soft == resource.RLIM_INFINITY else 20 - soft  # as getrlimit(2) counts
    return max(_LOWEST, min(os.getpriority(os.PRIO_PROCESS, 0), allowed))


def _has_capability(capability: int) -> bool:
    return bool(int(own_status("CapEff"), 16) >> capability & 1)


def _hard_limit(limit: int) -> int | None:
    hard = resource.getrlimit(limit)[1]
    return None if hard == resource.RLIM_INFINITY else hard
