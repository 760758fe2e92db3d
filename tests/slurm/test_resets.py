"""A machine is reset while jobs are on a real Slurm, bgd's own or a node: no attempt runs beside another."""

from __future__ import annotations

import os
import pwd
import random
import select
import signal
import subprocess
import tempfile
import time
import uuid
from collections import Counter
from contextlib import suppress
from pathlib import Path

import pytest

from bgd import Client, Outcome
from bgd.core.job import FINAL
from bgd.system.clock import elapsed
from tests.end_to_end.load import SCRIPT as TRUTH_SCRIPT
from tests.end_to_end.records import AttemptRecords
from tests.faults.figures import record, seconds, times
from tests.faults.power import Disk, why_not
from tests.slurm.gate import kill
from tests.slurm.test_slurm import started
from tests.slurm.test_slurm_chaos import PATIENCE, Chaos, check_attempt, command_of, parent_of
from tests.slurm.two_nodes import AS_USER, USER, serving_as_user, tree_of
from tests.support import DEADLINE, Daemon, wait_until

# Run a program as after a boot: by another id, on a clock that began some seconds ago
BOOT = 'mount --bind "$0" /proc/sys/kernel/random/boot_id && exec "$@"'
UPTIME = 10.0  # seconds
CUTS = times(20, 1)  # of the power
JOBS = 12  # before each
LATEST = seconds(6.0, 1.0)  # from their submission to the cut
WHAT = "the power of bgd's machine is cut while its jobs are on a Slurm of two nodes"
# Note the start; fail if another attempt of the job runs; wait until a file is there
SCRIPT = """
exec 9>>"$0.lock"
flock -n 9 || exit 99
echo start >>"$0.starts"
echo ready
while [ ! -e "$0.open" ]; do sleep 0.02; done
exit "$1"
"""


class Load:
    """Jobs on the cluster. Each notes that it starts, and runs until the test lets it end."""

    def __init__(self, client: Client, folder: str) -> None:
        self._client = client
        self._folder = folder

    def submit(self, name: str, code: int = 0, **options):
        argv = ["sh", "-c", SCRIPT, f"{self._folder}/{name}", str(code)]
        return self._client.submit(argv, executor="cluster", retries=0, **options)

    def let_end(self, name: str) -> None:
        Path(f"{self._folder}/{name}.open").touch()

    def starts(self, name: str) -> int:
        path = Path(f"{self._folder}/{name}.starts")
        return len(path.read_text().splitlines()) if path.exists() else 0


@pytest.fixture
def folder():
    with tempfile.TemporaryDirectory(prefix="resets-") as path:
        os.chown(path, pwd.getpwnam(USER).pw_uid, -1)
        Path(path).chmod(0o755)
        yield path


def cut_power(daemon: Daemon, client: Client) -> None:
    """Kill everything on this machine at one instant, but not Slurm's daemons and what nodes run."""
    launcher = client.info().launcher_pid
    assert launcher is not None
    kill(daemon.process.pid, *tree_of(launcher))
    daemon.process.wait()


def boot(daemon: Daemon) -> None:
    """Start bgd as after a reboot."""
    boot_id = daemon.folder / "boot_id"
    boot_id.write_text(f"{uuid.uuid4()}\n")
    ahead = f"--boottime={UPTIME - elapsed():.0f}"
    daemon.prefix = ("unshare", "--mount", "--time", ahead, "sh", "-c", BOOT, str(boot_id), *AS_USER)
    daemon.start()


def test_bgds_machine_is_reset_and_jobs_on_nodes_keep_their_true_ends(slurm, folder):
    with serving_as_user(slurm, keep_idle="30s") as daemon:
        with daemon.client() as client:
            load = Load(client, folder)
            lasting = started(load.submit("lasting", 4, rerun=True))
            ending = started(load.submit("ending", 5, rerun=True))
            dying = started(load.submit("dying", rerun=False, cpus=2))
            waiting = load.submit("waiting", 6, rerun=True, cpus=2)
            local = started(client.submit(["sh", "-c", "echo ready; sleep 1000"], rerun=False))
            wait_until(lambda: waiting.refresh().needs_node)
            chaos = Chaos(slurm, daemon, f"bgd-{client.info().store_id}-")
            cut_at = time.time()
            cut_power(daemon, client)
        load.let_end("ending")
        wait_until(lambda: not runs(f"{folder}/ending"))
        kill(*[parent_of(pid) for pid in runs(f"{folder}/dying")])
        boot(daemon)
        with daemon.client() as client:
            client.wait([ending.id, dying.id, local.id], timeout=2 * DEADLINE)
            load.let_end("lasting")
            load.let_end("waiting")
            jobs = client.wait(
                [job.id for job in (lasting, ending, dying, waiting, local)], timeout=2 * DEADLINE
            )
            assert [job.exit_code for job in jobs[:2]] == [4, 5]
            assert [job.outcome for job in jobs[2:]] == [Outcome.UNKNOWN, Outcome.EXIT, Outcome.INTERRUPTED]
            [[attempt], [_]] = [job.attempts() for job in jobs[:2]]
            assert attempt.started_at is not None
            assert attempt.started_at < cut_at
            assert (attempt.run_seconds or 0) > (attempt.finished_at or 0) - cut_at
            assert [load.starts(name) for name in ("lasting", "ending", "dying", "waiting")] == [1] * 4
            chaos.wait(client, lambda: not [each for each in chaos.held() if "-pilot-" not in each])
    wait_until(lambda: not chaos.held())


def runs(script: str) -> list[int]:
    """Return the shells that run a job of a load."""
    found = [int(each.name) for each in Path("/proc").glob("[0-9]*")]
    return [pid for pid in found if command_of(pid).startswith(f"sh\0-c\0{SCRIPT}\0{script}\0")]


def test_what_pilots_run_without_a_record_has_ended_before_it_runs_again(slurm, folder):
    with serving_as_user(slurm, keep_idle="30s") as daemon:
        journal = daemon.folder / ".local/state/bgd/launcher.journal"
        with daemon.client() as client:
            load = Load(client, folder)
            known = started(load.submit("known", 4, rerun=True))
            on_disk = journal.read_bytes()
            beside = started(load.submit("beside", 5, rerun=True))
            elsewhere = started(load.submit("elsewhere", 6, rerun=True, cpus=2))
            cut_power(daemon, client)
        journal.write_bytes(on_disk)
        boot(daemon)
        with daemon.client() as client:
            wait_until(lambda: load.starts("beside") == load.starts("elsewhere") == 2)
            for name in ("known", "beside", "elsewhere"):
                load.let_end(name)
            jobs = client.wait([known.id, beside.id, elsewhere.id], timeout=2 * DEADLINE)
            assert [job.exit_code for job in jobs] == [4, 5, 6]
            outcomes = [[each.outcome for each in job.attempts()] for job in jobs]
    again = [Outcome.INTERRUPTED, Outcome.EXIT]
    assert outcomes == [[Outcome.EXIT], again, again]


def test_a_node_is_reset_and_its_jobs_run_again(slurm, client, folder):
    load = Load(client, folder)
    again = started(load.submit("again", 7, rerun=True, cpus=2))
    once = started(load.submit("once", rerun=False, cpus=2))

    for node in ("n1", "n2"):
        slurm.reset_node(node)

    assert once.wait(2 * DEADLINE).outcome in {Outcome.UNKNOWN, Outcome.INTERRUPTED}
    wait_until(lambda: load.starts("again") == 2)
    load.let_end("again")
    assert again.wait(DEADLINE).exit_code == 7
    assert load.starts("once") == 1
    slurm.wait_until_idle()


# --- the power is cut, so that what was not synced is lost, too


def test_no_power_cut_loses_a_job_on_a_node_or_starts_one_twice(slurm, folder):
    missing = why_not()
    if missing is not None:
        pytest.skip(f"NO POWER WAS CUT: {missing}")
    Path(folder, "truth").touch()
    Path(folder, "truth").chmod(0o666)
    with Disk() as disk:
        disk.path.parent.chmod(0o755)
        home = home_on(disk, folder)
        with serving_as_user(slurm, keep_idle="3s", home=home) as daemon:
            daemon.stop()
            boot(daemon)
            jobs = ShortJobs(folder)
            with daemon.client() as client:  # whose first files are on the disk then
                client.submit(["true"], executor="cluster").wait(PATIENCE)
            subprocess.run(["sync", "--file-system", home], check=True)
            for _ in range(CUTS):
                with daemon.client() as client:
                    jobs.submit(client)
                    jobs.run(client)
                    cut_power_and_disk(daemon, disk)
                boot(daemon)
            with daemon.client() as client:
                client.wait(jobs.ids, timeout=PATIENCE)
                outcomes = jobs.check(client)
                chaos = Chaos(slurm, daemon, f"bgd-{client.info().store_id}-")
        wait_until(lambda: not chaos.held())
    ends = {f"ends_{outcome}": count for outcome, count in sorted(outcomes.items())}
    never = {"lost": 0, "started_twice": 0, "ended_twice": 0, "wrong_codes": 0, "left": 0}
    record(WHAT, cuts=CUTS, jobs=len(jobs.ids), **ends, **never)


def home_on(disk: Disk, folder: str) -> Path:
    """Return a home on a disk; what jobs on nodes share is elsewhere."""
    home = disk.path / "home"
    home.mkdir(mode=0o755)
    shared = Path(folder, "shared")
    shared.mkdir()
    os.chown(shared, pwd.getpwnam(USER).pw_uid, -1)
    (home / "shared").symlink_to(shared)
    return home


class ShortJobs:
    """Jobs that note their starts and ends in a folder."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._dice = random.Random(CUTS)
        self.ids: list[int] = []

    def submit(self, client: Client) -> None:
        for _ in range(JOBS):
            code = self._dice.choice((0, 0, 3, 4))
            runs = LATEST * self._dice.choice((0.05, 0.2, 0.2, 0.4, 1.0))
            words = ("power", self._folder, f"{runs:g}", str(code), str(code))
            job = client.submit(
                ["sh", "-c", TRUTH_SCRIPT, *words],
                executor="cluster",
                rerun=self._dice.random() < 0.8,
                retries=0,
            )
            self.ids.append(job.id)

    def run(self, client: Client) -> None:
        """Return after a while; perhaps the launcher was killed on the way, so that another one began."""
        select.select([], [], [], self._dice.uniform(0.05, 1.0) * LATEST)
        launcher = client.info().launcher_pid
        if launcher is not None and self._dice.random() < 0.5:
            with suppress(ProcessLookupError):
                os.kill(launcher, signal.SIGKILL)
            select.select([], [], [], self._dice.uniform(0.0, 1.0))

    def check(self, client: Client) -> Counter[str]:
        """Compare what the daemon says of each attempt with what it noted; count the outcomes."""
        records, outcomes = AttemptRecords.read(Path(self._folder, "truth")), Counter[str]()
        for job in self.ids:
            view, attempts = client.view(job), client.attempts(job)
            assert view.state in FINAL
            for each in attempts:
                key = job, each.attempt
                check_attempt(each, records.starts[key], records.codes.get(key))
                outcomes[str(each.outcome)] += 1
            if view.outcome is Outcome.SUCCEEDED:
                assert sum(each.outcome is Outcome.SUCCEEDED for each in attempts) == 1
        return outcomes


def cut_power_and_disk(daemon: Daemon, disk: Disk) -> None:
    """Cut the power of the disk, and of all that runs on bgd's machine: it has a namespace of its own."""
    namespace = Path(f"/proc/{daemon.process.pid}/ns/mnt").readlink()
    for pid in processes_in(namespace):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
    disk.cut()
    while pids := processes_in(namespace):  # some may have been forked meanwhile
        kill(*pids)
    daemon.process.wait()
    disk.restore()


def processes_in(namespace: Path) -> list[int]:
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended
            if (process / "ns/mnt").readlink() == namespace:
                found.append(int(process.name))
    return found
