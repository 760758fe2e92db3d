"""A Slurm of two nodes on this machine, of Debian's slurmctld and slurmd, without systemd.

It is small and quick, or like that of a site: with munge, control groups, limits on memory, and nodes in
namespaces of their own. It needs root. Jobs are for another user, as root is exempt from the request limit.
"""

from __future__ import annotations

import atexit
import ctypes
import fcntl
import functools
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

import msgspec

import bgd
from tests.slurm.gate import kill
from tests.support import Daemon, wait_until

USER = "nobody"
# with the right to read what root has: the interpreter may be in root's home
AS_USER = (
    *("setpriv", f"--reuid={USER}", "--regid=nogroup", "--clear-groups"),
    *("--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"),
)
NODES = ("n1", "n2")
CPUS = 2  # of each node

CONFIGURATION = """
ClusterName=two
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
{kind}
SlurmctldPort={port}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerParameters=batch_sched_delay=0,sched_interval=1
ReturnToService=2
SlurmdTimeout=10
KillWait=2
MinJobAge=60
{limit}
SlurmdParameters=config_overrides
PreemptType=preempt/partition_prio
PreemptMode=CANCEL
GresTypes=gpu
NodeName=n[1-2] NodeHostname={host} NodeAddr=127.0.0.1 Port=[{first}-{second}] CPUs={cpus} \\
    RealMemory=8000 Gres=gpu:1
PartitionName=main Nodes=n[1-2] Default=YES MaxTime=INFINITE PriorityTier=1 GraceTime=1 State=UP
PartitionName=high Nodes=n[1-2] PriorityTier=10 PreemptMode=OFF State=UP
"""

QUICK = """
AuthType=auth/slurm
CredType=auth/slurm
AuthInfo=use_client_ids
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
"""
LIKE_A_SITE = """
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={folder}/munge.socket
ProctrackType=proctrack/cgroup
TaskPlugin=task/cgroup
JobAcctGatherType=jobacct_gather/none
"""
# Run a node as the first process of its namespaces, with control groups $0 in place of all that there are
NODE = """
for each in freezer memory; do mkdir /sys/fs/cgroup/$each/$0; done
exec unshare --mount --pid --fork --kill-child --mount-proc sh -ec '
    for each in freezer memory; do mount --bind /sys/fs/cgroup/$each/$0 /sys/fs/cgroup/$each; done
    exec "$@"' "$0" "$@"
"""
GROUPS = Path("/sys/fs/cgroup")  # of version 1: Slurm takes no mixture of versions

MODULE = """
import os, pathlib

def where(number: int):
    node = os.environ.get("SLURMD_NODENAME", "here")
    print("on", node)
    return [node, number + 1]

def fail():
    raise ValueError("as asked")
"""
BGD_CONFIGURATION = """
[daemon]
slots = {slots}
grace = "1s"
[security]
allowed_classes = ["work.*"]
[python]
interpreter = "/usr/bin/python3"  # that of the tests may be in root's home
path = ["{folder}"]
[executors.cluster]
kind = "slurm"
folder = "{folder}/shared"
conf = "{conf}"
python = "{python}"
memory = "100MB"
requests_per_second = {requests}
nodes = 2
keep_idle = "{keep_idle}"
[executors.later]
kind = "slurm"
folder = "{folder}/shared"
conf = "{conf}"
python = "{python}"
options = ["--begin=now+1hour"]
requests_per_second = {requests}
[executors.slow]
kind = "slurm"
folder = "{folder}/shared"
conf = "{folder}/slow.conf"  # the same Slurm by another name, and so with another limit
python = "{python}"
memory = "100MB"
requests_per_second = 0.7
[queues.big]
executor = "cluster"
[queues.far]
executor = "cluster"
slots = 2
"""


def what_a_site_lacks() -> str | None:
    """Return why there can be no Slurm like that of a site here; None: there can be one."""
    if missing := what_is_missing():
        return missing
    if not shutil.which("munged"):
        return "NOT TESTED: there is no munged: apt-get install munge"
    if not all(os.access(GROUPS / each / "tasks", os.W_OK) for each in ("freezer", "memory")):
        return f"NOT TESTED: there are no control groups of version 1 below {GROUPS}, or root may make none"
    can_unshare = ["unshare", "--mount", "--pid", "--fork", "--mount-proc", "true"]
    tried = subprocess.run(can_unshare, capture_output=True, text=True, check=False)
    return f"NOT TESTED: no namespaces for nodes: {tried.stderr}" if tried.returncode else None


def what_is_missing() -> str | None:
    """Return why there can be no Slurm here; None: there can be one."""
    if os.geteuid() != 0:
        return "NOT TESTED: only root can start slurmd for another user"
    missing = [
        name for name in ("slurmctld", "slurmd", "srun", "squeue", "scancel") if not shutil.which(name)
    ]
    if missing:
        return f"NOT TESTED: there is no {missing[0]}: apt-get install slurmctld slurmd slurm-client"
    can_become = subprocess.run([*AS_USER, "true"], capture_output=True, text=True, check=False)
    if can_become.returncode:
        return f"NOT TESTED: nobody can be {USER} here: {can_become.stderr}"
    return None


class OwnFolders:
    """Folders for the sockets of Slurm's daemons that only this process and its children see.

    Their path is fixed, so the tests would take those of a Slurm that this machine has, or of other tests.
    """

    def __init__(self) -> None:
        self._locks: dict[str, int] = {}  # of the folders below, which others may use as well
        self._made: set[str] = set()
        if ctypes.CDLL(None).unshare(_CLONE_NEWNS) == 0:  # else a container allows no mounts
            subprocess.run(["mount", "--make-rprivate", "/"], check=True)
            for folder in ("/run/slurm", "/run/slurmctld"):
                self._locks[folder] = self._keep(folder)
                subprocess.run(["mount", "-t", "tmpfs", "tmpfs", folder], check=True)

    def _keep(self, folder: str) -> int:
        """Make a folder if there is none; return the lock that keeps others from removing it."""
        while True:
            with suppress(FileExistsError):
                Path(folder).mkdir()
                self._made.add(folder)
            with suppress(FileNotFoundError):  # another process removes it just now
                lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
                fcntl.flock(lock, fcntl.LOCK_SH)
                if os.path.samestat(os.fstat(lock), Path(folder).stat()):
                    return lock

    def remove(self) -> None:
        """Undo it; leave what was there before, or is in use."""
        for folder, lock in self._locks.items():
            subprocess.run(["umount", "--lazy", folder], check=True)
            with suppress(OSError):
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if folder in self._made:
                    Path(folder).rmdir()
            os.close(lock)


_CLONE_NEWNS = 0x20000  # linux/sched.h


class TwoNodes:
    """The two nodes and their controller; its files are in `folder`.

    `request_limit`: what it takes from a user other than root: this many requests a second; None: any number.
    `like_a_site`: as the head of this file says.
    """

    def __init__(self, folder: Path, request_limit: int | None = 40, *, like_a_site: bool = False) -> None:
        self.folder = folder
        self._limit = request_limit
        self._is_like_a_site = like_a_site
        self.configuration = folder / "slurm.conf"
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._sockets: OwnFolders | None = None

    def start(self) -> None:
        """Write the configuration, start everything, and wait until both nodes are idle."""
        if not self._is_like_a_site:  # munge has a socket wherever one wants it
            self._sockets = OwnFolders()
        self.folder.chmod(0o755)
        (self.folder / "state").mkdir()
        key = self.folder / "slurm.key"
        key.write_bytes(secrets.token_bytes(1024))
        key.chmod(0o600)
        cgroup = (
            "CgroupPlugin=cgroup/v1\nConstrainRAMSpace=yes\n"
            if self._is_like_a_site
            else "CgroupPlugin=disabled\n"
        )
        (self.folder / "cgroup.conf").write_text(cgroup)
        (self.folder / "gres.conf").write_text("Name=gpu Count=1 File=/dev/null\n")
        ports = free_ports(3)
        host = socket.gethostname().partition(".")[0]
        limit = (
            f"SlurmctldParameters=rl_enable,rl_bucket_size=100,rl_refill_rate={self._limit}"
            if self._limit
            else ""
        )
        self.configuration.write_text(
            CONFIGURATION.format(
                kind=(LIKE_A_SITE if self._is_like_a_site else QUICK).format(folder=self.folder),
                folder=self.folder,
                host=host,
                port=ports[0],
                first=ports[1],
                second=ports[2],
                cpus=CPUS,
                limit=limit,
            )
        )
        if self._is_like_a_site:
            self._start_munge()
        self.start_controller()
        for node in NODES:
            self.start_node(node)
        self.wait_until_idle()

    def stop(self) -> None:
        """Stop everything, also what jobs left."""
        try:
            if "controller" in self._processes:
                self.run("scancel", f"--user={USER}", "--signal=KILL")
                wait_until(lambda: not self.run("squeue", "-h", "--states=running,pending"))
        finally:
            self._end_processes()
            for pid in self._steps(f"{self.folder}/"):  # else they tell for ever how their steps ended
                os.kill(pid, signal.SIGKILL)
            if self._sockets is not None:
                self._sockets.remove()
            for group in GROUPS.glob(f"*/{self.folder.name}-*"):
                for path in sorted(group.glob("**/"), reverse=True):
                    path.rmdir()

    def _steps(self, path: str) -> list[int]:
        """Return what watches steps and has a file open whose path begins so."""
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):  # it has ended
                if (process / "comm").read_text() == "slurmstepd\n":
                    files = [str(each.readlink()) for each in (process / "fd").iterdir()]
                    found += [int(process.name)] * any(file.startswith(path) for file in files)
        return found

    def _end_processes(self) -> None:
        for name, process in self._processes.items():
            is_namespace = self._is_like_a_site and name in NODES  # whose unshare ignores SIGTERM
            process.send_signal(signal.SIGKILL if is_namespace else signal.SIGTERM)
        for process in self._processes.values():
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    @contextmanager
    def without_munge(self) -> Iterator[None]:
        """Let nobody prove meanwhile who he is."""
        self._kill("munge")
        (self.folder / "munge.socket").unlink()
        try:
            yield
        finally:
            self._start_munge()

    def _start_munge(self) -> None:
        socket = self.folder / "munge.socket"
        files = [f"--{name}-file={self.folder}/munge.{name}" for name in ("pid", "log", "seed")]
        key = f"--key-file={self.folder}/slurm.key"
        self._start("munge", "munged", "-F", "--force", key, *files, f"--socket={socket}")
        wait_until(socket.exists)

    def start_controller(self) -> None:
        self._start("controller", "slurmctld", "-D", "-f", str(self.configuration))

    def kill_controller(self, *names: str) -> None:
        """Kill slurmctld once it has saved the jobs of these names: it kills running ones that it forgets."""
        saved = self.folder / "state/job_state"
        wait_until(lambda: all(saved.exists() and each.encode() in saved.read_bytes() for each in names))
        self._kill("controller")

    @contextmanager
    def silent(self) -> Iterator[None]:
        """Let slurmctld answer nobody meanwhile."""
        self._processes["controller"].send_signal(signal.SIGSTOP)
        yield
        self._processes["controller"].send_signal(signal.SIGCONT)

    @contextmanager
    def forgetting(self, *names: str) -> Iterator[None]:
        """Let slurmctld forget what it is told meanwhile, but not the jobs of these names.

        It forgets as much if it is killed within some seconds.
        """
        state, saved = self.folder / "state", self.folder / "saved"
        self.kill_controller(*names)
        shutil.copytree(state, saved)
        self.start_controller()
        yield
        self._kill("controller")
        shutil.rmtree(state)
        saved.rename(state)
        self.start_controller()
        wait_until(lambda: "n1" in self.run("sinfo", "-h", "-N"))

    def start_node(self, node: str, *options: str) -> None:
        slurmd = ["slurmd", "-D", "-f", str(self.configuration), "-N", node, *options]
        if self._is_like_a_site:
            slurmd = ["sh", "-c", NODE, f"{self.folder.name}-{node}", *slurmd]
        self._start(node, *slurmd)

    @contextmanager
    def hidden(self, folder: Path, node: str) -> Iterator[None]:
        """Let a node like that of a site not see a folder meanwhile."""
        [pid] = children_of(self._processes[node].pid)
        inside = ["nsenter", f"--target={pid}", "--mount", "--pid"]
        subprocess.run([*inside, "mount", "-t", "tmpfs", "tmpfs", folder], check=True)
        try:
            yield
        finally:
            subprocess.run([*inside, "umount", "--lazy", folder], check=True)

    def lose_node(self, node: str) -> None:
        """Kill the node's slurmd and tell the controller; its jobs run on, as without a network."""
        self._kill(node)
        self.run("scontrol", "update", f"nodename={node}", "state=down", "reason=lost")

    def return_node(self, node: str) -> None:
        """Undo `lose_node`; return when all nodes are idle."""
        self.restart_node(node)
        self.wait_until_idle()

    def restart_node(self, node: str, *options: str) -> None:
        """Undo `lose_node`."""
        self.start_node(node, *options)
        self.run("scontrol", "update", f"nodename={node}", "state=resume")

    def reset_node(self, node: str) -> None:
        """Kill everything on a node at one instant; start it as after a reboot once the controller knows."""
        steps = self._steps(f"{self.folder}/slurmd-{node}.log")
        kill(self._processes[node].pid, *(pid for step in steps for pid in tree_of(step)))
        self.lose_node(node)
        self.restart_node(node, "-b")

    def wait_until_idle(self) -> None:
        """Wait until no job is on any node, and both can take one."""
        wait_until(lambda: self.run("sinfo", "-h", "-N", "-o", "%N %T", "-p", "main") == "n1 idle\nn2 idle\n")

    def jobs(self) -> list[str]:
        """Return the names of all jobs in Slurm."""
        return self.run("squeue", "-h", "-o", "%j").split()

    def run(self, *argv: str) -> str:
        """Return what one of Slurm's programs prints, run by root."""
        environment = os.environ | {"SLURM_CONF": str(self.configuration)}
        done = subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=30, check=False)
        return done.stdout

    def _start(self, name: str, *argv: str) -> None:
        with (self.folder / f"{name}.out").open("ab") as out:
            self._processes[name] = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                cwd=self.folder,  # for core files, which slurmd leaves at times
                start_new_session=True,
            )

    def _kill(self, name: str) -> None:
        process = self._processes.pop(name)
        process.send_signal(signal.SIGKILL)
        process.wait()


def tree_of(pid: int) -> list[int]:
    """Return a process and all that descends from it."""
    try:
        return [pid, *(each for child in children_of(pid) for each in tree_of(child))]
    except OSError:  # it has ended
        return []


def children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@contextmanager
def running_cluster(request_limit: int | None = 40, *, like_a_site: bool = False) -> Iterator[TwoNodes]:
    """Run the two nodes in a new folder; the arguments are those of TwoNodes."""
    with tempfile.TemporaryDirectory(prefix="slurm-") as folder:
        cluster = TwoNodes(Path(folder), request_limit, like_a_site=like_a_site)
        try:
            cluster.start()
            yield cluster
        finally:
            cluster.stop()


@contextmanager
def serving_as_user(
    cluster: TwoNodes,
    *,
    slots: int = 8,
    requests: int = 30,
    keep_idle: str = "2s",
    python: str = "{folder}/python/python3",
    home: Path | None = None,
) -> Iterator[Daemon]:
    """Run a daemon of USER in a new home, which knows the cluster as its executor "cluster".

    `requests`: how many it sends to Slurm in a second at most. `keep_idle`, `python`: of its executor
    "cluster". `home`: an empty folder, or one in which "shared" leads elsewhere.
    """
    with _new_home() if home is None else nullcontext(str(home)) as folder:
        running = Daemon(Path(folder))
        running.prefix = AS_USER
        running.env |= {"BGD_SOCKET": str(running.socket)}
        (running.folder / "work.py").write_text(MODULE)
        (running.folder / "slow.conf").symlink_to(cluster.configuration)
        (running.folder / "python").symlink_to(copy_of_interpreter())
        values = {
            "python": python,
            "folder": folder,
            "conf": cluster.configuration,
            "slots": slots,
            "requests": requests,
            "keep_idle": keep_idle,
        }
        text = BGD_CONFIGURATION
        for name, value in values.items():
            text = text.replace(f"{{{name}}}", str(value))
        running.configure(text)
        for path in [running.folder, *running.folder.rglob("*")]:
            os.chown(path, pwd.getpwnam(USER).pw_uid, -1, follow_symlinks=False)
        running.start()
        try:
            yield running
        finally:
            running.stop()


def _new_home() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(
        prefix="bgd-",
        ignore_cleanup_errors=True,  # a pilot that Slurm is ending may still write there
    )


@functools.cache
def copy_of_interpreter() -> Path:
    """Return a folder with python3: this interpreter with what a pilot needs, also if it is in root's home.

    All daemons of this process share it.
    """
    folder = Path(tempfile.mkdtemp(prefix="bgd-python-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    folder.chmod(0o755)
    library = Path(sysconfig.get_path("stdlib"))
    # with __pycache__, as an installed bgd has it: a process that compiles its modules itself takes 3 MB more
    unused = {"test", "site-packages", "idlelib", "ensurepip", "lib2to3", "distutils"}
    left_out = shutil.ignore_patterns(*unused, "config-*", "*.opt-?.pyc")
    shutil.copytree(library, folder / "lib" / library.name, ignore=left_out)
    for shared in Path(sys.base_prefix, "lib").glob("libpython*.so*"):
        shutil.copy(shared, folder / "lib")
    shutil.copy(Path(sys.executable).resolve(), folder / "real")
    for package in (bgd, msgspec):
        [source] = package.__path__
        shutil.copytree(source, folder / "packages" / package.__name__, ignore=left_out)
    script = folder / "python3"
    script.write_text(
        f"#!/bin/sh\nexport PYTHONHOME={folder} LD_LIBRARY_PATH={folder}/lib PYTHONPATH={folder}/packages\n"
        "export PYTHONDONTWRITEBYTECODE=1\n"  # the folder may be removed while a pilot is being killed
        f'exec {folder}/real "$@"\n'
    )
    script.chmod(0o755)
    return folder


def free_ports(count: int) -> list[int]:
    """Return ports in a row that no other test takes while this process lives.

    A port that nobody listens on may be that of a controller that another test has killed for a moment.
    """
    for first in range(17_100, 60_000, count):
        lock = socket.socket(socket.AF_UNIX)
        try:
            lock.bind(f"\0bgd-test-ports-{first}")  # a name without a file
        except OSError:
            lock.close()
            continue
        ports = list(range(first, first + count))
        if all(map(_is_free, ports)):
            lock.detach()  # which keeps it open
            return ports
        lock.close()
    raise AssertionError("no free ports")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
