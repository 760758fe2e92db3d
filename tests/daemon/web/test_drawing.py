"""Numbers as paths of SVG."""

from __future__ import annotations

import pytest

from bgd.daemon.web import drawing
from bgd.daemon.web.drawing import HEIGHT, WIDTH


@pytest.mark.parametrize(
    ("values", "top"),
    [([], 1.0), ([0.0, None], 1.0), ([3], 5.0), ([0.21, 0.04], 0.5), ([100], 100.0), ([101.0], 200.0)],
)
def test_the_top_of_a_picture_is_a_round_number_not_below_any_value(values, top):
    assert drawing.top_of(values) == pytest.approx(top)


def test_the_top_of_times_is_a_usual_time():
    tops = [drawing.top_of([seconds], are_seconds=True) for seconds in (0.03, 7.0, 61.0, 3601.0, 90_000.0)]

    assert tops == pytest.approx([0.05, 10.0, 120.0, 7200.0, 172_800.0])


def test_bars_are_stacked_and_a_rare_one_is_still_seen():
    failed, succeeded = drawing.bars(
        [("failed", [0, 1]), ("cancelled", [0, 0]), ("succeeded", [50, 500])], 1000
    )

    assert failed == ("failed", "M300 98.5h255v1.5h-255z")
    assert succeeded == ("succeeded", "M0 95h255v5h-255zM300 48.5h255v50h-255z")


def test_a_line_has_a_gap_where_there_is_no_value_and_a_dot_for_a_lone_one():
    drawn = drawing.line("p50", [10.0, 5.0, None, 0.0, None], 10.0)

    assert drawn == ("p50", "M60 0h0L180 50h0M420 100h0")


def test_an_area_has_a_step_for_each_column():
    assert drawing.area("slots", [1.0, 0.5], 1.0)[1] == "M0 100V0h300V50h300V100z"


def test_columns_cover_the_picture():
    assert drawing.columns(2) == ["M0 0h300v100h-300z", "M300 0h300v100h-300z"]
    assert (WIDTH, HEIGHT) == (600, 100)
