"""The launcher: the parent of every job, with one event loop, one socket and one lock."""

from __future__ import annotations

import argparse
import asyncio
import gc
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

from bgd.errors import BgdError, leaf_errors
from bgd.launcher.cgroup import delegation
from bgd.launcher.children import Children, Readers, close_all_but
from bgd.launcher.context import Context
from bgd.launcher.deadlines import Deadlines
from bgd.launcher.journal import Journal, JournalContents, read
from bgd.launcher.known_attempts import KnownAttempts
from bgd.launcher.log_file import LogFolder
from bgd.launcher.outbox import Outbox
from bgd.launcher.pid_journal import PidJournal
from bgd.launcher.process import read_process
from bgd.launcher.scan import Scanner
from bgd.launcher.supervisors import SupervisorChannel, SupervisorConnection, Supervisors
from bgd.launcher.sweep import LauncherBusy, bind, check_predecessor_ended, sweep, take_lock, write_lock_pid
from bgd.settings import startup
from bgd.settings.paths import obstacle_at
from bgd.system.clock import boot_id
from bgd.system.mounts import own_mounts
from bgd.system.streams import open_closed_streams, use_utf_8
from bgd.system.systemd import ServiceManager
from bgd.wire.launching import PilotNode

log = logging.getLogger("bgd.launcher")


def main() -> int:
    """Run the launcher until it may exit; return its exit code."""
    open_closed_streams()
    use_utf_8()
    options = _options()
    _set_up_logging()
    _shed_what_was_inherited({0, 1, 2, options.lock_fd, options.listen_fd})
    startup.ignore_stray_signals(lambda _: None)  # until there is a loop to write to the log
    state, logs = options.state.absolute(), options.logs.absolute()
    gc.freeze()  # imported modules stay: to collect among them takes 6 ms, in which nothing starts
    os.chdir("/")  # a working directory would keep a file system from being unmounted
    try:
        startup.check_limits(startup.LAUNCHER_LIMITS)
        startup.check_system_calls()
        state.mkdir(mode=0o700, parents=True, exist_ok=True)  # a service may start before any bgd
        lock = take_lock(state) if options.lock_fd is None else options.lock_fd
        write_lock_pid(lock)
        listener = bind(state) if options.listen_fd is None else socket.socket(fileno=options.listen_fd)
        with closing(ServiceManager.from_environment(os.environ)) as manager:
            idle = None if options.stay else options.idle
            asyncio.run(_serve(listener, state, logs, idle, manager, lease=options.pilot))
    except (OSError, BgdError, ExceptionGroup) as error:
        causes = list(leaf_errors(error))
        if not all(isinstance(cause, OSError | BgdError) for cause in causes):
            raise  # a bug: crash loudly
        return _fail(causes[0], state)
    return 0


def _fail(cause: BaseException, state: Path) -> int:
    """Log in one line why the launcher cannot work; return its exit code."""
    if isinstance(cause, BgdError):
        log.error("%s", cause)
    else:
        log.error("cannot work in %s: %s", state, obstacle_at(state) or cause)
    return _TEMPORARY if isinstance(cause, LauncherBusy) else 1


async def _serve(
    listener: socket.socket,
    state: Path,
    logs: Path,
    idle: float | None,
    manager: ServiceManager,
    *,
    lease: float | None,
) -> None:
    loop, channel = asyncio.get_running_loop(), SupervisorChannel()
    left = read(state / _JOURNAL)
    check_predecessor_ended(left.instance, state)
    async with asyncio.TaskGroup() as group:
        context = _context(group, state, logs, left, Outbox(channel.send) if lease else None)
        context.children.install(loop)
        # after the attempts that it wakes have sent their ends
        context.children.on_reaped = channel.frames.flush_soon
        attempts = KnownAttempts(context, channel)
        must_search = not (left.is_whole or lease)  # a pilot's folder is new
        node = _node() if lease else None
        supervisors = Supervisors(
            context, attempts, channel, must_search=must_search, idle=idle, lease=lease, node=node
        )

        def leave() -> None:
            manager.stopping("ending jobs")
            supervisors.exit()

        _listen_for_signals(loop, leave)
        informing = group.create_task(manager.ping_watchdog())
        if lease:
            context.journal.record_search_done()
        await _work(listener, left, context, attempts, supervisors, manager)
        informing.cancel()
        context.delegation.give_up()


async def _work(
    listener: socket.socket,
    left: JournalContents,
    context: Context,
    attempts: KnownAttempts,
    supervisors: Supervisors,
    manager: ServiceManager,
) -> None:
    """End or adopt what the predecessor left, then serve supervisors until the launcher may exit."""
    # connections wait for the sweep; without the socket the launcher would seem to be missing
    server = await asyncio.get_running_loop().create_unix_server(
        lambda: SupervisorConnection(supervisors), sock=listener, **_never_unlink
    )
    ends, running = await sweep(left, context)
    attempts.remember(ends)
    attempts.adopt(running)
    supervisors.open()
    manager.ready("starting jobs for bgd")
    await supervisors.wait_for_exit()
    supervisors.close()
    await attempts.end()
    server.close()


def _listen_for_signals(loop: asyncio.AbstractEventLoop, leave: Callable[[], None]) -> None:
    """Call `leave` on SIGTERM, and ignore all other signals."""
    # the loop's own handlers get signals through a pipe that hundreds of SIGCHLD fill while the loop is busy,
    # and later signals are lost; a handler set with `signal` is always called
    signal.signal(signal.SIGTERM, lambda *_: startup.call_in_loop(loop, leave))
    for ignored in (signal.SIGINT, signal.SIGHUP):  # a terminal sends these to bgd and all that it started
        signal.signal(ignored, lambda *_: None)  # not SIG_IGN, which every job would inherit
    startup.ignore_stray_signals(lambda name: startup.call_in_loop(loop, log.warning, _STRAY, name))


def _context(
    group: asyncio.TaskGroup, state: Path, logs: Path, left: JournalContents, outbox: Outbox | None = None
) -> Context:
    loop, children = asyncio.get_running_loop(), Children()
    name = os.urandom(8).hex()
    delegated = delegation(f"bgd-{name}")
    writer = read_process(os.getpid())
    journal = Journal(state / _JOURNAL, f"{boot_id()}:{name}", left, delegated.path, writer)
    mounts = own_mounts()
    scanner = Scanner(group, mounts, children)
    return Context(
        group=group,
        deadlines=Deadlines(loop),
        readers=Readers(loop),
        scanner=scanner,
        mounts=mounts,
        children=children,
        journal=journal,
        pid_journal=PidJournal(group, scanner, journal),
        delegation=delegated,
        state=str(state),
        logs=str(logs),
        log_folder=LogFolder(str(logs)),
        null=os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC),
        forking=asyncio.Lock(),
        outbox=outbox,
    )


def _node() -> PilotNode:
    """Return the node that Slurm has given to this pilot."""
    told = os.environ
    megabytes = int(told.get("SLURM_MEM_PER_NODE", 0))  # 0: the whole node
    nodes = told.get("SLURM_JOB_NODELIST") if told.get("SLURM_JOB_NUM_NODES", "1") != "1" else None
    variables = {name: told[name] for name in told if name.startswith("SLURM") or name in _OF_GPUS}
    if (cpus := told.get("SLURM_CPUS_PER_TASK")) is not None:
        variables["SRUN_CPUS_PER_TASK"] = cpus  # srun ignores the other one since Slurm 22.05
    return PilotNode(
        name=(nodes or told.get("SLURMD_NODENAME") or os.uname().nodename)[:_MAX_NODES],
        cpus=int(told["SLURM_CPUS_ON_NODE"]) if "SLURM_CPUS_ON_NODE" in told else None,
        memory=megabytes << 20 or os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        variables=variables,
    )


def _set_up_logging() -> None:
    """Format lines like the daemon's, because most of them go to the daemon's log."""
    for level in (logging.INFO, logging.WARNING, logging.ERROR):
        logging.addLevelName(level, logging.getLevelName(level).lower())
    form = "%(asctime)s.%(msecs)03dZ %(levelname)s: launcher: %(message)s"
    logging.Formatter.converter = time.gmtime
    handlers = [startup.LogHandler()]
    logging.basicConfig(format=form, datefmt="%Y-%m-%dT%H:%M:%S", level=logging.INFO, handlers=handlers)


def _shed_what_was_inherited(kept: set[int | None]) -> None:
    """Close descriptors and reset signals that jobs would otherwise inherit."""
    close_all_but({fd for fd in kept if fd is not None})
    for fd in kept:
        if fd is not None and fd > sys.stderr.fileno():
            os.set_inheritable(fd, False)
    for signum in signal.valid_signals() - {signal.SIGPIPE, signal.SIGXFSZ}:  # restored for each job
        if signal.getsignal(signum) is signal.SIG_IGN:
            signal.signal(signum, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    os.umask(0o077)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bgd-launcher", description=__doc__)
    parser.add_argument("--state", type=Path, required=True, help="folder for lock, socket and journal")
    parser.add_argument("--logs", type=Path, required=True, help="folder for the logs of jobs")
    parser.add_argument("--lock-fd", type=int, help="descriptor that already holds the lock")
    parser.add_argument("--listen-fd", type=int, help="descriptor of the listening socket")
    leaving = parser.add_mutually_exclusive_group()
    leaving.add_argument(
        "--idle",
        type=float,
        default=_IDLE,
        help="exit after this many seconds without a supervisor and jobs (%(default)g)",
    )
    leaving.add_argument("--stay", action="store_true", help="run until SIGTERM, as a service")
    pilot = "serve another launcher: send it the output, and end this many seconds after its last word"
    parser.add_argument("--pilot", type=float, metavar="SECONDS", help=pilot)
    return parser.parse_args()


_STRAY = "ignored %s, and will ignore it silently from now on: SIGTERM ends the launcher and its jobs"
_OF_GPUS = {"CUDA_VISIBLE_DEVICES", "GPU_DEVICE_ORDINAL", "ROCR_VISIBLE_DEVICES", "ZE_AFFINITY_MASK"}
_MAX_NODES = 200  # characters of their names
_JOURNAL = "launcher.journal"
_IDLE = 60.0
_TEMPORARY = 75  # EX_TEMPFAIL of sysexits.h
# Python 3.13 and later unlink a server's socket; here the next launcher does that, while it holds the lock
_never_unlink: dict[str, Any] = {"cleanup_socket": False} if sys.version_info >= (3, 13) else {}

if __name__ == "__main__":
    sys.exit(main())
