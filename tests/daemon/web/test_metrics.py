"""/metrics: what Prometheus reads, and with which token."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from bgd.core.job import Job, JobId, Move, Now, Outcome, RetryPolicy, State
from bgd.core.scheduler import NOTE, SaveJob
from bgd.core.spec import JobSpec
from bgd.daemon.measurements import MAX_QUEUES, OTHER_QUEUES, Histogram, Measurements
from bgd.daemon.storage.records import (
    AttemptEnd,
    JobEvent,
    StoredSpec,
    Transaction,
)
from tests.daemon.web.browsing import Browser, configure_pages
from tests.support import ROOT, Daemon, wait_until

TOKEN = "a-token-of-metrics"
PLAIN_COUNTS = {
    "bgd_jobs",
    "bgd_queue_jobs",
    "bgd_slots",
    "bgd_slots_taken",
    "bgd_schedules_late",
    "process_max_fds",
    "process_open_fds",
}
YES_OR_NO = {"bgd_paused", "bgd_launcher_connected", "bgd_build_info"}


@pytest.fixture(scope="module")
def browser():
    """A browser of a daemon that has run one job of each kind."""
    with tempfile.TemporaryDirectory(prefix="bgd-") as folder:
        daemon = Daemon(Path(folder))
        configure_pages(daemon, "127.0.0.1:0", f'metrics_token = "{TOKEN}"\n[queues.mail]\nslots = 1')
        daemon.start()
        with daemon.client() as client:
            ended = [
                client.submit(["/bin/echo", "hello"]).id,
                client.submit(["/bin/false"], retries=1, retry_delay=0, queue="mail").id,
                client.submit(["/bin/true"], retries=3, queue="mail").id,
            ]
            client.wait(ended)
            client.cancel([client.submit(["/bin/true"], delay=3600, name='a "name"').id])
            client.submit(["/bin/true"], hold=True, queue="mail")
            client.schedules.add("slow", ["/bin/sleep", "1000"], every="1s", late_after=0.1)
            wait_until(lambda: client.schedules.list("slow")[0].is_late)
            client.schedules.pause("slow")
        yield Browser(daemon)
        daemon.stop()


def scrape(browser):
    answered = browser.get("/metrics", f"Authorization: Bearer {TOKEN}")
    assert answered.status == 200
    assert answered.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    return list(text_string_to_metric_families(answered.text))


def test_series_begin_at_0_also_after_a_restart(tmp_path):
    daemon = Daemon(tmp_path)
    configure_pages(daemon, "127.0.0.1:0", f'metrics_token = "{TOKEN}"')
    daemon.start()
    with daemon.client() as client:
        client.wait([client.submit(["/bin/true"], queue=name).id for name in ("default", "b", "a", "mail")])
    daemon.stop()
    daemon.start()

    found = samples(scrape(Browser(daemon)))
    daemon.stop()

    for queue in ("default", "a", "b", "mail"):
        assert found["bgd_jobs_finished_total", queue, "failed"] == 0
        assert found["bgd_attempts_ended_total", "exit", queue] == 0


@pytest.fixture
def families(browser):
    return scrape(browser)


def samples(families):
    """Return all values by their name and the values of their labels, which are in alphabetical order."""
    return {
        (sample.name, *(sample.labels[label] for label in sorted(sample.labels))): sample.value
        for family in families
        for sample in family.samples
    }


def test_every_metric_has_help_and_its_unit_in_its_name(families):
    names = {family.name for family in families}

    assert all(family.documentation.endswith(".") for family in families), families
    assert len(names) == len(families)
    without_unit = {
        family.name
        for family in families
        if family.type != "counter" and not re.search("_(seconds|bytes)$", family.name)
    }
    assert without_unit == PLAIN_COUNTS | YES_OR_NO
    assert {family.type for family in families} == {"gauge", "counter", "histogram"}


def test_metrics_say_what_has_happened(families):
    found = samples(families)

    expected = {
        ("bgd_jobs", "succeeded"): 2,
        ("bgd_jobs", "failed"): 1,
        ("bgd_jobs", "cancelled"): 1,
        ("bgd_jobs", "running"): 1,
        ("bgd_jobs", "queued"): 0,
        ("bgd_queue_jobs", "mail", "held"): 1,
        ("bgd_queue_jobs", "mail", "running"): 0,
        ("bgd_queue_jobs", "default", "running"): 1,
        ("bgd_jobs_submitted_total",): 6,
        ("bgd_jobs_finished_total", "default", "succeeded"): 1,
        ("bgd_jobs_finished_total", "default", "cancelled"): 1,
        ("bgd_jobs_finished_total", "mail", "failed"): 1,
        ("bgd_attempts_started_total", "mail"): 3,
        ("bgd_attempts_ended_total", "exit", "mail"): 2,
        ("bgd_attempts_ended_total", "succeeded", "mail"): 1,
        ("bgd_retries_total", "mail"): 1,
        ("bgd_retries_total", "default"): 0,
        ("bgd_job_wait_seconds_count", "mail"): 2,  # of each job once
        ("bgd_attempt_run_seconds_count", "mail"): 3,
        ("bgd_slots_taken",): 1,
        ("bgd_paused",): 0,
        ("bgd_launcher_connected",): 1,
        ("bgd_log_bytes",): len("hello\n"),
        ("bgd_schedules_late",): 1,
    }
    assert {name: found[name] for name in expected} == expected
    assert (
        found["bgd_commit_seconds_count",] == found["bgd_event_loop_lag_seconds_count",] >= 6
    )  # each submit is saved before the next
    assert 0 < found["bgd_commit_seconds_sum",] < 60
    assert found["bgd_database_bytes",] >= 4096
    assert found["bgd_disk_free_bytes",] > 0


def test_buckets_of_histograms_grow_up_to_the_count(families):
    checked = 0
    for family in families:
        if family.type != "histogram":
            continue
        series: dict[str, list[float]] = {}
        for sample in family.samples:
            if sample.name.endswith("_bucket"):
                series.setdefault(sample.labels.get("queue", ""), []).append(sample.value)
        for queue, counts in series.items():
            assert counts == sorted(counts)
            key = (f"{family.name}_count", queue) if queue else (f"{family.name}_count",)
            assert counts[-1] == samples([family])[key]
            checked += 1
    assert checked == 6


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ([], 401),
        (["Authorization: Bearer wrong"], 401),
        (["Authorization: Bearer "], 401),
        ([f"Authorization: Bearer {TOKEN[:-1]}"], 401),
        ([f"Authorization: Bearer {TOKEN}x"], 401),
        ([f"Authorization: Basic {TOKEN}"], 401),
        ([f"Authorization: {TOKEN}"], 401),
        ([f"Authorization: Bearer {TOKEN}\xe9"], 401),
        ([f"Authorization: Bearer {TOKEN}", f"Authorization: Bearer {TOKEN}"], 401),
        ([f"Cookie: bgd={TOKEN}"], 401),
    ],
)
def test_metrics_need_their_own_token(browser, headers, status):
    lines = "".join(
        f"{line}\r\n" for line in ["GET /metrics HTTP/1.1", f"Host: {browser.host}", *headers, ""]
    )
    answered = browser.say(lines.encode("latin-1"))

    assert answered.status == status
    assert answered.headers["www-authenticate"].startswith("Bearer")
    assert b"bgd_" not in answered.body


def test_metrics_are_not_for_a_session_nor_the_token_for_pages(browser):
    assert browser.get("/job-logs", f"Authorization: Bearer {TOKEN}").status == 401
    assert Browser(browser._daemon).log_in().get("/metrics").status == 401
    assert browser.get("/metrics", f"Authorization: Bearer {TOKEN}", host="evil.example").status == 421


def test_without_a_configured_token_the_answer_names_the_key(daemon):
    answered = Browser(daemon).get("/metrics", "Authorization: Bearer ")

    assert answered.status == 403
    assert answered.text.count("\n") == 1
    assert "[http] metrics_token" in answered.text


def test_a_daemon_that_is_not_asked_for_metrics_does_not_load_the_library():
    program = "import sys, bgd.daemon.serving; print('prometheus_client' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=True
    )

    assert done.stdout == "False\n"


# --- what is measured ---------------------------------------------------------------------------------------


def job(number: int, state: State, queue: str = "default", attempt: int = 1) -> Job:
    return Job(JobId(number), state, queue, 0, RetryPolicy(), attempt)


def event(what: str, saved: Job, at: float = 100.0) -> JobEvent:
    return JobEvent(at, saved.id, what, saved.state, saved.attempt, None, None)


def started(queue: str = "default", attempt: int = 1, **spec: object) -> Transaction:
    """Return a transaction that starts a job which was submitted ten seconds before."""
    running = job(1, State.RUNNING, queue, attempt)
    return Transaction(
        now=Now(0.0, 100.0),
        saves={running.id: SaveJob(running, 100.0, NOTE, State.QUEUED)},
        events=[event(Move.START, running)],
        specs={running.id: StoredSpec(JobSpec(argv=("true",), **spec), 0, 90.0)},  # type: ignore[arg-type]  # tests
    )


@pytest.mark.parametrize(
    ("spec", "waited"), [({}, 10.0), ({"delay": 4.0}, 6.0), ({"at": 99.0}, 1.0), ({"at": 200.0}, 0.0)]
)
def test_a_wait_begins_when_the_job_may_start(spec, waited):
    measured = Measurements()
    measured.saved(started(**spec), 0.0, 0.0)

    assert measured.queue("default").waits.total == waited


def test_only_the_first_start_of_a_job_is_a_wait():
    measured = Measurements()
    measured.saved(started(attempt=2), 0.0, 0.0)

    assert measured.queue("default").starts == 1
    assert sum(measured.queue("default").waits.counts) == 0


def test_an_end_that_nobody_saw_has_no_run_time():
    measured = Measurements()
    failed = job(1, State.FAILED)
    end = AttemptEnd(job=failed.id, attempt=1, outcome=Outcome.UNKNOWN, finished_at=100.0)
    saved = Transaction(
        now=Now(0.0, 100.0),
        saves={failed.id: SaveJob(failed, 100.0, NOTE, State.QUEUED)},
        events=[event(Move.GIVE_UP, failed)],
        ends=[end],
    )
    measured.saved(saved, 0.0, 0.0)

    assert measured.queue("default").outcomes == {Outcome.UNKNOWN: 1}
    assert measured.queue("default").finished == {State.FAILED: 1}
    assert sum(measured.queue("default").runs.counts) == 0


def test_queues_beyond_the_limit_are_counted_together():
    measured = Measurements(["configured"])
    for number in range(2 * MAX_QUEUES):
        measured.saved(started(f"queue-{number}"), 0.0, 0.0)

    assert len(measured.queues) == MAX_QUEUES + 1
    assert {"default", "configured", "queue-0", OTHER_QUEUES} <= measured.queues.keys()
    assert sum(queue.starts for queue in measured.queues.values()) == 2 * MAX_QUEUES
    assert measured.queue("queue-59").starts == measured.queues[OTHER_QUEUES].starts == MAX_QUEUES + 2


def test_new_jobs_are_counted():
    measured = Measurements()
    new = job(1, State.QUEUED, attempt=0)
    measured.saved(Transaction(now=Now(0.0, 1.0), new=[new]), 0.2, 0.0)

    assert measured.submitted == 1
    assert measured.commits.total == 0.2


def test_a_value_at_a_bound_is_in_its_bucket():
    histogram = Histogram((1.0, 2.0))
    for value in (0.5, 1.0, 1.5, 2.0, 2.5):
        histogram.add(value)

    assert histogram.counts == [2, 2, 1]
    assert histogram.total == 7.5
