"""A backup folder that does not answer hangs neither the daemon nor its end."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from bgd.client import channel
from bgd.errors import DaemonUnreachable
from tests.launcher.host import is_alive
from tests.launcher.silent_mount import SilentMount, silent_mount
from tests.support import DEADLINE, Daemon, wait_until

DOCTORS = 20


@pytest.fixture
def mount(home: Daemon):
    with silent_mount(home.folder) as silent:
        yield silent


@pytest.fixture
def daemon(home: Daemon, mount: SilentMount):
    home.configure(f'[backup]\nevery = "1h"\nfolder = "{mount.point}/backups"\n')
    home.start()
    return home


def threads_of(daemon: Daemon) -> int:
    status = Path(f"/proc/{daemon.process.pid}/status").read_text()
    return int(status.partition("Threads:")[2].split()[0])


def children_of(daemon: Daemon) -> int:
    return len(Path(f"/proc/{daemon.process.pid}/task/{daemon.process.pid}/children").read_text().split())


def test_twenty_doctors_and_a_backup_folder_that_does_not_answer_leave_the_daemon_healthy(
    home: Daemon, daemon: Daemon, mount: SilentMount
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
    assert not is_alive(daemon.process.pid)
    daemon.start()  # its lock is free


def hang_a_thread(daemon: Daemon, mount: SilentMount) -> None:
    """Start a daemon and let it read its configuration from a file system that no longer answers."""
    daemon.configure("")
    daemon.start()
    configuration = daemon.folder / ".config/bgd/bgd.toml"
    configuration.unlink()
    configuration.symlink_to(mount.point / "bgd.toml")
    with daemon.client(timeout=0.5) as client, pytest.raises(DaemonUnreachable):
        client.reload()
    assert mount.is_asked()


def test_a_thread_that_waits_for_a_disk_does_not_keep_the_daemon_from_ending(
    home: Daemon, mount: SilentMount
):
    hang_a_thread(home, mount)

    with home.client() as client:
        client.shutdown()

    assert not is_alive(home.process.pid)
    assert home.process.wait(DEADLINE) == 0
    assert "a disk does not answer" in (home.folder / "bgd.log").read_text()


def test_a_daemon_has_not_ended_while_its_process_has_not(home: Daemon, mount: SilentMount, monkeypatch):
    monkeypatch.setattr(channel, "_EXIT_SECONDS", 1.0)
    hang_a_thread(home, mount)
    mount.read_request()  # from now on the process cannot be killed

    with (
        home.client() as client,
        pytest.raises(TimeoutError, match=f"process {home.process.pid} has not"),
    ):
        client.shutdown()

    assert home.process.poll() is None
    mount.end()
    assert home.process.wait(DEADLINE) == 0


def test_a_backup_folder_that_answers_again_gets_its_backup(daemon: Daemon, mount: SilentMount):
    wait_until(mount.is_asked)
    mount.end()  # unmounted: the folder below is an ordinary one
    daemon.bgctl("reload")

    done = daemon.bgctl("doctor")

    assert f"note     backups: none yet in {mount.point}/backups" in done.stdout
