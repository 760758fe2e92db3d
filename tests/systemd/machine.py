"""A machine for tests: this machine's files under a real systemd in namespaces, with bgd installed."""

from __future__ import annotations

import os
import shutil
import subprocess
from contextlib import suppress
from pathlib import Path

from tests.support import DEADLINE, wait_until

BOOT = Path(__file__).with_name("boot.sh")
SYSTEMD = "/usr/lib/systemd/systemd"
NAMESPACES = ["--pid", "--mount", "--uts", "--ipc", "--net", "--cgroup"]
LONGEST_LIFE = 3600  # seconds, so that it ends even if the tests are killed
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
USERS = {"root": 0, "ada": 1777}


def why_not() -> str | None:
    """Return why no such machine can run here; None if it can."""
    if os.geteuid() != 0:
        return "only root can boot systemd"
    if "overlay" not in Path("/proc/filesystems").read_text():
        return "the kernel has no overlayfs"
    if _cgroups() is None:
        return "cgroup v2 is not mounted"
    missing = [name for name in (SYSTEMD, "dbus-daemon", "runuser", "useradd") if not shutil.which(name)]
    if missing:
        return f"not installed: {', '.join(missing)}"
    if subprocess.run(
        ["unshare", *NAMESPACES, "--fork", "true"], capture_output=True, check=False
    ).returncode:
        return "namespaces may not be made here"
    return None


class Machine:
    """A machine that is booted when it is made, with the users root and ada."""

    def __init__(self, folder: Path, stage: Path) -> None:
        """Boot with the files from `stage`; `folder` is empty and becomes the root."""
        self._cgroup = Path(f"{_cgroups()}/bgd-test-{os.getpid()}-{folder.parent.name}")
        self._cgroup.mkdir()
        self._console = folder.with_suffix(".console")
        enter = ["sh", "-c", f'echo $$ > {self._cgroup}/cgroup.procs; exec "$@"', "sh"]
        limit = ["timeout", "--signal=KILL", str(LONGEST_LIFE)]
        boot = ["unshare", *NAMESPACES, "--fork", "--kill-child", str(BOOT), str(folder), str(stage)]
        with self._console.open("wb") as console:
            self._process = subprocess.Popen([*enter, *limit, *boot], stdout=console, stderr=console)
        try:
            wait_until(self._is_up)
            self.run("ip", "link", "set", "lo", "up")
            self.run("useradd", "--create-home", "--uid", str(USERS["ada"]), "ada")
        except BaseException:
            self._process.kill()
            self._clear_up()
            raise

    def run(self, *command: str, user: str = "root", code: int = 0) -> str:
        """Run a command that must exit with `code`; return its output."""
        done = self.attempt(*command, user=user)
        assert done.returncode == code, f"{command} ended with {done.returncode}: {done.stdout}{done.stderr}"
        return (done.stdout + done.stderr).strip()

    def attempt(self, *command: str, user: str = "root") -> subprocess.CompletedProcess[str]:
        """Run a command; it may fail."""
        # enters the namespaces of the first process, which out here is the child of unshare
        enter = ["nsenter", "--target", str(self._first_pid()), "-m", "-u", "-i", "-n", "-p", "-C"]
        home = "/root" if user == "root" else f"/home/{user}"
        return subprocess.run(
            [*enter, "runuser", "-u", user, "--", *command],
            env={
                "PATH": PATH,
                "HOME": home,
                "LANG": "C.UTF-8",
                "XDG_RUNTIME_DIR": f"/run/user/{USERS[user]}",
            },
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=DEADLINE * 10,  # some install bgd
            check=False,
        )

    def unit(self, name: str, field: str) -> str:
        """Return a property of a unit."""
        return self.run("systemctl", "show", "--property", field, "--value", name)

    def write(self, path: str, text: str) -> None:
        """Write a file, and make its folder if needed."""
        self.run("install", "-D", "/dev/null", path)
        self.run("sh", "-c", 'printf %s "$2" > "$1"', "sh", path, text)

    def power_off(self) -> None:
        self.run("systemctl", "--no-block", "poweroff")
        try:
            self._process.wait(DEADLINE)
        finally:
            self._process.kill()
            self._clear_up()

    def _is_up(self) -> bool:
        assert self._process.poll() is None, f"systemd ended: {self._console.read_text()}"
        with suppress(IndexError, FileNotFoundError):  # there is no first process yet
            return self.attempt("systemctl", "is-system-running").stdout.strip() in {"running", "degraded"}
        return False

    def _first_pid(self) -> int:
        """Return the pid of systemd: the child of unshare, which is the child of timeout."""
        return _child_of(_child_of(self._process.pid))

    def _clear_up(self) -> None:
        self._process.wait(DEADLINE)
        (self._cgroup / "cgroup.kill").write_text("1")
        wait_until(lambda: "populated 0" in (self._cgroup / "cgroup.events").read_text())
        for folder, _, _ in os.walk(self._cgroup, topdown=False):
            Path(folder).rmdir()


def _cgroups() -> str | None:
    mounts = (line.split() for line in Path("/proc/mounts").read_text().splitlines())
    return next((place for _, place, kind, *_ in mounts if kind == "cgroup2"), None)


def _child_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])
