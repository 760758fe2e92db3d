"""Try faults in full numbers, or a share of them, and write the results to docs/faults.md.

make faults              everything, which takes hours
make faults SHARE=0.1    a tenth of each series
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.faults.page import Row, command_for, merged, rows_of, worded, write

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/faults.md"
CASES = [
    "tests/daemon/storage/test_damage.py",
    "tests/end_to_end/test_full_disk.py",
    "tests/end_to_end/test_kill.py",
    "tests/faults",
    "tests/faults/in_a_guest.py",
    "tests/launcher/test_trees.py",
    "tests/slurm/test_resets.py",
    "tests/slurm/test_site.py",
    "tests/slurm/test_slurm_chaos.py",
    "tests/systemd/test_upgrade.py",
]
_SKIPPED = re.compile(r"^SKIPPED \[\d+\] (?P<file>\S+?):\d+: (?P<reason>.*)$", re.MULTILINE)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--share", type=float, default=1.0, help="of the full figures")
    parser.add_argument("cases", nargs="*", default=CASES, help="tests, or files of them")
    arguments = parser.parse_args()
    share, cases = arguments.share, files_of(arguments.cases)
    day = time.strftime("%Y-%m-%d", time.gmtime())
    with tempfile.TemporaryDirectory(prefix="bgd-faults-") as folder:
        report = Path(folder, "report")
        report.touch()
        environ = os.environ | {"BGD_FAULTS": str(share), "BGD_FAULTS_REPORT": str(report)}
        command = [sys.executable, "-m", "pytest", "--slow", "-q", "-rs", *cases]
        done = subprocess.run(command, cwd=ROOT, env=environ, stdout=subprocess.PIPE, text=True, check=False)
        lines = report.read_text().splitlines()
    print(done.stdout, end="")
    if done.returncode == 0:
        rows = [_row(line, share, day) for line in lines]
        skipped = {found["file"]: found["reason"] for found in _SKIPPED.finditer(done.stdout)}
        whole = set(cases) & {row.file for row in rows} - skipped.keys()
        write(PAGE, merged(rows_of(PAGE.read_text()), rows, whole), skipped)
        print(f"written: {PAGE}")
    else:
        print(f"something is wrong, so {PAGE} stays as it is")
    return done.returncode


def _row(line: str, share: float, day: str) -> Row:
    case = json.loads(line)
    return Row(
        what=case["what"],
        found=worded(case["found"]),
        day=day,
        command=command_for(case["file"], share),
    )


def files_of(cases: list[str]) -> list[str]:
    """Return cases with the files of folders in their place: pytest drops a file beside its folder."""
    found: list[str] = []
    for case in cases:
        inside = Path(ROOT, case).glob("test_*.py")
        found += sorted(str(each.relative_to(ROOT)) for each in inside) or [case]
    return found


if __name__ == "__main__":
    sys.exit(main())
