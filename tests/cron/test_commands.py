"""What the lines of a crontab do under Debian's cron, they do as imported schedules."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from bgctl.crontab import Machine, parse_crontab
from bgctl.schedules import machine_of
from tests.cron.debian import Debian, reason_to_skip

CRONTAB = """\
MAILTO=""
A = 'b  c' \t
B = 'd  '
"D E"=$HOME # not a comment
LOGNAME=zoe
CRON_TZ=Asia/Tokyo
"""
SHOWN = "HOME SHELL PATH LOGNAME USER MAILTO A B CRON_TZ TZ"


@pytest.fixture(scope="module")
def debian(tmp_path_factory) -> Debian:
    if reason := reason_to_skip():
        pytest.skip(reason)
    if os.geteuid() != 0:
        pytest.skip("NOT COMPARED WITH DEBIAN'S CRON: running commands as cron takes root")
    return Debian(tmp_path_factory.mktemp("cron"))


@pytest.mark.parametrize(
    "command",
    [
        r"cat >OUT",
        r"cat >OUT%",
        r"cat >OUT%%",
        r"cat >OUT%first%second",
        r"cat >OUT%a\\b\%c%d%",
        r"cat >OUT%a\\\%c%%",
        r"cat >OUT; echo \\\\ >>OUT%q\\",
        "cat >OUT%x\\",
        r"printf '\%s\\n' 'x\\y' >OUT",
        r"echo a # b >OUT",
        f"for name in {SHOWN}; do printenv $name; done >OUT",
        "printenv 'D E' >OUT",
        "pwd >OUT",
        "umask >/dev/null; echo $0 $# >OUT",
    ],
)
def test_a_command_reads_and_writes_the_same(debian, tmp_path, command):
    out = tmp_path / "out"
    crontab = CRONTAB + "1 0 * * * " + command.replace("OUT", str(out)) + "\n"
    debian.run(crontab, ZoneInfo("UTC"), 0, 120, with_commands=True)
    theirs = taken(out)

    (definition,) = parse_crontab(crontab, root()).definitions
    subprocess.run(
        definition.argv, input=definition.input or b"", env=definition.env, cwd=definition.cwd, check=False
    )

    assert taken(out) == theirs


@pytest.mark.parametrize("home", ["", "/nonexistent", "relative", "/tmp"])
def test_a_command_gets_the_same_environment_and_folder(debian, tmp_path, home):
    out = tmp_path / "out"
    crontab = f"HOME={home}\n1 0 * * * (pwd; env -u PWD | sort) >{out}\n"
    debian.run(crontab, ZoneInfo("UTC"), 0, 120, with_commands=True)
    theirs = taken(out)
    assert theirs is not None

    (definition,) = parse_crontab(crontab, root()).definitions
    subprocess.run(definition.argv, env=definition.env, cwd=definition.cwd, check=False)

    # the spool of this cron is below a folder of its own
    assert taken(out) == re.sub(rb"(?m)^/.*(?=/var/spool/cron$)", b"", theirs)


def test_what_cron_takes_for_a_bad_command_is_not_taken_over(debian):
    for line in ("1 0 * * * * echo x\n", "@daily * echo\n", "1 0 * * * *x\n"):
        assert "bad command" in debian.run(line, ZoneInfo("UTC"), 0, 120).complaints[0]
        assert not parse_crontab(line, root()).definitions


def root() -> Machine:
    return machine_of(Path("crontab"))


def taken(out: Path) -> bytes | None:
    """Return what a command wrote, once; None: it made no file."""
    if not out.exists():
        return None
    content = out.read_bytes()
    out.unlink()
    return content
