"""Check that jobs stand still while they are suspended; if not, tell what every side knows of the job."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, suppress
from functools import partial
from pathlib import Path

from bgd.core.job import State
from bgd.launcher import journal
from bgd.wire.launching import AttemptKey
from bgd.wire.views import EventView
from tests.end_to_end.chaos import Caller, Rig
from tests.end_to_end.checks import listed
from tests.end_to_end.clients import Action
from tests.launcher.host import Supervisor, is_alive, is_stopped
from tests.support import wait_until

NEWEST_LINES = 40  # of the log of bgd and the launcher
SHOWN_FIELDS = ("Name", "State", "PPid", "SigPnd", "ShdPnd", "SigBlk")  # of /proc/PID/status


def check_suspended(rig: Rig, actions: Sequence[Action], events: Sequence[EventView]) -> None:
    """Check that all processes of suspended jobs are stopped, and no others.

    A failure comes with a report, which includes those of the actions and events that concern the job.
    """
    with closing(Caller(rig.socket)) as caller:
        for view in listed(rig, [State.RUNNING]):
            try:
                wait_until(partial(is_as_told, caller, view.id))
            except AssertionError as error:
                error.add_note(report(rig, view.id, actions, events))
                raise


def is_as_told(caller: Caller, job: int) -> bool:
    view, attempts = caller.show(job)
    if view.state is not State.RUNNING:
        return True
    pid = attempts[-1].pid
    if pid is None:  # a job that was suspended before it ran has no process
        return view.suspended
    try:
        return {is_stopped(each) for each in tree_of(pid)} == {view.suspended}
    except (FileNotFoundError, ProcessLookupError):  # it has just ended
        return False


# --- what every side knows ------------------------------------------------------------------------------


def report(rig: Rig, job: int, actions: Sequence[Action], events: Sequence[EventView]) -> str:
    """Return what the daemon, the kernel, the launcher and the clients know of a job that has an attempt.

    The launcher is asked as a supervisor would ask, so bgd loses its connection and connects again.
    """
    with closing(Caller(rig.socket)) as caller:
        view, attempts = caller.show(job)
    log = (rig.folder / "log").read_text(errors="replace").splitlines()
    parts: dict[str, Iterable[object]] = {
        "daemon": [view, *attempts],
        "processes": map(described, tree_of(attempts[-1].pid)),
        "launcher": launcher_records(rig.socket.parent, job, view.attempt),
        "requests": [each for each in actions if job in getattr(each.request, "jobs", ())],
        "events": [each for each in events if each.job == job],
        "log of the job": [line for line in log if re.search(rf"\bjob {job}\b", line)],
        "end of the log": log[-NEWEST_LINES:],
    }
    return "\n".join(f"{name}:" + "".join(f"\n    {line}" for line in lines) for name, lines in parts.items())


def tree_of(pid: int | None) -> Iterator[int]:
    """Yield a process and all its living descendants; nothing for None."""
    if pid is None or not is_alive(pid):
        return
    yield pid
    with suppress(FileNotFoundError, ProcessLookupError):
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            yield from tree_of(int(child))


def described(pid: int) -> str:
    """Return what the kernel says about a process."""
    try:
        status = Path(f"/proc/{pid}/status").read_text().splitlines()
        place = Path(f"/proc/{pid}/wchan").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return f"{pid} is gone"
    fields = [line.replace("\t", " ") for line in status if line.partition(":")[0] in SHOWN_FIELDS]
    return f"{pid} " + ", ".join([*fields, f"waits in {place}"])


def launcher_records(state: Path, job: int, attempt: int) -> list[object]:
    """Return what the launcher answers about an attempt, and what its journal has of it."""
    contents = journal.read(state / "launcher.journal")
    [(store, generation)] = contents.generations.items()
    key = AttemptKey(store, job, attempt)
    with closing(Supervisor(str(state / "launcher.sock"))) as supervisor:
        supervisor.greet(generation, store)
    return [supervisor.snapshot.get(key), contents.attempts.get(key)]
