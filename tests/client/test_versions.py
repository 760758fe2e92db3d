"""Programs and daemons of two versions: what one of them does not know is refused, and never dropped."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from bgd import Client
from bgd.client.blocking.concurrency import run
from bgd.core.schedule_spec import ScheduleSpec
from bgd.core.spec import JobSpec
from bgd.errors import ProtocolError, Refused
from bgd.wire import replies, requests
from bgd.wire.framing import frame
from bgd.wire.schedules import digest_of
from tests.support import DEADLINE


class LaterSpec(JobSpec, frozen=True, kw_only=True):
    """A job with an option of a later version."""

    later: int | None = None


class LaterRequest(requests.Show, frozen=True, tag="later_request"):
    """A request of a later version."""


@pytest.fixture
def client(daemon):
    with daemon.client() as made:
        yield made


def unknown(name: str) -> Any:
    return pytest.raises(
        ProtocolError, match=rf"is an older bgd \(\S+\), which does not know `{name}`: upgrade it"
    )


def test_an_option_that_an_older_daemon_does_not_know_is_refused_and_named(client):
    before = client.last_event()

    with unknown("later"):
        client.submit_many([JobSpec(argv=("true",)), LaterSpec(argv=("true",), later=1)])
    assert client.last_event() == before  # no job is queued


def test_an_older_daemon_takes_what_needs_no_later_option(client):
    [job] = client.submit_many([LaterSpec(argv=("true",))])

    assert job.wait(DEADLINE).state == "succeeded"


def test_a_request_that_an_older_daemon_does_not_know_is_named(client):
    with unknown("later_request"):
        run(client._channel.ask(LaterRequest(0), replies.Shown))


def test_a_value_that_a_daemon_of_this_version_does_not_take_says_nothing_of_versions(client):
    with pytest.raises(ProtocolError, match=r"`\$.specs\[0\].priority`$"):
        client.submit_many([JobSpec(argv=("true",), priority=100_000)])


def test_an_older_program_does_not_drop_options_of_a_schedule_that_it_edits(play):
    def script(peer):
        peer.greet(version="1.9.0")
        spec: dict[str, Any] = {"job": {"argv": ["date"], "later": 1}, "every": "1d"}
        whole = msgspec.convert({"job": {"argv": ["date"]}, "every": "1d"}, ScheduleSpec)
        view = {"name": "nightly", "is_configured": False, "is_paused": False, "words": "every day"}
        view |= {"timezone": "UTC", "upcoming": [], "spec": spec, "digest": digest_of(whole)[::-1]}
        number = peer.receive().id
        reply = {"type": "schedules", "id": number, "schedules": [view]}
        peer.send_bytes(frame(msgspec.msgpack.encode(reply)))
        peer.send(replies.End(number))
        peer.wait_for_end()

    with Client(play(script)) as client, pytest.raises(Refused) as refused:
        client.schedules.edit("nightly", every="2d")
    assert "schedule nightly has options of a newer bgd, which this program" in str(refused.value)


def test_a_schedule_with_many_options_is_edited(client):
    options: dict[str, Any] = {
        "timeout": 60,
        "retry_delay": [1, 2.5],
        "limit": ("a", 2),
        "env": {"B": "1", "A": "2"},
    }
    client.schedules.add(
        "full", ["true"], cron="0 3 * * *", late_after=60, jitter=1, excluded=["12-24"], **options
    )

    view = client.schedules.edit("full", missed="latest", tags=["t"])

    assert (view.spec.missed, view.spec.job.tags, view.spec.job.limit) == ("latest", ("t",), ("a", 2))
    assert view.spec.job.retry_delay == (1.0, 2.5)
