"""The connection to the launcher, which may be of an earlier version (R7) and may go at any moment."""

from __future__ import annotations

import os
import socket
from typing import Any

import msgspec
import pytest

from bgd.core.job import JobId, Outcome
from bgd.daemon import launching
from bgd.daemon.launching import NOTHING_HELD, Held
from bgd.wire.framing import frame
from bgd.wire.launching import (
    LAUNCHING_PROTOCOL,
    MAX_LAUNCHING_FRAME,
    OLDEST_LAUNCHING_PROTOCOL,
    AttemptKey,
    AttemptStarted,
    CheckAttempt,
    Ready,
    SuspendProcesses,
    TradeSockets,
    Welcome,
    encode,
    protocol_of,
)
from tests.daemon.harness import Harness, command, running_supervisor
from tests.daemon.scripted_launcher import FIRST
from tests.daemon.waiting import soon
from tests.wire.conversations import SUPERVISOR, recorded, says_the_same

KEY = AttemptKey("store", 17, 1)


@pytest.mark.parametrize(("protocol", "is_able"), [(5, False), (LAUNCHING_PROTOCOL, True)])
async def test_launcher_of_an_earlier_version_gets_only_known_messages(config, launcher, protocol, is_able):
    async with running_supervisor(config, launcher) as life:
        greeting = await launcher.greet(protocol=protocol)
        await soon(life.is_met.wait())

        assert greeting.protocol == OLDEST_LAUNCHING_PROTOCOL
        assert life.link.supports(CheckAttempt(KEY, 1)) is is_able


async def test_a_launcher_of_protocol_5_is_understood(config, launcher):
    async with running_supervisor(config, launcher) as life:
        for who, message in recorded("launcher_5", life.store.store_id):
            if who != SUPERVISOR:
                launcher.say_raw(frame(msgspec.msgpack.encode(message), MAX_LAUNCHING_FRAME))
            elif message["type"] == "goodbye":
                break
            else:
                await soon(ask_for(message, life))
                assert says_the_same(await launcher.next(), message)

        assert [(await life.view(job)).outcome for job in (1, 2)] == [Outcome.SUCCEEDED, Outcome.CANCELLED]


async def ask_for(message: dict[str, Any], life: Harness) -> None:
    """Do what makes the daemon send this message."""
    if message["type"] == "greeting":
        await life.launcher.accept()
    elif message["type"] == "launch":
        await life.submit(command(*message["argv"]))
    elif message["type"] != "acknowledge":  # which follows by itself
        verb = {"stop": "cancel"}.get(message["type"], message["type"])
        await life.actions.do(verb, JobId(message["key"][1]))


async def test_what_a_launcher_says_again_after_its_snapshot_changes_nothing(config, launcher):
    async with running_supervisor(config, launcher) as life:
        await launcher.greet()
        await soon(life.is_met.wait())
        key = await life.launched()
        launcher.say(AttemptStarted(key, 1, 1.0))

        again = [Welcome(LAUNCHING_PROTOCOL, FIRST, 1), Ready()]  # the snapshot was without the job
        launcher.say(*again * 3)

        assert await life.heard() == []
        assert len(await life.attempts(key.job)) == 1


async def test_sending_while_the_launcher_goes_sends_nothing_and_breaks_nothing(config, launcher):
    sent: list[bool] = []
    async with running_supervisor(config, launcher) as life:
        await launcher.greet()
        await soon(life.is_met.wait())
        connection = life.link._connection
        assert connection is not None
        lose = connection.connection_lost

        def lose_while_sending(exc: Exception | None) -> None:
            lose(exc)
            sent.append(life.link.send(SuspendProcesses(KEY)))
            connection.frames.send(encode(SuspendProcesses(KEY)))

        connection.connection_lost = lose_while_sending  # type: ignore[method-assign]  # a turn of the loop earlier
        launcher.hang_up()
        await launcher.greet()

    assert sent == [False]


async def test_launcher_of_an_earlier_version_is_not_asked_for_sockets(config, launcher):
    async with running_supervisor(config, launcher) as life:
        await launcher.greet(protocol=protocol_of(TradeSockets()) - 1)
        await soon(life.is_met.wait())

        assert await life.link.held_sockets() == NOTHING_HELD
        await life.link.hold_sockets(Held(b"secret", []))
        assert launcher._waiting.empty()


async def test_launcher_that_does_not_answer_about_sockets_is_not_waited_for(
    config, launcher, monkeypatch, caplog
):
    monkeypatch.setattr(launching, "ALONE_SECONDS", 0.1)
    async with running_supervisor(config, launcher) as life:
        await launcher.greet()
        await soon(life.is_met.wait())

        assert await life.link.held_sockets() == NOTHING_HELD
    assert "the launcher does not hold the sockets of the pages: timed out" in caplog.text


def test_only_listening_sockets_are_taken_back_from_the_launcher():
    with socket.socket() as idle, socket.create_server(("127.0.0.1", 0)) as server:
        folder = os.open("/", os.O_RDONLY)
        for fd in (folder, os.dup(idle.fileno())):
            assert launching._listening_socket(fd) is None
            with pytest.raises(OSError, match="Bad file descriptor"):
                os.fstat(fd)
        with launching._listening_socket(os.dup(server.fileno())) as taken:  # type: ignore[union-attr]  # it listens
            assert taken.getsockname() == server.getsockname()
            assert not taken.get_inheritable()
