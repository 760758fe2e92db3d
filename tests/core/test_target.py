from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from bgd.core.spec import JobSpec
from bgd.core.target import (
    PythonTarget,
    RunnerTarget,
    is_allowed,
    key_from,
    parse_target,
    problem_with_entry,
    target_of_class,
    with_key,
)


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("tasks:clean", PythonTarget("tasks", "clean")),
        ("app.services:Report.build", PythonTarget("app.services", "Report", "build")),
        ("app._private.deep:ünïcode", PythonTarget("app._private.deep", "ünïcode")),
        ("node::send", RunnerTarget("node", "send")),
        ("node::mail/letters.send", RunnerTarget("node", "mail/letters.send")),
        ("php-8::App\\Jobs\\SendMail", RunnerTarget("php-8", "App\\Jobs\\SendMail")),
        ("php::App\\Jobs\\SendMail@handle", RunnerTarget("php", "App\\Jobs\\SendMail", "handle")),
        ("perl::My::_deep::Job", RunnerTarget("perl", "My::_deep::Job")),
        ("rake::db:migrate!", RunnerTarget("rake", "db:migrate!")),
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
        "tasks:Report.build.__globals__",
        "tasks:Report.",
        "tasks.:clean",
        "tasks:\N{FULLWIDTH LOW LINE}private",
        "tasks:\N{PRESENTATION FORM FOR VERTICAL LOW LINE}private",
        "app.tasks::clean",
        "Php::Job",
        "::clean",
        " php::Job",
        "p" * 33 + "::Job",
    ],
)
def test_anything_else_is_not_a_target(text):
    with pytest.raises(ValueError, match=r"must be package\.module:Class\.method"):
        parse_target(text)


@pytest.mark.parametrize(
    "words",
    [
        "",
        "@handle",
        "Job@",
        "Job@handle@more",
        "Job@_handle",
        "Job@__destruct",
        "Job@a.b",
        "_Job",
        "App\\_Job",
        "\\App\\Job",
        "App\\\\Job",
        "App\\Job\\",
        "jobs/../job",
        "jobs/./job",
        "/job",
        "a:::b",
        "App\\*",
        "Job()",
        "a b",
        "--version",
        "Job;ls",
        "'Job'",
        "Job\0",
        "Job\n",
        "Job\N{RIGHT-TO-LEFT OVERRIDE}",
        "Job\N{ZERO WIDTH SPACE}",
        "\ud800",
    ],
)
def test_a_runner_is_told_only_the_names(words):
    with pytest.raises(ValueError, match=r"must be php::name or php::name@method"):
        parse_target(f"php::{words}")


@given(st.text() | st.text("php:@\\./_*A").map("php::".__add__))
def test_any_text_is_a_target_or_refused(text):
    try:
        target = parse_target(text)
    except ValueError:
        return
    assert str(target) == text


def test_a_class_and_a_method_make_a_target():
    assert target_of_class("app.services.Report", "build") == "app.services:Report.build"


def test_a_class_may_be_written_as_it_is_in_a_target():
    assert target_of_class("app.services:Report", "build") == "app.services:Report.build"


def test_a_class_of_another_language_and_a_method_make_a_target():
    assert target_of_class("php::App\\Jobs\\SendMail", "handle") == "php::App\\Jobs\\SendMail@handle"


def test_a_class_without_a_module_is_not_a_target():
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
        ("app.services.Report.build", True),
        ("app.services.Report.builds", False),
        ("app.services.Report.*", False),
        ("App.Services.Report", False),
        ("app.services.report", False),
        (".app.services.Report", False),
        ("app.services.Report.", False),
        (" app.services.Report", False),
        ("app.services:Report", False),
        ("app.services.\N{LATIN CAPITAL LETTER R WITH CARON}eport", False),
    ],
)
def test_an_entry_allows_its_class_or_all_of_its_own_module(entry, allows):
    assert is_allowed(PythonTarget("app.services", "Report", "build"), [entry]) is allows


@pytest.mark.parametrize(
    ("target", "entry", "allows"),
    [
        ("php::App\\Jobs\\SendMail", "php::App\\Jobs\\SendMail", True),
        ("php::App\\Jobs\\SendMail", "php::App\\Jobs\\*", True),
        ("php::App\\Jobs\\SendMail@handle", "php::App\\Jobs\\SendMail", True),
        ("php::App\\Jobs\\SendMail@handle", "php::App\\Jobs\\SendMail@handle", True),
        ("php::App\\Jobs\\SendMail@handle", "php::App\\Jobs\\*", True),
        ("php::App\\Jobs\\SendMail@undo", "php::App\\Jobs\\SendMail@handle", False),
        ("php::App\\Jobs\\SendMail", "php::App\\Jobs\\SendMail@handle", False),
        ("php::App\\Jobs\\Mail\\Send", "php::App\\Jobs\\*", False),
        ("php::App\\Jobs\\SendMail", "php::App\\*", False),
        ("php::App\\Jobs\\SendMail", "php::*", False),
        ("php::app\\jobs\\sendmail", "php::App\\Jobs\\SendMail", False),
        ("php::App\\Jobs\\SendMail", "node::App\\Jobs\\*", False),
        ("php::App.Jobs\\SendMail", "php::App\\Jobs\\*", False),
        ("node::send", "node::*", True),
        ("node::mailer.send", "node::mailer.*", True),
        ("node::mailer/send", "node::mailer.*", False),
        ("perl::My::Job", "perl::My::*", True),
        ("perl::My::Job", "perl::My:*", False),
        ("rake::db:migrate", "rake::db:*", True),
        ("app:Job", "app::Job", False),
        ("app::Job", "app.Job", False),
        ("app::Job", "app.*", False),
    ],
)
def test_an_entry_for_a_runner_allows_a_name_or_a_whole_namespace(target, entry, allows):
    assert is_allowed(parse_target(target), [entry]) is allows


def test_a_function_is_allowed_by_its_name():
    assert is_allowed(PythonTarget("tasks", "clean"), ["other.*", "tasks.clean"])


def test_an_empty_list_allows_nothing():
    assert not is_allowed(PythonTarget("tasks", "clean"), [])


@pytest.mark.parametrize(
    "entry",
    [
        "app.services.Report",
        "app.services.*",
        "tasks.clean",
        "node::*",
        "node::mailer.send",
        "php::App\\Jobs\\*",
        "php::App\\Jobs\\SendMail@handle",
        "perl::My::*",
    ],
)
def test_a_valid_entry_has_no_problem(entry):
    assert problem_with_entry(entry) is None


@pytest.mark.parametrize(
    "entry",
    [
        "",
        "*",
        "clean",
        ".clean",
        "app.*.Report",
        "app._Report",
        "app.services:R",
        "app.services.*.*",
        "app.",
        "php::",
        "php::App*",
        "php::App\\*\\Job",
        "php::Job@*",
        "Php::Job",
        "php::\\App\\Job",
        "*::Job",
        "app.services.*\n",
        "tasks .clean",
    ],
)
def test_an_invalid_entry_is_refused_with_the_valid_forms(entry):
    problem = problem_with_entry(entry)

    assert problem is not None
    assert problem.startswith(repr(entry))


@pytest.mark.parametrize("entry", ["app.services:Report", "app.services:Report.build"])
def test_an_entry_that_looks_like_a_target_is_refused_with_the_right_form(entry):
    assert (problem_with_entry(entry) or "").endswith(f"; did you mean {entry.replace(':', '.')}?")


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
def test_a_target_with_a_dot_instead_of_the_colon_is_refused_with_the_right_form(said, meant):
    with pytest.raises(ValueError, match="must be package") as refusal:
        parse_target(said)

    assert str(refusal.value).partition("; did you mean ")[2] == (f"{meant}?" if meant else "")


# --- keys from arguments ----------------------------------------------------------------------------------

ARGUMENTS = '{"args": [9, "a b", [1,2]], "kwargs": {"order": 12345678901234567890123, "shop": "s{0}"}}'


@pytest.mark.parametrize(
    ("template", "key"),
    [
        ("backup", "backup"),
        ("customer:{0}", "customer:9"),
        ("{1}/{order}", "a b/12345678901234567890123"),
        ("{2}", "[1,2]"),
        ("{shop}", "s{0}"),
        ("{{0}}/{{{0}}}", "{0}/{9}"),
    ],
)
def test_a_key_has_arguments_in_it(template, key):
    assert key_from(template, ARGUMENTS) == key


@pytest.mark.parametrize(
    ("template", "arguments", "problem"),
    [
        ("{3}", ARGUMENTS, "'{3}': the job has no argument 3 by position"),
        ("{name}", ARGUMENTS, "'{name}': the job has no argument name by name"),
        ("{0}", None, "no argument 0 by position"),
        ("{0.id}", ARGUMENTS, "'{0.id}': write {0} or {name} for an argument, and {{ or }} for a brace"),
        ("{{0}", ARGUMENTS, "write {0} or {name}"),
        ("a}", ARGUMENTS, "write {0} or {name}"),
        ("{0}", '{"args": 1}', "the arguments of the job cannot be read"),
        ("{0}", '{"args": ["' + 201 * "x" + '"]}', "a key is printable text of 1 to 200 characters"),
        ("{0}", '{"args": ["a\\nb"]}', "a key is printable text"),
        ("{0}", '{"args": [""]}', "a key is printable text of 1 to 200 characters"),
    ],
)
def test_a_key_without_its_arguments_is_refused(template, arguments, problem):
    with pytest.raises(ValueError, match=re.escape(problem)):
        key_from(template, arguments)


def test_only_a_class_job_has_arguments_in_its_key():
    call = JobSpec(target="a:b", arguments=ARGUMENTS, limit=("customer:{0}", 2))
    assert with_key(call).limit == ("customer:9", 2)
    for spec in (
        JobSpec(target="a:b"),
        JobSpec(argv=("true",), limit=("{0}", 1)),
        replace(call, limit=("{7}", 1)),  # checked before, under another configuration
    ):
        assert with_key(spec) == spec
