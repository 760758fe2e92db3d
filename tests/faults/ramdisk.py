"""A root file system in memory for a virtual machine: this tree, its interpreter, and some programs.

A machine that shares its root with its host cannot be suspended, because the kernel's driver refuses.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import BinaryIO

from tests.support import ROOT

PROGRAMS = ("sh", "cut", "env", "ip", "mkdir", "mount", "sleep", "true")
_PACKAGES = ("bgd", "hypothesis", "pexpect", "pytest", "pytest-asyncio")  # and everything that they need
_MOUNTED = ("/dev", "/proc", "/run", "/sys", "/tmp")
_MERGED = ("/bin", "/lib", "/lib64", "/sbin")  # links into /usr
_OF_THE_TREE = ("bgd", "bgctl", "tests", "pyproject.toml")
_NOT_NEEDED = {"site-packages", "test", "idlelib", "tkinter", "ensurepip", "lib2to3"}
_LIBRARY = re.compile(r"(/\S+) \(0x")


def write(path: Path, *more: Path) -> None:
    """Write the archive (cpio, "newc") from which the kernel makes its root; `more` are extra files."""
    files = [*_programs(), *_standard_library(), *_packages(), *_tree(), *more]
    libraries = _libraries(file for file in files if file.suffix in {"", ".so"} and not file.is_dir())
    found: set[Path] = set()
    for file in [*files, *libraries, *map(Path, _MOUNTED), *map(Path, _MERGED)]:
        _add(found, file)
    with path.open("wb") as archive:
        for number, file in enumerate(sorted(found), start=1):
            _append(archive, str(file)[1:], file.lstat(), number, _content(file))
        _append(archive, "TRAILER!!!", None, 0, b"")


def _programs() -> Iterator[Path]:
    for name in PROGRAMS:
        found = shutil.which(name)
        assert found is not None, name
        yield Path(found)
    yield Path(sys.executable)
    yield Path(sys.prefix, "pyvenv.cfg")


def _standard_library() -> Iterator[Path]:
    for path in Path(sysconfig.get_path("stdlib")).iterdir():
        if path.name not in _NOT_NEEDED and not path.name.startswith("config-"):
            yield from path.rglob("*") if path.is_dir() else [path]


def _packages() -> Iterator[Path]:
    known: set[str] = set()
    names = list(_PACKAGES)
    while names:
        name = names.pop()
        if name not in known:
            known.add(name)
            try:
                package = distribution(name)
            except PackageNotFoundError:  # only needed by another Python
                continue
            needs = [each for each in package.requires or [] if "extra ==" not in each]
            names += [re.split(r"[^\w.-]", each, maxsplit=1)[0] for each in needs]
            paths = (Path(str(file.locate())).resolve() for file in package.files or [])
            yield from (path for path in paths if path.exists() and path.is_relative_to(sys.prefix))


def _tree() -> Iterator[Path]:
    for name in _OF_THE_TREE:
        path = ROOT / name
        yield from path.rglob("*") if path.is_dir() else [path]


def _libraries(files: Iterable[Path]) -> list[Path]:
    """Return the libraries that the loader needs for these programs."""
    done = subprocess.run(["ldd", *files], capture_output=True, text=True, check=False)
    return [Path(path) for path in sorted(set(_LIBRARY.findall(done.stdout)))]


def _add(found: set[Path], path: Path) -> None:
    """Add a path with its folders, and the target if it is a link."""
    path = path.parent.resolve() / path.name
    if path in found or path == path.parent:
        return
    _add(found, path.parent)
    found.add(path)
    if path.is_symlink():
        _add(found, path.parent / path.readlink())


def _content(path: Path) -> bytes:
    if path.is_symlink():
        return str(path.readlink()).encode()
    return path.read_bytes() if path.is_file() else b""


def _append(archive: BinaryIO, name: str, status: os.stat_result | None, number: int, content: bytes) -> None:
    mode, at = (0, 0) if status is None else (status.st_mode, int(status.st_mtime))
    encoded = name.encode() + b"\0"
    # inode, mode, owner, group, links, time, size, two devices, size of the name, no checksum
    fields = (number, mode, 0, 0, 1, at, len(content), 0, 0, 0, 0, len(encoded), 0)
    head = b"070701" + b"".join(b"%08x" % field for field in fields) + encoded
    archive.write(head + bytes(-len(head) % 4) + content + bytes(-len(content) % 4))
