"""find_program finds programs as execvp(3) does."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from bgd.errors import ConfigError
from bgd.settings.paths import find_program, make_folder
from tests.launcher.unprivileged import NOBODY

AS_NOBODY = f"""
import os, pathlib, sys  # all that is imported late, before this Python may be out of reach
from bgd.client.programs import problem_with_program
if not os.getuid():
    os.setgroups([])
    os.setresgid({NOBODY}, {NOBODY}, {NOBODY})
    os.setresuid({NOBODY}, {NOBODY}, {NOBODY})
name, path = sys.argv[1:]
told = problem_with_program(name, path, "/")
try:
    os.execvpe("env", ["env", name], {{"PATH": path}}) if told is None else print(told)
except OSError as error:
    print(error)
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder with `secret`, which nobody may search, and `files`, with a program and a plain file."""
    with tempfile.TemporaryDirectory(prefix="bgd-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "secret").mkdir()
        (folder / "files").mkdir()
        (folder / "files" / "there").write_text("#!/bin/sh\necho it runs\n")
        (folder / "files" / "there").chmod(0o755)
        (folder / "files" / "text").write_text("")
        (folder / "files" / "text").chmod(0o644)
        (folder / "files" / "folder").mkdir()
        (folder / "secret").chmod(0)
        yield folder
        (folder / "secret").chmod(0o700)


def as_nobody(name: str, path: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", AS_NOBODY, name, path], capture_output=True, text=True, check=False
    )
    return done.stdout + done.stderr


def test_a_folder_that_may_not_be_searched_hides_no_later_one(folder):
    assert as_nobody("there", f"{folder}/secret:{folder}/files:/usr/bin") == "it runs\n"


def test_a_folder_that_may_not_be_searched_is_named_if_nothing_else_is_found(folder):
    said = as_nobody("nowhere", f"{folder}/secret:{folder}/files")

    assert said == f"{folder}/secret/nowhere cannot be inspected: Permission denied\n"


@pytest.mark.parametrize("name", ["text", "folder"])
def test_a_file_that_cannot_be_run_hides_no_later_program(folder, name):
    later = folder / "later"
    later.mkdir()
    (later / name).symlink_to(folder / "files" / "there")

    assert find_program(name, {"PATH": f"{folder}/files:{later}"}, "/") == str(later / name)
    with pytest.raises(PermissionError) as refused:
        find_program(name, {"PATH": f"{folder}/nowhere:{folder}/files"}, "/")
    assert refused.value.filename == f"{folder}/files/{name}"


def test_an_empty_entry_and_a_relative_path_are_looked_up_in_the_folder(folder):
    assert find_program("there", {"PATH": "/nowhere:"}, f"{folder}/files") == f"{folder}/files/there"
    assert find_program("files/there", {"PATH": ""}, str(folder)) == f"{folder}/files/there"
    assert find_program("sh", {}, "/") in {f"{entry}/sh" for entry in os.defpath.split(":")}
    with pytest.raises(FileNotFoundError):
        find_program("there/no", {}, f"{folder}/files")


def test_a_home_that_does_not_exist_is_named(monkeypatch):
    monkeypatch.setenv("HOME", "/proc/nowhere")

    with pytest.raises(ConfigError) as refused:
        make_folder(Path("/proc/nowhere/.local/state/bgd"))

    assert "the home folder /proc/nowhere does not exist: set HOME to one that does" in str(refused.value)
