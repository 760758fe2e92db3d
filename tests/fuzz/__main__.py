"""Fuzz all targets, or one, for some seconds; write each input that breaks one to a file for replay.

make fuzz                        every target, ten minutes in all
make fuzz TIME=60 TARGET=http    one of them
python -m tests.fuzz --replay TARGET FILE
"""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

TIME = 600.0  # seconds for all targets together
MOST_BYTES = 8192  # size of one input
MOST_SECONDS = 10  # that one input may take
MOST_MEGABYTES = 512  # of memory; more is a failure too
NO_ATHERIS = 3  # exit code, none of libFuzzer's


def main() -> int:
    arguments = _parser().parse_args()
    if arguments.replay is not None:
        target, file = arguments.replay
        _targets()[target](Path(file).read_bytes())
        return 0
    try:
        importlib.import_module("atheris")
    except ImportError:
        print("*** NOT FUZZED: atheris is not installed; it exists for CPython on x86_64 only ***")
        return NO_ATHERIS
    if arguments.inside:
        return _fuzz(arguments.target[0], int(arguments.time))
    return _fuzz_all(arguments.target or list(_targets()), arguments.time, arguments.processes)


def _fuzz_all(names: list[str], seconds: float, processes: int) -> int:
    """Fuzz each target for its share of the time, some of them in parallel."""
    processes = min(processes, len(names))
    share = max(1, round(seconds * processes / len(names)))
    with ThreadPoolExecutor(processes) as pool:
        codes = list(pool.map(lambda name: _fuzz_apart(name, share), names))
    return max(codes)


def _fuzz_apart(name: str, seconds: int) -> int:
    """Fuzz in a new process; print the result on a line, and all of its output if it failed."""
    command = [sys.executable, "-m", "tests.fuzz", "--inside", "--target", name, "--time", str(seconds)]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    words = [line for line in done.stderr.splitlines() if line.startswith(("Done ", "artifact_prefix"))]
    print(f"{name}: {'well' if done.returncode == 0 else 'FAILED'}; {'; '.join(words)}", flush=True)
    if done.returncode:
        print(done.stdout[-5000:], done.stderr[-5000:], sep="\n", flush=True)
    return done.returncode


def _fuzz(name: str, seconds: int) -> int:
    """Fuzz one target in this process, which libFuzzer will end."""
    import atheris

    logging.disable(logging.CRITICAL)
    with atheris.instrument_imports(include=["bgd", "bgctl"]):
        target = _targets()[name]
    with tempfile.TemporaryDirectory(prefix="bgd-corpus-") as corpus:
        for number, seed in enumerate(importlib.import_module("tests.fuzz.seeds").seeds_of(name)):
            Path(corpus, str(number)).write_bytes(seed)
        limits = [f"-max_len={MOST_BYTES}", f"-timeout={MOST_SECONDS}", f"-rss_limit_mb={MOST_MEGABYTES}"]
        options = [*limits, f"-max_total_time={seconds}", f"-artifact_prefix={Path.cwd()}/crash-{name}-"]
        atheris.Setup([sys.argv[0], *options, corpus], target)
        atheris.Fuzz()
    return 0


def _targets() -> dict[str, Callable[[bytes], None]]:
    targets: Any = importlib.import_module("tests.fuzz.targets")
    found: dict[str, Callable[[bytes], None]] = targets.TARGETS
    return found


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.fuzz", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--target", action="append", help="fuzz only this target")
    parser.add_argument("--time", type=float, default=TIME, help="seconds for all targets together")
    parser.add_argument("--processes", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--replay", nargs=2, metavar=("TARGET", "FILE"), help="try one input again")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    sys.exit(main())
