"""The verbs that act on jobs: in which states each applies, and what has happened when it is done."""

from __future__ import annotations

from msgspec import Struct

from bgd.core.job import ACTIVE, FINAL, WAITING, State


class Verb(Struct, frozen=True, kw_only=True):
    """What a verb does to jobs.

    * `done`: its past participle.
    * `states`: of jobs that it applies to. `usual`: those of a selection that names none; None: all of them.
    * `suspended`: whether it applies to suspended jobs or to others; None: to both.
    * `tells_state`: the new state of a job says more than `done`.
    """

    done: str
    states: frozenset[State]
    usual: frozenset[State] | None = None
    suspended: bool | None = None
    tells_state: bool = True


_RUNNING = frozenset({State.RUNNING})

VERBS: dict[str, Verb] = {
    "cancel": Verb(done="cancelled", states=WAITING | _RUNNING),
    "retry": Verb(done="retried", states=FINAL, usual=frozenset({State.FAILED})),
    "hold": Verb(done="held", states=WAITING - {State.HELD}),
    "release": Verb(done="released", states=frozenset({State.HELD})),
    "suspend": Verb(done="suspended", states=_RUNNING, suspended=False, tells_state=False),
    "continue": Verb(done="continued", states=_RUNNING, suspended=True, tells_state=False),
    "signal": Verb(done="signalled", states=ACTIVE, tells_state=False),
    "remove": Verb(done="removed", states=FINAL, tells_state=False),
    "edit": Verb(done="changed", states=WAITING),
}
"""By the name of a verb, which is also the tag of its request."""
