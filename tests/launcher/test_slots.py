"""Attempts that wait at the launcher until their slot is free."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from bgd.core.job import Outcome
from bgd.wire.launching import (
    FIRST_WITH_RETURNS,
    AttemptEnded,
    AttemptKey,
    AttemptReturned,
    ContinueProcesses,
    FromLauncher,
    Greeting,
    RecallAttempts,
    SignalProcesses,
    StopProcesses,
    SuspendProcesses,
)
from tests.launcher.host import PATIENCE, STORE, Host, Supervisor, launch_of

# Writes b and e around a moment in which another attempt of the slot could begin
STEP = 'echo b$0 >>"$1"; sleep 0.01; echo e$0 >>"$1"'


def launched(supervisor: Supervisor, *argv: str, slot: int = 1, **options: Any) -> AttemptKey:
    return supervisor.launch(*argv, slot=slot, is_prefetched=True, **options)


def returned(supervisor: Supervisor, count: int) -> set[AttemptKey]:
    """Wait until that many attempts have been returned; none may end before."""
    found: set[AttemptKey] = set()
    while len(found) < count:
        message: FromLauncher | None = supervisor.hear()
        assert message is not None
        assert not isinstance(message, AttemptEnded), message
        if isinstance(message, AttemptReturned):
            found.add(message.key)
    return found


def test_attempts_of_a_slot_run_one_after_the_other(supervisor: Supervisor, tmp_path: Path) -> None:
    trace = tmp_path / "trace"

    keys = [launched(supervisor, "sh", "-c", STEP, str(number), str(trace)) for number in range(8)]

    again = iter(range(100))
    left = set(keys)
    while left:  # on a busy machine some come back
        message = supervisor.hear()
        assert message is not None
        assert next(again) < 99
        if isinstance(message, AttemptEnded):
            assert message.outcome is Outcome.SUCCEEDED
            left.remove(message.key)
        elif isinstance(message, AttemptReturned):
            left.remove(message.key)
    lines = trace.read_text().split()
    assert lines[::2] == [f"b{line[1:]}" for line in lines[1::2]]
    assert lines[::2] == sorted(lines[::2])


def test_attempts_of_other_slots_do_not_wait(supervisor: Supervisor) -> None:
    launched(supervisor, "sleep", "100")

    for slot in (0, 2):
        assert supervisor.ended(launched(supervisor, "true", slot=slot)).outcome is Outcome.SUCCEEDED


def test_what_waits_behind_a_long_attempt_comes_back_and_can_be_launched_again(
    supervisor: Supervisor, tmp_path: Path
) -> None:
    long = launched(supervisor, "sleep", "100")
    behind = {launched(supervisor, "touch", str(tmp_path / str(number))) for number in range(3)}

    assert returned(supervisor, 3) == behind
    assert list(tmp_path.glob("[0-9]")) == []
    supervisor.say(StopProcesses(long, 0.0))
    supervisor.ended(long)
    [key, *_] = behind
    supervisor.say(replace(launch_of("true", slot=1), key=key))
    assert supervisor.ended(key).outcome is Outcome.SUCCEEDED


def test_what_waits_comes_back_at_once_if_asked_for(supervisor: Supervisor) -> None:
    launched(supervisor, "sleep", "100")
    behind = launched(supervisor, "true")
    supervisor.say(RecallAttempts())

    assert returned(supervisor, 1) == {behind}


def test_a_waiting_attempt_is_cancelled_at_once_and_lets_nobody_begin(supervisor: Supervisor) -> None:
    long = launched(supervisor, "sleep", "100")
    cancelled, behind = launched(supervisor, "true"), launched(supervisor, "true")

    supervisor.say(StopProcesses(cancelled, 100.0, is_cancel=True))

    ended = supervisor.ended(cancelled)
    assert (ended.outcome, ended.exit_code) == (Outcome.CANCELLED, None)
    assert returned(supervisor, 1) == {behind}
    supervisor.say(StopProcesses(long, 0.0))
    supervisor.ended(long)


def test_an_attempt_of_which_something_was_asked_keeps_its_place(supervisor: Supervisor) -> None:
    long = launched(supervisor, "sleep", "100")
    suspended, signalled, behind = (launched(supervisor, "sleep", "100") for _ in range(3))
    supervisor.say(SuspendProcesses(suspended), SignalProcesses(signalled, signal.SIGUSR1))

    assert returned(supervisor, 1) == {behind}
    supervisor.say(StopProcesses(suspended, 0.0), StopProcesses(long, 0.0))

    assert supervisor.ended(suspended).outcome is Outcome.CANCELLED
    assert supervisor.ended(long).outcome is Outcome.CANCELLED
    assert supervisor.ended(signalled).signal == signal.SIGUSR1


def test_sigcont_keeps_no_attempt_from_coming_back(supervisor: Supervisor) -> None:
    long, continued = launched(supervisor, "sleep", "100"), launched(supervisor, "true")

    supervisor.say(SignalProcesses(continued, signal.SIGCONT, whole_tree=True))

    assert returned(supervisor, 1) == {continued}
    supervisor.say(StopProcesses(long, 0.0))


def test_a_suspended_attempt_says_that_it_has_not_begun(supervisor: Supervisor) -> None:
    long, suspended = launched(supervisor, "sleep", "100"), launched(supervisor, "true")

    supervisor.say(SuspendProcesses(suspended))

    waits = supervisor.started(suspended).waits
    assert waits is not None
    assert waits.problem == "it has not begun"
    supervisor.say(StopProcesses(long, 0.0), StopProcesses(suspended, 0.0))


def test_a_suspended_attempt_comes_back_once_it_is_continued(supervisor: Supervisor) -> None:
    launched(supervisor, "sleep", "100")
    suspended, behind = launched(supervisor, "true"), launched(supervisor, "true")
    supervisor.say(SuspendProcesses(suspended))
    assert returned(supervisor, 1) == {behind}

    supervisor.say(ContinueProcesses(suspended))

    assert returned(supervisor, 1) == {suspended}


def test_an_attempt_that_was_not_meant_to_wait_keeps_its_place(supervisor: Supervisor) -> None:
    long = launched(supervisor, "sleep", "100")
    patient = supervisor.launch("true", slot=1)
    behind = launched(supervisor, "true")

    assert returned(supervisor, 1) == {behind}
    supervisor.say(StopProcesses(long, 0.0))
    supervisor.ended(long)
    assert supervisor.ended(patient).outcome is Outcome.SUCCEEDED


def test_the_next_supervisor_learns_of_waiting_attempts(host: Host, supervisor: Supervisor) -> None:
    long = launched(supervisor, "sleep", "100")
    supervisor.started(long)
    behind = launched(supervisor, "sleep", "100")
    supervisor.say(SuspendProcesses(behind))  # it does not come back
    supervisor.say(SignalProcesses(long, signal.SIGCONT))

    younger = host.supervise(generation=2)

    assert {key: getattr(each, "pid", 0) is None for key, each in younger.snapshot.items()} == {
        long: False,
        behind: True,
    }


def test_a_waiting_attempt_counts_as_never_started_for_the_next_launcher(
    host: Host, supervisor: Supervisor
) -> None:
    long = launched(supervisor, "sleep", "100")
    behind = launched(supervisor, "sleep", "100")
    supervisor.say(SuspendProcesses(behind))  # it does not come back
    other = launched(supervisor, "sleep", "100", slot=2)
    supervisor.started(other)

    host.launchers[-1].terminate()

    assert host.launchers[-1].wait(PATIENCE) == 0
    host.start()
    successor = host.supervise()
    assert successor.snapshot.keys() == {long, other}
    assert supervisor.welcome.instance in successor.welcome.covers


def test_nothing_comes_back_to_an_older_supervisor(host: Host, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    host.start()
    older = host.connect()
    older.say(Greeting(FIRST_WITH_RETURNS - 1, STORE, 1, newest=FIRST_WITH_RETURNS - 1))
    older.be_welcomed()
    long = launched(older, "sh", "-c", f"sleep 0.3; {STEP}", "1", str(trace))
    behind = launched(older, "sh", "-c", STEP, "2", str(trace))

    older.say(RecallAttempts())

    left = {long, behind}
    while left:
        message = older.hear()
        assert not isinstance(message, AttemptReturned)
        left -= {message.key} if isinstance(message, AttemptEnded) else set()
    assert trace.read_text().split() == ["b1", "e1", "b2", "e2"]
