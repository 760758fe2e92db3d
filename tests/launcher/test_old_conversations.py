"""Today's launchers and pilots understand supervisors of protocol 5, and today's launcher pilots of it.

There were two kinds of protocol 5: see tests/wire/conversations.py.
"""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from functools import partial
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest

from bgd.clock import elapsed
from bgd.core.spec import ExecutorKind
from bgd.launcher.cluster import pilot as pilots
from bgd.launcher.cluster.pilot import Pilot
from bgd.launcher.cluster.pilots import PilotPool
from bgd.launcher.deadlines import Deadlines
from bgd.wire.framing import FrameReader, frame
from bgd.wire.launching import (
    MAX_LAUNCHING_FRAME,
    AttemptKey,
    AttemptStarted,
    FromLauncher,
    Greeting,
    KeepAlive,
    Launch,
    PilotNode,
    PilotStart,
    Place,
    Ready,
    SlurmStart,
    ToLauncher,
    Welcome,
    decode_to_launcher,
    encode,
)
from tests.daemon.waiting import until
from tests.launcher.host import PATIENCE, SOURCE, STORE, Supervisor, launch_of
from tests.wire.conversations import SUPERVISOR, recorded, says_the_same

LONG = "600"  # seconds
both_kinds = pytest.mark.parametrize("name", ["pilot_5_early", "pilot_5_late"])


def say(supervisor: Supervisor, message: dict[str, Any]) -> None:
    supervisor.socket.sendall(frame(msgspec.msgpack.encode(message), MAX_LAUNCHING_FRAME))


# --- today's launchers ----------------------------------------------------------------------------------


def test_a_launcher_understands_a_daemon_of_protocol_5(host):
    launcher = host.start()
    for who, message in recorded("launcher_5", STORE):
        if message["type"] == "greeting":
            supervisor = host.connect()
        if who == SUPERVISOR:
            say(supervisor, message)
        else:
            assert says_the_same(supervisor.hear(), message)

    assert launcher.wait(PATIENCE) == 0  # since there was a goodbye


@both_kinds
def test_a_pilot_understands_a_launcher_of_protocol_5(host, name):
    host.start("--pilot", LONG)
    launcher = host.connect()
    is_answer = False
    for who, message in recorded(name, STORE):
        if who == SUPERVISOR:
            say(launcher, message)
            is_answer = message["type"] == "keep_alive"
        elif not is_answer:  # to KeepAlive: see the next test
            while isinstance(heard := launcher.hear(), Welcome) and message["type"] != "welcome":
                pass
            assert says_the_same(heard, message)


def test_a_pilot_answers_keep_alive_as_both_kinds_of_launchers_need(host):
    host.start("--pilot", LONG)
    launcher = host.connect()
    said: list[FromLauncher | None] = []
    launcher.say(Greeting(5, STORE, 1))
    while not any(isinstance(each, AttemptStarted) for each in said):
        said.append(launcher.hear())
        if isinstance(said[-1], Ready):  # at each of which the early ones send a KeepAlive
            launcher.say(KeepAlive(), KeepAlive(), launch_of("sleep", "100"))

    # the late ones need any answer; of two at once only one is answered, whatever the other side does
    assert [type(each) for each in said] == [Welcome, Ready, Welcome, AttemptStarted]


@pytest.mark.parametrize("relay", ["bgd.launcher.cluster.relay", "bgd.launcher.relay"])
def test_a_pilot_is_reached_by_the_relay_of_this_and_of_an_earlier_launcher(host, relay):
    host.start("--pilot", LONG)
    argv = [sys.executable, "-P", "-m", relay, str(host.state / "launcher.sock")]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        process.communicate()
    assert process.returncode == 0  # 1: it reached none


# --- today's launcher with pilots -----------------------------------------------------------------------

SLURM = {
    "sbatch": "#!/bin/sh\necho bgd >{folder}/name; for word; do case $word in --job-name=*)\n"
    'echo "${{word#--job-name=}}" >{folder}/name;; esac; done; echo 77\n',
    "squeue": '#!/bin/sh\necho "77|$(cat {folder}/name 2>/dev/null)|RUNNING|None"\n',
    "scancel": "#!/bin/sh\n",
    "srun": "#!/bin/sh\ncd {source} && exec {python} -m {module} {name} {store}\n",
}


def play_pilot(name: str, store: str) -> None:
    """Say on descriptor 0 what a pilot said, whenever the other side has said what it said then."""
    frames, heard = FrameReader(MAX_LAUNCHING_FRAME), list[ToLauncher]()
    for who, message in recorded(name, store):
        if who != SUPERVISOR:
            os.write(0, frame(msgspec.msgpack.encode(message), MAX_LAUNCHING_FRAME))
            continue
        while message["type"] not in {"keep_alive", "acknowledge"}:  # which are a matter of time
            while not heard:
                heard += [decode_to_launcher(payload) for payload in frames.feed(os.read(0, 1 << 16))]
            if says_the_same(heard.pop(0), {**message, "protocol": 5}):
                break
    os.read(0, 1)


@both_kinds
def test_a_launcher_understands_a_pilot_of_protocol_5(host, tmp_path, name):
    for program, script in SLURM.items():
        words = {"folder": tmp_path, "source": SOURCE, "python": sys.executable, "module": __name__}
        (tmp_path / program).write_text(script.format(**words, name=name, store=STORE))
        (tmp_path / program).chmod(0o700)
    pilot = PilotStart(executor="pilots", nodes=1, options=[], keep_idle=600.0, cpus=1, memory=1 << 20)
    slurm = SlurmStart(
        folder=str(tmp_path),
        python=sys.executable,
        options=[],
        variables={"PATH": f"{tmp_path}:{os.environ['PATH']}"},
        requests_per_second=1000.0,
        pilot=pilot,
    )
    place = Place(executor="pilots", kind=ExecutorKind.SLURM)
    host.start()
    supervisor = host.supervise()

    for who, message in recorded(name, STORE):
        if who == SUPERVISOR and message["type"] not in {"greeting", "keep_alive", "stored", "acknowledge"}:
            asked = decode_to_launcher(msgspec.msgpack.encode(message))
            if isinstance(asked, Launch):
                asked = msgspec.structs.replace(asked, slurm=slurm, place=place)
            supervisor.say(asked)
        elif message["type"] == "started":
            while supervisor.started(AttemptKey(*message["key"])).pid != message["pid"]:
                pass
        elif message["type"] == "ended":
            ended = supervisor.ended(AttemptKey(*message["key"]))
            assert (ended.outcome, ended.exit_code, ended.signal) == (
                *(message["outcome"], message["exit_code"], message["signal"]),
            )
    assert host.output(AttemptKey(STORE, 3, 1)) == b"late\n"


class OldPilot(asyncio.Protocol):
    """Answer each Greeting, and KeepAlive as pilots of a version do."""

    def __init__(self, *answers: FromLauncher) -> None:
        self.answers = answers
        self.heard: list[ToLauncher] = []
        self.is_mute = False
        self.is_lost = False
        self._frames = FrameReader(MAX_LAUNCHING_FRAME)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        for payload in self._frames.feed(data):
            self.heard.append(decode_to_launcher(payload))
            if isinstance(self.heard[-1], Greeting):
                self.say(Welcome(5, "boot:pilot", 1, node=PilotNode(name="n1")), Ready())
            elif isinstance(self.heard[-1], KeepAlive):
                self.say(*self.answers)

    def say(self, *messages: FromLauncher) -> None:
        if not self.is_mute:
            frames = [frame(encode(each), MAX_LAUNCHING_FRAME) for each in messages]
            self._transport.write(b"".join(frames))

    def connection_lost(self, _error: Exception | None) -> None:
        self.is_lost = True


@pytest.fixture
async def connect(monkeypatch):
    """Yield a function that connects this launcher to a pilot, with a short beat."""
    monkeypatch.setattr(pilots, "_BEAT", 0.1)  # a busy machine may delay an answer by this
    deadlines = Deadlines(asyncio.get_running_loop())
    children = SimpleNamespace(kill=lambda _: None)
    serving: list[asyncio.Task[bool]] = []

    async def relay_to(old: OldPilot) -> Any:
        ours, theirs = socket.socketpair()
        await asyncio.get_running_loop().create_connection(lambda: old, sock=theirs)
        return SimpleNamespace(pid=0, wait=lambda: asyncio.sleep(0)), ours

    def connect(old: OldPilot) -> None:
        pilot = Pilot(cast("PilotPool", pool), cast("Any", slurm), "pilot", 77, None)
        monkeypatch.setattr(pilot, "_relay", partial(relay_to, old))
        serving.append(asyncio.get_running_loop().create_task(pilot._serve()))

    context = SimpleNamespace(deadlines=deadlines, children=children)
    start, slurm = SimpleNamespace(keep_idle=600.0), SimpleNamespace(folder="/shared", python="python3")
    pool = SimpleNamespace(context=context, controller_of=lambda _: None, start=start, store=STORE)
    pool.connected = lambda _: None
    yield connect
    for task in serving:
        await asyncio.wait_for(task, PATIENCE)
    deadlines.close()


@pytest.mark.parametrize("answers", [(), (Ready(),), (Welcome(6, "boot:pilot", 1),)])
async def test_a_pilot_is_kept_alive_whatever_its_version_answers(connect, answers):
    connect(old := OldPilot(*answers))
    began = elapsed()
    await until(lambda: sum(isinstance(each, KeepAlive) for each in old.heard) >= 10)

    assert not old.is_lost
    assert len(old.heard) <= 1 + (elapsed() - began) / pilots._BEAT  # none of it in answer to an answer
    old.is_mute = True  # its node has died
    await until(lambda: old.is_lost)


if __name__ == "__main__":
    play_pilot(*sys.argv[1:])
