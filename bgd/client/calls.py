"""Calls: one call of a function or target for each of many items, read as they are wanted."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Coroutine, Iterable, Sized
from typing import Any, TypeVar, cast

from msgspec.structs import replace

from bgd.client.specs import Caller, JobOptions, MapOptions, class_spec
from bgd.core.spec import JobSpec
from bgd.errors import Refused
from bgd.jobfunction import Background, background_of

_PORTION_BYTES = 8 << 20  # of arguments in one transaction: all clients of a daemon share what it takes
_PORTION_SECONDS = 0.1  # that a call waits for others to come with it, where the items take their time

A = TypeVar("A")
R = TypeVar("R")

Called = Callable[[A], R] | Background[[A], R]
Awaited = Called[A, Coroutine[Any, Any, R]]
Target = str | Called[Any, Any]


class Calls:
    """The calls for the items of an iterable.

    Attributes:
        name: of what is called.
        total: how many there will be, None: the iterable does not say.
        are_all_read: whether the iterable came to its end.
    """

    def __init__(self, target: Target, items: Iterable[object], options: MapOptions) -> None:
        self.name = target if isinstance(target, str) else getattr(target, "__qualname__", "map")
        self.total = len(items) if isinstance(items, Sized) else None
        self.are_all_read = False
        self._items = enumerate(items)
        self._spec = _maker_of(target, options)
        # with a key each, they can be sent again when nobody knows whether a daemon has taken them
        self._mark = f"map-{os.urandom(8).hex()}"

    def portion(self, most: int) -> list[JobSpec]:
        """Read and return the next ones: at most so many, and what goes well into one transaction.

        Raises:
            TypeError, Refused: an item is no argument, which the message names.
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
        return replace(spec, key=f"{self._mark}-{number}")


def _maker_of(target: Target, options: MapOptions) -> Callable[[object], JobSpec]:
    of_each = {_JOBS_NAME.get(name, name): value for name, value in options.items() if name not in _OF_ALL}
    given = cast(JobOptions, of_each)
    if not isinstance(target, str):
        return background_of(target, given).spec
    caller = Caller()
    return lambda item: class_spec(target, [item], {}, given, caller)


_OF_ALL = {"timeout", "buffersize", "progress"}
_JOBS_NAME = {"time_limit": "timeout"}  # as a job's own option is called
