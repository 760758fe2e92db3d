"""A class job that is cancelled or out of time gets an exception, and the grace time to clean up."""

from __future__ import annotations

import re
import signal
from pathlib import Path
from typing import Any

import msgspec
import pytest

from bgd.core.job import Outcome
from bgd.core.spec import StopSignal
from bgd.launcher import spawn
from bgd.launcher.tree import DUMP_SIGNAL, StopReason
from bgd.wire.launching import AttemptEnded, AttemptKey, StopProcesses
from bgd.worker import job, stopping
from tests.launcher.host import is_alive, written
from tests.launcher.warm.calls import Calls

GRACE = 600.0  # seconds; a test that has to wait for its end fails

JOB = """
import asyncio, itertools, os, signal, subprocess, sys, time

import bgd_job

def tell(folder):
    with open(folder + "/told", "a") as file:
        file.write(f"{os.getpid()}\\n")

def note(folder, text):
    with open(folder + "/noted", "a") as file:
        file.write(f"{text}\\n")

def own():
    return os.getpid()

def stay(folder):
    try:
        tell(folder)
        time.sleep(1000)
    finally:
        note(folder, "cleaned up")

def catch(folder):
    try:
        tell(folder)
        time.sleep(1000)
    except Exception:
        note(folder, "an Exception")
    except bgd_job.Stopped as stopped:
        return [type(stopped).__name__, isinstance(stopped, Exception), signal.getsignal(signal.SIGTERM) == 0]

def fail_on_stop(folder):
    try:
        stay(folder)
    except bgd_job.Stopped:
        raise LookupError("what it was looking for")

def handle(folder):
    def end(signum, frame):
        note(folder, "its own handler")
        sys.exit(7)
    signal.signal(signal.SIGTERM, end)
    tell(folder)
    time.sleep(1000)

def survive(folder):
    received = []
    signal.signal(signal.SIGTERM, lambda signum, frame: received.append(signum))
    tell(folder)
    while not received:
        time.sleep(0.01)
    return 5

def fork(folder):
    child = os.fork()
    if not child:
        stay(folder + "/child")
        os._exit(0)
    while not os.path.exists(folder + "/child/told"):
        time.sleep(0.01)
    try:
        stay(folder)
    finally:
        note(folder, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))

async def wait(folder):
    asyncio.get_running_loop().call_soon(tell, folder)  # once it sleeps
    try:
        await asyncio.sleep(1000)
    except asyncio.CancelledError:
        note(folder, "cancelled")
        raise

async def gather(folder):
    await asyncio.gather(wait(folder), asyncio.sleep(1000))

async def block(folder):
    tell(folder)
    time.sleep(1000)

def run_loop(folder):
    asyncio.run(wait(folder))

def never_return(folder):
    tell(folder)
    sum(itertools.repeat(1, 10**15))

def ignore(folder):
    try:
        stay(folder)
    except bgd_job.Stopped:
        go_on_for_ever()

def go_on_for_ever():
    while True:
        time.sleep(1)
"""


@pytest.fixture
def every(every: Calls) -> Calls:
    every.write("job", JOB)
    return every


def started(calls: Calls, target: str, folder: Path, **options: Any) -> AttemptKey:
    """Start a job; return its key once it has told its pid."""
    key = calls.launch(target, str(folder), **{"grace": GRACE, **options})
    written(folder / "told")
    return key


def cancelled(calls: Calls, target: str, folder: Path, grace: float = GRACE, **options: Any) -> AttemptEnded:
    key = started(calls, target, folder, **options)
    calls.supervisor.say(StopProcesses(key, grace, is_cancel=True))
    return calls.supervisor.ended(key)


def document(ended: AttemptEnded) -> dict[str, Any]:
    assert ended.result, ended
    told: dict[str, Any] = msgspec.json.decode(ended.result)
    return told


def test_over_its_time_limit_it_cleans_up_and_tells_where_it_was(every, tmp_path):
    key = started(every, "job:stay", tmp_path, timeout=1.0)

    end = every.supervisor.ended(key)

    assert (end.outcome, end.exit_code) == (Outcome.TIMEOUT, 1)
    assert written(tmp_path / "noted") == "cleaned up\n"
    error = document(end)["error"]
    assert (error["type"], error["message"]) == ("bgd_job.TimedOut", "its time limit is over")
    frames = [line.strip() for line in error["traceback"].splitlines() if line.startswith("  File")]
    assert [frame.rpartition(" ")[2] for frame in frames] == ["stay"]
    assert "    time.sleep(1000)" in error["traceback"]
    assert error["traceback"] in every.output(end)


def test_cancelled_it_may_catch_the_exception_and_its_outcome_stays(every, tmp_path):
    end = cancelled(every, "job:catch", tmp_path)

    assert (end.outcome, end.exit_code) == (Outcome.CANCELLED, 0)
    assert document(end) == {"ok": ["Cancelled", False, False]}


def test_another_exception_of_its_clean_up_is_told(every, tmp_path):
    end = cancelled(every, "job:fail_on_stop", tmp_path)

    error = document(end)["error"]
    assert end.outcome is Outcome.CANCELLED
    assert (error["type"], error["message"]) == ("LookupError", "what it was looking for")
    assert "bgd_job.Cancelled: it was cancelled" in error["traceback"]


def test_it_is_raised_for_another_stop_signal_too(every, tmp_path):
    end = cancelled(every, "job:catch", tmp_path, stop_signal=StopSignal.HUP)

    assert document(end)["ok"][0] == "Cancelled"


def test_nothing_is_raised_where_it_will_run_again(every, tmp_path):
    key = started(every, "job:stay", tmp_path)

    every.supervisor.say(StopProcesses(key, GRACE))

    end = every.supervisor.ended(key)
    assert (end.outcome, end.signal, end.result) == (Outcome.CANCELLED, signal.SIGTERM, b"")
    assert not (tmp_path / "noted").exists()


def test_its_own_signal_handler_comes_first(every, tmp_path):
    end = cancelled(every, "job:handle", tmp_path)

    assert (end.outcome, end.exit_code) == (Outcome.CANCELLED, 7)
    assert written(tmp_path / "noted") == "its own handler\n"


def test_a_child_that_it_forked_dies_of_the_signal(every, tmp_path):
    (tmp_path / "child").mkdir()

    end = cancelled(every, "job:fork", tmp_path)

    assert document(end)["error"]["type"] == "bgd_job.Cancelled"
    assert written(tmp_path / "noted", 2) == f"cleaned up\n{-signal.SIGTERM}\n"
    assert not (tmp_path / "child/noted").exists()


@pytest.mark.parametrize("name", ["wait", "gather", "run_loop"])
def test_its_coroutines_are_cancelled(every, tmp_path, name):
    end = cancelled(every, f"job:{name}", tmp_path)

    assert (end.outcome, end.exit_code) == (Outcome.CANCELLED, 1)
    assert written(tmp_path / "noted") == "cancelled\n"
    error = document(end)["error"]
    assert error["type"] == "bgd_job.Cancelled"
    assert "in wait\n    await asyncio.sleep(1000)" in error["traceback"]
    assert "bgd/worker" not in error["traceback"]


def test_a_coroutine_that_blocks_its_loop_is_ended_too(every, tmp_path):
    end = cancelled(every, "job:block", tmp_path)

    error = document(end)["error"]
    assert error["type"] == "bgd_job.Cancelled"
    # or, on a busy machine, still at telling that it began
    assert re.search(r"in block\n    (time\.sleep\(1000\)|tell\(folder\))\n", error["traceback"])


@pytest.mark.parametrize(("name", "last"), [("never_return", "never_return"), ("ignore", "go_on_for_ever")])
def test_what_does_not_end_in_the_grace_time_leaves_its_stack_in_the_log(every, tmp_path, name, last):
    for number in range(10):
        folder = tmp_path / str(number)
        folder.mkdir()
        end = cancelled(every, f"job:{name}", folder, grace=0.5)
        assert (end.outcome, end.signal) == (Outcome.CANCELLED, signal.SIGKILL)
        where = every.output(end).partition("(most recent call first):\n")[2].partition("\n")[0]
        # on a busy machine it may be killed before it gets there, or before it has written its stack
        if where.endswith(f" in {last}"):
            break

    assert where.endswith(f" in {last}")


def test_a_job_that_survives_its_stop_signal_frees_its_slot_when_it_ends(every, tmp_path):
    """A worker that runs jobs itself would live until the end of the grace time, and its attempt with it."""
    key = started(every, "job:survive", tmp_path)
    pid = int(written(tmp_path / "told"))

    every.supervisor.say(StopProcesses(key, GRACE))

    end = every.supervisor.ended(key)
    assert (end.outcome, end.exit_code) == (Outcome.CANCELLED, 0)
    assert document(end) == {"ok": 5}
    assert not is_alive(pid)
    assert every.value("job:own") != pid


def test_launcher_and_worker_have_the_same_numbers():
    assert {reason.value for reason in StopReason} - {StopReason.OTHER} == stopping.REASONS.keys()
    assert stopping.REASONS[StopReason.TIMEOUT] == "TimedOut"
    assert stopping.REASONS[StopReason.CANCELLED] == "Cancelled"
    assert stopping.DUMP_SIGNAL == DUMP_SIGNAL
    assert job.STOP_REASON_AT == spawn._STOP_REASON_AT > job.MAX_RESULT
