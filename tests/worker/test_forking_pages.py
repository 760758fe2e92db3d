"""Huge pages for memory that forks share: which memory moves into them, and which stays."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.worker.conftest import LONG_ENOUGH

ROOT = Path(__file__).parents[2]
SETTING = Path("/sys/kernel/mm/transparent_hugepage/enabled")
LINUX = tuple(map(int, re.findall("[0-9]+", os.uname().release)[:2]))

SHARED = """
import mmap, sys
from pathlib import Path
from bgd.worker import forking

HUGE = 2 << 20

def figure(name):
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(name))
"""

FULL = f"""{SHARED}
held = mmap.mmap(-1, 8 * HUGE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
held.write(b"x" * len(held))
held.seek(0)
before = figure("AnonHugePages:")
forking.collapse_huge_pages()
assert held.read() == b"x" * len(held)
print(figure("AnonHugePages:") - before)
"""

SPARSE = f"""{SHARED}
held = mmap.mmap(-1, 64 * HUGE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
for place in range(0, len(held), HUGE // 2):
    held[place] = 1
before = figure("Rss:")
forking.collapse_huge_pages()
print(figure("Rss:") - before)
"""

TOGETHER = f"""{SHARED}
forking.avoid_gaps()
held = [[f"number {{number}}"] for number in range(300_000)]  # a list that grows leaves gaps behind
forking.collapse_huge_pages()
print(figure("AnonHugePages:") / figure("Anonymous:"))
"""

UNWANTED = f"""{SHARED}
forking._SETTINGS = sys.argv[1]
forking._collapse = None  # nobody may call it
forking.collapse_huge_pages()
"""


def ran(script: str, *arguments: object) -> str:
    """Return what a script prints in a process of its own."""
    argv = [sys.executable, "-c", script, *map(str, arguments)]
    ended = subprocess.run(argv, cwd=ROOT, stdout=subprocess.PIPE, timeout=LONG_ENOUGH, check=True)
    return ended.stdout.decode()


has_huge_pages = pytest.mark.skipif(
    not SETTING.exists() or "[never]" in SETTING.read_text() or LINUX < (6, 1),
    reason="this machine has no huge pages that could be asked for",
)


@has_huge_pages
def test_memory_in_use_moves_into_huge_pages_and_keeps_its_content():
    assert int(ran(FULL)) >= 7 * (2 << 20)  # the memory may begin in the middle of the eighth


@has_huge_pages
def test_memory_allocated_piece_by_piece_beside_large_blocks_moves_too():
    assert float(ran(TOGETHER)) > 0.75


def test_memory_that_is_hardly_used_does_not_grow():
    assert int(ran(SPARSE)) < 32 << 20  # it could grow to 128 MB


@pytest.mark.parametrize("setting", [None, "always madvise [never]"])
def test_without_huge_pages_or_with_never_nothing_is_moved(tmp_path, setting):
    if setting is not None:
        (tmp_path / "enabled").write_text(setting)
        (tmp_path / "hpage_pmd_size").write_text("2097152")

    assert ran(UNWANTED, f"{tmp_path}/") == ""
