"""What the launcher must remember beyond its own death: who it is, what it started, how that ended.

One append-only file is spool, run records and list for the sweep in one (R3, R4, R5). Records are appended
with a plain write, which no kill of the launcher takes back; an end that no supervisor is there to store is
also synced to the disk. Each is a frame of a CRC-32 and MessagePack. The file is rewritten (new file, rename)
at every start, and when most of it is dead.
"""

from __future__ import annotations

import errno
import logging
import os
import zlib
from collections.abc import Iterator
from pathlib import Path

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from bgd.errors import ProtocolError
from bgd.launcher.process import Process
from bgd.wire.framing import FrameReader, frame
from bgd.wire.launching import MAX_LAUNCHING_FRAME, AttemptEnded, AttemptKey

# --- What the journal holds, record by record, and what the records say when they are read together.


class Instance(Struct, frozen=True, tag="instance"):
    """Who writes, BOOT_ID:RANDOM, and the earlier ones of the same boot whose journal it read.

    `groups`: the folder of its control groups, None: it had none. `pid`, `ticks`: its process, and when that
    was started, as /proc/PID/stat tells it; None of older launchers, which did not say. `unsearched`: notes
    of its predecessors were lost, and what they left has not been looked for yet.
    """

    id: str
    covers: list[str]
    groups: str | None = None
    pid: int | None = None
    ticks: int | None = None
    unsearched: bool = False


class Generation(Struct, frozen=True, tag="generation"):
    """The highest generation of a store's supervisors that was greeted (R1). `position`: as in Began."""

    store: str
    generation: int
    position: int = 0


class Began(Struct, frozen=True, tag="began", omit_defaults=True):
    """About to spawn. `pipe`: inode of its output; `since`: elapsed clock, nothing of it is older (R5).

    `stamp`: that its processes have, `group`: path of the control group they are in, None: none. `position`:
    the highest that a supervisor of its store had named.
    """

    key: AttemptKey
    pipe: int
    since: float
    started_at: float
    stamp: int | None = None
    group: str | None = None
    position: int = 0


class FirstProcess(Struct, frozen=True, tag="first_process"):
    """Its first process. `ticks`: that process's start time as /proc/PID/stat tells it."""

    key: AttemptKey
    pid: int
    ticks: int


class Finished(Struct, frozen=True, tag="finished"):
    """What is to be told until it is acknowledged (R4)."""

    ended: AttemptEnded


class Forgotten(Struct, frozen=True, tag="forgotten"):
    """The end is on the supervisor's disk. `position`: as in Began."""

    key: AttemptKey
    position: int = 0


Record = Instance | Generation | Began | FirstProcess | Finished | Forgotten


class Trace(Struct):
    """All that is known of one attempt."""

    began: Began | None = None
    first_process: FirstProcess | None = None
    finished: Finished | None = None

    def records(self) -> Iterator[Record]:
        for record in (self.began, self.first_process, self.finished):
            if record is not None:
                yield record


class Recollection(Struct):
    """What a journal said."""

    instance: Instance | None = None
    generations: dict[str, int] = {}
    positions: dict[str, int] = {}
    traces: dict[AttemptKey, Trace] = {}
    is_whole: bool = True  # False: something in it could not be read, so absence proves nothing

    def add(self, record: Record) -> None:
        match record:
            case Instance():
                self.instance = record
            case Generation():
                self.generations[record.store] = record.generation
                self._pass(record.store, record.position)
            case Began():
                self._trace(record.key).began = record
                self._pass(record.key.store, record.position)
            case FirstProcess():
                self._trace(record.key).first_process = record
            case Finished():
                self._trace(record.ended.key).finished = record
            case Forgotten():
                self.traces.pop(record.key, None)
                self._pass(record.key.store, record.position)

    def _pass(self, store: str, position: int) -> None:
        self.positions[store] = max(self.positions.get(store, 0), position)

    def _trace(self, key: AttemptKey) -> Trace:
        return self.traces.setdefault(key, Trace())


def key_of(record: Began | FirstProcess | Finished) -> AttemptKey:
    return record.ended.key if isinstance(record, Finished) else record.key


encode = msgspec.msgpack.Encoder().encode
_decoder: msgspec.msgpack.Decoder[Record] = msgspec.msgpack.Decoder(Record)
decode = _decoder.decode


log = logging.getLogger(__name__)


def read(path: Path) -> Recollection:
    """Return what the journal says, without the records that are damaged; not whole too if it is missing.

    A last record cut short is damage as well. Whoever was writing it did not yet act on it; but a length that
    became larger looks the same, and hides all that follows.

    Raises:
        OSError: the file is there and cannot be read.
    """
    recollection = Recollection()
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        recollection.is_whole = False
        return recollection
    damaged = 0
    reader = FrameReader(_LIMIT)
    try:
        for payload in reader.feed(data):
            try:
                recollection.add(_unframed(payload))
            except _DAMAGES:
                damaged += 1
        damaged += reader.is_mid_frame
    except ProtocolError:  # a length that cannot be: where the next record begins is not known
        damaged += 1
    if damaged or recollection.instance is None:
        log.warning("%s is damaged: records that cannot be read: %d", path, damaged)
        recollection.is_whole = False
    elif recollection.instance.unsearched:
        recollection.is_whole = False
    return recollection


class Journal:
    """Takes over what its predecessor left in `recollection`, then is written to."""

    def __init__(
        self,
        path: Path,
        instance: str,
        recollection: Recollection,
        groups: str | None = None,
        writer: Process | None = None,
    ) -> None:
        """Begin anew with what of the recollection still counts; `writer`: the launcher's process.

        Raises:
            OSError: it cannot be written.
        """
        self._path = path
        covers = _covered_by(instance, recollection)
        pid, ticks = (writer.pid, writer.ticks) if writer else (None, None)
        self.instance = Instance(instance, covers, groups, pid, ticks, not recollection.is_whole)
        self._generations = dict(recollection.generations)
        self._positions = dict(recollection.positions)
        self._fd = -1
        self._size = 0
        self._places: dict[
            AttemptKey, list[tuple[int, int]]
        ] = {}  # the living: where their records start and end
        self._living = 0  # bytes
        self._unsynced: set[AttemptKey] = set()  # ends that a power cut would take
        self._synced = {key for key, trace in recollection.traces.items() if trace.finished is not None}
        self._is_moved = True  # the folder may not yet name this file on disk
        self._is_doubtful = False  # the kernel may have dropped something of this file
        self._rewrite(
            [
                (key, [_framed(record) for record in trace.records()])
                for key, trace in recollection.traces.items()
            ],
            durable=bool(self._synced),
        )

    def generation(self, store: str) -> int:
        """Return the highest generation of this store's supervisors that was obeyed, 0: none."""
        return self._generations.get(store, 0)

    def position(self, store: str) -> int:
        """Return the highest position that a supervisor of this store named, 0: none."""
        return self._positions.get(store, 0)

    def pass_position(self, store: str, position: int) -> None:
        """Take a position that a supervisor named; the next record of its store brings it to the file."""
        if position > self.position(store):
            self._positions[store] = position

    def obey(self, store: str, generation: int) -> None:
        """Remember a generation, and with it the position.

        Raises:
            OSError: there is no room.
        """
        if self._generations.get(store) != generation:
            self._generations[store] = generation
            self._append(Generation(store, generation, self.position(store)))

    def end_search(self) -> None:
        """Remember that nothing is left any more of those whose notes were lost.

        Raises:
            OSError: there is no room; the next launcher would search again.
        """
        self.instance = replace(self.instance, unsearched=False)
        self._append(self.instance)

    def note(self, record: Began | FirstProcess) -> None:
        """Remember a step of an attempt.

        Raises:
            OSError: there is no room; the file is as it was before.
        """
        if isinstance(record, Began):
            record = replace(record, position=self.position(record.key.store))
        self._keep(record)

    def finish(self, ended: AttemptEnded, *, durable: bool) -> None:
        """Remember an end until it is forgotten; `durable`: even if the power fails now.

        Raises:
            OSError: there is no room.
        """
        self._keep(Finished(ended))
        self._unsynced.add(ended.key)
        if durable:
            self.sync()

    def forget(self, key: AttemptKey) -> None:
        """Drop an attempt.

        Raises:
            OSError: there is no room to say so; after a restart its end would be told again.
        """
        self._living -= sum(end - start for start, end in self._places.pop(key, []))
        self._unsynced.discard(key)
        self._synced.discard(key)
        self._append(Forgotten(key, self.position(key.store)))
        is_worth_it = self._size > _LARGE or (not self._places and self._size > _SMALL)
        if is_worth_it and self._living * 2 < self._size:
            self._rewrite_living(durable=bool(self._synced))

    def sync(self) -> None:
        """Bring every end that is still to be told to the disk.

        After a failed sync the kernel may have dropped what it could not write, and says that the next one
        succeeds: only a new file is worth anything then.

        Raises:
            OSError: the disk fails; the next call tries it with a new file.
        """
        if not self._unsynced:
            return
        if not self._is_doubtful:
            try:
                os.fdatasync(self._fd)
            except OSError as error:
                log.warning("%s cannot be synced (%s): it is written anew", self._path, error.strerror)
                self._is_doubtful = True
        if self._is_doubtful:
            self._rewrite_living(durable=True)
        self._synced |= self._unsynced
        self._unsynced.clear()
        if self._is_moved:
            _sync_folder(self._path.parent)
            self._is_moved = False

    def close(self) -> None:
        os.close(self._fd)

    def _keep(self, record: Began | FirstProcess | Finished) -> None:
        start, end = self._append(record)
        self._places.setdefault(key_of(record), []).append((start, end))
        self._living += end - start

    def _append(self, record: Record) -> tuple[int, int]:
        data = _framed(record)
        if os.write(self._fd, data) != len(data):
            os.ftruncate(self._fd, self._size)  # half a record would hide all that follow
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._path))
        start, self._size = self._size, self._size + len(data)
        return start, self._size

    def _rewrite_living(self, *, durable: bool) -> None:
        self._rewrite(
            [
                (key, [os.pread(self._fd, end - start, start) for start, end in places])
                for key, places in self._places.items()
            ],
            durable=durable,
        )

    def _rewrite(self, kept: list[tuple[AttemptKey, list[bytes]]], *, durable: bool) -> None:
        data = bytearray(_framed(self.instance))
        for store, number in self._generations.items():
            data += _framed(Generation(store, number, self.position(store)))
        header = len(data)
        places: dict[AttemptKey, list[tuple[int, int]]] = {}
        for key, frames in kept:
            places[key] = []
            for each in frames:
                places[key].append((len(data), len(data) + len(each)))
                data += each
        fd = _written(self._path, bytes(data), durable=durable)
        if self._fd >= 0:
            os.close(self._fd)
        self._fd, self._size, self._places = fd, len(data), places
        self._living = self._size - header
        self._is_moved = True
        self._is_doubtful = False


_LIMIT = MAX_LAUNCHING_FRAME + 1024  # an AttemptEnded with what surrounds it
_LARGE = 1 << 20  # bytes from which a journal that is mostly dead is rewritten
_SMALL = 1 << 16  # likewise when all of it is dead
_MOST_COVERED = 64  # predecessors named; a Launch on its way to an older one was given up long ago
_CHECKSUM = 4
_DAMAGES = (ProtocolError, msgspec.MsgspecError, RecursionError, UnicodeDecodeError)


def _framed(record: Record) -> bytes:
    payload = encode(record)
    return frame(zlib.crc32(payload).to_bytes(_CHECKSUM, "big") + payload, _LIMIT)


def _unframed(data: bytes) -> Record:
    payload = data[_CHECKSUM:]
    if zlib.crc32(payload).to_bytes(_CHECKSUM, "big") != data[:_CHECKSUM]:
        raise ProtocolError("a damaged record")
    return decode(payload)


def _covered_by(instance: str, recollection: Recollection) -> list[str]:
    earlier = recollection.instance
    if earlier is None or not recollection.is_whole or boot_of(earlier.id) != boot_of(instance):
        return []
    return [*earlier.covers, earlier.id][-_MOST_COVERED:]


def boot_of(instance: str) -> str:
    return instance.partition(":")[0]


def _written(path: Path, data: bytes, *, durable: bool) -> int:
    """Put a new file in the journal's place and return it open for appending."""
    new = path.with_suffix(".new")
    fd = os.open(new, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        if os.write(fd, data) != len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(new))  # noqa: TRY301  as a failed write
        if durable:
            os.fdatasync(fd)
        new.replace(path)
    except OSError:
        os.close(fd)
        raise
    return fd


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
