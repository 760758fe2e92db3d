"""Tries faults at the full figures, or a share of them, and writes what came of it to docs/faults.md.

make faults              all of it: hours
make faults SHARE=0.1    a tenth of each
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/faults.md"
CASES = ["tests/faults", "tests/end_to_end/test_kill.py"]

HEAD = """\
# Faults

What was done to bgd on purpose, how often, and what came of it. `make faults` tries all of this again and
writes this page; it is not edited by hand. The tests do the same a few times on every run.

Run on {date} in {minutes} min, at {share} of the full figures, bgd {version}, Python {python}, by

    {command}

| what was done | what came of it |
|---|---|
"""
NOT_TRIED = "\nNot tried: {skipped}.\n"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--share", type=float, default=1.0, help="of the full figures")
    parser.add_argument("cases", nargs="*", default=CASES, help="tests, or files of them")
    arguments = parser.parse_args()
    share, cases = arguments.share, arguments.cases
    began_at = time.time()
    with tempfile.TemporaryDirectory(prefix="bgd-faults-") as folder:
        report = Path(folder, "report")
        report.touch()
        environ = os.environ | {"BGD_FAULTS": str(share), "BGD_FAULTS_REPORT": str(report)}
        command = [sys.executable, "-m", "pytest", "-q", "-rs", *cases]
        done = subprocess.run(command, cwd=ROOT, env=environ, stdout=subprocess.PIPE, text=True, check=False)
        print(done.stdout, end="")
        lines = report.read_text().splitlines()
    if done.returncode == 0:
        skipped = [line.partition(": ")[2] for line in done.stdout.splitlines() if line.startswith("SKIPPED")]
        PAGE.write_text(_page(lines, command_of(share, cases), share, began_at, skipped))
        print(f"written: {PAGE}")
    return done.returncode


def command_of(share: float, cases: list[str]) -> str:
    """Return what is typed to do this again."""
    words = ["make faults"]
    words += [f"SHARE={share:g}"] if share != 1 else []
    words += [f'CASES="{" ".join(cases)}"'] if cases != CASES else []
    return " ".join(words)


def _page(lines: list[str], command: str, share: float, began_at: float, skipped: list[str]) -> str:
    import bgd

    page = HEAD.format(
        date=time.strftime("%Y-%m-%d", time.gmtime(began_at)),
        command=command,
        minutes=round((time.time() - began_at) / 60),
        share="all" if share == 1 else f"{share:.0%}",
        version=bgd.__version__,
        python=sys.version.split()[0],
    )
    for line in lines:
        case = json.loads(line)
        found = ", ".join(f"{what.replace('_', ' ')} {count}" for what, count in case["found"].items())
        page += f"| {case['what']} | {found} |\n"
    return page + (NOT_TRIED.format(skipped="; ".join(skipped)) if skipped else "")


if __name__ == "__main__":
    sys.exit(main())
