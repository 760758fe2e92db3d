"""The tests that `make test` runs a second time."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests import again
from tests.support import ROOT

if TYPE_CHECKING:
    from pathlib import Path

PROJECT = """
import pathlib, pytest
def test_needs_two_tries():
    assert list(pathlib.Path("tries").iterdir()) or pathlib.Path("tries/1").touch()
@pytest.mark.parametrize("number", range(NUMBER))
def test_never_passes(number):
    assert False
"""


@pytest.fixture
def fails(tmp_path: Path):
    """Run a part in which one test needs two tries, and `number` never pass."""

    def run(number: int) -> Path:
        (tmp_path / "tries").mkdir()
        (tmp_path / "conftest.py").write_text(
            "def pytest_addoption(parser): parser.addoption('--slow', action='store_true')"
        )
        (tmp_path / "test_part.py").write_text(PROJECT.replace("NUMBER", str(number)))
        settings = ["-c", str(ROOT / "pyproject.toml"), "--rootdir", str(tmp_path)]
        settings += ["-o", "cache_dir=.pytest_cache/part"]
        command = [sys.executable, "-m", "pytest", *settings, "test_part.py"]
        assert subprocess.run(command, cwd=tmp_path, check=False, stdout=subprocess.DEVNULL).returncode == 1
        return tmp_path

    return run


def test_a_test_that_passes_alone_is_named_as_unstable(fails, capfd) -> None:
    assert again.main(fails(0)) == 0
    assert "*** UNSTABLE, passed only alone: test_part.py::test_needs_two_tries ***" in capfd.readouterr().out


def test_a_test_that_fails_twice_fails_the_run(fails, capfd) -> None:
    assert again.main(fails(1)) == 1
    out = capfd.readouterr().out
    assert "test_part.py::test_never_passes[0] - assert False" in out
    assert "UNSTABLE" not in out


def test_many_failures_are_not_tried_again(fails) -> None:
    root = fails(again.MOST)

    assert again.main(root) == 1
    assert len(list((root / "tries").iterdir())) == 1


def test_without_failures_nothing_is_run(tmp_path: Path, capfd) -> None:
    assert again.main(tmp_path) == 0
    assert capfd.readouterr().out == ""
