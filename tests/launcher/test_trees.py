"""Jobs that do all they can to leave something behind, both cancelled and ended by themselves."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from bgd.core.job import Outcome
from bgd.wire.launching import StopProcesses
from tests.faults.figures import SHARE, record, times
from tests.launcher.host import Host, Supervisor, is_alive, needs_groups, needs_root, pids_in, written
from tests.launcher.unprivileged import NOBODY, UnprivilegedHost
from tests.support import SLOWNESS, wait_until

AT_ONCE = 20
ROUNDS = times(10, 1)
GENERATIONS = 10 if SHARE and SLOWNESS == 1 else 6  # levels of a fork bomb: 2,047 processes, or 127
RIGHTS = {
    "as it is": "with the rights of root",
    "in groups": "in control groups",
    "unprivileged": "without any rights",
}


@pytest.fixture(
    params=[
        "as it is",
        pytest.param("in groups", marks=needs_groups),
        pytest.param("unprivileged", marks=needs_root),
    ]
)
def tree_host(request: pytest.FixtureRequest) -> Iterator[Host]:
    """Yield a host whose launchers have the rights of the tests, and one whose launchers have none.

    In the one between, jobs are in control groups.
    """
    with tempfile.TemporaryDirectory(prefix="bgd-") as folder:
        host = UnprivilegedHost(Path(folder)) if request.param == "unprivileged" else Host(Path(folder))
        if request.param == "unprivileged":
            os.chown(folder, NOBODY, NOBODY)
        host.start()
        yield host
        host.clear_up()
        assert "Traceback" not in host.said, host.said


@pytest.fixture
def master(tree_host: Host, request: pytest.FixtureRequest) -> Supervisor:
    supervisor = tree_host.supervise()
    supervisor.usual["own_group"] = request.node.callspec.params["tree_host"] == "in groups"
    return supervisor


@pytest.fixture
def rights(request: pytest.FixtureRequest) -> str:
    """Return how the page of faults names a host."""
    return RIGHTS[request.node.callspec.params["tree_host"]]


HIDE = "leave behind a daemon (forked twice, own session, all closed, empty environment)"
# forks twice, leads its own session, and keeps nothing that it was given except its user
DAEMON = "(setsid env -i /bin/sh -c 'echo $$ > PID; exec sleep 100' </dev/null >/dev/null 2>&1 &)"


def test_cancelled_jobs_leave_nothing_behind(tree_host, master, rights):
    for number in range(ROUNDS):
        paths = new_paths(tree_host, number)
        keys = [master.launch("sh", "-c", f"{DAEMON.replace('PID', str(path))}; sleep 100") for path in paths]
        pids = [int(written(path)) for path in paths]

        master.say(*(StopProcesses(key, 5.0) for key in keys))

        assert {end.outcome for end in master.all_ended(keys)} == {Outcome.CANCELLED}
        assert not [pid for pid in pids if is_alive(pid)]
    record(f"jobs that {HIDE} are cancelled, {rights}", jobs=ROUNDS * AT_ONCE, processes_left=0)


def test_jobs_that_end_leave_nothing_behind(tree_host, master, rights):
    for number in range(ROUNDS):
        paths = new_paths(tree_host, number)
        waits = f"{DAEMON}; until [ -s PID ]; do :; done; exit 3"

        keys = [master.launch("sh", "-c", waits.replace("PID", str(path))) for path in paths]

        assert {end.exit_code for end in master.all_ended(keys)} == {3}
        assert not [path for path in paths if is_alive(int(path.read_text()))]
    record(f"jobs that {HIDE} end by themselves, {rights}", jobs=ROUNDS * AT_ONCE, processes_left=0)


def new_paths(host: Host, number: int) -> list[Path]:
    """Return a file for each job of a round, into which its hidden process writes its pid."""
    return [host.state / f"pid-{number}-{job}" for job in range(AT_ONCE)]


def test_a_cancelled_fork_bomb_is_gone(tree_host, master, rights):
    """Return a bounded fork bomb whose processes ignore every signal that can be ignored."""
    bomb, seconds = tree_host.state / "bomb", f"77.{os.getpid()}"
    bomb.write_text(
        f"trap '' TERM\n[ $1 = 0 ] || for i in 1 2; do setsid sh {bomb} $(($1 - 1)) & done\n"
        f"exec sleep {seconds} >/dev/null 2>&1\n"
    )
    bomb.chmod(0o644)
    processes = 2 ** (GENERATIONS + 1) - 1
    key = master.launch("sh", str(bomb), str(GENERATIONS))
    wait_until(lambda: len(pids_in(f"sleep\x00{seconds}")) == processes)

    master.say(StopProcesses(key, 0.1))

    assert master.ended(key).outcome is Outcome.CANCELLED
    assert not pids_in(f"sleep\x00{seconds}")
    record(f"a fork bomb that ignores signals is cancelled, {rights}", processes=processes, processes_left=0)
