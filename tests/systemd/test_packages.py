"""What `make dist` and `make deb` build: the source package, the wheel, the Debian package, and an image."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.metadata import Metadata

import bgd
from setup import MODULES
from tests.support import DEADLINE, ROOT, wait_until
from tests.systemd.machine import Machine, why_not

VERSION = bgd.__version__
NEXT = f"9{VERSION[1:]}"  # of an upgrade
UNITS = ("bgd-launcher.service", "bgd.service", "bgd.socket")
WAIT = "until test -e /tmp/gate; do sleep 0.1; done; exit 7"


# --- the source package and the wheel ---------------------------------------------------------------------


def test_two_builds_are_equal_to_the_byte(dist, tmp_path):
    subprocess.run([ROOT / "systemd/dist.sh", ROOT / ".venv/bin/python", tmp_path], check=True)

    for path in dist.iterdir():
        assert (tmp_path / path.name).read_bytes() == path.read_bytes(), path.name


def test_source_package_has_what_its_tests_need_and_nothing_that_git_does_not_know(dist):
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, check=True, capture_output=True, text=True)
    wanted = {path for path in tracked.stdout.split("\n") if path and not path.startswith(".git")}
    units = {path for path in found_in(dist) if path.startswith("bgctl/units/")}
    made = {"PKG-INFO", "setup.cfg", *(path for path in found_in(dist) if path.startswith("bgd.egg-info/"))}
    made |= {f"bgd/client/blocking/{name}.py" for name in MODULES}

    assert made <= found_in(dist)
    assert found_in(dist) - units - made == wanted - {"bgctl/units"}


def found_in(dist: Path) -> set[str]:
    with tarfile.open(dist / f"bgd-{VERSION}.tar.gz") as package:
        return {member.name.partition("/")[2] for member in package if not member.isdir()}


def test_wheel_has_types_units_pages_and_manuals(dist):
    with zipfile.ZipFile(wheel_in(dist)) as wheel:
        names = set(wheel.namelist())

    units = {f"bgctl/units/{kind}/{name}" for kind in ("system", "user") for name in UNITS}
    assert {name for name in names if "units/" in name} == {*units, "bgctl/units/sysusers.conf"}
    assert {"bgd/py.typed", "bgd_job/py.typed", "bgctl/help.txt", "bgctl/agents/SKILL.md"} <= names
    assert {f"bgd/client/blocking/{name}.py" for name in MODULES} <= names
    manuals = {name.rpartition("/")[2] for name in names if "/share/man/" in name}
    assert manuals == {"bgd.1", "bgctl.1", "bgd.toml.5"}
    for folder in ("bgd/daemon/web/static", "bgd/daemon/web/templates"):
        assert {f"{folder}/{path.name}" for path in (ROOT / folder).iterdir()} <= names
    assert not [name for name in names if name.startswith(("tests/", "systemd/", "docs/"))]


def test_metadata_is_valid_and_names_the_version(dist):
    with zipfile.ZipFile(wheel_in(dist)) as wheel:
        text = wheel.read(f"bgd-{VERSION}.dist-info/METADATA")

    metadata = Metadata.from_email(text, validate=True)
    assert (metadata.name, str(metadata.version), str(metadata.requires_python)) == ("bgd", VERSION, ">=3.11")
    assert metadata.description_content_type == "text/markdown"


def wheel_in(dist: Path) -> Path:
    return dist / f"bgd-{VERSION}-py3-none-any.whl"


# --- the Debian package -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def debian() -> Iterator[Machine]:
    """A machine without bgd, with two versions of the Debian package in /usr/share/packages."""
    reason = why_not() or (None if shutil.which("dpkg-deb") else "dpkg-deb is not installed")
    if reason is not None:
        pytest.skip(f"THE DEBIAN PACKAGE IS NOT TESTED: {reason}")
    with tempfile.TemporaryDirectory(prefix="bgd-deb-") as folder:
        stage = Path(folder, "stage")
        packages = stage / "usr/share/packages"
        packages.mkdir(parents=True)
        (stage / "etc").mkdir()
        quick = os.environ | {"DPKG_DEB_COMPRESSOR_TYPE": "none"}  # xz, the default, takes half a minute
        subprocess.run([ROOT / "systemd/deb.sh", packages], env=quick, check=True, capture_output=True)
        [package] = packages.iterdir()
        # not compressed: a version of the same length can be written over the first, which is the package's
        this, upgrade = (f"\nVersion: {version}\n".encode() for version in (VERSION, NEXT))
        packages.joinpath("next.deb").write_bytes(package.read_bytes().replace(this, upgrade, 1))
        package.rename(packages / "this.deb")
        root = Path(folder, "root")
        root.mkdir()
        machine = Machine(root, stage)
        try:
            machine.run("rm", "-f", "/usr/sbin/policy-rc.d")  # where it is, packages may not start services
            yield machine
        finally:
            machine.power_off()


def test_debian_package_is_installed_upgraded_with_running_jobs_and_purged(debian):
    debian.run("dpkg", "--install", "/usr/share/packages/this.deb")

    assert debian.unit("bgd.service", "ActiveState") == "active"
    assert debian.unit("bgd.service", "UnitFileState") == "enabled"
    assert debian.run("bgctl", "run", "--cwd", "/", "id", "-un") == "bgd"
    assert "bgd-launcher.service" in debian.run("systemctl", "list-units", "--plain", "bgd*")
    for page in ("bgctl", "bgd", "bgd.toml"):
        assert debian.run("man", "--where", page).startswith("/usr/share/man/")
    complete = "source /usr/share/bash-completion/completions/bgctl && complete -p bgctl"
    assert "bgctl" in debian.run("bash", "-c", complete)
    assert debian.run("dpkg", "--verify", "bgd") == ""
    job = debian.run("bgctl", "submit", "--cwd", "/", "sh", "-c", WAIT)
    wait_until(lambda: debian.run("bgctl", "list", "--state", "running", "--ids") == job)
    debian.write("/etc/bgd/bgd.toml", "[daemon]\nslots = 3\n")
    daemon, launcher = (debian.unit(name, "MainPID") for name in ("bgd", "bgd-launcher"))
    files = debian.run("dpkg", "--listfiles", "bgd").splitlines()

    debian.run("dpkg", "--install", "--force-confdef", "/usr/share/packages/next.deb")

    assert debian.run("dpkg-query", "--show", "--showformat=${Version}", "bgd") == NEXT
    assert debian.unit("bgd", "MainPID") not in {"0", daemon}
    assert debian.unit("bgd-launcher", "MainPID") == launcher
    assert "slots      3" in debian.run("bgctl", "info")  # the configuration is kept
    debian.run("touch", "/tmp/gate")
    debian.run("bgctl", "wait", job, code=7)

    debian.run("dpkg", "--remove", "bgd")

    assert debian.unit("bgd-launcher.service", "ActiveState") == "inactive"
    debian.run("test", "-e", "/var/lib/bgd/bgd.db")
    assert debian.attempt("bgctl", "list").returncode

    debian.run("dpkg", "--install", "/usr/share/packages/next.deb")

    assert debian.unit("bgd.service", "ActiveState") == "active"
    assert debian.run("bgctl", "list", "--ids") != ""

    debian.run("dpkg", "--purge", "bgd")

    left = 'for path; do case $path in *bgd*) test ! -e "$path" || echo "$path" ;; esac; done'
    kept = debian.run("sh", "-c", left, "sh", *files, "/etc/bgd", "/var/lib/bgd", "/var/log/bgd")
    assert kept == ""


# --- the image --------------------------------------------------------------------------------------------

CONTAINER = ROOT / "examples/container"
# What a builder and an engine for containers do with the Containerfile, on top of this machine's own files
IMAGE = """
set -eu
mount --make-rprivate /
mount -t tmpfs tmpfs "$1"
mkdir "$1/upper" "$1/work" "$1/root"
cd "$1/root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$1/upper,workdir=$1/work" .
cd "$1/root"
for folder in tmp run var/tmp; do mount -t tmpfs -o mode=1777 tmpfs $folder; done
mount -t proc proc proc
mount --rbind /dev dev
mount --bind /etc/resolv.conf etc/resolv.conf
chroot . userdel bgd 2>/dev/null || true
mkdir tmp/bgd
cp $2 tmp/bgd
chroot . /tmp/bgd/install.sh >&2
echo installed
shift 2
exec chroot --userspec=bgd:bgd . "$@"
"""


@pytest.fixture
def image(dist, tmp_path) -> Iterator[list[str]]:
    """The command that enters a container whose process 1 is bgd."""
    reason = why_not()
    if reason is not None:
        pytest.skip(f"THE IMAGE IS NOT TESTED: {reason}")
    text = (CONTAINER / "Containerfile").read_text()
    lines = [line.split(" ", 1) for line in text.splitlines() if not line.startswith("#")]
    assert [name for name, _ in lines] == ["FROM", "COPY", "RUN", "USER", "VOLUME", "CMD"]
    copied = f"{CONTAINER}/install.sh {wheel_in(dist)}"
    command = json.loads(dict(lines)["CMD"])
    environment = {name: os.environ[name] for name in os.environ if name.startswith("PIP_")}
    environment |= {"PATH": "/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
    begin = ["unshare", "--pid", "--mount", "--fork", "sh", "-c", IMAGE, "sh", str(tmp_path), copied]
    running = subprocess.Popen([*begin, *command], env=environment, stdout=subprocess.PIPE, text=True)
    assert running.stdout is not None
    children = Path(f"/proc/{running.pid}/task/{running.pid}/children")
    with running, running.stdout:
        assert running.stdout.readline() == "installed\n"
        first = int(children.read_text())
        try:
            enter = ["nsenter", f"--target={first}", "--mount", "--pid", "--root", "--wdns=/"]
            wait_until(lambda: answers([*enter, "bgctl", "info"]))
            yield enter
            os.kill(first, signal.SIGTERM)
            assert running.wait(DEADLINE) == 0
        finally:
            if running.poll() is None:
                os.kill(first, signal.SIGKILL)  # it changed its user, and so outlives unshare


def answers(command: list[str]) -> bool:
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def test_bgd_is_process_1_of_the_image_and_runs_jobs_as_its_user(image):
    def bgctl(*arguments: str) -> str:
        return subprocess.run(
            [*image, "bgctl", *arguments], check=True, capture_output=True, text=True
        ).stdout.strip()

    assert bgctl("info", "--pid") == "1"
    assert bgctl("run", "id", "-un") == "bgd"
    assert "/var/lib/bgd" in bgctl("info")
