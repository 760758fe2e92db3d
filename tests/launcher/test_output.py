"""The output of a job in its log: in order, complete up to the cap, and with its times."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import signal
import struct
import subprocess
import sys
import time
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import pytest

from bgd.core.job import Outcome
from bgd.launcher.children import Readers
from bgd.launcher.log_file import LogFile, LogFolder
from bgd.launcher.output import AttemptOutput
from bgd.wire.launching import Acknowledge, AttemptEnded, AttemptKey, Launch, LogGrew, StopProcesses, WatchLog
from tests.launcher.host import STORE, is_alive, launch_of, needs_root, needs_strace, written
from tests.support import wait_until


def pieces(log):
    """Return the bytes of each piece by its offset."""
    found = {0: log.read_bytes()}
    for path in log.parent.glob(log.name + ".*"):
        offset = path.name.removeprefix(log.name + ".")
        if offset.isdecimal():
            found[int(offset)] = path.read_bytes()
    return found


def times(path):
    return list(struct.iter_unpack(">QQ", path.read_bytes()))


def numbers(count):
    """Return a command that writes this many bytes, different at each place, and those bytes."""
    code = f"import sys; sys.stdout.write(''.join(map('{{:08d}}'.format, range({count // 8}))))"
    return [sys.executable, "-c", code], b"".join(b"%08d" % number for number in range(count // 8))


# --- order and wholeness --------------------------------------------------------------------------------


def test_stdout_and_stderr_are_kept_in_the_order_they_were_written(host, supervisor):
    key = supervisor.launch("sh", "-c", "for i in 1 2 3 4 5; do echo out $i; echo err $i >&2; done")

    supervisor.ended(key)

    expected = "".join(f"out {number}\nerr {number}\n" for number in range(1, 6))
    assert host.log(key).read_text() == expected


@needs_strace
@pytest.mark.parametrize("terminal", [False, True], ids=["pipe", "terminal"])
def test_output_is_copied_where_splice_does_not_work(host, supervisor, tamper, terminal):
    argv, wanted = numbers(300_000)
    tamper("splice", "error=EINVAL")

    key = supervisor.launch(*argv, pty=terminal)

    end = supervisor.ended(key)
    assert (end.outcome, end.problem, end.log_bytes) == (Outcome.SUCCEEDED, None, len(wanted))
    assert host.output(key) == wanted


def test_writing_to_dev_stderr_truncates_nothing(host, supervisor):
    """It opens its stderr again; if that were the log file, the line before would be lost."""
    key = supervisor.launch("sh", "-c", "echo first; echo second > /dev/stderr; echo third > /dev/stdout")

    supervisor.ended(key)

    assert host.log(key).read_text() == "first\nsecond\nthird\n"


def test_a_flood_is_kept_to_the_last_byte(host, supervisor):
    argv, expected = numbers(30_000_000)
    key = supervisor.launch(*argv)

    end = supervisor.ended(key)

    assert end.log_bytes == len(expected)
    assert host.output(key) == expected


def test_a_job_that_made_its_pipe_larger_keeps_it_so(host, supervisor):
    """A full pipe is made larger, which fails if it holds more than would fit."""
    size = 1 << 20
    code = (
        f"import fcntl, os; fcntl.fcntl(1, fcntl.F_SETPIPE_SZ, {size});"
        f"os.write(1, b'x' * {size}); os.write(1, b'y' * {size})"
    )
    key = supervisor.launch(sys.executable, "-c", code)

    assert supervisor.ended(key).outcome is Outcome.SUCCEEDED
    assert host.log(key).read_bytes() == b"x" * size + b"y" * size


def test_a_job_s_last_output_is_in_the_log_when_its_end_is_reported(host, supervisor):
    for size in (1, 65_536, 65_537, 200_000):
        key = supervisor.launch(sys.executable, "-c", f"import os; os.write(1, b'x' * {size})")
        assert supervisor.ended(key).log_bytes == size
        assert host.log(key).stat().st_size == size


def test_python_jobs_are_not_buffered(host, supervisor, tmp_path):
    go = tmp_path / "go"
    os.mkfifo(go)
    key = supervisor.launch(sys.executable, "-c", f"print('hello'); open('{go}').read()")

    assert written(host.log(key)) == "hello\n"

    go.write_text("")
    supervisor.ended(key)


def test_a_silent_job_has_no_file(host, supervisor):
    key = supervisor.launch("true")

    assert supervisor.ended(key).log_bytes == 0
    assert not host.log(key).exists()


def test_a_silent_job_removes_the_log_of_another_history(host, supervisor):
    key = supervisor.launch("true")
    host.log(key).parent.mkdir(parents=True, exist_ok=True)
    supervisor.ended(key)
    host.log(key).write_text("of a database that was lost")
    host.log(key).with_name(host.log(key).name + ".7.times").write_bytes(b"x" * 16)

    supervisor.say(Acknowledge(key), Launch(key=key, argv=["true"], env={}, cwd="/"))

    supervisor.ended(key)
    assert not host.log(key).exists()


def test_logs_are_private(host, supervisor):
    key = supervisor.launch("sh", "-c", "echo x", umask=0)

    supervisor.ended(key)

    for path, mode in [(host.logs, 0o700), (host.log(key).parent, 0o700), (host.log(key), 0o600)]:
        assert path.stat().st_mode & 0o777 == mode
    assert host.log(key).with_name(host.log(key).name + ".times").stat().st_mode & 0o777 == 0o600


def test_the_log_of_another_history_is_replaced(host, supervisor):
    key = AttemptKey(STORE, 900_000_000, 1)
    old = host.log(key)
    old.parent.mkdir(parents=True)
    for name in ("", ".times", ".500", ".500.times"):
        old.with_name(old.name + name).write_text("of another database\n")
    supervisor.say(Launch(key=key, argv=["echo", "new"], env={"PATH": "/usr/bin:/bin"}, cwd="/"))

    supervisor.ended(key)

    assert pieces(old) == {0: b"new\n"}
    assert times(old.with_name(old.name + ".times"))[0][0] == 0


# --- the cap --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [80_000, 99_992, 100_000])
def test_output_up_to_the_cap_is_kept_whole(host, supervisor, size):
    argv, expected = numbers(size)
    key = supervisor.launch(*argv, log_cap=100_000)

    supervisor.ended(key)

    assert b"".join(data for _, data in sorted(pieces(host.log(key)).items())) == expected


@pytest.mark.parametrize("size", [100_008, 123_456, 150_000, 1_000_000, 5_000_000])
def test_over_the_cap_head_and_tail_are_kept_and_no_more_than_the_cap(host, supervisor, size):
    argv, expected = numbers(size)
    key = supervisor.launch(*argv, log_cap=100_000)

    end = supervisor.ended(key)

    kept = pieces(host.log(key))
    assert end.log_bytes == size
    assert sum(map(len, kept.values())) <= 100_000
    assert all(expected[offset:].startswith(data) for offset, data in kept.items())
    assert len(kept[0]) == 50_000
    *_, (last, tail) = sorted(kept.items())
    assert last + len(tail) == size
    assert sum(map(len, kept.values())) > 75_000


def test_while_it_writes_the_pieces_never_exceed_the_cap(host, supervisor):
    key = supervisor.launch("yes", log_cap=1_000_000)
    supervisor.started(key)
    log = host.log(key)
    seen = []

    def has_been_watched():
        with suppress(FileNotFoundError):  # a segment was removed for the next
            seen.append(sum(path.stat().st_size for path in log.parent.iterdir() if path.suffix != ".times"))
        return len(seen) > 50

    wait_until(has_been_watched)
    supervisor.say(StopProcesses(key, 0.0))
    supervisor.ended(key)
    assert max(seen) <= 1_000_000


def test_at_the_cap_a_job_is_killed_if_that_was_asked_for(host, supervisor):
    key = supervisor.launch("yes", log_cap=100_000, log_kill=True)

    end = supervisor.ended(key)

    assert (end.outcome, end.signal) == (Outcome.LOG_LIMIT, signal.SIGKILL)
    assert pieces(host.log(key)) == {0: b"y\n" * 50_000}
    assert end.log_bytes > 100_000


def test_exactly_the_cap_is_not_over_it(host, supervisor):
    argv, expected = numbers(100_000)
    key = supervisor.launch(*argv, log_cap=100_000, log_kill=True)

    assert supervisor.ended(key).outcome is Outcome.SUCCEEDED
    assert pieces(host.log(key)) == {0: expected}


@pytest.mark.parametrize("cap", [0, 1, 3, 4, 7])
def test_the_smallest_caps_are_kept_too(host, supervisor, cap):
    key = supervisor.launch("sh", "-c", "printf 0123456789", log_cap=cap)

    end = supervisor.ended(key)

    assert end.log_bytes == 10
    assert (
        sum(
            path.stat().st_size for path in host.logs.rglob("*") if path.is_file() and path.suffix != ".times"
        )
        <= cap
    )


# --- when the log cannot be written ---------------------------------------------------------------------


def test_a_log_that_cannot_be_opened_hurts_no_job_and_the_end_reports_it(host, supervisor):
    host.logs.write_text("a file where the folder should be")

    end = supervisor.shell("yes | head -c 500000; exit 3")

    assert (end.outcome, end.exit_code, end.log_bytes) == (Outcome.EXIT, 3, 500_000)
    assert "Not a directory" in end.problem


@pytest.mark.parametrize("name", ["log", "log.times"])
@pytest.mark.parametrize("reads", [False, True])
def test_a_fifo_in_the_place_of_its_log_is_not_written_to(host, supervisor, name, reads, tmp_path):
    """A FIFO without a reader would block the launcher, and all jobs with it."""
    key = supervisor.launch("sh", "-c", f"until test -e {tmp_path}/go; do sleep 0.01; done; echo x; exit 3")
    supervisor.started(key)  # the file there before was removed
    host.log(key).parent.mkdir(parents=True)
    fifo = host.log(key).with_suffix(f".{name}")
    os.mkfifo(fifo)
    reading = os.open(fifo, os.O_RDWR) if reads else None
    (tmp_path / "go").touch()

    end = supervisor.ended(key)

    assert (end.outcome, end.exit_code, end.log_bytes) == (Outcome.EXIT, 3, 2)
    if name == "log":
        assert "output is missing from the log" in end.problem
    else:
        assert host.output(key) == b"x\n"
    if reading is not None:
        os.close(reading)


@needs_root
def test_a_full_disk_hurts_the_log_and_not_the_job(host, supervisor):
    host.logs.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", host.logs], check=True)
    try:
        key = supervisor.launch("sh", "-c", "yes | head -c 1000000; exit 3")
        end = supervisor.ended(key)

        assert (end.outcome, end.exit_code, end.log_bytes) == (Outcome.EXIT, 3, 1_000_000)
        assert "No space left on device" in end.problem
        assert host.output(key).startswith(b"y\ny\n")
    finally:
        subprocess.run(["umount", "-l", host.logs], check=True)


def test_logs_go_to_the_folder_that_was_moved_away_and_not_to_another_in_its_place(
    host, supervisor, tmp_path
):
    """It belongs to another bgd, whose jobs may have the same numbers."""
    go = tmp_path / "go"
    os.mkfifo(go)
    supervisor.ended(supervisor.launch("echo", "first"))
    script = f"echo before; read x < {go}; head -c 2000 /dev/zero"
    running = supervisor.launch("sh", "-c", script, log_cap=1000)
    later = launch_of("echo", "later")
    wait_until(lambda: host.output(running) == b"before\n")
    moved = host.logs.rename(tmp_path / "moved")
    other = host.log(later.key)
    other.parent.mkdir(parents=True)
    other.write_text("of another bgd")

    go.write_text("\n")
    assert supervisor.ended(running).log_bytes == 2007
    supervisor.say(later)
    assert supervisor.ended(later.key).problem is None

    assert other.read_text() == "of another bgd"
    assert list(host.logs.rglob("*.log*")) == [other]
    assert (moved / other.relative_to(host.logs)).read_text() == "later\n"
    assert len(list(moved.rglob(f"{host.log(running).name}.*"))) > 1


def test_what_a_job_writes_after_its_log_was_removed_is_kept_in_a_new_folder(host, supervisor, tmp_path):
    go = tmp_path / "go"
    os.mkfifo(go)
    key = supervisor.launch("sh", "-c", f"echo before; read x < {go}; echo after; exit 3")
    supervisor.started(key)
    wait_until(lambda: host.output(key) == b"before\n")
    shutil.rmtree(host.logs)
    go.write_text("\n")

    end = supervisor.ended(key)

    assert (end.outcome, end.exit_code, end.log_bytes, end.log_lost) == (Outcome.EXIT, 3, 13, 7)
    assert "it was removed while the job ran" in end.log_problem
    assert host.log(key).with_name(host.log(key).name + ".7").read_bytes() == b"after\n"


def test_a_log_that_is_removed_before_the_job_ends_is_reported_lost(host, supervisor, tmp_path):
    go = tmp_path / "go"
    os.mkfifo(go)
    key = supervisor.launch("sh", "-c", f"echo word; read x < {go}")
    supervisor.started(key)
    wait_until(lambda: host.output(key) == b"word\n")
    shutil.rmtree(host.logs)
    go.write_text("\n")

    end = supervisor.ended(key)

    assert (end.outcome, end.log_bytes, end.log_lost) == (Outcome.SUCCEEDED, 5, 5)
    assert "it was removed while the job ran" in end.log_problem


def test_lost_output_of_a_running_job_is_reported_without_a_watch(host, supervisor, tmp_path):
    host.logs.write_text("a file where the folder should be")
    go = tmp_path / "go"
    os.mkfifo(go)
    key = supervisor.launch("sh", "-c", f"echo word; read x < {go}")
    supervisor.started(key)

    grew = supervisor.hear()

    assert grew == LogGrew(key, 5, f"output is missing from the log: {host.log(key)}: Not a directory")
    go.write_text("\n")
    assert supervisor.ended(key).log_lost == 5


# --- times ----------------------------------------------------------------------------------------------


def test_each_byte_has_the_time_it_came(host, supervisor):
    before = time.time()
    key = supervisor.launch("sh", "-c", "echo a; sleep 0.05; echo b; sleep 0.05; echo c")
    supervisor.ended(key)
    after = time.time()

    found = times(host.log(key).with_name(host.log(key).name + ".times"))

    assert [offset for offset, _ in found] == [0, 2, 4]
    assert before <= found[0][1] / 1e6
    assert found[0][1] / 1e6 + 0.05 <= found[1][1] / 1e6 + 0.02
    assert found[2][1] / 1e6 <= after


def test_a_flood_is_timed_at_most_every_ten_milliseconds(host, supervisor):
    key = supervisor.launch("sh", "-c", "yes | head -c 50000000")
    end = supervisor.ended(key)

    found = times(host.log(key).with_name(host.log(key).name + ".times"))

    assert len(found) <= (end.finished_at - end.started_at) * 100 + 2
    assert all(later[1] - earlier[1] >= 10_000 for earlier, later in pairwise(found))


def test_each_piece_of_a_capped_log_has_its_own_times(host, supervisor):
    argv, _ = numbers(1_000_000)
    key = supervisor.launch(*argv, log_cap=100_000)
    supervisor.ended(key)

    for offset in pieces(host.log(key)):
        name = host.log(key).name + (f".{offset}" if offset else "")
        assert times(host.log(key).with_name(name + ".times"))[0][0] == offset
    assert len(list(host.log(key).parent.iterdir())) == 6


# --- following ------------------------------------------------------------------------------------------


def test_growth_is_reported_only_to_a_supervisor_that_watches(host, supervisor, tmp_path):
    go, end = tmp_path / "go", tmp_path / "end"
    os.mkfifo(go)
    os.mkfifo(end)  # the writer of the first might not have closed it when the job opens it again
    key = supervisor.launch("sh", "-c", f"printf one; read x < {go}; printf two; read x < {end}")
    supervisor.started(key)
    wait_until(lambda: host.output(key) == b"one")

    supervisor.say(WatchLog(key))
    assert supervisor.hear() == LogGrew(key, 3)
    go.write_text("\n")
    assert supervisor.hear() == LogGrew(key, 6)
    supervisor.say(WatchLog(key, on=False))
    assert supervisor.run("true").log_bytes == 0  # so the launcher has handled that
    end.write_text("\n")

    assert isinstance(supervisor.hear(), AttemptEnded)


def test_a_supervisor_that_does_not_read_is_not_sent_every_growth(supervisor):
    key = supervisor.launch("sh", "-c", "yes | head -c 300000000", log_cap=1_000_000)
    pid = supervisor.started(key).pid
    supervisor.say(WatchLog(key))
    wait_until(lambda: not is_alive(pid))

    growths = []
    while not isinstance(message := supervisor.hear(), AttemptEnded):
        growths.append(message.log_bytes)

    assert message.log_bytes == 300_000_000
    assert growths == sorted(growths)
    assert len(growths) < 3_000  # what the socket holds; the flood came in more pieces


def test_the_watches_of_an_earlier_supervisor_are_forgotten(host, supervisor, tmp_path):
    go = tmp_path / "go"
    os.mkfifo(go)
    key = supervisor.launch("sh", "-c", f"read x < {go}; echo hello")
    supervisor.say(WatchLog(key))
    supervisor.started(key)
    younger = host.supervise(2)

    go.write_text("\n")

    assert isinstance(younger.hear(), AttemptEnded)


# --- a log that a launcher has left ---------------------------------------------------------------------


def write_log(path, data, cap, *, keeps_tail=True, **options):
    """Write data to a log in one go, as one launcher; return the log."""
    reader, writer = os.pipe()
    with Path(os.devnull).open("r+b", buffering=0) as null:
        log = LogFile(
            str(path),
            cap,
            keeps_tail=keeps_tail,
            null=null.fileno(),
            folder=LogFolder(str(path.parent)),
            **options,
        )
        os.write(writer, data)
        os.close(writer)
        while log.take(reader, 1000):
            pass
        os.close(reader)
        log.close()
    return log


@pytest.mark.parametrize("cap", [100, 1000, 10_000])
@pytest.mark.parametrize("first", [0, 1, 49, 50, 51, 400, 999, 4000])
def test_the_next_launcher_goes_on_with_a_log(tmp_path, cap, first):
    data, path = b"".join(b"%07d\n" % number for number in range(1000)), tmp_path / "1.1.log"
    write_log(path, data[:first], cap)

    log = write_log(path, data[first:], cap, continues=True)

    assert (log.total, log.problem, log.lost) == (len(data), None, 0)
    kept = pieces(path) if path.exists() else {}
    assert all(data[offset : offset + len(piece)] == piece for offset, piece in kept.items())
    assert max(offset + len(piece) for offset, piece in kept.items()) == len(data)
    assert sum(map(len, kept.values())) <= cap
    if cap >= 2 * len(data):
        assert path.read_bytes() == data
        stamps = times(path.with_name(path.name + ".times"))
        assert [offset for offset, _ in stamps] == sorted({offset for offset, _ in stamps})


def test_a_log_without_a_tail_that_was_full_stays_so(tmp_path):
    path = tmp_path / "1.1.log"
    write_log(path, b"x" * 100, 100, keeps_tail=False)

    log = write_log(path, b"more", 100, keeps_tail=False, continues=True)

    assert log.is_over_cap
    assert path.read_bytes() == b"x" * 100


def test_what_took_the_place_of_a_log_is_not_written_to(tmp_path):
    path = tmp_path / "1.1.log"
    os.mkfifo(path)

    log = write_log(path, b"more", 100, continues=True)

    assert "output is missing from the log" in log.problem


def test_output_that_finds_no_descriptor_for_its_times_is_in_the_log(tmp_path, monkeypatch):
    path, refusals = tmp_path / "1.1.log", [errno.EMFILE, errno.ENFILE]
    really_open = os.open

    def open_unless_refused(name, *options):
        if name.endswith(".times") and refusals:
            raise OSError(refusals.pop(), "too many open files")
        return really_open(name, *options)

    monkeypatch.setattr(os, "open", open_unless_refused)

    log = write_log(path, b"x" * 3000, 10_000)

    assert (log.total, log.problem, log.lost) == (3000, None, 0)
    assert path.read_bytes() == b"x" * 3000
    assert [offset for offset, _ in times(path.with_name(path.name + ".times"))] == [2000]


def test_text_that_fills_several_pieces_is_in_the_log_at_once(tmp_path):
    async def put(text, log):
        output = AttemptOutput(log, Readers(asyncio.get_running_loop()), with_terminal=False)
        output.put(text)
        output.close()

    text = bytes(range(90))

    with Path(os.devnull).open("r+b", buffering=0) as null:
        folder = LogFolder(str(tmp_path))
        log = LogFile(str(tmp_path / "log"), 100, keeps_tail=True, null=null.fileno(), folder=folder)
        asyncio.run(put(text, log))

    assert log.total == len(text)
    assert b"".join(data for _, data in sorted(pieces(tmp_path / "log").items())) == text
