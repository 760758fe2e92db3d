"""Real disks that are full: that of the database (case 9), and that of the logs (case 10)."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Thread

import pytest

from bgd import State
from bgd.errors import Full
from tests.faults.figures import record
from tests.support import Daemon, wait_until


@contextmanager
def small_disk(folder, size, inodes=0):
    """Mount a small disk in memory there."""
    with mounted(folder, "-t", "tmpfs", "-o", f"size={size},nr_inodes={inodes},mode=700", "tmpfs"):
        yield folder


@contextmanager
def mounted(folder, *arguments):
    if os.geteuid() != 0:
        pytest.skip("NOT RUN: a disk of its own takes root")
    folder.mkdir(mode=0o700, parents=True)
    done = subprocess.run(["mount", *arguments, folder], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"NOT RUN: no such disk can be mounted: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


MAKE = {
    "ext4": ("mkfs.ext4", "-q", "-F", "-m0"),
    "xfs": ("mkfs.xfs", "-q"),
    "btrfs": ("mkfs.btrfs", "-q"),
    "btrfs with a quota": ("mkfs.btrfs", "-q"),
}


@contextmanager
def disk_of(kind, machine):
    """Mount a disk with that file system as the state folder."""
    make, *options = MAKE[kind]
    if shutil.which(make) is None:
        pytest.skip(f"NOT RUN: {make} is not installed")
    image = machine.folder / "image"
    with image.open("wb") as file:
        file.truncate(320 << 20)
    subprocess.run([make, *options, image], check=True)
    with mounted(machine.state_dir, "-o", "loop", str(image)):
        machine.state_dir.chmod(0o700)
        if kind == "btrfs with a quota":
            subprocess.run(["btrfs", "quota", "enable", machine.state_dir], check=True)
            subprocess.run(["btrfs", "qgroup", "limit", "40M", machine.state_dir], check=True)
        yield


@pytest.fixture
def machine():
    with tempfile.TemporaryDirectory(prefix="bgd-") as folder:
        yield Daemon(Path(folder))


def fill(path):
    """Fill the disk of the file to the last byte."""
    for size in (1 << 20, 4096, 512):
        with suppress(OSError), path.open("ab", buffering=0) as file:
            while file.write(bytes(size)) == size:
                pass
        os.sync()  # what was reserved and is not needed can be taken then


def submit_until_refused(client):
    """Submit until the disk is full; return the ids that were acknowledged."""
    told = []
    while True:
        try:
            told.append(client.submit(["/bin/true", "x" * 2000], hold=True).id)
        except Full:
            return told


def test_jobs_get_their_input_on_a_disk_without_inodes_and_say_that_their_output_is_lost(machine):
    with small_disk(machine.state_dir, "16m", inodes=60):
        machine.start()
        with machine.client() as client:
            client.submit(["/bin/true"]).wait(timeout=20)
            with suppress(OSError):
                for number in range(60):
                    (machine.state_dir / "logs" / f"other.{number}").touch()

            job = client.submit(["/usr/bin/tee", f"{machine.folder}/got"], input=b"input").wait(timeout=20)

            assert job.state is State.SUCCEEDED
            assert (machine.folder / "got").read_bytes() == b"input"
            assert "output is missing" in machine.bgctl("show", str(job.id)).stdout
        machine.stop()


def test_full_disk_only_refuses_new_jobs_and_recovers_by_itself(machine):
    with small_disk(machine.state_dir, "4m"):
        machine.start()
        with machine.client() as client:
            gate = machine.folder / "gate"
            os.mkfifo(gate)
            running = client.submit(["/bin/sh", "-c", f"read code < {gate}; exit $code"])
            told = submit_until_refused(client)
            refused = machine.bgctl("submit", "true", "x" * 4000)
            assert refused.returncode == 75
            assert refused.stderr.startswith("bgctl: disk full: ")
            assert refused.stderr.count("\n") == 1

            filler = machine.state_dir / "filler"
            fill(filler)  # other programs take the rest
            assert [job.id for job in client.jobs(limit=10_000)][::-1] == [running.id, *told]
            for job_id in told[:50]:
                assert client.cancel([job_id])[0].state is State.CANCELLED
            gate.write_text("3\n")
            assert running.wait(timeout=20).view.exit_code == 3

            filler.unlink()
            client.cancel(told[50:])
            began = time.monotonic()
            assert client.prune(keep=0).jobs == len(told) + 1
            wait_until(lambda: takes_a_job(client))
            recovered_after = time.monotonic() - began
            assert client.submit(["/bin/true"]).wait(timeout=20).state is State.SUCCEEDED
        assert "Traceback" not in (machine.folder / "bgd.log").read_text()
        machine.stop()
    record(
        "the disk of the database (4 MiB) is full, and then not any more",
        jobs_acknowledged=len(told) + 1,
        lost=0,
        cancelled_meanwhile=50,
        takes_jobs_again_after_ms=round(1000 * recovered_after),
    )


@pytest.mark.parametrize("kind", MAKE)
def test_daemon_goes_on_when_the_disk_becomes_full(machine, kind):
    with disk_of(kind, machine):
        machine.start()
        with machine.client() as client:
            job = client.submit(["true"], hold=True)
            fill(machine.state_dir / "filler")
            for priority in range(20):  # this writes again and again to the same pages of the -wal
                client.edit([job.id], priority=priority)
        assert machine.process.poll() is None
        machine.stop()
        assert "warning: disk full: " in (machine.folder / "bgd.log").read_text()


@pytest.mark.parametrize("kind", MAKE)
def test_daemon_starts_on_a_full_disk_with_ballast(machine, kind):
    with disk_of(kind, machine):
        machine.start()
        with machine.client() as client:
            job = client.submit(["true"], hold=True)
        machine.process.kill()
        machine.process.wait()
        fill(machine.state_dir / "filler")
        with suppress(OSError):
            for number in range(100):  # XFS has room for some more inodes
                (machine.state_dir / f"filler{number}").touch()
        assert (machine.state_dir / "ballast").exists()

        machine.start()
        with machine.client() as client:
            assert client.cancel([job.id])[0].state is State.CANCELLED
        machine.stop()
        assert "Traceback" not in (machine.folder / "bgd.log").read_text()


def test_daemon_without_ballast_waits_until_the_disk_has_room(machine):
    log = machine.folder / "bgd.log"
    with small_disk(machine.state_dir, "4m") as disk:
        fill(disk / "filler")
        starting = Thread(target=machine.start)
        starting.start()
        wait_until(lambda: log.exists() and "nothing is lost, but bgd waits until then" in log.read_text())
        (disk / "filler").unlink()
        starting.join()
        assert machine.finished_job("true")
        machine.stop()


def test_socket_without_room_is_no_error_of_the_configuration(machine):
    log = machine.folder / "bgd.log"
    with small_disk(machine.folder / "sockets", "1m", inodes=1) as disk:
        machine.configure(f'[daemon]\nsocket = "{disk}/bgd.sock"\n')
        with log.open("wb") as file:
            done = subprocess.run([sys.executable, "-m", "bgd"], env=machine.env, stderr=file, check=False)
    assert f"cannot listen on {disk}/bgd.sock: No space left on device" in log.read_text()
    assert done.returncode == 74  # the unit starts it again


def test_logs_leave_room_for_the_database_on_a_full_disk(machine):
    with small_disk(machine.state_dir, "24m"):
        machine.start()
        with machine.client() as client:
            gate = machine.folder / "gate"
            os.mkfifo(gate)
            written = machine.folder / "written"
            told = [client.submit(["/bin/true"], hold=True).id for _ in range(100)]
            noise = f"read go < {gate}; head -c 4000000 /dev/zero; touch {written}; exec sleep 600"
            noisy = client.submit(["/bin/sh", "-c", noise])
            fill(machine.state_dir / "filler")
            for job_id in told[:50]:  # this releases the ballast
                assert client.cancel([job_id])[0].state is State.CANCELLED
            gate.write_text("go\n")
            wait_until(written.exists)
            for job_id in told[50:]:
                assert client.cancel([job_id])[0].state is State.CANCELLED
            noisy.cancel()
            assert noisy.wait(timeout=20).state is State.CANCELLED
        machine.stop()
    record(
        "the disk of database and logs is full, and a job writes 4 MB more", cancelled_meanwhile=len(told) + 1
    )


def takes_a_job(client):
    try:
        client.submit(["/bin/true"])
    except Full:
        return False
    return True


def test_full_disk_of_the_logs_changes_no_result(machine):
    machine.state_dir.mkdir(mode=0o700, parents=True)
    with small_disk(machine.state_dir / "logs", "1m") as logs:
        machine.start()
        fill(logs / "filler")
        with machine.client() as client:
            jobs = [client.submit(["/bin/sh", "-c", f"seq 10000; exit {n % 3}"]) for n in range(20)]
            ended = client.wait(jobs, timeout=20)
            assert sorted(job.view.exit_code for job in ended) == sorted(n % 3 for n in range(20))
            (logs / "filler").unlink()
            job = client.submit(["/bin/echo", "word"])
            job.wait(timeout=20)
            assert b"".join(part.data for part in job.logs()) == b"word\n"
        machine.stop()
    record("the disk of the logs is full", jobs=len(jobs), right_ends=len(ended))


def test_output_lost_on_a_full_log_disk_is_counted_by_logs_run_and_doctor(machine):
    machine.state_dir.mkdir(mode=0o700, parents=True)
    with small_disk(machine.state_dir / "logs", "1m") as logs:
        machine.start()
        fill(logs / "filler")

        ran = machine.bgctl("run", "echo", "word")
        assert (ran.returncode, ran.stdout) == (0, "")
        assert f"==> 5 bytes missing: {logs}/0/1.1.log could not be written <==" in ran.stderr
        read = machine.bgctl("logs", "1")
        assert (read.returncode, read.stdout, read.stderr) == (0, "", ran.stderr)
        doctor = machine.bgctl("doctor")
        assert doctor.returncode == 1
        assert f"problem  log disk: {logs} has 0B free" in doctor.stdout
        assert "warning  output: since bgd started 1 attempts lost 5B of their output" in doctor.stdout

        (logs / "filler").unlink()
        ran = machine.bgctl("run", "sh", "-c", "seq 10; head -c 2000000 /dev/zero")
        assert ran.returncode == 0
        assert ran.stdout.startswith("1\n2\n3\n")
        assert f"==> {2_000_021 - len(ran.stdout)} bytes missing: " in ran.stderr
        parts = [json.loads(line) for line in machine.bgctl("logs", "--json", "2").stdout.splitlines()]
        assert sum(part.get("left_out", 0) for part in parts) == 2_000_021 - len(ran.stdout)
        said = (machine.folder / "bgd.log").read_text()
        assert said.count("output is missing from the log") == 1
        machine.stop()


def test_output_lost_without_inodes_is_counted(machine):
    machine.state_dir.mkdir(mode=0o700, parents=True)
    with small_disk(machine.state_dir / "logs", "4m", inodes=5) as logs:
        for number in range(4):
            (logs / f"file{number}").write_text("")
        machine.start()
        ran = machine.bgctl("run", "echo", "word")
        assert (ran.returncode, ran.stdout) == (0, "")
        assert "==> 5 bytes missing: " in ran.stderr
        assert f"problem  log disk: {logs} has no free inodes" in machine.bgctl("doctor").stdout
        machine.stop()


def test_lost_output_of_a_running_job_is_counted_before_it_ends(machine):
    machine.state_dir.mkdir(mode=0o700, parents=True)
    with small_disk(machine.state_dir / "logs", "1m") as logs:
        machine.start()
        fill(logs / "filler")
        job = machine.submit("sh", "-c", "echo word; exec sleep 600")
        wait_until(lambda: "==> 5 bytes missing: " in machine.bgctl("logs", job).stderr)
        machine.stop()


def test_output_lost_with_a_removed_log_folder_is_counted_and_later_output_is_kept(machine):
    machine.start()
    gate = machine.folder / "gate"
    os.mkfifo(gate)
    logs = machine.state_dir / "logs"
    job = machine.submit("sh", "-c", f"echo before; read x < {gate}; echo after")
    wait_until((logs / f"0/{job}.1.log").exists)
    shutil.rmtree(logs)
    gate.write_text("\n")
    assert machine.bgctl("wait", job).returncode == 0
    read = machine.bgctl("logs", job)
    assert read.stdout == "after\n"
    assert read.stderr == f"==> 7 bytes missing: {logs}/0/{job}.1.log is not there <==\n"
    shutil.rmtree(logs)
    assert "==> 13 bytes missing: " in machine.bgctl("logs", job).stderr
    machine.stop()
