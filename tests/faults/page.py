"""docs/faults.md: a row for each series of faults, with the day of its latest good run and its command."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from msgspec import Struct

HEAD = """\
# Faults

Which faults were injected into bgd, how often, and with what result? `make faults` repeats them and writes
this page; do not edit it by hand. Every test run repeats each fault a few times.

A row is the latest run of its series, and it found no error: each acknowledged job was kept and finished
once; each of its attempts started once and ended once, without overlap and within its time limit; and the
recorded exit code is the one that the job itself wrote down. If it finds an error, `make faults` fails and
writes nothing. Ends are counted by the outcome of the attempt; `unknown` are attempts that ran when their
launcher died, or on Slurm when their pilot did. "dependency failed" counts jobs that were cancelled because
a job they waited for failed. The machine had two processors and other work to do.

| fault | result | on | by |
|---|---|---|---|
"""
NOT_TRIED = "\nNot tried yet: {reasons}.\n"
_ROW = re.compile(
    r"^\| (?P<what>.+) \| (?P<found>.+) \| (?P<day>[\d-]+) \| `(?P<command>make faults .+)` \|$"
)
_FILE = re.compile(r"CASES=(\S+)")


class Row(Struct, frozen=True, kw_only=True):
    """A series of faults. `command` runs it, with the other series of its file."""

    what: str
    found: str
    day: str
    command: str

    @property
    def file(self) -> str:
        found = _FILE.search(self.command)
        assert found is not None, self.command
        return found[1]

    def __str__(self) -> str:
        return f"| {self.what} | {self.found} | {self.day} | `{self.command}` |\n"


def rows_of(text: str) -> list[Row]:
    """Return the rows of a page; none if the text is not such a page."""
    return [Row(**found.groupdict()) for found in map(_ROW.fullmatch, text.splitlines()) if found is not None]


def command_for(file: str, share: float) -> str:
    """Return the command that runs the series of a file again."""
    return " ".join(["make faults", *([f"SHARE={share:g}"] if share != 1 else []), f"CASES={file}"])


def worded(found: dict[str, int | str]) -> str:
    """Return figures as the text of a table cell."""
    cells = (f"{count:,}" if isinstance(count, int) else count for count in found.values())
    return ", ".join(f"{what.replace('_', ' ')} {cell}" for what, cell in zip(found, cells, strict=True))


def merged(old: Iterable[Row], new: Iterable[Row], whole_files: Iterable[str]) -> list[Row]:
    """Merge the rows of a run into those of the page; series that were not run keep their rows.

    If a whole file was run, its old rows are dropped.
    """
    new, whole = list(new), set(whole_files)
    again = {(row.file, row.what) for row in new}
    kept = [row for row in old if row.file not in whole and (row.file, row.what) not in again]
    return sorted(kept + new, key=lambda row: row.file)


def write(path: Path, rows: list[Row], not_tried: dict[str, str]) -> None:
    """Write the page; `not_tried` has reasons by file, and those of files without rows are shown."""
    files = {row.file for row in rows}
    reasons = sorted({reason for file, reason in not_tried.items() if file not in files})
    page = HEAD + "".join(map(str, rows))
    path.write_text(page + (NOT_TRIED.format(reasons="; ".join(reasons)) if reasons else ""))
