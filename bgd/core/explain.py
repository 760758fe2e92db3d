"""Why a job has not started, in words, and when it will likely start."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from enum import StrEnum
from math import inf
from typing import TYPE_CHECKING

from msgspec import Struct
from msgspec.structs import replace

if TYPE_CHECKING:  # clients import this module and need no jobs
    from bgd.core.job import JobId

MAX_AHEAD = 100  # limit on counting the queued jobs before a job; there may be a million
MAX_NAMED = 20  # limit on naming jobs that a job waits for
MAX_HOLDERS = 5  # limit on naming jobs that hold what a job waits for


class Cause(StrEnum):
    """What keeps a job from running, in the order in which users see it."""

    LAUNCHER = "launcher"
    SHUTDOWN = "shutdown"  # the daemon is about to exit
    PAUSE = "pause"  # of all queues together
    QUEUE_PAUSE = "queue_pause"
    DEADLOCK = "deadlock"  # what it needs is held by running jobs that wait for jobs that wait
    HOLD = "hold"
    TIME = "time"  # a delay, a date, or the pause before a retry
    JOBS = "jobs"
    BREAKER = "breaker"  # of its class, after failures
    LIMIT = "limit"  # by key
    QUEUE_SLOTS = "queue_slots"
    SLOTS = "slots"
    TOKENS = "tokens"  # of a resource
    RATE = "rate"  # of its queue
    LOAD = "load"  # of the machine
    MEMORY = "memory"  # that the machine has left
    SHARE = "share"  # of its queue: others have used less for their weights
    TURN = "turn"  # jobs before it; without any, it may start at any moment
    SUSPENSION = "suspension"  # it runs, but its processes are stopped
    START = "start"  # its slot is taken, but the launcher has not started its process yet
    # an attempt that has started on a cluster, and that has no node yet
    REQUESTS = "requests"  # bgd's own limit on requests to the cluster
    CONTROLLER = "controller"  # of the cluster, which does not answer
    NODE = "node"
    PILOT = "pilot"  # each has no room, or has no node yet


class Reason(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One thing that keeps a job from running.

    `subject`: the name of its queue, of a resource or of its executor, or the key of its limit; of HOLD and
    SUSPENSION the id of the job. `taken` of `slots` slots, tokens or places are taken, and it needs `wanted`.
    BREAKER: calls to `subject` are paused after `limit`, and job `head` tries first, not before `at`; or it
    tries now. `ahead`: queued jobs that start before it, for LIMIT those with its key, counted up to
    MAX_AHEAD; None: unknown, or another reason says it. `problem`: why there is no launcher, what the machine
    lacks, why its process cannot start yet, which job waits for which, or why it has no node, in Slurm's own
    words. `limit`: the configured rate of its queue; for SHARE its weight, for example "1 of 3". `at`: when
    the wait ends, epoch time; for CONTROLLER when it stopped answering. `jobs`, `queues`: what it waits for,
    up to MAX_NAMED of them, and `more` others. `holders`: active jobs that hold the slots or tokens, up to
    MAX_HOLDERS of them, and `other_holders` more; `held`: the tokens of each; `suspended`: the suspended ones
    among them. `head`: the job before it that starts next; it needs `head_wants` slots, more than are free,
    and so holds back all others.
    """

    cause: Cause
    subject: str = ""
    wanted: int = 1
    slots: int | None = None
    taken: int = 0
    ahead: int | None = None
    problem: str | None = None
    limit: str | None = None
    at: float | None = None
    jobs: tuple[int, ...] = ()
    more: int = 0
    queues: tuple[str, ...] = ()
    holders: tuple[int, ...] = ()
    held: tuple[str, ...] = ()
    other_holders: int = 0
    suspended: tuple[int, ...] = ()
    head: int | None = None
    head_wants: int = 0


def jobs_in_deadlock(needs: Mapping[JobId, Sequence[AbstractSet[JobId]]]) -> set[JobId]:
    """Return the jobs that wait for each other, or for those that do.

    `needs`: of each job that waits, sets of jobs. A job goes on once one job of each set goes on; jobs that
    are not in `needs` do.
    """
    stuck = set(needs)
    while going := {job for job in stuck if all(jobs - stuck for jobs in needs[job])}:
        stuck -= going
    return stuck


def held_by(reason: Reason, held: Mapping[JobId, str], suspended: AbstractSet[JobId]) -> Reason:
    """Return a reason with the jobs that hold what it is about, and the tokens of each; "": no tokens."""
    # suspended ones first: they do not end by themselves
    holders = tuple(sorted(held, key=lambda job: job not in suspended))[:MAX_HOLDERS]
    tokens, rest = tuple(held[job] for job in holders if held[job]), len(held) - len(holders)
    stopped = tuple(job for job in holders if job in suspended)
    return replace(reason, holders=holders, held=tokens, other_holders=rest, suspended=stopped)


class Explanation(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Why a job has not started: every reason, in order; none if it does not wait.

    `likely_start_at`: estimated from earlier jobs of the same names; None: unknown.
    """

    reasons: tuple[Reason, ...] = ()
    likely_start_at: float | None = None


OF_MACHINE = frozenset({Cause.LOAD, Cause.MEMORY})
_OF_SLOTS = frozenset(
    {Cause.LIMIT, Cause.QUEUE_SLOTS, Cause.SLOTS, Cause.TOKENS, Cause.RATE, Cause.SHARE, Cause.TURN}
)


_BEFORE_QUEUED = frozenset({Cause.HOLD, Cause.TIME, Cause.JOBS})


def without_slots_of_today(reasons: tuple[Reason, ...]) -> tuple[Reason, ...]:
    """Leave out what other jobs hold now if a job is not queued yet; not in a deadlock, which it shows."""
    causes = {reason.cause for reason in reasons}
    if Cause.DEADLOCK in causes or not causes & _BEFORE_QUEUED:
        return reasons
    return tuple(reason for reason in reasons if reason.cause not in _OF_SLOTS | OF_MACHINE)


# --- in words -----------------------------------------------------------------------------------------------


def next_reasons(explanation: Explanation) -> tuple[Reason, ...]:
    """Return the reasons to show first: slots and turn only if nothing else comes before them."""
    before = tuple(each for each in explanation.reasons if each.cause not in _OF_SLOTS | OF_MACHINE)
    return before or explanation.reasons


def waiting_line(explanation: Explanation, time_text: Callable[[float], str | None]) -> str:
    """Return what a job waits for next on one line; empty if it does not wait."""
    return ", then ".join(in_words(each, time_text) for each in next_reasons(explanation))


def deadlock_in_words(explanation: Explanation) -> str:
    """Return the reason of a job that waits in a deadlock; empty if it does not."""
    return "".join(words_of(each) for each in explanation.reasons if each.cause is Cause.DEADLOCK)


def in_words(reason: Reason, time_text: Callable[[float], str | None]) -> str:
    """Return what a job waits for: "for ..." or "until ..."; `time_text` writes an instant."""
    jobs = f"{', '.join(map(str, reason.jobs))}{f' and {reason.more} more' if reason.more else ''}".strip()
    time = None if reason.at is None else time_text(reason.at)
    return " ".join(filter(None, [words_of(reason), jobs, time]))


def words_of(reason: Reason) -> str:
    """Return what a job waits for, without the jobs, counts and instants that the caller appends."""
    return _WORDS[reason.cause](reason)


def _words_of_breaker(reason: Reason) -> str:
    paused = f"for calls to {reason.subject}, {paused_after(reason.limit or '')}"
    if reason.at is None:
        return f"{paused}: job {reason.head} tries now"
    return f"{paused}: job {reason.head} tries first, not before" if reason.head else f"{paused}, until"


def paused_after(failures: str) -> str:
    """Return why calls are paused, for example "paused after 3 failures in 10m" for "3 failures/10m"."""
    return f"paused after {failures.replace('/', ' in ')}"


def _words_of_tokens(reason: Reason) -> str:
    if (reason.slots or 0) < reason.wanted:
        return f"for {reason.wanted} {reason.subject}: bgd has {reason.slots or 'none'}"
    return f"for {reason.wanted} {reason.subject}: {_taken(reason)}"


def _words_of_share(reason: Reason) -> str:
    weight = f"queue {reason.subject} has weight {reason.limit}"
    return f"for its share of the slots: {weight}, and it is the turn of {', '.join(reason.queues)}"


def _words_of_slots(reason: Reason) -> str:
    if reason.head is None and reason.slots == reason.wanted == reason.taken == 1:
        return f"for the only slot: it is taken{_ahead(reason, ', and ')}"
    if reason.head is None:
        return f"for {reason.wanted} of {reason.slots} slots: {_taken(reason, of_all=False)}"
    others = reason if reason.ahead != 1 else replace(reason, ahead=None)  # the one before it is the head
    return f"behind job {reason.head}, which needs {reason.head_wants} slots; {_taken(others, of_all=False)}"


def _words_of_turn(reason: Reason) -> str:
    return f"for its turn{_ahead(reason, ': ')}" if reason.head is None else _words_of_slots(reason)


def _taken(reason: Reason, *, of_all: bool = True) -> str:
    of = f" of {reason.slots}" if of_all else ""
    return f"{reason.taken}{of} {'is' if reason.taken == 1 else 'are'} taken{_ahead(reason, ', and ')}"


def holders_in_words(reason: Reason) -> str:
    """Return which jobs hold what a job waits for."""
    more = f" and {reason.other_holders} more" if reason.other_holders else ""
    names = [f"{job} (suspended)" if job in reason.suspended else str(job) for job in reason.holders]
    if not reason.held:
        is_one = len(reason.holders) == 1 and not more
        jobs = f"{'job' if is_one else 'jobs'} {', '.join(names)}{more}"
        if reason.cause is Cause.LIMIT:
            return f"{jobs} {'holds' if is_one else 'hold'} {reason.subject}"
        return f"held by {jobs}"
    both = zip(names, reason.held, strict=True)
    return f"{', '.join(f'job {job} holds {reason.subject} {held}' for job, held in both)}{more}"


def _wait_for_node(code: str | None) -> str:
    """Return what a job in Slurm waits for; `code`: the reason in Slurm's own word, None: not known yet."""
    if code is None:
        return "in Slurm for a node"
    if (words := _SLURM_WORDS.get(code.partition(",")[0].partition(";")[0])) is None:
        return f"in Slurm: {code}"
    return f"in Slurm {words} ({code})"


# The most common ones; squeue(1) lists all
_SLURM_WORDS = {
    "Resources": "for resources",
    "Priority": "for jobs of higher priority",
    "BeginTime": "until it may begin",
    "ReqNodeNotAvail": "for a node that is not available",
    "PartitionDown": "for its partition, which is down",
    "PartitionNodeLimit": "for more nodes than its partition allows",
    "PartitionTimeLimit": "for more time than its partition allows",
    "Licenses": "for a licence",
    "Reservation": "for its reservation",
    "SUSPENDED": "until it continues the allocation",
}


def _ahead(reason: Reason, before: str) -> str:
    if not reason.ahead:
        return ""
    count = f"{reason.ahead} or more" if reason.ahead >= MAX_AHEAD else str(reason.ahead)
    return f"{before}{count} {'job is' if reason.ahead == 1 else 'jobs are'} before it"


_WORDS: dict[Cause, Callable[[Reason], str]] = {
    Cause.LAUNCHER: lambda it: f"for a launcher: {it.problem or 'it is starting'}",
    Cause.SHUTDOWN: lambda _: "until bgd starts again: it is shutting down",
    Cause.PAUSE: lambda _: "until `bgctl resume`: all queues are paused",
    Cause.QUEUE_PAUSE: lambda it: f"until `bgctl resume {it.subject}`: its queue is paused",
    Cause.DEADLOCK: lambda it: (
        f"in a deadlock, because jobs that wait hold what is needed: {it.problem}; cancel one, or allow more"
    ),
    Cause.HOLD: lambda it: f"until `bgctl release {it.subject}`",
    Cause.TIME: lambda _: "until",
    Cause.JOBS: lambda it: "for job" if len(it.jobs) == 1 else "for jobs",
    Cause.BREAKER: _words_of_breaker,
    Cause.LIMIT: lambda it: f"for limit {it.subject}: {_taken(it)}",
    Cause.QUEUE_SLOTS: lambda it: (
        f"for {'a slot' if it.wanted == 1 else f'{it.wanted} slots'} of queue {it.subject}: {_taken(it)}"
    ),
    Cause.SLOTS: _words_of_slots,
    Cause.TOKENS: _words_of_tokens,
    Cause.RATE: lambda it: f"for the rate of queue {it.subject}, {it.limit}{_ahead(it, ', ')}, until",
    Cause.LOAD: lambda it: f"for the load of the machine: {it.problem or 'it is too high'}",
    Cause.MEMORY: lambda it: f"for memory of the machine: {it.problem or 'too little is available'}",
    Cause.SHARE: _words_of_share,
    Cause.TURN: _words_of_turn,
    Cause.SUSPENSION: lambda it: f"until `bgctl continue {it.subject}`: it is suspended",
    Cause.START: lambda it: f"to be started{f': {it.problem}' if it.problem else ' by the launcher'}",
    Cause.REQUESTS: lambda _: "for bgd's own limit on requests to Slurm (requests_per_second)",
    Cause.CONTROLLER: lambda it: f"for Slurm's controller (retrying): {it.problem or 'unreachable'} since",
    Cause.NODE: lambda it: _wait_for_node(it.problem),
    Cause.PILOT: lambda it: (
        f"for room on a pilot of executor {it.subject}{f'; {it.problem}' if it.problem else ''}"
    ),
}


# --- when ---------------------------------------------------------------------------------------------------


def likely_start(  # noqa: PLR0911 (each for another reason why it is unknown)
    reasons: Sequence[Reason], running: Iterable[tuple[int, float | None]], seconds: float | None, now: float
) -> float | None:
    """Return when a job will likely start, epoch time; None: unknown.

    Args:
        reasons: what it waits for.
        running: for each running job, the slots that it holds of those waited for, and its likely end
            (epoch time; None: unknown; infinite while it is suspended).
        seconds: how long jobs of its name take; those before it are assumed to take as long.
        now: epoch time.
    """
    import heapq  # noqa: PLC0415 - clients import this module and only the daemon estimates

    if not reasons or any(reason.cause not in _PASSES_BY_ITSELF for reason in reasons):
        return None
    ready_at = max((reason.at or now for reason in reasons), default=now)
    if any(reason.cause is Cause.RATE and reason.ahead for reason in reasons):
        return None
    slots = next((reason for reason in reasons if reason.slots is not None), None)
    if any(reason.head is not None and reason is not slots for reason in reasons):
        return None
    if slots is None or slots.slots is None:
        return max(ready_at, now)
    free_at: list[float] = [now] * max(slots.slots - slots.taken, 0)
    for size, likely_end_at in running:
        if likely_end_at is None or likely_end_at < now:  # it takes longer than usual
            return None
        free_at += [likely_end_at] * size
    if slots.ahead is None or slots.ahead >= MAX_AHEAD or len(free_at) < slots.wanted:
        return None
    if slots.ahead and seconds is None:
        return None
    head_starts_at = sorted(free_at)[: max(min(slots.head_wants, slots.slots), 1)][-1]
    heapq.heapify(free_at)
    for _ in range(slots.ahead):
        heapq.heapreplace(free_at, free_at[0] + (seconds or 0.0))
    at = max(ready_at, head_starts_at, sorted(free_at)[slots.wanted - 1])
    return None if at == inf else at


_PASSES_BY_ITSELF = frozenset({Cause.TIME, Cause.QUEUE_SLOTS, Cause.SLOTS, Cause.RATE, Cause.TURN})
