"""A backup folder that does not answer hangs neither the daemon nor its end."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from bgd.client import channel
from bgd.errors import DaemonUnreachable
from tests.launcher.silent_mount import SilentMount, silent_mount
from tests.support import DEADLINE, Daemon, Home, wait_until

DOCTORS = 20


@pytest.fixture
def mount(home: Home):
    with silent_mount(home.folder) as silent:
        yield silent


@pytest.fixture
def daemon(home: Home, mount: SilentMount):
    running = Daemon(home.folder)
    running.configure(f'[backup]\nevery = "1h"\nfolder = "{mount.point}/backups"\n')
    running.start()
    yield running
    mount.end()
    running.stop()


def threads_of(daemon: Daemon) -> int:
    status = Path(f"/proc/{daemon.process.pid}/status").read_text()
    return int(status.partition("Threads:")[2].split()[0])


def children_of(daemon: Daemon) -> int:
    return len(Path(f"/proc/{daemon.process.pid}/task/{daemon.process.pid}/children").read_text().split())


def test_twenty_doctors_and_a_backup_folder_that_does_not_answer_leave_the_daemon_healthy(
    home: Home, daemon: Daemon, mount: SilentMount
):
    wait_until(mount.is_asked)
    mount.read_request()  # from now on the process that asked cannot even be killed
    job = daemon.finished_job("echo", "well")
    threads, children = threads_of(daemon), children_of(daemon)
    client = daemon.client(timeout=3 * DEADLINE)
    doctors = [threading.Thread(target=client.checkup) for _ in range(DOCTORS // 4)]
    for doctor in doctors:
        doctor.start()
    for doctor in doctors:
        doctor.join()
    for _ in range(DOCTORS - len(doctors)):
        done = daemon.bgctl("doctor")
        assert f"problem  backups: {mount.point}/backups does not answer: process " in done.stdout
        assert "database:" in done.stdout, "all else is checked"

    assert threads_of(daemon) == threads
    assert children_of(daemon) <= children + 1
    assert daemon.bgctl("logs", job).stdout == "well\n"
    assert daemon.bgctl("run", "echo", "still well").stdout == "still well\n"
    assert daemon.bgctl("reload").returncode == 0
    assert daemon.bgctl("backup", f"{home.folder}/copy.db").returncode == 0
    ended = daemon.bgctl("shutdown")
    assert (ended.returncode, ended.stderr) == (
        0,
        f"bgctl: the daemon (pid {daemon.process.pid}) has ended\n",
    )
    assert daemon.process.poll() is not None
    daemon.start()  # its lock is free


def with_a_hanging_thread(home: Home, mount: SilentMount) -> Daemon:
    """Start a daemon and let it read its configuration from a file system that no longer answers."""
    running = Daemon(home.folder)
    running.configure("")
    running.start()
    configuration = home.folder / ".config/bgd/bgd.toml"
    configuration.unlink()
    configuration.symlink_to(mount.point / "bgd.toml")
    with running.client(timeout=0.5) as client, pytest.raises(DaemonUnreachable):
        client.reload()
    assert mount.is_asked()
    return running


def test_a_thread_that_waits_for_a_disk_does_not_keep_the_daemon_from_ending(home: Home, mount: SilentMount):
    running = with_a_hanging_thread(home, mount)

    with running.client() as client:
        client.shutdown()

    assert running.process.poll() == 0
    assert "a disk does not answer" in (home.folder / "bgd.log").read_text()


def test_a_daemon_has_not_ended_while_its_process_has_not(home: Home, mount: SilentMount, monkeypatch):
    monkeypatch.setattr(channel, "_EXIT_SECONDS", 1.0)
    running = with_a_hanging_thread(home, mount)
    mount.read_request()  # from now on the process cannot be killed

    with (
        running.client() as client,
        pytest.raises(TimeoutError, match=f"process {running.process.pid} has not"),
    ):
        client.shutdown()

    assert running.process.poll() is None
    mount.end()
    assert running.process.wait(DEADLINE) == 0


def test_a_backup_folder_that_answers_again_gets_its_backup(home: Home, mount: SilentMount):
    running = Daemon(home.folder)
    running.configure(f'[backup]\nevery = "1h"\nfolder = "{mount.point}/backups"\n')
    running.start()
    wait_until(mount.is_asked)
    mount.end()  # unmounted: the folder below is an ordinary one
    running.bgctl("reload")

    done = running.bgctl("doctor")

    assert f"note     backups: none yet in {mount.point}/backups" in done.stdout
    running.stop()
