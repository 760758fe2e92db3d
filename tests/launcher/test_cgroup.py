"""Control groups: what they report of all processes of a job, and that no process escapes.

Tests that need controllers run where cgroup v2 has them: as root in a group of their own, like a service.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from bgd.core.job import Outcome
from bgd.launcher.cgroup import Group, own_group, own_oom_kills
from bgd.wire.launching import AttemptEnded, StopProcesses
from bgd.wire.limits import Limits
from tests.faults.figures import record, times
from tests.launcher.host import OWN_GROUP as OWN
from tests.launcher.host import PATIENCE, Host, Supervisor, is_alive, needs_groups, written
from tests.launcher.unprivileged import NOBODY, UnprivilegedHost
from tests.support import wait_until

CONTROLLERS = {"memory", "cpu", "pids"}


def can_limit() -> bool:
    return OWN is not None and set((OWN / "cgroup.controllers").read_text().split()) >= CONTROLLERS


needs_controllers = pytest.mark.skipif(
    not can_limit(), reason="NOT RUN: takes cgroup v2 with the controllers memory, cpu and pids"
)


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="NOT RUN: only root can delegate a group to nobody")


@pytest.fixture
def group() -> Iterator[Group]:
    """Yield a group of the test's own."""
    assert OWN is not None
    group = Group(f"{OWN}/bgd-test-{os.getpid()}")
    Path(group.path).mkdir()
    yield group
    group.kill()
    wait_until(group.remove)


def put_into(group: Group, *argv: str) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(argv)
    Path(group.path, "cgroup.procs").write_text(str(process.pid))
    return process


# --- one group --------------------------------------------------------------------------------------------


@needs_groups
def test_a_group_lists_the_processes_in_it_and_below_it(group):
    below = Group(f"{group.path}/below")
    Path(below.path).mkdir()
    with put_into(group, "sleep", "100") as one, put_into(below, "sleep", "100") as other:
        assert group.pids() == {one.pid, other.pid}
        assert group.is_populated
        assert not group.remove()

        group.kill()

    assert not group.is_populated
    assert group.remove()
    assert not Path(group.path).exists()


@needs_groups
async def test_the_end_of_the_last_process_is_notified_without_polling(group):
    over = asyncio.get_running_loop().create_future()
    with put_into(group, "cat", "/dev/zero") as process:
        waiting = asyncio.create_task(group.emptied(over))
        done, _ = await asyncio.wait({waiting}, timeout=0.05)
        assert not done

        process.kill()
        await asyncio.wait_for(waiting, PATIENCE)

    assert not over.done()


@needs_groups
async def test_the_wait_for_the_last_process_can_be_limited(group):
    over = asyncio.get_running_loop().create_future()
    with put_into(group, "sleep", "100") as process:
        waiting = asyncio.create_task(group.emptied(over))
        over.set_result(None)

        await asyncio.wait_for(waiting, PATIENCE)

        process.kill()


async def test_a_group_that_is_gone_is_empty(tmp_path):
    gone = Group(str(tmp_path / "gone"))

    await asyncio.wait_for(gone.emptied(asyncio.get_running_loop().create_future()), PATIENCE)
    gone.kill()

    assert (gone.pids(), gone.is_populated, gone.figures(), gone.remove()) == (set(), False, None, True)


# --- where groups can be made -----------------------------------------------------------------------------

MOUNT = "41 31 0:38 {root} {point} rw,relatime shared:9 - cgroup2 cgroup2 rw"


@pytest.mark.parametrize(
    ("root", "group", "inside"),
    [
        ("/", "/a.slice/b.service", "a.slice/b.service"),
        ("/", "/", ""),
        ("/a.slice", "/a.slice/b.service", "b.service"),
        ("/a.slice/b.service", "/a.slice/b.service", ""),
    ],
)
def test_own_group_is_found_wherever_the_hierarchy_is_mounted(tmp_path, root, group, inside):
    point = tmp_path / "with blank"
    (point / inside).mkdir(parents=True)
    escaped = str(point).replace(" ", r"\040")
    (tmp_path / "mounts").write_text(
        f"22 1 0:2 / / rw - ext4 /dev/vda rw\n{MOUNT.format(root=root, point=escaped)}\n"
    )
    (tmp_path / "groups").write_text(f"1:cpu:/\n0::{group}\n")

    found = own_group(str(tmp_path / "mounts"), str(tmp_path / "groups"))

    assert found == point / inside


@pytest.mark.parametrize(
    ("mount", "groups"),
    [
        (MOUNT.format(root="/other", point="/"), "0::/a.slice\n"),  # the mounted hierarchy is elsewhere
        (MOUNT.format(root="/", point="/nowhere"), "0::/\n"),
        ("22 1 0:2 / / rw - ext4 /dev/vda rw", "0::/\n"),
        (MOUNT.format(root="/", point="/"), "1:cpu:/\n"),
    ],
)
def test_without_a_mounted_hierarchy_there_is_no_own_group(tmp_path, mount, groups):
    (tmp_path / "mounts").write_text(mount + "\n")
    (tmp_path / "groups").write_text(groups)

    assert own_group(str(tmp_path / "mounts"), str(tmp_path / "groups")) is None


MOUNT_1 = "30 1 0:3 {root} {point} rw - cgroup cgroup rw,memory"


@pytest.mark.parametrize(
    ("mount", "groups", "file", "kills"),
    [
        (MOUNT, "0::/job_3/step_batch\n", "memory.events", 2),
        (MOUNT_1, "4:memory:/job_3/step_batch\n0::/\n", "memory.oom_control", 2),
        (MOUNT_1, "4:hugetlb,memory:/job_3/step_batch\n", "memory.oom_control", 2),
        (MOUNT_1.replace("rw,memory", "rw,cpu"), "4:memory:/job_3/step_batch\n", "memory.oom_control", 0),
        (MOUNT, "1:cpu:/job_3/step_batch\n", "memory.events", 0),
        (MOUNT, "0::/job_3/step_batch\n", "memory.current", 0),
    ],
)
def test_the_groups_of_both_versions_count_what_was_killed_for_lack_of_memory(
    tmp_path, mount, groups, file, kills
):
    folder = tmp_path / "job_3/step_batch"
    folder.mkdir(parents=True)
    (tmp_path / "mounts").write_text(mount.format(root="/", point=tmp_path) + "\n")
    (tmp_path / "groups").write_text(groups)
    (folder / file).write_text("low 0\noom 3\noom_kill 2\noom_group_kill 1\n")

    assert own_oom_kills(str(tmp_path / "mounts"), str(tmp_path / "groups")) == kills


# --- jobs in groups ---------------------------------------------------------------------------------------

# drops all that a process can: parent, session, environment, output and tag
HIDES = (
    "(setsid env -i prlimit --rttime=unlimited /bin/sh -c 'echo $$ > PID; exec sleep 100'"
    " </dev/null >/dev/null 2>&1 &)"
)


@needs_groups
def test_no_process_in_a_group_escapes_a_stop(supervisor, tmp_path):
    script = f"{HIDES}; sleep 100".replace("PID", f"{tmp_path}/pid")
    key = supervisor.launch("sh", "-c", script, own_group=True)
    pid = int(written(tmp_path / "pid"))

    supervisor.say(StopProcesses(key, 5.0))

    assert supervisor.ended(key).outcome is Outcome.CANCELLED
    assert not is_alive(pid)


@needs_groups
def test_no_process_in_a_group_escapes_the_end_of_its_job(supervisor, tmp_path):
    script = f"{HIDES}; until [ -s PID ]; do :; done".replace("PID", f"{tmp_path}/pid")

    end = supervisor.shell(script, own_group=True)

    assert end.outcome is Outcome.SUCCEEDED
    assert not is_alive(int((tmp_path / "pid").read_text()))


@needs_groups
def test_no_process_in_a_group_escapes_the_next_launcher(host, supervisor, tmp_path):
    supervisor.launch("sh", "-c", f"{HIDES}; sleep 100".replace("PID", f"{tmp_path}/pid"), own_group=True)
    pid = int(written(tmp_path / "pid"))
    folder = group_of(pid).parent
    host.kill()
    host.start()

    host.supervise(2)

    assert not is_alive(pid)
    assert not folder.exists()


@needs_groups
def test_a_group_is_removed_with_its_job_and_the_folder_with_the_launcher(host, supervisor, tmp_path):
    os.mkfifo(tmp_path / "go")
    key = supervisor.launch("sh", "-c", f"echo $$ > {tmp_path}/pid; read go < {tmp_path}/go", own_group=True)
    group = group_of(int(written(tmp_path / "pid")))
    assert group.exists()
    (tmp_path / "go").write_text("go\n")

    supervisor.ended(key)

    assert not group.exists()
    assert group.parent.exists()
    host.launchers[-1].terminate()
    host.launchers[-1].wait(PATIENCE)
    assert not group.parent.exists()


@needs_groups
def test_a_launcher_that_needs_no_groups_leaves_none_though_it_is_killed(host, supervisor):
    name = f"bgd-{supervisor.welcome.instance.partition(':')[2]}"
    if supervisor.welcome.abilities.controllers:
        pytest.skip("NOT RUN: with controllers its folder is there from the first")
    supervisor.run("true")

    host.kill()

    assert OWN is not None
    assert not (OWN / name).exists()


@needs_groups
def test_processor_time_is_that_of_all_processes(supervisor):
    """No process waits for the one that works: without a group its usage would not be counted."""
    works = "import time\nwhile time.process_time() < 0.3: pass"
    script = f'(setsid {sys.executable} -c "{works}" &); sleep 100'
    key = supervisor.launch("sh", "-c", script, own_group=True, timeout=2.0)

    end = supervisor.ended(key)

    assert end.whole_tree
    assert end.user_seconds + end.system_seconds > 0.2


@needs_groups
def test_a_program_that_is_missing_leaves_no_group(supervisor):
    end = supervisor.run("/nowhere/program", own_group=True)

    assert end.problem == "program not found: /nowhere/program"
    assert OWN is not None
    (folder,) = OWN.glob(f"bgd-{supervisor.welcome.instance.partition(':')[2]}")
    assert [each.name for each in folder.iterdir() if each.is_dir() and each.name != "launcher"] == []


@needs_groups
def test_kept_leftovers_stay_in_their_group(supervisor, tmp_path):
    script = f"sleep 100 >/dev/null 2>&1 & echo $! > {tmp_path}/pid"

    end = supervisor.shell(script, own_group=True, keep_leftovers=True)

    pid = int(written(tmp_path / "pid"))
    assert end.outcome is Outcome.SUCCEEDED
    assert is_alive(pid)
    left = Group(str(group_of(pid)))
    os.kill(pid, signal.SIGKILL)
    wait_until(left.remove)


# the owner of a group can make it inaccessible, even for itself unless it is root
CLOSE = f"cd {OWN}/*/bgd-*/$(basename $(sed -n s/^0:://p /proc/self/cgroup)) && chmod 0 * ."


@pytest.fixture
def nobodys() -> Iterator[Host]:
    """Yield a host whose launchers run as nobody, with a group of their own delegated to them."""
    assert OWN is not None
    group = OWN / f"bgd-test-nobody-{os.getpid()}"
    group.mkdir()
    for path in (group, group / "cgroup.procs", group / "cgroup.subtree_control"):
        os.chown(path, NOBODY, NOBODY)
    with tempfile.TemporaryDirectory(prefix="bgd-") as folder:  # that user nobody may enter
        os.chown(folder, NOBODY, NOBODY)
        host = UnprivilegedHost(Path(folder))
        yield host
        host.clear_up()
    wait_until(Group(str(group)).remove)


def start_in_group(host: Host) -> Supervisor:
    assert OWN is not None
    procs_file = OWN / f"bgd-test-nobody-{os.getpid()}" / "cgroup.procs"
    host.start(preexec_fn=lambda: procs_file.write_text("0"))
    return host.supervise(generation=len(host.launchers))


@needs_groups
@needs_root
def test_a_job_that_makes_its_group_inaccessible_harms_no_other(nobodys):
    supervisor = start_in_group(nobodys)
    bystander = supervisor.launch("sleep", "100")
    supervisor.started(bystander)
    closing = [
        supervisor.launch(
            "sh", "-c", f"{CLOSE}; echo > {nobodys.state}/{number}; sleep 100 & sleep 100", own_group=True
        )
        for number in range(2)
    ]
    pid = supervisor.all_started(closing)[1].pid
    for number in range(2):
        written(nobodys.state / str(number))

    supervisor.say(StopProcesses(closing[0], 5.0))
    assert supervisor.ended(closing[0]).outcome is Outcome.CANCELLED
    [complaint] = nobodys.said.splitlines()
    assert f"/{closing[0].job}.{closing[0].attempt}.1 cannot be used (Permission denied)" in complaint
    assert supervisor.run("true", own_group=True).outcome is Outcome.SUCCEEDED

    nobodys.kill()
    successor = start_in_group(nobodys)
    ended = successor.snapshot[closing[1]]
    assert isinstance(ended, AttemptEnded)
    assert ended.outcome is Outcome.UNKNOWN
    assert pid is not None
    assert not is_alive(pid)
    assert successor.run("true", own_group=True).outcome is Outcome.SUCCEEDED


@needs_groups
@needs_root
def test_a_launcher_whose_group_is_out_of_reach_starts_jobs_without_groups(nobodys):
    assert OWN is not None
    above = OWN / f"bgd-test-nobody-{os.getpid()}"
    group = above / "inner"
    group.mkdir()
    above.chmod(0)  # a job of the same user can do this

    nobodys.start(preexec_fn=lambda: (group / "cgroup.procs").write_text("0"))

    assert nobodys.supervise(generation=1).run("true", own_group=True).outcome is Outcome.SUCCEEDED


# --- limits -----------------------------------------------------------------------------------------------


@pytest.fixture
def limiting(host: Host) -> Iterator[Supervisor]:
    """Return the active supervisor of a launcher that is alone in its group, like a service."""
    assert OWN is not None
    group = OWN / f"bgd-test-{os.getpid()}"
    group.mkdir()
    procs_file = group / "cgroup.procs"
    host.start(preexec_fn=lambda: procs_file.write_text("0"))
    yield host.supervise()
    host.clear_up()
    wait_until(Group(str(group)).remove)


@needs_controllers
def test_a_launcher_of_its_own_group_can_set_all_limits(limiting):
    assert set(limiting.welcome.abilities.controllers) == CONTROLLERS


HOGS = times(50, 3)
HOG = "import time; hog = bytearray(200_000_000); time.sleep(100)"


@needs_controllers
def test_a_job_that_uses_too_much_memory_is_oom_and_its_neighbours_live(limiting):
    neighbour = limiting.launch("sleep", "10000", limits=Limits(memory_max=64_000_000))
    for _ in range(HOGS):
        end = limiting.shell(f'{sys.executable} -c "{HOG}" & wait', limits=Limits(memory_max=64_000_000))

        assert (end.outcome, end.signal) == (Outcome.OOM, signal.SIGKILL)
        assert "64MB of memory" in end.problem
        assert 32_000_000 < end.memory_peak_bytes <= 64_000_000

    limiting.say(StopProcesses(neighbour, 5.0))
    assert limiting.ended(neighbour).outcome is Outcome.CANCELLED
    record("jobs take 200 MB, and may take 64 MB", jobs=HOGS, ends_oom=HOGS, neighbours_killed=0)


@needs_controllers
def test_a_job_that_was_killed_is_not_oom(limiting):
    end = limiting.shell("kill -KILL $$", limits=Limits(memory_max=64_000_000))

    assert (end.outcome, end.signal) == (Outcome.SIGNAL, signal.SIGKILL)


@needs_controllers
def test_a_fork_bomb_stays_within_its_number_of_processes(limiting):
    bomb = "import os, time\ntry:\n    while True: os.fork()\nexcept OSError: time.sleep(100)"
    key = limiting.launch(sys.executable, "-c", bomb, limits=Limits(pids_max=50))
    group = group_of(limiting.started(key).pid)
    wait_until(lambda: "max 0" not in (group / "pids.events").read_text())
    assert len(Group(str(group)).pids()) <= 50

    limiting.say(StopProcesses(key, 0.1))

    assert limiting.ended(key).outcome is Outcome.CANCELLED
    assert not group.exists()
    record("a fork bomb with a limit of processes is cancelled", pids_max=50, processes_left=0)


@needs_controllers
def test_a_job_gets_no_more_processor_time_than_its_limit(limiting):
    end = limiting.run(
        sys.executable, "-c", "while True: pass", limits=Limits(cpu_max=20), timeout=2.0, grace=0.1
    )

    assert end.outcome is Outcome.TIMEOUT
    assert end.user_seconds + end.system_seconds < 0.4 * (end.finished_at - end.started_at)


def group_of(pid: int) -> Path:
    """Return the folder of a process's group."""
    assert OWN is not None
    theirs, mine = (
        Path(f"/proc/{each}/cgroup").read_text().rpartition("0::")[2].strip() for each in (pid, "self")
    )
    return OWN / os.path.relpath(theirs, mine)
