"""Specs: what a caller writes, as keywords or as flat JSON keys, made into JobSpecs or refused."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

from msgspec.structs import replace

from bgd.client.caller import Caller, system_text
from bgd.client.options import EditOptions, JobOptions, plain_values, words_of
from bgd.client.wording import converted
from bgd.core.spec import MAX_WORK, JobSpec
from bgd.errors import Refused
from bgd.settings import nearest
from bgd.wire.requests import Changes

_SHELL = ("/bin/sh", "-c")

_OPTIONS = JobOptions.__optional_keys__
_KEYS = _OPTIONS | {"argv", "target", "args", "kwargs"}

Item = JobSpec | Sequence[str] | Mapping[str, Any]
"""One job of a batch: a spec, the argv of a command, or a mapping with the keys of JSON."""


def command_spec(argv: Sequence[str | os.PathLike[str]], options: JobOptions, caller: Caller) -> JobSpec:
    """Return the spec of a command. Its `env` None stands for the caller's whole environment.

    Raises:
        Refused: a value is out of range or of the wrong kind.
        TypeError: there is no such option, or argv is one text where words are due, or the other way round.
    """
    values = _values(options, caller, usual_env="all")
    values["argv"] = _shell_words(argv) if values.pop("shell", False) else words_of(argv)
    if "cwd" not in values:
        values["cwd"] = caller.folder_text
    if "umask" not in values:
        values["umask"] = caller.umask
    return converted(values, JobSpec)


def class_spec(
    target: str, args: Sequence[object], kwargs: Mapping[str, object], options: JobOptions, caller: Caller
) -> JobSpec:
    """Return the spec of a class job; `env`, `cwd` and `umask` None stand for the daemon's own.

    Raises:
        Refused: a value is out of range or of the wrong kind.
        TypeError: there is no such option, the target is no text, or an argument that JSON cannot say.
    """
    values = _values(options, caller, usual_env="none")
    if values.pop("shell", False):
        raise Refused("shell is for commands, not for class jobs")
    if not isinstance(target, str):
        raise TypeError(f"a target is text, as package.module:function, not {target!r}")
    values["target"] = target
    values["arguments"] = _arguments(args, kwargs)
    return converted(values, JobSpec)


def spec_of(item: Item, caller: Caller) -> JobSpec:
    """Return the spec of one job of a batch.

    Raises:
        Refused, TypeError: as `command_spec` and `class_spec`; a key that is unknown is Refused.
    """
    if isinstance(item, JobSpec):
        return _at_home(item, caller)
    if not isinstance(item, Mapping):
        return command_spec(item, {}, caller)
    if unknown := item.keys() - _KEYS:
        raise Refused(f"no key {min(unknown)!r}: {nearest(min(unknown), _KEYS)}")
    options = cast(JobOptions, {key: value for key, value in item.items() if key in _OPTIONS})
    if item.get("target") is None:
        return command_spec(item.get("argv") or (), options, caller)
    if item.get("argv") is not None:
        raise Refused("a job has either argv (a command) or target (a class job), not both")
    return class_spec(item["target"], item.get("args") or (), item.get("kwargs") or {}, options, caller)


def specs_of(items: Iterable[Item], caller: Caller) -> list[JobSpec]:
    """Return the specs of a batch.

    Raises:
        Refused, TypeError: as `spec_of`, with the number of the job in front.
    """
    specs: list[JobSpec] = []
    for number, item in enumerate(items):
        try:
            specs.append(spec_of(item, caller))
        except (TypeError, Refused) as error:
            raise type(error)(f"job {number} of the batch: {error}") from error
    return specs


def changes_of(options: EditOptions, caller: Caller) -> Changes:
    """Return what is to become other in a job.

    Raises:
        Refused: a value is out of range or of the wrong kind, or there is none.
        TypeError: there is no such option.
    """
    if not options:
        raise Refused("nothing to change: name what is to become other")
    return converted(plain_values(options, EditOptions.__optional_keys__, caller), Changes)


def _values(options: JobOptions, caller: Caller, usual_env: str) -> dict[str, Any]:
    """Return what was given, None as if it was not, with the environment worked out."""
    values = {
        key: value for key, value in plain_values(options, _OPTIONS, caller).items() if value is not None
    }
    passed, extra = values.pop("env_pass", usual_env), values.pop("env", None)
    if passed != usual_env or extra is not None:
        chosen = {} if passed in ("all", "none") else caller.chosen_environment(passed)
        values["env"] = caller.chosen_environment(passed) | dict(extra or {})
        values["explicit_env"] = tuple(chosen | dict(extra or {}))
    return values


def _shell_words(line: object) -> list[str]:
    if not isinstance(line, str):
        raise TypeError(f"for a shell, argv is one text, not {line!r}")
    return [*_SHELL, system_text(line)]


def _at_home(spec: JobSpec, caller: Caller) -> JobSpec:
    """Give a command the caller's folder and umask, if it names none; its own variables count as chosen."""
    if spec.argv is None:
        return spec
    return replace(
        spec,
        explicit_env=spec.explicit_env or tuple(spec.env or ()),
        cwd=caller.folder_text if spec.cwd is None else spec.cwd,
        umask=caller.umask if spec.umask is None else spec.umask,
    )


def _arguments(args: Sequence[object], kwargs: Mapping[str, object]) -> str:
    if isinstance(args, str):
        raise TypeError(f"args is a list, not the text {args!r}")
    if isinstance(args, Mapping) or not isinstance(args, Iterable):
        raise TypeError(f"args is a list, not {args!r}: named arguments go into kwargs")
    given = {"args": list(args), "kwargs": dict(kwargs)}
    try:
        text = json.dumps(given, allow_nan=False)
        _check([given])
    except (TypeError, ValueError, RecursionError) as error:
        raise TypeError(f"args and kwargs must be what JSON can say: {error}") from error
    if len(text) > MAX_WORK:
        raise Refused(
            f"args and kwargs have {len(text)} bytes of JSON, the limit is {MAX_WORK}: "
            "write them to a file, and pass its path"
        )
    return text


def _check(values: list[object]) -> None:
    """Refuse what json takes and would not arrive as it is: keys that are no text, halves of characters."""
    while values:
        value = values.pop()
        if isinstance(value, dict):
            for key in value:
                if not isinstance(key, str):
                    raise TypeError(f"keys are text, not {key!r}")
            values += [*value, *value.values()]
        elif isinstance(value, list | tuple):
            values.extend(value)
        elif isinstance(value, str) and not value.isascii():
            value.encode()
