"""Jobs that follow the end of others: one each, in the transaction of the end."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from bgd.core.job import JobId, Now, Outcome, State
from bgd.core.retry import TOO_LATE
from bgd.core.spec import JobCause, JobSpec
from bgd.daemon.storage import read
from bgd.errors import NotAllowed, Refused
from bgd.system import clock
from bgd.wire.launching import Acknowledge, Launch
from bgd.wire.requests import Changes
from tests.daemon.harness import UID, command, configure, served, write_log
from tests.daemon.scripted_launcher import end
from tests.daemon.waiting import soon

FOLLOWED = {"on_failure": ("mail", "ops"), "on_success": ("app.jobs:report",)}


async def failed(life, launcher, **options):
    """Return the key of a job that has failed, once its end is on disk."""
    key = await life.launched(command(**options))
    launcher.say(end(key, Outcome.EXIT, 3))
    if options:
        await launcher.hear(Launch)  # of the job that follows
    await launcher.hear(Acknowledge)
    return key


async def test_a_job_follows_in_the_transaction_of_the_end(config, launcher):
    async with served(config, launcher) as life:
        key = await life.launched(command(name="backup", **FOLLOWED))
        write_log(config, key, b"one\ntwo \x1b[31mred\x1b[0m\n")
        commits = life.commits.commits
        launcher.say(end(key, Outcome.EXIT, 3))

        await launcher.hear(Launch)
        await launcher.hear(Acknowledge)
        assert life.commits.commits == commits + 1
        cause = JobCause(
            id=key.job, event="on_failure", outcome="exit", name="backup", error="exit code 3", attempt=1
        )
        following = await life.view(key.job + 1)
        assert (following.argv, following.cwd, following.cause) == (["mail", "ops"], "/", cause)
        assert (await life.view(key.job)).follow_ups == [following.id]


async def test_a_job_that_follows_gets_what_it_follows(config, launcher):
    async with served(config, launcher) as life:
        key = await life.launched(command(name="backup", **FOLLOWED))
        write_log(config, key, b"one\ntwo \x1b[31mred\x1b[0m\n")
        launcher.say(end(key, Outcome.EXIT, 3))

        launch = await launcher.hear(Launch)
        assert launch.argv == ["mail", "ops"]
        assert {name: text for name, text in launch.env.items() if name.startswith("BGD_CAUSE_")} == {
            "BGD_CAUSE_ID": str(key.job),
            "BGD_CAUSE_NAME": "backup",
            "BGD_CAUSE_OUTCOME": "exit",
            "BGD_CAUSE_ERROR": "exit code 3",
            "BGD_CAUSE_OUTPUT": "one\ntwo red",
        }


async def test_nothing_follows_the_end_of_a_job_that_follows(config, launcher):
    async with served(config, launcher) as life:
        key = await failed(life, launcher, on_failure=("false",))
        follower = life.key(key.job + 1)
        launcher.say(end(follower, Outcome.EXIT, 1))
        await launcher.hear(Acknowledge)

        assert (await life.view(follower.job)).state is State.FAILED
        assert await life.store.read(read.last_id) == follower.job


async def test_a_person_who_retries_the_job_gets_another_one(config, launcher):
    async with served(config, launcher) as life:
        key = await failed(life, launcher, on_failure=("true",))
        await life.actions.do("retry", key.job)
        await launcher.hear(Launch)
        launcher.say(end(life.key(key.job, 2), Outcome.EXIT, 3))
        await launcher.hear(Launch)
        await launcher.hear(Acknowledge)

        assert (await life.view(key.job)).follow_ups == [key.job + 1, key.job + 2]


async def test_nothing_follows_a_job_that_a_person_cancelled(config, launcher):
    async with served(config, launcher) as life:
        job = await life.submit(command(hold=True, **FOLLOWED))
        await life.actions.do("cancel", job)

        assert (await life.view(job)).follow_ups == []
        assert await life.store.read(read.last_id) == job


async def test_a_job_follows_one_that_ends_with_its_submit(config, launcher):
    async with served(config, launcher) as life:
        key = await failed(life, launcher)
        life.actions.submit([command(after=(key.job,), **FOLLOWED)], UID, finished={key.job: State.FAILED})

        cause = (await life.view(key.job + 2)).cause
        assert cause is not None
        assert (cause.outcome, cause.attempt) == ("cancelled", 0)
        assert cause.error == f"job {key.job}, which had to succeed first, failed"


async def test_a_job_follows_one_whose_time_for_retries_is_over(config, launcher):
    async with served(config, launcher) as life:
        key = await life.launched(command(retry_until=300.0, retry_delay=299.0, jitter=0.0, **FOLLOWED))
        launcher.say(end(key, Outcome.EXIT, 3))
        await launcher.hear(Acknowledge)
        later = Now(clock.elapsed() + 301.0, clock.now().wall + 301.0)
        life.supervisor.decide(lambda scheduler, _: scheduler.hold(JobId(key.job), later))

        cause = (await life.view(key.job + 1)).cause
        assert cause is not None
        assert (cause.outcome, cause.error) == ("exit", TOO_LATE)


async def test_a_change_counts_in_the_transaction_of_the_end(config, launcher):
    async with served(config, launcher) as life:
        first = await life.submit(command(hold=True))
        blocked = await life.submit(command(after=(first,), on_failure=("old",)))
        await life.actions.do("edit", blocked, changes=Changes(on_failure=("new",)))
        life.supervisor.decide(lambda scheduler, at: scheduler.cancel(first, at))

        assert (await life.view(blocked + 1)).argv == ["new"]


async def test_a_command_that_follows_a_class_job_has_the_environment_of_the_daemon(folder, launcher):
    config = configure(folder, rest=CLASSES)
    async with served(config, launcher) as life:
        spec = JobSpec(target="app.jobs:work", env={"LEVEL": "3"}, on_success=("true",), retries=0)
        key = await life.launched(spec)
        launcher.say(replace(end(key), result=b'{"ok":null}'))

        launch = await launcher.hear(Launch)
        assert launch.argv == ["true"]
        assert "PATH" in launch.env
        assert "LEVEL" not in launch.env


CLASSES = """
[security]
allowed_classes = ["app.jobs.work"]
allowed_commands = ["*"]
[python]
env = ["LEVEL"]
"""


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"on_failure": ("app.jobs:other",)}, "on_failure: app.jobs:other is not in .* allowed_classes"),
        ({"on_success": ("app.jobs:_x",)}, "on_success: target 'app.jobs:_x' must be"),
        ({"cause": JobCause(id=1, event="on_failure", outcome="exit")}, "cause cannot be set"),
    ],
)
async def test_what_is_not_allowed_is_refused_at_the_submit(folder, launcher, options, message):
    config = configure(folder, rest=CLASSES)
    async with served(config, launcher) as life:
        with pytest.raises(Refused, match=message):
            life.actions.check([command(**options)])


async def test_the_list_of_commands_counts_for_what_follows(folder, launcher):
    config = configure(folder, rest='[security]\nallowed_commands = ["/bin/true"]')
    async with served(config, launcher) as life:
        life.actions.check([command(on_failure=("/bin/true",))])
        with pytest.raises(NotAllowed, match="on_failure: '/bin/sh' is not in"):
            life.actions.check([command(on_failure=("/bin/sh",))])


async def test_a_job_that_was_removed_is_not_named(config, launcher):
    async with served(config, launcher) as life:
        key = await failed(life, launcher, on_failure=("true",))
        launcher.say(end(life.key(key.job + 1)))
        await launcher.hear(Acknowledge)
        await life.actions.do("remove", JobId(key.job + 1))

        assert (await life.view(key.job)).follow_ups == []
        await life.actions.do("remove", JobId(key.job))
        await soon(life.supervisor.saved())
        assert await life.store.read(lambda db: db.execute("SELECT * FROM follow_ups").fetchall()) == []
