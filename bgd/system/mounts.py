"""Say which paths lead to a file system that may not answer, by the text of the mount table.

A process that opens a file waits in the kernel, perhaps forever, if the file is on a network file system
whose server is gone, or on a FUSE file system whose program has stopped. So nothing is opened or looked up
there: links are followed one by one, and only on local file systems.
"""

from __future__ import annotations

import os
import re
import select
import stat
import struct
import time
from functools import cache

from bgd.wire.launching import Launch


class Mounts:
    """The mount points of this process that are not known to be local."""

    def __init__(self) -> None:
        self._points: dict[str, str] = {}
        self._had_any = False
        self._table = os.open("/proc/self/mountinfo", os.O_RDONLY | os.O_CLOEXEC)
        self._changes = select.poll()
        self._changes.register(self._table, select.POLLPRI | select.POLLERR)
        # following a launch takes 50 to 80 µs, a tenth of a process start, and many launches at once are
        # alike
        self._known: dict[tuple[str | None, ...], str | None] = {}
        self._known_at = 0.0
        self._read()

    def that_may_hang(self, launch: Launch) -> str | None:
        """Return what the start of a launch may have to wait for, in words for people; None: nothing.

        That covers everything the kernel opens between the fork and the first instruction of the program.
        Each folder of PATH counts: if a file in an earlier folder cannot be run, the next folder is tried.
        """
        self._refresh()
        now = time.monotonic()
        if now - self._known_at > _KNOWN_FOR or len(self._known) > _MAX_KNOWN:
            self._known.clear()
        if not self._known:
            self._known_at = now
        key = launch.cwd, launch.stdin_path, launch.argv[0] if launch.argv else "", launch.env.get("PATH")
        if key not in self._known:
            self._known[key] = self._looked_up(launch)
        return self._known[key]

    @property
    def had_any(self) -> bool:
        """Whether there is or was a mount on which a process may wait when it closes a file.

        Past mounts count too: a dead file system that was unmounted lazily is no longer in the table.
        """
        self._refresh()
        return self._had_any

    def folder_that_may_hang(self, path: str) -> str | None:
        """Return the folder itself if entering it may take forever, else None."""
        self._refresh()
        try:
            _Walk(self._points).end_of(path)
        except _MayHang:
            return path
        except ValueError:
            return None
        return None

    def _looked_up(self, launch: Launch) -> str | None:
        walk = _Walk(self._points)
        try:
            folder = walk.end_of(launch.cwd)
            if launch.stdin_path is not None:
                walk.end_of(os.path.join(launch.cwd, launch.stdin_path))  # noqa: PTH118  plain strings here
            name = launch.argv[0] if launch.argv else ""
            for entry in [""] if "/" in name else os.get_exec_path(launch.env):
                program = walk.end_of(os.path.join(folder, entry, name))  # noqa: PTH118  plain strings here
                walk.follow_interpreters(program, folder)
        except _MayHang as reached:
            return str(reached)
        except ValueError:  # NUL, text that cannot be encoded: refused before anything is opened
            return None
        return None

    def _refresh(self) -> None:
        try:
            has_changed = bool(self._changes.poll(0))
        except OSError:  # EINVAL: nothing can be polled while the limit of descriptors is 0
            has_changed = False
        if has_changed:
            self._read()

    def _read(self) -> None:
        os.lseek(self._table, 0, os.SEEK_SET)
        table = bytearray()
        while part := os.read(self._table, 1 << 16):
            table += part
        self._points.clear()
        self._known.clear()
        for line in os.fsdecode(bytes(table)).splitlines():
            before, _, after = line.partition(" - ")
            point, kind = before.split(" ")[4], after.split(" ")[0]
            if kind not in _LOCAL:
                self._points[_ESCAPED.sub(lambda found: chr(int(found[1], 8)), point)] = kind
                self._had_any |= kind not in _CLOSED_AT_ONCE


class _MayHang(Exception):
    """A mount that may hang; the message describes it."""


class _Walk:
    """Follow the paths of one launch; read each link only once."""

    def __init__(self, points: dict[str, str]) -> None:
        self._points = points
        self._links: dict[str, str | None] = {}

    def end_of(self, path: str) -> str:
        """Return the path without links; parts that do not exist stay as written.

        Raises:
            _MayHang: the path leads to a mount that may hang.
        """
        self._check("/")
        at, followed = "", 0
        rest = path.split("/")[::-1]
        while rest:
            name = rest.pop()
            if name in {"", "."}:
                continue
            if name == "..":
                at = at.rpartition("/")[0]
                continue
            step = f"{at}/{name}"
            if step in self._links:
                target = self._links[step]
            else:
                self._check(step)
                target = self._links[step] = _link(step)
            if target is None:
                at = step
                continue
            followed += 1
            if followed > _MAX_LINKS:
                return step  # the kernel gives up too
            if target.startswith("/"):
                at = ""
            rest += target.split("/")[::-1]
        return at or "/"

    def follow_interpreters(self, program: str, folder: str) -> None:
        """Follow the files that the kernel opens to run this one: a script's interpreter, a program's loader.

        Raises:
            _MayHang: one of these is on a mount that may hang, or another process's lease blocks its opening.
        """
        for _ in range(_MAX_INTERPRETERS):
            interpreter = _interpreter(program)
            if interpreter is None:
                return
            program = self.end_of(os.path.join(folder, interpreter))  # noqa: PTH118  plain strings here

    def _check(self, point: str) -> None:
        if point in self._points:
            raise _MayHang(f"the file system at {point} ({self._points[point]})")


@cache
def own_mounts() -> Mounts:
    """Return the mount points of this process, whose table stays open."""
    return Mounts()


def _link(path: str) -> str | None:
    """Return the target of a link; None if it is not a link or does not exist."""
    try:
        return os.readlink(path)  # noqa: PTH115  called too often for a Path
    except OSError:
        return None


def _interpreter(program: str) -> str | None:
    """Return what else the kernel opens to run this local file; None: nothing.

    Raises:
        _MayHang: another process holds a lease on it, which blocks all openers.
    """
    try:
        if not stat.S_ISREG(os.stat(program).st_mode):  # noqa: PTH116  called too often for a Path
            return None
        fd = os.open(program, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except BlockingIOError as error:
        raise _MayHang(f"{program}, on which another process holds a lease,") from error
    except OSError:
        return None
    try:
        head = os.read(fd, _HEAD)
    except OSError:
        return None
    finally:
        os.close(fd)
    if head.startswith(b"#!"):
        words = head[2:].partition(b"\n")[0].split()
        return os.fsdecode(words[0]) if words else None
    return _loader(head) if head.startswith(b"\x7fELF") else None


def _loader(head: bytes) -> str | None:
    """Return the PT_INTERP of an ELF file in this machine's byte order, if the file's first bytes show it."""
    is_wide = head[4] == _ELFCLASS64
    word, table_at, sizes_at, start_at, length_at = (
        ("=Q", 32, 54, 8, 32) if is_wide else ("=I", 28, 42, 4, 16)
    )
    try:
        (table,) = struct.unpack_from(word, head, table_at)
        size, count = struct.unpack_from("=HH", head, sizes_at)
        for number in range(min(count, _HEAD)):
            at = table + number * size
            if struct.unpack_from("=I", head, at) == (_PT_INTERP,):
                (start,) = struct.unpack_from(word, head, at + start_at)
                (length,) = struct.unpack_from(word, head, at + length_at)
                return os.fsdecode(head[start : start + length].rstrip(b"\0")) or None
    except struct.error:  # beyond these bytes
        return None
    return None


# All other types may hang: nfs, cifs, 9p, ceph, fuse, autofs and future ones; proc too, because its links
# lead into the mounts of other processes.
_LOCAL = frozenset(
    {
        *("bcachefs", "btrfs", "erofs", "exfat", "ext2", "ext3", "ext4", "f2fs", "hfsplus", "iso9660", "jfs"),
        *("msdos", "nilfs2", "ntfs3", "reiserfs", "squashfs", "udf", "vfat", "xfs", "zfs"),
        *("devpts", "devtmpfs", "hugetlbfs", "mqueue", "overlay", "ramfs", "rootfs", "tmpfs"),
        *("binfmt_misc", "bpf", "cgroup", "cgroup2", "configfs", "debugfs", "efivarfs", "fusectl", "pstore"),
        *("securityfs", "selinuxfs", "sysfs", "tracefs"),
    }
)
# opening a file below these may take forever, closing it does not; nearly every machine has them
_CLOSED_AT_ONCE = frozenset({"autofs", "proc"})
_KNOWN_FOR = 1.0  # seconds in which a change of a link or a lease may go unnoticed
_MAX_KNOWN = 1000
_ESCAPED = re.compile(r"\\([0-7]{3})")
_MAX_LINKS = 40  # MAXSYMLINKS of the kernel
_MAX_INTERPRETERS = 5  # the kernel's limit for scripts that are run by scripts
_HEAD = 4096  # bytes
_ELFCLASS64, _PT_INTERP = 2, 3  # elf.h
