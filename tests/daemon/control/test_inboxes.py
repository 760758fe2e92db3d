"""The inbox of a session: each end of its jobs is handed out until it is acknowledged."""

from __future__ import annotations

import signal
import threading

import pytest

from bgd import Outcome, Refused, State
from tests.support import DEADLINE, serving, wait_until


@pytest.fixture(scope="module")
def daemon():
    with serving("[daemon]\nslots = 4\n[logs]\nmax_bytes = 4000\n") as running:
        yield running


@pytest.fixture
def client(daemon):
    with daemon.client() as client:
        yield client


@pytest.fixture
def session(request):
    """Return a session that no other test has."""
    return request.node.name[:200]


def facts(ends):
    return [(end.job, end.outcome, end.redelivered) for end in ends]


def test_an_end_has_what_a_reader_needs(client, session):
    job = client.submit(["sh", "-c", "seq 1 30; exit 3"], name="build", session=session)

    [end] = client.inbox(session, wait=DEADLINE)

    assert (end.job, end.name, end.session, end.attempt) == (job.id, "build", session, 1)
    assert (end.state, end.outcome, end.exit_code) == (State.FAILED, Outcome.EXIT, 3)
    assert end.tail == "\n".join(map(str, range(21, 31)))
    assert end.seconds is not None
    assert end.at == job.refresh().finished_at


@pytest.mark.parametrize(
    ("script", "tail"),
    [
        ("printf 'no newline'", "no newline"),
        ("printf '10%%\\r\\033[31m99%%\\n'", "99%"),
        ("printf '%02000d' 7", f"{7:01000d}"),
        ("printf '%02000d\\n' 1 2 3 4; echo last", "last"),
        ("true", ""),
    ],
)
def test_the_tail_is_short_and_can_be_shown_anywhere(client, session, script, tail):
    client.submit(["sh", "-c", script], session=session)

    [end] = client.inbox(session, wait=DEADLINE)

    assert end.tail == tail


def test_what_is_not_acknowledged_comes_again_and_then_never_more(client, session):
    jobs = client.submit_many(
        [{"argv": ["true"], "session": session}, {"argv": ["false"], "session": session}]
    )
    client.wait(jobs)
    expected = [(jobs[0].id, Outcome.SUCCEEDED), (jobs[1].id, Outcome.EXIT)]

    first = client.inbox(session)
    second = client.inbox(session)
    client.acknowledge(first)

    assert sorted(facts(first)) == [(*each, False) for each in expected]
    assert sorted(facts(second)) == [(*each, True) for each in expected]
    assert [end.event for end in first] == [end.event for end in second]
    assert client.inbox(session) == []


def test_one_reader_at_a_time_gets_an_end_until_its_connection_is_closed(daemon, client, session):
    job = client.submit(["true"], session=session).wait(DEADLINE)
    with daemon.client() as other:
        found = other.inbox(session)

        assert client.inbox(session) == []
        assert client.inbox(session, wait=0.1) == []
        assert [end.event for end in client.inbox(session, peek=True)] == [found[0].event]

    assert facts(client.inbox(session, wait=DEADLINE)) == [(job.id, Outcome.SUCCEEDED, True)]


def test_to_look_marks_nothing_and_keeps_nothing_from_others(daemon, client, session):
    job = client.submit(["true"], session=session).wait(DEADLINE)
    with daemon.client() as other:
        looked = [other.inbox(session, peek=True) for _ in range(2)]

        assert facts(client.inbox(session)) == [(job.id, Outcome.SUCCEEDED, False)]
        assert [facts(ends) for ends in looked] == [[(job.id, Outcome.SUCCEEDED, False)]] * 2


def test_a_reader_waits_for_the_first_end(daemon, client, session):
    found = []
    with daemon.client() as other:
        reader = threading.Thread(target=lambda: found.extend(other.inbox(session, wait=None)))
        reader.start()
        job = client.submit(["true"], session=session)
        reader.join(DEADLINE)

    assert facts(found) == [(job.id, Outcome.SUCCEEDED, False)]


def test_every_way_to_end_is_in_the_inbox(client, session):
    """A cancel, also before start and retry; a job whose source fails, and again; one that runs again."""
    of = {"session": session}
    failed = client.submit(["false"], **of)
    held = client.submit(["true"], hold=True, **of)
    running = client.submit(["sleep", "100"], **of)
    retrying = client.submit(["sh", "-c", "exit 4"], retries=1, retry_delay=1000, **of)
    after = client.submit(["true"], after=[held.id], **of)
    for job in (held, retrying, running):
        client.cancel([job.id])
    client.wait([failed, held, running, retrying, after])
    born = client.submit(["true"], after=[failed.id], **of)
    client.retry([failed.id])
    client.wait([failed, born])

    ends = client.inbox(session)

    cancelled = [job.id for job in (held, running, retrying, after, born, born)]
    assert sorted((end.job, end.outcome) for end in ends) == sorted(
        [(failed.id, Outcome.EXIT)] * 2 + [(job, Outcome.CANCELLED) for job in cancelled]
    )
    assert [end.attempt for end in ends if end.job == failed.id] == [1, 2]


def test_ends_go_with_their_jobs_if_a_person_removes_these(client, session):
    jobs = client.submit_many([{"argv": ["true"], "session": session}] * 2)
    client.wait(jobs)
    client.remove([jobs[0].id])

    assert [end.job for end in client.inbox(session)] == [jobs[1].id]


def test_a_list_has_at_most_as_many_ends_as_were_asked_for(daemon, client, session):
    jobs = client.submit_many([{"argv": ["true"], "session": session}] * 3)
    client.wait(jobs)
    with daemon.client() as other:
        first, rest = other.inbox(session, limit=2), client.inbox(session, limit=2)

    assert len(first) == 2
    assert {end.job for end in (*first, *rest)} == {job.id for job in jobs}


def test_a_reader_has_to_name_a_session(client, session, monkeypatch):
    client.submit(["true"], session=session).wait(DEADLINE)
    with pytest.raises(Refused, match="no session is named"):
        client.inbox()
    with pytest.raises(Refused, match="no session is named"):
        client.acknowledge(jobs=[1])
    monkeypatch.setenv("BGD_SESSION", session)

    assert len(client.inbox()) == 1


def test_mass_cancels_are_in_the_inbox_once_each(client, session):
    jobs = client.submit_many([{"argv": ["true"], "hold": True, "session": session}] * 1_000)
    client.cancel([job.id for job in jobs])
    found = []
    while ends := client.inbox(session, limit=300):
        client.acknowledge(ends)
        found += ends

    assert [end.job for end in found] == [job.id for job in jobs]
    assert len({end.event for end in found}) == 1_000


def kill(daemon):
    daemon.process.send_signal(signal.SIGKILL)
    daemon.process.wait(DEADLINE)


def test_an_end_that_a_killed_daemon_has_handed_out_comes_again_and_says_so():
    with serving() as daemon, daemon.client() as client:
        client.submit(["true"], session="s").wait(DEADLINE)
        [first] = client.inbox("s")
        kill(daemon)
        daemon.start()
        [second] = client.inbox("s")
        kill(daemon)
        daemon.start()
        client.acknowledge([second])

        assert (first.event, first.redelivered) == (second.event, False)
        assert second.redelivered
        assert client.inbox("s") == []


def test_a_reader_waits_on_while_a_daemon_follows_a_killed_one():
    found = []
    with serving() as daemon, daemon.client() as client, daemon.client() as other:
        job = client.submit(["true"], hold=True, session="s")
        reader = threading.Thread(target=lambda: found.extend(other.inbox("s", wait=None)))
        reader.start()
        wait_until(lambda: other._channel._connection is not None)
        kill(daemon)
        daemon.start()
        client.release([job.id])
        reader.join(DEADLINE)

    assert facts(found) == [(job.id, Outcome.SUCCEEDED, False)]
