"""What the worker is told, and how its report about a job is read."""

from __future__ import annotations

import json

import pytest

from bgd.core.job import Decision, NextStep, Outcome
from bgd.core.spec import MAX_RESULT, MAX_WORK, PREVIOUS, JobSpec, Reference, StopSignal
from bgd.core.target import PythonTarget, RunnerTarget
from bgd.wire.class_jobs import (
    MAX_DOCUMENT,
    NO_RESULT,
    NULL_RESULT,
    AttemptReport,
    after_previous,
    problem_with_arguments,
    read_result,
    runner_request,
    with_results,
    worker_request,
)
from bgd.wire.views import JobError

METHOD = PythonTarget("app.services", "Report", "build")
FUNCTION = PythonTarget("app.services", "build")

ERROR = b'{"error": {"type": "ValueError", "message": "no", "traceback": "Traceback..."}}'


# --- the request --------------------------------------------------------------------------------------


def test_a_request_names_target_arguments_and_path():
    document = json.loads(worker_request(METHOD, '{"args": [1], "kwargs": {"x": 2}}', ("/srv/app",)))

    assert document == {
        "module": "app.services",
        "name": "Report",
        "method": "build",
        "arguments": {"args": [1], "kwargs": {"x": 2}},
        "path": ["/srv/app"],
        "allowed": None,
        "stop_signal": None,
    }


def test_a_request_names_the_signal_that_ends_the_job():
    document = json.loads(worker_request(FUNCTION, None, (), stop_signal=StopSignal.HUP))

    assert document["stop_signal"] == "HUP"


def test_request_of_a_function_has_no_method_and_may_have_no_arguments():
    document = json.loads(worker_request(FUNCTION, None, (), around="app.jobs:around"))
    assert document["around"] == "app.jobs:around"

    document = json.loads(worker_request(FUNCTION, None, ()))
    assert "around" not in document

    assert (document["name"], document["method"], document["arguments"]) == ("build", None, {})


def test_numbers_of_the_request_keep_their_digits():
    digits = "123456789012345678901234567890.12345678901234567890"

    assert digits.encode() in worker_request(FUNCTION, f'{{"args": [{digits}]}}', ())


def test_a_request_to_a_runner_is_complete_and_keeps_every_digit():
    digits = "123456789012345678901234567890.12345678901234567890"
    target = RunnerTarget("php", "App\\Jobs\\SendMail", "handle")

    raw = runner_request(target, 17, 2, f'{{"kwargs": {{"to": "ada"}}, "args": [{digits}]}}')

    assert raw == (
        rb'{"id":17,"attempt":2,"target":"App\\Jobs\\SendMail@handle","args":[%b],"kwargs":{"to":"ada"}}'
        % digits.encode()
    )


def test_a_request_to_a_runner_has_arguments_even_if_there_are_none():
    document = json.loads(runner_request(RunnerTarget("node", "send"), 1, 1, None))

    assert document == {"id": 1, "attempt": 1, "target": "send", "args": [], "kwargs": {}}


@pytest.mark.parametrize(
    "arguments", ["{}", '{"args": []}', ' {"kwargs": {"x": null}, "args": [[1, {"y": "é"}]]} ']
)
def test_arguments_of_the_right_form_have_no_problem(arguments):
    assert problem_with_arguments(arguments) is None


@pytest.mark.parametrize(
    "arguments",
    [
        "",
        "[]",
        "{",
        '{"args": 3}',
        '{"kwargs": []}',
        '{"arg": []}',
        '{"args": [NaN]}',
        '{"args": ["\ud800"]}',
        '{"args": ["\\ud800"]}',
        '{"args": ' + "[" * 100_000,
    ],
)
def test_arguments_of_another_form_are_refused_in_one_line(arguments):
    problem = problem_with_arguments(arguments)

    assert problem is not None
    assert problem.startswith('the arguments must be JSON, {"args": [...], "kwargs": {...}}: ')
    assert "\n" not in problem


# --- results of other jobs --------------------------------------------------------------------------------


def test_results_replace_their_places_at_any_depth_and_keep_every_digit():
    arguments = (
        '{"kwargs": {"a": {"b": [1.50, { "$result" : 7 }]}, "c": {"$result": 7}}, "args": [{"$result": 8}]}'
    )
    places = (("kwargs", "a", "b", 1), ("kwargs", "c"))
    references = [*(Reference(7, place) for place in places), Reference(8, ("args", 0))]

    found = with_results(arguments, references, {7: "2.50", 8: '"é"'})

    assert found == '{"kwargs":{"a":{"b":[1.50,2.50]},"c":2.50},"args":["é"]}'


@pytest.mark.parametrize(
    ("arguments", "path"),
    [
        (None, ("args", 0)),
        ('{"args": [{"$result": 7}]}', ("args", 1)),
        ('{"args": [{"$result": 7}]}', ("kwargs", "a")),
        ('{"args": [{"$result": 7}]}', ("args", "0")),
        ('{"args": [{"$result": 7}]}', ("args", 0, "$result")),
        ('{"args": [{"$result": 7, "more": 1}]}', ("args", 0)),
        ('{"args": [{"$result": 8}]}', ("args", 0)),
        ('{"args": [[1]]}', ("args", 0)),
        ('{"args": ["ab"]}', ("args", 0, 1)),
    ],
)
def test_a_place_that_does_not_hold_its_reference_is_an_error(arguments, path):
    for results in (None, {7: "1"}):
        with pytest.raises(ValueError, match=r'the arguments have no {"\$result":7} at'):
            with_results(arguments, [Reference(7, path)], results)


def test_two_results_cannot_go_to_one_place():
    twice = [Reference(7, ("args", 0)), Reference(7, ("args", 0))]

    with pytest.raises(ValueError, match="have no"):
        with_results('{"args": [{"$result": 7}]}', twice, {7: "1"})


def test_a_result_that_is_gone_is_an_error():
    with pytest.raises(ValueError, match="the result of job 7, which has not succeeded or was removed"):
        with_results('{"args": [{"$result": 7}]}', [Reference(7, ("args", 0))], {})


def test_a_job_of_a_chain_gets_the_result_of_the_one_before():
    arguments = '{"args":[{"$result":0},{"$result":5}]}'
    references = (Reference(PREVIOUS, ("args", 0)), Reference(5, ("args", 1)))
    spec = JobSpec(target="a:b", arguments=arguments, references=references, after=(5,))

    found = after_previous(spec, 7)

    assert found.arguments == '{"args":[{"$result":7},{"$result":5}]}'
    assert found.references == (Reference(7, ("args", 0)), Reference(5, ("args", 1)))
    assert found.after == (5, 7)
    assert after_previous(JobSpec(argv=("true",)), 7) == JobSpec(argv=("true",), after=(7,))


@pytest.mark.parametrize("result", ["x" * (MAX_WORK - 4), "é" * (MAX_WORK // 2)])
def test_results_cannot_make_the_arguments_longer_than_any_may_be(result):
    with pytest.raises(
        ValueError, match=f"with the results of job 7, the arguments are longer than {MAX_WORK}"
    ):
        with_results('{"args":[{"$result":7}]}', [Reference(7, ("args", 0))], {7: f'"{result}"'})


# --- the result -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", ["null", "false", '"é"', '{"a": [1, 2.50]}', "12345678901234567890.10"])
def test_value_of_a_method_that_returned_is_kept_as_its_json_text(value):
    raw = f'{{"ok": {value}}}'.encode()

    assert read_result(raw, Outcome.SUCCEEDED) == AttemptReport(Outcome.SUCCEEDED, value)


def test_a_runner_that_writes_nothing_and_succeeds_has_a_null_value():
    assert read_result(NULL_RESULT, Outcome.SUCCEEDED) == AttemptReport(Outcome.SUCCEEDED, "null")
    assert read_result(NULL_RESULT, Outcome.EXIT) == AttemptReport(Outcome.EXIT)


@pytest.mark.parametrize("outcome", [Outcome.EXIT, Outcome.SUCCEEDED])
def test_an_exception_is_reported_with_type_message_and_traceback(outcome):
    told = JobError("ValueError", "no", "Traceback...")

    assert read_result(ERROR, outcome) == AttemptReport(Outcome.ERROR, error=told, lineage=("ValueError",))


def test_an_exception_is_reported_with_the_base_classes_of_its_type():
    raw = b'{"error": {"type": "app.Busy", "message": "", "bases": ["app.Error", "Exception"]}}'

    assert read_result(raw, Outcome.EXIT).lineage == ("app.Busy", "app.Error", "Exception")


def test_a_worker_that_refuses_the_resolved_target_is_reported_as_refused():
    assert read_result(b'{"refused": "an alias"}', Outcome.EXIT) == AttemptReport(
        Outcome.REFUSED, error=JobError("refused", "an alias")
    )


@pytest.mark.parametrize(
    ("raw", "report"),
    [
        (
            b'{"wish": {"aim": "retry", "after": 30, "type": "Busy", "message": "no", "traceback": "T"}}',
            AttemptReport(
                Outcome.ERROR,
                error=JobError("Busy", "no", "T"),
                decision=Decision(NextStep.RETRY, after=30.0),
            ),
        ),
        (
            b'{"wish": {"aim": "retry"}}',
            AttemptReport(Outcome.ERROR, error=JobError("retry", ""), decision=Decision(NextStep.RETRY)),
        ),
        (
            b'{"wish": {"aim": "fail", "message": "no use"}}',
            AttemptReport(Outcome.ERROR, error=JobError("fail", "no use"), decision=Decision(NextStep.FAIL)),
        ),
        (
            b'{"wish": {"aim": "snooze", "until": 1e9, "message": "locked"}}',
            AttemptReport(
                Outcome.SNOOZED,
                error=JobError("snoozed", "locked"),
                decision=Decision(NextStep.SNOOZE, until=1e9),
            ),
        ),
        (
            b'{"wish": {"aim": "snooze", "after": 0}}',
            AttemptReport(Outcome.SNOOZED, decision=Decision(NextStep.SNOOZE, after=0.0)),
        ),
    ],
)
@pytest.mark.parametrize("outcome", [Outcome.EXIT, Outcome.SUCCEEDED])
def test_a_decision_is_what_the_job_said(raw, report, outcome):
    assert read_result(raw, outcome) == report


@pytest.mark.parametrize("raw", [None, b""])
def test_a_process_that_exits_0_before_the_method_returns_has_not_succeeded(raw):
    got = read_result(raw, Outcome.SUCCEEDED)

    assert (got.outcome, got.value) == (Outcome.ERROR, None)
    assert got.error == JobError(NO_RESULT, "the process ended before the method returned")


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"garbage", "holds no result"),
        (b'{"ok": 1', "holds no result"),
        (b'{"ok": "\xff"}', "holds no result"),
        (b'{"error": "text"}', "holds no result"),
        (b'{"error": {"type": "E", "message": "", "bases": [' + b'"E",' * 100 + b'"E"]}}', "holds no result"),
        (b'{"ok": ' + b"[" * 100_000, "holds no result"),
        (b"{}", "holds no result"),
        (b'{"wish": {"aim": "succeed"}}', "holds no result"),
        (b'{"wish": {"aim": "retry", "after": -1}}', "holds no result"),
        (b'{"wish": {"aim": "snooze", "after": 1e300}}', "holds no result"),
        (b'{"wish": {"aim": "snooze", "until": NaN}}', "holds no result"),
        (b'{"ok": "' + b"x" * MAX_DOCUMENT + b'"}', "over the limit of 1000100 bytes"),
    ],
)
def test_a_forged_or_broken_result_is_not_a_success(raw, words):
    got = read_result(raw, Outcome.SUCCEEDED)

    assert (got.outcome, got.value) == (Outcome.ERROR, None)
    assert got.error is not None
    assert got.error.type == NO_RESULT
    assert words in got.error.message


@pytest.mark.parametrize("raw", [None, b"garbage", b'{"ok": 1}'])
def test_an_exit_code_that_the_job_chose_is_not_hidden(raw):
    assert read_result(raw, Outcome.EXIT) == AttemptReport(Outcome.EXIT)


BY_BGD = {Outcome.TIMEOUT, Outcome.CANCELLED}


@pytest.mark.parametrize("raw", [None, b'{"ok": 1}', ERROR, b"garbage"])
@pytest.mark.parametrize("outcome", sorted(set(Outcome) - {Outcome.SUCCEEDED, Outcome.EXIT} - BY_BGD))
def test_a_process_that_others_ended_keeps_its_outcome(raw, outcome):
    assert read_result(raw, outcome) == AttemptReport(outcome)


@pytest.mark.parametrize("outcome", sorted(BY_BGD))
def test_of_a_job_that_bgd_ended_the_error_is_kept(outcome):
    error = JobError("ValueError", "no", "Traceback...")

    assert read_result(ERROR, outcome) == AttemptReport(outcome, error=error)
    assert read_result(b'{"wish": {"aim": "fail", "message": "why"}}', outcome).error == JobError(
        "fail", "why"
    )
    for nothing in (None, b'{"ok": 1}', b"garbage"):
        assert read_result(nothing, outcome) == AttemptReport(outcome)


def test_a_result_at_the_limit_is_accepted():
    value = '"' + "x" * (MAX_RESULT - 2) + '"'

    assert read_result(f'{{"ok":{value}}}'.encode(), Outcome.SUCCEEDED) == AttemptReport(
        Outcome.SUCCEEDED, value
    )


def test_arguments_that_python_cannot_read_are_refused_at_once():
    problem = problem_with_arguments('{"args": [' + "9" * 5000 + "]}")

    assert problem is not None
    assert problem.startswith("Python cannot read the arguments")
    assert "\n" not in problem


def test_result_that_python_cannot_read_is_an_error():
    got = read_result(b'{"ok": ' + b"9" * 5000 + b"}", Outcome.SUCCEEDED)

    assert (got.outcome, got.value) == (Outcome.ERROR, None)
    assert got.error is not None
    assert "Python cannot read the result" in got.error.message
