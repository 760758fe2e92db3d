"""The daemon as people run it: options, folder, signals, and jobs that run while it is away."""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import bgd
from bgd import Client, ConfigError, DaemonUnreachable, Job, Refused, State
from bgd.settings.startup import DAEMON_LIMITS
from tests.support import DEADLINE, Daemon, wait_until

LIMITS = ("nofile", "fsize", "as", "data")  # prlimit(1)'s names for DAEMON_LIMITS
STRANGER = 4_000_000  # a uid that nobody has

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="NOT TESTED: only root can give a folder away")


class Machine(Daemon):
    """A home whose daemon is started and stopped, and whose jobs wait at a gate."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.gate = folder / "gate"
        os.mkfifo(self.gate)

    @property
    def log(self) -> str:
        """What the daemon has logged."""
        return (self.folder / "bgd.log").read_text()

    def run(self, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
        """Run a daemon that exits by itself."""
        return self.execute(sys.executable, "-P", "-m", "bgd", *arguments, env=env)

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def ended(self) -> int:
        """Return the daemon's exit code."""
        return self.process.wait(DEADLINE)

    def submit_gated(self, client: Client) -> Job:
        """Return a job that runs until the gate is opened with its exit code."""
        job = client.submit(["/bin/sh", "-c", f"echo began; read code < {self.gate}; exit $code"])
        wait_until(lambda: b"".join(part.data for part in client.logs(job.id)) == b"began\n")
        return job

    def open_gate(self, code: int = 0) -> None:
        self.gate.write_text(f"{code}\n")

    def launchers(self) -> list[int]:
        """Return the pids of this home's launchers."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    words = (entry / "cmdline").read_bytes().split(b"\0")
                except OSError:
                    continue
                if b"bgd.launcher" in words and os.fsencode(self.state_dir) in words:
                    found.append(int(entry.name))
        return found

    def clear_up(self) -> None:
        """Stop the daemon, its launcher and its jobs, whatever state the test has left them in."""
        if self.launchers() and (not hasattr(self, "process") or self.process.poll() is not None):
            self.start()
        if hasattr(self, "process"):
            self.stop()


@pytest.fixture
def machine() -> Iterator[Machine]:
    with tempfile.TemporaryDirectory(prefix="bgd-") as folder:
        machine = Machine(Path(folder))
        yield machine
        machine.clear_up()


def connections_to(path: str) -> int:
    """Return how many connections the daemon with this socket has accepted."""
    lines = [line.split() for line in Path("/proc/net/unix").read_text().splitlines()]
    return sum(fields[5:] == ["03", fields[6], path] for fields in lines if len(fields) == 8)


def launcher_of(client: Client) -> int:
    """Wait for a launcher; return its pid."""
    wait_until(lambda: client.info().launcher_pid)
    pid = client.info().launcher_pid
    assert pid is not None
    return pid


def pid_of(client: Client, job: Job) -> int:
    """Wait until the daemon knows the pid of a job's first attempt; return it."""
    wait_until(lambda: client.attempts(job.id)[0].pid)
    pid = client.attempts(job.id)[0].pid
    assert pid is not None
    return pid


def is_alive(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_daemon_with_closed_standard_streams_runs_jobs_and_stops_cleanly(machine, closed):
    words = [sys.executable, "-P", "-m", "bgd"]
    machine.process = subprocess.Popen(
        ["sh", "-c", f'exec "$@" {closed}', "sh", *words],
        env=machine.env,
        cwd=machine.folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    wait_until(machine.socket.exists)
    for fd in range(3):
        target = os.readlink(f"/proc/{machine.process.pid}/fd/{fd}")  # noqa: PTH115 - the link of a socket is not a path
        assert target.startswith("/"), f"{fd} is {target}"

    done = machine.bgctl("run", "echo", "hello")
    machine.signal(signal.SIGTERM)

    assert (done.returncode, done.stdout) == (0, "hello\n")
    assert machine.ended() == 0


# --- options and configuration --------------------------------------------------------------------------


def test_check_names_the_good_configuration_and_changes_nothing(machine):
    machine.configure("[daemon]\nslots = 3\n")
    done = machine.run("--check")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{machine.folder}/.config/bgd/bgd.toml: good\n"
    assert not machine.state_dir.exists()


@pytest.mark.parametrize("key", ['interpreter = "/nope/python"', 'path = ["/nope"]'])
def test_check_checks_whether_class_jobs_could_start(machine, key):
    machine.configure(f"[python]\n{key}\n")

    checked = machine.run("--check")

    assert checked.returncode == 78
    assert "/nope" in checked.stderr


def test_check_finds_a_schedule_that_is_configured_and_stored(machine):
    machine.start()
    with machine.client() as client:
        client.schedules.add("nightly", ["true"], cron="@daily")
    machine.configure('[schedules.nightly]\ncron = "@daily"\ncommand = ["true"]\n')

    while_it_runs = machine.run("--check")
    machine.stop()
    checked = machine.run("--check")
    assert checked.returncode == while_it_runs.returncode == 78
    assert "schedules.nightly: this name was added with `bgctl schedule add`" in checked.stderr
    (machine.state_dir / "bgd.db").write_bytes(b"no database")
    checked = machine.run("--check")
    assert checked.returncode == 0
    assert "bgd.db cannot be read (file is not a database): names" in checked.stderr


def test_check_without_a_file_says_so(machine):
    done = machine.run("--check")
    assert (done.returncode, done.stdout) == (0, "built-in defaults: good\n")


@pytest.mark.parametrize("arguments", [["--check"], []], ids=["checked", "started"])
def test_bad_configuration_is_one_line_with_file_and_key(machine, arguments):
    machine.configure("[daemon]\nslotz = 3\n")
    done = machine.run(*arguments)
    assert done.returncode == 78
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    file = f"{machine.folder}/.config/bgd/bgd.toml"
    assert line.endswith(f"error: {file}: daemon.slotz is not a key; did you mean slots?")
    assert not machine.state_dir.exists()


def test_unknown_option_is_a_usage_error(machine):
    assert machine.run("--chekc").returncode == 2


def test_version_is_printed(machine):
    assert machine.run("--version").stdout == f"bgd {bgd.__version__}\n"


def test_log_may_be_json(machine):
    machine.configure("[daemon]\nslotz = 3\n")
    (line,) = machine.run("--log-format", "json").stderr.splitlines()
    assert json.loads(line)["level"] == "error"


def test_environment_overrides_the_file(machine):
    machine.configure("[daemon]\nslots = 3\n")
    machine.env["BGD_DAEMON_SLOTS"] = "5"
    machine.start()
    with machine.client() as client:
        assert client.info().slots == 5


# --- starting ------------------------------------------------------------------------------------------


def start_and_listen(machine: Machine, *arguments: str) -> tuple[int, str]:
    """Run a daemon that fails; return its exit code and what it writes to the ready descriptor."""
    reading, writing = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "bgd", "--ready-fd", str(writing), *arguments],
        env=machine.env,
        cwd=machine.folder,
        stderr=subprocess.DEVNULL,
        pass_fds=[writing],
    )
    os.close(writing)
    with os.fdopen(reading) as pipe:
        said = pipe.read()
    return process.wait(DEADLINE), said


def test_whoever_waits_for_the_daemon_is_told_why_it_does_not_start(machine):
    machine.configure("[daemon]\nslotz = 3\n")
    code, said = start_and_listen(machine)
    assert code == 78
    assert said.startswith("error: ")
    assert "slotz" in said


def test_socket_answers_as_soon_as_the_daemon_says_it_is_ready(machine):
    machine.start()
    with machine.client() as client:
        assert client.info().pid == machine.process.pid


def test_daemon_starts_although_whoever_started_it_has_gone(machine):
    reading, writing = os.pipe()
    os.close(reading)
    machine.process = subprocess.Popen(
        [sys.executable, "-P", "-m", "bgd", "--ready-fd", str(writing)],
        env=machine.env,
        stderr=subprocess.DEVNULL,
        pass_fds=[writing],
    )
    os.close(writing)
    with machine.client() as client:
        client.reconnect()
        assert client.info().pid == machine.process.pid


def test_second_daemon_names_the_holder_of_the_folder_and_leaves_the_first_alone(machine):
    machine.start()
    before = machine.socket.stat().st_ino
    done = machine.run()
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert f"a bgd with pid {machine.process.pid} already serves {machine.state_dir}" in line
    assert "(bgctl shutdown; kill, if its socket is gone)" in line
    assert machine.socket.stat().st_ino == before
    with machine.client() as client:
        assert client.submit(["/bin/true"]).wait(DEADLINE).state is State.SUCCEEDED


def test_daemon_of_another_folder_does_not_take_the_socket_of_the_first(machine):
    machine.start()
    other = machine.folder / "other"
    done = machine.run(BGD_DAEMON_STATE_DIR=str(other), BGD_DAEMON_SOCKET=str(machine.socket))
    assert done.returncode == 1
    assert f"another daemon listens on {machine.socket}" in done.stderr
    with machine.client() as client:
        assert client.info().pid == machine.process.pid


def test_socket_of_a_killed_daemon_is_taken_over(machine):
    machine.start()
    machine.process.kill()
    machine.ended()
    machine.start()
    with machine.client() as client:
        assert client.info().pid == machine.process.pid


def test_file_in_the_sockets_place_is_left_alone(machine):
    machine.state_dir.mkdir(mode=0o700, parents=True)
    machine.socket.write_text("precious")
    done = machine.run()
    assert done.returncode == 78
    assert f"socket {machine.socket} exists and is not a socket" in done.stderr
    assert machine.socket.read_text() == "precious"
    assert machine.launchers() == []


def test_socket_path_that_is_too_long_is_refused_with_its_length(machine):
    path = f"{machine.folder}/{'s' * 100}.sock"
    done = machine.run(BGD_DAEMON_SOCKET=path)
    assert done.returncode == 78
    assert f"{path} has {len(path)} bytes, the kernel takes 107" in done.stderr


def test_state_folder_that_is_a_file_is_refused(machine):
    machine.state_dir.parent.mkdir(parents=True)
    machine.state_dir.write_text("precious")
    done = machine.run()
    assert done.returncode == 78
    assert f"cannot make the folder {machine.state_dir}" in done.stderr


@needs_root
def test_state_folder_of_somebody_else_is_refused(machine):
    machine.state_dir.mkdir(parents=True)
    os.chown(machine.state_dir, STRANGER, STRANGER)
    done = machine.run()
    assert done.returncode == 78
    assert f"{machine.state_dir} belongs to uid {STRANGER}" in done.stderr
    assert list(machine.state_dir.iterdir()) == []


def test_database_of_another_program_is_refused_and_left_alone(machine):
    machine.state_dir.mkdir(mode=0o700, parents=True)
    database = machine.state_dir / "bgd.db"
    database.write_bytes(b"no database at all" * 100)
    done = machine.run()
    assert done.returncode == 74
    assert str(database) in done.stderr
    assert "Traceback" not in done.stderr
    assert database.read_bytes() == b"no database at all" * 100


# --- stopping and restarting -----------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_daemon_exits_with_0_when_told_to_end(machine, number):
    machine.start()
    machine.signal(number)
    assert machine.ended() == 0
    assert "Traceback" not in machine.log


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGQUIT, signal.SIGALRM])
def test_a_stray_signal_is_named_in_the_log_and_does_no_harm(machine, number):
    machine.start()
    machine.signal(number)
    wait_until(lambda: f"ignored {number.name}" in machine.log)
    with machine.client() as client:
        assert client.submit(["true"]).wait(DEADLINE).state == State.SUCCEEDED


def test_daemon_without_jobs_ends_its_launcher_too(machine):
    machine.start()
    with machine.client() as client:
        launcher_of(client)
        client.submit(["/bin/true"]).wait(DEADLINE)
    machine.signal(signal.SIGTERM)
    assert machine.ended() == 0
    wait_until(lambda: machine.launchers() == [])
    assert "looking for another" not in machine.log


def test_daemon_that_is_told_to_end_at_once_ends_its_launcher_too(machine):
    for _ in range(3):  # the launcher may be at any point of its start
        machine.start()

        machine.signal(signal.SIGTERM)

        assert machine.ended() == 0
        wait_until(lambda: machine.launchers() == [])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_job_runs_on_while_the_daemon_is_away_and_keeps_its_exit_code(machine, number):
    machine.start()
    with machine.client() as client:
        job = machine.submit_gated(client)
        launcher = launcher_of(client)
    machine.signal(number)
    assert machine.ended() == (0 if number is signal.SIGTERM else -number)
    assert is_alive(launcher)
    machine.start()
    with machine.client() as client:
        assert client.view(job.id).state is State.RUNNING
        assert launcher_of(client) == launcher
        machine.open_gate(7)
        view = client.job(job.id).wait(DEADLINE).view
        assert (view.state, view.exit_code, view.attempt) == (State.FAILED, 7, 1)


def test_job_that_ended_while_the_daemon_was_away_keeps_its_exit_code(machine):
    machine.start()
    with machine.client() as client:
        job = machine.submit_gated(client)
        pid = pid_of(client, job)
    machine.process.kill()
    machine.ended()
    machine.open_gate(9)
    wait_until(lambda: not is_alive(pid))
    machine.start()
    with machine.client() as client:
        ended = client.job(job.id).wait(DEADLINE)
        assert (ended.exit_code, ended.attempt) == (9, 1)
        assert [ended.finished_at] == [attempt.finished_at for attempt in ended.attempts()]


def test_daemon_that_waits_ends_with_its_last_job_and_accepts_no_more(machine):
    machine.configure('[daemon]\non_stop = "wait"\n')
    machine.start()
    with machine.client() as client:
        machine.submit_gated(client)
        machine.signal(signal.SIGTERM)
        wait_until(lambda: "stopping: running jobs 1, mode wait" in machine.log)
        with pytest.raises(Refused, match="shutting down"):
            client.submit(["/bin/true"])
        assert machine.process.poll() is None
    machine.open_gate()
    assert machine.ended() == 0


def test_second_signal_leaves_the_jobs_that_the_first_waits_for(machine):
    machine.configure('[daemon]\non_stop = "wait"\n')
    machine.start()
    with machine.client() as client:
        job = machine.submit_gated(client)
    machine.signal(signal.SIGTERM)
    wait_until(lambda: "stopping: running jobs 1, mode wait" in machine.log)
    machine.signal(signal.SIGTERM)
    assert machine.ended() == 0
    assert "leaving 1 jobs as they are" in machine.log
    machine.start()
    with machine.client() as client:
        assert client.view(job.id).state is State.RUNNING
        machine.open_gate()
        assert client.job(job.id).wait(DEADLINE).state is State.SUCCEEDED


def test_requeued_job_runs_again_under_the_next_daemon(machine):
    machine.configure('[daemon]\non_stop = "requeue"\ngrace = "500ms"\n')
    machine.start()
    with machine.client() as client:
        job = machine.submit_gated(client)
        pid = pid_of(client, job)
    machine.signal(signal.SIGTERM)
    assert machine.ended() == 0
    assert not is_alive(pid)
    machine.start()
    with machine.client() as client:
        wait_until(lambda: client.view(job.id).attempt == 2)
        machine.open_gate()
        assert client.job(job.id).wait(DEADLINE).state is State.SUCCEEDED


def test_shutdown_may_cancel_running_jobs(machine):
    machine.start()
    with machine.client() as client:
        job = machine.submit_gated(client)
        client.shutdown("cancel", timeout=DEADLINE)
    assert machine.ended() == 0
    machine.start()
    with machine.client() as client:
        assert client.view(job.id).state is State.CANCELLED


def test_followers_learn_the_jobs_end_from_the_next_daemon(machine):
    machine.start()
    with machine.client() as client, machine.client() as waiting, ThreadPoolExecutor() as threads:
        job = machine.submit_gated(client)
        follows = threads.submit(list, client.logs(job.id, follow=True))
        waits = threads.submit(waiting.wait, [job.id], timeout=DEADLINE)
        wait_until(lambda: connections_to(client.info().socket) == 3)  # later ones are refused
        machine.signal(signal.SIGTERM)
        assert machine.ended() == 0
        machine.open_gate(7)

        assert not follows.done()
        assert not waits.done()
        machine.start()

        assert b"".join(part.data for part in follows.result(DEADLINE)) == b"began\n"
        assert waits.result(DEADLINE)[0].exit_code == 7


def test_client_that_does_not_read_stops_no_daemon_from_ending(machine):
    machine.start()
    with machine.client() as client:
        job = client.submit(["/usr/bin/head", "-c", "16000000", "/dev/zero"]).wait(DEADLINE)
        parts = iter(client.logs(job.id))
        next(parts)
        machine.signal(signal.SIGTERM)
        assert machine.ended() == 0


def test_job_whose_launcher_was_killed_is_unknown_and_another_launcher_is_started(machine):
    machine.start()
    with machine.client() as client:
        job = machine.submit_gated(client)
        launcher = launcher_of(client)
        os.kill(launcher, signal.SIGKILL)
        view = client.job(job.id).wait(DEADLINE).view
        assert (view.state, str(view.outcome)) == (State.FAILED, "unknown")
        assert client.submit(["/bin/true"]).wait(DEADLINE).state is State.SUCCEEDED
        assert launcher_of(client) != launcher
        wait_until(lambda: not is_alive(launcher))  # leaves no zombie


def test_queued_jobs_survive_a_stop_of_the_launcher(machine):
    machine.configure('[daemon]\ngrace = "3s"\n')  # on a busy machine a shell may wait a second for its turn
    machine.start()
    with machine.client() as client:
        client.set_slots(2)
        told, here = machine.folder / "told", machine.folder / "here"
        script = f"trap 'echo > {told}' TERM; echo > {here}; while :; do sleep 0.05; done"
        stubborn = client.submit(["/bin/sh", "-c", script])  # keeps the launcher alive for its grace
        wait_until(here.exists)
        again = client.submit(["/bin/sh", "-c", f"test -e {told} || exec sleep 100"], retries=1)
        wait_until(lambda: again.refresh().state is State.RUNNING)
        queued = client.submit_many([["/bin/true"]] * 20)

        os.kill(launcher_of(client), signal.SIGTERM)
        wait_until(told.exists)

        ended = client.wait([again, *queued], timeout=DEADLINE)
        assert {job.state for job in ended} == {State.SUCCEEDED}
        assert client.wait([stubborn], timeout=DEADLINE)[0].view.outcome == "interrupted"


def test_delayed_job_starts_after_a_restart(machine):
    machine.start()
    with machine.client() as client:
        job = client.submit(["/bin/true"], delay=1.0)
    machine.process.kill()
    machine.ended()
    machine.start()
    with machine.client() as client:
        assert client.job(job.id).wait(DEADLINE).state is State.SUCCEEDED


# --- a disk that fails ----------------------------------------------------------------------------------


def submitted_until_the_end(client: Client) -> list[int]:
    """Submit until the daemon ends; return the ids that it acknowledged."""
    told: list[int] = []
    while True:
        try:
            told.append(client.submit(["/bin/true"]).id)
        except DaemonUnreachable:
            return told


def test_daemon_whose_disk_fails_exits_with_74_and_loses_nothing_acknowledged(machine):
    machine.start()
    with machine.client(timeout=2.0) as client:
        running = machine.submit_gated(client)
        _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.prlimit(machine.process.pid, resource.RLIMIT_FSIZE, (20_000, hard))
        told = submitted_until_the_end(client)
    assert machine.ended() == 74
    assert f"database {machine.state_dir}/bgd.db" in machine.log.splitlines()[-1]
    assert "raise the limit on a file's size (ulimit -f, LimitFSIZE=)" in machine.log.splitlines()[-1]
    assert "Traceback" not in machine.log
    machine.start()
    with machine.client() as client:
        assert [view.id for view in client.jobs(limit=100)][::-1] == [running.id, *told]
        machine.open_gate(3)
        assert client.job(running.id).wait(DEADLINE).view.exit_code == 3


# --- reload ---------------------------------------------------------------------------------------------


def test_reload_applies_a_good_configuration_at_once(machine):
    machine.configure("[daemon]\nslots = 1\n")
    machine.start()
    with machine.client() as client:
        machine.submit_gated(client)
        waiting = client.submit(["/bin/true"])
        assert client.view(waiting.id).state is State.QUEUED
        machine.configure("[daemon]\nslots = 2\n")
        machine.signal(signal.SIGHUP)
        assert waiting.wait(DEADLINE).state is State.SUCCEEDED
        assert client.info().slots == 2
        machine.open_gate()


def test_reload_of_a_bad_configuration_keeps_the_old_one_and_says_why(machine):
    machine.configure("[daemon]\nslots = 3\n")
    machine.start()
    machine.configure('[daemon]\nslots = "many"\n')
    machine.signal(signal.SIGHUP)
    wait_until(lambda: "configuration not reloaded, keeping the old one" in machine.log)
    assert "daemon.slots" in machine.log
    with machine.client() as client:
        assert client.info().slots == 3


def test_reload_does_not_move_the_daemon(machine):
    machine.start()
    machine.configure(
        f'[daemon]\nstate_dir = "{machine.folder}/elsewhere"\nslots = 9\n[http]\nauth = "none"\n'
    )
    machine.signal(signal.SIGHUP)
    wait_until(lambda: "[daemon] state_dir has changed: that takes effect at the next start" in machine.log)
    wait_until(lambda: "[http] has changed: that takes effect at the next start" in machine.log)
    with machine.client() as client:
        info = client.info()
        assert (info.slots, info.state_dir) == (9, str(machine.state_dir))
        job = client.submit(["/bin/echo", "$BGD_SOCKET"]).wait(DEADLINE)
        assert b"".join(part.data for part in client.logs(job.id)) == b"$BGD_SOCKET\n"
    machine.configure("")  # so that the fixture finds the socket


@pytest.mark.parametrize(
    ("text", "code", "said"),
    [
        ("[daemon]\nslots = 2\n", 0, "bgctl: the daemon has read {}\n"),
        (
            '[daemon]\nslots = 2\n[http]\nauth = "none"\n',
            0,
            "bgctl: the daemon has read {}\nbgctl: [http] takes effect at the next start\n",
        ),
        ('[daemon]\nslots = "many"\n', 78, "bgctl: {}: daemon.slots "),
    ],
)
def test_client_that_asks_for_a_reload_is_told_the_result(machine, text, code, said):
    machine.configure("[daemon]\nslots = 3\n")
    machine.start()
    machine.configure(text)

    done = machine.bgctl("reload")

    assert (done.returncode, done.stdout) == (code, "")
    assert done.stderr.startswith(said.format(machine.folder / ".config/bgd/bgd.toml"))
    with machine.client() as client:
        assert client.info().slots == (3 if code else 2)
        if code:
            with pytest.raises(ConfigError, match=r"daemon\.slots"):
                client.reload()
        else:
            assert client.reload().config == str(machine.folder / ".config/bgd/bgd.toml")


# --- limits of its own process ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limit", "said"),
    [
        ("--nofile=10", "open files is 10 (ulimit -n; LimitNOFILE= in a unit), and bgd needs 64 or more"),
        ("--nofile=40", "open files is 40 (ulimit -n; LimitNOFILE= in a unit), and bgd needs 64 or more"),
        ("--fsize=614400", "size of a file is 614kB (ulimit -f; LimitFSIZE= in a unit), and bgd needs 64MB"),
        ("--as=204800000", "address space is 205MB (ulimit -v; LimitAS= in a unit), and bgd needs 1GB"),
        ("--data=99999999", "data of a process is 100MB (ulimit -d; LimitDATA= in a unit), and bgd needs"),
    ],
)
def test_a_limit_that_is_too_small_is_refused_by_name_at_the_start(machine, limit, said):
    for program in ("bgd", "bgd.launcher"):
        options = ["--state", str(machine.state_dir), "--logs", str(machine.state_dir / "logs")]
        done = subprocess.run(
            ["prlimit", limit, sys.executable, "-P", "-m", program, *(options if program != "bgd" else ())],
            env=machine.env,
            cwd=machine.folder,
            capture_output=True,
            text=True,
            timeout=DEADLINE,
            check=False,
        )
        assert said in done.stderr
        assert (done.returncode, done.stderr.count("\n")) == (1, 1)
        if limit.startswith(("--as", "--data")):
            break  # the launcher can work with these, which may be meant for its jobs


def test_jobs_of_both_kinds_run_with_the_smallest_limits_and_the_log_warns(machine):
    (machine.folder / "work.py").write_text("def f():\n    return 7\n")
    machine.configure(f'[security]\nallowed_classes = ["work.*"]\n[python]\npath = ["{machine.folder}"]\n')
    least = [f"--{name}={each.needed}" for name, each in zip(LIMITS, DAEMON_LIMITS, strict=True)]
    with (machine.folder / "bgd.log").open("ab") as log:
        machine.process = subprocess.Popen(
            ["prlimit", *least, sys.executable, "-P", "-m", "bgd"], env=machine.env, stderr=log
        )
    wait_until(machine.socket.exists)

    assert machine.bgctl("run", "echo", "well").stdout == "well\n"
    with machine.client() as client:
        assert client.call("work:f").result(DEADLINE) == 7
    assert machine.bgctl("backup", "copy.db").returncode == 0
    assert "warning: open files: 64 may be open at once" in machine.log
    assert "warning: file size: no file may be larger than 64MB" in machine.log


@pytest.mark.parametrize("program", ["bgd", "bgd.launcher", "bgctl"])
def test_a_file_system_without_locks_is_reported(machine, program):
    if shutil.which("strace") is None:
        pytest.skip("A FILE SYSTEM WITHOUT LOCKS IS NOT TESTED: strace is not installed")
    tracer = ["strace", "-f", "-o", "/dev/null", "-e", "trace=flock", "-e", "inject=flock:error=ENOLCK"]
    options = {
        "bgd": [],
        "bgd.launcher": ["--state", str(machine.state_dir), "--logs", str(machine.state_dir / "logs")],
        "bgctl": ["submit", "true"],
    }[program]
    done = subprocess.run(
        [*tracer, sys.executable, "-P", "-m", program, *options],
        env=machine.env,
        cwd=machine.folder,
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )
    if "ptrace" in done.stderr:
        pytest.skip(f"A FILE SYSTEM WITHOUT LOCKS IS NOT TESTED: strace may not trace: {done.stderr}")
    assert (done.returncode, done.stderr.count("\n")) == (1 if program == "bgd.launcher" else 78, 1)
    assert re.search(rf"cannot lock {machine.state_dir}/\w+\.lock: No locks available: put", done.stderr)


# --- many at once ---------------------------------------------------------------------------------------


def test_daemon_with_few_descriptors_refuses_connections_and_works_on(machine):
    command = [sys.executable, "-P", "-m", "bgd"]
    with (machine.folder / "bgd.log").open("ab") as log:
        machine.process = subprocess.Popen(
            ["/bin/sh", "-c", 'ulimit -n 128; exec "$@"', "sh", *command], env=machine.env, stderr=log
        )
    wait_until(lambda: machine.bgctl("list").returncode == 0)  # the socket exists before bgd listens
    crowd = []
    for _ in range(200):
        caller = socket.socket(socket.AF_UNIX)
        caller.connect(str(machine.socket))
        crowd.append(caller)
    refused = crowd[-1].makefile("rb").read()
    assert b"too many connections: the daemon serves 64" in refused
    for caller in crowd:
        caller.close()
    with machine.client() as client:
        assert client.submit(["/bin/true"]).wait(DEADLINE).state is State.SUCCEEDED
    assert "Too many open files" not in machine.log
