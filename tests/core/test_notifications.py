from datetime import UTC, datetime

import msgspec
import pytest

from bgd.core.notifications import Counted, Message, NotifyEvent

MESSAGE = Message(
    id="0123456789abcdef",
    event=NotifyEvent.SUMMARY,
    at=datetime(2026, 11, 27, 3, 0, tzinfo=UTC),
    target="ops",
    subject="12 notifications",
    summary=(Counted(event=NotifyEvent.FAILED, count=12, subjects=("nightly",)),),
)


def test_a_message_survives_its_way_as_json():
    assert msgspec.json.decode(msgspec.json.encode(MESSAGE), type=Message) == MESSAGE


def test_its_time_is_written_as_iso_8601():
    assert msgspec.to_builtins(MESSAGE)["at"] == "2026-11-27T03:00:00Z"


@pytest.mark.parametrize("wrong", ["", "12", "0123456789abcdef\nBcc: eve@example.org", "A" * 16])
def test_an_id_is_hexadecimal(wrong):
    with pytest.raises(msgspec.ValidationError, match="id"):
        msgspec.convert(msgspec.to_builtins(MESSAGE) | {"id": wrong}, Message)
