"""Refusals become the same exceptions on the other side, and jobs of a batch are told as runs."""

from __future__ import annotations

import pytest

from bgd.errors import BgdError, Full, JobFailed, NoSuchJob, NotAllowed, ProtocolError, Refused
from bgd.wire.replies import ErrorCode, code_of, error_of, runs_of


def test_lines_and_jobs_that_follow_each_other_make_one_run():
    assert runs_of([1, 2, 3, 5], [10, 11, 4, 5]) == [(1, 10, 2), (3, 4, 1), (5, 5, 1)]
    assert runs_of([], []) == []


@pytest.mark.parametrize("kind", [Refused, NotAllowed, NoSuchJob, Full, ProtocolError])
def test_a_refusal_is_the_same_exception_on_the_other_side(kind):
    error = error_of(code_of(kind("why")), "why")

    assert type(error) is kind
    assert str(error) == "why"


def test_every_code_has_an_exception():
    assert {code_of(error_of(code, "")) for code in ErrorCode} == set(ErrorCode)


class Peculiar(NotAllowed):
    pass


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (Peculiar("x"), ErrorCode.NOT_ALLOWED),
        (BgdError("x"), ErrorCode.REFUSED),
        (JobFailed("x"), ErrorCode.REFUSED),
    ],
)
def test_an_error_without_a_code_gets_that_of_its_nearest_base_class(error, code):
    assert code_of(error) is code
