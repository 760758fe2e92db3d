"""Pages stay small, however large the job's texts are."""

from __future__ import annotations

import tracemalloc
from typing import Any

import pytest
from msgspec.structs import replace

from bgd.core.job import Outcome, State
from bgd.core.spec import ExecutorKind
from bgd.daemon.web.job_pages import attempt_details, job_details
from bgd.daemon.web.views import job_row
from bgd.wire.views import AttemptView, JobError, Progress
from tests.client.scripted import view_of

LIMIT = 200_000  # characters: about 20,000 for each text, each shown as up to eight
ODD = "\N{RIGHT-TO-LEFT OVERRIDE}"


def test_a_command_of_a_million_characters_is_cut():
    job = replace(view_of(1), argv=["/bin/echo", *[ODD * 10] * 9_999])

    assert len(job_row(job)["command"]) == 301
    assert job_row(job)["command"].startswith("/bin/echo '<U+202E>")
    assert 20_000 < len(job_details(job, None)["command"]) < LIMIT


def test_a_deeply_nested_result_takes_only_the_memory_of_what_is_shown():
    result = "[" * 200 + "1," * 100_000 + "1" + "]" * 200  # 40 MB if each number had its own line

    tracemalloc.start()
    shown = job_details(view_of(1), result)["result"]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert shown is not None
    assert shown.startswith("[\n  [\n    [")
    assert len(shown) == 20_001
    assert peak < 10_000_000


def test_a_long_error_shows_its_beginning_and_the_end_of_its_traceback():
    error = JobError("ValueError", f"first {ODD * 500_000}", f"{ODD * 500_000} last")
    ended: dict[str, Any] = dict.fromkeys(AttemptView.__struct_fields__) | {
        "attempt": 1,
        "outcome": Outcome.ERROR,
        "error": error,
        "log_path": "1.1",
        "tokens": {},
    }

    details = attempt_details(AttemptView(**ended), None)

    assert details["error"] is not None
    assert details["traceback"] is not None
    assert details["error"].startswith("ValueError: first ")
    assert details["traceback"].endswith(" last")
    assert (len(details["error"]), len(details["traceback"])) == (20_001, 20_001)


def test_lists_show_progress_of_running_jobs_and_pages_that_of_all_but_succeeded_ones():
    said = Progress(0.425, "the fourth\nfile")
    bar = (0.425, "42% the fourth\N{SYMBOL FOR LINE FEED}file")
    for state in State:
        job = replace(view_of(1), state=state, progress=said)

        assert job_row(job)["bar"] == (bar if state in {State.RUNNING, State.STOPPING} else None)
        assert job_details(job, None)["bar"] == (None if state is State.SUCCEEDED else bar)
    assert job_details(view_of(1), None)["bar"] is None


@pytest.mark.parametrize(
    ("kind", "node", "outcome", "fact"),
    [
        (None, None, None, None),
        (
            "prefix",
            None,
            None,
            ("Runs on", "far, a prefix: bgd promises nothing about what it runs on other machines"),
        ),
        ("slurm", None, None, ("Runs on", "far")),
        ("slurm", "n1", None, ("Runs on", "far, node n1")),
        ("slurm", "n1\n", Outcome.EXIT, ("Ran on", "far, node n1\N{SYMBOL FOR LINE FEED}")),
        ("slurm", None, Outcome.CANCELLED, ("Ran on", "far")),
    ],
)
def test_an_attempt_shows_what_runs_it_and_where(kind, node, outcome, fact):
    fields: dict[str, Any] = dict.fromkeys(AttemptView.__struct_fields__) | {
        "attempt": 1,
        "outcome": outcome,
        "log_path": "1.1",
        "tokens": {},
        "executor": kind and "far",
        "executor_kind": kind and ExecutorKind(kind),
        "node": node,
    }

    facts = attempt_details(AttemptView(**fields), None)["facts"]

    assert [each for each in facts if each[0] in {"Runs on", "Ran on"}] == ([fact] if fact else [])
