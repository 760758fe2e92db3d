"""Queues: which queued job starts next, within the slots and the rules of its queue, and why others wait."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache, partial
from itertools import islice
from math import ceil, inf

from msgspec.structs import replace

from bgd.core.breakers import Breakers
from bgd.core.conditions import reasons_before_queued
from bgd.core.explain import MAX_AHEAD, MAX_NAMED, OF_MACHINE, Cause, Reason, held_by
from bgd.core.heaps import ReadyHeap
from bgd.core.job import WAITING, Job, JobId, Now, State
from bgd.core.keylimits import KeyLimits
from bgd.core.limits import NO_TOKENS, ActiveJob, QueueRule, Resources, Shares, StartTimes, TokenPool, Tokens
from bgd.core.slots import Slots
from bgd.core.spec import MAX_ID, Demand

Lane = tuple[str | None, Demand, str | None, str | None]
"""Queued jobs of one queue, or of all without a rule (None), of the same resources, target and breaker."""

Urgency = tuple[int, JobId]
"""(-priority, id) of a queued job: smaller starts sooner."""

MAX_LANES = 64  # in which `next_jobs` looks


class ReadyQueues:
    """Queued jobs, and the slots and tokens of active ones.

    Jobs that can only start in their order share a lane, which has a heap. Choosing a job visits each lane
    once, but not one from which nothing could start, until its queue or its resources change.

    A job whose key has no free place leaves its lane when it comes to the top, until there is a place. One
    that skips stays, and its caller cancels it when its turn comes.

    A rule may change at any time at no cost. Jobs that were in the shared lane before their queue got a rule
    move to its own lane when they come to the top. Only a pause of the first queue in a shared lane, or a
    rule that its jobs run elsewhere, moves all at once.

    Nothing starves. The first job of a lane that waits only for tokens keeps later jobs from taking any of
    these resources; one that has its tokens and waits only for slots of its queue keeps later jobs of the
    queue from taking those; one that waits only for slots of the daemon keeps all later jobs waiting. A job
    whose queue is full claims no tokens, so others can use them, unless a later job of its queue runs.

    Args:
        slots: how many slots active jobs may take together.
        rules: of each queue that has one.
        job_of: returns the unfinished job with an id, None if there is none.
        alike_from: returns how many jobs with consecutive ids, from one on, differ only by their ids.
        resources: all tokens of each resource.

    Attributes:
        active: the jobs that hold a slot, and what else they hold.
        slots: of the daemon.
        limits: the keys that active jobs hold, and the queued jobs that wait for them.
        tokens: those of all resources, free and held.
        starts: when the latest jobs of queues with a rate have started.
        now: the time on the elapsed clock, for rates; the caller sets it as time passes.
    """

    def __init__(
        self,
        slots: int,
        rules: Mapping[str, QueueRule],
        job_of: Callable[[JobId], Job | None],
        alike_from: Callable[[JobId], int],
        resources: Resources = NO_TOKENS,
    ) -> None:
        self.slots = Slots()
        self.limits = KeyLimits(job_of, alike_from, self.push)
        self.breakers = Breakers()
        self._job_of = job_of
        self._heaps: dict[Lane, ReadyHeap] = {}
        self._lanes: dict[str | None, set[Lane]] = {None: set()}  # of each queue with lanes of its own
        self._mixed: set[Lane] = set()  # shared lanes that may have jobs of queues with lanes of their own
        self._wanting: dict[str, set[Lane]] = {}  # lanes that ask for each resource
        self._promising: set[Lane] = set()  # lanes from which a job might start
        self._taken_in: dict[tuple[str, str | None], int] = {}  # slots of active jobs, by queue and target
        self.tokens = TokenPool(resources)
        self.starts = StartTimes()
        self._shares = Shares()
        self.now = -inf
        self._closed: set[str] = set()  # queues that have reached their rate for now
        self.active: dict[JobId, ActiveJob] = {}
        self.resize(slots, rules, resources)

    def resize(self, slots: int, rules: Mapping[str, QueueRule], resources: Resources = NO_TOKENS) -> None:
        """Change slots, rules and tokens. Active jobs beyond the new limits stay active."""
        self.slots.total = slots
        self._rules = dict(rules)
        self.tokens.resize(resources)
        self.starts.configure({queue: rule.rate for queue, rule in rules.items() if rule.rate is not None})
        self._shares.configure({queue: rule.weight for queue, rule in rules.items()})
        self._apart = {queue for queue, rule in rules.items() if rule.apart}
        self._outside = {queue for queue, rule in rules.items() if rule.apart or rule.elsewhere}
        for lane in list(self._heaps):
            if self._top(lane) is None:
                self._drop(lane)
        for queue in self._lanes.keys() - rules.keys() - {None}:
            if not self._lanes[queue]:
                del self._lanes[queue]
        new = rules.keys() - self._lanes.keys()
        if new:
            self.limits.wake_all()  # into the lanes that they were in
            self._mixed |= self._lanes[None]
        for queue in new:
            self._lanes[queue] = set()
        if new & self._outside:
            self._leave_shared_lanes(new & self._outside)
        self._promising = set(self._heaps)

    def push(self, job: Job, count: int = 1) -> None:
        """Add a queued job; `count` as in ReadyHeap."""
        if job.conditions.limit is not None and self.limits.define(job, count):
            self._reconsider_all()
        lane = self._lane_of(job)
        heap = self._heaps.get(lane)
        if heap is None:
            heap = self._heaps[lane] = ReadyHeap(partial(self._is_live, lane))
            self._lanes[lane[0]].add(lane)
            for name, _ in lane[1]:
                self._wanting.setdefault(name, set()).add(lane)
        heap.push(job.id, job.priority, count)
        self._promising.add(lane)

    def forget(self, job: Job) -> None:
        """Record that a job left the queue without starting."""
        _, demand, target, breaker = self._lane_of(job)
        lanes = {(queue, demand, target, breaker) for queue in (None, job.queue)}
        for lane in lanes & self._heaps.keys():  # it may have been queued before its lane existed
            self._heaps[lane].forget()
            self._promising.add(lane)  # a smaller job may have been behind it
        self.limits.forget(job)
        self._reconsider(job)

    def take_next(self, *, is_paused: bool = False) -> Job | None:
        """Take the most urgent queued job that may start; None if there is none.

        Jobs that take none of the daemon's slots come first; with `is_paused` only those of queues that are
        apart come. A job that is larger than its queue may run alone in it. If the most urgent job needs more
        slots than are free, no job overtakes it. A job to be skipped stays in its lane.
        """
        if self._closed or self.breakers.keeping:
            self._open()
        for lane in self._promising & (self._lanes[None] if self.limits else self._mixed):
            self._top(lane)  # moves jobs to other lanes or lets them wait, before claims are checked
        outside = self._apart if is_paused else self._outside
        job = self._best(outside) if outside else None
        if job is None:
            free = self.slots.total - self.slots.taken
            job = None if free <= 0 or is_paused else self._best(None)
            if job is None or (self._size_of(job) > free and not self.limits.is_skipped(job)):
                return None
        if job.conditions.limit is not None and self.limits.is_skipped(job):
            return job
        self._heaps[self._lane_of(job)].pop()
        if self._wanting:
            self._reconsider(job)
        return job

    def next_jobs(self, most: int) -> list[Job]:
        """Return up to `most` queued jobs that probably start next; each may, as soon as there are slots.

        Jobs that need tokens, are calls that may be paused, or take no slots are left out.
        """
        lanes = self._promising.union(*(self._lanes.get(queue, ()) for queue, _ in self._taken_in))
        found: list[tuple[int, int, JobId]] = []
        for lane in islice(lanes, MAX_LANES):
            if lane[0] not in self._outside and lane[1:] == ((), None, None):
                first = enumerate(self._heaps[lane].first(most))
                found += ((top[0], turn if self._shares.are_set else 0, top[1]) for turn, top in first)
        jobs = filter(None, (self._job_of(job_id) for *_, job_id in sorted(found)))
        return [job for job in jobs if self._is_open(job) and not self.limits.is_full(job)][:most]

    def _best(self, queues: set[str] | None) -> Job | None:
        """Return the most urgent job that may start as soon as there are slots for it, or None.

        Only jobs of these queues count; None: jobs that take the daemon's slots.
        """
        best: tuple[int, float, JobId] | None = None
        shares = self._shares.are_set and queues is None
        chosen: Job | None = None
        for lane in list(self._promising):
            if lane[0] in self._outside if queues is None else lane[0] not in queues:
                continue
            top = self._top(lane)
            place = None if top is None else (top[0], self._shares.used(lane[0]) if shares else 0.0, top[1])
            if place is not None and best is not None and place >= best:
                continue
            job = None if top is None else self._job_of(top[1])
            if top is not None and job is not None and self._may_start(lane, top, job):
                best, chosen = place, job
                continue
            self._promising.discard(lane)
            if top is None and lane[1:] != ((), None, None):  # there may be very many, one after the other
                self._drop(lane)
        return chosen

    def _open(self) -> None:
        """Recheck queues whose rate lets another job start now."""
        for queue in [queue for queue in self._closed if self.starts.is_open(queue, self.now)]:
            self._closed.remove(queue)
            self._promising |= self._lanes.get(queue, set())
        for breaker in self.breakers.take_resumed(self.now):
            self._promising |= self._lanes_of(breaker)

    def _lanes_of(self, breaker: str) -> set[Lane]:
        return {lane for lane in self._heaps if lane[3] == breaker}

    def openings(self) -> Iterator[tuple[str, float]]:
        """Yield the queues that have reached their rate, and until when, on the elapsed clock."""
        for queue in self.starts.rates:
            at = self.starts.opens_at(queue)
            if at is not None and at > self.now and not self._rules[queue].paused:
                yield queue, at

    # --- which jobs wait for which -------------------------------------------------------------------------

    def _may_start(self, lane: Lane, top: Urgency, job: Job) -> bool:
        """Return whether the first job of a lane may start as soon as there are slots for it."""
        if lane[3] is not None and self.breakers.keeps(lane[3], self.now):
            return False
        if not self._has_room(job) or (lane[1] and not self._has_tokens(lane, top)):
            return False
        mates = () if lane[0] is None else self._lanes[lane[0]]
        return len(mates) <= 1 or not any(
            self._waits_for_room(mate, top) for mate in tuple(mates) if mate != lane and mate[2] == lane[2]
        )

    def _has_tokens(self, lane: Lane, top: Urgency) -> bool:
        """Return whether tokens are free for the first job of a lane, and no more urgent job claims them."""
        if not self.tokens.are_free(lane[1]):
            return False
        rivals = {other for name, _ in lane[1] for other in self._wanting[name]} - {lane}
        return not any(self._claims(other, top) for other in rivals)

    def _claims(self, lane: Lane, top: Urgency) -> bool:
        """Return whether a lane begins with a job that is more urgent than `top` and claims its tokens."""
        first = self._first_before(lane, top)
        if first is None or not self.tokens.can_ever_have(lane[1]):
            return False
        rule = self._rules.get(first.queue)
        return self._has_room(first) or (rule is not None and not rule.paused and self._is_overtaken(first))

    def _waits_for_room(self, lane: Lane, top: Urgency) -> bool:
        """Return whether a lane begins with a job more urgent than `top` that lacks only slots of a queue."""
        first = self._first_before(lane, top)
        return (
            first is not None
            and not self._has_room(first)
            and self._has_tokens(lane, (-first.priority, first.id))
        )

    def _first_before(self, lane: Lane, top: Urgency) -> Job | None:
        first = self._top(lane)
        if first is None or first >= top or (lane[3] and self.breakers.keeps(lane[3], self.now)):
            return None  # a job whose calls are paused claims nothing
        return self._job_of(first[1])

    def _is_overtaken(self, job: Job) -> bool:
        """Return whether a less urgent job of its queue is active."""
        urgency = (-job.priority, job.id)
        return any(held.queue == job.queue and held.urgency > urgency for held in self.active.values())

    def _reconsider(self, job: Job) -> None:
        """Recheck all lanes that a change of this job's queue or resources may affect."""
        queue, demand, *_ = self._lane_of(job)
        self._promising |= self._lanes[queue]
        if not self._wanting:
            return
        found: set[Lane] = set()
        ahead = [*self._lanes[queue]]
        ahead += [lane for name, _ in demand for lane in self._wanting.get(name, ())]
        while ahead:  # a lane that may take tokens again may block others of its queue, and so on
            lane = ahead.pop()
            if lane not in found:
                found.add(lane)
                ahead += () if lane[0] is None else self._lanes[lane[0]]
                ahead += [other for name, _ in lane[1] for other in self._wanting[name]]
        self._promising |= found

    def _reconsider_all(self) -> None:
        """Recheck all lanes, because a job that now waits for its key claims no tokens and no room."""
        if self._wanting:
            self._promising = set(self._heaps)

    # --- why one waits --------------------------------------------------------------------------------

    def explain(self, job: Job, obstacles: Iterable[Cause], now: Now) -> tuple[Reason, ...]:
        """Return everything that keeps an unfinished job from running: granting all of it starts the job.

        `obstacles`: what keeps the daemon from starting any job.
        """
        if job.state not in WAITING:
            is_stopped = job.state is State.RUNNING and job.suspended
            return (Reason(cause=Cause.SUSPENSION, subject=str(job.id)),) if is_stopped else ()
        reasons, short, of_machine = self._reasons(job, obstacles, now, self._first_of)
        before, turn = self._before(job), self._turn_of(job)
        if not short and (before != set() or not (reasons or of_machine or turn)):
            short = [self._turn]
        short = self._with_ahead(self._with_head(short, job, self._wide_head()), before)
        if turn is not None:
            short.append(turn)
        return (*reasons, *short, *of_machine)

    def explain_queued(
        self, jobs: Iterable[Job], obstacles: Sequence[Cause], now: Now
    ) -> Iterator[tuple[Reason, ...]]:
        """Yield the same for each of these queued jobs, except the jobs before it and its turn in a share.

        What concerns all of them is looked up once, and the cost of each depends only on its resources. A job
        that only waits for its turn has no reason.
        """
        for lane in list(self._heaps):
            self._top(lane)  # moves jobs to other lanes
        head, first_of = self._wide_head(), cache(self._first_of)
        for job in jobs:
            reasons, short, of_machine = self._reasons(job, obstacles, now, first_of)
            yield (*reasons, *self._with_head(short, job, head), *of_machine)

    def _reasons(
        self,
        job: Job,
        obstacles: Iterable[Cause],
        now: Now,
        first_of: Callable[[str], Urgency | None],
    ) -> tuple[list[Reason], list[Reason], list[Reason]]:
        """Return what keeps a waiting job from its turn, what it is short of, and what the machine lacks."""
        rule = self.rule_of(job.queue)
        ignored = {Cause.PAUSE, *OF_MACHINE} if rule.apart else set()
        named = [Reason(cause=cause) for cause in obstacles if cause not in ignored]
        reasons = [reason for reason in named if reason.cause not in OF_MACHINE]
        if rule.paused:
            reasons.append(Reason(cause=Cause.QUEUE_PAUSE, subject=job.queue))
        reasons += reasons_before_queued(job, now)
        of_machine = [reason for reason in named if reason.cause in OF_MACHINE]
        return reasons, list(self._short_of(job, rule, now, first_of)), of_machine

    @property
    def _turn(self) -> Reason:
        return Reason(cause=Cause.TURN, slots=self.slots.total, taken=self.slots.taken)

    def _with_ahead(self, short: list[Reason], before: set[JobId] | None) -> list[Reason]:
        """Return what a job is short of, and how many jobs are before it: for a limit those with its key."""
        if not short or before is None:
            return short
        if short[0].cause is Cause.LIMIT:
            same = sum(self.limits.has_key(each, short[0].subject) for each in before)
            # of more than MAX_AHEAD jobs some are not looked at
            ahead = same if len(before) < MAX_AHEAD or same >= MAX_AHEAD else None
            return [replace(short[0], ahead=ahead), *self._with_ahead(short[1:], before)]
        return [replace(short[0], ahead=min(len(before), MAX_AHEAD)), *short[1:]]

    def _with_head(self, short: list[Reason], job: Job, head: Job | None) -> list[Reason]:
        """Return what a job is short of, and which job before it has to get its slots first."""
        if head is None or job.queue in self._outside or (-head.priority, head.id) >= (-job.priority, job.id):
            return short
        named = {"head": head.id, "head_wants": head.conditions.slots}
        if not any(reason.cause in _OF_ALL_SLOTS for reason in short):
            return [*short, replace(self._turn, **named)]
        return [replace(each, **named) if each.cause in _OF_ALL_SLOTS else each for each in short]

    def _wide_head(self) -> Job | None:
        """Return the job that holds others back because it needs several slots, more than are free."""
        head = self._best(None)
        free = max(self.slots.total - self.slots.taken, 1)
        return head if head is not None and self._size_of(head) > free else None

    def _first_of(self, breaker: str) -> Urgency | None:
        """Return the first queued job whose calls a breaker pauses."""
        return min(filter(None, map(self._top, self._lanes_of(breaker))), default=None)

    def rule_of(self, queue: str) -> QueueRule:
        """Return the rule of a queue; the usual one if it has none."""
        return self._rules.get(queue, QueueRule())

    def with_holders(self, reason: Reason) -> Reason:
        """Return a reason with the active jobs that hold what it is about."""
        held = self.holders_of(reason)
        suspended = {job for job in held if (known := self._job_of(job)) is not None and known.suspended}
        return held_by(reason, held, suspended)

    def holders_of(self, reason: Reason) -> dict[JobId, str]:
        """Return the active jobs that hold what a reason is about, slots, tokens or a key, and the tokens."""
        match reason.cause:
            case Cause.TURN if reason.head is None:
                return {}
            case Cause.SLOTS | Cause.TURN:
                return {job: "" for job, held in self.active.items() if held.number}
            case Cause.QUEUE_SLOTS:
                return {job: "" for job, held in self.active.items() if held.queue == reason.subject}
            case Cause.LIMIT:
                return self.limits.holders(reason.subject)
            case Cause.TOKENS:
                tokens = {job: held.tokens.get(reason.subject, ()) for job, held in self.active.items()}
                return {job: ", ".join(each) for job, each in tokens.items() if each}
            case _:
                return {}

    def _short_of(
        self, job: Job, rule: QueueRule, now: Now, first_of: Callable[[str], Urgency | None]
    ) -> Iterator[Reason]:
        if (breaker := job.policy.breaker) is not None and self.breakers.is_paused(breaker, now.elapsed):
            yield self.breakers.reason(breaker, first_of(breaker), now)
        size, limit = self._size_of(job), job.conditions.limit
        if limit is not None and self.limits.must_wait(job):
            yield self.limits.reason(limit)
        if not self._has_slots(job, rule):
            slots, taken = self._slots_for(job, rule)
            yield Reason(cause=Cause.QUEUE_SLOTS, subject=job.queue, wanted=size, slots=slots, taken=taken)
        if job.queue not in self._outside and self.slots.taken + size > self.slots.total:
            yield Reason(cause=Cause.SLOTS, wanted=size, slots=self.slots.total, taken=self.slots.taken)
        for name, wanted in job.conditions.resources:
            free, total = self.tokens.free(name), self.tokens.totals.get(name, 0)
            if wanted > free:
                yield Reason(cause=Cause.TOKENS, subject=name, wanted=wanted, slots=total, taken=total - free)
        opens_at = self.starts.opens_at(job.queue)
        if rule.rate is not None and opens_at is not None and opens_at > now.elapsed:
            # whole seconds: otherwise every answer would differ slightly
            at = float(ceil(now.wall + opens_at - now.elapsed))
            yield Reason(cause=Cause.RATE, subject=job.queue, limit=rule.rate.text, at=at)

    def _before(self, job: Job) -> set[JobId] | None:
        """Return the queued jobs that start before this one, MAX_AHEAD or more of them if there are more.

        None: too many to visit.

        Those of another lane count if its first one may start, given slots, or keeps this one waiting.
        """
        for lane in list(self._heaps):
            self._top(lane)  # moves jobs to other lanes
        own, urgency = self._lane_of(job), (-job.priority, job.id)
        waiting = self.limits.waiting_before(job, MAX_AHEAD)
        before = {each for each in waiting if not self._is_in_turn(each, job)}  # in a set: some come twice
        for lane in list(self._heaps):
            limit = (-job.priority, JobId(0)) if self._take_turns(own, lane) else urgency
            if lane == own or self._is_before(lane, own, limit):
                found = self._heaps[lane].first_before(limit[1], job.priority, MAX_AHEAD)
                if found is None:
                    return None
                before |= {each for each in found if not self._is_in_turn(each, job)}
                if len(before) >= MAX_AHEAD:
                    return before
        return before

    def _take_turns(self, one: Lane, other: Lane) -> bool:
        """Return whether weights decide between jobs of two lanes that have the same priority."""
        is_shared = self._shares.share_of(one[0]) == self._shares.share_of(other[0])
        return self._shares.are_set and not is_shared and not _names(one) & _names(other)

    def _is_in_turn(self, other_id: JobId, job: Job) -> bool:
        """Return whether weights decide between two jobs; the other one may still be in its earlier lane."""
        other = self._job_of(other_id)
        return (
            other is not None
            and other.priority == job.priority
            and self._take_turns(self._lane_of(other), self._lane_of(job))
        )

    def _is_before(self, lane: Lane, own: Lane, urgency: Urgency) -> bool:
        first = self._first_before(lane, urgency)
        if first is None:
            return False
        shares = bool(_names(own) & _names(lane))
        if lane[0] == own[0] and lane[2] == own[2]:  # if the queue is paused, they start once it is not
            return self.tokens.are_free(lane[1]) or (shares and self.tokens.can_ever_have(lane[1]))
        are_rivals = not {lane[0], own[0]} & self._outside and self._has_room(first)
        return (are_rivals and self.tokens.are_free(lane[1])) or (shares and self._claims(lane, urgency))

    def _turn_of(self, job: Job) -> Reason | None:
        """Return which queues are served before a job's queue; None: none is, or queues take no turns.

        Jobs of other priorities and jobs that could not start now do not count.
        """
        if not self._shares.are_set or job.queue in self._outside:
            return None
        own = self._shares.share_of(job.queue)
        mine = self._shares.used(job.queue), job.id
        weight = weights = self._shares.weight_of(job.queue)
        before: list[tuple[float, JobId, str]] = []
        for share, jobs in self._first_by_share(job.priority).items():
            ready = (
                each for each in jobs if self._may_start(self._lane_of(each), (-each.priority, each.id), each)
            )
            if share != own and (first := next(ready, None)) is not None:
                weights += self._shares.weight_of(first.queue)
                before.append((self._shares.used(first.queue), first.id, first.queue))
        queues = tuple(queue for *turn, queue in sorted(before) if tuple(turn) < mine)
        if not queues:
            return None
        named, more = queues[:MAX_NAMED], len(queues[MAX_NAMED:])
        limit = f"{weight} of {weights}"
        return Reason(cause=Cause.SHARE, subject=job.queue, limit=limit, queues=named, more=more)

    def _first_by_share(self, priority: int) -> dict[str | None, list[Job]]:
        """Return the first job of this priority of each lane, by share and in order.

        If there are very many lanes, only some count. A job may still be in the shared lane, from before its
        queue got lanes of its own.
        """
        ids: set[JobId] = set()
        for lane, heap in list(self._heaps.items()):
            first = heap.first_of(priority)
            ids |= set() if first is None else {first}
            if lane[0] is None:
                ids |= heap.first_before(JobId(MAX_ID), priority, MAX_AHEAD) or set()
        found: dict[str | None, list[Job]] = {}
        for other in filter(None, map(self._job_of, sorted(ids))):
            jobs = found.setdefault(self._shares.share_of(other.queue), [])
            if other.priority == priority and other.queue not in self._outside and len(jobs) < MAX_AHEAD:
                jobs.append(other)
        return found

    # --- active jobs ----------------------------------------------------------------------------------

    def occupy(self, job: Job, adopted: int | None = None) -> tuple[int, Tokens]:
        """Give a taken job a slot (0: none of ours) and tokens; return both.

        `adopted`: the slot in which it has begun already, before this daemon counted shares; 0: unknown.
        """
        size, number = self._size_of(job), adopted or 0
        if number:
            self.slots.retake(number, size)
        elif job.queue not in self._outside:
            number = self.slots.take(size)
        if self._shares.are_set and number and adopted is None:
            self._shares.use(job.queue, size)
        if self.starts.rates:
            self.starts.note(job.queue, self.now)
        if job.policy.breaker is not None:
            self.breakers.started(job.policy.breaker, job.id)
        if (limit := job.conditions.limit) is not None:
            self.limits.take(job, limit)
            self._reconsider_all()
        demand = job.conditions.resources
        tokens = self.tokens.take(demand) if demand else NO_TOKENS
        self._occupy(job, number, tokens)
        return number, tokens

    def reoccupy(self, job: Job, number: int, tokens: Tokens) -> None:
        """Give an active job the slot number and tokens that it had before."""
        if number:
            self.slots.retake(number, self._size_of(job))
        if tokens:
            self.tokens.restore(tokens)
        if (limit := job.conditions.limit) is not None:
            self.limits.take(job, limit)
        self._occupy(job, number, tokens)

    def vacate(self, job: Job) -> None:
        """Release the slots and tokens of a job whose attempt has ended."""
        held = self.active.pop(job.id)
        if held.number:
            self.slots.give_back(held.number, held.size)
        sharers = job.queue, job.conditions.target
        self._taken_in[sharers] -= held.size
        if not self._taken_in[sharers]:
            del self._taken_in[sharers]
        if held.tokens:
            self.tokens.give_back(held.tokens)
        if (limit := job.conditions.limit) is not None:
            self.limits.give_back(job, limit)
        self._reconsider(job)

    def __len__(self) -> int:
        """Return how many entries the heaps hold, including dead ones that are not swept yet."""
        return sum(map(len, self._heaps.values()))

    def _occupy(self, job: Job, number: int, tokens: Tokens) -> None:
        size = self._size_of(job)
        self.active[job.id] = ActiveJob(number, size, tokens, job.queue, (-job.priority, job.id))
        sharers = job.queue, job.conditions.target
        self._taken_in[sharers] = self._taken_in.get(sharers, 0) + size

    # --- lanes ----------------------------------------------------------------------------------------

    def _top(self, lane: Lane) -> Urgency | None:
        """Return the top of a lane, once jobs are in the lane of their queue or wait for their key."""
        heap = self._heaps[lane]
        while (top := heap.top()) is not None and (lane in self._mixed or self.limits):
            job = self._job_of(top[1])
            if job is not None and lane[0] is None and job.queue in self._lanes:
                heap.pop()
                self.push(job)
            elif job is None or (limit := job.conditions.limit) is None:
                break
            elif self.limits.define(job):  # which may change the top
                self._reconsider_all()
            elif self.limits.must_wait(job):
                self.limits.park(job, limit, lane, heap)
            else:
                break
        if top is None:
            self._mixed.discard(lane)
        return top

    def _leave_shared_lanes(self, queues: set[str]) -> None:
        """Put the jobs of these queues into lanes of their own, because they need not wait for others."""
        for lane in tuple(self._lanes[None]):
            for job in filter(None, map(self._job_of, self._heaps[lane].ids())):
                if job.queue in queues:
                    self.push(job)

    def _drop(self, lane: Lane) -> None:
        del self._heaps[lane]
        self._lanes[lane[0]].discard(lane)
        for name, _ in lane[1]:
            self._wanting[name].discard(lane)
            if not self._wanting[name]:
                del self._wanting[name]

    def _has_room(self, job: Job) -> bool:
        rule = self._rules.get(job.queue)
        return rule is None or (self._is_open(job) and self._has_slots(job, rule))

    def _is_open(self, job: Job) -> bool:
        """Return whether the rule of a job's queue, except its slots, lets it start now."""
        rule = self._rules.get(job.queue)
        if rule is not None and rule.rate is not None and not self.starts.is_open(job.queue, self.now):
            self._closed.add(job.queue)
            return False
        return rule is None or not rule.paused

    def _has_slots(self, job: Job, rule: QueueRule) -> bool:
        slots, taken = self._slots_for(job, rule)
        return slots is None or taken == 0 or taken + self._size_of(job) <= slots

    def _slots_for(self, job: Job, rule: QueueRule) -> tuple[int | None, int]:
        """Return the number of slots of a job's queue or target, and how many are taken."""
        target = job.conditions.target
        return rule.slots if target is None else 1, self._taken_in.get((job.queue, target), 0)

    def _size_of(self, job: Job) -> int:
        """Return how many slots a job takes, at most all."""
        wanted = job.conditions.slots
        return wanted if job.queue in self._outside else min(wanted, self.slots.total)

    def _lane_of(self, job: Job) -> Lane:
        conditions = job.conditions
        queue = job.queue if job.queue in self._lanes else None
        return queue, conditions.resources, conditions.target, job.policy.breaker

    def _is_live(self, lane: Lane, job_id: JobId, priority: int) -> bool:
        """Return whether an entry still stands for a queued job; a job that changed lanes is elsewhere."""
        job = self._job_of(job_id)
        if job is None or job.state is not State.QUEUED or job.priority != priority:
            return False
        is_shared = lane[0] is None and (job.queue not in self._lanes or lane in self._mixed)
        kind = job.conditions.resources, job.conditions.target, job.policy.breaker
        return (is_shared or lane[0] == job.queue) and lane[1:] == kind


_OF_ALL_SLOTS = {Cause.SLOTS, Cause.TURN}


def _names(lane: Lane) -> set[str]:
    return {name for name, _ in lane[1]}
