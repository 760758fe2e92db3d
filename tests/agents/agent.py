"""A coding agent: it runs bgctl with time limits, forgets, is killed, and starts again."""

from __future__ import annotations

import json
import os
import random
import re
import select
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import anyio
from mcp import ClientSession, StdioServerParameters, stdio_client

from tests.agents.laws import UNKNOWN, Call, Ledger, Told
from tests.agents.world import NO_DAEMON, World
from tests.support import DEADLINE


class Tool:
    """A run of bgctl in a process group of its own, with pipes for its streams."""

    def __init__(self, world: World, session: str, words: Sequence[str], stdin: bytes = b"") -> None:
        self.words = words
        self.began = time.monotonic()
        (read, write), (self._out, out), (self._err, err) = (os.pipe() for _ in range(3))
        os.write(write, stdin)
        os.close(write)
        env = world.env | {"BGD_SESSION": session}
        self._process = world.spawn("bgctl", tuple(words), env, {0: read, 1: out, 2: err})
        for each in (read, out, err):
            os.close(each)
        self._parts: dict[int, bytes] = {self._out: b"", self._err: b""}
        self._open = {self._out, self._err}
        self.ended = 0.0

    @property
    def out(self) -> str:
        return self._parts[self._out].decode()

    @property
    def err(self) -> str:
        return self._parts[self._err].decode()

    @property
    def size(self) -> int:
        return sum(map(len, self._parts.values()))

    def ends_within(self, seconds: float, *, or_writes: bool = False) -> bool:
        """Return whether it ends, or writes something, within some seconds; otherwise it keeps running."""
        return self._read(time.monotonic() + seconds, only_some=or_writes)

    def finish(self, limit: float) -> int | None:
        """Return the exit code; None if it was killed with its group because it exceeded the limit."""
        if not self._read(time.monotonic() + limit):
            self._signal(signal.SIGKILL)
            self._read(None)  # what it had written before
            self._close()
            return None
        code: int = self._process.wait(DEADLINE)
        self._close()
        return code

    def abandon(self) -> None:
        """Close its pipes, as a client that dies does; what it wrote before counts as told.

        It keeps running until it writes.
        """
        self._signal(signal.SIGSTOP)
        self._read(time.monotonic())
        self._close()
        self._signal(signal.SIGCONT)

    def kill(self) -> None:
        """End it, if it has not ended."""
        self._signal(signal.SIGKILL)
        self._process.wait(DEADLINE)

    def _read(self, deadline: float | None, *, only_some: bool = False) -> bool:
        """Read until both pipes are closed, or until there is some output; return False at the deadline."""
        while self._open and not (only_some and self.out):
            ready = select.poll()
            for each in self._open:
                ready.register(each, select.POLLIN)
            patience = None if deadline is None else max(deadline - time.monotonic(), 0) * 1000
            events = ready.poll(patience)
            if not events:
                return False
            for descriptor, _ in events:
                part = os.read(descriptor, _MOST_AT_ONCE)
                self._parts[descriptor] += part
                if not part:
                    self._open.discard(descriptor)
        return True

    def _close(self) -> None:
        self.ended = time.monotonic()
        for each in self._parts:
            os.close(each)

    def _signal(self, signum: int) -> None:
        for kill in (os.killpg, os.kill):  # a process that was just forked has no group yet
            with suppress(ProcessLookupError):
                kill(self._process.pid, signum)


class Agent:
    """Does the work of one session.

    Its turns are calls of tools; between them it may be killed, or compacted: it forgets what it knew. A
    `bgctl inbox --wait` in the background wakes it when a job has ended. Every other one has hooks.
    """

    def __init__(self, world: World, ledger: Ledger, number: int, commands: int) -> None:
        self._world = world
        self._ledger = ledger
        self._session = f"session-{number}"
        self._left = commands
        self._dice = random.Random(number)
        self._has_hooks = number % 2 == 0
        self._waiter: Tool | None = None
        self._orphans: list[Tool] = []  # waiters whose pipes were closed
        self._is_lost = False  # an end was not told

    def live(self) -> None:
        """Run all commands, then read the inbox until every end was told."""
        self._begin("startup")
        while self._left > 0:
            [action] = self._dice.choices(list(_ACTIONS), list(_ACTIONS.values()))
            action(self)
            if self._dice.random() < _MORTALITY:
                self._die()
                self._begin(self._dice.choice(["resume", "compact"]))
            elif self._dice.random() < _REST:
                self._sleep()
        self._end()

    # --- commands -----------------------------------------------------------------------------------------

    def _command(self) -> tuple[str, str]:
        """Return a shell command, which records its exit code before it ends, and its name in that record."""
        self._left -= 1
        name, code = f"{self._session}.{self._left}", self._dice.choice(_CODES)
        lines, seconds = self._dice.choice(_LINES), self._dice.choice(_SECONDS)
        truth = f"echo $BGD_JOB_ID {name} {code} >>{self._world.truth}"
        return f"seq {lines}; sleep {seconds}; {truth}; exit {code}", name

    def _run(self) -> None:
        """Run a command in the foreground, below a time limit that may be too short for it."""
        script, name = self._command()
        tool, code = self._call("run", "--max-output", "4KB", "--shell", script, limit=self._limit())
        self._read_run(tool)
        if code is not None and code != NO_DAEMON:
            self._ledger.exits.append((name, code))
        self._note(tool, code, has_news=code != NO_DAEMON)

    def _run_endless(self) -> None:
        """Run a command that does not end. Its job outlives it: find it by its session, and cancel it."""
        self._left -= 1
        tool, code = self._call("run", *_ENDLESS, limit=self._dice.uniform(0.1, 0.5))
        self._read_run(tool)
        self._note(tool, code, has_news=code == UNKNOWN)  # its launcher was killed
        self._cancel_endless()

    def _read_run(self, tool: Tool) -> None:
        """Record the end that `run` has printed, perhaps just before it was killed."""
        for job, state, details in _OF_RUN.findall(tool.err):
            codes = [0] if state == "succeeded" else list(map(int, re.findall(r"exit code (\d+)", details)))
            self._tell(int(job), "wait", {"outcome": details, "exit_code": codes[0] if codes else None})

    def _submit(self) -> None:
        """Queue a command; the inbox tells how it ends."""
        script, _ = self._command()
        self._queue("submit", "--shell", script)

    def _submit_many(self) -> None:
        """Queue jobs whose ends come together and do not fit into one answer."""
        count = min(self._left, _MANY)
        self._left -= count
        script = f'yes "a line of output" | head -n 30; echo $BGD_JOB_ID 3 >>{self._world.truth}; exit 3'
        self._queue("batch", "--", "sh", "-c", script, "sh", ":::", *map(str, range(count)))

    def _submit_and_wait(self) -> None:
        """Queue some commands and wait in the foreground for the first end."""
        ids = [job for _ in range(3) for job in self._queue("submit", "--shell", self._command()[0])]
        if not ids:
            return
        tool, code = self._call("wait", "--any", "--json", *map(str, ids), limit=self._limit())
        ends = self._objects(tool)
        for end in ends:
            self._tell(end["id"], "wait", end)
        self._note(tool, code, has_news=bool(ends))

    def _serve(self) -> None:
        """Start a server, and cancel it by its id unless that is forgotten first."""
        self._left -= 1
        ids = self._queue("submit", *_ENDLESS)
        if ids and self._dice.random() < _REMEMBERED:
            tool, code = self._call("cancel", *map(str, ids), limit=DEADLINE)
            self._note(tool, code, waits=False)

    def _queue(self, *words: str) -> list[int]:
        """Submit; return the ids that were printed before it was cut off."""
        tool, code = self._call(*words, limit=self._limit())
        lines = [
            line.rstrip().partition("-") for line in tool.out.splitlines(keepends=True) if line[-1] == "\n"
        ]
        ids = [job for first, _, last in lines for job in range(int(first), int(last or first) + 1)]
        self._ledger.submitted += [(self._session, job) for job in ids]
        self._note(tool, code, has_news=bool(ids))
        return ids

    def _cancel_endless(self) -> None:
        tool, code = self._call(
            "cancel", "--yes", "--filter", f"session:{self._session} name:{_ENDLESS[1]}", limit=DEADLINE
        )
        self._note(tool, code, waits=False)

    def _limit(self) -> float:
        """Return the time limit of the next call in seconds: usually enough, sometimes far too short."""
        return self._dice.choice([0.03, 0.2, 0.7, 2.0, DEADLINE, DEADLINE])

    # --- the server ---------------------------------------------------------------------------------------

    def _ask_server(self) -> None:
        """Start the server and let it run some commands; it may be killed meanwhile."""
        self._ledger.counts["servers"] += 1
        scripts = [self._command()[0] for _ in range(3)]
        anyio.run(self._talk, scripts, self._dice.choice([2.0, 4.0, DEADLINE]))

    async def _talk(self, scripts: list[str], limit: float) -> None:
        env = self._world.env | {"BGD_SESSION": self._session}
        command = StdioServerParameters(command=sys.executable, args=["-m", "bgctl", "mcp"], env=env)
        with anyio.move_on_after(limit), open(os.devnull, "w") as nothing:  # noqa: ASYNC230, PTH123
            async with stdio_client(command, nothing) as streams, ClientSession(*streams) as client:
                await client.initialize()
                for script in scripts:
                    text = await self._ask(client, "submit", shell=script, wait=self._dice.choice([0, 20]))
                    [(job, state, _)] = _OF_SERVER.findall(text) or [("", "", "")]
                    if state in {"queued", "running"}:
                        await self._ask(client, "wait", jobs=[int(job)])
                    if job:
                        await self._ask(client, "read", job=int(job))

    async def _ask(self, client: ClientSession, tool: str, **arguments: Any) -> str:
        began = time.monotonic()
        result = await client.call_tool(tool, arguments)
        [content] = result.content
        text: str = content.text  # type: ignore[union-attr]  # this server sends nothing else
        for job, state, details in _OF_SERVER.findall(text):
            if tool == "submit":
                self._ledger.submitted.append((self._session, int(job)))
            if state in {"succeeded", "failed"}:
                code = [int(each) for each in re.findall(r"exit code (\d+)", details) if int(each) != UNKNOWN]
                end = {"outcome": "exit" if code else "unknown", "exit_code": code[0] if code else None}
                self._tell(int(job), "wait", end)
        is_alone = result.is_error and self._world.was_down(began, time.monotonic())
        call = Call(
            ("mcp", tool),
            int(result.is_error),
            len(text.encode()),
            waits=tool != "read",
            has_news=not result.is_error and not text.startswith("nothing within"),
            met_no_daemon=is_alone,
        )
        self._ledger.calls.append(call)
        return text

    # --- the inbox ----------------------------------------------------------------------------------------

    def _begin(self, source: str) -> None:
        """Start as a new process of the agent: ask what happened, and wait for more in the background."""
        if self._has_hooks:
            self._hook("SessionStart", source=source)
        else:
            tool, code = self._call("inbox", "--json", limit=self._limit())
            self._read_inbox(tool, code, waits=False)
        self._watch()

    def _watch(self) -> None:
        self._waiter = Tool(self._world, self._session, ("inbox", "--wait", "--json"))

    def _sleep(self) -> None:
        """End the turn; the exit of the waiter wakes the agent, if there is something to wait for."""
        if self._has_hooks and self._hook("Stop", stop_hook_active=False):
            self._hook("Stop", stop_hook_active=True)
        if self._is_owed(is_sleeping=True):
            self._wake()
            self._watch()
        if self._has_hooks:
            self._hook("UserPromptSubmit", prompt="go on")

    def _wake(self) -> None:
        """Read what the waiter was told. It may be killed as it writes, and is killed if no end is left."""
        waiter, is_killed = self._taken_waiter(), self._dice.random() < _CRUELTY
        while not waiter.ends_within(_PATIENCE, or_writes=is_killed):
            if self._world.is_silent(self._session) and not waiter.ends_within(_PATIENCE):
                self._ledger.counts["not woken"] += 1
                self._is_lost = True
                break
        self._read_inbox(waiter, waiter.finish(0.0 if is_killed else _PATIENCE), waits=True)

    def _taken_waiter(self) -> Tool:
        waiter, self._waiter = self._waiter, None
        assert waiter is not None
        return waiter

    def _read_inbox(self, tool: Tool, code: int | None, *, waits: bool) -> None:
        ends, known = self._objects(tool), self._ledger.told_of(self._session, "inbox", "hook")
        has_news = any(end["redelivered"] or end["job"] not in known for end in ends)
        seen = self._ledger.told_of(self._session, "wait")
        self._ledger.counts["woken for known ends"] += waits and seen.issuperset(end["job"] for end in ends)
        for end in ends:
            self._tell(end["job"], "inbox", end, event=end["event"], redelivered=end["redelivered"])
        self._note(tool, code, waits=waits, has_news=has_news)

    def _hook(self, event: str, **given: Any) -> bool:
        """Run a hook as the client does, below a time limit; return whether it keeps the agent going."""
        hook = {"hook_event_name": event, "session_id": self._session, **given}
        limit = self._dice.choice([0.05, 10.0, 10.0, 10.0])
        tool, code = self._call("inbox", "--hook", limit=limit, stdin=json.dumps(hook).encode())
        answer = json.loads(tool.out) if tool.out.endswith("\n") else {}
        blocks = code == 0 and answer.get("decision") == "block"
        text = answer.get("reason") or answer.get("hookSpecificOutput", {}).get("additionalContext", "")
        ends = _OF_HOOK.findall(text)
        for job, state, details, again in ends:
            codes = [0] if state == "succeeded" else list(map(int, re.findall(r"exit code (\d+)", details)))
            end = {"outcome": details, "exit_code": codes[0] if codes else None}
            self._tell(int(job), "hook", end, redelivered=bool(again), blocked=blocks)
        self._note(tool, code, waits=blocks, has_news=bool(ends))
        return blocks

    def _is_owed(self, *, is_sleeping: bool = False) -> bool:
        """Return whether an end is still to be told; the agent itself does not ask."""
        told = self._ledger.told_of(self._session, "inbox", "hook", "wait")
        jobs = [
            job for job in self._world.jobs(self._session) if not (is_sleeping and job.name == _ENDLESS[1])
        ]
        return any(job.id not in told for job in jobs)

    def _die(self) -> None:
        """Be killed, or forget everything; the waiter is killed, or loses the reader of its pipe."""
        self._ledger.counts["deaths"] += 1
        waiter = self._taken_waiter()
        code = None
        if self._dice.random() < _HALF:
            code = waiter.finish(self._dice.choice([0.0, 0.05, 0.3]))
        else:
            waiter.abandon()
            self._orphans.append(waiter)
        self._read_inbox(waiter, code, waits=code is not None)

    def _end(self) -> None:
        """Cancel what does not end by itself, and let the inbox tell all ends."""
        self._cancel_endless()
        while self._is_owed() and not self._is_lost:
            self._wake()
            self._watch()
        waiter = self._taken_waiter()
        waiter.finish(0.0)
        self._read_inbox(waiter, None, waits=False)
        for orphan in self._orphans:
            orphan.kill()
        tool, code = self._call("inbox", "--json", limit=DEADLINE)
        self._read_inbox(tool, code, waits=False)

    # --- what every call does -----------------------------------------------------------------------------

    def _call(self, *words: str, limit: float, stdin: bytes = b"") -> tuple[Tool, int | None]:
        """Run bgctl; if it meets no daemon, note that, and run it again when there is one."""
        while True:
            self._world.up.wait(DEADLINE)
            tool = Tool(self._world, self._session, words, stdin)
            code = tool.finish(limit)
            if code != NO_DAEMON or not self._world.was_down(tool.began, tool.ended):
                return tool, code
            self._ledger.counts["met no daemon"] += 1

    def _note(self, tool: Tool, code: int | None, *, waits: bool = True, has_news: bool = True) -> None:
        self._ledger.counts["cut off"] += code is None
        is_alone = code == NO_DAEMON and self._world.was_down(tool.began, tool.ended)
        self._ledger.calls.append(
            Call(tool.words, code, tool.size, waits=waits, has_news=has_news, met_no_daemon=is_alone)
        )

    def _tell(self, job: int, by: str, end: dict[str, Any], **more: Any) -> None:
        code = 0 if end["outcome"] == "succeeded" else end["exit_code"]
        is_unknown = "unknown" in (end["outcome"] or "")
        self._ledger.told.append(Told(self._session, job, by, code, is_unknown=is_unknown, **more))

    @staticmethod
    def _objects(tool: Tool) -> list[dict[str, Any]]:
        """Return the complete lines of JSON that a tool has written."""
        return [json.loads(line) for line in tool.out.splitlines(keepends=True) if line.endswith("\n")]


_ACTIONS = {
    Agent._run: 8,
    Agent._run_endless: 1,
    Agent._submit: 6,
    Agent._submit_many: 0.5,
    Agent._submit_and_wait: 2,
    Agent._serve: 1,
    Agent._ask_server: 0.5,
}
_ENDLESS = ("--name", "endless", "sleep", "600")
_CODES = (0, 0, 0, 1, 2, 3, 42, 77)
_LINES = (0, 1, 20, 20, 4000)  # of output
_SECONDS = (0, 0, 0, 0.1, 0.4, 1.5)
_MANY = 12  # jobs
_MORTALITY = 0.15  # of an agent, after each command
_REST = 0.3  # how often an agent ends its turn after a command
_REMEMBERED = 0.6
_HALF = 0.5
_CRUELTY = 0.25  # how often a waiter is killed as soon as it has written something
_PATIENCE = 1.0  # seconds without a wake-up until it is checked whether one is due
_MOST_AT_ONCE = 65_536  # bytes of a read
_OF_HOOK = re.compile(
    r"^(\d+)(?: \"endless\")? (succeeded|failed|cancelled)(?: \((.*?)\))?(?: after \S+?)?(, redelivered)?$",
    re.MULTILINE,
)
_OF_RUN = re.compile(r"^bgctl: job (\d+) (succeeded|failed|cancelled)(?: \((.*)\))?$", re.MULTILINE)
_OF_SERVER = re.compile(r"^job (\d+) (\w+)(?: \((.*?)\))?: ", re.MULTILINE)
