"""What a caller writes and what is sent for it."""

from __future__ import annotations

import math
import os
from pathlib import Path

import pytest

from bgd import JobSpec
from bgd.client.caller import Caller, unspeakable_names
from bgd.client.specs import batch_frames, class_spec, command_spec, spec_of
from bgd.errors import Full, Refused
from bgd.wire.framing import MAX_FRAME, FrameReader
from bgd.wire.messages import decode_request
from bgd.wire.requests import MAX_BATCH, SubmitMany


def test_a_command_gets_the_callers_folder_and_umask(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = os.umask(0o027)
    try:
        spec = command_spec(["make"], {}, Caller())
    finally:
        os.umask(before)

    assert (spec.cwd, spec.umask) == (str(tmp_path), 0o027)


def test_a_class_job_gets_the_daemons_own_place():
    spec = class_spec("app:run", (), {}, {}, Caller())

    assert (spec.cwd, spec.umask, spec.env) == (None, None, None)


def test_a_relative_folder_is_the_callers(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    assert command_spec(["make"], {"cwd": "sub"}, Caller()).cwd == str(tmp_path / "sub")


def test_a_folder_that_is_gone_is_refused_only_if_it_is_needed(tmp_path, monkeypatch):
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()

    assert command_spec(["make"], {"cwd": "/tmp"}, Caller()).cwd == "/tmp"
    with pytest.raises(Refused, match="working directory"):
        command_spec(["make"], {}, Caller())


def test_what_the_service_manager_said_to_the_caller_stays_with_it(monkeypatch):
    private = [
        "NOTIFY_SOCKET",
        "LISTEN_FDS",
        "WATCHDOG_USEC",
        "BGD_JOB_ID",
        "INVOCATION_ID",
        "JOURNAL_STREAM",
    ]
    for name in [*private, "MAINPID", "LISTENER"]:
        monkeypatch.setenv(name, "x")

    environment = Caller().environment

    assert not environment.keys() & {*private, "MAINPID"}
    assert environment["LISTENER"] == "x"


def test_variables_that_are_not_utf8_stay_behind_and_can_be_named(monkeypatch):
    monkeypatch.setenv("CAFE", os.fsdecode(b"caf\xe9"))
    monkeypatch.setenv("KAFFEE", "Käffchen")

    assert "CAFE" not in Caller().environment
    assert Caller().environment["KAFFEE"] == "Käffchen"
    assert unspeakable_names() == ["CAFE"]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, None),
        ({"env_pass": "all"}, None),
        ({"env_pass": "none"}, {}),
        ({"env_pass": ["A", "MISSING"]}, {"A": "1"}),
        ({"env_pass": "none", "env": {"C": "3"}}, {"C": "3"}),
        ({"env_pass": ["A"], "env": {"A": "2"}}, {"A": "2"}),
    ],
)
def test_the_environment_is_what_passes_and_what_is_set(monkeypatch, options, expected):
    monkeypatch.setenv("A", "1")
    monkeypatch.setenv("B", "2")

    assert command_spec(["env"], options, Caller()).env == expected


def test_a_variable_that_is_set_comes_on_top_of_the_callers(monkeypatch):
    monkeypatch.setenv("A", "1")

    env = command_spec(["env"], {"env": {"B": "2"}}, Caller()).env

    assert env is not None
    assert (env["A"], env["B"]) == ("1", "2")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"priority": 1001}, "priority: Expected `int` <= 1000"),
        ({"priority": "high"}, "priority: Expected `int`, got `str`"),
        ({"retries": -1}, "retries: Expected `int` >= 0"),
        ({"timeout": 0}, "timeout: Expected"),
        ({"timeout": math.inf}, "timeout: Expected"),
        ({"queue": "not a queue"}, "queue: Expected"),
        ({"name": ""}, "name: Expected"),
        ({"tags": ["t"] * 21}, "tags: Expected"),
    ],
)
def test_values_out_of_range_are_refused_by_name(options, message):
    with pytest.raises(Refused, match=message):
        command_spec(["true"], options, Caller())


def test_an_unknown_option_is_an_error_that_names_the_nearest():
    with pytest.raises(TypeError, match=r"no option 'priorty': did you mean priority\?"):
        command_spec(["true"], {"priorty": 5}, Caller())  # type: ignore[typeddict-unknown-key]  # the point


@pytest.mark.parametrize(
    "argument", [math.nan, object(), b"bytes", {1, 2}, Path("/tmp")], ids=lambda value: type(value).__name__
)
def test_an_argument_that_json_cannot_say_is_a_type_error(argument):
    with pytest.raises(TypeError, match="must be what JSON can say"):
        class_spec("app:run", [argument], {}, {}, Caller())


def test_arguments_are_sent_as_the_text_of_json():
    spec = class_spec("app:run", (1, 2**70), {"x": None}, {}, Caller())

    assert spec.arguments == '{"args": [1, 1180591620717411303424], "kwargs": {"x": null}}'


def test_a_command_line_as_one_text_is_an_error_that_says_what_to_write():
    with pytest.raises(TypeError, match="list of words"):
        command_spec("make -j2", {}, Caller())


@pytest.mark.parametrize(
    "item",
    [
        ["make", "-j2"],
        {"argv": ["make", "-j2"]},
        JobSpec(argv=("make", "-j2")),
    ],
    ids=["argv", "mapping", "spec"],
)
def test_a_batch_takes_jobs_in_three_forms(item):
    caller = Caller()

    assert spec_of(item, caller) == command_spec(["make", "-j2"], {}, caller)


def test_a_mapping_may_be_a_class_job():
    item = {"target": "app:run", "args": [1], "kwargs": {"x": 2}, "priority": 3}

    assert spec_of(item, Caller()) == class_spec("app:run", [1], {"x": 2}, {"priority": 3}, Caller())


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ({"argv": ["true"], "retrys": 1}, "no key 'retrys': did you mean retries?"),
        ({"argv": ["true"], "target": "app:run"}, "either argv .* or target"),
    ],
)
def test_a_mapping_that_makes_no_job_is_refused(item, message):
    with pytest.raises(Refused, match=message):
        spec_of(item, Caller())


def test_parts_of_a_batch_fit_a_frame_and_carry_the_environment_where_it_is_needed():
    specs = [JobSpec(argv=("echo", "x" * 100_000)) for _ in range(20)] + [JobSpec(target="app:run")] * 5

    parts = parts_of(batch_frames(3, specs, {"A": "1"}))

    assert [spec for part in parts for spec in part.specs] == specs
    assert [part.more for part in parts] == [True] * (len(parts) - 1) + [False]
    assert {part.id for part in parts} == {3}
    assert all((part.env is not None) == any(spec.argv for spec in part.specs) for part in parts)


def test_a_job_over_the_frame_limit_is_refused_by_its_place():
    specs = [JobSpec(argv=("true",)), JobSpec(argv=("echo", *["x" * 100_000] * 11))]

    with pytest.raises(Refused, match=f"job 1 of the batch takes .* at most {MAX_FRAME}"):
        batch_frames(1, specs, {})


def test_more_jobs_than_a_daemon_takes_at_once_are_not_sent():
    with pytest.raises(Full, match=f"at most {MAX_BATCH}"):
        batch_frames(1, [JobSpec(argv=("true",))] * (MAX_BATCH + 1), {})


def parts_of(data: bytes) -> list[SubmitMany]:
    parts = [decode_request(payload) for payload in FrameReader().feed(data)]
    assert all(isinstance(part, SubmitMany) for part in parts)
    return [part for part in parts if isinstance(part, SubmitMany)]
