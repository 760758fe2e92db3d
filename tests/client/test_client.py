"""The client against the daemon itself."""

from __future__ import annotations

import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from bgd import Client, DaemonUnreachable, JobFailed, JobSpec, NoSuchJob, NotAllowed, Refused, State
from bgd.client import Job
from bgd.wire.views import JobView
from tests.support import Daemon, wait_until

MODULE = """
class Greeter:
    def greet(self, name, mark="!"):
        return {"text": f"Hello {name}{mark}", "big": 2**70}

    def fail(self):
        raise ValueError("no such luck")
"""


@pytest.fixture(scope="module")
def daemon(daemon: Daemon):
    """The module's daemon, which may run one class."""
    modules = daemon.folder / "modules"
    modules.mkdir()
    (modules / "greetings.py").write_text(MODULE)
    daemon.configure(
        f'[security]\nallowed_classes = ["greetings.Greeter"]\n[python]\npath = ["{modules}"]\n'
        "[retry]\nretries = 0\n[daemon]\nslots = 4\n"
    )
    daemon.stop()
    daemon.start()
    return daemon


@pytest.fixture
def client(daemon):
    with daemon.client() as client:
        yield client


def test_a_command_runs_and_its_end_can_be_asked_for(client):
    job = client.submit(["sh", "-c", "echo out; echo err >&2"], name="first", tags=["a"])

    assert job.wait(20).state is State.SUCCEEDED
    assert job.result() == 0
    assert (job.name, job.tags, job.exit_code) == ("first", ["a"], 0)
    assert b"".join(part.data for part in job.logs()) == b"out\nerr\n"
    [attempt] = job.attempts()
    assert attempt.log_bytes == 8


def test_a_job_offers_just_the_fields_of_its_view():
    assert set(Job.__annotations__) == set(JobView.__struct_fields__) - {"id"}
    with pytest.raises(AttributeError, match="a job has no 'colour'"):
        _ = Job(Client("/nowhere"), 1).colour  # type: ignore[attr-defined]  # the point


def test_a_class_job_returns_its_value(client):
    job = client.call("greetings:Greeter.greet", ["world"], {"mark": "?"})

    assert job.result(20) == {"text": "Hello world?", "big": 2**70}


def test_a_class_job_that_raises_fails_with_what_it_raised(client):
    job = client.call("greetings:Greeter.fail")

    with pytest.raises(JobFailed, match="no such luck") as raised:
        job.result(20)

    assert (raised.value.outcome, raised.value.error_type) == ("error", "ValueError")
    assert raised.value.error_message == "no such luck"
    assert raised.value.traceback is not None
    assert "greetings.py" in raised.value.traceback


def test_a_class_that_is_not_listed_is_not_allowed(client):
    with pytest.raises(NotAllowed, match="allowed_classes"):
        client.call("os:system", ["true"])


@pytest.mark.parametrize(
    ("argv", "options", "words", "attributes"),
    [
        (["sh", "-c", "exit 3"], {}, "failed with exit code 3", ("exit", 3)),
        (["sh", "-c", "kill -9 $$"], {}, "was killed by signal 9", ("signal", None)),
        (["sleep", "60"], {"timeout": 0.1}, r"failed \(timeout\)", ("timeout", None)),
        (["no-such-program"], {}, "program not found: no-such-program", ("not_started", None)),
    ],
    ids=["exit", "signal", "timeout", "not started"],
)
def test_the_result_of_a_command_that_failed_is_an_exception_that_says_how(
    client, argv, options, words, attributes
):
    job = client.submit(argv, **options)

    with pytest.raises(JobFailed, match=words) as raised:
        job.result(20)

    assert (raised.value.outcome, raised.value.exit_code) == attributes


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


def test_waiting_ends_with_the_callers_patience(client):
    job = client.submit(["true"], delay=3600)

    with pytest.raises(TimeoutError, match="has not finished within"):
        job.wait(0.05)

    assert job.refresh().state is State.SCHEDULED


def test_many_jobs_are_taken_together_in_their_order(client):
    jobs = client.submit_many(
        [["true"], {"argv": ["sh", "-c", "exit 2"], "priority": 9}, JobSpec(argv=("sh", "-c", "exit 3"))]
    )

    assert [job.exit_code for job in client.wait([job.id for job in jobs], timeout=20)] == [0, 2, 3]
    assert [job.id for job in jobs] == list(range(jobs[0].id, jobs[0].id + 3))


def test_one_bad_job_and_none_is_taken(client):
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


def test_what_is_refused_for_one_job_stands_in_its_entry(client):
    job = client.submit(["true"], delay=3600)

    missing, cancelled = client.cancel([999_999, job.id])

    assert "no job 999999" in missing.message
    assert cancelled.state is State.CANCELLED


def test_a_job_that_is_not_there_is_an_error(client):
    for ask in (client.job, client.result, client.attempts, lambda job_id: next(client.logs(job_id))):
        with pytest.raises(NoSuchJob, match="999999"):
            ask(999_999)


def test_the_latest_job_needs_no_id(client):
    assert client.submit(["true"]).id == client.job().id


def test_jobs_are_listed_by_what_they_are(client):
    wanted = client.submit(["true"], delay=3600, name="wanted-1", queue="wanted", tags=["w"])

    for selection in ({"name": "wanted-*"}, {"queue": "wanted"}, {"tag": "w"}):
        assert [job.id for job in client.jobs(**selection)] == [wanted.id]
    assert client.jobs(states=["stopping"]) == []
    assert len(client.jobs(limit=2)) == 2
    assert client.jobs(since=time.time() + 3600) == []


def test_a_log_can_be_followed_while_other_requests_go_on(client):
    gate = threading.Event()

    def follow() -> bytes:
        output = b""
        for part in running.logs(follow=True):
            output += part.data
            gate.set()
        return output

    running = client.submit(["sh", "-c", "echo begun; exec sleep 60"])
    with ThreadPoolExecutor(1) as pool:
        output = pool.submit(follow)
        assert gate.wait(20)
        running.cancel()
        assert output.result(20) == b"begun\n"


def test_threads_share_a_client(client):
    with ThreadPoolExecutor(8) as pool:
        results = list(
            pool.map(lambda code: client.submit(["sh", "-c", f"exit {code}"]).wait(20).exit_code, range(24))
        )

    assert results == list(range(24))


def test_a_client_outlives_the_daemon(own_daemon):
    with own_daemon.client() as client:
        job = client.submit(["sleep", "60"])
        wait_until(lambda: job.refresh().state is State.RUNNING)
        own_daemon.process.send_signal(signal.SIGKILL)
        own_daemon.process.wait()
        with pytest.raises(DaemonUnreachable):
            job.refresh()

        own_daemon.start()

        assert job.refresh().state is State.RUNNING


def test_who_waits_learns_that_the_daemon_went_away(own_daemon):
    with own_daemon.client() as client, ThreadPoolExecutor(1) as pool:
        job = client.submit(["sleep", "60"])
        waiting = pool.submit(job.wait)
        wait_until(lambda: client._channel.connection()._is_read)
        own_daemon.process.send_signal(signal.SIGKILL)
        with pytest.raises(DaemonUnreachable, match="went away"):
            waiting.result(20)
        own_daemon.process.wait()
        own_daemon.start()


def test_after_shutdown_the_daemon_is_gone(own_daemon):
    with own_daemon.client() as client:
        client.submit(["sleep", "60"])

        client.shutdown("cancel", timeout=20)

    assert own_daemon.process.wait(0.5) == 0
