"""The folder of a pilot, which its node shares: the script that starts it, and what it leaves.

Only forks of the launcher touch it, because its file system may hang.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from functools import partial
from pathlib import Path

import msgspec
from msgspec import Struct

from bgd.launcher import journal
from bgd.launcher.problems import CannotStart
from bgd.launcher.shared_folder import SharedFolder, is_locked, make_in_shared
from bgd.launcher.slurm import last_line, one_line_of
from bgd.wire.launching import AttemptEnded

LEASE = 60.0  # seconds without a word until a pilot ends


class Left(Struct, frozen=True):
    """What a pilot has left. `problem`: nobody knows. `is_locked`: it runs. `last_words`: of its log.

    `has_all`: it ended in good order, so an attempt that is not in `ends` was never started. `node`: where it
    ran, if it did.
    """

    problem: str = ""
    is_locked: bool = False
    has_all: bool = False
    ends: list[AttemptEnded] = []
    last_words: str = ""
    node: str = ""


class PilotFolder(SharedFolder):
    """The state folder of a pilot, with the script that starts it."""

    @property
    def script(self) -> str:
        """The script, whose arguments are the interpreter and the folder."""
        return f"{self.path}/{_SCRIPT}"

    async def prepare(self) -> None:
        """Make it.

        Raises:
            CannotStart: that is not possible.
            OSError: its disk is full; may be tried again.
        """
        await self.in_fork(partial(_prepare, self.path))

    async def left(self) -> Left:
        """Return what is in it."""
        try:
            return msgspec.msgpack.decode(await self.in_fork(partial(_left, self.path)), type=Left)
        except (CannotStart, OSError) as error:
            return Left(problem=str(error))


def _prepare(folder: str) -> bytes:
    make_in_shared(folder)
    Path(folder, _SCRIPT).write_text(
        _START.format(lease=LEASE, orderly=_ORDERLY, node=_NODE), encoding="ascii"
    )
    return b""


def _left(folder: str) -> bytes:
    logging.disable()  # it is a fork; a record that was cut short is what a killed pilot leaves
    lock = Path(folder, "launcher.lock")
    if lock.exists() and is_locked(lock):
        return msgspec.msgpack.encode(Left(is_locked=True))
    found = journal.read(Path(folder, "launcher.journal"))
    ends = [records.finished.ended for records in found.attempts.values() if records.finished]
    has_all = found.is_whole and Path(folder, _ORDERLY).exists()
    words = one_line_of(last_line(_text_of(folder, "log")))
    node = _text_of(folder, _NODE).strip()
    return msgspec.msgpack.encode(Left(has_all=has_all, ends=ends, last_words=words, node=node))


def _text_of(folder: str, name: str) -> str:
    with suppress(OSError), Path(folder, name).open("rb") as file:
        return file.read(_MOST_TEXT).decode(errors="replace")
    return ""


_SCRIPT = "pilot.sh"
_ORDERLY, _NODE = "ended", "node"  # files
# If the launcher is killed, the next one reads its journal, ends what it left, and says so.
_START = """#!/bin/sh
trap '' TERM
echo "$SLURMD_NODENAME" >"$2/{node}"
for try in 1 2 3 4 5 6 7 8 9 10; do
    "$1" -P -m bgd.launcher --pilot {lease:g} --state "$2" --logs "$2"
    code=$?
    [ $code -eq 0 ] && : >"$2/{orderly}"
    [ $code -lt 128 ] && exit $code
done
"""
_MOST_TEXT = 1 << 16  # bytes that are read of its log
