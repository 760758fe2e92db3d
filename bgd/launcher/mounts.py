"""Says which launches touch a file system that may not answer, by the text of the mount table.

Whoever opens a file on a network file system whose server is gone, or on a FUSE file system whose program
stands still, waits in the kernel, perhaps for ever. So nothing is opened or looked up there: links are
followed one by one, and only on local file systems.
"""

from __future__ import annotations

import os
import re
import select
import stat
import struct
import time

from bgd.wire.launching import Launch


class Mounts:
    """The mount points of this process's mount table that are not known to be local."""

    def __init__(self) -> None:
        self._points: dict[str, str] = {}
        self._had_any = False
        self._table = os.open("/proc/self/mountinfo", os.O_RDONLY | os.O_CLOEXEC)
        self._changes = select.poll()
        self._changes.register(self._table, select.POLLPRI | select.POLLERR)
        # a look takes 50 to 80 µs, a tenth of starting a process, and jobs that come in a storm are alike
        self._known: dict[tuple[str | None, ...], str | None] = {}
        self._known_at = 0.0
        self._read()

    def that_may_hang(self, launch: Launch) -> str | None:
        """Return what the start of this might have to wait for, as people read it; None: nothing.

        That is whatever the kernel opens between the fork and the first instruction of the program. Each
        folder of PATH counts: where an earlier file cannot be run, the next ones are tried.
        """
        self._refresh()
        now = time.monotonic()
        if now - self._known_at > _KNOWN_FOR or len(self._known) > _MOST_KNOWN:
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

        Those that were counts too: a dead file system that was unmounted lazily is not in the table any more.
        """
        self._refresh()
        return self._had_any

    def folder_that_may_hang(self, path: str) -> str | None:
        """Return the folder itself if to enter it may take for ever, else None."""
        self._refresh()
        try:
            _Walk(self._points).end_of(path)
        except _Reached:
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
        except _Reached as reached:
            return str(reached)
        except ValueError:  # NUL, text that cannot be encoded: it is refused before anything is opened
            return None
        return None

    def _refresh(self) -> None:
        try:
            has_changed = bool(self._changes.poll(0))
        except OSError:  # EINVAL: while the limit of descriptors is 0, nothing can be polled
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


class _Reached(Exception):
    """A mount that may hang; the message describes it."""


class _Walk:
    """Follows the paths of one launch; folders that they share are looked at once."""

    def __init__(self, points: dict[str, str]) -> None:
        self._points = points
        self._links: dict[str, str | None] = {}

    def end_of(self, path: str) -> str:
        """Return the path without links; what is not there stays as it is written.

        Raises:
            _Reached: it leads onto a mount that may hang.
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
            if followed > _MOST_LINKS:
                return step  # the kernel gives up as well
            if target.startswith("/"):
                at = ""
            rest += target.split("/")[::-1]
        return at or "/"

    def follow_interpreters(self, program: str, folder: str) -> None:
        """Look where the kernel looks to run this file: the interpreter of a script, the loader of a program.

        Raises:
            _Reached: one of these leads onto a mount that may hang, or is kept from being opened.
        """
        for _ in range(_MOST_INTERPRETERS):
            interpreter = _interpreter(program)
            if interpreter is None:
                return
            program = self.end_of(os.path.join(folder, interpreter))  # noqa: PTH118  plain strings here

    def _check(self, point: str) -> None:
        if point in self._points:
            raise _Reached(f"the file system at {point} ({self._points[point]})")


def _link(path: str) -> str | None:
    """Return what a link says; None: it is none, or is not there."""
    try:
        return os.readlink(path)  # noqa: PTH115  called too often for a Path
    except OSError:
        return None


def _interpreter(program: str) -> str | None:
    """Return what the kernel opens to run this local file, None: nothing more.

    Raises:
        _Reached: somebody holds a lease on it, which keeps all others waiting.
    """
    try:
        if not stat.S_ISREG(os.stat(program).st_mode):  # noqa: PTH116  called too often for a Path
            return None
        fd = os.open(program, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except BlockingIOError as error:
        raise _Reached(f"{program}, on which another process holds a lease,") from error
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
    """Return the PT_INTERP of an ELF file of this machine's byte order, as far as its first bytes show it."""
    is_wide = head[4] == _ELFCLASS64
    try:
        (table,) = struct.unpack_from("=Q" if is_wide else "=I", head, 32 if is_wide else 28)
        size, count = struct.unpack_from("=HH", head, 54 if is_wide else 42)
        for number in range(min(count, _HEAD)):
            at = table + number * size
            (kind,) = struct.unpack_from("=I", head, at)
            if kind == _PT_INTERP:
                start, length = _extent(head, at, is_wide=is_wide)
                return os.fsdecode(head[start : start + length].rstrip(b"\0")) or None
    except struct.error:  # beyond these bytes
        return None
    return None


def _extent(head: bytes, at: int, *, is_wide: bool) -> tuple[int, int]:
    if is_wide:
        return struct.unpack_from("=Q", head, at + 8)[0], struct.unpack_from("=Q", head, at + 32)[0]
    return struct.unpack_from("=I", head, at + 4)[0], struct.unpack_from("=I", head, at + 16)[0]


# Whatever else there is may hang: nfs, cifs, 9p, ceph, fuse, autofs and all that is yet to come; proc too, as
# its links lead into the mounts of other processes.
_LOCAL = frozenset(
    {
        *("bcachefs", "btrfs", "erofs", "exfat", "ext2", "ext3", "ext4", "f2fs", "hfsplus", "iso9660", "jfs"),
        *("msdos", "nilfs2", "ntfs3", "reiserfs", "squashfs", "udf", "vfat", "xfs", "zfs"),
        *("devpts", "devtmpfs", "hugetlbfs", "mqueue", "overlay", "ramfs", "rootfs", "tmpfs"),
        *("binfmt_misc", "bpf", "cgroup", "cgroup2", "configfs", "debugfs", "efivarfs", "fusectl", "pstore"),
        *("securityfs", "selinuxfs", "sysfs", "tracefs"),
    }
)
# to open what is below these may take for ever, to close it does not; nearly every machine has them
_CLOSED_AT_ONCE = frozenset({"autofs", "proc"})
_KNOWN_FOR = 1.0  # seconds, in which a link or a lease may change unseen
_MOST_KNOWN = 1000
_ESCAPED = re.compile(r"\\([0-7]{3})")
_MOST_LINKS = 40  # MAXSYMLINKS of the kernel
_MOST_INTERPRETERS = 5  # as deep as the kernel follows scripts that are run by scripts
_HEAD = 4096  # bytes
_ELFCLASS64, _PT_INTERP = 2, 3  # elf.h
