"""Workers that run one job after the other: what they keep, what they undo, when they are replaced."""

from __future__ import annotations

import os
import signal

import pytest

from bgd.core.job import Outcome
from bgd.wire.launching import StopProcesses
from tests.launcher.host import is_alive, open_files, written
from tests.launcher.warm.calls import Calls
from tests.support import wait_until

JOB = """
import os, signal, socket, subprocess, sys, threading, time

held = []

def own():
    return os.getpid()

def count():
    held.append(1)
    return [os.getpid(), len(held)]

def disturb():
    os.environ["LEFT"] = "1"
    os.environ.pop("PATH")
    os.chdir("/usr")
    os.umask(0)
    sys.path.insert(0, "/nowhere")
    sys.stdout = sys.stderr = None
    os.close(0)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.setitimer(signal.ITIMER_REAL, 0.2)
    return os.getpid()

def look():
    handler = signal.getsignal(signal.SIGTERM)
    found = ["LEFT" in os.environ, "PATH" in os.environ, os.getcwd(), os.umask(0), "/nowhere" in sys.path]
    time.sleep(0.3)
    print("heard")
    return [os.getpid(), *found, sys.stdin.read(), handler != signal.SIG_IGN]

def close_input():
    os.close(0)

def inherited():
    return subprocess.run(["readlink", "/proc/self/fd/0"], stdout=subprocess.PIPE).stdout.decode()

def hold(megabytes):
    held.append(b"x" * (megabytes << 20))
    return os.getpid()

def wait(folder):
    with open(folder + "/told", "a") as file:
        file.write(f"{os.getpid()}\\n")
    while not os.path.exists(folder + "/enough"):
        time.sleep(0.01)
    return os.getpid()

def leave_child():
    return [os.getpid(), subprocess.Popen(["sleep", "1000"], stdout=subprocess.DEVNULL).pid]

def leave_thread():
    threading.Thread(target=time.sleep, args=[0.2]).start()
    return os.getpid()

def long_text(has_thread):
    if has_thread:
        threading.Thread(target=time.sleep, args=[0.2]).start()
    return 'an "ä" ' * 60_000

def abort():
    os.abort()

def fork():
    os.fork()
    return os.getpid()

def close_all(code):
    os.closerange(3, 100)
    sys.exit(code)

def close_all_and_return():
    os.closerange(3, 100)

def listen_in(path):
    own, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    if not os.fork():
        own.close()
        with open(path, "wb") as file:
            file.write(other.recv(1000) or b"nothing\\n")
        os._exit(0)
    other.close()
    inner = os.dup2(own.fileno(), 99)
    for fd in map(int, os.listdir("/proc/self/fd")):
        if 3 <= fd < 99:
            try:
                os.dup2(inner, fd)
            except OSError:
                pass
    os.close(inner)
    held.append(own)
    sys.exit(5)
"""


@pytest.fixture
def reused(reused: Calls) -> Calls:
    reused.write("job", JOB)
    reused.preload = ["job"]
    return reused


def test_jobs_share_a_process_and_what_is_in_its_memory(reused):
    found = [reused.value("job:count") for _ in range(3)]

    assert found == [[reused.workers()[0], number] for number in (1, 2, 3)]


def test_what_a_job_changed_around_it_is_undone(reused):
    pid = reused.value("job:disturb")

    end = reused.run("job:look")

    assert end.result == b'{"ok":[%d,false,true,"/",18,false,"",true]}' % pid
    assert reused.output(end) == "heard\n"


def test_a_job_that_closes_its_input_takes_none_from_the_programs_of_the_next(reused):
    reused.run("job:close_input")

    assert reused.value("job:inherited") == "/dev/null\n"


def test_each_of_several_jobs_at_the_same_time_has_a_worker(reused, tmp_path):
    keys = [reused.launch("job:wait", str(tmp_path)) for _ in range(3)]
    pids = written(tmp_path / "told", 3).split()
    (tmp_path / "enough").touch()

    reused.supervisor.all_ended(keys)

    assert sorted(map(int, pids)) == sorted(reused.workers())
    assert len(set(pids)) == 3
    assert reused.value("job:own") in reused.workers()


def test_a_worker_that_has_run_its_number_of_jobs_is_replaced(reused):
    reused.further = {"recycle_jobs": 2}

    pids = [reused.value("job:own") for _ in range(5)]

    assert pids[0] == pids[1] != pids[2] == pids[3] != pids[4]
    wait_until(lambda: reused.workers() == [pids[4]])


def test_a_worker_that_has_ended_leaves_no_descriptor_in_the_launcher(reused):
    reused.further = {"recycle_jobs": 1}
    reused.value("job:own")
    wait_until(lambda: not reused.workers())
    before = open_files(reused.host)

    for _ in range(20):
        reused.value("job:own")

    wait_until(lambda: open_files(reused.host) <= before)


def test_a_worker_that_uses_too_much_memory_is_replaced(reused):
    reused.further = {"recycle_memory": 80_000_000}

    first = reused.value("job:hold", 1)
    assert reused.value("job:hold", 100) == first
    assert reused.value("job:own") != first


@pytest.mark.parametrize("options", [{"timeout": 2.0}, {}])  # in which a worker must be ready
def test_a_job_over_its_time_limit_or_cancelled_ends_only_its_own_worker(reused, tmp_path, options):
    (tmp_path / "other").mkdir()
    other = reused.launch("job:wait", str(tmp_path / "other"))
    key = reused.launch("job:wait", str(tmp_path), **options)
    pid = int(written(tmp_path / "told"))
    if not options:
        reused.supervisor.say(StopProcesses(key, 5.0))

    end = reused.supervisor.ended(key)

    assert end.outcome is (Outcome.TIMEOUT if options else Outcome.CANCELLED)
    assert not is_alive(pid)
    (tmp_path / "other/enough").touch()
    assert reused.supervisor.ended(other).outcome is Outcome.SUCCEEDED
    assert reused.value("job:own") != pid


def test_the_end_of_a_worker_is_the_end_of_its_job(reused, tmp_path):
    assert (end := reused.run("job:abort")).outcome is Outcome.SIGNAL
    assert end.signal == signal.SIGABRT

    key = reused.launch("job:wait", str(tmp_path))
    os.kill(int(written(tmp_path / "told")), signal.SIGKILL)

    assert (end := reused.supervisor.ended(key)).signal == signal.SIGKILL
    assert end.user_seconds is not None
    assert reused.run("job:own").outcome is Outcome.SUCCEEDED
    assert "255" not in reused.host.said


def test_what_a_job_leaves_running_is_ended_and_its_worker_replaced(reused):
    pid, child = reused.value("job:leave_child")

    assert not is_alive(child)
    assert reused.value("job:own") != pid


def test_a_job_waits_for_its_threads_and_ends_its_worker(reused):
    end = reused.run("job:leave_thread")

    assert (end.outcome, end.exit_code) == (Outcome.SUCCEEDED, 0)
    assert end.finished_at - end.started_at > 0.2
    assert reused.run("job:own").result != end.result


@pytest.mark.parametrize("has_thread", [False, True])
def test_a_result_longer_than_a_packet_comes_back_whole(reused, has_thread):
    assert reused.value("job:long_text", has_thread) == 'an "ä" ' * 60_000


def test_a_child_that_returns_writes_no_result(reused):
    end = reused.run("job:fork")

    assert end.outcome is Outcome.SUCCEEDED
    assert reused.run("job:own").outcome is Outcome.SUCCEEDED


def test_a_job_that_closes_its_worker_s_descriptors_keeps_its_own_end(reused):
    chosen = reused.run("job:close_all", 7)
    returned = reused.run("job:close_all_and_return")

    assert (chosen.outcome, chosen.exit_code) == (Outcome.EXIT, 7)
    assert (returned.outcome, returned.exit_code) == (Outcome.EXIT, 1)
    assert "closed the channel for its result" in reused.output(returned)
    assert reused.value("job:count")[1] == 1


def test_a_worker_sends_its_report_only_to_the_launcher(reused, tmp_path):
    end = reused.run("job:listen_in", str(tmp_path / "heard"), keep_leftovers=True)

    assert (end.outcome, end.exit_code) == (Outcome.EXIT, 5)
    assert written(tmp_path / "heard") == "nothing\n"


def test_changed_code_that_a_job_imported_is_seen(reused):
    reused.write("later", "def tell(): return 1\n")
    assert reused.value("later:tell") == 1

    reused.write("later", "def tell(): return 22\n")

    assert reused.value("later:tell") == 22


def test_nothing_of_them_outlives_their_launcher(reused, tmp_path):
    key = reused.launch("job:wait", str(tmp_path))
    pid = int(written(tmp_path / "told"))

    reused.host.kill()
    wait_until(lambda: not is_alive(pid))
    reused.host.start()

    assert reused.host.supervise().snapshot[key].outcome is Outcome.UNKNOWN


def test_a_job_that_fails_costs_no_worker(reused):
    pid = reused.value("job:own")

    assert reused.run("nowhere:f").outcome is Outcome.EXIT
    assert reused.value("job:own") == pid
