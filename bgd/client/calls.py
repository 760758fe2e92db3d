"""The calls of a `map`: one spec for each item, made when it is needed."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Coroutine, Iterable, Sized
from typing import Any, TypeVar, cast

from msgspec.structs import replace

from bgd.client.options import JobOptions, MapOptions
from bgd.client.specs import Caller, class_spec, seconds_of
from bgd.core.spec import JobSpec
from bgd.errors import Refused
from bgd.jobfunction import Background, background_of

DEFAULT_BUFFERSIZE = 1000  # jobs: enough for fast slots, few enough for any memory
_PORTION_BYTES = 8 << 20  # of arguments in one transaction: all clients of a daemon share its memory
_PORTION_SECONDS = 0.1  # that a call waits for more calls, if reading the items takes time

A = TypeVar("A")
R = TypeVar("R")

Called = Callable[[A], R] | Background[[A], R]
Awaited = Called[A, Coroutine[Any, Any, R]]
Target = str | Called[Any, Any]


class Calls:
    """The calls for the items of an iterable.

    Attributes:
        name: the target's name.
        total: number of items, None: unknown.
        are_all_read: whether the iterable has ended.
        timeout, progress, buffersize: see MapOptions.
    """

    def __init__(self, target: Target, items: Iterable[object], options: MapOptions) -> None:
        self.name = target if isinstance(target, str) else getattr(target, "__qualname__", "map")
        self.total = len(items) if isinstance(items, Sized) else None
        self.are_all_read = False
        self.timeout = seconds_of(options.get("timeout"))
        self.progress = options.get("progress")
        self.buffersize = options.get("buffersize", DEFAULT_BUFFERSIZE)
        if self.buffersize < 1:
            raise ValueError("buffersize must be >= 1")
        self._items = enumerate(items)
        self._spec = _spec_maker(target, options)
        # each job gets a key, so that it can be submitted again if the answer was lost
        self._key_prefix = f"map-{os.urandom(8).hex()}"

    def portion(self, most: int) -> list[JobSpec]:
        """Read the next items, at most `most` and only as many as suit one transaction; return their specs.

        Raises:
            TypeError, Refused: an item cannot be an argument. The message names it.
        """
        specs: list[JobSpec] = []
        size, began_at = 0, time.monotonic()
        for number, item in self._items:
            spec = self._numbered(number, item)
            specs.append(spec)
            size += len(spec.arguments or "")
            is_late = time.monotonic() - began_at > _PORTION_SECONDS
            if len(specs) == most or size > _PORTION_BYTES or is_late:
                return specs
        self.are_all_read = True
        return specs

    def _numbered(self, number: int, item: object) -> JobSpec:
        try:
            spec = self._spec(item)
        except (TypeError, Refused) as error:
            raise type(error)(f"item {number}: {error}") from error
        if spec.key is not None:
            raise Refused("map gives each job a key of its own: one key would make one job of all items")
        return replace(spec, key=f"{self._key_prefix}-{number}")


def _spec_maker(target: Target, options: MapOptions) -> Callable[[object], JobSpec]:
    job_options = {
        _JOB_OPTION_NAMES.get(name, name): value for name, value in options.items() if name not in _OF_THE_MAP
    }
    given = cast(JobOptions, job_options)
    if not isinstance(target, str):
        return background_of(target, given).spec
    caller = Caller()
    return lambda item: class_spec(target, [item], {}, given, caller)


_OF_THE_MAP = {"timeout", "buffersize", "progress"}
_JOB_OPTION_NAMES = {"time_limit": "timeout"}
