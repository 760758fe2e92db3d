"""The end of a job that shares its interpreter with the worker: as that of a fresh one."""

from __future__ import annotations

import atexit
import os
import threading

from .streams import flush, log, log_traceback

TYPE_CHECKING = False  # as typing's: the worker keeps its memory small
if TYPE_CHECKING:
    from collections.abc import Callable


def exit_code_of(run: Callable[[], int]) -> int:
    """Return what `run` returns, or the code that what it raises stands for."""
    try:
        return run()
    except SystemExit as leaving:
        if leaving.code is None or isinstance(leaving.code, int):
            return (leaving.code or 0) & 0xFF
        log(f"{leaving.code}\n")
        return 1
    except BaseException as error:  # noqa: BLE001 - the interpreter would end over it
        log_traceback(error)
        return 1


def leave(code: int) -> None:
    """End as an interpreter does, but leave the memory to the kernel: to tidy it up would copy it first."""
    try:
        # waits for the job's threads; there is no public way
        threading._shutdown()  # type: ignore[attr-defined]  # noqa: SLF001
        atexit._run_exitfuncs()  # noqa: SLF001
        flush()
    finally:
        os._exit(code)
