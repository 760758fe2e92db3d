"""What a caller writes, and what is sent for it."""

from __future__ import annotations

import math
import os
import re
import time
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import msgspec
import pytest

from bgd import AsyncJob, Client, Job, JobSpec
from bgd.client.options import JobOptions
from bgd.client.session import batch_frames
from bgd.client.specs import (
    Caller,
    ResultReference,
    changes_of,
    class_spec,
    command_spec,
    spec_of,
    specs_of,
    undecodable_names,
    with_references,
)
from bgd.core.spec import Reference
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


def test_a_class_job_gets_the_daemons_folder_and_umask():
    spec = class_spec("app:run", (), {}, {}, Caller())

    assert (spec.cwd, spec.umask, spec.env) == (None, None, None)


def test_a_relative_folder_starts_at_the_callers(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    assert command_spec(["make"], {"cwd": "sub"}, Caller()).cwd == str(tmp_path / "sub")


def test_a_deleted_working_directory_is_refused_only_if_it_is_needed(tmp_path, monkeypatch):
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()

    assert command_spec(["make"], {"cwd": "/tmp"}, Caller()).cwd == "/tmp"
    with pytest.raises(Refused, match="working directory"):
        command_spec(["make"], {}, Caller())


def test_variables_of_the_service_manager_are_not_passed_on(monkeypatch):
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


def test_variables_that_are_not_utf8_are_left_out_with_a_warning(monkeypatch):
    monkeypatch.setenv("CAFE", os.fsdecode(b"caf\xe9"))
    monkeypatch.setenv("KAFFEE", "Käffchen")

    with pytest.warns(UserWarning, match="not passed on, because not UTF-8: CAFE"):
        environment = Caller().environment

    assert "CAFE" not in environment
    assert environment["KAFFEE"] == "Käffchen"
    assert undecodable_names() == ["CAFE"]


def test_a_change_of_the_environment_counts_at_once(monkeypatch):
    monkeypatch.setenv("LEVEL", "1")
    before = Caller().environment
    monkeypatch.setenv("LEVEL", "2")
    after = Caller().environment
    monkeypatch.setattr(os, "environ", {"LEVEL": "3"})

    assert [each["LEVEL"] for each in (before, after, Caller().environment)] == ["1", "2", "3"]


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
def test_the_environment_is_what_env_pass_lets_through_and_env_sets(monkeypatch, options, expected):
    monkeypatch.setenv("A", "1")
    monkeypatch.setenv("B", "2")

    assert command_spec(["env"], options, Caller()).env == expected


def test_a_variable_that_is_set_is_added_to_the_callers(monkeypatch):
    monkeypatch.setenv("A", "1")

    env = command_spec(["env"], {"env": {"B": "2"}}, Caller()).env

    assert env is not None
    assert (env["A"], env["B"]) == ("1", "2")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"priority": 1001}, "priority: 1001 must be a whole number from -1000 to 1000"),
        ({"priority": "high"}, "priority: 'high' must be a whole number from -1000 to 1000"),
        ({"retries": -1}, "retries: -1 must be a whole number from 0 to 1000"),
        ({"timeout": 0}, "timeout: 0 must be a duration above 0s and at most 366d"),
        ({"delay": math.inf}, "delay: inf must be a duration from 0s to 366d"),
        ({"at": -1}, "at: -1 must be a time in epoch seconds from 0 to 253402300799"),
        (
            {"queue": "no queue"},
            "queue: 'no queue' must be a name of at most 64 letters, digits, '.', '_' and '-'",
        ),
        ({"name": ""}, "name: '' must be text of 1 to 200 characters"),
        ({"tags": ["t" * 99] * 21}, "tags: ['tttt"),
        ({"retry_on": [256]}, "retry_on[0]: 256 must be a whole number from 0 to 255"),
        ({"hold": "yes"}, "hold: 'yes' must be true or false"),
        ({"env": {"A": 1}}, "env: must be at most 4096 names, each with a text, not 'A': int"),
        ({"input": b"x" * 500_001}, "input: b'xxxx"),
    ],
    ids=lambda value: None if isinstance(value, str) else next(iter(value)),
)
def test_values_out_of_range_are_refused_in_plain_words(monkeypatch, options, message):
    monkeypatch.setattr(os, "environ", {})

    with pytest.raises(Refused) as raised:
        command_spec(["true"], options, Caller())

    assert str(raised.value).startswith(message)
    assert len(str(raised.value)) < 250


def test_options_are_written_as_on_the_command_line():
    of_limits: JobOptions = {"memory_max": "2GB", "core_max": 0, "cpu_max": "150%", "limit": "mail"}
    of_times: JobOptions = {"retry_on": "1,70-71", "at": "tomorrow 9:00", "retry_delay": "1s,2s"}

    spec = command_spec(["true"], {**of_limits, **of_times}, Caller())

    assert (spec.memory_max, spec.core_max, spec.cpu_max) == (2_000_000_000, 0, 150)
    assert (spec.retry_on, spec.limit, spec.retry_delay) == ((1, 70, 71), ("mail", 1), (1.0, 2.0))
    assert spec.at is not None
    assert 0 < spec.at - time.time() < 49 * 3600
    with pytest.raises(Refused, match="memory_max: 'much' is not a size: write 500kB"):
        command_spec(["true"], {"memory_max": "much"}, Caller())


def test_an_unknown_option_is_an_error_that_names_the_nearest():
    with pytest.raises(TypeError, match=r"no option 'priorty': did you mean priority\?"):
        command_spec(["true"], {"priorty": 5}, Caller())  # type: ignore[typeddict-unknown-key]  # the point


@pytest.mark.parametrize(
    "argument", [math.nan, object(), b"bytes", {1, 2}, Path("/tmp")], ids=lambda value: type(value).__name__
)
def test_an_argument_that_is_not_json_is_a_type_error(argument):
    with pytest.raises(TypeError, match="must be JSON values"):
        class_spec("app:run", [argument], {}, {}, Caller())


@pytest.mark.parametrize("given", ["\udc80", ["\udc80"], {"\udc80": 1}])
def test_a_lone_surrogate_is_a_type_error(given):
    with pytest.raises(TypeError, match=r"must be JSON values: .*surrogates not allowed"):
        class_spec("app:run", [given], {}, {}, Caller())


@pytest.mark.parametrize("args", ["abc", {"x": 1}, 5, None])
def test_arguments_must_be_a_list(args):
    with pytest.raises(TypeError, match="args is a list, not "):
        class_spec("app:run", args, {}, {}, Caller())


def test_mistakes_of_a_call_say_where_arguments_go():
    with pytest.raises(
        TypeError, match=r"kwargs is a mapping of names to values, not 2: others go into args"
    ):
        class_spec("os.path:join", [1], 2, {}, Caller())  # type: ignore[arg-type]  # the point
    with pytest.raises(
        TypeError, match=r"no option 'width'.*; arguments of the call go into args and kwargs"
    ):
        class_spec("app:run", [], {}, {"width": 1}, Caller())  # type: ignore[typeddict-unknown-key]  # the point


def test_a_job_among_the_arguments_refers_to_its_result_and_is_waited_for():
    job, other = AsyncJob(None, 7), Job(None, 8)  # type: ignore[arg-type]  # no client is asked

    spec = class_spec("app:run", [1, job], {"a": {"b": [other.ref, None]}}, {"after": [9, 7]}, Caller())

    assert spec.arguments == ('{"args": [1, {"$result": 7}], "kwargs": {"a": {"b": [{"$result": 8}, null]}}}')
    assert spec.references == (Reference(7, ("args", 1)), Reference(8, ("kwargs", "a", "b", 0)))
    assert spec.after == (9, 7, 8)


def test_a_mapping_that_looks_like_a_reference_is_data():
    spec = class_spec("app:run", [{"$result": 7}], {}, {}, Caller())

    assert (spec.arguments, spec.references, spec.after) == (
        '{"args": [{"$result": 7}], "kwargs": {}}',
        (),
        (),
    )


def test_json_of_people_can_refer_to_results():
    value = {"a": [1, {"$result": 7}], "b": {"$result": 8, "more": 1}}

    assert with_references(value) == {"a": [1, ResultReference(7)], "b": {"$result": 8, "more": 1}}
    assert with_references(value, among=[6]) == value
    for wrong in ("7", None, True, 7.0):
        with pytest.raises(Refused, match=r'^{"\$result": ID} takes the id of a job, not '):
            with_references([{"$result": wrong}])


def test_arguments_over_the_limit_are_refused():
    with pytest.raises(Refused, match="args and kwargs have 1000028 bytes of JSON, the limit is 1000000"):
        class_spec("app:run", ["x" * 1_000_000], {}, {}, Caller())


def test_a_function_as_target_is_a_type_error():
    with pytest.raises(TypeError, match=r"a target is a string such as 'builtins:len', not <"):
        class_spec(len, (), {}, {}, Caller())  # type: ignore[arg-type]  # the point
    with pytest.raises(TypeError, match=r"a target is a string such as 'package.module:function', not 5"):
        class_spec(5, (), {}, {}, Caller())  # type: ignore[arg-type]  # the point


def test_an_unknown_isolation_is_refused_with_the_known_ones():
    with pytest.raises(Refused, match="isolation: 'thread' must be one of fork, spawn, reuse"):
        class_spec("app:run", (), {}, {"isolation": "thread"}, Caller())  # type: ignore[typeddict-item]


@pytest.mark.parametrize(
    ("after", "message"),
    [
        (5, "after is a list of jobs such as [5, job], not 5"),
        ("5", "after is a list of jobs such as [5, job], not '5'"),
        (["5"], "after is a list of jobs, and '5' is neither a job nor an id"),
    ],
)
def test_jobs_to_wait_for_are_a_list_of_jobs(after, message):
    with pytest.raises(TypeError, match=re.escape(message)):
        command_spec(["true"], {"after": after}, Caller())


@pytest.mark.parametrize("key", [1, 1.5, None, True])
def test_a_key_that_json_would_turn_into_a_string_is_a_type_error(key):
    with pytest.raises(TypeError, match=rf"JSON values: keys are strings, not {key!r}"):
        class_spec("app:run", [], {"x": [({key: 1},)]}, {}, Caller())


def test_arguments_are_sent_as_the_text_of_json():
    spec = class_spec("app:run", (1, 2**70), {"x": None}, {}, Caller())

    assert spec.arguments == '{"args": [1, 1180591620717411303424], "kwargs": {"x": null}}'


def test_options_are_sent_as_plain_values(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    noon = datetime(2030, 6, 1, 12, tzinfo=timezone(timedelta(hours=2)))

    spec = command_spec(
        ["cat"],
        {"at": noon, "after": [3, Job(Client("/nowhere"), 4)], "stdin": "in", "retry_on": range(2)},
        Caller(),
    )

    assert (spec.at, spec.after) == (noon.timestamp(), (3, 4))
    assert (spec.stdin, spec.retry_on) == (str(tmp_path / "in"), (0, 1))


def test_a_date_without_a_time_zone_is_local(monkeypatch):
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    try:
        spec = command_spec(["true"], {"at": datetime(2030, 6, 1, 9)}, Caller())  # noqa: DTZ001 - the point
    finally:
        monkeypatch.undo()
        time.tzset()

    assert spec.at == datetime(2030, 6, 1, tzinfo=UTC).timestamp()


def test_input_text_is_sent_as_bytes():
    assert command_spec(["cat"], {"input": "é"}, Caller()).input == "é".encode()
    assert command_spec(["cat"], {"input": b"\0"}, Caller()).input == b"\0"


def test_a_line_of_shell_is_one_string():
    assert command_spec("cd /; ls", {"shell": True}, Caller()).argv == ("/bin/sh", "-c", "cd /; ls")
    with pytest.raises(TypeError, match="with shell=True, argv is one string"):
        command_spec(["ls"], {"shell": True}, Caller())
    with pytest.raises(Refused, match="shell is for commands"):
        class_spec("app:run", (), {}, {"shell": True}, Caller())


def test_changes_are_the_named_options_and_none_is_a_value():
    changes = changes_of({"timeout": None, "argv": ["make", Path("all")], "after": [3]}, Caller())

    assert msgspec.to_builtins(changes) == {"timeout": None, "argv": ("make", "all"), "after": (3,)}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, "nothing to change"),
        ({"priority": None}, "priority: None must be a whole number from -1000 to 1000"),
        ({"slots": 0}, "slots: 0 must be a whole number from 1 to 10000"),
    ],
    ids=["none", "priority", "slots"],
)
def test_impossible_changes_are_refused(changes, message):
    with pytest.raises(Refused, match=message):
        changes_of(changes, Caller())


def test_an_unknown_change_is_an_error_that_names_the_nearest():
    with pytest.raises(TypeError, match=r"no option 'slot': did you mean slots\?"):
        changes_of({"slot": 1}, Caller())  # type: ignore[typeddict-unknown-key]  # the point


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ("make -j2", "not 'make -j2'; for a shell command, set shell=True"),
        (5, "not 5"),
        (["make", 5], "and 5 is not a string: convert it with str()"),
    ],
)
def test_argv_must_be_a_list_of_words(argv, message):
    with pytest.raises(TypeError, match=f"argv is a list of words, {message}"):
        command_spec(argv, {}, Caller())


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
def test_a_mapping_that_is_not_a_job_is_refused(item, message):
    with pytest.raises(Refused, match=message):
        spec_of(item, Caller())


@pytest.mark.parametrize("wrong", [5, {"argv": ["true"], "retrys": 1}, {"target": "app:run", "args": 5}])
def test_a_wrong_job_of_a_batch_is_named_by_its_number(wrong):
    with pytest.raises((TypeError, Refused), match=r"^job 1 of the batch: "):
        specs_of([["true"], wrong], Caller())


def test_parts_of_a_batch_fit_a_frame_and_have_the_environment_if_needed():
    specs = [JobSpec(argv=("echo", "x" * 100_000)) for _ in range(20)] + [JobSpec(target="app:run")] * 5

    parts = parts_of(batch_frames(3, specs=specs, env={"A": "1"}))

    assert [spec for part in parts for spec in part.specs] == specs
    assert [part.more for part in parts] == [True] * (len(parts) - 1) + [False]
    assert {part.id for part in parts} == {3}
    assert all((part.env is not None) == any(spec.argv for spec in part.specs) for part in parts)


def test_a_job_over_the_frame_limit_is_refused_by_its_number():
    specs = [JobSpec(argv=("true",)), JobSpec(argv=("echo", *["x" * 100_000] * 11))]

    with pytest.raises(Refused, match=f"job 1 of the batch takes .* at most {MAX_FRAME}"):
        batch_frames(1, specs=specs, env={})


def test_more_jobs_than_a_daemon_takes_at_once_are_not_sent():
    with pytest.raises(Full, match=f"at most {MAX_BATCH}"):
        batch_frames(1, specs=[JobSpec(argv=("true",))] * (MAX_BATCH + 1), env={})


def parts_of(data: bytes) -> list[SubmitMany]:
    parts = [decode_request(payload) for payload in FrameReader().feed(data)]
    assert all(isinstance(part, SubmitMany) for part in parts)
    return [part for part in parts if isinstance(part, SubmitMany)]


def test_an_error_names_the_wrong_variable_and_shows_no_other(monkeypatch):
    monkeypatch.setenv("API_TOKEN", "very secret")
    with pytest.raises(Refused) as refused:
        command_spec(["true"], {"env": {"A": 1}}, Caller())  # type: ignore[dict-item]  # that is the mistake

    assert "not 'A': int" in str(refused.value)
    assert "secret" not in str(refused.value)


def test_a_word_that_is_too_long_is_named():
    with pytest.raises(Refused, match=r"argv\[1\]: 'x+…' must be text of 0 to 131071 characters"):
        command_spec(["echo", "x" * 200_000, "y"], {}, Caller())
