"""A batch: every line becomes one job, also if connections break; after a refused line none does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import pytest

from bgd import AsyncClient, Client
from bgd.client.blocking.concurrency import iterate
from bgd.client.portions import Portion, SpecMaker, portions_of, ranges_of
from bgd.client.specs import Caller
from bgd.core.spec import JobSpec
from bgd.errors import DaemonUnreachable, NoSuchJob, NotAllowed, Refused
from bgd.wire import requests
from bgd.wire.replies import BatchRuns, End, ErrorCode, Failed, Submitted
from tests.support import DEADLINE

BATCH = b"b" * 16


def portion(*lines, **fields):
    return Portion([JobSpec(argv=("true",), **fields) for _ in lines], {}, list(lines))


def open_at(peer, last, runs=()):
    peer.greet()
    asked = peer.receive()
    assert isinstance(asked, requests.GetBatch)
    peer.send(*([BatchRuns(asked.id, list(runs), last)] if runs else []))
    peer.send(BatchRuns(asked.id, [], last), End(asked.id))
    return asked


def next_portion(peer):
    request = peer.receive()
    assert isinstance(request, requests.SubmitMany)
    return request


def submitted(request, first):
    return Submitted(request.id, list(range(first, first + len(request.specs))))


def sender_at(client, last=0):
    return client.batch_sender(BATCH, last)


def runs(sender, portions):
    sent = sender.send(portions)
    steps = iterate(sent) if isinstance(sent, AsyncGenerator) else sent  # those of an AsyncClient are driven
    return [run for taken in steps for run in taken.runs]


def test_several_portions_are_in_flight(client_at, play):
    def script(peer):
        open_at(peer, 0)
        asked = [next_portion(peer) for _ in range(4)]
        assert [each.place.after for each in asked] == [0, 2, 3, 4]
        for number, request in enumerate(asked):
            peer.send(submitted(request, 10 * (number + 1)))
        peer.send(submitted(next_portion(peer), 50))

    sender = sender_at(client_at(play(script)))

    assert runs(sender, [portion(1, 2), portion(3), portion(4), portion(5), portion(6)]) == [
        (1, 10, 2),
        (3, 20, 1),
        (4, 30, 1),
        (5, 40, 1),
        (6, 50, 1),
    ]
    assert sender.last == 6


def test_what_the_daemon_took_before_the_connection_broke_is_not_sent_again(client_at, play):
    def breaks(peer):
        open_at(peer, 0)
        peer.send(submitted(next_portion(peer), 1))
        next_portion(peer)
        next_portion(peer)

    def goes_on(peer):
        assert open_at(peer, 3, [(2, 2, 2)]).after == 1
        request = next_portion(peer)
        assert request.place == requests.BatchPlace(BATCH, 3, [(4, 1)])
        peer.send(submitted(request, 4))

    sender = sender_at(client_at(play(breaks, goes_on)))

    assert runs(sender, [portion(1), portion(2, 3), portion(4)]) == [(1, 1, 1), (2, 2, 2), (4, 4, 1)]


def test_a_daemon_that_breaks_off_again_and_again_is_given_up(client_at, play):
    def breaks(peer):
        open_at(peer, 0)
        next_portion(peer)

    with pytest.raises(DaemonUnreachable):
        runs(sender_at(client_at(play(*[breaks] * 4))), [portion(1)])


def test_a_portion_that_was_taken_by_late_bytes_counts_as_taken(client_at, play):
    def script(peer):
        open_at(peer, 0)
        peer.send(Failed(next_portion(peer).id, ErrorCode.REFUSED, "line 1 of this batch was the last"))
        asked = peer.receive()
        peer.send(BatchRuns(asked.id, [(1, 5, 1)], 1), BatchRuns(asked.id, [], 1), End(asked.id))
        peer.send(submitted(next_portion(peer), 6))

    assert runs(sender_at(client_at(play(script))), [portion(1), None, portion(2)]) == [(1, 5, 1), (2, 6, 1)]


def test_a_refused_portion_ends_the_batch_with_the_reason(client_at, play):
    def script(peer):
        open_at(peer, 0)
        peer.send(submitted(next_portion(peer), 1))
        for tries_left in (1, 0):
            peer.send(Failed(next_portion(peer).id, ErrorCode.NOT_ALLOWED, "line 2: no"))
            if tries_left:
                asked = peer.receive()
                peer.send(BatchRuns(asked.id, [], 1), End(asked.id))

    sender = sender_at(client_at(play(script)))

    with pytest.raises(NotAllowed, match="line 2: no"):
        runs(sender, [portion(1), None, portion(2)])
    assert sender.last == 1


def test_another_program_that_continues_the_batch_is_noticed(client_at, play):
    def script(peer):
        open_at(peer, 0)
        next_portion(peer)

    def other(peer):
        open_at(peer, 2, [(1, 1, 2)])

    with pytest.raises(Refused, match="another program has continued this batch"):
        runs(sender_at(client_at(play(script, other))), [portion(1, 2, 3)])


def test_a_portion_that_waits_for_jobs_is_in_flight_alone(client_at, play):
    def script(peer):
        open_at(peer, 0)
        for number in range(1, 4):
            peer.send(submitted(next_portion(peer), number))  # the next one comes only after this answer

    portions = [portion(1), portion(2, after=(9,)), portion(3)]

    assert runs(sender_at(client_at(play(script))), portions) == [(1, 1, 1), (2, 2, 1), (3, 3, 1)]


def test_an_error_of_the_source_comes_after_all_that_was_read_before_it(client_at, play):
    def source():
        yield portion(1)
        raise Refused("line 2: no")

    def script(peer):
        open_at(peer, 0)
        peer.send(submitted(next_portion(peer), 1))

    sender = sender_at(client_at(play(script)))

    with pytest.raises(Refused, match="line 2: no"):
        runs(sender, source())
    assert sender.last == 1


def test_a_daemon_that_does_not_answer_in_time_is_unreachable(client_at, play):
    def script(peer):
        open_at(peer, 0)
        next_portion(peer)
        peer.wait_for_end()

    client = client_at(play(script), timeout=0.2)
    with pytest.raises(DaemonUnreachable, match="some lines may or may not have been queued"):
        runs(sender_at(client), [portion(1)])
    client.close()


# --- the cutting ------------------------------------------------------------------------------------------


def test_lines_are_told_as_ranges():
    assert ranges_of([3, 4, 5]) == [(3, 3)]
    assert ranges_of([1, 2, 4, 6, 7]) == [(1, 2), (4, 1), (6, 2)]


def test_lines_whose_job_was_found_are_told_from_the_line_that_made_it():
    lines = portion(1, 2, 3, 4)

    assert lines.found_lines([7, 8, 7, 3], []) == frozenset()
    assert lines.found_lines([7, 8, 7, 3], [7, 3]) == {3, 4}
    assert lines.found_lines([7, 8, 7, 3], [7, 7]) == {1, 3}


def test_items_are_cut_by_number_and_by_size(monkeypatch):
    monkeypatch.setattr("bgd.client.portions.PORTION", 3)
    monkeypatch.setattr("bgd.client.portions.PORTION_BYTES", 1000)
    maker = SpecMaker({}, Caller())

    cut = list(portions_of([["a"]] * 4 + [["b" * 1001]] + [["c"]], maker))

    assert [each.lines for each in cut] == [[1, 2, 3], [4, 5], [6]]


def test_an_item_that_cannot_be_a_job_is_named_after_those_before_it():
    cut = portions_of([["a"], ["b"], "c"], SpecMaker({}, Caller()))

    assert next(cut).lines == [1, 2]
    with pytest.raises(TypeError, match="item 3: argv is a list of words, not 'c'"):
        next(cut)


def test_shared_options_count_unless_an_item_says_otherwise():
    maker = SpecMaker({"queue": "q", "env": {"A": "1"}, "shell": True, "tags": ["t"]}, Caller())

    line = maker.of_item("echo a | cat")
    own = maker.of_item({"argv": "true", "queue": "other", "env": {"B": "2"}, "env_pass": "none"})
    call = maker.of_item({"target": "elsewhere:run", "args": [1], "env_pass": "none"})
    spec = maker.of_item(JobSpec(argv=("x",)))

    assert line.argv == ("/bin/sh", "-c", "echo a | cat")
    assert (line.queue, line.env, line.explicit_env, line.tags) == ("q", None, ("A",), ("t",))
    assert maker.env["A"] == "1"
    assert (own.queue, own.env, own.explicit_env) == ("other", {"B": "2"}, ("B",))
    assert (call.target, call.env, call.tags) == ("elsewhere:run", {"A": "1"}, ("t",))
    assert spec.queue is None
    with pytest.raises(Refused, match="NUL"):
        maker.of_item({"argv": "nul\0"})


# --- with a real daemon -----------------------------------------------------------------------------------


@pytest.fixture
def blocking(daemon):
    with Client(str(daemon.socket), timeout=DEADLINE) as client:
        yield client


def test_waiting_for_a_batch_ends_after_the_timeout(blocking):
    batch = blocking.batch([["true"]], delay=3600)

    with pytest.raises(TimeoutError, match=rf"^batch {batch.id} has not ended within 0\.05 s$"):
        batch.wait(timeout=0.05)

    batch.cancel()


def test_a_batch_counts_its_jobs_and_starts_what_follows(blocking):
    batch = blocking.batch(
        (["true", str(number)] for number in range(5)),
        "five",
        then=["sh", "-c", "exit 0"],
        finally_={"argv": ["true"], "name": "last"},
        tags=["many"],
    )

    counts = batch.wait(DEADLINE).counts
    assert {name: count for name, count in counts.items() if count} == {"total": 5, "succeeded": 5}
    assert [(job.argv[1], job.tags, job.batch) for job in batch.jobs()] == [
        (str(number), ["many"], batch.id) for number in range(5)
    ]
    assert blocking.job(batch.view.finally_.job).name == "last"
    assert blocking.job(batch.view.then.job).argv[0] == "sh"
    assert batch.view.catch is None
    assert blocking.find_batch("five").id == blocking.find_batch(batch.id).id == batch.id
    assert [each.id for each in blocking.batches(name="five")] == [batch.id]


@pytest.mark.parametrize("event", ["then", "catch", "finally_"])
def test_a_missing_program_that_follows_a_batch_is_refused_unless_told_otherwise(blocking, event):
    with pytest.raises(
        Refused, match=f"{event.strip('_')}: no program 'missing'.*check=False queues the batch anyway"
    ):
        blocking.batch([["true"]], **{event: ["missing"]})

    batch = blocking.batch([["true"]], hold=True, check=False, **{event: ["missing"]})

    assert getattr(batch.view, event).argv == ["missing"]
    batch.cancel()


def test_a_batch_of_several_portions_is_one(blocking, monkeypatch):
    monkeypatch.setattr("bgd.client.portions.PORTION", 10)

    batch = blocking.batch((["true"] for _ in range(25)), hold=True)

    assert (batch.counts["pending"], batch.view.is_whole) == (25, True)
    ids = [job.id for job in batch.jobs()]
    assert ids == list(range(ids[0], ids[0] + 25))
    assert batch.cancel().counts["cancelled"] == 25
    with pytest.raises(Refused, match=f"batch {batch.id} has ended"):
        batch.add(["true"])


def test_jobs_are_added_and_failed_ones_run_again(blocking, tmp_path):
    needs_file = ["sh", "-c", f"test -e {tmp_path}/there"]
    batch = blocking.batch([needs_file, {"argv": ["true"], "hold": True}], retries=0)
    [added] = batch.add(["true"])
    assert added.wait(DEADLINE).batch == batch.id
    blocking.release([batch.jobs(["held"])[0].id])
    batch.wait(DEADLINE)
    assert (batch.counts["failed"], batch.counts["total"]) == (1, 3)
    (tmp_path / "there").touch()

    assert batch.retry_failed() == 1

    assert batch.wait(DEADLINE).counts["succeeded"] == 3


def test_waiting_for_a_batch_may_take_too_long(blocking):
    batch = blocking.batch([["true"]], hold=True)

    with pytest.raises(TimeoutError):
        batch.wait(0.01)
    batch.cancel()


def test_nothing_of_a_batch_with_a_bad_item_is_left_to_run(blocking, monkeypatch):
    with pytest.raises(Refused, match="item 2: no key 'prio': did you mean priority"):
        blocking.batch([["true"], {"argv": ["true"], "prio": 1}], "bad")
    with pytest.raises(NoSuchJob):
        blocking.find_batch("bad")
    with pytest.raises(Refused, match="needs at least one call"):
        blocking.batch([])

    monkeypatch.setattr("bgd.client.portions.PORTION", 1)
    with pytest.raises(Refused, match="item 3"):
        blocking.batch([["true"], ["true"], {"argv": ["true"], "prio": 1}], "half", hold=True)
    assert blocking.find_batch("half").counts["cancelled"] == 1


def test_an_async_client_makes_a_batch_likewise(daemon):
    async def counts():
        async with AsyncClient(str(daemon.socket)) as client:
            batch = await client.batch([["true"]] * 5)
            return (await batch.wait(DEADLINE)).counts, len(await batch.jobs())

    found, jobs = asyncio.run(counts())

    assert (found["succeeded"], jobs) == (5, 5)
