"""Run the daemon: open the store, restore the jobs, serve until a stop, and stop cleanly."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sqlite3
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

import bgd
from bgd.daemon import doctor, folder, threads
from bgd.daemon.backups import Backups
from bgd.daemon.control.connection import ControlServer
from bgd.daemon.control.handlers import RequestHandler
from bgd.daemon.control.inboxes import Inboxes
from bgd.daemon.control.reads import ReadHandler
from bgd.daemon.folder import FolderWatch
from bgd.daemon.job_actions import JobActions
from bgd.daemon.launching import DatabaseOutdated, LauncherLink, journal_positions
from bgd.daemon.logs import highest_job
from bgd.daemon.notifications import Notifications
from bgd.daemon.queue_controls import most_slots
from bgd.daemon.retention import Retention
from bgd.daemon.schedules import Schedules
from bgd.daemon.space import DiskSpace
from bgd.daemon.storage import read, recovery
from bgd.daemon.storage.database import DiskFull, StoreBroken, fsync_path
from bgd.daemon.storage.store import Store, begin_generation, reserve_ids
from bgd.daemon.supervisor import Supervisor
from bgd.daemon.web.auth import Authenticator
from bgd.daemon.web.connection import start_web_server
from bgd.errors import BgdError, ConfigError, Refused, leaf_errors
from bgd.settings.config import Config
from bgd.settings.startup import call_in_loop, check_system_calls, ignore_stray_signals
from bgd.system.clock import now
from bgd.system.systemd import ServiceManager
from bgd.text.units import counted
from bgd.wire.requests import ShutdownMode
from bgd.wire.views import Level

logger = logging.getLogger(__name__)


class StartupContext(Struct, frozen=True, kw_only=True):
    """What the daemon gets from its main program.

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
    """Serve with this configuration until a signal or request to stop.

    Raises:
        BgdError: the daemon cannot start, or the store broke while it ran.
    """
    if not os.path.exists("/proc/self/stat"):  # noqa: ASYNC240, PTH110 - no disk is read
        raise BgdError("/proc is not mounted, and bgd cannot watch jobs without it: mount -t proc proc /proc")
    if not context.has_launcher_service:  # a launcher that we start is under the same seccomp filter
        check_system_calls()
    findings = {
        "open files": doctor.check_open_files(most_slots(config)),
        "file size": doctor.check_file_size(),
        "resources": doctor.check_resources(config.resources),
        "pages": doctor.check_pages(config.http),
    }
    for subject, finding in findings.items():
        if finding.level is not Level.OK:
            logger.warning("%s: %s: %s", subject, finding.message, finding.remedy)
    folder.prepare(config)
    with folder.locked(config), threads.thread_pool(asyncio.get_running_loop()):
        store = await _open_store(config, context)
        saved = None
        try:
            if watch := await _serve(config, store, context):
                signal.setitimer(signal.ITIMER_REAL, 0)  # that may take long
                saved = await _save_unlinked(config, store)
        except (DatabaseOutdated, BaseExceptionGroup) as failure:
            for error in leaf_errors(failure):
                if isinstance(error, DatabaseOutdated):  # only now have all writes to it ended
                    raise await _mark_outdated(config, store, error.position) from failure
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
    supervisor, actions = await _restore(config, store, context)
    async with asyncio.TaskGroup() as tasks:
        watch = await _Daemon(config, store, context, supervisor, actions, tasks).serve()
    logger.info("bgd has stopped")
    return watch if watch.is_lost else None


class _Daemon:
    """The parts of a daemon that serves, from the first task to the last."""

    def __init__(
        self,
        config: Config,
        store: Store,
        context: StartupContext,
        supervisor: Supervisor,
        actions: JobActions,
        tasks: asyncio.TaskGroup,
    ) -> None:
        self._config = config
        self._store = store
        self._context = context
        self._supervisor = supervisor
        self._tasks = tasks
        self._actions = actions
        self._retention = Retention(supervisor, self._actions, store)
        self._backups = Backups(supervisor, store)
        self._schedules = Schedules(supervisor, self._actions, store)
        self._notifications = Notifications(supervisor, self._actions, store)
        self._stops: asyncio.Queue[ShutdownMode] = asyncio.Queue()
        self._reloading = asyncio.Lock()
        self._background: set[asyncio.Task[object]] = set()
        self._server: asyncio.Server | None = None  # of the control socket

    async def serve(self) -> FolderWatch:
        """Serve until told to stop; return the watch on the files."""
        supervisor, manager = self._supervisor, self._context.manager
        link = supervisor.link
        self._handle_signals()
        self._begin(self._store.until_lost())
        self._begin(
            supervisor.run(), supervisor.log_cleaner.run(), self._retention.run(), self._backups.run()
        )
        self._begin(link.run(supervisor), manager.ping_watchdog())
        # a launcher that has lost its journal still reveals an older copy, which must not give out ids before
        await link.wait_until_tried(_FIRST_ANSWER)
        with suppress(Refused):
            await supervisor.wait_until_certain()
        await self._schedules.clock.load()
        await self._notifications.load()
        self._begin(self._schedules.clock.run(), self._notifications.run())
        web = await start_web_server(
            self._config,
            supervisor,
            self._actions,
            self._store,
            schedules=self._schedules,
            link=link,
            tasks=self._tasks,
        )
        control = ControlServer(
            self._handler(None if web is None else web.site.authenticator), os.geteuid(), self._tasks
        )
        await self._listen(control, self._context.sockets)
        watch = self._watch(control)
        logger.info("bgd %s serves %s, pid %d", bgd.__version__, self._config.daemon.socket, os.getpid())
        self._context.ready()
        manager.ready(f"serving {self._config.daemon.socket}")
        await self._wait_until_stopped()
        _end_in_time()
        for part in (watch, self._server, control, web):
            if part is not None:
                part.close()
        for task in list(self._background):
            task.cancel()  # before the goodbye, or the link would look for another launcher
        await link.say_goodbye()
        return watch

    def _begin(self, *actions: Coroutine[Any, Any, object]) -> None:
        """Run these in the background; tasks are cancelled when the daemon stops."""
        for action in actions:
            task = self._tasks.create_task(action)
            self._background.add(task)
            task.add_done_callback(self._background.discard)

    def _handler(self, authenticator: Authenticator | None) -> RequestHandler:
        reads = ReadHandler(
            self._supervisor, self._store, authenticator, autostarted=self._context.autostarted
        )
        return RequestHandler(
            self._supervisor,
            self._actions,
            reads,
            schedules=self._schedules,
            retention=self._retention,
            backups=self._backups,
            notifications=self._notifications,
            inboxes=Inboxes(self._supervisor.subscriptions, self._store),
            shut_down=self._shut_down,
            reload=self._reload,
        )

    def _watch(self, control: ControlServer) -> FolderWatch:
        """Watch the database, its folder and the control socket from now on."""

        def stop(has_launcher: bool) -> None:  # noqa: FBT001 - of one argument
            # without its files, the next bgd cannot find the launcher or its jobs: let the jobs end
            self._shut_down(ShutdownMode.LEAVE if has_launcher else ShutdownMode.WAIT)

        daemon = self._config.daemon
        bind = None if self._context.sockets else lambda: self._begin(self._bind_again(control))
        watch = FolderWatch(daemon.state_dir, daemon.socket, stop=stop, bind=bind)
        watch.begin()
        self._supervisor.space.check_folder = watch.check
        return watch

    async def _listen(self, control: ControlServer, handed: Sequence[socket.socket] = ()) -> None:
        """Listen at the control socket; existing connections are kept."""
        listening = folder.listen(self._config, handed)
        if self._server is not None:
            self._server.close()
        self._server = await asyncio.get_running_loop().create_unix_server(
            control.new_connection, sock=listening, backlog=folder.BACKLOG, **_never_unlink
        )

    async def _bind_again(self, control: ControlServer) -> None:
        path = self._config.daemon.socket
        try:
            await self._listen(control)
        except BgdError as error:
            logger.error("the socket %s was removed: %s", path, error)  # noqa: TRY400 - no bug
        else:
            logger.warning("the socket %s was removed: bound again", path)

    # --- signals, stops, reloads ----------------------------------------------------------------------

    def _handle_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._shut_down, None)
        loop.add_signal_handler(signal.SIGHUP, lambda: self._begin(self._reload_if_good()))
        if os.getpid() == 1:
            # uvloop keeps add_signal_handler for this one to itself
            signal.signal(signal.SIGCHLD, lambda *_: call_in_loop(loop, _reap_orphans))
        ignore_stray_signals(lambda name: call_in_loop(loop, logger.warning, _STRAY_SIGNAL, name))

    def _shut_down(self, mode: ShutdownMode | None) -> None:
        self._stops.put_nowait(mode or self._supervisor.config.daemon.on_stop)

    async def _wait_until_stopped(self) -> None:
        """Return when the daemon may end: its jobs have ended as asked, or the stop was requested twice."""
        supervisor, tasks = self._supervisor, self._tasks
        mode = await self._stops.get()
        logger.info("stopping: running jobs %d, mode %s", supervisor.scheduler.running, mode.value)
        self._context.manager.stopping(f"stopping, mode {mode.value}")
        is_init = mode is ShutdownMode.LEAVE and os.getpid() == 1
        drain = tasks.create_task(self._interrupt_jobs() if is_init else supervisor.drain(mode))
        again = tasks.create_task(self._stops.get())
        absent = tasks.create_task(self._supervisor.link.wait_until_absent())
        await asyncio.wait({drain, again, absent}, return_when=asyncio.FIRST_COMPLETED)
        if not drain.done():
            why = (
                "asked again to stop"
                if again.done()
                else (self._supervisor.link.obstacle or "there is no launcher")
            )
            logger.warning("%s: leaving %d jobs as they are", why, supervisor.scheduler.running)
            drain.cancel()
        again.cancel()
        absent.cancel()

    async def _interrupt_jobs(self) -> None:
        """End all jobs in order, because the kernel kills them when the first process of a container ends."""
        if self._supervisor.scheduler.running:
            logger.info("bgd is process 1, so the jobs end with it: they are interrupted")
        await self._supervisor.drain(ShutdownMode.LEAVE)
        await self._supervisor.link.stop_launcher()
        await self._supervisor.saved()

    async def _reload_if_good(self) -> None:
        with suppress(ConfigError):  # the log and the manager have it already
            await self._reload()

    async def _reload(self) -> list[str]:
        """Read the configuration again; return the keys that only take effect at the next start.

        It is read on a thread: thousands of schedules take seconds.

        Raises:
            ConfigError: the new configuration cannot be used, and the old one stays in effect.
        """
        manager = self._context.manager
        async with self._reloading:  # what was read last counts
            manager.reloading()
            old = self._supervisor.config
            try:
                new = await asyncio.to_thread(self._context.reload)
                self._schedules.check(new)
            except ConfigError as error:
                logger.error("configuration not reloaded, keeping the old one: %s", error)  # noqa: TRY400 - no bug
                manager.ready(f"serving with the old configuration: {error}")
                raise
            # folders and sockets are in use: these stay until the next start
            daemon = replace(new.daemon, state_dir=old.daemon.state_dir, socket=old.daemon.socket)
            self._supervisor.configure(replace(new, daemon=daemon, http=old.http, log_dir=old.log_dir))
            await self._schedules.clock.configured()
            postponed = _postponed_changes(old, new)
            for key in postponed:
                logger.warning("%s has changed: that takes effect at the next start", key)
            logger.info("configuration reloaded from %s", new.source or "built-in defaults")
            manager.ready(f"serving {old.daemon.socket}")
            return postponed


async def _restore(config: Config, store: Store, context: StartupContext) -> tuple[Supervisor, JobActions]:
    """Load all jobs from the store, before anything starts.

    Raises:
        DatabaseOutdated: the launcher's journal knows later events.
    """
    positions = await asyncio.to_thread(journal_positions, config.daemon.state_dir)
    if (position := positions.get(store.store_id, 0)) > store.position:
        raise DatabaseOutdated(position)
    space = DiskSpace(config.daemon.state_dir, config.daemon.min_free)
    generation = await space.retry_while_full(partial(store.write, begin_generation))
    link = LauncherLink(
        config.daemon.state_dir, config.log_dir, store, generation, is_service=context.has_launcher_service
    )
    await _reserve_logged_ids(config, store)
    supervisor = Supervisor(config, store, link)
    actions = JobActions(supervisor, store)  # jobs may expire meanwhile, and others follow them
    await supervisor.restore()
    if not context.sockets:
        folder.check_socket_path(config)  # before a launcher is started without need
    return supervisor, actions


async def _save_unlinked(config: Config, store: Store) -> str:
    """Write the database, which has lost its name, to a new file; return its path."""
    state_dir = Path(config.daemon.state_dir)
    await asyncio.to_thread(state_dir.mkdir, mode=0o700, parents=True, exist_ok=True)
    path = state_dir / f"bgd.db.saved-{datetime.fromtimestamp(now().wall, UTC):%Y%m%dT%H%M%SZ}"
    try:
        # through the open connection, as a file that was deleted cannot be opened
        await store.write(recovery.write_copy, str(path))
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
    """Let the next start hold waiting jobs of an old copy of the database; return the error about it."""
    known_id = await asyncio.to_thread(highest_job, config.log_dir)
    marked = await store.write(recovery.mark_as_outdated, known_id, position)
    return StoreBroken(
        f"database {config.daemon.state_dir}/bgd.db is an older copy: the launcher has run jobs that it does"
        f" not know. Held, because they may have run since: {counted(marked.held, 'job')}. Paused:"
        f" {counted(marked.paused, 'schedule')}. Not rerun automatically, although they ran then:"
        f" {counted(marked.running, 'job')}. New jobs get ids from {marked.last_id + 1} on",
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


def _end_in_time() -> None:
    """End this process soon, even if a thread waits for a disk that does not answer: everything is saved."""

    def end(*_: object) -> None:
        logger.error("a disk does not answer: stopping without waiting for it")
        os._exit(0)

    signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, _ENDING)


def _reap_orphans() -> None:
    """Reap ended processes: the kernel gives process 1 all processes whose parents have ended."""
    with suppress(ChildProcessError):  # no more children
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _postponed_changes(old: Config, new: Config) -> list[str]:
    keys = [key for key in ("state_dir", "socket") if getattr(new.daemon, key) != getattr(old.daemon, key)]
    return [f"[daemon] {key}" for key in keys] + (["[http]"] if new.http != old.http else [])


_ENDING = 10.0  # seconds for what is left to do when no job needs the daemon any more
_FIRST_ANSWER = 1.0  # seconds; a running launcher answers at once, one that is started in 0.2 s
_STRAY_SIGNAL = "ignored %s, and will ignore it silently from now on: SIGTERM stops bgd"
# Python 3.13 would unlink the socket, which may be systemd's; a stale one is removed at the next start
_never_unlink: dict[str, Any] = {"cleanup_socket": False}
