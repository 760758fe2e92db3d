"""The verb batch with a real daemon."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading

import pexpect  # type: ignore[import-untyped]  # it has no types
import pytest

from bgctl.batch import IdPrinter
from bgctl.common import set_global_options
from bgd.client.batch import Taken
from bgd.wire.requests import MAX_IDS
from tests.support import DEADLINE, wait_until


def batch(daemon, text, *arguments):
    return daemon.bgctl("batch", *arguments, read=text)


def ids_in(text):
    return [
        job_id
        for word in text.split()
        for first, _, last in [word.partition("-")]
        for job_id in range(int(first), int(last or first) + 1)
    ]


def test_each_line_is_a_job_and_the_ids_are_a_range_that_other_verbs_take(daemon):
    done = batch(daemon, "echo one\n# no\n\necho 'two three'\n", "-t", "lines")

    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert re.fullmatch(r"\d+-\d+\n", done.stdout)
    waited = daemon.bgctl("wait", done.stdout.strip()).stdout
    assert waited.count("succeeded") == 2
    job = daemon.shown(str(ids_in(done.stdout)[1]))
    assert (job["argv"], job["tags"], job["cwd"]) == (["echo", "two three"], ["lines"], str(daemon.folder))


def test_a_file_is_read_and_a_single_job_is_a_plain_id(daemon):
    (daemon.folder / "jobs.txt").write_text("true")

    assert re.fullmatch(r"\d+\n", daemon.bgctl("batch", "jobs.txt").stdout)


def test_json_tells_line_id_and_whether_it_is_new(daemon):
    held = '{"argv": ["true"], "key": "once", "hold": true}\n'
    done = batch(daemon, f"{held}\n{held}", "--ndjson", "--json")

    first, second = map(json.loads, done.stdout.splitlines())
    assert first == {"line": 1, "id": first["id"], "created": True}
    assert second == {"line": 3, "id": first["id"], "created": False}
    plain = batch(daemon, held, "--ndjson")
    assert plain.stderr == "bgctl: lines that queued nothing, because an unfinished job has their key: 1\n"
    daemon.bgctl("cancel", str(first["id"]))


def test_a_list_of_jobs_can_be_queued_again(daemon):
    again = daemon.finished_job("--tag", "again", "--retries", "2", "echo", "a b")

    listed = daemon.bgctl("list", "--json", "--tag", "again").stdout
    done = batch(daemon, listed, "--ndjson")

    job = daemon.shown(done.stdout.strip())
    assert (job["argv"], job["tags"], job["retries"]) == (["echo", "a b"], ["again"], 2)
    assert job["id"] != int(again)


def test_a_template_makes_each_line_an_argument(daemon):
    done = batch(daemon, "a.tif\nb c.tif\n", "--hold", "--template", "convert-it {} {.}.png", "--no-check")

    jobs = [daemon.shown(str(job_id))["argv"] for job_id in ids_in(done.stdout)]
    assert jobs == [["convert-it", "a.tif", "a.png"], ["convert-it", "b c.tif", "b c.png"]]
    daemon.bgctl("cancel", done.stdout.strip())


def test_lines_that_end_with_nul_may_hold_newlines(daemon):
    ids = ids_in(batch(daemon, "a b\0two\nlines\0last", "-0", "--template", "printf <%s> {}").stdout)

    daemon.bgctl("wait", *map(str, ids))
    outputs = [daemon.bgctl("logs", "--raw", str(each)).stdout for each in ids]
    assert outputs == ["<a b>", "<two\nlines>", "<last>"]


def test_a_bad_line_is_named_with_what_is_queued_and_skip_goes_on(daemon):
    text = "true\ntrue\nno-such-program\ntrue\n"
    done = batch(daemon, text)

    assert done.returncode == 1
    assert done.stderr == (
        "bgctl: line 3: no program 'no-such-program' on its PATH; --no-check queues it anyway;"
        " the lines up to 2 are queued: --skip 2 continues after them\n"
    )
    assert len(ids_in(done.stdout)) == 2
    assert len(ids_in(batch(daemon, text, "--skip", "3").stdout)) == 1
    assert "; nothing is queued\n" in batch(daemon, "'").stderr
    assert "; nothing after line 1 is queued\n" in batch(daemon, "\n'", "--skip", "1").stderr


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["no-such-file"], "cannot read no-such-file: No such file or directory"),
        (["/"], "cannot read /: Is a directory"),
        (["status"], "cannot read status: No such file or directory: verbs of batches are list, show"),
        (["lst"], "no verb 'batch lst': did you mean list?"),
        (["wiat", "3"], "no verb 'batch wiat': did you mean wait?"),
        (["names", "gzip"], "-- comes before a program: `bgctl batch -- names gzip`"),
        (["--then", "echo 'a", "--", "true"], "--then: a quote is not closed"),
        (["--ndjson", "--shell"], "--ndjson cannot be combined with --template and --shell"),
        (["--key", "a"], "--key would make one job of all lines"),
        (["--stdin", "-"], "--stdin takes a file here"),
        (["--template", "'"], "--template: a quote is not closed"),
    ],
)
def test_wrong_usage_is_told_in_a_line(daemon, arguments, why):
    done = batch(daemon, "", *arguments)

    assert (done.returncode, done.stdout) == (2, "")
    assert why in done.stderr


def test_interrupted_batch_says_what_is_queued_and_how_to_go_on(daemon):
    with subprocess.Popen(
        [sys.executable, "-m", "bgctl", "batch", "--json"],
        env=daemon.env,
        cwd=daemon.folder,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as running:
        assert running.stdin is not None
        assert running.stdout is not None
        assert running.stderr is not None
        running.stdin.write("true\ntrue\n")
        running.stdin.flush()
        told = [json.loads(running.stdout.readline())["line"] for _ in range(2)]  # before more comes
        assert told == [1, 2]
        running.send_signal(signal.SIGINT)
        said = running.stderr.read()

    assert running.wait(DEADLINE) == 130
    assert said == "bgctl: interrupted: the lines up to 2 are queued: --skip 2 continues after them\n"


def test_a_terminal_shows_a_bar_for_a_long_batch(daemon, terminal):
    (daemon.folder / "many.txt").write_text("true\n" * 12_000)
    child = terminal("batch", "--hold", "-t", "bar", "many.txt")

    child.expect(pexpect.EOF)
    child.wait()
    assert child.exitstatus == 0
    assert re.search(r"\d+% .*\d+ queued.* left", child.before)
    assert re.search(r"\d+-\d+\r\n", child.before)
    daemon.bgctl("cancel", "--tag", "bar", "--yes")


def test_a_range_is_no_longer_than_other_verbs_take(capsys):
    printer = IdPrinter()
    printer.add(Taken([(1, 5, MAX_IDS + 1), (MAX_IDS + 2, 90_000, 1)]))
    printer.end()

    assert capsys.readouterr().out == f"5-{MAX_IDS + 4}\n{MAX_IDS + 5}\n90000\n"


def test_json_documents_are_printed_for_each_job(capsys):
    set_global_options(json=True)
    try:
        IdPrinter().add(Taken([(4, 7, 2)], frozenset([5])))
    finally:
        set_global_options(json=False)

    assert capsys.readouterr().out == (
        '{"line": 4, "id": 7, "created": true}\n{"line": 5, "id": 8, "created": false}\n'
    )


# --- to the end -------------------------------------------------------------------------------------------


def rows(daemon, log):
    return [line.split("\t") for line in (daemon.folder / log).read_text().splitlines()[1:]]


def test_wait_says_which_lines_failed(daemon):
    done = batch(daemon, "true\nfalse\ntrue\nsh -c 'exit 3'\n", "--wait")

    assert done.returncode == 1
    assert done.stderr == "bgctl: 2 of 4 jobs failed: lines 2, 4\n"
    assert batch(daemon, "true\n", "--wait").returncode == 0
    assert batch(daemon, "", "--wait").returncode == 0


def test_json_also_tells_the_ends(daemon):
    told = [
        json.loads(line) for line in batch(daemon, "sh -c 'exit 3'\n", "--wait", "--json").stdout.splitlines()
    ]

    assert told[1] == {
        "line": 1,
        "id": told[0]["id"],
        "state": "failed",
        "outcome": "exit",
        "exit_code": 3,
        "signal": None,
    }


def test_gnu_parallel_reads_the_joblog(daemon):
    text = "true\nsh -c 'exit 3'\ntouch never\n"
    batch(daemon, text[: text.index("touch")], "--joblog", "peer.log")
    columns = [(row[0], row[1], row[6], row[7], row[8]) for row in rows(daemon, "peer.log")]
    assert sorted(columns) == [("1", ":", "0", "0", "true"), ("2", ":", "3", "0", "sh -c 'exit 3'")]
    program = shutil.which("parallel")
    if program is None:
        pytest.skip("GNU parallel is not installed: only the columns were compared")
    subprocess.run(
        [program, "--will-cite", "--resume", "--joblog", "peer.log"],
        input=text,
        text=True,
        cwd=daemon.folder,
        env=daemon.env,
        check=True,
        timeout=DEADLINE,
    )

    assert [row[0] for row in rows(daemon, "peer.log")][2:] == ["3"]  # parallel ran only the third
    done = batch(daemon, text + "true\n", "--joblog", "peer.log", "--resume")
    assert len(ids_in(done.stdout)) == 1 + 2  # the new line; and the two that were told again


def test_a_halted_batch_starts_nothing_more_and_resume_runs_the_rest(daemon):
    daemon.bgctl("queue", "set", "one", "--slots", "1")
    (daemon.folder / "halt.lines").write_text(
        "sh -c 'echo 1 >> tries; exit 1'\n"
        "sh -c 'until [ -e go ]; do sleep 0.02; done; echo 2 >> tries'\n"
        "sh -c 'echo 3 >> tries'\n"
    )
    follow_ups = ["--name", "halted", "--finally", "cp tries all-tries"]
    command = ["batch", "--joblog", "halt.log", "-q", "one", "-t", "halted", *follow_ups, "halt.lines"]
    with subprocess.Popen(
        [sys.executable, "-m", "bgctl", *command, "--halt", "soon,fail=1"],
        env=daemon.env,
        cwd=daemon.folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as running:
        wait_until(lambda: daemon.bgctl("list", "--ids", "--tag", "halted", "--state", "cancelled").stdout)
        (daemon.folder / "go").touch()
        _, said = running.communicate(timeout=DEADLINE)

    assert running.returncode == 1
    assert said == (
        "bgctl: halted: no line after 3 was queued; --resume runs what has not\n"
        "bgctl: 1 of 3 jobs failed: line 1; --retry-failed reruns them\n"
        "bgctl: 1 of 3 jobs was cancelled before it started\n"
    )
    assert [row[0] for row in rows(daemon, "halt.log")] == ["1", "2"]
    assert "(not started)" in daemon.bgctl("batch", "show", "halted").stdout
    resumed = daemon.bgctl(*command, "--resume")
    assert (resumed.returncode, resumed.stderr) == (
        1,
        "bgctl: 1 of 3 jobs failed: line 1; --retry-failed reruns them\n",
    )
    assert (daemon.folder / "tries").read_text() == "1\n2\n3\n"
    assert [row[0] for row in rows(daemon, "halt.log")] == ["1", "2", "3"]
    wait_until((daemon.folder / "all-tries").exists)
    assert (daemon.folder / "all-tries").read_text() == "1\n2\n3\n"


def test_a_batch_that_is_halted_when_every_line_has_run_ends(daemon):
    done = daemon.bgctl("batch", "--name", "over", "--halt", "soon,fail=1", "--", "false", ":::", "a")

    assert done.stderr.splitlines()[0] == "bgctl: halted: no line after 1 was queued"
    assert daemon.bgctl("batch", "wait", "over", "--timeout", "5s").returncode == 1


def test_resume_runs_what_now_cancelled_before_it_began(daemon):
    """A job that waits for the writer of its input holds a slot, and no process of it runs."""
    os.mkfifo(daemon.folder / "input")
    lines = [
        {"argv": ["sh", "-c", "cat >> begun"], "stdin": "input"},
        {"argv": ["sh", "-c", "until grep -q 1 waits; do sleep 0.02; done; exit 1"]},
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    command = ["--ndjson", "--name", "fifo", "--finally", "touch ended", "--joblog", "fifo.log"]
    (daemon.folder / "waits").touch()
    with subprocess.Popen(
        [sys.executable, "-m", "bgctl", "batch", *command, "--halt", "now,fail=1"],
        env=daemon.env,
        cwd=daemon.folder,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    ) as running:
        assert running.stdin is not None
        running.stdin.write(text)
        running.stdin.close()
        wait_until(lambda: len(daemon.bgctl("list", "--ids", "--state", "running").stdout.split()) == 2)
        (daemon.folder / "waits").write_text("1\n")

    assert running.returncode == 1
    assert [row[0] for row in rows(daemon, "fifo.log")] == ["2"]
    assert not (daemon.folder / "ended").exists()
    writer = threading.Thread(target=(daemon.folder / "input").write_text, args=("begun",))
    writer.start()
    batch(daemon, text, *command, "--resume")
    writer.join()
    assert (daemon.folder / "begun").read_text() == "begun"
    wait_until((daemon.folder / "ended").exists)


def test_now_cancels_what_runs_and_ends_a_batch_that_waits_for_lines(daemon):
    with subprocess.Popen(
        [sys.executable, "-m", "bgctl", "batch", "--halt", "now,fail=1"],
        env=daemon.env,
        cwd=daemon.folder,
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as running:
        assert running.stdin is not None
        assert running.stderr is not None
        running.stdin.write("sleep 600\nfalse\n")
        running.stdin.flush()
        said = running.stderr.read()  # although stdin stays open

    assert running.wait(DEADLINE) == 1
    assert re.sub("cancel [0-9]+", "cancel ID", said) == (
        "bgctl: halted: no line after 2 was queued; `bgctl batch cancel ID` closes the batch\n"
        "bgctl: 1 of 2 jobs failed: line 2\n"
        "bgctl: 1 of 2 jobs was cancelled while it ran\n"
    )


def test_resume_needs_a_log(daemon):
    done = batch(daemon, "", "--resume")

    assert (done.returncode, done.stderr) == (
        2,
        "bgctl: --resume and --retry-failed need --joblog FILE, which says what has run\n",
    )


LINES = 40


@pytest.fixture
def killable(own_daemon):
    """A daemon that can be killed, and a batch of lines that leave a trace each."""
    own_daemon.configure("[daemon]\nslots = 4\n[retry]\nretries = 0\n")
    own_daemon.stop()
    own_daemon.start()
    text = "".join(f"sh -c 'echo {number} >> traces'\n" for number in range(1, LINES + 1))
    (own_daemon.folder / "lines").write_text(text)
    return own_daemon


def start_batch(daemon, *options):
    return subprocess.Popen(
        [sys.executable, "-m", "bgctl", "batch", "--joblog", "log", "--resume", *options, "lines"],
        env=daemon.env | {"BGD_SOCKET": str(daemon.socket)},
        cwd=daemon.folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def logged(daemon):
    log = daemon.folder / "log"
    return log.read_bytes().count(b"\n") - 1 if log.exists() else -1


def wait_for_rows(daemon, count, running):
    wait_until(lambda: logged(daemon) >= count or running.poll() is not None)


def check_each_ran_once(daemon):
    with start_batch(daemon) as last:
        _, said = last.communicate(timeout=DEADLINE)
    assert last.returncode == 0, said
    traces = (daemon.folder / "traces").read_text().split()
    assert sorted(map(int, traces)) == list(range(1, LINES + 1))
    assert sorted(int(row[0]) for row in rows(daemon, "log")) == list(range(1, LINES + 1))


def test_each_line_runs_once_although_bgctl_is_killed_at_many_points(killable):
    """Kill it before it has asked, with the log begun, and after some ends were written."""
    for points in (-1, 0, 1, 3, 7, 12, 20, 30):
        with start_batch(killable) as running:
            wait_for_rows(killable, points, running)
            running.kill()

    check_each_ran_once(killable)


def test_each_line_runs_once_although_bgd_is_killed_at_many_points(killable):
    with start_batch(killable) as running:
        for points in (0, 2, 9, 20, 30):
            wait_for_rows(killable, points, running)
            killable.process.kill()
            killable.process.wait(DEADLINE)
            killable.start()
        _, said = running.communicate(timeout=DEADLINE)

    assert running.returncode == 0, said
    check_each_ran_once(killable)


def kill_bgd(daemon, running):
    del running
    daemon.process.kill()
    daemon.process.wait(DEADLINE)
    daemon.start()


def kill_bgctl(daemon, running):
    del daemon
    running.kill()


def interrupt_bgctl(daemon, running):
    del daemon
    running.send_signal(signal.SIGINT)


@pytest.mark.parametrize("when", ["soon", "now"])
def test_a_batch_that_is_halted_and_killed_many_times_runs_each_line_once_and_then_what_follows(
    killable, when
):
    """Its failing lines halt it again and again; in between bgctl and bgd are killed."""
    lines = "".join(
        f"sh -c 'echo {number} >> traces; sleep 0.01; exit {int(number % 4 == 0)}'\n"
        for number in range(1, LINES + 1)
    )
    (killable.folder / "lines").write_text(lines)
    options = ["--name", "halted", "--finally", "sh -c 'wc -l < traces >> ends'"]
    for points, harm in enumerate([kill_bgd, kill_bgctl, kill_bgd, interrupt_bgctl, None, kill_bgctl, None]):
        with start_batch(killable, *options, "--halt", f"{when},fail=1") as running:
            wait_for_rows(killable, 4 * points, running)
            if harm is not None:
                harm(killable, running)

    with start_batch(killable, *options) as last:
        _, said = last.communicate(timeout=DEADLINE)

    killable.bgctl("batch", "wait", "halted")
    wait_until((killable.folder / "ends").exists)
    traces = list(map(int, (killable.folder / "traces").read_text().split()))
    assert len(traces) == len(set(traces)), said
    cut_off = {int(row[0]) for row in rows(killable, "log") if row[6] == "143"}
    assert {*traces} | cut_off == {*range(1, LINES + 1)}, said
    assert (when == "now") or not cut_off
    killable.bgctl("wait", "--timeout", "10s", "last")
    assert (killable.folder / "ends").read_text().split() == [str(len(traces))]
