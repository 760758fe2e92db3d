"""The lines of a batch are taken in order, each once, whatever is killed meanwhile."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from bgd.daemon import idempotency
from bgd.daemon.storage import read, submissions
from bgd.daemon.storage.records import Transaction
from bgd.daemon.storage.store import Store, adopt_boot
from bgd.daemon.storage.submissions import BATCH_SECONDS
from bgd.wire.replies import BatchRuns, Failed, Submitted
from bgd.wire.requests import BatchPlace, GetBatch, SubmitMany
from tests.daemon.harness import command, served
from tests.daemon.storage.builders import BOOT, NOW
from tests.daemon.waiting import soon

BATCH, OTHER = b"b" * 16, b"o" * 16
HELD = command(hold=True)


def portion(after: int, *runs: tuple[int, int], batch: bytes = BATCH, number: int = 1) -> SubmitMany:
    specs = [HELD] * sum(count for _, count in runs)
    return SubmitMany(id=number, specs=specs, place=BatchPlace(batch, after, list(runs)))


async def opened(caller, batch=BATCH, **fields):
    *parts, last = await caller.stream(GetBatch(id=7, batch=batch, **fields), BatchRuns)
    assert last.runs == []
    return [run for part in parts for run in part.runs], last.last


async def jobs_of(life):
    await soon(life.supervisor.saved())
    return sorted(await life.store.read(read.states, range(1, 100)))


async def test_lines_become_jobs_in_order_and_the_batch_says_which(config, launcher):
    async with served(config, launcher) as life:
        caller = await life.call()
        assert await opened(caller) == ([], 0)
        caller.send(portion(0, (1, 2)), portion(2, (4, 1), (6, 2)))

        assert [(await caller.hear(Submitted)).jobs for _ in range(2)] == [[1, 2], [3, 4, 5]]
        assert await opened(caller) == ([(1, 1, 2), (4, 3, 1), (6, 4, 2)], 7)
        assert await opened(caller, after=4) == ([(6, 4, 2)], 7)
        assert await opened(caller, OTHER) == ([], 0)


@pytest.mark.parametrize(
    ("request_", "why"),
    [
        (portion(0, (1, 1)), "line 2 of this batch was the last, not line 0"),
        (portion(3, (4, 1)), "line 2 of this batch was the last, not line 3"),
        (portion(2, (2, 2)), "2 lines from line 2 cannot follow line 2"),
        (portion(2, (3, 2), (4, 1)), "1 lines from line 4 cannot follow line 4"),
        (replace(portion(2, (3, 0)), specs=[]), "0 lines from line 3 cannot follow"),
        (replace(portion(2, (3, 2)), specs=[HELD]), "a line for each job"),
        (portion(0, (1, 1), batch=OTHER), "not open"),
    ],
)
async def test_a_portion_that_is_not_the_next_one_makes_no_job(config, launcher, request_, why):
    async with served(config, launcher) as life:
        caller = await life.call()
        await opened(caller)
        await caller.ask(portion(0, (1, 2)), Submitted)

        assert why in (await caller.ask(request_, Failed)).message
        assert await jobs_of(life) == [1, 2]
        assert (await caller.ask(portion(2, (3, 1)), Submitted)).jobs == [3]


async def test_nothing_after_a_refused_line_is_taken_and_the_line_is_named(config, launcher):
    async with served(config, launcher) as life:
        caller = await life.call()
        await opened(caller)
        bad = replace(portion(1, (2, 2)), specs=[HELD, command("nul\0")])
        caller.send(portion(0, (1, 1)), bad, portion(3, (4, 1)))

        assert (await caller.hear(Failed)).message == "line 3: argv[0] contains a NUL character"
        assert "line 1 of this batch was the last" in (await caller.hear(Failed)).message
        await caller.hear(Submitted)  # which waits for the disk
        assert await jobs_of(life) == [1]


async def test_a_batch_goes_on_after_a_restart_where_it_was(config, launcher):
    async with served(config, launcher) as life:
        caller = await life.call()
        await opened(caller)
        await caller.ask(portion(0, (1, 3)), Submitted)
    async with served(config, launcher) as life:
        caller = await life.call()

        assert "not open" in (await caller.ask(portion(3, (4, 1)), Failed)).message
        assert await opened(caller) == ([(1, 1, 3)], 3)
        assert (await caller.ask(portion(3, (4, 1)), Submitted)).jobs == [4]


async def test_a_closed_batch_takes_nothing_until_it_is_opened_again(config, launcher):
    async with served(config, launcher) as life:
        caller, late = await life.call(), await life.call()
        await opened(caller)
        await caller.ask(portion(0, (1, 3)), Submitted)

        assert await opened(caller, close=True) == ([(1, 1, 3)], 3)
        assert "not open" in (await late.ask(portion(3, (4, 1)), Failed)).message
        assert await opened(caller) == ([(1, 1, 3)], 3)
        assert (await late.ask(portion(3, (4, 1)), Submitted)).jobs == [4]


async def test_lines_that_wait_for_jobs_are_looked_up_and_taken_once(config, launcher):
    async with served(config, launcher) as life:
        first = await life.submit(HELD)
        caller = await life.call()
        await opened(caller)
        waits = replace(portion(0, (1, 1)), specs=[command(after_any=(first,))])

        await caller.ask(waits, Submitted)

        assert "line 1 of this batch was the last" in (await caller.ask(waits, Failed)).message
        assert await jobs_of(life) == [1, 2]


async def test_lines_with_the_key_of_a_job_name_that_job(config, launcher):
    async with served(config, launcher) as life:
        caller = await life.call()
        await opened(caller)
        one = command(key="one", hold=True)
        reply = await caller.ask(replace(portion(0, (1, 3)), specs=[one, HELD, one]), Submitted)

        assert reply.jobs == [1, 2, 1]
        assert await opened(caller) == ([(1, 1, 2), (3, 1, 1)], 3)


async def test_the_batch_that_was_opened_first_is_closed_when_too_many_are_open(
    config, launcher, monkeypatch
):
    monkeypatch.setattr(idempotency, "MAX_REMEMBERED", 1)
    async with served(config, launcher) as life:
        caller = await life.call()
        await opened(caller)
        await opened(caller, OTHER)

        assert "not open" in (await caller.ask(portion(0, (1, 1)), Failed)).message
        await caller.ask(portion(0, (1, 1), batch=OTHER), Submitted)


async def test_long_batches_are_told_in_parts(config, launcher, monkeypatch):
    monkeypatch.setattr(submissions, "RUNS_AT_ONCE", 2)
    async with served(config, launcher) as life:
        caller = await life.call()
        await opened(caller)
        await caller.ask(portion(0, *((line, 1) for line in (1, 3, 5, 7, 9))), Submitted)

        caller.send(GetBatch(id=7, batch=BATCH))
        parts = []
        while isinstance(part := await caller.next(), BatchRuns):
            parts.append(len(part.runs))

        assert parts == [2, 2, 1, 0]


async def test_batches_that_nobody_will_resume_are_deleted_with_the_next_one(tmp_path):
    store = await Store.open(str(tmp_path / "bgd.db"))
    try:
        await store.write(adopt_boot, NOW, BOOT)
        later = replace(NOW, elapsed=NOW.elapsed + BATCH_SECONDS + 1)
        await store.commit(Transaction(now=NOW, batches=[(BATCH, [(1, 1, 5)])]))
        assert await store.read(submissions.last_line, BATCH) == 5

        await store.commit(Transaction(now=later, batches=[(OTHER, [(1, 6, 5)])]))

        assert await store.read(submissions.last_line, BATCH) == 0
        assert await store.read(submissions.last_line, OTHER) == 5
    finally:
        await store.close()
