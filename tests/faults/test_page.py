"""docs/faults.md: series that were not run keep their rows, and those that were run get new ones."""

from __future__ import annotations

import pytest

from tests.faults.__main__ import files_of
from tests.faults.page import Row, command_for, merged, rows_of, worded, write
from tests.support import ROOT

KILLS = "tests/end_to_end/test_kill.py"
POWER = "tests/faults/test_power.py"
GUEST = "tests/faults/in_a_guest.py"


def row(what: str, file: str, found: str = "lost 0", day: str = "2026-01-01", share: float = 1) -> Row:
    return Row(what=what, found=found, day=day, command=command_for(file, share))


@pytest.mark.parametrize(
    ("share", "command"), [(1, f"make faults CASES={POWER}"), (0.3, f"make faults SHARE=0.3 CASES={POWER}")]
)
def test_row_has_the_command_that_runs_its_file_again(share, command):
    found = row("the power is cut", POWER, share=share)

    assert found.command == command
    assert found.file == POWER


def test_a_folder_stands_for_its_tests_so_that_pytest_runs_a_file_beside_them():
    files = files_of(["tests/faults", GUEST, f"{KILLS}::test_one"])

    assert POWER in files
    assert files[-2:] == [GUEST, f"{KILLS}::test_one"]
    assert "tests/faults" not in files


def test_page_is_read_as_it_was_written(tmp_path):
    rows = [row("kill -9 of bgd", KILLS), row("the power is cut", POWER, share=0.3)]

    write(tmp_path / "faults.md", rows, {})

    assert rows_of((tmp_path / "faults.md").read_text()) == rows


def test_series_that_were_not_run_keep_their_rows():
    old = [row("kill -9 of bgd", KILLS), row("the power is cut", POWER)]
    again = row("the power is cut", POWER, found="cuts 100", day="2026-02-02")

    assert merged(old, [again], [POWER]) == [old[0], again]


def test_one_series_of_a_file_leaves_the_others_alone():
    old = [row("kill -9 of bgd", KILLS), row("kill -9 of the launcher", KILLS)]
    again = row("kill -9 of bgd", KILLS, day="2026-02-02")

    assert merged(old, [again], []) == [old[1], again]


def test_file_that_was_run_whole_loses_its_old_rows():
    assert merged([row("a series with an old name", KILLS)], [row("kill -9 of bgd", KILLS)], [KILLS]) == [
        row("kill -9 of bgd", KILLS)
    ]


def test_only_what_was_never_tried_is_listed_with_its_reason(tmp_path):
    page = tmp_path / "faults.md"

    write(page, [row("kill -9 of bgd", KILLS)], {KILLS: "no time", POWER: "only root can mount a disk"})

    assert "Not tried yet: only root can mount a disk.\n" in page.read_text()
    assert "no time" not in page.read_text()


def test_figures_are_written_as_text():
    assert worded({"jobs_acknowledged": 12345, "file_usable": "yes"}) == (
        "jobs acknowledged 12,345, file usable yes"
    )


def test_page_of_this_tree_is_as_it_would_be_written(tmp_path):
    there = (ROOT / "docs/faults.md").read_text()
    rows = rows_of(there)

    write(tmp_path / "faults.md", merged(rows, [], []), {})

    assert rows
    assert there.startswith((tmp_path / "faults.md").read_text())
    assert [row.file for row in rows if not (ROOT / row.file).exists()] == []
