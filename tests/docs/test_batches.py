"""docs/batches.md: each line does what it says, beside xargs and, if that is here, GNU parallel."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.pages import block, page, rows_of, section
from tests.support import DEADLINE

BATCHES = page("docs/batches.md")
ROWS = rows_of(section(BATCHES, "## Beside xargs and GNU parallel"))
NAMES = ["a.txt", "b.txt", "c.txt"]
HAS_PARALLEL = shutil.which("parallel") is not None


@pytest.fixture(scope="module")
def folder(daemon):
    (daemon.folder / "below").mkdir()
    for name in NAMES:
        (daemon.folder / name).write_text(name * 3)
    (daemon.folder / "names.txt").write_text("".join(f"{name}\n" for name in NAMES))
    (daemon.folder / "commands.txt").write_text("echo one | tr o 0\necho 'two three'\n")
    return daemon.folder


def commands_in(cell):
    return re.findall(r"`([^`]+)`", cell.replace("\\|", "|"))


def run(daemon, line):
    done = subprocess.run(
        ["/bin/bash", "-c", line.replace("parallel ", "parallel --will-cite ", 1)],
        cwd=daemon.folder,
        env=daemon.env | {"PATH": f"{Path(sys.executable).parent}:{daemon.folder}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )
    assert done.returncode == 0, (line, done.stderr)
    return done.stdout


def output_of_jobs(daemon, cell):
    """Run what a cell says, the last one first; return the output of the jobs, line by line."""
    batch, *before = commands_in(cell)
    for line in before:
        run(daemon, line)
    ids = run(daemon, batch).split()
    assert ids, batch
    daemon.bgctl("wait", *ids)
    return sorted(daemon.bgctl("logs", "--raw", *ids).stdout.splitlines())


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_each_line_does_what_those_of_xargs_and_gnu_parallel_do(daemon, folder, row):
    del folder
    ours = output_of_jobs(daemon, row[3])

    assert ours
    for cell in row[1 : 3 if HAS_PARALLEL else 2]:
        for line in commands_in(cell):
            theirs = sorted(run(daemon, line).splitlines())
            assert row[0] == "resume" or ours == theirs, line


def test_a_bad_line_is_told_as_the_page_shows(daemon, folder):
    (folder / "commands.txt").write_text("true\ntrue\ntrue\ngzap\n")
    said = block(BATCHES, "console").splitlines()[1]

    assert daemon.bgctl("batch", "commands.txt").stderr == f"{said}\n"


def test_the_first_lines_of_the_page_are_understood(daemon, folder):
    (folder / "commands.txt").write_text("true\n")
    (folder / "convert").write_text("#!/bin/sh\n")
    (folder / "convert").chmod(0o755)
    for line in block(BATCHES, "sh").splitlines():
        run(daemon, line)
