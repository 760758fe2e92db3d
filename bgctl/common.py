"""What all verbs share when they run: the global options, the connection to the daemon, and printing."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, TextIO

import click
from msgspec import Struct

from bgctl.plain import Begun
from bgd.client.blocking.client import Client
from bgd.client.blocking.daemon import TIMEOUT
from bgd.client.inherited import caller_session
from bgd.errors import BgdError, NoSuchJob, Refused
from bgd.text.escape import one_line

if TYPE_CHECKING:
    from pathlib import Path

    from bgd import AsyncClient
    from bgd.wire.views import JobView

COMPLETION_VARIABLE = "_BGCTL_COMPLETE"  # set by the shell; says what to complete
_STATE_COLORS = {
    "running": "blue",
    "stopping": "magenta",
    "succeeded": "green",
    "failed": "red",
    "cancelled": "yellow",
}


class WrongUsage(BgdError):
    """The words of the command line contradict each other."""


class GlobalOptions(Struct, frozen=True, kw_only=True):
    """The global options, from before or after the verb."""

    socket: str | None = None
    config: str | None = None
    user: bool = False
    system: bool = False
    json: bool = False
    quiet: bool = False
    color: str = "auto"


def global_options() -> GlobalOptions:
    """Return the global options of this command line."""
    return GlobalOptions(**_given)


def set_global_options(**given: Any) -> None:
    """Set some of the global options; the others stay as they are."""
    _given.update(given)


_given: dict[str, Any] = {}


def begun() -> Begun:
    """Return what was done for this command line before it was parsed."""
    context = click.get_current_context(silent=True)
    return (context and context.obj) or Begun()


def client(*, autostart: bool = False, timeout: float = TIMEOUT) -> Client:
    """Return a client of the daemon that the global options select.

    `autostart`: start the caller's own daemon if it is down. `timeout`: seconds for each request.

    Raises:
        WrongUsage: the global options contradict each other.
    """
    return Client(**_client_options(), timeout=timeout, autostart=autostart)


def async_client(*, autostart: bool = False) -> AsyncClient:
    """Return a client of the same daemon for a verb with an event loop; see `client`."""
    from bgd import AsyncClient  # noqa: PLC0415 - hardly any verb has an event loop

    return AsyncClient(**_client_options(), autostart=autostart)


def _client_options() -> dict[str, Any]:
    options = global_options()
    if options.user and options.system:
        raise WrongUsage("--user and --system cannot be combined")
    return {
        "socket": options.socket,
        "config": options.config,
        "user": options.user,
        "system": options.system,
        "on_autostart": lambda pid, log: say(f"started a daemon for you (pid {pid}, log {log})"),
    }


def say(message: str) -> None:
    """Print a message, which is not data, to stderr; nothing with --quiet."""
    if global_options().quiet:
        return
    print(f"bgctl: {one_line(message)}", file=sys.stderr, flush=True)


def say_deadlock(daemon: Client, job_ids: Sequence[int]) -> None:
    """Say so if this program runs in a job, which waits for one of these jobs in a deadlock."""
    if "BGD_JOB_ID" in os.environ:
        from bgctl.showing import deadlock_line  # noqa: PLC0415 - hardly any caller is a job

        if line := deadlock_line(daemon, job_ids):
            say(line)


def is_confirmed(question: str) -> bool:
    """Ask the user at the terminal; say that nothing changed unless the answer is yes."""
    try:
        is_yes = click.confirm(question, err=True)
    except click.Abort as error:
        click.echo(err=True)
        if isinstance(error.__context__, KeyboardInterrupt):
            say("nothing changed")
            raise error.__context__ from None
        is_yes = False  # end of input
    if not is_yes:
        say("nothing changed")
    return is_yes


def with_remedy(error: BaseException) -> str:
    """Return an error with the command that helps."""
    is_id = isinstance(error, NoSuchJob) and "`" not in str(error)
    return f"{error}: `bgctl list --all` lists jobs" if is_id else str(error)


@contextmanager
def writing_to_stdout(what_is_done: Callable[[], str]) -> Iterator[None]:
    """If stdout cannot be written, for example on a full disk, also say what is done anyway."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise Refused(f"cannot write to stdout: {error.strerror}; {what_is_done()}") from error


def report(document: object, *messages: str) -> None:
    """Print a JSON document if that is asked for, else say some messages; nothing with --quiet."""
    if global_options().json:
        answer(document)
    else:
        for message in messages:
            say(message)


def acknowledge_end(daemon: Client, job_id: int) -> None:
    """Take the end of a job, which was just printed, out of the inbox of the caller's session."""
    if caller_session() is not None and not global_options().quiet:
        with suppress(BgdError):  # then it is told again
            daemon.acknowledge(jobs=[job_id])


def answer(document: object, *lines: object) -> None:
    """Print a JSON document if that is asked for, else lines of text; nothing with --quiet."""
    if global_options().quiet:
        return
    if global_options().json:
        print_json(document)
    else:
        print_lines(*lines)


def result_word(outcome: str) -> str:
    """Return what became of a time of a schedule; a job that `ran` may still be queued."""
    return "queued" if outcome == "ran" else outcome


def print_lines(*lines: object) -> None:
    if lines:
        print(*lines, sep="\n", flush=True)


def print_json(value: object) -> None:
    """Print a JSON document on one line."""
    print(json_line(value), flush=True)


def print_json_array(values: Iterable[object]) -> None:
    """Print JSON documents as one array on one line, without holding all of them."""
    mark = "["
    for value in values:  # nothing is printed if the first one cannot be had
        print(mark + json_line(value), end="")
        mark = ", "
    print("[]" if mark == "[" else "]", flush=True)


def json_line(value: object) -> str:
    """Return a JSON document on one line, in ASCII: valid in any locale and safe on a terminal."""
    import json  # noqa: PLC0415 - people and most scripts read text

    return json.dumps(value).replace("\x7f", "\\u007f")


def labelled(lines: Iterable[tuple[str, object]]) -> Iterator[str]:
    """Yield values with labels; on a terminal, a long enumeration continues below its beginning."""
    from textwrap import wrap  # noqa: PLC0415 - most verbs do not need it

    from bgctl.terminal import screen_size  # noqa: PLC0415 - likewise

    width = max(screen_size()[0] - _LABEL, _LABEL)
    for label, value in lines:
        text = str(value)
        parts = wrap(text, width) if ", " in text and is_terminal() else [text]  # a path stays whole
        for number, part in enumerate(parts):
            yield f"{'' if number else label:<{_LABEL}}{part}"


_LABEL = 11  # characters


def replace_file(path: Path, pieces: Iterable[bytes], mode: int | None = None) -> int:
    """Write all pieces to the file on the disk, or none; return the number of bytes.

    Delete what writers of this file left that were killed: those that still write hold a lock.

    `mode`: of the file; None: as the umask says.
    """
    from fcntl import LOCK_EX, LOCK_NB, flock  # noqa: PLC0415 - few verbs write a file
    from glob import escape  # noqa: PLC0415 - likewise

    for old in path.parent.glob(f".{escape(path.name)}.????????.part"):
        with suppress(OSError), old.open("rb") as left:
            flock(left, LOCK_EX | LOCK_NB)
            old.unlink()
    new = path.with_name(f".{path.name}.{os.urandom(4).hex()}.part")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(new, flags, 0o666 if mode is None else 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            with suppress(OSError):  # some file systems have no locks, so what is left there stays
                flock(descriptor, LOCK_EX | LOCK_NB)
            if mode is not None:
                os.fchmod(descriptor, mode)
            size = sum(map(file.write, pieces))
            file.flush()
            os.fsync(descriptor)
        new.replace(path)
    except BaseException:
        new.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)  # or the new name may be lost in a power cut
    except OSError as error:
        if error.errno != errno.EINVAL:  # some file systems cannot
            raise
    finally:
        os.close(folder)
    return size


def is_terminal() -> bool:
    """Return whether stdout is a terminal: people get tables, programs get columns."""
    return sys.stdout.isatty()


def is_screen() -> bool:
    """Return whether stdout is a terminal that shows colors and draws lines again."""
    return is_terminal() and not _is_dumb()


def _is_dumb() -> bool:
    return os.environ.get("TERM") == "dumb"


def wants_bar(stream: TextIO) -> bool:
    """Return whether to draw a progress bar on a stream."""
    return stream.isatty() and not (_is_dumb() or _is_on("CI") or global_options().quiet)


def may_ask() -> bool:
    """Return whether to ask questions on stdin: never on a build server, even if it has a terminal."""
    return sys.stdin.isatty() and not _is_on("CI")


def has_colors() -> bool:
    """Return whether to print colors to stdout."""
    match global_options().color:
        case "always":
            return True
        case "never":
            return False
        case _ if os.environ.get("NO_COLOR"):  # https://no-color.org
            return False
        case _:
            return _is_on("FORCE_COLOR") or is_screen()  # https://force-color.org


def _is_on(variable: str) -> bool:
    return os.environ.get(variable, "") not in {"", "0", "false"}


def state_color(job: JobView) -> str | None:
    """Return the color of a job's state; None if it has none of its own."""
    return _SUSPENDED_COLOR if job.suspended else _STATE_COLORS.get(job.state)


_SUSPENDED_COLOR = "magenta"
