"""bgctl on a real terminal: tables, colors, escaping and Ctrl-C."""

from __future__ import annotations

import re
import signal

import pytest
from rich.cells import cell_len

from tests.support import WIDTH, seen, wait_until

ESCAPES = re.compile(r"\x1b\[[0-9;]*m")


def test_list_is_a_table_that_fits_the_terminal(daemon, terminal):
    daemon.finished_job("echo", "long " * 50)

    lines = seen(terminal("list")).splitlines()

    assert "COMMAND" in lines[0]
    assert max(len(ESCAPES.sub("", line)) for line in lines) <= WIDTH
    assert "…" in lines[1]


@pytest.mark.parametrize(
    ("width", "headings"),
    [
        (30, "ID STATE COMMAND"),
        (60, "ID STATE TIME COMMAND"),
        (80, "ID STATE AGE TIME COMMAND"),
    ],
)
def test_a_narrow_terminal_gets_fewer_columns_but_whole_ids_and_states(own_daemon, terminal, width, headings):
    job_ids = [own_daemon.finished_job("-n", name, "echo", "word " * 50) for name in ("a" * 30, "b")]

    text = seen(terminal("list", width=width, HOME=str(own_daemon.folder)))

    lines = [ESCAPES.sub("", line).split() for line in text.splitlines()]
    assert max(len(ESCAPES.sub("", line)) for line in text.splitlines()) <= width
    assert " ".join(word for word in lines[0] if word != "NAME") == headings
    assert [line[:2] for line in lines[1:]] == [[job_id, "succeeded"] for job_id in reversed(job_ids)]


def test_columns_that_say_nothing_are_left_out(own_daemon, terminal):
    def headings() -> str:
        return ESCAPES.sub("", seen(terminal("list", width=200, HOME=str(own_daemon.folder))).splitlines()[0])

    own_daemon.submit("--hold", "true")
    assert headings().split() == ["ID", "STATE", "AGE", "COMMAND"]
    own_daemon.submit("--hold", "-q", "mail", "-p", "3", "--retries", "1", "-n", "one", "true")
    assert headings().split() == ["ID", "STATE", "PRIORITY", "QUEUE", "ATTEMPT", "AGE", "NAME", "COMMAND"]


def test_a_tiny_terminal_wraps_lines_instead_of_cutting_ids(daemon, terminal):
    job_id = daemon.finished_job("true")

    lines = seen(terminal("list", width=16)).splitlines()

    assert any(re.match(rf" *{job_id}  ", ESCAPES.sub("", line)) for line in lines)
    assert "succeeded" in "".join(lines)


def test_columns_and_lines_of_the_environment_win(own_daemon, terminal):
    for _ in range(9):
        own_daemon.submit("--hold", "echo", "word " * 50)
    own_daemon.submit("--hold", "echo", "wide \N{CJK UNIFIED IDEOGRAPH-65E5}" * 50)

    text = seen(terminal("list", HOME=str(own_daemon.folder), COLUMNS="50", LINES="10"))

    heading, *rows, note = [ESCAPES.sub("", line) for line in text.splitlines()]
    assert "COMMAND" in heading
    assert len(rows) == 6
    assert max(map(cell_len, rows)) == 50
    assert note == "bgctl: not shown: 4 held; `bgctl list --all` lists them"


def test_a_running_job_stays_on_the_screen(own_daemon, terminal):
    running = own_daemon.submit("sleep", "60")
    wait_until(lambda: own_daemon.shown(running)["state"] == "running")
    for _ in range(20):
        own_daemon.submit("--hold", "true")
    done = own_daemon.finished_job("true")

    lines = seen(terminal("list", HOME=str(own_daemon.folder), LINES="10")).splitlines()
    whole = seen(terminal("list", "--all", HOME=str(own_daemon.folder), LINES="10")).splitlines()

    assert lines[1].split()[:2] == [running, "\x1b[34mrunning"]
    assert any(line.split()[0] == done for line in lines)
    assert len(lines) == 8
    assert len(whole) == 23
    own_daemon.bgctl("cancel", running)


def test_watch_shows_changes_until_q(own_daemon, terminal):
    child = terminal("watch", HOME=str(own_daemon.folder))
    child.expect_exact("no jobs yet")

    job_id = own_daemon.submit("--hold", "echo", "hello")
    child.expect_exact("echo hello")
    own_daemon.bgctl("release", job_id)
    child.expect("succeeded.*took")
    child.setwinsize(24, 30)
    child.expect_exact("1 finis\N{HORIZONTAL ELLIPSIS}")
    child.send("q")

    assert seen(child).endswith("\x1b[?1049l")
    assert child.exitstatus == 0


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize(("verb", "shown"), [("watch", "finished"), ("top", "no job is running")])
def test_a_signal_restores_the_screen(own_daemon, terminal, verb, shown, signum):
    child = terminal(verb, HOME=str(own_daemon.folder))
    child.expect_exact(shown)

    child.kill(signum)

    assert seen(child).endswith("\x1b[?7h\x1b[?25h\x1b[?1049l")
    assert child.signalstatus == signum


def test_watch_goes_on_with_the_next_daemon(own_daemon, terminal):
    child = terminal("list", "--watch", HOME=str(own_daemon.folder))
    child.expect_exact("no jobs yet")

    own_daemon.stop()
    own_daemon.start()
    own_daemon.submit("--hold", "echo", "hello")

    child.expect_exact("echo hello")
    child.sendintr()
    assert seen(child).endswith("\x1b[?1049l")
    assert child.exitstatus == 130


def test_states_are_colored_unless_no_color_is_requested(daemon, terminal):
    daemon.finished_job("true")

    assert "\x1b[32msucceeded" in seen(terminal("list"))
    assert "\x1b" not in seen(terminal("list", NO_COLOR="1"))
    assert "\x1b" not in seen(terminal("list", "--color", "never"))
    assert "\x1b[32msucceeded" in seen(terminal("show"))


def test_json_is_the_same_on_a_terminal(terminal):
    assert seen(terminal("list", "--json")).startswith("[")


EVIL = r"\033]0;owned\007\033[2J\033]52;c;eA==\033\\\302\233H100%%\rdone\377\342\200\256"


def test_output_cannot_control_the_terminal(daemon, terminal):
    job_id = daemon.finished_job("printf", EVIL)

    text = seen(terminal("logs", job_id))

    assert not set(text) & {"\x1b", "\x07", "\x9b", "\r", "\u202e"}
    assert text == "done\N{REPLACEMENT CHARACTER}<U+202E>J␛]52;c;eA==␛\\<U+009B>H100%"


def test_colors_of_a_job_are_shown_and_reset_at_its_end(daemon, terminal):
    job_id = daemon.finished_job("printf", r"\033[31mred")

    assert seen(terminal("logs", job_id)) == "\x1b[31mred\x1b[0m"


def test_raw_output_is_not_escaped(daemon, terminal):
    job_id = daemon.finished_job("printf", r"\033]0;title\007")

    assert seen(terminal("logs", "--raw", job_id)) == "\x1b]0;title\x07"


def test_names_and_arguments_cannot_control_the_terminal(daemon, terminal):
    job_id = daemon.finished_job("echo", "\x1b]0;owned\x07")

    for child in (terminal("list"), terminal("show", job_id)):
        assert "\x1b]" not in seen(child)


def test_ctrl_c_leaves_the_job_running_and_prints_how_to_return(daemon, terminal):
    child = terminal("run", "sh", "-c", "echo begun; exec sleep 60")
    child.expect("begun")

    child.sendintr()

    child.expect(r"Ctrl-C again within 2 s cancels job (\d+)")
    job_id = child.match[1]
    assert f"`bgctl logs -f {job_id}` follows it, `bgctl cancel {job_id}` cancels it" in seen(child)
    assert child.exitstatus == 130
    assert f"Job {job_id}: running" in daemon.bgctl("show", job_id).stdout
    daemon.bgctl("cancel", job_id)


def test_a_job_that_ends_right_after_ctrl_c_is_not_called_running(daemon, terminal):
    child = terminal("run", "sh", "-c", "trap 'exit 3' TERM; echo begun; while :; do sleep 0.1; done")
    child.expect("begun")

    child.sendintr()
    child.expect(r"cancels job (\d+)")
    daemon.bgctl("signal", child.match[1])

    assert "failed (exit code 3)" in seen(child)
    assert child.exitstatus == 3


def test_ctrl_c_twice_cancels_the_job(daemon, terminal):
    child = terminal("run", "sh", "-c", "echo begun; exec sleep 60")
    child.expect("begun")

    child.sendintr()
    child.expect(r"cancels job (\d+)")
    job_id = child.match[1]
    child.sendintr()

    assert f"cancelling job {job_id}" in seen(child)
    assert child.exitstatus == 143
    assert daemon.bgctl("wait", job_id).stdout == f"{job_id} cancelled\n"


def test_ctrl_c_while_following_a_log_prints_nothing(daemon, terminal):
    job_id = daemon.bgctl("submit", "sh", "-c", "echo begun; exec sleep 60").stdout.strip()
    child = terminal("logs", "-f", job_id)
    child.expect("begun\r\n")

    child.sendintr()

    assert seen(child).replace("^C", "").strip() == ""
    assert child.exitstatus == 130
    daemon.bgctl("cancel", job_id)


def test_a_message_of_bgctl_starts_on_a_new_line(terminal):
    script = r"printf '\033[31mred'; [ $BGD_ATTEMPT = 2 ] && printf '\n\033[0m'; exit 3"

    text = seen(terminal("run", "--retries", "1", "--retry-delay", "0", "sh", "-c", script))

    first, header, second, last = ESCAPES.sub("", text).splitlines()
    assert (first, second) == ("red", "red")
    assert re.fullmatch(r"==> job \d+, attempt 2 <==", header)
    assert re.fullmatch(r"bgctl: job \d+ failed \(exit code 3\)", last)


def test_an_incomplete_line_of_output_is_shown_at_once(terminal):
    child = terminal("run", "sh", "-c", "printf 'password: '; exec sleep 60")

    child.expect_exact("password: ")

    child.sendintr()
    child.expect(r"cancels job (\d+)")
    child.sendintr()
    seen(child)


def test_run_with_pty_does_not_escape_output(terminal):
    child = terminal("run", "--pty", "sh", "-c", r"printf '\033[31m10%%\r20%%\033[0m'; exit 3")

    assert re.fullmatch(
        r"\x1b\[31m10%\r20%\x1b\[0m\r\nbgctl: job \d+ failed \(exit code 3\)\r\n", seen(child)
    )
