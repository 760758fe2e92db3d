"""Logs, as clients read and follow them."""

from __future__ import annotations

import asyncio
import struct
from pathlib import Path

import pytest

from bgd.core.job import JobId, Outcome
from bgd.daemon.control.reads import LOG_PART_BYTES
from bgd.wire.launching import Acknowledge, Launch, LogGrew, WatchLog, log_name
from bgd.wire.replies import Acted, End, ErrorCode, Failed, LogPart
from bgd.wire.requests import Logs, Release
from tests.daemon.harness import command, served, write_log
from tests.daemon.scripted_launcher import end
from tests.daemon.waiting import soon

RETRIED = command(retries=5, retry_delay=0.0)


async def finished(life, output, outcome=Outcome.SUCCEEDED):
    """Run an attempt that writes this and ends; return its key."""
    key = await life.launched()
    write_log(life.config, key, output)
    life.launcher.say(end(key, outcome))
    await life.launcher.hear(Acknowledge)
    return key


async def next_launch(life):
    while not isinstance(message := await life.launcher.next(), Launch):
        pass
    return message.key


async def next_watch(life):
    while not isinstance(message := await life.launcher.next(), WatchLog):
        pass
    return message


async def until(caller, text):
    """Read output until it ends with this text."""
    got = b""
    while not got.endswith(text):
        got += (await caller.hear(LogPart)).data
    return got


async def rest(caller):
    """Return what each attempt writes, from now to the end of the stream."""
    written: dict[int, bytes] = {}
    while isinstance(part := await caller.next(), LogPart):
        if part.data:
            written[part.attempt] = written.get(part.attempt, b"") + part.data
    assert isinstance(part, End), part
    return written


async def two_attempts(life):
    key = await life.launched(RETRIED)
    write_log(life.config, key, b"one\ntwo\n")
    life.launcher.say(end(key, Outcome.EXIT, 1))
    second = await next_launch(life)
    write_log(life.config, second, b"three\nfour\n")
    life.launcher.say(end(second))
    await life.heard()
    return key.job


# --- past output ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "written"),
    [
        ({}, {2: b"three\nfour\n"}),
        ({"attempt": 1}, {1: b"one\ntwo\n"}),
        ({"attempt": 0}, {1: b"one\ntwo\n", 2: b"three\nfour\n"}),
        ({"tail": 1}, {2: b"four\n"}),
        ({"attempt": 0, "tail": 1}, {1: b"two\n", 2: b"four\n"}),
        ({"tail": 0}, {}),
    ],
    ids=str,
)
@pytest.mark.parametrize("follow", [False, True], ids=["once", "followed"])
async def test_output_of_the_requested_attempts_is_sent(config, launcher, asked, written, follow):
    async with served(config, launcher) as life:
        job = await two_attempts(life)
        caller = await life.call()
        caller.send(Logs(id=1, job=job, follow=follow, **asked))
        if (
            follow and asked.get("attempt") is not None
        ):  # following goes on to later attempts, and sends those whole
            written = {1: written[1], 2: b"three\nfour\n"}
        assert await rest(caller) == written


@pytest.mark.parametrize("follow", [False, True], ids=["once", "followed"])
async def test_attempt_that_does_not_exist_is_refused(config, launcher, follow):
    async with served(config, launcher) as life:
        key = await finished(life, b"")
        caller = await life.call()
        failed = await caller.ask(Logs(id=1, job=key.job, attempt=2, follow=follow), Failed)
        assert failed == Failed(1, ErrorCode.REFUSED, f"job {key.job} has no attempt 2: it has had 1")


async def test_unknown_job_has_no_output(config, launcher):
    async with served(config, launcher) as life:
        failed = await (await life.call()).ask(Logs(id=1, job=404), Failed)
        assert failed == Failed(1, ErrorCode.NO_SUCH_JOB, "no job 404")


async def test_job_that_has_not_begun_has_written_nothing(config, launcher):
    async with served(config, launcher) as life:
        job = await life.submit(command(delay=300.0))
        assert await (await life.call()).stream(Logs(id=1, job=job), LogPart) == []


async def test_output_longer_than_a_frame_comes_in_pieces(config, launcher):
    output = b"".join(b"%07d\n" % line for line in range(300_000))
    async with served(config, launcher) as life:
        key = await finished(life, output)
        parts = await (await life.call()).stream(Logs(id=1, job=key.job), LogPart)
        assert b"".join(part.data for part in parts) == output
        assert max(len(part.data) for part in parts) <= LOG_PART_BYTES


async def test_times_of_the_output_are_sent_on_request(config, launcher):
    async with served(config, launcher) as life:
        key = await finished(life, b"one\ntwo\n")
        write_marks(config, key, (0, 1.5), (4, 2.5))
        caller = await life.call()
        (part,) = await caller.stream(Logs(id=1, job=key.job, timestamps=True), LogPart)
        assert part.times == [(0, 1.5), (4, 2.5)]
        (part,) = await caller.stream(Logs(id=2, job=key.job), LogPart)
        assert part.times == []


def write_marks(config, key, *marks):
    path = Path(config.log_dir, f"{log_name(key.job, key.attempt)}.times")
    path.write_bytes(b"".join(struct.pack(">QQ", offset, int(at * 1e6)) for offset, at in marks))


# --- output to come -------------------------------------------------------------------------------------


async def test_follower_gets_every_byte_of_every_attempt_and_ends_with_the_job(config, launcher):
    async with served(config, launcher) as life:
        first = await life.launched(RETRIED)
        write_log(config, first, b"before, ")
        caller = await life.call()
        caller.send(Logs(id=1, job=first.job, follow=True))
        assert await until(caller, b"before, ") == b"before, "
        write_log(config, first, b"during, ")
        launcher.say(LogGrew(first, 16))
        assert await until(caller, b"during, ") == b"during, "
        write_log(config, first, b"and at its end")  # without a message that it grew
        launcher.say(end(first, Outcome.EXIT, 1))
        second = await next_launch(life)
        write_log(config, second, b"second")
        launcher.say(end(second))
        assert await rest(caller) == {1: b"and at its end", 2: b"second"}


async def test_follower_that_begins_between_two_attempts_gets_both(config, launcher):
    async with served(config, launcher) as life:
        first = await life.launched(command(retries=1, retry_delay=0.2))
        write_log(config, first, b"first")
        launcher.say(end(first, Outcome.EXIT, 1))
        await launcher.hear(Acknowledge)
        caller = await life.call()
        caller.send(Logs(id=1, job=first.job, follow=True))
        second = await next_launch(life)
        write_log(config, second, b"second")
        launcher.say(end(second))
        assert await rest(caller) == {1: b"first", 2: b"second"}


async def test_follower_of_a_job_that_has_not_begun_misses_nothing_of_it(config, launcher):
    async with served(config, launcher) as life:
        job = await life.submit(command(hold=True))
        caller = await life.call()
        caller.send(Logs(id=1, job=job, follow=True, tail=1))
        assert await caller.next() == LogPart(1, 1, b"", offset=0)  # where it begins
        caller.send(Release(2, [job]))
        while not isinstance(await caller.next(), Acted):
            pass  # the attempt that has begun, without output yet
        key = await next_launch(life)
        write_log(config, key, b"one\ntwo\nthree\n")
        launcher.say(LogGrew(key, 14))
        assert await until(caller, b"three\n") == b"one\ntwo\nthree\n"
        launcher.say(end(key))
        assert await rest(caller) == {}


async def test_follower_may_begin_with_the_last_lines(config, launcher):
    async with served(config, launcher) as life:
        key = await life.launched()
        write_log(config, key, b"one\ntwo\nthree\n")
        caller = await life.call()
        caller.send(Logs(id=1, job=key.job, follow=True, tail=2))
        assert await until(caller, b"three\n") == b"two\nthree\n"
        write_log(config, key, b"four\n")
        launcher.say(end(key))
        assert await rest(caller) == {1: b"four\n"}


async def test_follower_of_a_finished_job_gets_its_output_and_the_end(config, launcher):
    async with served(config, launcher) as life:
        key = await finished(life, b"all")
        caller = await life.call()
        caller.send(Logs(id=1, job=key.job, follow=True))
        assert await rest(caller) == {1: b"all"}


@pytest.mark.parametrize("delay", [0.0, 300.0], ids=["running", "waiting"])
async def test_follower_ends_when_the_job_is_cancelled(config, launcher, delay):
    async with served(config, launcher) as life:
        job = await life.submit(command(delay=delay))
        caller = await life.call()
        caller.send(Logs(id=1, job=job, follow=True))
        if not delay:
            assert await next_watch(life) == WatchLog(life.key(job))
        await life.actions.do("cancel", job)
        if not delay:
            launcher.say(end(life.key(job), Outcome.CANCELLED, None))
        assert await rest(caller) == {}


async def test_every_follower_gets_everything_even_if_another_one_leaves(config, launcher):
    async with served(config, launcher) as life:
        key = await life.launched()
        callers = [await life.call() for _ in range(5)]
        for caller in callers:
            caller.send(Logs(id=1, job=key.job, follow=True))
        write_log(config, key, b"one\n")
        launcher.say(LogGrew(key, 4))
        for caller in callers:
            assert await until(caller, b"one\n") == b"one\n"
        await callers.pop().hang_up()
        write_log(config, key, b"two\n")
        launcher.say(LogGrew(key, 8))
        for caller in callers:
            assert await until(caller, b"two\n") == b"two\n"
        launcher.say(end(key))
        assert [await rest(caller) for caller in callers] == [{}] * 4


async def test_follower_continues_after_the_loss_of_a_launcher(config, launcher):
    async with served(config, launcher) as life:
        key = await life.launched(command(rerun=True, retry_delay=0.0))
        write_log(config, key, b"first")
        caller = await life.call()
        caller.send(Logs(id=1, job=key.job, follow=True))
        assert await until(caller, b"first") == b"first"
        launcher.hang_up()
        await launcher.greet(instance="another boot:and launcher")
        second = await next_launch(life)
        assert await next_watch(life) == WatchLog(second)
        write_log(config, second, b"second")
        launcher.say(end(second))
        assert await rest(caller) == {2: b"second"}


async def test_followers_that_begin_at_any_moment_lose_and_double_nothing(config, launcher):
    """Followers begin in the middle of ten attempts that write all the time."""
    async with served(config, launcher) as life:
        key = await life.launched(command(retries=20, retry_delay=0.0))
        callers = []
        expected = {}
        for attempt in range(1, 11):
            expected[attempt] = b""
            for line in range(20):
                output = b"%d.%d\n" % (attempt, line)
                expected[attempt] += output
                write_log(config, key, output)
                launcher.say(LogGrew(key, len(expected[attempt])))
                if line % 7 == attempt % 7:
                    caller = await life.call()
                    caller.send(Logs(id=1, job=key.job, attempt=0, follow=True))
                    callers.append(caller)
            launcher.say(end(key, Outcome.EXIT, 1) if attempt < 10 else end(key))
            if attempt < 10:
                key = await next_launch(life)
        got = await soon(asyncio.gather(*map(rest, callers)))
        assert got == [expected] * len(callers)


async def test_follower_of_the_last_lines_learns_where_they_begin(config, launcher):
    async with served(config, launcher) as life:
        key = await life.launched()
        write_log(config, key, b"one\ntwo\n")
        waiting = await life.submit(command(delay=300.0))
        caller = await life.call()

        for number, (job, offset) in enumerate([(key.job, 8), (waiting, 0)], 1):
            caller.send(Logs(id=number, job=job, follow=True, tail=0))
            assert await caller.hear(LogPart) == LogPart(number, 1, b"", offset=offset)


async def test_follower_may_ask_for_the_first_byte_of_an_attempt_to_come(config, launcher):
    async with served(config, launcher) as life:
        job = await life.submit(command(delay=0.1))
        caller = await life.call()
        caller.send(Logs(id=1, job=job, attempt=1, offset=0, follow=True))
        key = await next_launch(life)
        write_log(config, key, b"all")
        launcher.say(end(key))
        assert await rest(caller) == {1: b"all"}


async def test_follower_of_a_job_that_is_removed_too_early_is_told_so(config, launcher):
    async with served(config, launcher) as life:
        key = await life.launched()
        write_log(config, key, b"x" * 8_000_000)  # more than is sent to a client that does not read
        caller = await life.call()
        await caller.ask(Logs(id=1, job=key.job, follow=True), LogPart)
        await life.launcher.hear(WatchLog)

        life.launcher.say(end(key))
        await life.launcher.hear(Acknowledge)
        await life.actions.do("remove", JobId(key.job))
        await soon(life.supervisor.saved())

        while isinstance(reply := await caller.next(), LogPart):
            pass
        assert isinstance(reply, Failed)
        assert (reply.code, reply.message) == (ErrorCode.NO_SUCH_JOB, f"job {key.job} has been removed")
