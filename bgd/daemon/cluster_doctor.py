"""Check that each executor of kind slurm can run jobs: programs, controller, user, shared folder, clock."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from functools import partial
from pathlib import Path

import msgspec
from msgspec import Struct

from bgd import __version__
from bgd.core.spec import JobSpec
from bgd.daemon.launches import own_options, slurm_variables
from bgd.errors import ConfigError
from bgd.settings.config import ExecutorConfig
from bgd.settings.paths import make_cluster_folder
from bgd.wire.slurm import is_incurable, message_in
from bgd.wire.views import Finding, Level

# What a check returns; its subject stands in the list of checks
ok = partial(Finding, "", Level.OK)
note = partial(Finding, "", Level.NOTE)
warning = partial(Finding, "", Level.WARNING)
problem = partial(Finding, "", Level.PROBLEM)


def check_cluster(executor: ExecutorConfig) -> Finding:
    """Return a finding about an executor of kind slurm. It costs a short job in Slurm."""
    for name in ("sbatch", "srun", "squeue", "scancel", "sinfo"):
        if shutil.which(name, path=slurm_variables(executor).get("PATH")) is None:
            remedy = "install Slurm's client programs (Debian: slurm-client) where the PATH of bgd finds them"
            return problem(f"there is no {name}", remedy)
    if executor.conf and not Path(executor.conf).exists():
        return problem(
            f"its conf {executor.conf} does not exist", "set conf to the slurm.conf of this machine"
        )
    code, _, words = _run(executor, ["squeue", "--me", "--noheader"], _QUESTION_PATIENCE)
    if code:
        is_run = code not in _NOT_RUN
        what = "Slurm's controller cannot be reached" if is_run else "squeue does not run"
        return problem(f"{what}: {words}", _SEE_CONTROLLER if is_run else _SEE_PROGRAM)
    probe = Path(executor.folder, f"probe-{os.getpid()}")
    try:
        make_cluster_folder(Path(executor.folder))
        probe.touch()
    except ConfigError as error:
        message, _, remedy = str(error).partition(": ")
        return problem(message, remedy)
    except OSError as error:
        message = f"its folder {executor.folder} cannot be written: {error.strerror}"
        return problem(message, "make it a folder of yours that the nodes share")
    try:
        return _probe(executor, str(probe))
    finally:
        probe.unlink(missing_ok=True)


class _Seen(Struct):
    """What the probe sees on a node."""

    node: str
    at: float
    sees_folder: bool
    user: int
    bgd: str  # its version; empty: it has none
    problem: str  # why it has none


def _probe(executor: ExecutorConfig, probe: str) -> Finding:
    wait = ["srun", *own_options(JobSpec(), executor), "--nodes=1", "--ntasks=1", "--quiet", "--chdir=/"]
    argv = [*wait, f"--immediate={_START_PATIENCE}", executor.python, "-c", _PROGRAM, probe]
    began = time.time()
    code, text, words = _run(executor, argv, _START_PATIENCE + _QUESTION_PATIENCE)
    ended = time.time()
    if code == 0:
        said = text.rstrip().rpartition("\n")[2]  # a prolog of the site may write before
        return _finding_on_node(executor, msgspec.json.decode(said, type=_Seen), (began, ended))
    if words.endswith("busy") or words.startswith("no answer"):
        pending = ["squeue", "--me", "--noheader", "--states=PENDING", "--format=%r"]
        _, text, _ = _run(executor, pending, _QUESTION_PATIENCE)
        reasons = ", ".join(dict.fromkeys(text.splitlines()))  # for example the name of a limit
        why = f" ({reasons})" if reasons else ""
        message = f"no node is free now{why}, so its folder and clocks were not checked"
        return note(message, "run `bgctl doctor` again when a node is free")
    if _NO_PROGRAM in words:
        why = words.partition(_NO_PROGRAM)[2].partition(";")[0]
        message = f"a node cannot run python of the executor: {why}"
        return problem(message, f"install bgd there by this path, {_OR_SET}")
    if _REFUSED in words and not is_incurable(words):
        message = f"Slurm refuses a job for now, so its folder and clocks were not checked: {words}"
        return warning(message, "jobs wait until Slurm takes them; `bgctl explain` says why")
    remedy = "see that your user exists on the nodes with the same number, and the keys of the executor"
    return problem(f"no node runs a job of user {os.getuid()}: {words}", remedy)


def _finding_on_node(executor: ExecutorConfig, seen: _Seen, between: tuple[float, float]) -> Finding:
    """Return what is wrong on a node that answered between these instants."""
    if seen.user != os.getuid():
        message = f"node {seen.node} runs jobs as user {seen.user}, and you are {os.getuid()}"
        return problem(message, "give your user the same number there")
    if not seen.sees_folder:
        message = f"node {seen.node} does not see {executor.folder}"
        remedy = "set folder to one that this machine and the nodes share"
        return problem(message, remedy)
    if seen.bgd != __version__:
        found = f"bgd {seen.bgd}, and this is {__version__}" if seen.bgd else f"no bgd: {seen.problem}"
        message = f"python of the executor ({executor.python}) on node {seen.node} has {found}"
        return problem(message, f"install this version of bgd there, {_OR_SET}")
    began, ended = between
    if not began - _CLOCK_TOLERANCE <= seen.at <= ended + _CLOCK_TOLERANCE:
        message = f"the clock of node {seen.node} differs by about {abs(seen.at - ended):.0f} s"
        return warning(message, "set the clocks by NTP: files get wrong times")
    return ok(f"node {seen.node} runs jobs and shares {executor.folder}")


def _run(executor: ExecutorConfig, argv: list[str], patience: float) -> tuple[int, str, str]:
    """Return the exit code of a program of Slurm, its output, and what it says of an error.

    It gets what those of the launcher get.
    """
    try:
        done = subprocess.run(
            argv,
            env=slurm_variables(executor),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=patience,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return 1, "", f"no answer in {patience:g} s"
    return done.returncode, done.stdout, message_in(done.stderr) or f"code {done.returncode}"


_QUESTION_PATIENCE = 5.0  # seconds
_START_PATIENCE = 5  # seconds for a node to become free
_CLOCK_TOLERANCE = 2.0  # seconds
_NOT_RUN = (126, 127)  # exit codes of a shell, for example of a site's wrapper, that cannot run a program
_REFUSED = "Unable to allocate resources"  # how srun says that the controller refuses a job
_NO_PROGRAM = "execve(): "  # how slurmstepd says that it cannot run a program
_SEE_CONTROLLER = "see that slurmctld runs, and that conf of the executor names its slurm.conf"
_SEE_PROGRAM = "mend squeue, or set env of the executor to the names of the variables that it needs"
_OR_SET = "or set python to one that has it"
_PROGRAM = """
import json, os, subprocess, sys, time
node = os.environ.get("SLURMD_NODENAME") or os.uname().nodename
seen = {"node": node, "at": time.time(), "sees_folder": os.path.exists(sys.argv[1]), "user": os.getuid()}
asked = [sys.executable, "-P", "-c", "import bgd.launcher.__main__; print(bgd.__version__)"]
done = subprocess.run(asked, stdout=subprocess.PIPE, stderr=subprocess.PIPE, universal_newlines=True)
seen["bgd"], seen["problem"] = done.stdout.strip(), done.stderr.strip().rpartition("\\n")[2]
print(json.dumps(seen))
"""
