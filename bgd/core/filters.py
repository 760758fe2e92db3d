"""The language of job filters, of pages and of `--filter`: `state:failed -queue:mail name:night text`."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable
from typing import Annotated, Any

from msgspec import Meta, Struct
from msgspec.structs import replace

from bgd.core.job import Job, Outcome, State
from bgd.core.spec import (
    MAX_FILTER,
    MAX_ID,
    NOTIFICATION_QUEUE,
    ExitCode,
    JobNumber,
    Priority,
    QueueName,
)
from bgd.errors import nearest
from bgd.text.units import parse_past_time, reader_of

MAX_WORDS = 20  # of a filter
MAX_STARS = 4  # in a pattern for names: SQLite takes the power of their number
MAX_WILD = 32  # characters in parts of patterns that are looked for at each place of a text
MAX_ERROR = 100  # characters of the first line of an error, by which errors are equal
_MAX_QUOTED = 40  # characters of a refused value

ALL_STATES = tuple(State)
SUSPENDED = "suspended"  # a running job whose processes are stopped
STATE_NAMES = (*map(str, State), SUSPENDED)
"""The states that users may name."""


class Filter(Struct, frozen=True, kw_only=True):
    """Which jobs are wanted: those that have all that is not None or empty.

    * `suspended`: of the running ones, only those that are suspended, or only the others. `may_continue`: of
      all, only those that are, or that were when their attempt ended.
    * `name`: a pattern for the whole name, in which * and ? are wildcards, and [*], [?] and [[] are none.
      `name_parts`: each stands in the name. `has_name`: whether it has one.
    * `target`: a pattern for the target of a class job, in which `:` and `.` are alike; without the method it
      stands for all of them. `exact_target`: the whole target; "" means a command. `args`: patterns for
      arguments, of a class job also for `NAME=VALUE`.
    * `outcome`: of the latest attempt that has ended; NO_OUTCOME: none has. `signal`: that ended it.
      `exit_code`: of a finished job, as `exit_code_of` counts. `errors`: each stands in the outcome of the
      latest attempt, if that failed, in its error, or in the reason for the state. `exact_error`: what
      `bgd.daemon.storage.lists.ERROR` makes of the error; "" means none.
    * `since`, `until`: when it was submitted. `finished`: the first instant at which it may have finished.
    * `ids`: in one of these ranges.
    * `texts`: each stands in the name, or in the command with its words separated by spaces.
    * `without`: filters with a single value, of which none must match.

    The case of A to Z matters only in `queue`, `name`, `tags`, `session` and `target`.
    """

    states: tuple[State, ...] = ALL_STATES
    suspended: bool | None = None
    may_continue: bool | None = None
    queue: str | None = None
    name: str | None = None
    has_name: bool | None = None
    name_parts: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    since: float | None = None
    until: float | None = None
    finished: float | None = None
    ids: frozenset[range] | None = None
    uid: int | None = None
    priority: int | None = None
    batch: int | None = None
    session: str | None = None
    outcome: str | None = None
    exit_code: int | None = None
    signal: int | None = None
    errors: tuple[str, ...] = ()
    exact_error: str | None = None
    target: str | None = None
    exact_target: str | None = None
    args: tuple[str, ...] = ()
    texts: tuple[str, ...] = ()
    without: tuple[Filter, ...] = ()

    def has(self, job: Job) -> bool:
        """Tell whether a job that was selected is still in one of the wanted states."""
        is_other = job.state is State.RUNNING and self.suspended not in {None, job.suspended}
        return job.state in self.states and not is_other and self.may_continue in {None, job.suspended}


def both(one: Filter, other: Filter) -> Filter:
    """Return the filter for the jobs that two filters want.

    Raises:
        ValueError: both have a value, for example of the queue.
    """
    fields: dict[str, Any] = {"states": tuple(state for state in one.states if state in other.states)}
    for name in set(Filter.__struct_fields__) - fields.keys():
        mine, theirs = getattr(one, name), getattr(other, name)
        if isinstance(mine, tuple):
            fields[name] = tuple(dict.fromkeys(mine + theirs))
        elif None not in {mine, theirs}:
            raise ValueError(f"The filter has two values for {name.replace('_', ' ')}.")
        else:
            fields[name] = theirs if mine is None else mine
    return Filter(**fields)


def but_notifications(wanted: Filter) -> Filter:
    """Leave out bgd's own jobs unless the filter names their queue."""
    own = Filter(queue=NOTIFICATION_QUEUE)
    return wanted if wanted.queue is not None else replace(wanted, without=(*wanted.without, own))


def named_states(names: Collection[str]) -> tuple[list[State], bool]:
    """Return the states with these names, and whether only suspended running jobs match."""
    only_suspended = SUSPENDED in names and State.RUNNING not in names
    return [
        each for each in State if each in names or (only_suspended and each is State.RUNNING)
    ], only_suspended


def exact_name(name: str) -> str:
    """Return the pattern that matches only this name."""
    return re.sub(r"[*?[]", r"[\g<0>]", name)


# --- words


class Key(Struct, frozen=True):
    """What the words with a key compare: a field of Filter, and the reader of its value at an instant.

    `has_exact`: there are also words `key:=value`.
    """

    field: str
    read: Callable[[str, float], Any] = lambda text, _: text
    has_exact: bool = False


NO_OUTCOME = "none"
OUTCOMES = (*map(str, Outcome), NO_OUTCOME)


BatchNumber = Annotated[
    JobNumber, Meta(description="the id of a batch, as `bgctl batch show NAME` prints it")
]


def _reader(kind: Any) -> Callable[[str, float], Any]:
    return lambda text, _: reader_of(kind)(text)


def _read_outcome(text: str) -> str:
    if text not in OUTCOMES:
        raise ValueError(f"there is no outcome {quoted(text)} ({nearest(text, OUTCOMES)})")
    return text


def read_signal(text: str) -> int:
    """Return the number of a signal: "HUP", "SIGHUP" or "1"; ValueError if there is none."""
    from signal import NSIG, Signals  # noqa: PLC0415 - few filters have one

    numbers = {each.name.removeprefix("SIG"): int(each) for each in Signals}
    name = text.upper().removeprefix("SIG")
    number = numbers.get(name, int(text) if _NUMBER.fullmatch(text) else 0)
    if not 0 < number < NSIG:
        raise ValueError(
            f"{quoted(text)} is neither a signal nor a number from 1 to {NSIG - 1}; {nearest(name, numbers)}"
        )
    return number


def _read_ids(text: str) -> frozenset[range]:
    ranges: set[range] = set()
    for part in text.split(","):
        match = _ID_RANGE.fullmatch(part)
        if match is None:
            raise ValueError(f"{quoted(text)} has no ids such as 64, 64-363 or 64-")
        first, dash, last = match.groups()
        ranges.add(range(int(first), 1 + (int(last) if last else MAX_ID if dash else int(first))))
    return frozenset(ranges)


FILTERS: dict[str, Key] = {
    "state": Key("states"),
    "queue": Key("queue", _reader(QueueName)),
    "name": Key("name_parts", has_exact=True),
    "tag": Key("tags"),
    "class": Key("target", has_exact=True),
    "arg": Key("args"),
    "error": Key("errors", has_exact=True),
    "outcome": Key("outcome", lambda text, _: _read_outcome(text)),
    "exit": Key("exit_code", _reader(ExitCode)),
    "signal": Key("signal", lambda text, _: read_signal(text)),
    "since": Key("since", parse_past_time),
    "until": Key("until", parse_past_time),
    "finished": Key("finished", parse_past_time),
    "id": Key("ids", lambda text, _: _read_ids(text)),
    "priority": Key("priority", _reader(Priority)),
    "batch": Key("batch", _reader(BatchNumber)),
    "session": Key("session"),
}
"""All keys of words. A new one is a row here and its condition in `bgd.daemon.storage.lists`."""


class Word(Struct, frozen=True):
    """A word of a filter: the key before its colon, or None for text to search for; its value; as typed.

    `is_exact`: it compares all of what its key names, by a pattern for a name, rather than a part.
    `is_not`: the jobs that it selects are not wanted.
    """

    key: str | None
    value: str
    text: str
    is_exact: bool = False
    is_not: bool = False


def parse_words(text: str) -> list[Word]:
    """Return the words of a filter such as `state:failed -queue:mail name:"two words" text`.

    Raises:
        ValueError: a word cannot be understood; the message is a sentence.
    """
    if len(text) > MAX_FILTER:
        raise ValueError(f"This filter is longer than {MAX_FILTER} characters.")
    words: list[Word] = []
    at = 0
    while match := _WORD.match(text, at):
        at = match.end()
        typed, minus, key, equals, in_quotes, bare = match.group().strip(), *match.groups()
        if key is not None and key not in FILTERS:
            if not bare or not bare.startswith("//"):  # an address
                raise ValueError(f"There is no filter {quoted(key)} ({nearest(key, FILTERS)}). {_AS_TEXT}")
            key, bare = None, typed
        value = re.sub(r"\\(.)", r"\1", in_quotes) if in_quotes is not None else bare or ""
        if equals and key not in _EXACT:
            raise ValueError(f"{quoted(typed)}: only {_EXACT_WORDS} have an equals sign. {_AS_TEXT}")
        if not value and not (equals and in_quotes is not None):
            raise ValueError(f"{quoted(typed)} has no value.")
        is_pattern = key == "name" and in_quotes is None and bool(_ANYTHING.search(value))
        words.append(Word(key, value, typed, bool(equals) or is_pattern, is_not=bool(minus and key)))
    if rest := text[at:].strip():
        raise ValueError(f"The quotes of {quoted(rest)} are not closed.")
    return words


def words_for(key: str, values: Iterable[str]) -> list[Word]:
    """Return the words of a filter for these values; of a name they are patterns.

    A key such as "error=" makes exact words.
    """
    key, equals = key.removesuffix("="), "=" * (key == "name" or key.endswith("="))
    return [Word(key, value, f"{key}:{equals}{_in_quotes(value)}", bool(equals)) for value in values]


def filter_of(words: Iterable[Word], now: float) -> Filter:
    """Return what these words mean; `since:2h` counts from `now`.

    Raises:
        ValueError: a value cannot be used; the message is a sentence.
    """
    words = list(words)
    if len(words) > MAX_WORDS:
        raise ValueError(f"This filter has more than {MAX_WORDS} words.")
    patterns = (word.value for word in words if word.key in {"arg", "class"} and not word.is_exact)
    if sum(map(_wild_characters, patterns)) > MAX_WILD:
        raise ValueError(
            f"Parts of patterns that follow a star and have '?' may have {MAX_WILD} characters in all."
        )
    wanted = _states_of([word for word in words if word.key == "state"])
    for word in words:
        if word.key != "state":
            one = _filter_of(word, now)
            wanted = both(wanted, Filter(without=(one,)) if word.is_not else one)
    return wanted


def _filter_of(word: Word, now: float) -> Filter:
    if word.key is None:
        return Filter(texts=(word.value,))
    key = FILTERS[word.key]
    if word.is_exact:
        return _exact_filter(word)
    try:
        value = key.read(word.value, now)
    except ValueError as error:
        raise ValueError(f"{word.key}: {error}.") from error
    fields: dict[str, Any] = {key.field: (value,) if getattr(Filter(), key.field) == () else value}
    return Filter(**fields)


def _exact_filter(word: Word) -> Filter:
    match word.key:
        case "error":
            return Filter(exact_error=error_key(word.value))
        case "class":
            return Filter(exact_target=word.value)
        case _:
            return Filter(name=_checked_pattern(word)) if word.value else Filter(has_name=False)


def _states_of(words: list[Word]) -> Filter:
    """Return the filter for jobs in any of the named states, and in none of those that are not wanted."""
    named, not_wanted = (
        {name for word in words if word.is_not is is_not for name in word.value.split(",")}
        for is_not in (False, True)
    )
    if unknown := sorted((named | not_wanted).difference(STATE_NAMES)):
        raise ValueError(f"There is no state {quoted(unknown[0])} ({nearest(unknown[0], STATE_NAMES)}).")
    states, only_suspended = named_states(named or STATE_NAMES)
    if only_suspended and SUSPENDED in not_wanted:
        not_wanted.add(State.RUNNING)
    suspended = True if only_suspended else False if SUSPENDED in not_wanted else None
    return Filter(states=tuple(state for state in states if state not in not_wanted), suspended=suspended)


def error_key(error: str) -> str:
    """Return by what an error is equal to others: the beginning of its first line."""
    return error.partition("\n")[0][:MAX_ERROR]


def _checked_pattern(word: Word) -> str:
    if len(re.findall(r"\*+", ESCAPED.sub("", word.value))) > MAX_STARS:
        raise ValueError(f"A pattern for names takes at most {MAX_STARS} stars: {quoted(word.text)}.")
    return word.value


def _wild_characters(pattern: str) -> int:
    """Return how long the parts after a star are that are compared at each place, unlike plain text."""
    _, *parts = ESCAPED.sub("x", pattern).split("*")
    return sum(len(part) for part in parts if "?" in part)


def _in_quotes(value: str) -> str:
    if _PLAIN.fullmatch(value):
        return value
    return '"' + re.sub(r'(["\\])', r"\\\1", value) + '"'


def quoted(value: str) -> str:
    """Return the beginning of a refused value in quotes."""
    return repr(value if len(value) <= _MAX_QUOTED else f"{value[:_MAX_QUOTED]}…")


_WORD = re.compile(r'\s*(?:(-?)([a-z]+):(=?))?+(?:"((?:[^"\\]|\\.)*)"(?!\S)|([^\s"]\S*|(?<=[:=])(?!\S)))')
_ANYTHING = re.compile(r"[*?]")
ESCAPED = re.compile(r"\[[*?[]\]")  # in a pattern: a character that is no wildcard
_EXACT = [name for name, key in FILTERS.items() if key.has_exact]
_EXACT_WORDS = f"{', '.join(f'{name}:=' for name in _EXACT[:-1])} and {_EXACT[-1]}:="
_NUMBER = re.compile("[0-9]{1,2}")
_ID_RANGE = re.compile("([1-9][0-9]{0,17})(-)?((?<=-)[1-9][0-9]{0,17})?")
_PLAIN = re.compile(r'[^\s"\\]+')
_AS_TEXT = "Text that has a colon needs quotes."
