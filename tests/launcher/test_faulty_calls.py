"""Jobs of all kinds while a call of the operating system fails, at each place of the launcher in turn."""

from __future__ import annotations

import os
import random
import signal
import sys
from collections.abc import Collection, Iterator
from typing import Any

import pytest
from msgspec.structs import replace

from bgd.core.job import Outcome
from bgd.wire.launching import (
    Acknowledge,
    AttemptEnded,
    AttemptKey,
    AttemptStarted,
    ContinueProcesses,
    Launch,
    SignalProcesses,
    SlurmStart,
    StopProcesses,
    SuspendProcesses,
)
from bgd.wire.limits import Limits
from tests.launcher.faulty_launcher import FOLDER, Faults
from tests.launcher.host import Host, Supervisor, launch_of
from tests.launcher.warm.calls import FORK, REUSE, Calls

IS_LONG = os.environ.get("HYPOTHESIS_PROFILE") == "long"

# a launcher that runs as pilot has faults, too
PYTHON = """#!/bin/sh
case "$*" in *"-m bgd.launcher --pilot"*) shift 3; set -- -P -m tests.launcher.faulty_launcher "$@" ;; esac
export {setting}
exec {python} "$@"
"""
MODULE = """
def call(path):
    with open(path, "a") as file:
        file.write("ran\\n")
    print("out")
"""


class Workload:
    """One job of each kind; `run` returns what became of them."""

    def __init__(
        self, host: Host, supervisor: Supervisor, slurm: SlurmStart, only: Collection[str] = ()
    ) -> None:
        self._only = only
        self._host = host
        self._supervisor = supervisor
        self._slurm = slurm
        self._calls = Calls(host, supervisor, FORK)
        self._calls.write("app", MODULE)
        self._runs = host.state / "runs"
        self._runs.mkdir()

    def run(self) -> list[str]:
        """Run them; return everything that is wrong."""
        for path in self._runs.iterdir():
            path.unlink()
        launches = {kind: launch for kind, launch in self._launches() if not self._only or kind in self._only}
        self._supervisor.say(*launches.values())
        ends = self._ends({launch.key: kind for kind, launch in launches.items()})
        return [f"{kind}: {wrong}" for kind, ended in ends.items() if (wrong := self._wrong(kind, ended))]

    def _launches(self) -> Iterator[tuple[str, Launch]]:
        yield "plain", self._shell("plain", "echo out; exit 3")
        yield "stdin", self._shell("stdin", "cat; exit 3", stdin=b"out\n")
        yield "terminal", self._shell("terminal", "stty -onlcr; echo out; exit 3", pty=True)
        yield "limited", self._shell("limited", "echo out; exit 3", limits=Limits(nice=1), own_group=True)
        yield "large", self._shell("large", "head -c 100000 /dev/zero; exit 3", log_cap=40_000)
        yield "leaving", self._shell("leaving", "echo out; sleep 1000 & exit 3")
        yield "stopped", self._shell("stopped", "echo out; sleep 1000 & wait")
        yield "paused", self._shell("paused", "sleep 0.05; echo out; exit 3")
        pilot = {"slurm": self._slurm}
        yield "pilot", self._shell("pilot", "echo out; exit 3", **pilot)
        yield "pilot-stopped", self._shell("pilot-stopped", "echo out; sleep 1000 & wait", **pilot)
        for isolation in (FORK, REUSE):
            self._calls.isolation = isolation
            yield isolation, self._calls.launch_of("app:call", str(self._runs / isolation))

    def _shell(self, kind: str, script: str, **options: Any) -> Launch:
        return launch_of("sh", "-c", f"echo ran >>{self._runs / kind}; {script}", **options)

    def _ends(self, kinds: dict[AttemptKey, str]) -> dict[str, AttemptEnded]:
        ends: dict[str, AttemptEnded] = {}
        asked: set[AttemptKey] = set()
        while len(ends) < len(kinds):
            message = self._supervisor.hear()
            assert message is not None, "the launcher has closed the connection"
            if isinstance(message, AttemptStarted) and message.pid is not None and message.key not in asked:
                asked.add(message.key)
                self._steer(message.key, kinds[message.key])
            if isinstance(message, AttemptEnded):
                assert kinds[message.key] not in ends
                ends[kinds[message.key]] = message
                self._supervisor.say(Acknowledge(message.key))
        return ends

    def _steer(self, key: AttemptKey, kind: str) -> None:
        if kind.endswith("stopped"):
            self._supervisor.say(StopProcesses(key, grace=0.5))
        if kind == "paused":
            harmless = SignalProcesses(key, signal.SIGWINCH, whole_tree=True)
            self._supervisor.say(SuspendProcesses(key), ContinueProcesses(key), harmless)

    def _wrong(self, kind: str, ended: AttemptEnded) -> str | None:
        path = self._runs / kind
        runs = path.read_text().count("ran") if path.exists() else 0
        if kind.endswith("stopped"):
            return None if ended.outcome is Outcome.CANCELLED and runs <= 1 else f"{runs} runs, {ended}"
        is_call = kind in {FORK, REUSE}
        if runs != 1 or (ended.outcome, ended.exit_code) != (
            (Outcome.SUCCEEDED, 0) if is_call else (Outcome.EXIT, 3)
        ):
            return f"{runs} runs, {ended}"
        output = self._host.output(ended.key)
        return None if kind == "large" or output == b"out\n" or ended.log_problem else f"{output!r}, {ended}"


@pytest.fixture
def faults(tmp_path, monkeypatch):
    folder = tmp_path / "faults"
    folder.mkdir()
    monkeypatch.setenv(FOLDER, str(folder))
    return Faults(folder)


@pytest.fixture
def faulty_pilot(slurm, faults):
    """Return how to launch by a pilot that has faults, too."""
    python = slurm.folder / "python"
    python.write_text(PYTHON.format(setting=f"{FOLDER}={faults.folder}", python=sys.executable))
    srun = slurm.folder / "srun"
    srun.write_text(srun.read_text().replace(sys.executable, str(python)))
    python.chmod(0o700)
    return replace(slurm.pilot_start, python=str(python))


def test_a_call_that_fails_once_costs_no_job_and_no_pilot(host, faults, slurm, faulty_pilot):
    host.start(module="tests.launcher.faulty_launcher")

    run_with_faults(Workload(host, host.supervise(), faulty_pilot), faults, 20)

    assert slurm.count("sbatch") == slurm.count("srun") == 1


def test_a_call_that_fails_once_while_a_pilot_begins_or_ends_costs_no_job(host, faults, faulty_pilot):
    host.start(module="tests.launcher.faulty_launcher")
    assert faulty_pilot.pilot is not None
    short = replace(faulty_pilot, pilot=replace(faulty_pilot.pilot, keep_idle=0.0))

    run_with_faults(Workload(host, host.supervise(), short, {"plain", "pilot", "pilot-stopped"}), faults, 8)


def run_with_faults(workload: Workload, faults: Faults, count: int) -> None:
    """Run a workload with each of this many faults, or of all in a long run."""
    assert workload.run() == []
    faults.begin_list()
    assert workload.run() == []
    reached = faults.reached
    chosen = reached if IS_LONG else random.Random(1).sample(reached, count)
    wrong: list[str] = []
    happened = 0
    for fault in chosen:
        faults.arm(fault)
        wrong += [f"{each}\n  after {fault}" for each in workload.run()]
        happened += faults.disarm()

    assert not wrong, "\n".join(wrong)
    # a place is the whole way to a call, and a busy machine takes other ways: 16 of 20 were met on one
    assert happened > len(chosen) / 2
