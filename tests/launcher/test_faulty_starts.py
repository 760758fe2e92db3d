"""A launcher whose start meets a fault finds what its predecessor ran, or leaves it to the next launcher."""

from __future__ import annotations

import random
import socket

import pytest

from bgd.core.job import Outcome
from bgd.wire.launching import Acknowledge, AttemptEnded
from tests.launcher.faulty_launcher import FOLDER, Fault, Faults
from tests.launcher.host import PATIENCE, Host, Supervisor, is_alive, launch_of
from tests.launcher.scripted_slurm import ScriptedSlurm
from tests.launcher.test_faulty_calls import IS_LONG
from tests.support import wait_until

FAULTY = "tests.launcher.faulty_launcher"


@pytest.fixture
def faults(tmp_path, monkeypatch):
    folder = tmp_path / "faults"
    folder.mkdir()
    monkeypatch.setenv(FOLDER, str(folder))
    return Faults(folder)


def test_no_job_is_lost_or_runs_beside_its_next_attempt(host, slurm, faults):
    restart(host, slurm, faults, 1, None)
    reached = faults.reached
    chosen = reached if IS_LONG else random.Random(1).sample(reached, 8)

    for number, fault in enumerate(chosen, 2):
        restart(host, slurm, faults, number, fault)


def restart(host: Host, slurm: ScriptedSlurm, faults: Faults, number: int, fault: Fault | None) -> None:
    """Kill a launcher that runs a job here and one by a pilot; check both after a start with this fault."""
    go, folder = host.state / f"go-{number}", host.state / f"runs-{number}"
    folder.mkdir()
    script = f"while ! [ -e {go} ]; do sleep 0.02; done; echo out; exit 3"
    here = launch_of("sh", "-c", f"echo $$ >{folder}/here; {script}")
    away = launch_of("sh", "-c", f"echo ran >>{folder}/away; {script}", slurm=slurm.pilot_start)
    host.start(module=FAULTY)
    supervisor = host.supervise(2 * number)
    supervisor.say(here, away)
    wait_until(lambda: len([each for each in folder.iterdir() if each.stat().st_size]) == 2)
    host.kill()
    supervisor.close()

    faults.begin_list()
    if fault is not None:
        faults.arm(fault)
    after = supervisor_of_next(host, 2 * number + 1)
    assert not is_alive(int((folder / "here").read_text())), fault
    go.touch()
    ends = {key: each for key, each in after.snapshot.items() if isinstance(each, AttemptEnded)}
    ends[away.key] = ends.get(away.key) or after.ended(away.key)
    faults.disarm()

    assert ends[here.key].outcome is Outcome.UNKNOWN, fault
    assert ends[away.key].exit_code == 3, (fault, ends[away.key])
    assert host.output(away.key) == b"out\n" or ends[away.key].log_problem, fault
    assert (folder / "away").read_text() == "ran\n", fault
    after.say(Acknowledge(here.key), Acknowledge(away.key))
    host.kill()
    after.close()
    slurm.end()


def supervisor_of_next(host: Host, generation: int) -> Supervisor:
    """Start a launcher, and another if that one cannot start, as bgd does."""
    launcher = host.start(module=FAULTY)
    wait_until(lambda: launcher.poll() is not None or is_listening(host))
    if launcher.poll() is None:
        try:
            return host.supervise(generation)
        except (AssertionError, ConnectionError):  # it ended after it had begun to listen
            assert launcher.wait(PATIENCE) == 1
    host.start(module=FAULTY)
    return host.supervise(generation)


def is_listening(host: Host) -> bool:
    with socket.socket(socket.AF_UNIX) as connection:
        return connection.connect_ex(str(host.state / "launcher.sock")) == 0
