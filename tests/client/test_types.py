"""What a type checker says about programs that use an installed bgd."""

from __future__ import annotations

import re
import subprocess
import sys
import venv
from pathlib import Path

import msgspec
import pytest

import bgd
from tests.support import ROOT

HERE = Path(__file__).parent


def test_the_package_is_marked_as_typed():
    assert (Path(bgd.__file__).parent / "py.typed").exists()


@pytest.fixture(scope="module")
def python(tmp_path_factory):
    """A Python with bgd as an installed package, whose types count only if it is marked as typed."""
    folder = tmp_path_factory.mktemp("python")
    venv.create(folder, symlinks=True)
    [packages] = folder.glob("lib/python*/site-packages")
    (packages / "bgd.pth").write_text(f"{ROOT}\n{Path(msgspec.__file__).parents[1]}\n")
    return folder / "bin/python"


def test_a_correct_program_passes(python, tmp_path):
    assert complaints(HERE / "typed_use.py", python, tmp_path) == []


def test_each_wrong_line_of_a_program_is_an_error(python, tmp_path):
    lines = enumerate((HERE / "typed_misuse.py").read_text().splitlines(), 1)
    wrong = [(number, code) for number, line in lines for code in re.findall(r"# E: ([\w-]+)", line)]

    assert wrong
    assert complaints(HERE / "typed_misuse.py", python, tmp_path) == wrong


def complaints(program: Path, python: Path, folder: Path) -> list[tuple[int, str]]:
    """Return the lines with errors, each with the code of its first error."""
    options = ["--strict", "--config-file=", "--no-error-summary", f"--python-executable={python}"]
    done = subprocess.run(
        [sys.executable, "-m", "mypy", *options, str(program)],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    found = re.findall(r"^.*?:(\d+): error: .*\[([\w-]+)\]$", done.stdout, re.MULTILINE)
    assert done.stderr == ""
    assert len(found) == done.stdout.count(": error: "), done.stdout
    return list(dict.fromkeys((int(line), code) for line, code in found))
