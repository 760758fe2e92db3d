"""bgctl doctor names each problem and what to do about it."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import signal
import socket
import sqlite3
from contextlib import closing, contextmanager
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import urlsplit

import pytest
from click.testing import CliRunner

import bgd
from bgctl.daemon import doctor_command
from bgd.daemon import doctor
from bgd.daemon.doctor import check_all
from bgd.daemon.foreign import ForeignFolders
from bgd.daemon.space import MAKE_ROOM
from bgd.errors import NotAllowed
from bgd.settings.config import load
from bgd.settings.startup import open_descriptors
from bgd.wire.replies import Checkup
from bgd.wire.requests import GetCheckup
from bgd.wire.views import Level
from tests.daemon.harness import configure, served
from tests.support import wait_until


def found(config, subject):
    findings = asyncio.run(check_all(config, ForeignFolders()))
    (finding,) = [each for each in findings if each.subject == subject]
    assert (finding.remedy is None) == (finding.level is Level.OK)
    return finding


@pytest.mark.parametrize(
    ("kind", "options", "level", "words"),
    [
        ("ext4", "rw,relatime", Level.OK, "ext4, local"),
        ("nfs4", "rw", Level.PROBLEM, "is on nfs4, a network file system"),
        ("tmpfs", "rw", Level.WARNING, "jobs are lost when the machine"),
        ("ext4", "rw,nobarrier", Level.WARNING, "is mounted with nobarrier"),
    ],
)
def test_file_system_is_rated_by_how_safe_a_sync_is(config, monkeypatch, kind, options, level, words):
    monkeypatch.setattr(doctor, "_file_system_of", lambda _folder: (kind, options))

    finding = found(config, "file system")

    assert finding.level is level
    assert words in finding.message


def test_own_file_system_is_found(config):
    kind, options = doctor._file_system_of(config.daemon.state_dir)
    assert kind != "unknown"
    assert options.startswith("rw")


def test_folder_that_is_open_to_others_is_reported(folder, config):
    assert found(config, "state folder").level is Level.NOTE
    (folder / "state").mkdir(mode=0o755)
    (folder / "state").chmod(0o755)
    finding = found(config, "state folder")
    assert (finding.level, finding.remedy) == (Level.WARNING, f"chmod 700 {folder}/state")
    (folder / "state").chmod(0o700)
    assert found(config, "state folder").level is Level.OK


def test_folder_that_may_not_be_written_to_is_a_problem(folder, config, monkeypatch):
    (folder / "state").mkdir(mode=0o500)
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write everywhere

    finding = found(config, "state folder")

    assert finding.level is Level.PROBLEM
    assert finding.message == f"{folder}/state may not be written to (mode 500)"


def test_folder_that_cannot_be_made_is_a_problem(folder, config, monkeypatch):
    monkeypatch.setattr(os, "access", lambda *_: False)

    finding = found(config, "state folder")

    assert finding.level is Level.PROBLEM
    assert finding.message == f"{folder}/state cannot be made: {folder} may not be written to"


def test_file_in_place_of_a_folder_is_a_problem(folder, config):
    (folder / "state").mkdir(mode=0o700)
    (folder / "state/logs").touch(mode=0o600)
    finding = found(config, "log folder")
    assert (finding.level, finding.message) == (
        Level.PROBLEM,
        f"{folder}/state/logs is a file, not a folder: move it away",
    )


@pytest.mark.skipif(os.geteuid() != 0, reason="NOT RUN: to give a folder away takes root")
def test_folder_of_another_user_is_reported(folder, config):
    (folder / "state").mkdir(mode=0o700)
    os.chown(folder / "state", 4_000_000, -1)
    finding = found(config, "state folder")
    assert finding.level is Level.PROBLEM
    assert "belongs to uid 4000000" in finding.message


def test_configuration_that_others_can_write_is_a_problem(folder, config):
    (folder / "bgd.toml").chmod(0o644)
    assert found(config, "configuration").level is Level.OK
    (folder / "bgd.toml").chmod(0o664)
    assert found(config, "configuration").level is Level.PROBLEM


def test_limits_that_are_too_low_are_reported(config, monkeypatch):
    limits = {resource.RLIMIT_NOFILE: (256, 4096), resource.RLIMIT_FSIZE: (1_000_000, -1)}
    monkeypatch.setattr("bgd.daemon.doctor.resource.getrlimit", limits.__getitem__)

    assert "256 may be open at once" in found(config, "open files").message
    assert "larger than 1MB" in found(config, "file size").message


def test_a_launcher_that_can_open_few_more_files_is_a_problem_that_names_them(home):
    home.finished_job("true")
    launcher = json.loads(home.bgctl("info", "--json").stdout)["launcher_pid"]
    count, limit, kinds = open_descriptors(launcher)
    assert "open files: the launcher" not in home.bgctl("doctor").stdout
    resource.prlimit(launcher, resource.RLIMIT_NOFILE, (count, limit))

    done = home.bgctl("doctor")

    assert done.returncode == 1
    words = f"has {count} open, of at most {count}, mostly {kinds}"
    assert f"problem  open files: the launcher (pid {launcher}) {words}\n" in done.stdout


def test_disk_that_is_low_is_a_problem(config, monkeypatch):
    disk = SimpleNamespace(f_files=0, f_favail=0, f_bavail=10, f_blocks=10**6, f_frsize=1000)
    monkeypatch.setattr("bgd.daemon.doctor.os.statvfs", lambda _path: disk)

    finding = found(config, "disk")
    assert finding.level is Level.PROBLEM
    assert "10kB free" in finding.message
    assert finding.remedy == MAKE_ROOM


def test_free_pages_of_the_database_count_as_room_on_the_disk(config, monkeypatch):
    disk = SimpleNamespace(f_files=0, f_favail=0, f_bavail=10_001, f_blocks=10**6, f_frsize=1000)
    monkeypatch.setattr("bgd.daemon.doctor.os.statvfs", lambda _path: disk)
    path = Path(config.daemon.state_dir, "bgd.db")
    path.parent.mkdir(mode=0o700, exist_ok=True)
    Path(config.daemon.state_dir, "ballast").write_bytes(bytes(8_000_000))
    assert found(config, "disk").level is Level.PROBLEM

    with closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE large (content)")
        db.execute("INSERT INTO large VALUES (zeroblob(50000000))")
        db.execute("DROP TABLE large")
        db.commit()
    assert found(config, "disk").level is Level.OK


def test_disk_without_room_for_released_ballast_is_a_problem(config, monkeypatch):
    disk = SimpleNamespace(
        f_files=0, f_favail=0, f_bavail=5500, f_blocks=10**5, f_frsize=1000
    )  # a twentieth of it is 5 MB
    monkeypatch.setattr("bgd.daemon.doctor.os.statvfs", lambda _path: disk)
    ballast = Path(config.daemon.state_dir, "ballast")
    ballast.parent.mkdir(mode=0o700, exist_ok=True)

    assert found(config, "disk").level is Level.PROBLEM
    ballast.write_bytes(bytes(6_250_000))
    assert found(config, "disk").level is Level.OK


def test_clock_that_was_never_set_is_a_problem(config, monkeypatch):
    monkeypatch.setattr("bgd.daemon.doctor.time.time", lambda: 1000.0)
    assert found(config, "clock").level is Level.PROBLEM


def test_missing_interpreter_is_reported(folder):
    config = configure(
        folder, rest='[security]\nallowed_classes = ["app.*"]\n[python]\ninterpreter = "/nowhere/python"'
    )
    assert found(config, "class jobs").message == "/nowhere/python is not a program that can be run"


def test_file_in_place_of_the_socket_is_a_problem(folder, config):
    assert found(config, "socket").level is Level.NOTE
    (folder / "state").mkdir()
    (folder / "state/bgd.sock").touch()
    assert found(config, "socket").level is Level.PROBLEM


async def test_daemon_reports_on_its_launcher(config, launcher):
    async with served(config, launcher) as life:
        caller = await life.call()
        reply = await caller.ask(GetCheckup(3), Checkup)
        assert [each.level for each in reply.findings if each.subject == "launcher"] == [Level.OK]

        life.link.protocol = 1
        reply = await caller.ask(GetCheckup(4), Checkup)
        assert "from an earlier bgd" in reply.findings[-1].message

        launcher.hang_up()
        await life.is_lost.wait()
        reply = await caller.ask(GetCheckup(5), Checkup)
        assert reply.findings[-1].level is Level.NOTE
        assert reply.findings[-1].message == "it has not answered yet: it is being started"

        life.link.looking_since -= 60
        reply = await caller.ask(GetCheckup(6), Checkup)
        assert reply.findings[-1].level is Level.PROBLEM

        life.link.problem = "launcher.lock is held"
        reply = await caller.ask(GetCheckup(7), Checkup)
        assert (
            reply.findings[-1].message == "no launcher is connected, so nothing starts: launcher.lock is held"
        )


def test_launcher_that_was_stopped_is_a_problem(own_daemon):
    with own_daemon.client() as client:
        wait_until(lambda: client.info().launcher_pid)
        pid = client.info().launcher_pid
    os.kill(pid, signal.SIGSTOP)
    try:
        shown = own_daemon.bgctl("doctor").stdout
    finally:
        os.kill(pid, signal.SIGCONT)
    assert f"no job starts, and ends of jobs are not noticed (pid {pid})" in shown
    assert f"kill -CONT {pid}" in shown


def test_every_finding_is_one_line_and_available_as_json(daemon):
    done = daemon.bgctl("doctor", "--json")
    findings = json.loads(done.stdout)
    assert {"disk", "launcher", "state folder"} <= {each["subject"] for each in findings}
    assert f"bgd {bgd.__version__}" in [each["message"] for each in findings if each["subject"] == "version"]
    assert done.returncode == int(any(each["level"] in {"warning", "problem"} for each in findings))
    shown = daemon.bgctl("doctor").stdout
    assert all(f" {each['subject']}: " in shown for each in findings)


def test_doctor_works_without_a_daemon(home):
    done = home.bgctl("doctor")
    assert done.returncode == 1
    assert done.stdout.startswith("problem  daemon: no daemon answers at ")
    assert "file system: " in done.stdout


def test_doctor_continues_if_a_folder_cannot_be_searched(home):
    folder = home.folder / "no-folder"
    folder.write_bytes(b"")
    home.configure(f'[daemon]\nstate_dir = "{folder}/state"\n')

    done = home.bgctl("doctor")

    assert done.returncode == 1
    assert f"problem  access: {folder}/state/bgd.db cannot be checked: Not a directory\n" in done.stdout
    assert "file system: " in done.stdout


def test_doctor_checks_what_it_can_if_the_socket_may_not_be_used(home, monkeypatch):
    @contextmanager
    def no_client():
        raise NotAllowed("you may not use the daemon at /x/bgd.sock: Permission denied")
        yield

    monkeypatch.setattr("bgctl.daemon.client", no_client)
    home.configure(f'[daemon]\nstate_dir = "{home.state_dir}"\n')
    monkeypatch.setattr("bgctl.common._given", {"config": str(home.folder / ".config/bgd/bgd.toml")})
    done = CliRunner().invoke(doctor_command)

    assert done.stdout.startswith("problem  daemon: you may not use the daemon at /x/bgd.sock: Permission")
    assert "file system: " in done.stdout


def test_doctor_reports_an_invalid_configuration(home):
    home.configure("[daemon]\nslots = 0\n")
    done = home.bgctl("doctor")
    assert done.returncode == 1
    assert "problem  configuration: " in done.stdout
    home.configure("")


@pytest.mark.parametrize(
    ("resources", "level", "words"),
    [
        ({"gpu": ("1", "2", "3", "4")}, Level.WARNING, 'write gpu = ["0", "1", "2", "3"]'),
        ({"gpus": ("1",), "license": ("1", "2")}, Level.WARNING, 'write gpus = ["0"]'),
        ({"gpu": tuple(map(str, range(1, 11)))}, Level.WARNING, '"7", ...]'),
        ({"gpu": ("0", "1"), "license": ("1", "2", "3")}, Level.OK, ""),
        ({"gpu": ("1", "3")}, Level.OK, ""),
        ({"gpu": ()}, Level.OK, ""),
    ],
)
def test_cards_that_were_counted_from_1_are_a_warning(resources, level, words):
    finding = doctor.check_resources(resources)

    assert finding.level is level
    assert words in (finding.remedy or "")


@pytest.mark.parametrize(
    ("settings", "level", "words"),
    [
        ("", Level.OK, "unix:/run/bgd/http.sock"),
        ('auth = "none"\nhost = ["jobs.example.org"]', Level.OK, "unix:/run/bgd/http.sock"),
        ('auth = "none"', Level.WARNING, "served only as localhost"),
        ('user_header = "X-Remote-User"', Level.WARNING, "served only as localhost"),
    ],
)
def test_pages_that_a_proxy_reaches_only_as_localhost_are_a_warning(tmp_path, settings, level, words):
    file = tmp_path / "bgd.toml"
    file.write_text(f'[http]\nlisten = "unix:/run/bgd/http.sock"\n{settings}\n')
    finding = doctor.check_pages(load(str(file), environ={}).http)

    assert finding.level is level
    assert words in finding.message


def pages_in_doctor(home, listen):
    """Return what doctor says of the pages of a daemon that is to serve them there, and their address."""
    home.env["BGD_HTTP_LISTEN"] = listen
    home.submit("true")
    with home.client() as client:
        url = client.info().http
    return [line for line in home.bgctl("doctor").stdout.splitlines() if " pages: " in line], url


def test_doctor_names_the_port_of_the_pages_that_are_served_if_the_first_is_taken(home):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        lines, url = pages_in_doctor(home, f"127.0.0.1:{taken.getsockname()[1]}")

    assert [line.split()[-1] for line in lines] == [f"127.0.0.1:{urlsplit(url).port}"]


def test_pages_that_cannot_be_served_are_a_problem(home):
    in_the_way = home.folder / "http.sock"
    in_the_way.touch()

    lines, url = pages_in_doctor(home, f"unix:{in_the_way}")

    assert url is None
    assert f"pages: not at unix:{in_the_way}" in lines[-1]


def test_a_number_of_cards_is_a_warning_in_the_log_and_of_doctor(home):
    home.configure("[resources]\ngpu = 4\n")
    home.submit("true")
    log = home.bgctl("doctor").stdout, (home.folder / ".local/state/bgd/bgd.log").read_text()

    for said in log:
        assert "[resources] gpu has the tokens 1 to 4, but cards are numbered from 0" in said
