"""The command `bgd`: read options and configuration, set up the log, and run the daemon on uvloop."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import errno
import gc
import logging
import os
import socket
import sys
from collections.abc import Sequence
from datetime import UTC, datetime

import msgspec
import uvloop

import bgd
from bgd.daemon.backups import recover
from bgd.daemon.doctor import check_python, findings_as_json
from bgd.daemon.folder import PRIVATE
from bgd.daemon.serving import StartupContext, serve
from bgd.daemon.storage.database import DECODE_ERRORS, StoreBroken
from bgd.errors import BgdError, ConfigError, leaf_errors
from bgd.settings import config as configuration
from bgd.settings.startup import DAEMON_LIMITS, LogHandler, check_limits
from bgd.system.streams import open_closed_streams, use_utf_8
from bgd.system.systemd import ServiceManager, take_sockets
from bgd.text.escape import one_line

EX_IOERR = 74  # sysexits.h
EX_CONFIG = 78

# What systemd tries again, unlike EX_CONFIG: errors that pass without a change of the configuration
_PASSING = {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ENOMEM, errno.EMFILE, errno.ENFILE}

LOG_LEVELS = ("debug", "info", "warning", "error")
LOG_FORMATS = ("text", "json")

logger = logging.getLogger(__name__)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the daemon in the foreground; return its exit code."""
    open_closed_streams()
    use_utf_8()
    options = _parser().parse_args(arguments)
    set_up_log(options.log_level, options.log_format)
    os.umask(PRIVATE)
    sockets = take_sockets(os.environ)
    report = _StartupReport(options)
    try:
        config = _load(options)
        if options.recover is not None:
            for line in recover(config, None if options.recover is _NEWEST else options.recover):
                print(line)  # noqa: T201 - what --recover is for
            return 0
        if options.findings:
            print(findings_as_json(config))  # noqa: T201 - what --findings is for
            return 0
        if options.check:
            check_python(config)
            _check_stored_names(config)
            print(f"{config.source or 'built-in defaults'}: good")  # noqa: T201 - what --check is for
            return 0
        _serve(config, options, report, sockets)
    except (BgdError, BaseExceptionGroup) as error:
        causes = list(leaf_errors(error))
        if not all(isinstance(cause, BgdError) for cause in causes):
            raise  # a bug: crash loudly
        return report.fail(causes)
    return 0


def _check_stored_names(config: configuration.Config) -> None:
    """Check that no schedule is configured that is also stored, if the daemon or its database can say.

    Raises:
        ConfigError: one is.
    """
    from bgd.client.blocking.client import Client  # noqa: PLC0415 - only --check needs them before it serves
    from bgd.daemon.schedule_definitions import check_names  # noqa: PLC0415
    from bgd.daemon.storage.schedules import stored_names  # noqa: PLC0415

    path = f"{config.daemon.state_dir}/bgd.db"
    if not config.schedules or not os.path.exists(path):  # noqa: PTH110 - a plain string here
        return
    try:
        with Client(config.daemon.socket) as client:  # a daemon that runs has locked its database
            stored = {each.name for each in client.schedules.list() if not each.is_configured}
    except BgdError:
        try:
            stored = stored_names(path)
        except DECODE_ERRORS as error:
            print(  # noqa: T201 - as the verdict
                f"{path} cannot be read ({error}): names of schedules that were added are not checked",
                file=sys.stderr,
            )
            return
    check_names(config, stored)


def set_up_log(level: str, style: str) -> None:
    """Write log messages of `level` and above to stderr, one line each, in one of LOG_FORMATS."""
    handler = LogHandler()
    handler.setFormatter(_Json() if style == "json" else _Text())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)


def _serve(
    config: configuration.Config,
    options: argparse.Namespace,
    report: _StartupReport,
    sockets: list[socket.socket],
) -> None:
    check_limits(DAEMON_LIMITS)  # first: without descriptors not even an event loop can be made
    gc.freeze()  # imported modules stay: to collect among them takes 5 ms, in which no request is answered
    with (
        contextlib.closing(ServiceManager.from_environment(os.environ)) as manager,
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        context = StartupContext(
            reload=lambda: _load(options),
            ready=report.ready,
            manager=manager,
            autostarted=options.autostarted,
            has_launcher_service=options.await_launcher,
            sockets=sockets,
        )
        runner.run(serve(config, context))


def _load(options: argparse.Namespace) -> configuration.Config:
    return configuration.load(options.config, system=options.system)


class _StartupReport:
    """Tell the parent process, which waits on a pipe, whether the daemon started."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._fd: int | None = options.ready_fd
        self._options = options

    def ready(self) -> None:
        self._write("ready\n")

    def fail(self, causes: list[BaseException]) -> int:
        """Report each cause on a line, and return the exit code for the first one.

        What a message advises works as printed, for the same database.
        """
        from shlex import join  # noqa: PLC0415 - no daemon that works needs it

        given = ["--config", self._options.config] if self._options.config else []
        command = join(["bgd", *(["--system"] if self._options.system else given)])
        for cause in causes:
            message = str(cause).replace("bgd --recover", f"{command} --recover")
            logger.error("%s", message)
            self._write(f"error: {message}\n")
        return _exit_code(causes[0])

    def _write(self, line: str) -> None:
        if self._fd is None:
            return
        with contextlib.suppress(BrokenPipeError):  # the reader has gone
            os.write(self._fd, line.encode(errors="backslashreplace"))  # it may quote the name of a file
        os.close(self._fd)
        self._fd = None


def _exit_code(cause: BaseException) -> int:
    match cause:
        case ConfigError(__cause__=OSError(errno=number)) if number in _PASSING:
            return EX_IOERR
        case ConfigError():
            return EX_CONFIG
        case StoreBroken():
            return EX_IOERR
        case _:
            return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="bgd", description="The background job daemon; stays in the foreground."
    )
    parser.add_argument(
        "--config",
        type=_file,
        metavar="FILE",
        help="configuration; default: $BGD_CONFIG or the usual places",
    )
    parser.add_argument(
        "--system", action="store_true", help="serve the whole machine, from /etc/bgd and /var/lib/bgd"
    )
    parser.add_argument(
        "--await-launcher",
        action="store_true",
        help="wait for a launcher that runs as its own service, never start one",
    )
    parser.add_argument("--check", action="store_true", help="check the configuration and exit")
    parser.add_argument("--findings", action="store_true", help=argparse.SUPPRESS)  # for bgctl doctor
    parser.add_argument(
        "--recover",
        nargs="?",
        type=_file,
        const=_NEWEST,
        metavar="FILE",
        help="restore a lost database from FILE or the newest backup",
    )
    parser.add_argument("--log-level", choices=LOG_LEVELS, default="info")
    parser.add_argument("--log-format", choices=LOG_FORMATS, default="text")
    parser.add_argument(
        "--ready-fd", type=int, metavar="N", help="write to this descriptor when the socket answers"
    )
    parser.add_argument("--autostarted", action="store_true", help=argparse.SUPPRESS)  # by a client
    parser.add_argument("--version", action="version", version=f"bgd {bgd.__version__}")
    return parser


class _Text(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return f"{_time_of(record)} {record.levelname.lower()}: {_message_of(self, record)}"


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": _time_of(record),
            "level": record.levelname.lower(),
            "part": record.name,
            "message": _message_of(self, record),
        }
        return msgspec.json.encode(line).decode()


def _time_of(record: logging.LogRecord) -> str:
    return (
        datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    )


def _message_of(formatter: logging.Formatter, record: logging.LogRecord) -> str:
    lines = [record.getMessage()]
    if record.exc_info:
        lines += formatter.formatException(record.exc_info).splitlines()
    message = "\n".join(map(one_line, lines))
    # a file name need not be UTF-8, but JSON must be
    return message.encode(errors="backslashreplace").decode()


_NEWEST = object()  # the argument of --recover without a file


def _file(name: str) -> str:
    if not name:  # for example from a script whose variable is empty
        raise argparse.ArgumentTypeError("the name of the file is empty: give one, or leave it out")

    return name


if __name__ == "__main__":
    sys.exit(main())
