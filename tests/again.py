"""Run again, alone, the few tests that failed in `make test`: eight processes on two processors starve some.

.venv/bin/python -m tests.again    after the parts of `make test`, each of which leaves its list of failures

A test that passes now is named as unstable: the fault is in it or in bgd, and is to be looked for.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.support import ROOT

MOST = 3  # failures; more are not by chance


def failures(root: Path) -> list[str]:
    """Return the tests that have failed in the parts, by the lists that pytest's cache keeps."""
    lists = root.glob(".pytest_cache/*/v/cache/lastfailed")
    return sorted(test for path in lists for test in json.loads(path.read_text()))


def main(root: Path = ROOT) -> int:
    failed = failures(root)
    if not failed:
        return 0
    print(f"\n*** {len(failed)} FAILED: {', '.join(failed)} ***", flush=True)
    if len(failed) > MOST:
        return 1
    command = [sys.executable, "-m", "pytest", "--slow", "-p", "no:anyio", *failed]
    code = subprocess.run(command, cwd=root, check=False).returncode
    if code == 0:
        print(f"\n*** UNSTABLE, passed only alone: {', '.join(failed)} ***")
    return code


if __name__ == "__main__":
    sys.exit(main())
