"""Jobs that do all they can to leave something behind, again and again: cancelled, and ended by themselves.

TREES in the environment says how often, 20 times if it does not.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from bgd.core.job import Outcome
from bgd.wire.launching import Stop
from tests.launcher.host import Host, Supervisor, is_alive, needs_groups, needs_root, pids_in, written
from tests.launcher.unprivileged import NOBODY, UnprivilegedHost
from tests.support import wait_until

TIMES = int(os.environ.get("TREES", "20"))


@pytest.fixture(
    params=[
        "as it is",
        pytest.param("in groups", marks=needs_groups),
        pytest.param("unprivileged", marks=needs_root),
    ]
)
def tree_host(request: pytest.FixtureRequest) -> Iterator[Host]:
    """A host whose launchers have the rights of the tests, and one whose launchers have none.

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


# forks twice, leads a session of its own, and has nothing that it was given but its user
DAEMON = "(setsid env -i /bin/sh -c 'echo $$ > PID; exec sleep 100' </dev/null >/dev/null 2>&1 &)"


def test_cancelled_jobs_leave_nothing_however_it_was_sent_away(tree_host, master):
    paths = [tree_host.state / f"pid-{number}" for number in range(TIMES)]
    keys = [master.launch("sh", "-c", f"{DAEMON.replace('PID', str(path))}; sleep 100") for path in paths]
    pids = [int(written(path)) for path in paths]

    master.say(*(Stop(key, 5.0) for key in keys))

    assert {end.outcome for end in master.all_ended(keys)} == {Outcome.CANCELLED}
    assert not [pid for pid in pids if is_alive(pid)]


def test_jobs_that_end_leave_nothing_either(tree_host, master):
    paths = [tree_host.state / f"pid-{number}" for number in range(TIMES)]
    scripts = [f"{DAEMON}; until [ -s PID ]; do :; done; exit 3".replace("PID", str(path)) for path in paths]

    keys = [master.launch("sh", "-c", script) for script in scripts]

    assert {end.exit_code for end in master.all_ended(keys)} == {3}
    assert not [path for path in paths if is_alive(int(path.read_text()))]


def test_a_cancelled_fork_bomb_is_gone(tree_host, master):
    """One with a bound, of which every process ignores what can be ignored."""
    bomb, seconds = tree_host.state / "bomb", f"77.{os.getpid()}"
    bomb.write_text(
        f"trap '' TERM\n[ $1 = 0 ] || for i in 1 2; do setsid sh {bomb} $(($1 - 1)) & done\n"
        f"exec sleep {seconds} >/dev/null 2>&1\n"
    )
    bomb.chmod(0o644)
    key = master.launch("sh", str(bomb), "6")
    wait_until(lambda: len(pids_in(f"sleep\x00{seconds}")) == 2**7 - 1)

    master.say(Stop(key, 0.1))

    assert master.ended(key).outcome is Outcome.CANCELLED
    assert not pids_in(f"sleep\x00{seconds}")
