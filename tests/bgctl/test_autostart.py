"""Autostart: the first job starts the caller's own daemon, once."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
from pathlib import Path
from threading import Thread

import pytest

from tests.support import DEADLINE

ENVIRONMENT = {"NOTIFY_SOCKET": "/run/notify", "BGD_LOGS_MAX_BYTES": "1MB", "BGD_RESOURCE_GPU": "0"}


def test_the_first_job_starts_the_daemon_and_says_so_once(home):
    first, second = home.bgctl("submit", "true"), home.bgctl("submit", "true")

    log = home.state_dir / "bgd.log"
    pid = home.bgctl("info", "--pid").stdout.strip()
    assert first.stderr == f"bgctl: started a daemon for you (pid {pid}, log {log})\n"
    assert (first.stdout, second.stdout, second.stderr) == ("1\n", "2\n", "")
    assert stat.S_IMODE(log.stat().st_mode) == 0o600
    assert stat.S_IMODE(home.state_dir.stat().st_mode) == 0o700


def test_a_started_daemon_is_detached_from_its_starter(home):
    home.bgctl("submit", "true", env=ENVIRONMENT, cwd=home.folder)

    pid = int(home.bgctl("info", "--pid").stdout)
    process = Path(f"/proc/{pid}")
    names = {entry.partition("=")[0] for entry in (process / "environ").read_text().split("\0")}
    assert os.getsid(pid) == pid
    assert (process / "cwd").readlink() == home.state_dir
    assert (process / "fd/0").readlink() == Path("/dev/null")
    assert not names & {"NOTIFY_SOCKET", "BGD_RESOURCE_GPU"}
    assert "BGD_LOGS_MAX_BYTES" in names


@pytest.mark.parametrize("waits", [["--delay", "61m"], ["--at", "2099-01-01"]])
def test_the_first_job_that_waits_for_long_tells_what_a_reboot_does_and_later_ones_do_not(home, waits):
    short = home.bgctl("submit", "--delay", "1h", "true")
    first, second = home.bgctl("submit", *waits, "true"), home.bgctl("submit", *waits, "true")

    assert "reboot" not in short.stderr
    assert first.stderr == (
        "bgctl: this daemon does not start with the machine: after a reboot the job waits until the next"
        " `bgctl submit` starts it; `bgctl service install` makes it start by itself\n"
    )
    assert (first.stdout, second.stdout, second.stderr) == ("2\n", "3\n", "")


def test_nothing_is_told_about_reboots_of_a_daemon_that_nobody_started_for_the_caller(own_daemon):
    assert own_daemon.bgctl("submit", "--at", "2099-01-01", "true").stderr == ""


def test_concurrent_callers_start_only_one_daemon(home):
    command = [sys.executable, "-m", "bgctl", "submit", "true"]
    racers = [
        subprocess.Popen(
            command, env=home.env, cwd=home.folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for _ in range(4)
    ]

    ends = [(racer.communicate(timeout=DEADLINE), racer.returncode) for racer in racers]

    assert [code for _, code in ends] == [0] * 4
    assert sorted(out for (out, _), _ in ends) == ["1\n", "2\n", "3\n", "4\n"]
    assert sum("started a daemon" in err for (_, err), _ in ends) == 1


def test_a_daemon_that_fails_to_start_is_an_error_with_the_reason(home):
    home.state_dir.mkdir(parents=True, mode=0o700)
    (home.state_dir / "bgd.db").mkdir()

    done = home.bgctl("submit", "true")

    assert done.returncode == 69
    assert "the daemon started for you ended" in done.stderr
    assert str(home.state_dir / "bgd.log") in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_file_in_place_of_the_state_folder_is_named(home):
    home.state_dir.parent.mkdir(parents=True)
    home.state_dir.touch()

    done = home.bgctl("submit", "true")

    assert done.returncode == 78
    assert f"{home.state_dir} is a file, not a folder: move it away" in done.stderr
    home.state_dir.unlink()


def test_a_missing_home_does_not_matter_if_a_state_folder_is_configured(home):
    elsewhere = home.env | {"HOME": "/nonexistent", "BGD_DAEMON_STATE_DIR": str(home.state_dir)}

    done = home.bgctl("run", "--cwd", "/", "pwd", env=elsewhere)

    assert (done.returncode, done.stdout) == (0, "/\n"), done.stderr


def test_a_home_that_is_not_utf_8_is_named(home):
    nowhere = {"HOME": os.fsdecode(os.fsencode(home.folder) + b"/\xff")}

    done = home.bgctl("submit", "true", env=nowhere)

    assert done.returncode == 78
    assert f"the path '{home.folder}/\\udcff/.local/state/bgd' is not UTF-8: set HOME, or" in done.stderr
    assert "Traceback" not in done.stderr
    assert "state folder" in home.bgctl("doctor", env=nowhere).stdout


def test_a_configuration_in_a_home_that_is_not_utf_8_is_read(home):
    folder = home.folder / os.fsdecode(b"\xff")
    (folder / ".config/bgd").mkdir(parents=True)
    (folder / ".config/bgd/bgd.toml").write_text(f'[daemon]\nstate_dir = "{home.state_dir}"\n')
    odd = {"HOME": str(folder)}

    assert home.bgctl("run", "--cwd", "/", "echo", "well", env=odd).stdout == "well\n"
    assert f"{home.folder}/\\udcff/.config/bgd/bgd.toml" in home.bgctl("info", env=odd).stdout
    assert home.bgctl("reload", env=odd).returncode == 0


def test_autostart_reports_a_broken_configuration_with_non_utf_8_bytes(home):
    folder = home.folder / os.fsdecode(b"\xff")
    (folder / ".config/bgd").mkdir(parents=True)
    (folder / ".config/bgd/bgd.toml").write_text("[daemon]\nslots = 0\n")
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb") as pipe:
        done = subprocess.run(
            [sys.executable, "-m", "bgd", "--ready-fd", str(writing)],
            env=home.env | {"HOME": str(folder)},
            pass_fds=[writing],
            capture_output=True,
            check=False,
            timeout=DEADLINE,
        )
        os.close(writing)
        word = pipe.read()

    assert done.returncode == 78
    assert b"Traceback" not in done.stderr
    assert word.startswith(f"error: {home.folder}/\\udcff/.config/bgd/bgd.toml: daemon.slots".encode())


def test_after_shutdown_the_next_job_starts_another_daemon(home):
    home.bgctl("submit", "true")
    first = home.bgctl("info", "--pid").stdout

    ended = home.bgctl("shutdown")

    assert (ended.returncode, ended.stderr) == (0, f"bgctl: the daemon (pid {first.strip()}) has ended\n")
    assert home.bgctl("submit", "true").returncode == 0
    assert home.bgctl("info", "--pid").stdout != first


@pytest.mark.parametrize(
    "shutdown", ["client.shutdown()", "run([executable, '-m', 'bgctl', 'shutdown'], check=True)"]
)
def test_asking_for_a_result_after_shutdown_starts_a_daemon_at_once(home, shutdown):
    program = (
        "from subprocess import run\n"
        "from sys import executable\n"
        "from bgd import Client\n"
        "with Client(timeout=4) as client:\n"  # less than the time that clients leave to others to restart it
        "    job = client.submit(['true']).wait(20)\n"
        f"    {shutdown}\n"
        "    print(job.result())\n"
    )

    done = home.execute(sys.executable, "-c", program)

    assert (done.stdout, done.returncode) == ("0\n", 0), done.stderr


def test_a_daemon_that_ends_before_its_hello_is_followed_by_another(home):
    home.state_dir.mkdir(parents=True, mode=0o700)
    ending = socket.socket(socket.AF_UNIX)
    ending.bind(str(home.socket))
    ending.listen()

    def end() -> None:
        connection, _ = ending.accept()
        ending.close()
        connection.close()

    thread = Thread(target=end)
    thread.start()
    done = home.bgctl("submit", "true")
    thread.join()

    assert (done.returncode, done.stdout) == (0, "1\n")
    assert "started a daemon for you" in done.stderr
