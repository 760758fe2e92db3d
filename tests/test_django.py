"""Django's tasks are jobs: with the package django-tasks here, and with Django's own on a newer Python."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.support import ROOT

NEWER = os.environ.get("BGD_DJANGO_PYTHON", "")  # Python 3.12 or newer, with Django 6 and what bgd needs


@pytest.fixture(params=["here", "newer"])
def run(request):
    """Return a function that runs a program of Python to its end, with one version of Django or the other."""
    if request.param == "newer" and not NEWER:
        pytest.skip("NOT TESTED with Django 6: $BGD_DJANGO_PYTHON names no Python that has it, and bgd")
    python = NEWER if request.param == "newer" else sys.executable

    def run(*arguments: str, cwd: str = str(ROOT)) -> None:
        done = subprocess.run(
            [python, "-W", "error", *arguments],
            cwd=cwd,
            env=os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT}/bgd/inside"},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr

    return run


def test_tasks_are_jobs_as_django_promises(run):
    run("-m", "unittest", "-v", "tests.django_project.cases")


def test_the_example_takes_orders_and_confirms_them_by_tasks(run):
    run("manage.py", "test", cwd=str(ROOT / "examples/django"))
