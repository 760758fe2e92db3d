"""Lost answers: what was asked for is done, and only once."""

from __future__ import annotations

import select
import socket
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest
from msgspec import UNSET
from msgspec.structs import replace

from bgd import Client, State
from bgd.client.session import REPEATABLE_SECONDS
from bgd.errors import DaemonUnreachable
from bgd.wire import replies, requests
from bgd.wire.framing import FrameReader, frame
from tests.docs.pages import page
from tests.support import DEADLINE, Daemon, wait_until

# --- what a client sends to scripted daemons ------------------------------------------------------------


@pytest.fixture
def heard():
    return []


@pytest.fixture
def daemon_that(play, heard):
    """Start a daemon that reads one request per connection, and answers only the last."""

    def start(*newest, answer=lambda request: replies.Submitted(request.id, [9])):
        def script(peer, told, is_last):
            peer.greet(newest=told)
            heard.append(peer.receive())
            if is_last:
                peer.send(answer(heard[-1]))

        scripts = [
            lambda peer, told=told, index=index: script(peer, told, index == len(newest) - 1)
            for index, told in enumerate(newest)
        ]
        return play(*scripts)

    return start


def test_a_submit_whose_answer_was_lost_is_sent_again_with_its_token(client_at, daemon_that, heard):
    job = client_at(daemon_that(7, 8)).submit(["true"])

    assert job.id == 9
    assert isinstance(heard[0].token, bytes)
    assert heard[0].again is UNSET
    assert heard[1] == replace(heard[0], again=7)


def test_a_batch_is_sent_again_with_its_token(client_at, daemon_that, heard):
    [job] = client_at(daemon_that(7, 8)).submit_many([["true"]])

    assert job.id == 9
    assert heard[1] == replace(heard[0], again=7)


def test_each_submit_has_its_own_token(client_at, play, heard):
    def script(peer):
        peer.greet(newest=0)
        for _ in range(2):
            heard.append(peer.receive())
            peer.send(replies.Submitted(heard[-1].id, [len(heard)]))

    client = client_at(play(script))
    client.submit(["true"])
    client.submit(["true"])

    assert heard[0].token != heard[1].token


def test_the_newest_job_is_the_last_one_in_any_reply(client_at, play, heard):
    def first(peer):
        peer.greet(newest=3)
        peer.send(replies.Submitted(peer.receive().id, [5, 6]))
        peer.receive()

    def second(peer):
        peer.greet(newest=3)
        heard.append(peer.receive())
        peer.send(replies.Submitted(heard[0].id, [7]))

    client = client_at(play(first, second))
    client.submit_many([["true"], ["true"]])
    client.submit(["true"])

    assert heard[0].again == 6


def test_a_submit_is_repeated_with_its_token_however_often_its_answer_is_lost(client_at, daemon_that, heard):
    job = client_at(daemon_that(7, 8, 8, 9)).submit(["true"])

    assert job.id == 9
    assert heard[1:] == [replace(heard[0], again=7)] * 3


def test_a_submit_is_not_sent_again_once_the_daemon_may_have_forgotten_it(
    client_at, daemon_that, heard, monkeypatch
):
    monkeypatch.setattr("bgd.client.session.REPEATABLE_SECONDS", 0.0)

    client = client_at(daemon_that(7, 8))
    with pytest.raises(DaemonUnreachable, match="may or may not have been executed"):
        client.submit(["true"], key="one")
    assert len(heard) == 1

    client.submit(["true"])  # for the script that is left


def test_the_page_on_the_client_says_how_long_a_submit_is_repeated():
    assert REPEATABLE_SECONDS == 5 * 60
    assert "five minutes after it first sent it" in page("docs/python.md")


def test_an_answer_that_is_lost_until_the_timeout_is_an_error(client_at, play):
    def script(peer):
        peer.greet(newest=1)
        peer.receive()

    with pytest.raises(DaemonUnreachable, match="may or may not have been executed"):
        client_at(play(script, script), timeout=0.3).submit(["true"])


def test_a_request_that_only_reads_is_repeated_however_often_its_answer_is_lost(client_at, play):
    def lose(peer):
        peer.greet()
        peer.receive()

    def answer(peer):
        peer.greet()
        request = peer.receive()
        peer.send(replies.JobsPart(request.id, []), replies.End(request.id))

    assert client_at(play(lose, lose, lose, answer)).jobs() == []


def test_only_submits_have_tokens(client_at, play):
    def script(peer):
        peer.greet(newest=1)
        request = peer.receive()
        assert isinstance(request, requests.Cancel)
        peer.send(replies.Acted(request.id, []))

    assert client_at(play(script)).cancel([1]) == []


@pytest.mark.parametrize(
    ("verb", "kind"),
    [
        ("cancel", requests.Cancel),
        ("hold", requests.Hold),
        ("release", requests.Release),
        ("suspend", requests.Suspend),
        ("continue_", requests.Continue),
    ],
)
def test_repeatable_actions_are_sent_until_they_are_answered(client_at, daemon_that, heard, verb, kind):
    client = client_at(daemon_that(1, 1, 1, answer=acted_on))

    [result] = getattr(client, verb)([5])

    assert result.state is State.RUNNING
    assert [type(request) for request in heard] == [kind] * 3


def acted_on(request):
    return replies.Acted(request.id, [replies.ActResult(job, state=State.RUNNING) for job in request.jobs])


def test_only_a_repeated_action_says_so(client_at, daemon_that, heard):
    client_at(daemon_that(1, 1, 1, answer=acted_on)).cancel([5])

    assert [request.repeated for request in heard] == [False, True, True]


def tell_one(peer):
    peer.greet(newest=9)
    request = peer.receive()
    job = request.where.after + 1
    peer.send(replies.Acted(request.id, [replies.ActResult(job, state=State.HELD)]))
    return request


def test_an_action_on_all_that_match_goes_on_after_the_last_job_that_was_told(client_at, play):
    def finish(peer):
        request = tell_one(peer)
        peer.send(replies.End(request.id))

    client = client_at(play(tell_one, tell_one, finish))

    told = [each.job for part in client.act_on_all("hold", requests.Selection(queue="q")) for each in part]

    assert told == [1, 2, 3]


@pytest.mark.parametrize(("verb", "options"), [("retry", {}), ("signal", {"signal": 10})])
def test_an_action_that_must_not_be_done_twice_does_not_go_on(client_at, play, verb, options):
    client = client_at(play(tell_one))

    with pytest.raises(DaemonUnreachable, match=f"in the middle of this {verb}"):
        list(client.act_on_all(verb, requests.Selection(), **options))


@pytest.mark.parametrize("verb", ["retry", "remove"])
def test_actions_that_must_not_be_repeated_are_sent_once(client_at, daemon_that, heard, verb):
    client = client_at(daemon_that(1, 1, answer=acted_on))
    with pytest.raises(DaemonUnreachable, match="may or may not have been executed"):
        getattr(client, verb)([5])
    assert len(heard) == 1

    client.retry([6])  # for the script that is left


# --- real daemons behind a proxy that loses answers -----------------------------------------------------


class LossyProxy:
    """A proxy to a daemon that breaks its first connection instead of passing on an answer."""

    def __init__(self, path: Path, daemon: Path, then: Callable[[], None]) -> None:
        self._daemon = str(daemon)
        self._then = then
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self.answers = 0
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._thread.join(DEADLINE)
        assert not self._thread.is_alive()

    def _serve(self) -> None:
        with self._listener:
            self._listener.settimeout(DEADLINE)
            for is_first in (True, False):
                client, _ = self._listener.accept()
                with client, socket.socket(socket.AF_UNIX) as daemon:
                    daemon.connect(self._daemon)
                    self._lead(client, daemon, breaks=is_first)
                if is_first:
                    self._then()

    def _lead(self, client: socket.socket, daemon: socket.socket, *, breaks: bool) -> None:
        reader, payloads = FrameReader(), 0
        while True:
            readable, _, _ = select.select([client, daemon], [], [], DEADLINE)
            for source, sink in ((client, daemon), (daemon, client)):
                if source not in readable:
                    continue
                data = source.recv(65536)
                if not data:
                    return
                if source is daemon:
                    payloads += len(list(reader.feed(data)))
                    self.answers += payloads > 1
                    if breaks and payloads > 1:  # the first one is the hello
                        return
                with suppress(BrokenPipeError):
                    sink.sendall(data)


@pytest.fixture
def behind_a_proxy(own_daemon: Daemon, client_at):
    """Make a client whose first connection breaks after the daemon has answered a request."""
    proxies: list[LossyProxy] = []

    def start(then):
        path = own_daemon.folder / "proxy.sock"
        proxies.append(LossyProxy(path, own_daemon.socket, then))
        return client_at(str(path), timeout=DEADLINE)

    yield start
    for proxy in proxies:
        proxy.close()
        assert proxy.answers >= 2, "nothing was lost"


def finish(daemon: Daemon) -> None:
    with daemon.client() as client:
        wait_until(lambda: all(job.state == "succeeded" for job in client.jobs()))


def test_a_job_whose_answer_was_lost_is_queued_once(behind_a_proxy, own_daemon: Daemon):
    client = behind_a_proxy(lambda: finish(own_daemon))

    job = client.submit(["true"])
    client.close()

    with own_daemon.client() as plain:
        assert [each.id for each in plain.jobs()] == [job.id]


def test_a_batch_whose_answer_was_lost_is_queued_once(behind_a_proxy, own_daemon: Daemon):
    client = behind_a_proxy(lambda: finish(own_daemon))

    jobs = client.submit_many([["true"]] * 50)
    client.close()

    with own_daemon.client() as plain:
        assert sorted(each.id for each in plain.jobs(limit=1000)) == [job.id for job in jobs]


def test_a_job_is_queued_once_if_the_daemon_was_killed_before_it_answered(behind_a_proxy, own_daemon: Daemon):
    def restart():
        finish(own_daemon)
        own_daemon.process.kill()
        own_daemon.process.wait()
        own_daemon.start()

    client = behind_a_proxy(restart)

    job = client.submit(["true"], key="one")  # a key alone is no help: the first job has finished
    client.close()

    with own_daemon.client() as plain:
        assert [each.id for each in plain.jobs()] == [job.id]


def test_a_repeated_cancel_does_not_report_its_own_work_as_refused(behind_a_proxy, own_daemon: Daemon):
    with own_daemon.client() as plain:
        held, other = plain.submit(["true"], hold=True), plain.submit(["true"])
        other.wait(DEADLINE)
    client = behind_a_proxy(lambda: None)

    results = client.cancel([held, other, 999])
    client.close()

    assert [result.state for result in results] == [State.CANCELLED, None, None]
    assert results[1].message == f"job {other.id} has already finished (succeeded)"
    assert results[2].message == "no job 999"


def test_a_repeated_release_does_not_report_its_own_work_as_refused(behind_a_proxy, own_daemon: Daemon):
    with own_daemon.client() as plain:
        held = plain.submit(["true"], hold=True)
    client = behind_a_proxy(lambda: finish(own_daemon))

    [result] = client.release([held])
    client.close()

    assert result.state is State.SUCCEEDED


def test_a_repeated_remove_queue_is_not_refused(behind_a_proxy, own_daemon: Daemon):
    with own_daemon.client() as plain:
        plain.set_queue("night", 1)
    client = behind_a_proxy(lambda: None)

    queues = client.remove_queue("night").queues
    client.close()

    assert [queue.name for queue in queues] == ["default"]


def test_a_repeated_resume_is_not_refused(behind_a_proxy, own_daemon: Daemon):
    with own_daemon.client() as plain:
        plain.set_queue("night", 1)
        plain.pause("night")
    client = behind_a_proxy(lambda: forget(own_daemon))

    assert not [queue for queue in client.resume("night").queues if queue.paused]
    client.close()


def forget(daemon: Daemon) -> None:
    with daemon.client() as client:
        client.remove_queue("night")


class LosingProxy:
    """A proxy to a daemon that breaks a connection instead of passing on every fourth answer."""

    def __init__(self, path: Path, daemon: Path) -> None:
        self._daemon = str(daemon)
        self._counting = threading.Lock()
        self._answers = 0
        self.lost = 0
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self._pool = ThreadPoolExecutor(16)
        self._pool.submit(self._serve)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._pool.shutdown()
        self._listener.close()

    def _serve(self) -> None:
        with suppress(OSError):  # the listener was shut down
            while True:
                self._pool.submit(self._lead, self._listener.accept()[0])

    def _lead(self, client: socket.socket) -> None:
        reader, is_greeted = FrameReader(), False
        with client, socket.socket(socket.AF_UNIX) as daemon, suppress(ConnectionError):
            daemon.connect(self._daemon)
            while True:
                readable, _, _ = select.select([client, daemon], [], [])
                for source in readable:
                    data = source.recv(65536)
                    if not data:
                        return
                    if source is client:
                        daemon.sendall(data)
                        continue
                    for payload in reader.feed(data):
                        if is_greeted and self._is_lost():
                            return
                        is_greeted = True
                        client.sendall(frame(payload))

    def _is_lost(self) -> bool:
        with self._counting:
            self._answers += 1
            is_lost = self._answers % 4 == 0
            self.lost += is_lost
            return is_lost


def test_threads_that_share_a_client_queue_every_job_once_though_every_fourth_answer_is_lost(
    own_daemon: Daemon,
):
    path = own_daemon.folder / "losing.sock"
    proxy = LosingProxy(path, own_daemon.socket)
    try:
        with Client(str(path), timeout=DEADLINE) as client, ThreadPoolExecutor(8) as pool:
            ids = list(pool.map(lambda _: client.submit(["true"], hold=True).id, range(160)))
    finally:
        proxy.close()

    assert proxy.lost > 20
    with own_daemon.client() as plain:
        assert sorted(job.id for job in plain.jobs(limit=1000)) == sorted(ids)
    assert len(set(ids)) == len(ids)
