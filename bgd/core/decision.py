"""The decision of a class job about what follows its attempt, which the exit code alone cannot say."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum

from msgspec import Struct, field
from msgspec.structs import replace

from bgd.core.spec import Duration, Instant


class NextStep(StrEnum):
    """Each but SNOOZE is of an attempt that failed."""

    RETRY = "retry"  # try again, as far as there are retries
    FAIL = "fail"  # give up, whatever retries are left
    SNOOZE = "snooze"  # run again later, which uses up no retry


class Decision(Struct, frozen=True, omit_defaults=True):
    """What is to follow. `after`: seconds until then, None: as the retry policy says, or at once.

    `until`: not before this epoch time, of a SNOOZE. `rule`: the exception of which the configuration says
    so; None: the job does.
    """

    step: NextStep = field(name="aim")
    after: Duration | None = None
    until: Instant | None = None
    rule: str | None = None


ExceptionRules = tuple[tuple[str, Decision], ...]
"""What is to follow an exception, by the qualified name of its type or of a base of that."""


def decision_for(names: Iterable[str], rules: ExceptionRules) -> Decision | None:
    """Return what the rules say of an exception, by the first of its `names` of which they say something.

    These are of its type and its bases, the nearest first. The decision names the one as its rule.
    """
    said = dict(rules)
    return next((replace(said[name], rule=name) for name in names if name in said), None)
