"""A simulated machine: the real supervisor with a simulated disk, launcher and clocks.

The Scheduler, the Supervisor with its transactions and dispatch, JobActions and RequestHandler are real, and
so are the storage with its SQL (in memory) and all messages on the supervisor's end of the launcher's socket.
Time, the database threads, sockets, the launcher and the jobs are simulated.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import cast
from unittest import mock

from msgspec import Struct
from msgspec.structs import replace

from bgd.daemon.backups import Backups
from bgd.daemon.control.handlers import RequestHandler
from bgd.daemon.control.inboxes import Inboxes
from bgd.daemon.control.reads import ReadHandler
from bgd.daemon.job_actions import JobActions
from bgd.daemon.launching import LauncherLink
from bgd.daemon.notifications import Notifications
from bgd.daemon.retention import Retention
from bgd.daemon.schedules import Schedules
from bgd.daemon.storage import change_stream
from bgd.daemon.storage.database import DatabaseConnection, Health
from bgd.daemon.storage.store import Store, begin_generation
from bgd.daemon.supervisor import Supervisor
from bgd.settings.config import Config, NotifyTarget, QueueConfig, load
from bgd.system.clock import Clocks
from bgd.wire.launching import Launch, ToLauncher
from bgd.wire.requests import ShutdownMode
from tests.end_to_end.records import AttemptRecords
from tests.simulation.calls import with_breaker
from tests.simulation.connection import SimulatedConnection
from tests.simulation.disk import SimulatedDatabase, new_disk
from tests.simulation.event_queue import EventQueue
from tests.simulation.launcher import GPUS, MAX_QUEUE_SLOTS, QUEUES, SLOTS, Journal, SimulatedLauncher
from tests.simulation.limits import LIMITED, with_limits
from tests.simulation.loop import SimulatedAlarm, SimulatedLoop
from tests.simulation.references import with_class_jobs
from tests.simulation.stops import StopLaws

GRACE = 0.5  # seconds
SCHEDULED = 0.2  # of all histories; others have no schedules
TELLS = 3  # of each so many histories one has notifications
TARGET = NotifyTarget(mail="root", on=("failed", "succeeded", "recovered"), per_minute=1000)
CONFIG = load(environ={"HOME": "/nowhere"})


class SimulatedLink(LauncherLink):
    """The supervisor's connection to the launcher; it starts a simulated launcher instead of a process."""

    def __init__(self, machine: Machine, store: Store, generation: int) -> None:
        super().__init__("/nowhere", "/nowhere", store, generation)
        self._machine = machine

    def send(self, message: ToLauncher) -> bool:
        if isinstance(message, Launch):
            at = self._machine.event_queue.now().wall
            self._machine.stops.launches(self._machine.disk, len(self._machine.lives) - 1, message, at)
        return super().send(message)

    def _start(self, path: str) -> None:
        del path
        self._machine.start_launcher()


class SupervisorLife(Struct):
    """One supervisor, from its start to its end.

    `handler` is None until it has loaded the database. `started_at`, `looks_from`: when it started, and when
    it had loaded its schedules, by the wall clock. `first_event`: the newest event at its start.
    """

    loop: SimulatedLoop
    started_at: float
    first_event: int
    looks_from: float | None = None
    handler: RequestHandler | None = None
    supervisor: Supervisor | None = None
    tasks: list[asyncio.Task[None]] = []


class Machine:
    """All parts of one history.

    Attributes:
        records: what the attempts report of themselves.
        stops: what must not begin any more.
        lives: all supervisors so far; `life` is the current one.
        has_schedules: whether there are schedules in this history; None leaves that to the seed.
        has_limits: whether queues have rates and weights, and jobs limits by key; None leaves it to the seed.
        has_inboxes: whether jobs have sessions.
        has_calls: whether jobs are followed by others, and some are calls that pause after failures.
        has_references: whether jobs get the results of others, and finished jobs are pruned.
        has_permits: whether there are many short jobs.
    """

    def __init__(
        self,
        seed: int,
        *,
        has_schedules: bool | None = None,
        has_limits: bool | None = None,
        has_calls: bool = False,
        has_references: bool = False,
        has_permits: bool = False,
    ) -> None:
        self.dice = random.Random(seed)
        self.event_queue = EventQueue()
        self.records = AttemptRecords()
        self.stops = StopLaws(lambda *run: self.launcher is not None and self.launcher.runs_since(*run))
        self.disk = new_disk()
        self.boot_id = "boot-0"
        self.journal = Journal(self.boot_id)
        has_notifications = seed % TELLS == 1 and not has_references  # what tells is pruned, too
        self.config = _config(self.dice, tells=has_notifications)
        self.has_limits = random.Random(~seed).random() < LIMITED if has_limits is None else has_limits
        if self.has_limits:
            self.config = with_limits(self.config, seed)
        self.has_inboxes = False
        self.has_calls = has_calls
        if has_calls:
            self.config = with_breaker(self.config)
        self.has_permits = has_permits
        self.has_references = has_references
        if has_references:
            self.config = with_class_jobs(self.config)
        self.has_schedules = (
            random.Random(seed).random() < SCHEDULED if has_schedules is None else has_schedules
        )
        self.launcher: SimulatedLauncher | None = None
        self._connection: SimulatedConnection | None = None
        self._launchers = 0
        self.lives: list[SupervisorLife] = []
        self.life = self._begin_life()

    # --- what may happen to it -----------------------------------------------------------------------------

    def kill_supervisor(self) -> None:
        """Kill the supervisor, which loses all that it has not written; another one starts at once."""
        self.life.loop.kill()
        if self._connection is not None:
            self._connection.lose_supervisor()
            self._connection = None
        self.life = self._begin_life()

    def kill_launcher(self) -> None:
        if self.launcher is not None:
            self.launcher.die()
            self.launcher = None
            if self._connection is not None:
                self._connection.lose_launcher()
                self._connection = None

    def kill_both(self) -> None:
        self.kill_launcher()
        self.kill_supervisor()

    def lose_records(self) -> None:
        """Kill the launcher and lose its journal."""
        self.kill_launcher()
        self.journal = Journal(self.boot_id, generation=self.journal.generation)

    def cut_power(self) -> None:
        """Keep only what is on disk, also of the launcher's journal; then boot again."""
        self.kill_launcher()
        self.event_queue.time += self.dice.choice([0.0, 30.0])
        self.event_queue.boot()
        self.boot_id = f"boot-{int(self.boot_id.partition('-')[2]) + 1}"
        journal = self.journal
        for key in [*journal.ended.keys() - journal.synced]:
            if self.dice.random() < 0.5:
                del journal.ended[key]
        for key in [*journal.runs]:
            if self.dice.random() < 0.5:
                del journal.runs[key]
        journal.boot = self.boot_id
        self.kill_supervisor()

    def set_wall_clock(self, jump: float) -> None:
        self.event_queue.set_wall_clock(jump)
        for alarm in self.life.loop.alarms:
            alarm.clock_was_set()

    def shut_down(self, mode: ShutdownMode | None = None) -> None:
        """Shut the supervisor down like `bgctl shutdown`, and start another; `mode` None: a random one."""
        life = self.life
        if life.supervisor is not None:
            life.tasks.append(
                life.loop.create_task(self._drain(life, mode or self.dice.choice(list(ShutdownMode))))
            )

    def start_launcher(self) -> None:
        self._launchers += 1
        instance = f"{self.boot_id}:{self._launchers}"
        self.launcher = SimulatedLauncher(
            self.event_queue, self.dice, self.journal, instance, self.records, self._begins
        )

    def clear_away(self) -> None:
        """Stop everything, after the history."""
        for life in self.lives:
            life.loop.kill()
            life.loop.bury()

    def check_alive(self) -> None:
        """Raise the error of a part of the supervisor that died; none may die by itself."""
        for task in self.life.tasks:
            if task.done() and not task.cancelled() and (error := task.exception()) is not None:
                raise AssertionError("the supervisor died") from error
        if self.life.loop.failure is not None:
            raise AssertionError("a callback failed") from self.life.loop.failure

    # --- lives ----------------------------------------------------------------------------------------------

    def _begin_life(self) -> SupervisorLife:
        loop = SimulatedLoop(self.event_queue, self._connect)  # type: ignore[abstract]  # all that bgd asks for is there
        newest = change_stream.newest_event(self.disk)
        life = SupervisorLife(loop, self.event_queue.now().wall, newest)
        self.lives.append(life)
        life.tasks.append(loop.create_task(self._live(life)))
        return life

    async def _live(self, life: SupervisorLife) -> None:
        writer, reader, searcher = (
            cast(DatabaseConnection, SimulatedDatabase(self, life.loop)) for _ in range(3)
        )
        (store_id,) = self.disk.execute("SELECT store_id FROM meta").fetchone()
        store = Store(writer, reader, searcher, store_id, path="/nowhere", health=Health())
        store.position = change_stream.newest_event(self.disk)
        link = SimulatedLink(self, store, await store.write(begin_generation))
        supervisor = Supervisor(self.config, store, link)
        actions = JobActions(supervisor, store)
        await supervisor.restore()
        life.tasks += [life.loop.create_task(each) for each in (supervisor.run(), link.run(supervisor))]
        life.supervisor = supervisor
        notifications = Notifications(supervisor, actions, store)
        if self.config.notify:
            await notifications.load()
            life.tasks.append(life.loop.create_task(notifications.run()))
        schedules = Schedules(supervisor, actions, store, self._clocks)
        if self.has_schedules:
            await schedules.clock.load()
            life.looks_from = self.event_queue.now().wall
            life.tasks.append(life.loop.create_task(schedules.clock.run()))
        life.handler = RequestHandler(
            supervisor,
            actions,
            ReadHandler(supervisor, store),
            schedules=schedules,
            retention=Retention(supervisor, actions, store),
            backups=Backups(supervisor, store),
            notifications=notifications,
            inboxes=Inboxes(supervisor.subscriptions, store),
            shut_down=self.shut_down,
            reload=_no_reload,
        )

    def _clocks(self) -> Clocks:
        now = self.event_queue.now()
        return Clocks(now.wall, self.event_queue.time, now.elapsed)

    async def _drain(self, life: SupervisorLife, mode: ShutdownMode) -> None:
        assert life.supervisor is not None
        active = life.supervisor.scheduler.active_jobs()
        self.stops.drains(self.lives.index(life), ((job.id, job.attempt) for job in active))
        await life.supervisor.drain(mode)
        self.event_queue.after(0.0, lambda: self._succeed(life))

    def _begins(self, instance: str, launch: Launch) -> None:
        self.stops.begins(self.disk, instance, launch)

    def _succeed(self, life: SupervisorLife) -> None:
        """Start another supervisor after one has ended, unless that was killed before."""
        if self.life is life:
            self.kill_supervisor()

    def _connect(self, protocol: asyncio.Protocol) -> asyncio.Transport:
        if self.launcher is None:
            raise ConnectionRefusedError
        loop, launcher = self.life.loop, self.launcher
        self._connection = SimulatedConnection(self.event_queue, self.dice, loop, launcher, protocol)
        return self._connection


def _config(dice: random.Random, *, tells: bool) -> Config:
    daemon = replace(CONFIG.daemon, slots=SLOTS, grace=GRACE, notify="ops" if tells else None)
    retry = replace(CONFIG.retry_commands, delay=dice.choice([0.0, 1.0, 5.0]), max_delay=60.0)
    queues = dict.fromkeys(QUEUES, QueueConfig(slots=MAX_QUEUE_SLOTS))
    return replace(
        CONFIG,
        resources={"gpu": GPUS},
        daemon=daemon,
        retry_commands=retry,
        queues=queues,
        notify={"ops": TARGET} if tells else {},
    )


@contextmanager
def simulated(machine: Machine) -> Iterator[None]:
    """Replace the real clocks, boot id and random numbers by the machine's, and pack few jobs like many."""

    def elapsed() -> float:
        return machine.event_queue.now().elapsed

    def wall() -> float:
        return machine.event_queue.now().wall

    def boot_id() -> str:
        return machine.boot_id

    with (
        mock.patch("bgd.system.clock.elapsed", elapsed),
        mock.patch("bgd.system.clock.boot_id", boot_id),
        mock.patch("bgd.system.clock.Alarm", SimulatedAlarm),
        mock.patch(
            "bgd.system.clock.time",
            SimpleNamespace(
                time=wall, monotonic=elapsed, clock_gettime=lambda _: elapsed(), CLOCK_BOOTTIME=None
            ),
        ),
        mock.patch("bgd.daemon.retention.time", SimpleNamespace(monotonic=elapsed)),
        mock.patch("bgd.daemon.supervisor.random", machine.dice),
        mock.patch("bgd.core.packed_jobs._FEW", 0),  # a history has few jobs; they are packed like very many
        # with permits most slots have some; without, no job counts as short
        mock.patch("bgd.daemon.permits.SHORT_RUN", 4.0 if machine.has_permits else 0.0),
    ):
        yield


async def _no_reload() -> list[str]:
    return []
