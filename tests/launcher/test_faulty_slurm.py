"""Jobs on pilots while calls of Slurm's programs fail, hang, lie, come late or are killed."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import pytest
from msgspec.structs import replace

from bgd.core.job import Outcome
from bgd.wire.launching import Acknowledge, AttemptEnded, AttemptKey, AttemptStarted, Launch, StopProcesses
from tests.launcher.faulty_slurm import FaultySlurm, SlurmFault, all_faults
from tests.launcher.host import Host, Supervisor, launch_of
from tests.launcher.scripted_slurm import ScriptedSlurm
from tests.support import wait_until

IS_LONG = os.environ.get("HYPOTHESIS_PROFILE") == "long"

Case = Sequence[tuple[SlurmFault, int]]  # faults, each of the call with this number


@pytest.fixture
def faulty(slurm):
    return FaultySlurm(slurm)


def cases_of(*programs: str) -> Iterator[Case]:
    """Yield each fault twice in a row, or in the calls that undo a lost submission; if long, alone too."""
    faults = list(all_faults())
    lost = next(each for each in faults if each.what == "does it and is killed" and each.program == "sbatch")
    for fault in faults:
        if fault.program in programs and fault.program != "scancel":
            yield [(fault, 1), (fault, 2)]
            if IS_LONG:
                yield [(fault, 1)]
        if fault.program in {"squeue", "scancel"} and "sbatch" in programs:
            yield [(lost, 1), (fault, 1), (fault, 2)]


def sample_of(cases: Iterator[Case], count: int) -> Sequence[Case]:
    """Return so many of them, but all in a long run."""
    found = list(cases)
    return found if IS_LONG else random.Random(1).sample(found, min(count, len(found)))


def lists_nothing(case: Case) -> bool:
    return any(fault.program == "squeue" and fault.what.startswith("lies") for fault, _ in case)


def in_words(case: Case) -> str:
    return " and ".join(f"call {number} of {fault}" for fault, number in case)


def test_jobs_end_truly_and_once_whatever_slurms_programs_do(host, slurm, faulty):
    host.start(module="tests.launcher.faulty_launcher")
    supervisor = host.supervise()

    for number, case in enumerate(sample_of(cases_of("sbatch", "squeue", "srun"), 12)):
        for fault, call in case:
            faulty.arm(fault, call)
        launches = jobs_in(host, slurm, number, keep_idle=0.0)
        supervisor.say(*launches.values())
        supervisor.say(StopProcesses(launches["waiting"].key, 0.5))
        ends = ends_of(supervisor, launches, case)
        assert_true(host, number, ends, case)
        assert supervisor.run("true").outcome is Outcome.SUCCEEDED
        assert lists_nothing(case) or not faulty.has_doubled, in_words(case)
        faulty.disarm()
        wait_until(lambda: not slurm.pilots)
        faulty.forget_jobs()


def test_jobs_are_found_again_whatever_slurms_programs_do(host, slurm, faulty):
    host.start(module="tests.launcher.faulty_launcher")
    for number, case in enumerate(sample_of(cases_of("squeue", "srun"), 8)):
        supervisor = host.supervise(2 * number + 1)
        launches = jobs_in(host, slurm, number, keep_idle=600.0)
        del launches["waiting"]
        supervisor.say(*launches.values())
        wait_until(partial(has_files, host.state / f"runs-{number}", len(launches)))

        host.kill()
        for fault, call in case:
            faulty.arm(fault, call)
        host.start(module="tests.launcher.faulty_launcher")
        after = host.supervise(2 * number + 2)
        after.say(StopProcesses(launches["running"].key, 0.5))
        (host.state / f"go-{number}").touch()

        assert_true(host, number, ends_of(after, launches, case), case)
        faulty.disarm()
        after.close()


def has_files(folder: Path, count: int) -> bool:
    return len(list(folder.iterdir())) == count


def jobs_in(host: Host, slurm: ScriptedSlurm, number: int, keep_idle: float) -> dict[str, Launch]:
    """Return a job that ends by itself, one that is cancelled while it waits, and one while it runs."""
    folder = host.state / f"runs-{number}"
    folder.mkdir()
    start = replace(slurm.pilot_start, pilot=replace(slurm.pilot_start.pilot, keep_idle=keep_idle))
    go = host.state / f"go-{number}"
    if not keep_idle:
        go.touch()
    scripts = {
        "plain": f"while ! [ -e {go} ]; do sleep 0.02; done; echo out; exit 3",
        "waiting": "sleep 1000",
        "running": "sleep 1000",
    }
    return {
        kind: launch_of("sh", "-c", f"echo ran >>{folder / kind}; {script}", slurm=start)
        for kind, script in scripts.items()
    }


def ends_of(supervisor: Supervisor, launches: dict[str, Launch], case: Case) -> dict[str, AttemptEnded]:
    """Cancel the job to be cancelled once it runs; return how all have ended, each once."""
    kinds: dict[AttemptKey, str] = {launch.key: kind for kind, launch in launches.items()}
    ends: dict[str, AttemptEnded] = {}
    while len(ends) < len(launches):
        try:
            message = supervisor.hear()
        except TimeoutError:
            pytest.fail(f"{launches.keys() - ends.keys()} do not end: {in_words(case)}")
        assert message is not None, in_words(case)  # the launcher has ended
        if isinstance(message, AttemptStarted) and kinds[message.key] == "running" and message.pid:
            supervisor.say(StopProcesses(message.key, 0.5))
        if isinstance(message, AttemptEnded):
            assert kinds[message.key] not in ends
            ends[kinds[message.key]] = message
            supervisor.say(Acknowledge(message.key))
    return ends


def assert_true(host: Host, number: int, ends: dict[str, AttemptEnded], case: Case) -> None:
    for kind, ended in ends.items():
        path = host.state / f"runs-{number}" / kind
        runs = path.read_text().count("ran") if path.exists() else 0
        if kind == "plain":
            found = (ended.outcome, ended.exit_code, runs, host.output(ended.key))
            assert found == (Outcome.EXIT, 3, 1, b"out\n"), (in_words(case), ended)
        else:
            assert ended.outcome is Outcome.CANCELLED, (in_words(case), ended)
            assert runs <= 1, (in_words(case), ended)
