"""Waits, lists, jobs, results and the daemon's state, as clients ask for them."""

from __future__ import annotations

import json
import os
from pathlib import Path

import bgd
from bgd.core.job import Outcome, State
from bgd.core.spec import JobSpec
from bgd.wire.launching import Acknowledge, AttemptEnded, Launch
from bgd.wire.replies import End, ErrorCode, Failed, Info, JobsPart, Result, Submitted
from bgd.wire.requests import GetInfo, GetResult, List, Show, Submit, SubmitMany, Wait
from tests.daemon.harness import command, configure, served
from tests.daemon.scripted_launcher import end

CLASSES = '[security]\nallowed_classes = ["app.*"]'


async def test_wait_for_a_finished_job_is_over_at_once(config, launcher):
    async with served(config, launcher) as life:
        key = await life.launched()
        launcher.say(end(key))
        await launcher.hear(Acknowledge)
        caller = await life.call()
        (part,) = await caller.stream(Wait(1, [key.job]), JobsPart)
        assert [view.state for view in part.jobs] == [State.SUCCEEDED]


async def test_wait_for_an_unknown_job_fails(config, launcher):
    async with served(config, launcher) as life:
        caller = await life.call()
        assert await caller.ask(Wait(1, [404]), Failed) == Failed(1, ErrorCode.NO_SUCH_JOB, "no job 404")


async def test_wait_for_many_jobs_reports_each_end_at_once_and_ends_with_the_last(config, launcher):
    async with served(configure(Path(config.source).parent, "slots = 50"), launcher) as life:
        keys = [await life.launched() for _ in range(50)]
        caller = await life.call()
        caller.send(Wait(1, [key.job for key in keys] * 2))
        for key in reversed(keys):
            launcher.say(end(key, Outcome.EXIT, 4))
            (view,) = (await caller.hear(JobsPart)).jobs
            assert (view.id, view.state, view.exit_code) == (key.job, State.FAILED, 4)
        assert await caller.hear(End) == End(1)


async def test_wait_for_very_many_jobs_reports_ends_in_groups(folder, launcher):
    async with served(configure(folder, "slots = 150"), launcher) as life:
        keys = [await life.launched() for _ in range(150)]
        caller = await life.call()
        caller.send(Wait(1, [key.job for key in keys]))

        launcher.say(*(end(key) for key in keys))

        parts = [await caller.hear(JobsPart)]
        while sum(len(part.jobs) for part in parts) < len(keys):
            parts.append(await caller.hear(JobsPart))
        assert len(parts) < len(keys) / 2
        assert sorted(view.id for part in parts for view in part.jobs) == [key.job for key in keys]
        assert await caller.hear(End) == End(1)


async def test_wait_is_not_over_between_two_attempts(config, launcher):
    async with served(config, launcher) as life:
        key = await life.launched(command(retries=1, retry_delay=0.0))
        caller = await life.call()
        caller.send(Wait(1, [key.job]))
        launcher.say(end(key, Outcome.EXIT, 1))
        while not isinstance(message := await launcher.next(), Launch):
            pass
        assert message.key == life.key(key.job, attempt=2)
        launcher.say(end(message.key))
        (view,) = (await caller.hear(JobsPart)).jobs
        assert (view.state, view.attempt) == (State.SUCCEEDED, 2)


async def test_list_shows_what_this_client_was_told_before(config, launcher):
    async with served(config, launcher) as life:
        caller = await life.call()
        await caller.ask(Submit(1, command(delay=5.0)), Submitted)
        (part,) = await caller.stream(List(id=2), JobsPart)
        assert [view.state for view in part.jobs] == [State.SCHEDULED]


async def test_list_of_large_jobs_comes_in_parts_that_fit_frames(config, launcher):
    tags = tuple(f"{number:02}" + "é" * 198 for number in range(20))
    specs = [command("x" * 2000, cwd="/" + "é" * 2000, tags=tags, name="é" * 200) for _ in range(50)]
    async with served(config, launcher) as life:
        caller = await life.call()
        for batch in range(6):
            await caller.ask(SubmitMany(id=batch, specs=specs), Submitted)
        parts = await caller.stream(List(id=9, limit=300), JobsPart)
        assert len(parts) > 1
        assert sum(len(part.jobs) for part in parts) == 300


async def test_list_without_jobs_is_only_an_end(config, launcher):
    async with served(config, launcher) as life:
        assert await (await life.call()).stream(List(id=1), JobsPart) == []


async def test_show_has_every_attempt_however_large(folder, launcher):
    async with served(configure(folder, rest=CLASSES), launcher) as life:
        key = await life.launched(JobSpec(target="app:f", retries=30, retry_delay=0.0))
        error = json.dumps(
            {"error": {"type": "app.Long", "message": "x" * 400_000, "traceback": "y" * 500_000}}
        )
        for attempt in range(1, 6):
            key = life.key(key.job, attempt)
            report = AttemptEnded(
                key=key, outcome=Outcome.EXIT, exit_code=1, finished_at=2.0, result=error.encode()
            )
            launcher.say(report)
            while not isinstance(await launcher.next(), Launch):
                pass
        _, attempts = await (await life.call()).show(Show(1, key.job))
        assert [attempt.attempt for attempt in attempts] == [1, 2, 3, 4, 5, 6]
        assert attempts[0].outcome is Outcome.ERROR


async def test_show_without_an_id_is_of_the_users_latest_job(config, launcher):
    async with served(config, launcher) as life:
        caller = await life.call()
        assert await caller.ask(Show(1), Failed) == Failed(1, ErrorCode.NO_SUCH_JOB, "you have no jobs yet")
        await life.submit()  # another user's
        await caller.ask(Submit(2, command()), Submitted)
        await life.submit()
        view, _ = await caller.show(Show(3))
        assert view.id == 2
        assert await caller.ask(Show(4, 404), Failed) == Failed(4, ErrorCode.NO_SUCH_JOB, "no job 404")


async def test_result_at_its_limit_comes_whole_even_if_the_arguments_are_at_theirs(folder, launcher):
    async with served(configure(folder, rest=CLASSES), launcher) as life:
        arguments = json.dumps({"args": ["x" * 900_000]})
        key = await life.launched(JobSpec(target="app:f", arguments=arguments))
        value = json.dumps("y" * 999_998)
        report = AttemptEnded(
            key=key,
            outcome=Outcome.SUCCEEDED,
            exit_code=0,
            finished_at=2.0,
            result=b'{"ok":' + value.encode() + b"}",
        )
        launcher.say(report)
        await launcher.hear(Acknowledge)
        result = await (await life.call()).ask(GetResult(1, key.job), Result)
        assert (result.value, result.job.state, result.error) == (value, State.SUCCEEDED, None)


async def test_result_of_a_job_that_has_none_has_its_state(config, launcher):
    async with served(config, launcher) as life:
        job = await life.submit()
        caller = await life.call()
        result = await caller.ask(GetResult(1, job), Result)
        assert (result.value, result.job.state, result.error) == (None, State.RUNNING, None)
        assert (await caller.ask(GetResult(1, 404), Failed)).code is ErrorCode.NO_SUCH_JOB


async def test_info_has_versions_pids_and_paths(config, launcher):
    async with served(config, launcher) as life:
        await life.launched()
        info = await (await life.call()).ask(GetInfo(1), Info)
        assert (info.version, info.pid, info.launcher_pid) == (bgd.__version__, os.getpid(), os.getpid())
        assert (info.state_dir, info.socket) == (config.daemon.state_dir, config.daemon.socket)
        assert (info.config, info.slots, info.running) == (config.source, config.daemon.slots, 1)
        assert info.counts["running"] == 1
        assert info.store_id == life.store.store_id
