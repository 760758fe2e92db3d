"""Answer plain command lines without the client, whose imports take longer than all the rest.

Scripts run `bgctl submit PROGRAM` thousands of times, and `run PROGRAM`, `list`, `wait ID` and `logs ID` too;
people wait for these as well, and for `cancel ID`, `queue` and others. This module knows the usual answers,
and leaves everything else to the client, which goes on where this module has stopped. A submit that was not
answered is sent again with its token, so that there is no second job.
"""

from __future__ import annotations

import os
import stat
import sys
import time

from bgctl.plain_wire import Daemon, Unusual
from bgd.client.inherited import OWN_PREFIX, caller_session, public_environment, read_umask

TYPE_CHECKING = False  # as type checkers know it; typing takes as long to import as Python to start
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from typing import Any

OPERATORS = frozenset({"|", "||", "&&", ">", ">>", "2>", "2>&1", "&>", "<", "&", ":::"})  # words of a shell
UNUSUAL = {"_BGCTL_COMPLETE", "TRACEPARENT"}  # variables that only the client reads

_MOST_BYTES = 100_000  # of words and variables; the client explains its limits
_MOST_OUTPUT = 1 << 20  # bytes that are held until it is known that they are shown unchanged
_LONGEST_ID = 18  # digits
MOST_EXPLAINED = 20  # jobs that `bgctl explain` explains without ids
_USUAL_LIST = 50  # jobs; bgd.wire.requests.DEFAULT_LIST takes long to import


class Begun:
    """What has been done for a command line, so that the client can go on.

    Attributes:
        sent: the token of a submit that was not answered, and the newest job that the daemon knew.
        job: the job that was queued; `run` follows it.
        shown: the attempt whose output was shown, and where the rest begins; None: nothing was shown.
        is_asked: a verb that acts on a job was sent, and may have been done.
        is_interrupted: Ctrl-C was typed before the end.
        is_lost: the daemon hung up while it was asked; it may be restarting.
    """

    sent: tuple[bytes, int] | None = None
    job: int | None = None
    shown: tuple[int, int] | None = None
    is_asked: bool = False
    is_interrupted: bool = False
    is_lost: bool = False


def answer(words: list[str], begun: Begun) -> int | None:
    """Do what a plain command line says; return the exit code, or None if the client has to go on."""
    try:
        return _answer(words, begun)
    except (Unusual, OSError, UnicodeError) as error:
        begun.is_lost = isinstance(error, ConnectionResetError | BrokenPipeError)
        return None
    except KeyboardInterrupt:
        if begun.job is None:
            raise
        begun.is_interrupted = True
        return None


def _answer(words: list[str], begun: Begun) -> int | None:
    match words:
        case ["submit", *argv]:
            _, job = _submit(argv, begun)
            write_all(1, f"{job}\n".encode())
            begun.sent = None
        case ["run" | "wait", *_] if "BGD_JOB_ID" in os.environ:
            return None  # the client looks for a deadlock
        case ["run", *argv]:
            return _run(argv, begun)
        case ["list"] if not sys.stdout.isatty():  # people get a table that fits
            _list()
        case ["wait", text] if job := id_in(text):
            daemon = Daemon()
            code, how = _wait(daemon, job)
            write_all(1, f"{job} {how}\n".encode())
            _acknowledge_end(daemon, job)
            return code
        case ["explain" | "cancel" | "hold" | "release" as verb, text] if job := id_in(text):
            _explain(Daemon(), [job]) if verb == "explain" else _act(verb, job, begun)
        case ["logs", text] if job := id_in(text):
            _logs(job)
        case ["inbox", "--hook"]:
            from bgctl.agents.hook import answer_hook  # noqa: PLC0415 - imports this module

            return answer_hook()
        case _ if print_usual := _WITHOUT_WORDS.get(tuple(words)):
            print_usual()
        case _:
            return None
    return 0


def id_in(text: str) -> int:
    """Return the id of a job; 0: the text is something else."""
    is_id = text.isascii() and text.isdigit() and text[:1] != "0" and len(text) <= _LONGEST_ID
    return int(text) if is_id else 0


def _submit(argv: list[str], begun: Begun) -> tuple[Daemon, int]:
    """Queue a command; return the connection and the id of the job."""
    token = os.urandom(16)
    spec = spec_of(argv)
    daemon = Daemon()
    daemon.request("submit", spec=spec, token=token)
    begun.sent = token, daemon.newest
    reply = daemon.reply()
    if reply["type"] == "failed":
        begun.sent = None
    return daemon, job_in(reply)


def spec_of(argv: list[str]) -> dict[str, object]:
    """Return the spec that the client would send for a command.

    Raises:
        Unusual: the client may have something to say about it.
    """
    folder, umask = os.getcwd(), read_umask()  # noqa: PTH109 - pathlib takes longer than the rest
    env = {name: value for name, value in public_environment().items() if not name.startswith(OWN_PREFIX)}
    if not argv or argv[0][:1] in {"", "-"} or OPERATORS.intersection(argv[1:]) or UNUSUAL & env.keys():
        raise Unusual
    if umask is None or sys.getfilesystemencoding() != "utf-8" or not _exists(argv[0], env, folder):
        raise Unusual
    if sum(map(len, (*argv, *env, *env.values()))) > _MOST_BYTES:
        raise Unusual
    spec: dict[str, object] = {"argv": argv, "cwd": folder, "umask": umask, "env": env}
    if session := caller_session():
        spec["session"] = session
    return spec


def job_in(reply: dict[str, Any]) -> int:
    """Return the id of the job in a usual answer; raise Unusual if it is another."""
    match reply:
        case {"type": "submitted", "jobs": [int(job)], "created": True, "found": [], "obstacle": None}:
            return job
        case _:
            raise Unusual


def _exists(program: str, env: dict[str, str], folder: str) -> bool:
    folders = [""] if "/" in program else env.get("PATH", os.defpath).split(os.pathsep)
    paths = (os.path.join(folder, each, program) for each in folders)  # noqa: PTH118 - as above
    return any(os.path.isfile(path) and os.access(path, os.X_OK) for path in paths)  # noqa: PTH113


def _run(argv: list[str], begun: Begun) -> int:
    """Queue a command, show its output line by line, and return its exit code."""
    daemon, job = _submit(argv, begun)
    begun.sent, begun.job = None, job
    if is_terminal := sys.stdout.isatty():
        _check_waits_for_turn(daemon, job)
    shown = 0
    parts = daemon.ask("logs", "log", waits=True, job=job, attempt=0, follow=True)
    for attempt, data in _output(parts, holds=not is_terminal):
        _show(data)
        shown += len(data)
        begun.shown = (attempt, shown) if shown else None
    code, how = _wait(daemon, job)
    if input_waits(argv):
        raise Unusual
    if code or caller_session():  # a session may kill bgctl before it gets the exit code
        _say(f"job {job} {how}")
    _acknowledge_end(daemon, job)
    return code


def _check_waits_for_turn(daemon: Daemon, job: int) -> None:
    """Leave it to the client to explain why a job has no output yet, unless it only waits for its turn."""
    daemon.request("explain", job=job, waits=True)
    match daemon.reply():
        case {"type": "explained", "explanation": explanation}:
            if any(reason["cause"] != "turn" for reason in explanation.get("reasons", ())):
                raise Unusual
        case _:
            raise Unusual


def _wait(daemon: Daemon, job: int, *, only_now: bool = False) -> tuple[int, str]:
    """Wait until a job has ended; return its exit code, and how it ended in words.

    Raises:
        Unusual: it ended in another way than by itself, or with `only_now` it has not ended.
    """
    replies = daemon.ask("wait", "jobs", waits=True, jobs=[job], only_now=only_now)
    match [view for reply in replies for view in reply["jobs"]]:
        case [{"state": "succeeded"}]:
            return 0, "succeeded"
        case [{"state": "failed", "outcome": "exit", "exit_code": int(code)}]:
            return code, f"failed (exit code {code})"
        case _:
            raise Unusual


def _acknowledge_end(daemon: Daemon, job: int) -> None:
    """Take the end of a job, which was just printed, out of the inbox of the caller's session."""
    if session := caller_session():
        try:
            daemon.request("acknowledge", session=session, jobs=[job])
            daemon.reply()
        except (Unusual, OSError):
            return  # then it is told again


def input_waits(argv: Sequence[str]) -> bool:
    """Return whether a filter, for example `cat` or `wc -l`, did not get what was piped in.

    A program with other arguments usually reads files, and may be one of many in a loop that reads the pipe.
    """
    if any(not word.startswith("-") for word in argv[1:]):
        return False
    try:
        if not stat.S_ISFIFO(os.fstat(0).st_mode):
            return False
    except OSError:  # it is closed
        return False
    import select  # noqa: PLC0415 - hardly any command gets here

    waiting = select.poll()
    waiting.register(0, select.POLLIN)
    return any(events & select.POLLIN for _, events in waiting.poll(0))


def _output(parts: Iterable[dict[str, Any]], *, holds: bool = True) -> Iterator[tuple[int, bytes]]:
    """Yield the attempt and the bytes of output that is shown as it is, in whole lines except for the last.

    `holds`: keep the beginning of a line until its end; a terminal shows it at once.

    Raises:
        Unusual, UnicodeError: it is shown in another way, for example with its carriage returns applied.
    """
    attempt, held = 0, b""
    for part in parts:
        data: bytes = part["data"]
        attempt = attempt or part["attempt"]
        if part["attempt"] != attempt or part["left_out"] or b"\r" in data or b"\0" in data:
            raise Unusual
        lines, newline, held = (held + data).rpartition(b"\n")
        (lines + newline).decode()
        yield attempt, lines + newline
        if len(held) > (_MOST_OUTPUT if holds else 0):
            raise Unusual
    yield attempt, held


def _logs(job: int) -> None:
    """Print the output of the latest attempt of a job if it is short; the client streams a long one."""
    daemon, whole = Daemon(), b""
    for _, data in _output(daemon.ask("logs", "log", job=job)):
        whole += data
        if len(whole) > _MOST_OUTPUT:
            raise Unusual
    _show(whole)
    if not whole:
        _wait(daemon, job, only_now=True)
        _say(f"job {job} wrote nothing")


def _show(data: bytes) -> None:
    """Write output of a job; to a terminal only what surely neither controls it nor is invisible."""
    if sys.stdout.isatty() and not (data.isascii() and data.translate(None, b"\n\t").decode().isprintable()):
        raise Unusual
    write_all(1, data)


class _View:
    """A job as the daemon sent it, with the attributes of a JobView."""

    def __init__(self, fields: dict[str, Any]) -> None:
        self.__dict__ = fields
        if fields.get("progress"):
            self.progress = _View(fields["progress"])

    def __getattr__(self, name: str) -> Any:
        """Leave a field that an older daemon does not have to the client, which knows its default."""
        raise Unusual


def _list() -> None:
    views: Any = [_View(job) for part in Daemon().ask("list", "jobs") for job in part["jobs"]]
    if not views:
        raise Unusual
    from bgctl import columns  # noqa: PLC0415 - only for a list

    try:
        views.sort(key=columns.group_of)
    except StopIteration:  # a newer daemon has a state that is not known here
        raise Unusual from None
    _print(columns.columns_of(columns.cells_for_programs(views, time.time())))
    if len(views) == _USUAL_LIST:
        _say(columns.options_for_rest(views))


def _act(verb: str, job: int, begun: Begun) -> None:
    """Do to a job what a verb says, unless the daemon refuses it: the client says why."""
    daemon = Daemon()
    daemon.request(verb, jobs=[job])
    begun.is_asked = True
    match daemon.reply():
        case {"type": "acted", "results": [{"job": int(acted), "state": str(state)}]}:
            write_all(1, f"{acted} {state}\n".encode())
        case _:
            begun.is_asked = False
            raise Unusual


def _explain_all() -> None:
    """Print what keeps the jobs that wait from running, if there are not too many."""
    daemon = Daemon()
    parts = daemon.ask("list", "jobs", states=_waiting_states(), limit=MOST_EXPLAINED + 1)
    jobs = [job["id"] for part in parts for job in part["jobs"]]
    if not 0 < len(jobs) <= MOST_EXPLAINED:
        raise Unusual
    _explain(daemon, jobs[::-1])


def _explain(daemon: Daemon, jobs: Sequence[int]) -> None:
    """Print what keeps waiting jobs from running, without the colors of a terminal."""
    if sys.stdout.isatty():
        raise Unusual
    from bgctl.explaining import waiting_lines  # noqa: PLC0415 - only for this
    from bgd.core.explain import Explanation  # noqa: PLC0415 - likewise

    lines: list[str] = []
    for job in jobs:
        daemon.request("explain", job=job)
        reply = daemon.reply()
        if reply["type"] != "explained":
            raise Unusual
        view: Any = _View(reply["job"])
        if not reply["explanation"].get("reasons") or view.reason or view.state not in _waiting_states():
            raise Unusual
        explanation = _converted(reply["explanation"], Explanation)
        lines += waiting_lines(view, view.state, explanation, time.time())
    _print(lines)


def _waiting_states() -> list[str]:
    from bgd.text.brief import GROUPS  # noqa: PLC0415 - only to explain

    return [*GROUPS[1]]


def _converted(value: Any, kind: Any) -> Any:
    """Return what the daemon sent as a value of this type."""
    from msgspec import ValidationError, convert  # noqa: PLC0415 - only for reasons

    try:
        return convert(value, kind)
    except ValidationError:  # a newer daemon has a cause that is not known here
        raise Unusual from None


def _queues() -> None:
    daemon = Daemon()
    daemon.request("queues")
    reply = daemon.reply()
    if reply["type"] != "queues":
        raise Unusual
    if any(queue.get("why_waiting") for queue in reply["queues"]):
        from bgd.core.explain import Reason  # noqa: PLC0415 - most jobs wait for their turn only

        for queue in reply["queues"]:
            queue["why_waiting"] = _converted(queue["why_waiting"], tuple[Reason, ...])
    queues: Any = _View(reply | {name: [*map(_View, reply[name])] for name in ("queues", "resources")})
    from bgctl.tables import ALL_PAUSED, queue_lines  # noqa: PLC0415 - only for a table

    _print(queue_lines(queues, time.time()))
    if queues.paused:
        _say(ALL_PAUSED)


def _batches() -> None:
    from bgctl.tables import USUAL_BATCHES, batch_lines, more_batches  # noqa: PLC0415 - only for a table

    parts = Daemon().ask("batches", "batches", limit=USUAL_BATCHES)
    views: Any = [_View(batch) for part in parts for batch in part["batches"]]
    if not views:
        raise Unusual
    _print(batch_lines(views, time.time()))
    if len(views) == USUAL_BATCHES:
        _say(more_batches(USUAL_BATCHES))


_WITHOUT_WORDS = {
    ("explain",): _explain_all,
    ("queue",): _queues,
    ("queue", "list"): _queues,
    ("batch", "list"): _batches,
}


def _print(lines: Iterable[str]) -> None:
    text = "".join(f"{line}\n" for line in lines)
    write_all(1, text.encode(sys.stdout.encoding, "backslashreplace"))


def _say(message: str) -> None:
    write_all(2, f"bgctl: {message}\n".encode())


def write_all(descriptor: int, data: bytes) -> None:
    """Write to a stream itself; sys.stdout would keep what could not be written."""
    while data:
        data = data[os.write(descriptor, data) :]
