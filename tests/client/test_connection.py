"""What a client does when a daemon behaves well or badly on the socket."""

from __future__ import annotations

import os
import select
import socket
import time
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

import bgd
from bgd.errors import BgdError, DaemonUnreachable, Full, NoSuchJob, NotAllowed, ProtocolError, Refused
from bgd.settings.paths import SYSTEM_PATHS
from bgd.wire import replies
from bgd.wire.framing import frame
from bgd.wire.replies import ErrorCode
from tests.client.scripted import Peer, serve, view_of
from tests.support import DEADLINE


def test_submit_returns_the_daemons_id(client_at, play):
    with client_at(play(serve(7))) as client:
        assert client.submit(["true"]).id == 7


def test_another_protocol_is_an_error_that_names_both_versions(client_at, play):
    client = client_at(play(lambda peer: peer.greet(protocol=99)))

    with pytest.raises(
        ProtocolError, match=rf"bgd {bgd.__version__}\) speaks protocol 99.*protocol 1: upgrade"
    ):
        client.submit(["true"])


def test_a_client_that_is_refused_before_the_hello_learns_why(client_at, play):
    client = client_at(
        play(lambda peer: peer.send(replies.Failed(0, ErrorCode.FULL, "too many connections")))
    )

    with pytest.raises(Full, match="too many connections"):
        client.submit(["true"])


def test_a_daemon_that_hangs_up_at_once_is_unreachable(client_at, play):
    client = client_at(play(lambda _: None))

    with pytest.raises(DaemonUnreachable, match="closed the connection without an answer"):
        client.submit(["true"])


@pytest.mark.parametrize(
    "garbage", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\0\0\0\1\xc1", b"\0\0\0\3\x81\xa1a"]
)
def test_garbage_is_a_protocol_error(client_at, play, garbage):
    def script(peer):
        peer.greet()
        peer.receive()
        peer.send_bytes(garbage)

    with pytest.raises(ProtocolError):
        client_at(play(script)).submit(["true"])


def test_a_daemon_that_goes_away_before_it_answers_may_have_taken_the_job(client_at, play):
    def script(peer):
        peer.greet()
        peer.receive()

    with pytest.raises(DaemonUnreachable, match="may or may not have been executed"):
        client_at(play(script), timeout=2.0).submit(["true"])  # 2 s: it waits for another daemon


def test_a_request_that_cannot_have_been_taken_is_sent_again_over_a_new_connection(client_at, play):
    with client_at(play(serve(1), serve(2))) as client:
        client.submit(["true"])
        wait_until_hung_up(client)

        assert client.submit(["true"]).id == 2


def test_a_silent_daemon_is_unreachable_after_the_timeout(client_at, play):
    def script(peer):
        peer.greet()
        peer.wait_for_end()

    with (
        client_at(play(script), timeout=1.0) as client,  # in which a busy machine greets
        pytest.raises(DaemonUnreachable, match=r"did not answer within 1 s: .*may or may not"),
    ):
        client.submit(["true"])


def test_a_daemon_that_never_greets_is_unreachable_after_the_timeout(client_at, play):
    with pytest.raises(DaemonUnreachable, match="does not answer"):
        client_at(play(Peer.wait_for_end), timeout=0.05).submit(["true"])


def test_a_daemon_too_busy_to_accept_is_unreachable_after_the_timeout(client_at, tmp_path):
    path = str(tmp_path / "busy.sock")
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as first:
        listener.bind(path)
        listener.listen(0)
        first.connect(path)
        began = time.monotonic()

        with pytest.raises(DaemonUnreachable, match="does not answer"):
            client_at(path, timeout=0.1).submit(["true"])

    assert 0.1 <= time.monotonic() - began < 5


def test_nobody_at_the_socket_is_an_error_that_names_it(client_at, tmp_path):
    with pytest.raises(DaemonUnreachable, match=r"no daemon answers at .*/none\.sock"):
        client_at(str(tmp_path / "none.sock")).submit(["true"])


def test_the_error_at_the_systems_socket_says_how_to_start_its_daemon(client_at, monkeypatch, tmp_path):
    path = str(tmp_path / "bgd.sock")
    monkeypatch.setattr("bgd.client.connection.SYSTEM_PATHS", replace(SYSTEM_PATHS, socket=path))

    with pytest.raises(DaemonUnreachable, match="start it with `systemctl restart bgd`"):
        client_at(path).submit(["true"])


def test_another_kind_of_socket_is_an_error(client_at, tmp_path):
    path = str(tmp_path / "datagrams.sock")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.bind(path)

        with pytest.raises(DaemonUnreachable, match=r"datagrams\.sock is not a daemon's socket"):
            client_at(path).submit(["true"])


def test_a_socket_without_permission_is_not_allowed(client_at, tmp_path):
    path = tmp_path / "private.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        path.chmod(0)
        user = os.geteuid()
        if user == 0:
            os.seteuid(65534)  # root may use any socket
        try:
            with pytest.raises(NotAllowed, match=r"you may not use the daemon at .*/private\.sock"):
                client_at(str(path)).submit(["true"])
        finally:
            os.seteuid(user)


def test_a_request_too_long_to_send_is_refused_and_the_connection_goes_on(client_at, play):
    with client_at(play(serve(1))) as client:
        with pytest.raises(Refused, match="over the limit"):
            client.submit(["echo", *["x" * 100_000] * 11])
        assert client.submit(["true"]).id == 1


def test_text_that_is_not_utf8_is_refused(client_at, play):
    with client_at(play(serve(1))) as client:
        with pytest.raises(Refused, match="not UTF-8"):
            client.submit(["cat", os.fsdecode(b"caf\xe9")])
        client.submit(["true"])


@pytest.mark.parametrize(
    ("code", "error"),
    [
        (ErrorCode.REFUSED, Refused),
        (ErrorCode.NOT_ALLOWED, NotAllowed),
        (ErrorCode.NO_SUCH_JOB, NoSuchJob),
        (ErrorCode.FULL, Full),
        (ErrorCode.PROTOCOL, ProtocolError),
    ],
)
def test_each_failure_has_its_exception_and_the_connection_goes_on(client_at, play, code, error):
    def script(peer):
        peer.greet()
        peer.send(replies.Failed(peer.receive().id, code, "because"))
        peer.send(replies.Submitted(peer.receive().id, [5]))

    with client_at(play(script)) as client:
        with pytest.raises(error, match="because"):
            client.submit(["true"])
        assert client.submit(["true"]).id == 5


def test_a_daemon_that_does_not_know_a_request_or_an_option_is_called_older(client_at, play):
    def script(peer):
        peer.greet(version="1.0.7")
        peer.send(replies.Failed(peer.receive().id, ErrorCode.PROTOCOL, "no", "later"))

    with client_at(play(script)) as client, pytest.raises(ProtocolError) as refused:
        client.queues()
    assert str(refused.value) == (
        "the daemon is an older bgd (1.0.7), which does not know `later`: upgrade it, and restart it with "
        "`bgctl shutdown` and then `bgd`, or with `systemctl restart bgd`; running jobs go on"
    )


def test_a_daemon_of_another_version_that_cannot_read_a_request_is_named(client_at, play):
    def script(peer):
        peer.greet(version="1.0.7")
        peer.send(replies.Failed(peer.receive().id, ErrorCode.PROTOCOL, "not a message of protocol 1: so"))

    with client_at(play(script)) as client, pytest.raises(ProtocolError) as refused:
        client.queues()
    assert str(refused.value) == (
        f"not a message of protocol 1: so; the daemon is bgd 1.0.7, this program is bgd {bgd.__version__}: "
        "upgrade the older one"
    )


def test_an_answer_that_a_program_does_not_know_names_both_versions(client_at, play):
    def script(peer):
        peer.greet(version="1.9.0")
        peer.send_bytes(frame(msgspec.msgpack.encode({"type": "later", "id": peer.receive().id})))

    with client_at(play(script)) as client, pytest.raises(ProtocolError) as unread:
        client.queues()
    assert "no reply is of the type 'later'; the daemon is bgd 1.9.0, this program is bgd" in str(
        unread.value
    )


def test_a_reply_of_the_wrong_type_is_a_protocol_error(client_at, play):
    def script(peer):
        peer.greet()
        peer.send(replies.Done(peer.receive().id))

    with (
        client_at(play(script)) as client,
        pytest.raises(ProtocolError, match="answered with Done instead of Submitted"),
    ):
        client.submit(["true"])


def test_waiting_too_long_is_a_timeout_and_ends_the_stream(client_at, play):
    forgotten = []

    def script(peer):
        peer.greet()
        wait = peer.receive()
        forget = peer.receive()
        forgotten.append((wait.id, forget.request))
        peer.send(replies.End(wait.id))
        peer.send(replies.Submitted(peer.receive().id, [8]))

    with client_at(play(script)) as client:
        with pytest.raises(TimeoutError, match=r"job 7 has not finished within 0\.05 s"):
            client.wait([7], timeout=0.05)
        assert client.submit(["true"]).id == 8
    [(stream, forgot)] = forgotten
    assert stream == forgot


def test_as_finished_yields_in_order_of_ends_and_wait_returns_in_the_given_order(client_at, play):
    def script(peer):
        peer.greet()
        for _ in range(2):
            wait = peer.receive()
            peer.send(replies.JobsPart(wait.id, [view_of(9)]), replies.JobsPart(wait.id, [view_of(4)]))
            peer.send(replies.End(wait.id))

    with client_at(play(script)) as client:
        assert [job.id for job in client.as_finished([4, 9])] == [9, 4]
        assert [job.id for job in client.wait([4, 9])] == [4, 9]


def test_a_log_has_its_own_connection_and_closes_it_early(client_at, play):
    def log(peer):
        peer.greet()
        request = peer.receive()
        peer.send(replies.LogPart(request.id, 1, b"first\n"))
        peer.wait_for_end()

    with client_at(play(serve(1), log)) as client:
        job = client.submit(["true"])
        pieces = job.logs(follow=True)
        assert next(pieces).data == b"first\n"
        pieces.close()


def test_a_batch_over_the_frame_limit_is_sent_in_parts_of_one_request(client_at, play):
    parts = []

    def script(peer):
        peer.greet()
        while True:
            parts.append(peer.receive())
            if not parts[-1].more:
                break
        peer.send(replies.Submitted(parts[-1].id, list(range(1, 301))))

    argvs = [["echo", str(number), "x" * 10_000] for number in range(300)]
    with client_at(play(script)) as client:
        jobs = client.submit_many(argvs)

    assert len(jobs) == 300
    assert len(parts) > 2
    assert len({part.id for part in parts}) == 1
    assert [spec.argv[1] for part in parts for spec in part.specs] == [str(number) for number in range(300)]


def test_every_error_of_a_client_is_a_bgd_error():
    assert all(issubclass(error, BgdError) for error in (DaemonUnreachable, Refused, ProtocolError))


def wait_until_hung_up(client: Any) -> None:
    """Wait until the kernel knows that the daemon closed the connection."""
    poller = select.poll()
    poller.register(client._channel._connection._socket, select.POLLIN)
    assert poller.poll(DEADLINE * 1000)
