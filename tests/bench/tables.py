"""Turns the figures of the benchmarks into the tables of docs/benchmarks.md."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from tests.bench import plot

Report = Mapping[str, Any]  # one line of JSON of a program


class Comparison(NamedTuple):
    """One table with its plot. A row is a system, a yardstick, or any other thing with a name."""

    key: str
    title: str
    about: str
    unit: str
    columns: Sequence[str]
    rows: Mapping[str, Sequence[float | Report | None]]  # a number, or min, median and max
    ours: str | None = None  # the row that the others are compared with
    instead: Mapping[str, str] = {}  # rows that are compared with another one of ours
    is_less_better: bool = False
    multiples_of: str | None = None  # the row that each figure is divided by
    missing: Mapping[str, str] = {}  # what could not be measured, and why


class Growth(NamedTuple):
    """One table with a plot of lines: what things cost beside ever more jobs."""

    key: str
    title: str
    about: str
    unit: str
    sizes: Sequence[int]
    rows: Mapping[str, Sequence[float]]  # a value for each size


BARE = {"beanstalkd": "bgd_bare"}  # both without a library


def _submit(reports: Sequence[Report]) -> Iterator[Comparison]:
    (report,) = reports

    def peers(short: str) -> dict[str, list[Report]]:
        return {name: [value] for name, value in report[f"{short}_peers_a_second"].items()}

    def figure(name: str) -> list[Report]:
        return [report[f"{name}_a_second"]]

    yield Comparison(
        "submit",
        "P1: one client submits one by one",
        "Each answer comes after the job is on disk, where the system keeps it there. bgd gets a command"
        " with 5 KB of environment, the libraries a function without arguments, beanstalkd 64 bytes; tsp and"
        " nq are a program for each job.",
        "jobs per second",
        [""],
        {
            "raw_sqlite": figure("raw_sqlite_commits"),
            "bgd_bare": figure("p1_one_client"),
            "bgd_client": figure("p1_by_client"),
            **peers("p1"),
        },
        ours="bgd_client",
        instead=BARE,
        missing=report["missing"],
    )
    yield Comparison(
        "submit-at-once",
        "P2: 64 clients submit at once",
        "Each client waits for its answer before it submits again. The clients of libraries, and bgd's Python"
        " clients, are threads of two processes, those in JavaScript coroutines of two; the bare ones share"
        " two processes without threads.",
        "jobs per second",
        [""],
        {"bgd_bare": figure("p2_64_clients"), "bgd_client": figure("p2_64_by_client"), **peers("p2")},
        ours="bgd_client",
        instead=BARE,
    )
    yield Comparison(
        "submit-many",
        "P3: many jobs in one request",
        "bgd by `submit_many`, the libraries by their calls for many jobs, bunqueue by calls for a thousand,"
        " beanstalkd by pipelining, HyperQueue as one job with many tasks, in memory. `bgctl batch` is a"
        " program that starts and reads a line for each job. The others have no call for many jobs.",
        "jobs per second",
        [""],
        {
            "bgd_bare": figure("p3_bulk"),
            "bgd_client": figure("p3_bulk_by_client"),
            "bgd_batch": figure("p3_bulk_by_bgctl"),
            **peers("p3"),
        },
        ours="bgd_client",
        instead=BARE,
    )


def _commands(reports: Sequence[Report]) -> Iterator[Comparison]:
    suffix = "_jobs_a_second"
    names = [key.removesuffix(suffix) for key in reports[0] if key.endswith(suffix)]
    yield Comparison(
        "commands",
        "P4: commands that do nothing",
        "From the submit of the first /bin/true to the end of the last. bgd gets them in one request; to"
        " task-spooler, nq and pueue a program hands over each. Only bgd has them on disk, with fsync,"
        " before they start.",
        "jobs per second",
        [f"{report['slots']} slots" for report in reports],
        {name: [report.get(name + suffix) for report in reports] for name in names},
        ours="bgd",
        missing=_missing(reports),
    )


def _class_jobs(reports: Sequence[Report]) -> Iterator[Comparison]:
    columns = [f"{report['slots']} slots" for report in reports]

    def rates(*names: str) -> dict[str, list[Report | None]]:
        return {
            name: [report["jobs_a_second"].get(name) for report in reports]
            for name in names
            if any(name in report["jobs_a_second"] for report in reports)
        }

    yield Comparison(
        "class-jobs-fork",
        "P5: functions, a process for each",
        "A Python function that does nothing, in processes that hold 60 MB of objects. bgd is timed from the"
        " submit of the first to the end of the last, the others from when a tenth of a full queue is done."
        " All that keep a queue sync it.",
        "jobs per second",
        columns,
        rates("bare_fork", "bgd_fork", "bgd_spawn", "rq_forking", "celery_process_each"),
        ours="bgd_fork",
        missing=_missing(reports),
    )
    yield Comparison(
        "class-jobs-reuse",
        "P6: functions in reused processes",
        "The same function in processes that do one job after the other. bgd's `fork`, which gives each job a"
        " process of its own, is here to compare. For Dramatiq, which counts nothing, each job adds a byte"
        " to a file. So it does for Sidekiq, bunqueue and Graphile Worker, whose workers are one process with"
        " threads or coroutines, and hold no such objects.",
        "jobs per second",
        columns,
        rates("bgd_reuse", "bgd_fork", *CLASS_JOB_POOLS, *IN_ONE_PROCESS),
        ours="bgd_reuse",
    )
    yield Comparison(
        "class-jobs-memory",
        "Memory of a running function",
        "What its process has for itself; memory that it shares with others is not counted. Reused processes"
        " are compared with `reuse`, the others with `fork`.",
        "MB",
        columns,
        {
            name: [report["own_megabytes_of_a_running_job"].get(name) for report in reports]
            for name in reports[0]["own_megabytes_of_a_running_job"]
        },
        ours="bgd_fork",
        instead=dict.fromkeys(CLASS_JOB_POOLS, "bgd_reuse"),
        is_less_better=True,
    )


CLASS_JOB_POOLS = ("huey_processes", "celery_pool", "dramatiq_processes", "rq_simple", "procrastinate")

IN_ONE_PROCESS = ("bunqueue", "bunqueue_synced", "graphile_worker", "sidekiq")


def _latency(reports: Sequence[Report]) -> Iterator[Comparison]:
    (report,) = reports
    rows = {
        "bgd, submit to first instruction": "p7_submit_to_first_instruction_idle_ms",
        "bgd, the same, 8 clients submitting": "p7_with_8_clients_submitting_ms",
        "bgd, end of a job to start of the next": "p8_exit_to_start_ms",
        "program_alone": "fork_to_first_instruction_alone_ms",
    }
    yield Comparison(
        "latency",
        "P7 and P8: how soon a job starts",
        "The program is /bin/date, which prints the time at which it runs.",
        "ms",
        ["p50", "p99"],
        {name: [report[key]["p50"], report[key]["p99"]] for name, key in rows.items()},
        ours=next(iter(rows)),
        is_less_better=True,
    )


def _results(reports: Sequence[Report]) -> Iterator[Comparison]:
    (report,) = reports
    titles = {
        "alone": "P19: the result of a call",
        "at_once": f"P19: the same by {report['clients']} clients at once",
    }
    abouts = {
        "alone": "From the call of a Python function, which returns its argument, to its result, one after"
        " the other by one client. The processes that run it hold 60 MB of objects. Reused processes are"
        " compared with `reuse`, the others with `fork`. Each call and each result is on disk. Huey polls, as"
        " installed ten times a second; the other row of it looks every 5 ms.",
        "at_once": "Each client is a process, which waits for a result before its next call, and there is a"
        " worker for each of them.",
    }
    for way, title in titles.items():
        yield Comparison(
            f"results-{way.replace('_', '-')}",
            title,
            abouts[way],
            "ms",
            ["p50", "p99"],
            _cuts(report[f"{way}_ms"]),
            ours="bgd_fork",
            instead=dict.fromkeys((*CLASS_JOB_POOLS, "huey_looking_often"), "bgd_reuse"),
            is_less_better=True,
            missing=report["missing"],
        )


def _lateness(reports: Sequence[Report]) -> Iterator[Comparison]:
    (report,) = reports
    yield Comparison(
        "lateness",
        "P21: how late delayed jobs start",
        f"{report['jobs']:,} jobs, of which {report['rate']:.0f} become due in each second; from the time at"
        " which a job may start to the time that it prints, or that its function writes. bgd runs commands,"
        " and functions in reused processes as the others do. RQ and Huey look for due jobs once a second,"
        " Procrastinate every 5 seconds, as installed; Celery and Dramatiq hold them in the memory of their"
        " workers.",
        "ms",
        ["p50", "p99"],
        _cuts(report["late_ms"]),
        ours="bgd",
        instead=dict.fromkeys(CLASS_JOB_POOLS, "bgd_reuse"),
        is_less_better=True,
        missing=report["missing"],
    )


def _printing(reports: Sequence[Report]) -> Iterator[Comparison]:
    (report,) = reports
    yield Comparison(
        "printing",
        f"P20: {report['jobs']:,} jobs that print the time, {report['workers']} workers",
        "The workload that is quoted most. The jobs are submitted one by one by a library, then run. bgd's"
        " output is in a log for each job, that of the others in one file for all. bgd runs commands here, or"
        " functions; those of reused processes are compared with `reuse`, those of a fork for each job with"
        " `fork`. bgd is timed from the start of the first job, the others from when a tenth is done.",
        "jobs per second",
        ["run", "submitted"],
        {name: list(reversed(both)) for name, both in report["jobs_a_second"].items()},
        ours="bgd",
        instead=dict.fromkeys(CLASS_JOB_POOLS, "bgd_reuse") | {"rq_forking": "bgd_fork"},
        missing=report["missing"],
    )


def _limits(reports: Sequence[Report]) -> Iterator[Comparison]:
    (report,) = reports

    def rows(figure: str) -> dict[str, Sequence[Report]]:
        return {f"bgd, {name}": both for name, both in report[figure].items()}

    first = next(iter(rows("jobs_a_second")))
    yield Comparison(
        "limits",
        "The cost of a limit by key",
        f"Jobs that do nothing in {report['slots']} slots, from the submit of the first, in one request, to"
        " the end of the last: commands, and functions in reused processes. While a key is full, no start of"
        " its jobs is permitted ahead, so that each waits for a commit: one busy key costs most.",
        "jobs per second",
        ["commands", "functions"],
        rows("jobs_a_second"),
        ours=first,
        multiples_of=first,
    )
    yield Comparison(
        "limits-processor",
        "Processor time of a limit by key",
        "What the daemon uses for each of these jobs, which other programs on the machine hardly change.",
        "µs",
        ["commands", "functions"],
        rows("daemon_microseconds_a_job"),
        ours=first,
        is_less_better=True,
        multiples_of=first,
    )


def _quiet(reports: Sequence[Report]) -> Iterator[Comparison]:
    (report,) = reports
    names = {
        "bgd_weights": "bgd, queues with a weight each",
        "bgd_priority": "bgd, a higher priority",
        "bgd_alone": "bgd, without the noisy queue",
        "bgd_neither": "bgd, neither weight nor priority: one job",
    }
    yield Comparison(
        "quiet",
        "P22: a quiet queue beside a noisy one",
        f"From the submit of a job to its start, one job after the other, beside {report['noisy']:,} queued"
        " jobs that take 10 ms each. bgd runs commands, the others functions in reused processes. RQ looks at"
        " its queues in an order, Celery and Dramatiq at both in turns; Huey and Procrastinate have a"
        " priority.",
        "ms",
        ["p50", "p99"],
        {names.get(name, name): cuts for name, cuts in _cuts(report["start_ms"]).items()},
        ours=names["bgd_weights"],
        is_less_better=True,
        missing=report["missing"],
    )


def _cuts(figures: Mapping[str, Mapping[str, Report]]) -> dict[str, list[Report]]:
    return {name: [cuts["p50"], cuts["p99"]] for name, cuts in figures.items()}


def _start(reports: Sequence[Report]) -> Iterator[Comparison]:
    (report,) = reports
    names = {
        "submit": "bgctl submit true",
        "run": "bgctl run true",
        "list": "bgctl list",
        "show": "bgctl show 1",
        "help": "bgctl --help",
    }
    yield Comparison(
        "start",
        "P9: whole commands",
        "From the start of the program to its exit. `submit`, `run`, `list`, `wait` and `logs` without"
        " options load little more than Python; other verbs load msgspec and the client, as `show` does."
        " tsp and nq are programs in C, which hand over a job as `bgctl submit` does.",
        "ms",
        [""],
        {names.get(name, name): [value] for name, value in report["milliseconds"].items()},
        ours=names["submit"],
        multiples_of="python",
        is_less_better=True,
        missing=report["missing"],
    )


def _lists(reports: Sequence[Report]) -> Iterator[Growth | Comparison]:
    sizes = [report["jobs"] for report in reports]
    states = {"queued": "queued", "succeeded": "finished"}
    for state, said in states.items():
        yield Growth(
            f"growth-{said}",
            f"P10 and P11: what grows with {said} jobs",
            f"Medians beside so many {said} jobs. The start is from submit to first instruction, in another"
            " queue than theirs. A list has the newest 100 jobs; the page is the one at `/job-logs`.",
            "ms",
            sizes,
            {
                "submit": [report[state]["submit_ms"]["p50"] for report in reports],
                "start": [report[state]["start_ms"]["p50"] for report in reports],
                "list": [report[state]["list_ms"]["bare"]["p50"] for report in reports],
                "list by a rare name": [report[state]["list_ms"]["rare name"]["p50"] for report in reports],
                "page": [report[state]["page_ms"][""]["p50"] for report in reports],
            },
        )
    last = reports[-1]
    yield Comparison(
        "lists",
        f"Every kind of list beside {sizes[-1]:,} jobs",
        "95th percentiles. A rare thing is one in 100,000. The daemon was ready after"
        f" {last['queued']['start_to_ready_s']} s with queued jobs and"
        f" {last['succeeded']['start_to_ready_s']} s with finished ones, and held"
        f" {last['queued']['resident_mb_at_last']} MB and {last['succeeded']['resident_mb_at_last']} MB"
        " after all of these lists.",
        "ms",
        ["queued", "finished"],
        {
            name: [last[state]["list_ms"][name]["p95"] for state in states]
            for name in last["queued"]["list_ms"]
        },
        is_less_better=True,
    )


def _idle(reports: Sequence[Report]) -> Iterator[Comparison]:
    (report,) = reports
    calls = [report[f"p12_system_calls_of_the_{who}"] for who in ("daemon", "launcher")]
    yield Comparison(
        "idle",
        "P12: idle",
        f"In 5 seconds the daemon makes {calls[0]} system calls and the launcher {calls[1]}. Their memory:",
        "MB",
        [""],
        {f"bgd, {who}": [report[f"p12_{who}_megabytes"]] for who in ("daemon", "launcher")},
        is_less_better=True,
    )


def _output(reports: Sequence[Report]) -> Iterator[Comparison]:
    (report,) = reports
    meanwhile = report["submit_to_start_meanwhile_ms"]

    def seconds(name: str) -> dict[str, float]:
        tenths = report[name]
        return {each: tenths[each] / 10 for each in ("min", "median", "max")} | {"n": tenths["n"]}

    yield Comparison(
        "output",
        "P13: a job with much output",
        f"A job writes {report['bytes'] >> 20:,} MiB. The launcher uses"
        f" {plot.number(report['launcher_cpu_ms']['median'])} ms of a processor for it, the daemon"
        f" {plot.number(report['daemon_cpu_ms']['median'])} ms. Another job that is submitted meanwhile"
        f" starts after {plot.number(meanwhile['p50'])} ms (median; 95th percentile"
        f" {plot.number(meanwhile['p95'])} ms).",
        "seconds",
        [""],
        {"redirect": [seconds("redirect_seconds")], "bgd": [seconds("bgd_seconds")]},
        ours="bgd",
        is_less_better=True,
    )


def _running(reports: Sequence[Report]) -> Iterator[Comparison]:
    (report,) = reports
    lists = report["p14_list_ms"]
    yield Comparison(
        "running",
        "P14: many running jobs",
        f"{report['jobs']:,} jobs sleep at the same time. All of them ran {report['seconds_until_all_run']}"
        f" s after their submit. A list then takes {plot.number(lists['p50'])} ms (median; 99th percentile"
        f" {plot.number(lists['p99'])} ms). Memory of both processes together: {report['p14_megabytes']} MB.",
        "MB",
        ["before", "with all running"],
        {f"bgd, {who}": list(values.values()) for who, values in report["megabytes"].items()},
        is_less_better=True,
    )


def _disk(reports: Sequence[Report]) -> Iterator[Comparison]:
    (report,) = reports
    ways = {"one by one": "one_by_one", "in a batch": "in_a_batch"}
    yield Comparison(
        "disk",
        "P15: bytes written for a job that does nothing",
        "As the kernel counts them for each process, from submit to end, checkpoints of SQLite included.",
        "KB per job",
        ["daemon", "launcher"],
        {
            f"bgd, {name}": [report[f"p15_kilobytes_{key}_{who}"] for who in ("daemon", "launcher")]
            for name, key in ways.items()
        },
        is_less_better=True,
    )


def _prune(reports: Sequence[Report]) -> Iterator[Comparison]:
    (report,) = reports
    yield Comparison(
        "prune",
        "Submits while finished jobs are removed",
        f"Of {report['jobs']:,} finished jobs nine in ten are removed, {report['pruned_a_second']:,} a"
        f" second. {report['over_50_ms']} of {report['submits_beside']:,} submits meanwhile took more than"
        " 50 ms.",
        "ms",
        ["p50", "p99"],
        {
            f"bgd, {name}": [report[f"submit_ms_{name}"][cut] for cut in ("p50", "p99")]
            for name in ("alone", "beside")
        },
        is_less_better=True,
    )


def _steps(reports: Sequence[Report]) -> Iterator[Comparison]:
    (report,) = reports

    def figure(name: str) -> Report | None:
        return report.get(f"{name}_a_second")

    yield Comparison(
        "steps",
        "Steps of class jobs",
        f"Steps that do nothing, each on disk before the next: of one job and of {report['at_once']} at"
        " once. Beside commits of SQLite and submits of `bgd.Client` one by one. The steps of DBOS run in the"
        " program that measures, those of Restate in a service in JavaScript that its server calls.",
        "a second",
        ["one", "together"],
        {
            "raw_sqlite": [figure("raw_sqlite_commits"), None],
            "bgd, submits one by one": [figure("p1_by_client"), None],
            "bgd": [figure("one_job"), figure("all_jobs")],
            "restate_calls": [figure("restate_one_call"), figure("restate_all_calls")],
            "dbos_workflows": [figure("dbos_one_workflow"), figure("dbos_all_workflows")],
        },
        ours="bgd",
        missing=report["missing"],
    )


def _missing(reports: Sequence[Report]) -> dict[str, str]:
    return {name: why for report in reports for name, why in report["missing"].items()}


# by the names of the questions
SECTIONS: dict[str, Callable[[Sequence[Report]], Sequence[Comparison | Growth]]] = {
    "submit": lambda reports: list(_submit(reports)),
    "commands": lambda reports: list(_commands(reports)),
    "class_jobs": lambda reports: list(_class_jobs(reports)),
    "latency": lambda reports: list(_latency(reports)),
    "results": lambda reports: list(_results(reports)),
    "printing": lambda reports: list(_printing(reports)),
    "lateness": lambda reports: list(_lateness(reports)),
    "quiet": lambda reports: list(_quiet(reports)),
    "limits": lambda reports: list(_limits(reports)),
    "start": lambda reports: list(_start(reports)),
    "lists": lambda reports: list(_lists(reports)),
    "idle": lambda reports: list(_idle(reports)),
    "output": lambda reports: list(_output(reports)),
    "running": lambda reports: list(_running(reports)),
    "disk": lambda reports: list(_disk(reports)),
    "prune": lambda reports: list(_prune(reports)),
    "steps": lambda reports: list(_steps(reports)),
}
