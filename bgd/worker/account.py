"""What became of a job, as JSON: its result, or its error as far as it is the job's own."""

from __future__ import annotations

import json
import os
import traceback  # with the rest, before the job's folders come first on sys.path
from types import TracebackType

TYPE_CHECKING = False  # as typing's, whose import is a tenth of an interpreter's start
if TYPE_CHECKING:
    from typing import Any

# These stand in bgd.core.spec too, which cannot be imported here; a test compares them.
MAX_RESULT = 1_000_000  # bytes of JSON
MAX_DEPTH = 200  # of a result's lists and objects: not every reader of JSON takes much more
MAX_TEXT = 65_536  # bytes of an error's message, and of its traceback
_LINE = 1000  # characters of an error told in one line

_MOST_BASES = 100  # of an error, each a name of so many characters; what a configuration names is shorter
_MOST_OF_A_NAME = 200

_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode

_WORKER = os.path.dirname(__file__)  # noqa: PTH120  pathlib is slow to import


def json_of(value: object) -> bytes:
    """Return a result as JSON.

    Raises:
        TypeError, ValueError: it is none, or more than the limits allow.
    """
    if value is None:  # as of most jobs
        return b"null"
    _check_shape(value)
    try:
        text = _encode(value).encode()
    except TypeError as error:
        raise TypeError(f"the result is no JSON: {error}") from None
    except ValueError as error:  # NaN, infinity, lone surrogates, integers of too many digits
        raise ValueError(f"the result is no JSON: {error}") from None
    if len(text) > MAX_RESULT:
        raise ValueError(f"the result has {len(text)} bytes of JSON, the limit is {MAX_RESULT}")
    return text


def _check_shape(value: object) -> None:
    """Refuse keys that json would turn into text unasked, and cycles and depths before it runs into them."""
    level, depth = [value], 0
    while level:
        depth += 1
        if depth > MAX_DEPTH:
            raise ValueError(f"the result is nested deeper than the limit of {MAX_DEPTH}")
        below: list[object] = []
        for item in level:
            if isinstance(item, dict):
                for key in item:
                    if not isinstance(key, str):
                        raise TypeError(f"the result has the key {key!r}: keys of JSON are text")
                below.extend(item.values())
            elif isinstance(item, (list, tuple)):
                below.extend(item)
            if len(below) > MAX_RESULT:
                raise ValueError(f"the result has more than the limit of {MAX_RESULT} bytes of JSON")
        level = below


def wished(error: BaseException) -> dict[str, object] | None:
    """Return what the exception says is to follow, as those of bgd_job do; None if it says nothing.

    It is not told by its class, so that it may come from any copy of bgd_job.
    """
    wish = getattr(error, "bgd_wish", None) if hasattr(type(error), "bgd_wish") else None
    return wish if isinstance(wish, dict) else None


def told(error: BaseException) -> dict[str, Any]:
    """Return what is to be told of an exception: `bases` are the names of its type's, nearest first."""
    kind = type(error)
    try:
        message = str(error)
    except Exception as second:  # noqa: BLE001 - a __str__ of the job's that fails
        message = f"(its text could not be made: {type(second).__name__})"
    lines = traceback.format_exception(kind, error, _below_the_worker(error.__traceback__))
    return {
        "type": capped(_name_of(kind)),
        "message": capped(message),
        "traceback": capped("".join(lines)),
        "bases": [_name_of(base)[:_MOST_OF_A_NAME] for base in kind.__mro__[1:-1]][:_MOST_BASES],
    }


def _name_of(kind: type) -> str:
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def line_of(error: BaseException) -> str:
    """Return type and message of an error on one line, which is not too long."""
    account = told(error)
    return " ".join(f"{account['type']}: {account['message']}".split())[:_LINE]


def _below_the_worker(frames: TracebackType | None) -> TracebackType | None:
    """Return the frames of the job alone: those below the last one of the worker."""
    below = frames
    while frames is not None:
        if os.path.dirname(frames.tb_frame.f_code.co_filename) == _WORKER:  # noqa: PTH120  pathlib is slow to import
            below = frames.tb_next
        frames = frames.tb_next
    return below


def capped(text: str) -> str:
    """Return the text, its middle left out if it is over the limit; lone surrogates are escaped."""
    data = text.encode(errors="backslashreplace")
    if len(data) <= MAX_TEXT:
        return data.decode()
    half = MAX_TEXT // 2
    head, tail = data[:half].decode(errors="ignore"), data[-half:].decode(errors="ignore")
    return f"{head}\n... {len(data) - 2 * half} bytes left out ...\n{tail}"
