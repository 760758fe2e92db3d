"""The demo does what it says and leaves nothing behind, even if something goes wrong."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.support import ROOT

PATIENCE = 120.0  # seconds, enough for a busy machine
WHAT_IT_RUNS = ("echo", "head", "sh", "sleep", "true", "wc")


@pytest.fixture
def folder():
    with tempfile.TemporaryDirectory(prefix="bgd-") as name:  # a short path, as sockets need
        yield Path(name)


def test_demo_succeeds_and_leaves_nothing(folder: Path):
    done = demo(folder)

    assert done.returncode == 0, done.stdout
    assert "every end as expected" in done.stdout
    assert list(folder.iterdir()) == []
    assert processes_of(folder) == []


def test_demo_that_goes_wrong_says_so_and_leaves_nothing(folder: Path):
    programs = folder / "programs"
    programs.mkdir()
    for name in set(WHAT_IT_RUNS) - {"wc"}:
        (programs / name).symlink_to(str(shutil.which(name)))

    done = demo(folder, PATH=str(programs))

    assert done.returncode == 1, done.stdout
    assert "wc" in done.stdout.splitlines()[-2]
    assert list(folder.iterdir()) == [programs]
    assert processes_of(folder) == []


def demo(folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the demo with TMPDIR set to `folder`, by which its processes can be found."""
    return subprocess.run(
        [sys.executable, str(ROOT / "examples/demo.py")],
        env=os.environ | {"TMPDIR": str(folder), "PYTHONPATH": str(ROOT)} | environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


def processes_of(folder: Path) -> list[str]:
    """Return the command lines of all processes whose TMPDIR is this folder."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            if f"TMPDIR={folder}\0".encode() in (entry / "environ").read_bytes():
                found.append((entry / "cmdline").read_text().replace("\0", " "))
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue  # it has ended or belongs to another user
    return found
