"""The log of a batch in GNU parallel's format, and the bookkeeping beside it."""

from __future__ import annotations

import csv
import errno
import json
import os
from pathlib import Path
from typing import Any, cast
from unittest.mock import Mock

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from bgctl.batch_ends import HALT, Halt
from bgctl.batch_resume import HEADER, JobLog, LinesOfJobs, LineTable, Standing, runs_again
from bgctl.common import WrongUsage
from bgd import Client, Job, Outcome, State
from bgd.errors import Refused
from tests.client.scripted import view_of


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "jobs.log")


def a_job(**fields: Any) -> Job:
    view = replace(view_of(7), **{"argv": ["true"], "started_at": 100.5, "run_seconds": 2.25, **fields})
    return Job(cast("Client", None), 7, view)


def rows(path):
    with Path(path).open(newline="") as file:
        return list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))


def test_each_job_is_a_row_with_the_columns_of_gnu_parallel(path):
    log = JobLog(path, resume=False, store="s")
    log.add(3, a_job(argv=["printf", "a\nb", "c d"]))
    log.add(1, a_job(state=State.FAILED, outcome=Outcome.EXIT, exit_code=3))
    log.add(2, a_job(state=State.FAILED, outcome=Outcome.SIGNAL, signal=15, argv=["/bin/sh", "-c", "a | b"]))
    log.add(4, a_job(argv=None, target="app:run", arguments='{"args": [1]}', started_at=None))
    log.close()

    assert Path(path).read_text().startswith(HEADER)
    assert [list(row.values()) for row in rows(path)] == [
        ["3", ":", "100.500", "     2.250", "0", "0", "0", "0", "printf 'a\0b' 'c d'"],
        ["1", ":", "100.500", "     2.250", "0", "0", "3", "0", "true"],
        ["2", ":", "100.500", "     2.250", "0", "0", "143", "15", "a | b"],
        ["4", ":", "0.000", "     2.250", "0", "0", "0", "0", 'app:run {"args": [1]}'],
    ]


def test_a_log_is_resumed_with_its_identity_and_without_a_torn_row(path):
    first = JobLog(path, resume=True, store="s")
    first.add(9, a_job())
    first.close()
    whole = Path(path).read_text()
    Path(path).write_text(whole + "10\t:\t1.0")

    again = JobLog(path, resume=True, store="s")

    assert again.batch == first.batch
    assert list(again.known) == [(9, Standing.SUCCEEDED)]
    assert Path(path).read_text() == whole
    again.close()


def test_a_log_of_gnu_parallel_begins_a_new_batch(path):
    Path(path).write_text(f"{HEADER}2\t:\t1611.123\t     0.003\t0\t12\t-1\t15\tsleep 3\n")

    log = JobLog(path, resume=True, store="s")

    assert log.known[2] is Standing.FAILED
    assert json.loads(Path(f"{path}.batch").read_text()) == {"batch": log.batch.hex(), "store": "s"}
    log.close()


def test_a_log_that_exists_is_neither_overwritten_nor_shared(path):
    log = JobLog(path, resume=False, store="s")

    with pytest.raises(WrongUsage, match="another bgctl writes"):
        JobLog(path, resume=True, store="s")
    log.close()
    with pytest.raises(WrongUsage, match="exists: --resume continues it; delete it to start again"):
        JobLog(path, resume=False, store="s")


@pytest.mark.parametrize("text", ["hello", "hello\n", "1\n2\n", f"{HEADER}not a row\n"])
def test_a_file_that_is_no_joblog_is_refused_and_stays_as_it_is(path, text):
    Path(path).write_text(text)

    with pytest.raises(WrongUsage, match=r"line [12] of .* is not a joblog line"):
        JobLog(path, resume=True, store="s")
    assert Path(path).read_text() == text
    assert not Path(f"{path}.batch").exists()


@pytest.mark.parametrize("left", [None, b"", b"Seq\tHo", bytes(100)])
def test_a_log_that_a_power_cut_emptied_still_belongs_to_its_batch(path, left):
    first = JobLog(path, resume=False, store="s")
    first.close()
    Path(path).unlink()
    if left is not None:
        Path(path).write_bytes(left)

    again = JobLog(path, resume=True, store="s")

    assert again.batch == first.batch
    assert Path(path).read_text() == HEADER
    again.close()


def test_a_link_to_a_log_belongs_to_the_same_batch(path, tmp_path):
    first = JobLog(path, resume=False, store="s")
    first.close()
    (tmp_path / "link").symlink_to(path)

    again = JobLog(str(tmp_path / "link"), resume=True, store="s")

    assert again.batch == first.batch
    again.close()


def test_the_last_row_of_a_line_counts(path):
    log = JobLog(path, resume=False, store="s")
    log.add(2, a_job(state=State.FAILED, outcome=Outcome.EXIT, exit_code=3))
    log.add(2, a_job())
    log.close()

    again = JobLog(path, resume=True, store="s")
    assert again.known[2] is Standing.SUCCEEDED
    again.close()


def test_only_a_regular_file_can_be_a_joblog(path):
    os.mkfifo(path)

    for name in (path, "/dev/full"):
        with pytest.raises(WrongUsage, match="is not a regular file: --resume has to read a joblog again"):
            JobLog(name, resume=False, store="s")


def test_what_cannot_be_written_is_told_once(path, capsys, monkeypatch):
    log = JobLog(path, resume=False, store="s")
    with monkeypatch.context() as patched:
        patched.setattr(os, "write", Mock(side_effect=OSError(errno.ENOSPC, "No space left on device")))
        log.add(1, a_job())
    log.add(2, a_job())

    problem = f"cannot write {path}: No space left on device"
    assert log.finish() == problem
    assert capsys.readouterr().err == (
        f"bgctl: {problem}; the batch goes on, and --resume writes what is missing\n"
    )
    assert Path(path).read_text() == HEADER
    log.close()


def test_a_log_that_cannot_be_resumed_is_refused(path, tmp_path):
    JobLog(path, resume=False, store="s").close()

    with pytest.raises(Refused, match="jobs of another daemon"):
        JobLog(path, resume=True, store="other")
    Path(f"{path}.batch").write_text("[]")
    with pytest.raises(WrongUsage, match=r"\.batch cannot be read"):
        JobLog(path, resume=True, store="s")
    with pytest.raises(WrongUsage, match="cannot write"):
        JobLog(str(tmp_path / "no" / "log"), resume=False, store="s")


@given(st.dictionaries(st.integers(0, 2**53), st.integers(1, 2**63 - 1), max_size=50), st.integers(0, 5000))
def test_a_table_of_lines_holds_what_was_set(values, other):
    table = LineTable()
    for line, value in values.items():
        table[line] = value

    assert all(table[line] == value for line, value in values.items())
    assert table[other] == values.get(other, 0)
    assert list(table) == sorted(values.items())


def test_a_line_of_a_batch_that_is_resumed_runs_again_if_it_never_ran_or_failed():
    assert {each for each in Standing if runs_again(each, retry_failed=False)} == {
        Standing.NEW,
        Standing.UNSTARTED,
    }
    assert {each for each in Standing if runs_again(each, retry_failed=True)} == {
        Standing.NEW,
        Standing.UNSTARTED,
        Standing.FAILED,
        Standing.CANCELLED,
        Standing.LOST,
    }


def test_lines_are_found_by_their_jobs():
    lines = LinesOfJobs()
    for run in [(1, 10, 2), (3, 12, 1), (5, 20, 2), (7, 11, 2)]:
        lines.add(run)

    assert [lines.of(job) for job in (9, 10, 11, 12, 13, 20, 21, 22)] == [
        [],
        [1],
        [2, 7],
        [3, 8],
        [],
        [5],
        [6],
        [],
    ]
    assert sorted(lines) == [(1, 10), (2, 11), (3, 12), (5, 20), (6, 21), (7, 11), (8, 12)]
    assert lines.newest_job == 21


def test_a_batch_is_halted_by_a_number_or_a_share_of_failures():
    assert Halt(now=True, failures=2, is_share=False).is_reached(2, 100)
    assert not Halt(now=True, failures=2, is_share=False).is_reached(1, 1)
    share = Halt(now=False, failures=10, is_share=True)
    assert [share.is_reached(*counts) for counts in [(2, 2), (3, 30), (3, 31), (4, 40)]] == [
        False,
        True,
        False,
        True,
    ]


def test_when_to_halt_is_spelled_as_by_gnu_parallel():
    convert = HALT.convert

    assert convert("soon,fail=1", None, None) == Halt(now=False, failures=1, is_share=False)
    assert convert("now,fail=10%", None, None) == Halt(now=True, failures=10, is_share=True)
    for wrong in ("never", "now", "now,fail=0", "now,fail=101%", "now,success=1", "1"):
        with pytest.raises(Exception, match="is not now or soon with fail=N or fail=N%"):
            convert(wrong, None, None)
