"""Run the daemon's inner parts in a test: all of them are real, except the launcher, which is scripted."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

from bgd.core.job import JobId
from bgd.core.spec import JobSpec
from bgd.daemon import folder
from bgd.daemon.backups import Backups
from bgd.daemon.control.connection import ControlServer
from bgd.daemon.control.handlers import RequestHandler
from bgd.daemon.control.inboxes import Inboxes
from bgd.daemon.control.reads import ReadHandler
from bgd.daemon.job_actions import JobActions
from bgd.daemon.launching import LauncherLink, LauncherSnapshot
from bgd.daemon.notifications import Notifications
from bgd.daemon.retention import Retention
from bgd.daemon.schedules import Schedules
from bgd.daemon.storage import read
from bgd.daemon.storage.records import StoredSpec, Transaction
from bgd.daemon.storage.store import Store, begin_generation
from bgd.daemon.supervisor import Supervisor
from bgd.settings.config import Config, load
from bgd.wire import messages as wire_messages
from bgd.wire.launching import (
    Acknowledge,
    AttemptKey,
    Launch,
    ToLauncher,
    WatchLog,
    log_name,
)
from bgd.wire.messages import PROTOCOL, Hello
from bgd.wire.requests import ShutdownMode
from bgd.wire.views import AttemptView, JobView
from tests.daemon.caller import Caller
from tests.daemon.scripted_launcher import ScriptedLauncher, end
from tests.daemon.waiting import soon

UID = 4_000_000  # a uid that nobody has
SLOTS = 4


def configure(folder: Path, daemon: str = f"slots = {SLOTS}", rest: str = "") -> Config:
    """Write and load a configuration with everything in `folder`; `daemon`, `rest`: further TOML."""
    file = folder / "bgd.toml"
    file.write_text(f'[daemon]\nstate_dir = "{folder}/state"\n{daemon}\n{rest}\n')
    return load(str(file), environ={"HOME": str(folder)})


def command(*argv: str, **fields: object) -> JobSpec:
    """Return the spec of a command that succeeds; `fields`: its options."""
    known: dict[str, object] = {"env": {}, "cwd": "/", **fields}
    return JobSpec(argv=argv or ("/bin/true",), **known)  # type: ignore[arg-type]  # tests


def write_log(config: Config, key: AttemptKey, data: bytes = b"", *, zeros: int = 0) -> None:
    """Append to an attempt's log like the launcher; `zeros`: bytes of a hole, which takes no disk space."""
    path = Path(config.log_dir, log_name(key.job, key.attempt))
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as log:
        log.write(data)
        log.truncate(log.tell() + zeros)


class GatedStore:
    """Delays commits while the gate is closed, and counts them."""

    def __init__(self, store: Store) -> None:
        self._commit = store.commit
        store.commit = self  # type: ignore[method-assign]  # put in front of the real one
        self.gate = asyncio.Event()
        self.gate.set()
        self.reached = asyncio.Event()  # a commit waits at the gate
        self.commits = 0
        self.failure: Exception | None = None

    async def __call__(self, transaction: Transaction) -> dict[JobId, StoredSpec]:
        self.commits += 1
        self.reached.set()
        await self.gate.wait()
        if self.failure is not None:
            raise self.failure
        return await self._commit(transaction)

    def close(self) -> None:
        """Close the gate: the next commit waits at it."""
        self.reached.clear()
        self.gate.clear()

    def open(self) -> None:
        self.gate.set()


class Harness:
    """A supervisor from `restore` to its end, which is as sudden as a crash."""

    def __init__(self, config: Config, store: Store, link: LauncherLink, launcher: ScriptedLauncher) -> None:
        self.config = config
        self.store = store
        self.commits = GatedStore(store)
        self.link = link
        self.launcher = launcher
        self.supervisor = Supervisor(config, store, link)
        self.actions = JobActions(self.supervisor, store)
        self.is_met = asyncio.Event()  # a launcher is connected and has reported all it knows
        self.is_lost = asyncio.Event()
        self._wrap(self.supervisor)
        self.tasks: asyncio.TaskGroup

    def key(self, job_id: int, attempt: int = 1) -> AttemptKey:
        return AttemptKey(self.store.store_id, job_id, attempt)

    def take(self, spec: JobSpec | None = None) -> JobId:
        """Submit a job without waiting until it is saved."""
        submitted = self.actions.submit([spec or command()], UID)
        assert submitted.first is not None
        return submitted.first

    async def submit(self, spec: JobSpec | None = None) -> JobId:
        job_id = self.take(spec)
        await soon(self.supervisor.saved())
        return job_id

    async def launched(self, spec: JobSpec | None = None) -> AttemptKey:
        """Submit a job that starts at once; return the key of its attempt."""
        job_id = await self.submit(spec)
        launch = await self.launcher.hear(Launch)
        assert launch.key == self.key(job_id)
        return launch.key

    async def view(self, job_id: int) -> JobView:
        await soon(self.supervisor.saved())
        view = await self.store.read(read.view, JobId(job_id))
        assert view is not None
        return view

    async def attempts(self, job_id: int) -> list[AttemptView]:
        await soon(self.supervisor.saved())
        return await self.store.read(read.attempts_of, JobId(job_id), 0, 100)

    async def told(self) -> list[ToLauncher]:
        """Return all messages to the launcher so far, after everything is saved."""
        await soon(self.is_met.wait())
        await soon(self.supervisor.saved())
        return await self.told_so_far()

    async def told_so_far(self) -> list[ToLauncher]:
        """Return all messages to the launcher so far, also while the gate is closed."""
        await soon(self.is_met.wait())
        mark = WatchLog(AttemptKey("mark", 0, 0))
        assert self.link.send(mark)
        messages = []
        while (message := await self.launcher.next()) != mark:
            messages.append(message)
        return messages

    async def heard(self) -> list[ToLauncher]:
        """Return all messages to the launcher until the supervisor has handled all that the launcher sent."""
        stray = end(AttemptKey("mark", 0, 0))  # of an unknown attempt: acknowledged, but nothing changes
        self.launcher.say(stray)
        messages = []
        while not isinstance(message := await self.launcher.next(), Acknowledge) or message.key != stray.key:
            messages.append(message)
        return messages

    def _wrap(self, supervisor: Supervisor) -> None:
        ready, lost = supervisor.launcher_ready, supervisor.launcher_lost

        def be_met(snapshot: LauncherSnapshot) -> None:
            ready(snapshot)
            self.is_lost.clear()
            self.is_met.set()

        def be_lost() -> None:
            lost()
            self.is_met.clear()
            self.is_lost.set()

        supervisor.launcher_ready = be_met  # type: ignore[method-assign]  # wrapped
        supervisor.launcher_lost = be_lost  # type: ignore[method-assign]  # likewise


class ServedHarness(Harness):
    """A supervisor with its control socket, connected to a launcher."""

    control: ControlServer
    shutdowns: list[ShutdownMode | None]

    def serve(self) -> None:
        self.shutdowns = []
        self.backups = Backups(self.supervisor, self.store)
        self.notifications = Notifications(self.supervisor, self.actions, self.store)
        self.schedules = Schedules(self.supervisor, self.actions, self.store)
        handler = RequestHandler(
            self.supervisor,
            self.actions,
            ReadHandler(self.supervisor, self.store),
            schedules=self.schedules,
            retention=Retention(self.supervisor, self.actions, self.store),
            backups=self.backups,
            notifications=self.notifications,
            inboxes=Inboxes(self.supervisor.subscriptions, self.store),
            shut_down=self.shutdowns.append,
            reload=_no_reload,
        )
        self.control = ControlServer(handler, os.geteuid(), self.tasks)
        self._callers: list[Caller] = []

    async def call(self, *, greet: bool = True) -> Caller:
        """Connect a client; with `greet`, exchange hellos first."""
        caller = Caller(*await asyncio.open_unix_connection(self.config.daemon.socket))
        self._callers.append(caller)
        if greet:
            caller.send(Hello(PROTOCOL, "1"))
            wire_messages.decode_hello(await caller.next_payload())
        return caller

    async def hang_up(self) -> None:
        for caller in self._callers:
            await caller.hang_up()


AnyHarness = TypeVar("AnyHarness", bound=Harness)


@asynccontextmanager
async def running_supervisor(config: Config, launcher: ScriptedLauncher) -> AsyncIterator[Harness]:
    """Run a supervisor; the launcher has not answered it yet."""
    async with _running(Harness, config, launcher) as life:
        yield life


@asynccontextmanager
async def served(config: Config, launcher: ScriptedLauncher) -> AsyncIterator[ServedHarness]:
    """Run a supervisor with its control socket, connected to a launcher."""
    folder.prepare(config)
    async with _running(ServedHarness, config, launcher) as life:
        await launcher.greet()
        life.serve()
        loop = asyncio.get_running_loop()
        server = await loop.create_unix_server(life.control.new_connection, sock=folder.listen(config))
        try:
            yield life
        finally:
            server.close()
            life.control.close()
            await life.hang_up()


@asynccontextmanager
async def _running(
    kind: type[AnyHarness], config: Config, launcher: ScriptedLauncher
) -> AsyncIterator[AnyHarness]:
    store = await Store.open(f"{config.daemon.state_dir}/bgd.db")
    try:
        generation = await store.write(begin_generation)
        link = LauncherLink(config.daemon.state_dir, config.log_dir, store, generation)
        life = kind(config, store, link, launcher)
        await life.supervisor.restore()
        async with asyncio.TaskGroup() as life.tasks:
            parts = (life.supervisor.run(), life.supervisor.log_cleaner.run(), link.run(life.supervisor))
            work = [life.tasks.create_task(each) for each in parts]
            yield life
            for task in work:
                task.cancel()
    finally:
        await launcher.hang_up_on_all()
        await store.close()


async def _no_reload() -> list[str]:
    return []
