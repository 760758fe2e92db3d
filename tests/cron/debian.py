"""Debian's own cron in simulated time: two days of a crontab line take some ten milliseconds."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path
from zoneinfo import ZoneInfo

from msgspec import Struct

CRON = Path("/usr/sbin/cron")
PRELOADED = Path(__file__).with_name("simulated_time.c")

_RUN = re.compile(r"RUN (\d+) (\d+) (\d+) (\d+) (\d+) (.*)")

Steps = Mapping[int, int]  # in their order: by how many seconds the clock is set when it shows an instant


class Run(Struct, frozen=True):
    """A start of a command.

    `minute` is the minute of the wall clock for which cron ran it, `at` the instant at which it did: later
    than the minute while it catches up.
    """

    at: int
    minute: datetime
    command: str


class Answer(Struct, frozen=True):
    runs: list[Run]
    complaints: list[str]


def reason_to_skip() -> str | None:
    """Return why cron cannot be run here; None: it can."""
    if shutil.which("cc") is None:
        return "NOT COMPARED WITH DEBIAN'S CRON: there is no C compiler"
    found = shutil.which("dpkg-query") and subprocess.run(
        ["dpkg-query", "--show", "--showformat", "${Version}", "cron"],
        capture_output=True,
        text=True,
        check=False,
    )
    if not CRON.exists() or not found or not found.stdout.startswith("3.0pl1-"):
        return "NOT COMPARED WITH DEBIAN'S CRON: its package is not installed"
    return None


class Debian:
    """Runs cron with files of its own below a folder."""

    def __init__(self, folder: Path) -> None:
        self.library = folder / "simulated_time.so"
        self.folder = folder
        subprocess.run(
            ["cc", "-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o", self.library, PRELOADED], check=True
        )

    def run(
        self,
        crontab: str,
        zone: ZoneInfo,
        start: int,
        end: int,
        steps: Steps | None = None,
        *,
        with_commands: bool = False,
    ) -> Answer:
        """Return what cron ran between two instants, with a crontab of root's.

        Only a crontab of one line is exact: while cron catches up, it waits ten seconds after each minute
        that ran something, and so other lines move. `with_commands`: the commands run, which takes root.
        """
        with tempfile.TemporaryDirectory(dir=self.folder) as root:
            crontabs = Path(root, "var/spool/cron/crontabs")
            for folder in (crontabs, Path(root, "etc/cron.d"), Path(root, "run"), Path(root, "var/run")):
                folder.mkdir(parents=True)
            Path(root, "etc/crontab").touch()
            Path(root, "run/crond.reboot").touch()
            (crontabs / "root").write_text(crontab)
            env = {
                "LD_PRELOAD": str(self.library),
                "TZ": zone.key or "",
                "SIM_ROOT": root,
                "SIM_START": str(start),
                "SIM_END": str(end),
                "SIM_STEPS": ",".join(f"{at}:{by}" for at, by in (steps or {}).items()),
            }
            if with_commands:
                env["SIM_COMMANDS"] = "yes"
            done = subprocess.run(
                [CRON, "-f", "-x", "sch,proc"],
                env=env,
                capture_output=True,
                text=True,
                check=True,
                timeout=60,
            )
        return _read(done.stdout.splitlines(), zone)


def _read(lines: Iterable[str], zone: ZoneInfo) -> Answer:
    answer = Answer([], [])
    for line in lines:
        if line.startswith("LOG ") and "(CRON) INFO" not in line:
            answer.complaints.append(line.removeprefix("LOG "))
        elif match := _RUN.fullmatch(line):
            at, minute, hour, day, month = map(int, match.groups()[:5])
            year = datetime.fromtimestamp(at, zone).year
            answer.runs.append(Run(at, datetime(year, month, day, hour, minute), match[6]))  # noqa: DTZ001
    return answer
