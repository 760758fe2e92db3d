"""What the lines of a crontab do under Debian's cron, they do as imported schedules."""

from __future__ import annotations

import os
import pwd
import subprocess
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from bgctl.crontab import parse_crontab
from tests.cron.debian import Debian, reason_to_skip

CRONTAB = """\
MAILTO=""
A = 'b  c' \t
"D E"=$HOME # not a comment
LOGNAME=zoe
CRON_TZ=Asia/Tokyo
"""
SHOWN = "HOME SHELL PATH LOGNAME USER MAILTO A CRON_TZ TZ"


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

    root = pwd.getpwuid(0)
    (definition,) = parse_crontab(crontab, user="root", home=root.pw_dir, has_users=False).definitions
    subprocess.run(
        definition.argv, input=definition.input or b"", env=definition.env, cwd=definition.cwd, check=False
    )

    assert taken(out) == theirs


def taken(out: Path) -> bytes | None:
    """Return what a command wrote, once; None: it made no file."""
    if not out.exists():
        return None
    content = out.read_bytes()
    out.unlink()
    return content
