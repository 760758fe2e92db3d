"""What code can say from inside a job, in a job and outside of one."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from bgd.core import spec
from bgd.inside import bgd_job

FILE = Path(bgd_job.__file__)


@pytest.mark.parametrize(
    ("after", "seconds"),
    [
        ("500ms", 0.5),
        ("30s", 30.0),
        ("1h30m", 5400.0),
        ("1d", 86_400.0),
        (0, 0.0),
        (2.5, 2.5),
        (timedelta(minutes=2), 120.0),
    ],
)
def test_a_delay_is_text_a_number_or_a_timedelta(after, seconds):
    assert bgd_job.Retry(after=after).after == seconds
    assert bgd_job.Snooze(after).after == seconds


@pytest.mark.parametrize("after", ["", "soon", "5", "5 s", "5s later", -1, float("nan"), float("inf"), 1e12])
def test_an_invalid_delay_is_refused_at_the_call(after):
    with pytest.raises(ValueError, match="is not a duration"):
        bgd_job.Retry(after=after)
    with pytest.raises(ValueError, match="is not a duration"):
        bgd_job.Snooze(after)


def test_a_snooze_may_be_until_an_instant():
    assert bgd_job.Snooze(until=datetime(2030, 1, 1, tzinfo=UTC)).until == 1_893_456_000.0
    assert bgd_job.Snooze(until=1_893_456_000).until == 1_893_456_000.0
    assert bgd_job.Snooze(until=datetime(2030, 1, 1)).until == datetime(2030, 1, 1).astimezone().timestamp()  # noqa: DTZ001
    with pytest.raises(ValueError, match="is not an instant"):
        bgd_job.Snooze(until=float("inf"))


@pytest.mark.parametrize("given", [{}, {"after": "5s", "until": 1e9}])
def test_a_snooze_takes_either_after_or_until(given):
    with pytest.raises(ValueError, match=r"either after=, a duration, or until="):
        bgd_job.Snooze(**given)


def test_messages_are_for_people():
    assert str(bgd_job.Retry("the mail server is busy", after="30s")) == "the mail server is busy"
    assert str(bgd_job.Fail("no use")) == "no use"
    assert str(bgd_job.Snooze("5m", message="locked")) == "locked"
    assert str(bgd_job.Retry()) == str(bgd_job.Fail()) == str(bgd_job.Snooze("5m")) == ""


def test_limits_are_those_of_bgd():
    assert (bgd_job.MAX_SECONDS, bgd_job.MAX_INSTANT) == (spec.MAX_DURATION, spec.MAX_INSTANT)


def test_there_is_no_current_job_outside_of_a_job(monkeypatch):
    monkeypatch.delenv("BGD_JOB_ID", raising=False)

    assert bgd_job.current() is None


def test_other_variables_of_these_names_do_not_make_a_job(monkeypatch):
    for name in ("BGD_JOB_ID", "BGD_ATTEMPT", "BGD_QUEUE", "BGD_SLOT"):
        monkeypatch.setenv(name, "x")

    assert bgd_job.current() is None


def test_code_in_a_job_knows_its_job(monkeypatch):
    given = {"BGD_JOB_ID": "7", "BGD_ATTEMPT": "2", "BGD_QUEUE": "mail", "BGD_SLOT": "1"}
    for name, value in given.items():
        monkeypatch.setenv(name, value)

    assert bgd_job.current() == (7, 2, "mail", 1)


def test_module_runs_on_python_3_9():
    ast.parse(FILE.read_text(), feature_version=(3, 9))


def test_module_is_installed_alone(tmp_path):
    folder = tmp_path / "installed"
    installed = subprocess.run(
        [
            *(sys.executable, "-m", "pip", "install", "--quiet", "--target", folder),
            *("--no-build-isolation", "--no-index", "--no-deps", _copy_of(FILE.parents[1], tmp_path)),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert installed.returncode == 0, installed.stderr

    found = subprocess.run(
        [
            sys.executable,
            "-S",
            "-c",
            "from bgd_job import *; import bgd_job; print(bgd_job.__file__, current(), step('a', int, 2))",
        ],
        env={"PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        check=True,
        cwd="/",
    )
    assert found.stdout == f"{folder}/bgd_job/__init__.py None 2\n"
    assert (folder / "bgd_job/py.typed").exists()


def _copy_of(project: Path, folder: Path) -> Path:
    """Copy a project, because building it writes into its folder."""
    copy = folder / "project"
    shutil.copytree(project, copy, ignore=shutil.ignore_patterns("__pycache__"))
    return copy


def test_a_job_of_no_batch_and_code_outside_of_jobs_have_none(monkeypatch):
    monkeypatch.setenv("BGD_BATCH_ID", "3")  # of a program that a job started, for example
    monkeypatch.delenv("BGD_JOB_ID", raising=False)
    assert bgd_job.batch() is None

    for name, value in {"JOB_ID": "1", "ATTEMPT": "1", "QUEUE": "default", "SLOT": "1"}.items():
        monkeypatch.setenv(f"BGD_{name}", value)
    monkeypatch.delenv("BGD_BATCH_ID")
    assert bgd_job.batch() is None
