"""A shared folder that others can write runs nothing, and nothing outside it is touched."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess

import pytest

from bgd.core.job import Outcome
from tests.launcher.host import PATIENCE, STORE, needs_root, pids_in
from tests.support import wait_until

STRANGER = 4_000_000  # a uid that no account has


@pytest.fixture
def supervisor(host, slurm):
    host.start()
    supervisor = host.supervise()
    supervisor.usual = {"slurm": slurm.pilot_start}
    return supervisor


@pytest.fixture
def full_folder(slurm):
    """Make the shared folder one without room for a file; yield a function that gives it room."""
    mount = ["mount", "-t", "tmpfs", "-o", "mode=700,nr_inodes=1", "tmpfs", slurm.shared]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("NOT RUN: mounts a file system")
    yield lambda: subprocess.run(["mount", "-o", "remount,nr_inodes=100", slurm.shared], check=True)
    subprocess.run(["umount", "--lazy", slurm.shared], check=True)


def test_a_job_waits_until_the_shared_folder_has_room(host, supervisor, full_folder):
    job = supervisor.launch("true")
    wait_until(lambda: "cannot be submitted yet: the disk is full" in host.said)
    full_folder()

    assert supervisor.ended(job).outcome is Outcome.SUCCEEDED


def test_a_folder_that_others_may_write_runs_nothing(supervisor, slurm):
    slurm.shared.chmod(0o1777)

    for start in (slurm.pilot_start, slurm.own_pilot):
        ended = supervisor.run("true", slurm=start)

        assert ended.outcome is Outcome.NOT_STARTED
        assert ended.problem.startswith(
            f"cannot start: the folder {slurm.shared} has mode 1777, so it is sha"
        )
    assert slurm.count("sbatch") == 0


def test_a_folder_that_others_could_write_by_mistake_is_closed(supervisor, slurm):
    slurm.shared.chmod(0o775)

    assert supervisor.run("true").outcome is Outcome.SUCCEEDED
    assert slurm.shared.stat().st_mode & 0o777 == 0o700


@needs_root
def test_an_open_folder_in_which_another_user_left_something_is_not_closed(supervisor, slurm):
    planted = slurm.shared / "probe-1"
    planted.touch()
    os.chown(planted, STRANGER, STRANGER)
    slurm.shared.chmod(0o777)

    ended = supervisor.run("true")

    assert ended.outcome is Outcome.NOT_STARTED
    assert f"holds {planted.name!r}, which is not bgd's" in ended.problem


def test_a_folder_that_is_away_is_made_for_a_job_and_by_no_look(host, supervisor, slurm):
    supervisor.run("true")
    shutil.rmtree(slurm.shared)

    host.launchers[-1].terminate()  # upon which it looks for what is left
    host.launchers[-1].wait(PATIENCE)

    assert not slurm.shared.exists()
    host.start()
    after = host.supervise(2)
    after.usual = supervisor.usual
    assert after.run("true").outcome is Outcome.SUCCEEDED


def test_a_pilot_that_ends_while_the_folder_is_away_makes_room_for_the_next(supervisor, slurm):
    supervisor.run("true")
    asked = slurm.count("squeue")
    shutil.rmtree(slurm.shared)
    slurm.end()
    wait_until(lambda: slurm.count("squeue") > asked)  # the launcher knows that the connection is lost

    assert supervisor.run("true").outcome is Outcome.SUCCEEDED
    assert slurm.count("sbatch") == 2


def test_a_job_runs_on_while_its_folder_is_away_here_and_its_connection_is_lost(host, supervisor, slurm):
    os.mkfifo(host.state / "go")
    job = supervisor.launch("sh", "-c", "read line <go; exit 3", cwd=str(host.state))
    wait_until(lambda: supervisor.started(job).pid)
    away = slurm.folder / "away-for-a-while"
    slurm.shared.rename(away)
    [relay] = pids_in(f"bgd.launcher.cluster.relay\0{slurm.shared}/")
    os.kill(relay, signal.SIGKILL)
    wait_until(
        lambda: slurm.count("srun") > 2
    )  # the second did not reach the pilot, and then there was a look

    away.rename(slurm.shared)
    (host.state / "go").write_text("go\n")

    assert supervisor.ended(job).exit_code == 3
    assert slurm.count("sbatch") == 1


@needs_root
def test_a_folder_of_another_user_runs_nothing(supervisor, slurm):
    os.chown(slurm.shared, STRANGER, STRANGER)

    ended = supervisor.run("true")

    assert ended.outcome is Outcome.NOT_STARTED
    assert f"the folder {slurm.shared} belongs to uid {STRANGER}" in ended.problem


def test_a_link_in_place_of_the_folder_of_an_old_pilot_is_not_followed(host, slurm):
    precious = host.state / "precious"
    precious.mkdir()
    (precious / "file").touch()
    (slurm.shared / f"bgd-{STORE}-pilot-pilots-0000").symlink_to(precious)
    host.start()
    supervisor = host.supervise()

    ended = supervisor.run("true", slurm=slurm.pilot_start)

    assert ended.outcome is Outcome.SUCCEEDED
    assert (precious / "file").exists()
