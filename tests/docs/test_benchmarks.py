"""docs/benchmarks.md has the systems and questions of the programs that measure; its writer; its plots."""

from __future__ import annotations

import json
import os
import select
import subprocess
from itertools import pairwise
from xml.etree import ElementTree as ET

import pytest

from tests.bench import __main__ as program
from tests.bench import (
    bench_class_jobs,
    bench_commands,
    bench_lateness,
    bench_printing,
    bench_quiet,
    bench_results,
    bench_start,
    bench_steps,
    compare,
    installing,
    page,
    plot,
    submit_peers,
)
from tests.bench.class_jobs import trees
from tests.bench.systems import SYSTEMS, VARIANTS, label, system_of
from tests.bench.tables import SECTIONS
from tests.docs.pages import first_cells, rows_of, section
from tests.docs.pages import page as text_of
from tests.support import DEADLINE, ROOT

MEASURED = [
    *submit_peers.PEERS,
    *bench_commands.PEERS,
    *bench_class_jobs.PEERS_JOBS,
    *bench_results.PEERS,
    *bench_lateness.PEERS,
    *bench_quiet.PEERS,
    *bench_printing.PEERS,
    *bench_start.PEERS,
    *bench_steps.PEERS,
]
FIGURE = {"min": 90.0, "median": 100.0, "max": 110.0, "n": 3}
CUTS = dict.fromkeys(("p50", "p95", "p99"), 1.5)


def test_every_system_that_is_measured_is_described():
    assert {system_of(name) for name in MEASURED} | {"bgd"} == set(SYSTEMS)
    assert {system for system, _ in VARIANTS.values()} <= set(SYSTEMS)


def test_every_question_has_a_program_and_a_section():
    programs = {path.stem.removeprefix("bench_") for path in ROOT.glob("tests/bench/bench_*.py")}

    assert list(program.QUESTIONS) == list(SECTIONS)
    assert set(program.QUESTIONS) == programs


def test_the_page_describes_the_systems_before_any_figure():
    text = text_of("docs/benchmarks.md")

    assert first_cells(section(text, "## How the systems differ")) == [each.name for each in SYSTEMS.values()]
    assert text.index("## How the systems differ") < text.index("## Machine") < text.index("## P1")


def test_the_page_has_the_usual_questions():
    text = text_of("docs/benchmarks.md")

    assert [
        f"P{number}" for number in (*range(1, 16), *range(19, 23)) if f"P{number}" not in headings(text)
    ] == []


def test_every_plot_of_the_page_can_be_read():
    for path in ROOT.glob("docs/pictures/bench-*.svg"):
        assert path.name in text_of("docs/benchmarks.md")
        ET.parse(path)


def test_a_page_says_what_is_lost_as_plainly_as_what_is_won(tmp_path):
    write(tmp_path, submit=submit_report(rq=400.0, huey=50.0, nq=101.0))

    won = section((tmp_path / "benchmarks.md").read_text(), "## Won and lost")

    assert rows_of(won)[0][1:] == ["Huey (2)", "RQ (0.25)"]


def test_beanstalkd_is_compared_with_bare_frames(tmp_path):
    report = submit_report(beanstalkd=400.0) | {"p1_one_client_a_second": FIGURE | {"median": 800.0}}
    write(tmp_path, submit=report)

    won = section((tmp_path / "benchmarks.md").read_text(), "## Won and lost")

    assert rows_of(won)[0][1:] == ["beanstalkd (2)", ""]


def test_what_is_faster_without_being_a_system_counts_as_lost(tmp_path):
    tenths = dict.fromkeys(("redirect_seconds", "launcher_cpu_ms", "daemon_cpu_ms"), FIGURE)
    slower = {"bgd_seconds": FIGURE | {"median": 200.0}}
    write(tmp_path, output=tenths | slower | {"bytes": 1 << 30, "submit_to_start_meanwhile_ms": CUTS})

    won = section((tmp_path / "benchmarks.md").read_text(), "## Won and lost")

    assert rows_of(won)[0][1:] == ["", "a redirect into a file (0.5)"]


def test_memory_of_reused_processes_is_compared_with_those_of_bgd(tmp_path):
    sizes = {"bgd_fork": 50.0, "bgd_reuse": 200.0, "huey_processes": 100.0, "rq_forking": 100.0}
    figures = {name: FIGURE | {"median": size} for name, size in sizes.items()}
    report = {"slots": 2, "missing": {}, "jobs_a_second": {"bgd_fork": FIGURE, "bgd_reuse": FIGURE}}
    write(tmp_path, class_jobs=report | {"own_megabytes_of_a_running_job": figures})

    won = section((tmp_path / "benchmarks.md").read_text(), "## Won and lost")

    assert rows_of(won)[0][1:] == ["RQ, forking workers (2)", "Huey, processes (0.5)"]


def test_commands_are_shown_as_multiples_of_the_start_of_python(tmp_path):
    medians = {"python": 10.0, "submit": 25.0, "nq": 2.0}
    milliseconds = {
        name: {"min": 1.0, "median": median, "max": 1.0, "n": 1} for name, median in medians.items()
    }
    write(tmp_path, start={"milliseconds": milliseconds, "missing": {}})

    text = (tmp_path / "benchmarks.md").read_text()

    assert rows_of(section(text, "## P9: whole commands")) == [
        ["nq", "2", "0.2"],
        ["`python -c pass`", "10", "1"],
        ["**bgctl submit true**", "25", "2.5"],
    ]
    assert rows_of(section(text, "## Won and lost"))[0][2] == "`python -c pass` (0.4), nq (0.08)"


def test_a_python_that_does_not_run_is_not_taken_for_a_peer_that_needs_a_newer_one(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RuntimeError, match=r"no Python 3\.12 or newer"):
        installing.new_enough_python()

    for minor, code in {12: 127, 13: 0, 14: 0}.items():  # a shim that stands for no Python exits with 127
        program = tmp_path / f"python3.{minor}"
        program.write_text(f"#!/bin/sh\nexit {code}\n")
        program.chmod(0o755)

    assert installing.new_enough_python() == "python3.13"


def test_a_program_is_ended_with_what_it_has_started_in_another_session():
    command = ["sh", "-c", "setsid sh -c 'echo $$; exec sleep 600' & wait"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout
        child = os.pidfd_open(int(parent.stdout.readline()))
        trees.end_tree(parent)

    assert select.select([child], [], [], DEADLINE)[0]  # readable: it has ended
    os.close(child)


def test_a_table_has_the_best_first_and_names_what_is_missing(tmp_path):
    write(tmp_path, submit=submit_report(rq=400.0, huey=50.0) | {"missing": {"nq": "not there"}})

    first = section((tmp_path / "benchmarks.md").read_text(), "## P1: one client submits one by one")

    assert [row[0] for row in rows_of(first)][:1] == ["RQ"]
    assert [row[0] for row in rows_of(first)][-1:] == ["Huey"]
    assert "Not measured: nq (not there)." in first


def test_a_page_keeps_what_it_says_of_questions_that_were_not_measured_again(tmp_path):
    write(tmp_path, submit=submit_report(rq=50.0), results=results_report(rq_forking=10.0))
    first = (tmp_path / "benchmarks.md").read_text()

    write(tmp_path, versions={"huey": "9"}, results=results_report(rq_forking=50.0))
    text = (tmp_path / "benchmarks.md").read_text()

    submit = "## P1: one client submits one by one"
    assert section(text, submit) == section(first, submit)
    assert [row[1:] for row in rows_of(section(text, "## Won and lost"))] == [
        ["RQ (2)", ""],
        ["", "RQ, forking workers (0.5, 0.5)"],
        ["", "RQ, forking workers (0.5, 0.5)"],
    ]
    write(tmp_path, submit=submit_report(rq=50.0))
    assert "| Huey | 9 |" in (tmp_path / "benchmarks.md").read_text()


def test_a_page_is_the_same_whether_questions_are_measured_together_or_one_by_one(tmp_path):
    reports = {"submit": submit_report(rq=50.0), "results": results_report(rq_forking=10.0)}
    for folder, order in {"one": ("results", "submit"), "two": ("submit", "results")}.items():
        for name in order:
            write(tmp_path / folder, **{name: reports[name]})
    write(tmp_path / "both", **reports)

    one, two, both = (tmp_path.joinpath(name, "benchmarks.md").read_text() for name in ("one", "two", "both"))
    assert one == two == both


def test_a_page_without_new_figures_stays_as_it_is(tmp_path):
    write(tmp_path, versions={"rq": "3"}, submit=submit_report(rq=50.0), results=results_report())
    before = (tmp_path / "benchmarks.md").read_text()

    page.write({}, tmp_path)

    assert (tmp_path / "benchmarks.md").read_text() == before


def test_calls_of_reused_processes_are_compared_with_those_of_bgd(tmp_path):
    write(tmp_path, results=results_report(bgd_reuse=20.0, huey_looking_often=10.0, rq_simple=40.0))

    won = section((tmp_path / "benchmarks.md").read_text(), "## Won and lost")

    assert rows_of(won)[0][1:] == [
        "RQ, simple workers (2, 2)",
        "Huey, processes that look every 5 ms (0.5, 0.5)",
    ]


def test_late_functions_are_compared_with_those_of_bgd(tmp_path):
    late = cuts(bgd=1.0, bgd_reuse=4.0, sleeper=0.5, celery_pool=2.0, procrastinate=400.0)
    write(tmp_path, lateness={"jobs": 10_000, "rate": 250.0, "late_ms": late, "missing": {}})

    text = (tmp_path / "benchmarks.md").read_text()

    sleeper = "a process that sleeps until each of these times (0.5, 0.5)"
    assert rows_of(section(text, "## Won and lost"))[0][1:] == [
        "Procrastinate (100, 100)",
        f"{sleeper}, Celery, pool (0.5, 0.5)",
    ]


def test_a_quiet_queue_is_compared_where_queues_have_weights(tmp_path):
    start = cuts(bgd_weights=4.0, bgd_neither=900.0, rq_simple=40.0, celery_pool=2.0)
    write(tmp_path, quiet={"noisy": 5_000, "start_ms": start, "missing": {}})

    text = (tmp_path / "benchmarks.md").read_text()

    assert rows_of(section(text, "## Won and lost"))[0][1:] == [
        "RQ, simple workers (10, 10)",
        "Celery, pool (0.5, 0.5)",
    ]
    assert [row[0] for row in rows_of(section(text, "## P22: a quiet queue beside a noisy one"))] == [
        "Celery, pool",
        "**bgd, queues with a weight each**",
        "RQ, simple workers",
        "bgd, neither weight nor priority: one job",
    ]


def test_jobs_that_print_are_compared_with_those_of_the_same_kind_of_process(tmp_path):
    own = {"bgd": (100.0, 100.0), "bgd_fork": (100.0, 200.0), "bgd_reuse": (100.0, 400.0)}
    rates = own | {"rq_forking": (50.0, 100.0), "celery_pool": (25.0, 800.0)}  # queued, run
    both = {name: [FIGURE | {"median": rate} for rate in pair] for name, pair in rates.items()}
    write(tmp_path, printing={"jobs": 20_000, "workers": 10, "jobs_a_second": both, "missing": {}})

    text = (tmp_path / "benchmarks.md").read_text()

    assert rows_of(section(text, "## Won and lost"))[0][1:] == [
        "RQ, forking workers (2, 2)",
        "Celery, pool (0.5, 4)",
    ]


def test_a_limit_is_shown_as_a_share_of_what_runs_without_one(tmp_path):
    both = {
        name: [FIGURE | {"median": rate}] * 2 for name, rate in {"no limit": 100.0, "a key": 80.0}.items()
    }
    write(tmp_path, limits={"slots": 8, "jobs_a_second": both, "daemon_microseconds_a_job": both})

    text = (tmp_path / "benchmarks.md").read_text()

    table = rows_of(section(text, "## The cost of a limit by key"))
    assert [[name, times] for name, _, _, times in table] == [
        ["**bgd, no limit**", "1"],
        ["bgd, a key", "0.8"],
    ]
    assert rows_of(section(text, "## Won and lost")) == []


def test_figures_of_a_trial_are_named_as_such(tmp_path):
    warning = "Do not go by them"
    write(tmp_path, submit=submit_report())
    assert warning not in (tmp_path / "benchmarks.md").read_text()

    write(tmp_path, quick=True, submit=submit_report())
    assert warning in (tmp_path / "benchmarks.md").read_text()

    write(tmp_path, results=results_report())
    assert warning in (tmp_path / "benchmarks.md").read_text()


@pytest.mark.parametrize("slots", [[2], [2, 8]])
def test_every_peer_of_a_program_has_a_row(tmp_path, slots):
    write(
        tmp_path,
        commands=[
            {"slots": each, "missing": {}}
            | {f"{name}_jobs_a_second": FIGURE for name in ("bgd", *bench_commands.PEERS)}
            for each in slots
        ],
        class_jobs=[
            {
                "slots": each,
                "missing": {},
                "jobs_a_second": dict.fromkeys(CLASS_JOBS, FIGURE),
                "own_megabytes_of_a_running_job": dict.fromkeys(CLASS_JOBS, FIGURE),
            }
            for each in slots
        ],
    )

    text = (tmp_path / "benchmarks.md").read_text()

    shown = [row[0] for part in text.split("\n## P")[1:] for row in rows_of(part)]
    assert [name for name in (*bench_commands.PEERS, *CLASS_JOBS) if label(name) not in unbold(shown)] == []


CLASS_JOBS = ("bare_fork", "bgd_fork", "bgd_spawn", "bgd_reuse", *bench_class_jobs.PEERS_JOBS)


def test_kept_figures_are_read_in_the_order_of_the_page(tmp_path):
    for name in reversed(program.QUESTIONS):
        (tmp_path / f"{name}.json").write_text(json.dumps({"seconds": 1}))

    assert list(program.kept(tmp_path)) == list(program.QUESTIONS)


def test_older_revisions_are_measured_without_the_peers(tmp_path):
    (tmp_path / "tests/bench").mkdir(parents=True)
    older = tmp_path / "tests/bench/bench_class_jobs.py"
    older.write_text("def main(): ...")

    assert compare.program(ROOT, "class_jobs")[-1] == "--no-peers"
    assert compare.program(tmp_path, "class_jobs")[:2] == ["-c", compare.CLASS_JOBS_WITHOUT_PEERS]


def test_figures_that_were_not_measured_are_not_compared():
    report = {
        "rate": {"median": 5.0},
        "peer": {"median": float("nan")},
        "ratio": float("nan"),
        "p": {"p50": 1},
    }

    assert dict(compare.numbers(report)) == {"rate": 5.0, "p": 1.0}


def test_bars_are_as_long_as_their_values():
    drawing = ET.fromstring(plot.bars("T", "u", [""], {"a": [100.0], "b & c": [25.0], "d": [None]}, {"a"}))

    widths = [float(bar.get("width", "")) for bar in drawing.findall(".//{*}rect") if bar.get("x")]

    assert len(widths) == 2
    assert widths[0] == pytest.approx(4 * widths[1], abs=0.2)
    assert "b & c" in [text.text for text in drawing.findall(".//{*}text")]


def test_lines_rise_by_as_much_for_each_factor_of_ten():
    series = {"s": [(1.0, 1.0), (10.0, 10.0), (100.0, 100.0)]}
    drawing = ET.fromstring(plot.lines("T", "u", "x", series))

    points = [(float(dot.get("cx", "")), float(dot.get("cy", ""))) for dot in drawing.findall(".//{*}circle")]

    assert points[1][0] - points[0][0] == pytest.approx(points[2][0] - points[1][0], abs=0.2)
    assert points[0][1] - points[1][1] == pytest.approx(points[1][1] - points[2][1], abs=0.2)


def test_names_of_lines_do_not_cover_each_other():
    series = {name: [(1.0, 5.0), (10.0, 5.0)] for name in ("one", "two", "three")}
    drawing = ET.fromstring(plot.lines("T", "u", "x", series))

    heights = [float(text.get("y", "")) for text in drawing.findall(".//{*}text") if text.text in series]

    assert all(below - above >= plot.NARROWEST for above, below in pairwise(heights))


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.0069, "0.0069"),
        (0.5, "0.5"),
        (7.25, "7.2"),
        (12.34, "12.3"),
        (123.4, "123"),
        (46_712, "46,700"),
        (2.0, "2"),
    ],
)
def test_numbers_have_three_digits_at_most(value, shown):
    assert plot.number(value) == shown


# --- help --------------------------------------------------------------------------------------------------


def submit_report(**rates):
    """Return figures of the question submit; rates of peers one by one are compared with bgd's 100."""
    own = ("raw_sqlite_commits", "p1_one_client", "p1_by_client", "p2_64_clients", "p2_64_by_client")
    return {
        **{f"{name}_a_second": FIGURE for name in (*own, "p3_bulk", "p3_bulk_by_client", "p3_bulk_by_bgctl")},
        "p1_peers_a_second": {name: FIGURE | {"median": rate} for name, rate in rates.items()},
        "p2_peers_a_second": {},
        "p3_peers_a_second": {},
        "missing": {},
    }


def results_report(**medians):
    """Return figures of the question results; those of others are compared with the 100 ms of `fork`."""
    figures = cuts(bgd_fork=100.0, **medians)
    return {"clients": 8, "alone_ms": figures, "at_once_ms": figures, "missing": {}}


def cuts(**medians):
    """Return p50 and p99, which are the same, by the names of systems."""
    figures = {name: FIGURE | {"median": median} for name, median in medians.items()}
    return {name: {"p50": figure, "p99": figure} for name, figure in figures.items()}


@pytest.mark.parametrize(("load", "is_said"), [(0.3, False), (14.2, True)])
def test_a_section_says_that_the_machine_was_busy_when_it_was_measured(tmp_path, load, is_said):
    write(tmp_path, load=load, submit=submit_report())

    assert ("(load 14.2)" in (tmp_path / "benchmarks.md").read_text()) == is_said


def write(folder, *, quick=False, load=0.0, versions=None, **reports):
    """Write a page with these reports of questions, one or a list of them for each."""
    shared = {"at": "2026-11-27 06:40 UTC", "revision": "abc", "rounds": 3, "quick": quick, "load": load}
    page.write(
        {
            name: {
                **shared,
                "machine": {"processors": "2 of them"},
                "versions": versions or {},
                "reports": found if isinstance(found, list) else [found],
            }
            for name, found in reports.items()
        },
        folder,
    )


def headings(text):
    words = [line.replace(":", "").split() for line in text.splitlines() if line.startswith("## P")]
    return {word for line in words for word in line}


def unbold(cells):
    return {cell.strip("*") for cell in cells}
