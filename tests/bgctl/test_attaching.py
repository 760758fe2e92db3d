"""bgctl attach, send and run -it: a keyboard for a job, on real terminals."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import termios

import pexpect  # type: ignore[import-untyped]  # it has no types
import pytest

from bgctl.attaching import attach
from bgctl.session import Modes
from bgd import Client
from tests.support import DEADLINE, seen, wait_until

pytestmark = pytest.mark.daemon('[daemon]\nslots = 20\n[logs]\nmax_bytes = "64KB"')

DETACH = "\x10\x11"
PYTHON = (sys.executable, "-I", "-q", "-i")


def start(daemon, *argv):
    """Start a job with a terminal; return its id once it runs."""
    job_id = daemon.submit("--pty", "--", *argv)
    with daemon.client() as client:
        job = client.job(int(job_id))
        wait_until(lambda: any(attempt.pid for attempt in job.attempts()))
    return job_id


def started_with(child):
    """Return the id of the job to which bgctl has attached the terminal."""
    child.expect(r"attached to job (\d+): Ctrl-P Ctrl-Q detaches")
    return child.match[1]


def test_run_it_is_a_terminal_for_the_command_and_ends_with_its_code(terminal):
    child = terminal("run", "-it", "--", *PYTHON, width=97)
    started_with(child)
    child.expect_exact(">>> ")
    child.sendline("import os; print(6 * 7, os.get_terminal_size())")

    child.expect_exact("42 os.terminal_size(columns=97, lines=24)")
    child.setwinsize(30, 99)
    child.sendline("while os.get_terminal_size().lines == 24: pass\n")  # it hears of that by a signal
    child.sendline("print(os.get_terminal_size())")
    child.expect_exact("os.terminal_size(columns=99, lines=30)")
    child.sendcontrol("c")
    child.expect_exact("KeyboardInterrupt")
    child.sendline("exit(3)")
    assert "failed (exit code 3)" in seen(child)
    assert child.exitstatus == 3


def test_a_command_that_is_over_at_once_shows_its_output_and_its_end(terminal):
    child = terminal("run", "-it", "--", "sh", "-c", "echo short; exit 6")

    text = seen(child)
    assert "short" in text
    assert text.endswith("failed (exit code 6)\r\n")
    assert child.exitstatus == 6


def test_keys_detach_and_attach_comes_back_to_what_was_there(daemon, terminal):
    child = terminal("run", "-it", "--", *PYTHON)
    job_id = started_with(child)
    child.sendline("print('be' 'fore')")
    child.expect_exact("before")
    child.send(DETACH)
    assert f"job {job_id} keeps running: `bgctl attach {job_id}` comes back" in seen(child)
    assert child.exitstatus == 130

    again = terminal("attach", job_id)
    again.expect_exact("before")
    again.sendline("print('af' 'ter')")
    again.expect_exact("after")
    again.send(DETACH[0])
    again.send(DETACH[1])
    assert "keeps running" in seen(again)
    assert again.exitstatus == 0
    assert daemon.shown(job_id)["state"] == "running"

    last = terminal("attach", job_id)
    started_with(last)
    last.sendline("exit()")
    seen(last)
    assert last.exitstatus == 0


def test_the_first_of_the_keys_alone_goes_to_the_job_with_the_next_one(daemon, terminal):
    script = "import sys, tty; tty.setraw(0); print('go'); print(sys.stdin.buffer.read(3)); sys.stdin.read(1)"
    child = terminal("run", "-it", "--", sys.executable, "-c", script)
    child.expect_exact("go")

    child.send("\x10\x10")
    child.send("x")

    child.expect_exact(r"b'\x10\x10x'")
    child.send(DETACH)
    seen(child)
    daemon.bgctl("cancel", "last")


def test_a_full_screen_program_draws_itself_again_and_the_terminal_is_reset(daemon, terminal):
    (daemon.folder / "long").write_text("".join(f"line {number}\n" for number in range(500)))
    child = terminal("run", "-it", "--", "less", "long")
    job_id = started_with(child)
    child.expect_exact("line 22")
    child.send(DETACH)
    assert "\x1b[?1049l" in seen(child)  # back from the other screen of the terminal

    other = terminal("attach", job_id, width=60)
    started_with(other)
    other.expect_exact("line 22")
    other.send("G")
    other.expect_exact("line 499")
    other.send("q")
    seen(other)
    assert other.exitstatus == 0


def test_one_types_the_other_watches_and_takes_over(daemon, terminal):
    job_id = start(daemon, *PYTHON)
    first = terminal("attach", job_id)
    started_with(first)
    first.sendline("print('fi' 'rst')")
    first.expect_exact("first")
    second = terminal("attach", job_id)
    second.expect_exact("the keyboard is taken: you watch, and get it when the other terminal detaches")

    second.send("x")
    second.expect_exact("\a")
    first.sendline("print('sha' 'red')")
    second.expect_exact("shared")
    first.send(DETACH)
    second.expect_exact("you have the keyboard now")
    second.sendline("exit(4)")
    seen(second)
    assert second.exitstatus == 4
    seen(first)
    assert first.exitstatus == 0


def test_a_log_at_its_limit_does_not_stop_the_view(terminal):
    child = terminal("run", "-it", "--", *PYTHON)
    started_with(child)
    for word in ("one", "two", "three"):
        child.sendline(f"print('x' * 100_000 + '{word}' + '-end')")
        child.expect_exact(f"{word}-end")
    child.sendline("exit()")
    seen(child)
    assert child.exitstatus == 0


def test_the_keyboard_works_while_the_daemon_is_dead_and_the_output_comes_later(own_daemon, terminal):
    home = {"HOME": str(own_daemon.folder)}
    child = terminal("run", "-it", "--", *PYTHON, **home)
    started_with(child)
    child.sendline("print('key' 'board')")
    child.expect_exact("keyboard")
    own_daemon.process.kill()
    own_daemon.process.wait(DEADLINE)
    child.expect_exact("the daemon is gone: what you type still reaches the job")

    alive = own_daemon.folder / "alive"
    child.sendline(f"print(open({str(alive)!r}, 'w').write('x' * 4321), 'written')")
    wait_until(alive.exists)
    own_daemon.start()
    child.expect_exact("4321 written")
    child.sendline("exit(5)")
    seen(child)
    assert child.exitstatus == 5


def test_a_retry_gets_the_keyboard_again(terminal):
    script = 'echo attempt $BGD_ATTEMPT; read code; exit "$code"'
    child = terminal("run", "-it", "--retries", "1", "--retry-delay", "0.1s", "--", "sh", "-c", script)
    started_with(child)
    child.expect_exact("attempt 1")
    child.sendline("9")
    child.expect_exact("attempt 2")
    child.sendline("0")
    seen(child)
    assert child.exitstatus == 0


# bgctl with a daemon that refuses some of the keyboards, as one does whose launcher is restarted or older
REFUSED = """
import sys
from bgctl.__main__ import main
from bgd import Refused
from bgd.client.async_.client import AsyncClient
refused, real = eval(sys.argv.pop(1)), AsyncClient.keyboard
count = 0
async def keyboard(self, job_id, *, wait=False):
    global count
    count += 1
    if count in refused:
        raise Refused("the launcher: Connection refused")
    return await real(self, job_id, wait=wait)
AsyncClient.keyboard = keyboard
main()
"""
NO_KEYBOARD = "keeps running, but you cannot type into it: the launcher: Connection refused"


def refused_keyboards(daemon, which, *words):
    """Start bgctl on a terminal; of the keyboards that it asks for, those in `which` are refused."""
    return pexpect.spawn(
        sys.executable,
        ["-c", REFUSED, repr(which), *words],
        env=daemon.env,
        cwd=str(daemon.folder),
        timeout=DEADLINE,
        encoding="utf-8",
    )


def test_a_new_job_without_a_keyboard_is_watched_to_its_end(daemon):
    script = "echo output; while [ ! -e go-on ]; do sleep 0.1; done; exit 7"
    child = refused_keyboards(daemon, range(1000), "run", "-it", "--", "sh", "-c", script)

    child.expect_exact(NO_KEYBOARD)
    child.expect_exact("output")
    (daemon.folder / "go-on").touch()
    text = seen(child)
    assert NO_KEYBOARD not in text
    assert text.endswith("failed (exit code 7)\r\n")
    assert child.exitstatus == 7


def test_a_keyboard_that_is_refused_between_attempts_comes_later(daemon):
    job_id = daemon.submit(
        "--pty", "--retries", "1", "--retry-delay", "0.1s", "--", "sh", "-c", 'read code; exit "$code"'
    )
    wait_until(lambda: daemon.shown(job_id)["attempts"][-1:] and daemon.shown(job_id)["attempts"][-1]["pid"])
    child = refused_keyboards(daemon, (2,), "attach", job_id)
    started_with(child)
    child.sendline("9")
    child.expect_exact(NO_KEYBOARD)

    child.expect_exact("you have the keyboard now")
    child.sendline("0")

    seen(child)
    assert child.exitstatus == 0


def test_attach_without_a_keyboard_is_refused(daemon):
    job_id = start(daemon, "sleep", "1000")
    child = refused_keyboards(daemon, (1,), "attach", job_id)

    assert seen(child) == "bgctl: the launcher: Connection refused\r\n"
    assert child.exitstatus == 1
    daemon.bgctl("cancel", job_id)


def test_ctrl_c_leaves_a_job_that_has_not_started(own_daemon, terminal):
    own_daemon.bgctl("pause")
    child = terminal("run", "-it", "cat", HOME=str(own_daemon.folder))
    child.expect_exact("is queued")

    child.sendintr()

    assert "`bgctl attach 1` comes back" in seen(child)
    assert child.exitstatus == 130


@pytest.fixture
def plain_terminal():
    """A terminal whose settings the test can look at."""
    screen, own = os.openpty()
    termios.tcsetwinsize(own, (24, 80))
    yield screen, own
    os.close(screen)
    os.close(own)


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT])
def test_a_signal_ends_it_and_restores_the_terminal(daemon, plain_terminal, signum):
    screen, own = plain_terminal
    before = termios.tcgetattr(own)
    job_id = start(daemon, "cat")
    attached = subprocess.Popen(
        [sys.executable, "-m", "bgctl", "attach", job_id],
        env=daemon.env,
        stdin=own,
        stdout=own,
        stderr=subprocess.PIPE,
    )
    with attached:
        assert attached.stderr is not None
        assert b"attached" in attached.stderr.readline()
        os.write(screen, b"typed\r")
        wait_until(lambda: daemon.bgctl("logs", job_id).stdout.count("typed") == 2)
        assert termios.tcgetattr(own) != before
        attached.send_signal(signal.SIGTSTP)  # it does not stop, which would leave the terminal raw
        os.write(screen, b"more\r")
        wait_until(lambda: daemon.bgctl("logs", job_id).stdout.count("more") == 2)

        attached.send_signal(signum)

        assert attached.wait(DEADLINE) == 128 + signum
        assert f"job {job_id} keeps running".encode() in attached.stderr.read()
    assert termios.tcgetattr(own) == before
    daemon.bgctl("cancel", job_id)


@pytest.mark.parametrize("is_signalled", [False, True])
@pytest.mark.parametrize("has_pipe", [False, True])
def test_a_terminal_or_pipe_that_nobody_reads_stops_neither_keys_nor_signals(
    daemon, plain_terminal, has_pipe, is_signalled
):
    screen, own = plain_terminal
    before = termios.tcgetattr(own)
    more_than_a_pipe_again_and_again = "while :; do yes | head -c 200000; sleep 0.1; done"
    job_id = start(daemon, "sh", "-c", more_than_a_pipe_again_and_again)
    unread, full = os.pipe() if has_pipe else (os.dup(screen), os.dup(own))
    words = [sys.executable, "-m", "bgctl", "attach", job_id]
    attached = subprocess.Popen(words, env=daemon.env, stdin=own, stdout=full, stderr=full)
    try:
        wait_until(lambda: not select.select([], [full], [], 0.5)[1])

        if is_signalled:
            attached.send_signal(signal.SIGTERM)
        else:
            os.write(screen, DETACH.encode())

        assert attached.wait(DEADLINE) == (128 + signal.SIGTERM if is_signalled else 0)
        assert termios.tcgetattr(own) == before
    finally:
        attached.kill()
        attached.wait()
        os.close(unread)
        os.close(full)
        daemon.bgctl("cancel", job_id)


def test_a_lost_terminal_detaches(daemon, terminal):
    job_id = start(daemon, "cat")
    child = terminal("attach", job_id)
    started_with(child)

    child.close()  # which hangs up

    wait_until(lambda: daemon.bgctl("send", job_id, "on").returncode == 0)
    again = terminal("attach", job_id)
    started_with(again)
    again.sendline("mine")
    again.expect_exact("mine\r\nmine")
    again.sendeof()
    seen(again)
    assert again.exitstatus == 0


def test_a_terminal_that_does_not_know_its_size_can_type(daemon, plain_terminal):
    screen, own = plain_terminal
    termios.tcsetwinsize(own, (0, 0))
    job_id = start(daemon, "head", "-n", "1")
    words = [sys.executable, "-m", "bgctl", "attach", job_id]
    attached = subprocess.Popen(words, env=daemon.env, stdin=own, stdout=own, stderr=own)
    try:
        os.write(screen, b"typed\r")

        assert attached.wait(DEADLINE) == 0
    finally:
        attached.kill()


@pytest.mark.parametrize(
    ("pieces", "reset"),
    [
        ([b"plain \x1b[1m bold"], b""),
        ([b"\x1b[?1049h\x1b[?25l screen"], b"\x1b[?1049l\x1b[?25h"),
        ([b"\x1b[?104", b"9", b"h screen"], b"\x1b[?1049l"),
        ([b"\x1b[?1049h", b"x" * 100, b"\x1b[?1049l"], b""),
        ([b"\x1b[?1000;1006h", b"\x1b[?7l\x1b[?99999h"], b"\x1b[?1000l\x1b[?1006l\x1b[?7h"),
    ],
)
def test_what_a_job_has_changed_in_the_terminal_is_undone_when_it_is_left(pieces, reset):
    modes = Modes()

    for piece in pieces:
        modes.feed(piece)

    assert modes.reset() == reset


# --- send


def test_send_writes_a_line_or_exactly_what_it_is_given(daemon):
    job_id = start(daemon, "sh", "-c", "stty -echo; echo ready; cat")
    wait_until(lambda: "ready" in daemon.bgctl("logs", job_id).stdout)

    assert daemon.bgctl("send", job_id, "one line").returncode == 0
    assert daemon.bgctl("send", job_id, "whole\n").returncode == 0
    assert daemon.bgctl("send", "--no-newline", job_id, "in ").returncode == 0
    assert daemon.bgctl("send", job_id, "parts").returncode == 0
    done = daemon.bgctl("send", "--json", job_id, "-", read="from stdin\nlast")
    assert json.loads(done.stdout) == {"job": int(job_id), "attempt": 1, "bytes": 16}
    assert daemon.bgctl("send", "--no-newline", job_id, "\x04").returncode == 0

    assert daemon.bgctl("wait", job_id).returncode == 0
    assert daemon.bgctl("logs", job_id).stdout.splitlines() == [
        "ready",
        "one line",
        "whole",
        "in parts",
        "from stdin",
        "last",
    ]


def test_send_takes_64_kib_and_says_how_much_a_job_has_not_read(daemon):
    job_id = start(daemon, "sh", "-c", "stty raw -echo; echo ready; exec sleep 1000")
    wait_until(lambda: "ready" in daemon.bgctl("logs", job_id).stdout)

    too_long = daemon.bgctl("send", job_id, "-", read="x" * 65_536)
    unread = daemon.bgctl("send", "--no-newline", job_id, "-", read="x" * 65_536)

    assert too_long.returncode == 2
    assert "send takes 65536 bytes at most" in too_long.stderr
    assert unread.returncode == 75
    assert "the job does not read: the terminal has taken at least" in unread.stderr
    assert "of 65536 bytes" in unread.stderr
    daemon.bgctl("cancel", job_id)


def test_send_says_so_if_the_job_ends_meanwhile(daemon):
    job_id = start(daemon, "sh", "-c", "stty raw -echo; echo ready; exec sleep 1000")
    wait_until(lambda: "ready" in daemon.bgctl("logs", job_id).stdout)
    with daemon.client() as client:
        keyboard = client.keyboard(int(job_id))
        daemon.bgctl("cancel", job_id)

        with keyboard, pytest.raises(Exception, match="the job has ended: the terminal has taken"):
            keyboard.write(b"x" * 200_000)


def test_a_job_that_has_ended_at_the_detach_is_not_called_running(daemon, monkeypatch, capsys):
    class Detached:
        exit_code = 0

        def __init__(self, _: int) -> None: ...

        async def run(self, *, is_new: bool) -> bool:
            return is_new

    monkeypatch.setattr("bgctl.session.Session", Detached)
    job_id = daemon.finished_job("--pty", "sh", "-c", "exit 3")
    with daemon.client() as client:
        assert attach(client, int(job_id)) == 3
    assert capsys.readouterr().err == f"bgctl: job {job_id} failed (exit code 3)\n"

    with Client(str(daemon.folder / "nowhere")) as unreachable:
        assert attach(unreachable, int(job_id)) == 0
    assert f"unless job {job_id} has ended, it keeps running: " in capsys.readouterr().err


# --- refusals


def test_a_job_without_a_keyboard_says_why_and_what_to_do(daemon):
    plain = daemon.submit("sleep", "100")
    over = daemon.finished_job("--pty", "true")
    waiting = daemon.submit("--hold", "--pty", "true")

    no_terminal = (
        f"bgctl: job {plain} has no keyboard: it was submitted without --pty; `bgctl run -it PROGRAM`"
    )
    assert daemon.bgctl("send", plain, "x").stderr.startswith(no_terminal)
    has_ended = f"bgctl: job {over} has no keyboard: it has succeeded; `bgctl retry {over}` runs it again\n"
    assert daemon.bgctl("send", over, "x").stderr == has_ended
    assert (
        f"has no keyboard: it is held; `bgctl explain {waiting}`" in daemon.bgctl("send", waiting, "x").stderr
    )
    assert daemon.bgctl("send", "4711", "x").returncode == 66
    assert daemon.bgctl("send", f"{plain},{over}", "x").returncode == 2
    daemon.bgctl("cancel", plain, waiting, "--yes")


@pytest.mark.parametrize("words", [("attach", "1"), ("run", "-it", "true")])
def test_without_a_terminal_there_is_no_keyboard(daemon, words):
    done = daemon.bgctl(*words)

    assert done.returncode == 2
    assert "needs a terminal, but stdin is not one" in done.stderr


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (("run", "-it", "-i", "cat"), "leave out -i, --stdin and --max-output"),
        (("run", "-it", "--json", "cat"), "run -it prints no JSON"),
    ],
)
def test_options_that_do_not_go_with_a_keyboard(terminal, words, problem):
    child = terminal(*words)

    assert problem in seen(child)
    assert child.exitstatus == 2


def test_run_i_on_a_terminal_says_that_it_reads(terminal):
    child = terminal("run", "-i", "cat")
    child.expect_exact("bgctl: reading your terminal, Ctrl-D ends it")

    child.sendline("hello")
    child.sendeof()

    assert seen(child).count("hello") == 2
    assert child.exitstatus == 0
