"""A FUSE file system that answers almost nothing: a process that touches it hangs."""

from __future__ import annotations

import ctypes
import os
import select
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

_libc = ctypes.CDLL(None, use_errno=True)
_IN_HEADER = struct.Struct("=IIQQIIII")  # fuse_in_header of linux/fuse.h
_LOOKUP, _OPEN, _INIT = 1, 14, 26
_MNT_FORCE, _MNT_DETACH = 1, 2


class SilentMount:
    """A silent file system, mounted at `point`."""

    def __init__(self, point: Path) -> None:
        self.point = point
        self._device = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
        options = f"fd={self._device},rootmode=40000,user_id={os.getuid()},group_id={os.getgid()}"
        if _libc.mount(b"silent", bytes(point), b"fuse.silent", 0, options.encode()):
            error = OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
            os.close(self._device)
            raise error
        opcode, unique = self.read_request()
        assert opcode == _INIT
        major, minor, max_write = 7, 31, 4096
        self._answer(unique, struct.pack("=IIIIHHI", major, minor, 0, 0, 0, 0, max_write).ljust(64, b"\0"))

    def read_request(self) -> tuple[int, int]:
        """Read the next request: from then on not even SIGKILL ends the process that waits for the answer."""
        _, opcode, unique, *_ = _IN_HEADER.unpack_from(os.read(self._device, 1 << 17))
        return opcode, unique

    def let_open(self) -> None:
        """Answer the two requests of opening a file: every name is an empty file."""
        long, file_number, mode = 1000, 2, 0o100644
        for wanted, body in (
            (_LOOKUP, struct.pack("=QQQQII48x12xIII16x", file_number, 0, long, long, 0, 0, mode, 1, 0)),
            (_OPEN, struct.pack("=QII", 1, 0, 0)),
        ):
            opcode, unique = self.read_request()
            assert opcode == wanted
            self._answer(unique, body)

    def _answer(self, unique: int, body: bytes) -> None:
        os.write(self._device, struct.pack("=IiQ", 16 + len(body), 0, unique) + body)

    def is_asked(self) -> bool:
        """Whether a process waits whose request was not read."""
        return bool(select.select([self._device], [], [], 0)[0])

    def end(self) -> None:
        """Unmount it; all processes that wait go on with an error."""
        if self._device >= 0:
            os.close(self._device)
            self._device = -1
            _libc.umount2(bytes(self.point), _MNT_FORCE | _MNT_DETACH)


@contextmanager
def silent_mount(folder: Path) -> Iterator[SilentMount]:
    """Mount one in this folder, or skip the test."""
    point = folder / "silent"
    point.mkdir()
    try:
        mount = SilentMount(point)
    except OSError as error:
        pytest.skip(
            f"NOT RUN: mounts a FUSE file system that hangs, which takes root and /dev/fuse ({error})"
        )
    try:
        yield mount
    finally:
        mount.end()
