"""Start and end the bgctl process fast, because scripts run it thousands of times."""

from __future__ import annotations

import gc
import os
import sys

from bgd.system.streams import open_closed_streams

_INTERRUPTED = 130  # as a shell reports SIGINT
_HELP_COLUMNS = 80  # width of the help that `make man` writes; a narrower screen needs the parser
_GC_THRESHOLD = 50_000  # new objects before a collection; imports alone exceed the default of 700


def main() -> None:
    """Run bgctl and exit with its code."""
    open_closed_streams()
    gc.set_threshold(_GC_THRESHOLD)
    try:
        code = _run(sys.argv[1:])
    except KeyboardInterrupt:  # while it still imports; later `run` answers it
        code = _INTERRUPTED
    os._exit(code)  # sys.exit would tear down the interpreter, a seventh of the run time


def _run(arguments: list[str]) -> int:
    if arguments in (["--help"], ["-h"]) and _print_help():
        return 0
    from bgctl.plain import Begun, answer  # noqa: PLC0415 - the help needs nothing of it

    begun = Begun()
    code = answer(arguments, begun)
    if code is not None:
        return code
    from bgctl.program import run  # noqa: PLC0415 - after setting the threshold, and only if needed

    return run(arguments, begun)


def _print_help() -> bool:
    """Print the help from its file, because the parser imports all verbs; return False if it has to do it."""
    try:
        columns = int(os.environ.get("COLUMNS", "0")) or os.get_terminal_size(1).columns
    except (ValueError, OSError):  # not a terminal: click assumes the same width
        columns = _HELP_COLUMNS
    if columns < _HELP_COLUMNS:
        return False
    try:
        with open(f"{__file__.removesuffix('__main__.py')}help.txt") as text:  # noqa: PTH123 - pathlib is slow
            print(text.read(), end="", flush=True)
    except OSError:  # the parser tries again, and reports it
        return False
    return True


if __name__ == "__main__":
    main()
