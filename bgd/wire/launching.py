"""Launching: the messages between supervisor and launcher, as MessagePack frames.

The supervisor begins with Greeting. The launcher drops any older supervisor and answers with Welcome, one
AttemptStarted or AttemptEnded for every attempt it knows (the snapshot), and Ready. After that each side
reports what happens. Messages and fields are only ever added, fields with a default. R1 to R8 are the rules
in docs/reliability.md.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TypeVar

import msgspec
from msgspec import Struct

from bgd.core.explain import Reason
from bgd.core.job import Outcome
from bgd.core.spec import ExecutorKind, Isolation, StopSignal
from bgd.errors import ProtocolError
from bgd.wire.limits import NO_LIMITS, Abilities, Limits

LAUNCHING_PROTOCOL = 9  # the newest; it grows when a message is added
OLDEST_LAUNCHING_PROTOCOL = 9  # of a launcher whose jobs run on: that of bgd 1.0
MAX_GENERATION = 2**62  # SQLite takes twice that, so the supervisor always has a next one
MAX_LAUNCHING_FRAME = 16 << 20  # both ends are ours, and any spec fits with its arguments and environment
JOBS_PER_FOLDER = 1000
MAX_BALLAST = 8 << 20  # bytes
MAX_SOCKETS_PACKET = 1024  # bytes; see TradeSockets
MAX_HELD_SOCKETS = 8
MAX_KEYBOARD_ANSWER = 1024  # bytes; see OpenKeyboard
NO_SOCKETS = b"-"


class AttemptKey(Struct, frozen=True, array_like=True):
    """The permanent name of one attempt on this machine. `store` is the id of the database."""

    store: str
    job: int
    attempt: int


# --- supervisor -> launcher ----------------------------------------------------------------------------


class Greeting(Struct, frozen=True, tag="greeting"):
    """Introduce the supervisor.

    * `protocol`: the oldest that the supervisor speaks. Any launcher of this or a later protocol works (R7);
      it names its own in Welcome.
    * `generation`: grows with every start of a supervisor. The launcher obeys the highest only (R1).
    * `position`: the id of the newest event in the database. The launcher remembers the highest one, so it
      recognizes a database that is older than its requests.
    * `newest`: the newest protocol that the supervisor speaks. The launcher sends it nothing later.
    """

    protocol: int
    store: str
    generation: int
    position: int = 0
    newest: int = 0


class WarmStart(Struct, frozen=True, kw_only=True):
    """How to start an attempt in a warm worker: a process that runs `argv` of the Launch with more arguments.

    * `path`, `preload`: the worker puts `path` in front of sys.path and imports `preload` beforehand.
    * `base`: how the worker's environment differs from that of the attempt; None: it lacks the variable.
    * `isolation`: FORK forks a process for the attempt; REUSE runs the attempt in the worker itself.
    * `recycle_jobs`, `recycle_memory`: a reused worker takes no further job after this many, or once it uses
      more than this many bytes; None: no limit.
    """

    path: list[str] = []
    preload: list[str] = []
    base: dict[str, str | None] = {}
    isolation: Isolation = Isolation.FORK
    recycle_jobs: int | None = None
    recycle_memory: int | None = None


class Place(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The executor of an attempt: its name in the configuration, its kind, and the node that it uses."""

    executor: str
    kind: ExecutorKind
    node: str | None = None


class PilotStart(Struct, frozen=True, kw_only=True):
    """How to run an attempt by a pilot: a launcher on a node, in an allocation kept for many attempts.

    * `executor`: the pilots of an executor run no attempts of another.
    * `name`: attempts of one name take about as long.
    * `nodes`: the most pilots at once, each on a node of its own.
    * `options`: arguments of sbatch.
    * `keep_idle`: seconds without an attempt until a pilot is given back.
    * `cpus`, `memory`: what the attempt occupies there; bytes.
    * `own`: arguments of sbatch for a pilot of its own, if it is too large for the others.
    * `alone`: it always gets a pilot of its own, which ends with it.
    """

    executor: str
    nodes: int
    options: list[str]
    keep_idle: float
    cpus: int
    memory: int
    own: list[str] = []
    alone: bool = False
    name: str = ""


class SlurmStart(Struct, frozen=True, kw_only=True):
    """How to run an attempt on a Slurm cluster.

    * `folder`: the nodes share it.
    * `python`: what runs bgd there.
    * `conf`: the configuration of Slurm for its programs; empty: they find it.
    * `variables`: all that Slurm's programs get: others of Slurm would change what their arguments mean.
    * `requests_per_second`: limit on requests of all attempts with this `conf` to Slurm's controller.
    * `nodes`: how many it gets; it runs on the first, and may run srun inside. None: one, which it may share.
    * `pilot`: how a pilot runs it.
    * `options`: not used.
    """

    folder: str
    python: str
    conf: str = ""
    variables: dict[str, str] = {}
    requests_per_second: float = 4.0
    nodes: int | None = None
    pilot: PilotStart
    options: list[str] = []


class Launch(Struct, frozen=True, tag="launch", kw_only=True):
    """Start an attempt. If the launcher knows its key, it only repeats the state of that attempt (R2).

    * Durations are seconds; None: no limit.
    * `stdin`, `stdin_path`: what the process reads, or a file that it reads; at most one. Both None: nothing.
    * `pty`: its output is a terminal of 80 columns, and so is its input unless one of these is given. TERM is
      xterm unless `env` has another.
    * `result`: give the process a file for its result, with the descriptor's number in BGD_RESULT_FD.
    * `usual_result`: the result that AttemptEnded reports if the process wrote none.
    * `log_cap`: bytes that are kept.
    * `warm`: how to start without a fresh interpreter. A launcher without warm workers runs `argv` with
      `stdin`, to the same effect.
    * `keep_leftovers`: if the first process ends by itself, leave alone what it leaves running.
    * `own_group`: use a control group for this attempt where possible, even if no limit needs one.
    * `position`: as in Greeting.
    * `stop_signal`: sent first to end the attempt. None: TERM.
    * `place`: its executor, repeated in AttemptStarted; None: this machine, directly.
    * `start_by`: on a cluster, end it if no pilot has it by then, on the elapsed clock.
    * `slurm`: run it on a cluster; None: on this machine.
    * `slot`: the number of its slot, repeated in AttemptStarted and AttemptEnded; 0: none.
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
    warm: WarmStart | None = None
    limits: Limits = NO_LIMITS
    keep_leftovers: bool = False
    own_group: bool = False
    position: int = 0
    stop_signal: StopSignal | None = None
    place: Place | None = None
    slurm: SlurmStart | None = None
    start_by: float | None = None
    slot: int = 0


class StopProcesses(Struct, frozen=True, tag="stop"):
    """End an attempt: send its stop signal to the whole process tree, and KILL after `grace` seconds.

    May be repeated. `is_cancel`: its job is cancelled and will not run again; a class job can read that.
    """

    key: AttemptKey
    grace: float
    is_cancel: bool = False


class SignalProcesses(Struct, frozen=True, tag="signal"):
    """Send a signal to the first process of an attempt, or to its whole process tree.

    An attempt that is starting gets it as soon as it runs; one that has ended gets none.
    """

    key: AttemptKey
    signum: int
    whole_tree: bool = False


class SuspendProcesses(Struct, frozen=True, tag="suspend"):
    """Stop (SIGSTOP) the whole process tree of an attempt, and its time limit. May be repeated."""

    key: AttemptKey


class ContinueProcesses(Struct, frozen=True, tag="continue"):
    """Continue an attempt that SuspendProcesses stopped; ignore others."""

    key: AttemptKey


class Acknowledge(Struct, frozen=True, tag="acknowledge"):
    """Forget an attempt, because its end is on the supervisor's disk (R4). `position`: as in Greeting."""

    key: AttemptKey
    position: int = 0


class WatchLog(Struct, frozen=True, tag="watch"):
    """Report with LogGrew when the log of an attempt grows; `on` False: stop doing so."""

    key: AttemptKey
    on: bool = True


class CheckAttempt(Struct, frozen=True, tag="check"):
    """Ask whether an attempt has not ended yet; the launcher answers with Checked and this number.

    `settled`: if it is suspended, answer once all its processes are stopped, or its end is reported.
    """

    key: AttemptKey
    number: int
    settled: bool = False


class MeasureUsage(Struct, frozen=True, tag="measure"):
    """Ask what running attempts use now; the launcher answers with Measured."""


class RenewWorkers(Struct, frozen=True, tag="renew"):
    """Give the present warm workers no more attempts; new ones replace them when needed."""


class OutputStored(Struct, frozen=True, tag="stored"):
    """Forget the output of an attempt before this offset. Only pilots get this: they keep no logs."""

    key: AttemptKey
    offset: int


class KeepAlive(Struct, frozen=True, tag="keep_alive"):
    """Tell a pilot that its launcher still needs it; after a minute without a message it ends with its jobs.

    It repeats its Welcome, which shows that the connection works.
    """


class TradeSockets(Struct, frozen=True, tag="sockets"):
    """Ask for the listening sockets that the launcher holds; sent alone, on a connection without a greeting.

    The launcher answers with one packet without a frame: bytes that it does not interpret and, as SCM_RIGHTS,
    the sockets; NO_SOCKETS if it keeps none. It keeps them until the supervisor sends such a packet in turn,
    or disconnects.
    """


class OpenKeyboard(Struct, frozen=True, tag="keyboard"):
    """Ask for a keyboard of the terminal of an attempt; sent alone, on a connection without a greeting.

    The launcher answers without a frame: the size of the attempt's log in decimal digits and, as SCM_RIGHTS,
    one end of a socket pair, whose packets `bgd.wire.keyboard` has; or a text that says why not. It only
    closes the connection if the attempt has no terminal at present.
    """

    key: AttemptKey


class Goodbye(Struct, frozen=True, tag="goodbye"):
    """Announce an orderly end of the supervisor. A launcher started by hand then ends too, when idle (R6).

    `store`, `position`: as in Greeting.
    """

    store: str = ""
    position: int = 0


ToLauncher = (
    Greeting
    | Launch
    | StopProcesses
    | SignalProcesses
    | SuspendProcesses
    | ContinueProcesses
    | Acknowledge
    | WatchLog
    | CheckAttempt
    | MeasureUsage
    | RenewWorkers
    | OutputStored
    | KeepAlive
    | TradeSockets
    | OpenKeyboard
    | Goodbye
)


# --- launcher -> supervisor ----------------------------------------------------------------------------


class Welcome(Struct, frozen=True, tag="welcome"):
    """Introduce the launcher.

    * `instance`: the id of this launcher, BOOT_ID:RANDOM.
    * `covers`: earlier instances whose journal it has read. An attempt that was sent to one of them and is
      not in the snapshot was never started (R3).
    * `abilities`: what limits it can set.
    * `position`: the highest that a supervisor of this store named; 0: none.
    * `node`: of a pilot; None: it is no pilot.
    """

    protocol: int
    instance: str
    pid: int
    covers: list[str] = []
    abilities: Abilities | None = None
    position: int = 0
    node: PilotNode | None = None


class PilotNode(Struct, frozen=True, kw_only=True):
    """The resources of a pilot: its nodes in Slurm, its processors, and its memory in bytes; None: unknown.

    `variables`: Slurm's variables of the allocation, for an attempt that has it alone.
    """

    name: str
    cpus: int | None = None
    memory: int | None = None
    variables: dict[str, str] = {}


class AttemptStarted(Struct, frozen=True, tag="started"):
    """The process of the attempt runs; `pid` None: it is starting. `suspended`: its processes are stopped.

    `since`: when it started, on the elapsed clock. `place`: that of its Launch, with the node if it has one.
    `waits`: why it has no node or no process yet; None: it has. An AttemptStarted is sent again when this
    changes. `slot`: of its Launch; 0: none.
    """

    key: AttemptKey
    pid: int | None
    started_at: float
    suspended: bool = False
    since: float | None = None
    place: Place | None = None
    waits: Reason | None = None
    slot: int = 0


class AttemptEnded(Struct, frozen=True, tag="ended", kw_only=True):
    """How an attempt ended. Repeated on every connection until it is acknowledged.

    * `exit_code`, `signal`: None where there is none.
    * `result`: what a class job wrote to its result file.
    * `problem`: why it did not start, in one line.
    * `whole_tree`: processor times are those of all its processes.
    * `memory_peak_bytes`: peak of all its processes together, including cached files.
    * `log_lost`: bytes that are missing from its log; `log_problem`: why, in one line.
    * `run_seconds`: from its start to the end of its first process, on the elapsed clock; None: it did not
      run, or the time is not known.
    * `leftovers`: leftover processes that were killed, in words; None: none.
    * `slot`: as in AttemptStarted.
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
    leftovers: str | None = None
    slot: int = 0


class NotStarted(StrEnum):
    """The beginning of the `problem` of an attempt that did not start; a colon and details follow."""

    NO_PROGRAM = "program not found"
    NO_INTERPRETER = "interpreter not found"  # the program exists, but not the interpreter in its first line
    NOT_EXECUTABLE = "not executable"
    NOT_PERMITTED = "not permitted"
    NO_DIRECTORY = "no such directory"
    NOT_A_DIRECTORY = "not a directory"
    TOO_LONG = "argument list too long"
    NO_INPUT = "no input"  # the file for its standard input cannot be opened
    NO_LIMIT = "cannot be limited"  # this launcher cannot set the limits
    NO_PRELOAD = "preload failed"  # for a reason that another attempt would meet too
    OTHER = "cannot start"


class Ready(Struct, frozen=True, tag="ready"):
    """The snapshot and everything since then are complete."""


class LogGrew(Struct, frozen=True, tag="grew"):
    """The present size of a watched log, or of a log that can no longer be written.

    `log_problem`: why output is missing from it, in one line; None: none is missing.
    """

    key: AttemptKey
    log_bytes: int
    log_problem: str | None = None


class Checked(Struct, frozen=True, tag="checked"):
    """Answer a CheckAttempt. `is_alive`: its first process runs or will run; None: its pilot does not say."""

    number: int
    is_alive: bool | None


class AttemptUsage(Struct, frozen=True):
    """What all processes of an attempt use now.

    `cpu_percent`: since the reading before; 100 is one processor; None: there was none. `memory_bytes`: of
    its control group, or the resident memory of all, in which shared pages count more than once.
    """

    key: AttemptKey
    cpu_percent: float | None
    memory_bytes: int
    processes: int


class Measured(Struct, frozen=True, tag="measured"):
    """Answer a MeasureUsage. An attempt that is not here has no process, or none that this launcher sees."""

    attempts: list[AttemptUsage]


class OutputPart(Struct, frozen=True, tag="output"):
    """Output of an attempt of a pilot, from this offset on. Repeated on each connection."""

    key: AttemptKey
    offset: int
    data: bytes


class Declined(Struct, frozen=True, tag="declined"):
    """The launcher does not work for this supervisor (older generation, unknown protocol), and disconnects.

    `generation`: the highest that it has obeyed, if that is why.
    `position`: as in Welcome.
    """

    problem: str
    generation: int = 0
    position: int = 0


FromLauncher = (
    Welcome | AttemptStarted | AttemptEnded | Ready | LogGrew | Checked | Measured | OutputPart | Declined
)


T = TypeVar("T")

_encoder = msgspec.msgpack.Encoder()
_to_launcher_decoder: msgspec.msgpack.Decoder[ToLauncher] = msgspec.msgpack.Decoder(ToLauncher)
_from_launcher_decoder: msgspec.msgpack.Decoder[FromLauncher] = msgspec.msgpack.Decoder(FromLauncher)


def encode(message: ToLauncher | FromLauncher) -> bytes:
    """Return the bytes of a message.

    Raises:
        ProtocolError: a text is not UTF-8, for example in an environment of other bytes.
    """
    try:
        return _encoder.encode(message)
    except UnicodeEncodeError as error:
        raise ProtocolError(f"not UTF-8 text: {error.object!r}") from error


def decode_to_launcher(payload: bytes) -> ToLauncher:
    """Return the message of a supervisor; raise ProtocolError if it is none."""
    return _decoded(_to_launcher_decoder, payload)


def decode_from_launcher(payload: bytes) -> FromLauncher:
    """Return the message of a launcher; raise ProtocolError if it is none."""
    return _decoded(_from_launcher_decoder, payload)


def ballast_on(size: int) -> int:
    """Return how many bytes the daemon keeps in reserve on a disk of `size` bytes.

    It frees them to go on writing when the disk is full. Logs leave as many bytes free.
    """
    return min(MAX_BALLAST, size // 16)


def log_name(job: int, attempt: int) -> str:
    """Return the log file of an attempt, relative to the log folder. Each subfolder has at most 1000 jobs.

    Beside it are NAME.times (see bgd.launcher.log_file) and, once the log is over its limit, NAME.OFFSET:
    later pieces of the output, each named by the offset of its first byte.
    """
    return f"{job // JOBS_PER_FOLDER}/{job}.{attempt}.log"


def _decoded(decoder: msgspec.msgpack.Decoder[T], payload: bytes) -> T:
    try:
        return decoder.decode(payload)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise ProtocolError(f"not a message of launching protocol {LAUNCHING_PROTOCOL}: {error}") from error
