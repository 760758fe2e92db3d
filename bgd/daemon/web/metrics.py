"""Write the daemon's metrics in Prometheus's text format."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path
from types import SimpleNamespace

from prometheus_client import Metric, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
)

import bgd
from bgd.core.job import FINAL, Outcome, State
from bgd.daemon.measurements import Histogram, Measurements
from bgd.daemon.schedules import Schedules
from bgd.daemon.storage.summaries import Figures
from bgd.daemon.supervisor import Supervisor

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4


def collect(supervisor: Supervisor, schedules: Schedules, figures: Figures) -> list[Metric]:
    """Return all metrics of what is in memory, and of what was read from the database."""
    measured = supervisor.measurements
    unfinished: Counter[tuple[str, State]] = Counter()
    for (queue, state), count in supervisor.scheduler.counts.items():
        unfinished[measured.name_of(queue), state] += count
    jobs = GaugeMetricFamily("bgd_jobs", "Jobs in the database, by state.", labels=["state"])
    for state in State:
        jobs.add_metric([state], figures.counts.get(state, 0))
    return [
        InfoMetricFamily("bgd_build", "Version of bgd.", {"version": bgd.__version__}),
        jobs,
        *_jobs_of_queues(measured, unfinished),
        *_attempts_of_queues(measured),
        *_daemon(supervisor),
        GaugeMetricFamily(
            "bgd_log_bytes", "Size of the logs of attempts that have ended.", figures.log_bytes
        ),
        GaugeMetricFamily(
            "bgd_schedules_late",
            "Schedules with a late job that has not finished.",
            schedules.clock.late_count,
        ),
    ]


def as_text(metrics: list[Metric], state_dir: str) -> bytes:
    """Return these metrics and those of the process and its disk as text. Blocks: call it on a thread."""
    families = [*ProcessCollector(registry=None).collect(), *metrics, *_disk(Path(state_dir))]
    return generate_latest(SimpleNamespace(collect=lambda: families))


def _jobs_of_queues(measured: Measurements, unfinished: Counter[tuple[str, State]]) -> Iterator[Metric]:
    jobs = GaugeMetricFamily(
        "bgd_queue_jobs", "Unfinished jobs, by queue and state.", labels=["queue", "state"]
    )
    finished = CounterMetricFamily(
        "bgd_jobs_finished", "Jobs finished, by queue and final state.", labels=["queue", "state"]
    )
    waits = HistogramMetricFamily(
        "bgd_job_wait_seconds",
        "Time from the submission of a job, or from the end of its delay, to its first start.",
        labels=["queue"],
    )
    for name, queue in measured.queues.items():
        for state in State:
            if state in FINAL:
                finished.add_metric([name, state], queue.finished[state])
            else:
                jobs.add_metric([name, state], unfinished[name, state])
        waits.add_metric([name], _buckets(queue.waits), queue.waits.total)
    yield from (jobs, finished, waits)
    yield CounterMetricFamily("bgd_jobs_submitted", "Jobs submitted.", measured.submitted)


def _attempts_of_queues(measured: Measurements) -> Iterator[Metric]:
    starts = CounterMetricFamily("bgd_attempts_started", "Attempts started, by queue.", labels=["queue"])
    ends = CounterMetricFamily(
        "bgd_attempts_ended", "Attempts ended, by queue and outcome.", labels=["queue", "outcome"]
    )
    retries = CounterMetricFamily(
        "bgd_retries", "Failed attempts after which a job is tried again, by queue.", labels=["queue"]
    )
    runs = HistogramMetricFamily("bgd_attempt_run_seconds", "Time that attempts ran.", labels=["queue"])
    for name, queue in measured.queues.items():
        starts.add_metric([name], queue.starts)
        retries.add_metric([name], queue.retries)
        for outcome in Outcome:
            ends.add_metric([name, outcome], queue.outcomes[outcome])
        runs.add_metric([name], _buckets(queue.runs), queue.runs.total)
    yield from (starts, ends, retries, runs)


def _daemon(supervisor: Supervisor) -> Iterator[Metric]:
    measured, is_paused = supervisor.measurements, supervisor.controls.paused
    yield GaugeMetricFamily("bgd_slots", "Slots for running jobs.", supervisor.slots)
    yield GaugeMetricFamily("bgd_slots_taken", "Slots that running jobs take.", supervisor.scheduler.taken)
    yield GaugeMetricFamily("bgd_paused", "1 if all queues are paused together.", int(is_paused))
    yield GaugeMetricFamily(
        "bgd_launcher_connected",
        "1 if the launcher is connected and not stopped, so that jobs can start.",
        int(supervisor.link.starts_jobs),
    )
    yield HistogramMetricFamily(
        "bgd_commit_seconds",
        "Time that the database took to save a transaction.",
        _buckets(measured.commits),
        measured.commits.total,
    )
    yield HistogramMetricFamily(
        "bgd_event_loop_lag_seconds",
        "Time until the event loop went on after a transaction was saved.",
        _buckets(measured.lags),
        measured.lags.total,
    )


def _disk(state_dir: Path) -> Iterator[Metric]:
    files = [state_dir / f"bgd.db{end}" for end in ("", "-wal")]
    size = sum(file.stat().st_size for file in files if file.exists())
    disk = os.statvfs(state_dir)
    yield GaugeMetricFamily("bgd_database_bytes", "Size of the database and its write-ahead log.", size)
    yield GaugeMetricFamily(
        "bgd_disk_free_bytes", "Free space on the disk of the database.", disk.f_bavail * disk.f_frsize
    )


def _buckets(histogram: Histogram) -> list[tuple[str, float]]:
    """Return how many values are at most as large as each bound."""
    bounds = [*map(str, histogram.bounds), "+Inf"]
    return list(zip(bounds, accumulate(histogram.counts), strict=True))
