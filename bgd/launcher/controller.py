"""Slurm's controller, asked by Slurm's own programs, with fewer requests than it takes from one user."""

from __future__ import annotations

import asyncio
import math
import os
import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from msgspec import Struct

from bgd.clock import elapsed
from bgd.launcher.children import Child, read_all, start_program
from bgd.launcher.context import Context
from bgd.launcher.problems import SHORTAGES, CannotStart, one_line
from bgd.wire.launching import NotStarted, SlurmStart

SRUN_COST = 4  # requests, measured with Slurm 24.11
_SQUEUE_COST = 2
_SCANCEL_COST = 2
_BURST = 20  # requests at once
_SHARE = 0.05  # of the requests may ask why jobs wait
_SHORT_WAIT = 2.0  # seconds that are not worth a word
_LONGEST_UNSEEN = 30.0  # seconds between two such questions
_FIRST_PAUSE, _LONGEST_PAUSE = 0.25, 30.0  # seconds until it is asked again, doubled each time
_PATIENCE = 20.0  # seconds for an answer
_COMPLETING, _STATE_PATIENCE = "COMPLETING", 4.0  # seconds for the state that follows
_COLUMNS = 3  # of what squeue prints


class SlurmJob(Struct, frozen=True):
    """A job as the controller sees it, in Slurm's own words: its state, and the reason if it is PENDING."""

    state: str
    reason: str


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

    def give_back(self, cost: int) -> None:
        """Let others have this many requests that will not be sent."""
        self._tokens += cost


class Controller:
    """One controller, for all attempts of its executors. Nothing here blocks the event loop."""

    def __init__(self, context: Context, settings: SlurmStart) -> None:
        self._context = context
        self._limit = RequestLimit(settings.requests_per_second, elapsed())
        # what srun needs to know besides its arguments; others of its variables would change their meaning
        conf = settings.conf or os.environ.get("SLURM_CONF", "")
        self.environment = {"SLURM_CONF": conf} if conf else {}
        self._question: asyncio.Future[dict[str, SlurmJob] | None] | None = None
        self._asking = asyncio.Lock()
        self._watched: dict[str, Callable[[SlurmJob | None], None]] = {}
        self._is_watching = False
        self._pause: asyncio.Future[None] | None = None  # until those who wait are told again
        self.silent_since: float | None = None  # epoch time; None: it has answered
        self._answer: tuple[float, dict[str, SlurmJob] | None] = (
            -math.inf,
            None,
        )  # the latest, and when it came

    def set_rate(self, requests_per_second: float) -> None:
        """Change how many requests it is sent."""
        self._limit.rate = requests_per_second

    @property
    def seldom(self) -> float:
        """The seconds between two questions that are a small share of all requests."""
        return min(max(_SQUEUE_COST / (_SHARE * self._limit.rate), _SHORT_WAIT), _LONGEST_UNSEEN)

    async def admit(
        self,
        cost: int,
        until: asyncio.Future[None] | None = None,
        delayed: Callable[[], None] | None = None,
    ) -> bool:
        """Return when this many requests may be sent; False if `until` was done before.

        `delayed` is called if that takes longer than a moment.
        """
        seconds = self._limit.take(cost, elapsed())
        if delayed is not None and seconds > _SHORT_WAIT:
            delayed()
        await self._context.deadlines.wait(seconds, *([until] if until else []))
        if until is None or not until.done():
            return True
        self._limit.give_back(cost)
        return False

    async def answering(self, until: asyncio.Future[None], silent: Callable[[], None]) -> bool:
        """Return once it answers, at once unless its silence is known; False if `until` was done before.

        While it is silent, `silent` is called again and again, and all that wait share the questions.
        """
        pause = _FIRST_PAUSE
        while self.silent_since is not None and not until.done():
            silent()
            asked: asyncio.Future[Any] = self._context.group.create_task(self.recent_jobs())
            await asyncio.wait({asked, until}, return_when=asyncio.FIRST_COMPLETED)
            if not until.done() and self.silent_since is not None:
                await self._context.deadlines.wait(pause, until)
            pause = min(pause * 2, _LONGEST_PAUSE)
        return not until.done()

    async def jobs(self) -> dict[str, SlurmJob] | None:
        """Return each of this user's jobs in Slurm by its name; None: no answer.

        All who ask before the question is sent share its answer.
        """
        if self._question is None:
            self._question = asyncio.get_running_loop().create_future()
            self._context.group.create_task(self._ask())
        return await asyncio.shield(self._question)  # who asks may be cancelled, and others wait too

    async def recent_jobs(self) -> dict[str, SlurmJob] | None:
        """Return what `jobs` returned last, if that is not long ago: for many who ask every now and then."""
        answered_at, answer = self._answer
        return answer if elapsed() - answered_at < self.seldom / 2 else await self.jobs()

    def watch(self, name: str, tell: Callable[[SlurmJob | None], None]) -> None:
        """Tell again and again what the controller says of the job of this name, None: it does not answer.

        All that wait share the questions, and a job that starts in a moment causes none.
        """
        self._watched[name] = tell
        if not self._is_watching:
            self._is_watching = True
            self._context.group.create_task(self._watch())

    def unwatch(self, name: str) -> None:
        """Tell nothing more of the job of this name."""
        self._watched.pop(name, None)
        if not self._watched and self._pause is not None and not self._pause.done():
            self._pause.set_result(None)

    def answers(self) -> None:
        """Note that the controller answers."""
        self.silent_since = None

    def is_silent(self) -> None:
        """Note that the controller does not answer."""
        self.silent_since = self.silent_since or time.time()

    async def _watch(self) -> None:
        """Ask while somebody waits, with a small share of the requests."""
        pause = _SHORT_WAIT
        while self._watched:
            before = set(self._watched)
            self._pause = self._context.deadlines.timer(pause)
            await self._pause
            pause = _SHORT_WAIT
            if before.isdisjoint(self._watched):
                continue  # nobody has waited all the time
            jobs = await self.jobs()
            for name, tell in list(self._watched.items()):
                if jobs is None or name in jobs:
                    tell(None if jobs is None else jobs[name])
            pause = self.seldom
        self._is_watching = False

    async def end_of(self, name: str, number: str) -> str:
        """Return Slurm's word for how the job of this name and number ended, for example PREEMPTED.

        Empty if it does not answer, or has forgotten the job (MinJobAge).
        """
        state, pause = _COMPLETING, _FIRST_PAUSE
        while state == _COMPLETING and pause < _STATE_PATIENCE:
            await self.admit(_SQUEUE_COST)
            one = ("--me", "--noheader", "--states=all", f"--jobs={number}", f"--name={name}", "--format=%T")
            _, text = await self.run("squeue", *one)
            state = text.decode(errors="replace").strip()
            await self._context.deadlines.timer(pause if state == _COMPLETING else 0.0)
            pause *= 2
        return state

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

    @property
    def variables(self) -> dict[str, str]:
        """The environment of Slurm's programs."""
        return {"PATH": os.defpath, "HOME": str(Path.home()), **self.environment}

    async def run(self, name: str, *arguments: str, with_errors: bool = False) -> tuple[int, bytes]:
        """Return the exit code and the output of a program of Slurm; one that takes too long is killed."""
        context = self._context

        async def start() -> tuple[Child, asyncio.Future[bytes]]:
            reader, writer = os.pipe2(os.O_CLOEXEC)
            try:
                os.set_blocking(reader, False)
                text = read_all(reader)
                standard = (context.null, writer, writer if with_errors else context.null)
                try:
                    return self.start([name, *arguments], self.variables, standard), text
                except BaseException:
                    text.cancel()
                    raise
            finally:
                os.close(writer)

        try:
            child, text = await context.retry(f"{name} cannot be started yet", start)
        except CannotStart:
            return 1, b""
        over = context.deadlines.after(_PATIENCE, lambda: context.children.kill(child.pid))
        code = await child.wait()
        over.cancel()
        context.children.take_usage(child.pid)
        return code, await text

    def start(self, argv: list[str], env: Mapping[str, str], standard: tuple[int, int, int]) -> Child:
        """Start one of Slurm's programs, with these standard descriptors.

        Raises:
            CannotStart: it is not on the PATH of this process, or cannot be run.
            OSError: the reason lies in the machine; nothing was started, so it may be tried again.
        """
        path = next((p for each in os.get_exec_path() if os.access(p := f"{each}/{argv[0]}", os.X_OK)), None)
        if path is None:
            problem = f"{argv[0]} is not on the PATH of the launcher: install Slurm's client programs"
            raise CannotStart(one_line(NotStarted.NO_PROGRAM, problem))
        try:
            pid = start_program(path, argv, env, standard)
        except (OSError, ValueError) as error:
            if isinstance(error, OSError) and error.errno in SHORTAGES:
                raise
            raise CannotStart(one_line(NotStarted.OTHER, f"{path}: {error}")) from error
        return Child(pid, self._context.children)

    async def _ask(self) -> None:
        async with self._asking:  # without a controller each question takes long: more would pile up
            await self.admit(_SQUEUE_COST)
            question, self._question = self._question, None
            if question is None:
                return  # it was answered with the one before
            code, text = await self.run("squeue", "--me", "--noheader", "--format=%j|%T|%r")
        answer = None
        if code:
            self.is_silent()
            if self._question is not None:
                self._question.set_result(None)
                self._question = None
        else:
            self.answers()
            lines = (line.split("|", 2) for line in text.decode(errors="replace").splitlines())
            answer = {each[0]: SlurmJob(*each[1:]) for each in lines if len(each) == _COLUMNS}
        self._answer = elapsed(), answer
        question.set_result(answer)

    async def _scancel(self, *arguments: str) -> None:
        await self.admit(_SCANCEL_COST)
        await self.run("scancel", "--quiet", *arguments)
