"""Check that each executor of kind slurm can run jobs: programs, controller, user, shared folder, clock."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path

import msgspec
from msgspec import Struct

from bgd.config import Config, ExecutorConfig
from bgd.core.spec import ExecutorKind, JobSpec
from bgd.daemon.launches import srun_options
from bgd.wire.views import Finding, Level


def check_clusters(config: Config) -> list[Finding]:
    """Return a finding for each executor of kind slurm. Each costs a job of a moment in Slurm."""
    return [
        _check(f"executor {name}", executor)
        for name, executor in config.executors.items()
        if executor.kind is ExecutorKind.SLURM
    ]


class _Seen(Struct):
    """What the probe sees on a node."""

    node: str
    at: float
    sees_folder: bool
    user: int


def _check(subject: str, executor: ExecutorConfig) -> Finding:
    for name in ("srun", "squeue", "scancel"):
        if shutil.which(name) is None:
            remedy = "install Slurm's client programs (Debian: slurm-client) where the PATH of bgd finds them"
            return Finding(subject, Level.PROBLEM, f"there is no {name}", remedy)
    code, _, words = _run(executor, ["squeue", "--me", "--noheader"], _QUESTION_PATIENCE)
    if code:
        remedy = "see that slurmctld runs, and that conf of the executor names its slurm.conf"
        return Finding(subject, Level.PROBLEM, f"Slurm's controller does not answer: {words}", remedy)
    try:
        Path(executor.folder).mkdir(mode=0o700, parents=True, exist_ok=True)
        probe = Path(executor.folder, f"probe-{os.getpid()}")
        probe.touch()
    except OSError as error:
        message = f"its folder {executor.folder} cannot be written: {error.strerror}"
        return Finding(subject, Level.PROBLEM, message, "make it a folder of yours that the nodes share")
    try:
        return _probe(subject, executor, str(probe))
    finally:
        probe.unlink(missing_ok=True)


def _probe(subject: str, executor: ExecutorConfig, probe: str) -> Finding:
    wait = ["srun", *srun_options(JobSpec(), executor), "--nodes=1", "--ntasks=1", "--quiet", "--chdir=/"]
    argv = [*wait, f"--immediate={_START_PATIENCE}", executor.python, "-I", "-S", "-c", _PROGRAM, probe]
    began = time.time()
    code, text, words = _run(executor, argv, _START_PATIENCE + _QUESTION_PATIENCE)
    ended = time.time()
    if code and (words.endswith("busy") or words.startswith("no answer")):
        message = "no node is free now, so its folder and clocks were not checked"
        return Finding(subject, Level.NOTE, message, "run `bgctl doctor` again when a node is free")
    if code:
        remedy = "see that your user exists on the nodes with the same number, and the keys of the executor"
        return Finding(subject, Level.PROBLEM, f"no node runs a job of user {os.getuid()}: {words}", remedy)
    seen = msgspec.json.decode(text, type=_Seen)
    if seen.user != os.getuid():
        message = f"node {seen.node} runs jobs as user {seen.user}, and you are {os.getuid()}"
        return Finding(subject, Level.PROBLEM, message, "give your user the same number there")
    if not seen.sees_folder:
        message = f"node {seen.node} does not see {executor.folder}"
        return Finding(
            subject, Level.PROBLEM, message, "set folder to one that this machine and the nodes share"
        )
    if not began - _CLOCK_TOLERANCE <= seen.at <= ended + _CLOCK_TOLERANCE:
        message = f"the clock of node {seen.node} differs by about {abs(seen.at - ended):.0f} s"
        return Finding(subject, Level.WARNING, message, "set the clocks by NTP: files get wrong times")
    return Finding(subject, Level.OK, f"node {seen.node} runs jobs and shares {executor.folder}")


def _run(executor: ExecutorConfig, argv: list[str], patience: float) -> tuple[int, str, str]:
    """Return the exit code of a program of Slurm, its output, and the last line of what else it says."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "SRUN_"))}
    conf = executor.conf or os.environ.get("SLURM_CONF")
    environment = kept | ({"SLURM_CONF": conf} if conf else {})
    try:
        done = subprocess.run(
            argv,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=patience,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return 1, "", f"no answer in {patience:g} s"
    lines = [line.removeprefix("srun: ").removeprefix("error: ") for line in done.stderr.splitlines()]
    return done.returncode, done.stdout, lines[-1] if lines else ""


_QUESTION_PATIENCE = 5.0  # seconds
_START_PATIENCE = 5  # seconds for a node to become free
_CLOCK_TOLERANCE = 2.0  # seconds
_PROGRAM = """
import json, os, sys, time
node = os.environ.get("SLURMD_NODENAME") or os.uname().nodename
seen = {"node": node, "at": time.time(), "sees_folder": os.path.exists(sys.argv[1]), "user": os.getuid()}
print(json.dumps(seen))
"""
