"""bgd as two services is started, stopped, restarted, killed and hung; its jobs survive."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.support import wait_until
from tests.systemd.machine import Machine

WAIT = "mkfifo -m 666 /tmp/$BGD_JOB_ID; read code < /tmp/$BGD_JOB_ID; exit $code"
BROWSE = """
import socket, sys
from urllib.parse import urljoin
from urllib.request import HTTPCookieProcessor, build_opener
look_up = socket.getaddrinfo
socket.getaddrinfo = lambda host, *rest, **more: look_up("127.0.0.1", *rest, **more)  # as browsers do
browser = build_opener(HTTPCookieProcessor())
print([browser.open(urljoin(sys.argv[1], page)).read().decode() for page in sys.argv[1:]][-1])
"""
PAGES = "http://127.0.0.1:8643"
KILLS = 10
BOTH = pytest.mark.parametrize("unit", ["bgd", "bgd-launcher"])


@pytest.fixture(autouse=True)
def _starts_are_counted_anew(machine):
    """Reset systemd's limit on starts before each test."""
    machine.run("systemctl", "reset-failed", "bgd", "bgd-launcher")


@pytest.fixture
def waiting(machine):
    """A job that runs until `finish` gives it an exit code."""
    job = machine.run("bgctl", "submit", "sh", "-c", WAIT)
    wait_until(lambda: machine.attempt("test", "-p", f"/tmp/{job}").returncode == 0)
    yield job
    machine.attempt("bgctl", "cancel", job)


def finish(machine: Machine, job: str, code: int) -> None:
    """Let a waiting job end; check that its exit code is known."""
    machine.run("sh", "-c", f"echo {code} > /tmp/{job}")
    machine.run("bgctl", "wait", job, code=code)


def attempts(machine: Machine, job: str) -> list[dict[str, Any]]:
    shown = json.loads(machine.run("bgctl", "--json", "show", job))
    return list(shown["attempts"])


def kill(machine: Machine, unit: str, signal: str) -> None:
    """Send a signal to the unit's main process; wait until another one has replaced it."""
    before = machine.unit(unit, "MainPID")
    machine.run("kill", f"-{signal}", before)
    wait_until(lambda: machine.unit(unit, "MainPID") not in {before, "0"})
    machine.run("systemctl", "start", unit)  # returns once it is ready


def said(machine: Machine) -> str:
    """Return what the present daemon has logged."""
    invocation = machine.unit("bgd", "InvocationID")
    return machine.run("journalctl", "--output", "cat", f"_SYSTEMD_INVOCATION_ID={invocation}")


def browse(machine: Machine, *pages: str) -> str:
    """Open pages in turn; return the text of the last one."""
    return machine.run("/usr/local/lib/bgd/bin/python", "-c", BROWSE, *pages)


def test_start_returns_when_socket_and_pages_answer(machine):
    machine.run("systemctl", "stop", "bgd", "bgd-launcher")

    machine.run("systemctl", "start", "bgd")

    assert machine.run("bgctl", "run", "echo", "hello") == "hello"
    assert browse(machine, f"{PAGES}/healthz") == "ok"
    assert "echo hello" in browse(machine, machine.run("bgctl", "dashboard"), "/job-logs")
    assert machine.unit("bgd", "StatusText") == "serving /run/bgd/bgd.sock"
    assert machine.unit("bgd-launcher", "ActiveState") == "active"


def test_port_and_name_of_the_pages_outlive_bgd_and_change_with_the_launcher(machine):
    def pages() -> str:
        return str(json.loads(machine.run("bgctl", "--json", "info"))["http"])

    before = pages()
    machine.run("systemctl", "restart", "bgd")
    assert pages() == before
    kill(machine, "bgd", "KILL")
    assert pages() == before
    machine.run("systemctl", "restart", "bgd-launcher")  # bgd gives them to the new one
    wait_until(lambda: machine.run("bgctl", "run", "echo", "hello") == "hello")
    machine.run("systemctl", "restart", "bgd")
    assert pages() == before

    machine.run("systemctl", "stop", "bgd")
    assert machine.run("ss", "-Hltn", "sport = :8643").count("\n") == 1  # of both families
    machine.run("systemctl", "stop", "bgd-launcher")
    assert machine.run("ss", "-Hltn", "sport = :8643") == ""
    machine.run("systemctl", "start", "bgd")
    assert pages() != before


def test_job_runs_as_bgd_and_inherits_nothing_from_the_service_manager(machine):
    assert machine.run("bgctl", "run", "id", "-un") == "bgd"
    names = machine.run("bgctl", "run", "env")

    assert not [name for name in ("NOTIFY_SOCKET", "WATCHDOG_", "LISTEN_") if name in names]


def test_job_survives_a_restart_and_many_kills_and_its_end_is_known(machine, waiting):
    machine.run("systemctl", "restart", "bgd")
    for _ in range(KILLS):
        kill(machine, "bgd", "KILL")

    assert int(machine.unit("bgd", "NRestarts")) == KILLS
    finish(machine, waiting, 7)
    (attempt,) = attempts(machine, waiting)
    assert attempt["outcome"] == "exit"


def test_stop_leaves_the_job_to_the_launcher_and_start_adopts_it(machine, waiting):
    machine.run("systemctl", "stop", "bgd")

    assert machine.run("pgrep", "-u", "bgd", "-f", "/bin/bgd ", code=1) == ""
    assert machine.run("bgctl", "list", code=69).count("\n") == 0
    machine.run("systemctl", "start", "bgd")
    finish(machine, waiting, 3)


def test_stopping_both_leaves_no_process_and_the_job_was_interrupted(machine, waiting):
    machine.run("systemctl", "stop", "bgd", "bgd-launcher")

    assert machine.run("pgrep", "-u", "bgd", code=1) == ""
    machine.run("systemctl", "start", "bgd")
    machine.attempt("bgctl", "wait", waiting)
    assert [attempt["outcome"] for attempt in attempts(machine, waiting)] == ["interrupted"]


def test_restart_of_the_launcher_ends_jobs_in_order(machine):
    job = machine.run(
        "bgctl", "submit", "sh", "-c", "trap 'echo bye; exit 4' TERM; echo up; sleep 100 & wait"
    )
    wait_until(lambda: machine.attempt("bgctl", "logs", job).stdout == "up\n")

    machine.run("systemctl", "restart", "bgd-launcher")

    machine.attempt("bgctl", "wait", job)
    assert machine.run("bgctl", "logs", job) == "up\nbye"
    assert [attempt["outcome"] for attempt in attempts(machine, job)] == ["interrupted"]
    assert machine.run("bgctl", "run", "echo", "next") == "next"


def test_systemctl_kill_of_the_launcher_interrupts_jobs_and_a_stray_signal_does_not(machine):
    job = machine.run("bgctl", "submit", "--rerun", "yes", "sh", "-c", "echo up; exec sleep 100")
    wait_until(lambda: machine.attempt("bgctl", "logs", job).stdout == "up\n")
    launcher = machine.unit("bgd-launcher", "MainPID")

    machine.run("systemctl", "kill", "--kill-whom=main", "-s", "USR1", "bgd-launcher")
    assert machine.run("bgctl", "run", "echo", "next") == "next"
    assert machine.unit("bgd-launcher", "MainPID") == launcher

    machine.run("systemctl", "kill", "bgd-launcher")

    wait_until(lambda: len(attempts(machine, job)) > 1)
    assert attempts(machine, job)[0]["outcome"] == "interrupted"
    machine.run("bgctl", "cancel", job)


def test_job_waits_for_a_launcher_that_is_stopped_and_one_line_names_the_unit(machine):
    machine.run("systemctl", "restart", "bgd")
    machine.run("systemctl", "stop", "bgd-launcher")
    job = machine.run("bgctl", "submit", "true")
    wait_until(lambda: "is bgd-launcher.service running?" in said(machine))

    machine.run("systemctl", "start", "bgd-launcher")

    machine.run("bgctl", "wait", job)
    assert said(machine).count("is bgd-launcher.service running?") == 1


def test_reload_applies_the_configuration_or_says_what_is_wrong_with_it(machine):
    machine.write("/etc/bgd/bgd.toml", "[daemon]\nslots = 5\n")
    machine.run("systemctl", "reload", "bgd")
    wait_until(lambda: json.loads(machine.run("bgctl", "--json", "info"))["slots"] == 5)

    machine.write("/etc/bgd/bgd.toml", "[daemon]\nslot = 6\n")
    machine.run("systemctl", "reload", "bgd")

    wait_until(lambda: "slots" in machine.unit("bgd", "StatusText"))
    assert machine.unit("bgd", "ActiveState") == "active"
    machine.write("/etc/bgd/bgd.toml", "")


def test_invalid_configuration_is_not_tried_again(machine):
    machine.write("/etc/bgd/bgd.toml", "[daemon]\nslot = 6\n")

    machine.run("systemctl", "restart", "bgd", code=1)

    assert machine.unit("bgd", "ActiveState") == "failed"
    assert machine.unit("bgd", "ExecMainStatus") == "78"
    machine.write("/etc/bgd/bgd.toml", "")
    machine.run("systemctl", "start", "bgd")


@BOTH
def test_watchdog_replaces_a_service_that_hangs(machine, unit):
    drop_in = f"/run/systemd/system/{unit}.service.d/watchdog.conf"
    machine.write(drop_in, "[Service]\nWatchdogSec=1\n")
    machine.run("systemctl", "daemon-reload")
    machine.run("systemctl", "restart", unit)

    kill(machine, unit, "STOP")

    journal = machine.run("journalctl", "--unit", unit)
    assert "Watchdog timeout (limit 1s)!" in journal
    assert "Fatal Python error: Aborted" in journal  # the place where it hung
    machine.run("rm", drop_in)
    machine.run("systemctl", "daemon-reload")
    machine.run("systemctl", "restart", unit)
    # on a busy machine, bgctl also says that no launcher runs yet
    assert "back" in machine.run("bgctl", "run", "echo", "back").splitlines()


def test_with_a_socket_unit_nobody_is_refused_while_bgd_is_killed(machine):
    machine.run("systemctl", "stop", "bgd")
    machine.run("systemctl", "start", "bgd.socket")
    assert machine.run("bgctl", "run", "echo", "woken") == "woken"
    for number in range(KILLS):
        machine.run("kill", "-KILL", machine.unit("bgd", "MainPID"))
        assert machine.run("bgctl", "run", "echo", str(number)) == str(number)

    machine.run("systemctl", "stop", "bgd.socket", "bgd")
    machine.run("systemctl", "start", "bgd")


def test_other_users_are_refused_in_one_line(machine):
    refusal = machine.run("bgctl", "--system", "list", user="ada", code=77)

    assert refusal == "bgctl: you may not use the daemon at /run/bgd/bgd.sock: Permission denied"


def test_other_users_are_asked_to_start_a_daemon_of_their_own(machine):
    refusal = machine.run("bgctl", "list", user="ada", code=69)

    assert refusal == (
        "bgctl: no daemon answers at /home/ada/.local/state/bgd/bgd.sock: `bgctl submit` or `bgd` starts a"
        " daemon of your own (you may not use the one at /run/bgd/bgd.sock)"
    )


def test_user_with_linger_has_her_own_services(machine):
    machine.run("systemctl", "--user", "enable", "--now", "bgd", user="ada")
    assert machine.run("bgctl", "run", "id", "-un", user="ada") == "ada"
    job = machine.run("bgctl", "submit", "sh", "-c", WAIT.replace("$BGD_JOB_ID", "ada"), user="ada")
    wait_until(lambda: machine.attempt("test", "-p", "/tmp/ada").returncode == 0)

    machine.run("systemctl", "--user", "restart", "bgd", user="ada")

    machine.run("sh", "-c", "echo 9 > /tmp/ada", user="ada")
    machine.run("bgctl", "wait", job, user="ada", code=9)
    machine.run("systemctl", "--user", "stop", "bgd", "bgd-launcher", user="ada")
    assert machine.run("pgrep", "-u", "ada", "-f", "/bin/bgd", code=1) == ""


def test_the_doctor_and_a_refusal_say_the_same_about_control_groups(machine):
    """The launcher's unit has Delegate=yes; what may be missing are the controllers of the kernel."""
    findings = json.loads(machine.attempt("bgctl", "--json", "doctor").stdout)
    [finding] = [each for each in findings if each["subject"] == "control groups"]
    submit = machine.attempt("bgctl", "submit", "--memory-max", "1G", "true")

    assert "Delegate" not in finding["message"] + finding["remedy"]
    if finding["level"] == "ok":
        assert submit.returncode == 0
    else:
        assert "/system.slice/bgd-launcher.service has no " in finding["message"]
        assert "systemd.unified_cgroup_hierarchy" in finding["remedy"]
        assert finding["remedy"] in submit.stderr
        assert "as a systemd service" not in submit.stderr
