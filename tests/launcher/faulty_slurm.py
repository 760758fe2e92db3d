"""Slurm's programs as scripts, of which a call may fail, hang, lie, answer late or be killed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tests.launcher.scripted_slurm import ScriptedSlurm

PROGRAM = """#!/bin/sh
echo called >>{calls}
number=$(wc -l <{calls})
real() {{ {real} "$@"; }}
if [ -e {faults}.$number ]; then . {faults}.$number; fi
exec {real} "$@"
"""
# two jobs of one name would be two pilots of one folder
SBATCH = """#!/bin/sh
for word; do case $word in --job-name=*) name=${{word#*=}} ;; esac; done
for job in {jobs}/*; do
    if {{ read -r other pid <"$job" && [ "$other" = "$name" ] && kill -0 "$pid"; }} 2>/dev/null; then
        echo "$name" >>{doubled}
    fi
done
exec {real} "$@"
"""
# a step of a job that has ended is refused
SRUN = """#!/bin/sh
for word; do case $word in --jobid=*) job=${{word#*=}} ;; esac; done
if ! {{ read -r name pid <{jobs}/$job && kill -0 $pid; }} 2>/dev/null; then
    echo "srun: error: Unable to create step for job $job: Invalid job id specified" >&2
    exit 1
fi
exec {real} "$@"
"""


class SlurmFault(NamedTuple):
    """What happens in a call of a program: lines of its script, before it does anything."""

    program: str
    what: str
    script: str

    def __str__(self) -> str:
        return f"{self.program} {self.what}"


def _fails(program: str, words: str, first: str = "") -> SlurmFault:
    what = f"does it and fails: {words}" if first else f"fails: {words}"
    return SlurmFault(program, what, f"{first}echo '{program}: error: {words}' >&2; exit 1")


def all_faults() -> Iterator[SlurmFault]:
    """Yield every fault, in the words of Slurm 24.11."""
    for program in ("sbatch", "squeue", "scancel", "srun"):
        yield SlurmFault(program, "is killed", "kill -KILL $$")
        yield SlurmFault(program, "does it and is killed", 'real "$@" >/dev/null; kill -KILL $$')
        yield SlurmFault(program, "hangs", "exec sleep 1000")
        yield SlurmFault(program, "answers late", "sleep 0.3")
        yield SlurmFault(program, "lies that it was done", "exit 0")
    refused, silent = "Batch job submission failed", "Socket timed out on send/recv operation"
    yield _fails("sbatch", f"{refused}: {silent}")
    yield _fails("sbatch", f"{refused}: {silent}", first='real "$@" >/dev/null; ')
    yield _fails("sbatch", f"{refused}: Required partition not available (inactive or drain)")
    yield _fails("sbatch", f"{refused}: Protocol authentication error")
    yield _fails("squeue", "slurm_load_jobs error: Unable to contact slurm controller (connect failure)")
    yield _fails("scancel", f"Kill job error on job id 1: {silent}")
    yield _fails("scancel", f"Kill job error on job id 1: {silent}", first='real "$@"; ')
    yield _fails("srun", "Unable to create step for job 1: Job/step already completing or completed")
    # the test of whether a job lives, for this script, always succeeds
    yield SlurmFault("squeue", "lists jobs that have ended", "kill() { :; }; . $0.real")


class FaultySlurm:
    """Lets calls of the programs of a ScriptedSlurm have faults."""

    def __init__(self, slurm: ScriptedSlurm) -> None:
        self._jobs = slurm.folder / "jobs"
        self._folder = slurm.folder / "faulty"
        self._folder.mkdir()
        for name in ("sbatch", "squeue", "scancel", "srun"):
            program = slurm.folder / name
            real = program.rename(f"{program}.real")
            check = {"sbatch": SBATCH, "srun": SRUN}.get(name)
            if check is not None:
                real = real.rename(f"{program}.unchecked")
                parts = {"jobs": self._jobs, "doubled": self._folder / "doubled", "real": real}
                self._write(Path(f"{program}.real"), check.format(**parts))
            parts = {
                "calls": self._calls(name),
                "faults": self._folder / name,
                "real": Path(f"{program}.real"),
            }
            self._write(program, PROGRAM.format(**parts))

    def arm(self, fault: SlurmFault, call: int = 1) -> None:
        """Let the next call of a program have a fault; `call`: 2 for the one after it."""
        number = self.count(fault.program) + call
        (self._folder / f"{fault.program}.{number}").write_text(fault.script + "\n")

    @property
    def has_doubled(self) -> bool:
        """Whether a job was submitted while there was one of its name."""
        return (self._folder / "doubled").exists()

    def disarm(self) -> None:
        """Let no more call have a fault."""
        for path in self._folder.glob("*.[0-9]*"):
            path.unlink()

    def forget_jobs(self) -> None:
        """Forget all jobs, which have ended: their pids may become those of other processes."""
        for path in (*self._jobs.iterdir(), *self._folder.glob("doubled")):
            path.unlink()

    def count(self, program: str) -> int:
        """Return how many calls of a program there have been."""
        path = self._calls(program)
        return len(path.read_text().splitlines()) if path.exists() else 0

    def _calls(self, program: str) -> Path:
        return self._folder / f"{program}.calls"

    @staticmethod
    def _write(program: Path, script: str) -> None:
        program.write_text(script)
        program.chmod(0o700)
