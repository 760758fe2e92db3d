"""One attempt on a node of a cluster: start its program there, and say how that ended.

The launcher copies this file to the folder that it shares with the nodes, and srun runs the copy. So it needs
nothing but Python 3.8 on the node. srun's own exit code proves nothing: it is 0 after some kinds of failure.
What counts is what this program reports on its stderr, which srun passes on, and in files of the attempt's
folder, in case srun is gone by then:

* `lock`: locked while the program runs, by every process that has inherited its descriptor.
* `claim.N`: who made it first decides whether the N-th submission of the attempt runs: this program, or the
  launcher, which then knows that it never will.
* `outcome`: how the program ended; it appears as a whole, or not at all.
* `over`: the attempt has ended without an outcome; the launcher makes it.
* `result`: what a class job writes.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import shutil
import signal
import sys
import time
from contextlib import suppress

MARK = "bgd-node: "
_MAX_NAMED = 5  # leftover processes
_MAX_NODES = 200  # characters of their names
_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_PR_SET_CHILD_SUBREAPER = 36
_SURVIVED = ("HUP", "INT", "QUIT", "USR1", "USR2", "PIPE", "ALRM", "TERM", "XCPU", "XFSZ", "WINCH")


def main() -> int:
    """Run the attempt that the arguments name; return its exit code, as a shell counts it."""
    if os.environ.get("SLURM_PROCID", "0") != "0":
        return 0  # a job of several nodes runs on the first
    folder, number, grace, cwd, umask, stdin, with_result, *argv = sys.argv[1:]
    for name in _SURVIVED:  # a signal is for the program; a handler is not inherited, as SIG_IGN would be
        signal.signal(getattr(signal, f"SIG{name}"), lambda *_: None)
    try:
        lock = os.open(os.path.join(folder, "lock"), os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        sys.stderr.write(f"{folder} on {os.uname().nodename}: {error.strerror}: do the nodes share it?\n")
        return 1
    fcntl.flock(lock, fcntl.LOCK_EX)
    if not _claim(folder, number):
        return 0
    result = _result_file(folder) if with_result == "1" else -1
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)  # orphans stay below this process
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        _become(argv, cwd, int(umask, 8), stdin, [lock] if result < 0 else [lock, result], writer)
    os.close(writer)
    _report("started", _whereabouts(pid))
    _, status, usage = os.wait4(pid, 0)
    code = os.WEXITSTATUS(status) if os.WIFEXITED(status) else -os.WTERMSIG(status)
    finished_at = time.time()
    outcome = {
        "code": code,
        "leftovers": _end_leftovers(float(grace)),
        "problem": os.read(reader, 4096).decode(errors="replace"),  # its end is closed by an exec
        "finished_at": finished_at,
        "user_seconds": round(usage.ru_utime, 6),
        "system_seconds": round(usage.ru_stime, 6),
        "max_rss_bytes": usage.ru_maxrss * 1024,
    }
    _write_outcome(folder, outcome)
    _report("ended", outcome)
    return code if code >= 0 else 128 - code


def _claim(folder: str, number: str) -> bool:
    """Return whether this program is the one to run the attempt's submission of this number."""
    claim = os.path.join(folder, f"claim.{number}")
    new = f"{claim}.node"
    with open(new, "w") as file:
        json.dump(_whereabouts(os.getpid()), file)
    try:
        os.link(new, claim)  # whoever reads it finds all of it
    except FileExistsError:
        return False
    return True


def _whereabouts(pid: int) -> dict[str, object]:
    job, step = os.environ.get("SLURM_JOB_ID"), os.environ.get("SLURM_STEP_ID")
    return {"node": _nodes(), "pid": pid, "step": f"{job}.{step}" if job and step else ""}


def _result_file(folder: str) -> int:
    return os.open(os.path.join(folder, "result"), os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)


def _become(argv: list[str], cwd: str, umask: int, stdin: str, kept: list[int], writer: int) -> None:
    """Become the program; if that fails, write why, and end."""
    try:
        ctypes.CDLL(None).prctl(
            _PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0
        )  # if Slurm kills this program alone
        os.setsid()
        os.umask(umask)
        os.dup2(1, 2)  # one stream: two would lose the order of their lines on the way
        for fd in kept:
            os.set_inheritable(fd, True)
        if len(kept) > 1:
            os.environ["BGD_RESULT_FD"] = str(kept[1])
        what = "no such directory", cwd
        os.chdir(cwd)
        if stdin != "-":
            what = "no input", stdin
            os.dup2(os.open(stdin, os.O_RDONLY), 0)
        what = "program not found", argv[0]
        os.execvp(argv[0], argv)  # noqa: S606  no shell
    except OSError as error:
        kind, name = what
        if kind == "program not found" and shutil.which(name, os.F_OK) is not None:
            kind = "not executable"
        reason = "" if kind == "program not found" else f": {error.strerror}"
        os.write(writer, f"{kind}: {name} on node {_node()}{reason}".encode()[:4096])
    finally:
        os._exit(127)


def _end_leftovers(grace: float) -> str:
    """End what the program left running: TERM, and KILL after the grace time; return what it was, in words.

    Slurm does this only where its nodes have control groups.
    """
    left = _descendants()
    found = ", ".join(f"{_name_of(pid)} (pid {pid})" for pid in left[:_MAX_NAMED])
    found += f" and {len(left) - _MAX_NAMED} more" if len(left) > _MAX_NAMED else ""
    signal.signal(signal.SIGALRM, _end_grace)
    try:
        _signal_all(left, signal.SIGTERM)
        signal.setitimer(signal.ITIMER_REAL, max(grace, 0.001))
        _wait_for_all()
    except _GraceOver:
        pass
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    while left := _descendants():
        _signal_all(left, signal.SIGKILL)
        _wait_for_all()
    return found


class _GraceOver(Exception):
    """The grace time of leftovers is over."""


def _end_grace(*_: object) -> None:
    raise _GraceOver


def _signal_all(pids: list[int], signum: int) -> None:
    for pid in pids:
        for each in (signum, signal.SIGCONT):
            with suppress(OSError):  # it has ended, or became another user's
                os.kill(pid, each)


def _wait_for_all() -> None:
    try:
        while True:
            os.waitpid(-1, 0)
    except ChildProcessError:
        pass


def _descendants() -> list[int]:
    parents: dict[int, list[int]] = {}
    for name in filter(str.isdecimal, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/stat", "rb") as file:
                state, parent = file.read().rpartition(b")")[2].split()[:2]
        except OSError:  # it has ended
            continue
        if state != b"Z":
            parents.setdefault(int(parent), []).append(int(name))
    found = list(parents.get(os.getpid(), []))
    for pid in found:
        found += parents.get(pid, [])
    return found


def _name_of(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as file:
            return file.read().strip()
    except OSError:
        return "a process"


def _write_outcome(folder: str, outcome: dict[str, object]) -> None:
    new = os.path.join(folder, "outcome.new")
    fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    os.write(fd, json.dumps(outcome).encode())
    os.fsync(fd)
    os.close(fd)
    os.replace(new, os.path.join(folder, "outcome"))
    parent = os.open(folder, os.O_RDONLY)
    os.fsync(parent)
    os.close(parent)


def _report(what: str, details: dict[str, object]) -> None:
    with suppress(OSError):  # slurmstepd was killed: what is in the folder counts
        os.write(2, f"{MARK}{json.dumps({what: details})}\n".encode())


def _nodes() -> str:
    """Return the name of the node, or of all that the job has, as Slurm writes them: n[1-4]."""
    if os.environ.get("SLURM_JOB_NUM_NODES", "1") == "1":
        return _node()
    return os.environ.get("SLURM_JOB_NODELIST", _node())[:_MAX_NODES]


def _node() -> str:
    return os.environ.get("SLURMD_NODENAME") or os.uname().nodename


if __name__ == "__main__":
    sys.exit(main())
