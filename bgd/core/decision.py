"""The decision of a class job about what follows its attempt, which the exit code alone cannot say."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum

from msgspec import Struct
from msgspec.structs import replace

from bgd.core.spec import Duration, Instant


class Aim(StrEnum):
    """Each but SNOOZE is of an attempt that failed."""

    RETRY = "retry"  # try again, as far as there are retries
    FAIL = "fail"  # give up, whatever retries are left
    SNOOZE = "snooze"  # run again later, which uses up no retry


class Wish(Struct, frozen=True, omit_defaults=True):
    """What is to follow. `after`: seconds until then, None: as the retry policy says, or at once.

    `until`: not before this epoch time, of a SNOOZE. `rule`: the exception of which the configuration says
    so; None: the job does.
    """

    aim: Aim
    after: Duration | None = None
    until: Instant | None = None
    rule: str | None = None


Rules = tuple[tuple[str, Wish], ...]
"""What is to follow an exception, by the qualified name of its type or of a base of that."""


def wish_for(names: Iterable[str], rules: Rules) -> Wish | None:
    """Return what the rules say of an exception, by the first of its `names` of which they say something.

    These are of its type and its bases, the nearest first. The wish names the one as its rule.
    """
    said = dict(rules)
    return next((replace(said[name], rule=name) for name in names if name in said), None)
