"""Specs: what a caller writes, as keywords or as flat JSON keys, made into JobSpecs or refused."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict, cast

import msgspec
from msgspec.structs import replace

from bgd.client.caller import Caller
from bgd.core.job import JobSpec
from bgd.errors import Full, Refused
from bgd.settings import nearest
from bgd.wire.framing import HEADER, MAX_FRAME, frame
from bgd.wire.messages import encode
from bgd.wire.requests import MAX_BATCH, MAX_BATCH_BYTES, SubmitMany


class FurtherOptions(TypedDict, total=False):
    """What may be asked for any job; what is missing is as the daemon's configuration says.

    Durations are seconds. `env`: variables on top of those that `env_pass` lets through of the caller's:
    "all" (as for commands that do not say), "none" (as for class jobs) or a list of names.
    """

    queue: str
    name: str | None
    tags: Sequence[str]
    retries: int | None
    retry_delay: float | None
    backoff: float | None
    max_delay: float | None
    jitter: float | None
    rerun: bool | None
    cwd: str | os.PathLike[str] | None
    env: Mapping[str, str] | None
    env_pass: str | Sequence[str]
    umask: int | None


class JobOptions(FurtherOptions, total=False):
    """And those that come first."""

    priority: int
    delay: float
    timeout: float | None


_OPTIONS = JobOptions.__optional_keys__
_KEYS = _OPTIONS | {"argv", "target", "args", "kwargs"}

Item = JobSpec | Sequence[str] | Mapping[str, Any]
"""One job of a batch: a spec, the argv of a command, or a mapping with the keys of JSON."""


def command_spec(argv: Sequence[str | os.PathLike[str]], options: JobOptions, caller: Caller) -> JobSpec:
    """Return the spec of a command. Its `env` None stands for the caller's whole environment.

    Raises:
        Refused: a value is out of range or of the wrong kind.
        TypeError: there is no such option.
    """
    if isinstance(argv, str):
        raise TypeError(f"argv is a list of words, not {argv!r}; for a shell: ['sh', '-c', ...]")
    values = _values(options, caller, usual_env="all")
    values["argv"] = [os.fspath(word) for word in argv]
    if "cwd" not in values:
        values["cwd"] = str(caller.folder)
    if "umask" not in values:
        values["umask"] = caller.umask
    return _converted(values)


def class_spec(
    target: str, args: Sequence[object], kwargs: Mapping[str, object], options: JobOptions, caller: Caller
) -> JobSpec:
    """Return the spec of a class job; `env`, `cwd` and `umask` None stand for the daemon's own.

    Raises:
        Refused: a value is out of range or of the wrong kind.
        TypeError: there is no such option, or an argument that JSON cannot say.
    """
    values = _values(options, caller, usual_env="none")
    values["target"] = target
    values["arguments"] = _arguments(args, kwargs)
    return _converted(values)


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


def batch_frames(request_id: int, specs: Sequence[JobSpec], env: dict[str, str]) -> bytes:
    """Return a SubmitMany in as many frames as it takes.

    Raises:
        Full: it is more than a daemon takes at once.
        Refused: one job is more than a frame holds.
    """
    if len(specs) > MAX_BATCH:
        raise Full(f"{len(specs)} jobs at once are too many: at most {MAX_BATCH}, submit them in portions")
    frames = [frame(payload) for payload in _payloads(request_id, specs, env)]
    if (size := sum(map(len, frames))) > MAX_BATCH_BYTES:
        raise Full(
            f"{size} bytes at once are too many: at most {MAX_BATCH_BYTES}, submit the jobs in portions"
        )
    return b"".join(frames)


def _payloads(request_id: int, specs: Sequence[JobSpec], env: dict[str, str]) -> Iterator[bytes]:
    start, count = 0, len(specs)
    while True:
        end = min(start + count, len(specs))
        part = list(specs[start:end])
        inherits = any(spec.env is None and spec.argv is not None for spec in part)
        payload = encode(
            SubmitMany(id=request_id, specs=part, env=env if inherits else None, more=end < len(specs))
        )
        if len(payload) > MAX_FRAME and len(part) > 1:
            # cut so that the next try is likely to fit; specs differ, so it may take another
            count = max(1, len(part) * (MAX_FRAME - HEADER) // (len(payload) + len(payload) // 8))
            continue
        if len(payload) > MAX_FRAME:
            raise Refused(f"job {start} of the batch takes {len(payload)} bytes: at most {MAX_FRAME}")
        yield payload
        start = end
        if start == len(specs):
            return


def _values(options: JobOptions, caller: Caller, usual_env: str) -> dict[str, Any]:
    """Return what was given, None as if it was not, with the environment and the folder worked out."""
    if unknown := options.keys() - _OPTIONS:
        raise TypeError(f"no option {min(unknown)!r}: {nearest(min(unknown), _OPTIONS)}")
    values: dict[str, Any] = {key: value for key, value in options.items() if value is not None}
    if "cwd" in values:
        folder = Path(values["cwd"])
        values["cwd"] = str(folder if folder.is_absolute() else caller.folder / folder)
    passed, extra = values.pop("env_pass", usual_env), values.pop("env", None)
    if passed != usual_env or extra is not None:
        values["env"] = caller.chosen_environment(passed) | dict(extra or {})
    return values


def _at_home(spec: JobSpec, caller: Caller) -> JobSpec:
    """Give a command the caller's folder and umask, if it names none."""
    if spec.argv is None or (spec.cwd is not None and spec.umask is not None):
        return spec
    return replace(
        spec,
        cwd=str(caller.folder) if spec.cwd is None else spec.cwd,
        umask=caller.umask if spec.umask is None else spec.umask,
    )


def _arguments(args: Sequence[object], kwargs: Mapping[str, object]) -> str:
    if isinstance(args, str):
        raise TypeError(f"args is a list, not the text {args!r}")
    try:
        return json.dumps({"args": list(args), "kwargs": dict(kwargs)}, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise TypeError(f"args and kwargs must be what JSON can say: {error}") from error


def _converted(values: dict[str, Any]) -> JobSpec:
    try:
        return msgspec.convert(values, JobSpec)
    except msgspec.ValidationError as error:
        message, _, key = str(error).partition(" - at `$.")
        raise Refused(f"{key.rstrip('`')}: {message}" if key else message) from error
