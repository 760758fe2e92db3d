"""Options of jobs, and the parameter types of all verbs."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import suppress
from enum import EnumType
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, cast

import click
from msgspec import Meta

from bgctl.common import client
from bgd import BgdError, Client, Job, NoSuchJob, State
from bgd.core import spec
from bgd.core.filters import FILTERS, exact_name
from bgd.core.spec import OPTIONS, Option, kind_of
from bgd.text import units
from bgd.text.escape import one_line
from bgd.text.units import counted, read, reader_of
from bgd.wire.requests import MAX_IDS

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from bgd.client.options import JobOptions

F = TypeVar("F", bound=Callable[..., Any])

NamedJobs = tuple[range | str, ...]  # ranges of ids, and names of jobs
JobIdRanges = tuple[NamedJobs, ...]  # one for each word of the command line

WAITING = (State.HELD, State.BLOCKED, State.SCHEDULED, State.QUEUED)
UNFINISHED = (*WAITING, State.RUNNING, State.STOPPING)
FINISHED = (State.SUCCEEDED, State.FAILED, State.CANCELLED)
LAST = range(0)  # stands for the caller's latest job


def with_command_options(function: F) -> F:
    """Add the options of a new command to a verb."""
    return _add_options(function, lambda option: option.only != "class", _ENV_PASS)


def with_call_options(function: F) -> F:
    """Add the options of a new class job to a verb."""
    return _add_options(function, lambda option: option.only != "command", _ENV_PASS)


def with_changeable_options(function: F) -> F:
    """Add the options that can change while a job waits to a verb."""
    return _add_options(function, lambda option: option.can_edit)


def with_schedule_options(function: F) -> F:
    """Add the options of a schedule's job to a verb."""
    return with_options(*map(_click_option, _in_schedules()), _ENV_PASS)(function)


def unset_options() -> dict[str, str]:
    """Return the options that `edit --unset` accepts, each with the name of its field in JobSpec."""
    return {
        _word(name): name
        for name in _COMMAND_LINE_OPTIONS
        if OPTIONS[name].can_edit and OPTIONS[name].can_unset
    }


def unset_options_of_schedules() -> dict[str, str]:
    """Return the options of jobs that `schedule edit --unset` accepts, each with the name of its field."""
    return {_word(name): name for name in _in_schedules() if name != "cwd"}  # a command has a folder


def _in_schedules() -> list[str]:
    # in a schedule, jitter is about its own time, and the command line has no file to read from
    return [name for name in _COMMAND_LINE_OPTIONS if name not in spec.NOT_SCHEDULED | {"jitter"}]


def _word(name: str) -> str:
    """Return the name of an option without dashes."""
    [flag] = [each for each in _SPELLINGS.get(name, [_flag(name)]) if each.startswith("--")]
    return flag.removeprefix("--")


def _add_options(function: F, is_wanted: Callable[[Option], bool], *others: Callable[[F], F]) -> F:
    wanted = [_click_option(name) for name in _COMMAND_LINE_OPTIONS if is_wanted(OPTIONS[name])]
    return with_options(*wanted, *others)(function)


def with_options(*options: Callable[[F], F]) -> Callable[[F], F]:
    """Add options to a verb, in this order."""

    def decorate(function: F) -> F:
        for add in reversed(options):
            function = add(function)
        return function

    return decorate


def no_check_option(what: str) -> Callable[[F], F]:
    """Add --no-check to a verb that begins `what` it does with a command."""
    help_ = f"{what} it even if program or folder is missing."
    return click.option("--no-check", is_flag=True, help=help_)


def unset_option(names: Iterable[str], example: str) -> Callable[[F], F]:
    """Add --unset, which resets options of these names, to a verb."""
    return click.option(
        "--unset",
        type=click.Choice(list(names)),
        multiple=True,
        metavar="OPTION",
        help=f"Reset an option, for example {example}; may be repeated.",
    )


def job_options(daemon: Client, given: dict[str, Any]) -> JobOptions:
    """Return the options that were given, in the form that the client takes.

    Raises:
        NoSuchJob: `--after last` was given, and the caller has no job.
    """
    options = given_options(given)
    for one, other in (("delay", "at"), ("retry_on", "no_retry_on")):
        if one in options and other in options:
            raise click.UsageError(f"{_flag(one)} and {_flag(other)} cannot be combined")
    for key in options.keys() & {"after", "after_any"}:
        options[key] = chosen_ids(daemon, options[key])
    return cast("JobOptions", options)


def given_options(given: dict[str, Any]) -> dict[str, Any]:
    """Return the options that were given."""
    values = {
        key: value for key, value in given.items() if value is not None and value is not False and value != ()
    }
    for key in values.keys() & {"env", "resources"}:
        values[key] = dict(values[key])
    return values | ({"rerun": values["rerun"] == "yes"} if "rerun" in values else {})


def _flag(key: str) -> str:
    return f"--{key.replace('_', '-')}"


def chosen_ids(daemon: Client, words: JobIdRanges) -> list[int]:
    """Return the ids that were named, in order and without duplicates.

    Without words, return the id of the caller's latest job.

    Raises:
        NoSuchJob: the latest job is meant, and the caller has none; or no job has this name.
    """
    ids: dict[int, None] = {}
    for word in words or ((LAST,),):
        for part in word:
            found = [_job_named(daemon, part)] if isinstance(part, str) else part or [daemon.job().id]
            ids |= dict.fromkeys(found)
    return list(ids)


def _job_named(daemon: Client, name: str) -> int:
    """Return the id of the latest job with this name."""
    if jobs := daemon.jobs(name=exact_name(name), states=tuple(State), limit=1):
        return jobs[0].id
    several = "; --state STATE selects several, as in `bgctl cancel --state running`" if name == "all" else ""
    raise NoSuchJob(f"no job is named {name!r}: give a name, an id such as 12 or 3-9, or last{several}")


# --- parameter types -------------------------------------------------------------------------------------


class Parsed(click.ParamType[Any]):
    """A value that `parse` makes of text; it raises ValueError with what is wrong.

    `complete`: what a shell offers for the beginning of such a text.
    """

    def __init__(
        self,
        name: str,
        parse: Callable[[str], Any],
        complete: Callable[[str], Iterable[CompletionItem]] = lambda _: (),
    ) -> None:
        self.name = name
        self._parse = parse
        self._complete = complete

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the value; a default is one already."""
        try:
            return self._parse(value) if isinstance(value, str) else value
        except ValueError as error:
            self.fail(str(error), param, ctx)

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """Offer completions; those from a daemon only if it answers soon."""
        del ctx, param
        with suppress(BgdError, OSError):
            return list(self._complete(incomplete))
        return []


def _begun_so(words: Iterable[str], incomplete: str) -> Iterator[str]:
    return (word for word in words if word.startswith(incomplete))


def offer(value: str, **more: str) -> CompletionItem:
    """Return what a shell may complete a word to."""
    from click.shell_completion import CompletionItem  # noqa: PLC0415 - only a shell needs it

    return CompletionItem(value, **more)


def with_ids(states: Collection[State] | None = None) -> Callable[[F], F]:
    """Add jobs, in any number of words, to a verb; shell completion offers those in these states."""
    return click.argument("ids", nargs=-1, type=job_ids(states), metavar="[ID]...")


def job_ids(states: Collection[State] | None = None) -> Parsed:
    """Return the type of jobs in one word: "12", "3-9", "last", a name, or several separated by commas.

    Shell completion offers only jobs in these states; None means any state.
    """

    def complete(incomplete: str) -> Iterator[CompletionItem]:
        before, comma, word = incomplete.rpartition(",")
        with client(timeout=_TAB_SECONDS) as daemon:
            for job in daemon.jobs(states=states, limit=_MAX_COMPLETIONS):
                if str(job.id).startswith(word):
                    yield offer(f"{before}{comma}{job.id}", help=_describe(job))

    return Parsed("id", lambda text: tuple(_jobs_in(each.strip()) for each in text.split(",")), complete)


def _jobs_in(word: str) -> range | str:
    """Return the ids, or the name, that a word stands for."""
    if word == "last":
        return LAST
    match = re.fullmatch(_ID, word)
    if match is None and word and not word[0].isdecimal():
        return word
    if match is None:
        raise ValueError(f"{word!r} is not a job id: write 12, 3-9, last or the name of a job")
    first, last = int(match[1]), int(match[2] or match[1])
    if not first <= last < first + MAX_IDS:
        raise ValueError(f"{word!r} is not a range of at most {MAX_IDS} ids with the lower one first")
    return range(first, last + 1)


def _describe(job: Job) -> str:
    from bgd.text.brief import command_line  # noqa: PLC0415 - most verbs do not show jobs

    return f"{job.state}  {one_line(job.name or '') or command_line(job.view)}"[:_MAX_WIDTH]


_TAB_SECONDS = 1.0  # the user waits after pressing Tab
_MAX_COMPLETIONS = 100  # a longer list does not help
_MAX_WIDTH = 60  # characters of a command
_ID = r"([1-9][0-9]{0,17})(?:-([1-9][0-9]{0,17}))?"


def whole_number(least: int, most: int) -> Parsed:
    """Return the type of whole numbers from `least` to `most`, both included."""
    return Parsed("number", reader_of(Annotated[int, Meta(ge=least, le=most)]))


def _queues_like(incomplete: str) -> Iterator[CompletionItem]:
    with client(timeout=_TAB_SECONDS) as daemon:
        for queue in daemon.queues().queues:
            if queue.name.startswith(incomplete):
                yield offer(queue.name, help=counted(sum(queue.counts.values()), "job"))


def slots_or(word: str) -> Parsed:
    """Return the type of a number of slots or a word; None means not given."""

    def parse(text: str) -> int | str:
        try:
            return word if text == word else int(read(text, spec.SlotCount, is_text=True))
        except ValueError as error:
            raise ValueError(f"{error} or {word!r}; use `bgctl pause` to start nothing") from None

    return Parsed("slots", parse)


def _key_and_places(text: str) -> list[str]:
    key, _, places = text.rpartition("=")
    return [key, places] if places.isdecimal() and key else [text, "1"]


def _path(kind: str, *, may_be_empty: bool = False) -> Parsed:
    """Return the type of the path of a file ("file") or a folder ("dir"); the shell itself completes it."""

    def parse(text: str) -> str:
        if not (text or may_be_empty):  # scripts pass one when a variable is unset: it would mean the folder
            raise ValueError("the path is empty")
        return text

    return Parsed("path", parse, lambda incomplete: [offer(incomplete, type=kind)])


# --- shared instances of them ----------------------------------------------------------------------------


def parsed(kind: Any, complete: Callable[[str], Iterable[CompletionItem]] = lambda _: ()) -> Parsed:
    """Return the type of texts that stand for values of a kind."""
    return Parsed("value", reader_of(kind), complete)


ARGUMENT = _path("file", may_be_empty=True)
DURATION = parsed(spec.Duration)
FILE = _path("file")
MAX_OUTPUT = parsed(Annotated[int, Meta(ge=1000, le=16 << 20), units.SIZE])
NAME = parsed(spec.Name)
NOTIFY_NAME = parsed(spec.NotifyName)
PAST_TIME = Parsed("when", lambda text: FILTERS["since"].read(text, time.time()))
QUEUE_NAME = parsed(spec.QueueName, _queues_like)
SIZE = parsed(spec.FileBytes)
TIME_LIMIT = parsed(spec.Timeout)


# --- the options of jobs ---------------------------------------------------------------------------------


def _assignment(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise ValueError(f"{name!r} is not NAME=VALUE")
    return name, value


def _follow_up(text: str) -> tuple[str, ...]:
    """Parse "app.jobs:report" or "notify-send 'It failed'": words as a shell reads them."""
    from bgctl.batch_lines import words_of  # noqa: PLC0415 - few jobs have one, and bgctl starts often

    if not (words := tuple(words_of(text))):
        raise ValueError("it is empty: name a command or a target such as app.jobs:report")
    return words


def _click_option(name: str) -> Callable[[F], F]:
    """Return the command-line option for a field of JobSpec."""
    kind = kind_of(name)
    settings: dict[str, Any] = {"help": f"{OPTIONS[name].help}."}
    if kind is bool:
        settings["is_flag"] = True
    elif isinstance(kind, EnumType):
        words = list(map(str, kind))
        settings["type"] = parsed(kind, lambda incomplete: map(offer, _begun_so(words, incomplete)))
        settings["metavar"] = f"[{'|'.join(words)}]"
    else:
        settings["type"], settings["metavar"] = TYPES.get(kind, parsed(kind)), _METAVARS.get(kind, "N")
    return click.option(*_SPELLINGS.get(name, [_flag(name)]), **(settings | _SETTINGS.get(name, {})))


# The types of those fields of which the command line takes other texts than a file or a client
TYPES: dict[Any, click.ParamType[Any]] = {
    spec.FollowUp: Parsed("command", _follow_up),
    spec.Folder: _path("dir"),
    spec.Limit: Parsed("limit", lambda text: read(_key_and_places(text), spec.Limit, is_text=True)),
    spec.QueueName: QUEUE_NAME,
    spec.SlurmOptions: parsed(spec.SlurmWord),
    spec.Tags: NAME,
}
_METAVARS: dict[Any, str] = {
    spec.Backoff: "F",
    spec.Duration: "D",
    spec.ExecutorName: "NAME",
    spec.ExitCodes: "CODES",
    spec.FileBytes: "SIZE",
    spec.FollowUp: "'CMD ARGS'",
    spec.Folder: "DIR",
    spec.Instant: "WHEN",
    spec.Limit: "KEY[=N]",
    spec.MemoryBytes: "SIZE",
    spec.Name: "TEXT",
    spec.NotifyName: "NAME",
    spec.Percent: "PERCENT",
    spec.QueueName: "NAME",
    spec.RetryDelay: "D,...",
    spec.Share: "SHARE",
    spec.SlurmOptions: "OPTION",
    spec.SlurmTime: "TIME",
    spec.SlurmWord: "TEXT",
    spec.Tags: "TEXT",
    spec.Timeout: "D",
}

_SPELLINGS = {
    "priority": ["-p", "--priority"],
    "queue": ["-q", "--queue"],
    "name": ["-n", "--name"],
    "tags": ["-t", "--tag", "tags"],
    "env": ["-e", "--env"],
    "resources": ["--resource", "resources"],
    "slurm_options": ["--slurm-option", "slurm_options"],
}

# Further settings of click.option
_UNFINISHED_IDS = {"type": job_ids(UNFINISHED), "multiple": True, "metavar": "ID,..."}
_SETTINGS: dict[str, dict[str, Any]] = {
    "tags": {"multiple": True},
    "slurm_options": {"multiple": True},
    "rerun": {"is_flag": False, "type": click.Choice(["yes", "no"])},
    "after": _UNFINISHED_IDS,
    "after_any": _UNFINISHED_IDS,
    "env": {"multiple": True, "type": Parsed("assignment", _assignment), "metavar": "K=V"},
    "resources": {
        "type": parsed(
            Annotated[
                tuple[spec.ResourceName, spec.TokenCount],
                units.Notation(
                    f"NAME=N, {spec.RESOURCE_NAME}, and 1 to {spec.MAX_TOKENS}",
                    "gpu=1",
                    lambda text: text.partition("=")[::2],
                ),
            ]
        ),
        "multiple": True,
        "metavar": "NAME=N",
    },
    "stdin": {"type": FILE, "metavar": "FILE|-"},
    "stop_signal": {"metavar": "SIG"},  # a list of the signals would take a line of its own
}

# Not the umask, which is the caller's, and not the input, which `--stdin -` reads
_COMMAND_LINE_OPTIONS = [name for name in OPTIONS if name not in {"umask", "input"}]

ALONE = click.option("--alone", is_flag=True, help="Leave jobs that were cancelled because of these.")
YES = click.option("-y", "--yes", is_flag=True, help="Do not ask for confirmation.")
_ENV_PASS = click.option(
    "--env-pass",
    type=Parsed("names", lambda text: text if text in {"all", "none"} else text.split(",")),
    metavar="all|none|NAMES",
    help="Environment variables to pass on.",
)
