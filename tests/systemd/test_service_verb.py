"""`bgctl service` makes bgd a service on a real systemd, however it was installed, and removes it again."""

from __future__ import annotations

import json
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import wait_until
from tests.systemd.machine import Machine

BASE = "/usr/local/lib/bgd/bin/python"  # makes virtual environments
OFFLINE = ("--quiet", "--no-index", "--find-links=/srv/test/wheels")
PIP = f"{BASE} -m pip --python"  # a pip for all environments: to install it in each takes two seconds
UV = "/srv/test/tools/bin/uv"  # takes a tenth of pip's time
WAIT = "mkfifo -m 666 {0}; read code < {0}; exit $code"
HOME = "/home/ada"

# How to install bgd for ada, and the command that is bgctl then
INSTALLATIONS = {
    "pip": (
        f"{BASE} -m venv --without-pip {HOME}/pip && {PIP} {HOME}/pip install {' '.join(OFFLINE)} bgd",
        [f"{HOME}/pip/bin/bgctl"],
    ),
    "pipx": (
        f"/srv/test/tools/bin/pipx install --quiet --python {BASE} --pip-args='{' '.join(OFFLINE)}' bgd",
        [f"{HOME}/.local/bin/bgctl"],
    ),
    "uv": (
        f"{UV} tool install --python {BASE} {' '.join(OFFLINE)} bgd",
        [f"{HOME}/.local/bin/bgctl"],
    ),
    "checkout": (
        f"""{UV} venv --quiet --python {BASE} '{HOME}/a venv' && export VIRTUAL_ENV='{HOME}/a venv' &&
        {UV} pip install {" ".join(OFFLINE)} bgd && {UV} pip uninstall --quiet bgd &&
        cp -R /srv/test/source '{HOME}/a 100% $HOME'""",
        ["env", f"PYTHONPATH={HOME}/a 100% $HOME", f"{HOME}/a venv/bin/python", "-m", "bgctl"],
    ),
}


@pytest.fixture(scope="session")
def packages(machine: Machine, stage: Path, dist: Path) -> Iterator[None]:
    """The wheel of bgd, the tools that install it, and bgd's source, in a folder of the machine."""
    root = Path(f"/proc/{machine._first_pid()}/root")
    with tempfile.TemporaryDirectory(prefix="bgd-packages-") as folder:
        with tarfile.open(next(dist.glob("*.tar.gz"))) as package:
            package.extractall(folder, filter="data")
        [source] = Path(folder).iterdir()
        shutil.copytree(source, root / "srv/test/source")
        wheels = Path(folder, "wheels")
        python = stage / "usr/local/lib/bgd/bin/python"
        [wheel] = dist.glob("*.whl")
        subprocess.run(
            [python, "-m", "pip", "wheel", "--quiet", "--wheel-dir", wheels, wheel, "uv", "pipx"], check=True
        )
        shutil.copytree(wheels, root / "srv/test/wheels")
    machine.run(BASE, "-m", "venv", "--without-pip", "/srv/test/tools")
    machine.run(*PIP.split(), "/srv/test/tools", "install", "--no-compile", *OFFLINE, "uv", "pipx")
    machine.run(UV, "venv", "--quiet", "--python", BASE, "/srv/test/bgd")
    # compiled, because ada may not write there: her Python would compile bgd at each start
    install = [UV, "pip", "install", "--compile-bytecode", "--python", "/srv/test/bgd/bin/python"]
    machine.run(*install, *OFFLINE, "bgd")
    yield
    machine.run("rm", "-r", "/srv/test")


def install(machine: Machine, kind: str) -> list[str]:
    """Install bgd for ada; return the command that is bgctl."""
    command, bgctl = INSTALLATIONS[kind]
    machine.run("sh", "-c", command, user="ada")
    return bgctl


def status(machine: Machine, bgctl: list[str], code: int = 0, user: str = "ada") -> dict[str, Any]:
    found: dict[str, Any] = json.loads(
        machine.run(*bgctl, "service", "status", "--json", user=user, code=code)
    )
    return found


def clean_up(machine: Machine) -> None:
    machine.run("systemctl", "--user", "stop", "bgd.socket", "bgd", "bgd-launcher", user="ada")
    machine.run("sh", "-c", f"rm -rf {HOME}/.local {HOME}/.config {HOME}/.cache {HOME}/*")
    machine.run("systemctl", "--user", "daemon-reload", user="ada")


@pytest.mark.usefixtures("packages")
@pytest.mark.parametrize("kind", INSTALLATIONS)
def test_user_makes_bgd_a_service_however_it_was_installed(machine, kind):
    bgctl = install(machine, kind)

    told = machine.run(*bgctl, "service", "install", user="ada")

    assert "bgd as a service of ada is enabled and runs" in told
    assert "loginctl enable-linger" not in told  # the fixture has done that
    assert machine.run(*bgctl, "run", "--cwd", "/", "id", "-un", user="ada") == "ada"
    allow = f"""mkdir -p {HOME}/.config/bgd
    printf '[security]\\nallowed_classes = ["textwrap.indent"]\\n' > {HOME}/.config/bgd/bgd.toml"""
    machine.run("sh", "-c", allow, user="ada")
    machine.run(*bgctl, "reload", user="ada")
    machine.run(*bgctl, "call", "--wait", "--args", '["line", "> "]', "textwrap:indent", user="ada")
    assert json.loads(machine.run(*bgctl, "show", "--json", "last", user="ada"))["result"] == "> line"
    assert "complete -o" in machine.run(*bgctl, "completion", "bash", user="ada")
    assert machine.run(*bgctl, "--help", user="ada").startswith("Usage: bgctl")
    first = status(machine, bgctl)
    assert (first["units"], first["enabled"], first["lingers"]) == (
        f"{HOME}/.config/systemd/user",
        True,
        True,
    )
    python = machine.run("sh", "-c", f"tr '\\0' '\\n' < /proc/{first['pid']}/cmdline | head -1")
    assert python.startswith(HOME)

    machine.run("systemctl", "restart", "user@1777")  # as a reboot does

    wait_until(lambda: machine.attempt(*bgctl, "info", "--pid", user="ada").returncode == 0)
    assert status(machine, bgctl)["pid"] != first["pid"]
    assert machine.run(*bgctl, "run", "--cwd", "/", "echo", "again", user="ada") == "again"
    assert machine.run(*bgctl, "service", "install", user="ada").startswith("bgctl: bgd as a service of ada")
    told = machine.run(*bgctl, "service", "remove", user="ada")
    assert "is stopped and does not start again; jobs and configuration are kept" in told
    assert machine.run("pgrep", "-u", "ada", "-f", "bgd", code=1) == ""
    assert machine.run("ls", f"{HOME}/.config/systemd/user", user="ada") == ""
    assert status(machine, bgctl, code=1)["enabled"] is False
    clean_up(machine)


@pytest.mark.usefixtures("packages")
def test_jobs_of_the_daemon_that_ran_before_run_on(machine):
    bgctl = ["/srv/test/bgd/bin/bgctl"]
    pipe = f"{HOME}/pipe"
    machine.run(*bgctl, "submit", "--cwd", "/", "sh", "-c", WAIT.format(pipe), user="ada")
    wait_until(lambda: machine.attempt("test", "-p", pipe).returncode == 0)
    assert "is not installed" in machine.run(*bgctl, "service", "remove", user="ada", code=1)

    told = machine.run(*bgctl, "service", "install", user="ada")

    assert "has ended; its jobs run on" in told
    assert "old daemon's launcher: 1; when they have ended, `systemctl --user restart bgd` starts" in told
    machine.run("sh", "-c", f"echo 7 > {pipe}", user="ada")
    machine.run(*bgctl, "wait", "1", user="ada", code=7)
    clean_up(machine)


@pytest.mark.usefixtures("packages")
def test_service_is_not_removed_under_running_jobs_unless_that_is_asked_for(machine):
    bgctl = ["/srv/test/bgd/bin/bgctl"]
    machine.run(*bgctl, "service", "install", user="ada")
    machine.run(*bgctl, "submit", "--cwd", "/", "sleep", "600", user="ada")
    wait_until(lambda: machine.attempt("pgrep", "-u", "ada", "sleep").returncode == 0)

    refused = machine.run(*bgctl, "service", "remove", user="ada", code=1)

    assert "running jobs would be interrupted: 1" in refused
    machine.run(*bgctl, "service", "remove", "--interrupt", user="ada")
    assert machine.run("pgrep", "-u", "ada", "sleep", code=1) == ""
    assert "started a daemon for you" in machine.run(*bgctl, "submit", "--cwd", "/", "true", user="ada")
    machine.run(*bgctl, "shutdown", "--cancel", user="ada")
    clean_up(machine)


@pytest.mark.usefixtures("packages")
def test_user_without_linger_is_told_when_the_service_ends(machine):
    bgctl = ["/srv/test/bgd/bin/bgctl"]
    machine.run("rm", "/var/lib/systemd/linger/ada")  # her manager runs on, as during a login

    told = machine.run(*bgctl, "service", "install", user="ada")

    assert "ends, with its jobs, at your last logout" in told
    assert "loginctl enable-linger" in told
    assert "see `loginctl enable-linger`" in machine.run(*bgctl, "service", user="ada")
    machine.run("loginctl", "enable-linger", "ada")
    assert machine.run(*bgctl, "service", user="ada").endswith("starts    with the machine")
    clean_up(machine)


@pytest.mark.usefixtures("packages")
def test_root_makes_another_installation_the_service_of_the_machine(machine):
    bgctl = ["/srv/test/bgd/bin/bgctl"]
    pipe = "/tmp/switch"
    job = machine.run("bgctl", "submit", "--cwd", "/", "sh", "-c", WAIT.format(pipe))
    wait_until(lambda: machine.attempt("test", "-p", pipe).returncode == 0)

    told = machine.run(*bgctl, "service", "install")

    assert "its units are in /etc/systemd/system" in told
    shown = status(machine, bgctl, user="root")
    assert "/srv/test/bgd/bin/python" in machine.run("cat", f"/proc/{shown['pid']}/cmdline")
    assert machine.run(*bgctl, "run", "--cwd", "/", "id", "-un") == "bgd"
    assert "running jobs would be interrupted: 1" in machine.run(*bgctl, "service", "remove", code=1)
    machine.run("sh", "-c", f"echo 4 > {pipe}")
    machine.run(*bgctl, "wait", job, code=4)
    units = [f"/etc/systemd/system/{name}" for name in ("bgd.service", "bgd.socket", "bgd-launcher.service")]
    assert machine.run("systemd-analyze", "verify", *units) == ""
    machine.run(*bgctl, "service", "remove")
    assert machine.run("ls", *units, code=2).count("No such file") == 3
    machine.run("systemctl", "enable", "--now", "bgd")


def test_units_of_make_install_are_used_as_they_are(machine):
    machine.run("systemctl", "disable", "--now", "bgd")

    told = machine.run("bgctl", "service", "install")

    assert "its units are in /usr/local/lib/systemd/system" in told
    assert machine.run("ls", "/etc/systemd/system/bgd.service", code=2)
    assert status(machine, ["bgctl"], user="root")["enabled"] is True


@pytest.mark.usefixtures("packages")
def test_installation_that_a_service_of_the_machine_cannot_see_is_refused(machine):
    machine.run("cp", "-R", "/srv/test/bgd", "/root/venv")

    refused = machine.run("/root/venv/bin/python", "-P", "-m", "bgctl", "service", "install", code=1)

    assert "this bgd is in /root/venv" in refused
    assert "bgctl --user service install" in refused
    machine.run("rm", "-r", "/root/venv")


@pytest.mark.usefixtures("packages")
def test_installation_that_may_vanish_is_refused(machine):
    folder = f"{HOME}/.cache/uv/bgd"
    machine.run("sh", "-c", f"mkdir -p {HOME}/.cache/uv && cp -R /srv/test/bgd {folder}", user="ada")

    python = [f"{folder}/bin/python", "-P", "-m"]
    refused = machine.run(*python, "bgctl", "service", "install", user="ada", code=1)

    assert f"this bgd is in {folder}" in refused
    assert "may be deleted at any time" in refused
    clean_up(machine)


def test_only_root_changes_the_services_of_the_machine(machine):
    refused = machine.run("bgctl", "service", "install", "--system", user="ada", code=77)

    assert "only root can change the services of this machine: use sudo, or leave out --system" in refused


def test_units_that_somebody_wrote_are_not_overwritten(machine):
    path = f"{HOME}/.config/systemd/user/bgd.service"
    machine.run("install", "-D", "/dev/null", path, user="ada")
    machine.run("systemctl", "--user", "daemon-reload", user="ada")

    refused = machine.run("bgctl", "service", "install", user="ada", code=1)

    assert f"{path} was not written by `bgctl service install`: move it away" in refused
    machine.run("rm", path)
    clean_up(machine)
