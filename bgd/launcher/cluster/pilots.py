"""Pilots: launchers on the nodes of a cluster, in allocations of Slurm.

A pilot is a batch job in Slurm that runs this program on a node, with its journal in the shared folder. Most
run many short attempts in one allocation. An attempt that needs whole nodes, GPUs or more than shared pilots
have gets its own pilot, which ends with it.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections import Counter, OrderedDict
from collections.abc import Callable, Coroutine, Iterable
from functools import partial
from itertools import islice
from math import inf

from msgspec.structs import replace

from bgd.core.explain import Cause, Reason
from bgd.launcher.attempt import Attempt
from bgd.launcher.cluster.controller import Controller
from bgd.launcher.cluster.folder import PilotFolder
from bgd.launcher.cluster.pilot import Pilot, Stage
from bgd.launcher.cluster.run import PilotRun
from bgd.launcher.context import Context
from bgd.launcher.deadlines import settle
from bgd.launcher.journal import Began
from bgd.launcher.problems import one_line
from bgd.system.clock import elapsed
from bgd.wire.launching import AttemptEnded, AttemptKey, AttemptUsage, Launch, NotStarted, SlurmStart

log = logging.getLogger(__name__)


class PilotPool:
    """Gives the attempts of an executor to pilots in order, and starts pilots while there is work for them.

    Attributes:
        slurm, start: as configured last. Pilots of before keep what they were started with.
        controller_of: the controller that a SlurmStart means.
        lead: seconds from the submission of a pilot to its start, as seen last.
    """

    def __init__(
        self, context: Context, controller_of: Callable[[SlurmStart], Controller], launch: Launch
    ) -> None:
        self.context = context
        self.controller_of = controller_of
        assert launch.slurm is not None  # noqa: S101  checked by the caller
        self.slurm: SlurmStart = launch.slurm
        self.start = launch.slurm.pilot
        self.store = launch.key.store
        self._waiting: OrderedDict[AttemptKey, PilotRun] = OrderedDict()  # the next one first
        self._shared: dict[str, Pilot] = {}  # by their names
        self._own: dict[AttemptKey | None, Pilot] = {}  # each for one attempt alone
        self._connected: list[Pilot] = []  # of these, to be given their attempts
        self._unacknowledged: dict[AttemptKey, Pilot] = {}  # ended and recorded
        self._tasks: set[asyncio.Task[None]] = set()
        self._failures = Counter[AttemptKey | None]()  # consecutive pilots that ended before they worked
        self._left_out: dict[str, float] = {}  # nodes on which pilots fail, until when on the elapsed clock
        self._is_ending = False
        self._is_delayed = False  # until the journal can be written
        self._is_refused = False  # Slurm refuses more pilots for now
        self.lead = 0.0
        self._ended_at = -inf  # when the latest pilot did, on the elapsed clock
        self._due = inf  # when a pilot has too little time left, on the elapsed clock
        self._usual: dict[str, float] = {}  # the longest time that jobs took lately, by their names
        self._starts: dict[str, asyncio.Future[None]] = {}  # by the folders of pilots that wait in Slurm
        self._refusal: str | None = None  # why not, as logged last
        # a reset may have lost records: unknown attempts may run on pilots
        self._has_all_records = bool(context.journal.instance.covers)
        self._cause = self._reason = self.reason(Cause.PILOT)  # why attempts wait, and with obstacles
        self._tidying = self.begin(self._release_leftovers())
        self._tidying.add_done_callback(lambda _: self.assign())

    def reason(self, cause: Cause, code: str | None = None, at: float | None = None) -> Reason:
        """Return why attempts wait; `code`: Slurm's word for why it has no node for a pilot."""
        return Reason(cause=cause, subject=self.start.executor, problem=code, at=at)

    def note_refusal(self, problem: str | None) -> None:
        """Log why Slurm refuses pilots for now, in one line for all. None: it accepts one."""
        if problem is not None and problem != self._refusal:
            log.warning("executor %s: Slurm refuses a pilot for now: %s", self.start.executor, problem)
        self._refusal = problem

    async def execute(self, attempt: Attempt) -> PilotRun:
        """Start an attempt, or adopt one that a dead launcher started (see Executor)."""
        return PilotRun(attempt, self.context, self)

    def add(self, attempt: PilotRun) -> None:
        """Give it to a pilot as soon as one has room, or start one of its own."""
        assert attempt.launch.slurm is not None  # noqa: S101  as above
        self.slurm = attempt.launch.slurm
        if attempt.start.alone:
            self._begin(None, attempt)
            return
        self.start = attempt.start
        self._waiting[attempt.launch.key] = attempt
        self.assign()
        if attempt.launch.key in self._waiting:
            attempt.wait_for(self._reason)

    def requeue(self, attempt: PilotRun) -> None:
        """Give it to another pilot, because its pilot ended before starting it (R3)."""
        if attempt.is_taken_back() and not attempt.start.alone:  # `ended` starts the next pilot of its own
            self._waiting[attempt.launch.key] = attempt
            self._waiting.move_to_end(attempt.launch.key, last=False)

    def forget(self, attempt: PilotRun) -> None:
        """Remove it from the list, or end its own pilot. Later ones may fit where it did not."""
        if (pilot := self._own.get(attempt.launch.key)) is not None:
            pilot.close()
        if self._waiting.pop(attempt.launch.key, None) is not None:
            self.assign()

    def adopt(self, attempt: PilotRun, began: Began) -> None:
        """Find its pilot from a dead launcher."""
        assert began.pilot is not None  # noqa: S101  its journal says so
        own = attempt if attempt.start.alone else None
        pilot = self._shared.get(began.pilot[0]) if own is None else None
        (pilot or self._begin(began.pilot, own, attempt.launch.slurm)).adopt(attempt, began)

    def assign(self) -> None:
        """Give attempts to pilots with room; start a pilot for the rest."""
        if self._may_run_unknown_ones:
            return
        try:
            self._give_all()
        except OSError as error:
            if not self._is_delayed:
                log.warning("cannot write to the journal: %s; next try in %g s", error.strerror, _PAUSE)
                self._is_delayed = True
                self.context.deadlines.after(_PAUSE, self._assign_later)
            return
        if (first := self.first) is None or self._is_ending:
            return
        self._tell()
        for pilot in self._present:
            pilot.close_if_spent()
        # an empty one that is ending gives its node to the next by itself
        shared, nodes = [each for each in self._present if each.stage is not Stage.CLOSING], self.start.nodes
        times = [left for pilot in shared if (left := pilot.time_for(first, self.lead)) > 0.0]
        starting = sum(pilot.is_starting for pilot in shared)
        has_all = len(times) >= nodes or len(shared) >= 2 * nodes  # the others still have their nodes
        if not (has_all or starting > len(shared) - len(times) or self._is_refused):
            self._begin(None, None)
        if (due := elapsed() + min(times, default=inf)) < self._due:
            self._due = due
            self.context.deadlines.after(due - elapsed(), self._assign_later)

    def need_of(self, attempt: PilotRun, limit: float) -> float:
        """Return the seconds that an attempt may take of an allocation of `limit` seconds.

        They are its time limit, or the longest that those of its name took lately, or else a quarter; never
        more than three quarters, so that a new pilot takes it.
        """
        launch = attempt.launch
        usual = self._usual.get(attempt.start.name)
        need = limit / 4 if usual is None else _SLOWER * usual + _PAUSE
        if launch.timeout:
            need = launch.timeout + launch.grace
        return min(need, limit * 3 / 4)

    def note_wait(self, seconds: float) -> None:
        """Record how long a pilot waited; it may have waited for the node of one that has just ended."""
        is_handover = elapsed() - self._ended_at < _HANDOVER
        self.lead = min(seconds, self.lead) if is_handover else seconds

    def note_time(self, attempt: PilotRun, ended: AttemptEnded) -> None:
        """Record how long an attempt took."""
        if ended.run_seconds is not None:
            if len(self._usual) >= _MOST_NAMES:
                self._usual.clear()
            before = self._usual.get(attempt.start.name, 0.0)
            self._usual[attempt.start.name] = max(ended.run_seconds, before * _FORGETTING)

    def _assign_later(self) -> None:
        self._is_delayed, self._due = False, inf
        self.assign()

    def _give_all(self) -> None:
        """Give attempts to pilots with room; start pilots for those that are too large for all existing ones.

        Raises:
            OSError: the journal cannot be written.
        """
        while self._connected:
            pilot = self._connected[-1]
            if pilot.own is not None and pilot.has_room(pilot.own):
                pilot.give(pilot.own)
            self._connected.pop()
        shared = self._present
        while self._waiting:
            first = next(iter(self._waiting.values()))
            pilot_for_it = next((each for each in shared if each.has_room(first)), None)
            if pilot_for_it is not None:
                pilot_for_it.give(first)
            elif self._works and not any(each.is_large_enough(first) for each in shared):
                first.stand_alone()
                self._begin(None, first)
            else:
                return
            del self._waiting[first.launch.key]

    @property
    def _may_run_unknown_ones(self) -> bool:
        """Whether pilots from before a reset may still run unrecorded attempts."""
        if not self._has_all_records and self._tidying.done():
            self._has_all_records = all(each.runs_what_it_should for each in self._pilots)
        return not self._has_all_records

    def ask_usage(self) -> list[asyncio.Future[list[AttemptUsage]]]:
        """Ask all connected pilots what their attempts use."""
        return [answer for pilot in self._pilots if (answer := pilot.ask_usage()) is not None]

    @property
    def _pilots(self) -> list[Pilot]:
        return [*self._shared.values(), *self._own.values()]

    @property
    def _present(self) -> list[Pilot]:
        """The shared pilots on the cluster that is configured now."""
        return [each for each in self._shared.values() if each.slurm.conf == self.slurm.conf]

    @property
    def _works(self) -> bool:
        return any(not each.is_starting for each in self._present)

    def connected(self, pilot: Pilot) -> None:
        """Record that a pilot works."""
        self._failures.pop(pilot.own_key, None)
        if pilot.own is None:
            self.note_reason(self.reason(Cause.PILOT))
        else:
            self._connected.append(pilot)
        self.assign()

    def ended(self, pilot: Pilot, problem: str | None, node: str) -> None:
        """Record that a pilot is gone; `problem`: why it never worked, None if it did; `node`: where."""
        self._drop(pilot)
        self._ended_at = elapsed()
        own = pilot.own if pilot.own is not None and pilot.own.is_waiting else None
        if problem is not None:
            log.warning("executor %s: a pilot has ended: %s", self.start.executor, problem)
            self._failures[pilot.own_key] += 1
            if node:
                log.warning("avoiding node %s for %g s", node, _LEFT_OUT)
                self._left_out[node] = elapsed() + _LEFT_OUT
        if self._failures[pilot.own_key] >= _TRIES and (own is not None or not self._works):
            del self._failures[pilot.own_key]
            words = one_line(NotStarted.OTHER, f"no pilot works: {problem}")
            self._fail(self._waiting.values() if own is None else [own], words)
        elif own is not None:
            self._begin(None, own)
        self.assign()

    def refuse(self, pilot: Pilot, problem: str) -> None:
        """Record that Slurm refuses this pilot. Its other pilots, if any, continue."""
        self._drop(pilot)
        if pilot.own is not None:
            self._fail([pilot.own], problem)
        elif self._works:
            self.pause(problem)
        else:
            self._fail(self._waiting.values(), problem)

    def pause(self, problem: str) -> None:
        """Submit no shared pilot for half a minute."""
        log.warning("executor %s: %s; next try in %g s", self.start.executor, problem, _REFUSED)
        self._is_refused = True
        self.note_reason(self.reason(Cause.NODE, problem))
        self.context.deadlines.after(_REFUSED, self._try_again)

    def _try_again(self) -> None:
        self._is_refused = False
        self.assign()

    def nodes_left_out(self) -> list[str]:
        """Return the nodes on which pilots have failed recently."""
        self._left_out = {node: until for node, until in self._left_out.items() if until > elapsed()}
        return sorted(self._left_out)

    def leave_none_out(self) -> bool:
        """Use all nodes again; return whether any was avoided."""
        found, self._left_out = bool(self._left_out), {}
        return found

    def note_reason(self, reason: Reason) -> None:
        """Tell attempts that wait for any pilot the reason."""
        self._cause = reason
        self._tell()

    def _tell(self) -> None:
        reason = self._cause
        if reason.cause in {Cause.NODE, Cause.PILOT}:
            obstacles = dict.fromkeys([reason.problem, *(pilot.obstacle for pilot in self._present)])
            words = "; ".join(islice(filter(None, obstacles), _MOST_OBSTACLES))
            reason = replace(reason, problem=words or None)
        if reason != self._reason:
            self._reason = reason
            for attempt in self._waiting.values():
                attempt.wait_for(reason)

    @property
    def first(self) -> PilotRun | None:
        """The next attempt that waits for any pilot."""
        return next(iter(self._waiting.values()), None)

    def start_of(self, folder: str) -> asyncio.Future[None]:
        """Return a future that is done within two seconds of the start of the pilot in this folder.

        Cancel it when it is no longer needed. No system call tells of files that other machines write.
        """
        if not self._starts:
            self.begin(self._watch_starts())
        self._starts[folder] = asyncio.get_running_loop().create_future()
        return self._starts[folder]

    async def _watch_starts(self) -> None:
        shared = PilotFolder(self.context, self.slurm.folder, "")
        while True:
            await self.context.deadlines.timer(_PAUSE)
            self._starts = {folder: start for folder, start in self._starts.items() if not start.done()}
            if not self._starts:
                return
            for folder in await shared.begun(list(self._starts)):
                settle(self._starts[folder])

    async def released(self) -> None:
        """Wait until unrecorded pilots of an earlier launcher have ended."""
        await asyncio.shield(self._tidying)

    async def end(self) -> None:
        """Release all allocations; if Slurm does not answer soon, the pilots do it by themselves."""
        self._is_ending = True
        if ends := [self.begin(each.give_back()) for each in self._pilots]:
            await asyncio.wait(ends, timeout=_GIVE_BACK_SECONDS)
        for task in self._tasks:
            task.cancel()

    def begin(self, action: Coroutine[None, None, None]) -> asyncio.Task[None]:
        """Start a task that `end` cancels: it may hang on the shared folder, or wait for Slurm."""
        task = self.context.begin(action, "pilots")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def acknowledge(self, pilot: Pilot, key: AttemptKey) -> None:
        """Let a pilot forget an attempt once its recorded end survives a power failure."""
        if not self._unacknowledged:
            self.begin(self._acknowledge())
        self._unacknowledged[key] = pilot

    async def _acknowledge(self) -> None:
        """Tell pilots what they may forget, because it is on disk."""
        while self._unacknowledged:
            await self.context.deadlines.timer(_PAUSE)  # so that many share a sync
            recorded = dict(self._unacknowledged)
            await self.context.retry("the journal cannot be synced", self.context.journal.make_durable)
            for key, pilot in recorded.items():
                pilot.let_forget(key)
                del self._unacknowledged[key]

    @property
    def _prefix(self) -> str:
        return f"bgd-{self.store}-pilot-{self.start.executor}-"

    def _begin(
        self, known: tuple[str, int] | None, own: PilotRun | None, slurm: SlurmStart | None = None
    ) -> Pilot:
        """Start a pilot, or find the one of this name and number again, which was started with `slurm`.

        `own`: run this attempt alone.
        """
        name, number = known or (f"{self._prefix}{os.urandom(4).hex()}", None)
        pilot = Pilot(self, slurm or self.slurm, name, number, own)
        if own is None:
            self._shared[name] = pilot
        else:
            self._own[pilot.own_key] = pilot
        self.begin(pilot.live())
        return pilot

    def _drop(self, pilot: Pilot) -> None:
        if pilot.own is None:
            del self._shared[pilot.name]
        else:
            del self._own[pilot.own_key]

    def _fail(self, attempts: Iterable[PilotRun], problem: str) -> None:
        for attempt in list(attempts):
            self._waiting.pop(attempt.launch.key, None)
            attempt.refuse(problem)

    async def _release_leftovers(self) -> None:
        """End unrecorded pilots: a power failure may have destroyed the latest records."""
        names = partial(PilotFolder(self.context, self.slurm.folder, "").names, self._prefix)
        for name in await self.context.retry("what earlier launchers left cannot be listed yet", names):
            is_known = any(each.name == name for each in self._pilots)
            if name.rpartition("-")[0] == self._prefix[:-1] and not is_known:
                log.warning("ending pilot %s, left by an earlier launcher", name)
                await self.controller_of(self.slurm).release(name)
                folder = PilotFolder(self.context, self.slurm.folder, name)
                while (await folder.left()).is_locked:
                    await self.context.deadlines.timer(_PAUSE)
                await folder.remove()


_SLOWER = 1.2  # times the usual time
_HANDOVER = 20.0  # seconds from the end of a pilot to the start of the next on its node
_FORGETTING = 0.95  # of the longest time, with each that is shorter
_MOST_NAMES = 4096
_MOST_OBSTACLES = 3  # of pilots, that are told
_TRIES = 3  # pilots that end before they work, until waiting attempts fail
_LEFT_OUT = 600.0  # seconds to avoid a node on which a pilot failed
_PAUSE = 1.0
_REFUSED = 30.0  # seconds until the next pilot is requested
_GIVE_BACK_SECONDS = 5.0
