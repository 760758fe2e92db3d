"""Batches that are resumed: what runs, what does not, and what is said about it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import DEADLINE, Daemon, wait_until


class Batches:
    """Runs batches in a folder of its own, in which jobs leave traces."""

    def __init__(self, daemon: Daemon, folder: Path) -> None:
        self._daemon = daemon
        self._folder = folder
        self.log = folder / "log"

    def __call__(self, text: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self._daemon.bgctl("batch", "--joblog", "log", *arguments, cwd=self._folder, read=text)

    def traces(self) -> list[str]:
        return sorted((self._folder / "traces").read_text().split())


@pytest.fixture
def batch(daemon, tmp_path):
    return Batches(daemon, tmp_path)


def leaving(trace, code=0):
    return f"sh -c 'echo {trace} >> traces; exit {code}'\n"


def failing_until(condition):
    return f"sh -c 'echo tried >> traces; test -e {condition}'\n"


def codes(log):
    return [(row[0], row[6]) for row in (line.split("\t") for line in log.read_text().splitlines()[1:])]


THREE = leaving("a") + leaving("b", 3) + leaving("c")
FAILED = "bgctl: 1 of 3 jobs failed: line 2; --retry-failed reruns them\n"


@pytest.mark.parametrize("loss", [lambda log: log.write_text(""), lambda log: log.unlink()])
def test_a_joblog_that_was_lost_is_written_again_and_nothing_runs_twice(batch, loss):
    first = batch(THREE)
    loss(batch.log)

    again = batch(THREE, "--resume")

    assert (again.returncode, again.stderr) == (1, FAILED)
    assert again.stdout == first.stdout
    assert batch.traces() == ["a", "b", "c"]
    assert sorted(codes(batch.log)) == [("1", "0"), ("2", "3"), ("3", "0")]


def test_a_line_that_failed_before_counts_until_it_succeeds(daemon, batch, tmp_path):
    text = leaving("a") + failing_until("mended")
    batch(text)
    resumed = batch(text, "--resume")
    assert resumed.returncode == 1
    assert resumed.stderr == "bgctl: 1 of 2 jobs failed: line 2; --retry-failed reruns them\n"
    (tmp_path / "mended").touch()
    daemon.bgctl("retry", resumed.stdout.strip().split("-")[1])
    daemon.bgctl("wait", resumed.stdout.strip())

    done = batch(text, "--resume")

    assert (done.returncode, done.stderr) == (0, "")
    assert batch.traces() == ["a", "tried", "tried"]
    assert sorted(codes(batch.log)) == [("1", "0"), ("2", "0"), ("2", "1")]


def test_lines_that_failed_run_again_if_that_is_asked_for(batch, tmp_path):
    text = failing_until("mended") + leaving("b") + leaving("c", 3)
    batch(text)
    (tmp_path / "mended").touch()

    again = batch(text + leaving("d"), "--retry-failed")

    assert again.returncode == 1
    assert again.stderr == "bgctl: 1 of 4 jobs failed: line 3; --retry-failed reruns them\n"
    assert batch.traces() == ["b", "c", "c", "d", "tried", "tried"]
    resumed = batch(text + leaving("d"), "--resume")
    assert resumed.stderr == again.stderr
    assert batch.traces() == ["b", "c", "c", "d", "tried", "tried"]


def test_what_failed_before_does_not_halt_what_is_resumed(batch):
    halted = batch(leaving("a", 1), "--halt", "soon,fail=1")
    assert halted.returncode == 1

    resumed = batch(leaving("a", 1) + leaving("b") + leaving("c", 2), "--resume", "--halt", "soon,fail=1")

    assert "bgctl: halted: no line after 3 was queued" in resumed.stderr
    assert "2 of 3 jobs failed: lines 1, 3" in resumed.stderr
    assert batch.traces() == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("first", "then", "line"),
    [
        ([leaving("a") + leaving("b")], [leaving("new") + leaving("a") + leaving("b")], 1),
        ([leaving("a") + leaving("b")], [leaving("a") + leaving("new") + leaving("b")], 2),
        ([leaving("a") + leaving("b")], [leaving("b")], 1),
        (["a\nb\n", "--template", "echo {}"], ["a\nb\n", "--template", "printf {}"], 1),
    ],
)
def test_lines_that_changed_are_refused_and_none_of_them_runs(batch, first, then, line):
    batch(*first)
    ran = batch.log.read_text()

    refused = batch(*then, "--resume")

    assert refused.returncode == 1
    assert f"bgctl: line {line}: this line was queued with another command" in refused.stderr
    assert batch.log.read_text() == ran
    assert "new" not in ran


def test_a_job_that_still_waits_has_the_command_of_its_line(daemon, batch, tmp_path):
    command = [sys.executable, "-m", "bgctl", "batch", "--joblog", "log", "--hold", "-t", "waiting"]
    with subprocess.Popen(command, env=daemon.env, cwd=tmp_path, stdin=subprocess.PIPE, text=True) as running:
        assert running.stdin is not None
        running.stdin.write("echo a\necho b\n")
        running.stdin.close()
        wait_until(lambda: len(daemon.bgctl("list", "--ids", "--tag", "waiting").stdout.split()) == len("ab"))
        running.kill()

    refused = batch("echo a\necho new\n", "--resume")

    assert "bgctl: line 2: this line was queued with another command" in refused.stderr
    daemon.bgctl("cancel", "--tag", "waiting", "--yes")


def test_lines_with_a_key_may_share_the_job_of_another_line(batch):
    text = '{"argv": ["true"], "key": "k"}\n{"argv": ["echo"], "key": "k"}\n{"argv": ["printf", "x"]}\n'
    batch(text, "--ndjson")

    assert batch(text, "--ndjson", "--resume").returncode == 0


def test_where_jobs_were_deleted_the_joblog_counts(daemon, batch):
    text = leaving("a") + leaving("b", 3) + leaving("c") + leaving("d")
    first = batch(text)
    rows = batch.log.read_text().splitlines(keepends=True)
    batch.log.write_text("".join(row for row in rows if not row.startswith("4\t")))
    daemon.bgctl("remove", first.stdout.strip())

    resumed = batch(text, "--resume")
    assert resumed.returncode == 1
    assert resumed.stderr == (
        "bgctl: 1 of 4 jobs failed: line 2; --retry-failed reruns them\n"
        "bgctl: 1 of 4 jobs was deleted, outcome unknown; --retry-failed reruns them\n"
    )
    assert batch.traces() == ["a", "b", "c", "d"]
    changed = batch(leaving("new") + text, "--resume")
    assert "line 1: this line was queued with another command" in changed.stderr

    batch(text, "--retry-failed")
    assert batch.traces() == ["a", "b", "b", "c", "d", "d"]
    assert batch(text, "--resume").stderr == (
        "bgctl: 1 of 4 jobs failed: line 2; --retry-failed reruns them\n"
    )


def test_resume_is_not_advised_where_it_would_be_refused_again(daemon, batch):
    stopped = batch("true\n'\n", "--name", "stopped")
    assert stopped.stderr.endswith("; the lines up to 1 are queued: --resume continues after them\n")
    still = batch("true\n'\n", "--resume")
    assert still.stderr == "bgctl: line 2: a quote is not closed, or a backslash ends the line\n"
    daemon.bgctl("batch", "cancel", "stopped")

    refused = batch("true\ntrue\n", "--resume")

    assert (refused.returncode, refused.stdout) == (1, stopped.stdout)
    assert re.fullmatch("bgctl: batch [0-9]+ was cancelled and takes no jobs\n", refused.stderr)


def test_a_program_that_is_gone_does_not_keep_later_lines_from_running(batch, tmp_path):
    program = tmp_path / "once"
    program.write_text("#!/bin/sh\nrm $0\n")
    program.chmod(0o755)
    batch("./once\n")

    resumed = batch("./once\n" + leaving("b"), "--resume")

    assert (resumed.returncode, resumed.stderr) == (0, "")
    assert batch.traces() == ["b"]


def test_a_line_still_waits_for_the_job_that_it_was_to_follow(daemon, batch, tmp_path):
    before = daemon.bgctl("submit", "--wait", "sh", "-c", "test -e mended", cwd=tmp_path).stdout.strip()
    first = batch(leaving("a"), "--after", before)
    assert first.stderr == "bgctl: 1 of 1 job was cancelled before it started\n"

    resumed = batch(leaving("a"), "--after", before, "--resume")
    assert (resumed.returncode, resumed.stderr) == (1, first.stderr)
    assert not (tmp_path / "traces").exists()

    (tmp_path / "mended").touch()
    daemon.bgctl("retry", before)
    assert batch(leaving("a"), "--after", before, "--resume").returncode == 0
    assert batch.traces() == ["a"]


@pytest.mark.parametrize(("arguments", "code"), [(["--after", "no-such-name"], 66), (["--template", ""], 2)])
def test_a_batch_whose_options_are_refused_begins_no_joblog(batch, arguments, code):
    assert batch(THREE, *arguments).returncode == code
    assert not batch.log.exists()


def test_a_batch_is_halted_although_its_joblog_cannot_be_written(daemon, tmp_path):
    """Its log may have 512 bytes, which the failure of the first line comes after."""
    daemon.bgctl("queue", "set", "one-by-one", "--slots", "1")
    text = "".join(f"sh -c ': {'x' * 100}; echo {number}'\n" for number in range(5)) + leaving("failed", 1)
    text += "sh -c 'until [ -e go ]; do sleep 0.02; done'\n" + leaving("never") * 20
    (tmp_path / "lines").write_text(text)
    command = "batch --joblog log -q one-by-one --halt now,fail=1 lines"
    with subprocess.Popen(
        ["sh", "-c", f"ulimit -f 1; exec {sys.executable} -m bgctl {command}"],
        env=daemon.env,
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as running:
        _, said = running.communicate(timeout=DEADLINE)

    assert running.returncode == 1
    assert "bgctl: cannot write log: File too large; the batch goes on, and --resume writes" in said
    assert "bgctl: halted: no line after 27 was queued" in said
    assert (tmp_path / "traces").read_text() == "failed\n"
    daemon.bgctl("batch", "--joblog", "log", "-q", "one-by-one", "--resume", "lines", cwd=tmp_path)
    assert {line for line, _ in codes(tmp_path / "log")} == {str(line) for line in range(1, 28)}
