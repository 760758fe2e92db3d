"""Open descriptors: what a process has, and what happens when it has too many."""

from __future__ import annotations

import os
import subprocess
import sys

from bgd.descriptors import open_descriptors

FULL = """
import gc, os, resource
from bgd.descriptors import described

gc.disable()
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
kept = [os.memfd_create("kept") for _ in range(20)]
try:
    while True:
        cycle = [open(os.devnull)]
        cycle.append(cycle)
except OSError as error:
    print(described(error))
open(os.devnull)
kept.extend(kept)
try:
    while True:
        kept.append(os.open(os.devnull, os.O_RDONLY))
except OSError as error:
    print(described(error))
print(described(FileNotFoundError(2, "No such file", "x")))
"""


def test_open_descriptors_are_counted_by_kind():
    before, limit, _ = open_descriptors(os.getpid())
    opened = [os.memfd_create("many") for _ in range(200)]

    count, _, kinds = open_descriptors(os.getpid())

    for fd in opened:
        os.close(fd)
    assert before + 200 == count <= limit
    assert kinds.startswith("200 files in memory (many), ")


def test_a_process_without_free_descriptors_closes_garbage_and_says_what_holds_them():
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FULL], capture_output=True, text=True, check=True
    )

    after_collection, full, other = done.stdout.splitlines()
    assert after_collection.startswith("too many files are open: ")
    assert "of at most 64, mostly 20 files in memory (kept), " in after_collection
    assert full.startswith("too many files are open: 64 of at most 64, mostly ")
    assert "20 files in memory (kept)" in full
    assert other == "[Errno 2] No such file: 'x'"
    assert done.stderr == f"{after_collection}\n"  # once: the second time is too soon
