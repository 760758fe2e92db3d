"""A simulated machine: bgd's own supervisor on it, over a disk, a launcher and clocks that are simulated.

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

from bgd.config import Config, QueueConfig, load
from bgd.daemon.backups import Backups
from bgd.daemon.control.handlers import MaintenanceHandler, RequestHandler
from bgd.daemon.control.reads import ReadHandler
from bgd.daemon.job_actions import JobActions
from bgd.daemon.launching import LauncherLink
from bgd.daemon.retention import Retention
from bgd.daemon.storage import write
from bgd.daemon.storage.database import DatabaseConnection
from bgd.daemon.storage.store import Store
from bgd.daemon.supervisor import Supervisor
from bgd.wire.requests import ShutdownMode
from tests.end_to_end.truth import Truth
from tests.simulation.agenda import Agenda
from tests.simulation.cable import Cable
from tests.simulation.disk import SimulatedDatabase, new_disk
from tests.simulation.launcher import LANES, MOST_IN_LANE, SLOTS, Journal, Launcher
from tests.simulation.loop import SimulatedAlarm, SimulatedLoop

GRACE = 0.5  # seconds
CONFIG = load(environ={"HOME": "/nowhere"})


class SimulatedLink(LauncherLink):
    """The supervisor's end of the launcher's socket; what it starts in place of a process is simulated."""

    def __init__(self, machine: Machine, store: Store, generation: int) -> None:
        super().__init__("/nowhere", "/nowhere", store, generation)
        self._machine = machine

    def _start(self, path: str) -> None:
        del path
        self._machine.start_launcher()


class Life(Struct):
    """One life of a supervisor; `handler` is None until it has read what is on disk."""

    loop: SimulatedLoop
    handler: RequestHandler | None = None
    supervisor: Supervisor | None = None
    tasks: list[asyncio.Task[None]] = []


class Machine:
    """Everything there is in one history.

    Attributes:
        truth: what the jobs know of themselves.
        life: that of the present supervisor.
    """

    def __init__(self, seed: int) -> None:
        self.dice = random.Random(seed)
        self.agenda = Agenda()
        self.truth = Truth()
        self.disk = new_disk()
        self.boot_id = "boot-0"
        self.journal = Journal(self.boot_id)
        self.config = _config(self.dice)
        self.launcher: Launcher | None = None
        self._cable: Cable | None = None
        self._launchers = 0
        self._loops: list[SimulatedLoop] = []
        self.life = self._begin_life()

    # --- what may happen to it -----------------------------------------------------------------------------

    def kill_supervisor(self) -> None:
        """Take all of its memory, and what it has not yet written; another one starts at once."""
        self.life.loop.kill()
        if self._cable is not None:
            self._cable.lose_supervisor()
            self._cable = None
        self.life = self._begin_life()

    def kill_launcher(self) -> None:
        if self.launcher is not None:
            self.launcher.die()
            self.launcher = None
            if self._cable is not None:
                self._cable.lose_launcher()
                self._cable = None

    def kill_both(self) -> None:
        self.kill_launcher()
        self.kill_supervisor()

    def lose_records(self) -> None:
        """Kill the launcher, and lose the file from which the next one would know what ran."""
        self.kill_launcher()
        self.journal = Journal(self.boot_id, generation=self.journal.generation)

    def cut_power(self) -> None:
        """Leave what is on the disk, of the launcher's file too; then start on another boot's clock."""
        self.kill_launcher()
        self.agenda.time += self.dice.choice([0.0, 30.0])
        self.agenda.boot()
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
        self.agenda.set_wall_clock(jump)
        for alarm in self.life.loop.alarms:
            alarm.arm()

    def shut_down(self, mode: ShutdownMode | None = None) -> None:
        """End the supervisor in good order, as `bgctl shutdown` does, and start another; None: in any."""
        life = self.life
        if life.supervisor is not None:
            life.tasks.append(
                life.loop.create_task(self._drain(life, mode or self.dice.choice(list(ShutdownMode))))
            )

    def start_launcher(self) -> None:
        self._launchers += 1
        instance = f"{self.boot_id}:{self._launchers}"
        self.launcher = Launcher(self.agenda, self.dice, self.journal, instance, self.truth)

    def clear_away(self) -> None:
        """End all that is left, after the history."""
        for loop in self._loops:
            loop.kill()
            loop.bury()

    def check_alive(self) -> None:
        """Raise what a part of the supervisor died of, which must never happen by itself."""
        for task in self.life.tasks:
            if task.done() and not task.cancelled() and (error := task.exception()) is not None:
                raise AssertionError("the supervisor died") from error
        if self.life.loop.failure is not None:
            raise AssertionError("a callback failed") from self.life.loop.failure

    # --- lives ----------------------------------------------------------------------------------------------

    def _begin_life(self) -> Life:
        loop = SimulatedLoop(self.agenda, self._connect)  # type: ignore[abstract]  # all that bgd asks for is there
        self._loops.append(loop)
        life = Life(loop)
        life.tasks.append(loop.create_task(self._live(life)))
        return life

    async def _live(self, life: Life) -> None:
        writer, reader, searcher = (
            cast(DatabaseConnection, SimulatedDatabase(self, life.loop)) for _ in range(3)
        )
        (store_id,) = self.disk.execute("SELECT store_id FROM meta").fetchone()
        store = Store(writer, reader, searcher, store_id, path="/nowhere")
        store.position = write.newest_event(self.disk)
        link = SimulatedLink(self, store, await store.begin_generation())
        supervisor = Supervisor(self.config, store, link)
        await supervisor.restore()
        life.tasks += [life.loop.create_task(each) for each in (supervisor.run(), link.run(supervisor))]
        life.supervisor = supervisor
        reads = ReadHandler(supervisor, store, link)
        actions = JobActions(supervisor, store)
        retention = Retention(supervisor, actions, store)
        maintenance = MaintenanceHandler(supervisor, link, retention, Backups(supervisor, store))
        life.handler = RequestHandler(supervisor, actions, maintenance, reads, self.shut_down, reload=list)

    async def _drain(self, life: Life, mode: ShutdownMode) -> None:
        assert life.supervisor is not None
        await life.supervisor.drain(mode)
        self.agenda.after(0.0, lambda: self._succeed(life))

    def _succeed(self, life: Life) -> None:
        """Start another supervisor when one has ended, unless it was killed before."""
        if self.life is life:
            self.kill_supervisor()

    def _connect(self, protocol: asyncio.Protocol) -> asyncio.Transport:
        if self.launcher is None:
            raise ConnectionRefusedError
        self._cable = Cable(self.agenda, self.dice, self.life.loop, self.launcher, protocol)
        return self._cable


def _config(dice: random.Random) -> Config:
    daemon = replace(CONFIG.daemon, slots=SLOTS, grace=GRACE)
    retry = replace(CONFIG.retry_commands, delay=dice.choice([0.0, 1.0, 5.0]), max_delay=60.0)
    queues = dict.fromkeys(LANES, QueueConfig(slots=MOST_IN_LANE))
    return replace(CONFIG, daemon=daemon, retry_commands=retry, queues=queues)


@contextmanager
def simulated(machine: Machine) -> Iterator[None]:
    """Put the machine's clocks, boot and dice in the place of the real ones."""

    def elapsed() -> float:
        return machine.agenda.now().elapsed

    def wall() -> float:
        return machine.agenda.now().wall

    def boot_id() -> str:
        return machine.boot_id

    with (
        mock.patch("bgd.clock.elapsed", elapsed),
        mock.patch("bgd.clock.boot_id", boot_id),
        mock.patch("bgd.clock.Alarm", SimulatedAlarm),
        mock.patch("bgd.clock.time", SimpleNamespace(time=wall)),
        mock.patch("bgd.daemon.supervisor.random", machine.dice),
    ):
        yield
