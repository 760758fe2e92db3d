"""One job, from its description to its result file."""

from __future__ import annotations

import json
import os
import sys

from .account import capped, json_of, told, wished
from .callables import Refusal, resolved
from .helpers import say_the_rest
from .notation import decoded
from .process import leave_if_forked
from .streams import flush, log

TYPE_CHECKING = False  # as typing's, whose import is a tenth of an interpreter's start
if TYPE_CHECKING:
    from typing import Any, Union

    Job = Union[dict[str, Any], Refusal]  # noqa: UP007 - as Python 3.9 has it


def read(text: str | bytes) -> Job:
    """Return what the text says, or why it cannot be read, which is for `carry_out` to tell."""
    try:
        job: dict[str, Any] = decoded(text)
    except (ValueError, RecursionError) as error:  # no JSON, a number of too many digits; nested too deep
        return Refusal(f"the job cannot be read: {error}")
    return job


def carry_out(job: Job, result_fd: int) -> int:
    """Do the job, write what became of it to the file; return 1 after an error, else 0.

    Raises:
        SystemExit: the job chose its own exit code; there is no document then.
    """
    result_file = os.fstat(result_fd)
    exit_code = 1
    try:
        document = b'{"ok":' + json_of(_run(job)) + b"}"
        exit_code = 0
    except SystemExit:
        raise
    except Refusal as refusal:
        document = json.dumps({"refused": capped(str(refusal))}).encode()
        log(f"refused: {refusal}\n")
    except BaseException as error:  # noqa: BLE001 - whatever the job raised is its outcome
        document, exit_code = _after_exception(error)
    say_the_rest()
    flush()
    leave_if_forked(exit_code)
    if not _is_still(result_fd, result_file):
        raise OSError("the job closed the file for its result, so the result is lost")
    written = 0
    while written < len(document):
        # where the file stands is the launcher's business: see forking
        written += os.pwrite(result_fd, document[written:], written)
    return exit_code


def _is_still(fd: int, file: os.stat_result) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), file)
    except OSError:
        return False


def _after_exception(error: BaseException) -> tuple[bytes, int]:
    """Log an exception; return the document that tells of it, and the exit code."""
    account, wish = told(error), wished(error)
    if wish is None:
        log(account["traceback"])
        return json.dumps({"error": account}).encode(), 1
    if wish.get("aim") == "snooze":  # no failure, and so nothing to look into
        log("snoozed: " + (account["message"] or "no reason given") + "\n")
        return json.dumps({"wish": {**wish, "message": account["message"]}}).encode(), 0
    log(account["traceback"])
    return json.dumps({"wish": {**wish, **account}}).encode(), 1


def _run(job: Job) -> object:
    """Import, resolve and call; wait for the result if it is to be awaited."""
    if isinstance(job, Refusal):
        raise job
    path = job["path"]
    if sys.path[: len(path)] != path:  # else it stands there since the worker began
        sys.path[:0] = path
    function = resolved(job["module"], job["name"], job["method"], job.get("allowed"))
    given = job["arguments"]
    result = function(*given.get("args", ()), **given.get("kwargs", {}))
    # isinstance(result, Awaitable) would look for this and remember it, of which a new process has nothing
    is_awaitable = getattr(type(result), "__await__", None) is not None
    return _waited_for(result) if is_awaitable else result


def _waited_for(result: Any) -> object:
    import asyncio  # noqa: PLC0415 - it takes longer than the rest of the start, and most jobs do without

    async def wait() -> object:
        return await result

    return asyncio.run(wait())
