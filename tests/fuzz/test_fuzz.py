"""Each target accepts its seeds. One is fuzzed briefly if atheris is installed; `make fuzz` does all."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.fuzz.__main__ import NO_ATHERIS
from tests.fuzz.files import remove_folder
from tests.fuzz.seeds import ROOT, seeds_of
from tests.fuzz.targets import TARGETS

SECONDS = 1  # a target
MOMENT = TARGETS if os.environ.get("HYPOTHESIS_PROFILE") == "long" else ("http",)


@pytest.fixture(scope="module", autouse=True)
def _folder():
    yield
    remove_folder()


@pytest.mark.parametrize("name", TARGETS)
def test_seeds_and_old_crashes_break_nothing(name):
    seeds = list(seeds_of(name))
    assert seeds
    for seed in seeds:
        TARGETS[name](seed)


def test_a_moment_of_fuzzing_breaks_nothing():
    targets = [word for name in MOMENT for word in ("--target", name)]
    command = [sys.executable, "-m", "tests.fuzz", "--time", str(SECONDS * len(MOMENT)), *targets]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode == NO_ATHERIS:
        pytest.skip(done.stdout.strip())
    assert done.returncode == 0, done.stdout
    assert done.stdout.count(": well; Done ") == len(MOMENT), done.stdout
