"""How fast do no-op commands go through, durably, end to end? P4, beside peers.

xargs, GNU parallel and HyperQueue keep nothing on disk; to task-spooler, nq and pueue each job is handed by a
program of its own.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from bgd.core.spec import JobSpec
from bgd.wire.replies import Submitted
from bgd.wire.requests import SubmitMany
from tests.bench import installing
from tests.bench.harness import ENVIRONMENT, BareClient, daemon, report, spread
from tests.support import wait_until

HYPERQUEUE = Path(__file__).with_name("class_jobs") / "commands_of_hyperqueue.py"

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


def parallel_rate(slots: int) -> float:
    path, environment = installing.program("parallel")
    jobs = 300  # each takes about 20 ms
    numbers = "\n".join(["-"] * jobs).encode()
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        command = [path, "--will-cite", f"-j{slots}", "-n1", "/bin/true"]
        subprocess.run(command, input=numbers, env=environment | {"HOME": folder}, check=True)
        return jobs / (time.perf_counter() - began)


def tsp_rate(slots: int) -> float:
    path, environment = installing.program("tsp")
    with tempfile.TemporaryDirectory() as folder:
        env = environment | {"TS_SOCKET": f"{folder}/socket", "TMPDIR": folder, "TS_MAXFINISHED": "2000"}
        jobs = 300  # each waits in a process of its own
        subprocess.run([path, "-S", str(slots)], env=env, check=True)
        began = time.perf_counter()
        for _ in range(jobs):
            subprocess.run([path, "-n", "/bin/true"], env=env, check=True, stdout=subprocess.DEVNULL)
        subprocess.run([path, "-w"], env=env, check=True)
        rate = jobs / (time.perf_counter() - began)
        subprocess.run([path, "-K"], env=env, check=True)
        return rate


def nq_rate(slots: int) -> float:
    """Return nq's jobs a second; a queue runs one job at a time, so there is a queue for each slot."""
    path, environment = installing.program("nq")
    jobs = 300
    with tempfile.TemporaryDirectory() as folder:
        queues = [{**environment, "NQDIR": f"{folder}/{number}"} for number in range(slots)]
        for queue in queues:
            Path(queue["NQDIR"]).mkdir()
        began = time.perf_counter()
        for number in range(jobs):
            subprocess.run([path, "-q", "/bin/true"], env=queues[number % slots], check=True)
        for queue in queues:
            subprocess.run([path, "-w"], env=queue, check=True)
        return jobs / (time.perf_counter() - began)


def hyperqueue_rate(slots: int) -> float:
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [installing.peers_python(), HYPERQUEUE, str(JOBS), str(slots)],
            env={"HOME": folder, "PATH": os.environ["PATH"]},
            cwd=folder,
            capture_output=True,
            check=True,
        )
    return float(done.stdout.split()[-1])


def pueue_rate(slots: int) -> float | None:
    """Return pueue's jobs a second; None if it is not on PATH."""
    if shutil.which("pueued") is None:
        return None
    jobs = 300
    with tempfile.TemporaryDirectory() as folder:
        environment = {"HOME": folder, "PATH": os.environ["PATH"], "XDG_RUNTIME_DIR": folder}
        daemon = subprocess.Popen(["pueued"], env=environment, stdout=subprocess.DEVNULL)
        try:
            wait_until(
                lambda: subprocess.run(["pueue", "status"], env=environment, check=False).returncode == 0
            )
            subprocess.run(["pueue", "parallel", str(slots)], env=environment, check=True)
            began = time.perf_counter()
            for _ in range(jobs):
                command = ["pueue", "add", "--print-task-id", "--", "/bin/true"]
                subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, check=True)
            subprocess.run(["pueue", "wait", "--quiet"], env=environment, check=True)
            return jobs / (time.perf_counter() - began)
        finally:
            daemon.terminate()
            daemon.wait()


PEERS: dict[str, Callable[[int], float | None]] = {
    "xargs": xargs_rate,
    "parallel": parallel_rate,
    "task_spooler": tsp_rate,
    "nq": nq_rate,
    "hyperqueue": hyperqueue_rate,
    "pueue": pueue_rate,
}


def main(rounds: int) -> None:
    for slots in (2, 8):
        rates: dict[str, list[float]] = {}
        with daemon(slots) as running:
            for _ in range(rounds):
                rates.setdefault("bgd", []).append(bgd_rate(running.socket))
                for name, peer in PEERS.items():
                    if (rate := peer(slots)) is not None:
                        rates.setdefault(name, []).append(rate)
        median = {name: statistics.median(values) for name, values in rates.items()}
        report(
            "commands",
            slots=slots,
            **{f"{name}_jobs_a_second": spread(values) for name, values in rates.items()},
            p4_share_of_xargs=round(median["bgd"] / median["xargs"], 2),
            p4_times_task_spooler=round(median["bgd"] / median["task_spooler"], 2),
            missing=[name for name in PEERS if name not in rates],
        )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
