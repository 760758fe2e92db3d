"""Run the daemon: open the store, restore the jobs, serve until told to stop, and stop cleanly."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sqlite3
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

import bgd
from bgd import clock
from bgd.clock import now
from bgd.config import Config
from bgd.daemon import doctor, folder, threads
from bgd.daemon.backups import Backups
from bgd.daemon.control.connection import ControlServer
from bgd.daemon.control.handlers import MaintenanceHandler, RequestHandler, ScheduleHandler
from bgd.daemon.control.reads import ReadHandler
from bgd.daemon.folder import FolderWatch
from bgd.daemon.job_actions import JobActions
from bgd.daemon.launching import DatabaseOutdated, LauncherLink
from bgd.daemon.logs import highest_job
from bgd.daemon.notifications import Notifications
from bgd.daemon.queue_controls import most_slots
from bgd.daemon.retention import Retention
from bgd.daemon.schedules import Schedules
from bgd.daemon.space import DiskSpace
from bgd.daemon.storage import copying, read, recovery
from bgd.daemon.storage.database import DiskFull, StoreBroken, fsync_path
from bgd.daemon.storage.store import Store, begin_generation, reserve_ids
from bgd.daemon.supervisor import Supervisor
from bgd.daemon.web.connection import start_web_server
from bgd.errors import BgdError, ConfigError, leaf_errors
from bgd.startup import call_in_loop, check_system_calls, ignore_stray_signals
from bgd.systemd import ServiceManager
from bgd.wire.requests import ShutdownMode
from bgd.wire.views import Level

logger = logging.getLogger(__name__)


class StartupContext(Struct, frozen=True, kw_only=True):
    """What the daemon gets from the program that starts it.

    Attributes:
        reload: reads the configuration again.
        ready: is called once the control socket answers.
        manager: the service manager, which is notified too.
        autostarted: whether a client started the daemon.
        has_launcher_service: whether the launcher is a service of its own, so that the daemon starts none.
        sockets: listening sockets from systemd; if there are any, the control socket has to be among them.
    """

    reload: Callable[[], Config]
    ready: Callable[[], None]
    manager: ServiceManager
    autostarted: bool
    has_launcher_service: bool
    sockets: list[socket.socket]


async def serve(config: Config, context: StartupContext) -> None:
    """Serve with this configuration until a signal or a request says stop.

    Raises:
        BgdError: the daemon cannot start, or the store broke while it ran.
    """
    if not os.path.exists("/proc/self/stat"):  # noqa: ASYNC240, PTH110 - no disk is read
        raise BgdError("/proc is not mounted, and bgd cannot watch jobs without it: mount -t proc proc /proc")
    if not context.has_launcher_service:  # a launcher that we start is under the same seccomp filter
        check_system_calls()
    for finding in (doctor.check_open_files(most_slots(config)), doctor.check_file_size()):
        if finding.level is not Level.OK:
            logger.warning("%s: %s: %s", finding.subject, finding.message, finding.remedy)
    folder.prepare(config)
    with folder.locked(config), threads.thread_pool(asyncio.get_running_loop()):
        store = await _open_store(config, context)
        saved = None
        try:
            if watch := await _serve(config, store, context):
                signal.setitimer(signal.ITIMER_REAL, 0)  # that may take long
                saved = await _save_unlinked(config, store)
        except BaseExceptionGroup as group:
            for error in leaf_errors(group):
                if isinstance(error, DatabaseOutdated):  # only now has all writing to it ended
                    raise await _mark_outdated(config, store, error.position) from group
            raise
        finally:
            await store.close()
        if saved is not None and watch is not None:
            raise _restore_name(config, saved, is_free=watch.is_own("bgd.db"))


async def _open_store(config: Config, context: StartupContext) -> Store:
    """Open the store; if the disk is full, release the ballast, then wait for room. No client has to wait."""
    opening = partial(Store.open, f"{config.daemon.state_dir}/bgd.db")
    space = DiskSpace(config.daemon.state_dir, config.daemon.min_free)
    try:
        return await opening()
    except DiskFull:
        if context.autostarted and not space.release_ballast():
            raise
    return await space.retry_while_full(opening)


async def _serve(config: Config, store: Store, context: StartupContext) -> FolderWatch | None:
    """Serve until told to stop; return the watch if it has seen the database lose its name, else None."""
    link, supervisor = await _restore(config, store, context)
    stops: asyncio.Queue[ShutdownMode] = asyncio.Queue()

    def shut_down(mode: ShutdownMode | None) -> None:
        stops.put_nowait(mode or supervisor.config.daemon.on_stop)

    async with asyncio.TaskGroup() as tasks:
        actions = JobActions(supervisor, store)
        retention = Retention(supervisor, actions, store)
        backups = Backups(supervisor, store)
        schedules = Schedules(supervisor, actions, store)
        notifications = Notifications(supervisor, actions, store)
        reload = partial(_reload, supervisor, schedules, context, asyncio.Lock())
        background: set[asyncio.Task[object]] = set()

        def reload_soon() -> None:
            task = tasks.create_task(_reload_if_good(reload))
            background.add(task)
            task.add_done_callback(background.discard)

        _handle_signals(shut_down, reload_soon)
        services = (
            supervisor.run(),
            supervisor.log_cleaner.run(),
            retention.run(),
            backups.run(),
            link.run(supervisor),
            context.manager.ping_watchdog(),
        )
        background.update(map(tasks.create_task, services))
        # the launcher's answer reveals an older copy of the database, which must not give out ids before
        await link.wait_until_tried(_FIRST_ANSWER)
        await schedules.clock.load()
        await notifications.load()
        background.update(tasks.create_task(each.run()) for each in (schedules.clock, notifications))
        web = await start_web_server(
            config,
            supervisor,
            actions,
            store,
            schedules=schedules,
            link=link,
            tasks=tasks,
        )
        authenticator = web.authenticator if web else None
        reads = ReadHandler(supervisor, store, link, authenticator, autostarted=context.autostarted)
        maintenance = MaintenanceHandler(supervisor, link, retention, backups, notifications)
        handler = RequestHandler(
            supervisor,
            actions,
            maintenance,
            reads,
            ScheduleHandler(supervisor, schedules),
            shut_down,
            reload=reload,
        )
        control = ControlServer(handler, os.geteuid(), tasks)
        control_socket = _ControlSocket(config, control.new_connection, tasks)
        await control_socket.open(context.sockets)
        watch = FolderWatch(
            config.daemon.state_dir,
            config.daemon.socket,
            # without its files, the next bgd cannot find the launcher or its jobs: let the jobs end
            stop=lambda has_launcher: stops.put_nowait(
                ShutdownMode.LEAVE if has_launcher else ShutdownMode.WAIT
            ),
            bind=None if context.sockets else control_socket.bind_again,
        )
        watch.begin()
        supervisor.space.check_folder = watch.check
        logger.info("bgd %s serves %s, pid %d", bgd.__version__, config.daemon.socket, os.getpid())
        context.ready()
        context.manager.ready(f"serving {config.daemon.socket}")
        await _wait_until_stopped(supervisor, link, stops, tasks, context.manager)
        _end_in_time()
        for part in (watch, control_socket, control, web):
            if part is not None:
                part.close()
        for task in list(background):
            task.cancel()  # before the goodbye, or the link would look for another launcher
        await link.say_goodbye()
    logger.info("bgd has stopped")
    return watch if watch.is_lost else None


async def _restore(config: Config, store: Store, context: StartupContext) -> tuple[LauncherLink, Supervisor]:
    """Load all jobs from the store, with nothing started yet."""
    space = DiskSpace(config.daemon.state_dir, config.daemon.min_free)
    generation = await space.retry_while_full(partial(store.write, begin_generation))
    link = LauncherLink(
        config.daemon.state_dir,
        config.log_dir,
        store,
        generation,
        is_service=context.has_launcher_service,
    )
    await _reserve_logged_ids(config, store)
    supervisor = Supervisor(config, store, link)
    await supervisor.restore()
    if not context.sockets:
        folder.check_socket_path(config)  # before a launcher is started for nothing
    return link, supervisor


def _handle_signals(shut_down: Callable[[ShutdownMode | None], None], reload: Callable[[], object]) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, shut_down, None)
    loop.add_signal_handler(signal.SIGHUP, reload)
    if os.getpid() == 1:
        # uvloop keeps add_signal_handler for this one to itself
        signal.signal(signal.SIGCHLD, lambda *_: call_in_loop(loop, _reap_orphans))
    ignore_stray_signals(lambda name: call_in_loop(loop, logger.warning, _STRAY_SIGNAL, name))


class _ControlSocket:
    """The control socket, which is bound again if somebody removes it."""

    def __init__(
        self, config: Config, connection: Callable[[], asyncio.BaseProtocol], tasks: asyncio.TaskGroup
    ) -> None:
        self._config = config
        self._connection = connection
        self._tasks = tasks
        self._server: asyncio.Server | None = None

    async def open(self, handed: Sequence[socket.socket] = ()) -> None:
        """Listen; existing connections are kept."""
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


async def _save_unlinked(config: Config, store: Store) -> str:
    """Write the database, which has lost its name, to a new file; return its path."""
    state_dir = Path(config.daemon.state_dir)
    await asyncio.to_thread(state_dir.mkdir, mode=0o700, parents=True, exist_ok=True)
    path = state_dir / f"bgd.db.saved-{datetime.fromtimestamp(now().wall, UTC):%Y%m%dT%H%M%SZ}"
    try:
        # through the open connection, as nobody can open a file that was deleted
        await store.write(copying.write_copy, str(path))
    except (OSError, sqlite3.Error) as error:
        raise StoreBroken(f"the database was removed, and cannot be saved as {path}: {error}") from error
    return str(path)


def _restore_name(config: Config, saved: str, *, is_free: bool) -> StoreBroken:
    """Give the saved database its name back, unless another file has it; return the error that reports it.

    `is_free` says that the old database still has the name, and only its -wal file was lost.
    """
    path = f"{config.daemon.state_dir}/bgd.db"
    if is_free:
        Path(path).unlink()
    try:
        os.link(saved, path)
    except FileExistsError:
        return StoreBroken(
            f"{path} was replaced while bgd ran, and bgd's own database is in {saved}",
            f"to go on with it, rename it to {path} and remove {path}-wal; then start bgd again",
        )
    Path(f"{path}-wal").unlink(missing_ok=True)  # of the lost database
    Path(saved).unlink()
    fsync_path(config.daemon.state_dir)
    return StoreBroken(f"{path} was removed while bgd ran; bgd has written it again", "start bgd again")


async def _mark_outdated(config: Config, store: Store, position: int) -> StoreBroken:
    """Have the next start hold what waits in an old copy of the database; return the error that says so."""
    launcher = f"{clock.boot_id()}:before-recovery"
    marked = await store.write(recovery.mark_as_outdated, position, launcher)
    return StoreBroken(
        f"database {config.daemon.state_dir}/bgd.db is an older copy: the launcher has run jobs that it does"
        f" not know. Jobs that may have run since, and are held from now on: {marked.held}. Schedules, which"
        f" are paused from now on: {marked.paused}. Jobs that ran then, and are not rerun automatically:"
        f" {marked.running}. New jobs get ids from {marked.last_id + 1} on",
        "start bgd again, then see bgctl list --state held, and bgctl release or cancel, or schedule resume",
    )


async def _reserve_logged_ids(config: Config, store: Store) -> None:
    """Never give out an id that has a log: the database may be new, or have lost its latest changes."""
    highest = await asyncio.to_thread(highest_job, config.log_dir)
    last_id = await store.read(read.last_id)
    if highest > last_id:
        logger.warning(
            "jobs up to %d have logs, and the database knows none after %d: it is new, or has lost its latest"
            " changes. New ids begin after %d",
            highest,
            last_id,
            highest,
        )
        await store.write(reserve_ids, highest)


async def _wait_until_stopped(
    supervisor: Supervisor,
    link: LauncherLink,
    stops: asyncio.Queue[ShutdownMode],
    tasks: asyncio.TaskGroup,
    manager: ServiceManager,
) -> None:
    """Return when the daemon may end: its jobs have ended as asked, or somebody asked a second time."""
    mode = await stops.get()
    logger.info("stopping: running jobs %d, mode %s", supervisor.running, mode.value)
    manager.stopping(f"stopping, mode {mode.value}")
    is_init = mode is ShutdownMode.LEAVE and os.getpid() == 1
    drain = tasks.create_task(_interrupt_jobs(supervisor, link) if is_init else supervisor.drain(mode))
    again = tasks.create_task(stops.get())
    absent = tasks.create_task(link.wait_until_absent())
    await asyncio.wait({drain, again, absent}, return_when=asyncio.FIRST_COMPLETED)
    if not drain.done():
        why = "asked again to stop" if again.done() else (link.obstacle or "there is no launcher")
        logger.warning("%s: leaving %d jobs as they are", why, supervisor.running)
        drain.cancel()
    again.cancel()
    absent.cancel()


def _end_in_time() -> None:
    """End this process soon, even if a thread waits for a disk that does not answer: everything is saved."""

    def end(*_: object) -> None:
        logger.error("a disk does not answer: ending without waiting for what it was asked")
        os._exit(0)

    signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, _ENDING)


async def _interrupt_jobs(supervisor: Supervisor, link: LauncherLink) -> None:
    """End all jobs in order, because the kernel kills them when the first process of a container ends."""
    if supervisor.running:
        logger.info("bgd is process 1, so the jobs end with it: they are interrupted")
    await supervisor.drain(ShutdownMode.LEAVE)
    await link.stop_launcher()
    await supervisor.saved()


def _reap_orphans() -> None:
    """Reap ended processes: the kernel gives process 1 all processes whose parents have ended."""
    with suppress(ChildProcessError):  # no more children
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


async def _reload_if_good(reload: Callable[[], Awaitable[object]]) -> None:
    with suppress(ConfigError):  # the log and the manager have it already
        await reload()


async def _reload(
    supervisor: Supervisor, schedules: Schedules, context: StartupContext, lock: asyncio.Lock
) -> list[str]:
    """Read the configuration again; return the keys that only take effect at the next start.

    It is read on a thread: thousands of schedules take seconds.

    Raises:
        ConfigError: the new configuration cannot be used, and the old one stays in effect.
    """
    async with lock:  # what was read last counts
        context.manager.reloading()
        old = supervisor.config
        try:
            new = await asyncio.to_thread(context.reload)
            schedules.check(new)
        except ConfigError as error:
            logger.error("configuration not reloaded, the old one stays: %s", error)  # noqa: TRY400 - no bug
            context.manager.ready(f"serving with the old configuration: {error}")
            raise
        # folders and sockets are in use: these stay until the next start
        daemon = replace(new.daemon, state_dir=old.daemon.state_dir, socket=old.daemon.socket)
        supervisor.configure(replace(new, daemon=daemon, http=old.http, log_dir=old.log_dir))
        await schedules.clock.configured()
        postponed = _postponed_changes(old, new)
        for key in postponed:
            logger.warning("%s has changed: that takes effect at the next start", key)
        logger.info("configuration reloaded from %s", new.source or "built-in defaults")
        context.manager.ready(f"serving {old.daemon.socket}")
        return postponed


def _postponed_changes(old: Config, new: Config) -> list[str]:
    keys = [key for key in ("state_dir", "socket") if getattr(new.daemon, key) != getattr(old.daemon, key)]
    return [f"[daemon] {key}" for key in keys] + (["[http]"] if new.http != old.http else [])


_ENDING = 10.0  # seconds for what is left to do when no job needs the daemon any more
_FIRST_ANSWER = 1.0  # seconds; a running launcher answers at once, one that is started in 0.2 s
_STRAY_SIGNAL = "ignored %s, and will ignore it again without a message: SIGTERM ends bgd"
# Python 3.13 would unlink the socket, which may be systemd's; a stale one is removed at the next start
_never_unlink: dict[str, Any] = {"cleanup_socket": False}
