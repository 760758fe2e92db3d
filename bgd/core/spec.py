"""Job specs: the options of a job, with limits on what a client may send."""

import re
from collections.abc import Mapping
from enum import StrEnum
from functools import partial, reduce
from operator import or_
from typing import Annotated, Any, Literal, Self, get_args

from msgspec import Meta, Struct

from bgd.text.units import DURATION, INSTANT, SIZE, Notation, parse_duration

# --- limits on what a stranger may send ------------------------------------------------------------

MAX_WORD = 131_071  # bytes of one argument or NAME=VALUE: MAX_ARG_STRLEN of linux/binfmts.h, less its NUL
MAX_ARGV = 10_000
MAX_ENV = 4_096
MAX_PATH = 4_095  # PATH_MAX of linux/limits.h, less its NUL
MAX_FILTER = 1000  # characters of the words of a filter of jobs
MAX_WORK = 1_000_000  # bytes of a whole argv, or of a class job's arguments: a frame holds them and the rest
MAX_NAME = 200
MAX_TAGS = 20
MAX_RESULT = 1_000_000  # bytes of a class job's JSON result
MAX_PAUSES = 100  # between retries, one by one; each of a job's policy is in memory
MAX_FOLLOW_UP = 10_000  # bytes of the command that follows a job
MAX_PRIORITY = 1_000
MAX_RETRIES = 1_000
MAX_DURATION = 366 * 86_400.0  # seconds; a longer one is a typing error
MAX_INSTANT = 253_402_300_799.0  # epoch seconds: the end of the year 9999, the last that dates can show
MAX_ID = 2**63 - 1  # of a job: the largest integer of SQLite
PREVIOUS = 0  # in place of the id of the job before in a chain
MAX_WAITS = 1_000  # jobs that one job waits for
MAX_NESTING = 20  # lists and objects in the arguments of a job around the place of a result
MAX_ALL_WAITS = 1_000_000  # of all jobs together, some 100 bytes of memory each
MAX_INPUT = 500_000  # bytes of standard input that go with a job: more belongs in a file
MAX_SLOTS = 10_000
MAX_DEBOUNCES = 10  # times the debounce that a job is put off at most
MAX_RESOURCES = 8  # resources that one job asks for
MAX_TOKENS = 1_000  # of one resource
MIN_MEMORY = 1_000_000  # bytes; hardly any program starts with less
MIN_OPEN_FILES = 16  # likewise
MAX_BYTES = 2**62
MAX_PERCENT = 1_000_000  # of one processor: ten thousand of them
MAX_PROCESSES = 4_194_304  # PID_MAX_LIMIT of linux/threads.h
MAX_OPEN_FILES = 1 << 30
MAX_CPUS = 100_000  # of one job on a cluster
MAX_NODES = 10_000
MAX_GPUS = 1_000
MAX_SLURM_WORD = 500  # characters of an option of sbatch
MAX_SLURM_OPTIONS = 20

Word = Annotated[str, Meta(max_length=MAX_WORD)]
Name = Annotated[str, Meta(min_length=1, max_length=MAX_NAME)]
_NAME = "a name of at most 64 letters, digits, '.', '_' and '-', a letter or digit first"
QueueName = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z", description=_NAME)]
NotifyName = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*\Z", max_length=64, description=_NAME)]
_EXECUTOR_NAME = "a name of at most 32 small letters, digits, '_' and '-', a letter first"
ExecutorName = Annotated[str, Meta(pattern=r"^[a-z][a-z0-9_-]{0,31}\Z", description=_EXECUTOR_NAME)]
Priority = Annotated[int, Meta(ge=-MAX_PRIORITY, le=MAX_PRIORITY)]
Retries = Annotated[int, Meta(ge=0, le=MAX_RETRIES)]
Duration = Annotated[float, Meta(ge=0, le=MAX_DURATION), DURATION]
Timeout = Annotated[float, Meta(gt=0, le=MAX_DURATION), DURATION]


def _parse_pauses(text: str) -> float | list[float]:
    durations = [parse_duration(part.strip()) for part in text.split(",")]
    return durations if len(durations) > 1 else durations[0]


_PAUSES = Notation(
    f"a duration from 0s to {MAX_DURATION / 86_400:.0f}d, or a list of 1 to {MAX_PAUSES} of them",
    "5s or 10s,20s,40s",
    _parse_pauses,
    items=Duration,
)
RetryDelay = Annotated[
    Duration | Annotated[tuple[Duration, ...], Meta(min_length=1, max_length=MAX_PAUSES)], _PAUSES
]
"""The pause before each retry, or those before the first ones; the last one repeats."""
Backoff = Annotated[float, Meta(ge=1, le=100)]
Share = Annotated[float, Meta(ge=0, le=1)]
Umask = Annotated[int, Meta(ge=0, le=0o777)]
Instant = Annotated[float, Meta(ge=0, le=MAX_INSTANT), INSTANT]
JobNumber = Annotated[int, Meta(ge=1, le=MAX_ID)]
JobNumbers = Annotated[tuple[JobNumber, ...], Meta(max_length=MAX_WAITS)]
ExitCode = Annotated[int, Meta(ge=0, le=255)]  # wait(2) reports one byte


def _parse_codes(text: str) -> list[int]:
    """Return the codes in "1,2,70-79", sorted and without duplicates."""
    codes: set[int] = set()
    for word in text.split(","):
        match = re.fullmatch(r" *([0-9]{1,3})(?:-([0-9]{1,3}))? *", word)
        if match is None or not int(match[1]) <= int(match[2] or match[1]) <= 255:  # noqa: PLR2004 - likewise
            raise ValueError(f"{word!r} is not an exit code from 0 to 255: write for example 1,2,70-79")
        codes.update(range(int(match[1]), int(match[2] or match[1]) + 1))
    return sorted(codes)


_CODES = Notation("exit codes from 0 to 255", "1,2,70-79", _parse_codes, items=ExitCode)
ExitCodes = Annotated[tuple[ExitCode, ...], Meta(max_length=256), _CODES]
SlotCount = Annotated[int, Meta(ge=1, le=MAX_SLOTS)]
RESOURCE_NAME = "a name of at most 32 small letters, digits and '_', a letter first"
ResourceName = Annotated[str, Meta(pattern=r"^[a-z][a-z0-9_]{0,31}\Z", description=RESOURCE_NAME)]
TokenCount = Annotated[int, Meta(ge=1, le=MAX_TOKENS)]
_RESOURCES = f"at most {MAX_RESOURCES} resources, each with a number from 1 to {MAX_TOKENS}"
Resources = Annotated[dict[ResourceName, TokenCount], Meta(max_length=MAX_RESOURCES, description=_RESOURCES)]
_LIMIT = Notation(
    f"a key of 1 to {MAX_NAME} characters, or one and a number from 1 to {MAX_SLOTS}",
    '"customer:{0}" or ["{0}", 2]',
    lambda text: (text, 1),
)
Limit = Annotated[tuple[Name, SlotCount], _LIMIT]
"""A key, and how many jobs with it may run at once."""
Demand = tuple[tuple[str, int], ...]
"""The tokens that a job asks for, sorted by name."""
Nice = Annotated[int, Meta(ge=-20, le=19)]
MemoryBytes = Annotated[int, Meta(ge=MIN_MEMORY, le=MAX_BYTES), SIZE]
_PERCENT = Notation(
    "a percentage of one processor",
    "50 or 150%",
    lambda text: int(digits) if (digits := text.removesuffix("%")).isdecimal() else text,
    "{}%".format,
)
Percent = Annotated[int, Meta(ge=1, le=MAX_PERCENT), _PERCENT]
ProcessCount = Annotated[int, Meta(ge=1, le=MAX_PROCESSES)]
OpenFiles = Annotated[int, Meta(ge=MIN_OPEN_FILES, le=MAX_OPEN_FILES)]
CpuCount = Annotated[int, Meta(ge=1, le=MAX_CPUS)]
NodeCount = Annotated[int, Meta(ge=1, le=MAX_NODES)]
GpuCount = Annotated[int, Meta(ge=1, le=MAX_GPUS)]
SlurmWord = Annotated[str, Meta(min_length=1, max_length=MAX_SLURM_WORD)]
_SLURM_TIME = "a time as sbatch takes it: minutes, H:MM:SS or D-HH:MM:SS"
SlurmTime = Annotated[
    str, Meta(pattern=r"^([0-9]{1,4}-)?[0-9]{1,7}(:[0-9]{1,2}){0,2}\Z", description=_SLURM_TIME)
]
SlurmOptions = Annotated[tuple[SlurmWord, ...], Meta(max_length=MAX_SLURM_OPTIONS)]
FileBytes = Annotated[int, Meta(ge=0, le=MAX_BYTES), SIZE]
Folder = Annotated[str, Meta(min_length=1, max_length=MAX_PATH)]
Argv = Annotated[tuple[Word, ...], Meta(max_length=MAX_ARGV)]
FollowUp = Annotated[tuple[Word, ...], Meta(max_length=100)]
"""A command, or as its only word a target, that runs after a job has ended."""
Tags = Annotated[tuple[Name, ...], Meta(max_length=MAX_TAGS)]
# As in https://www.w3.org/TR/trace-context: version, trace, parent and flags; and a list of members
TraceParent = Annotated[
    str, Meta(pattern=r"^(?!ff|..-0{32}|.{36}0{16})[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}\Z")
]
TraceState = Annotated[str, Meta(pattern=r"^[ -~]{0,512}\Z")]
_VARIABLES = f"at most {MAX_ENV} names, each with a text"
Environment = Annotated[dict[str, str], Meta(max_length=MAX_ENV, description=_VARIABLES)]

DEFAULT_QUEUE = "default"
NOTIFICATION_QUEUE = "bgd-notifications"
"""The queue of the jobs that send notifications; only bgd itself puts jobs in it."""
LOCAL = "local"  # the executor that always exists


class ExecutorKind(StrEnum):
    """How an executor runs a job."""

    LOCAL = "local"  # on this machine, directly
    PREFIX = "prefix"  # with another program and its arguments in front
    SLURM = "slurm"  # on a node of a cluster

    @property
    def has_nodes(self) -> bool:
        """Whether it finds a node for each job, which may ask for processors and waits in the cluster."""
        return self is ExecutorKind.SLURM

    @property
    def is_seen_through(self) -> bool:
        """Whether bgd sees and ends all processes, wherever they run."""
        return self is not ExecutorKind.PREFIX


class Isolation(StrEnum):
    """Where the process of a class job comes from."""

    FORK = "fork"  # forked from an interpreter that has imported what it needs
    SPAWN = "spawn"  # a fresh interpreter
    REUSE = "reuse"  # no process of its own: an interpreter runs one job after another


class OnLimit(StrEnum):
    """What happens to a job if its limit is reached when its turn comes."""

    WAIT = "wait"
    SKIP = "skip"  # the job is cancelled


class KeyUntil(StrEnum):
    """When a job frees its key."""

    START = "start"  # when its first attempt starts
    END = "end"


class StopSignal(StrEnum):
    """The signal that stops the processes of a job. "SIGINT" and "int" are INT, too."""

    TERM = "TERM"
    INT = "INT"
    HUP = "HUP"
    QUIT = "QUIT"
    USR1 = "USR1"
    USR2 = "USR2"
    WINCH = "WINCH"
    KILL = "KILL"

    @classmethod
    def _missing_(cls, value: object) -> Self | None:
        return cls.__members__.get(str(value).upper().removeprefix("SIG"))


class Reference(Struct, frozen=True, array_like=True, forbid_unknown_fields=True, gc=False):
    """Where the result of another job goes in the arguments of a class job.

    `path`: the steps to it, for example ("args", 0) or ("kwargs", "totals", "eu"). Until an attempt starts,
    {"$result": JOB} stands there. By itself that is ordinary data: only a Reference makes it more.
    `job` PREVIOUS: the one before in a chain; such a Reference is not stored.
    """

    job: Annotated[int, Meta(ge=PREVIOUS, le=MAX_ID)]
    path: Annotated[
        tuple[Annotated[int, Meta(ge=0, le=MAX_WORK)] | str, ...], Meta(min_length=2, max_length=MAX_NESTING)
    ]


class Option(Struct, frozen=True):
    """The description of one field of a JobSpec for users.

    The options of `bgctl`, the keywords of the client, what an edit and a class policy may set, what
    `bgctl show` and the pages print, and the table in docs/jobs.md are derived from it.

    * `help`: what it does, in at most ten words.
    * `only`: the kind of job that takes it. None: commands and class jobs do.
    * `can_edit`: it may change while the job waits.
    * `can_unset`: an edit may remove it.
    * `in_schedule`: the job of a schedule may have it; options about the start may not.
    * `in_policy`: `[classes."PATTERN"]` of the configuration may set it.
    * `on_nodes`: only jobs on a cluster may have it.
    * `limit`, `label`: its name among the limits of a job, or on a line of its own. None: shown otherwise.
    """

    help: str
    only: Literal["command", "class"] | None = None
    can_edit: bool = True
    can_unset: bool = True
    in_schedule: bool = True
    in_policy: bool = False
    on_nodes: bool = False
    limit: str | None = None
    label: str | None = None


_at_start = partial(Option, in_schedule=False)
_in_policy = partial(Option, in_policy=True)
_on_nodes = partial(_in_policy, on_nodes=True)


class JobCause(Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """What a follow-up job follows: the end of a job or of a batch.

    `id`: of a job, or of a batch if `of_batch`. `event`: the option that names the follow-up, for example
    on_failure. `attempt`: the latest attempt of the job; 0: none.
    """

    id: int
    event: str
    outcome: str
    name: str | None = None
    error: str | None = None
    attempt: int = 0
    of_batch: bool = False

    def __str__(self) -> str:
        return f"{'batch' if self.of_batch else 'job'} {self.id} ({self.event})"


class JobSpec(Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True, gc=False):
    """The options of a job. Either `argv` or `target` is set; `problem_with` checks what types cannot.

    None means: as the daemon's configuration says (retries and their timing, `rerun`; `queue`, `priority`,
    `timeout`, limits), the daemon's own (`cwd`, `umask`, `env`). Durations are seconds.

    A field that users may set has an Option. docs/development.md says how to add one.

    Python's garbage collector does not follow it (gc=False): it cannot be part of a cycle, and with those of
    a large batch every full collection took 50 ms.
    """

    argv: Argv | None = None
    target: Annotated[str, Meta(max_length=500)] | None = None
    arguments: Annotated[str, Meta(max_length=MAX_WORK)] | None = None
    """JSON text {"args": [...], "kwargs": {...}} of a class job: text, so that no number loses a digit."""
    references: Annotated[tuple[Reference, ...], Meta(max_length=MAX_WAITS)] = ()
    """The results of other jobs, which `after` names too, that each attempt gets in its arguments."""
    queue: Annotated[QueueName | None, _in_policy("Queue to submit to", can_unset=False)] = None
    priority: Annotated[
        Priority | None,
        _in_policy(f"Higher starts first: -{MAX_PRIORITY} to {MAX_PRIORITY}, usually 0", can_unset=False),
    ] = None
    name: Annotated[Name | None, Option("Name of the job")] = None
    tags: Annotated[Tags, Option("Tag to filter by; may be repeated")] = ()
    retries: Annotated[Retries | None, _in_policy("Retry up to this many times after a failure")] = None
    retry_delay: Annotated[
        RetryDelay | None, _in_policy("Pause before a retry, for example 5s or 10s,20s,40s")
    ] = None
    retry_until: Annotated[Timeout | None, _in_policy("Retry until this long after the submit")] = None
    backoff: Annotated[Backoff | None, _in_policy("Multiply the pause by F after each retry")] = None
    max_delay: Annotated[Duration | None, _in_policy("Longest pause before a retry")] = None
    jitter: Annotated[Share | None, _in_policy("Vary pauses randomly by this fraction, for example 0.1")] = (
        None
    )
    retry_on: Annotated[ExitCodes | None, Option("Retry only after these codes; 124 is the time limit")] = (
        None
    )
    """Codes as `exit_code_of` counts them."""
    no_retry_on: Annotated[ExitCodes | None, Option("Retry after all exit codes except these")] = None
    rerun: Annotated[bool | None, Option("Rerun an attempt whose outcome was lost")] = None
    timeout: Annotated[Timeout | None, _in_policy("Time limit for each attempt")] = None
    stop_signal: Annotated[StopSignal | None, _in_policy("Stop signal (default TERM)", label="stop with")] = (
        None
    )
    """The first step of the stop sequence; KILL follows after the grace time. None: TERM."""
    delay: Annotated[Duration, _at_start("Wait at least this long before starting")] = 0.0
    at: Annotated[Instant | None, _at_start("Start at this time, for example 'tomorrow 9:00'")] = None
    expires: Annotated[Timeout | None, _at_start("Cancel the job unless it starts within this time")] = None
    """Seconds from now, within which the first attempt starts or none does."""
    after: Annotated[JobNumbers, _at_start("Start after these jobs have succeeded")] = ()
    after_any: Annotated[JobNumbers, _at_start("Start after these jobs finish, even if they fail")] = ()
    key: Annotated[Name | None, _at_start("Queue only one unfinished job with this key", can_edit=False)] = (
        None
    )
    key_until: Annotated[
        KeyUntil | None,
        _at_start(
            "Free the key at the job's start or end", can_edit=False, in_policy=True, label="key until"
        ),
    ] = None
    """None: end."""
    key_for: Annotated[
        Timeout | None,
        _at_start(
            "Keep the key for this long after the end", can_edit=False, in_policy=True, label="key for"
        ),
    ] = None
    """Seconds; a job that is cancelled or removed frees its key at once."""
    debounce: Annotated[
        Timeout | None,
        _at_start("Start this long after the latest submit with its key", can_edit=False, label="debounce"),
    ] = None
    """Seconds. A later submit with this key changes a job that waits and has never run: it takes the new
    options and waits this long again, at most MAX_DEBOUNCES times as long in all."""
    slots: Annotated[SlotCount, Option("Slots to occupy while running", can_unset=False)] = 1
    resources: Annotated[
        Resources | None, Option("Tokens of a resource to hold while running: gpu=1", label="resources")
    ] = None
    """The number of tokens of each resource, by its name in [resources]."""
    limit: Annotated[Limit | None, _in_policy("Run at most N jobs with this key at once", label="limit")] = (
        None
    )
    """In the key of a class job, {0} and {name} stand for its arguments."""
    on_limit: Annotated[
        OnLimit | None, _in_policy("Wait for the limit, or skip the job", label="on limit")
    ] = None
    """None: wait."""
    hold: Annotated[bool, _at_start("Wait until the job is released", can_edit=False)] = False
    cwd: Annotated[Folder | None, Option("Run in this folder", can_unset=False)] = None
    umask: Annotated[Umask | None, Option("File mode creation mask", can_edit=False)] = None
    env: Annotated[Environment | None, Option("Set an environment variable", can_unset=False)] = None
    stdin: Annotated[Folder | None, Option("Read this file as standard input", only="command")] = None
    """The file that a command reads; None and no `input`: nothing."""
    input: Annotated[
        Annotated[bytes, Meta(max_length=MAX_INPUT)] | None,
        Option("Bytes to read as standard input", only="command", can_edit=False),
    ] = None
    pty: Annotated[bool, Option("Run in a pseudo-terminal", only="command")] = False
    isolation: Annotated[
        Isolation | None, _in_policy("Fork, spawn or reuse an interpreter", only="class")
    ] = None
    executor: Annotated[ExecutorName | None, _in_policy("Executor to run the job on", label="executor")] = (
        None
    )
    """An entry of `[executors]`, or "local". None: as its queue says."""
    cpus: Annotated[CpuCount | None, _on_nodes("CPUs per node on a cluster", label="cpus")] = None
    """None: one."""
    memory: Annotated[
        MemoryBytes | None, _on_nodes("Memory per node on a cluster, for example 4GB", label="memory")
    ] = None
    """Bytes; None: as the executor says."""
    nodes: Annotated[NodeCount | None, _on_nodes("Number of nodes on a cluster", label="nodes")] = None
    """It gets `cpus` and `memory` on each, runs on the first, and may run srun. None: one, without srun."""
    gpus: Annotated[GpuCount | None, _on_nodes("Number of GPUs on a cluster", label="gpus")] = None
    gres: Annotated[
        SlurmWord | None, _on_nodes("Slurm resources per node, for example gpu:a100:2", label="gres")
    ] = None
    partition: Annotated[SlurmWord | None, _on_nodes("Partition of Slurm", label="partition")] = None
    """None: as the executor says, and so for the account."""
    account: Annotated[SlurmWord | None, _on_nodes("Account of Slurm to charge", label="account")] = None
    time: Annotated[
        SlurmTime | None, _on_nodes("Time to ask Slurm for: minutes or H:MM:SS", label="slurm time")
    ] = None
    """Slurm's limit on the allocation. None: as `timeout` says, or the partition if there is none."""
    slurm_options: Annotated[
        SlurmOptions | None,
        _on_nodes("Option of sbatch, such as --qos=high; may be repeated", label="sbatch"),
    ] = None
    keep_leftovers: Annotated[bool, Option("Do not kill leftover processes")] = False
    """Keep processes that are still running when the first process ends by itself."""
    nice: Annotated[Nice | None, _in_policy("Niceness, -20 to 19; higher yields to others", limit="nice")] = (
        None
    )
    memory_max: Annotated[
        MemoryBytes | None, _in_policy("Limit on memory, for example 2GB", limit="memory")
    ] = None
    """Limit in bytes on all its processes together, swap included."""
    cpu_max: Annotated[
        Percent | None, _in_policy("CPU limit in percent; 150 = 1.5 CPUs", limit="processor")
    ] = None
    """Limit in percent of one processor on all its processes together."""
    pids_max: Annotated[
        ProcessCount | None, _in_policy("Limit on processes and threads", limit="processes")
    ] = None
    open_files: Annotated[
        OpenFiles | None, _in_policy("Limit on open files of each process", limit="open files")
    ] = None
    core_max: Annotated[
        FileBytes | None, _in_policy("Limit on the size of core files; 0: none", limit="core file")
    ] = None
    notify: Annotated[
        NotifyName | None, _in_policy("Notify this target when the job ends", label="notifies")
    ] = None
    """None: the target of [daemon] notify, if there is one."""
    on_failure: Annotated[
        FollowUp | None, Option("Run this command or target if the job fails", label="on failure")
    ] = None
    on_success: Annotated[
        FollowUp | None, Option("Run this command or target if the job succeeds", label="on success")
    ] = None
    session: Annotated[
        Name | None, _at_start("Session whose inbox gets the job's end", can_edit=False, label="session")
    ] = None
    cause: JobCause | None = None
    """What the job follows; only bgd sets it."""
    batch: JobNumber | None = None
    """The id of the batch that the job belongs to."""
    trace: tuple[TraceParent, TraceState] | None = None
    """The values of TRACEPARENT and TRACESTATE for its processes, of the program that submits it."""
    explicit_env: Annotated[tuple[str, ...], Meta(max_length=MAX_ENV)] = ()
    """Names of the variables in `env` that were set explicitly, not captured with the environment."""


OPTIONS: dict[str, Option] = {
    name: each
    for name, kind in JobSpec.__annotations__.items()
    for each in getattr(kind, "__metadata__", ())
    if isinstance(each, Option)
}
"""The options by the names of their fields, in their order."""

ON_NODES = tuple(name for name, option in OPTIONS.items() if option.on_nodes)
"""Options that only jobs on a cluster may have."""

FOLLOW_UPS = ("on_failure", "on_success")
"""Options that name the follow-ups of a job."""

NOT_SCHEDULED = {"batch", *(name for name, option in OPTIONS.items() if not option.in_schedule)}
"""Options that the job of a schedule cannot have."""


def kind_of(name: str) -> Any:
    """Return the type of the values of an option, without None, limits included: for example `Nice`."""
    kind, *said = get_args(JobSpec.__annotations__[name])
    kinds = tuple(each for each in get_args(kind) if each is not type(None))
    if len(kinds) < len(get_args(kind)):
        return reduce(or_, kinds)
    bounds = [each for each in said if not isinstance(each, Option)]
    return Annotated[kind, *bounds] if bounds else kind


def is_target(words: tuple[str, ...]) -> bool:
    """Return whether a follow-up is a class job, not a command: one word such as `app.jobs:report`."""
    return len(words) == 1 and ":" in words[0] and not words[0].startswith(("/", "."))


def may_be_nil(name: str) -> bool:
    """Return whether None takes the option away from a job that waits."""
    return OPTIONS[name].can_unset and getattr(JobSpec(), name) is None


def problem_with(spec: JobSpec) -> str | None:
    r"""Return in one sentence what is wrong with a spec of the right types; None: nothing.

    NUL matters most. It ends a string for the kernel, so "safe\0; evil" would pass an allow-list as one
    program and run as another.
    """
    if (spec.argv is None) == (spec.target is None):
        return "a job needs either argv (a command) or target (a class job)"
    if spec.argv is not None:
        if spec.arguments is not None or spec.isolation is not None or spec.references:
            return "arguments and isolation belong to a class job: a command has its arguments in argv"
        return problem_with_argv(spec.argv) or _problem_with_choices(spec) or _problem_with_place(spec)
    if spec.stdin is not None or spec.input is not None or spec.pty:
        return "stdin, input and pty belong to a command: a class job gets its arguments"
    if spec.arguments is not None and _is_too_long(spec.arguments, MAX_WORK):
        return f"the arguments are longer than {MAX_WORK} bytes of JSON"
    return _problem_with_references(spec) or _problem_with_choices(spec) or _problem_with_place(spec)


def problem_with_queue(queue: str | None) -> str | None:
    """Return why nobody may use a queue, or change it; None: they may."""
    if queue != NOTIFICATION_QUEUE:
        return None
    return (
        f"queue {queue} is for bgd's own notifications: no other job waits in it, and it has one slot "
        "for each target, which cannot be changed or paused"
    )


def _problem_with_references(spec: JobSpec) -> str | None:
    if spec.references and (unawaited := {each.job for each in spec.references}.difference(spec.after)):
        if PREVIOUS in unawaited:
            return "an argument is the result of the job before: only later jobs of a chain have one"
        return f"the result of job {min(unawaited)} is an argument, so after has to name that job"
    return None


def _problem_with_choices(spec: JobSpec) -> str | None:  # noqa: PLR0911 - a line for each
    if spec.delay and spec.at is not None:
        return "delay and at cannot be combined: both say when the job may start"
    if spec.on_limit is not None and spec.limit is None and spec.target is None:  # a class may have a limit
        return "on_limit needs a limit: it says what happens if the limit is reached"
    of_key = spec.debounce is not None or spec.key_until is not None or spec.key_for is not None
    if of_key and spec.key is None:
        return "debounce, key_until and key_for need a key: they are about later jobs with the same key"
    if spec.key_for is not None and spec.key_until is KeyUntil.START:
        return "key_until=start and key_for cannot be combined: key_for counts from the end of the job"
    if spec.debounce is not None and (spec.delay or spec.at is not None or spec.after or spec.after_any):
        return "debounce cannot be combined with delay, at, after and after_any: it says when the job starts"
    if spec.retry_on is not None and spec.no_retry_on is not None:
        return "retry_on and no_retry_on cannot be combined"
    if spec.stdin is not None and spec.input is not None:
        return "stdin and input cannot be combined: a command reads one of them"
    follows = spec.on_failure is not None or spec.on_success is not None
    return _problem_with_follow_ups(spec) if follows else None


def _problem_with_follow_ups(spec: JobSpec) -> str | None:
    for name in FOLLOW_UPS:
        if (words := getattr(spec, name)) is None:
            continue
        if spec.cause is not None:
            return f"{name} is not for a job that itself follows {spec.cause}"
        if not words or not words[0] or any("\0" in word for word in words):
            return f"{name} is a command or a target, without NUL"
        if _is_too_long("".join(words), MAX_FOLLOW_UP):
            return f"{name} is longer than {MAX_FOLLOW_UP} bytes in all"
    return None


def problem_with_argv(argv: tuple[str, ...]) -> str | None:
    """Return in one sentence what is wrong with the words of a command; None: nothing."""
    if not argv or not argv[0]:
        return "argv is empty: name a program"
    together = "".join(argv)
    if "\0" not in together and len(together) * 4 <= MAX_WORD:  # so each word is right as well
        return None
    for index, word in enumerate(argv):
        if "\0" in word:
            return f"argv[{index}] contains a NUL character"
        if _is_too_long(word):
            return f"argv[{index}] is longer than {MAX_WORD} bytes, the kernel's limit"
    if _is_too_long(together, MAX_WORK):
        return f"argv is longer than {MAX_WORK} bytes in all"
    return None


def _problem_with_place(spec: JobSpec) -> str | None:
    if spec.cwd is not None and _is_not_a_path(spec.cwd):
        return f"cwd {_NO_PATH}"
    if spec.stdin is not None and _is_not_a_path(spec.stdin):
        return f"stdin {_NO_PATH}"
    texts: tuple[str | None, ...] = spec.name, spec.key, spec.session, spec.gres, spec.partition, spec.account
    if spec.tags or spec.limit or spec.slurm_options:
        texts += (*spec.tags, *(spec.limit or ())[:1], *(spec.slurm_options or ()))
    for text in texts:
        if text is not None and not text.isprintable():
            return f"names, keys, tags and words for Slurm must be printable text on one line, not {text!r}"
    for text in spec.slurm_options or ():
        if problem := problem_with_slurm_option(text):
            return f"slurm_options: {problem}"
    return problem_with_environment(spec.env) if spec.env else None


_NO_PATH = f"must be an absolute path without NUL, of at most {MAX_PATH} bytes"


def problem_with_environment(env: Mapping[str, str]) -> str | None:
    """Return in one sentence what is wrong with environment variables for a job; None: nothing."""
    if _is_obviously_right(env):
        return None
    for key, value in env.items():
        if not key or "=" in key or "\0" in key:
            return f"env has a variable named {key!r}: a name is not empty and holds no '=' or NUL"
        if "\0" in value:
            return f"env {_word(key)} contains a NUL character"
        if _is_too_long(f"{key}={value}"):
            return f"env {_word(key)} is longer than {MAX_WORD} bytes, the kernel's limit"
    return None


def problem_with_slurm_option(text: str) -> str | None:
    """Return what is wrong with a job's option of sbatch; None: nothing."""
    name = re.fullmatch(r"--([a-z][a-z0-9-]*)(=.*)?", text)
    if name is None:
        return f"{text!r} is not --NAME or --NAME=VALUE, in one word"
    # sbatch also takes the beginning of a name for the whole
    if any(each.startswith(name[1]) for each in _BGDS_OWN):
        return f"a job cannot have --{name[1]}, which bgd sets itself"
    if instead := next((use for each, use in _SET_BY_OPTIONS.items() if each.startswith(name[1])), None):
        return f"in place of --{name[1]} use option {instead} of the job"
    if name[2] is None and name[1] not in _FLAGS_OF_SBATCH:  # it would take bgd's next option for its value
        return f"--{name[1]} needs a value: --{name[1]}=VALUE"
    return None


# Long options of sbatch that bgd sets from options of the job, and those that it sets itself
_SET_BY_OPTIONS = {name: name for name in ("account", "gpus", "gres", "nodes", "partition", "time")} | {
    "cpus-per-task": "cpus",
    "ntasks": "nodes",
    **dict.fromkeys(("mem", "mem-per-cpu", "mem-per-gpu"), "memory"),
}
_FLAGS_OF_SBATCH = {
    *("contiguous", "exclusive", "ignore-pbs", "nice", "no-kill", "overcommit", "oversubscribe", "propagate"),
    *("reboot", "spread-job", "use-min-nodes", "x11"),
}
_BGDS_OWN = (
    *("array", "chdir", "clusters", "comment", "dependency", "error", "export", "export-file"),
    *("get-user-env", "gid", "help", "hold", "input", "job-name", "no-requeue", "open-mode", "output"),
    *("parsable", "quiet", "requeue", "signal", "test-only", "uid", "usage", "verbose", "version", "wait"),
    "wrap",
)


def _word(name: str) -> str:
    return name if name.isprintable() else repr(name)


def _is_obviously_right(env: Mapping[str, str]) -> bool:
    """Check all variables at once, because every submit does so and it takes a quarter of the time."""
    names, values = "".join(env), "".join(env.values())
    if "" in env or "=" in names or "\0" in names or "\0" in values:
        return False
    return 4 * (len(names) + len(values)) < MAX_WORD  # all of them together are shorter than the limit of one


def _is_not_a_path(text: str) -> bool:
    return not text.startswith("/") or "\0" in text or _is_too_long(text, MAX_PATH)


def _is_too_long(text: str, most: int = MAX_WORD) -> bool:
    # A character has at most four bytes, so most texts are short without need to encode them. Surrogates
    # stand for bytes that are not UTF-8: whoever encodes the text refuses them, here they are only counted.
    return len(text) * 4 > most and len(text.encode(errors="surrogatepass")) > most
