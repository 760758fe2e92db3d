"""Running: a class job in this process, by the worker's own code, and what became of it."""

from __future__ import annotations

import asyncio
import contextvars
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from bgd.core.job import Outcome
from bgd.core.target import python_target
from bgd.wire.calls import MAX_DOCUMENT, AttemptReport, read_result, request
from bgd.worker import process
from bgd.worker.job import carry_out, provide_bgd_job, read

_INTERRUPTED = "KeyboardInterrupt"


def run(
    target: str,
    arguments: str | None,
    allowed: Sequence[str] | None,
    hear: Callable[[float | None, str | None], object],
) -> tuple[AttemptReport, int]:
    """Run a job to its end, once; return its account of itself, and its exit code.

    `allowed` are the entries by which an inherited method is judged, None: it may be called.
    `hear` is called with what it says of how far it is.

    It runs in this thread; in one of its own where an event loop runs here, under which a coroutine could not
    be waited for.

    Raises:
        KeyboardInterrupt: somebody wants the tests to end.
    """
    import bgd_job  # type: ignore[import-not-found]  # noqa: PLC0415 - it is there since provide_helpers

    process.become_job_process()  # this may be a child that was forked since
    heard_before = bgd_job.hearer.set(hear)
    try:
        document, exit_code = (_apart if _has_loop() else _run)(target, arguments, allowed)
    finally:
        bgd_job.hearer.reset(heard_before)
    account = read_result(document, Outcome.EXIT if exit_code else Outcome.SUCCEEDED)
    if account.error is not None and account.error.type == _INTERRUPTED:
        raise KeyboardInterrupt
    return account, exit_code


def provide_helpers() -> None:
    """Let jobs import bgd_job, as they can under a daemon."""
    if _PROVIDED.acquire(blocking=False):  # once, and for good: modules keep what they have imported
        provide_bgd_job()


def _run(target: str, arguments: str | None, allowed: Sequence[str] | None) -> tuple[bytes, int]:
    result_fd = os.memfd_create("bgd result")
    try:
        try:
            exit_code = carry_out(read(request(python_target(target), arguments, (), allowed)), result_fd)
        except SystemExit as leaving:
            exit_code = _code_of(leaving)
        return os.pread(result_fd, MAX_DOCUMENT + 1, 0), exit_code
    finally:
        os.close(result_fd)


def _apart(target: str, arguments: str | None, allowed: Sequence[str] | None) -> tuple[bytes, int]:
    with ThreadPoolExecutor(max_workers=1) as apart:
        return apart.submit(contextvars.copy_context().run, _run, target, arguments, allowed).result()


def _has_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _code_of(leaving: SystemExit) -> int:
    """Return what an interpreter makes of the end of its program."""
    if leaving.code is None or isinstance(leaving.code, int):
        return (leaving.code or 0) & 0xFF
    return 1


_PROVIDED = threading.Lock()
