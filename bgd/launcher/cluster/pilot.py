"""One pilot, seen from the launcher that submitted it, and its attempts.

It implements the rules R1 to R8, so this launcher talks to it like a supervisor. It is reached by an
srun that connects to its socket (bgd/launcher/cluster/relay.py); if that dies, another one takes its place,
and a new launcher adopts the pilots of its predecessor with their attempts. A pilot that hears nothing ends
by itself, and its allocation with it.
"""

from __future__ import annotations

import asyncio
import logging
import math
import socket
import time
from collections.abc import Collection
from enum import StrEnum
from functools import partial
from typing import TYPE_CHECKING

from msgspec.structs import replace

from bgd.core.explain import Cause, Reason
from bgd.core.job import Outcome
from bgd.errors import ProtocolError
from bgd.launcher.children import Child
from bgd.launcher.cluster.connection import PilotConnection
from bgd.launcher.cluster.controller import SlurmJob, excluding, number_in, pauses
from bgd.launcher.cluster.folder import LEASE, Leftovers, PilotFolder
from bgd.launcher.deadlines import Deadline
from bgd.launcher.journal import Began
from bgd.launcher.problems import CannotStart, one_line, printable
from bgd.system.clock import elapsed
from bgd.wire import launching
from bgd.wire.launching import (
    AttemptEnded,
    AttemptKey,
    AttemptStarted,
    AttemptUsage,
    FromLauncher,
    PilotNode,
    SlurmStart,
    ToLauncher,
)
from bgd.wire.slurm import is_incurable, message_in

if TYPE_CHECKING:
    from bgd.launcher.cluster.pilots import PilotPool
    from bgd.launcher.cluster.run import PilotRun

log = logging.getLogger(__name__)


class Stage(StrEnum):
    """How far a pilot has come."""

    WAITING = "waiting"  # for its node, or for its first connection
    ADOPTED = "adopted"  # it may have worked for an earlier launcher, and is not connected yet
    WORKING = "working"
    DRAINING = "draining"  # as its node does: it takes nothing more, and ends once it is empty
    CLOSING = "closing"  # it is to end, and takes nothing more
    STUCK = "stuck"  # Slurm said that it ran, and it never answered: bgd has cancelled it
    HUNG = "hung"  # it answered no more: bgd has cancelled it
    UNWATCHED = "unwatched"  # it has ended, and Slurm does not notice: bgd has cancelled it
    GONE = "gone"


class Move(StrEnum):
    """What takes a pilot from one stage to another."""

    GREET = "greet"
    DRAIN = "drain"
    RESUME = "resume"
    CLOSE = "close"
    HANG = "hang"
    DIE = "die"
    END = "end"


_LATER = {Move.HANG: Stage.HUNG, Move.DIE: Stage.UNWATCHED, Move.END: Stage.GONE}
_MOVES: dict[Stage, dict[Move, Stage]] = {  # those that change something
    Stage.WAITING: {
        Move.GREET: Stage.WORKING,
        Move.CLOSE: Stage.CLOSING,
        Move.HANG: Stage.STUCK,
        Move.END: Stage.GONE,
    },
    Stage.ADOPTED: {Move.GREET: Stage.WORKING, Move.CLOSE: Stage.CLOSING, **_LATER},
    Stage.WORKING: {Move.DRAIN: Stage.DRAINING, Move.CLOSE: Stage.CLOSING, **_LATER},
    Stage.DRAINING: {Move.RESUME: Stage.WORKING, Move.CLOSE: Stage.CLOSING, **_LATER},
    Stage.CLOSING: _LATER,
    Stage.STUCK: {Move.GREET: Stage.HUNG, Move.END: Stage.GONE},
    Stage.HUNG: {Move.END: Stage.GONE},
    Stage.UNWATCHED: {Move.GREET: Stage.WORKING, Move.END: Stage.GONE},  # submitted again, for what it left
    Stage.GONE: {},
}


class Pilot:
    """One batch job of Slurm that runs a launcher, and its attempts.

    Attributes:
        slurm: its cluster and folder.
        own: its only attempt; None: it is for many.
        number: of its job in Slurm; None: it is not submitted.
        node: its node from Slurm; None: not known yet.
        stage: how far it has come.
    """

    def __init__(
        self, pool: PilotPool, slurm: SlurmStart, name: str, number: int | None, own: PilotRun | None
    ) -> None:
        self.slurm = slurm
        self.name = name
        self.number = number
        self.own = own
        self.node: PilotNode | None = None
        self.stage = Stage.WAITING if number is None else Stage.ADOPTED
        self._pool = pool
        self._context = pool.context
        self._controller = pool.controller_of(slurm)
        self._folder = PilotFolder(pool.context, slurm.folder, name)
        self._python = slurm.python
        self._attempts: dict[AttemptKey, PilotRun] = {}
        self._ended: set[AttemptKey] = set()  # which it must not forget yet
        self._strangers: set[AttemptKey] = set()  # attempts that it runs and no record names
        self._held: dict[AttemptKey, AttemptEnded] = {}  # ends whose cause Slurm may know
        self._heard_at = elapsed()  # when it was last connected
        self._is_reached = True  # by the latest connection
        self._start: asyncio.Future[None] | None = None  # of its script, while it waits
        self._submitted_at = math.inf
        self._job: SlurmJob | None = None  # as Slurm said last
        self._time = math.inf  # seconds that it had left when it began to work
        self._began_at = -math.inf  # to work for this launcher
        self._connection: PilotConnection | None = None
        self._idle: Deadline | None = None
        self._watch_idleness()

    @property
    def is_starting(self) -> bool:
        """Whether it has not greeted yet."""
        return self.node is None

    def _move(self, move: Move) -> None:
        if move not in _MOVES[self.stage]:
            return
        self.stage = _MOVES[self.stage][move]
        if self.stage is not Stage.WAITING:
            self._controller.note_shortage(self.name, is_short=False)
            if self._start is not None:
                self._start.cancel()
        self._watch_idleness()

    @property
    def own_key(self) -> AttemptKey | None:
        """The key of its only attempt."""
        return None if self.own is None else self.own.launch.key

    def has_room(self, attempt: PilotRun) -> bool:
        """Whether it can take an attempt now."""
        if self._ready is None or self.stage is not Stage.WORKING or self.node is None:
            return False
        if self.own is not None:
            return self.own is attempt and attempt.is_waiting
        return self.time_for(attempt) > 0.0 and _fit(self.node, [attempt, *self._attempts.values()])

    def time_for(self, attempt: PilotRun | None, lead: float = 0.0) -> float:
        """Return for how many more seconds it takes an attempt if it has room; `lead` seconds less."""
        if self._is_suspended or self.stage in {Stage.DRAINING, Stage.CLOSING}:
            return 0.0
        if attempt is None or self._job is None or self._job.limit == math.inf or self.is_starting:
            return math.inf
        limit = min(self._job.limit, self._time)
        needed = self._pool.need_of(attempt, limit) + min(lead, limit / 4)
        return self._job.ends_at - elapsed() - needed

    @property
    def obstacle(self) -> str:
        """Why it does not take what waits, in words; empty: only for lack of room."""
        node = self.node.name if self.node is not None else ""
        if self._is_suspended:
            return f"the pilot on node {node} is suspended in Slurm"
        if self.stage is Stage.DRAINING:
            return self._controller.unusable.get(node, "")
        is_over = self.stage is Stage.WORKING and self.time_for(self._pool.first) <= 0.0
        return f"too little time is left on node {node}" if is_over else ""

    @property
    def _is_suspended(self) -> bool:
        return self._job is not None and self._job.state == _SUSPENDED

    @property
    def runs_what_it_should(self) -> bool:
        """Whether its snapshot is complete, if it is from an earlier launcher, and it runs nothing else."""
        return self.stage is not Stage.ADOPTED and not self._strangers

    def is_large_enough(self, attempt: PilotRun) -> bool:
        """Whether an attempt would fit on the empty pilot, as far as known."""
        return self.node is None or _fit(self.node, [attempt])

    def give(self, attempt: PilotRun) -> None:
        """Give it an attempt to run.

        Raises:
            OSError: the journal cannot be written; nothing has begun.
        """
        assert self.number is not None  # noqa: S101  it is connected
        slurm = attempt.launch.slurm
        assert slurm is not None  # noqa: S101  it is for a pilot
        # where the pilot is, which may be another cluster than the one that is configured since
        there = replace(slurm, conf=self.slurm.conf, folder=self.slurm.folder, python=self.slurm.python)
        launch, now = replace(attempt.launch, slurm=there), elapsed()
        stopped = attempt.is_suspended
        began = Began(
            launch.key, 0, now, time.time(), launch=launch, pilot=(self.name, self.number), suspended=stopped
        )
        self._context.journal.add_step(began)
        self.adopt(attempt, began)

    def adopt(self, attempt: PilotRun, began: Began) -> None:
        """Add an attempt that the pilot may or may not know, and send it."""
        key = attempt.launch.key
        self._attempts[key] = attempt
        attempt.given_to(self, began)
        self._watch_idleness()
        self._repeat(attempt)

    def let_forget(self, key: AttemptKey) -> None:
        """Let it forget an attempt that has ended."""
        self._ended.discard(key)
        self.send(launching.Acknowledge(key))
        if self.stage is Stage.GONE and not self._ended:
            self._pool.begin(self._folder.remove())  # which may hang

    @property
    def _ready(self) -> PilotConnection | None:
        """Its connection, once the snapshot is complete."""
        connection = self._connection
        return connection if connection is not None and connection.is_ready else None

    def send(self, message: ToLauncher) -> bool:
        """Send a message; return False if there is no connection. The next one begins with `_repeat`."""
        if (connection := self._ready) is not None:
            connection.send(message)
        return connection is not None

    def ask_usage(self) -> asyncio.Future[list[AttemptUsage]] | None:
        """Ask what its attempts use; return None without a connection."""
        return None if (connection := self._ready) is None else connection.ask_usage()

    def ask(self, key: AttemptKey) -> asyncio.Future[bool | None] | None:
        """Ask whether an attempt has not ended, once it is settled; return None without a connection."""
        return None if (connection := self._ready) is None else connection.ask(key)

    def _repeat(self, attempt: PilotRun) -> None:
        if self._ready is not None and self.node is not None:
            for message in attempt.messages(self._variables(self.node)):
                self.send(message)

    def _variables(self, node: PilotNode) -> dict[str, str]:
        """Return the variables of Slurm for an attempt: its node, or its whole allocation."""
        return {"SLURMD_NODENAME": node.name} if self.own is None else node.variables

    def signal_steps(self, signum: int) -> asyncio.Task[None]:
        """Signal the tasks that an attempt with nodes of its own has started with srun."""
        return self._pool.begin(self._controller.signal_steps(self.name, signum, _RELAY))

    # --- its life

    async def live(self) -> None:
        """Submit it, stay connected while it runs, and end its attempts when it is gone."""
        again = pauses()
        while True:
            try:
                await self._live()
            except Exception:  # if raised, it would cancel the task group and so end every job
                log.exception("pilot %s: an error in the launcher", self.name)
                await self._wait(next(again))
            else:
                return

    async def _live(self) -> None:
        if self.number is None:
            await self._pool.released()
            try:
                await self._context.retry(f"pilot {self.name} cannot be submitted yet", self._folder.prepare)
                self.number = await self._submitted()
            except CannotStart as problem:
                self._move(Move.END)
                self._pool.refuse(self, str(problem))
                await self._folder.remove()
                return
        if self.number is not None:  # otherwise it was called off
            await self._attend()
        await self._finish(await self._end_what_it_left())

    async def _attend(self) -> None:
        """Stay connected to it while it is in Slurm.

        Pilots that wait share the answers of Slurm's controller.
        """
        submitted_at = after = elapsed()
        again, absent = pauses(_LOOK), 0
        if self.stage is Stage.WAITING:
            self._start, after = self._pool.start_of(self._folder.path), submitted_at - _LOOK
        while absent < _ABSENCES and not self._is_given_up:
            jobs = await self._controller.jobs(after)
            is_listed = self._controller.asked_at > submitted_at
            found = None if jobs is None else jobs.get(self.name)
            self._note_job(found)
            after = elapsed()
            if found is not None and found.state == "RUNNING":
                if await self._stay_connected():
                    again, after = pauses(), elapsed()
            else:
                self._heard_at = elapsed()
                if found is not None and self.stage is Stage.CLOSING:
                    await self._controller.cancel(self.name)
            absent = absent + 1 if jobs is not None and found is None and is_listed else 0
            if absent:
                again = pauses()
            self._say_why(found, is_silent=jobs is None)
            if await self._has_begun_within(pause := next(again)):
                again, after = pauses(_LOOK), elapsed()
            else:
                after = max(after, elapsed() - pause)
        if self._is_given_up:
            await self._controller.cancel(self.name)

    async def _watch(self, connection: PilotConnection) -> None:
        """Ask Slurm about it and its node while it is connected, when other pilots do, too."""
        while connection is self._connection:
            await self._wait(_PERIOD - elapsed() % _PERIOD)
            jobs = await self._controller.jobs()
            if connection is self._connection and jobs is not None:
                self._note_job(jobs.get(self.name))

    def _note_job(self, job: SlurmJob | None) -> None:
        """Record what Slurm says of its allocation and node."""
        if job is None:
            return
        was_suspended, self._job = self._is_suspended, job
        self._note_node()
        if was_suspended or self._is_suspended:
            reason = self._pool.reason(Cause.NODE, _SUSPENDED) if self._is_suspended else None
            for attempt in self._attempts.values():
                attempt.wait_for(reason)
        self._pool.assign()

    def _note_node(self) -> None:
        controller = self._controller
        if self.own is None and self.node is not None and controller.nodes_asked_at > self._began_at:
            self._move(Move.DRAIN if self.node.name in controller.unusable else Move.RESUME)

    async def _has_begun_within(self, seconds: float) -> bool:
        """Wait, at the longest until its script begins; return whether it has."""
        start = self._start
        await self._context.deadlines.wait(seconds, *([] if start is None else [start]))
        if start is None or not start.done():
            return False
        self._start = None
        return True

    async def _stay_connected(self) -> bool:
        """Stay connected while it answers, or cancel it in Slurm; return whether it has answered."""
        if await self._is_over():
            self._move(Move.DIE)
        elif await self._serve():
            return True
        elif elapsed() - self._heard_at > _HUNG:
            log.warning("pilot %s: no answer for %g s: cancelling it in Slurm", self.name, _HUNG)
            self._move(Move.HANG)
        else:
            return False
        await self._controller.cancel(self.name)
        return False

    def _say_why(self, found: SlurmJob | None, *, is_silent: bool) -> None:
        """Tell waiting attempts why it does not run."""
        if is_silent:
            self._note_silence()
        elif found is not None and found.state == "PENDING":
            is_short = self._is_needed and found.reason.startswith(_HELD_BY_OTHERS)
            self._controller.note_shortage(self.name, is_short=is_short)
            self._note_reason(Cause.NODE, self._controller.why_pending(found))
        elif self.is_starting:
            self._note_reason(Cause.PILOT)

    @property
    def _is_needed(self) -> bool:
        """Whether an attempt waits for it."""
        return self._pool.first is not None if self.own is None else self.own.is_waiting

    def _note_reason(self, cause: Cause, code: str | None = None, at: float | None = None) -> None:
        reason: Reason = self._pool.reason(cause, code, at)
        if self.own is not None and self.own.is_waiting:
            self.own.wait_for(reason)
        elif self.own is None and self.is_starting:
            self._pool.note_reason(reason)
        if cause is Cause.NODE:  # it waits to kill leftovers
            for attempt in self._attempts.values():
                attempt.wait_for(reason)

    @property
    def _is_given_up(self) -> bool:
        """Whether all its known attempts were stopped so long ago that they must end."""
        attempts = self._attempts.values()
        return bool(attempts) and all(each.is_overdue for each in attempts)

    async def _end_what_it_left(self) -> Leftovers:
        """Submit it again to the same node to kill leftovers, which Slurm without control groups misses."""
        left = await self._left()
        for _ in range(_TRIES):
            if self._is_given_up or not await self._may_have_left_processes(left):
                break
            log.warning("pilot %s was killed: submitting it again to end what it left", self.name)
            try:
                self.number = await self._submitted(f"--nodelist={left.node}")
            except CannotStart as problem:
                log.warning(
                    "leftovers of pilot %s on node %s are left alone: %s", self.name, left.node, problem
                )
                break
            await self._attend()
            left = await self._left()
        return left

    async def _may_have_left_processes(self, left: Leftovers) -> bool:
        is_settled = self._attempts.keys() <= {ended.key for ended in left.ends}
        if left.has_all or is_settled or not left.node:
            return False
        state, _ = await self._controller.end_of(self.name, str(self.number))
        return self.stage is Stage.UNWATCHED or state in _NOT_ENDED_BY_SLURM

    async def _submitted(self, *place: str) -> int | None:
        """Submit it until Slurm accepts it; return its number there, None if it was called off.

        Raises:
            CannotStart: Slurm refuses it.
        """
        again, self._submitted_at = pauses(), elapsed()
        script = self._folder.script, self._python, self._folder.path
        while True:
            left_out = [] if place else self._pool.nodes_left_out()
            said = await self._controller.submit(
                [*excluding(left_out, [*self._options(), *place]), *script],
                is_wanted=lambda: not (self.stage is Stage.CLOSING or self._is_given_up),
                delayed=partial(self._note_reason, Cause.REQUESTS),
            )
            if said is None:
                return None
            code, words = said
            if code == 0 and (number := number_in(words)) is not None:
                self._pool.note_refusal(None)
                return number
            if code == 0 and "Submitted batch job" in words:  # an option without its value took --parsable
                await self._controller.release(self.name, self._note_silence)
                raise CannotStart(one_line(launching.NotStarted.OTHER, "an option of sbatch lacks its value"))
            problem = printable(message_in(words)) or f"code {code}"
            if code <= 0 or not is_incurable(words):
                await self._wait_after(problem, next(again))
            elif not (left_out and self._pool.leave_none_out()):
                raise CannotStart(one_line(launching.NotStarted.OTHER, f"Slurm refuses the pilot: {problem}"))
            if code <= 0 or self._controller.is_away(words):  # it may have accepted the job anyway
                await self._controller.release(self.name, self._note_silence)

    async def _wait_after(self, refusal: str, seconds: float) -> None:
        """Wait until the next try, and tell the attempts why."""
        if self._controller.silent_since is None:
            is_limit = self._is_needed and not self._controller.is_away(refusal)
            self._controller.note_shortage(self.name, is_short=is_limit)
            self._note_reason(Cause.NODE, refusal)
        else:
            self._note_silence()
        self._pool.note_refusal(refusal)
        await self._wait(seconds)

    def _note_silence(self) -> None:
        self._note_reason(Cause.CONTROLLER, self._controller.problem, self._controller.silent_since)

    def _options(self) -> list[str]:
        """Return the arguments of sbatch, without the script."""
        own = self.own
        slurm = None if own is None else own.launch.slurm
        nodes = (slurm and slurm.nodes) or 1
        what = f"pilot of executor {self._pool.start.executor}"
        if own is not None:
            what = f"job {own.launch.key.job}, attempt {own.launch.key.attempt}"
        return [
            *(self._pool.start.options if own is None else own.start.own),
            *("--parsable", f"--job-name={self.name}", f"--comment=bgd {what}"),
            *(f"--nodes={nodes}", f"--ntasks={nodes}", "--no-requeue", "--chdir=/"),
            *(f"--output={self._folder.path}/log", f"--error={self._folder.path}/log"),
        ]

    async def _is_over(self) -> bool:
        """Return whether it has ended; Slurm does not notice for minutes if its slurmstepd was killed."""
        if self.stage in _NEVER_WORKED:
            return False
        left = await self._folder.left()
        return left.has_all or not (self._is_reached or left.is_locked or left.problem)

    async def _serve(self) -> bool:
        """Stay connected as long as possible; return whether it has greeted."""
        connection = self._connection = PilotConnection(self, self._context)
        try:
            relay, ours = await self._relay()
            await asyncio.get_running_loop().create_connection(lambda: connection, sock=ours)
            connection.greet(self._pool.store)
            self._context.deadlines.after(_BEAT, partial(self._keep_alive, connection))
            self._pool.begin(self._watch(connection))
            await connection.lost.wait()
        except CannotStart as error:
            log.warning("pilot %s: no connection: %s", self.name, error)
            return False
        finally:
            self._connection = None
        self._context.children.kill(relay.pid)  # it may hang, without its node
        await relay.wait()
        self._is_reached = connection.is_ready
        if connection.is_ready:
            self._heard_at = elapsed()
        return connection.is_ready

    async def _relay(self) -> tuple[Child, socket.socket]:
        """Start an srun that connects to it; return the srun and the socket.

        Raises:
            CannotStart: that is not possible.
        """
        await self._controller.admit()
        relay = (self._python, "-P", "-m", "bgd.launcher.cluster.relay", f"{self._folder.path}/launcher.sock")
        where = f"--jobid={self.number}", f"--job-name={_RELAY}", "--relative=0", "--nodes=1", "--ntasks=1"
        argv = ["srun", *where, "--overlap", "--unbuffered", "--quiet", "--chdir=/", *relay]

        async def start() -> tuple[Child, socket.socket]:
            ours, theirs = socket.socketpair()
            with theirs:
                standard = (theirs.fileno(), theirs.fileno(), self._context.null)
                try:
                    return self._controller.start(argv, standard), ours
                except BaseException:
                    ours.close()
                    raise

        return await self._context.retry(f"pilot {self.name} cannot be reached yet", start)

    async def _left(self) -> Leftovers:
        """Return its results, once it has ended."""
        again = pauses()
        while (left := await self._folder.left()).is_locked or left.problem:
            if self._is_given_up or not (left.is_locked or self._attempts):
                break
            log.warning("pilot %s is gone from Slurm, and %s", self.name, left.problem or "still runs")
            await self._wait(next(again))
            await self._attend()  # Slurm may list it again
        return left

    async def _finish(self, left: Leftovers) -> None:
        """End its attempts by its journal, by Slurm's reason, or as unknown."""
        ends = {ended.key: ended for ended in left.ends} | self._held
        is_failure = self.number is not None and self.stage in _NEVER_WORKED
        state, node = "", left.node
        if self._held or is_failure or not (left.has_all or self._attempts.keys() <= ends.keys()):
            state, nodes = await self._controller.end_of(self.name, str(self.number))
            node = node or nodes
        if is_failure and state in _MAY_START:
            await self._controller.forbid(self.name, self.number)
        cause = "" if self.stage in _CANCELLED_BY_BGD and state == "CANCELLED" else state
        if is_failure and cause == "CANCELLED":
            is_failure = False
            if self.own is not None:
                self.own.cancel(_CANCELLED)
            else:
                self._pool.pause(_CANCELLED)
        for key, attempt in self._attempts.items():
            if left.has_all and key not in ends:
                self._pool.requeue(attempt)
                continue
            self._ended.add(key)
            ended = ends.get(key) or attempt.lost(self._problem(state))
            attempt.finish(_with_cause(ended, cause, is_own=self.own is not None))
        self._move(Move.END)
        words = left.last_words or f"Slurm ended it before it was ready ({state or 'unknown'})"
        self._pool.ended(self, words if is_failure else None, node if state in _OF_ITS_NODE else "")
        if not self._ended:  # otherwise its folder is the only proof until the ends are on disk
            await self._folder.remove()

    def _problem(self, state: str) -> str:
        where = f"on node {self.node.name}" if self.node else "in Slurm"
        return f"its pilot {where} is gone ({state or 'Slurm does not say why'}): outcome unknown"

    def close(self) -> None:
        """Let it end, and its allocation with it."""
        is_starting = self.is_starting
        self._move(Move.CLOSE)
        self.send(launching.Goodbye())
        if is_starting:
            self._pool.begin(self._controller.cancel(self.name))

    async def give_back(self) -> None:
        """Let it end at once."""
        self._move(Move.CLOSE)
        self.send(launching.Goodbye())
        await self._controller.cancel(self.name)
        await self._folder.remove()

    async def _wait(self, seconds: float) -> None:
        await self._context.deadlines.timer(seconds)

    def _watch_idleness(self, least: float = 0.0) -> None:
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None
        self._controller.idle.pop(self.name, None)
        if self._is_idle:
            patience = self._pool.start.keep_idle
            if self.stage is Stage.WORKING:
                self._controller.idle[self.name] = self._close_if_idle
                patience = 0.0 if self._controller.short and self._pool.first is None else patience
            self._idle = self._context.deadlines.after(max(patience, least), self._close_if_idle)
            self.close_if_spent()

    @property
    def _is_idle(self) -> bool:
        return self.own is None and not self._attempts and self.stage in _MAY_BE_IDLE

    def _close_if_idle(self) -> None:
        self._idle = None
        if self._pool.first is None:
            self.close()
        else:
            self._watch_idleness(least=_LOOK)  # keep_idle may be 0, and a node may take hours

    def close_if_spent(self) -> None:
        """Let it end if it is empty, and takes nothing more of what waits."""
        if self._is_idle and self.time_for(self._pool.first) <= 0.0:
            self.close()

    # --- what it says

    def receive(self, connection: PilotConnection, message: FromLauncher) -> None:
        """Handle one of its messages.

        Raises:
            ProtocolError: it declines this launcher.
        """
        match message:
            case launching.Welcome(node=node):
                self.node = node or self.node
            case launching.Declined():
                raise ProtocolError(message.problem)
            case launching.Ready():
                self._begin_work()
            case AttemptStarted():
                self._note_start(message)
            case launching.OutputPart():
                self._store(message)
            case AttemptEnded():
                self._note_end(message)
            case launching.Measured(usages):
                connection.take_usage(usages)
            case launching.Checked(number, is_alive):
                connection.take_answer(number, is_alive)
            case launching.LogGrew():
                pass  # pilots send no such message: they send the output itself

    def _begin_work(self) -> None:
        """Repeat requests to its attempts, and accept new ones, unless it only answers."""
        if self._connection is None or self._connection.is_ready:
            return
        self._connection.is_ready = True
        if self.stage is Stage.WAITING and self._job is not None:
            self._began_at = elapsed()
            self._time = self._job.ends_at - self._began_at
            self._pool.note_wait(self._began_at - self._submitted_at)
        self._move(Move.GREET)
        self._note_node()
        for attempt in self._attempts.values():
            self._repeat(attempt)
        if self.stage is Stage.CLOSING:  # it was idle while there was no connection
            self.send(launching.Goodbye())
        self._pool.connected(self)

    def _store(self, part: launching.OutputPart) -> None:
        attempt = self._attempts.get(part.key)
        end = part.offset + len(part.data) if attempt is None else attempt.write(part)
        if self._connection is not None:
            self._connection.send(launching.OutputStored(part.key, end))

    def _note_start(self, started: AttemptStarted) -> None:
        """Update an attempt; stop one whose record was lost, because its job may run again."""
        key, connection = started.key, self._connection
        if key in self._attempts:
            self._attempts[key].started(started)
        elif connection is not None and not (connection.is_ready and key in self._strangers):
            self._strangers.add(key)
            connection.send(launching.StopProcesses(key, 0.0))

    def _note_end(self, ended: AttemptEnded) -> None:
        attempt = self._attempts.get(ended.key)
        if attempt is not None and attempt.may_be_slurms_doing(ended, is_alone=self.own is not None):
            self._held[ended.key] = ended
            self.close()
        elif attempt is not None:
            self._ended.add(ended.key)
            attempt.finish(ended)
            del self._attempts[ended.key]
            if self.own is not None:
                self.close()
            self._watch_idleness()
            self._pool.assign()
        elif ended.key not in self._ended:  # its end was recorded before
            self._pool.acknowledge(self, ended.key)
        if ended.key in self._strangers:
            self._strangers.discard(ended.key)
            self._pool.assign()

    def _keep_alive(self, connection: PilotConnection) -> None:
        """Keep the pilot alive; drop the connection if it is silent.

        The srun of a step whose slurmstepd was killed stays, and says nothing.
        """
        if connection is not self._connection:
            return
        if connection.silent_beats == _SILENT_BEATS:
            log.warning("pilot %s: no answer for %g s: connecting again", self.name, _SILENT_BEATS * _BEAT)
            connection.drop()
            return
        self.send(launching.KeepAlive())
        connection.silent_beats += 1
        self._context.deadlines.after(_BEAT, partial(self._keep_alive, connection))


def _fit(node: PilotNode, attempts: Collection[PilotRun]) -> bool:
    """Return whether a node has room for attempts, as far as Slurm says what it has."""
    if sum(each.start.cpus for each in attempts) > (node.cpus or 1):
        return False
    return not node.memory or sum(each.start.memory for each in attempts) <= node.memory


def _with_cause(ended: AttemptEnded, state: str, *, is_own: bool) -> AttemptEnded:
    """Return an end with Slurm's reason for ending the pilot; `state`: Slurm's word for it."""
    outcome = _CAUSES.get(state)
    if outcome is None or ended.outcome not in _OF_A_CAUSE:
        return ended
    if not is_own and outcome is not Outcome.INTERRUPTED:  # another job may have been the cause
        outcome = Outcome.INTERRUPTED if outcome is Outcome.TIMEOUT else ended.outcome
    return replace(ended, outcome=outcome, problem=f"Slurm ended its allocation: {state}")


_RELAY = "bgd-relay"  # name of the step that connects this launcher to a pilot
_SUSPENDED = "SUSPENDED"  # state of a job
_PERIOD = 30.0  # seconds until Slurm is asked again about a pilot that works
_LOOK = 1.0  # seconds until Slurm is asked again about a pilot that waits, and then longer
_MAY_BE_IDLE = {Stage.WAITING, Stage.WORKING, Stage.DRAINING}
_NEVER_WORKED = {Stage.WAITING, Stage.STUCK}
_CANCELLED_BY_BGD = {Stage.STUCK, Stage.HUNG, Stage.UNWATCHED}
_CANCELLED = "Slurm says that its allocation was cancelled before it began: CANCELLED"
# the beginnings of Slurm's words for waiting for nodes, or for a limit, that other jobs use up
_HELD_BY_OTHERS = ("Resources", "Priority", "ReqNodeNotAvail", "QOS", "Assoc", "MaxJobs")
_TRIES = 3  # tries to kill leftovers
_ABSENCES = 2  # answers without its job, since the controller may not have heard all
_MAY_START = {"", "PENDING", "CONFIGURING", "RUNNING"}  # although it was not listed
_NOT_ENDED_BY_SLURM = {"FAILED", ""}  # its script was killed; or Slurm does not remember
_OF_ITS_NODE = {"FAILED", "NODE_FAIL", "BOOT_FAIL"}  # if it ends like this before it works
_CAUSES = {
    "PREEMPTED": Outcome.INTERRUPTED,
    "CANCELLED": Outcome.INTERRUPTED,
    "TIMEOUT": Outcome.TIMEOUT,
    "OUT_OF_MEMORY": Outcome.OOM,
}
_OF_A_CAUSE = {Outcome.INTERRUPTED, Outcome.SIGNAL, Outcome.UNKNOWN}
_BEAT = LEASE / 6  # seconds between two KeepAlives
_SILENT_BEATS = 2  # until the connection is dropped, which leaves time for the next one
_HUNG = 3 * LEASE  # seconds without an answer until Slurm must end it: by itself it ends after two leases
