"""Delegation: where this launcher may make control groups, and what they can limit there."""

from __future__ import annotations

import errno
import logging
import os
import re
from pathlib import Path

from bgd.launcher.cgroup import Group
from bgd.wire.launching import Key
from bgd.wire.limits import CONTROLLERS, Limits

log = logging.getLogger(__name__)


class Delegation:
    """A folder of this launcher's own in which it makes a group for each attempt that wants one, if any does.

    `path` None: there is none. `controllers` are those of cgroup v2 that it can limit with, `problem` says
    why not with all of them.
    """

    def __init__(self, path: str | None, controllers: list[str], problem: str) -> None:
        self.path = path
        self.controllers = controllers
        self.problem = problem
        self._made = 0

    def new_group(self, key: Key, limits: Limits) -> Group | None:
        """Return a new group for an attempt, None where groups cannot be made.

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
        """Leave nothing that is of no use to others any more."""
        if self.path is not None:
            Group(self.path).remove()


def delegation(name: str) -> Delegation:
    """Find out what is delegated to this process, and make a folder of this name there.

    Where processes and controllers would be in one group, which the kernel does not allow, this process moves
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
    controllers = _words(path / _ENABLED)
    if (
        not controllers
    ):  # there is nothing in it, and perhaps there never will be: it is made when it is needed
        Group(str(path)).remove()  # with the group below it that this process may have failed to enter
    missing = [each for each in CONTROLLERS.values() if each not in _words(own / _THERE)]
    if not problem and missing:
        problem = f"{own} has no {', '.join(missing)}; {_whereabouts(own)}"
    return Delegation(str(path), [each for each in CONTROLLERS.values() if each in controllers], problem)


def own_group(mounts: str = "/proc/self/mountinfo", groups: str = "/proc/self/cgroup") -> Path | None:
    """Return the folder of the group that this process is in, None where no cgroup v2 is in sight."""
    line = next((line for line in _lines(groups) if line.startswith("0::/")), None)
    if line is None:
        return None
    name = line.removeprefix("0::")
    for mount in _lines(mounts):
        fields, _, kind = mount.partition(" - ")
        if kind.split(" ")[0] != "cgroup2":
            continue
        root, point = map(_unescaped, fields.split(" ")[3:5])
        inside = os.path.relpath(name, root)
        folder = Path(point) / inside
        # os.path: where a folder above may not be searched, as a job can arrange, there is no group either
        if inside.split("/")[0] != ".." and os.path.isdir(folder):  # noqa: PTH112
            return folder
    return None


_ENABLED = "cgroup.subtree_control"
_THERE = "cgroup.controllers"
_PROCESSES = "cgroup.procs"
_REMEDY = "as a systemd service it has a group of its own (docs/limits.md)"


def _hand_down(own: Path, path: Path) -> str:
    """Let the groups below `path` have all controllers there are; return what prevented it, if so."""
    wanted = " ".join(f"+{each}" for each in CONTROLLERS.values() if each in _words(own / _THERE))
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
    except OSError:  # this process was not alone
        (own / _PROCESSES).write_text("0")
        leaf.rmdir()
        raise


def _whereabouts(own: Path) -> str:
    if any(" - cgroup cgroup " in line for line in _lines("/proc/self/mountinfo")):
        return "the kernel has them as cgroup v1: start it with systemd.unified_cgroup_hierarchy=1"
    return _REMEDY if own.parent != own else "the kernel has none"


def _words(path: Path) -> list[str]:
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
