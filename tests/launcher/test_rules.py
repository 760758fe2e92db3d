"""R1 to R8: the rules that make every crash of supervisor and launcher safe."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator

import pytest

from bgd.core.job import Outcome
from bgd.launcher.journal import FirstProcess, Journal, read
from bgd.system.clock import boot_id
from bgd.wire.launching import (
    LAUNCHING_PROTOCOL,
    OLDEST_LAUNCHING_PROTOCOL,
    Acknowledge,
    AttemptEnded,
    AttemptKey,
    AttemptStarted,
    Declined,
    Goodbye,
    Greeting,
    Launch,
    StopProcesses,
)
from tests.launcher import slow_search
from tests.launcher.host import (
    PATIENCE,
    SOURCE,
    STORE,
    Host,
    is_alive,
    launch_of,
    needs_root,
    needs_strace,
    written,
)
from tests.support import wait_until

ENV = {"PATH": os.environ["PATH"]}

# --- R1: one supervisor -------------------------------------------------------------------------------------


def test_a_younger_supervisor_takes_over_and_the_older_is_disconnected(host, supervisor):
    key = supervisor.launch("sleep", "100")
    supervisor.started(key)

    younger = host.supervise(generation=2)

    assert supervisor.hear() is None
    assert younger.snapshot[key].pid is not None
    younger.say(StopProcesses(key, 0.0))
    assert younger.ended(key).outcome is Outcome.CANCELLED


def test_a_supervisor_of_the_same_generation_takes_over_too(host, supervisor):
    host.supervise(generation=1)

    assert supervisor.hear() is None


def test_a_supervisor_that_dies_while_it_is_answered_does_not_flood_the_log(host, supervisor):
    running = [supervisor.launch("sleep", "100") for _ in range(20)]
    supervisor.started(running[-1])

    dying = host.connect()
    dying.say(Greeting(LAUNCHING_PROTOCOL, STORE, 2))
    dying.close()

    successor = host.supervise(generation=3)
    assert successor.snapshot.keys() == set(running)
    assert host.said == ""
    successor.say(*(StopProcesses(key, 0.0) for key in running))
    successor.all_ended(running)


@pytest.mark.usefixtures("supervisor")
def test_an_older_supervisor_is_declined_even_by_the_next_launcher(host):
    host.supervise(generation=7)
    host.kill()
    host.start()
    older = host.connect()

    older.say(Greeting(LAUNCHING_PROTOCOL, STORE, 6))

    declined = older.hear()
    assert isinstance(declined, Declined)
    assert "generation 7" in declined.problem
    assert older.hear() is None


def test_messages_of_an_older_supervisor_after_the_takeover_are_ignored(host, supervisor, tmp_path):
    host.launchers[-1].send_signal(signal.SIGSTOP)
    younger = host.connect()
    younger.say(Greeting(LAUNCHING_PROTOCOL, STORE, 2))
    host.launchers[-1].send_signal(signal.SIGCONT)
    while supervisor.hear() is not None:
        pass

    with pytest.raises(BrokenPipeError):
        supervisor.launch("touch", str(tmp_path / "started"))

    assert younger.hear().instance == supervisor.welcome.instance


def test_a_supervisor_of_the_oldest_protocol_is_told_the_launcher_s_protocol(host, supervisor):
    modest = host.connect()

    modest.say(Greeting(OLDEST_LAUNCHING_PROTOCOL, STORE, 1))

    modest.be_welcomed()
    assert modest.welcome.protocol == LAUNCHING_PROTOCOL
    assert supervisor.hear() is None


def test_an_unknown_protocol_is_declined_with_the_known_one(host, supervisor):
    stranger = host.connect()

    stranger.say(Greeting(99, STORE, 1))

    declined = stranger.hear()
    assert isinstance(declined, Declined)
    assert "99" in declined.problem
    assert stranger.hear() is None
    assert supervisor.run("true").outcome is Outcome.SUCCEEDED


@pytest.mark.parametrize("words", [b"GET / HTTP/1.1\r\n\r\n", b"\xff\xff\xff\xff", b"\0\0\0\1\xc1"])
def test_a_peer_that_violates_the_protocol_is_disconnected_and_harms_no_other(host, supervisor, words):
    stranger = host.connect()

    stranger.socket.sendall(words)

    assert stranger.hear() is None
    assert supervisor.run("true").outcome is Outcome.SUCCEEDED


@pytest.mark.usefixtures("supervisor")
def test_a_peer_that_has_not_greeted_cannot_start_anything(host):
    stranger = host.connect()

    stranger.launch("true")

    assert stranger.hear() is None


@needs_root
@pytest.mark.usefixtures("supervisor")
def test_another_user_is_refused_at_the_socket(host, monkeypatch):
    path = host.state / "launcher.sock"
    assert path.stat().st_mode & 0o777 == 0o600
    path.chmod(0o666)
    host.state.chmod(0o755)
    monkeypatch.chdir(host.state)  # other users may not enter the folders above
    os.seteuid(65534)
    try:
        stranger = host.connect(path.name)
    finally:
        os.seteuid(0)

    assert stranger.hear() is None
    wait_until(lambda: "user 65534" in host.said)


# --- R2: known attempts are never started again ---------------------------------------------------------


def test_a_repeated_launch_starts_nothing_and_reports_the_state(supervisor, tmp_path):
    go = tmp_path / "go"
    os.mkfifo(go)
    launch = Launch(
        key=AttemptKey(STORE, 1, 1),
        argv=["sh", "-c", f"echo ran >> {tmp_path}/runs; read x < {go}; exit 3"],
        env=ENV,
        cwd="/",
    )
    supervisor.say(launch)
    first = supervisor.started(launch.key)

    supervisor.say(launch)
    again = supervisor.started(launch.key)
    go.write_text("\n")
    end = supervisor.hear()
    supervisor.say(launch)

    assert again == first
    assert supervisor.hear() == end
    assert end.exit_code == 3
    assert (tmp_path / "runs").read_text() == "ran\n"


def test_repeated_launches_in_one_write_start_one_process(supervisor, tmp_path):
    launch = Launch(
        key=AttemptKey(STORE, 1, 1), argv=["sh", "-c", f"echo ran >> {tmp_path}/runs"], env=ENV, cwd="/"
    )

    supervisor.say(launch, launch, launch)

    assert supervisor.ended(launch.key).outcome is Outcome.SUCCEEDED
    assert (tmp_path / "runs").read_text() == "ran\n"


def test_an_attempt_with_an_unacknowledged_end_does_not_run_again(host, supervisor, tmp_path):
    launch = Launch(
        key=AttemptKey(STORE, 1, 1), argv=["sh", "-c", f"echo ran >> {tmp_path}/runs"], env=ENV, cwd="/"
    )
    supervisor.say(launch)
    while not isinstance(end := supervisor.hear(), AttemptEnded):
        pass
    host.kill()
    host.start()
    successor = host.supervise()

    successor.say(launch)

    assert successor.hear() == end
    assert (tmp_path / "runs").read_text() == "ran\n"


# --- R3: who started it ---------------------------------------------------------------------------------


def test_a_launch_its_launcher_never_read_is_covered_by_the_next_and_unknown_to_it(host, supervisor):
    host.launchers[-1].send_signal(signal.SIGSTOP)
    key = supervisor.launch("true")
    host.kill()
    host.start()

    successor = host.supervise()

    assert supervisor.welcome.instance in successor.welcome.covers
    assert key not in successor.snapshot


def test_every_earlier_launcher_of_this_boot_is_covered(host):
    instances = []
    for _ in range(3):
        host.start()
        instances.append(host.supervise().welcome)
        host.kill()

    assert instances[2].covers == [instances[0].instance, instances[1].instance]


@pytest.mark.usefixtures("supervisor")
def test_a_journal_that_cannot_be_read_covers_no_launcher(host):
    host.kill()
    content = bytearray(host.journal.read_bytes())
    content[10] ^= 1
    host.journal.write_bytes(content)
    host.start()

    assert host.supervise().welcome.covers == []


def test_the_instance_names_the_boot(supervisor):
    assert supervisor.welcome.instance.startswith(boot_id() + ":")


# --- R4: ends are kept until they are acknowledged ------------------------------------------------------


def test_a_job_lives_on_without_a_supervisor_and_its_end_is_reported_to_the_next(host, supervisor, tmp_path):
    go = tmp_path / "go"
    os.mkfifo(go)
    key = supervisor.launch("sh", "-c", f"echo hello; read x < {go}; exit 4")
    pid = supervisor.started(key).pid
    supervisor.close()
    go.write_text("\n")
    wait_until(lambda: not is_alive(pid))

    next_one = host.supervise(generation=2)

    end = next_one.snapshot.get(key)
    end = end if isinstance(end, AttemptEnded) else next_one.ended(key)
    assert (end.outcome, end.exit_code) == (Outcome.EXIT, 4)
    assert host.log(key).read_text() == "hello\n"


def test_an_end_outlives_the_launcher_until_it_is_acknowledged(host, supervisor):
    key = supervisor.launch("sh", "-c", "exit 5")
    while not isinstance(end := supervisor.hear(), AttemptEnded):
        pass
    for _ in range(2):
        host.kill()
        host.start()
        successor = host.supervise()
        assert successor.snapshot == {key: end}

    successor.say(Acknowledge(key))
    successor.run("true")
    host.kill()
    host.start()

    assert key not in host.supervise().snapshot


def test_a_result_outlives_the_launcher(host, supervisor):
    supervisor.launch("sh", "-c", "printf 42 > /dev/fd/$BGD_RESULT_FD", result=True)
    while not isinstance(end := supervisor.hear(), AttemptEnded):
        pass
    host.kill()
    host.start()

    assert host.supervise().snapshot == {end.key: end}
    assert end.result == b"42"


@needs_strace
def test_without_a_supervisor_an_end_is_on_the_disk_before_it_counts(host, supervisor, tmp_path):
    go = tmp_path / "go"
    os.mkfifo(go)
    pid = supervisor.started(supervisor.launch("sh", "-c", f"read x < {go}")).pid
    supervisor.close()
    trace = tmp_path / "trace"
    argv = ["strace", "-e", "trace=fdatasync", "-o", trace, "-p", str(host.launchers[-1].pid)]
    with subprocess.Popen(argv, stderr=subprocess.PIPE) as tracer:
        assert tracer.stderr is not None
        assert b"attached" in tracer.stderr.readline()

        go.write_text("\n")

        wait_until(lambda: not is_alive(pid))
        wait_until(lambda: "fdatasync" in trace.read_text())
        tracer.terminate()


def test_acknowledging_what_runs_or_is_unknown_changes_nothing(supervisor):
    key = supervisor.launch("sleep", "100")
    supervisor.started(key)

    supervisor.say(
        Acknowledge(key),
        Acknowledge(AttemptKey(STORE, 99, 1)),
        StopProcesses(AttemptKey(STORE, 99, 1), 0.0),
        StopProcesses(key, 0.0),
    )

    assert supervisor.ended(key).outcome is Outcome.CANCELLED


# --- R5: a new launcher sweeps first --------------------------------------------------------------------


def test_what_a_dead_launcher_left_is_gone_before_the_next_one_answers(host, supervisor, tmp_path):
    key = supervisor.launch(
        "sh", "-c", f"echo $$ > {tmp_path}/pid; trap '' TERM; while :; do sleep 100; done"
    )
    pid = int(written(tmp_path / "pid"))
    host.kill()
    assert is_alive(pid)
    host.start()

    successor = host.supervise()

    assert not is_alive(pid)
    assert successor.snapshot[key].outcome is Outcome.UNKNOWN
    assert "launcher" in successor.snapshot[key].problem


@pytest.mark.parametrize(
    "script",
    [
        pytest.param(
            "setsid sh -c 'echo $$ > PID; exec sleep 100' & exit 0", id="new session, holds the pipe"
        ),
        pytest.param(
            "setsid sh -c 'echo $$ > PID; exec sleep 100' >/dev/null 2>&1 &", id="marked, pipe closed"
        ),
        pytest.param(
            "setsid env -i /bin/sh -c 'echo $$ > PID; exec sleep 100' &", id="not marked, holds the pipe"
        ),
        pytest.param(
            "env -i /bin/sh -c 'echo $$ > PID; exec sleep 100' >/dev/null 2>&1; :",
            id="neither, but a descendant",
        ),
        pytest.param(
            "(setsid env -i /bin/sh -c 'echo $$ > PID; exec sleep 100' >/dev/null 2>&1 &)",
            id="neither, and no descendant",
        ),
    ],
)
def test_the_sweep_finds_processes_that_tried_to_escape(host, supervisor, tmp_path, script):
    # the first process stays, so that the live launcher has no leftovers to end
    supervisor.launch(
        "sh", "-c", script.replace("PID", f"{tmp_path}/pid").replace("exit 0", "") + "\nsleep 100"
    )
    pid = int(written(tmp_path / "pid"))
    host.kill()
    host.start()

    host.supervise()

    assert not is_alive(pid)


def test_the_sweep_finds_a_first_process_without_mark_and_pipe(host, supervisor, tmp_path):
    shed = f"echo $$ > {tmp_path}/pid; exec env -i /bin/sleep 100 >/dev/null 2>&1"
    key = supervisor.launch("sh", "-c", shed)
    pid = int(written(tmp_path / "pid"))
    wait_until_noted(host, key)
    host.kill()
    host.start()

    host.supervise()

    assert not is_alive(pid)


def test_the_process_of_a_short_job_is_not_read(host, supervisor):
    key = supervisor.launch("true")
    supervisor.started(key)
    while not isinstance(supervisor.hear(), AttemptEnded):
        pass

    trace = read(host.journal).attempts[key]

    assert trace.finished is not None
    assert trace.first_process is None


def flip_a_bit(host: Host) -> None:
    content = bytearray(host.journal.read_bytes())
    content[10] ^= 1
    host.journal.write_bytes(content)


@pytest.mark.parametrize(
    "spoil", [flip_a_bit, lambda host: host.journal.unlink()], ids=["damaged", "missing"]
)
def test_without_a_whole_journal_all_processes_of_the_store_are_ended_before_the_answer(
    host, supervisor, bystander, tmp_path, spoil
):
    other = bystander({"BGD_RUN": f"another-{STORE}.1.1"})
    supervisor.launch("sh", "-c", f"echo $$ > {tmp_path}/pid; trap '' TERM; while :; do sleep 100; done")
    pid = int(written(tmp_path / "pid"))
    host.kill()
    spoil(host)
    host.start()

    successor = host.supervise()

    assert not is_alive(pid)
    assert is_alive(other)
    assert {end.outcome for end in successor.snapshot.values()} <= {Outcome.UNKNOWN}
    assert successor.shell("exit 0").outcome is Outcome.SUCCEEDED


def test_attempts_of_a_lost_journal_are_ended_before_the_answer_even_if_the_next_launcher_dies_first(
    host, supervisor
):
    pid = supervisor.started(supervisor.launch("sleep", "100")).pid
    host.kill()
    host.journal.unlink()
    host.start()
    wait_until(host.journal.exists)
    host.kill()
    host.start()

    host.supervise()

    assert not is_alive(pid)


def test_a_launcher_of_a_copied_database_ends_no_job_of_one_that_lives_and_starts_none(
    host, supervisor, tmp_path
):
    """Like a person who inspects a backup: it has the same id, and no journal."""
    pid = supervisor.started(supervisor.launch("sleep", "100")).pid
    copy = Host(tmp_path / "copy")
    copy.state.mkdir()
    for _ in range(2):
        copy.start()
        other = copy.connect()
        other.say(Greeting(LAUNCHING_PROTOCOL, STORE, 1), launch_of("touch", str(tmp_path / "started")))

        assert other.hear() is None
        copy.launchers[-1].wait(PATIENCE)
        assert f"process {host.launchers[0].pid}, another launcher, runs jobs of this database" in copy.said
        assert is_alive(pid)
        other.close()
    assert not (tmp_path / "started").exists()


def test_the_sweep_spares_all_other_processes(host, supervisor, bystander, tmp_path):
    other = bystander({"BGD_RUN": f"{STORE}.1.2"})  # with the mark of another attempt of the same job
    supervisor.launch("sh", "-c", f"echo started > {tmp_path}/started; sleep 100")
    written(tmp_path / "started")
    host.kill()
    host.start()

    host.supervise()

    assert is_alive(other)


def test_a_pid_that_became_another_process_is_spared(host, supervisor, bystander):
    """The journal names a pid with another start time, as if the pid had been reused."""
    key = supervisor.launch("sleep", "100")
    job = supervisor.started(key).pid
    wait_until_noted(host, key)
    host.kill()
    os.kill(job, signal.SIGKILL)
    other = bystander({})
    rewrite_pid(host, other)
    host.start()

    successor = host.supervise()

    assert is_alive(other)
    assert successor.snapshot[key].outcome is Outcome.UNKNOWN


def test_after_another_boot_there_is_nothing_to_kill_and_attempts_were_interrupted(
    host, supervisor, tmp_path
):
    key = supervisor.launch("sh", "-c", f"echo $$ > {tmp_path}/pid; exec sleep 100")
    pid = int(written(tmp_path / "pid"))
    host.kill()
    rewrite_boot(host)
    host.start()

    successor = host.supervise()

    assert successor.snapshot[key].outcome is Outcome.INTERRUPTED
    assert successor.welcome.covers == []
    assert is_alive(pid)
    os.kill(pid, signal.SIGKILL)


def test_a_kill_in_the_middle_of_a_record_loses_only_that_record(host, supervisor):
    key = supervisor.launch("sh", "-c", "exit 5")
    while not isinstance(end := supervisor.hear(), AttemptEnded):
        pass
    host.kill()
    with host.journal.open("ab") as journal:
        journal.write(b"\0\0\0\x50half a record")
    host.start()

    successor = host.supervise()

    assert successor.snapshot == {key: end}
    assert successor.welcome.covers == []


def test_an_attempt_that_a_damaged_length_hides_is_ended_and_not_taken_for_one_never_started(
    host, supervisor
):
    size = host.journal.stat().st_size
    key = supervisor.launch("sleep", "100")
    pid = supervisor.started(key).pid
    host.kill()
    with host.journal.open("r+b") as journal:
        journal.seek(size + 1)
        journal.write(b"\x01")  # the length of its first record: 64 KiB more
    host.start()

    successor = host.supervise()

    assert successor.snapshot == {}
    assert successor.welcome.covers == []
    assert not is_alive(pid)


# --- R6: one launcher -----------------------------------------------------------------------------------


def test_a_second_launcher_is_refused_and_names_the_holder_of_the_lock(host, supervisor):
    second = host.start()

    assert second.wait(PATIENCE) == 75
    assert f"process {host.launchers[0].pid} holds {host.state / 'launcher.lock'}" in host.said
    assert supervisor.run("true").outcome is Outcome.SUCCEEDED


def test_a_launcher_in_a_copy_of_a_folder_in_use_is_refused_and_ends_no_job(host, supervisor, tmp_path):
    pid = supervisor.started(supervisor.launch("sleep", "100")).pid
    copy = Host(tmp_path / "copy")
    copy.state.mkdir()
    shutil.copy2(host.journal, copy.journal)

    second = copy.start()

    assert second.wait(PATIENCE) == 75
    assert f"process {host.launchers[0].pid}, the launcher that wrote the journal" in copy.said
    assert is_alive(pid)


def test_a_launcher_whose_lock_was_deleted_keeps_others_from_its_jobs_until_it_has_ended(host, supervisor):
    pid = supervisor.started(supervisor.launch("sleep", "100")).pid
    (host.state / "launcher.lock").unlink()

    assert host.start().wait(PATIENCE) == 75
    assert is_alive(pid)

    host.launchers[0].kill()
    host.start()  # its end need not be quite over
    host.supervise()
    assert not is_alive(pid)


def start_after_connect(host, *options, **how):
    """Start a launcher with lock and socket given; return a supervisor that connected before it."""
    path = host.state / "launcher.sock"
    lock = os.open(host.state / "launcher.lock", os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()
    early = host.connect()
    handed = (lock, listener.fileno())
    early.say(Greeting(LAUNCHING_PROTOCOL, STORE, 1))
    host.start(
        "--lock-fd", str(lock), "--listen-fd", str(listener.fileno()), *options, pass_fds=handed, **how
    )
    listener.close()
    os.close(lock)
    return early


def test_lock_and_socket_may_be_given_by_the_parent(host):
    early = start_after_connect(host)

    early.be_welcomed()

    assert early.run("sh", "-c", "ls /proc/self/fd | wc -l").outcome is Outcome.SUCCEEDED
    assert host.start().wait(PATIENCE) == 75  # it holds the lock as long as it lives


def test_a_waiting_supervisor_keeps_it_from_exiting(host):
    early = start_after_connect(host, "--idle", str(slow_search.SECONDS / 2), module=slow_search.__name__)

    early.be_welcomed()

    assert early.run("true").outcome is Outcome.SUCCEEDED
    assert "Traceback" not in host.said


def test_it_exits_after_a_goodbye_and_leaves_socket_and_lock_in_place(host, supervisor):
    supervisor.say(Goodbye())

    assert host.launchers[-1].wait(PATIENCE) == 0
    assert supervisor.hear() is None
    assert (host.state / "launcher.sock").exists()
    assert (host.state / "launcher.lock").exists()


def test_after_a_goodbye_it_stays_until_the_last_job_has_ended(host, supervisor, tmp_path):
    go = tmp_path / "go"
    os.mkfifo(go)
    key = supervisor.launch("sh", "-c", f"read x < {go}; exit 6")
    supervisor.started(key)
    supervisor.say(Goodbye())
    supervisor.close()
    assert host.supervise(2).snapshot[key].pid is not None  # so it still ran, and a greeting keeps it
    next_one = host.supervise(3)
    next_one.say(Goodbye())
    next_one.close()

    go.write_text("\n")

    assert host.launchers[-1].wait(PATIENCE) == 0
    host.start()
    assert host.supervise(4).snapshot[key].exit_code == 6


def test_without_a_supervisor_and_jobs_it_exits_after_the_idle_time(host):
    launcher = host.start("--idle", "0.2")

    assert launcher.wait(PATIENCE) == 0


def test_with_a_job_it_does_not_exit_whatever_the_idle_time(host, tmp_path):
    go = tmp_path / "go"
    os.mkfifo(go)
    supervisor = start_after_connect(host, "--idle", "0.01")  # else it may exit before one connects
    supervisor.be_welcomed()
    key = supervisor.launch("sh", "-c", f"read x < {go}; exit 7")
    supervisor.started(key)
    supervisor.close()

    go.write_text("\n")

    assert host.launchers[-1].wait(PATIENCE) == 0
    host.start()
    assert host.supervise().snapshot[key].exit_code == 7


def test_a_supervisor_not_yet_welcomed_is_disconnected_when_it_exits(host, supervisor):
    waiting = host.connect()

    supervisor.say(Goodbye())

    assert waiting.hear() is None


@pytest.mark.usefixtures("supervisor")
def test_it_can_be_started_again_at_once_after_a_crash(host):
    host.kill()
    host.start()

    assert host.supervise().run("true").outcome is Outcome.SUCCEEDED


def test_a_launcher_that_cannot_write_its_journal_reports_it_in_one_line(host):
    (host.state / "launcher.new").mkdir()  # in place of the file that becomes the journal

    assert host.start().wait(PATIENCE) == 1

    [line] = host.said.splitlines()
    assert "error: launcher: cannot work in" in line


# --- R7: skew -------------------------------------------------------------------------------------------


def test_it_needs_none_of_its_files_once_it_runs(host, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(SOURCE / "bgd", copy / "bgd")
    host.start(source=copy)
    supervisor = host.supervise()

    shutil.rmtree(copy)

    assert supervisor.run("no-such-program").problem.startswith("program not found")
    assert supervisor.shell("cat; echo x > /dev/fd/$BGD_RESULT_FD", stdin=b"in", result=True).result == b"x\n"
    assert supervisor.run("sleep", "100", timeout=0.1, grace=0.1).outcome is Outcome.TIMEOUT
    assert supervisor.shell("sleep 100 & setsid sleep 100 &", grace=0.1).outcome is Outcome.SUCCEEDED
    supervisor.close()
    assert host.supervise(2).run("true").outcome is Outcome.SUCCEEDED


@pytest.mark.usefixtures("supervisor")
def test_fields_of_a_younger_supervisor_are_ignored(host):
    payload = b"\x85\xa4type\xa8greeting\xa8protocol\x01\xa5store\xa5store\xaageneration\x09\xa5novel\xc3"
    younger = host.connect()

    younger.socket.sendall(len(payload).to_bytes(4, "big") + payload)

    assert younger.hear().pid == host.launchers[-1].pid


# --- R8: deadlines and the stop ladder live here --------------------------------------------------------


def test_a_time_limit_holds_while_there_is_no_supervisor(host, supervisor):
    key = supervisor.launch("sleep", "100", timeout=0.3, grace=5.0)
    pid = supervisor.started(key).pid
    supervisor.close()
    wait_until(lambda: not is_alive(pid))

    next_one = host.supervise(2)

    end = next_one.snapshot[key]
    end = end if isinstance(end, AttemptEnded) else next_one.ended(key)
    assert (end.outcome, end.signal) == (Outcome.TIMEOUT, signal.SIGTERM)


def test_the_next_supervisor_may_repeat_a_stop_with_less_grace(host, supervisor, tmp_path):
    key = supervisor.launch("sh", "-c", f"trap '' TERM; echo > {tmp_path}/ready; while :; do sleep 1; done")
    written(tmp_path / "ready")
    supervisor.say(StopProcesses(key, 1000.0))
    supervisor.close()
    next_one = host.supervise(2)
    assert isinstance(next_one.snapshot[key], AttemptStarted)

    next_one.say(StopProcesses(key, 0.0))

    end = next_one.ended(key)
    assert (end.outcome, end.signal) == (Outcome.CANCELLED, signal.SIGKILL)


def test_sigterm_interrupts_all_attempts_and_keeps_their_ends(host, supervisor, tmp_path):
    polite = supervisor.launch(
        "sh", "-c", f"trap 'exit 9' TERM; echo > {tmp_path}/ready; while :; do sleep 0.05; done"
    )
    written(tmp_path / "ready")
    stubborn = supervisor.launch(
        "sh", "-c", f"trap '' TERM; echo > {tmp_path}/also; while :; do sleep 1; done", grace=0.3
    )
    written(tmp_path / "also")

    host.launchers[-1].terminate()

    assert host.launchers[-1].wait(PATIENCE) == 0
    host.start()
    ends = host.supervise().snapshot
    assert (ends[polite].outcome, ends[polite].exit_code) == (Outcome.INTERRUPTED, 9)
    assert (ends[stubborn].outcome, ends[stubborn].signal) == (Outcome.INTERRUPTED, signal.SIGKILL)


def test_after_sigterm_it_starts_nothing_and_the_next_launcher_gets_it(host, supervisor, tmp_path):
    script = f"trap 'echo > {tmp_path}/told' TERM; echo > {tmp_path}/here; while :; do sleep 0.05; done"
    stubborn = supervisor.launch("sh", "-c", script, grace=PATIENCE)
    written(tmp_path / "here")
    host.launchers[-1].terminate()
    written(tmp_path / "told")

    late, unwanted = supervisor.launch("true"), supervisor.launch("true")
    supervisor.say(StopProcesses(unwanted, 0.0))

    assert supervisor.ended(unwanted).outcome is Outcome.CANCELLED
    supervisor.say(StopProcesses(stubborn, 0.0))
    assert host.launchers[-1].wait(PATIENCE) == 0
    host.start()
    successor = host.supervise()
    assert successor.snapshot[stubborn].outcome is Outcome.INTERRUPTED
    assert late not in successor.snapshot
    assert supervisor.welcome.instance in successor.welcome.covers


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGHUP])
def test_it_ignores_signals_of_the_terminal(host, supervisor, signum):
    host.launchers[-1].send_signal(signum)

    assert supervisor.shell(f"kill -{signum} $$").signal == signum  # and jobs do not inherit that


@pytest.fixture
def bystander() -> Iterator[Callable[[dict[str, str]], int]]:
    """Start a process without a launcher, with this environment; return its pid."""
    others = []

    def start(env: dict[str, str]) -> int:
        others.append(subprocess.Popen(["sleep", "100"], start_new_session=True, env={**ENV, **env}))
        return others[-1].pid

    yield start
    for other in others:
        other.kill()
        other.wait()


# --- what the tests above write into a journal ----------------------------------------------------------


def wait_until_noted(host: Host, key: AttemptKey) -> None:
    """Wait until the journal names the attempt's first process."""
    wait_until(lambda: read(host.journal).attempts[key].first_process is not None)


def rewrite_pid(host: Host, pid: int) -> None:
    """Write this process, with another start time, into a dead launcher's journal as its jobs' first."""
    left = read(host.journal)
    assert left.instance is not None
    for key, trace in left.attempts.items():
        assert trace.first_process is not None
        trace.first_process = FirstProcess(key, pid, trace.first_process.ticks - 100)
    Journal(host.journal, left.instance.id, left).close()


def rewrite_boot(host: Host) -> None:
    """Change the boot id in a dead launcher's journal."""
    Journal(host.journal, "another-boot:1", read(host.journal)).close()
