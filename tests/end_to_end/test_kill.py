"""Nothing is lost and nothing starts twice if bgd, the launcher or both are killed."""

import os
import random
import signal
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import pytest

from bgd.core.job import Outcome
from bgd.core.spec import Isolation
from tests.end_to_end.chaos import Rig, is_dying
from tests.end_to_end.checks import check_waits, come_to_rest
from tests.end_to_end.clients import CLIENTS as BUSY_CLIENTS
from tests.end_to_end.clients import MAX_QUEUE_SLOTS, MAX_SLOTS, QUEUES, Clients
from tests.end_to_end.history import History
from tests.end_to_end.load import CLASSES, MODULE, Load
from tests.end_to_end.records import DEPENDENCY_FAILED, AttemptRecords, check_history
from tests.end_to_end.suspension import check_suspended
from tests.end_to_end.watcher import Watcher
from tests.faults.figures import SHARE, record, seconds, times
from tests.launcher.warm.calls import is_worker
from tests.support import wait_until

KILLS = {
    "bgd": times(1000, 8),
    "launcher": times(100, 8),
    "both": times(1000, 8),
    "in turn": times(100, 6),
}
SHORTEST_LIFE = 0.15  # s
# seconds; a launcher needs a while to fill all slots again
LONGEST_LIFE = {
    "bgd": 0.5,
    "launcher": seconds(2.0, 0.5),
    "both": seconds(0.8, 0.5),
    "in turn": seconds(0.8, 0.5),
}
LONGEST_REST = 0.4  # seconds of a launcher without a daemon; many of its jobs end meanwhile
STOPS = times(20, 3)
STOPPED = seconds(3.0, 0.5)  # s
BUSY_CYCLES = times(100, 4)  # each takes longer than a kill
CLIENTS = 8 if SHARE else 4
WHO = {
    "bgd": "bgd",
    "launcher": "the launcher",
    "both": "bgd and the launcher together",
    "in turn": "bgd, and then of the launcher that it has left,",
    "workers": "half of the warm workers",
}


@pytest.fixture
def rig(tmp_path):
    rig = Rig(tmp_path)
    (tmp_path / "truth").touch()
    rig.start()
    yield rig
    rig.close()


@pytest.mark.parametrize("victim", KILLS)
def test_killing_loses_nothing_and_starts_nothing_twice(rig: Rig, victim: str):
    dice = random.Random(victim)
    watcher = Watcher(rig)
    load = Load(rig, CLIENTS, seed=7)
    with load.threads:
        for _ in range(KILLS[victim]):
            load.threads.run_for(dice.uniform(SHORTEST_LIFE, LONGEST_LIFE[victim]))
            launcher = rig.launcher_pid()
            wait_until(lambda: processes_of(rig.folder))  # on a slow machine that takes a while
            if victim != "launcher":
                rig.kill()
            if victim == "in turn":
                load.threads.run_for(dice.uniform(0.0, LONGEST_REST))
            if victim != "bgd":
                os.kill(launcher, signal.SIGKILL)
            if victim != "launcher":
                rig.start()
    assert len(load.acknowledged) > KILLS[victim], "the load was no load"
    load.submit_undisturbed("too slow")  # on a slow machine no other one may live up to its time limit
    outcomes = check_history(rig, load, watcher, may_be_unseen=victim != "bgd")
    assert outcomes["succeeded"] > KILLS[victim]
    assert outcomes["timeout"] > 0
    if victim != "bgd":
        assert outcomes["unknown"] > 0, "no kill ever met a running attempt"
    assert processes_of(rig.folder) == []
    told(
        f"kill -9 of {WHO[victim]} under load, {CLIENTS} clients, 16 slots",
        load,
        outcomes,
        {"kills": KILLS[victim]},
        processes_left=0,
    )


@pytest.mark.parametrize("victim", ["bgd", "launcher"])
def test_being_stopped_for_a_while_loses_nothing_and_starts_nothing_twice(rig: Rig, victim: str):
    watcher = Watcher(rig)
    load = Load(rig, CLIENTS, seed=8)
    with load.threads:
        for _ in range(STOPS):
            load.threads.run_for(0.3)
            pid = rig.launcher_pid() if victim == "launcher" else rig.pid
            os.kill(pid, signal.SIGSTOP)
            load.threads.run_for(STOPPED)
            os.kill(pid, signal.SIGCONT)
    outcomes = check_history(rig, load, watcher, may_be_unseen=False)
    assert outcomes["succeeded"] > STOPS
    assert processes_of(rig.folder) == []
    told(
        f"{WHO[victim]} stands still (SIGSTOP) for {STOPPED:g} s under load",
        load,
        outcomes,
        {"stops": STOPS},
        processes_left=0,
    )


def told(what: str, load: Load, outcomes: Counter[str], how_often: dict[str, int], **more: int) -> None:
    """Record a series that was checked: any other count than 0 of what is 0 here has failed before."""
    dependency_failed = outcomes.pop(DEPENDENCY_FAILED, 0)
    ends = {f"ends_{outcome}": count for outcome, count in sorted(outcomes.items())}
    never = {"lost": 0, "started_twice": 0, "ended_twice": 0, "wrong_codes": 0}
    jobs = len(load.acknowledged)
    record(what, **how_often, jobs=jobs, dependency_failed=dependency_failed, **ends, **never, **more)


@pytest.fixture
def class_rig(tmp_path):
    rig = Rig(tmp_path, more=CLASSES.format(folder=tmp_path))
    (tmp_path / "truth").touch()
    (tmp_path / "truth.py").write_text(MODULE)
    rig.start()
    yield rig
    rig.close()


@pytest.mark.parametrize("victim", ["bgd", "launcher", "workers"])
def test_class_jobs_survive_kills_like_commands(class_rig: Rig, victim: str):
    rig = class_rig
    dice = random.Random(victim)
    watcher = Watcher(rig)
    load = Load(rig, seed=5, isolations=(Isolation.FORK, Isolation.FORK, Isolation.REUSE))
    with load.threads:
        for _ in range(BUSY_CYCLES):
            load.threads.run_for(dice.uniform(0.2, 0.5))
            if victim == "bgd":
                rig.kill()
                rig.start()
            elif victim == "launcher":
                os.kill(rig.launcher_pid(), signal.SIGKILL)
            else:
                workers = workers_of(rig)
                for pid in dice.sample(workers, len(workers) // 2 + 1):
                    with suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
        # the launcher is killed about as often as a job takes to time out
        wait_until(lambda: any(event.outcome is Outcome.TIMEOUT for event in watcher.events))
    outcomes = check_history(
        rig, load, watcher, may_be_unseen=victim == "launcher", may_be_killed=victim == "workers"
    )
    assert outcomes["succeeded"] > BUSY_CYCLES
    assert outcomes["timeout"] > 0
    told(f"kill -9 of {WHO[victim]} under a load of class jobs", load, outcomes, {"kills": BUSY_CYCLES})


def workers_of(rig: Rig) -> list[int]:
    """Wait until the launcher has warm workers; return their pids."""
    found: list[int] = []
    while not found:
        launcher = rig.launcher_pid()
        children = Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split()
        found = [int(pid) for pid in children if is_worker(pid)]
    return found


@pytest.fixture
def busy_rig(tmp_path):
    queues = "".join(f"[queues.queue-{queue}]\nslots = {MAX_QUEUE_SLOTS}\n" for queue in range(QUEUES))
    rig = Rig(tmp_path, MAX_SLOTS, queues)
    (tmp_path / "truth").touch()
    rig.start()
    yield rig
    rig.close()


@pytest.mark.parametrize("victim", ["bgd", "both"])
def test_acknowledged_changes_of_jobs_and_queues_survive_kills(busy_rig: Rig, victim: str):
    rig = busy_rig
    dice = random.Random(victim)
    watcher = Watcher(rig)
    clients = Clients(rig, seed=11)
    kills = 0
    with clients.threads:
        # on a slow machine it takes longer until each verb has been used
        while kills < BUSY_CYCLES or (clients.undone and kills < 20 * BUSY_CYCLES):
            kills += 1
            clients.threads.run_for(dice.uniform(0.2, 0.5))
            launcher = rig.launcher_pid()
            rig.kill()
            if victim == "both":
                os.kill(launcher, signal.SIGKILL)
            rig.start()
            check_waits(rig)
    rest_at = time.time()
    check_suspended(rig, clients.actions, watcher.events)
    jobs, last = come_to_rest(rig)
    watcher.finish(last)
    records = AttemptRecords.read(rig.folder / "truth")
    found = History(clients.actions, watcher.events, jobs, rest_at).check(records)
    assert processes_of(rig.folder) == []
    assert clients.undone == set(), f"not all was done: {found}"
    what = f"kill -9 of {WHO[victim]} while {BUSY_CLIENTS} people do everything to their jobs and queues"
    record(what, kills=kills, things_done=len(clients.actions), undone=0, started_twice=0)


def processes_of(folder: Path) -> list[str]:
    """Return the command lines and states of the load's jobs that are still alive."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                command, stat = (entry / "cmdline").read_bytes(), (entry / "stat").read_text()
                status = (entry / "status").read_text()
            except OSError:
                continue
            is_job = os.fsencode(folder) in command and b"/bin/sh" in command
            if is_job and not is_dying(stat, status):
                found.append(f"{command.decode(errors='replace')} {stat}")
    return found
