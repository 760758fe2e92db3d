from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bgd.core.target import Target, is_allowed, parse_target, problem_with_entry, target_of_class


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("tasks:clean", Target("tasks", "clean")),
        ("app.services:Report.build", Target("app.services", "Report", "build")),
        ("app._private.deep:ünïcode", Target("app._private.deep", "ünïcode")),
    ],
)
def test_a_target_is_read_and_written_the_same_way(text, target):
    assert parse_target(text) == target
    assert str(target) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":",
        "tasks",
        "tasks:",
        ":clean",
        "tasks:clean:all",
        "app.services.Report.build",
        "app.services:Report.Inner.build",
        "app..services:build",
        ".services:build",
        "app/services:build",
        "tasks:_private",
        "tasks:Report.__init__",
        "tasks:Report._build",
        "tasks:class",
        "import:clean",
        "tasks:clean()",
        "tasks:clean\n",
        "tasks :clean",
        "tasks:clean\0",
    ],
)
def test_anything_else_is_no_target(text):
    with pytest.raises(ValueError, match=r"must be package\.module:Class\.method"):
        parse_target(text)


@given(st.text())
def test_any_text_is_a_target_or_refused(text):
    try:
        target = parse_target(text)
    except ValueError:
        return
    assert str(target) == text


def test_a_class_and_a_method_make_a_target():
    assert target_of_class("app.services.Report", "build") == "app.services:Report.build"


def test_a_class_without_a_module_makes_no_target():
    with pytest.raises(ValueError, match="must be"):
        parse_target(target_of_class("Report", "build"))


@pytest.mark.parametrize(
    ("entry", "allows"),
    [
        ("app.services.Report", True),
        ("app.services.*", True),
        ("app.services.Rep", False),
        ("app.services.Reports", False),
        ("app.*", False),
        ("app.services", False),
        ("*", False),
        ("", False),
        ("app.services.Report.build", False),
    ],
)
def test_an_entry_allows_its_class_or_all_of_its_own_module(entry, allows):
    assert is_allowed(Target("app.services", "Report", "build"), [entry]) is allows


def test_a_function_is_allowed_by_its_name():
    assert is_allowed(Target("tasks", "clean"), ["other.*", "tasks.clean"])


def test_nothing_listed_allows_nothing():
    assert not is_allowed(Target("tasks", "clean"), [])


@pytest.mark.parametrize("entry", ["app.services.Report", "app.services.*", "tasks.clean"])
def test_a_sound_entry_has_no_problem(entry):
    assert problem_with_entry(entry) is None


@pytest.mark.parametrize(
    "entry", ["", "*", "clean", ".clean", "app.*.Report", "app._Report", "app.services:R"]
)
def test_an_unsound_entry_is_told_what_it_must_be(entry):
    problem = problem_with_entry(entry)

    assert problem is not None
    assert problem.startswith(repr(entry))


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("app.services.Report.send", "app.services:Report.send"),
        ("app.services.count", "app.services:count"),
        ("Report.send", None),
        ("app", None),
        ("app.Outer.Inner.method", None),
        ("app..services", None),
    ],
)
def test_target_with_a_dot_for_the_colon_is_refused_with_what_was_meant(said, meant):
    with pytest.raises(ValueError, match="must be package") as refusal:
        parse_target(said)

    assert str(refusal.value).partition("; did you mean ")[2] == (f"{meant}?" if meant else "")
