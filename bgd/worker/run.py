"""The worker program: runs one class job in the user's own interpreter, which need not have bgd.

It is started as a script and reads from standard input one JSON document,
{"module", "name", "method" | null, "arguments": {"args", "kwargs"}, "path"}. To the file whose descriptor
stands in BGD_RESULT_FD it writes one of {"ok": VALUE}, {"error": {"type", "message", "traceback"}} and
{"refused": "why"}.
All that the job prints is its log. It is one file, and uses nothing but the standard library of Python 3.9,
so that nothing of bgd stands in the way of the job's own modules.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import traceback  # with the rest, before the job's folders come first on sys.path
from collections.abc import Awaitable, Callable
from types import TracebackType

TYPE_CHECKING = False  # as typing's, whose import is a tenth of an interpreter's start
if TYPE_CHECKING:
    from typing import Any

# These stand in bgd.core.spec too, which cannot be imported here; a test compares them.
MAX_RESULT = 1_000_000  # bytes of JSON
MAX_DEPTH = 200  # of a result's lists and objects: not every reader of JSON takes much more
MAX_TEXT = 65_536  # bytes of an error's message, and of its traceback

_PROCESS = os.getpid()


class Refusal(Exception):
    """What was found under the name is not what the name says."""


def main() -> int:
    """Run the job and return the exit code: 0 after a result, 1 after an error.

    Raises:
        SystemExit: the job chose its own exit code; there is no document then.
    """
    result_fd = int(os.environ.pop("BGD_RESULT_FD"))
    os.set_inheritable(result_fd, False)
    result_file = os.fstat(result_fd)
    exit_code = 1
    try:
        document = b'{"ok":' + _json_of(_run(_take_job())) + b"}"
        exit_code = 0
    except SystemExit:
        raise
    except Refusal as refusal:
        document = json.dumps({"refused": _capped(str(refusal))}).encode()
        _log(f"refused: {refusal}\n")
    except BaseException as error:  # noqa: BLE001 - whatever the job raised is its outcome
        told = _told(error)
        document = json.dumps({"error": told}).encode()
        _log(told["traceback"])
    _flush()
    _leave_if_forked(exit_code)
    if not os.path.samestat(os.fstat(result_fd), result_file):
        raise OSError("the job closed its result file and opened another under the same number")
    while document:
        document = document[os.write(result_fd, document) :]
    return exit_code


# --- the job ------------------------------------------------------------------------------------------


def _take_job() -> dict[str, Any]:
    with os.fdopen(0, "rb", closefd=False) as stdin:
        text = stdin.read()
    _point_to_nothing(0, os.O_RDONLY)
    try:
        job: dict[str, Any] = json.loads(text)
    except (ValueError, RecursionError) as error:  # no JSON, a number of too many digits; nested too deep
        raise Refusal(f"the job cannot be read: {error}") from None
    return job


def _run(job: dict[str, Any]) -> object:
    """Import, resolve and call; wait for the result if it is to be awaited."""
    if not getattr(sys.flags, "safe_path", False):  # which is new in Python 3.11
        del sys.path[0]  # this file's folder: nothing in it is meant for the job
    sys.path[:0] = job["path"]
    function = _resolved(job["module"], job["name"], job["method"])
    given = job["arguments"]
    result = function(*given.get("args", ()), **given.get("kwargs", {}))
    return _waited_for(result) if isinstance(result, Awaitable) else result


def _waited_for(result: Awaitable[object]) -> object:
    import asyncio  # noqa: PLC0415 - it takes longer than the rest of the start, and most jobs do without

    async def wait() -> object:
        return await result

    return asyncio.run(wait())


# --- from a name to what it names ------------------------------------------------------------------------


def _resolved(module: str, name: str, method: str | None) -> Callable[..., object]:
    """Return the function, or the method of a class.

    The name was allowed as text, so what it leads to must have been defined under just that name: an
    imported `subprocess.run` was not.
    """
    if name.startswith("_") or (method or "").startswith("_"):
        raise Refusal(f"{name}.{method}: names that begin with an underscore are private")
    found = _attribute(module, name)
    if isinstance(found, type):
        if method is None:
            raise Refusal(f"{module}:{name} is a class: say which method, as {module}:{name}.METHOD")
        _check_name(found, module, name)
        return _method(found, module, method)
    if method is not None or not callable(found) or not hasattr(found, "__qualname__"):
        raise Refusal(f"{module}:{name} is no {'class' if method else 'function'}")
    _check_name(found, module, name)
    _check_code(found, module, name)
    return found


def _attribute(module: str, name: str) -> object:
    if module == "__main__":
        raise Refusal("__main__ is the worker program, not a module of the job")
    try:
        __import__(module)
    except ModuleNotFoundError as error:
        error.msg = f"{error}{_where_it_was_looked_for(module, error.name or '')}"
        raise
    _leave_if_forked(0)
    try:
        return getattr(sys.modules[module], name)
    except AttributeError:
        raise AttributeError(f"module {module!r} has no {name!r}") from None


def _where_it_was_looked_for(module: str, missing: str) -> str:
    if f"{module}.".startswith(f"{missing}."):
        return (
            f" on the path {os.pathsep.join(sys.path)} of {sys.executable}: set [python] path or interpreter"
        )
    return f", which {module} needs, for {sys.executable}: install it there, or set [python] interpreter"


def _method(owner: type, module: str, method: str) -> Callable[..., object]:
    """Return a class's own or inherited method, bound to a new instance unless it is one of the class."""
    named = f"{owner.__qualname__}.{method}"
    home = next((base for base in owner.__mro__ if method in vars(base)), None)
    if home is None:
        raise AttributeError(f"{module}:{owner.__qualname__} has no method {method!r}")
    definition = vars(home)[method]
    is_of_class = isinstance(definition, (classmethod, staticmethod))
    function = definition.__func__ if is_of_class else definition
    if isinstance(function, type) or not callable(function):
        raise Refusal(f"{module}:{named} is no method")
    if home is owner:
        _check_code(function, module, named)
    bound: Callable[..., object] = getattr(owner if is_of_class else owner(), method)
    return bound


def _check_name(found: Any, module: str, name: str) -> None:
    if (found.__module__, found.__qualname__) != (module, name):
        raise Refusal(
            f"{module}:{name} is another name of {found.__module__}:{found.__qualname__}: allow and call that"
        )


def _check_code(function: object, module: str, name: str) -> None:
    """Refuse a function of another module, even if its own __module__ was overwritten to say otherwise."""
    while "__wrapped__" in getattr(function, "__dict__", {}):  # below what decorators put around it
        function = vars(function)["__wrapped__"]
    # what is not written in Python has no globals, only a word of where it is from
    says = getattr(function, "__module__", None) or module
    home = getattr(function, "__globals__", {"__name__": says}).get("__name__", module)
    if home != module:
        raise Refusal(f"{module}:{name} is defined in {home}: allow and call that")


# --- what became of it -----------------------------------------------------------------------------------


def _json_of(value: object) -> bytes:
    """Return a result as JSON.

    Raises:
        TypeError, ValueError: it is none, or more than the limits allow.
    """
    _check_shape(value)
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
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


def _told(error: BaseException) -> dict[str, str]:
    kind = type(error)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    try:
        message = str(error)
    except Exception as second:  # noqa: BLE001 - a __str__ of the job's that fails
        message = f"(its text could not be made: {type(second).__name__})"
    lines = traceback.format_exception(kind, error, _below_the_worker(error.__traceback__))
    return {"type": _capped(name), "message": _capped(message), "traceback": _capped("".join(lines))}


def _below_the_worker(frames: TracebackType | None) -> TracebackType | None:
    """Return the frames of the job alone: those below the last one of this file."""
    below = frames
    while frames is not None:
        if frames.tb_frame.f_code.co_filename == __file__:
            below = frames.tb_next
        frames = frames.tb_next
    return below


def _capped(text: str) -> str:
    """Return the text, its middle left out if it is over the limit; lone surrogates are escaped."""
    data = text.encode(errors="backslashreplace")
    if len(data) <= MAX_TEXT:
        return data.decode()
    half = MAX_TEXT // 2
    head, tail = data[:half].decode(errors="ignore"), data[-half:].decode(errors="ignore")
    return f"{head}\n... {len(data) - 2 * half} bytes left out ...\n{tail}"


def _log(text: str) -> None:
    _flush()  # what the job printed comes first
    with contextlib.suppress(Exception):  # the job closed or replaced it; the document has the text too
        sys.stderr.write(text)


def _flush() -> None:
    for name, fd in (("stdout", 1), ("stderr", 2)):
        try:
            getattr(sys, name).flush()
        except Exception:  # noqa: BLE001 - nobody reads it, its disk is full, the job closed or replaced it
            # the interpreter would flush it once more at its end, and turn the exit code into 120
            _point_to_nothing(fd, os.O_WRONLY)
            setattr(sys, name, None)


def _point_to_nothing(fd: int, mode: int) -> None:
    nothing = os.open(os.devnull, mode)
    os.dup2(nothing, fd)
    os.close(nothing)


def _leave_if_forked(exit_code: int) -> None:
    """End a child that the job forked and that came back here: there is one result, the parent's."""
    if os.getpid() != _PROCESS:
        _flush()
        os._exit(exit_code)


if __name__ == "__main__":
    sys.exit(main())
