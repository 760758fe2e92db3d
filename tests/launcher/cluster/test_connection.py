"""The connection to a pilot is kept while the pilot answers, and given up once it is silent."""

from __future__ import annotations

import asyncio
import socket
from functools import partial
from types import SimpleNamespace
from typing import Any, cast

from bgd.launcher.cluster import pilot as pilots
from bgd.launcher.cluster.controller import Controller
from bgd.launcher.cluster.pilot import Pilot
from bgd.launcher.cluster.pilots import PilotPool
from bgd.launcher.deadlines import Deadlines
from bgd.wire.framing import FrameReader, frame
from bgd.wire.launching import (
    LAUNCHING_PROTOCOL,
    FromLauncher,
    Greeting,
    KeepAlive,
    PilotNode,
    PilotStart,
    Ready,
    SlurmStart,
    ToLauncher,
    Welcome,
    decode_to_launcher,
    encode,
)
from tests.daemon.waiting import until

WELCOME = Welcome(LAUNCHING_PROTOCOL, "boot:pilot", 1, node=PilotNode(name="n1"))


class ScriptedPilot(asyncio.Protocol):
    """Answer greetings and KeepAlive, unless it is mute."""

    def __init__(self) -> None:
        self.heard: list[ToLauncher] = []
        self.is_mute = False
        self.lost = asyncio.Event()
        self._frames = FrameReader()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        for message in map(decode_to_launcher, self._frames.feed(data)):
            self.heard.append(message)
            answers: list[FromLauncher] = [WELCOME, Ready()] if isinstance(message, Greeting) else [WELCOME]
            if not self.is_mute:
                self._transport.write(b"".join(frame(encode(each)) for each in answers))

    def connection_lost(self, _error: Exception | None) -> None:
        self.lost.set()


async def test_a_pilot_is_kept_alive_until_it_is_silent(monkeypatch):
    monkeypatch.setattr(pilots, "_BEAT", 0.05)
    deadlines = Deadlines(asyncio.get_running_loop())
    context = SimpleNamespace(deadlines=deadlines, children=SimpleNamespace(kill=lambda _: None))
    pool = SimpleNamespace(
        context=context,
        controller_of=partial(Controller, cast("Any", context)),
        start=SimpleNamespace(keep_idle=600.0),
        store="9f2c",
    )
    pool.connected = lambda _: None
    pool.begin, pool.first, pool.assign = lambda action: action.close(), None, lambda: None
    start = PilotStart(executor="x", nodes=1, options=[], keep_idle=600.0, cpus=1, memory=1)
    slurm = SlurmStart(folder="/shared", python="python3", options=[], pilot=start)
    pilot = Pilot(cast("PilotPool", pool), slurm, "pilot", 77, None)

    async def relay_to(scripted: ScriptedPilot) -> Any:
        ours, theirs = socket.socketpair()
        await asyncio.get_running_loop().create_connection(lambda: scripted, sock=theirs)
        return SimpleNamespace(pid=0, wait=lambda: asyncio.sleep(0)), ours

    monkeypatch.setattr(pilot, "_relay", partial(relay_to, scripted := ScriptedPilot()))
    serving = asyncio.create_task(pilot._serve())

    await until(lambda: sum(isinstance(each, KeepAlive) for each in scripted.heard) >= 5)
    assert not scripted.lost.is_set()
    scripted.is_mute = True  # its node has died
    await asyncio.wait_for(scripted.lost.wait(), 30)
    await asyncio.wait_for(serving, 30)
    deadlines.close()
