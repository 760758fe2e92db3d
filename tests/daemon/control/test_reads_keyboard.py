"""Keyboards, as clients ask for them: what the launcher says goes on to the client."""

from __future__ import annotations

import asyncio
import os
import signal
import socket

import pytest

from bgd.core.job import JobId, Outcome
from bgd.daemon import launching
from bgd.daemon.control import reads
from bgd.daemon.threads import THREADS
from bgd.errors import Full
from bgd.wire.framing import HEADER
from bgd.wire.launching import AttemptStarted, OpenKeyboard, decode_to_launcher
from bgd.wire.replies import End, ErrorCode, Failed, LogPart
from bgd.wire.requests import GetKeyboard
from tests.daemon.harness import command, served
from tests.daemon.scripted_launcher import end
from tests.daemon.waiting import soon, until

PTY = command("/bin/cat", pty=True)


async def asked(launcher, key):
    """Return the connection on which the launcher is asked for a keyboard of this attempt."""
    reader, writer = await soon(launcher._waiting.get())
    header = await soon(reader.readexactly(HEADER))
    payload = await soon(reader.readexactly(int.from_bytes(header, "big")))
    assert decode_to_launcher(payload) == OpenKeyboard(key)
    return writer


async def test_what_the_launcher_says_is_the_refusal(config, launcher):
    async with served(config, launcher) as life:
        key = await life.launched(PTY)
        caller = await life.call()
        caller.send(GetKeyboard(1, key.job))
        writer = await asked(launcher, key)
        writer.write(b"its 16 keyboards are all in use: detach one")
        writer.close()

        problem = f"job {key.job} has no keyboard now: its 16 keyboards are all in use: detach one"
        assert await caller.hear(Failed) == Failed(1, ErrorCode.REFUSED, problem)


async def test_an_attempt_without_a_terminal_yet_is_asked_for_again_once_it_runs(config, launcher):
    async with served(config, launcher) as life:
        key = await life.launched(PTY)
        caller = await life.call()
        caller.send(GetKeyboard(1, key.job))
        (await asked(launcher, key)).close()

        launcher.say(AttemptStarted(key, os.getpid(), 1_790_000_000.0))

        writer = await asked(launcher, key)
        writer.write(b"no descriptors left")
        writer.close()
        assert (await caller.hear(Failed)).message.endswith("no descriptors left")


async def test_a_job_that_runs_on_without_its_terminal_has_no_keyboard(config, launcher):
    async with served(config, launcher) as life:
        key = await life.launched(PTY)
        launcher.say(AttemptStarted(key, os.getpid(), 1_790_000_000.0))
        await until(lambda: life.supervisor.dispatcher.has_begun(JobId(key.job)))
        caller = await life.call()
        caller.send(GetKeyboard(1, key.job))
        (await asked(launcher, key)).close()

        problem = f"job {key.job} has no keyboard now: its terminal is closed"
        assert await caller.hear(Failed) == Failed(1, ErrorCode.REFUSED, problem)


async def test_a_keyboard_waits_a_moment_for_the_next_launcher(config, launcher):
    async with served(config, launcher) as life:
        key = await life.launched(PTY)
        started = AttemptStarted(key, os.getpid(), 1_790_000_000.0)
        launcher.say(started)
        await until(lambda: life.supervisor.dispatcher.has_begun(JobId(key.job)))
        launcher.hang_up()
        await until(lambda: not life.link.is_connected)
        caller = await life.call()
        caller.send(GetKeyboard(1, key.job))
        await until(lambda: life.supervisor.subscriptions.has_log_subscribers(JobId(key.job)))

        await launcher.greet(started)

        (await asked(launcher, key)).close()
        assert (await caller.hear(Failed)).message.endswith("its terminal is closed")


async def test_without_a_launcher_there_is_no_keyboard(config, launcher, monkeypatch):
    monkeypatch.setattr(reads, "ANSWER_PATIENCE", 0.1)
    async with served(config, launcher) as life:
        key = await life.launched(PTY)
        launcher.hang_up()
        await until(lambda: not life.link.is_connected)

        failed = await (await life.call()).ask(GetKeyboard(1, key.job), Failed)

        assert failed.message == f"job {key.job} has no keyboard now: no launcher is connected"


async def test_a_stopped_launcher_is_not_asked(config, launcher):
    async with served(config, launcher) as life:
        key = await life.launched(PTY)
        process = await asyncio.create_subprocess_exec("sleep", "100")
        process.send_signal(signal.SIGSTOP)
        life.link.pid = process.pid
        await until(lambda: life.link.obstacle)
        failed = await (await life.call()).ask(GetKeyboard(1, key.job, wait=True), Failed)
        process.kill()
        await soon(process.wait())

        problem = f"the launcher (process {process.pid}) is stopped; kill -CONT {process.pid} continues it"
        assert failed.message == f"job {key.job} has no keyboard now: {problem}"
        assert launcher._waiting.empty()


async def test_a_launcher_that_does_not_answer_holds_no_thread(config, launcher, monkeypatch):
    async with served(config, launcher) as life:
        key = await life.launched(PTY)
        callers = [await life.call() for _ in range(2 * THREADS)]
        for caller in callers:
            caller.send(GetKeyboard(1, key.job))
            await asked(launcher, key)

        await soon(asyncio.to_thread(int))

        monkeypatch.setattr(launching, "ALONE_SECONDS", 0.1)
        failed = await (await life.call()).ask(GetKeyboard(1, key.job), Failed)
        assert failed.message == f"job {key.job} has no keyboard now: the launcher does not answer"


async def test_who_waits_for_the_keyboard_of_a_job_that_finishes_gets_none(config, launcher):
    async with served(config, launcher) as life:
        key = await life.launched(PTY)
        caller = await life.call()
        caller.send(GetKeyboard(1, key.job, wait=True))
        (await asked(launcher, key)).close()

        launcher.say(end(key, Outcome.EXIT, 4))

        assert await caller.hear(End) == End(1)
        assert await caller.ask(GetKeyboard(2, key.job, wait=True), End) == End(2)


async def test_a_descriptor_needs_a_client_that_has_read_what_came_before(config, launcher):
    async with served(config, launcher) as life:
        await life.call()
        (connection,) = life.control.connections
        reader, writer = os.pipe()
        while not connection._transport.get_write_buffer_size():
            connection.send(LogPart(1, 1, bytes(60_000)))

        with pytest.raises(Full, match="read the replies to earlier requests"):
            connection.send_descriptor(End(1), reader)

        connection._transport.abort()
        connection.send_descriptor(End(1), reader)  # to nobody
        os.close(reader)
        os.close(writer)


async def test_a_client_that_has_gone_gets_no_descriptor(config, launcher):
    async with served(config, launcher) as life:
        caller = await life.call()
        (connection,) = life.control.connections
        with socket.socket(fileno=os.dup(caller._writer.get_extra_info("socket").fileno())) as end_of_client:
            end_of_client.shutdown(socket.SHUT_RDWR)

        with socket.socket() as some:
            connection.send_descriptor(End(1), some.fileno())
