"""How fast do no-op commands go through, durably, end to end? P4, beside xargs and task-spooler."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time

from bgd.core.spec import JobSpec
from bgd.wire.replies import Submitted
from bgd.wire.requests import SubmitMany
from tests.bench.harness import ENVIRONMENT, BareClient, daemon, report, spread

JOBS = 2_000
PART = 500  # jobs in one frame


def bgd_rate(path: str) -> float:
    client = BareClient(path)
    spec = JobSpec(argv=("/bin/true",), cwd="/", umask=0o022)
    began = time.perf_counter()
    parts = [
        SubmitMany(id=1, specs=[spec] * PART, env=ENVIRONMENT, more=start + PART < JOBS)
        for start in range(0, JOBS, PART)
    ]
    client.send(*parts)
    reply = client.receive()
    assert isinstance(reply, Submitted), reply
    client.wait(reply.jobs)
    return JOBS / (time.perf_counter() - began)


def xargs_rate(slots: int) -> float:
    began = time.perf_counter()
    numbers = "\n".join(["-"] * JOBS).encode()
    subprocess.run(["xargs", f"-P{slots}", "-n1", "/bin/true"], input=numbers, check=True)
    return JOBS / (time.perf_counter() - began)


def tsp_rate(slots: int) -> float | None:
    """Return task-spooler's jobs a second; None where it is not installed."""
    tsp = shutil.which("tsp")
    if tsp is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        env = os.environ | {"TS_SOCKET": f"{folder}/socket", "TMPDIR": folder, "TS_MAXFINISHED": "2000"}
        jobs = 300  # each waits as a process of its own
        subprocess.run([tsp, "-S", str(slots)], env=env, check=True)
        began = time.perf_counter()
        for _ in range(jobs):
            subprocess.run([tsp, "-n", "/bin/true"], env=env, check=True, stdout=subprocess.DEVNULL)
        subprocess.run([tsp, "-w"], env=env, check=True)
        rate = jobs / (time.perf_counter() - began)
        subprocess.run([tsp, "-K"], env=env, check=True)
        return rate


def main(rounds: int) -> None:
    for slots in (2, 8):
        ours, theirs, spooler = [], [], []
        with daemon(slots) as running:
            for _ in range(rounds):
                ours.append(bgd_rate(running.socket))
                theirs.append(xargs_rate(slots))
                spooler.append(tsp_rate(slots))
        found = [rate for rate in spooler if rate is not None]
        report(
            "commands",
            slots=slots,
            bgd_jobs_a_second=spread(ours),
            xargs_jobs_a_second=spread(theirs),
            ratio_of_medians=round(sorted(ours)[len(ours) // 2] / sorted(theirs)[len(theirs) // 2], 2),
            task_spooler_jobs_a_second=spread(found) if found else "not installed",
        )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
