"""The unit files that `make install` writes, and where it puts its files."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support import ROOT, wait_until
from tests.systemd.machine import USERS

EXPOSURE = 15  # in tenths, at most 100; systemd-analyze security lists the parts


@pytest.mark.parametrize(("kind", "user"), [("system", "root"), ("user", "ada")])
def test_systemd_finds_no_fault_in_the_units(machine, kind, user):
    units = [
        f"/usr/local/lib/systemd/{kind}/{unit}"
        for unit in ("bgd.service", "bgd.socket", "bgd-launcher.service")
    ]
    wait_until(lambda: machine.attempt("test", "-d", f"/run/user/{USERS['ada']}/systemd").returncode == 0)

    assert machine.run("systemd-analyze", f"--{kind}", "verify", *units, user=user) == ""


def test_daemon_has_no_access_to_what_it_does_not_need(machine):
    machine.run(
        "systemd-analyze",
        "security",
        "--offline=true",
        f"--threshold={EXPOSURE}",
        "/usr/local/lib/systemd/system/bgd.service",
    )


def test_staged_installation_contains_no_path_of_the_stage(stage):
    found = subprocess.run(
        ["grep", "-rlF", str(stage), str(stage)], capture_output=True, text=True, check=False
    )

    assert found.stdout == ""


def test_an_installation_whose_path_has_any_characters_is_upgraded_and_its_configuration_kept(
    stage, tmp_path
):
    """A path with a space once ran, as root, the program whose path ends before the space."""
    wrong = tmp_path / "wrong"
    wrong.write_text(f"#!/bin/sh\ntouch '{tmp_path}/ran'\n")
    wrong.chmod(0o755)
    prefix = f"{wrong} a|b&c 100% it's"
    shutil.copytree(stage / "usr/local", prefix, symlinks=True)
    settings = [f"PREFIX={prefix}", f"SYSCONFDIR={tmp_path}/etc"]
    configuration = tmp_path / "etc/bgd/bgd.toml"
    configuration.parent.mkdir(parents=True)
    configuration.write_text("# mine\n")

    subprocess.run(["make", "install", *settings], cwd=ROOT, check=True, capture_output=True)

    assert not (tmp_path / "ran").exists()
    assert configuration.read_text() == "# mine\n"
    unit = Path(prefix, "lib/systemd/system/bgd.service").read_text()
    command = re.search("^ExecStart=(.*)", unit, re.MULTILINE)
    assert command is not None
    words = [word.replace("%%", "%") for word in shlex.split(command[1])]
    assert words == [f"{prefix}/bin/bgd", "--system", "--await-launcher"]
    done = subprocess.run([words[0], "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("bgd ")

    subprocess.run(["make", "uninstall", *settings], cwd=ROOT, check=True, capture_output=True)

    assert not [path for path in Path(prefix).rglob("*") if not path.is_dir()]


def test_a_path_that_the_programs_of_pip_cannot_have_is_refused(tmp_path):
    command = ["make", "install", f"PREFIX={tmp_path}/$$HOME"]  # make reads $ itself

    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    assert done.returncode == 2
    assert f'no " $ ` or \\ in {tmp_path}/$HOME' in done.stderr
    assert not list(tmp_path.iterdir())


def test_manual_pages_are_where_man_looks_for_them(stage):
    folder = stage / "usr/local/share/man"
    pages = sorted(str(path.relative_to(folder)) for path in folder.rglob("*.*"))

    assert pages == ["man1/bgctl.1", "man1/bgd.1", "man5/bgd.toml.5"]


def test_uninstall_leaves_the_configuration_alone(stage, tmp_path):
    copy = tmp_path / "stage"
    shutil.copytree(stage, copy, symlinks=True)

    subprocess.run(["make", "uninstall", f"DESTDIR={copy}"], cwd=ROOT, check=True, capture_output=True)

    assert [path.relative_to(copy) for path in copy.rglob("*") if not path.is_dir()] == [
        Path("etc/bgd/bgd.toml")
    ]


def test_installed_programs_import_nothing_before_bgd(stage):
    for name in ("bgd", "bgctl", "bgd-launcher"):
        text = (stage / "usr/local/lib/bgd/bin" / name).read_text()
        imported = [line for line in text.splitlines() if line.startswith(("import ", "from "))]
        assert imported[0] == "import sys"
        assert imported[1].startswith("from bgd" if name != "bgctl" else "from bgctl")
        compile(text, name, "exec")
