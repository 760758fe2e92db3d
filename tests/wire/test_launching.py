from __future__ import annotations

import msgspec
import pytest

from bgd.errors import ProtocolError
from bgd.wire.framing import frame
from bgd.wire.launching import (
    MAX_BALLAST,
    MAX_LAUNCHING_FRAME,
    Acknowledge,
    AttemptKey,
    AttemptStarted,
    Launch,
    ballast_on,
    decode_from_launcher,
    decode_to_launcher,
    encode,
    log_name,
)

KEY = AttemptKey("store", 17, 2)
NOT_UTF_8 = "caf\udce9"  # how Python reads an environment of other bytes


def test_each_side_decodes_only_messages_of_the_other():
    with pytest.raises(ProtocolError, match=r"not a message of launching protocol \d"):
        decode_from_launcher(encode(Acknowledge(KEY)))
    with pytest.raises(ProtocolError, match=r"not a message of launching protocol \d"):
        decode_to_launcher(encode(AttemptStarted(KEY, 1, 0.0)))


def test_a_key_of_a_later_version_may_be_longer():
    payload = msgspec.msgpack.encode({"type": "acknowledge", "key": ["store", 17, 2, "more"]})

    assert decode_to_launcher(payload) == Acknowledge(KEY)


def test_keys_with_equal_values_are_equal():
    assert {KEY: "known"}[AttemptKey("store", 17, 2)] == "known"


@pytest.mark.parametrize(
    "launch",
    [
        Launch(key=KEY, argv=[NOT_UTF_8], env={}, cwd="/"),
        Launch(key=KEY, argv=["true"], env={"A": NOT_UTF_8}, cwd="/"),
        Launch(key=KEY, argv=["true"], env={}, cwd=NOT_UTF_8),
    ],
)
def test_text_that_is_not_utf_8_is_not_sent(launch):
    with pytest.raises(ProtocolError, match=r"not UTF-8 text: 'caf\\udce9'"):
        encode(launch)


def test_the_longest_launch_fits_into_a_frame():
    launch = Launch(
        key=KEY,
        argv=["x" * 100_000] * 10,
        env={f"NAME_{number}": "x" * 1000 for number in range(4096)},
        cwd="/" + "x" * 4095,
        stdin=b"x" * 1_000_000,
    )

    assert len(frame(encode(launch), MAX_LAUNCHING_FRAME)) < MAX_LAUNCHING_FRAME


@pytest.mark.parametrize(
    ("job", "attempt", "name"),
    [
        (1, 1, "0/1.1.log"),
        (999, 12, "0/999.12.log"),
        (1000, 1, "1/1000.1.log"),
        (1_234_567, 3, "1234/1234567.3.log"),
    ],
)
def test_logs_are_in_folders_of_a_thousand_jobs(job, attempt, name):
    assert log_name(job, attempt) == name


def test_a_large_disk_keeps_the_ballast_and_a_small_one_its_share():
    assert ballast_on(1 << 40) == MAX_BALLAST
    assert ballast_on(16 * MAX_BALLAST) == MAX_BALLAST
    assert ballast_on(4 << 20) == 256 << 10
