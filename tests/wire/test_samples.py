"""Messages of every version since 1.0 stay readable, and keep their shape.

The samples are bytes that a version sent, with a value in every field that it had: they are never changed.
For a message that is new, run `python -m tests.wire.test_samples`, which writes the samples that are missing.
"""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from tests.support import has_all_of
from tests.wire.message_strategies import DIRECTIONS, KINDS, full_message, tag_of

SAMPLES = Path(__file__).parent / "samples"


@pytest.mark.parametrize("sample", sorted(SAMPLES.rglob("*.msgpack")), ids=lambda sample: sample.stem)
def test_a_message_is_still_understood_and_sent_in_the_shape_it_had(sample):
    _, encode, decode = DIRECTIONS[sample.parent.name]
    payload = sample.read_bytes()
    then = msgspec.msgpack.decode(payload)

    now = msgspec.msgpack.decode(encode(decode(payload)))

    assert has_all_of(now, then)
    if sample.parent.name == "request":  # an older daemon refuses fields that it does not know
        assert has_all_of(then, now)


def test_there_is_a_sample_of_every_message():
    samples = {f"{path.parent.name}/{path.stem}" for path in SAMPLES.rglob("*.msgpack")}

    assert samples >= {f"{direction}/{tag_of(kind)}" for direction, kind in KINDS}


if __name__ == "__main__":
    for direction, kind in KINDS:
        path = SAMPLES / direction / f"{tag_of(kind)}.msgpack"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(DIRECTIONS[direction][1](full_message(kind)))
