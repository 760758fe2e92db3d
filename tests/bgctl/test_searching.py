"""The verb search."""

from __future__ import annotations

import json
import os
import re
from errno import EAGAIN
from itertools import chain
from pathlib import Path
from signal import SIGKILL

import pytest

from bgctl import searching
from bgctl.searching import _Search
from bgd.errors import Refused
from bgd.logs.files import BLOCK, LogReader
from bgd.logs.search import AHEAD, MAX_LINE, LogFile, Needle, found_lines, lines_with, read_small_logs

RETURN = "\N{SYMBOL FOR CARRIAGE RETURN}"
MORE = "\N{HORIZONTAL ELLIPSIS}"


@pytest.fixture(scope="module")
def jobs(daemon):
    """Three jobs with output, the last of two attempts."""
    first = daemon.finished_job("printf", "Disk full\\nfine\\n")
    second = daemon.finished_job("-t", "second", "printf", "nothing\\n\\033[31mdisk FULL\\033[0m of \\001")
    third = daemon.finished_job(
        "--retries", "1", "--retry-delay", "0s", "sh", "-c", "echo disk full again; exit 1"
    )
    return first, second, third


def search(daemon, *arguments):
    """Run bgctl search; return what it prints without times, of which each line has one."""
    done = daemon.bgctl("search", *arguments)
    if {"--json", "--ids"}.isdisjoint(arguments):
        done.stdout, times = _TIME.subn("", done.stdout)
        assert times == done.stdout.count("\n")
    return done


_TIME = re.compile(
    r"(?<=^\d\.\d) \d{4}-\d\d-\d\d \d\d:\d\d:\d\d|(?<=^\d\d\.\d) \d{4}-\d\d-\d\d \d\d:\d\d:\d\d", re.MULTILINE
)


def test_lines_of_all_logs_are_found_newest_first(daemon, jobs):
    first, second, third = jobs
    done = search(daemon, "disk full")

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        f"{third}.2: disk full again",
        f"{third}.1: disk full again",
        f"{second}.1: disk FULL of \N{SYMBOL FOR START OF HEADING}",
        f"{first}.1: Disk full",
    ]


def test_a_capital_makes_case_count(daemon, jobs):
    assert search(daemon, "Disk").stdout == f"{jobs[0]}.1: Disk full\n"
    assert search(daemon, "-i", "Disk Full").stdout == search(daemon, "disk full").stdout


def test_jobs_can_be_selected_and_lines_be_few(daemon, jobs):
    first, second, third = jobs

    assert search(daemon, "disk", first, second).stdout.count("\n") == 2
    assert search(daemon, "disk", "--tag", "second").stdout.startswith(f"{second}.1: ")
    assert search(daemon, "disk", "-n", "1").stdout == f"{third}.2: disk full again\n"
    assert search(daemon, "disk", "--ids").stdout == f"{third}\n{second}\n{first}\n"


def test_all_that_was_searched_for_is_marked_if_there_are_colors(daemon, jobs):
    found = search(daemon, "--color", "always", "I", "-i", jobs[0]).stdout

    assert found == f"{jobs[0]}.1: D\033[31m\033[1mi\033[0msk full\n{jobs[0]}.1: f\033[31m\033[1mi\033[0mne\n"


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("\033[31mred\033[0m needle\tend", "red needle      end"),
        ("10 %\r20 %\rthe needle", "the needle"),
        ("a needle\rhides below this", f"a needle{RETURN}hides below this"),
        ("bidi \u202e needle", "bidi <U+202E> needle"),
        ("x" * 3_000 + "needle" + "y" * 3_000, f"{MORE}{'x' * 166}needle{'y' * 328}{MORE}"),
        ("needle" + "y" * 3_000, f"needle{'y' * 494}{MORE}"),
    ],
)
def test_a_line_is_shown_so_that_the_text_is_seen(line, shown):
    assert Needle.of("needle").shown(line.encode(), 500) == shown


def test_bytes_that_are_no_text_are_searched_as_they_are():
    argument = os.fsdecode(b"\xffb")

    assert found_lines(b"a?b\n\xffb\n", Needle.of(argument)) == [(4, b"\xffb")]


def test_json_tells_where_a_line_is(daemon, jobs):
    found = json.loads(search(daemon, "fine", "--json").stdout)
    [attempt] = daemon.shown(jobs[0])["attempts"]

    assert attempt["started_at"] <= found.pop("at") <= attempt["finished_at"]
    assert found == {"job": int(jobs[0]), "attempt": 1, "name": None, "offset": 10, "line": "fine"}


def test_each_line_has_its_own_time_and_the_name_of_its_job(daemon):
    lines = "echo the name, first; sleep 1.1; echo the name, last"
    named = daemon.finished_job("-n", "two words", "sh", "-c", lines)
    unnamed = daemon.finished_job("echo", "the name")
    daemon.bgctl("remove", daemon.finished_job("true"))

    done = daemon.bgctl("search", "the name")

    stamp = r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d)"
    found = re.fullmatch(
        rf"{unnamed}\.1 {stamp}: the name\n{named}\.1 {stamp} two words: the name, first\n"
        rf"{named}\.1 {stamp} two words: the name, last\n",
        done.stdout,
    )
    assert found, done.stdout
    assert found[1] >= found[3] > found[2]


def test_nothing_found_is_told(daemon, jobs):
    del jobs
    done = search(daemon, "no such words")

    assert done.returncode == 1
    assert done.stderr.startswith("bgctl: no line of ")
    assert "logs contains 'no such words'" in done.stderr
    assert search(daemon, "").returncode == 2
    assert search(daemon, "a\nb").returncode == 2


# --- reading ----------------------------------------------------------------------------------------------


def all_of(search):
    return [(log.job, log.attempt, *line) for log, lines in search.lines() for line in lines]


@pytest.fixture
def log(tmp_path):
    (tmp_path / "0").mkdir()
    return LogReader(str(tmp_path), 1, 1)


def test_lines_are_found_whole_wherever_blocks_end(log):
    line = b"x" * 1000 + b"needle" + b"y" * 1000 + b"\n"
    text = line * (3 * BLOCK // len(line)) + b"the needle"
    log.path.write_bytes(text)
    needle = Needle.of("needle")

    found = list(chain.from_iterable(lines_with(log, needle)))

    assert found == found_lines(text, needle)
    assert {text[offset : offset + len(data)] for offset, data in found} == {line[:-1], b"the needle"}
    assert len(found) == text.count(b"needle")


def test_a_very_long_line_is_searched_in_parts(log):
    log.path.write_bytes(b"z" * (MAX_LINE + BLOCK - 3) + b"needle" + b"z" * BLOCK)

    [[(offset, part)]] = lines_with(log, Needle.of("needle"))

    assert b"needle" in part
    assert len(part) < 3 * MAX_LINE
    assert offset + part.index(b"needle") == MAX_LINE + BLOCK - 3


def test_lines_on_both_sides_of_a_gap_are_not_joined(log):
    log.path.write_bytes(b"a\nnee")
    log.path.with_name("1.1.log.100").write_bytes(b"dle\nneedle\n")

    assert list(lines_with(log, Needle.of("needle"))) == [[(104, b"needle")]]
    assert list(lines_with(log, Needle.of("nee"))) == [[(2, b"nee")], [(104, b"needle")]]


def test_a_log_that_cannot_be_read_is_counted_and_the_others_are_searched(tmp_path):
    (tmp_path / "0").mkdir()
    (tmp_path / "0/1.1.log").write_text("needle\n")
    (tmp_path / "0/2.1.log").mkdir()
    (tmp_path / "other").mkdir()
    search = _Search(str(tmp_path), Needle.of("needle"), None)

    assert all_of(search) == [(1, 1, 0, b"needle")]
    assert (search.logs, search.unreadable) == (2, 1)
    assert all_of(_Search(str(tmp_path / "missing"), Needle.of("x"), None)) == []


def test_many_logs_are_searched_in_their_order_and_all_are_closed(tmp_path):
    (tmp_path / "0").mkdir()
    wanted = list(range(3 * AHEAD, 0, -1))
    for job in wanted:
        (tmp_path / f"0/{job}.1.log").write_text(f"line\nneedle of {job}\n")
    large = tmp_path / "0" / f"{AHEAD}.1.log"
    large.write_bytes(b"x\n" * BLOCK + f"needle of {AHEAD}\n".encode())
    descriptors = len(list(Path("/proc/self/fd").iterdir()))

    lines = _Search(str(tmp_path), Needle.of("needle"), None).lines()
    assert next(lines)[1] == [(5, f"needle of {3 * AHEAD}".encode())]
    assert [log.job for log, _ in lines] == wanted[1:]
    some = read_small_logs([LogFile(AHEAD, 1, str(large), has_parts=False)] * 9)
    assert next(some)[1] is None
    some.close()
    assert len(list(Path("/proc/self/fd").iterdir())) == descriptors


def test_other_processes_end_with_the_search(tmp_path):
    def children():
        return set(Path(f"/proc/self/task/{os.getpid()}/children").read_text().split())

    for job in range(1, 6_000, 1_000):
        log = tmp_path / str(job // 1_000) / f"{job}.1.log"
        log.parent.mkdir()
        log.write_text("needle\n")
    lines = _Search(str(tmp_path), Needle.of("needle"), None).lines()
    before = children()
    descriptors = sorted(Path("/proc/self/fd").iterdir())

    next(lines)
    assert children() == before  # the newest folder was enough
    next(lines)
    others = children() - before
    lines.close()

    assert len(others) == searching.PROCESSES - 1
    assert children() == before
    assert sorted(Path("/proc/self/fd").iterdir()) == descriptors


@pytest.mark.parametrize("others", ["search", "die", "cannot start"])
def test_several_processes_find_what_one_does(tmp_path, monkeypatch, others):
    for job in (1, 2, 1_001, 1_002, 2_001, 3_001, 3_002, 4_001, 5_003):
        log = tmp_path / str(job // 1_000) / f"{job}.1.log"
        log.parent.mkdir(exist_ok=True)
        log.write_text(f"a needle of {job}\nno\n" * (job % 1_000))
    (tmp_path / "1/1001.2.log").write_bytes(b"x\n" * BLOCK + b"needle\n")
    (tmp_path / "1/1001.1.log.100000").write_text("needle behind a gap\n")
    (tmp_path / "1/1003.1.log").mkdir()
    (tmp_path / "3/3003.1.log").write_text("nothing\n")

    def no_more_processes():
        raise BlockingIOError(EAGAIN, "Resource temporarily unavailable")

    def searched(processes):
        monkeypatch.setattr(searching, "PROCESSES", processes)
        search = _Search(str(tmp_path), Needle.of("needle"), None)
        return all_of(search), search.logs, search.unreadable, search.problem

    alone = searched(1)
    if others == "die":
        monkeypatch.setattr(_Search, "_found_in", lambda *_: os.kill(os.getpid(), SIGKILL))
    elif others == "cannot start":
        monkeypatch.setattr("os.fork", no_more_processes)
    for processes in (2, 4, 9):
        assert searched(processes) == alone
    assert (len(alone[0]), *alone[1:3]) == (16, 12, 1)


def test_a_folder_that_one_may_not_read_is_refused(tmp_path, monkeypatch):
    def forbidden(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("os.listdir", forbidden)
    with pytest.raises(Refused, match="you may not read the logs in"):
        all_of(_Search(str(tmp_path), Needle.of("x"), None))
