"""A disk whose power can be cut, without a virtual machine.

A file is formatted as ext4 and mounted. Like a power cut, the ioctl EXT4_IOC_SHUTDOWN without a flush of the
journal makes everything that was not synced disappear, and everything after it fail.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import struct
import subprocess
import tempfile
from pathlib import Path
from typing import Self

from tests.support import wait_until

_SHUTDOWN = 0x8004587D
_NO_FLUSH = 2
_MEGABYTES = 400


def why_not() -> str | None:
    """Return why this machine cannot have such a disk; None if it can."""
    if os.geteuid() != 0:
        return "only root can mount a disk"
    missing = [program for program in ("mkfs.ext4", "mount", "umount") if shutil.which(program) is None]
    if missing:
        return f"not installed: {', '.join(missing)}"
    try:
        with Disk() as disk:
            disk.cut()
    except (OSError, subprocess.CalledProcessError) as error:
        return f"no disk could be mounted, or its power not be cut: {error}"
    return None


class Disk:
    """A disk that is mounted at `path` while it has power."""

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="bgd-power-"))
        self._image = self._folder / "image"
        self.path = self._folder / "disk"

    def __enter__(self) -> Self:
        self.path.mkdir()
        with self._image.open("wb") as image:
            image.truncate(_MEGABYTES << 20)
        try:
            _run("mkfs.ext4", "-q", "-F", str(self._image))
            self._mount()
        except BaseException:
            shutil.rmtree(self._folder)
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._unmount()
        shutil.rmtree(self._folder)

    def cut(self) -> None:
        folder = os.open(self.path, os.O_RDONLY)
        try:
            fcntl.ioctl(folder, _SHUTDOWN, struct.pack("I", _NO_FLUSH))
        finally:
            os.close(folder)

    def restore(self) -> None:
        """Mount what is left; all processes with open files on it must have ended.

        A copy is mounted: where another mount namespace was made meanwhile, the file system without power
        lives on in it, and a second mount of the same image would give that one again.
        """
        self._unmount()
        _run("cp", "--sparse=always", str(self._image), str(self._folder / "copy"))
        (self._folder / "copy").replace(self._image)
        self._mount()

    def _mount(self) -> None:
        _run("mount", "-o", "loop", str(self._image), str(self.path))

    def _unmount(self) -> None:
        wait_until(
            lambda: subprocess.run(["umount", self.path], capture_output=True, check=False).returncode == 0
        )


def _run(*argv: str) -> None:
    subprocess.run(argv, check=True, capture_output=True)
