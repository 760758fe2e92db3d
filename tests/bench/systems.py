"""The systems that are compared: what each one is, how it differs, and how it is set up here."""

from __future__ import annotations

from typing import NamedTuple


class System(NamedTuple):
    name: str
    takes: str  # what is handed to it
    on_disk: str  # before the answer to a submit
    process: str  # in which a job runs
    killed: str  # what becomes of jobs if its daemon or its worker is killed
    power_cut: str  # what is left afterwards of jobs that were taken
    setting: str  # as measured


# by the names of the figures that the programs print, without the variant
SYSTEMS = {
    "bgd": System(
        "bgd",
        "commands, Python calls",
        "yes: SQLite, fsync",
        "one for each job; class jobs: a fork of a warm worker, or a reused worker",
        "daemon: jobs run on, their ends are recorded; launcher: its jobs are killed and end as `unknown`",
        "all; running ones end as `interrupted`",
        "as installed, WAL with synchronous=FULL, a log for each job",
    ),
    "xargs": System(
        "xargs", "commands", "no", "one for each job", "what waits is lost", "nothing", "-P SLOTS -n1"
    ),
    "parallel": System(
        "GNU parallel",
        "commands",
        "no; a log of finished jobs on request",
        "one for each job",
        "what waits is lost, unless started again with its log",
        "that log, without fsync",
        "-j SLOTS -n1",
    ),
    "task_spooler": System(
        "task-spooler",
        "commands",
        "no",
        "one for each job, and one for each job that waits",
        "what waits is lost",
        "nothing",
        "tsp -S SLOTS; tsp -n, without a file for output",
    ),
    "nq": System(
        "nq",
        "commands",
        "a file for each job, without fsync",
        "one for each job, and one for each job that waits",
        "there is no daemon",
        "files; nothing starts again by itself",
        "a queue for each slot; nq -q",
    ),
    "hyperqueue": System(
        "HyperQueue",
        "commands, Python calls; many machines",
        "no; a journal with fsync on request",
        "one for each job",
        "server: running jobs are killed; those in the journal run again",
        "what is in the journal",
        "a local cluster, one worker with SLOTS cores; its Python package has no journal",
    ),
    "pueue": System(
        "pueue",
        "commands",
        "one file of all jobs, rewritten at each change",
        "one for each job",
        "the queue is read again; running jobs count as killed",
        "the file as it was written last",
        "as installed; only measured if it is on PATH",
    ),
    "rq": System(
        "RQ",
        "Python calls; many machines",
        "yes: Redis, fsync",
        "a fork for each job; a simple worker runs them in itself",
        "a worker's job is found dead after a while and fails, or is retried if asked",
        "all that Redis took",
        "Redis with appendfsync=always; enqueue, enqueue_many",
    ),
    "celery": System(
        "Celery",
        "Python calls; many machines",
        "yes: Redis, fsync",
        "a pool of reused processes",
        "a worker's job is lost by default; run again with late acknowledgement",
        "all that Redis took, but those that had begun",
        "Redis with appendfsync=always; prefork; ignore_result when only handing over",
    ),
    "dramatiq": System(
        "Dramatiq",
        "Python calls; many machines",
        "yes: Redis, fsync",
        "reused processes with threads",
        "a worker's jobs run again",
        "all that Redis took",
        "Redis with appendfsync=always; one thread in a process",
    ),
    "huey": System(
        "Huey",
        "Python calls",
        "yes: SQLite, fsync",
        "reused processes or threads",
        "a worker's job is lost: it is deleted before it runs",
        "all, but those that had begun",
        "SQLite with fsync; process workers",
    ),
    "procrastinate": System(
        "Procrastinate",
        "Python calls; many machines",
        "yes: PostgreSQL, fsync",
        "asyncio in a process; here one for each job at a time",
        "a worker's job stays in progress until a task that you write retries it",
        "all",
        "PostgreSQL as installed, synchronous_commit=on; defer, batch_defer",
    ),
    "oban": System(
        "Oban for Python",
        "Python calls; many machines",
        "yes: PostgreSQL, fsync",
        "asyncio in a process",
        "a worker's job stays in progress until another one rescues it",
        "all",
        "PostgreSQL as installed, synchronous_commit=on; enqueue, enqueue_many; a newer Python"
        " than the others have, since it needs 3.12",
    ),
    "dbos": System(
        "DBOS",
        "Python calls of workflows and their steps",
        "yes: SQLite, fsync",
        "a thread of the program that started it",
        "a workflow continues after its last step when the program starts again",
        "all",
        "SQLite as installed; only steps are measured",
    ),
    "bunqueue": System(
        "bunqueue",
        "calls in JavaScript; any machine",
        "yes: SQLite, fsync only if changed",
        "coroutines of a process",
        "a worker's job runs again",
        "all but the last seconds, as installed",
        'its server with `durable`; "synced": with synchronous=FULL in place of its NORMAL',
    ),
    "graphile_worker": System(
        "Graphile Worker",
        "calls in JavaScript; many machines",
        "yes: PostgreSQL, fsync",
        "coroutines of a process",
        "a worker's job runs again after 4 hours",
        "all",
        "PostgreSQL as installed, synchronous_commit=on; addJob, addJobs",
    ),
    "sidekiq": System(
        "Sidekiq",
        "calls in Ruby; many machines",
        "yes: Redis, fsync",
        "threads of a process",
        "a worker's job is lost, except in the versions that are sold",
        "all that Redis took, but those that had begun",
        "Redis with appendfsync=always; perform_async, perform_bulk",
    ),
    "restate": System(
        "Restate",
        "calls in several languages, and their steps",
        "yes: its log, fsync",
        "a service that its server calls",
        "a call continues after its last step",
        "all",
        "its server as installed, one node; only steps are measured",
    ),
    "beanstalkd": System(
        "beanstalkd",
        "bytes; any machine",
        "yes: binlog, fsync",
        "it runs no jobs: programs reserve them",
        "a reserved job returns to the queue when its connection ends",
        "all",
        "-f0, bare frames on a socket",
    ),
}

# Figures of one system have names of their own if it is measured in more than one way
VARIANTS = {
    "bgd_bare": ("bgd", "bgd, bare frames on the socket"),
    "bgd_client": ("bgd", "bgd, Python client"),
    "bgd_batch": ("bgd", "bgd, `bgctl batch`"),
    "bgd_fork": ("bgd", "bgd, `fork`"),
    "bgd_spawn": ("bgd", "bgd, `spawn`"),
    "bgd_reuse": ("bgd", "bgd, `reuse`"),
    "rq_forking": ("rq", "RQ, forking workers"),
    "rq_simple": ("rq", "RQ, simple workers"),
    "celery_pool": ("celery", "Celery, pool"),
    "celery_process_each": ("celery", "Celery, a process for each job"),
    "dramatiq_processes": ("dramatiq", "Dramatiq, processes"),
    "huey_processes": ("huey", "Huey, processes"),
    "huey_looking_often": ("huey", "Huey, processes that look every 5 ms"),
    "bunqueue_synced": ("bunqueue", "bunqueue, synced"),
    "restate_calls": ("restate", "Restate"),
    "dbos_workflows": ("dbos", "DBOS on SQLite"),
}

# What systems are measured against
YARDSTICKS = {
    "raw_sqlite": "bare SQLite, one row a commit",
    "bare_fork": "a process of that size that only forks",
    "python": "`python -c pass`",
    "program_alone": "the program alone, by fork",
    "sleeper": "a process that sleeps until each of these times",
    "redirect": "a redirect into a file",
}


def label(name: str) -> str:
    """Return what a page says for the name of a figure."""
    if name in VARIANTS:
        return VARIANTS[name][1]
    return SYSTEMS[name].name if name in SYSTEMS else YARDSTICKS[name]


def system_of(name: str) -> str | None:
    """Return the system whose figure has this name; None for a yardstick."""
    return VARIANTS[name][0] if name in VARIANTS else name if name in SYSTEMS else None
