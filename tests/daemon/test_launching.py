"""The connection to the launcher, which may be of an earlier version (R7) and may go at any moment."""

from __future__ import annotations

import os
import socket

import pytest

from bgd.daemon import launching
from bgd.daemon.launching import NOTHING_HELD
from bgd.wire.launching import (
    LAUNCHING_PROTOCOL,
    OLDEST_LAUNCHING_PROTOCOL,
    AttemptKey,
    AttemptStarted,
    Declined,
    Greeting,
    Ready,
    SuspendProcesses,
    Welcome,
    encode,
)
from tests.daemon.harness import running_supervisor
from tests.daemon.scripted_launcher import FIRST
from tests.daemon.waiting import soon

KEY = AttemptKey("store", 17, 1)


async def test_a_launcher_of_an_unknown_protocol_is_an_obstacle_that_is_named(config, launcher):
    async with running_supervisor(config, launcher) as life:
        await launcher.accept()
        greeting = await launcher.hear(Greeting)
        assert (greeting.protocol, greeting.newest) == (OLDEST_LAUNCHING_PROTOCOL, LAUNCHING_PROTOCOL)
        launcher.say(Declined("it needs launching protocol 9, this launcher speaks 8"))
        launcher.hang_up()

        await soon(life.link.wait_until_tried(60))

        assert life.link.problem == "it declined: it needs launching protocol 9, this launcher speaks 8"


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
