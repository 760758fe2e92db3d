"""Turns what callers ask for, such as job options, into specs and values that can be sent, or refuses it."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Collection, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeVar, cast, overload

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from bgd.client.inherited import OWN_PREFIX, public_environment, read_umask
from bgd.core import spec as limits
from bgd.core.job import State
from bgd.core.spec import (
    FOLLOW_UPS,
    MAX_WORK,
    OPTIONS,
    JobSpec,
    is_target,
    kind_of,
)
from bgd.errors import Refused, nearest
from bgd.text.escape import as_utf8, is_text, one_line
from bgd.text.units import WrongValue, notation_of, problem_with_field, without_notation
from bgd.wire.requests import Changes

if TYPE_CHECKING:
    from pathlib import Path

    from bgd.client.options import Duration, EditOptions, JobOptions, JobReference

Item = JobSpec | Sequence[str] | Mapping[str, Any]
"""One job of a batch: a spec, the argv of a command, or a mapping with the keys of JSON."""

_OPTIONS = OPTIONS.keys() | {"env_pass", "shell", "check"}
_CHANGEABLE = {name for name, option in OPTIONS.items() if option.can_edit} | {"argv"}
_NOTATIONS = {name: kind for name in OPTIONS if notation_of(kind := kind_of(name)) is not None}
_KEYS = _OPTIONS | {"argv", "target", "args", "kwargs"}
_SHELL = ("/bin/sh", "-c")

S = TypeVar("S", bound=Struct)


class ResultReference(Struct, frozen=True):
    """Stands for the result of another job in the arguments of a class job."""

    id: int


PREVIOUS: Any = ResultReference(limits.PREVIOUS)
"""Stands for the result of the previous job in the arguments of a job of a chain, whatever its type."""


def with_references(value: Any, among: Collection[object] | None = None) -> Any:
    """Replace each {"$result": ID} in a JSON value by a reference to the result of that job.

    `among`: the only jobs to refer to; with another ID it is data. None: any job.

    Raises:
        Refused: an ID is not a whole number.
    """
    if isinstance(value, list):
        return [with_references(inner, among) for inner in value]
    if not isinstance(value, dict):
        return value
    if value.keys() != {"$result"} or (among is not None and value["$result"] not in among):
        return {name: with_references(inner, among) for name, inner in value.items()}
    if type(job := value["$result"]) is not int:
        raise Refused(f'{{"$result": ID}} takes the id of a job, not {job!r}')
    return ResultReference(job)


# --- specs ----------------------------------------------------------------------------------------------


def command_spec(argv: Sequence[str | os.PathLike[str]], options: JobOptions, caller: Caller) -> JobSpec:
    """Return the spec of a command. Its `env` is None if it gets the caller's whole environment.

    Raises:
        Refused: a value is out of range or of the wrong type.
        TypeError: an option is unknown, or argv is a string without `shell`, or a list with it.
    """
    values = _given_values(options, caller, default_env="all")
    values["argv"] = _shell_words(argv) if values.pop("shell", False) else _words_of(argv)
    values.pop("check", None)
    if "cwd" not in values:
        values["cwd"] = system_text(caller.folder)
    if "umask" not in values:
        values["umask"] = caller.umask
    return _converted(values, JobSpec)


def class_spec(
    target: str, args: Sequence[object], kwargs: Mapping[str, object], options: JobOptions, caller: Caller
) -> JobSpec:
    """Return the spec of a class job. An `env`, `cwd` or `umask` of None means the daemon's own.

    Raises:
        Refused: a value is out of range or of the wrong type, or there is no such target.
        TypeError: an option is unknown, the target is not a string, JSON cannot represent an argument, or the
            arguments do not fit the target.
    """
    spec = _class_spec(target, args, kwargs, options, caller)
    if spec.key is None:
        return spec
    from bgd.core.target import key_from  # noqa: PLC0415 - few jobs have a key, and bgctl starts often

    try:
        return replace(spec, key=key_from(spec.key, spec.arguments))
    except ValueError as error:
        raise Refused(f"key {error}") from error


def _class_spec(
    target: str, args: Sequence[object], kwargs: Mapping[str, object], options: JobOptions, caller: Caller
) -> JobSpec:
    """Return what `class_spec` does, without arguments in its key."""
    check_names(options, _OPTIONS, "; arguments of the call go into args and kwargs")
    values = _given_values(options, caller, default_env="none")
    if values.pop("shell", False):
        raise Refused("shell is for commands, not for class jobs")
    if not isinstance(target, str):
        raise TypeError(f"a target is a string such as {_example_for(target)!r}, not {target!r}")
    values["arguments"], references = _arguments(args, kwargs)
    if references:
        values["references"] = references
        sources = [job for job, _ in references if job != limits.PREVIOUS]
        values["after"] = [*dict.fromkeys([*values.get("after", ()), *sources])]
    if values.pop("check", True) and _is_own_module(target.partition(":")[0]):
        from bgd.client.functions import check_target  # noqa: PLC0415 - most callers have not imported the target

        check_target(target, args, kwargs)
    values["target"] = target
    return _converted(values, JobSpec)


def _is_own_module(name: str) -> bool:
    """Return whether this process has imported the module, and it does not come with Python."""
    return name in sys.modules and name.partition(".")[0] not in sys.stdlib_module_names


def check_options(options: JobOptions) -> None:
    """Refuse options that no class job can have.

    Raises:
        Refused: a value is out of range or of the wrong type, or it is for commands.
        TypeError: an option is unknown.
    """
    from bgd.core.target import problem_with_template  # noqa: PLC0415 - as above

    check_names(options, _OPTIONS)
    spec = _class_spec("module:function", (), {}, {**options, "check": False}, Caller())
    if problem := limits.problem_with(spec) or limits.problem_with_queue(spec.queue):
        raise Refused(problem)
    for option, key in ("key", spec.key), ("limit", spec.limit and spec.limit[0]):
        if key and (problem := problem_with_template(key)):
            raise Refused(f"{option} {problem}")


def _example_for(target: object) -> str:
    if not callable(target):
        return "package.module:function"
    from bgd.client.functions import target_of  # noqa: PLC0415 - only for an error

    return target_of(target)


def specs_of(items: Iterable[Item], caller: Caller) -> list[JobSpec]:
    """Return the specs of a batch.

    Raises:
        Refused, TypeError: as `command_spec` and `class_spec`, with the number of the job in front. An
            unknown key is Refused.
    """
    specs: list[JobSpec] = []
    for number, item in enumerate(items):
        try:
            specs.append(spec_of(item, caller))
        except (TypeError, Refused) as error:
            raise type(error)(f"job {number} of the batch: {error}") from error
    return specs


def changes_of(options: EditOptions, caller: Caller) -> Changes:
    """Return the changes to a job.

    Raises:
        Refused: a value is out of range or of the wrong type, or no option is given.
        TypeError: an option is unknown.
    """
    if not options:
        raise Refused("nothing to change: name at least one option")
    return _converted(_plain_values(options, _CHANGEABLE, caller), Changes)


def spec_of(item: Item, caller: Caller) -> JobSpec:
    """Return the spec of one job of a batch; raises as `specs_of` does."""
    if isinstance(item, list | tuple) or not isinstance(item, JobSpec | Mapping):
        return command_spec(item, {}, caller)
    if isinstance(item, JobSpec):
        return _completed(item, caller)
    if unknown := item.keys() - _KEYS:
        raise Refused(f"no key {min(unknown)!r}: {nearest(min(unknown), _KEYS)}")
    options = cast("JobOptions", {key: value for key, value in item.items() if key in _OPTIONS})
    if item.get("target") is None:
        return command_spec(item.get("argv") or (), options, caller)
    if item.get("argv") is not None:
        raise Refused("a job has either argv (a command) or target (a class job), not both")
    return class_spec(item["target"], item.get("args") or (), item.get("kwargs") or {}, options, caller)


def _completed(spec: JobSpec, caller: Caller) -> JobSpec:
    """Give a command the caller's folder and umask by default; its own variables count as explicit."""
    if spec.argv is None:
        return spec
    return replace(
        spec,
        explicit_env=spec.explicit_env or tuple(spec.env or ()),
        cwd=system_text(caller.folder) if spec.cwd is None else spec.cwd,
        umask=caller.umask if spec.umask is None else spec.umask,
    )


def _given_values(options: JobOptions, caller: Caller, default_env: str) -> dict[str, Any]:
    """Return the options that are not None, with the complete environment."""
    if not options:  # most jobs of a batch
        return {}
    values = {
        key: value for key, value in _plain_values(options, _OPTIONS, caller).items() if value is not None
    }
    passed, extra = values.pop("env_pass", default_env), values.pop("env", None)
    if passed != default_env or extra is not None:
        chosen = {} if passed in ("all", "none") else caller.chosen_environment(passed)
        values["env"] = caller.chosen_environment(passed) | dict(extra or {})
        values["explicit_env"] = tuple(chosen | dict(extra or {}))
    return values


def _plain_values(options: Mapping[str, Any], allowed: AbstractSet[str], caller: Caller) -> dict[str, Any]:
    """Return the options as values that can be sent; relative paths start at the caller's folder.

    Raises:
        TypeError: an option is not `allowed`.
    """
    check_names(options, allowed)
    return {key: None if value is None else _plain(key, value, caller) for key, value in options.items()}


def check_names(options: Mapping[str, object], allowed: AbstractSet[str], hint: str = "") -> None:
    """Raise TypeError for an option that is not `allowed`; the hint ends the message."""
    if unknown := options.keys() - allowed:
        name = min(unknown)
        meant = _ELSEWHERE.get(name)
        remedy = f"write {meant}" if meant in allowed else nearest(name, allowed)
        raise TypeError(f"no option {name!r}: {remedy}{hint}")


_ELSEWHERE = {
    "countdown": "delay",
    "depends_on": "after",
    "eta": "at",
    "job_timeout": "timeout",
    "link": "on_success",
    "link_error": "on_failure",
    "max_attempts": "retries",
    "max_retries": "retries",
    "queue_name": "queue",
    "run_after": "at",
    "scheduled_at": "at",
    "time_limit": "timeout",
    "tries": "retries",
    "ttl": "expires",
    "unique": "key",
    "unique_for": "key_for",
}
"""bgd's names for options of Celery, RQ, Laravel, Oban and Django."""


def _plain(key: str, value: Any, caller: Caller) -> object:  # noqa: PLR0911 - a line for each kind
    match key:
        case "argv":
            return _words_of(value)
        case "cwd" | "stdin":
            return system_text(str(caller.absolute(value)))
        case "env" if isinstance(value, Mapping):
            return {_as_sent(name): _as_sent(word) for name, word in value.items()}
        case "input" if isinstance(value, str):
            return value.encode()
        case "after" | "after_any":
            return ids_of(value, key)
        case _ if key in FOLLOW_UPS:
            return follow_up_words(value, key)
        case _ if key in _NOTATIONS:
            return plain_value(value, _NOTATIONS[key], key)
        case _:
            return value


def follow_up_words(value: Any, key: str) -> list[str]:
    """Return the words of a follow-up: a command, or a target or its function. `key` is its option.

    Raises:
        TypeError: it is none of these.
    """
    if callable(value):
        from bgd.client.functions import target_of  # noqa: PLC0415 - most callers name no function

        value = target_of(value)
    if isinstance(value, JobSpec):
        raise TypeError(f"{key} takes no call: name its target, {value.target!r}, which gets no arguments")
    if not isinstance(value, str):
        return _words_of(value)
    if not is_target((value,)):
        raise TypeError(f"{key} is a target such as 'app.jobs:report' or a list of words, not {value!r}")
    return [value]


def _as_sent(value: Any) -> Any:
    return system_text(value) if isinstance(value, str) else value


def _words_of(argv: Sequence[str | os.PathLike[str]]) -> list[str]:
    if not isinstance(argv, list | tuple):
        if isinstance(argv, str):
            raise TypeError(f"argv is a list of words, not {argv!r}; for a shell command, set shell=True")
        if callable(argv):
            raise TypeError(f"a function is not a call: write {getattr(argv, '__name__', 'function')}.s(...)")
        if not hasattr(argv, "__iter__"):
            raise TypeError(f"argv is a list of words, not {argv!r}")
    return [word if type(word) is str and word.isascii() else _word(word) for word in argv]


def _word(word: str | os.PathLike[str]) -> str:
    if isinstance(word, JobSpec):
        raise TypeError(
            "argv is a list of words, not of calls: pass each call by itself, as in chain(*calls)"
        )
    if not isinstance(word, str | os.PathLike):
        raise TypeError(f"argv is a list of words, and {word!r} is not a string: convert it with str()")
    return system_text(os.fspath(word))


def _shell_words(line: object) -> list[str]:
    if not isinstance(line, str):
        raise TypeError(f"with shell=True, argv is one string, not {line!r}")
    return [*_SHELL, system_text(line)]


def _arguments(
    args: Sequence[object], kwargs: Mapping[str, object]
) -> tuple[str, list[tuple[int, list[int | str]]]]:
    """Return arguments as JSON text, and which jobs' results go where in it."""
    import json  # noqa: PLC0415 - bgctl starts often, and commands have no arguments of this kind

    if isinstance(args, str):
        raise TypeError(f"args is a list, not the string {args!r}")
    if isinstance(args, Mapping) or not isinstance(args, Iterable):
        raise TypeError(f"args is a list, not {args!r}: named arguments go into kwargs")
    if not isinstance(kwargs, Mapping):
        raise TypeError(
            f"kwargs is a mapping of names to values, not {kwargs!r}: others go into args, a list"
        )
    places: list[tuple[int, list[int | str]]] = []
    try:
        given = _plain_json({"args": list(args), "kwargs": dict(kwargs)}, [], places)
        text = json.dumps(given, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        # no cause: its traceback would be long and add nothing
        raise TypeError(f"args and kwargs must be JSON values: {error}") from None
    if len(text) > MAX_WORK:
        raise Refused(
            f"args and kwargs have {len(text)} bytes of JSON, the limit is {MAX_WORK}: "
            "write them to a file, and pass its path"
        )
    return text, places


def _plain_json(value: object, path: list[int | str], places: list[tuple[int, list[int | str]]]) -> object:
    """Return a value that JSON can represent, with placeholders for the results of jobs.

    Add the jobs and the paths to there to `places`. Refuse what json.dumps accepts and changes: keys that are
    not strings, and lone surrogates.
    """
    match value:
        case str():
            value.encode()
            return value
        case int() | float() | None:
            return value
        case dict():
            for key in value:
                if not isinstance(key, str):
                    raise TypeError(f"keys are strings, not {key!r}")
                key.encode()
            return {key: _plain_json(inner, [*path, key], places) for key, inner in value.items()}
        case list() | tuple():
            return [_plain_json(inner, [*path, place], places) for place, inner in enumerate(value)]
        case ResultReference(job):
            places.append((job, path))
            return {"$result": job}
        case _ if isinstance(reference := getattr(value, "ref", None), ResultReference):
            return _plain_json(reference, path, places)
        case _:
            raise TypeError(f"Object of type {type(value).__name__} is not JSON serializable")


# --- what requests name -----------------------------------------------------------------------------------


def ids_of(jobs: Iterable[JobReference], name: str = "jobs") -> list[int]:
    """Return the ids of jobs. `name` is what an error message calls the list.

    Raises:
        TypeError: `jobs` is not a list of jobs.
        Refused: a number cannot be the id of a job.
    """
    if isinstance(jobs, str | bytes) or not isinstance(jobs, Iterable):
        raise TypeError(f"{name} is a list of jobs such as [5, job], not {jobs!r}")
    ids = [_id_of(job, name) for job in jobs]
    for index, job_id in enumerate(ids):
        if not 1 <= job_id <= limits.MAX_ID:
            raise Refused(f"{name}[{index}]: {WrongValue(job_id, limits.JobNumber)}")
    return ids


def states_of(states: Iterable[State | str]) -> list[State]:
    """Return states given by name.

    Raises:
        TypeError: `states` is one string.
        Refused: a name is unknown.
    """
    if isinstance(states, str):
        raise TypeError(f"states is a list such as ['failed', 'cancelled'], not {str(states)!r}")
    known = dict.fromkeys(State)
    for state in states:
        if state not in known:
            raise Refused(f"no state {state!r}: {nearest(str(state), known)}")
    return [State(state) for state in states]


def checked(request: S) -> S:
    """Return a request whose values are in range.

    Raises:
        Refused: a value is out of range or of the wrong type. The message names it and says what is allowed.
    """
    return _converted(msgspec.to_builtins(request, builtin_types=(bytes,)), type(request))


def _id_of(job: object, name: str) -> int:
    job_id = job if isinstance(job, int) else getattr(job, "id", None)
    if not isinstance(job_id, int):
        raise TypeError(f"{name} is a list of jobs, and {job!r} is neither a job nor an id")
    return job_id


# --- checking values ------------------------------------------------------------------------------------


def _converted(values: dict[str, Any], kind: type[S]) -> S:
    """Return the struct with these values; raises Refused as `checked` does."""
    try:
        return msgspec.convert(values, kind)
    except msgspec.ValidationError as error:
        raise Refused(problem_with_field(error, values, kind)) from error


# --- the calling process ----------------------------------------------------------------------------------


class Caller:
    """What a command inherits from this process. Each value is read once, at first use.

    Without the lock that `functools.cached_property` has in Python 3.11: a child that is forked while another
    thread holds it would wait for ever.
    """

    def __init__(self) -> None:
        self._environment: dict[str, str] | None = None
        self._folder: str | None = None
        self._umask: int | None = None

    @property
    def environment(self) -> dict[str, str]:
        """The environment of a command by default: all variables except those meant for the caller alone.

        Warns about variables that are not UTF-8, because they are left out. Not to be changed.
        """
        if self._environment is None:
            self._environment, undecodable = _inherited()
            if undecodable:
                warnings.warn(f"not passed on, because not UTF-8: {', '.join(undecodable)}", stacklevel=2)
        return self._environment

    def chosen_environment(self, wanted: str | Iterable[str]) -> dict[str, str]:
        """Return the `wanted` part of the environment: "all", "none" or names."""
        if wanted == "all":
            return self.environment
        if wanted == "none":
            return {}
        names = {wanted} if isinstance(wanted, str) else set(wanted)
        return {name: value for name, value in self.environment.items() if name in names}

    @property
    def folder(self) -> str:
        """The working directory.

        Raises:
            Refused: it no longer exists.
        """
        try:
            self._folder = self._folder or os.getcwd()  # noqa: PTH109 - a Path would take longer
        except OSError as error:
            problem = "is gone" if isinstance(error, FileNotFoundError) else f"has no path: {error.strerror}"
            raise Refused(f"the working directory {problem}: change to another, or give cwd") from error
        return self._folder

    def absolute(self, path: str | os.PathLike[str]) -> Path:
        """Return a path that, if it is relative, starts at the working directory."""
        from pathlib import Path  # noqa: PLC0415 - most callers give no paths, and bgctl starts often

        given = Path(path)
        return given if given.is_absolute() else Path(self.folder, given)

    @property
    def umask(self) -> int:
        if self._umask is None:
            self._umask = read_umask()
            if self._umask is None:
                raise Refused("/proc/self/status does not show the umask: that takes Linux 4.7 or newer")
        return self._umask


def _inherited() -> tuple[dict[str, str], list[str]]:
    """Return the variables that commands inherit now, and the names of those that are not UTF-8.

    Decoding all variables takes longer than the rest of a submit, so the latest are kept.
    """
    # what os.environ holds as bytes: its own methods encode or decode each variable each time
    raw = getattr(os.environ, "_data", os.environ)
    known, env, undecodable = _latest_inherited[0]
    if raw != known:
        known = dict(raw)
        env, undecodable = _read_environment()
        _latest_inherited[0] = (known, env, undecodable)
    return env, undecodable


def _read_environment() -> tuple[dict[str, str], list[str]]:
    env, undecodable = {}, []
    texts = {system_text(name): system_text(value) for name, value in public_environment().items()}
    for name, value in texts.items():
        if not is_text(name + value):
            undecodable.append(one_line(as_utf8(name)))
        elif not name.startswith(OWN_PREFIX):
            env[name] = value
    return env, undecodable


_latest_inherited: list[tuple[dict[Any, Any], dict[str, str], list[str]]] = [({}, {}, [])]


def undecodable_names() -> list[str]:
    """Return the names of variables that no command gets because they are not UTF-8, escaped for display."""
    return _inherited()[1]


@overload
def seconds_of(duration: Duration, name: str = "timeout") -> float: ...
@overload
def seconds_of(duration: Duration | None, name: str = "timeout") -> float | None: ...
def seconds_of(duration: Duration | None, name: str = "timeout") -> float | None:
    """Return a duration in seconds; None stays None. `name` is what an error message calls it.

    Raises:
        Refused: it is a text that is not a duration, or of another type.
    """
    seconds: object = plain_value(duration, limits.Duration, name)
    if seconds is None or isinstance(seconds, float | int):
        return seconds
    raise Refused(f"{name}: {WrongValue(duration, limits.Duration)}")


def results_late(count: int, total: int | None, seconds: float | None) -> TimeoutError:
    """Return the error of a map of which only so many results came in time; `total` None: unknown."""
    of = "" if total is None else f" of {total}"
    return TimeoutError(f"{count}{of} results came within {seconds or 0:g} s")


def plain_value(value: Any, kind: Any, name: str) -> Any:
    """Return what a text stands for as a value of a kind, and datetimes, timedeltas and ranges as plain ones.

    Raises:
        Refused: the text stands for nothing.
    """
    match value:
        case list() | tuple() if kind is limits.RetryDelay:
            return [plain_value(item, limits.Duration, name) for item in value]
        case datetime():
            return value.timestamp()
        case timedelta():
            return value.total_seconds()
        case range():
            return list(value)
        case str():
            try:
                return without_notation(value, kind)
            except ValueError as error:
                raise Refused(f"{name}: {error}") from error
        case _:
            return value


def system_text(text: str) -> str:
    """Return a word, a path or a variable as the UTF-8 text of the bytes that this process means by it.

    If those bytes are not UTF-8, the text has lone surrogates, as Python's own text for the system has, and
    cannot be sent.

    Raises:
        Refused: this process's encoding cannot represent the text.
    """
    if text.isascii() or sys.getfilesystemencoding() == "utf-8":
        return text
    try:
        return os.fsencode(text).decode("utf-8", "surrogateescape")
    except UnicodeEncodeError as error:
        raise Refused(f"{text!r} has no bytes in the encoding of this process, {error.encoding}") from error
