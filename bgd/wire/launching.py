"""What the supervisor and the launcher say to each other: MessagePack frames, a protocol of its own.

The supervisor begins with Greeting; the launcher drops any older supervisor, then answers Welcome, one
AttemptStarted or AttemptEnded for every attempt it knows (the snapshot), and Ready. After that each says what
happens.
Version N of the supervisor speaks N - 1 too; messages and fields are only ever added, fields with a default.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum
from typing import TypeVar, assert_never

import msgspec
from msgspec import Struct

from bgd.core.job import Outcome
from bgd.core.spec import Isolation
from bgd.errors import ProtocolError

LAUNCHING_PROTOCOL = 3
OLDEST_LAUNCHING_PROTOCOL = 1  # that a supervisor still speaks to a launcher
MAX_GENERATION = 2**62  # SQLite takes twice that: there is always one for the supervisor to go on with
MAX_LAUNCHING_FRAME = 16 << 20  # both ends are ours; a spec with arguments and environment fits amply
JOBS_PER_FOLDER = 1000
MAX_BALLAST = 8 << 20  # bytes


class AttemptKey(Struct, frozen=True, array_like=True):
    """Names one attempt on this machine for ever: `store` is the database's own id."""

    store: str
    job: int
    attempt: int


# --- supervisor -> launcher ----------------------------------------------------------------------------


class Greeting(Struct, frozen=True, tag="greeting"):
    """`generation` grows with every start of a supervisor: the launcher obeys the highest only (R1).

    `protocol`: the oldest the supervisor speaks. A launcher of that one or any later will do (R7), and says
    which it is in its Welcome. `position`: the id of the newest event in the database. The launcher remembers
    the highest that a supervisor named, and so knows a database that is older than what it was asked to do.
    """

    protocol: int
    store: str
    generation: int
    position: int = 0


class Warm(Struct, frozen=True, kw_only=True):
    """Fork the attempt's process from a warm worker, which is `argv` with further words, or run it in one.

    It has put `path` in front of sys.path and imported `preload` before. `base`: how its environment differs
    from the attempt's, None: it has no such variable. `isolation`: FORK, or REUSE, where a worker runs
    `recycle_jobs` jobs, and none once it takes more than `recycle_memory` bytes; None: no limit.
    """

    path: list[str] = []
    preload: list[str] = []
    base: dict[str, str | None] = {}
    isolation: Isolation = Isolation.FORK
    recycle_jobs: int | None = None
    recycle_memory: int | None = None


class Limits(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What an attempt may have, as in a JobSpec; None: what the launcher itself may."""

    nice: int | None = None
    memory_max: int | None = None
    cpu_max: int | None = None
    pids_max: int | None = None
    open_files: int | None = None
    core_max: int | None = None

    @property
    def controllers(self) -> list[str]:
        """The controllers of cgroup v2 that it takes."""
        return [name for field, name in CONTROLLERS.items() if getattr(self, field) is not None]


NO_LIMITS = Limits()
CONTROLLERS = {"memory_max": "memory", "cpu_max": "cpu", "pids_max": "pids"}


class Launch(Struct, frozen=True, tag="launch", kw_only=True):
    """Start an attempt. If the launcher knows its key, it only repeats the state of that attempt (R2).

    * Durations are seconds; None: no limit.
    * `stdin`, `stdin_path`: what the process reads, or a file that it reads; at most one. Both None: nothing.
    * `pty`: its output is a terminal of 80 columns, and so is its input unless one of these is given. TERM is
      xterm unless `env` has another.
    * `result`: give the process a file for its result, with the descriptor's number in BGD_RESULT_FD.
    * `usual_result`: the result that AttemptEnded reports if the process wrote none.
    * `log_cap`: bytes that are kept.
    * `warm`: how to start without a fresh interpreter. A launcher that cannot do this runs `argv` with
      `stdin`, to the same effect.
    * `keep_leftovers`: if the first process ends by itself, leave alone what it leaves running.
    * `own_group`: use a control group for this attempt where possible, even if no limit needs one.
    * `position`: as in Greeting.
    """

    key: AttemptKey
    argv: list[str]
    env: dict[str, str]
    cwd: str
    umask: int = 0o022
    stdin: bytes | None = None
    result: bool = False
    timeout: float | None = None
    grace: float = 10.0
    log_cap: int = 100_000_000
    log_kill: bool = False  # over the cap: kill the job instead of keeping head and tail
    stdin_path: str | None = None
    pty: bool = False
    usual_result: bytes = b""
    warm: Warm | None = None
    limits: Limits = NO_LIMITS
    keep_leftovers: bool = False
    own_group: bool = False
    position: int = 0


class StopProcesses(Struct, frozen=True, tag="stop"):
    """End an attempt: TERM to its whole process tree, after `grace` seconds KILL. May be said again."""

    key: AttemptKey
    grace: float


class SignalProcesses(Struct, frozen=True, tag="signal"):
    """Send a signal to an attempt's first process, or to its whole process tree; nothing if it has ended.

    One that is starting gets it as soon as it runs.
    """

    key: AttemptKey
    signum: int
    whole_tree: bool = False


class SuspendProcesses(Struct, frozen=True, tag="suspend"):
    """Stop (SIGSTOP) an attempt's whole process tree, and its time limit with it. May be said again."""

    key: AttemptKey


class ContinueProcesses(Struct, frozen=True, tag="continue"):
    """Let an attempt go on that SuspendProcesses stopped; nothing to any other."""

    key: AttemptKey


class Acknowledge(Struct, frozen=True, tag="acknowledge"):
    """The end of this attempt is on the supervisor's disk: forget it (R4). `position`: as in Greeting."""

    key: AttemptKey
    position: int = 0


class WatchLog(Struct, frozen=True, tag="watch"):
    """Say LogGrew as the attempt's log grows; `on` False: no longer."""

    key: AttemptKey
    on: bool = True


class Renew(Struct, frozen=True, tag="renew"):
    """Give the warm workers there are no further attempt: others take their place when they are needed."""


class Goodbye(Struct, frozen=True, tag="goodbye"):
    """The supervisor ends in good order: a launcher started by hand ends too, once nothing is left (R6)."""


ToLauncher = (
    Greeting
    | Launch
    | StopProcesses
    | SignalProcesses
    | SuspendProcesses
    | ContinueProcesses
    | Acknowledge
    | WatchLog
    | Renew
    | Goodbye
)


def protocol_of(message: ToLauncher) -> int:
    """Return the first launching protocol in which a launcher does as the message says.

    An earlier one closes the connection over a message it does not know, and ignores a field.
    """
    match message:
        case SignalProcesses() | SuspendProcesses() | ContinueProcesses():
            return 2
        case Renew():
            return 3
        case Launch() if message.usual_result or message.limits != NO_LIMITS or message.keep_leftovers:
            return 3
        case Launch():
            return 2 if message.pty or message.stdin_path is not None else 1
        case Greeting() | StopProcesses() | Acknowledge() | WatchLog() | Goodbye():
            return 1
        case _:
            assert_never(message)


# --- launcher -> supervisor ----------------------------------------------------------------------------


class Welcome(Struct, frozen=True, tag="welcome"):
    """`instance`: this launcher's id, BOOT_ID:RANDOM. `covers`: earlier instances whose journal it has read.

    An attempt sent to one of these and absent from the snapshot was never started (R3). `abilities`: what
    limits it can set, None: it is of an earlier protocol and can set none. `position`: the highest that a
    supervisor of this store named; 0 as well if the launcher is too old to remember it.
    """

    protocol: int
    instance: str
    pid: int
    covers: list[str] = []
    abilities: Abilities | None = None
    position: int = 0


class Abilities(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What limits a launcher can set.

    `controllers`: of cgroup v2; `problem`: why not all of them, and what to do. `least_nice`: the lowest
    niceness; `most_open_files`, `most_core`: the highest of those limits, None: there is no end.
    """

    controllers: list[str] = []
    problem: str = ""
    least_nice: int = -20
    most_open_files: int | None = None
    most_core: int | None = None


class AttemptStarted(Struct, frozen=True, tag="started"):
    """The attempt's process runs. pid None: it is about to. `suspended`: its processes stand still.

    `since`: when it started, on the elapsed clock; None: the launcher is too old to say.
    """

    key: AttemptKey
    pid: int | None
    started_at: float
    suspended: bool = False
    since: float | None = None


class AttemptEnded(Struct, frozen=True, tag="ended", kw_only=True):
    """How an attempt ended. Repeated at every connection until it is acknowledged.

    `exit_code` or `signal` is None where there is no such thing; `result`: what a class job wrote to its
    result file; `problem`: why it was not started, one line. `whole_tree`: processor times are those of all
    its processes. `memory_peak_bytes`: most that all of them had together, with the files they cached.
    `log_lost`: bytes that its log should hold and does not; `log_problem`: why, one line. `run_seconds`: from
    its start to the end of its first process, on the elapsed clock; None: it did not run, or it is not known.
    """

    key: AttemptKey
    outcome: Outcome
    exit_code: int | None = None
    signal: int | None = None
    started_at: float | None = None
    finished_at: float
    user_seconds: float | None = None
    system_seconds: float | None = None
    max_rss_bytes: int | None = None
    log_bytes: int = 0
    problem: str | None = None
    result: bytes | None = None
    whole_tree: bool = False
    memory_peak_bytes: int | None = None
    log_lost: int = 0
    log_problem: str | None = None
    run_seconds: float | None = None


class NotStarted(StrEnum):
    """How the `problem` of an attempt that was not started begins; a colon and the details follow."""

    NO_PROGRAM = "program not found"
    NO_INTERPRETER = "interpreter not found"  # the program is there, what its first line names is not
    NOT_EXECUTABLE = "not executable"
    NOT_PERMITTED = "not permitted"
    NO_DIRECTORY = "no such directory"
    NOT_A_DIRECTORY = "not a directory"
    TOO_LONG = "argument list too long"
    NO_INPUT = "no input"  # the file that was to be its standard input cannot be opened
    NO_LIMIT = "cannot be limited"  # as asked: this launcher has not what it takes
    OTHER = "cannot start"


class Ready(Struct, frozen=True, tag="ready"):
    """The snapshot is complete."""


class LogGrew(Struct, frozen=True, tag="grew"):
    """A watched log, or one that cannot be written any more, has got so many bytes by now.

    `log_problem`: why output is missing from it, one line; None: none is.
    """

    key: AttemptKey
    log_bytes: int
    log_problem: str | None = None


class Declined(Struct, frozen=True, tag="declined"):
    """The launcher will not work for this supervisor (older generation, unknown protocol), and closes.

    `generation`: the highest that it has obeyed, if that is why; 0 as well if the launcher is too old to say.
    `position`: as in Welcome.
    """

    problem: str
    generation: int = 0
    position: int = 0


FromLauncher = Welcome | AttemptStarted | AttemptEnded | Ready | LogGrew | Declined

T = TypeVar("T")

_encoder = msgspec.msgpack.Encoder()
_to_launcher_decoder: msgspec.msgpack.Decoder[ToLauncher] = msgspec.msgpack.Decoder(ToLauncher)
_from_launcher_decoder: msgspec.msgpack.Decoder[FromLauncher] = msgspec.msgpack.Decoder(FromLauncher)


def encode(message: ToLauncher | FromLauncher) -> bytes:
    """Return the bytes of a message.

    Raises:
        ProtocolError: a text holds what UTF-8 cannot, as an environment of other bytes.
    """
    try:
        return _encoder.encode(message)
    except UnicodeEncodeError as error:
        raise ProtocolError(f"not UTF-8 text: {error.object!r}") from error


def decode_to_launcher(payload: bytes) -> ToLauncher:
    return _decoded(_to_launcher_decoder, payload)


def decode_from_launcher(payload: bytes) -> FromLauncher:
    return _decoded(_from_launcher_decoder, payload)


def problem_with_limits(limits: Limits, abilities: Abilities) -> str | None:
    """Say in one line why a launcher of these abilities cannot set these limits, or None."""
    return next(_problems_with_limits(limits, abilities), None)


def _problems_with_limits(limits: Limits, able: Abilities) -> Iterator[str]:
    for field, name in CONTROLLERS.items():
        if getattr(limits, field) is not None and name not in able.controllers:
            yield f"{field} takes the {name} controller of cgroup v2: {able.problem}"
    if limits.nice is not None and limits.nice < able.least_nice:
        yield f"nice {limits.nice} is not permitted: bgd may go down to {able.least_nice}"
    for field, asked, most in (
        ("open_files", limits.open_files, able.most_open_files),
        ("core_max", limits.core_max, able.most_core),
    ):
        if asked is not None and most is not None and asked > most:
            yield f"{field} {asked} is not permitted: the launcher's own hard limit is {most}"


def ballast_on(size: int) -> int:
    """Return how many bytes the daemon keeps in reserve on a disk of `size` bytes.

    It frees them to go on writing when the disk is full. Logs leave as many bytes free.
    """
    return min(MAX_BALLAST, size // 16)


def log_name(job: int, attempt: int) -> str:
    """Return an attempt's log file relative to the log folder: a folder a thousand jobs, so none grows huge.

    Beside it stand NAME.times (see bgd.launcher.output) and, once the cap is passed, NAME.OFFSET: later
    pieces of the output, each named by the offset of its first byte.
    """
    return f"{job // JOBS_PER_FOLDER}/{job}.{attempt}.log"


def _decoded(decoder: msgspec.msgpack.Decoder[T], payload: bytes) -> T:
    try:
        return decoder.decode(payload)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise ProtocolError(f"not a message of launching protocol {LAUNCHING_PROTOCOL}: {error}") from error
