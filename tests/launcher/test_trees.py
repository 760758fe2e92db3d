"""Jobs that do all they can to leave something behind, again and again: cancelled, and ended by themselves.

TREES in the environment says how often, 20 times if it does not.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bgd.core.job import Outcome
from bgd.wire.launching import Stop
from tests.launcher.host import SOURCE, Host, Supervisor, is_alive, needs_root, pids_in, written
from tests.support import wait_until

TIMES = int(os.environ.get("TREES", "20"))
NOBODY = 65534
# Python itself may lie where nobody else may go, so all it needs is there before it becomes another user
AS_NOBODY = f"""
import ctypes, encodings.ascii, encodings.idna, os, shutil, sys
from bgd.launcher import __main__ as launcher
os.setgroups([])
os.setresgid({NOBODY}, {NOBODY}, {NOBODY})
os.setresuid({NOBODY}, {NOBODY}, {NOBODY})
PR_SET_DUMPABLE = 4  # else its own /proc would be root's
ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 1, 0, 0, 0)
sys.exit(launcher.main())
"""


class UnprivilegedHost(Host):
    """Its launchers, and so all jobs, are nobody's."""

    def start(self, *options: str, source: Path = SOURCE, **popen: Any) -> subprocess.Popen[bytes]:
        """Start a launcher by hand."""
        folders = ["--state", str(self.state), "--logs", str(self.logs)]
        with (self.state / "stderr").open("ab") as stderr:
            launcher = subprocess.Popen(
                [sys.executable, "-P", "-c", AS_NOBODY, *folders, *options],
                env={**os.environ, "PYTHONPATH": str(source)},
                stderr=stderr,
                start_new_session=True,
                **popen,
            )
        self.launchers.append(launcher)
        return launcher


@pytest.fixture(params=["as it is", pytest.param("unprivileged", marks=needs_root)])
def tree_host(request: pytest.FixtureRequest) -> Iterator[Host]:
    """A host whose launchers have the rights of the tests, and one whose launchers have none."""
    with tempfile.TemporaryDirectory(prefix="bgd-") as folder:
        host = Host(Path(folder)) if request.param == "as it is" else UnprivilegedHost(Path(folder))
        if request.param == "unprivileged":
            os.chown(folder, NOBODY, NOBODY)
        host.start()
        yield host
        host.clear_up()
        assert "Traceback" not in host.said, host.said


@pytest.fixture
def master(tree_host: Host) -> Supervisor:
    return tree_host.supervise()


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
