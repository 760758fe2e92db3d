"""Measure the memory of queued jobs in the daemon; print it as JSON.

A supervisor with its control socket and a real database runs in this process, with a scripted launcher.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import tempfile
import tracemalloc
from pathlib import Path

import uvloop

from bgd.wire.launching import Acknowledge, AttemptStarted, Launch
from bgd.wire.replies import Submitted
from bgd.wire.requests import Submit, SubmitMany
from tests.daemon.caller import Caller
from tests.daemon.harness import ServedHarness, command, configure, served
from tests.daemon.scripted_launcher import ScriptedLauncher, end

ROUNDS = 150  # jobs that run, and jobs that wait, before the memory is measured: caches are full then
BATCH = 2_000  # jobs
ENVIRONMENT = {f"VARIABLE_{number:02}": "v" * 85 for number in range(50)}  # as large as that of a shell


async def measure(folder: Path) -> dict[str, int]:
    """Return what is measured; the names are those of the table of bounds."""
    config = configure(folder, "slots = 1")
    launcher = ScriptedLauncher(config.daemon.state_dir)
    await launcher.start()
    try:
        async with served(config, launcher) as life:
            caller = await life.call()
            for _ in range(ROUNDS):
                await attempt(life, caller)
            await submit(caller)
            await launcher.hear(Launch)  # it takes the only slot, so that the others wait
            for _ in range(ROUNDS):
                await submit(caller)
            return await memory(caller)
    finally:
        await launcher.close()


async def memory(caller: Caller) -> dict[str, int]:
    """Return what a large batch holds in memory while it is saved and while it waits."""
    specs = [command("/bin/true", str(number), env=None) for number in range(BATCH)]
    request = SubmitMany(id=1, specs=specs, env=ENVIRONMENT, token=os.urandom(16))
    tracemalloc.start()
    gc.collect()
    before, _ = tracemalloc.get_traced_memory()
    tracemalloc.reset_peak()
    await caller.ask(request, Submitted)
    _, peak = tracemalloc.get_traced_memory()
    gc.collect()
    after, _ = tracemalloc.get_traced_memory()
    return {
        f"bytes of memory, {BATCH} queued jobs": after - before,
        f"peak of memory, batch of {BATCH}": peak - before,
    }


async def submit(caller: Caller) -> None:
    await caller.ask(Submit(1, command(env=ENVIRONMENT), os.urandom(16)), Submitted)


async def attempt(life: ServedHarness, caller: Caller) -> None:
    """Submit a job, which starts and succeeds."""
    await submit(caller)
    launch = await life.launcher.hear(Launch)
    life.launcher.say(AttemptStarted(launch.key, os.getpid(), 1.0, since=1.0), end(launch.key))
    await life.launcher.hear(Acknowledge)


if __name__ == "__main__":
    with (
        tempfile.TemporaryDirectory(prefix="bgd-") as place,
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        print(json.dumps(runner.run(measure(Path(place)))))
