"""A Client that threads share."""

from __future__ import annotations

import signal
import socket
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from bgd import Client
from bgd.errors import DaemonUnreachable
from bgd.wire import replies
from tests.client.scripted import accept, view_of


def test_threads_that_wait_at_once_each_get_their_own_answer(play):
    threads = 8

    def script(peer):
        peer.greet()
        waits = [peer.receive() for _ in range(threads)]
        for wait in reversed(waits):
            peer.send(replies.JobsPart(wait.id, [view_of(wait.jobs[0])]), replies.End(wait.id))

    with Client(play(script)) as client, ThreadPoolExecutor(threads) as pool:
        client_ids = range(1, threads + 1)
        answers = list(pool.map(lambda job_id: client.wait([job_id])[0].id, client_ids))

    assert answers == list(client_ids)


def test_when_a_thread_times_out_another_reads_on(play):
    impatient_left = threading.Event()

    def script(peer):
        peer.greet()
        waits = {wait.jobs[0]: wait for wait in (peer.receive(), peer.receive())}
        peer.send(replies.End(peer.receive().request))
        assert impatient_left.wait(10)
        peer.send(replies.JobsPart(waits[2].id, [view_of(2)]), replies.End(waits[2].id))

    with Client(play(script)) as client, ThreadPoolExecutor(1) as pool:

        def be_impatient():
            with pytest.raises(TimeoutError):
                client.wait([1], timeout=0.1)
            impatient_left.set()

        impatience = pool.submit(be_impatient)
        assert client.wait([2], timeout=10)[0].id == 2
        impatience.result()


def test_whoever_reads_passes_that_on_when_it_leaves(play):
    threads, rounds = 8, 60

    def take_turns(client, number):
        for turn in range(rounds):
            if turn % 5 == number % 5:
                with pytest.raises(TimeoutError):  # it may be the one that reads for all
                    client.wait([1], timeout=0.001)
            client.submit(["true"])

    with Client(play(accept(threads * rounds)), timeout=10) as client, ThreadPoolExecutor(threads) as pool:
        for done in [pool.submit(take_turns, client, number) for number in range(threads)]:
            done.result()


def test_closing_a_client_wakes_its_waiting_thread(play):
    is_waiting = threading.Event()

    def script(peer):
        peer.greet()
        peer.receive()
        is_waiting.set()
        peer.wait_for_end()

    client = Client(play(script))
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(client.wait, [1])
        assert is_waiting.wait(10)
        client.close()
        with pytest.raises(DaemonUnreachable):
            waiting.result(10)


def test_a_signal_does_not_cut_short_the_wait_for_a_busy_daemon(tmp_path):
    path = str(tmp_path / "busy.sock")
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as first:
        listener.bind(path)
        listener.listen(0)
        first.connect(path)
        before = signal.signal(signal.SIGALRM, lambda *_: None)
        signal.setitimer(signal.ITIMER_REAL, 0.02, 0.02)
        try:
            with pytest.raises(DaemonUnreachable, match="does not answer"):
                Client(path, timeout=0.1).submit(["true"])
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)


def test_threads_share_a_client(daemon):
    with daemon.client() as client, ThreadPoolExecutor(8) as pool:
        results = list(
            pool.map(lambda code: client.submit(["sh", "-c", f"exit {code}"]).wait(20).exit_code, range(24))
        )

    assert results == list(range(24))
