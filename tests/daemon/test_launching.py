"""The connection to the launcher, which may be of an earlier version (R7) and may go at any moment."""

from __future__ import annotations

import pytest

from bgd.wire.launching import (
    LAUNCHING_PROTOCOL,
    OLDEST_LAUNCHING_PROTOCOL,
    AttemptKey,
    ContinueProcesses,
    Launch,
    SignalProcesses,
    SuspendProcesses,
)
from tests.daemon.harness import running_supervisor
from tests.daemon.waiting import soon

KEY = AttemptKey("store", 17, 1)
ON_TERMINAL = Launch(key=KEY, argv=["true"], env={}, cwd="/", pty=True)


@pytest.mark.parametrize(
    ("protocol", "is_able"), [(OLDEST_LAUNCHING_PROTOCOL, False), (LAUNCHING_PROTOCOL, True)]
)
async def test_launcher_of_an_earlier_version_gets_only_known_messages(config, launcher, protocol, is_able):
    async with running_supervisor(config, launcher) as life:
        greeting = await launcher.greet(protocol=protocol)
        await soon(life.is_met.wait())
        await life.launched()

        assert greeting.protocol == OLDEST_LAUNCHING_PROTOCOL
        for message in (SignalProcesses(KEY, 15), SuspendProcesses(KEY), ContinueProcesses(KEY), ON_TERMINAL):
            assert life.link.supports(message) is is_able


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
            connection.send(SuspendProcesses(KEY))

        connection.connection_lost = lose_while_sending  # type: ignore[method-assign]  # a turn of the loop earlier
        launcher.hang_up()
        await launcher.greet()

    assert sent == [False]
