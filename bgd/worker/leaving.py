"""The exit code of a job that shares its interpreter with the worker: what a fresh one would end with."""

from __future__ import annotations

from .streams import log, log_traceback

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
