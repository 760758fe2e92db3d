"""Which tests a focused run leaves out."""

from __future__ import annotations

from tests.slow import LONGEST, slow_tests


def test_the_slowest_tests_of_a_room_are_left_out_until_the_others_are_fast_enough():
    seconds = {
        "tests/launcher/test_a.py::test_slowest": LONGEST,
        "tests/launcher/warm/test_b.py::test_slow": LONGEST / 2,
        "tests/launcher/test_a.py::test_fast": LONGEST / 4,
        "tests/launcher/test_a.py::test_faster": LONGEST / 8,
        "tests/core/test_c.py::test_of_a_fast_room": LONGEST,
    }

    assert slow_tests(seconds) == ["tests/launcher/test_a.py::test_slowest"]
