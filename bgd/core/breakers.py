"""Breakers: pause the calls of a class after too many failures, then let one attempt through to try."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from math import ceil

from msgspec import Struct
from msgspec.structs import replace

from bgd.core.explain import Cause, Reason
from bgd.core.job import JobId, Now, Outcome, Rate


class BreakerRule(Struct, frozen=True):
    """If attempts fail as often as `failures` says, start no more of them for `pause_for` seconds."""

    failures: Rate
    pause_for: float


class BreakerState(Struct, frozen=True, omit_defaults=True):
    """The latest failures of the calls of a class, and their pause; instants are on the elapsed clock.

    `failures`: the latest ones, oldest first. `paused_until`: None unless they are paused. `trial`: the job
    whose attempt shows whether they work again.
    """

    failures: tuple[float, ...] = ()
    paused_until: float | None = None
    trial: JobId | None = None

    def moved(self, seconds: float) -> BreakerState:
        """Return the state with all its times moved by `seconds`, to convert between clocks."""
        until = None if self.paused_until is None else self.paused_until + seconds
        return replace(self, failures=tuple(at + seconds for at in self.failures), paused_until=until)


CLOSED = BreakerState()

_FAILURES = frozenset(
    {
        Outcome.EXIT,
        Outcome.SIGNAL,
        Outcome.TIMEOUT,
        Outcome.NOT_STARTED,
        Outcome.OOM,
        Outcome.LOG_LIMIT,
        Outcome.ERROR,
    }
)


class Breakers:
    """The breakers of classes, by their pattern in [classes].

    Attributes:
        rules: by pattern.
        changed: patterns whose state must be saved: True if their calls are now paused, False if they have
            resumed, None after any other change.
        keeping: patterns that keep queued jobs waiting.
    """

    def __init__(self) -> None:
        self.rules: Mapping[str, BreakerRule] = {}
        self.changed: dict[str, bool | None] = {}
        self.keeping: set[str] = set()
        self._states: dict[str, BreakerState] = {}

    def state(self, pattern: str) -> BreakerState:
        """Return the state of a breaker."""
        return self._states.get(pattern, CLOSED)

    def restore(self, states: Mapping[str, BreakerState], active: Collection[JobId], now: Now) -> None:
        """Restore states from before a restart. No pause gets longer, even if the clock was set meanwhile.

        `active`: the jobs whose attempts may still run.
        """
        for pattern in states.keys() & self.rules.keys():
            state, longest = states[pattern], now.elapsed + self.rules[pattern].pause_for
            self._states[pattern] = BreakerState(
                tuple(min(at, now.elapsed) for at in state.failures),
                None if state.paused_until is None else min(state.paused_until, longest),
                state.trial if state.trial in active else None,
            )

    def is_paused(self, pattern: str, elapsed: float) -> bool:
        """Return whether no attempt may start now."""
        state = self._states.get(pattern)
        if state is None or state.paused_until is None or pattern not in self.rules:
            return False
        return state.trial is not None or elapsed < state.paused_until

    def reason(self, pattern: str, first: tuple[int, JobId] | None, now: Now) -> Reason:
        """Return why calls are paused. `first`: the next job, after its negated priority."""
        rule, state = self.rules[pattern].failures, self.state(pattern)
        if state.trial is not None:
            return Reason(cause=Cause.BREAKER, subject=pattern, limit=rule.text, head=state.trial)
        at = float(ceil(now.wall + (state.paused_until or 0.0) - now.elapsed))  # as for rates
        head = None if first is None else first[1]
        return Reason(cause=Cause.BREAKER, subject=pattern, limit=rule.text, head=head, at=at)

    def keeps(self, pattern: str, elapsed: float) -> bool:
        """Return whether a queued job must wait; if so, `take_resumed` returns its pattern afterwards."""
        if not self.is_paused(pattern, elapsed):
            return False
        self.keeping.add(pattern)
        return True

    def take_resumed(self, elapsed: float) -> list[str]:
        """Return, once each, the patterns that kept jobs waiting and now let one start."""
        over = [pattern for pattern in self.keeping if not self.is_paused(pattern, elapsed)]
        self.keeping.difference_update(over)
        return over

    def ends_at(self, elapsed: float) -> Iterator[float]:
        """Yield when a breaker that keeps jobs waiting will let one start, on the elapsed clock."""
        for state in map(self.state, self.keeping):
            if state.trial is None and state.paused_until is not None and state.paused_until > elapsed:
                yield state.paused_until

    def started(self, pattern: str, job: JobId) -> None:
        """Record the start of an attempt; if the calls are paused, it is the trial."""
        state = self.state(pattern)
        if state.paused_until is not None and pattern in self.rules:
            self._set(pattern, replace(state, trial=job))

    def ended(self, pattern: str, job: JobId, outcome: Outcome, now: Now) -> None:
        """Record the end of an attempt. While the calls are paused, only that of the trial counts."""
        rule, state = self.rules.get(pattern), self.state(pattern)
        if rule is None or (state.paused_until is not None and state.trial != job):
            return
        paused = BreakerState(paused_until=now.elapsed + rule.pause_for)
        if state.trial is not None:
            if outcome is Outcome.SUCCEEDED:
                self._set(pattern, CLOSED, is_pause=False)
            else:  # after an end that proves nothing, the next attempt is the trial
                self._set(pattern, paused if outcome in _FAILURES else replace(state, trial=None))
        elif outcome in _FAILURES:
            since = now.elapsed - rule.failures.seconds
            failures = (*(at for at in state.failures if at > since), now.elapsed)
            if len(failures) < rule.failures.count:
                self._set(pattern, BreakerState(failures))
            else:
                self._set(pattern, paused, is_pause=True)

    def _set(self, pattern: str, state: BreakerState, *, is_pause: bool | None = None) -> None:
        self._states[pattern] = state
        if is_pause is not None or pattern not in self.changed:
            self.changed[pattern] = is_pause
