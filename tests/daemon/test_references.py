"""Results of jobs as arguments of others, with a scripted launcher."""

from __future__ import annotations

import asyncio
import json
from contextlib import aclosing

import pytest
from msgspec.structs import replace

from bgd.core.job import Outcome, State
from bgd.core.spec import MAX_WORK, PREVIOUS, JobSpec, Reference
from bgd.daemon.retention import Retention
from bgd.daemon.storage import pruning
from bgd.daemon.storage.pruning import RetentionLimits
from bgd.errors import NoSuchJob, Refused
from bgd.wire.launching import Acknowledge, Launch
from bgd.wire.replies import Acted, Failed, Submitted
from bgd.wire.requests import Cancel, Changes, Edit, Remove, Submit, SubmitMany
from tests.daemon.harness import UID, command, configure, served
from tests.daemon.scripted_launcher import end

ANY = RetentionLimits(max_age=dict.fromkeys((State.SUCCEEDED, State.FAILED, State.CANCELLED)), max_jobs=0)
TOTALS = {"eu": [1, 2.50]}


@pytest.fixture
def config(folder):
    return configure(folder, rest='[security]\nallowed_classes = ["app.*"]\n[retry]\ndelay = 0.0\n')


def using(*jobs, **fields):
    """Return the spec of a class job with the results of these jobs as its arguments."""
    places = [Reference(job, ("args", place)) for place, job in enumerate(jobs)]
    arguments = json.dumps({"args": [{"$result": job} for job in jobs]})
    return JobSpec(
        target="app:sum", arguments=arguments, references=tuple(places), after=tuple({*jobs}), **fields
    )


async def submitted(caller, spec):
    return (await caller.ask(Submit(0, spec), Submitted)).jobs[0]


async def ended(life, launcher, outcome=Outcome.SUCCEEDED, spec=None, result=b'{"ok":{"eu":[1,2.50]}}'):
    """Run a job to its end; return its id."""
    key = await life.launched(spec or JobSpec(target="app:make"))
    launcher.say(replace(end(key, outcome), result=result))
    await launcher.hear(Acknowledge)
    return key.job


def arguments_of(launch):
    return json.loads(launch.stdin)["arguments"]


async def test_each_attempt_gets_the_results_of_other_jobs_exactly_as_they_were_stored(config, launcher):
    async with served(config, launcher) as life:
        caller = await life.call()
        first = await life.launched(JobSpec(target="app:make"))
        job = await submitted(caller, using(first.job, first.job, retries=1))
        assert (await life.view(job)).state is State.BLOCKED

        launcher.say(replace(end(first), result=b'{"ok":{"eu":[1,2.50]}}'))

        for attempt, outcome in enumerate((Outcome.EXIT, Outcome.SUCCEEDED), 1):
            launch = await launcher.hear(Launch)
            assert launch.key == life.key(job, attempt)
            assert b'"args":[{"eu":[1,2.50]},{"eu":[1,2.50]}]' in launch.stdin
            await launcher.hear(Acknowledge)
            launcher.say(end(launch.key, outcome))
        await launcher.hear(Acknowledge)
        view = await life.view(job)
        assert (view.arguments, view.after) == (using(first.job, first.job).arguments, [first.job])


async def test_results_of_finished_jobs_and_of_commands_are_used_too(config, launcher):
    async with served(config, launcher) as life:
        caller = await life.call()
        made, ran = await ended(life, launcher), await ended(life, launcher, spec=command(), result=None)

        await submitted(caller, using(made, ran))

        assert arguments_of(await launcher.hear(Launch)) == {"args": [TOTALS, 0]}


async def test_a_result_is_there_after_a_restart_and_after_its_job_has_failed_in_a_later_run(
    config, launcher
):
    async with served(config, launcher) as life:
        caller = await life.call()
        made = await ended(life, launcher)
        job = await submitted(caller, using(made, hold=True))
        await life.actions.do("retry", made)
        again = await launcher.hear(Launch)
        launcher.say(replace(end(again.key, Outcome.EXIT, 1), result=b'{"wish":{"aim":"fail"}}'))
        await launcher.hear(Acknowledge)
        assert (await life.view(made)).state is State.FAILED
    async with served(config, launcher) as life:
        await life.actions.do("release", job)

        assert arguments_of(await launcher.hear(Launch)) == {"args": [TOTALS]}


async def test_a_job_of_a_chain_gets_the_result_of_the_one_before(config, launcher):
    async with served(config, launcher) as life:
        caller, after_it = await life.call(), replace(using(PREVIOUS), after=())
        chain = SubmitMany(id=1, specs=[JobSpec(target="app:make"), after_it], chain=True)

        first, second = (await caller.ask(chain, Submitted)).jobs

        launch = await launcher.hear(Launch)
        launcher.say(replace(end(launch.key), result=b'{"ok":7}'))
        assert arguments_of(await launcher.hear(Launch)) == {"args": [7]}
        view = await life.view(second)
        assert (view.after, view.arguments) == ([first], f'{{"args":[{{"$result":{first}}}]}}')


async def test_only_a_job_after_the_first_of_a_chain_can_get_the_result_of_the_one_before(config, launcher):
    async with served(config, launcher) as life:
        caller, after_it = await life.call(), replace(using(PREVIOUS), after=())
        odd = replace(after_it, arguments="{}")

        for number, specs in enumerate(([after_it], [after_it, command()], [command(), odd])):
            chain = SubmitMany(id=number, specs=specs, chain=True)
            refused = (await caller.ask(chain, Failed)).message
            assert refused == (
                "job 1 of the chain: the arguments have no {\"$result\":0} at ['args'][0]"
                if odd in specs
                else f"{'job 0 of the chain: ' if len(specs) > 1 else ''}an argument is the result of the job"
                " before: only later jobs of a chain have one"
            )
        assert (
            "only later jobs of a chain have one" in (await caller.ask(Submit(9, after_it), Failed)).message
        )


async def test_a_job_whose_source_fails_is_cancelled_with_the_reason(config, launcher):
    async with served(config, launcher) as life:
        caller = await life.call()
        first = await life.launched(JobSpec(target="app:make", retries=0))
        job = await submitted(caller, using(first.job))

        launcher.say(end(first, Outcome.EXIT, 1))

        await launcher.hear(Acknowledge)
        view = await life.view(job)
        assert (view.state, view.reason) == (State.CANCELLED, "job 1, which had to succeed first, failed")


@pytest.mark.parametrize("source", [JobSpec(target="app:make", retries=0), command(retries=0)])
async def test_a_job_is_not_retried_while_the_source_of_an_argument_has_not_succeeded(
    config, launcher, source
):
    async with served(config, launcher) as life:
        caller = await life.call()
        first = await life.launched(source)
        job = await submitted(caller, using(first.job))
        launcher.say(end(first, Outcome.EXIT, 1))
        await launcher.hear(Acknowledge)

        with pytest.raises(Refused, match=f"job {job} waits for job {first.job}, which failed"):
            await life.actions.do("retry", job)


async def test_results_that_are_too_long_together_fail_the_job_with_a_reason(config, launcher):
    async with served(config, launcher) as life:
        caller = await life.call()
        long = await ended(life, launcher, result=b'{"ok":"%b"}' % (b"x" * 600_000))
        job = await submitted(caller, using(long, long))

        await life.heard()

        view = await life.view(job)
        assert (view.state, view.outcome) == (State.FAILED, Outcome.REFUSED)
        assert view.problem is not None
        assert f"with the results of job 1, the arguments are longer than {MAX_WORK} bytes" in view.problem


async def test_a_job_is_kept_while_another_needs_its_result(config, launcher):
    async with served(config, launcher) as life:
        caller = await life.call()
        made, other = await ended(life, launcher), await ended(life, launcher)
        due = await life.store.search(pruning.prunable_jobs, ANY, 0.0, 10)
        job = await submitted(caller, using(made, hold=True))

        assert {each.job for each in due} == {made, other}
        [refused, _] = (await caller.ask(Remove(0, [made, other]), Acted)).results
        assert refused.message == f"job {job}, which has not finished, needs the result of job {made}"
        assert await life.actions.remove_due(due) == []
        async with aclosing(Retention(life.supervisor, life.actions, life.store).prune(ANY)) as passes:
            assert [each async for each in passes] == []
        assert (await life.view(made)).state is State.SUCCEEDED

        await caller.ask(Cancel(0, [job]), Acted)
        [removed] = (await caller.ask(Remove(0, [made]), Acted)).results
        assert removed.state is State.SUCCEEDED
        with pytest.raises(Refused, match=f"job {job} waits for job {made}, which was removed: submit it"):
            await life.actions.do("retry", job)


async def test_a_job_that_is_about_to_be_removed_gives_no_result_to_a_new_one(config, launcher):
    async with served(config, launcher) as life:
        made = await ended(life, launcher)
        due = await life.store.search(pruning.prunable_jobs, ANY, 0.0, 10)

        async def submit():
            async with life.actions.keeping_jobs([using(made)]):
                finished, at = await life.actions.finished_dependencies([made])
                return life.actions.submit([using(made)], UID, finished=finished, at=at)

        life.commits.close()
        life.take(command(hold=True))
        await life.commits.reached.wait()
        removing, asked = asyncio.ensure_future(life.actions.remove_due(due)), asyncio.ensure_future(submit())

        life.commits.open()  # both waited for the same transaction, and now look for the job

        assert await removing == [made]
        with pytest.raises(NoSuchJob, match=f"no job {made}"):
            await asked


async def test_what_a_job_needed_is_forgotten_with_the_job(config, launcher):
    async with served(config, launcher) as life:
        caller = await life.call()
        made = await ended(life, launcher)
        job = await submitted(caller, using(made, hold=True))
        await caller.ask(Cancel(0, [job]), Acted)

        await caller.ask(Remove(0, [job, made]), Acted)

        assert await life.store.read(lambda db: db.execute("SELECT * FROM dependents").fetchall()) == []


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"after": ()}, "the result of job 1 is an argument, so after has to name that job"),
        ({"arguments": '{"args": [{"$result": 2}]}'}, "the arguments have no {\"$result\":1} at ['args'][0]"),
        ({"arguments": '{"args": []}'}, "the arguments have no {\"$result\":1} at ['args'][0]"),
        ({"arguments": '{"args": 5}'}, "the arguments must be JSON"),
        ({"arguments": None}, "the arguments have no {\"$result\":1} at ['args'][0]"),
    ],
)
async def test_a_reference_needs_its_dependency_and_its_place(config, launcher, changes, problem):
    async with served(config, launcher) as life:
        caller = await life.call()
        made = await ended(life, launcher)

        for request in (
            Submit(0, replace(using(made), **changes)),
            SubmitMany(id=0, specs=[replace(using(made), **changes)]),
        ):
            assert problem in (await caller.ask(request, Failed)).message


async def test_an_edit_cannot_take_the_dependency_away(config, launcher):
    async with served(config, launcher) as life:
        caller = await life.call()
        made = await ended(life, launcher)
        job = await submitted(caller, using(made, hold=True))

        [refused] = (await caller.ask(Edit(0, [job], Changes(after=())), Acted)).results

        assert refused.message == "the result of job 1 is an argument, so after has to name that job"


async def test_what_looks_like_a_reference_is_data(config, launcher):
    async with served(config, launcher) as life:
        caller = await life.call()
        made = await ended(life, launcher)

        await submitted(caller, replace(using(made), references=()))

        assert arguments_of(await launcher.hear(Launch)) == {"args": [{"$result": made}]}
