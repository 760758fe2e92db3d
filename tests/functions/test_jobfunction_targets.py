"""Functions as targets: their names, and whether arguments fit."""

from __future__ import annotations

import math
import subprocess
import sys
from types import SimpleNamespace

import pytest

from bgd import Refused
from bgd.client.functions import check_call, check_target, target_of
from bgd.client.specs import Caller, class_spec
from tests.functions import tasks


@pytest.mark.parametrize(
    ("function", "target"),
    [
        (tasks.add, "add"),
        (tasks.next_one, "next_one"),
        (tasks.Report.text, "Report.text"),
        (tasks.Report().text, "Report.text"),
        (tasks.Report.name, "Report.name"),
        (tasks.Report.size, "Report.size"),
    ],
)
def test_a_target_is_the_module_and_the_name_in_it(function, target):
    assert target_of(function) == f"tests.functions.tasks:{target}"


def test_functions_that_are_not_written_in_python_have_targets():
    assert target_of(math.sqrt) == "math:sqrt"


class Outer:
    class Inner:
        def method(self) -> None: ...


@pytest.mark.parametrize(
    ("function", "problem"),
    [
        (lambda: None, "a lambda of .* has no name to be called by: make it a function with def"),
        (Outer.Inner.method, "Outer.Inner.method is in a class within a class: move it"),
        (Outer, "a job is a function or a method, not <class"),
        ("app:run", "a job is a function or a method, not 'app:run'"),
        (SimpleNamespace(__qualname__="run"), "a job is a function or a method, not"),
        ([].append, "has no module"),
    ],
)
def test_functions_that_no_worker_would_find_are_refused_with_a_remedy(function, problem):
    with pytest.raises(TypeError, match=problem):
        target_of(function)


def test_a_function_within_a_function_is_refused():
    def inner() -> None: ...

    with pytest.raises(TypeError, match=r"inner is defined inside a function: move it to the top"):
        target_of(inner)


PROGRAM = """
from bgd.client.functions import target_of
def run(): ...
try:
    print(target_of(run))
except TypeError as error:
    print(error)
"""


def test_the_target_of_a_program_run_as_a_module_has_the_modules_name(tmp_path):
    (tmp_path / "app").mkdir()
    (tmp_path / "app/jobs.py").write_text(PROGRAM)

    assert printed(tmp_path, "-m", "app.jobs") == "app.jobs:run\n"


def test_functions_of_a_program_run_as_a_file_are_refused(tmp_path):
    (tmp_path / "jobs.py").write_text(PROGRAM)

    assert "run is defined in the program that runs as __main__" in printed(tmp_path, "jobs.py")


@pytest.mark.parametrize(
    ("function", "args", "kwargs"),
    [
        (tasks.add, (1,), {}),
        (tasks.add, (1,), {"second": 2}),
        (tasks.Report.text, (3,), {}),
        (tasks.Report().text, (), {"pages": 3}),
        (tasks.Report.name, ("s",), {}),
        (tasks.Report().name, ("s",), {}),
        (tasks.Report.size, (3,), {}),
        (dict, (1, 2, 3), {}),  # which has no signature
    ],
)
def test_arguments_that_fit_pass(function, args, kwargs):
    check_call(function, args, kwargs)


@pytest.mark.parametrize(
    ("function", "args", "kwargs", "problem"),
    [
        (tasks.add, (), {}, r"add\(first: 'int', second: 'int' = 2\) .*missing a required argument: 'first'"),
        (tasks.add, (1, 2, 3), {}, "too many positional arguments"),
        (tasks.add, (1,), {"third": 3}, "unexpected keyword argument 'third'"),
        (tasks.Report.text, (), {}, "missing a required argument: 'pages'"),
        (tasks.Report.text, ("self", 3), {}, "too many positional arguments"),
        (tasks.Report().text, (1, 2), {}, "too many positional arguments"),
        (tasks.Report.name, (), {}, "missing a required argument: 'suffix'"),
        (tasks.Report.size, (), {}, "missing a required argument: 'pages'"),
    ],
)
def test_arguments_that_do_not_fit_are_refused_as_a_call_would(function, args, kwargs, problem):
    with pytest.raises(TypeError, match=problem):
        check_call(function, args, kwargs)


@pytest.mark.parametrize(
    ("name", "args", "error", "problem"),
    [
        (
            "ad",
            (1,),
            Refused,
            r"module tests.functions.tasks has no 'ad' here: did you mean add\?.*check=False",
        ),
        (
            "Report.texts",
            (3,),
            Refused,
            r"tests.functions.tasks:Report has no 'texts' here: did you mean text\?",
        ),
        ("frobnicate", (), Refused, "has no 'frobnicate' here: does the worker have another version"),
        ("add", (), TypeError, "missing a required argument: 'first'"),
        ("Report.text", ("self", 3), TypeError, "too many positional arguments"),
        ("Report.name", (), TypeError, "missing a required argument: 'suffix'"),
    ],
)
def test_a_call_that_cannot_succeed_is_refused_if_the_module_is_imported(name, args, error, problem):
    with pytest.raises(error, match=problem):
        class_spec(f"tests.functions.tasks:{name}", args, {}, {}, Caller())

    assert class_spec(f"tests.functions.tasks:{name}", args, {}, {"check": False}, Caller())


@pytest.mark.parametrize(
    "target", ["tests.functions.none:add", "php::Add", "tests.functions.tasks:add", "no target"]
)
def test_a_call_that_may_succeed_passes(target):
    check_target(target, (1,), {})


def printed(folder, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, *arguments], cwd=folder, capture_output=True, text=True, check=True
    )
    return done.stdout
