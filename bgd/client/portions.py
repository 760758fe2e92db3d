"""Cuts a batch into portions: jobs that are sent together and share a transaction."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, cast

from msgspec import Struct
from msgspec.structs import replace

from bgd.client.session import batch_frames
from bgd.client.specs import Caller, Item, command_spec, spec_of
from bgd.core.spec import JobSpec, problem_with
from bgd.errors import BgdError, Refused
from bgd.wire.replies import Run, runs_of
from bgd.wire.requests import BatchPlace, NewBatch

if TYPE_CHECKING:
    from bgd.client.options import JobOptions

PORTION = 2_000  # jobs: a transaction of some 20 ms
PORTION_BYTES = 4 << 20  # of their arguments
PATIENCE = 0.1  # seconds that a job waits for later ones


class Portion(Struct, frozen=True):
    """Jobs of some lines of a batch, in order.

    * `env`: the environment of those commands that have none of their own.
    * `lines`: the number of each.
    * `is_last`: no other one follows.
    """

    specs: list[JobSpec]
    env: dict[str, str]
    lines: list[int]
    is_last: bool = False

    @property
    def last(self) -> int:
        return self.lines[-1]

    @property
    def waits(self) -> bool:
        """Whether the daemon must look jobs up, and could take a later portion before this one."""
        return any(spec.after or spec.after_any for spec in self.specs)

    def frames(self, request_id: int, batch: bytes, after: int, new: NewBatch | None = None) -> bytes:
        """Return its request, for jobs of a batch if one is given; raises as `batch_frames` does."""
        fields: dict[str, Any] = {"place": BatchPlace(batch, after, ranges_of(self.lines))}
        if new is not None:
            fields["batch"] = replace(new, is_whole=self.is_last)
        return batch_frames(request_id, specs=self.specs, env=self.env, **fields)

    def found_lines(self, jobs: list[int], found: list[int]) -> frozenset[int]:
        """Return its lines that made no job; `found`: the existing jobs with their keys, with repetitions."""
        if not found:
            return frozenset()
        new = Counter(jobs)
        new.subtract(found)
        lines: list[int] = []
        for line, job in zip(self.lines, jobs, strict=True):
            if new[job] > 0:
                new[job] -= 1
            else:
                lines.append(line)
        return frozenset(lines)


def ranges_of(lines: list[int]) -> list[tuple[int, int]]:
    """Return ascending numbers as pairs of a first number and a count of consecutive ones."""
    if lines[-1] - lines[0] == len(lines) - 1:
        return [(lines[0], len(lines))]
    return [(first, count) for first, _, count in runs_of(lines, lines)]


class SpecMaker:
    """Makes the specs of a batch, whose jobs share options and mostly differ little.

    `env` is the environment of those commands whose spec has none: it is sent once for a portion and stored
    once for all. `folder` is that of those commands that name none.
    """

    def __init__(self, options: JobOptions, caller: Caller) -> None:
        self._caller = caller
        self._shell = bool(options.get("shell"))
        self._options: dict[str, Any] = {name: each for name, each in options.items() if name != "shell"}
        base = command_spec(("true",), cast("JobOptions", self._options), caller)
        self.env = caller.environment if base.env is None else base.env
        self.folder: str = base.cwd or "/"
        self._base = replace(base, env=None)
        self._plain = {name: each for name, each in self._options.items() if name not in _ENVIRONMENT}

    def of_words(self, words: list[str]) -> JobSpec:
        """Return the spec of a command. It has at least one word; words are short texts without NUL."""
        return replace(self._base, argv=tuple(words))

    def of_item(self, item: Item) -> JobSpec:
        """Return the spec of an item, which can override the shared options.

        Raises:
            Refused: a value is out of range or of the wrong type.
            TypeError: it is not an item.
        """
        if isinstance(item, JobSpec):
            spec = spec_of(item, self._caller)
        elif not isinstance(item, Mapping):
            spec = self._with_environment(command_spec(item, self._with_shell(self._plain), self._caller))
        elif item.get("target") is None and not (item.keys() & _ENVIRONMENT):
            spec = self._with_environment(spec_of({**self._with_shell(self._plain), **item}, self._caller))
        elif item.get("target") is None:
            spec = spec_of({**self._with_shell(self._options), **item}, self._caller)
        else:
            spec = spec_of({**self._options, **item}, self._caller)
        if problem := problem_with(spec):
            raise Refused(problem)
        return spec

    def _with_shell(self, options: dict[str, Any]) -> Any:
        return {**options, "shell": True} if self._shell else dict(options)

    def _with_environment(self, spec: JobSpec) -> JobSpec:
        return replace(spec, explicit_env=self._base.explicit_env)


_ENVIRONMENT = frozenset({"env", "env_pass"})


def portions_of(items: Iterable[Item], maker: SpecMaker) -> Iterator[Portion]:
    """Cut items into portions. Their lines are counted from 1.

    A portion is sent as soon as an item arrives late.

    Raises:
        Refused, TypeError: an item cannot be a job; the message says which. The items before it were yielded.
    """
    specs: list[JobSpec] = []
    first, since, size = 1, time.monotonic(), 0
    for number, item in enumerate(items, start=1):
        try:
            spec = maker.of_item(item)
        except (TypeError, BgdError) as error:
            if specs:
                yield Portion(specs, maker.env, list(range(first, number)))
            raise type(error)(f"item {number}: {error}") from error
        specs.append(spec)
        size += sum(map(len, spec.argv or ())) + len(spec.arguments or "")
        is_late = time.monotonic() > since + PATIENCE
        if is_late or len(specs) >= PORTION or size > PORTION_BYTES:
            yield Portion(specs, maker.env, list(range(first, number + 1)))
            specs, first, since, size = [], number + 1, time.monotonic(), 0
    if specs:
        yield Portion(specs, maker.env, list(range(first, first + len(specs))))


def marked(portions: Iterable[Portion]) -> Iterator[Portion]:
    """Mark the last portion. Each one is held back until the next one is read."""
    before: Portion | None = None
    for portion in portions:
        if before is not None:
            yield before
        before = portion
    if before is not None:
        yield replace(before, is_last=True)


def new_batch() -> bytes:
    """Return the identity of a new batch."""
    return os.urandom(16)


def lines_and_jobs(runs: Iterable[Run]) -> Iterator[tuple[int, int]]:
    """Yield each line with its job."""
    for line, job, count in runs:
        yield from zip(range(line, line + count), range(job, job + count), strict=True)
