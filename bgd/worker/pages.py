"""The memory that a worker shares with its children, in huge pages, which a fork has far fewer of to copy."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os

TYPE_CHECKING = False  # as typing's: the worker keeps its memory small
if TYPE_CHECKING:
    from collections.abc import Iterator

_LARGE = (32 << 20) - 8192  # bytes: hardly less than what the C library would ever keep apart by itself
_MADV_COLLAPSE = 25  # linux/mman.h, since Linux 6.1; an older one refuses it
_SETTINGS = "/sys/kernel/mm/transparent_hugepage/"
_SPARE = 4  # a quarter of a huge page may be room that nobody has used yet: it is memory from then on
_ENTRY = 8  # bytes of /proc/self/pagemap for each page; the highest bit of the last one: it is in memory


def keep_together() -> None:
    """Let what is allocated from now on lie in one piece, and not with gaps that huge pages cannot have.

    A large block lies apart from the others, and leaves a gap when it is freed; but after that, as mallopt(3)
    tells of M_MMAP_THRESHOLD, the C library puts blocks of its size among the others. So free a large one.
    """
    with contextlib.suppress(MemoryError):  # where the address space is limited
        bytes(_LARGE)  # of zeros that nobody has written, so it takes no memory


def gather() -> None:
    """Have the kernel move what would fill huge pages into such, as far as it can and may."""
    with contextlib.suppress(OSError):  # a kernel without them, or one that does not show what is in use
        if b"[never]" not in _content(f"{_SETTINGS}enabled"):  # as the machine's owner may want it
            _gather(int(_content(f"{_SETTINGS}hpage_pmd_size")))


def _gather(size: int) -> None:
    madvise = ctypes.CDLL(None, use_errno=True).madvise
    madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    for address in _full(size):
        if madvise(address, size, _MADV_COLLAPSE) and ctypes.get_errno() == errno.ENOMEM:
            return  # to try on would have the kernel look for room again and again


def _full(size: int) -> Iterator[int]:
    """Return the addresses at which this process's own memory is in use for that many bytes, or nearly so."""
    pages = size // os.sysconf("SC_PAGE_SIZE")
    with open("/proc/self/pagemap", "rb", buffering=0) as pagemap:  # noqa: PTH123  pathlib is slow to import
        for start, end in _areas():
            for address in range(-(-start // size) * size, end - size + 1, size):
                entries = os.pread(pagemap.fileno(), pages * _ENTRY, address // size * pages * _ENTRY)
                present = sum(last >> 7 for last in entries[_ENTRY - 1 :: _ENTRY])
                if present * _SPARE >= pages * (_SPARE - 1):
                    yield address


def _areas() -> list[tuple[int, int]]:
    """Return from where to where there is memory that may be written to and is of no file."""
    lines = [line.split(maxsplit=5) for line in _content("/proc/self/maps").splitlines()]
    areas = [line[0].split(b"-") for line in lines if line[1] == b"rw-p" and line[4] == b"0"]
    return [(int(start, 16), int(end, 16)) for start, end in areas]


def _content(path: str) -> bytes:
    with open(path, "rb") as file:  # noqa: PTH123  pathlib is slow to import
        return file.read()
