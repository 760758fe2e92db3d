"""A day in the life of a daemon on a virtual machine; a reset ends it.

python -m tests.faults.day FOLDER        check what the day before has left, work, and reset the machine
python -m tests.faults.day FOLDER last   only check
"""

from __future__ import annotations

import os
import sys
from contextlib import closing
from pathlib import Path

import msgspec
from msgspec import Struct

from bgd.core.job import Outcome, State
from bgd.core.spec import JobSpec
from bgd.wire.replies import Submitted
from bgd.wire.requests import SubmitMany
from bgd.wire.views import JobView
from tests.end_to_end.chaos import Caller, Rig
from tests.end_to_end.checks import listed
from tests.support import wait_until

SLOTS = 4
DONE = 5
QUEUED = 10
# $1: file that records attempts, $2: exit code; a lasting job lasts in its first attempt
QUICK = 'echo "start $BGD_JOB_ID $BGD_ATTEMPT" >> "$1"; exit "$2"'
LASTING = f'[ "$BGD_ATTEMPT" = 2 ] || sleep 10000; {QUICK}'


class Told(Struct):
    """What clients know in the evening, saved on disk."""

    done: list[JobView] = []  # as they were reported
    running: list[int] = []  # without retries
    again: list[int] = []  # running, with a retry
    queued: list[int] = []


def main() -> None:
    folder = Path(sys.argv[1])
    path = folder / "told"
    rig = Rig(folder, SLOTS, state=folder / "state")
    rig.start()
    told = msgspec.json.decode(path.read_bytes(), type=Told) if path.exists() else Told()
    look(rig, told, folder / "truth")
    print(f"day: {len([*told.done, *told.running, *told.again, *told.queued])} jobs are right")
    if sys.argv[2:] == ["last"]:
        rig.close()
        return
    told = work(rig, folder / "truth")
    save(path, msgspec.json.encode(told))
    Path("/proc/sysrq-trigger").write_text("b")


def look(rig: Rig, told: Told, truth: Path) -> None:
    """Compare the jobs with what was reported before the reset."""
    with closing(Caller(rig.socket)) as caller:
        caller.wait([*told.running, *told.again, *told.queued])
        for view in told.done:
            assert caller.show(view.id)[0] == view
        for jobs, state, outcomes in (
            (told.running, State.FAILED, [Outcome.INTERRUPTED]),
            (told.again, State.SUCCEEDED, [Outcome.INTERRUPTED, Outcome.SUCCEEDED]),
            (told.queued, State.SUCCEEDED, [Outcome.SUCCEEDED]),
        ):
            for job in jobs:
                view, attempts = caller.show(job)
                assert (view.state, [attempt.outcome for attempt in attempts]) == (state, outcomes), view
    starts = truth.read_text().splitlines() if truth.exists() else []
    assert len(starts) == len(set(starts)), "an attempt was started twice"


def work(rig: Rig, truth: Path) -> Told:
    """Leave jobs that are done, running, and queued."""
    quick = [
        JobSpec(argv=("/bin/sh", "-c", QUICK, "job", str(truth), str(code)), cwd="/") for code in range(DONE)
    ]
    lasting = JobSpec(argv=("/bin/sh", "-c", LASTING, "job", str(truth), "0"), cwd="/")
    with closing(Caller(rig.socket)) as caller:
        done = submit(caller, quick)
        caller.wait(done)
        running = submit(caller, [lasting] * (SLOTS // 2))
        again = submit(caller, [msgspec.structs.replace(lasting, retries=1)] * (SLOTS // 2))
        wait_until(lambda: len(listed(rig, [State.RUNNING])) == SLOTS)
        queued = submit(caller, quick[:1] * QUEUED)
        views = [caller.show(job)[0] for job in done]
    assert [view.exit_code for view in views] == list(range(DONE))
    return Told(views, running, again, queued)


def submit(caller: Caller, specs: list[JobSpec]) -> list[int]:
    reply = caller.ask(SubmitMany(id=1, specs=specs))
    assert isinstance(reply, Submitted), reply
    return reply.jobs


def save(path: Path, data: bytes) -> None:
    """Write a file that survives a reset."""
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    folder = os.open(path.parent, os.O_RDONLY)
    os.fsync(folder)
    os.close(folder)


if __name__ == "__main__":
    main()
