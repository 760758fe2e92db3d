"""The daemon's inner parts, all real but one: behind the launcher's socket stands a scripted launcher."""

from __future__ import annotations

import asyncio
import fcntl
import os
from collections.abc import AsyncIterator, Awaitable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

from bgd import clock
from bgd.config import Config, load
from bgd.core.job import JobId, JobSpec, Outcome
from bgd.daemon.launching import LauncherLink, Snapshot
from bgd.daemon.records import Batch, StoredSpec
from bgd.daemon.store import Store
from bgd.daemon.supervisor import Supervisor
from bgd.wire.framing import HEADER, frame
from bgd.wire.launching import (
    LAUNCHING_PROTOCOL,
    MAX_LAUNCHING_FRAME,
    Acknowledge,
    Ended,
    FromLauncher,
    Greeting,
    Key,
    Launch,
    Ready,
    Started,
    ToLauncher,
    Watch,
    Welcome,
    decode_to_launcher,
    encode,
)
from bgd.wire.messages import AttemptView, JobView
from tests.support import DEADLINE

UID = 4_000_000  # of nobody here
BOOT = clock.boot_id()
FIRST = f"{BOOT}:first"  # ids of launchers
SECOND = f"{BOOT}:second"
EARLIER_BOOT = "0b6c1e1f-earlier-boot:first"

T = TypeVar("T")


async def soon(awaited: Awaitable[T]) -> T:
    """Await with a deadline."""
    return await asyncio.wait_for(awaited, DEADLINE)


def configure(folder: Path, daemon: str = "slots = 4", rest: str = "") -> Config:
    """Write and read a configuration whose daemon lives in the folder; `rest`: further sections."""
    file = folder / "bgd.toml"
    file.write_text(f'[daemon]\nstate_dir = "{folder}/state"\n{daemon}\n{rest}\n')
    return load(str(file), environ={"HOME": str(folder)})


def command(*argv: str, **fields: object) -> JobSpec:
    return JobSpec(argv=argv or ("/bin/true",), env={}, cwd="/", **fields)  # type: ignore[arg-type]  # tests


def end(key: Key, outcome: Outcome = Outcome.SUCCEEDED, exit_code: int | None = 0) -> Ended:
    return Ended(key=key, outcome=outcome, exit_code=exit_code, started_at=1.0, finished_at=2.0)


class ScriptedLauncher:
    """Says what the test says and hands over what it is told. It has the lock, so no real one is started."""

    def __init__(self, state_dir: str) -> None:
        self._path = Path(state_dir, "launcher.sock")
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lock = os.open(self._path.with_name("launcher.lock"), os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        self._visitors: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = asyncio.Queue()
        self._came: list[asyncio.StreamWriter] = []
        self._reader: asyncio.StreamReader
        self._writer: asyncio.StreamWriter | None = None

    async def start(self) -> None:
        async def visit(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self._came.append(writer)
            self._visitors.put_nowait((reader, writer))

        self._server = await asyncio.start_unix_server(visit, self._path)

    async def greet(
        self, *known: Started | Ended, instance: str = FIRST, covers: Iterable[str] = ()
    ) -> Greeting:
        """Take the next supervisor that comes and tell it what is known."""
        self.hang_up()
        self._reader, self._writer = await soon(self._visitors.get())
        greeting = await self.hear(Greeting)
        self.say(Welcome(LAUNCHING_PROTOCOL, instance, os.getpid(), list(covers)), *known, Ready())
        return greeting

    def say(self, *messages: FromLauncher) -> None:
        assert self._writer is not None
        for message in messages:
            self._writer.write(frame(encode(message), MAX_LAUNCHING_FRAME))

    def say_raw(self, data: bytes) -> None:
        assert self._writer is not None
        self._writer.write(data)

    async def hear(self, kind: type[T]) -> T:
        """Return the next message, which is of this kind."""
        message = await self.next()
        assert isinstance(message, kind), message
        return message

    async def next(self) -> ToLauncher:
        header = await soon(self._reader.readexactly(HEADER))
        return decode_to_launcher(await soon(self._reader.readexactly(int.from_bytes(header, "big"))))

    def hang_up(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    async def hang_up_on_all(self) -> None:
        """Hang up, also on those that were never greeted, and return when they are gone."""
        self.hang_up()
        while self._came:
            writer = self._came.pop()
            writer.close()
            await soon(writer.wait_closed())
        while not self._visitors.empty():
            self._visitors.get_nowait()

    async def close(self) -> None:
        await self.hang_up_on_all()
        self._server.close()
        os.close(self._lock)


class GatedStore:
    """Holds commits back while the gate is closed, and counts them."""

    def __init__(self, store: Store) -> None:
        self._commit = store.commit
        store.commit = self  # type: ignore[method-assign]  # put in front of the real one
        self.gate = asyncio.Event()
        self.gate.set()
        self.reached = asyncio.Event()  # a commit waits at the gate
        self.commits = 0
        self.failure: Exception | None = None

    async def __call__(self, batch: Batch) -> dict[JobId, StoredSpec]:
        self.commits += 1
        self.reached.set()
        await self.gate.wait()
        if self.failure is not None:
            raise self.failure
        return await self._commit(batch)

    def close(self) -> None:
        """Close the gate; what is decided next comes to stand before it."""
        self.reached.clear()
        self.gate.clear()

    def open(self) -> None:
        self.gate.set()


class Stage:
    """One life of a supervisor, from its restore to the end of the block, which is sudden."""

    def __init__(self, config: Config, store: Store, link: LauncherLink, launcher: ScriptedLauncher) -> None:
        self.config = config
        self.store = store
        self.commits = GatedStore(store)
        self.link = link
        self.launcher = launcher
        self.supervisor = Supervisor(config, store, link)
        self.is_met = asyncio.Event()  # a launcher is there and has told all it knows
        self.is_lost = asyncio.Event()
        self._notice(self.supervisor)
        self.tasks: asyncio.TaskGroup

    def key(self, job_id: int, attempt: int = 1) -> Key:
        return Key(self.store.store_id, job_id, attempt)

    async def submit(self, spec: JobSpec | None = None) -> JobId:
        job_id = self.supervisor.submit(spec or command(), UID)
        await soon(self.supervisor.saved())
        return job_id

    async def launched(self, spec: JobSpec | None = None) -> Key:
        """Submit a job that starts at once, and return the key it was launched under."""
        job_id = await self.submit(spec)
        launch = await self.launcher.hear(Launch)
        assert launch.key == self.key(job_id)
        return launch.key

    async def view(self, job_id: int) -> JobView:
        await soon(self.supervisor.saved())
        view = await self.store.view(JobId(job_id))
        assert view is not None
        return view

    async def attempts(self, job_id: int) -> list[AttemptView]:
        await soon(self.supervisor.saved())
        return await self.store.attempts(JobId(job_id), 0, 100)

    async def told(self) -> list[ToLauncher]:
        """Return everything that the launcher was told up to now."""
        await soon(self.is_met.wait())
        await soon(self.supervisor.saved())
        return await self.told_so_far()

    async def told_so_far(self) -> list[ToLauncher]:
        """Return the same while no commit gets through."""
        await soon(self.is_met.wait())
        mark = Watch(Key("mark", 0, 0))
        assert self.link.send(mark)
        messages = []
        while (message := await self.launcher.next()) != mark:
            messages.append(message)
        return messages

    async def heard(self) -> list[ToLauncher]:
        """Return what the launcher was told until the supervisor had heard all that it has said."""
        stray = end(Key("mark", 0, 0))  # an end that is nobody's is acknowledged and changes nothing
        self.launcher.say(stray)
        messages = []
        while (message := await self.launcher.next()) != Acknowledge(stray.key):
            messages.append(message)
        return messages

    def _notice(self, supervisor: Supervisor) -> None:
        ready, lost = supervisor.launcher_ready, supervisor.launcher_lost

        def be_met(snapshot: Snapshot) -> None:
            ready(snapshot)
            self.is_lost.clear()
            self.is_met.set()

        def be_lost() -> None:
            lost()
            self.is_met.clear()
            self.is_lost.set()

        supervisor.launcher_ready = be_met  # type: ignore[method-assign]  # listened in on
        supervisor.launcher_lost = be_lost  # type: ignore[method-assign]  # likewise


@asynccontextmanager
async def stage(config: Config, launcher: ScriptedLauncher) -> AsyncIterator[Stage]:
    """Live a supervisor's life with a launcher that has yet to greet it."""
    store = await Store.open(f"{config.daemon.state_dir}/bgd.db")
    try:
        generation = await store.begin_generation()
        link = LauncherLink(config.daemon.state_dir, config.log_dir, store.store_id, generation)
        life = Stage(config, store, link, launcher)
        await life.supervisor.restore()
        async with asyncio.TaskGroup() as life.tasks:
            work = [
                life.tasks.create_task(each) for each in (life.supervisor.run(), link.run(life.supervisor))
            ]
            yield life
            for task in work:
                task.cancel()
    finally:
        await launcher.hang_up_on_all()
        await store.close()
