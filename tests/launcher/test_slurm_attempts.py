"""Attempts on a cluster hold up no local ones, whatever disk and controller do. Slurm is three scripts."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from bgd.core.explain import Cause
from bgd.core.job import Outcome
from bgd.wire.launching import AttemptKey, AttemptStarted, ContinueProcesses, StopProcesses, SuspendProcesses
from bgd.worker import NODE
from tests.launcher.host import (
    PATIENCE,
    STORE,
    Host,
    Supervisor,
    launch_of,
    needs_root,
    needs_strace,
    open_files,
    without_descriptors,
)
from tests.launcher.scripted_slurm import ScriptedSlurm
from tests.support import wait_until

STRANGER = 4_000_000  # a uid that nobody has


@pytest.fixture
def supervisor(host: Host, slurm: ScriptedSlurm):
    host.start()
    supervisor = host.supervise()
    supervisor.usual = {"slurm": slurm.start}
    return supervisor


@needs_strace
def test_no_sync_for_an_attempt_on_a_cluster_blocks_the_event_loop(host, supervisor, tamper):
    os.mkfifo(host.state / "go")
    tamper("fsync,fdatasync", "error=EIO")  # on the thread of the event loop only

    job = supervisor.launch("sh", "-c", "echo ran; read line <go; exit 3", cwd=str(host.state))
    until(supervisor, [job], lambda said: said.pid is not None)
    supervisor.say(SuspendProcesses(job), ContinueProcesses(job))
    (host.state / "go").write_text("go\n")
    ended = supervisor.ended(job)

    assert (ended.outcome, ended.exit_code, host.output(job)) == (Outcome.EXIT, 3, b"ran\n")
    assert "cannot" not in host.said


def test_one_question_at_a_time_replaces_all_sruns_while_the_controller_is_away(supervisor, slurm):
    (slurm.folder / "away").touch()
    first = supervisor.launch("true")
    until(supervisor, [first], waits_for_controller)
    [folder] = (slurm.folder / "shared").glob("bgd-*")
    wait_until((folder / "claim.1").exists)
    (folder / "claim.1.launcher").unlink()  # each look into the folder makes it

    others = [supervisor.launch("true") for _ in range(3)]
    until(supervisor, others, waits_for_controller)
    asked = slurm.count("squeue")
    wait_until(lambda: slurm.count("squeue") > asked + 1)

    assert slurm.count("srun") == 1
    assert not (folder / "claim.1.launcher").exists()
    (slurm.folder / "away").unlink()
    assert {end.outcome for end in supervisor.all_ended([first, *others])} == {Outcome.SUCCEEDED}
    assert slurm.count("srun") == 5


@needs_strace
def test_a_job_on_a_cluster_ends_truly_if_the_disk_is_full_when_it_begins(host, supervisor, slurm, tamper):
    (slurm.folder / "full").touch()
    job = supervisor.launch("sh", "-c", "echo ran; exit 3", timeout=60.0)
    wait_until(lambda: slurm.count("srun") == 1)
    tamper("write", "error=ENOSPC:when=1", "-P", str(host.journal))
    (slurm.folder / "full").unlink()

    ended = supervisor.ended(job)

    assert (ended.outcome, ended.exit_code, host.output(job)) == (Outcome.EXIT, 3, b"ran\n")
    assert f"cannot write to the journal that job {job.job} has a node: No space left" in host.said


def test_without_descriptors_the_launcher_asks_slurm_later_and_loses_no_job(host, supervisor, slurm):
    (slurm.folder / "full").touch()
    os.mkfifo(host.state / "go")
    local = supervisor.launch("sh", "-c", "read line <go; exit 3", cwd=str(host.state), slurm=None)
    supervisor.started(local)
    job = supervisor.launch("true")
    wait_until(lambda: slurm.count("srun") == 1)

    with without_descriptors(host):
        wait_until(lambda: "squeue cannot be started yet: too many files are open" in host.said)
    (slurm.folder / "full").unlink()
    (host.state / "go").write_text("go\n")

    ends = supervisor.all_ended([local, job])
    assert [(each.outcome, each.exit_code) for each in ends] == [(Outcome.EXIT, 3), (Outcome.SUCCEEDED, 0)]


@needs_strace
@pytest.mark.parametrize(
    ("calls", "how"),
    [
        ("write", "error=ENOSPC:when=1"),  # to the journal
        ("clone3,vfork", "error=EAGAIN:when=1"),  # at srun: forks that look at the folder are clones
    ],
)
def test_a_job_is_submitted_as_soon_as_the_machine_has_room(host, supervisor, slurm, tamper, calls, how):
    supervisor.run("true")  # with which a thread starts
    tamper(calls, how, *(["-P", str(host.journal)] if calls == "write" else []))

    ended = supervisor.run("sh", "-c", "echo ran; exit 3")

    assert (ended.outcome, ended.exit_code) == (Outcome.EXIT, 3)
    assert f"job {ended.key.job} cannot be submitted yet: " in host.said
    assert slurm.count("srun") == 2


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


@needs_strace
def test_a_cancelled_job_does_not_wait_for_room_to_be_submitted(host, supervisor, slurm, tamper):
    tamper("write", "error=ENOSPC", "-P", str(host.journal))
    job = supervisor.launch("true")
    wait_until(lambda: "cannot be submitted yet" in host.said)

    supervisor.say(StopProcesses(job, 1.0))

    assert supervisor.ended(job).outcome is Outcome.CANCELLED
    assert slurm.count("srun") == 0


def test_sruns_that_cannot_be_started_leave_no_descriptor_open(host, supervisor, slurm):
    supervisor.run("true")
    before = open_files(host)
    (slurm.folder / "srun").write_bytes(b"\x7fELF, but no program")

    ends = [supervisor.run("true") for _ in range(3)]

    assert {(each.outcome, "Exec format error" in each.problem) for each in ends} == {
        (Outcome.NOT_STARTED, True)
    }
    assert open_files(host) == before


def test_a_folder_that_others_may_write_runs_nothing(supervisor, slurm):
    slurm.shared.chmod(0o1777)

    for start in (slurm.start, slurm.pilot_start):
        ended = supervisor.run("true", slurm=start)

        assert ended.outcome is Outcome.NOT_STARTED
        assert ended.problem.startswith(
            f"cannot start: the folder {slurm.shared} has mode 1777, so it is sha"
        )
    assert slurm.count("srun") == slurm.count("sbatch") == 0


def test_a_folder_that_others_could_write_by_mistake_is_closed(supervisor, slurm):
    slurm.shared.chmod(0o775)

    assert supervisor.run("true").outcome is Outcome.SUCCEEDED
    assert slurm.shared.stat().st_mode & 0o777 == 0o700


@needs_root
def test_an_open_folder_in_which_another_user_left_something_is_not_closed(supervisor, slurm):
    planted = slurm.shared / "lock-seen-00000000"
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


@needs_root
def test_a_folder_of_another_user_runs_nothing(supervisor, slurm):
    os.chown(slurm.shared, STRANGER, STRANGER)

    ended = supervisor.run("true")

    assert ended.outcome is Outcome.NOT_STARTED
    assert f"the folder {slurm.shared} belongs to uid {STRANGER}" in ended.problem


def plant_program(path: Path) -> None:
    path.write_text("raise SystemExit(3)")


def plant_link(path: Path) -> None:
    plant_program(path.parents[1] / "elsewhere")
    path.symlink_to(path.parents[1] / "elsewhere")


def plant_copy_of_stranger(path: Path) -> None:
    path.write_bytes(NODE.read_bytes())
    os.chown(path, STRANGER, STRANGER)


@pytest.mark.parametrize(
    "plant", [plant_program, plant_link, os.mkfifo, pytest.param(plant_copy_of_stranger, marks=needs_root)]
)
def test_a_program_that_was_planted_in_the_folder_does_not_run(supervisor, slurm, plant):
    supervisor.run("true")
    [program] = slurm.shared.glob("node-*.py")
    program.unlink()
    plant(program)

    assert supervisor.run("true").outcome is Outcome.SUCCEEDED
    assert program.read_bytes() == NODE.read_bytes()
    assert program.lstat().st_uid == os.getuid()


def test_a_link_in_place_of_an_old_folder_of_a_job_is_not_followed(host, slurm):
    """What is in the folder of an attempt is removed once Slurm does not have its job."""
    (host.state / "precious").mkdir()
    for name in ("over", "file"):
        (host.state / "precious" / name).touch()
    job = launch_of("true", slurm=slurm.start)
    (slurm.shared / f"bgd-{STORE}-999-1").symlink_to(host.state / "precious")
    host.start()
    supervisor = host.supervise()
    supervisor.say(job)
    supervisor.ended(job.key)
    [folder] = [
        each for each in slurm.shared.glob(f"bgd-{STORE}-*") if each.is_dir() and not each.is_symlink()
    ]

    wait_until(lambda: not folder.exists())

    assert (host.state / "precious/file").exists()


def until(
    supervisor: Supervisor, keys: Iterable[AttemptKey], holds: Callable[[AttemptStarted], bool]
) -> None:
    """Wait until this is said of each of these attempts, in any order."""
    missing = set(keys)
    while missing:
        message = supervisor.hear()
        assert message is not None, "the launcher hung up"
        if isinstance(message, AttemptStarted) and holds(message):
            missing.discard(message.key)


def waits_for_controller(said: AttemptStarted) -> bool:
    return said.waits is not None and said.waits.cause is Cause.CONTROLLER
