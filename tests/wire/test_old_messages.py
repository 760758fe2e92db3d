"""Messages of every protocol version there was stay readable.

The samples are the bytes that were once sent: they are never changed. For a message that is new, run
`python -m tests.wire.test_old_messages`, which writes the samples that are missing.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec.structs import asdict, replace

from bgd.core.explain import Cause, Explanation, Reason
from bgd.core.job import Outcome, State
from bgd.core.schedule_spec import Missed, Overlap, Result, ScheduleSpec
from bgd.core.spec import ExecutorKind, Isolation, JobCause, JobSpec, StopSignal
from bgd.wire import launching, messages, replies, requests, schedules, views
from bgd.wire.limits import Abilities, Limits
from tests.support import has_all_of
from tests.wire.message_strategies import DIRECTIONS, KINDS, Message, tag_of

SAMPLES = Path(__file__).parent / "samples"

SPEC = JobSpec(
    argv=("make", "-j2", "größer"),
    queue="narrow",
    priority=-7,
    name="build",
    tags=("nightly", "späť"),
    retries=3,
    retry_delay=5.0,
    backoff=2.0,
    max_delay=3600.0,
    jitter=0.1,
    rerun=True,
    timeout=600.0,
    delay=1.5,
    cwd="/srv/app",
    umask=0o027,
    env={"PATH": "/usr/bin", "LANG": "C.UTF-8"},
)
FULL_SPEC = replace(
    SPEC,
    retry_on=(1, 75),
    no_retry_on=(2,),
    at=1_790_000_100.5,
    expires=60.0,
    after=(15, 16),
    after_any=(14,),
    key="nightly",
    slots=2,
    hold=True,
    stdin="/srv/app/list",
    input=b"one\n\xff",
    pty=True,
)
CALL = JobSpec(target="app.services:Report.build", arguments='{"args":[1],"kwargs":{"x":1.0}}')
EXPLANATION = Explanation(
    reasons=(
        Reason(cause=Cause.HOLD, subject="17"),
        Reason(cause=Cause.TIME, at=1_790_000_100.5),
        Reason(cause=Cause.JOBS, jobs=(15, 16), more=3),
        Reason(cause=Cause.SLOTS, wanted=2, slots=4, taken=4, ahead=7),
    ),
    likely_start_at=1_790_000_200.5,
)
SCHEDULE = ScheduleSpec(
    job=CALL,
    cron="0 3 * * *",
    timezone="Europe/Paris",
    overlap=Overlap.QUEUE,
    missed=Missed.LATEST,
    missed_within=3600.0,
    jitter=300.0,
    excluded=("12-25",),
    paused=True,
)
OCCURRENCE = schedules.OccurrenceView(
    id=98, due_at=1_790_000_100.5, outcome=Result.MISSED, job=17, reason="bgd was not running", count=3
)
SCHEDULE_VIEW = schedules.ScheduleView(
    name="nightly",
    spec=msgspec.convert(msgspec.to_builtins(SCHEDULE), schedules.SeenSchedule),
    is_configured=True,
    is_paused=False,
    words="every day at 03:00",
    timezone="Europe/Paris",
    upcoming=[1_790_000_200.0],
    latest=OCCURRENCE,
    problem="no",
)
VIEW = views.JobView(
    id=17,
    kind="command",
    argv=["make", "-j2"],
    target=None,
    arguments=None,
    cwd="/srv/app",
    user="ada",
    state=State.FAILED,
    outcome=Outcome.EXIT,
    exit_code=2,
    signal=None,
    reason=None,
    queue="default",
    priority=5,
    name=None,
    tags=["nightly"],
    retries=3,
    retry_delay=5.0,
    backoff=1.0,
    max_delay=3600.0,
    jitter=0.1,
    rerun=None,
    timeout=None,
    delay=0.0,
    umask=0o022,
    attempt=4,
    created_at=1_790_000_000.25,
    due_at=None,
    started_at=1_790_000_001.5,
    finished_at=1_790_000_002.75,
)
FULL_VIEW = replace(
    VIEW,
    retry_on=[1, 75],
    no_retry_on=[2],
    at=1_790_000_100.5,
    expires=60.0,
    expires_at=1_790_000_060.25,
    after=[15, 16],
    after_any=[14],
    waits_for=[16],
    key="nightly",
    slots=2,
    stdin="/srv/app/list",
    pty=True,
    suspended=True,
)
CHANGES = requests.Changes(
    argv=("make", "-j4"),
    queue="wide",
    priority=7,
    name=None,
    tags=("daily",),
    retries=None,
    retry_delay=1.0,
    backoff=1.5,
    max_delay=60.0,
    jitter=0.0,
    retry_on=(75,),
    no_retry_on=None,
    rerun=False,
    timeout=None,
    delay=2.5,
    at=None,
    expires=90.0,
    after=(),
    after_any=(13,),
    slots=1,
    cwd="/srv",
    env={"A": "1"},
    stdin=None,
    pty=False,
)
KEY = launching.AttemptKey("9f2c", 17, 4)
WARM_LAUNCH = launching.Launch(
    key=KEY,
    argv=["/usr/bin/python3", "/opt/bgd/worker/run.py"],
    env={"PATH": "/usr/bin", "BGD_JOB_ID": "17"},
    cwd="/srv",
    stdin=b"{}",
    result=True,
    warm=launching.WarmStart(
        path=["/srv/app"],
        preload=["app.models"],
        base={"BGD_JOB_ID": None, "LANG": "C.UTF-8"},
    ),
)
REUSE_LAUNCH = replace(
    WARM_LAUNCH,
    warm=launching.WarmStart(isolation=Isolation.REUSE, recycle_jobs=100, recycle_memory=64_000_000),
)
QUEUE = views.QueueView(name="narrow", slots=2, configured_slots=None, paused=True, counts={"queued": 3})
END = views.JobEnd(
    event=1,
    session="claude-7",
    job=17,
    attempt=4,
    name="build",
    state=State.FAILED,
    outcome=Outcome.EXIT,
    exit_code=2,
    signal=None,
    reason=None,
    at=1_790_000_002.75,
    seconds=1.5,
    log_bytes=12,
    redelivered=False,
)
EVENT = views.EventView(
    id=99,
    at=1_790_000_002.75,
    job=17,
    what="give up",
    state=State.FAILED,
    attempt=4,
    outcome=Outcome.EXIT,
    reason="an end of this kind is not tried again",
)
PROGRESS = views.Progress(0.25, "größer")
ERROR = views.JobError("builtins.ValueError", "no such report", "Traceback ...")
ATTEMPT = views.AttemptView(
    attempt=4,
    outcome=Outcome.ERROR,
    exit_code=1,
    signal=None,
    started_at=1_790_000_001.5,
    finished_at=1_790_000_002.75,
    user_seconds=0.25,
    system_seconds=0.125,
    max_rss_bytes=7_340_032,
    error=ERROR,
    log_bytes=120,
    log_path="0/17.4.log",
    pid=4242,
)

BATCH = views.BatchView(
    id=3,
    name="nightly",
    user="ann",
    created_at=1_790_000_000.0,
    total=9,
    pending=1,
    running=2,
    succeeded=3,
    failed=2,
    cancelled=1,
    is_whole=True,
    finished_at=1_790_000_002.75,
    then=views.FollowUpView(["make", "-j2"], None),
    catch=views.FollowUpView(None, "app.jobs:report", '{"args": [3]}', job=17),
    finally_=views.FollowUpView(["true"], None, job=18),
)

SENT: dict[str, list[Message]] = {
    "hello": [messages.Hello(1, "0.1.0", "bgctl")],
    "request": [
        requests.Submit(1, SPEC),
        requests.SubmitMany(id=2, specs=[SPEC, CALL], env={"A": "1"}, more=True),
        requests.GetBatch(id=2, batch=bytes(range(16)), after=9, close=True),
        requests.GetBatches(id=2, batch=3, name="nightly", before=9, limit=7, wait=True),
        requests.CloseBatch(2, 3, cancel=True),
        requests.List(
            id=3,
            states=[State.FAILED, State.RUNNING],
            queue="narrow",
            name="b*",
            tag="nightly",
            since=1_790_000_000.0,
            limit=7,
            mine=True,
        ),
        requests.Show(4, 17),
        requests.Explain(46, 17),
        requests.GetResult(5, 17),
        requests.Logs(id=6, job=17, attempt=2, tail=10, follow=True, timestamps=True),
        requests.GetKeyboard(6, 17, wait=True),
        requests.Wait(7, [17, 18]),
        requests.GetInbox(id=67, session="claude-7", wait=True, limit=10),
        requests.AcknowledgeEnds(68, [1, 2], "fix-login", [12]),
        requests.Cancel(8, [17]),
        requests.Retry(9, [17]),
        requests.Hold(13, [17]),
        requests.Release(14, [17]),
        requests.Suspend(15, [17]),
        requests.Continue(16, [17]),
        requests.Remove(18, [17]),
        requests.SendSignal(id=17, jobs=[17], signal=10, whole_tree=True),
        requests.Prune(
            id=28, states=[State.FAILED], older_than=60.0, keep=10, logs_total=1_000_000, dry_run=True
        ),
        requests.Edit(19, [17], CHANGES),
        requests.GetBackup(29),
        requests.SetProgress(id=28, job=17, attempt=4, fraction=0.25, message="größer"),
        requests.GetSteps(id=49, job=17, attempt=4, after=2),
        requests.SaveStep(
            id=50, job=17, attempt=4, position=3, name="größer", done=True, value=b"{}", seconds=0.25
        ),
        requests.GetCheckup(30),
        requests.SendTest(31, "ops"),
        requests.GetQueues(20),
        requests.SetSlots(21, 4),
        requests.SetQueue(22, "narrow", None),
        requests.RemoveQueue(23, "narrow"),
        requests.Pause(24, "narrow"),
        requests.Resume(25),
        requests.GetEvents(id=26, since=98, follow=True),
        requests.GetStats(27, 60.0),
        requests.GetUsage(48),
        requests.GetInfo(10),
        requests.GetLogin(13),
        requests.Reload(14),
        requests.Shutdown(11, requests.ShutdownMode.REQUEUE),
        requests.Forget(12, 6),
        schedules.GetSchedules(id=40, name="nightly", upcoming=5),
        schedules.SetSchedule(id=41, name="nightly", spec=SCHEDULE, replaces=True),
        schedules.SetSchedules(id=47, schedules={"nightly": SCHEDULE}, replaces=True),
        schedules.RemoveSchedule(42, "nightly"),
        schedules.PauseSchedule(43, "nightly", paused=True),
        schedules.RunSchedule(44, "nightly"),
        schedules.GetHistory(id=45, name="nightly", limit=10, before=99),
    ],
    "reply": [
        replies.Submitted(1, [17, 18], created=False),
        replies.BatchRuns(2, [(1, 17, 5), (7, 22, 1)], last=7),
        replies.BatchesPart(2, [BATCH]),
        replies.JobsPart(2, [VIEW]),
        replies.InboxPart(67, [END]),
        replies.ProgressPart(15, [views.JobProgress(17, 4, PROGRESS)]),
        replies.Shown(3, VIEW),
        replies.Explained(46, VIEW, EXPLANATION),
        replies.AttemptsPart(4, [ATTEMPT]),
        replies.StepsPart(
            49,
            [
                views.StepView(
                    position=1, name="a", state=views.StepState.DONE, at=2.5, seconds=0.25, value=b"{}"
                )
            ],
            "0123456789abcdef",
        ),
        replies.Result(5, VIEW, '{"rows":3}', ERROR),
        replies.LogPart(6, 4, b"line\n\xff\x00", [(0, 1_790_000_001.5)], left_out=9),
        replies.KeyboardOpened(6, 4, 4096),
        replies.Acted(
            7,
            [
                replies.ActResult(17, State.CANCELLED),
                replies.ActResult(18, code=replies.ErrorCode.NO_SUCH_JOB, message="no job 18"),
            ],
        ),
        replies.Pruned(15, 3, 120),
        replies.BackupPart(16, 8192, b"SQLite format 3\x00"),
        replies.Checkup(17, [views.Finding("clock", views.Level.NOTE, "not kept right", "run chrony")]),
        replies.Queues(id=12, slots=4, configured_slots=2, taken=3, paused=True, queues=[QUEUE]),
        replies.EventsPart(13, [EVENT], last=99, lost=True),
        replies.Stats(
            id=14,
            window=60.0,
            counts={"queued": 3},
            outcomes={"exit": 1},
            wait_median=0.25,
            wait_p95=1.5,
            run_median=None,
            run_p95=None,
            oldest_queued_at=1_790_000_000.25,
        ),
        replies.JobUsages(
            48, {17: views.JobUsage(cpu_percent=97.5, memory_bytes=64_000_000, processes=3)}, "no"
        ),
        replies.Info(
            id=8,
            version="0.1.0",
            pid=4242,
            started_at=1_790_000_000.0,
            state_dir="/var/lib/bgd",
            socket="/run/bgd/bgd.sock",
            config="/etc/bgd/bgd.toml",
            slots=2,
            running=1,
            counts={"queued": 3},
            launcher_pid=4243,
            store_id="9f2c",
        ),
        replies.Login(12, "http://127.0.0.1:8643/login/secret"),
        replies.Reloaded(14, "/etc/bgd/bgd.toml", ["[http]"]),
        replies.Done(9),
        replies.End(10),
        replies.Failed(11, replies.ErrorCode.FULL, "too many jobs"),
        schedules.SchedulesPart(40, [SCHEDULE_VIEW]),
        schedules.SchedulesSet(47, ["nightly"], ["hourly"], ["rare"]),
        schedules.HistoryPart(45, [OCCURRENCE]),
    ],
    "to_launcher": [
        launching.Greeting(1, "9f2c", 3),
        launching.Launch(
            key=KEY,
            argv=["make", "-j2"],
            env={"PATH": "/usr/bin"},
            cwd="/srv/app",
            umask=0o027,
            stdin=b'{"args":[]}',
            result=True,
            timeout=600.0,
            grace=5.0,
            log_cap=1_000_000,
            log_kill=True,
        ),
        launching.StopProcesses(KEY, 5.0),
        launching.SignalProcesses(KEY, 10, whole_tree=True),
        launching.SuspendProcesses(KEY),
        launching.ContinueProcesses(KEY),
        launching.Acknowledge(KEY),
        launching.WatchLog(KEY, on=False),
        launching.CheckAttempt(KEY, 7),
        launching.MeasureUsage(),
        launching.RenewWorkers(),
        launching.OutputStored(KEY, 4096),
        launching.KeepAlive(),
        launching.TradeSockets(),
        launching.OpenKeyboard(KEY),
        launching.Goodbye(),
    ],
    "from_launcher": [
        launching.Welcome(1, "boot:random", 4243, ["boot:older"]),
        launching.AttemptStarted(KEY, 4244, 1_790_000_001.5),
        launching.AttemptEnded(
            key=KEY,
            outcome=Outcome.NOT_STARTED,
            exit_code=2,
            signal=15,
            started_at=1_790_000_001.5,
            finished_at=1_790_000_002.75,
            user_seconds=0.25,
            system_seconds=0.125,
            max_rss_bytes=7_340_032,
            log_bytes=120,
            problem="program not found: mkae",
            result=b'{"ok":1}',
        ),
        launching.Ready(),
        launching.LogGrew(KEY, 240),
        launching.Checked(7, is_alive=True),
        launching.Measured([launching.AttemptUsage(KEY, 97.5, 64_000_000, 3)]),
        launching.OutputPart(KEY, 4096, b"line\n"),
        launching.Declined("protocol 7 is unknown"),
    ],
}


# Kinds that were sent before they had some of their fields: their samples go by a name of their own
GROWN: dict[str, tuple[str, Message]] = {
    "submit_with_terms": ("request", requests.Submit(1, FULL_SPEC)),
    "submit_again": ("request", requests.Submit(1, CALL, token=bytes(range(16)), again=9)),
    "submit_many_with_token": ("request", requests.SubmitMany(id=2, specs=[CALL], token=bytes(range(16)))),
    "submit_many_of_a_batch": (
        "request",
        requests.SubmitMany(id=2, specs=[SPEC], place=requests.BatchPlace(bytes(range(16)), 4, [(6, 1)])),
    ),
    "submit_many_of_a_batch_object": (
        "request",
        requests.SubmitMany(
            id=2,
            specs=[CALL],
            place=requests.BatchPlace(bytes(range(16)), 0, [(1, 1)]),
            chain=False,
            batch=requests.NewBatch(name="nightly", then=CALL, catch=SPEC, finally_=SPEC, is_whole=True),
        ),
    ),
    "submit_of_a_batch": ("request", requests.Submit(1, replace(CALL, batch=3))),
    "submitted_of_a_batch": ("reply", replies.Submitted(1, [17], batch=3)),
    "batch_of_an_object": ("reply", replies.BatchRuns(2, [], last=7, batch=3)),
    "jobs_of_a_batch": ("reply", replies.JobsPart(2, [replace(VIEW, batch=3)])),
    "submit_many_chain": ("request", requests.SubmitMany(id=2, specs=[CALL, SPEC], chain=True)),
    "hello_of_a_daemon": ("hello", messages.Hello(1, "0.2.0", "bgd", newest=17)),
    "explained_holders": (
        "reply",
        replies.Explained(
            46,
            VIEW,
            Explanation(
                reasons=(
                    Reason(cause=Cause.TOKENS, subject="gpu", holders=(15, 16), held=("0", "1, 2")),
                    Reason(cause=Cause.SLOTS, holders=(15, 16), other_holders=4),
                )
            ),
        ),
    ),
    "logs_since": ("request", requests.Logs(id=6, job=17, attempt=2, since=1_790_000_000.0)),
    "list_until": ("request", requests.List(id=3, until=1_790_000_000.0)),
    "cancel_until": ("request", requests.Cancel(8, where=requests.Selection(until=1_790_000_000.0))),
    "logs_from_offset": ("request", requests.Logs(id=6, job=17, attempt=2, offset=4096)),
    "submitted_found": ("reply", replies.Submitted(1, [17, 9], created=False, found=[9])),
    "jobs_with_terms": ("reply", replies.JobsPart(2, [FULL_VIEW])),
    "wait_with_progress": ("request", requests.Wait(7, [17, 18], progress=True)),
    "events_with_progress": ("request", requests.GetEvents(id=26, follow=True, progress=True)),
    "jobs_with_progress": ("reply", replies.JobsPart(2, [replace(VIEW, progress=PROGRESS)])),
    "events_of_progress": (
        "reply",
        replies.EventsPart(13, [replace(EVENT, what="progress", progress=PROGRESS)], last=99),
    ),
    "greeting_with_newest": ("to_launcher", launching.Greeting(1, "store", 7, 98, newest=6)),
    "launch_warm": ("to_launcher", WARM_LAUNCH),
    "launch_reuse": ("to_launcher", REUSE_LAUNCH),
    "log_from_offset": ("reply", replies.LogPart(6, 4, b"line\n", offset=4096)),
}


LIMITS = Limits(nice=5, memory_max=64_000_000, cpu_max=150, pids_max=200, open_files=100, core_max=0)
LIMITED_SPEC = replace(SPEC, keep_leftovers=True, **asdict(LIMITS))
ABILITIES = Abilities(
    controllers=["cpu"], problem="no memory, pids", least_nice=0, most_open_files=1024, most_core=0
)
LAUNCH, ENDED = SENT["to_launcher"][1], SENT["from_launcher"][2]
FIGURES = {"whole_tree": True, "memory_peak_bytes": 64_000_000}
GROWN |= {
    "ended_with_leftovers": ("from_launcher", replace(ENDED, leftovers="sleep (pid 4712)")),
    "submit_with_limits": ("request", requests.Submit(1, LIMITED_SPEC)),
    "edit_with_limits": (
        "request",
        requests.Edit(13, [17], requests.Changes(keep_leftovers=True, **{**asdict(LIMITS), "nice": None})),
    ),
    "jobs_with_limits": (
        "reply",
        replies.JobsPart(2, [replace(VIEW, keep_leftovers=True, **asdict(LIMITS))]),
    ),
    "attempts_with_figures": (
        "reply",
        replies.AttemptsPart(4, [replace(ATTEMPT, outcome=Outcome.OOM, **FIGURES)]),
    ),
    "launch_with_limits": (
        "to_launcher",
        replace(LAUNCH, limits=LIMITS, keep_leftovers=True, own_group=True),
    ),
    "welcome_with_abilities": ("from_launcher", launching.Welcome(3, "boot:random", 4243, [], ABILITIES)),
    "ended_with_figures": ("from_launcher", replace(ENDED, outcome=Outcome.OOM, **FIGURES)),
}
GROWN |= {
    "submit_with_stop_signal": ("request", requests.Submit(1, replace(SPEC, stop_signal=StopSignal.INT))),
    "edit_with_stop_signal": (
        "request",
        requests.Edit(13, [17], requests.Changes(stop_signal=StopSignal.QUIT)),
    ),
    "jobs_with_stop_signal": ("reply", replies.JobsPart(2, [replace(VIEW, stop_signal=StopSignal.INT)])),
    "jobs_with_problem": ("reply", replies.JobsPart(2, [replace(VIEW, problem="program not found: nosuch")])),
    "launch_with_stop_signal": ("to_launcher", replace(LAUNCH, stop_signal=StopSignal.INT)),
}
PLACE = launching.Place(executor="gentle", kind=ExecutorKind.PREFIX)
ON_SLURM = launching.Place(executor="cluster", kind=ExecutorKind.SLURM, node="n1")
SLURM = launching.SlurmStart(
    folder="/shared", python="python3", options=["--mem=4K"], conf="/etc/slurm.conf", requests_per_second=2.5
)
GROWN |= {
    "submit_on_cluster": ("request", requests.Submit(1, replace(SPEC, cpus=2, memory=10**9, gpus=1))),
    "edit_on_cluster": ("request", requests.Edit(13, [17], requests.Changes(cpus=2, memory=10**9, gpus=1))),
    "jobs_on_cluster": ("reply", replies.JobsPart(2, [replace(VIEW, cpus=2, memory=10**9, gpus=1)])),
    "attempts_on_node": ("reply", replies.AttemptsPart(4, [replace(ATTEMPT, node="n1")])),
    "launch_on_slurm": ("to_launcher", replace(LAUNCH, place=ON_SLURM, slurm=SLURM)),
    "started_on_node": (
        "from_launcher",
        launching.AttemptStarted(KEY, 4244, 1_790_000_001.5, place=ON_SLURM),
    ),
}
TO_SLURM: dict[str, Any] = {
    "gres": "gpu:2",
    "partition": "short",
    "account": "physics",
    "time": "1:30:00",
    "slurm_options": ("--qos=high", "--exclusive"),
}
GROWN |= {
    "submit_to_slurm": ("request", requests.Submit(1, replace(SPEC, **TO_SLURM))),
    "edit_to_slurm": ("request", requests.Edit(13, [17], requests.Changes(**TO_SLURM))),
    "jobs_of_slurm": ("reply", replies.JobsPart(2, [replace(VIEW, **TO_SLURM)])),
}
FOLLOWED = {"on_failure": ("mail", "ops"), "on_success": ("app.jobs:report",)}
CAUSE = JobCause(id=12, event="on_failure", outcome="exit", name="backup", error="exit code 3", attempt=2)
GROWN |= {
    "submit_with_follow_ups": ("request", requests.Submit(1, replace(SPEC, **FOLLOWED))),
    "edit_with_follow_ups": ("request", requests.Edit(13, [17], requests.Changes(**FOLLOWED))),
    "jobs_with_follow_ups": (
        "reply",
        replies.JobsPart(2, [replace(VIEW, **FOLLOWED, cause=CAUSE, follow_ups=[13])]),
    ),
}
PAUSES = {"retry_delay": (10.0, 20.0), "retry_until": 7200.0}
GROWN |= {
    "submit_with_pauses": ("request", requests.Submit(1, replace(SPEC, **PAUSES))),
    "edit_with_pauses": ("request", requests.Edit(13, [17], requests.Changes(**PAUSES))),
    "jobs_with_pauses": (
        "reply",
        replies.JobsPart(2, [replace(VIEW, retry_delay=[10.0, 20.0], retry_until=7200.0)]),
    ),
}
PILOT = launching.PilotStart(
    executor="pilots", nodes=2, options=["--exclusive"], keep_idle=600.0, cpus=1, memory=10**9
)
NODE = launching.PilotNode(name="n1", cpus=16, memory=64 << 30)
GROWN |= {
    "launch_by_pilot": ("to_launcher", replace(LAUNCH, place=ON_SLURM, slurm=replace(SLURM, pilot=PILOT))),
    "welcome_of_pilot": ("from_launcher", launching.Welcome(5, "boot:random", 4243, node=NODE)),
}
GROWN |= {
    "started_waiting": (
        "from_launcher",
        launching.AttemptStarted(
            KEY,
            None,
            1_790_000_001.5,
            place=replace(ON_SLURM, node=None),
            waits=Reason(cause=Cause.NODE, subject="cluster", problem="Resources"),
        ),
    ),
    "submit_on_nodes": ("request", requests.Submit(1, replace(SPEC, nodes=4))),
    "edit_on_nodes": ("request", requests.Edit(13, [17], requests.Changes(nodes=4))),
    "jobs_on_nodes": ("reply", replies.JobsPart(2, [replace(VIEW, nodes=4)])),
    "launch_on_nodes": ("to_launcher", replace(LAUNCH, place=ON_SLURM, slurm=replace(SLURM, nodes=4))),
    "jobs_without_node": ("reply", replies.JobsPart(2, [replace(VIEW, needs_node=True)])),
}
GROWN |= {
    "submit_with_executor": ("request", requests.Submit(1, replace(SPEC, executor="gentle"))),
    "edit_with_executor": ("request", requests.Edit(13, [17], requests.Changes(executor="gentle"))),
    "jobs_with_executor": ("reply", replies.JobsPart(2, [replace(VIEW, executor="gentle")])),
    "attempts_with_executor": (
        "reply",
        replies.AttemptsPart(4, [replace(ATTEMPT, executor="gentle", executor_kind=ExecutorKind.PREFIX)]),
    ),
    "launch_with_place": ("to_launcher", replace(LAUNCH, place=PLACE)),
    "started_with_place": (
        "from_launcher",
        launching.AttemptStarted(KEY, 4244, 1_790_000_001.5, place=PLACE),
    ),
}
GROWN |= {
    "started_since": ("from_launcher", launching.AttemptStarted(KEY, 4244, 1_790_000_001.5, since=12.5)),
    "ended_with_run_seconds": ("from_launcher", replace(ENDED, run_seconds=1.25)),
    "jobs_with_durations": (
        "reply",
        replies.JobsPart(2, [replace(VIEW, waited_seconds=0.75, run_seconds=1.25)]),
    ),
    "attempts_with_durations": ("reply", replies.AttemptsPart(4, [replace(ATTEMPT, run_seconds=1.25)])),
}
GROWN |= {
    "cancel_selected": (
        "request",
        requests.Cancel(
            8,
            where=requests.Selection(
                states=[State.QUEUED],
                queue="narrow",
                name="b*",
                tag="nightly",
                since=1.5,
                after=16,
                dry_run=True,
            ),
        ),
    ),
    "signal_selected": (
        "request",
        requests.SendSignal(id=17, where=requests.Selection(suspended=False), signal=10),
    ),
}
GROWN |= {
    "explained_with_share": (
        "reply",
        replies.Explained(
            46,
            VIEW,
            Explanation(
                reasons=(
                    Reason(cause=Cause.SHARE, subject="narrow", limit="1 of 3", queues=("mail",), more=1),
                )
            ),
        ),
    ),
    "queues_with_resources": (
        "reply",
        replies.Queues(
            id=12,
            slots=4,
            configured_slots=2,
            taken=3,
            paused=True,
            queues=[replace(QUEUE, rate="10/1m", weight=2, opens_at=1_790_000_060.0)],
            resources=[views.ResourceView(name="gpu", tokens=2, taken=1, waiting=3)],
        ),
    ),
    "set_schedule_with_late_after": (
        "request",
        schedules.SetSchedule(id=41, name="nightly", spec=replace(SCHEDULE, late_after=600.0)),
    ),
    "schedules_with_late": ("reply", schedules.SchedulesPart(40, [replace(SCHEDULE_VIEW, is_late=True)])),
    "events_with_schedules": ("request", requests.GetEvents(id=26, schedules=True)),
    "events_of_schedules": (
        "reply",
        replies.EventsPart(
            13,
            [EVENT],
            last=99,
            schedules=[
                views.ScheduleEvent(
                    id=98,
                    at=1_790_000_002.5,
                    schedule="nightly",
                    outcome="late",
                    due_at=1.5,
                    job=17,
                    reason="no",
                )
            ],
        ),
    ),
    "history_with_late": ("reply", schedules.HistoryPart(45, [replace(OCCURRENCE, late=True)])),
}


def sample_of(direction: str, message: Message) -> Path:
    return SAMPLES / direction / f"{tag_of(type(message))}.msgpack"


def all_samples() -> list[tuple[str, Path, Message]]:
    first = [(way, sample_of(way, message), message) for way, sent in SENT.items() for message in sent]
    grown = [(way, SAMPLES / way / f"{name}.msgpack", message) for name, (way, message) in GROWN.items()]
    return first + grown


@pytest.mark.parametrize(
    ("direction", "message"),
    [(direction, message) for direction, sent in SENT.items() for message in sent],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_what_was_once_sent_is_still_understood(direction, message):
    _, _, decode = DIRECTIONS[direction]

    assert decode(sample_of(direction, message).read_bytes()) == message


@pytest.mark.parametrize("name", GROWN)
def test_what_a_grown_message_said_is_still_understood(name):
    direction, message = GROWN[name]
    _, _, decode = DIRECTIONS[direction]

    assert decode((SAMPLES / direction / f"{name}.msgpack").read_bytes()) == message


@pytest.mark.parametrize(
    ("direction", "sample", "message"), all_samples(), ids=lambda value: getattr(value, "stem", "")
)
def test_a_message_is_still_sent_in_the_shape_it_had(direction, sample, message):
    _, encode, _ = DIRECTIONS[direction]
    then = msgspec.msgpack.decode(sample.read_bytes())
    if direction == "request":  # which leave out defaults
        defaults = {field.encode_name: field.default for field in msgspec.structs.fields(type(message))}
        then = {name: value for name, value in then.items() if value not in ([], defaults.get(name, []))}

    assert has_all_of(msgspec.msgpack.decode(encode(message)), then)


@pytest.mark.parametrize(
    "sample", sorted((SAMPLES / "request").glob("*.msgpack")), ids=lambda sample: sample.stem
)
def test_an_older_daemon_takes_requests_that_need_nothing_new_of_it(sample):
    """It refuses fields that it does not know, so a field that is new is left out unless it is set."""
    payload = sample.read_bytes()
    sent = messages.encode(messages.decode_request(payload))

    assert has_all_of(msgspec.msgpack.decode(payload), msgspec.msgpack.decode(sent))


def test_there_is_a_sample_of_every_message():
    samples = [(direction, type(message)) for direction, sent in SENT.items() for message in sent]

    assert Counter(samples) == Counter(KINDS)


def write_missing_samples() -> None:
    for direction, sample, message in all_samples():
        _, encode, _ = DIRECTIONS[direction]
        if not sample.exists():
            sample.parent.mkdir(parents=True, exist_ok=True)
            sample.write_bytes(encode(message))


if __name__ == "__main__":
    write_missing_samples()
