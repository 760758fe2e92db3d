"""Measures bgd and its peers, and writes docs/benchmarks.md: `python -m tests.bench [QUESTION ...]`.

What the page says of other questions stays. The figures are also kept in build/bench, for `--page`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

from tests.bench import machine, page
from tests.support import ROOT

FIGURES = ROOT / "build/bench"


class Question(NamedTuple):
    rounds: int | None  # None: rounds mean nothing to it
    is_usual: bool = True  # asked if no question is named


# in the order of the page; the programs are called bench_...
QUESTIONS = {
    "submit": Question(rounds=3),
    "commands": Question(rounds=3),
    "class_jobs": Question(rounds=3),
    "latency": Question(rounds=None),
    "results": Question(rounds=3),
    "printing": Question(rounds=1),
    "lateness": Question(rounds=1),
    "quiet": Question(rounds=1),
    "limits": Question(rounds=3),
    "start": Question(rounds=None),
    "lists": Question(rounds=None),
    "idle": Question(rounds=None),
    "output": Question(rounds=3),
    "running": Question(rounds=None),
    "disk": Question(rounds=None),
    "prune": Question(rounds=None, is_usual=False),
    "steps": Question(rounds=3),
}


def ask(name: str, rounds: int | None, *, quick: bool, no_peers: bool) -> dict[str, Any]:
    """Run the program of a question; return its figures with the time, the machine and the versions."""
    command = [sys.executable, "-m", f"tests.bench.bench_{name}"]
    command += [] if rounds is None else [str(rounds)]
    command += [option for option, is_set in {"--quick": quick, "--no-peers": no_peers}.items() if is_set]
    at = time.strftime("%Y-%m-%d %H:%M", time.gmtime())
    began = time.monotonic()
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    return {
        "at": f"{at} UTC",
        "seconds": round(time.monotonic() - began),
        "revision": machine.revision(),
        "rounds": rounds,
        "quick": quick,
        "machine": machine.machine(),
        "versions": machine.versions(),
        "reports": [json.loads(line) for line in done.stdout.splitlines()],
    }


def kept(folder: Path = FIGURES) -> dict[str, Any]:
    """Return the figures that were kept, in the order of the page."""
    paths = {name: folder / f"{name}.json" for name in QUESTIONS}
    return {name: json.loads(path.read_text()) for name, path in paths.items() if path.exists()}


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("questions", nargs="*", metavar="QUESTION", help=f"of {', '.join(QUESTIONS)}")
    parser.add_argument("--rounds", type=int, help="how often; each question has its own number")
    parser.add_argument("--quick", action="store_true", help="only try: small numbers, one round")
    parser.add_argument("--no-peers", action="store_true", help="measure bgd only")
    parser.add_argument("--page", action="store_true", help="only write the page again, from build/bench")
    parser.add_argument("--docs", type=Path, default=ROOT / "docs", help="the folder for the page")
    given = parser.parse_args()
    if unknown := set(given.questions) - set(QUESTIONS):
        parser.error(f"there is no question {min(unknown)}: choose from {', '.join(QUESTIONS)}")
    return given


def main() -> int:
    given = options()
    usual = [name for name, question in QUESTIONS.items() if question.is_usual]
    failed = []
    measured: dict[str, Any] = {}
    load, *_ = os.getloadavg()  # of other programs: nothing has been measured yet
    FIGURES.mkdir(parents=True, exist_ok=True)
    for name in [] if given.page else given.questions or usual:
        rounds = QUESTIONS[name].rounds
        if rounds is not None:
            rounds = 1 if given.quick else given.rounds or rounds
        try:
            result = ask(name, rounds, quick=given.quick, no_peers=given.no_peers)
        except subprocess.CalledProcessError as error:
            print(f"{name} failed: {error}", file=sys.stderr)
            failed.append(name)
            continue
        result["load"] = round(load, 1)
        (FIGURES / f"{name}.json").write_text(json.dumps(result, indent=1))
        measured[name] = result
        page.write(measured, given.docs)
        print(f"{name}: {result['seconds']} s", file=sys.stderr)
    if given.page:
        page.write(kept(), given.docs)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
