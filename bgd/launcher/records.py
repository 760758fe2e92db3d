"""What the journal holds, record by record, and what the records say when they are read together."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
from msgspec import Struct

from bgd.wire.launching import Ended, Key


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

    key: Key
    pipe: int
    since: float
    started_at: float
    stamp: int | None = None
    group: str | None = None
    position: int = 0


class FirstProcess(Struct, frozen=True, tag="first_process"):
    """Its first process. `ticks`: that process's start time as /proc/PID/stat tells it."""

    key: Key
    pid: int
    ticks: int


class Finished(Struct, frozen=True, tag="finished"):
    """What is to be told until it is acknowledged (R4)."""

    ended: Ended


class Forgotten(Struct, frozen=True, tag="forgotten"):
    """The end is on the supervisor's disk. `position`: as in Began."""

    key: Key
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
    traces: dict[Key, Trace] = {}
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

    def _trace(self, key: Key) -> Trace:
        return self.traces.setdefault(key, Trace())


def key_of(record: Began | FirstProcess | Finished) -> Key:
    return record.ended.key if isinstance(record, Finished) else record.key


encode = msgspec.msgpack.Encoder().encode
_decoder: msgspec.msgpack.Decoder[Record] = msgspec.msgpack.Decoder(Record)
decode = _decoder.decode
