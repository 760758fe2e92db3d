"""The application's unit in docs/recipes.md finds the system's daemon, and runs on without it."""

from __future__ import annotations

from tests.docs.pages import block, page
from tests.support import wait_until

UNIT = "/etc/systemd/system/shop.service"
# Instead of a web server: a program that submits a job and keeps running
SERVER = "#!/bin/sh\n/usr/local/bin/bgctl submit --wait --cwd / --name shop id -un && exec sleep infinity\n"


def test_an_application_uses_the_systems_daemon_and_outlives_it(machine):
    programs = "/srv/shop/.venv/bin"
    machine.run("mkdir", "-p", programs)
    machine.run("sh", "-c", 'printf %s "$1" > $2; chmod 755 $2', "sh", SERVER, f"{programs}/gunicorn")
    machine.run("sh", "-c", 'printf %s "$1" > $2', "sh", block(page("docs/recipes.md"), "ini"), UNIT)

    assert machine.run("systemd-analyze", "verify", UNIT) == ""
    machine.run("systemctl", "daemon-reload")
    machine.run("systemctl", "start", "shop")
    wait_until(lambda: machine.attempt("bgctl", "list", "--name", "shop", "--ids").stdout)
    job = machine.run("bgctl", "list", "--name", "shop", "--ids")
    machine.run("bgctl", "wait", job)
    machine.run("systemctl", "restart", "bgd")

    assert machine.run("bgctl", "logs", job) == "bgd"
    assert machine.run("systemctl", "is-active", "shop") == "active"
    machine.run("systemctl", "stop", "shop")
