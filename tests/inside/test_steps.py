"""Steps of a job: what is done is not done again, and code that has changed is noticed."""

from __future__ import annotations

import ast
import asyncio
import contextvars
import math
import os
import threading
from pathlib import Path
from typing import Any

import msgspec
import pytest

from bgd.inside import bgd_job
from bgd.inside.bgd_job import _steps, _wire
from bgd.wire import requests


class Attempts:
    """Attempts of one job, which record their steps in memory."""

    def __init__(self) -> None:
        self.steps: dict[int, tuple[str, bool, bytes]] = {}
        self.saves = 0
        self.job = 7

    def _save(self, step, interrupted):
        assert step["seconds"] >= 0
        assert interrupted is None or not interrupted.is_set()
        self.steps[step["position"]] = step["name"], step["done"], step["value"]
        self.saves += 1

    def run(self, work, *args, **kwargs):
        """Run another attempt."""
        log = _steps.StepLog(self.job, lambda: ("store", dict(self.steps)), self._save)

        def attempt():
            _steps.log.set(log)
            return work(*args, **kwargs)

        return contextvars.copy_context().run(attempt)


@pytest.fixture
def attempts():
    return Attempts()


class Calls:
    """Counts its calls; the first `failures` of them raise."""

    def __init__(self, failures=0):
        self.failures = failures
        self.count = 0

    def __call__(self, *args, **kwargs):
        self.count += 1
        if self.count <= self.failures:
            raise ValueError("not yet")
        return [*args, kwargs]


def test_a_step_that_is_done_returns_its_result_without_a_call(attempts):
    call = Calls()

    found = [attempts.run(bgd_job.step, "a", call, 1, x=2) for _ in range(3)]

    assert found == [[1, {"x": 2}]] * 3
    assert (call.count, attempts.saves) == (1, 1)


def test_a_step_that_failed_is_called_again(attempts):
    call = Calls(failures=1)
    with pytest.raises(ValueError, match="not yet"):
        attempts.run(bgd_job.step, "a", call)

    assert attempts.run(bgd_job.step, "a", call) == [{}]
    assert call.count == 2


def test_every_attempt_gets_what_json_makes_of_a_result(attempts):
    found = [attempts.run(bgd_job.step, "a", lambda: {"x": (1, "é"), 2: None}) for _ in range(2)]

    assert found == [{"x": [1, "é"], "2": None}] * 2


def test_a_step_without_a_result_is_not_called_again(attempts):
    calls: list[int] = []

    assert [attempts.run(bgd_job.step, "a", calls.append, 1) for _ in range(2)] == [None, None]
    assert calls == [1]


def test_a_block_finds_its_cursor_and_its_result_and_its_body_always_runs(attempts):
    handled: list[int] = []

    def work(upto):
        with bgd_job.step("rows") as step:
            for row in range(step.cursor or 0, 5):
                if row == upto:
                    raise ValueError("power cut")
                handled.append(row)
                step.set(row + 1)
            step.result = (step.result or 0) + len(handled)
        return step.cursor, step.result

    with pytest.raises(ValueError, match="power cut"):
        attempts.run(work, 3)
    assert attempts.steps == {1: ("rows", False, b'{"cursor":3}')}

    assert attempts.run(work, None) == (5, 5)
    saves = attempts.saves
    handled.clear()

    assert attempts.run(work, None) == (5, 5)
    assert handled == []
    assert attempts.saves == saves, "nothing new to record"


def test_a_changed_order_is_an_error_that_says_which_and_no_retry_helps(attempts):
    def work(*names):
        return [bgd_job.step(name, str, name) for name in names]

    attempts.run(work, "fetch", "charge")

    with pytest.raises(bgd_job.StepMismatch) as raised:
        attempts.run(work, "fetch", "ship")
    assert str(raised.value).startswith("step 2 was 'charge' in an earlier attempt, and is 'ship' now")
    assert isinstance(raised.value, bgd_job.Fail)
    assert attempts.run(work, "fetch", "charge", "ship") == ["fetch", "charge", "ship"]


def test_code_that_catches_a_mismatch_meets_it_again(attempts):
    attempts.run(bgd_job.step, "a", str)

    def work():
        for _ in range(2):
            with pytest.raises(bgd_job.StepMismatch):
                bgd_job.step("b", str)
        return bgd_job.step("a", Calls())

    assert attempts.run(work) == ""


def test_a_key_is_that_of_a_job_a_name_and_an_occurrence(attempts):
    def keys():
        found = []
        for name in ("a", "b", "a"):
            with bgd_job.step(name) as step:
                found.append(step.key)
        return found

    first, second = attempts.run(keys), attempts.run(keys)
    attempts.steps.clear()
    attempts.job = 8

    assert first == second
    assert len({*first, *attempts.run(keys)}) == 6
    assert {len(key) for key in first} == {32}


def test_coroutines_are_awaited_and_may_run_at_once(attempts):
    calls: list[str] = []

    async def fetch(name):
        calls.append(f"begin {name}")
        await asyncio.sleep(0)
        calls.append(f"end {name}")
        return name

    async def work():
        return await asyncio.gather(*(bgd_job.step(name, fetch, name) for name in "ab"))

    found = [attempts.run(asyncio.run, work()) for _ in range(2)]

    assert found == [["a", "b"]] * 2
    assert calls == ["begin a", "begin b", "end a", "end b"]
    assert {position: step[0] for position, step in attempts.steps.items()} == {1: "a", 2: "b"}


def test_steps_inside_of_a_step_are_a_part_of_it(attempts):
    call = Calls()

    async def inner():
        return bgd_job.step("deeper", call, 2)

    def outer():
        with bgd_job.step("block") as step:
            step.set(1)
        return bgd_job.step("inner", call, 1)

    def work():
        return bgd_job.step("outer", outer), asyncio.run(later()), bgd_job.step("last", call, 3)

    async def later():
        return await bgd_job.step("later", inner)

    found = [attempts.run(work) for _ in range(2)]

    assert found == [([1, {}], [2, {}], [3, {}])] * 2
    assert call.count == 3
    assert [step[0] for step in attempts.steps.values()] == ["outer", "later", "last"]


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (object(), "the value of step 'a' is not JSON: Object of type object"),
        (math.nan, "not JSON"),
        ("\ud800", "not JSON"),
        ("x" * 100_000, "bytes of JSON, the limit is 100000"),
    ],
)
def test_a_value_that_cannot_be_recorded_fails_the_job_because_a_retry_would_call_again(
    attempts, value, words
):
    with pytest.raises(bgd_job.Fail, match=words):
        attempts.run(bgd_job.step, "a", lambda: value)
    assert attempts.steps == {}


@pytest.mark.parametrize(
    ("name", "kind"), [("", ValueError), ("x" * 201, ValueError), (7, TypeError), (None, TypeError)]
)
def test_a_name_is_text_of_limited_length(name, kind):
    with pytest.raises(kind, match="the name of a step"):
        bgd_job.step(name, str)


def test_a_job_has_a_limited_number_of_steps(attempts, monkeypatch):
    monkeypatch.setattr(_steps, "MAX_STEPS", 2)

    with pytest.raises(bgd_job.Fail, match=r"step 3 \('a'\) is one too many: a job has at most 2 steps"):
        attempts.run(lambda: [bgd_job.step("a", str) for _ in range(3)])


def test_outside_of_a_job_a_step_only_calls(monkeypatch):
    monkeypatch.delenv("BGD_JOB_ID", raising=False)
    call = Calls()

    assert [bgd_job.step("a", call, 1) for _ in range(2)] == [[1, {}]] * 2
    with bgd_job.step("rows") as step:
        assert (step.cursor, step.result) == (None, None)
        step.set([1])
    assert call.count == 2


def test_on_a_node_of_a_cluster_the_first_step_says_that_it_cannot_reach_bgd(monkeypatch):
    variables = {"BGD_JOB_ID": "7", "BGD_ATTEMPT": "1", "BGD_QUEUE": "q", "BGD_SLOT": "0"}
    for name, value in {**variables, "BGD_SOCKET": "/none", "BGD_ON_NODE_OF": "big"}.items():
        monkeypatch.setenv(name, value)
    call = Calls()

    with pytest.raises(bgd_job.Fail, match="cannot reach bgd from a node of executor big"):
        bgd_job.step("a", call)
    assert call.count == 0


def test_threads_of_a_job_share_one_log(monkeypatch):
    made = []
    monkeypatch.setattr(_steps, "_latest", None)
    variables = {"BGD_JOB_ID": "7", "BGD_ATTEMPT": "1", "BGD_QUEUE": "q", "BGD_SLOT": "0", "BGD_SOCKET": "/s"}
    for name, value in variables.items():
        monkeypatch.setenv(name, value)

    threads = [threading.Thread(target=lambda: made.append(_steps._log_of_job())) for _ in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    _steps.end()

    assert len({id(log) for log in made}) == 1
    assert _steps._log_of_job() is not made[0], "the next job of a reused worker has its own"


@pytest.mark.parametrize(
    "value",
    [
        *(None, True, False, 0, 127, 128, 255, 256, 65_535, 65_536, 2**32, 2**64 - 1),
        *(-1, -32, -33, -128, -129, -32_769, -(2**31) - 1, -(2**63), 0.1),
        *("", "é", "x" * 31, "x" * 32, "x" * 256, "x" * 65_536, b"", bytes(255), bytes(256), bytes(65_536)),
        *([], [1] * 15, [1] * 16, [[None]] * 65_536, {}, {"a": {"b": [1, "c"]}}),
        {str(number): number for number in range(16)},
        {str(number): number for number in range(65_536)},
    ],
    ids=lambda value: f"{type(value).__name__} {str(value)[:10]}",
)
def test_messages_of_the_daemon_are_decoded(value):
    assert _wire.unpacked(msgspec.msgpack.encode({"value": value})) == {"value": value}


def test_messages_to_the_daemon_are_those_of_the_protocol():
    step: dict[str, Any] = {"job": 7, "attempt": 1, "position": 3, "name": "é", "value": b"{}"}
    step |= {"done": True, "seconds": 0.5}
    payload = _wire.frame(type="save_step", id=1, **step)[4:]

    assert msgspec.msgpack.decode(payload, type=requests.SaveStep) == requests.SaveStep(id=1, **step)


def test_limits_are_those_of_the_socket():
    assert (_steps.MAX_STEPS, _steps.MAX_NAME) == (requests.MAX_STEPS, requests.MAX_STEP_NAME)
    assert _steps.MAX_VALUE == requests.MAX_STEP_VALUE


@pytest.mark.parametrize("module", [bgd_job, _steps, _wire])
def test_it_runs_on_python_3_9(module):
    ast.parse(Path(module.__file__).read_text(), feature_version=(3, 9))


def test_another_process_has_a_log_of_its_own(monkeypatch):
    variables = {"BGD_JOB_ID": "7", "BGD_ATTEMPT": "1", "BGD_QUEUE": "q", "BGD_SLOT": "0", "BGD_SOCKET": "/s"}
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    own = _steps._log_of_job()
    child = os.fork()
    if not child:
        os._exit(_steps._log_of_job() is own)

    assert os.waitpid(child, 0)[1] == 0
    _steps.end()
