"""docs/batches.md: each line does what it says, beside xargs and, if that is here, GNU parallel."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.docs.pages import block, page, rows_of, section
from tests.support import DEADLINE

BATCHES = page("docs/batches.md")
ROWS = rows_of(section(BATCHES, "## Beside xargs and GNU parallel"))
OF_HYPERQUEUE = rows_of(section(BATCHES, "## Beside HyperQueue"))
COUNT = """\
#!/bin/sh
echo "counted ${1:-${HQ_ENTRY:-$HQ_TASK_ID}}"
"""
NAMES = ["a.txt", "b.txt", "c.txt"]
HAS_PARALLEL = shutil.which("parallel") is not None


@pytest.fixture(scope="module")
def folder(daemon):
    (daemon.folder / "below").mkdir()
    for name in NAMES:
        (daemon.folder / name).write_text(name * 3)
    (daemon.folder / "names.txt").write_text("".join(f"{name}\n" for name in NAMES))
    (daemon.folder / "count.sh").write_text(COUNT)
    (daemon.folder / "count.sh").chmod(0o755)
    (daemon.folder / "items.json").write_text('["a", "b"]')
    documents = (f'{{"argv": ["./count.sh", "{each}"]}}\n' for each in ('\\"a\\"', '\\"b\\"'))
    (daemon.folder / "jobs.ndjson").write_text("".join(documents))
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
            assert row[0] in ("resume", "run again what failed") or ours == theirs, line


@pytest.mark.parametrize("row", OF_HYPERQUEUE, ids=lambda row: row[0])
def test_each_line_beside_hyperqueue_runs_for_all_that_it_reads(daemon, folder, row):
    del folder
    batch = commands_in(row[2])[0]
    names = [str(number) for number in range(1, 10)] if "seq" in batch else NAMES
    names = ['"a"', '"b"'] if "ndjson" in batch else names

    assert output_of_jobs(daemon, f"`{batch}`") == sorted(f"counted {name}" for name in names)


@pytest.fixture(scope="module")
def hyperqueue(folder):
    """HyperQueue with a worker. Its program is in no package: PyPI has only its library for Python."""
    if shutil.which("hq") is None:
        pytest.skip("NOT COMPARED WITH HYPERQUEUE: its program hq is not on the PATH")
    environment = os.environ | {"HQ_SERVER_DIR": str(folder / "hyperqueue")}

    def hq(*words):
        return subprocess.run(
            ["hq", *words],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=DEADLINE,
            check=True,
        ).stdout

    with ExitStack() as stack:
        for what in ("server", "worker"):
            process = stack.enter_context(
                subprocess.Popen(
                    ["hq", what, "start"], cwd=folder, env=environment, stdout=subprocess.DEVNULL
                )
            )
            stack.callback(process.terminate)
            hq("server", "wait")
        yield hq


@pytest.mark.parametrize("row", OF_HYPERQUEUE, ids=lambda row: row[0])
def test_each_line_does_what_that_of_hyperqueue_does(daemon, hyperqueue, row):
    _, *words = shlex.split(commands_in(row[1])[0])
    hyperqueue(*words, *(() if "--wait" in words else ("--wait",)))

    theirs = sorted(hyperqueue("job", "cat", "last", "stdout").splitlines())
    assert output_of_jobs(daemon, f"`{commands_in(row[2])[0]}`") == theirs


def test_a_bad_line_is_told_as_the_page_shows(daemon, folder):
    (folder / "commands.txt").write_text("true\ntrue\ntrue\ngzap\n")
    said = block(BATCHES, "console").splitlines()[1]

    assert daemon.bgctl("batch", "commands.txt").stderr == f"{said}\n"


def test_the_first_lines_of_the_page_are_understood(daemon, folder):
    (folder / "commands.txt").write_text("true\n")
    for program in ("convert", "gzip"):
        (folder / program).write_text("#!/bin/sh\n")
        (folder / program).chmod(0o755)
    for line in block(BATCHES, "sh").splitlines():
        run(daemon, line)
