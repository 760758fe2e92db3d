"""Journals of every launcher since 1.0 stay readable: a new launcher takes over what the last one left.

The samples are bytes that a launcher wrote, with a value in every field: they are never changed. For a new
record, run `python -m tests.launcher.test_journal_samples`, which writes the samples that are missing.
"""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import msgspec
import pytest

from bgd.launcher import journal
from tests.support import has_all_of
from tests.wire.message_strategies import full_message, tag_of

SAMPLES = Path(__file__).parent / "samples"


def sample_of(kind: type[msgspec.Struct]) -> Path:
    return SAMPLES / f"{tag_of(kind)}.msgpack"


@pytest.mark.parametrize("kind", get_args(journal.Record), ids=tag_of)
def test_a_record_is_still_understood_and_written_in_the_shape_it_had(kind):
    written = sample_of(kind).read_bytes()

    again = journal.encode(journal.decode(written))

    assert has_all_of(msgspec.msgpack.decode(again), msgspec.msgpack.decode(written))


if __name__ == "__main__":
    for each in get_args(journal.Record):
        if not sample_of(each).exists():
            sample_of(each).write_bytes(journal.encode(full_message(each)))
