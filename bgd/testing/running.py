"""Run a class job in this process, with the worker's own code, and stop it."""

from __future__ import annotations

import asyncio
import contextvars
import ctypes
import signal
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Self

from bgd.core.job import Outcome
from bgd.core.spec import JobSpec
from bgd.core.target import python_target
from bgd.wire.class_jobs import AttemptReport, read_result, worker_request
from bgd.worker import process
from bgd.worker.job import carry_out, provide_bgd_job, read
from bgd.worker.stopping import NO_REASON, REASONS, StopHandler, raise_for_cancellation
from bgd.worker.warm_job import exit_code_of

_INTERRUPTED = "KeyboardInterrupt"


def provide_bgd_job_once() -> None:
    """Let jobs import bgd_job, as they can under a daemon."""
    if _PROVIDED.acquire(blocking=False):  # for good, because modules keep what they have imported
        provide_bgd_job()


_PROVIDED = threading.Lock()


class InlineRun:
    """One run of a class job; it takes the result document from the worker's code.

    `outcome`: why it was stopped, None if it was not.
    """

    def __init__(self) -> None:
        self.document = b""
        self.outcome: Outcome | None = None
        self._lock = threading.RLock()  # a job may cancel itself
        self._code: _StoppableCode | None = None  # while it runs

    def carry_out(
        self,
        spec: JobSpec,
        allowed: Sequence[str] | None,
        on_progress: Callable[[float | None, str | None], None],
        on_step: Callable[[dict[str, Any], object], None],
    ) -> tuple[AttemptReport, int]:
        """Run the job once; return its report, and its exit code.

        It runs in this thread, or in a thread of its own if an event loop runs here, because that loop could
        not run a coroutine to its end. `allowed`: the entries that an inherited method is checked against,
        None: it may be called.

        Raises:
            KeyboardInterrupt: the user wants to end the tests.
        """
        import bgd_job  # noqa: PLC0415 - exists since provide_bgd_job_once
        from bgd_job import _steps  # noqa: PLC0415 - likewise

        process.become_job_process()  # again, because this may be a forked child
        request = worker_request(python_target(spec.target or ""), spec.arguments, (), allowed)
        run = partial(exit_code_of, lambda: carry_out(read(request), self))
        previous = bgd_job.listener.set(on_progress)
        log = _steps.log.set(_steps.StepLog(0, lambda: ("", {}), on_step))
        try:
            if _has_loop():
                context = contextvars.copy_context()
                with ThreadPoolExecutor(max_workers=1) as pool:
                    exit_code = pool.submit(context.run, run).result()
            else:
                exit_code = run()
        finally:
            bgd_job.listener.reset(previous)
            _steps.log.reset(log)
        report = read_result(
            self.document, self.outcome or (Outcome.EXIT if exit_code else Outcome.SUCCEEDED)
        )
        if report.error is not None and report.error.type == _INTERRUPTED:
            raise KeyboardInterrupt
        return report, exit_code

    def write(self, document: bytes) -> None:
        self.document = document

    def stop_handler(self, _signal_name: str | None) -> _StoppableCode:
        return _StoppableCode(self._set_code)

    def stop(self, reason: Outcome) -> None:
        """Raise in the job's code, unless it has ended."""
        with self._lock:
            if self._code is not None and self.outcome is None:
                self.outcome = reason
                self._code.stop(_REASONS[reason])

    def _set_code(self, code: _StoppableCode | None) -> None:
        with self._lock:
            self._code = code


class _StoppableCode:
    """The code of a job that runs in this thread. In the main thread a blocking call is interrupted too."""

    def __init__(self, set_code: Callable[[_StoppableCode | None], None]) -> None:
        self.task: Any = None
        self._set_code = set_code
        self._reason = NO_REASON
        self._error: BaseException | None = None
        self._thread = threading.get_ident()
        is_main = self._thread == threading.main_thread().ident
        self._handler = StopHandler("RTMIN", lambda: self._reason) if is_main else None

    def __enter__(self) -> Self:
        if self._handler is not None:
            self._handler.__enter__()
        self._set_code(self)
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        self._set_code(None)
        if self._handler is not None:
            self._handler.disarm()
            self._error = self._handler.error
        else:
            _raise_in(self._thread, None)
        raise_for_cancellation(self._error, error)

    def stop(self, reason: int) -> None:
        """Cancel the coroutine, or raise in the thread."""
        import bgd_job  # noqa: PLC0415 - exists since provide_bgd_job_once

        self._reason = reason
        kind = getattr(bgd_job, REASONS[reason])
        if self._handler is not None:
            self._handler.task = self.task
            signal.pthread_kill(self._thread, signal.SIGRTMIN)
        elif self.task is not None:
            self._error = kind()
            self.task.get_loop().call_soon_threadsafe(self.task.cancel)
        else:
            _raise_in(self._thread, kind)


_REASONS = {Outcome.TIMEOUT: 1, Outcome.CANCELLED: 2}  # keys of REASONS


def _raise_in(thread: int, kind: type[BaseException] | None) -> None:
    """Raise an exception in a thread as soon as it runs Python code; None: no longer."""
    error = ctypes.c_void_p() if kind is None else ctypes.py_object(kind)
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), error)


def _has_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
