"""A spec: what is asked of a job, within limits on what a stranger may send."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated

from msgspec import Meta, Struct

# --- limits on what a stranger may send ------------------------------------------------------------

MAX_WORD = 131_071  # bytes of one argument or NAME=VALUE: MAX_ARG_STRLEN of linux/binfmts.h, less its NUL
MAX_ARGV = 10_000
MAX_ENV = 4_096
MAX_PATH = 4_095  # PATH_MAX of linux/limits.h, less its NUL
MAX_WORK = 1_000_000  # bytes of argv together, or of a class job's arguments: a frame holds them and the rest
MAX_NAME = 200
MAX_TAGS = 20
MAX_RESULT = 1_000_000  # bytes of a class job's JSON result
MAX_PRIORITY = 1_000
MAX_RETRIES = 1_000
MAX_DURATION = 366 * 86_400.0  # seconds; a longer timer is a slip of the pen
MAX_INSTANT = 253_402_300_799.0  # epoch seconds: the end of the year 9999, beyond which no date can be shown
MAX_WAITS = 1_000  # other jobs that one job waits for
MAX_ALL_WAITS = 1_000_000  # of all jobs together, some 100 bytes of memory each
MAX_INPUT = 500_000  # bytes of standard input that go with a job: more belongs into a file
MAX_SLOTS = 10_000
MIN_MEMORY = 1_000_000  # bytes; with less hardly a program begins
MIN_OPEN_FILES = 16  # likewise
MAX_BYTES = 2**62
MAX_PERCENT = 1_000_000  # of one processor: ten thousand of them
MAX_PROCESSES = 4_194_304  # PID_MAX_LIMIT of linux/threads.h
MAX_OPEN_FILES = 1 << 30

Word = Annotated[str, Meta(max_length=MAX_WORD)]
Name = Annotated[str, Meta(min_length=1, max_length=MAX_NAME)]
QueueName = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")]
QUEUE_NAME = "a name of at most 64 letters, digits, '.', '_' and '-', a letter or digit first"
Priority = Annotated[int, Meta(ge=-MAX_PRIORITY, le=MAX_PRIORITY)]
Retries = Annotated[int, Meta(ge=0, le=MAX_RETRIES)]
Duration = Annotated[float, Meta(ge=0, le=MAX_DURATION)]
Timeout = Annotated[float, Meta(gt=0, le=MAX_DURATION)]
Backoff = Annotated[float, Meta(ge=1, le=100)]
Share = Annotated[float, Meta(ge=0, le=1)]
Umask = Annotated[int, Meta(ge=0, le=0o777)]
Instant = Annotated[float, Meta(ge=0, le=MAX_INSTANT)]
JobNumber = Annotated[int, Meta(ge=1, le=2**63 - 1)]
JobNumbers = Annotated[tuple[JobNumber, ...], Meta(max_length=MAX_WAITS)]
ExitCodes = Annotated[tuple[Annotated[int, Meta(ge=0, le=255)], ...], Meta(max_length=256)]
SlotCount = Annotated[int, Meta(ge=1, le=MAX_SLOTS)]
Nice = Annotated[int, Meta(ge=-20, le=19)]
MemoryBytes = Annotated[int, Meta(ge=MIN_MEMORY, le=MAX_BYTES)]
Percent = Annotated[int, Meta(ge=1, le=MAX_PERCENT)]
ProcessCount = Annotated[int, Meta(ge=1, le=MAX_PROCESSES)]
OpenFiles = Annotated[int, Meta(ge=MIN_OPEN_FILES, le=MAX_OPEN_FILES)]
FileBytes = Annotated[int, Meta(ge=0, le=MAX_BYTES)]
Folder = Annotated[str, Meta(min_length=1, max_length=MAX_PATH)]
Argv = Annotated[tuple[Word, ...], Meta(max_length=MAX_ARGV)]
Tags = Annotated[tuple[Name, ...], Meta(max_length=MAX_TAGS)]
Environment = Annotated[dict[str, str], Meta(max_length=MAX_ENV)]

DEFAULT_QUEUE = "default"


class Isolation(StrEnum):
    """Where a class job gets its process from."""

    FORK = "fork"  # from an interpreter that has imported what it needs
    SPAWN = "spawn"  # a fresh interpreter
    REUSE = "reuse"  # none of its own: it runs in one that runs one job after the other


class JobSpec(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What was asked for. Either `argv` or `target` is given; `problem_with` checks what types cannot.

    None means: as the daemon's configuration says (retries and their timing, `rerun`; `queue`, `priority`,
    `timeout`, limits), the daemon's own (`cwd`, `umask`, `env`). Durations are seconds.
    """

    argv: Argv | None = None
    target: Annotated[str, Meta(max_length=500)] | None = None
    arguments: Annotated[str, Meta(max_length=MAX_WORK)] | None = None
    """JSON text {"args": [...], "kwargs": {...}} of a class job: text, so that no number loses a digit."""
    queue: QueueName | None = None
    priority: Priority | None = None
    name: Name | None = None
    tags: Tags = ()
    retries: Retries | None = None
    retry_delay: Duration | None = None
    backoff: Backoff | None = None
    max_delay: Duration | None = None
    jitter: Share | None = None
    retry_on: ExitCodes | None = None
    """Codes, as `exit_code_of` counts them, after which alone it is tried again."""
    no_retry_on: ExitCodes | None = None
    rerun: bool | None = None
    timeout: Timeout | None = None
    delay: Duration = 0.0
    at: Instant | None = None
    expires: Timeout | None = None
    """Seconds from now, within which its first attempt starts or never."""
    after: JobNumbers = ()
    """Jobs that have to succeed before."""
    after_any: JobNumbers = ()
    """Jobs that have to finish before, however."""
    key: Name | None = None
    """While an unfinished job has this key, no other one is taken with it."""
    slots: SlotCount = 1
    hold: bool = False
    cwd: Folder | None = None
    umask: Umask | None = None
    env: Environment | None = None
    stdin: Folder | None = None
    """The file that a command reads; None and no `input`: nothing."""
    input: Annotated[bytes, Meta(max_length=MAX_INPUT)] | None = None
    """What a command reads."""
    pty: bool = False
    isolation: Isolation | None = None
    """Of a class job."""
    keep_leftovers: bool = False
    """What its first process leaves running when it ends by itself is left alone."""
    nice: Nice | None = None
    memory_max: MemoryBytes | None = None
    """Bytes that all its processes may use together, swap included."""
    cpu_max: Percent | None = None
    """Percent of one processor that all its processes may use together."""
    pids_max: ProcessCount | None = None
    """Processes and threads that it may have at a time."""
    open_files: OpenFiles | None = None
    """Descriptors that each of its processes may have."""
    core_max: FileBytes | None = None
    """Bytes of a core file of each of its processes; 0: none is written."""
    explicit_env: Annotated[tuple[str, ...], Meta(max_length=MAX_ENV)] = ()
    """Names of the variables in `env` that a person or program chose, not those of a captured environment."""


def problem_with(spec: JobSpec) -> str | None:
    r"""Say in one sentence what is wrong with a spec whose types are right, or None.

    NUL matters most: at the kernel's border it ends a string, so "safe\0; evil" would pass an
    allow-list as one thing and run as another.
    """
    if (spec.argv is None) == (spec.target is None):
        return "a job needs either argv (a command) or target (a class job)"
    if spec.argv is not None:
        if spec.arguments is not None or spec.isolation is not None:
            return "arguments and isolation belong to a class job: a command's words stand in argv"
        return _problem_with_argv(spec.argv) or _problem_with_choices(spec) or _problem_with_place(spec)
    if spec.stdin is not None or spec.input is not None or spec.pty:
        return "stdin, input and pty belong to a command: a class job is told its arguments"
    if spec.arguments is not None and _is_too_long(spec.arguments, MAX_WORK):
        return f"the arguments are longer than {MAX_WORK} bytes of JSON"
    return _problem_with_choices(spec) or _problem_with_place(spec)


def _problem_with_choices(spec: JobSpec) -> str | None:
    if spec.delay and spec.at is not None:
        return "delay and at exclude each other: both say when it may start"
    if spec.retry_on is not None and spec.no_retry_on is not None:
        return "retry_on and no_retry_on exclude each other"
    if spec.stdin is not None and spec.input is not None:
        return "stdin and input exclude each other: a command reads one of them"
    return None


def _problem_with_argv(argv: tuple[str, ...]) -> str | None:
    if not argv or not argv[0]:
        return "argv is empty: name a program"
    for index, word in enumerate(argv):
        if "\0" in word:
            return f"argv[{index}] contains a NUL character"
        if _is_too_long(word):
            return f"argv[{index}] is longer than {MAX_WORD} bytes, the kernel's limit"
    if _is_too_long("".join(argv), MAX_WORK):
        return f"argv is longer than {MAX_WORK} bytes altogether"
    return None


def _problem_with_place(spec: JobSpec) -> str | None:
    if spec.cwd is not None and _is_no_path(spec.cwd):
        return f"cwd must be an absolute path without NUL, of at most {MAX_PATH} bytes"
    if spec.stdin is not None and _is_no_path(spec.stdin):
        return f"stdin must be an absolute path without NUL, of at most {MAX_PATH} bytes"
    for text in (spec.name or "", spec.key or "", *spec.tags):
        if not text.isprintable():
            return f"name, key and tags are printable text on one line, not {text!r}"
    return problem_with_environment(spec.env or {})


def problem_with_environment(env: Mapping[str, str]) -> str | None:
    """Say in one sentence what is wrong with variables for a job, or None."""
    if _is_plainly_right(env):
        return None
    for key, value in env.items():
        if not key or "=" in key or "\0" in key:
            return f"env has a variable named {key!r}: a name is not empty and holds no '=' or NUL"
        if "\0" in value:
            return f"env {key} contains a NUL character"
        if _is_too_long(f"{key}={value}"):
            return f"env {key} is longer than {MAX_WORD} bytes, the kernel's limit"
    return None


def _is_plainly_right(env: Mapping[str, str]) -> bool:
    """Look at all variables at once, a quarter of the time of looking at each, and at every submit."""
    names, values = "".join(env), "".join(env.values())
    if "" in env or "=" in names or "\0" in names or "\0" in values:
        return False
    return 4 * (len(names) + len(values)) < MAX_WORD  # all of them together are shorter than one may be


def _is_no_path(text: str) -> bool:
    return not text.startswith("/") or "\0" in text or _is_too_long(text, MAX_PATH)


def _is_too_long(text: str, most: int = MAX_WORD) -> bool:
    # A character is at most four bytes, so most texts need no encoding to be known short. Surrogates stand
    # for bytes that are not UTF-8: whoever encodes the text will refuse them, here they are only counted.
    return len(text) * 4 > most and len(text.encode(errors="surrogatepass")) > most
