"""Slurm's controller, through Slurm's own programs, within its limit on requests of one user."""

from __future__ import annotations

import asyncio
import math
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import islice

from msgspec import Struct

from bgd.launcher.children import Child, read_all, start_program
from bgd.launcher.context import Context
from bgd.launcher.problems import CannotStart, explained, one_line, printable
from bgd.system.clock import doubling, elapsed
from bgd.wire.launching import NotStarted, SlurmStart
from bgd.wire.slurm import message_in, seconds_in

_COST = 2  # requests that each of Slurm's programs makes, measured with Slurm 24.11
_BURST = 20  # requests at once
_SHORT_WAIT = 2.0  # seconds of delay that need no report
_PATIENCE = 20.0  # seconds for an answer
_PIPE = 1 << 16  # bytes that a pipe holds
_NOT_RUN = (126, 127)  # exit codes of a shell, for example of a site's wrapper, that cannot run a program
# an option of sbatch that excludes nodes, with them in the same word or in the next; "--exclud" is enough
_EXCLUDE = re.compile(r"(?:^|\0)(?:--exclude?[=\0]|-x\0?)([^\0]+)")
_COMPLETING = "COMPLETING"  # upon which the state follows
_COLUMNS = "%A|%j|%T|%P|%l|%L|%r"  # of squeue; those of SlurmJob, and the name
_NODE_COLUMNS = "%N|%T|%E"  # of sinfo: node, state, and words of the admin
_NODES_PERIOD = 25.0  # seconds for which an answer about nodes will do
_MOST_NODES = 3  # whose maintenance is told
_LACKS_NODES = re.compile("DOWN|DRAIN|NotAvail|[Rr]eserv")  # in a reason of Slurm
# what Slurm's programs say if the controller cannot be reached (slurm_errno.c), or this machine has no room
# for a thread, which is not the job's fault
_IS_AWAY = (
    *("nable to contact slurm controller", "Socket timed out", "Zero Bytes", "onnection", "ommunication"),
    *("Resource temporarily unavailable", "Cannot allocate memory"),
)


class SlurmJob(Struct, frozen=True):
    """A job as the controller sees it, in Slurm's own words: its state, and the reason if it is PENDING.

    `limit`: seconds for which it may run, infinite: any time. `ends_at`: when that is over, if it runs, on
    the elapsed clock.
    """

    number: str
    state: str
    partition: str
    limit: float
    ends_at: float
    reason: str


class Controller:
    """One controller, for all pilots of its executors. Nothing here blocks the event loop.

    `settings`: as configured last.
    """

    def __init__(self, context: Context, settings: SlurmStart) -> None:
        self._context = context
        self.settings = settings
        self._tokens, self._tokens_at = float(_BURST), elapsed()  # requests that may be sent, and since when
        self._question: asyncio.Future[dict[str, SlurmJob] | None] | None = None
        self._asking = asyncio.Lock()
        self._answer: dict[str, SlurmJob] | None = None  # the latest
        self.unusable: dict[str, str] = {}  # by node, why it takes no jobs, in words of its admin
        self.nodes_asked_at = -math.inf  # on the elapsed clock
        self.asked_at = -math.inf  # when that was asked for, on the elapsed clock
        self.idle: dict[str, Callable[[], None]] = {}  # ends each pilot that holds its node without work
        self.short: set[str] = set()  # pilots that wait for what others hold
        self._submitting = asyncio.Lock()
        self._cancelled: set[str] = set()  # names of jobs
        self._cancelling: asyncio.Task[None] | None = None
        self.silent_since: float | None = None  # epoch time; None: it has answered
        self.problem: str | None = None  # why it is silent, if one of Slurm's programs said so
        self._is_limited = False  # a submission waits for the limit on requests

    async def admit(self) -> None:
        """Return when one of Slurm's programs may send its requests."""
        now = elapsed()
        rate = self.settings.requests_per_second
        self._tokens = min(self._tokens + (now - self._tokens_at) * rate, _BURST) - _COST
        self._tokens_at = now
        await self._context.deadlines.wait(max(-self._tokens / rate, 0.0))

    async def jobs(self, after: float = math.inf) -> dict[str, SlurmJob] | None:
        """Return each of this user's jobs in Slurm by its name; None: no answer.

        The latest answer will do if it was asked for later than `after`, on the elapsed clock. Calls that
        arrive before the request is sent share its answer.
        """
        if self.asked_at > after:
            return self._answer
        if self._question is None:
            self._question = asyncio.get_running_loop().create_future()
            self._context.group.create_task(self._ask())
        return await asyncio.shield(self._question)  # the caller may be cancelled while others wait

    async def submit(
        self, arguments: list[str], is_wanted: Callable[[], bool], delayed: Callable[[], None]
    ) -> tuple[int, str] | None:
        """Return the exit code and output of sbatch; None if the submission was called off.

        One at a time, so that questions come in between. `delayed` is called if the limit on requests delays
        it.

        Raises:
            CannotStart: there is no sbatch.
        """
        late = self._context.deadlines.after(_SHORT_WAIT, lambda: delayed() if self._is_limited else None)
        async with self._submitting:
            if is_wanted():
                self._is_limited = True
                await self.admit()
                self._is_limited = False
            late.cancel()
            if not is_wanted():
                return None
            code, text = await self._run("sbatch", *arguments, with_errors=True)
        return code, text.decode(errors="replace")

    def is_away(self, words: str) -> bool:
        """Return whether sbatch reported that it got no answer."""
        return any(each in words for each in _IS_AWAY)

    async def end_of(self, name: str, number: str) -> tuple[str, str]:
        """Return how the job of this name and number ended, for example PREEMPTED, and on which nodes.

        Both are empty if it does not answer, or has forgotten the job (MinJobAge).
        """
        state = nodes = ""
        for pause in (0.25, 0.5, 1.0, 2.0):
            await self.admit()
            one = "--me", "--noheader", "--states=all", f"--jobs={number}", f"--name={name}"
            _, text = await self.run("squeue", *one, "--format=%T|%N")
            state, _, nodes = text.decode(errors="replace").strip().partition("|")
            if state != _COMPLETING:
                break
            await self._context.deadlines.timer(pause)
        return state, nodes

    async def cancel(self, name: str) -> None:
        """Cancel the job with this name, in one request with other cancels."""
        self._cancelled.add(name)
        if self._cancelling is None or self._cancelling.done():
            self._cancelling = self._context.begin(self._cancel_all(), "jobs to cancel in Slurm")
        await asyncio.shield(self._cancelling)

    async def forbid(self, name: str, number: int | None) -> None:
        """Cancel a job that is not listed: it may not be listed yet."""
        await self.admit()
        await self.run("scancel", "--quiet", "--me", f"--name={name}", str(number))

    async def _cancel_all(self) -> None:
        while self._cancelled:
            jobs = await self.jobs()
            names, self._cancelled = self._cancelled, set()
            if numbers := [job.number for name, job in (jobs or {}).items() if name in names]:
                await self.admit()
                await self.run("scancel", "--quiet", "--me", *numbers)

    async def signal_steps(self, name: str, signum: int, besides: str) -> None:
        """Signal all steps of the job with this name, except those named `besides`."""
        await self.admit()
        _, text = await self.run("squeue", "--me", "--steps", "--noheader", "--format=%i|%j|%A")
        jobs = await self.jobs() or {}
        lines = (line.split("|") for line in text.decode(errors="replace").splitlines())
        number = jobs[name].number if name in jobs else None
        steps = [each[0] for each in lines if each[0].partition(".")[0] == number and each[1] != besides]
        if steps := [each for each in steps if each.partition(".")[2].isdecimal()]:  # not batch, extern
            await self.admit()
            await self.run("scancel", "--quiet", f"--signal={signum}", *steps)

    async def release(self, name: str, silent: Callable[[], None] = lambda: None) -> None:
        """Wait until no job has this name; cancel one that has it.

        `silent` is called whenever the controller does not answer.
        """
        again = pauses()
        while (jobs := await self.jobs()) is None or name in jobs:
            if jobs is None:
                silent()
            else:
                await self.cancel(name)
            await self._context.deadlines.timer(next(again))

    async def run(self, name: str, *arguments: str, with_errors: bool = False) -> tuple[int, bytes]:
        """Return the exit code and the output of a program of Slurm, 127 if there is none."""
        try:
            return await self._run(name, *arguments, with_errors=with_errors)
        except CannotStart as error:
            return _NOT_RUN[-1], str(error).encode()

    async def _run(self, name: str, *arguments: str, with_errors: bool = False) -> tuple[int, bytes]:
        """Return the exit code and the output of a program of Slurm.

        If it takes too long, all its processes are killed, and the output says so. Processes that a site's
        wrapper leaves behind keep the pipe open, and are not waited for.

        Raises:
            CannotStart: it cannot be run.
        """
        context, output, is_late = self._context, bytearray(), False

        def keep(received: bytearray) -> bool:
            nonlocal output
            output = received
            return False

        async def start() -> tuple[Child, int, asyncio.Future[bytes]]:
            reader, writer = os.pipe2(os.O_CLOEXEC)
            try:
                os.set_blocking(reader, False)
                text = read_all(reader, keep)
                standard = (context.null, writer, writer if with_errors else context.null)
                try:
                    return self.start([name, *arguments], standard), reader, text
                except BaseException:
                    text.cancel()
                    raise
            finally:
                os.close(writer)

        def end() -> None:
            nonlocal is_late
            is_late = True
            context.children.kill_group(child.pid)

        child, reader, text = await context.retry(f"{name} cannot be started yet", start)
        over = context.deadlines.after(_PATIENCE, end)
        code = await child.wait()
        over.cancel()
        if not text.done():
            with suppress(BlockingIOError):
                while part := os.read(reader, _PIPE):
                    output += part
            text.cancel()
        if is_late:
            output += f"\n{name} did not answer for {_PATIENCE:g} s".encode()
        return code, bytes(output)

    def start(self, argv: list[str], standard: tuple[int, int, int]) -> Child:
        """Start one of Slurm's programs, with these standard descriptors.

        Raises:
            CannotStart: it is not on the PATH of bgd, or cannot be run.
            OSError: the machine is the cause; nothing was started, so it may be retried.
        """
        env = self.settings.variables
        path = next(
            (p for each in os.get_exec_path(env) if os.access(p := f"{each}/{argv[0]}", os.X_OK)), None
        )
        if path is None:
            problem = f"{argv[0]} is not on the PATH of bgd: install Slurm's client programs"
            raise CannotStart(one_line(NotStarted.NO_PROGRAM, problem))
        with explained(lambda error: one_line(NotStarted.OTHER, f"{path}: {error}")):
            pid = start_program(path, argv, env, standard)
        return Child(pid, self._context.children)

    async def _ask(self) -> None:
        async with self._asking:  # without a controller each request takes long: more would pile up
            await self.admit()
            question, self._question = self._question, None
            if question is None:
                return  # the previous request answered it
            asked_at = elapsed()
            arguments = ("--me", "--noheader", f"--format={_COLUMNS}")
            code, text = await self.run("squeue", *arguments, with_errors=True)
            answer = None if code else _jobs_in(text, asked_at)
            await self._ask_for_nodes(answer or {})
        if code:
            self.problem = message_in(text.decode(errors="replace")) if code in _NOT_RUN else None
            self.silent_since = self.silent_since or time.time()
            if self._question is not None:
                self._question.set_result(None)
                self._question = None
        else:
            self.silent_since = None
        self._answer, self.asked_at = answer, asked_at
        question.set_result(answer)

    async def _ask_for_nodes(self, jobs: dict[str, SlurmJob]) -> None:
        """Look for nodes that take no jobs, where pilots run, or may run once there are nodes for them."""
        pilots = [job for name, job in jobs.items() if name.startswith("bgd-")]
        concerned = [job for job in pilots if job.state != "PENDING" or _LACKS_NODES.search(job.reason)]
        if not concerned or elapsed() - self.nodes_asked_at < _NODES_PERIOD:
            return
        self.nodes_asked_at = elapsed()
        await self.admit()
        partitions = ",".join({job.partition for job in concerned})
        which = "--states=drain,fail,down", f"--partition={partitions}", f"--format={_NODE_COLUMNS}"
        code, text = await self.run("sinfo", "--noheader", "--Node", *which)
        if code == 0:
            lines = _lines_in(text, _NODE_COLUMNS)
            self.unusable = {
                node: f"maintenance of node {node} ({state}): {why}" for node, state, why in lines
            }

    def why_pending(self, job: SlurmJob) -> str | None:
        """Return why a job waits, in words of Slurm and of admins about nodes; None: Slurm has not said."""
        words = self.unusable.values() if _LACKS_NODES.search(job.reason) else ()
        return None if job.reason == "None" else "; ".join([job.reason, *islice(words, _MOST_NODES)])

    def note_shortage(self, pilot: str, *, is_short: bool) -> None:
        """Record whether a pilot waits for nodes, or for a limit, that others use up: idle ones then end."""
        if not is_short:
            self.short.discard(pilot)
            return
        self.short.add(pilot)
        for end in list(self.idle.values()):
            end()


def _lines_in(text: bytes, columns: str) -> list[list[str]]:
    more = columns.count("|")
    lines = (printable(line).split("|", more) for line in text.decode(errors="replace").splitlines())
    return [line for line in lines if len(line) > more]


def _jobs_in(text: bytes, asked_at: float) -> dict[str, SlurmJob]:
    jobs = {}
    for number, name, state, partition, limit, left, reason in _lines_in(text, _COLUMNS):
        ends_at = asked_at + seconds_in(left) - 1.0  # Slurm counts whole seconds
        jobs[name] = SlurmJob(number, state, partition, seconds_in(limit), ends_at, reason)
    return jobs


def pauses(first: float = 0.25) -> Iterator[float]:
    """Yield the pauses in seconds between requests to Slurm."""
    return doubling(first, 30.0)


def excluding(nodes: list[str], arguments: list[str]) -> list[str]:
    """Return arguments of sbatch that exclude these nodes too: of several such options it uses the last."""
    if not nodes:
        return arguments
    asked = _EXCLUDE.findall("\0".join(arguments))
    return [*arguments, f"--exclude={','.join([*asked, *nodes])}"]


def number_in(words: str) -> int | None:
    """Return the number that sbatch --parsable prints: alone, or with the name of the cluster."""
    numbers = (line.partition(";")[0] for line in words.splitlines())
    return next((int(each) for each in numbers if each.isdecimal()), None)
