"""doctor: what of the installation is not as it should be, and what to do about it."""

from __future__ import annotations

import subprocess
import sys

import click
import msgspec

from bgctl import exit_codes
from bgctl.common import client, global_options, has_colors, print_json, verb
from bgd import BgdError
from bgd.errors import ConfigError, DaemonUnreachable, NotAllowed
from bgd.escape import one_line
from bgd.wire.views import Finding, Level

_COLORS = {Level.OK: "green", Level.NOTE: "cyan", Level.WARNING: "yellow", Level.PROBLEM: "red"}
_SECONDS = 60.0  # that a look without a daemon may take: it gives itself 20 for the database and a backup


@verb(
    "doctor",
    "bgctl doctor",
    "bgctl --system doctor --json",
)
def doctor_command() -> int:
    """Check the installation, and say what to do for each finding.

    The daemon looks at itself; where none answers, what it would find is looked at. Exits with 1 if there
    is a warning or a problem.
    """
    findings = _findings()
    if global_options().json:
        print_json([{name: getattr(each, name) for name in each.__struct_fields__} for each in findings])
    else:
        for each in findings:
            click.echo(_line(each))
            if each.remedy is not None:
                click.echo(f"{'':9}{one_line(each.remedy)}")
    is_well = all(each.level in {Level.OK, Level.NOTE} for each in findings)
    return 0 if is_well else exit_codes.REFUSED


def _findings() -> list[Finding]:
    try:
        with client() as daemon:
            return daemon.checkup()
    except (DaemonUnreachable, NotAllowed) as error:
        return [Finding("daemon", Level.PROBLEM, str(error)), *_without_a_daemon()]
    except ConfigError as error:
        return [Finding("configuration", Level.PROBLEM, str(error), "correct it: bgd does not start with it")]


def _without_a_daemon() -> list[Finding]:
    """Have a bgd look at what it would find; it ends at once, and starts nothing."""
    options = global_options()
    command = [sys.executable, "-P", "-m", "bgd", "--findings"]
    if options.config is not None:
        command += ["--config", options.config]
    if options.system:
        command.append("--system")
    try:
        looked = subprocess.run(command, capture_output=True, check=False, timeout=_SECONDS)
    except subprocess.TimeoutExpired:
        raise BgdError(f"the look around did not end in {_SECONDS:g} s: is the disk that slow?") from None
    if looked.returncode:
        raise BgdError(looked.stderr.decode(errors="replace").strip().rpartition("\n")[2])
    return msgspec.json.decode(looked.stdout, type=list[Finding])


def _line(finding: Finding) -> str:
    word = f"{finding.level.value:<9}"
    colored = click.style(word, fg=_COLORS[finding.level]) if has_colors() else word
    return f"{colored}{finding.subject}: {one_line(finding.message)}"
