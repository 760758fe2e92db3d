"""The kinds of values that options take: what people write, made into what the client takes."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Any

import click
import msgspec
from msgspec import Meta

from bgd.client.limits import (
    MAX_BYTES,
    MAX_DURATION,
    MAX_NAME,
    MAX_OPEN_FILES,
    MAX_PERCENT,
    MAX_PRIORITY,
    MAX_PROCESSES,
    MAX_RETRIES,
    MAX_SLOTS,
    Backoff,
    FileBytes,
    MemoryBytes,
    Name,
    Nice,
    OpenFiles,
    Percent,
    Priority,
    ProcessCount,
    QueueName,
    Retries,
    Share,
    SlotCount,
)
from bgd.units import format_duration, parse_duration, parse_size

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

_MAX_CODE = 255  # a byte of what wait(2) tells
_CODES = r"([0-9]{1,3})(?:-([0-9]{1,3}))?"


class Duration(click.ParamType[float]):
    """A duration as in the configuration, in seconds."""

    name = "duration"

    def __init__(self, *, may_be_zero: bool = True) -> None:
        self._may_be_zero = may_be_zero

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Read "90", "5s" or "1h30m"."""
        if isinstance(value, float):
            return value
        try:
            seconds = parse_duration(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)
        if seconds > MAX_DURATION:
            self.fail(f"{value!r} is too long: at most {format_duration(MAX_DURATION)}", param, ctx)
        if not (seconds or self._may_be_zero):
            self.fail("it must be more than 0; without the option there is no limit", param, ctx)
        return seconds


class Size(click.ParamType[int]):
    """A number of bytes as in the configuration."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Read "500kB", "100MB" or "64MiB"."""
        if isinstance(value, int):
            return value
        try:
            return parse_size(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


class Bounded(click.ParamType[Any]):
    """What must be as a job's own type says.

    Args:
        kind: that type.
        rule: what it wants, in words.
    """

    name = "bounded"

    def __init__(self, kind: Any, rule: str) -> None:
        self._kind = kind
        self._rule = rule

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the value as a job takes it."""
        try:
            return msgspec.convert(value, self._kind, strict=False)  # a number comes as text
        except msgspec.ValidationError:
            self.fail(f"{value!r} is not {self._rule}", param, ctx)


class BoundedSize(Bounded):
    """A number of bytes that must be as a job's own type says."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Read "64MB", "1.5GiB" or "4096"."""
        return super().convert(Size().convert(value, param, ctx), param, ctx)


class Percentage(Bounded):
    """Percent of one processor, with or without the sign."""

    name = "percent"

    def __init__(self) -> None:
        super().__init__(
            Percent, f"percent of one processor: a whole number from 1 to {MAX_PERCENT}, as 50 or 150%"
        )

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Read "50" or "50%"."""
        return super().convert(value.removesuffix("%") if isinstance(value, str) else value, param, ctx)


def whole_number(least: int, most: int) -> Bounded:
    """Return the kind of whole numbers from `least` to `most`, both included."""
    return Bounded(Annotated[int, Meta(ge=least, le=most)], f"a whole number from {least} to {most}")


class NameOfQueue(Bounded):
    """A queue's name; a shell is offered those of the queues there are."""

    name = "queue"

    def __init__(self) -> None:
        super().__init__(
            QueueName, "a queue's name: letters, digits, . _ -, at most 64, first a letter or digit"
        )

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """Offer the queues of the daemon, if one answers."""
        del param
        from bgctl.completing import queues_like  # noqa: PLC0415 - only a shell that completes needs it

        return queues_like(ctx, incomplete)


class SlotsOr(click.ParamType[Any]):
    """A number of slots, or a word that stands for None."""

    name = "slots"

    def __init__(self, word: str) -> None:
        self.word = word

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | str:
        """Return the number, or the word itself: None would look as if nothing had been given."""
        if value == self.word:
            return self.word
        try:
            return msgspec.convert(value, SlotCount, strict=False)
        except msgspec.ValidationError:
            self.fail(
                f"{value!r} is neither a number of slots from 1 to {MAX_SLOTS} nor {self.word!r}; "
                "`bgctl pause` lets nothing start",
                param,
                ctx,
            )


class ExitCodes(click.ParamType[tuple[int, ...]]):
    """Exit codes, each once, in order."""

    name = "codes"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, ...]:
        """Read "1,2,70-79"."""
        if isinstance(value, tuple):
            return value
        codes: set[int] = set()
        for word in value.split(","):
            match = re.fullmatch(_CODES, word.strip())
            if match is None:
                self.fail(f"{word!r} is no exit code: write them as 1,2,70-79", param, ctx)
            first, last = int(match[1]), int(match[2] or match[1])
            if not first <= last <= _MAX_CODE:
                self.fail(f"{word!r} are no exit codes from 0 to {_MAX_CODE}, the smaller first", param, ctx)
            codes.update(range(first, last + 1))
        return tuple(sorted(codes))


class Place(click.ParamType[str]):
    """A file, or a folder ("dir"), that a shell completes by itself."""

    name = "path"

    def __init__(self, kind: str, *, may_be_empty: bool = False) -> None:
        self._kind = kind
        self._may_be_empty = may_be_empty

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Take any name but an empty one, as of a script whose variable is: it would mean the folder."""
        if not (value or self._may_be_empty):
            self.fail("the name is empty", param, ctx)
        return str(value)

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """Leave it to the shell."""
        del ctx, param
        from click.shell_completion import CompletionItem  # noqa: PLC0415 - only a shell needs it

        return [CompletionItem(incomplete, type=self._kind)]


ARGUMENT = Place("file", may_be_empty=True)
BACKOFF = Bounded(Backoff, "a number from 1 to 100")
CORE_SIZE = BoundedSize(FileBytes, f"a size of a core file, as 0 or 100MB: at most {MAX_BYTES} bytes")
DURATION = Duration()
FILE = Place("file")
FOLDER = Place("dir")
MEMORY = BoundedSize(MemoryBytes, f"a size of memory: 1MB or more, at most {MAX_BYTES} bytes")
NAME = Bounded(Name, f"a text of 1 to {MAX_NAME} characters")
NICE = Bounded(Nice, "a whole number from -20 to 19")
OPEN_FILES = Bounded(OpenFiles, f"a number of descriptors: a whole number from 16 to {MAX_OPEN_FILES}")
PERCENT = Percentage()
PRIORITY = Bounded(Priority, f"a whole number from -{MAX_PRIORITY} to {MAX_PRIORITY}")
PROCESSES = Bounded(ProcessCount, f"a number of processes: a whole number from 1 to {MAX_PROCESSES}")
QUEUE_NAME = NameOfQueue()
RETRIES = Bounded(Retries, f"a whole number from 0 to {MAX_RETRIES}")
SHARE = Bounded(Share, "a number from 0 to 1")
SIZE = BoundedSize(FileBytes, f"a size from 0 to {MAX_BYTES} bytes")
SLOTS = Bounded(SlotCount, f"a whole number from 1 to {MAX_SLOTS}")
TIME_LIMIT = Duration(may_be_zero=False)
