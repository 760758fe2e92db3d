"""wait --match, and pieces of logs for programs."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from bgctl import waiting
from bgctl.waiting import _lines, wait_for_line
from bgd.errors import Refused
from bgd.wire.replies import LogPart
from tests.support import DEADLINE


def part(data, attempt=1, offset=0, left_out=0):
    return LogPart(1, attempt, data, offset=offset, left_out=left_out)


def lines_by_part(*parts):
    """Return the lines that come with each part, and those that come at the end."""
    found: list[list[str]] = [[] for _ in range(len(parts) + 1)]
    at = 0

    def read():
        nonlocal at
        for at, each in enumerate(parts):  # noqa: B007 - read below
            yield each
        at = len(parts)

    for _, line in _lines(read()):
        found[at].append(line)
    return found


def test_lines_are_cut_wherever_the_pieces_end():
    assert lines_by_part(
        part(b"one\r\ntw"),
        part(b"o\n\xc3"),
        part(b"\xa4\n\x1b[31mred\x1b[0m\nx"),
        part(b"y\n", left_out=5),
        part(b"z", attempt=2),
    ) == [["one"], ["two"], ["ä", "red"], ["x", "y"], [], ["z"]]


def test_lines_have_the_attempts_that_wrote_them():
    assert list(_lines([part(b"a\nb"), part(b"c\n", attempt=2)])) == [(1, "a"), (1, "b"), (2, "c")]


def test_a_long_line_counts_as_several(monkeypatch):
    monkeypatch.setattr(waiting, "MAX_LINE", 3)

    assert lines_by_part(part(b"abcdefg"), part(b"hi\nabcd\n"), part(b"abcdef")) == [
        ["abc", "cde"],
        ["efg", "ghi", "abc", "cd"],
        ["abc", "cde"],
        ["ef"],
    ]


def test_what_a_carriage_return_overwrites_is_a_line_of_its_own():
    assert lines_by_part(
        part(b"\r10%\r20%\r"),
        part(b"\r"),
        part(b"done\r\r\n\r\nx\r"),
        part(b"\n\n"),
        part(b"a\x1b[1m\rb\r"),
    ) == [["10%"], [], ["20%", "done", ""], ["x", ""], ["a"], ["b"]]


def test_a_pattern_finds_what_follows_a_carriage_return_and_crosses_the_middle_of_a_long_line(capsys):
    progress = Logs(part(b"10%\r\x1b[Kdo\x1b(B\x1b[mne\n"))
    long = Logs(part(b"x" * 65_530), part(b"begin and end" + b"y" * 65_536 + b"\n"))

    assert wait_for_line(progress, [7], "^done$", None) == 0  # type: ignore[arg-type]  # enough here
    assert wait_for_line(long, [7], "begin and end", None) == 0  # type: ignore[arg-type]
    assert capsys.readouterr().out.startswith("done\n")


class Logs:
    """A client that has only a log."""

    def __init__(self, *parts):
        self._parts = parts

    def logs(self, *_, **__):
        yield from self._parts


def test_a_pattern_that_would_take_for_ever_ends_the_wait(monkeypatch):
    monkeypatch.setattr(waiting, "MATCH_SECONDS", 0.05)

    with pytest.raises(Refused, match=r"comparing a line with .* takes longer than 0.05 s: simplify"):
        wait_for_line(Logs(part(b"a" * 60 + b"!\n")), [7], "(a+)+$", None)  # type: ignore[arg-type]  # enough here


@pytest.fixture(scope="module")
def job(daemon):
    """A job with two lines of output, one without an end."""
    return daemon.finished_job("printf", "one\\nport \\303\\244 42")


def test_a_line_that_is_there_is_printed(daemon, job):
    assert daemon.bgctl("wait", "--match", "^po.*[0-9]$", job).stdout == "port ä 42\n"
    told = json.loads(daemon.bgctl("wait", "--json", "--match", "^o", job).stdout)
    assert told == {"job": int(job), "attempt": 1, "line": "one"}


def test_a_job_that_ends_without_the_line_is_told(daemon, job):
    done = daemon.bgctl("wait", "--match", "two", job)

    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"bgctl: no line of job {job} matches 'two', and the job is over: succeeded\n"


def test_a_line_is_told_when_it_comes_and_the_job_goes_on(daemon):
    os.mkfifo(daemon.folder / "fifo")
    job_id = daemon.submit("sh", "-c", "read line < fifo; echo got $line; sleep 600")
    with subprocess.Popen(
        [sys.executable, "-m", "bgctl", "wait", "--match", "got", job_id],
        env=daemon.env,
        stdout=subprocess.PIPE,
        text=True,
    ) as waiting:
        (daemon.folder / "fifo").write_text("it\n")
        said, _ = waiting.communicate(timeout=DEADLINE)

    assert (waiting.returncode, said) == (0, "got it\n")
    assert daemon.shown(job_id)["state"] == "running"
    late = daemon.bgctl("wait", "--match", "never", "--timeout", "10ms", job_id)
    assert late.returncode == 75
    assert f"no line of job {job_id} has matched 'never' within 0.01 s" in late.stderr
    daemon.bgctl("cancel", job_id)


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["--match", "(", "1"], "--match '(' is not a regular expression: "),
        (["--match", "a", "1-2"], "--match takes one job, not 2"),
        (["--match", "a", "--any", "1"], "--match takes one job, and excludes --any"),
        (["--match", "a", "--queue", "q"], "excludes --any, --progress and filters"),
    ],
)
def test_what_cannot_be_matched_is_wrong_usage(daemon, arguments, why):
    done = daemon.bgctl("wait", *arguments)

    assert done.returncode == 2
    assert why in done.stderr


def piece(daemon, *arguments):
    return json.loads(daemon.bgctl("logs", "--json", *arguments).stdout)


def test_a_log_is_read_in_pieces_by_the_next_byte(daemon, job):
    first = piece(daemon, "--max-bytes", "10", job)
    second = piece(daemon, "--after-byte", str(first["next_byte"]), "--max-bytes", "3", job)
    rest = piece(daemon, "--after-byte", str(second["next_byte"]), job)

    assert first == {
        "job": int(job),
        "attempt": 1,
        "data": "one\nport ",  # the character that the tenth byte begins comes whole
        "next_byte": 9,
        "left_out": 0,
        "at_end": False,
    }
    assert (second["data"], second["next_byte"]) == ("ä ", 12)
    assert (rest["data"], rest["next_byte"], rest["at_end"]) == ("42", 14, True)
    again = piece(daemon, "--after-byte", "14", job)
    assert (again["data"], again["next_byte"], again["at_end"]) == ("", 14, True)


def test_a_piece_is_printed_unchanged_for_people(daemon, job):
    done = daemon.bgctl("logs", "--after-byte", "4", "--max-bytes", "4", job)

    assert (done.stdout, done.stderr) == ("port", "bgctl: next byte: 8\n")


def test_a_job_that_has_not_started_has_no_bytes_yet(daemon):
    held = daemon.submit("--hold", "true")

    assert piece(daemon, "--after-byte", "0", held) == {
        "job": int(held),
        "attempt": 1,
        "data": "",
        "next_byte": 0,
        "left_out": 0,
        "at_end": False,
    }
    assert "has no attempt 2" in daemon.bgctl("logs", "--after-byte", "0", "--attempt", "2", held).stderr
    daemon.bgctl("cancel", held)
    assert piece(daemon, "--after-byte", "0", held)["at_end"] is True


def test_pieces_exclude_what_is_not_one(daemon, job):
    for arguments in (["-f", job], ["-n", "1", job], ["--all", job], [job, job + "," + str(int(job) + 1)]):
        assert daemon.bgctl("logs", "--max-bytes", "5", *arguments).returncode == 2
