"""Pilots: launchers on the nodes of a cluster, in allocations that are kept, for many short attempts.

A pilot is a batch job in Slurm that runs this very program on a node, with its journal in the shared folder.
It knows the rules R1 to R8, so what this launcher says to it is what a supervisor says. It is reached by an
srun that connects to its socket (bgd/launcher/relay.py); if that dies, another one takes its place, and a new
launcher adopts the pilots of its predecessor with their attempts. A pilot that hears nothing ends by itself,
and its allocation with it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from collections import OrderedDict, deque
from operator import attrgetter

from bgd.clock import elapsed
from bgd.core.explain import Cause, Reason
from bgd.core.job import Outcome
from bgd.errors import ProtocolError
from bgd.launcher.children import Child
from bgd.launcher.context import Context
from bgd.launcher.controller import Controller, SlurmJob
from bgd.launcher.deadlines import Deadline
from bgd.launcher.journal import Began
from bgd.launcher.pilot_attempt import PilotAttempt, pilot_start
from bgd.launcher.pilot_folder import LEASE, Left, PilotFolder
from bgd.launcher.problems import CannotStart, one_line
from bgd.launcher.shared_folder import SharedFolder
from bgd.launcher.slurm import IS_AWAY, NO_REASON, last_line, one_line_of
from bgd.units import format_size
from bgd.wire.framing import FrameReader, frame
from bgd.wire.launching import (
    LAUNCHING_PROTOCOL,
    MAX_LAUNCHING_FRAME,
    OLDEST_PILOT_PROTOCOL,
    Acknowledge,
    AttemptEnded,
    AttemptKey,
    AttemptStarted,
    Checked,
    Declined,
    FromLauncher,
    Goodbye,
    Greeting,
    KeepAlive,
    Launch,
    LogGrew,
    NotStarted,
    OutputPart,
    OutputStored,
    PilotStart,
    Ready,
    SlurmStart,
    StopProcesses,
    ToLauncher,
    Welcome,
    decode_from_launcher,
    encode,
)

log = logging.getLogger(__name__)


# --- All pilots of an executor


class PilotPool:
    """Gives attempts to pilots in order, and starts pilots while there is work for them.

    Attributes:
        slurm, start: as configured last.
        reason: why attempts wait.
    """

    def __init__(self, context: Context, controller: Controller, launch: Launch) -> None:
        self.context = context
        self.controller = controller
        assert launch.slurm is not None  # noqa: S101  who makes one has looked
        self.slurm: SlurmStart = launch.slurm
        self.start = pilot_start(launch)
        self.store = launch.key.store
        self._waiting: OrderedDict[AttemptKey, PilotAttempt] = OrderedDict()  # the next one first
        self._oversized: OrderedDict[AttemptKey, PilotAttempt] = OrderedDict()  # too large for all there are
        self._pilots: dict[str, Pilot] = {}
        self._unacknowledged: dict[AttemptKey, Pilot] = {}  # ended and recorded
        self._acknowledging: asyncio.Task[None] | None = None
        self._failures = 0  # pilots that have ended without a word, one after the other
        self._is_ending = False
        self._is_refused = False  # Slurm takes no more pilots for now
        # a reset may have taken records: attempts that nobody knows may run on pilots
        self._has_all_records = bool(context.journal.instance.covers)
        self.reason = Reason(cause=Cause.PILOT, subject=self.start.executor)
        self._tidying = context.begin(self._release_leftovers(), _OF_PILOTS)
        self._tidying.add_done_callback(lambda _: self.assign())

    def add(self, attempt: PilotAttempt) -> None:
        """Give it to a pilot as soon as one has room."""
        assert attempt.launch.slurm is not None  # noqa: S101  as above
        self.slurm, self.start = attempt.launch.slurm, attempt.start
        self._waiting[attempt.launch.key] = attempt
        self.assign()
        if self._waits(attempt):
            attempt.report()

    def give_again(self, attempt: PilotAttempt) -> None:
        """Give it to another pilot, since its pilot ended before it began with it (R3)."""
        if attempt.is_taken_back():
            self._waiting[attempt.launch.key] = attempt
            self._waiting.move_to_end(attempt.launch.key, last=False)

    def forget(self, attempt: PilotAttempt) -> None:
        """Take it off the list. Those behind it may fit where it did not."""
        self._oversized.pop(attempt.launch.key, None)
        if self._waiting.pop(attempt.launch.key, None) is not None:
            self.assign()

    def adopt(self, attempt: PilotAttempt, began: Began) -> None:
        """Look for the pilot that a dead launcher gave it to."""
        assert began.pilot is not None  # noqa: S101  its journal says so
        name, number = began.pilot
        pilot = self._pilots.get(name) or self._begin(name, number)
        pilot.adopt(attempt, began)

    def assign(self) -> None:
        """Give attempts to pilots with room; start a pilot for those that are left."""
        if self._may_run_unknown_ones:
            return
        while (first := self._first) is not None:
            pilot = next((each for each in self._pilots.values() if each.has_room(first)), None)
            if pilot is None and self._is_oversized(first):
                self._oversized[first.launch.key] = self._waiting.pop(first.launch.key)
                continue
            if pilot is None:
                break
            try:
                pilot.give(first)
            except OSError as error:
                log.warning("cannot write to the journal: %s; next try in %g s", error.strerror, _PAUSE)
                self.context.deadlines.after(_PAUSE, self.assign)
                return
            del self._waiting[first.launch.key]
        is_starting = any(each.is_starting for each in self._pilots.values())
        has_all = len(self._pilots) >= self.start.nodes
        if self._oversized and has_all and not is_starting:
            self._fail_oversized()
        elif self.has_waiting and not (has_all or is_starting or self._is_refused or self._is_ending):
            self._begin(f"{self._prefix}{os.urandom(4).hex()}", None)

    @property
    def _may_run_unknown_ones(self) -> bool:
        """Whether pilots of before a reset may still run attempts that no record names."""
        if not self._has_all_records and self._tidying.done():
            self._has_all_records = all(each.runs_what_it_should for each in self._pilots.values())
        return not self._has_all_records

    def _is_oversized(self, attempt: PilotAttempt) -> bool:
        pilots = self._pilots.values()
        return self._works and not any(each.is_large_enough(attempt) for each in pilots)

    def _fail_oversized(self) -> None:
        """Refuse attempts that are too large for every pilot."""
        largest = max(self._pilots.values(), key=attrgetter("size"))
        for attempt in list(self._oversized.values()):
            problem = f"{largest.words_of_size}, less than it asks for"
            self._fail(attempt, one_line(NotStarted.OTHER, problem))

    def _waits(self, attempt: PilotAttempt) -> bool:
        return attempt.launch.key in self._waiting or attempt.launch.key in self._oversized

    @property
    def _first(self) -> PilotAttempt | None:
        return next(iter(self._waiting.values()), None)

    def connected(self) -> None:
        """Note that a pilot works. It may be large enough for what no other one was."""
        self._failures = 0
        self.note_reason(Cause.PILOT)
        self._waiting = OrderedDict([*self._oversized.items(), *self._waiting.items()])
        self._oversized.clear()
        self.assign()

    def ended(self, pilot: Pilot, problem: str | None) -> None:
        """Note that a pilot is gone; `problem`: why it never worked, None if it did."""
        del self._pilots[pilot.name]
        if problem is not None:
            self._failures += 1
            log.warning("executor %s: a pilot has ended: %s", self.start.executor, problem)
        if self._failures >= _TRIES and not self._works:
            self._failures = 0
            self._fail_all(one_line(NotStarted.OTHER, f"no pilot works: {problem}"))
        self.assign()

    def refuse(self, pilot: Pilot, problem: str) -> None:
        """Note that Slurm refuses this pilot. Its others, if there are any, go on."""
        del self._pilots[pilot.name]
        if self._works:
            log.warning("executor %s: %s; next try in %g s", self.start.executor, problem, _LONGEST_PAUSE)
            self._is_refused = True
            self.context.deadlines.after(_LONGEST_PAUSE, self._try_again)
        else:
            self._fail_all(problem)

    def _try_again(self) -> None:
        self._is_refused = False
        self.assign()

    @property
    def _works(self) -> bool:
        return any(not each.is_starting for each in self._pilots.values())

    def note_reason(self, cause: Cause, code: str | None = None, at: float | None = None) -> None:
        """Tell those that wait why; `code`: Slurm's word for why it has no node for a pilot."""
        reason = Reason(cause=cause, subject=self.start.executor, problem=code, at=at)
        if reason != self.reason:
            self.reason = reason
            for attempt in [*self._waiting.values(), *self._oversized.values()]:
                attempt.report()

    @property
    def has_waiting(self) -> bool:
        """Whether an attempt waits for a pilot."""
        return bool(self._waiting or self._oversized)

    async def released(self) -> None:
        """Return once the pilots of an earlier launcher that no record names have ended."""
        await asyncio.shield(self._tidying)

    async def end(self) -> None:
        """Give all allocations back; if Slurm does not answer soon, the pilots do it by themselves."""
        self._is_ending = True
        self._tidying.cancel()
        if self._acknowledging is not None:
            self._acknowledging.cancel()
        if self._pilots:
            ends = [self.context.begin(each.give_back(), _OF_PILOTS) for each in self._pilots.values()]
            await asyncio.wait(ends, timeout=_GIVE_BACK_SECONDS)
            for each in ends:
                each.cancel()
        for pilot in self._pilots.values():
            pilot.task.cancel()

    def acknowledge(self, pilot: Pilot, key: AttemptKey) -> None:
        """Let a pilot forget an attempt whose end is recorded, once that survives a power failure."""
        if not self._unacknowledged:
            self._acknowledging = self.context.begin(self._acknowledge(), _OF_PILOTS)
        self._unacknowledged[key] = pilot

    async def _acknowledge(self) -> None:
        """Tell pilots what they may forget. What is on the disk will not be asked of them again."""
        while self._unacknowledged:
            await self.context.deadlines.timer(_PAUSE)  # so that many share a sync
            recorded = dict(self._unacknowledged)
            await self.context.retry("the journal cannot be synced", self.context.journal.make_durable)
            for key, pilot in recorded.items():
                await pilot.let_forget(key)
                del self._unacknowledged[key]

    @property
    def _prefix(self) -> str:
        return f"bgd-{self.store}-pilot-{self.start.executor}-"

    def _begin(self, name: str, number: int | None) -> Pilot:
        pilot = self._pilots[name] = Pilot(self, name, number)
        pilot.task = self.context.group.create_task(pilot.live())
        return pilot

    def _fail_all(self, problem: str) -> None:
        for attempt in [*self._waiting.values(), *self._oversized.values()]:
            self._fail(attempt, problem)

    def _fail(self, attempt: PilotAttempt, problem: str) -> None:
        key = attempt.launch.key
        self._waiting.pop(key, None)
        self._oversized.pop(key, None)
        attempt.finish(
            AttemptEnded(key=key, outcome=Outcome.NOT_STARTED, finished_at=time.time(), problem=problem)
        )

    async def _release_leftovers(self) -> None:
        """End pilots that no record names: a power failure may have taken the latest records."""
        for name in await SharedFolder(self.context, self.slurm.folder, "").names(self._prefix):
            if name not in self._pilots:
                log.warning("ending pilot %s, which an earlier launcher left", name)
                await self.controller.release(name)
                folder = PilotFolder(self.context, self.slurm.folder, name)
                while (await folder.left()).is_locked:
                    await self.context.deadlines.timer(_PAUSE)
                await folder.remove()


# --- One pilot


class Pilot:
    """One batch job of Slurm that runs a launcher, and the attempts that were given to it.

    Attributes:
        number: of its job in Slurm; None: it is not submitted.
        node: where it runs; None: it is not known yet.
    """

    task: asyncio.Task[None]

    def __init__(self, pool: PilotPool, name: str, number: int | None) -> None:
        self.name = name
        self.number = number
        self.node: str | None = None
        self.is_starting = True  # until it has greeted
        self._pool = pool
        self._context = pool.context
        self._controller = pool.controller
        self._folder = PilotFolder(pool.context, pool.slurm.folder, name)
        self._python = pool.slurm.python
        self._attempts: dict[AttemptKey, PilotAttempt] = {}
        self._used: dict[AttemptKey, PilotStart] = {}
        self._ended: set[AttemptKey] = set()  # which it may not forget yet
        self._strangers: set[AttemptKey] = set()  # attempts that it runs and no record names
        self._cpus = 0
        self._memory = 0
        self._has_worked = number is not None
        self._is_closing = False
        self._is_gone = False
        self._is_reached = True  # by the latest connection
        self._is_unwatched = False  # by Slurm, whose slurmstepd was killed
        self._connection: _Connection | None = None
        self._beat: Deadline | None = None
        self._idle: Deadline | None = None
        self._watch_idleness()

    def has_room(self, attempt: PilotAttempt) -> bool:
        """Whether an attempt may be given to it now."""
        if self._connection is None or not self._connection.is_ready or self._is_closing:
            return False
        cpus = sum(each.cpus for each in self._used.values())
        memory = sum(each.memory for each in self._used.values())
        return cpus + attempt.start.cpus <= self._cpus and memory + attempt.start.memory <= self._memory

    @property
    def runs_what_it_should(self) -> bool:
        """Whether it has said what it runs, and nothing else runs there."""
        return not (self.is_starting or self._strangers)

    def is_large_enough(self, attempt: PilotAttempt) -> bool:
        """Whether an attempt fits if it has nothing else."""
        return attempt.start.cpus <= self._cpus and attempt.start.memory <= self._memory

    @property
    def size(self) -> tuple[int, int]:
        """How many processors and how much memory it has."""
        return self._cpus, self._memory

    @property
    def words_of_size(self) -> str:
        """What it has, in words."""
        return f"a pilot has {self._cpus:g} processors and {format_size(self._memory)} on node {self.node}"

    def give(self, attempt: PilotAttempt) -> None:
        """Let it run an attempt.

        Raises:
            OSError: the journal cannot be written; nothing has begun.
        """
        assert self.number is not None  # noqa: S101  it is connected
        launch, now = attempt.launch, elapsed()
        place = self.name, self.number
        stopped = attempt.state.suspended
        began = Began(launch.key, 0, now, time.time(), launch=launch, pilot=place, suspended=stopped)
        self._context.journal.add_step(began)
        self.adopt(attempt, began)

    def adopt(self, attempt: PilotAttempt, began: Began) -> None:
        """Add an attempt, whether or not the pilot has heard of it, and tell it."""
        key = attempt.launch.key
        self._attempts[key], self._used[key] = attempt, attempt.start
        attempt.given_to(self, began)
        self._watch_idleness()
        self._repeat(attempt)

    async def let_forget(self, key: AttemptKey) -> None:
        """Let it forget an attempt that has ended."""
        self._ended.discard(key)
        self.send(Acknowledge(key))
        if self._is_gone and not self._ended:
            await self._folder.remove()

    def send(self, message: ToLauncher) -> bool:
        """Send a message; return False if there is no connection. The next one begins with `_repeat`."""
        if self._connection is None or not self._connection.is_ready:
            return False
        self._connection.send(message)
        return True

    def _repeat(self, attempt: PilotAttempt) -> None:
        if self._connection is not None and self._connection.is_ready and self.node is not None:
            for message in attempt.messages(self.node):
                self._connection.send(message)

    # --- its life

    async def live(self) -> None:
        """Submit it, stay connected while it runs, and see to its attempts when it is gone."""
        while True:
            try:
                await self._live()
            except Exception:  # raised further, it would cancel the task group, and so end every job
                log.exception("pilot %s: an error in the launcher", self.name)
                await self._wait(_LONGEST_PAUSE)
            else:
                return

    async def _live(self) -> None:
        if self.number is None:
            await self._pool.released()
            try:
                await self._context.retry(f"pilot {self.name} cannot be submitted yet", self._folder.prepare)
                self.number = await self._submitted()
            except CannotStart as problem:
                self._pool.refuse(self, str(problem))
                return
        await self._attend()
        left = await self._left()
        for _ in range(_TRIES):
            if not await self._may_have_left_processes(left):
                break
            log.warning("pilot %s was killed: submitting it again to end what it left", self.name)
            try:
                self.number = await self._submitted(f"--nodelist={left.node}")
            except CannotStart as problem:
                log.warning("what pilot %s left on node %s is left alone: %s", self.name, left.node, problem)
                break
            await self._attend()
            left = await self._left()
        await self._bury(left)

    async def _attend(self) -> None:
        """Stay connected to it while Slurm has it."""
        pause, absent = _FIRST_PAUSE, 0
        while absent < _ABSENCES:
            jobs = await self._controller.jobs()
            found = None if jobs is None else jobs.get(self.name)
            if found is not None and found.state == "RUNNING":
                if await self._is_over():
                    self._is_unwatched = True
                    await self._controller.cancel(self.name)
                elif await self._serve():
                    pause = _FIRST_PAUSE
            absent = absent + 1 if jobs is not None and found is None else 0
            if absent:
                pause = _FIRST_PAUSE
            if self.is_starting:
                self._say_why(found, is_silent=jobs is None)
            await self._wait(pause)
            pause = min(pause * 2, _LONGEST_PAUSE)

    def _say_why(self, found: SlurmJob | None, *, is_silent: bool) -> None:
        if is_silent:
            self._pool.note_reason(Cause.CONTROLLER, at=self._controller.silent_since)
        elif found is not None and found.state == "PENDING":
            code = None if found.reason == NO_REASON else one_line_of(found.reason)
            self._pool.note_reason(Cause.NODE, code)
        else:
            self._pool.note_reason(Cause.PILOT)

    async def _may_have_left_processes(self, left: Left) -> bool:
        """Return whether what it ran may run on, as Slurm without control groups only ends what it sees."""
        is_settled = self._attempts.keys() <= {ended.key for ended in left.ends}
        if left.has_all or is_settled or not left.node:
            return False
        end = await self._controller.end_of(self.name, str(self.number))
        return self._is_unwatched or end in _NOT_ENDED_BY_SLURM

    async def _submitted(self, *place: str) -> int:
        """Submit it until Slurm takes it; return its number there.

        Raises:
            CannotStart: Slurm refuses it.
        """
        pause = _FIRST_PAUSE
        while True:
            options = ["--parsable", f"--job-name={self.name}", "--nodes=1", "--ntasks=1", "--no-requeue"]
            output = ["--chdir=/", f"--output={self._folder.path}/log", f"--error={self._folder.path}/log"]
            await self._controller.admit(_SBATCH_COST)
            code, text = await self._controller.run(
                *("sbatch", *self._pool.start.options, *place, *options, *output, self._folder.script),
                *(self._python, self._folder.path),
                with_errors=True,
            )
            words = text.decode(errors="replace")
            number = next((line for line in words.splitlines() if line.partition(";")[0].isdecimal()), None)
            if code == 0 and number is not None:
                return int(number.partition(";")[0])
            if code <= 0:  # it was killed, or does not say which: the job may be there
                await self._controller.cancel(self.name)
            if code >= 0 and not any(each in words for each in IS_AWAY):
                problem = f"Slurm takes no pilot: {last_line(words) or f'code {code}'}"
                raise CannotStart(one_line(NotStarted.OTHER, problem))
            log.warning("no pilot: Slurm is away (%s); next try in %g s", last_line(words), pause)
            await self._wait(pause)
            pause = min(pause * 2, _LONGEST_PAUSE)

    async def _is_over(self) -> bool:
        """Return whether it has ended; Slurm does not notice for minutes if its slurmstepd was killed."""
        if not self._has_worked:
            return False
        left = await self._folder.left()
        return left.has_all or not (self._is_reached or left.is_locked or left.problem)

    async def _serve(self) -> bool:
        """Stay connected as long as that is possible; return whether it has greeted."""
        connection = self._connection = _Connection(self, self._context)
        try:
            relay, ours = await self._relay()
            await asyncio.get_running_loop().create_connection(lambda: connection, sock=ours)
            connection.greet(self._pool.store)
            self._beat = self._context.deadlines.after(_BEAT, self._keep_alive)
            await connection.lost.wait()
        except CannotStart as error:
            log.warning("pilot %s: no connection: %s", self.name, error)
            return False
        finally:
            self._connection = None
            self._stop_beating()
        self._context.children.kill(relay.pid)  # it may hang, without its node
        await relay.wait()
        self._context.children.take_usage(relay.pid)
        self._is_reached = connection.is_ready
        return connection.is_ready

    async def _relay(self) -> tuple[Child, socket.socket]:
        """Start an srun that connects to it; return it, and the socket to talk over.

        Raises:
            CannotStart: that is not possible.
        """
        await self._controller.admit(_STEP_COST)
        relay = (self._python, "-P", "-m", "bgd.launcher.relay", f"{self._folder.path}/launcher.sock")
        options = ("--overlap", "--nodes=1", "--ntasks=1", "--unbuffered", "--quiet", "--chdir=/")
        argv = ["srun", f"--jobid={self.number}", *options, *relay]

        async def start() -> tuple[Child, socket.socket]:
            ours, theirs = socket.socketpair()
            with theirs:
                standard = (theirs.fileno(), theirs.fileno(), self._context.null)
                try:
                    return self._controller.start(argv, self._controller.variables, standard), ours
                except BaseException:
                    ours.close()
                    raise

        return await self._context.retry(f"pilot {self.name} cannot be reached yet", start)

    async def _left(self) -> Left:
        """Return what it has left, once it has ended."""
        pause = _FIRST_PAUSE
        while (left := await self._folder.left()).is_locked or left.problem:
            log.warning("pilot %s is gone from Slurm, and %s", self.name, left.problem or "still runs")
            await self._wait(pause)
            pause = min(pause * 2, _LONGEST_PAUSE)
        return left

    async def _bury(self, left: Left) -> None:
        """End its attempts as its journal says, or as unknown if the journal does not say."""
        ends = {ended.key: ended for ended in left.ends}
        for key, attempt in self._attempts.items():
            if left.has_all and key not in ends:
                self._pool.give_again(attempt)
                continue
            self._ended.add(key)
            problem = f"its pilot on node {self.node} is gone, and nobody saw how it ended"
            lost = AttemptEnded(key=key, outcome=Outcome.UNKNOWN, finished_at=time.time(), problem=problem)
            attempt.finish(ends.get(key, lost))
        self._used.clear()
        self._is_gone = True
        if not self._ended:  # else its folder is the only proof until the ends are on the disk
            await self._folder.remove()
        is_failure = not (self._has_worked or self._is_closing)
        self._pool.ended(self, left.last_words or "Slurm ended it before it ran" if is_failure else None)

    async def give_back(self) -> None:
        """Let it end, and its allocation with it."""
        self._is_closing = True
        self.send(Goodbye())
        await self._controller.cancel(self.name)
        await self._folder.remove()

    async def _wait(self, seconds: float) -> None:
        await self._context.deadlines.timer(seconds)

    def _watch_idleness(self) -> None:
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None
        if not self._used and not self._is_closing:
            self._idle = self._context.deadlines.after(self._pool.start.keep_idle, self._close_if_idle)

    def _close_if_idle(self) -> None:
        self._idle = None
        if self._pool.has_waiting:
            self._watch_idleness()
            return
        self._is_closing = True
        self.send(Goodbye())
        if self.is_starting:
            self._context.begin(self._controller.cancel(self.name), _OF_PILOTS)

    # --- what it says

    def receive(self, message: FromLauncher) -> None:
        """Do what one of its messages asks for.

        Raises:
            ProtocolError: it declines this launcher.
        """
        match message:
            case Welcome(node=node):
                if node is not None:
                    self.node = node.name
                    self._cpus, self._memory = node.cpus or 1, node.memory or _ANY
            case Declined():
                raise ProtocolError(message.problem)
            case Ready():
                self._begin_work()
            case AttemptStarted():
                self._note_start(message)
            case OutputPart():
                self._store(message)
            case AttemptEnded():
                self._note_end(message)
            case LogGrew() | Checked():
                pass  # a pilot is not asked for these: the output itself comes

    def _begin_work(self) -> None:
        """Repeat what its attempts are asked to do, and take more of them, unless it only answers."""
        if self._connection is None or self._connection.is_ready:
            return
        self._connection.is_ready = True
        self.is_starting = False
        self._has_worked = True
        for attempt in self._attempts.values():
            self._repeat(attempt)
        if self._is_closing:  # it was idle while there was no connection
            self.send(Goodbye())
        self._watch_idleness()
        self._pool.connected()

    def _store(self, part: OutputPart) -> None:
        attempt = self._attempts.get(part.key)
        end = part.offset + len(part.data) if attempt is None else attempt.write(part)
        if self._connection is not None:
            self._connection.send(OutputStored(part.key, end))

    def _note_start(self, started: AttemptStarted) -> None:
        """Tell an attempt; end one whose record was lost: its job may run again, but not beside it."""
        key, connection = started.key, self._connection
        if key in self._attempts:
            self._attempts[key].started(started)
        elif connection is not None and not (connection.is_ready and key in self._strangers):
            self._strangers.add(key)
            connection.send(StopProcesses(key, 0.0))

    def _note_end(self, ended: AttemptEnded) -> None:
        attempt = self._attempts.pop(ended.key, None)
        if attempt is not None:
            self._ended.add(ended.key)
            attempt.finish(ended)
            del self._used[ended.key]
            self._watch_idleness()
            self._pool.assign()
        elif ended.key not in self._ended:  # its end was recorded before
            self._pool.acknowledge(self, ended.key)
        if ended.key in self._strangers:
            self._strangers.discard(ended.key)
            self._pool.assign()

    def _keep_alive(self) -> None:
        """Keep the pilot alive; drop the connection if nothing comes from it.

        The srun of a step whose slurmstepd was killed stays, and says nothing.
        """
        connection = self._connection
        if connection is None:
            return
        if connection.silent_beats == 0:
            self.send(KeepAlive())
        elif connection.silent_beats == 1:
            connection.greet(self._pool.store)  # every version answers this; early ones of 5 no KeepAlive
        else:
            log.warning("pilot %s: no answer for %g s: connecting again", self.name, 2 * _BEAT)
            connection.drop()
            return
        connection.silent_beats += 1
        self._beat = self._context.deadlines.after(_BEAT, self._keep_alive)

    def _stop_beating(self) -> None:
        if self._beat is not None:
            self._beat.cancel()
            self._beat = None


class _Connection(asyncio.Protocol):
    """The connection to a pilot; messages of one turn of the loop are one write."""

    _transport: asyncio.Transport

    def __init__(self, pilot: Pilot, context: Context) -> None:
        self.is_ready = False  # it has said all that it knows
        self.silent_beats = 0  # how often it was asked for a sign of life since it said something
        self.lost = asyncio.Event()
        self._pilot = pilot
        self._context = context
        self._frames = FrameReader(MAX_LAUNCHING_FRAME)
        self._unhandled: deque[bytes] = deque()  # messages
        self._unsent: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101  a stream socket's is
        self._transport = transport

    def greet(self, store: str) -> None:
        self.send(Greeting(OLDEST_PILOT_PROTOCOL, store, generation=1, newest=LAUNCHING_PROTOCOL))

    def send(self, message: ToLauncher) -> None:
        if not self._unsent:
            asyncio.get_running_loop().call_soon(self._flush)
        self._unsent.append(frame(encode(message), MAX_LAUNCHING_FRAME))

    def _flush(self) -> None:
        if not self._transport.is_closing():
            self._transport.write(b"".join(self._unsent))
        self._unsent.clear()

    def drop(self) -> None:
        self._transport.abort()

    def data_received(self, data: bytes) -> None:
        self.silent_beats = 0
        try:
            self._handle(data)
        except OSError:
            self._transport.pause_reading()
            self._context.begin(self._handle_later(), _OF_PILOTS)

    def _handle(self, data: bytes = b"") -> None:
        """Handle messages that have come, and those that came before.

        Raises:
            OSError: there is no descriptor for a log now; may be tried again.
        """
        try:
            self._unhandled.extend(self._frames.feed(data))
            while self._unhandled and not self.lost.is_set():
                self._pilot.receive(decode_from_launcher(self._unhandled[0]))
                self._unhandled.popleft()
        except ProtocolError as error:
            log.warning("pilot %s: dropped its connection: %s", self._pilot.name, error)
            self._transport.abort()

    async def _handle_later(self) -> None:
        async def handle() -> None:
            self._handle()

        await self._context.retry(f"output of pilot {self._pilot.name} cannot be stored yet", handle)
        self._transport.resume_reading()

    def connection_lost(self, _error: Exception | None) -> None:
        self.lost.set()


_OF_PILOTS = "pilots"
_ANY = 1 << 62  # bytes: if Slurm does not say how much memory a node has
_TRIES = 3  # pilots that end without a word, until the attempts that wait fail
_ABSENCES = 2  # answers without its job, since the controller may not have heard all
_NOT_ENDED_BY_SLURM = {"FAILED", ""}  # its script was killed; or Slurm does not remember
_BEAT = LEASE / 6  # three of them until a connection is given up, which leaves time for the next one
_PAUSE = 1.0
_FIRST_PAUSE, _LONGEST_PAUSE = 0.25, 30.0  # seconds until Slurm is asked again, doubled each time
_GIVE_BACK_SECONDS = 5.0
_SBATCH_COST, _STEP_COST = 2, 2  # requests
