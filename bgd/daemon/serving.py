"""A daemon's life: open the store, restore, serve until told to stop, and stop cleanly."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sqlite3
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from math import inf
from pathlib import Path
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

import bgd
from bgd import clock
from bgd.clock import now
from bgd.config import Config
from bgd.core.job import WAITING, JobId
from bgd.daemon import doctor, folder, threads
from bgd.daemon.backups import Backups
from bgd.daemon.control.connection import ControlServer
from bgd.daemon.control.handlers import MaintenanceHandler, RequestHandler
from bgd.daemon.control.reads import ReadHandler
from bgd.daemon.folder import FolderWatch
from bgd.daemon.job_actions import JobActions
from bgd.daemon.launching import DatabaseOutdated, LauncherLink
from bgd.daemon.logs import highest_job
from bgd.daemon.retention import Retention
from bgd.daemon.space import DiskSpace
from bgd.daemon.storage.database import DiskFull, StoreBroken, fsync_path
from bgd.daemon.storage.store import Store
from bgd.daemon.supervisor import Supervisor
from bgd.daemon.web.connection import start_web_server
from bgd.errors import BgdError, ConfigError, leaf_errors
from bgd.startup import check_system_calls, ignore_stray_signals
from bgd.systemd import ServiceManager
from bgd.wire.steering import ShutdownMode
from bgd.wire.views import Level

logger = logging.getLogger(__name__)


class Surroundings(Struct, frozen=True, kw_only=True):
    """What the daemon finds around it.

    `reload` reads the configuration again, on SIGHUP; `ready` is called once the socket answers, and
    `manager` told; `has_launcher_service` says that the launcher is not the daemon's to start. `sockets` are
    listened at already; if there are any, the control socket has to be among them.
    """

    reload: Callable[[], Config]
    ready: Callable[[], None]
    manager: ServiceManager
    has_launcher_service: bool
    sockets: list[socket.socket]


async def serve(config: Config, surroundings: Surroundings) -> None:
    """Serve with the configuration as it was read at the start, until a signal or a request says stop.

    Raises:
        BgdError: it cannot start, or the store broke under it.
    """
    if not os.path.exists("/proc/self/stat"):  # noqa: ASYNC240, PTH110 - in memory, if it is there
        raise BgdError("/proc is not mounted, and bgd cannot watch jobs without it: mount -t proc proc /proc")
    if not surroundings.has_launcher_service:  # whose surroundings are those of this process
        check_system_calls()
    for finding in (doctor.check_open_files(config.daemon.slots), doctor.check_file_size()):
        if finding.level is not Level.OK:
            logger.warning("%s: %s: %s", finding.subject, finding.message, finding.remedy)
    folder.prepare(config)
    with folder.locked(config), threads.thread_pool(asyncio.get_running_loop()):
        store = await _opened(config)
        saved = None
        try:
            if watch := await _serve(config, store, surroundings):
                saved = await _saved(config, store)
        except BaseExceptionGroup as group:
            for error in leaf_errors(group):
                if isinstance(error, DatabaseOutdated):  # only now does nobody write to it any more
                    raise await _hold_as_outdated(config, store, error.position) from group
            raise
        finally:
            await store.close()
        if saved is not None and watch is not None:
            raise _put_back(config, saved, is_free=watch.is_own("bgd.db"))


async def _opened(config: Config) -> Store:
    """Open the store, also on a full disk if there is something to give up."""
    path = f"{config.daemon.state_dir}/bgd.db"
    try:
        return await Store.open(path)
    except DiskFull:
        if not DiskSpace(config.daemon.state_dir, config.daemon.min_free).release_ballast():
            raise
        return await Store.open(path)


async def _serve(config: Config, store: Store, surroundings: Surroundings) -> FolderWatch | None:
    """Serve until told to stop; return who has seen that the database has lost its name, None: it has not."""
    manager = surroundings.manager
    space = DiskSpace(config.daemon.state_dir, config.daemon.min_free)
    generation = await space.retry_while_full(store.begin_generation)
    link = LauncherLink(
        config.daemon.state_dir,
        config.log_dir,
        store,
        generation,
        is_service=surroundings.has_launcher_service,
    )
    await _keep_ids_apart(config, store)
    supervisor = Supervisor(config, store, link)
    await supervisor.restore()
    if not surroundings.sockets:
        folder.check_socket_path(config)  # before a launcher is started for nothing
    stops: asyncio.Queue[ShutdownMode] = asyncio.Queue()

    def shut_down(mode: ShutdownMode | None) -> None:
        stops.put_nowait(mode or supervisor.config.daemon.on_stop)

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, shut_down, None)
    reload = partial(_reload, supervisor, surroundings)
    loop.add_signal_handler(signal.SIGHUP, _reload_if_good, reload)
    if os.getpid() == 1:
        # uvloop keeps this one for itself
        signal.signal(signal.SIGCHLD, lambda *_: loop.call_soon_threadsafe(_reap))
    ignore_stray_signals(lambda name: loop.call_soon_threadsafe(logger.warning, _STRAY, name))
    async with asyncio.TaskGroup() as tasks:
        actions = JobActions(supervisor, store)
        retention = Retention(supervisor, actions, store)
        backups = Backups(supervisor, store)
        parts = (
            supervisor.run(),
            supervisor.log_cleaner.run(),
            retention.run(),
            backups.run(),
            follow_wall_clock(store),
            link.run(supervisor),
            manager.ping_watchdog(),
        )
        work = [tasks.create_task(part) for part in parts]
        # an older copy of the database is noticed by the launcher's answer, and must give out no id before
        await link.wait_until_tried(_FIRST_ANSWER)
        web = await start_web_server(config, store, lambda: link.is_connected, tasks)
        reads = ReadHandler(supervisor, store, link, web.authenticator if web else None)
        maintenance = MaintenanceHandler(supervisor, link, retention, backups)
        handler = RequestHandler(supervisor, actions, maintenance, reads, shut_down, reload=reload)
        control = ControlServer(handler, os.geteuid(), tasks)
        door = _Door(config, control.new_connection, tasks)
        await door.open(surroundings.sockets)
        watch = FolderWatch(
            config.daemon.state_dir,
            config.daemon.socket,
            # without its files the launcher is lost to the next bgd, and with it what runs: let that end
            stop=lambda has_launcher: stops.put_nowait(
                ShutdownMode.LEAVE if has_launcher else ShutdownMode.WAIT
            ),
            bind=None if surroundings.sockets else door.bind_again,
        )
        watch.begin()
        supervisor.space.check_folder = watch.check
        logger.info("bgd %s serves %s, pid %d", bgd.__version__, config.daemon.socket, os.getpid())
        surroundings.ready()
        manager.ready(f"serving {config.daemon.socket}")
        await _until_stopped(supervisor, link, stops, tasks, manager)
        watch.close()
        door.close()
        control.close()
        if web is not None:
            web.close()
        for task in work:
            task.cancel()  # before the parting, or the link would look for another launcher
        await link.say_goodbye()
    logger.info("bgd has stopped")
    return watch if watch.is_lost else None


REDATE_REST = (
    9  # times as long as a transaction took: a clock that is set all the time takes a tenth of the store
)


async def follow_wall_clock(store: Store) -> None:
    """Update the due times of waiting jobs at the start and whenever the wall clock is set, forever.

    Pages and lists show these times. The next boot, whose elapsed clock starts again, computes from them how
    long jobs still wait: a pause of seconds would otherwise become one of years, or none.
    """
    was_set = asyncio.Event()
    was_set.set()
    alarm = clock.Alarm(asyncio.get_running_loop(), was_set.set, on_wall_clock=True)
    try:
        while True:
            await was_set.wait()
            was_set.clear()
            alarm.set(inf)  # it rings all the same when the clock is set
            try:
                await _redate_waiting(store)
            except DiskFull as error:  # jobs that run or wait now are not affected
                logger.warning("due times stay as they were before the clock was set: %s", error)
    finally:
        alarm.close()


async def _redate_waiting(store: Store) -> None:
    for state in sorted(WAITING):
        last: JobId | None = JobId(0)
        while last is not None:
            began = time.monotonic()
            last = await store.redate(now(), state, last)
            await asyncio.sleep(REDATE_REST * (time.monotonic() - began))


class _Door:
    """The control socket while it is served."""

    def __init__(
        self, config: Config, connection: Callable[[], asyncio.BaseProtocol], tasks: asyncio.TaskGroup
    ) -> None:
        self._config = config
        self._connection = connection
        self._tasks = tasks
        self._server: asyncio.Server | None = None

    async def open(self, handed: Sequence[socket.socket] = ()) -> None:
        """Listen; who is connected stays so."""
        listening = folder.listen(self._config, handed)
        self.close()
        self._server = await asyncio.get_running_loop().create_unix_server(
            self._connection, sock=listening, backlog=folder.BACKLOG, **_never_unlink
        )

    def bind_again(self) -> None:
        self._tasks.create_task(self._bind_again())

    def close(self) -> None:
        if self._server is not None:
            self._server.close()

    async def _bind_again(self) -> None:
        path = self._config.daemon.socket
        try:
            await self.open()
        except BgdError as error:
            logger.error("the socket %s was removed: %s", path, error)  # noqa: TRY400 - no bug
        else:
            logger.warning("the socket %s was removed: bound again", path)


async def _saved(config: Config, store: Store) -> str:
    """Write the database that has no name any more to a new file; return its path."""
    place = Path(config.daemon.state_dir)
    await asyncio.to_thread(place.mkdir, mode=0o700, parents=True, exist_ok=True)
    path = place / f"bgd.db.saved-{datetime.fromtimestamp(now().wall, UTC):%Y%m%dT%H%M%SZ}"
    try:
        await store.copy_unlinked(str(path))
    except (OSError, sqlite3.Error) as error:
        raise StoreBroken(f"the database was removed, and cannot be saved as {path}: {error}") from error
    return str(path)


def _put_back(config: Config, saved: str, *, is_free: bool) -> StoreBroken:
    """Give what was saved the database's name, unless another file has it; return what to say.

    `is_free`: the database itself still has it, and only lost what belongs to it.
    """
    path = f"{config.daemon.state_dir}/bgd.db"
    if is_free:
        Path(path).unlink()
    try:
        os.link(saved, path)
    except FileExistsError:
        return StoreBroken(
            f"{path} was replaced while bgd ran, and what bgd had is in {saved}",
            f"to go on with that, rename it to {path} and remove {path}-wal; then start bgd again",
        )
    for end in ("-wal", "-shm"):  # of the lost one
        Path(path + end).unlink(missing_ok=True)
    Path(saved).unlink()
    fsync_path(config.daemon.state_dir)
    return StoreBroken(f"{path} was removed while bgd ran; bgd has written it anew", "start bgd again")


async def _hold_as_outdated(config: Config, store: Store, position: int) -> StoreBroken:
    """Hold all that waits in an old copy of the database, as it may have run since; return what to say."""
    launcher = f"{clock.boot_id()}:before-recovery"
    held = await store.hold_as_outdated(position, launcher, now().wall)
    return StoreBroken(
        f"database {config.daemon.state_dir}/bgd.db is an older copy: the launcher has seen jobs run that it"
        f" does not know of. Jobs that may have run since, and are held now: {held.held}. Jobs that ran then,"
        f" and are not run again by themselves: {held.running}. New jobs get ids from {held.last_id + 1} on",
        "start bgd again, then see bgctl list --state held, and bgctl release or cancel",
    )


async def _keep_ids_apart(config: Config, store: Store) -> None:
    """Give out no id again that a log shows: the database is new, or has lost its latest changes."""
    highest = await asyncio.to_thread(highest_job, config.log_dir)
    last_id = await store.last_id()
    if highest > last_id:
        logger.warning(
            "jobs up to %d have logs, and the database knows none after %d: it is new, or has lost its latest"
            " changes. New ids begin after %d",
            highest,
            last_id,
            highest,
        )
        await store.reserve_ids(highest)


async def _until_stopped(
    supervisor: Supervisor,
    link: LauncherLink,
    stops: asyncio.Queue[ShutdownMode],
    tasks: asyncio.TaskGroup,
    manager: ServiceManager,
) -> None:
    """Return when the daemon may end: what runs has ended as asked, or somebody asked a second time."""
    mode = await stops.get()
    logger.info("stopping: running jobs %d, mode %s", supervisor.running, mode.value)
    manager.stopping(f"stopping, mode {mode.value}")
    is_init = mode is ShutdownMode.LEAVE and os.getpid() == 1
    drain = tasks.create_task(_interrupt(supervisor, link) if is_init else supervisor.drain(mode))
    again = tasks.create_task(stops.get())
    absent = tasks.create_task(link.wait_until_absent())
    await asyncio.wait({drain, again, absent}, return_when=asyncio.FIRST_COMPLETED)
    if not drain.done():
        why = "asked again to stop" if again.done() else (link.obstacle or "there is no launcher")
        logger.warning("%s: leaving %d jobs as they are", why, supervisor.running)
        drain.cancel()
    again.cancel()
    absent.cancel()


async def _interrupt(supervisor: Supervisor, link: LauncherLink) -> None:
    """End all jobs in order: with the first process of a container the kernel kills all others."""
    if supervisor.running:
        logger.info("bgd is process 1, so the jobs end with it: they are interrupted")
    await supervisor.drain(ShutdownMode.LEAVE)
    await link.stop_launcher()
    await supervisor.saved()


def _reap() -> None:
    """Reap whatever has ended: to process 1 the kernel gives all processes whose parents have ended."""
    with suppress(ChildProcessError):  # no more children
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _reload_if_good(reload: Callable[[], object]) -> None:
    with suppress(ConfigError):  # the log and the manager have been told
        reload()


def _reload(supervisor: Supervisor, surroundings: Surroundings) -> list[str]:
    """Read the configuration again; return what of it takes effect at the next start.

    Raises:
        ConfigError: it cannot be used, and the old one stays.
    """
    surroundings.manager.reloading()
    old = supervisor.config
    try:
        new = surroundings.reload()
    except ConfigError as error:
        logger.error("configuration not reloaded, the old one stays: %s", error)  # noqa: TRY400 - a person's slip
        surroundings.manager.ready(f"serving with the old configuration: {error}")
        raise
    # the places are locked, bound and written to as they are
    daemon = replace(new.daemon, state_dir=old.daemon.state_dir, socket=old.daemon.socket)
    supervisor.configure(replace(new, daemon=daemon, http=old.http, log_dir=old.log_dir))
    postponed = _places_that_differ(old, new)
    for place in postponed:
        logger.warning("%s has changed: that takes effect at the next start", place)
    logger.info("configuration reloaded from %s", new.source or "built-in defaults")
    surroundings.manager.ready(f"serving {old.daemon.socket}")
    return postponed


def _places_that_differ(old: Config, new: Config) -> list[str]:
    keys = [key for key in ("state_dir", "socket") if getattr(new.daemon, key) != getattr(old.daemon, key)]
    return [f"[daemon] {key}" for key in keys] + (["[http]"] if new.http != old.http else [])


_FIRST_ANSWER = 1.0  # seconds: a launcher that runs answers at once, one that is started in 0.2 s
_STRAY = "ignored %s, and will again without a word: SIGTERM ends bgd"
# A server of Python 3.13 would unlink its socket, which may be systemd's; a stale one is removed at the start
_never_unlink: dict[str, Any] = {"cleanup_socket": False}
