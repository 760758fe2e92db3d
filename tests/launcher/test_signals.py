"""Signals that the launcher itself gets."""

from __future__ import annotations

import subprocess
import sys

from tests.support import DEADLINE, ROOT

# asyncio alone loses the last of these signals and complains of each that it has no room for
CROWDED = """
import asyncio, os, signal
from bgd.launcher.children import Children
from bgd.launcher.loop import Loop
from bgd.launcher.signals import listen

children = Children()

async def main():
    loop = asyncio.get_running_loop()
    told = asyncio.Event()
    children.install(loop)
    listen(loop, told.set)
    ending = await asyncio.create_subprocess_exec("true")
    for _ in range(100_000):
        os.kill(os.getpid(), signal.SIGCHLD)
    os.kill(os.getpid(), signal.SIGTERM)
    await told.wait()
    await ending.wait()

with asyncio.Runner(loop_factory=lambda: Loop(children)) as runner:
    runner.run(main())
"""


def test_told_to_end_among_hundreds_of_ends_it_hears_it_and_complains_of_nothing():
    result = subprocess.run(
        [sys.executable, "-c", CROWDED],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )

    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
