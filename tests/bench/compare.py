"""Compare two revisions of bgd: `python -m tests.bench.compare BASE [QUESTION ...]`.

Each round runs each question once on either revision, in turns, since the speed of a machine drifts. A
revision is checked out and installed once, below the cache of the benchmarks. Programs of this folder that
the base lacks are copied to it.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import statistics
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from tests.bench.installing import CACHE
from tests.support import ROOT

# Each question with the arguments of one round
QUESTIONS = {
    "submit": ["bench_submit", "1"],
    "commands": ["bench_commands", "1"],
    "class_jobs": ["bench_class_jobs", "1", "--quick"],
    "latency": ["bench_latency"],
    "start": ["bench_start", "10"],
    "idle": ["bench_idle"],
    "disk": ["bench_disk"],
}

SHARED = ("options", "installing")  # which these programs import

# For revisions whose programs have no option for it; of these only class jobs would run many peers
CLASS_JOBS_WITHOUT_PEERS = """
from tests.bench import bench_class_jobs
bench_class_jobs.peer_run = lambda *_: (float("nan"), float("nan"))
bench_class_jobs.main()
"""


def checked_out(revision: str) -> Path:
    """Return a folder with this revision, installed in a virtual environment of its own."""
    sha = subprocess.run(
        ["git", "rev-parse", "--short", f"{revision}^{{commit}}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    folder = CACHE / "revisions" / sha
    if not (folder / ".venv/installed-by-make").exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        archive = subprocess.run(["git", "archive", sha], cwd=ROOT, capture_output=True, check=True).stdout
        subprocess.run(["tar", "--extract"], input=archive, cwd=folder, check=True)
        subprocess.run(["make", "setup"], cwd=folder, stdout=sys.stderr, check=True)
    for name in {*SHARED, *(arguments[0] for arguments in QUESTIONS.values())}:
        copy = folder / f"tests/bench/{name}.py"
        if not copy.exists():
            shutil.copy(ROOT / f"tests/bench/{name}.py", copy)
    return folder


def figures(folder: Path, question: str) -> Iterator[tuple[str, float]]:
    """Run a question once; yield its figures by their names."""
    done = subprocess.run(
        [folder / ".venv/bin/python", *program(folder, question)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": ""},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    for line in done.stdout.splitlines():
        report = json.loads(line)
        slots = f", {report.pop('slots')} slots" if "slots" in report else ""
        for name in ("cpus", "jobs", "bytes"):
            report.pop(name, None)
        yield from ((f"{question}{slots}: {name}", value) for name, value in numbers(report))


def program(folder: Path, question: str) -> list[str]:
    """Return the arguments for Python that ask a question of this folder's revision, without the peers."""
    name, *arguments = QUESTIONS[question]
    if "arguments(__doc__" in (folder / f"tests/bench/{name}.py").read_text():
        return ["-m", f"tests.bench.{name}", *arguments, "--no-peers"]
    if question == "class_jobs":
        return ["-c", CLASS_JOBS_WITHOUT_PEERS, *arguments]
    return ["-m", f"tests.bench.{name}", *arguments]


def numbers(report: Mapping[str, object]) -> Iterator[tuple[str, float]]:
    for name, value in report.items():
        if isinstance(value, Mapping):
            middle = value.get("median", value.get("p50"))
            if middle is None:
                yield from ((f"{name} {below}", number) for below, number in numbers(value))
            elif not math.isnan(middle):
                yield name, float(middle)
        elif isinstance(value, int | float) and not math.isnan(value):
            yield name, float(value)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("base", help="the revision to compare with")
    parser.add_argument("questions", nargs="*", metavar="QUESTION", help=f"of {', '.join(QUESTIONS)}; all")
    parser.add_argument("--head", default="HEAD", help="the other revision: the last commit")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    if unknown := set(options.questions) - set(QUESTIONS):
        parser.error(f"there is no question {min(unknown)}: choose from {', '.join(QUESTIONS)}")
    folders = {options.base: checked_out(options.base), options.head: checked_out(options.head)}
    found: dict[str, dict[str, list[float]]] = {}
    for number in range(options.rounds):
        for question in options.questions or QUESTIONS:
            for revision in sorted(folders, key=list(folders).index, reverse=number % 2 == 1):
                for name, value in figures(folders[revision], question):
                    found.setdefault(name, {}).setdefault(revision, []).append(value)
        print(f"round {number + 1} of {options.rounds}", file=sys.stderr)
    print(f"| figure, medians of {options.rounds} rounds | {options.base} | {options.head} | times |")
    print("|---|---|---|---|")
    for name, values in found.items():
        base, head = (values.get(revision) for revision in folders)
        if base and head:
            old, new = statistics.median(base), statistics.median(head)
            ratio = f"{new / old:.2f}" if old else ""
            print(f"| {name} | {old:g} | {new:g} | {ratio} |")


if __name__ == "__main__":
    main()
