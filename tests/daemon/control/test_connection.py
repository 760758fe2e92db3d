"""Connections to the control socket: hellos, frames, batches, streams, and what is refused."""

from __future__ import annotations

import asyncio
import os
import resource
import socket
import sys
from pathlib import Path

import msgspec
import pytest

import bgd
from bgd.core.spec import JobSpec
from bgd.daemon.control import connection as connection_module
from bgd.daemon.control import limits
from bgd.daemon.control.connection import HIGH_WATER
from bgd.daemon.control.limits import MAX_IN_FLIGHT
from bgd.daemon.storage import summaries
from bgd.daemon.storage.database import StoreBroken
from bgd.daemon.streams import Subscriptions
from bgd.errors import MAX_MESSAGE
from bgd.wire.framing import MAX_FRAME, frame
from bgd.wire.launching import Launch, WatchLog, log_name
from bgd.wire.messages import PROTOCOL, Hello, decode_hello, encode
from bgd.wire.replies import End, ErrorCode, Failed, Info, JobsPart, LogPart, Reply, Submitted
from bgd.wire.requests import Forget, GetInfo, List, Logs, Show, ShutdownMode, Submit, SubmitMany, Wait
from tests.daemon.harness import command, configure, served, write_log
from tests.daemon.waiting import soon

BATCH_OF = 7  # id of a batch in these tests
CLASSES = '[security]\nallowed_classes = ["app.*"]'
STRANGER = 4_000_000  # a uid that no user here has


def raw(**message):
    """Return a frame with any content."""
    return frame(msgspec.msgpack.encode(message))


def raw_submit(spec, request_id=3):
    return raw(type="submit", id=request_id, spec=spec)


async def jobs_in(life):
    return sum((await life.store.read(summaries.counts)).values())


def let_everybody_through(config):
    state = Path(config.daemon.state_dir)
    for path, mode in ((state.parent, 0o755), (state, 0o755), (Path(config.daemon.socket), 0o666)):
        path.chmod(mode)


async def is_alive(caller):
    return isinstance(await caller.ask(GetInfo(99), Info), Info)


# --- hello --------------------------------------------------------------------------------------------


async def test_hello_is_answered_with_protocol_and_version(config, launcher):
    async with served(config, launcher) as life:
        caller = await life.call(greet=False)
        caller.send(Hello(PROTOCOL, "0.9", "a test"))
        assert decode_hello(await caller.next_payload()) == Hello(PROTOCOL, bgd.__version__, "bgd", newest=0)


@pytest.mark.parametrize("begun", [b"", b"\0\0", frame(b"\x81\xa4type")[:-1]])
async def test_client_that_does_not_say_hello_in_time_is_disconnected(config, launcher, monkeypatch, begun):
    monkeypatch.setattr(connection_module, "HELLO_SECONDS", 0.05)
    async with served(config, launcher) as life:
        caller = await life.call(greet=False)
        caller.send_raw(begun)
        assert await caller.refusal() == Failed(0, ErrorCode.PROTOCOL, "no hello arrived in time")


async def test_client_that_has_said_hello_may_be_silent(config, launcher, monkeypatch):
    monkeypatch.setattr(connection_module, "HELLO_SECONDS", 0.05)
    async with served(config, launcher) as life:
        silent = await life.call()
        late = await life.call(greet=False)
        await late.refusal()
        assert await is_alive(silent)


async def test_another_protocol_version_is_refused_with_both_versions(config, launcher):
    async with served(config, launcher) as life:
        caller = await life.call(greet=False)
        caller.send(Hello(PROTOCOL + 1, "9.9", "newctl"))
        failed = await caller.refusal()
        assert (failed.id, failed.code) == (0, ErrorCode.PROTOCOL)
        assert f"speaks protocol {PROTOCOL}, newctl 9.9 speaks {PROTOCOL + 1}" in failed.message


async def test_request_before_the_hello_is_refused(config, launcher):
    async with served(config, launcher) as life:
        caller = await life.call(greet=False)
        caller.send(Submit(1, command()))
        assert (await caller.refusal()).code is ErrorCode.PROTOCOL
        assert await jobs_in(life) == 0


async def test_second_hello_is_refused(config, launcher):
    async with served(config, launcher) as life:
        caller = await life.call()
        caller.send(Hello(PROTOCOL, "1"))
        assert (await caller.refusal()).code is ErrorCode.PROTOCOL


# --- bytes that are not requests ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\nHost: bgd\r\n\r\n",
        bytes(reversed(range(256))) * 64,
        b"\xff\xff\xff\xff",
        (MAX_FRAME + 1).to_bytes(4, "big"),
        b"\0\0\0\0",
        frame(b"\xc1"),
        frame(b"\x91" * 100_000),
        frame(b"\x81" + b"\xa1\xff" * 2),
        raw(type="submit", id=-1, spec={"argv": ["true"]}),
        raw(type="submit", id=2**63, spec={"argv": ["true"]}),
        raw(type="info", id="one"),
    ],
    ids=[
        "HTTP",
        "noise",
        "hugest frame",
        "frame a byte too long",
        "empty frame",
        "no MessagePack",
        "nested deep",
        "no UTF-8",
        "negative id",
        "id too large",
        "id of text",
    ],
)
@pytest.mark.parametrize("greet", [False, True], ids=["at once", "after hello"])
async def test_garbage_is_answered_once_and_disconnected_and_the_daemon_lives(config, launcher, data, greet):
    async with served(config, launcher) as life:
        caller = await life.call(greet=greet)
        caller.send_raw(data)
        failed = await caller.refusal()
        assert (failed.id, failed.code) == (0, ErrorCode.PROTOCOL)
        assert await is_alive(await life.call())
        assert await jobs_in(life) == 0


async def test_client_whose_frame_stays_incomplete_is_disconnected(config, launcher, monkeypatch):
    monkeypatch.setattr(connection_module, "FRAME_SECONDS", 0.05)
    async with served(config, launcher) as life:
        caller = await life.call()
        caller.send_raw(raw_submit({"argv": ["true"]})[:-1])
        assert "half a frame arrived" in (await caller.refusal()).message


async def test_frame_that_arrives_byte_by_byte_gets_no_more_time(config, launcher, monkeypatch):
    monkeypatch.setattr(connection_module, "FRAME_SECONDS", 0.3)
    async with served(config, launcher) as life:
        slow = await life.call()
        (connection,) = life.control.connections
        other = await life.call()
        slow.send_raw(b"\0\1\0\0")
        while not connection._transport.is_closing():
            slow.send_raw(b"\x91")
            assert await is_alive(other)  # gives the daemon some turns between two bytes
        assert "half a frame arrived" in (await slow.refusal()).message


async def test_frame_in_pieces_is_one_request(config, launcher):
    async with served(config, launcher) as life:
        caller, other = await life.call(), await life.call()
        for byte in raw_submit({"argv": ["true"]}):
            caller.send_raw(bytes([byte]))
            await is_alive(other)
        assert await caller.hear(Submitted) == Submitted(3, [1])


@pytest.mark.parametrize(
    "request_of",
    [
        {"type": "conquer", "id": 3},
        {"type": "submit", "id": 3},
        {"type": "submit", "id": 3, "spec": {"argv": ["true"], "priority": 1001}},
        {"type": "submit", "id": 3, "spec": {"argv": ["true"], "delay": float("nan")}},
        {"type": "submit", "id": 3, "spec": {"argv": ["true"], "timeout": 0}},
        {"type": "submit", "id": 3, "spec": {"argv": ["true"], "retries": 2**64 - 1}},
        {"type": "submit", "id": 3, "spec": {"argv": ["true"], "queue": "a b"}},
        {"type": "submit", "id": 3, "spec": {"argv": ["x"] * 10_001}},
        {"type": "submit", "id": 3, "spec": {"argv": ["true"], "name": "x" * 201}},
        {"type": "submit", "id": 3, "spec": {"argv": ["true"], "umask": 0o1000}},
        {"type": "show", "id": 3, "job": 0},
        {"type": "wait", "id": 3, "jobs": []},
        {"type": "wait", "id": 3, "jobs": [1] * 10_001},
        {"type": "list", "id": 3, "limit": 10_001},
    ],
    ids=lambda request: f"{request['type']} {str(request)[20:60]}",
)
async def test_request_with_impossible_values_is_refused_and_the_next_one_is_served(
    config, launcher, request_of
):
    async with served(config, launcher) as life:
        caller = await life.call()
        caller.send_raw(raw(**request_of))
        failed = await caller.hear(Failed)
        assert (failed.id, failed.code) == (3, ErrorCode.PROTOCOL)
        assert await is_alive(caller)
        assert await jobs_in(life) == 0


# --- access -------------------------------------------------------------------------------------------


@pytest.mark.skipif(os.geteuid() != 0, reason="NOT TESTED: only root can become somebody else")
async def test_another_user_is_refused_whatever_the_mode_of_the_socket(config, launcher):
    async with served(config, launcher) as life:
        let_everybody_through(config)
        code = (
            f"import os, socket, sys; os.setgid({STRANGER}); os.setuid({STRANGER})\n"
            "s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1])\n"
            "sys.stdout.buffer.write(s.makefile('rb').read())"
        )
        child = await asyncio.create_subprocess_exec(
            sys.executable, "-c", code, config.daemon.socket, stdout=asyncio.subprocess.PIPE
        )
        said, _ = await soon(child.communicate())
        failed = msgspec.msgpack.decode(said[4:], type=Failed)
        assert failed == Failed(0, ErrorCode.NOT_ALLOWED, "this daemon serves uid 0 and root only")
        assert await is_alive(await life.call())


async def test_one_connection_too_many_is_refused_until_another_one_ends(config, launcher, monkeypatch):
    monkeypatch.setattr(connection_module, "MAX_CONNECTIONS", 2)
    async with served(config, launcher) as life:
        first, second = await life.call(), await life.call()
        turned_away = await life.call(greet=False)
        assert await turned_away.refusal() == Failed(
            0,
            ErrorCode.FULL,
            "too many connections: the daemon serves 2: close some, or try again later",
        )
        await first.hang_up()
        assert await is_alive(second)
        assert await is_alive(await life.call())


def test_connections_leave_room_for_other_descriptors():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        for descriptors, connections in ((5000, 1000), (1024, 960), (256, 192), (100, 36), (64, 16)):
            resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, hard))
            assert connection_module._max_connections() == connections
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


# --- many requests ------------------------------------------------------------------------------------


async def test_thousands_of_submits_at_once_are_answered_in_order_and_share_transactions(config, launcher):
    async with served(configure(Path(config.source).parent, "slots = 1"), launcher) as life:
        await life.launched()
        before = life.commits.commits
        caller = await life.call()
        caller.send(*(Submit(number, command()) for number in range(1, 2001)))
        answers = [await caller.hear(Submitted) for _ in range(2000)]
        assert [answer.id for answer in answers] == list(range(1, 2001))
        assert [answer.jobs for answer in answers] == [[number + 1] for number in range(1, 2001)]
        assert life.commits.commits - before < 40


async def test_submit_is_not_answered_when_the_store_breaks(config, launcher):
    with pytest.RaisesGroup(StoreBroken):
        async with served(config, launcher) as life:
            caller = await life.call()
            life.commits.failure = StoreBroken("the disk is gone")
            caller.send(Submit(1, command()))
            await asyncio.Event().wait()
    assert await soon(caller._reader.read()) == b""


async def test_more_requests_than_may_be_in_flight_stay_in_the_socket(config, launcher, monkeypatch):
    monkeypatch.setattr(limits, "MAX_IN_FLIGHT", 4)
    async with served(config, launcher) as life:
        caller, other = await life.call(), await life.call()
        life.commits.close()
        caller.send(*(Submit(number, command()) for number in range(6)))
        await soon(life.commits.reached.wait())
        caller.send(*(Submit(number, command()) for number in range(6, 10)))
        for _ in range(10):
            await is_alive(other)
        assert len(life.supervisor.scheduler) == 4
        life.commits.open()
        assert [(await caller.hear(Submitted)).id for _ in range(10)] == list(range(10))


async def test_deadline_of_a_frame_stops_while_the_daemon_leaves_it_in_the_socket(
    config, launcher, monkeypatch
):
    monkeypatch.setattr(limits, "MAX_IN_FLIGHT", 2)
    monkeypatch.setattr(connection_module, "FRAME_SECONDS", 0.05)
    async with served(config, launcher) as life:
        caller, late = await life.call(), await life.call()
        life.commits.close()
        frames = b"".join(raw_submit({"argv": ["true"]}, number) for number in range(3))
        caller.send_raw(frames[:-1])
        await soon(life.commits.reached.wait())
        late.send_raw(frames[:1])
        await late.refusal()  # so the time of the other client is over, too
        caller.send_raw(frames[-1:])
        life.commits.open()
        assert [(await caller.hear(Submitted)).id for _ in range(3)] == [0, 1, 2]


async def test_deadline_of_a_frame_stops_while_the_client_has_answers_to_read(config, launcher, monkeypatch):
    monkeypatch.setattr(
        connection_module, "FRAME_SECONDS", 1.0
    )  # in which a busy machine begins to send a log
    async with served(config, launcher) as life:
        key = await life.launched()
        write_log(config, key, zeros=4 << 20)
        caller, late, other = [await life.call() for _ in range(3)]
        begun = raw_submit({"argv": ["true"]}, 2)
        caller.send_raw(frame(encode(Logs(id=1, job=key.job))) + begun[:-1])
        while all(each._flow.is_reading for each in life.control.connections):
            assert await is_alive(other)
            assert len(life.control.connections) == 3
        late.send_raw(begun[:1])
        await late.refusal()  # so the time of the other client is over, too
        caller.send_raw(begun[-1:])
        others: list[Reply] = []
        while len(others) < 2:
            reply = await caller.next()
            if not isinstance(reply, LogPart):
                others.append(reply)
        assert {type(reply) for reply in others} == {End, Submitted}


async def test_requests_of_a_client_that_reads_no_answers_are_not_read(config, launcher):
    async with served(config, launcher) as life:
        caller, other = await life.call(), await life.call()
        count = 30_000
        caller.send(*(GetInfo(number) for number in range(count)))
        most = 0
        for _ in range(300):
            await is_alive(other)
            most = max(most, *(each._transport.get_write_buffer_size() for each in life.control.connections))
        assert HIGH_WATER < most < 3 * HIGH_WATER + MAX_IN_FLIGHT * 1000
        assert len([await caller.hear(Info) for _ in range(count)]) == count


# --- batches ------------------------------------------------------------------------------------------


async def test_batch_in_parts_is_submitted_in_one_transaction_and_in_order(config, launcher):
    async with served(configure(Path(config.source).parent, "slots = 1"), launcher) as life:
        await life.launched()
        before = life.commits.commits
        caller = await life.call()
        parts = [[command(f"/bin/{part}{index}") for index in range(500)] for part in range(4)]
        for number, specs in enumerate(parts):
            caller.send(SubmitMany(id=BATCH_OF, specs=specs, more=number < 3))
        submitted = await caller.hear(Submitted)
        assert submitted.jobs == list(range(2, 2002))
        assert life.commits.commits == before + 1
        assert (await life.view(502)).argv == ["/bin/10"]


async def test_commands_without_an_environment_get_that_of_their_batch(config, launcher):
    async with served(configure(Path(config.source).parent, rest=CLASSES), launcher) as life:
        caller = await life.call()
        own, none, of_class = (
            JobSpec(argv=("a",), env={"A": "own"}),
            JobSpec(argv=("b",)),
            JobSpec(target="app:f"),
        )
        await caller.ask(SubmitMany(id=1, specs=[own, none, of_class], env={"A": "batch"}), Submitted)
        seen = [(await launcher.hear(Launch)).env.get("A") for _ in range(3)]
        assert seen == ["own", "batch", os.environ.get("A")]


async def test_other_requests_may_come_between_the_parts_of_a_batch(config, launcher):
    async with served(config, launcher) as life:
        caller = await life.call()
        caller.send(SubmitMany(id=BATCH_OF, specs=[command()], more=True))
        assert await is_alive(caller)
        assert (await caller.ask(Submit(8, command()), Submitted)).jobs == [1]
        assert (await caller.ask(SubmitMany(id=BATCH_OF, specs=[command()]), Submitted)).jobs == [2, 3]


async def test_batch_with_one_invalid_job_is_refused_and_the_job_is_named(config, launcher):
    async with served(config, launcher) as life:
        caller = await life.call()
        specs = [command(), command("/bin/true\0"), command()]
        failed = await caller.ask(SubmitMany(id=BATCH_OF, specs=specs), Failed)
        assert (failed.id, failed.code) == (BATCH_OF, ErrorCode.REFUSED)
        assert failed.message == "job 1 of the batch: argv[0] contains a NUL character"
        assert await is_alive(caller)
        assert await jobs_in(life) == 0


async def test_a_batch_with_a_program_that_is_not_on_the_list_is_refused_like_the_job_alone(folder, launcher):
    narrow = configure(folder, rest='[security]\nallowed_commands = ["/bin/true"]')
    async with served(narrow, launcher) as life:
        caller = await life.call()
        specs = [command(), command(), command("/bin/false")]
        failed = await caller.ask(SubmitMany(id=BATCH_OF, specs=specs), Failed)
        assert failed.code == ErrorCode.NOT_ALLOWED
        assert failed.message.startswith(
            "job 2 of the batch: '/bin/false' is not in [security] allowed_commands"
        )
        assert await jobs_in(life) == 0


async def test_part_of_another_batch_in_between_ends_the_connection_and_nothing_is_submitted(
    config, launcher
):
    async with served(config, launcher) as life:
        caller = await life.call()
        caller.send(
            SubmitMany(id=BATCH_OF, specs=[command()], more=True),
            SubmitMany(id=8, specs=[command()]),
            SubmitMany(id=BATCH_OF, specs=[command()]),
        )
        failed = await caller.refusal()
        assert (failed.id, failed.code) == (8, ErrorCode.PROTOCOL)
        await life.told()
        assert await jobs_in(life) == 0


@pytest.mark.parametrize(
    ("module", "limit", "most"),
    [(connection_module, "MAX_BATCH", 3), (limits, "MAX_BATCH_BYTES", 2 * 2 * 512)],
)
async def test_batch_over_a_limit_is_refused_and_its_last_part_is_not_a_batch_of_its_own(
    config, launcher, monkeypatch, module, limit, most
):
    monkeypatch.setattr(module, limit, most)
    async with served(config, launcher) as life:
        caller = await life.call()
        parts = [SubmitMany(id=BATCH_OF, specs=[command()] * 2, more=number < 2) for number in range(3)]
        caller.send(*parts)
        failed = await caller.refusal()
        assert (failed.id, failed.code) == (BATCH_OF, ErrorCode.FULL)
        await life.told()
        assert await jobs_in(life) == 0


@pytest.mark.parametrize("bad", [0, 1, 2])
async def test_batch_with_an_unreadable_part_is_not_submitted_without_it(config, launcher, bad):
    async with served(config, launcher) as life:
        caller = await life.call()
        for number in range(3):
            priority = 5000 if number == bad else 0
            spec = {"argv": ["true"], "priority": priority}
            caller.send_raw(raw(type="submit_many", id=BATCH_OF, specs=[spec], more=number < 2))
        failed = await caller.hear(Failed)
        assert (failed.id, failed.code) == (BATCH_OF, ErrorCode.PROTOCOL)
        await life.told()
        assert await jobs_in(life) == 0
        if bad == 2:
            assert (await caller.ask(SubmitMany(id=8, specs=[command()]), Submitted)).jobs == [1]
        else:
            assert "none of it is queued" in (await caller.refusal()).message


async def test_unfinished_batches_of_all_clients_share_one_budget(config, launcher, monkeypatch):
    monkeypatch.setattr(limits, "MAX_BATCH_BYTES", 10 * 1024)
    async with served(config, launcher) as life:
        first, second = await life.call(), await life.call()
        part = SubmitMany(id=BATCH_OF, specs=[command()] * 10, more=True)
        first.send(part)
        await first.ask(GetInfo(1), Info)  # so the first part has been counted

        second.send(part)
        refused = await second.refusal()

        assert (refused.code, "all clients" in refused.message) == (ErrorCode.FULL, True)
        assert len((await first.ask(SubmitMany(id=BATCH_OF, specs=[]), Submitted)).jobs) == 10
        third = await life.call()
        third.send(part)
        assert len((await third.ask(SubmitMany(id=BATCH_OF, specs=[]), Submitted)).jobs) == 10


async def test_batch_whose_client_vanishes_is_not_submitted(config, launcher):
    async with served(config, launcher) as life:
        caller = await life.call()
        caller.send(SubmitMany(id=BATCH_OF, specs=[command()] * 10, more=True))
        assert await is_alive(caller)
        await caller.hang_up()
        assert await is_alive(await life.call())
        assert await jobs_in(life) == 0


# --- specs that are refused ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "problem"),
    [
        ({}, "either argv"),
        ({"argv": ["true"], "target": "app:f"}, "either argv"),
        ({"argv": []}, "argv is empty"),
        ({"argv": [""]}, "argv is empty"),
        ({"argv": ["safe\0; evil"]}, "argv[0] contains a NUL"),
        ({"argv": ["true", "a\0"]}, "argv[1] contains a NUL"),
        ({"argv": ["true", "é" * 100_000]}, "argv[1] is longer"),
        ({"argv": ["x" * 100_000] * 10 + ["y"]}, "argv is longer than 1000000 bytes"),
        ({"argv": ["true"], "cwd": "relative"}, "cwd must be an absolute path"),
        ({"argv": ["true"], "cwd": "/tmp\0/x"}, "cwd must be an absolute path"),
        ({"argv": ["true"], "env": {"A": "1\0"}}, "env A contains a NUL"),
        ({"argv": ["true"], "env": {"A=B": "1"}}, "a variable named 'A=B'"),
        ({"argv": ["true"], "env": {"": "1"}}, "a variable named ''"),
        ({"argv": ["true"], "env": {"A": "x" * 131_071}}, "env A is longer"),
        ({"argv": ["true"], "env": {"A=" + "\1" * 900_000: ""}}, "a variable named 'A="),
        ({"argv": ["true"], "name": "two\nlines"}, "printable"),
        ({"argv": ["true"], "tags": ["\x1b[31m"]}, "printable"),
        ({"target": "app:f", "arguments": "[1]"}, "the arguments must be JSON"),
        ({"target": "app:f", "arguments": "{"}, "the arguments must be JSON"),
        ({"target": "app:f", "arguments": '{"args": [NaN]}'}, "the arguments must be JSON"),
        ({"target": "app:_f"}, "must be package.module"),
    ],
    ids=lambda value: str(value)[:40],
)
async def test_spec_that_cannot_be_a_job_is_refused_in_one_line(folder, launcher, spec, problem):
    async with served(configure(folder, rest=CLASSES), launcher) as life:
        caller = await life.call()
        caller.send_raw(raw_submit(spec))
        failed = await caller.hear(Failed)
        assert (failed.id, failed.code) == (3, ErrorCode.REFUSED)
        assert problem in failed.message
        assert "\n" not in failed.message
        assert len(failed.message) <= MAX_MESSAGE
        assert await is_alive(caller)
        assert await jobs_in(life) == 0


async def test_class_that_is_not_allowed_is_refused_with_key_and_file(config, launcher):
    async with served(config, launcher) as life:
        caller = await life.call()
        failed = await caller.ask(Submit(3, JobSpec(target="app:f")), Failed)
        assert failed.code is ErrorCode.NOT_ALLOWED
        assert f"[security] allowed_classes of {config.source}" in failed.message


async def test_draining_daemon_refuses_a_submit_and_answers_the_rest(config, launcher):
    async with served(config, launcher) as life:
        caller = await life.call()
        await soon(life.supervisor.drain(ShutdownMode.LEAVE))
        failed = await caller.ask(Submit(3, command()), Failed)
        assert (failed.code, failed.message) == (
            ErrorCode.REFUSED,
            "the daemon is shutting down and takes no jobs",
        )
        assert await is_alive(caller)


# --- streams ------------------------------------------------------------------------------------------


async def test_request_id_in_use_is_refused_and_ends_the_connection(config, launcher):
    async with served(config, launcher) as life:
        job = await life.submit()
        caller = await life.call()
        caller.send(Wait(5, [job]), GetInfo(5))
        failed = await caller.refusal()
        assert (failed.code, failed.message) == (ErrorCode.PROTOCOL, "request id 5 is in use")


async def test_request_id_may_be_used_again_after_its_end(config, launcher):
    async with served(config, launcher) as life:
        caller = await life.call()
        for _ in range(50):
            assert await caller.stream(List(id=5), JobsPart) == []


async def test_forgotten_stream_ends_at_once(config, launcher):
    async with served(config, launcher) as life:
        job = await life.submit()
        caller = await life.call()
        caller.send(Wait(5, [job]))
        await is_alive(caller)
        caller.send(Forget(6, 5), GetInfo(7))
        assert await caller.hear(End) == End(5)
        assert (await caller.hear(Info)).id == 7
        assert await caller.ask(Wait(5, [404]), Failed) == Failed(5, ErrorCode.NO_SUCH_JOB, "no job 404")


async def test_forgetting_what_is_unknown_or_over_does_nothing(config, launcher):
    async with served(config, launcher) as life:
        caller = await life.call()
        assert await caller.stream(List(id=5), JobsPart) == []
        caller.send(Forget(6, 5), Forget(7, 404), GetInfo(8))
        assert (await caller.hear(Info)).id == 8


async def test_stream_that_is_forgotten_before_it_began_no_longer_counts(config, launcher, monkeypatch):
    monkeypatch.setattr(limits, "MAX_IN_FLIGHT", 4)
    async with served(config, launcher) as life:
        job = await life.submit()
        caller = await life.call()
        for number in range(10):
            caller.send(Wait(number, [job]), Forget(1000, number))
            assert await caller.hear(End) == End(number)
        assert await is_alive(caller)


async def test_client_that_vanishes_leaves_no_stream_behind(config, launcher):
    async with served(config, launcher) as life:
        key = await life.launched()
        tasks = set(life.tasks._tasks)
        caller = await life.call()
        caller.send(Logs(id=1, job=key.job, follow=True), Wait(2, [key.job]))
        assert await launcher.hear(WatchLog) == WatchLog(key)
        await caller.hang_up()
        assert await launcher.hear(WatchLog) == WatchLog(key, on=False)
        assert await is_alive(await life.call())
        assert len(life.control.connections) == 1
        assert life.supervisor.subscriptions.__dict__ == Subscriptions().__dict__
        assert set(life.tasks._tasks) == tasks


def spoil(path, how):
    """Put something else in the place of a log."""
    path.parent.mkdir(parents=True, exist_ok=True)
    match how:
        case "symlink":
            path.symlink_to("/etc/passwd")
        case "directory":
            path.mkdir()
        case "fifo":
            os.mkfifo(path)
        case _:
            path.parent.rmdir()
            path.parent.touch()


@pytest.mark.parametrize("how", ["symlink", "directory", "fifo", "file for a folder"])
async def test_log_that_is_not_a_file_fails_one_request_and_nothing_else(config, launcher, how):
    async with served(config, launcher) as life:
        key = await life.launched()
        spoil(Path(config.log_dir, log_name(key.job, key.attempt)), how)
        caller = await life.call()

        failed = await caller.ask(Logs(id=1, job=key.job), Failed)

        assert failed.code is ErrorCode.REFUSED
        assert await is_alive(caller)


async def test_bug_in_one_answer_fails_only_that_request_and_is_logged(config, launcher, monkeypatch, caplog):
    async def broken(*_):
        raise RuntimeError("can't start new thread")

    async with served(config, launcher) as life:
        monkeypatch.setitem(life.control.handler._answers, Show, broken)
        caller = await life.call()

        assert "bug in bgd" in (await caller.ask(Show(1), Failed)).message

        assert await is_alive(caller)
    assert "can't start new thread" in caplog.text


async def test_batch_with_a_bad_environment_is_refused_as_a_whole(config, launcher):
    async with served(config, launcher) as life:
        caller = await life.call()
        batch = SubmitMany(id=BATCH_OF, specs=[command()], env={"A=B": "1"})
        assert "holds no '='" in (await caller.ask(batch, Failed)).message
        assert await jobs_in(life) == 0


async def test_slow_reader_of_a_big_log_holds_little_of_it_in_memory(config, launcher):
    size = 64 << 20
    async with served(config, launcher) as life:
        key = await life.launched()
        write_log(config, key, zeros=size)
        caller, other = await life.call(), await life.call()
        caller.send(Logs(id=1, job=key.job))
        most = 0
        for _ in range(300):
            await is_alive(other)
            most = max(most, *(each._transport.get_write_buffer_size() for each in life.control.connections))
        assert HIGH_WATER < most < 2 * HIGH_WATER
        got = 0
        while isinstance(part := await caller.next(), LogPart):
            got += len(part.data)
        assert got == size


async def test_reader_that_does_not_read_cannot_keep_the_daemon_from_ending(config, launcher):
    async with asyncio.timeout(10), served(config, launcher) as life:
        key = await life.launched()
        write_log(config, key, zeros=8 << 20)
        caller = await life.call()
        caller.send(Logs(id=1, job=key.job, follow=True))
        await launcher.hear(WatchLog)
        assert await is_alive(await life.call())


async def test_what_a_client_sent_before_it_hung_up_is_handled(config, launcher):
    sent: list[Hello | Submit] = [Hello(PROTOCOL, "1"), *(Submit(number, command()) for number in (1, 2))]
    async with served(config, launcher) as life:
        with socket.socket(socket.AF_UNIX) as caller:
            caller.connect(life.config.daemon.socket)
            caller.send(b"".join(frame(encode(each)) for each in sent))

        assert (await launcher.hear(Launch)).key == life.key(1)
        assert (await launcher.hear(Launch)).key == life.key(2)
