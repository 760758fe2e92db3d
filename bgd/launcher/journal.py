"""What the launcher must remember across its own death: its identity, started attempts, and their ends.

One append-only file is spool, run records and list for the sweep (R3, R4, R5). A record is
appended with a plain write, which survives a kill of the launcher. An end is also synced to the disk if no
supervisor is connected to store it. Attempts on a cluster outlive this machine, so their records are always
synced, by a thread: local jobs must not wait for the disk meanwhile. Each record is a frame with a CRC-32 and
MessagePack. The file is rewritten (new file, rename) at every start, and when most of it is obsolete.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import errno
import itertools
import logging
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import msgspec
from msgspec import Struct, field
from msgspec.structs import replace

from bgd.errors import ProtocolError
from bgd.launcher.process import Process
from bgd.wire.framing import FrameReader, frame
from bgd.wire.launching import MAX_LAUNCHING_FRAME, AttemptEnded, AttemptKey, Launch

# --- The records of the journal, and what they mean when they are read together.


class Instance(Struct, frozen=True, tag="instance"):
    """The launcher that writes, and the earlier ones of the same boot whose journal it has read.

    `id`: BOOT_ID:RANDOM. `groups`: the folder of its control groups; None: it had none. `pid`, `ticks`: its
    process and its start time, as in /proc/PID/stat. `unsearched`: records of its predecessors were lost, and
    the search for their leftovers is not finished.
    """

    id: str
    covers: list[str]
    groups: str | None = None
    pid: int | None = None
    ticks: int | None = None
    unsearched: bool = False


class Generation(Struct, frozen=True, tag="generation"):
    """The highest generation of a store's supervisors that has greeted (R1). `position`: as in Began."""

    store: str
    generation: int
    position: int = 0


class Began(Struct, frozen=True, tag="began", omit_defaults=True):
    """Written before the spawn. No process of the attempt is older than `since`, on the elapsed clock (R5).

    `pipe`: inode of its output. `tag`: the tag of its processes. `group`: path of their control group; None:
    they have none. `position`: the highest position that a supervisor of its store has named.

    Of an attempt on a cluster, which outlives the launcher: its `launch`, and `pilot`, the name and number
    in Slurm of the pilot that has it. `suspended`: it is stopped.
    """

    key: AttemptKey
    pipe: int
    since: float
    started_at: float
    tag: int | None = field(default=None, name="stamp")
    group: str | None = None
    position: int = 0
    launch: Launch | None = None
    pilot: tuple[str, int] | None = None
    suspended: bool = False


class FirstProcess(Struct, frozen=True, tag="first_process"):
    """The attempt's first process. `ticks`: its start time as in /proc/PID/stat."""

    key: AttemptKey
    pid: int
    ticks: int


class Finished(Struct, frozen=True, tag="finished"):
    """An end, to be reported until it is acknowledged (R4)."""

    ended: AttemptEnded


class Forgotten(Struct, frozen=True, tag="forgotten"):
    """The supervisor has the end on its disk. `position`: as in Began."""

    key: AttemptKey
    position: int = 0


Record = Instance | Generation | Began | FirstProcess | Finished | Forgotten


class AttemptRecords(Struct):
    """All records of one attempt."""

    began: Began | None = None
    first_process: FirstProcess | None = None
    finished: Finished | None = None

    @property
    def must_last(self) -> bool:
        """Whether to keep it over a power failure: what runs on a cluster outlives this machine."""
        return self.finished is not None or (self.began is not None and self.began.launch is not None)

    def records(self) -> Iterator[Record]:
        """Yield the records that exist, in the order in which they are written."""
        for record in (self.began, self.first_process, self.finished):
            if record is not None:
                yield record


class JournalContents(Struct):
    """The content of a journal."""

    instance: Instance | None = None
    generations: dict[str, int] = {}
    positions: dict[str, int] = {}
    attempts: dict[AttemptKey, AttemptRecords] = {}
    is_whole: bool = True  # False: some records could not be read, so absence proves nothing

    def add(self, record: Record) -> None:
        """Add a record, the next one in the file."""
        match record:
            case Instance():
                self.instance = record
            case Generation():
                self.generations[record.store] = record.generation
                self._pass(record.store, record.position)
            case Began():
                self._records(record.key).began = record
                self._pass(record.key.store, record.position)
            case FirstProcess():
                self._records(record.key).first_process = record
            case Finished():
                self._records(record.ended.key).finished = record
            case Forgotten():
                self.attempts.pop(record.key, None)
                self._pass(record.key.store, record.position)

    def _pass(self, store: str, position: int) -> None:
        self.positions[store] = max(self.positions.get(store, 0), position)

    def _records(self, key: AttemptKey) -> AttemptRecords:
        return self.attempts.setdefault(key, AttemptRecords())


def _key_of(record: Began | FirstProcess | Finished) -> AttemptKey:
    return record.ended.key if isinstance(record, Finished) else record.key


encode = msgspec.msgpack.Encoder().encode
_decoder: msgspec.msgpack.Decoder[Record] = msgspec.msgpack.Decoder(Record)
decode = _decoder.decode


log = logging.getLogger(__name__)


def read(path: Path) -> JournalContents:
    """Return the undamaged records; `is_whole` is False if others are damaged, or if there is no journal.

    A last record that was cut short counts as damage. Its writer had not yet acted on it, but a corrupted
    length looks the same and hides all records that follow.

    Raises:
        OSError: the file exists and cannot be read.
    """
    contents = JournalContents()
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        contents.is_whole = False
        return contents
    damaged = 0
    reader = FrameReader(_LIMIT)
    try:
        for payload in reader.feed(data):
            try:
                contents.add(_unframed(payload))
            except _DAMAGES:
                damaged += 1
        damaged += reader.is_mid_frame
    except ProtocolError:  # an impossible length: the next record cannot be found
        damaged += 1
    if damaged or contents.instance is None:
        log.warning("%s is damaged: %d records cannot be read", path, damaged)
        contents.is_whole = False
    elif contents.instance.unsearched:
        contents.is_whole = False
    return contents


class Journal:
    """Take over what the predecessor left in `contents`, and then append records."""

    def __init__(
        self,
        path: Path,
        instance: str,
        contents: JournalContents,
        groups: str | None = None,
        writer: Process | None = None,
    ) -> None:
        """Begin a new file with the records that still count; `writer` is the launcher's own process.

        Raises:
            OSError: the file cannot be written.
        """
        self._path = path
        covers = _covered_by(instance, contents)
        pid, ticks = (writer.pid, writer.ticks) if writer else (None, None)
        self.instance = Instance(instance, covers, groups, pid, ticks, not contents.is_whole)
        self._generations = dict(contents.generations)
        self._positions = dict(contents.positions)
        self._fd = -1
        self._size = 0
        self._frames = {  # records that still count, as they are written
            key: [_framed(record) for record in records.records()]
            for key, records in contents.attempts.items()
        }
        self._live_bytes = 0  # of them
        self._rewrites = 0
        self._unsynced: dict[AttemptKey, int] = {}  # when records were added that are not on the disk
        self._numbers = itertools.count()
        self._syncing = asyncio.Lock()  # held while a thread syncs
        self._thread: concurrent.futures.Executor | None = None  # if it was needed, which only Slurm does
        self._synced = {key for key, records in contents.attempts.items() if records.must_last}
        self._is_moved = True  # the folder on disk may not have this file yet
        self._is_doubtful = False  # the kernel may have dropped some of this file's data
        self._rewrite(durable=bool(self._synced))

    def generation(self, store: str) -> int:
        """Return the highest generation of this store's supervisors that was obeyed; 0: none."""
        return self._generations.get(store, 0)

    def position(self, store: str) -> int:
        """Return the highest position that a supervisor of this store has named; 0: none."""
        return self._positions.get(store, 0)

    def raise_position(self, store: str, position: int) -> None:
        """Remember a position that a supervisor named; the next record of its store writes it to the file."""
        if position > self.position(store):
            self._positions[store] = position

    def record_supervisor(self, store: str, generation: int, position: int) -> None:
        """Record the generation and position of a store's supervisor.

        Raises:
            OSError: the disk is full; then only this launcher remembers them.
        """
        if generation != self.generation(store) or position > self.position(store):
            self._generations[store] = generation
            self.raise_position(store, position)
            self._append(Generation(store, generation, self.position(store)))

    def record_search_done(self) -> None:
        """Record that the search for processes of lost records has ended.

        Raises:
            OSError: the disk is full; the next launcher will search again.
        """
        self.instance = replace(self.instance, unsearched=False)
        self._append(self.instance)

    def add_step(self, record: Began | FirstProcess) -> None:
        """Record a step of an attempt.

        Raises:
            OSError: the disk is full, and the file is unchanged.
        """
        if isinstance(record, Began):
            record = replace(record, position=self.position(record.key.store))
        self._keep(record)

    def note_suspension(self, record: Began, *, suspended: bool) -> Began:
        """Record whether an attempt on a cluster is stopped, and return its record.

        If the disk is full, the next launcher assumes the previous state.
        """
        record = replace(record, suspended=suspended)
        with or_without(f"the suspension of job {record.key.job}"):
            self.add_step(record)
        return record

    def add_end(self, ended: AttemptEnded, *, durable: bool) -> None:
        """Record an end until it is forgotten; `durable`: so that it survives a power failure from now on.

        Raises:
            OSError: the disk is full.
        """
        self._keep(Finished(ended))
        self._unsynced[ended.key] = next(self._numbers)
        if durable:
            self.sync()

    def forget(self, key: AttemptKey) -> None:
        """Remove an attempt.

        Raises:
            OSError: the disk is full; after a restart its end is reported again.
        """
        self._live_bytes -= sum(map(len, self._frames.pop(key, [])))
        self._unsynced.pop(key, None)
        self._synced.discard(key)
        self._append(Forgotten(key, self.position(key.store)))
        is_worth_it = self._size > _LARGE or (not self._frames and self._size > _SMALL)
        if is_worth_it and self._live_bytes * 2 < self._size:
            self._rewrite(durable=bool(self._synced) or self._syncing.locked())

    async def make_durable(self, key: AttemptKey | None = None) -> None:
        """Wait until an attempt's records survive a power failure; None: all records so far.

        Simultaneous calls for attempts share a sync. It blocks a thread, which at most opens, syncs and
        closes, so forks need not mind it.

        Raises:
            OSError: the disk failed; the next call tries again with a new file.
        """
        if key is not None and key in self._frames:
            self._unsynced[key] = next(self._numbers)
        async with self._syncing:
            if self._is_doubtful:
                self._sync_now()
            elif key is None or key in self._unsynced:  # otherwise it shared the previous sync
                await self._sync_in_thread()

    async def _sync_in_thread(self) -> None:
        taken, rewrites = dict(self._unsynced), self._rewrites
        if self._thread is None:  # not the loop's own pool, which needs one more thread to end
            self._thread = concurrent.futures.ThreadPoolExecutor(1)
        sync = partial(_sync, self._path, with_folder=self._is_moved)
        try:
            await asyncio.get_running_loop().run_in_executor(self._thread, sync)
        except (OSError, RuntimeError) as error:  # RuntimeError: no room for a thread
            if isinstance(error, OSError):
                self._doubt(error)
            self._sync_now()
            return
        for key, number in taken.items():
            if self._unsynced.get(key) == number:  # nothing was added to it meanwhile
                del self._unsynced[key]
                self._synced.add(key)
        if self._rewrites == rewrites:  # the file was not replaced meanwhile
            self._is_moved = False

    def _doubt(self, error: OSError) -> None:
        log.warning("%s cannot be synced (%s): writing a new file", self._path, error.strerror)
        self._is_doubtful = True

    def sync(self) -> None:
        """Sync every unacknowledged end to the disk.

        After a failed sync the kernel may have dropped what it could not write, and reports success for the
        next one: only a new file can be trusted then.

        Raises:
            OSError: the disk failed; the next call tries again with a new file.
        """
        if self._unsynced:
            self._sync_now()

    def _sync_now(self) -> None:
        if not self._is_doubtful:
            try:
                os.fdatasync(self._fd)
            except OSError as error:
                self._doubt(error)
        if self._is_doubtful:
            self._rewrite(durable=True)
        self._synced |= self._unsynced.keys()
        self._unsynced.clear()
        if self._is_moved:
            _sync_folder(self._path.parent)
            self._is_moved = False

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)
        if self._thread is not None:
            self._thread.shutdown()

    def _keep(self, record: Began | FirstProcess | Finished) -> None:
        data = self._append(record)
        self._frames.setdefault(_key_of(record), []).append(data)
        self._live_bytes += len(data)

    def _append(self, record: Record) -> bytes:
        data = _framed(record)
        if os.write(self._fd, data) != len(data):
            os.ftruncate(self._fd, self._size)  # half a record would hide all that follow it
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._path))
        self._size += len(data)
        return data

    def _rewrite(self, *, durable: bool) -> None:
        """Write a new file with the records that still count."""
        header = _framed(self.instance)
        for store, number in self._generations.items():
            header += _framed(Generation(store, number, self.position(store)))
        live = b"".join(itertools.chain.from_iterable(self._frames.values()))
        fd = _written(self._path, header + live, durable=durable)
        if self._fd >= 0:
            os.close(self._fd)
        self._fd, self._size, self._live_bytes = fd, len(header) + len(live), len(live)
        self._rewrites += 1
        self._is_moved = True
        self._is_doubtful = False


@contextmanager
def or_without(record: str) -> Iterator[None]:
    """Go on without a record that the block cannot write, and log that: `record` names it."""
    try:
        yield
    except OSError as error:
        log.warning("cannot write %s to the journal: %s", record, error.strerror)


_LIMIT = MAX_LAUNCHING_FRAME + 1024  # an AttemptEnded with its framing
_LARGE = 1 << 20  # bytes from which a mostly obsolete journal is rewritten
_SMALL = 1 << 17  # likewise if all of it is obsolete
_MAX_COVERED = 64  # predecessors named; no supervisor still waits for a Launch sent to an older one
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


def _covered_by(instance: str, contents: JournalContents) -> list[str]:
    earlier = contents.instance
    if earlier is None or not contents.is_whole or boot_of(earlier.id) != boot_of(instance):
        return []
    return [*earlier.covers, earlier.id][-_MAX_COVERED:]


def boot_of(instance: str) -> str:
    """Return the boot id in the id of a launcher instance."""
    return instance.partition(":")[0]


def _written(path: Path, data: bytes, *, durable: bool) -> int:
    """Put a new file in the journal's place; return its descriptor, open for appending."""
    new = path.with_suffix(".new")
    fd = os.open(
        new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600
    )
    try:
        if os.write(fd, data) != len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(new))  # noqa: TRY301  handled like a failed write
        if durable:
            os.fdatasync(fd)
        new.replace(path)
    except OSError:
        os.close(fd)
        raise
    return fd


def _sync(path: Path, *, with_folder: bool) -> None:
    """Sync the file at a path, which may be replaced meanwhile: by one that is synced already."""
    # opened again, because the kernel reports an error once per open file
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        os.fdatasync(fd)
    finally:
        os.close(fd)
    if with_folder:
        _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
