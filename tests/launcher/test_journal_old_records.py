"""Journals of every earlier launcher stay readable: a new launcher takes over what the last one left.

The samples are bytes that were once written; never change them. For a new record, run
`python -m tests.launcher.test_journal_old_records`, which writes the samples that are missing.
"""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import msgspec
import pytest

from bgd.core.job import Outcome
from bgd.launcher import journal
from bgd.launcher.journal import Began, Finished, FirstProcess, Forgotten, Generation, Instance, Record
from bgd.wire.launching import AttemptEnded, AttemptKey
from tests.support import has_all_of

SAMPLES = Path(__file__).parent / "samples"

KEY = AttemptKey("9f2c", 17, 4)
ENDED = AttemptEnded(
    key=KEY,
    outcome=Outcome.EXIT,
    exit_code=2,
    signal=15,
    started_at=1_790_000_001.5,
    finished_at=1_790_000_002.75,
    user_seconds=0.25,
    system_seconds=0.125,
    max_rss_bytes=7_340_032,
    log_bytes=120,
    problem="größer",
    result=b'{"ok":1}',
    whole_tree=True,
    memory_peak_bytes=64_000_000,
)

WRITTEN: dict[str, Record] = {
    "instance": Instance("boot:random", ["boot:older"], "/sys/fs/cgroup/bgd", 4243, 1250, unsearched=True),
    "instance_of_old": Instance("boot:random", ["boot:older"]),
    "generation": Generation("9f2c", 3),
    "began": Began(KEY, 4711, 12.5, 1_790_000_000.25, 2_000_000_017, "/sys/fs/cgroup/bgd/17.4"),
    "began_plain": Began(KEY, 4711, 12.5, 1_790_000_000.25),
    "first_process": FirstProcess(KEY, 99, 1250),
    "finished": Finished(ENDED),
    "forgotten": Forgotten(KEY),
}


def sample_of(name: str) -> Path:
    return SAMPLES / f"{name}.msgpack"


@pytest.mark.parametrize("name", WRITTEN)
def test_what_was_once_written_is_still_understood(name):
    assert journal.decode(sample_of(name).read_bytes()) == WRITTEN[name]


@pytest.mark.parametrize("name", WRITTEN)
def test_a_record_is_still_written_in_the_shape_it_had(name):
    written = msgspec.msgpack.decode(journal.encode(WRITTEN[name]))

    assert has_all_of(written, msgspec.msgpack.decode(sample_of(name).read_bytes()))


def test_there_is_a_sample_of_every_record():
    assert {type(record) for record in WRITTEN.values()} == set(get_args(Record))


if __name__ == "__main__":
    SAMPLES.mkdir(exist_ok=True)
    for each, record in WRITTEN.items():
        if not sample_of(each).exists():
            sample_of(each).write_bytes(journal.encode(record))
