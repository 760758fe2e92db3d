"""Short jobs on a real Slurm, while everything that could die does: none is lost, and none starts twice."""

from __future__ import annotations

import math
import os
import random
import select
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from bgd import Client, Job, Outcome, State
from bgd.core.job import FINAL
from bgd.wire.views import AttemptView
from tests.end_to_end.load import SCRIPT
from tests.end_to_end.records import AttemptRecords
from tests.faults.figures import SHARE, record, seconds, times
from tests.slurm.test_slurm import started
from tests.slurm.two_nodes import CPUS, NODES, TwoNodes, serving_as_user
from tests.support import SLOWNESS, Daemon, wait_until

JOBS = times(1000, 30)
SLOTS = 8  # of the daemon
RUNS = seconds(1.0, 0.2)  # seconds that a job runs
LONGER = 0.05  # of the jobs run four times as long: else none would be preempted
PATIENCE = 180.0 * SLOWNESS  # seconds in which something must start or end
AWAY = seconds(5.0, 1.0)  # seconds without a controller, or without a node
ALLOWED = {Outcome.UNKNOWN, Outcome.SIGNAL, Outcome.INTERRUPTED}  # what a fault may make of an attempt
T = TypeVar("T")
WHAT = (
    "jobs on a Slurm of two nodes, while bgd, the launcher, srun, slurmstepd, slurmctld, pilots and their "
    "scripts are killed, a node is lost, and jobs are preempted"
)
# How often each fault is done; a pilot without slurmstepd is only given up after a minute
FAULTS = (
    {
        "bgd": 10,
        "launcher": 10,
        "srun": 10,
        "slurmstepd": 10,
        "pilot": 5,
        "script": 5,
        "slurmctld": 2,
        "node": 2,
        "preemption": 5,
    }
    if SHARE
    else {"bgd": 2, "launcher": 2, "srun": 1, "pilot": 2, "preemption": 1}
)


class Chaos:
    """A cluster, a daemon, a load of jobs that note their starts and ends, and the faults."""

    def __init__(self, cluster: TwoNodes, daemon: Daemon, prefix: str) -> None:
        """`prefix`: of the names of this daemon's jobs in Slurm."""
        self._cluster = cluster
        self._daemon = daemon
        self._dice = random.Random(JOBS)
        self._prefix = prefix
        self._truth = daemon.folder / "truth"
        self._truth.touch()
        self._truth.chmod(0o666)  # jobs are another user's
        self._urgent: list[subprocess.Popen[bytes]] = []
        self.codes: dict[int, tuple[int, int]] = {}  # of acknowledged jobs: of the first attempt, of others
        self.done: Counter[str] = Counter()
        self._cause: dict[str, Callable[[Client], None]] = {
            "bgd": self.kill_bgd,
            "launcher": self.kill_launcher,
            "srun": self._kill_srun,
            "pilot": self._kill_pilot,
            "script": self._kill_script,
            "slurmstepd": self._kill_slurmstepd,
            "slurmctld": self._restart_slurmctld,
            "node": self._lose_node,
            "preemption": self._preempt,
        }

    def run(self, client: Client) -> None:
        """Submit all jobs in portions, with a fault in the middle of each; return when all have finished."""
        faults = [name for name, count in FAULTS.items() for _ in range(count)]
        self._dice.shuffle(faults)
        behind = JOBS // len(faults) // 2 + SLOTS
        for number, name in enumerate(faults):
            self._submit(client, JOBS * (number + 1) // len(faults) - len(self.codes))
            self.wait(client, lambda: self._unfinished(client) <= behind)
            unfinished = self._unfinished(client)
            print(
                f"{time.time() % 1000:.2f} {name}, {unfinished} of {len(self.codes)} unfinished", flush=True
            )
            self._cause[name](client)
            self.done[name] += 1
        self.wait(client, lambda: not self._unfinished(client))
        for urgent in self._urgent:
            assert urgent.wait(PATIENCE) == 0

    def _submit(self, client: Client, count: int) -> None:
        for _ in range(count):
            code = self._dice.choice((0, 0, 0, self._dice.randint(1, 100)))
            first = self._dice.choice((code, code, code, 7))
            runs = RUNS if self._dice.random() > LONGER else 4 * RUNS
            words = ("chaos", str(self._daemon.folder), f"{runs:g}", str(code), str(first))
            job = client.submit(
                ["sh", "-c", SCRIPT, *words],
                executor="cluster",
                rerun=self._dice.random() < 0.7,
                retries=1,
                retry_delay=0.1,
            )
            self.codes[job.id] = first, code

    def _unfinished(self, client: Client) -> int:
        counts = client.info().counts
        return sum(counts[state] for state in State if state not in FINAL)

    def wait(self, client: Client, condition: Callable[[], object]) -> None:
        """Return when the condition holds; fail if nothing more starts or ends."""
        seen: object = None
        deadline = math.inf
        while not condition():
            if (last := client.last_event()) != seen:
                seen, deadline = last, time.monotonic() + PATIENCE
            assert time.monotonic() < deadline, f"it stands still: {client.info()}, {self.left()}"
            select.select([], [], [], 0.1)

    # --- the faults

    def kill_bgd(self, _: Client) -> None:
        self._daemon.process.kill()
        self._daemon.process.wait()
        self._daemon.start()

    def kill_launcher(self, client: Client) -> None:
        while (pid := client.info().launcher_pid) is None:
            select.select([], [], [], 0.02)
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)

    def _kill_srun(self, client: Client) -> None:
        """Kill both processes of one srun."""
        commands = self._some(client, lambda: [each for _, each in self._processes() if is_srun(each)])
        victim = self._dice.choice(commands)
        self._kill([pid for pid, command in self._processes() if command == victim])

    def _kill_pilot(self, client: Client) -> None:
        self._kill([self._dice.choice(self._some(client, self._pilots))])

    def _kill_script(self, client: Client) -> None:
        """Kill a pilot with the batch script that would start it again."""
        pilot = self._dice.choice(self._some(client, self._pilots))
        self._kill([parent_of(pilot), pilot])

    def _pilots(self) -> list[int]:
        return [pid for pid, command in self._processes() if "bgd.launcher\0--pilot" in command]

    def _kill_slurmstepd(self, client: Client) -> None:
        """Kill what watches one step on a node."""
        self._kill([self._dice.choice(self._some(client, self._steps))])

    def _steps(self) -> list[int]:
        """Return what watches steps."""
        parents = {parent_of(pid) for pid, _ in self._processes()}
        return [pid for pid in sorted(parents) if command_of(pid).startswith("slurmstepd")]

    def _some(self, client: Client, find: Callable[[], list[T]]) -> list[T]:
        """Return what `find` finds, once that is anything; submit another job if all have finished."""
        self.wait(client, lambda: find() or not self._unfinished(client))
        found = find()
        if not found and not self._unfinished(client):
            self._submit(client, 1)
        return found or self._some(client, find)  # it may have ended since

    def _restart_slurmctld(self, _: Client) -> None:
        self._cluster.kill_controller()
        select.select([], [], [], AWAY)
        self._cluster.start_controller()

    def _lose_node(self, _: Client) -> None:
        node = self._dice.choice(NODES)
        self._cluster.lose_node(node)
        select.select([], [], [], AWAY)
        self._cluster.restart_node(node)

    def _preempt(self, _: Client) -> None:
        urgent = ["srun", "-p", "high", "-N1", "-c2", "--mem=100M", "true"]
        environ = os.environ | {"SLURM_CONF": str(self._cluster.configuration)}
        self._urgent.append(subprocess.Popen(urgent, env=environ, stdin=subprocess.DEVNULL))

    def _kill(self, pids: list[int]) -> None:
        for signum in (signal.SIGSTOP, signal.SIGKILL):  # none of them reacts to the end of another
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(pid, signum)

    def _processes(self) -> list[tuple[int, str]]:
        """Return the pids and command lines of all processes of this load's attempts."""
        shared = f"{self._daemon.folder}/shared/"
        found = [(int(each.name), command_of(int(each.name))) for each in Path("/proc").glob("[0-9]*")]
        return [(pid, command) for pid, command in found if shared in command]

    # --- the checks

    def check(self, client: Client) -> Counter[str]:
        """Compare what the daemon says of each job with what its attempts noted; count the outcomes."""
        records, outcomes = AttemptRecords.read(self._truth), Counter[str]()
        for job in self.codes:
            view, attempts = client.view(job), client.attempts(job)
            assert view.state in FINAL, f"job {job} has not finished"
            assert view.outcome == attempts[-1].outcome
            assert [each.attempt for each in attempts] == list(range(1, len(attempts) + 1))
            for each in attempts:
                key = job, each.attempt
                check_attempt(each, records.starts[key], records.codes.get(key))
                outcomes[str(each.outcome)] += 1
        ends = Counter(event.job for event in client.events(0, follow=False) if event.state in FINAL)
        assert ends == dict.fromkeys(self.codes, 1), "a job finished more than once"
        return outcomes

    def left(self) -> list[str]:
        """Return what is left in Slurm, among the processes and in the shared folder."""
        shared = self._daemon.folder / "shared"
        return [*self.held(), *(str(path) for path in shared.iterdir() if path.is_dir())]

    def held(self) -> list[str]:
        """Return what is left in Slurm and among the processes."""
        jobs = [name for name in self._cluster.jobs() if name.startswith(self._prefix)]
        return [*jobs, *(command for _, command in self._processes())]


def check_attempt(attempt: AttemptView, starts: int, code: int | None) -> None:
    if attempt.outcome in {Outcome.SUCCEEDED, Outcome.EXIT}:
        assert (starts, attempt.exit_code) == (1, code), attempt
    else:
        assert attempt.outcome in ALLOWED, attempt
        assert starts <= 1


def is_srun(command: str) -> bool:
    return command.startswith("srun\0")


def command_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
    except OSError:  # it has ended
        return ""


def parent_of(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:  # it has ended
        return 0


def test_nothing_is_lost_or_started_twice_whatever_dies(slurm: TwoNodes):
    with serving_as_user(slurm) as daemon, daemon.client() as client:
        chaos = Chaos(slurm, daemon, f"bgd-{client.info().store_id}-")
        chaos.run(client)
        outcomes = chaos.check(client)
        chaos.wait(client, lambda: not chaos.left())
    ends = {f"ends_{outcome}": count for outcome, count in sorted(outcomes.items())}
    never = {"lost": 0, "started_twice": 0, "ended_twice": 0, "wrong_codes": 0, "left": 0}
    record(WHAT, jobs=JOBS, **chaos.done, **ends, **never)


def test_nothing_is_left_after_a_cancel_a_kill_and_a_shutdown(slurm: TwoNodes):
    with serving_as_user(slurm) as daemon, daemon.client() as client:
        chaos = Chaos(slurm, daemon, f"bgd-{client.info().store_id}-")

        client.cancel(fill_nodes(client))
        chaos.wait(client, lambda: not chaos.left())

        jobs = fill_nodes(client)
        chaos.kill_launcher(client)
        chaos.kill_bgd(client)
        client.cancel(jobs)
        chaos.wait(client, lambda: not chaos.left())

        fill_nodes(client)
        daemon.stop()
        wait_until(lambda: not chaos.held())


def fill_nodes(client: Client) -> list[Job]:
    """Return jobs that run on all processors of all nodes, and one that waits for a node."""
    argv = ["sh", "-c", "echo ready; sleep 1000"]
    running = [started(client.submit(argv, executor="cluster")) for _ in range(CPUS * len(NODES))]
    return [*running, client.submit(["sleep", "1000"], executor="cluster")]
