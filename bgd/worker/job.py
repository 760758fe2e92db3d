"""Run one job: from its description in JSON to the JSON document in its result file."""

from __future__ import annotations

import json
import os
import sys
import traceback  # imported here, before the job's own folders come first on sys.path
from types import TracebackType

from .callables import Refusal, attribute, call, resolve, with_cause, without_retry
from .process import exit_if_forked, flush, log, redirect_to_null
from .stopping import NO_REASON, StopHandler, dump_on_signal

TYPE_CHECKING = False  # not typing's: importing that takes a tenth of an interpreter's start
if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager
    from typing import Any, Protocol, Union

    Job = Union[dict[str, Any], Refusal]  # noqa: UP007 - Python 3.9 needs Union

    class Result(Protocol):
        """Takes the result document of a job, and reads why the job is stopped."""

        def write(self, document: bytes) -> None: ...
        def stop_handler(self, signal_name: str | None) -> AbstractContextManager[Any]: ...


# bgd.core.spec has these too, and cannot be imported here; a test compares them.
MAX_RESULT = 1_000_000  # bytes of JSON
MAX_DEPTH = 200  # of nested lists and objects in a result; many JSON readers take little more
MAX_TEXT = 65_536  # bytes of an error's message, and of its traceback

STOP_REASON_AT = 1 << 21  # bgd/launcher/spawn.py has it too: beyond any document; one byte

_INSTEAD = "write it to a file, and return the path"
_MAX_LINE = 1000  # characters of an error on one line
_MAX_BASES = 100  # base classes named for an error
_MAX_BASE_NAME = 200  # characters; names in the configuration are shorter

to_json = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode
_decode = json.JSONDecoder().raw_decode

_WORKER = os.path.dirname(__file__)  # noqa: PTH120  pathlib is slow to import
_BGD_JOB = __file__.rpartition("/")[0] + "/../inside/bgd_job/__init__.py"


def main() -> int:
    """Run the job that standard input describes, in an interpreter of its own; return the exit code.

    Raises:
        SystemExit: the job chose its own exit code.
    """
    result_fd = int(os.environ.pop("BGD_RESULT_FD"))
    os.set_inheritable(result_fd, False)
    with os.fdopen(0, "rb", closefd=False) as stdin:
        text = stdin.read()
    redirect_to_null(os.O_RDONLY, 0)
    dump_on_signal()
    return carry_out(read(text), ResultFile(result_fd))


def read(text: str | bytes) -> Job:
    """Return the described job, or a Refusal that says why it cannot be read; `carry_out` reports that."""
    try:
        job: dict[str, Any] = decode(text)
    except (ValueError, RecursionError) as error:  # not JSON, a number with too many digits; nested too deep
        return Refusal(f"the job cannot be read: {error}")
    return job


class ResultFile:
    """The file that takes the result document of a job, and holds the reason of a stop."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._identity = os.fstat(fd)

    def write(self, document: bytes) -> None:
        """Write the document.

        Raises:
            OSError: the job has closed the file.
        """
        if not is_still(self._fd, self._identity):
            raise OSError("the job closed the file for its result, so the result is lost")
        written = 0
        while written < len(document):
            # pwrite, because the file offset tells the launcher whether the job began: see forking.py
            written += os.pwrite(self._fd, document[written:], written)

    def stop_handler(self, signal_name: str | None) -> StopHandler:
        """Return the handler that raises in the job when it is stopped."""
        return StopHandler(signal_name, self._stop_reason)

    def _stop_reason(self) -> int:
        if not is_still(self._fd, self._identity):
            return NO_REASON
        return int.from_bytes(os.pread(self._fd, 1, STOP_REASON_AT), "little")


def carry_out(job: Job, result: Result) -> int:
    """Run the job, and let `result` take its document; return 1 after an error, else 0.

    Raises:
        SystemExit: the job chose its own exit code; there is no document then.
    """
    exit_code = 1
    try:
        document = b'{"ok":' + _encoded(_run(job, result)) + b"}"
        exit_code = 0
    except SystemExit:
        raise
    except Refusal as refusal:
        document = json.dumps({"refused": _capped(str(refusal))}).encode()
        log(f"refused: {refusal}\n")
    except BaseException as error:  # noqa: BLE001 - whatever the job raised is its outcome
        document, exit_code = _after_exception(error)
    _end_bgd_job()
    flush()
    exit_if_forked(exit_code)
    result.write(document)
    return exit_code


def _encoded(value: object) -> bytes:
    try:
        return encode_result(value)
    except (TypeError, ValueError) as error:
        without_retry(error)  # the job's work is done, and a retry would do it again
        raise


def _run(job: Job, result: Result) -> object:
    """Import, resolve and call the target; await what it returns if that is awaitable."""
    if isinstance(job, Refusal):
        raise job
    path = job["path"]
    if sys.path[: len(path)] != path:  # a warm worker has set it already
        sys.path[:0] = path
    function = resolve(job["module"], job["name"], job["method"], job.get("allowed"))
    with result.stop_handler(job.get("stop_signal")) as stop:
        if "around" not in job:
            return _value(function, job["arguments"], stop)
        with _around(job):
            return _value(function, job["arguments"], stop)


def _around(job: dict[str, Any]) -> AbstractContextManager[object]:
    """Return the context manager that [python] around of the configuration makes for a job."""
    import bgd_job  # noqa: PLC0415 - only jobs with such a context manager need it

    module, _, name = job["around"].partition(":")
    method = f".{job['method']}" if job["method"] else ""
    function: Any = attribute(module, name)
    made: Any = call(function, (bgd_job.current(), f"{job['module']}:{job['name']}{method}"), {})
    return made  # type: ignore[no-any-return]


def _value(function: Callable[..., object], given: dict[str, Any], stop: Any) -> object:
    kwargs = given.get("kwargs", {})
    if "BGD_CAUSE_ID" in os.environ:
        kwargs = with_cause(function, kwargs)
    value = call(function, given.get("args", ()), kwargs)
    # isinstance(value, Awaitable) would do a search and cache it, and a new process has nothing cached
    is_awaitable = getattr(type(value), "__await__", None) is not None
    return _awaited(value, stop) if is_awaitable else value


def _awaited(value: Any, stop: Any) -> object:
    import asyncio  # noqa: PLC0415 - slower to import than everything before it, and most jobs do without

    async def wait() -> object:
        stop.task = asyncio.current_task()
        return await value

    return asyncio.run(wait())


def _after_exception(error: BaseException) -> tuple[bytes, int]:
    """Log an exception; return the result document for it, and the exit code."""
    account, wish = _describe(error), _wish_of(error)
    if wish is not None and wish.get("aim") == "snooze":  # not a failure, so a traceback would only mislead
        log("snoozed: " + (account["message"] or "no reason given") + "\n")
        return json.dumps({"wish": {**wish, "message": account["message"]}}).encode(), 0
    log(account["traceback"])
    return json.dumps({"error": account} if wish is None else {"wish": {**wish, **account}}).encode(), 1


def is_still(fd: int, file: os.stat_result) -> bool:
    """Return whether the descriptor still is this file: the job may have closed or replaced it."""
    try:
        return os.path.samestat(os.fstat(fd), file)
    except OSError:
        return False


# --- JSON: what a job is told, and what becomes of it.


def decode(text: str | bytes) -> Any:
    """Return the JSON value at the start of the text.

    bgd writes no spaces around a document, and looking for them would cost as much as reading the rest.

    Raises:
        ValueError, RecursionError: not JSON, or a number has too many digits; nested too deep.
    """
    return _decode(text if isinstance(text, str) else text.decode())[0]


def encode_result(value: object) -> bytes:
    """Return a job's result as JSON.

    Raises:
        TypeError, ValueError: JSON cannot hold it, or it exceeds a limit.
    """
    if value is None:  # the result of most jobs
        return b"null"
    _check_shape(value)
    try:
        text = to_json(value).encode()
    except TypeError as error:
        raise TypeError(f"the result is not JSON: {error}") from None
    except ValueError as error:  # NaN, infinity, lone surrogates, integers with too many digits
        raise ValueError(f"the result is not JSON: {error}") from None
    if len(text) > MAX_RESULT:
        raise ValueError(f"the result has {len(text)} bytes of JSON, the limit is {MAX_RESULT}: {_INSTEAD}")
    return text


def _check_shape(value: object) -> None:
    """Refuse keys that json would silently turn into text, and cycles and depths before json meets them."""
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
                        raise TypeError(f"the result has the key {key!r}: JSON allows only text as a key")
                below.extend(item.values())
            elif isinstance(item, (list, tuple)):
                below.extend(item)
            if len(below) > MAX_RESULT:
                most = f"the limit of {MAX_RESULT} bytes of JSON"
                raise ValueError(f"the result has more than {most}: {_INSTEAD}")
        level = below


def _wish_of(error: BaseException) -> dict[str, object] | None:
    """Return the next step that an exception asks for (retry, fail, snooze); None if it asks for none.

    It is one of bgd_job, or one that `without_retry` has marked. The class is not compared, so that it may
    come from any copy of bgd_job.
    """
    is_of_class = hasattr(type(error), "bgd_wish")
    wish = getattr(error, "bgd_wish", None) if is_of_class else vars(error).get("bgd_wish")
    return wish if isinstance(wish, dict) else None


def error_line(error: BaseException) -> str:
    """Return type and message of an error on one line of limited length."""
    account = _describe(error)
    return " ".join(f"{account['type']}: {account['message']}".split())[:_MAX_LINE]


def _describe(error: BaseException) -> dict[str, Any]:
    """Return type, message, traceback and names of base classes (nearest first) of an exception."""
    kind = type(error)
    try:
        message = str(error)
    except Exception as second:  # noqa: BLE001 - the job's own __str__ failed
        message = f"(its text could not be made: {type(second).__name__})"
    lines = traceback.format_exception(kind, error, _below_the_worker(error.__traceback__))
    return {
        "type": _capped(_name_of(kind)),
        "message": _capped(message),
        "traceback": _capped("".join(lines)),
        "bases": [_name_of(base)[:_MAX_BASE_NAME] for base in kind.__mro__[1:-1]][:_MAX_BASES],
    }


def _name_of(kind: type) -> str:
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def _below_the_worker(frames: TracebackType | None) -> TracebackType | None:
    """Return only the job's own frames: those below the last frame of the worker."""
    below = last = frames
    while frames is not None:
        if frames.tb_frame.f_code is StopHandler.handle.__code__ and last is not None:
            last.tb_next = None  # the job's code was here when the stop signal came
            break
        if os.path.dirname(frames.tb_frame.f_code.co_filename) == _WORKER:  # noqa: PTH120  pathlib is slow to import
            below = frames.tb_next
        last, frames = frames, frames.tb_next
    return below


def _capped(text: str) -> str:
    """Return the text with lone surrogates escaped, and without its middle if it exceeds MAX_TEXT."""
    data = text.encode(errors="backslashreplace")
    if len(data) <= MAX_TEXT:
        return data.decode()
    half = MAX_TEXT // 2
    head, tail = data[:half].decode(errors="ignore"), data[-half:].decode(errors="ignore")
    return f"{head}\n... {len(data) - 2 * half} bytes left out ...\n{tail}"


# --- bgd_job: every class job can import it, whether its interpreter has it installed or not.


def provide_bgd_job() -> None:
    """Let `import bgd_job` find bgd's own copy, at no cost until a job imports it.

    No folder is added to sys.path: that would offer whatever else lies in it too.
    """
    sys.meta_path.insert(0, _Finder)  # type: ignore[arg-type]  # a class works as well as an instance


def _end_bgd_job() -> None:
    """Send the progress that `bgd_job` still holds back, and close its connections, if it has any."""
    for name in ("bgd_job._reporter", "bgd_job._steps"):
        module = sys.modules.get(name)
        if module is not None:
            module.end()


class _Finder:
    @staticmethod
    def find_spec(name: str, path: object = None, target: object = None) -> object:
        del path, target
        if name != "bgd_job" or not os.path.exists(_BGD_JOB):  # noqa: PTH110  pathlib is slow to import
            return None
        from importlib.util import spec_from_file_location  # noqa: PLC0415 - most jobs do without

        return spec_from_file_location(name, _BGD_JOB)
