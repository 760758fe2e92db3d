"""Slurm's controller, asked by Slurm's own programs, with fewer requests than it takes from one user."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

from bgd.clock import elapsed
from bgd.launcher.children import Child, read_all, start_program
from bgd.launcher.context import Context
from bgd.launcher.problems import CannotStart, one_line
from bgd.wire.launching import NotStarted, SlurmStart

SRUN_COST = 4  # requests, measured with Slurm 24.11
_SQUEUE_COST = 2
_SCANCEL_COST = 2
_BURST = 20  # requests at once
_FIRST_PAUSE, _LONGEST_PAUSE = 0.25, 30.0  # seconds until it is asked again, doubled each time
_PATIENCE = 20.0  # seconds for an answer


class RequestLimit:
    """A token bucket: how long to wait for this many requests."""

    def __init__(self, rate: float, now: float) -> None:
        self.rate = rate  # requests a second
        self._tokens = float(_BURST)
        self._at = now

    def take(self, cost: int, now: float) -> float:
        """Take this many requests; return how many seconds to wait before they are sent."""
        self._tokens = min(self._tokens + (now - self._at) * self.rate, _BURST) - cost
        self._at = now
        return max(-self._tokens / self.rate, 0.0)


class Controller:
    """One controller, for all attempts of its executors. Nothing here blocks the event loop."""

    def __init__(self, context: Context, settings: SlurmStart) -> None:
        self._context = context
        self._limit = RequestLimit(settings.requests_per_second, elapsed())
        # what srun needs to know besides its arguments; others of its variables would change their meaning
        conf = settings.conf or os.environ.get("SLURM_CONF", "")
        self.environment = {"SLURM_CONF": conf} if conf else {}
        self._question: asyncio.Future[dict[str, str] | None] | None = None

    def set_rate(self, requests_per_second: float) -> None:
        """Change how many requests it is sent."""
        self._limit.rate = requests_per_second

    async def admit(self, cost: int, until: asyncio.Future[None] | None = None) -> bool:
        """Return when this many requests may be sent; False if `until` was done before."""
        seconds = self._limit.take(cost, elapsed())
        over = self._context.deadlines.timer(seconds)
        await asyncio.wait({over, *([until] if until else [])}, return_when=asyncio.FIRST_COMPLETED)
        over.cancel()
        return until is None or not until.done()

    async def jobs(self) -> dict[str, str] | None:
        """Return the state of each of this user's jobs in Slurm by its name; None: no answer.

        All who ask before the question is sent share its answer.
        """
        if self._question is None:
            self._question = asyncio.get_running_loop().create_future()
            self._context.group.create_task(self._ask())
        return await self._question

    async def cancel(self, name: str) -> None:
        """Cancel the job of this name, whatever becomes of it."""
        await self._scancel(f"--name={name}", "--me")

    async def signal(self, name: str, step: str, signum: int) -> None:
        """Signal the processes of a step, if it still belongs to the job of this name."""
        await self._scancel(
            f"--signal={signal.Signals(signum).name[3:]}", f"--name={name}", *([step] if step else [])
        )

    async def release(self, name: str) -> None:
        """Return once there is no job of this name; cancel one that there is."""
        pause = _FIRST_PAUSE
        while (jobs := await self.jobs()) is None or name in jobs:
            if jobs is not None:
                await self.cancel(name)
            await self._context.deadlines.timer(pause)
            pause = min(pause * 2, _LONGEST_PAUSE)

    async def run(self, name: str, *arguments: str) -> tuple[int, bytes]:
        """Return the exit code and the output of a program of Slurm; one that takes too long is killed."""
        context = self._context
        reader, writer = os.pipe2(os.O_CLOEXEC)
        try:
            path = self.program(name)
            environment = {"PATH": os.defpath, "HOME": str(Path.home()), **self.environment}
            pid = start_program(path, [name, *arguments], environment, (context.null, writer, context.null))
        except (CannotStart, OSError):
            os.close(reader)
            return 1, b""
        finally:
            os.close(writer)
        os.set_blocking(reader, False)
        child, text = Child(pid, context.children), read_all(reader)
        over = context.deadlines.after(_PATIENCE, lambda: context.children.kill(pid))
        code = await child.wait()
        over.cancel()
        context.children.take_usage(pid)
        return code, await text

    def program(self, name: str) -> str:
        """Return the path of one of Slurm's programs.

        Raises:
            CannotStart: it is not on the PATH of this process.
        """
        for folder in os.get_exec_path():
            if os.access(path := f"{folder}/{name}", os.X_OK):
                return path
        problem = f"{name} is not on the PATH of the launcher: install Slurm's client programs"
        raise CannotStart(one_line(NotStarted.NO_PROGRAM, problem))

    async def _ask(self) -> None:
        await self.admit(_SQUEUE_COST)
        question, self._question = self._question, None
        code, text = await self.run("squeue", "--me", "--noheader", "--format=%j|%T")
        assert question is not None  # noqa: S101  only this sets it to None
        lines = (line.partition("|") for line in text.decode(errors="replace").splitlines())
        question.set_result({name: state for name, _, state in lines} if code == 0 else None)

    async def _scancel(self, *arguments: str) -> None:
        await self.admit(_SCANCEL_COST)
        await self.run("scancel", "--quiet", *arguments)
