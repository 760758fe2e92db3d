"""How fast do no-op commands go through, durably, end to end? P4, beside peers.

xargs, GNU parallel and HyperQueue keep nothing on disk; to task-spooler, nq and pueue each job is handed by a
program of its own.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from bgd.core.spec import JobSpec
from tests.bench import installing
from tests.bench.harness import ENVIRONMENT, BareClient, daemon, report, spread, submitted_many
from tests.bench.options import Peers, arguments
from tests.support import wait_until

HYPERQUEUE = Path(__file__).with_name("class_jobs") / "commands_of_hyperqueue.py"

JOBS = 2_000
SLOW_JOBS = 300  # of systems that take milliseconds for each
QUICK = 0.1  # of the jobs, to try


def bgd_rate(path: str, jobs: int) -> float:
    client = BareClient(path)
    spec = JobSpec(argv=("/bin/true",), cwd="/", umask=0o022)
    began = time.perf_counter()
    client.wait(submitted_many(client, [spec] * jobs, ENVIRONMENT))
    return jobs / (time.perf_counter() - began)


def xargs_rate(slots: int, share: float) -> float:
    jobs = round(JOBS * share)
    began = time.perf_counter()
    numbers = "\n".join(["-"] * jobs).encode()
    subprocess.run(["xargs", f"-P{slots}", "-n1", "/bin/true"], input=numbers, check=True)
    return jobs / (time.perf_counter() - began)


def parallel_rate(slots: int, share: float) -> float:
    path, environment = installing.program("parallel")
    jobs = round(SLOW_JOBS * share)
    numbers = "\n".join(["-"] * jobs).encode()
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        command = [path, "--will-cite", f"-j{slots}", "-n1", "/bin/true"]
        subprocess.run(command, input=numbers, env=environment | {"HOME": folder}, check=True)
        return jobs / (time.perf_counter() - began)


def tsp_rate(slots: int, share: float) -> float:
    path, environment = installing.program("tsp")
    with tempfile.TemporaryDirectory() as folder:
        env = environment | {"TS_SOCKET": f"{folder}/socket", "TMPDIR": folder, "TS_MAXFINISHED": "2000"}
        jobs = round(SLOW_JOBS * share)  # each waits in a process of its own
        subprocess.run([path, "-S", str(slots)], env=env, check=True)
        began = time.perf_counter()
        for _ in range(jobs):
            subprocess.run([path, "-n", "/bin/true"], env=env, check=True, stdout=subprocess.DEVNULL)
        subprocess.run([path, "-w"], env=env, check=True)
        rate = jobs / (time.perf_counter() - began)
        subprocess.run([path, "-K"], env=env, check=True)
        return rate


def nq_rate(slots: int, share: float) -> float:
    """Return nq's jobs a second; a queue runs one job at a time, so there is a queue for each slot."""
    path, environment = installing.program("nq")
    jobs = round(SLOW_JOBS * share)
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


def hyperqueue_rate(slots: int, share: float) -> float:
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [installing.peers_python(), HYPERQUEUE, str(round(JOBS * share)), str(slots)],
            env={"HOME": folder, "PATH": os.environ["PATH"]},
            cwd=folder,
            capture_output=True,
            check=True,
        )
    return float(done.stdout.split()[-1])


def pueue_rate(slots: int, share: float) -> float:
    if shutil.which("pueued") is None:
        raise RuntimeError("pueued is not on PATH")
    jobs = round(SLOW_JOBS * share)
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


PEERS: dict[str, Callable[[int, float], float]] = {
    "xargs": xargs_rate,
    "parallel": parallel_rate,
    "task_spooler": tsp_rate,
    "nq": nq_rate,
    "hyperqueue": hyperqueue_rate,
    "pueue": pueue_rate,
}


def main() -> None:
    options = arguments(__doc__, rounds=5)
    share = QUICK if options.quick else 1.0
    chosen = {"xargs": xargs_rate} if options.no_peers else PEERS
    peers = Peers()
    for slots in (2, 8):
        rates: dict[str, list[float]] = {}
        with daemon(slots) as running:
            for _ in range(options.rounds):
                rates.setdefault("bgd", []).append(bgd_rate(running.socket, round(JOBS * share)))
                for name, peer in chosen.items():
                    if (rate := peers.ask(name, partial(peer, slots, share))) is not None:
                        rates.setdefault(name, []).append(rate)
        median = {name: statistics.median(values) for name, values in rates.items()}
        ratios = {"p4_share_of_xargs": "xargs", "p4_times_task_spooler": "task_spooler"}
        report(
            "commands",
            slots=slots,
            **{f"{name}_jobs_a_second": spread(values) for name, values in rates.items()},
            **{
                name: round(median["bgd"] / median[peer], 2)
                for name, peer in ratios.items()
                if peer in median
            },
            missing=peers.missing,
        )


if __name__ == "__main__":
    main()
