"""Requests to Slurm's controller are spread so that it takes all of them at once."""

from __future__ import annotations

from bgd.launcher.controller import RequestLimit


def test_a_burst_goes_at_once_and_then_requests_wait_for_the_rate():
    limit = RequestLimit(rate=2.0, now=100.0)

    assert [limit.take(4, 100.0) for _ in range(5)] == [0.0] * 5
    assert limit.take(4, 100.0) == 2.0
    assert limit.take(2, 101.0) == 2.0
    assert limit.take(2, 110.0) == 0.0


def test_a_long_silence_allows_no_larger_burst():
    limit = RequestLimit(rate=2.0, now=0.0)

    assert [limit.take(10, 1e6) for _ in range(3)] == [0.0, 0.0, 5.0]


def test_requests_that_are_not_sent_are_there_for_others():
    limit = RequestLimit(rate=2.0, now=0.0)
    limit.take(40, 0.0)

    limit.give_back(38)

    assert limit.take(4, 0.0) == 0.0
