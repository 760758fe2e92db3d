"""Attempts on a cluster hold up no local ones, whatever disk and controller do. Slurm is three scripts."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from bgd.core.explain import Cause
from bgd.core.job import Outcome
from bgd.wire.launching import AttemptKey, AttemptStarted, ContinueProcesses, SlurmStart, SuspendProcesses
from tests.launcher.host import Host, Supervisor, needs_strace
from tests.support import wait_until

# runs the program of the node here and at once, unless the controller is away or the cluster full
SRUN = """#!/bin/sh
echo started >>{folder}/sruns
if [ -e {folder}/away ]; then
    echo "srun: error: Unable to allocate resources: Unable to contact slurm controller (connect failure)" >&2
    exit 1
fi
while [ -e {folder}/full ]; do sleep 0.02; done
while [ "$1" != {python} ]; do shift; done
exec "$@"
"""
SQUEUE = """#!/bin/sh
echo started >>{folder}/squeues
[ ! -e {folder}/away ]
"""


class Slurm:
    """Scripts in place of Slurm's programs; `start`: what a launch says of it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "shared").mkdir()
        for name, script in {"srun": SRUN, "squeue": SQUEUE, "scancel": "#!/bin/sh\n"}.items():
            (folder / name).write_text(script.format(folder=folder, python=sys.executable))
            (folder / name).chmod(0o700)
        shared = str(folder / "shared")
        self.start = SlurmStart(folder=shared, python=sys.executable, options=[], requests_per_second=1000.0)

    def count(self, program: str) -> int:
        """Return how many of a program have started."""
        path = self.folder / f"{program}s"
        return len(path.read_text().splitlines()) if path.exists() else 0


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    folder = tmp_path / "slurm"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return Slurm(folder)


@pytest.fixture
def supervisor(host: Host, slurm: Slurm):
    host.start()
    supervisor = host.supervise()
    supervisor.usual = {"slurm": slurm.start}
    return supervisor


@needs_strace
def test_no_sync_for_an_attempt_on_a_cluster_blocks_the_event_loop(host, supervisor, tamper):
    os.mkfifo(host.state / "go")
    tamper("fsync,fdatasync", "error=EIO")  # on the thread of the event loop only

    job = supervisor.launch("sh", "-c", "echo ran; read line <go; exit 3", cwd=str(host.state))
    until(supervisor, [job], lambda said: said.pid is not None)
    supervisor.say(SuspendProcesses(job), ContinueProcesses(job))
    (host.state / "go").write_text("go\n")
    ended = supervisor.ended(job)

    assert (ended.outcome, ended.exit_code, host.output(job)) == (Outcome.EXIT, 3, b"ran\n")
    assert "cannot" not in host.said


def test_one_question_at_a_time_replaces_all_sruns_while_the_controller_is_away(supervisor, slurm):
    (slurm.folder / "away").touch()
    first = supervisor.launch("true")
    until(supervisor, [first], waits_for_controller)
    [folder] = (slurm.folder / "shared").glob("bgd-*")
    wait_until((folder / "claim.1").exists)
    (folder / "claim.1.launcher").unlink()  # each look into the folder makes it

    others = [supervisor.launch("true") for _ in range(3)]
    until(supervisor, others, waits_for_controller)
    asked = slurm.count("squeue")
    wait_until(lambda: slurm.count("squeue") > asked + 1)

    assert slurm.count("srun") == 1
    assert not (folder / "claim.1.launcher").exists()
    (slurm.folder / "away").unlink()
    assert {end.outcome for end in supervisor.all_ended([first, *others])} == {Outcome.SUCCEEDED}
    assert slurm.count("srun") == 5


@needs_strace
def test_a_job_on_a_cluster_ends_truly_if_the_disk_is_full_when_it_begins(host, supervisor, slurm, tamper):
    (slurm.folder / "full").touch()
    job = supervisor.launch("sh", "-c", "echo ran; exit 3", timeout=60.0)
    wait_until(lambda: slurm.count("srun") == 1)
    tamper("write", "error=ENOSPC:when=1", "-P", str(host.journal))
    (slurm.folder / "full").unlink()

    ended = supervisor.ended(job)

    assert (ended.outcome, ended.exit_code, host.output(job)) == (Outcome.EXIT, 3, b"ran\n")
    assert f"cannot write to the journal that job {job.job} has a node: No space left" in host.said


def until(
    supervisor: Supervisor, keys: Iterable[AttemptKey], holds: Callable[[AttemptStarted], bool]
) -> None:
    """Wait until this is said of each of these attempts, in any order."""
    missing = set(keys)
    while missing:
        message = supervisor.hear()
        assert message is not None, "the launcher hung up"
        if isinstance(message, AttemptStarted) and holds(message):
            missing.discard(message.key)


def waits_for_controller(said: AttemptStarted) -> bool:
    return said.waits is not None and said.waits.cause is Cause.CONTROLLER
