"""Streams that are resumed with the next daemon: what is asked of it, and what arrives."""

from __future__ import annotations

import threading

import pytest
from msgspec.structs import replace

from bgd import DaemonUnreachable, NoSuchJob, Refused, State
from bgd.wire import replies, requests
from bgd.wire.replies import ErrorCode
from bgd.wire.views import EventView, JobProgress, Progress
from tests.client.scripted import view_of


class Conversation:
    """Makes scripts that answer one request each, and records the requests."""

    def __init__(self):
        self.heard = []

    def answer(self, *answers, is_last=False):
        """Return a script that sends the answers, and with `is_last` the end of the stream."""

        def script(peer):
            peer.greet()
            request = peer.receive()
            self.heard.append(request)
            last = [replies.End(request.id)] if is_last else []
            peer.send(*(make(request.id) for make in answers), *last)  # at once: the client may hang up soon
            if is_last:
                peer.wait_for_end()

        return script


@pytest.fixture
def talk():
    return Conversation()


def piece(data, attempt=1, offset=0, left_out=0):
    return lambda request_id: replies.LogPart(request_id, attempt, data, offset=offset, left_out=left_out)


def finished(*job_ids):
    return lambda request_id: replies.JobsPart(request_id, [view_of(job_id) for job_id in job_ids])


def happened(*ids, lost=False):
    events = [EventView(id=each, at=1.0, job=3, what="start", state=State.RUNNING, attempt=1) for each in ids]
    return lambda request_id: replies.EventsPart(request_id, events, max(ids, default=0), lost)


def said(job_id, fraction):
    told = JobProgress(job_id, 1, Progress(fraction))
    return lambda request_id: replies.ProgressPart(request_id, [told])


def data_of(pieces):
    return [piece.data for piece in pieces]


# --- logs ------------------------------------------------------------------------------------------------


def test_a_log_is_resumed_after_the_last_byte(client_at, play, talk):
    client = client_at(
        play(
            talk.answer(piece(b"one\n", 2), piece(b"two\n", 2, offset=4)),
            talk.answer(),
            talk.answer(piece(b"three\n", 2, offset=8), piece(b"again\n", 3), is_last=True),
        )
    )

    assert data_of(client.logs(5, attempt=0, follow=True)) == [b"one\n", b"two\n", b"three\n", b"again\n"]
    first, *others = talk.heard
    assert (first.attempt, first.offset) == (0, None)
    assert [(other.attempt, other.offset, other.follow) for other in others] == [(2, 8, True)] * 2


def test_a_log_of_which_nothing_came_is_requested_unchanged(client_at, play, talk):
    client = client_at(play(talk.answer(), talk.answer(piece(b"x"), is_last=True)))

    assert data_of(client.logs(5, tail=3, timestamps=True)) == [b"x"]
    assert talk.heard[0] == talk.heard[1]


def test_tail_is_not_counted_again_when_a_log_is_resumed(client_at, play, talk):
    client = client_at(
        play(talk.answer(piece(b"", offset=70)), talk.answer(piece(b"x", offset=70), is_last=True))
    )

    assert data_of(client.logs(5, tail=0, follow=True)) == [b"x"]
    assert (talk.heard[1].tail, talk.heard[1].offset) == (None, 70)


def test_left_out_bytes_count_when_a_log_is_resumed(client_at, play, talk):
    client = client_at(
        play(
            talk.answer(piece(b"head"), piece(b"tail", offset=104, left_out=100)),
            talk.answer(is_last=True),
        )
    )

    assert [part.left_out for part in client.logs(5)] == [0, 100]
    assert talk.heard[1].offset == 108


def test_the_log_of_one_attempt_ends_with_it_when_it_is_resumed(client_at, play, talk):
    client = client_at(
        play(
            talk.answer(piece(b"mine")),
            talk.answer(piece(b"!", offset=4), piece(b"another's", 2), is_last=True),
        )
    )

    assert data_of(client.logs(5, attempt=1)) == [b"mine", b"!"]


def test_a_log_that_is_refused_is_an_error(client_at, play):
    def script(peer):
        peer.greet()
        peer.send(replies.Failed(peer.receive().id, ErrorCode.NO_SUCH_JOB, "no job 5"))
        peer.wait_for_end()

    with pytest.raises(NoSuchJob, match="no job 5"):
        list(client_at(play(script)).logs(5))


# --- jobs ------------------------------------------------------------------------------------------------


def test_a_resumed_wait_is_for_the_unfinished_jobs(client_at, play, talk):
    client = client_at(
        play(talk.answer(finished(2)), talk.answer(), talk.answer(finished(3), finished(1), is_last=True))
    )

    assert [job.id for job in client.as_finished([1, 2, 3])] == [2, 3, 1]
    assert [request.jobs for request in talk.heard] == [[1, 2, 3], [1, 3], [1, 3]]


def test_nothing_is_requested_when_the_daemon_goes_after_the_last_job(client_at, play, talk):
    client = client_at(play(talk.answer(finished(1))))

    assert [job.id for job in client.wait([1])] == [1]


def test_a_result_whose_answer_was_lost_is_requested_again(client_at, play, talk):
    lost, succeeded = [], view_of(1)

    def script(peer):
        peer.greet()
        wait = peer.receive()
        peer.send(finished(1)(wait.id), replies.End(wait.id))
        lost.append(peer.receive())

    answer = talk.answer(lambda request_id: replies.Result(request_id, succeeded, None, None))

    assert client_at(play(script, answer)).result(1) == 0
    assert [type(request) for request in (*lost, *talk.heard)] == [requests.GetResult] * 2


def test_a_timeout_ends_a_wait_while_there_is_no_daemon(client_at, play, talk):
    with pytest.raises(TimeoutError, match=r"job 1 has not finished within 0\.2 s"):
        client_at(play(talk.answer())).wait([1], timeout=0.2)


def test_a_wait_of_zero_seconds_ends_though_an_old_daemon_waits(client_at, play):
    """An old daemon does not know `only_now`."""

    def script(peer):
        peer.greet()
        peer.receive()
        peer.wait_for_end()

    with pytest.raises(TimeoutError, match=r"job 1 has not finished within 0 s"):
        client_at(play(script), timeout=0.3).wait([1], timeout=0)


def test_a_daemon_that_stays_away_is_unreachable_after_the_timeout(client_at, play, talk):
    client = client_at(play(talk.answer(piece(b"x"))), timeout=0.2)
    pieces = client.logs(5, follow=True)

    assert next(pieces).data == b"x"
    with pytest.raises(DaemonUnreachable, match="no daemon answers"):
        next(pieces)


def test_progress_is_reported_and_requested_again(client_at, play, talk):
    client = client_at(
        play(
            talk.answer(said(1, 0.25), finished(2), said(1, 0.5)),
            talk.answer(said(1, 0.75), finished(1), is_last=True),
        )
    )
    told: list[JobProgress] = []

    assert [job.id for job in client.as_finished([1, 2], on_progress=told.append)] == [2, 1]
    assert [each.progress.fraction for each in told] == [0.25, 0.5, 0.75]
    assert [(request.jobs, request.progress) for request in talk.heard] == [([1, 2], True), ([1], True)]


def test_progress_is_not_requested_without_a_callback(client_at, play, talk):
    client = client_at(play(talk.answer(finished(1), is_last=True)))

    client.wait([1])

    assert not talk.heard[0].progress


# --- events ----------------------------------------------------------------------------------------------


def test_events_are_resumed_after_the_last_one(client_at, play, talk):
    client = client_at(play(talk.answer(happened(4, 6)), talk.answer(happened(9), is_last=True)))

    assert [event.id for event in client.events(3)] == [4, 6, 9]
    assert [(request.since, request.follow) for request in talk.heard] == [(3, True), (6, True)]


def test_progress_events_are_requested_only_if_wanted(client_at, play, talk):
    client = client_at(play(talk.answer(happened(4), is_last=True), talk.answer(is_last=True)))

    list(client.events(3, progress=True))
    list(client.events(3))

    assert [request.progress for request in talk.heard] == [True, False]


def test_events_that_are_no_longer_kept_are_an_error(client_at, play, talk):
    client = client_at(play(talk.answer(happened(9, lost=True))))

    with pytest.raises(Refused, match="events after 3 are no longer kept"):
        list(client.events(3, follow=False))


def test_all_events_are_those_that_are_kept(client_at, play, talk):
    client = client_at(play(talk.answer(happened(lost=True), happened(9), is_last=True)))

    assert [event.id for event in client.events(0, follow=False)] == [9]


# --- submits with keys ------------------------------------------------------------------------------------


def test_a_job_that_is_found_by_its_key_after_a_lost_answer_is_not_new(client_at, play, talk):
    client = client_at(
        play(talk.answer(), talk.answer(lambda request_id: replies.Submitted(request_id, [7], False, [7])))
    )

    job = client.submit(["true"], key="nightly")

    assert (job.id, job.is_new) == (7, False)
    assert talk.heard[1] == replace(talk.heard[0], again=0)


# --- a daemon that is away -------------------------------------------------------------------------------


def test_reconnecting_waits_for_a_daemon_that_is_not_there(client_at, play, tmp_path):
    def script(peer):
        peer.greet()
        peer.wait_for_end()

    client = client_at(str(tmp_path / "0.sock"))
    starts_later = threading.Timer(0.1, play, [script])
    starts_later.start()

    client.reconnect()

    starts_later.join()


def test_reconnecting_ends_if_no_daemon_comes(client_at, tmp_path):
    with pytest.raises(DaemonUnreachable, match="no daemon answers at"):
        client_at(str(tmp_path / "0.sock"), timeout=0.1).reconnect()
