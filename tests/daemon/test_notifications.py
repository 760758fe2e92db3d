"""What happens to jobs and schedules is told by jobs, each thing once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest
from msgspec.structs import replace

from bgd.core import notifications as core
from bgd.core.job import EXPIRED, FINAL, JobId, Outcome, State
from bgd.core.notifications import Counted, Message, NotifyEvent
from bgd.core.schedule_spec import ScheduleSpec
from bgd.core.schedules import BGD_WAS_DOWN
from bgd.core.spec import NOTIFICATION_QUEUE, JobSpec
from bgd.daemon.storage import records
from bgd.daemon.storage.notifications import AT_ONCE, decide_page
from bgd.errors import ConfigError, Refused
from bgd.settings.config import Config
from bgd.wire.launching import AttemptEnded, AttemptKey, Launch, ToLauncher, log_name
from bgd.wire.replies import Checkup, Failed, Queues, Submitted
from bgd.wire.requests import GetCheckup, Pause, SendTest, Submit
from bgd.wire.views import Level
from tests.daemon.harness import UID, ServedHarness, command, configure, served
from tests.daemon.schedule_lives import DAY, HOUR, HOURLY, FakeClocks, LifeContext
from tests.daemon.scripted_launcher import ScriptedLauncher, end
from tests.daemon.waiting import soon
from tests.support import DEADLINE

FAILED, SUCCEEDED, RECOVERED = NotifyEvent.FAILED, NotifyEvent.SUCCEEDED, NotifyEvent.RECOVERED
OPS = "[notify.ops]\nmail = 'root'\n"


class Telling:
    """A daemon that tells, and whose jobs end as a test says."""

    def __init__(self, life: ServedHarness) -> None:
        self.life = life
        self.store = life.store
        self._launched: dict[AttemptKey, Launch] = {}

    async def run(self, outcome: Outcome = Outcome.EXIT, **options: object) -> JobId:
        """Run a job to its end."""
        job = await self.life.submit(command(**options))
        await self.end(job, outcome)
        return job

    async def end(self, job: JobId, outcome: Outcome = Outcome.EXIT) -> None:
        """End the attempt of a job once it is launched."""
        key = self.life.key(job, (await self.life.view(job)).attempt or 1)
        await self.launch(key)
        await self.say(end(key, outcome, {Outcome.EXIT: 1, Outcome.SUCCEEDED: 0}.get(outcome)))

    async def launch(self, key: AttemptKey) -> Launch:
        """Return what launches an attempt once the launcher has it."""
        while key not in self._launched:
            self._note(await self.life.launcher.next())
        return self._launched[key]

    async def say(self, *ends: AttemptEnded) -> None:
        """Report ends of attempts, and wait until they are handled."""
        self.life.launcher.say(*ends)
        for message in await self.life.heard():
            self._note(message)

    def _note(self, message: ToLauncher) -> None:
        if isinstance(message, Launch):
            self._launched[message.key] = message

    async def messages(self) -> list[Message]:
        """Return what was told so far, once everything is settled."""
        await self.settled()
        return [msgspec.json.decode(spec.input or b"", type=Message) for _, spec in await self.jobs()]

    async def at_least(self, count: int) -> list[Message]:
        """Return what was told once there are so many messages, which may wait for a timer."""
        async with asyncio.timeout(DEADLINE):
            while len(messages := await self.messages()) < count:
                await self.life.supervisor.saved()
        return messages

    async def events(self) -> list[tuple[NotifyEvent, str]]:
        return [(each.event, each.subject) for each in await self.messages()]

    async def settled(self) -> None:
        async with asyncio.timeout(DEADLINE):
            await self.life.supervisor.saved()
            while await self.store.read(_count, "notify_facts"):
                await self.life.supervisor.saved()

    async def jobs(self) -> list[tuple[JobId, JobSpec]]:
        """Return the jobs that tell, oldest first."""
        await soon(self.life.supervisor.saved())
        return await self.store.read(_jobs)


def _count(db, table: str) -> int:
    (count,) = db.execute(f"SELECT count(*) FROM {table}").fetchone()
    return int(count)


def _nothing(db) -> None:
    """Change nothing: who waits for this waits for what was written before."""


def _jobs(db) -> list[tuple[JobId, JobSpec]]:
    rows = db.execute(
        "SELECT job, spec FROM specs JOIN jobs ON jobs.id = job WHERE queue = ? ORDER BY job",
        (NOTIFICATION_QUEUE,),
    )
    return [(JobId(job), records.unpack_spec(spec)) for job, spec in rows]


@asynccontextmanager
async def telling(config: Config, launcher: ScriptedLauncher) -> AsyncIterator[Telling]:
    async with served(config, launcher) as life:
        await life.notifications.load()
        task = life.tasks.create_task(life.notifications.run())
        yield Telling(life)
        task.cancel()


def with_targets(folder: Path, targets: str = OPS, daemon: str = "notify = 'ops'") -> Config:
    return configure(folder, f"slots = 1000\n{daemon}", targets)


# --- jobs -------------------------------------------------------------------------------------------------


async def test_a_failed_job_is_told_by_a_job_with_everything_that_is_known(folder, launcher):
    config = with_targets(folder, daemon="")
    async with telling(config, launcher) as told:
        job = await told.run(name="backup", notify="ops", queue="slow")
        await told.run(name="nobody asks")

        [message] = await told.messages()
        assert message == Message(
            id=message.id,
            event=FAILED,
            at=core.instant(2.0),
            target="ops",
            subject="backup",
            job=job,
            name="backup",
            command="/bin/true",
            queue="slow",
            outcome=Outcome.EXIT,
            exit_code=1,
            attempts=1,
            failures=1,
            log=f"{config.log_dir}/{log_name(job, 1)}",
        )
        [(teller, spec)] = await told.jobs()
        assert (spec.argv or ())[1:] == ("-P", "-m", "bgd.delivery", "--config", f"{folder}/bgd.toml", "ops")
        assert (spec.name, spec.cwd, spec.env) == ("notify ops", "/", None)
        assert (spec.retries, spec.retry_delay, spec.backoff, spec.timeout) == (8, 15.0, 2.0, 60.0)
        assert (await told.life.view(teller)).state is State.RUNNING


async def test_failures_are_told_once_and_so_is_the_recovery(folder, launcher):
    config = with_targets(folder, f"{OPS}on = ['failed', 'recovered']\nfailures = 2\n")
    async with telling(config, launcher) as told:
        for outcome in (Outcome.EXIT, Outcome.SIGNAL, Outcome.EXIT, Outcome.SUCCEEDED, Outcome.SUCCEEDED):
            await told.run(outcome, name="backup")

        failed, recovered = await told.messages()
        assert (failed.event, failed.failures, failed.outcome) == (FAILED, 2, Outcome.SIGNAL)
        assert (recovered.event, recovered.failures) == (RECOVERED, 3)
        assert await told.store.read(_count, "streaks") == 0


async def test_a_success_right_after_a_failure_ends_the_streak(folder, launcher):
    async with telling(with_targets(folder), launcher) as told:
        first, second = [await told.life.submit(command(name="x")) for _ in range(2)]
        keys = [told.life.key(first), told.life.key(second)]
        for key in keys:
            await told.launch(key)
        await told.say(end(keys[0], Outcome.EXIT, 1), end(keys[1]))  # in one transaction
        await told.run(name="x")

        assert await told.events() == [(FAILED, "x"), (FAILED, "x")]


async def test_a_success_that_nobody_is_told_about_costs_nothing(folder, launcher):
    async with telling(with_targets(folder), launcher) as told:
        await told.run(Outcome.SUCCEEDED)
        commits = told.life.commits.commits
        await told.settled()

        assert told.life.commits.commits <= commits + 1  # that of `settled`
        assert await told.store.read(_count, "notify_facts") == 0


async def test_start_and_success_are_told_if_they_are_wanted(folder, launcher):
    config = with_targets(folder, f"{OPS}on = ['started', 'succeeded']\n")
    async with telling(config, launcher) as told:
        job = await told.life.submit(command(retries=1, retry_delay=0.0))
        await told.end(job)
        await told.end(job, Outcome.SUCCEEDED)

        assert await told.events() == [
            (NotifyEvent.STARTED, f"job {job}"),
            (SUCCEEDED, f"job {job}"),
        ]
        assert (await told.messages())[1].attempts == 2


@pytest.mark.parametrize("is_running", [True, False])
async def test_whoever_cancels_a_job_is_not_told(folder, launcher, is_running):
    async with telling(with_targets(folder), launcher) as told:
        job = await told.life.submit(command(hold=not is_running))
        await told.life.actions.asked_by("ada").do("cancel", job)
        if is_running:
            await told.end(job, Outcome.CANCELLED)

        assert (await told.life.view(job)).state is State.CANCELLED
        assert await told.messages() == []
        assert await told.store.read(_count, "streaks") == 0


async def test_a_job_that_cannot_run_any_more_is_told_as_failed(folder, launcher):
    async with telling(with_targets(folder), launcher) as told:
        first = await told.life.submit(command(name="first"))
        (after,) = told.life.actions.submit([command(name="after", after=(first,))], UID, {}).jobs
        await told.life.submit(command(name="late", hold=True, expires=0.01))
        await told.end(first)
        messages = await told.at_least(3)

        found = {each.subject: (each.event, each.outcome, each.reason) for each in messages}
        assert found == {
            "first": (FAILED, Outcome.EXIT, None),
            "after": (FAILED, Outcome.CANCELLED, f"job {first}, which had to succeed first, failed"),
            "late": (FAILED, Outcome.CANCELLED, EXPIRED),
        }
        assert (await told.life.view(after)).state in FINAL


async def test_an_attempt_that_did_not_start_is_told_with_the_reason(folder, launcher):
    async with telling(with_targets(folder), launcher) as told:
        job = await told.life.submit(command())
        ended = end(told.life.key(job), Outcome.NOT_STARTED, None)
        await told.say(replace(ended, problem="/bin/true: no such program"))

        [message] = await told.messages()
        assert (message.outcome, message.reason) == (Outcome.NOT_STARTED, "/bin/true: no such program")


async def test_a_streak_without_a_name_goes_with_its_job(folder, launcher):
    async with telling(with_targets(folder), launcher) as told:
        job, named = await told.run(), await told.run(name="x")
        await told.settled()
        assert await told.store.read(_count, "streaks") == 2
        for each in (job, named):
            await told.life.actions.do("remove", each)
        await told.settled()

        assert await told.store.read(_count, "streaks") == 1


async def test_a_retried_job_continues_its_streak(folder, launcher):
    async with telling(with_targets(folder, f"{OPS}on = ['failed', 'recovered']\n"), launcher) as told:
        job = await told.run()
        for outcome in (Outcome.EXIT, Outcome.SUCCEEDED):
            await told.life.actions.do("retry", job)
            await told.end(job, outcome)

        assert await told.events() == [(FAILED, f"job {job}"), (RECOVERED, f"job {job}")]


async def test_a_job_with_the_name_of_a_schedule_has_a_streak_of_its_own(folder, launcher):
    async with telling(with_targets(folder, f"{OPS}on = ['failed', 'recovered']\n"), launcher) as told:
        await told.life.schedules.set({"hourly": HOURLY}, UID, replaces=False)
        await told.end(told.life.schedules.run_now("hourly", "ada"))
        await told.run(Outcome.SUCCEEDED, name="hourly")
        await told.run(name="hourly")

        assert [(each.event, each.schedule) for each in await told.messages()] == [
            (FAILED, "hourly"),
            (FAILED, None),
        ]


async def test_a_target_that_hangs_delays_no_other_one_also_after_a_restart(folder, launcher):
    config = with_targets(folder, OPS + OPS.replace("ops", "pager"))
    async with telling(config, launcher) as told:
        for _ in range(2):
            await told.run(notify="ops")  # which hangs: its delivery does not end
        assert len(await told.messages()) == 2
    async with telling(config, launcher) as told:
        await told.run(notify="pager")
        await told.settled()

        states = [(await told.life.view(job)).state for job, _ in await told.jobs()]
        assert states == [State.RUNNING, State.QUEUED, State.RUNNING]


async def test_the_end_of_a_notification_is_not_told(folder, launcher):
    async with telling(with_targets(folder), launcher) as told:
        await told.run()
        await told.settled()
        [(teller, _)] = await told.jobs()
        await told.say(end(told.life.key(teller), Outcome.REFUSED, None))

        assert (await told.life.view(teller)).state is State.FAILED
        assert len(await told.messages()) == 1


# --- schedules --------------------------------------------------------------------------------------------


async def test_jobs_of_a_schedule_are_told_under_its_name(folder, launcher):
    async with telling(with_targets(folder, daemon=""), launcher) as told:
        schedules = told.life.schedules
        job = replace(HOURLY.job, name="x", notify="ops")
        await schedules.set({"hourly": replace(HOURLY, job=job)}, UID, replaces=False)
        await told.end(schedules.run_now("hourly", "ada"))

        [message] = await told.messages()
        assert (message.event, message.subject, message.schedule, message.name) == (
            FAILED,
            "hourly",
            "hourly",
            "x",
        )


@pytest.mark.parametrize(("daemon", "own"), [("notify = 'ops'", None), ("", "ops")])
async def test_missed_occurrences_are_told(folder, launcher, clocks, daemon, own):
    config = with_targets(folder, f"{OPS}on = ['missed']\n", daemon)
    lives = LifeContext(config, launcher, clocks)
    spec = replace(HOURLY, job=replace(HOURLY.job, notify=own))
    async with lives.begin() as life:
        await life.schedules.set({"hourly": spec}, UID, replaces=False)
        await life.pass_time(1)
    clocks.go_on(10 * HOUR + 100)
    async with lives.begin() as life:
        await life.rows("hourly")
    async with telling(config, launcher) as told:
        [message] = await told.messages()
        assert (message.event, message.subject, message.count) == (NotifyEvent.MISSED, "hourly", 10)
        assert message.due_at == core.instant(clocks.wall - 9 * HOUR - 101)
        assert (message.job, message.reason) == (None, BGD_WAS_DOWN)


async def test_a_job_of_a_schedule_that_is_late_is_told(folder, launcher, clocks):
    config = with_targets(folder, f"{OPS}on = ['late']\n")
    async with LifeContext(config, launcher, clocks).begin() as life:
        await life.schedules.set({"hourly": replace(HOURLY, late_after=60.0)}, UID, replaces=False)
        await life.pass_time(HOUR)
        [job] = await life.jobs()
        await life.pass_time(61)
    async with telling(config, launcher) as told:
        [message] = await told.messages()
        assert (message.event, message.subject, message.job) == (NotifyEvent.LATE, "hourly", job)


async def test_a_schedule_whose_target_is_gone_runs_all_the_same(folder, launcher, clocks):
    lives = LifeContext(with_targets(folder, daemon=""), launcher, clocks)
    async with lives.begin() as life:
        job = replace(HOURLY.job, notify="ops")
        await life.schedules.set({"hourly": replace(HOURLY, job=job)}, UID, replaces=False)
        with pytest.raises(Refused, match=r"there is no \[notify\.opps\]; did you mean ops\?"):
            await life.schedules.set(
                {"other": ScheduleSpec(job=command(notify="opps"), cron="@daily")}, UID, replaces=False
            )
        with pytest.raises(ConfigError, match=r"schedule hourly still uses \[notify\.ops\]"):
            life.schedules.check(configure(folder))
        await life.pass_time(1)
    async with lives.begin(configure(folder)) as life:
        await life.pass_time(HOUR)
        assert len(await life.jobs()) == 1


# --- exactly once -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("commits", range(3))
async def test_a_failure_is_told_by_one_job_whenever_the_daemon_is_killed(folder, launcher, commits):
    config = with_targets(folder)
    async with telling(config, launcher) as told:
        job = await told.life.submit(command())
        await told.life.launcher.hear(Launch)
        told.life.commits.close()
        told.life.launcher.say(end(told.life.key(job), Outcome.EXIT, 1))
        await soon(told.life.commits.reached.wait())
        for commit in range(commits):  # its end, then the job that tells it
            told.life.commits.open()
            told.life.commits.close()
            if commit == 0:
                await soon(told.life.commits.reached.wait())
        if commits == 2:
            while not await told.store.read(_jobs):
                await told.store.write(_nothing)
        else:
            assert await told.store.read(_jobs) == []
    async with telling(config, launcher) as told:
        if (await told.life.view(job)).state not in FINAL:
            await told.end(job)

        assert await told.events() == [(FAILED, f"job {job}")]


# --- limits -----------------------------------------------------------------------------------------------


async def test_a_storm_is_told_in_a_few_messages_and_a_summary(folder, launcher, monkeypatch):
    config = with_targets(folder, f"{OPS}per_minute = 3\n")
    count = 2 * AT_ONCE + 10
    async with telling(config, launcher) as told:
        keys = [told.life.key(told.life.take()) for _ in range(count)]
        for key in keys:
            await told.launch(key)
        await told.say(*(end(key, Outcome.EXIT, 1) for key in keys))
        assert [each.event for each in await told.messages()] == [FAILED] * 3
        assert await told.store.read(_count, "streaks") == count
    async with telling(config, launcher) as told:  # bgd is killed, and knows what it has sent
        await told.settled()
        assert len(await told.jobs()) == 3
    monkeypatch.setattr(core, "WINDOW", 0.0)  # a minute later
    async with telling(config, launcher) as told:
        messages = await told.at_least(4)
        summary = messages[-1]
        assert (summary.event, summary.subject) == (NotifyEvent.SUMMARY, f"{count - 3} notifications")
        assert [(each.event, each.count) for each in summary.summary or ()] == [(FAILED, count - 3)]
        assert len((summary.summary or [])[0].subjects) == core.MAX_SUBJECTS
        assert await told.store.read(_count, "notify_waiting") == 0


async def test_what_waits_is_told_when_the_minute_is_over(folder, launcher, monkeypatch):
    monkeypatch.setattr(core, "WINDOW", 0.3)
    async with telling(with_targets(folder, f"{OPS}per_minute = 1\n"), launcher) as told:
        for name in ("a", "b"):
            await told.run(name=name)
        await told.at_least(2)

        assert await told.events() == [(FAILED, "a"), (FAILED, "b")]  # one that waits is told as it is


async def test_a_minute_may_be_over_while_facts_are_decided_about(folder, launcher, monkeypatch):
    async with telling(with_targets(folder, f"{OPS}per_minute = 1\n"), launcher) as told:
        for name in ("a", "b"):
            await told.run(name=name)
        await told.settled()
        notifications = told.life.notifications
        send_waiting = notifications._send_waiting

        def send_at_the_end_of_the_minute():
            send_waiting()
            monkeypatch.setattr(core, "WINDOW", 0.0)

        monkeypatch.setattr(notifications, "_send_waiting", send_at_the_end_of_the_minute)
        await told.run(name="c")
        messages = await told.at_least(2)

        assert messages[1].summary == (Counted(event=FAILED, count=2, subjects=("b", "c")),)


async def test_targets_have_limits_of_their_own(folder, launcher):
    targets = f"{OPS}per_minute = 1\n[notify.pager]\nmail = 'root'\n"
    async with telling(with_targets(folder, targets), launcher) as told:
        for name in ("a", "b", "c"):
            await told.run(name=name)
        await told.run(name="d", notify="pager")

        assert await told.events() == [(FAILED, "a"), (FAILED, "d")]


async def test_nothing_is_told_twice_or_lost_when_the_limit_is_raised(folder, launcher):
    async with telling(with_targets(folder, f"{OPS}per_minute = 1\n"), launcher) as told:
        for name in ("a", "b", "c"):
            await told.run(name=name)
        await told.settled()
        told.life.supervisor.configure(with_targets(folder))
        messages = await told.at_least(2)

        assert messages[1].summary == (Counted(event=FAILED, count=2, subjects=("b", "c")),)


# --- configuration ----------------------------------------------------------------------------------------


async def test_a_target_that_is_removed_is_forgotten_with_one_warning(folder, launcher, caplog):
    targets = f"{OPS}per_minute = 1\n[notify.pager]\nmail = 'root'\n"
    async with telling(with_targets(folder, targets), launcher) as told:
        await told.run(name="a")
        await told.run(name="b")
        waiting = [await told.life.submit(command(name=name, notify="ops")) for name in ("c", "d")]
        await told.settled()
        assert await told.store.read(_count, "notify_waiting") == 1
        told.life.supervisor.configure(configure(folder, rest="[notify.pager]\nmail = 'root'\n"))
        for job in waiting:
            await told.end(job)
        await told.settled()

        for table in ("notify_facts", "streaks", "notify_waiting"):
            assert await told.store.read(_count, table) == 0
        assert [name for name in caplog.messages if "notify" in name] == [
            "[notify.ops] was removed from the configuration: its notifications are dropped"
        ]


async def test_a_target_that_was_removed_while_bgd_was_down_is_forgotten(folder, launcher):
    async with telling(with_targets(folder, f"{OPS}per_minute = 1\n"), launcher) as told:
        await told.run(name="a")
        await told.run(name="b")
        await told.settled()
    async with telling(configure(folder), launcher) as told:
        await told.settled()

        for table in ("notify_facts", "streaks", "notify_waiting"):
            assert await told.store.read(_count, table) == 0


async def test_a_target_that_is_removed_while_facts_are_judged_is_told_nothing(folder, launcher, monkeypatch):
    async with telling(with_targets(folder, f"{OPS}per_minute = 1\n"), launcher) as told:
        await told.run(name="a")
        await told.settled()
        read, is_judged = told.store.read, asyncio.Event()

        async def read_and_reload(function, *args):
            found = await read(function, *args)
            if function is decide_page and found is not None and not is_judged.is_set():
                told.life.supervisor.configure(configure(folder))
                is_judged.set()
            return found

        monkeypatch.setattr(told.store, "read", read_and_reload)
        for name in ("b", "c"):
            await told.run(name=name)
        await soon(is_judged.wait())

        assert await told.events() == [(FAILED, "a")]
        for table in ("notify_facts", "streaks", "notify_waiting"):
            assert await told.store.read(_count, table) == 0


async def test_without_targets_nothing_is_stored(folder, launcher):
    async with telling(configure(folder), launcher) as told:
        await told.run()

        assert await told.store.read(_count, "notify_facts") == 0
        assert await told.store.read(_count, "streaks") == 0


async def test_a_job_cannot_name_a_target_that_does_not_exist(folder, launcher):
    async with telling(with_targets(folder), launcher) as told:
        caller = await told.life.call()
        refused = await caller.ask(Submit(1, command(notify="opps")), Failed)

        assert refused.message == "there is no [notify.opps]; did you mean ops?"


async def test_a_test_is_sent_once_at_once_and_while_everything_is_paused(folder, launcher):
    async with telling(with_targets(folder, f"{OPS}per_minute = 1\n"), launcher) as told:
        await told.run()
        await told.settled()
        caller = await told.life.call()
        await caller.ask(Pause(1), Queues)
        [job] = (await caller.ask(SendTest(2, "ops"), Submitted)).jobs
        refused = await caller.ask(SendTest(3, "opps"), Failed)

        assert refused.message == "there is no [notify.opps]; did you mean ops?"
        _, test = await told.messages()
        assert (test.event, test.target) == (NotifyEvent.TEST, "ops")
        assert (await told.life.view(job)).retries == 0


@pytest.mark.parametrize(("code", "state"), [(1, State.SCHEDULED), (core.NEVER, State.FAILED)])
async def test_a_delivery_is_tried_again_unless_it_can_never_succeed(folder, launcher, code, state):
    async with telling(with_targets(folder), launcher) as told:
        await told.run()
        await told.settled()
        [(teller, _)] = await told.jobs()
        await told.say(end(told.life.key(teller), Outcome.EXIT, code))

        assert (await told.life.view(teller)).state is state


async def test_doctor_warns_of_notifications_that_could_not_be_delivered(folder, launcher):
    async with telling(with_targets(folder), launcher) as told:
        await told.run()
        await told.settled()
        [(teller, _)] = await told.jobs()
        [finding] = await told.life.notifications.findings()
        assert (finding.level, finding.message) == (Level.OK, "all could be delivered")
        await told.say(end(told.life.key(teller), Outcome.REFUSED, None))
        await soon(told.life.supervisor.saved())

        found = (await (await told.life.call()).ask(GetCheckup(1), Checkup)).findings
        [finding] = [each for each in found if each.subject == "notifications"]
        assert finding.level is Level.WARNING
        assert finding.message == f"1 could not be delivered, the latest by job {teller}"
        told.life.supervisor.configure(configure(folder))
        assert await told.life.notifications.findings() == []


async def test_a_message_is_delivered_where_only_listed_programs_may_run(folder, launcher):
    config = with_targets(folder, f"[security]\nallowed_commands = ['/bin/true']\n{OPS}")
    async with telling(config, launcher) as told:
        job = await told.run()
        await told.settled()
        [(teller, _)] = await told.jobs()
        launch = await told.launch(told.life.key(teller))

        assert launch.argv[-1] == "ops"
        assert launch.env["BGD_SLOT"] == "0"
        assert msgspec.json.decode(launch.stdin or b"", type=Message).job == job


@pytest.fixture
def clocks() -> FakeClocks:
    found = FakeClocks()
    found.go_on(DAY)
    return found
