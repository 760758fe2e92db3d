"""A wish: what a class job wants done after its attempt, which the exit code alone could not say."""

from __future__ import annotations

from enum import StrEnum

from msgspec import Struct

from bgd.core.spec import Duration, Instant


class Aim(StrEnum):
    """Each but SNOOZE is of an attempt that failed."""

    RETRY = "retry"  # try again, as far as there are retries
    FAIL = "fail"  # give up, whatever retries are left
    SNOOZE = "snooze"  # run again later, which uses up no retry


class Wish(Struct, frozen=True):
    """What is to follow. `after`: seconds until then, None: as the retry policy says, or at once.

    `until`: not before this epoch time, of a SNOOZE.
    """

    aim: Aim
    after: Duration | None = None
    until: Instant | None = None
