"""The client with a real daemon."""

from __future__ import annotations

import gc
import secrets
import signal
import time
import traceback
from datetime import UTC, datetime, timedelta

import pytest
from msgspec.structs import replace

import bgd
from bgd import (
    AsyncJob,
    Client,
    DaemonUnreachable,
    Job,
    JobFailed,
    JobSpec,
    NoSuchJob,
    NotAllowed,
    Outcome,
    Refused,
    State,
)
from bgd.client.options import JobAttributes
from bgd.wire.views import EventView, JobView, Progress
from tests.support import DEADLINE, wait_until

MODULE = """
class Greeter:
    def greet(self, name, mark="!"):
        return {"text": f"Hello {name}{mark}", "big": 2**70}

    def fail(self):
        raise ValueError("no such luck")
"""


CONFIGURATION = """
[security]
allowed_classes = ["greetings.Greeter"]
[python]
path = ["~"]
[retry]
retries = 0
[daemon]
slots = 4
"""

pytestmark = pytest.mark.daemon(CONFIGURATION, {"greetings.py": MODULE})


@pytest.fixture
def client(daemon, client_at):
    return client_at(str(daemon.socket), timeout=DEADLINE)


def test_a_command_runs_and_can_be_waited_for(client):
    job = client.submit(["sh", "-c", "echo out; echo err >&2"], name="first", tags=["a"])

    assert job.wait(20).state is State.SUCCEEDED
    assert job.result() == 0
    assert (job.name, job.tags, job.exit_code) == ("first", ["a"], 0)
    assert b"".join(part.data for part in job.logs()) == b"out\nerr\n"
    [attempt] = job.attempts()
    assert attempt.log_bytes == 8


def test_the_socket_may_be_a_path_object(daemon, client_at):
    assert client_at(daemon.socket).info().pid


def test_a_job_has_exactly_the_fields_of_its_view():
    assert set(JobAttributes.__annotations__) == set(JobView.__struct_fields__) - {"id"}
    job = Job(Client("/nowhere"), 1)
    with pytest.raises(AttributeError, match=r"a job has no attribute 'colour'$"):
        _ = job.colour  # type: ignore[attr-defined]  # the point
    with pytest.raises(AttributeError, match="a job has no attribute 'returncode': use exit_code"):
        _ = job.returncode  # type: ignore[attr-defined]  # the point


def test_progress_of_a_job_is_what_its_attempt_reports(client):
    job = client.submit(["sleep", "60"])
    wait_until(lambda: job.refresh().state is State.RUNNING)
    assert job.progress is None

    client.set_progress(job, 1, 0.25, "reading")
    wait_until(lambda: job.refresh().progress == Progress(0.25, "reading"))

    with pytest.raises(Refused, match=r"fraction: 1\.5 must be a number from 0 to 1"):
        client.set_progress(job, 1, 1.5)
    job.cancel()
    job.wait(DEADLINE)
    with pytest.raises(Refused, match=f"attempt 1 of job {job.id} does not run"):
        client.set_progress(job, 1, 0.5)
    assert job.progress == Progress(0.25, "reading")


def test_a_class_job_returns_its_value(client):
    job = client.call("greetings:Greeter.greet", ["world"], {"mark": "?"})

    assert job.result(20) == {"text": "Hello world?", "big": 2**70}


def test_a_class_job_that_raises_fails_with_its_exception(client):
    job = client.call("greetings:Greeter.fail")

    with pytest.raises(JobFailed, match="no such luck") as raised:
        job.result(20)

    assert (raised.value.outcome, raised.value.error_type) == ("error", "ValueError")
    assert raised.value.error_message == "no such luck"
    assert raised.value.traceback is not None
    assert "greetings.py" in raised.value.traceback


def test_an_uncaught_failure_shows_which_job_failed_and_where(client):
    job = client.call("greetings:Greeter.fail", name="nightly")

    with pytest.raises(JobFailed, match=rf"job {job.id} \(nightly\) failed") as raised:
        job.result(20)

    assert (raised.value.job_id, raised.value.name) == (job.id, "nightly")
    assert "in fail" in "".join(traceback.format_exception(raised.value))


def test_the_output_of_a_job_is_its_text_after_the_end(client):
    job = client.submit(["sh", "-c", r"printf 'caf\303\251\n\377'; sleep 0.1; echo end >&2"])

    assert job.output(timeout=DEADLINE) == "café\n\ufffdend\n"


@pytest.mark.parametrize("kind", [Job, AsyncJob])
def test_everything_about_a_job_is_listed(kind):
    listed = dir(kind(None, 1))

    assert {"id", "output", *JobView.__struct_fields__} <= set(listed)
    assert len(listed) == len(set(listed))


def test_all_public_names_are_listed():
    assert dir(bgd) == sorted(bgd.__all__)


def test_a_class_that_is_not_listed_is_not_allowed(client):
    with pytest.raises(NotAllowed, match="allowed_classes"):
        client.call("os:system", ["true"])


@pytest.mark.parametrize(
    ("argv", "options", "words", "attributes"),
    [
        (["sh", "-c", "exit 3"], {}, "failed with exit code 3", ("exit", 3)),
        (["sh", "-c", "kill -9 $$"], {}, "was killed by signal 9", ("signal", None)),
        (["sleep", "60"], {"timeout": 0.1}, r"failed \(timeout\)", ("timeout", None)),
        (
            ["no-such-program"],
            {"check": False},
            r"failed \(not_started\): program not found: no-such-program",
            ("not_started", None),
        ),
    ],
    ids=["exit", "signal", "timeout", "not started"],
)
def test_the_result_of_a_failed_command_is_an_exception_with_the_reason(
    client, argv, options, words, attributes
):
    job = client.submit(argv, **options)

    with pytest.raises(JobFailed, match=words) as raised:
        job.result(20)

    assert (raised.value.outcome, raised.value.exit_code) == attributes


@pytest.mark.parametrize(
    ("argv", "options", "words"),
    [
        ([], {}, "argv is empty: it is a program and its arguments"),
        (["no-such-program"], {}, "on its PATH; check=False queues it anyway$"),
        (["sleep 60"], {}, "on its PATH: make each word an item of the list, or use shell=True; check=False"),
        (["sh"], {"env": {"PATH": "/nowhere"}}, "no program 'sh' on its PATH"),
        (["./here"], {"cwd": "/usr"}, "/usr/here does not exist"),
        (["true"], {"cwd": "/no/such"}, "folder /no/such does not exist"),
        (["true"], {"cwd": "/etc/passwd"}, "/etc/passwd is not a folder"),
        (["true"], {"stdin": "/no/such"}, "file /no/such does not exist"),
        (["true"], {"on_failure": ["no-such"]}, "on_failure: no program 'no-such' on its PATH; check=False"),
        (["true"], {"on_success": ["./here"], "cwd": "/usr"}, "on_success: /usr/here does not exist"),
        (["a\0b"], {}, "no program 'a.x00b' on its PATH; check=False"),
        (["/bin/a\0b"], {}, "/bin/a␀b does not exist"),
        (["\ud800"], {}, "no program '.ud800' on its PATH"),
        (["true"], {"env": {"PATH": "/a\0b"}}, "no program 'true' on its PATH"),
        (["true"], {"on_failure": ["a\0b"]}, "on_failure: no program 'a.x00b' on its PATH"),
    ],
)
def test_a_command_that_cannot_start_here_is_refused_before_it_is_queued(client, argv, options, words):
    before = client.last_event()

    with pytest.raises(Refused, match=words):
        client.submit(argv, **options)
    assert client.last_event() == before


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"argv": ["no-such-program"]}, "no program 'no-such-program' on its PATH; check=False changes it"),
        ({"argv": ["sh"], "env": {"PATH": "/nowhere"}}, "no program 'sh' on its PATH"),
        ({"argv": ["./here"]}, "/usr/here does not exist"),
        ({"argv": ["./here"], "cwd": "/etc"}, "/etc/here does not exist"),
        ({"cwd": "/no/such"}, "folder /no/such does not exist"),
        ({"stdin": "/no/such"}, "file /no/such does not exist"),
        ({"on_failure": ["no-such"]}, "on_failure: no program 'no-such' on its PATH; check=False changes it"),
    ],
)
def test_a_job_is_not_changed_to_a_command_that_cannot_start_here(client, changes, words):
    job = client.submit(["./bin/true"], cwd="/usr", hold=True)

    with pytest.raises(Refused, match=words):
        job.edit(**changes)
    assert job.refresh().view.argv == ["./bin/true"]
    job.edit(check=False, **changes)
    job.cancel()


def test_a_change_looks_for_relative_programs_only_where_it_knows_the_folder(client):
    jobs = [client.submit(["true"], cwd="/usr", hold=True) for _ in range(2)]

    with pytest.raises(Refused, match="/etc/bin/true does not exist"):
        client.edit(jobs, argv=["./bin/true"], cwd="/etc")
    edited = client.edit(jobs, argv=["./no-such"])
    assert [result.state for result in edited] == ["held", "held"]
    [missing] = client.edit([10**9], argv=["./no-such"])
    assert missing.message == "no job 1000000000"
    client.cancel(jobs)


def test_durations_are_seconds_texts_or_timedeltas(client, client_at, daemon):
    late = client.submit(["sleep", "60"], timeout=timedelta(milliseconds=100), expires="1h30m")
    patient = client_at(str(daemon.socket), timeout="20s")

    assert late.wait("20s").outcome == "timeout"
    assert (late.timeout, late.expires) == (0.1, 5400.0)
    assert patient.stats(timedelta(hours=1)).window == 3600.0
    assert patient.prune(older_than="366d", dry_run=True).jobs == 0
    with pytest.raises(TimeoutError, match=r"not finished within 0\.05 s"):
        client.submit(["true"], delay="1d").wait(timedelta(milliseconds=50))


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ("10x", "timeout: '10x' is not a duration: write 500ms"),
        ([1], r"timeout: \[1\] must be a duration "),
    ],
)
def test_what_is_not_a_duration_is_refused(client, wrong, words):
    for attempt in (client.submit(["true"]).wait, lambda timeout: client.submit(["true"], timeout=timeout)):
        with pytest.raises(Refused, match=words):
            attempt(wrong)


@pytest.mark.parametrize("verb", ["jobs", "prune"])
def test_an_unknown_state_is_an_error_that_names_it(client, verb):
    with pytest.raises(Refused, match=r"no state 'faild': did you mean failed\?"):
        getattr(client, verb)(states=["faild"])
    with pytest.raises(TypeError, match=r"states is a list such as \['failed', 'cancelled'\], not 'failed'"):
        getattr(client, verb)(states="failed")


def test_one_job_instead_of_a_list_is_an_error_with_an_example(client):
    with pytest.raises(TypeError, match=r"jobs is a list of jobs such as \[5, job\], not 7"):
        client.wait(7)


def test_a_cancelled_job_has_no_result(client):
    job = client.submit(["true"], delay=3600)

    assert job.cancel() is State.CANCELLED
    with pytest.raises(JobFailed, match="was cancelled"):
        job.result(20)
    with pytest.raises(Refused, match="has already finished"):
        job.cancel()


def test_a_finished_job_can_be_run_again(client):
    job = client.submit(["true"]).wait(20)

    job.retry()

    assert job.wait(20).attempt == 2


def test_waiting_ends_after_the_timeout(client):
    job = client.submit(["true"], delay=3600)

    with pytest.raises(TimeoutError, match="has not finished within"):
        job.wait(0.05)
    with pytest.raises(TimeoutError, match=rf"^the output of job {job.id} has not ended within 0\.05 s$"):
        list(client.logs(job, follow=True, timeout=0.05))

    assert job.refresh().state is State.SCHEDULED


def test_many_jobs_are_queued_together_in_order(client):
    jobs = client.submit_many(
        [["true"], {"argv": ["sh", "-c", "exit 2"], "priority": 9}, JobSpec(argv=("sh", "-c", "exit 3"))]
    )

    assert [job.exit_code for job in client.wait([job.id for job in jobs], timeout=20)] == [0, 2, 3]
    assert [job.id for job in jobs] == list(range(jobs[0].id, jobs[0].id + 3))


def test_no_job_of_a_batch_is_queued_if_one_is_refused(client):
    last = client.submit(["true"]).id

    with pytest.raises(Refused, match="job 1 of the batch"):
        client.submit_many([["true"], ["nul\0nul"], ["true"]])

    assert client.submit(["true"]).id == last + 1


def test_many_jobs_get_the_callers_environment(client, monkeypatch):
    monkeypatch.setenv("WHOSE", "the caller's")

    [job] = client.submit_many([["/bin/sh", "-c", 'test "$WHOSE" = "the caller\'s"']])

    assert job.result(20) == 0


def test_thousands_of_jobs_fit_one_call(client):
    jobs = client.submit_many({"argv": ["true", "x" * 1000], "delay": 3600} for _ in range(3000))

    assert len({job.id for job in jobs}) == 3000
    assert all(result.state is State.CANCELLED for result in client.cancel([job.id for job in jobs]))


@pytest.mark.parametrize("verb", ["cancel", "hold", "remove"])
def test_a_job_that_is_named_twice_is_acted_on_once_and_both_entries_say_so(client, verb):
    job = client.submit(["true"], delay=3600)
    if verb == "remove":
        job.cancel()

    first, second = getattr(client, verb)([job, job.id])

    assert first == second
    assert second.state is not None


@pytest.mark.parametrize("job_id", [0, -1, 2**63])
@pytest.mark.parametrize("verb", ["cancel", "wait", "result", "logs"])
def test_a_number_that_no_job_has_is_refused_at_once(verb, job_id):
    client = Client("/nonexistent/bgd.sock")

    with pytest.raises(Refused, match=rf"jobs\[0\]: {job_id} must be a whole number from 1 to \d+$"):
        list(getattr(client, verb)(job_id if verb in {"result", "logs"} else [job_id]))


def test_cancel_waiting_leaves_running_jobs_alone(client):
    running = client.submit(["sleep", "60"])
    waiting = [client.submit(["true"], delay=3600), client.submit(["true"], hold=True)]
    wait_until(lambda: running.refresh().state is State.RUNNING)

    first, second, third = client.cancel_waiting([waiting[0], running, waiting[1]])

    assert (first.state, third.state) == (State.CANCELLED, State.CANCELLED)
    assert second.state is None
    assert "only a waiting job" in second.message
    assert running.refresh().state is State.RUNNING
    running.cancel()
    client.wait([running])  # so that its end is not an event of another test


def test_events_since_the_last_one_are_the_new_ones(client):
    job = client.submit(["true"], hold=True)
    last = client.last_event()
    job.cancel()

    assert [(event.job, event.state) for event in client.events(last, follow=False)] == [
        (job.id, State.CANCELLED)
    ]


def test_the_entry_of_a_job_says_why_an_action_was_refused(client):
    job = client.submit(["true"], delay=3600)

    missing, cancelled = client.cancel([999_999, job.id])

    assert "no job 999999" in missing.message
    assert cancelled.state is State.CANCELLED


def test_a_client_in_a_reference_cycle_is_collected_without_a_warning(daemon):
    client = daemon.client()
    client.info()
    cycle = [client]
    cycle.append(cycle)
    del client, cycle

    gc.collect()  # pytest reports an unclosed socket as an error


def test_an_unknown_job_is_an_error(client):
    for ask in (client.job, client.result, client.attempts, lambda job_id: next(client.logs(job_id))):
        with pytest.raises(NoSuchJob, match="999999"):
            ask(999_999)


def test_the_latest_job_needs_no_id(client):
    assert client.submit(["true"]).id == client.job().id


def test_jobs_are_listed_by_state_queue_name_and_tag(client):
    mark = secrets.token_hex(4)
    wanted = client.submit(["true"], delay=3600, name=f"{mark}-1", queue=mark, tags=[mark])

    for selection in ({"name": f"{mark}-*"}, {"queue": mark}, {"tag": mark}):
        assert [job.id for job in client.jobs(**selection)] == [wanted.id]
    assert client.jobs(states=["stopping"]) == []
    assert len(client.jobs(limit=2)) == 2
    assert client.jobs(since=time.time() + 3600) == []
    assert client.jobs(until=time.time() - 3600, tag=mark) == []
    assert [job.id for job in client.jobs(until=time.time() + 3600, tag=mark)] == [wanted.id]


def test_a_log_can_be_followed_while_other_requests_go_on(client):
    running = client.submit(["sh", "-c", "echo begun; exec sleep 60"])
    pieces = running.logs(follow=True)

    assert next(pieces).data == b"begun\n"
    running.cancel()
    assert list(pieces) == []


def test_a_waiting_job_can_be_held_changed_and_released(client):
    job = client.submit(["false"], hold=True, priority=1)

    assert job.refresh().state is State.HELD
    assert job.edit(argv=["true"], priority=7, name="edited").priority == 7
    assert job.release() in {State.QUEUED, State.RUNNING}
    assert job.wait(20).outcome is Outcome.SUCCEEDED
    with pytest.raises(Refused, match=f"job {job.id}"):
        job.hold()
    assert job.remove() is None
    with pytest.raises(NoSuchJob):
        job.refresh()


def test_a_running_job_can_be_suspended_continued_and_signalled(client):
    job = client.submit(["sh", "-c", "trap 'exit 3' USR1; echo ready; while :; do sleep 0.01; done"])
    assert next(job.logs(follow=True)).data == b"ready\n"

    assert job.suspend() is State.RUNNING
    assert job.refresh().suspended
    assert job.continue_() is State.RUNNING
    assert job.send_signal(signal.SIGUSR1) is State.RUNNING
    assert job.wait(20).exit_code == 3


def test_actions_take_jobs_and_ids_and_report_each_result(client):
    jobs = [client.submit(["true"], delay=3600) for _ in range(2)]
    everyone = [jobs[0], jobs[1].id, 999_999]

    for act in (client.hold, client.release, client.cancel, client.remove):
        first, second, missing = act(everyone)
        assert first.state is second.state is not None
        assert "no job 999999" in missing.message
    assert "only a running job" in client.signal([client.submit(["true"], hold=True)], 9)[0].message


def test_a_job_can_wait_for_other_jobs(client):
    first = client.submit(["true"], hold=True)
    soon = datetime.now(UTC) + timedelta(days=1)
    after, later = client.submit(["true"], after=[first]), client.submit(["true"], at=soon, expires=99_999)

    assert (after.refresh().state, after.waits_for) == (State.BLOCKED, [first.id])
    assert (later.refresh().state, later.at) == (State.SCHEDULED, soon.timestamp())
    first.release()
    assert after.wait(20).state is State.SUCCEEDED
    later.cancel()


def test_only_one_unfinished_job_has_a_key(client):
    first, again = (client.submit(["true"], key="the one", hold=True) for _ in range(2))

    assert (first.is_new, again.is_new, again.id) == (True, False, first.id)
    first.cancel()
    third = client.submit(["true"], key="the one")
    assert third.is_new
    third.wait(20)


def test_a_command_reads_its_input(client, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in.txt").write_text("from a file")
    asked = [
        client.submit("cat; echo $((1 + 1)); test -t 1", shell=True, input="typed ", pty=True),
        client.submit(["cat"], stdin="in.txt"),
        client.submit(["cat"], input=b"\0\xff"),
    ]

    outputs = [b"".join(part.data for part in job.logs(follow=True)) for job in asked]

    assert outputs == [b"typed 2\r\n", b"from a file", b"\0\xff"]
    assert [job.result(20) for job in asked] == [0, 0, 0]


def test_slots_and_queues_can_be_set_and_read(client):
    try:
        assert client.set_slots(3).slots == 3
        assert client.set_slots(None).slots == 4
        [night] = [queue for queue in client.set_queue("night", 2).queues if queue.name == "night"]
        assert (night.slots, night.configured_slots, night.paused) == (2, None, False)
        assert "night" in [queue.name for queue in client.pause("night").queues if queue.paused]
        assert client.pause().paused
        assert not client.resume().paused
    finally:
        client.resume()
        client.resume("night")
        left = client.remove_queue("night")
    assert "night" not in [queue.name for queue in left.queues]
    assert left == replace(client.queues(), id=left.id)


def test_values_out_of_range_are_refused_before_they_are_sent(client):
    for ask, words in [
        (lambda: client.jobs(limit=0), "limit: 0 must be a whole number from 1 to 10000"),
        (lambda: client.set_slots(0), "slots: 0 must be a whole number from 1 to 10000"),
        (lambda: client.signal([1], 99), "signal: 99 must be a whole number from 1 to 64"),
        (lambda: client.pause("no queue"), "queue: 'no queue' must be a name of at most 64"),
        (lambda: client.stats(-1), "window: -1 must be a duration above 0s"),
        (lambda: client.cancel([0]), r"jobs\[0\]: 0 must be a whole number from 1 to"),
    ]:
        with pytest.raises(Refused, match=words):
            ask()


def test_jobs_show_in_events_and_figures(client):
    client.submit(["true"])
    since = list(client.events(follow=False))[-1].id
    events = client.events(since)
    job = client.submit(["sh", "-c", "exit 3"])
    job.wait(20)

    told: list[EventView] = []
    while not told or told[-1].what != "give up":
        told += [event for event in [next(events)] if event.job == job.id]
    events.close()

    assert [(event.job, event.what) for event in told] == [
        (job.id, "submit"),
        (job.id, "start"),
        (job.id, "give up"),
    ]
    assert (told[-1].state, told[-1].outcome) == (State.FAILED, Outcome.EXIT)
    assert [event for event in client.events(since, follow=False) if event.job == job.id] == told
    assert client.stats(3600).outcomes["exit"] >= 1


def test_a_client_outlives_the_daemon(own_daemon, client_at):
    job = client_at(str(own_daemon.socket)).submit(["sleep", "60"])
    wait_until(lambda: job.refresh().state is State.RUNNING)
    own_daemon.process.send_signal(signal.SIGKILL)
    own_daemon.process.wait()
    with pytest.raises(DaemonUnreachable):
        job.refresh()

    own_daemon.start()

    assert job.refresh().state is State.RUNNING


def test_after_shutdown_the_daemon_is_gone(own_daemon, client_at):
    client = client_at(str(own_daemon.socket))
    client.submit(["sleep", "60"])

    client.shutdown("cancel", timeout=20)

    assert own_daemon.process.wait(0.5) == 0


def test_a_wait_of_zero_seconds_returns_a_finished_job(daemon):
    with daemon.client() as client:
        done = client.submit(["true"]).wait(20)
        assert client.job(done.id).wait(timeout=0).state == "succeeded"
        assert client.result(done, timeout=0) == 0

        waiting = client.submit(["true"], hold=True)
        with pytest.raises(TimeoutError, match=rf"job {waiting.id} has not finished within 0 s"):
            waiting.wait(timeout=0)
        with pytest.raises(TimeoutError, match=rf"job {waiting.id} has not finished within 0 s"):
            client.wait([done, waiting], timeout=0)
        waiting.cancel()
