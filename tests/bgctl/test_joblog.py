"""The log of a batch in GNU parallel's format, and the bookkeeping beside it."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from bgctl.batch_ends import Halt, HaltType, _LinesOfJobs
from bgctl.common import WrongUsage
from bgctl.joblog import HEADER, JobLog, LineSet
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
    assert [line for line in range(20) if line in again.done] == [9]
    assert Path(path).read_text() == whole
    again.close()


def test_a_log_of_gnu_parallel_begins_a_new_batch(path):
    Path(path).write_text(f"{HEADER}2\t:\t1611.123\t     0.003\t0\t12\t-1\t15\tsleep 3\n")

    log = JobLog(path, resume=True, store="s")

    assert 2 in log.done
    assert json.loads(Path(f"{path}.batch").read_text()) == {"batch": log.batch.hex(), "store": "s"}
    log.close()


def test_a_log_that_exists_is_neither_overwritten_nor_shared(path):
    log = JobLog(path, resume=False, store="s")

    with pytest.raises(WrongUsage, match="another bgctl writes"):
        JobLog(path, resume=True, store="s")
    log.close()
    with pytest.raises(WrongUsage, match="exists: --resume goes on with it; delete it to begin again"):
        JobLog(path, resume=False, store="s")


def test_a_log_that_cannot_be_resumed_is_refused(path, tmp_path):
    JobLog(path, resume=False, store="s").close()

    with pytest.raises(Refused, match="jobs of another daemon"):
        JobLog(path, resume=True, store="other")
    Path(f"{path}.batch").write_text("[]")
    with pytest.raises(WrongUsage, match=r"\.batch cannot be read"):
        JobLog(path, resume=True, store="s")
    Path(f"{path}.batch").unlink()
    Path(path).write_text(f"{HEADER}not a row\n")
    with pytest.raises(WrongUsage, match=r"line 2 of .* is not one of a joblog"):
        JobLog(path, resume=True, store="s")
    with pytest.raises(WrongUsage, match="cannot write"):
        JobLog(str(tmp_path / "no" / "log"), resume=False, store="s")


@given(st.sets(st.integers(0, 5000), max_size=50), st.integers(0, 5000))
def test_a_set_of_lines_holds_what_was_added(lines, other):
    held = LineSet()
    for line in lines:
        held.add(line)

    assert all(line in held for line in lines)
    assert (other in held) == (other in lines)


def test_lines_are_found_by_their_jobs():
    lines = _LinesOfJobs()
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
    convert = HaltType().convert

    assert convert("soon,fail=1", None, None) == Halt(now=False, failures=1, is_share=False)
    assert convert("now,fail=10%", None, None) == Halt(now=True, failures=10, is_share=True)
    for wrong in ("never", "now", "now,fail=0", "now,fail=101%", "now,success=1", "1"):
        with pytest.raises(Exception, match="is not now or soon with fail=N or fail=N%"):
            convert(wrong, None, None)
