"""Listening sockets stay open in the launcher while no daemon runs, and go to the next daemon alone."""

from __future__ import annotations

import resource
import socket
from pathlib import Path

import pytest

from bgd.wire.launching import MAX_HELD_SOCKETS, MAX_SOCKETS_PACKET, NO_SOCKETS, TradeSockets
from tests.support import wait_until


def trade(host, packet=b"", sockets=()):
    """Take what the launcher holds, and give it something else if there is a packet.

    Return what it held, the sockets by their addresses.
    """
    daemon = host.connect()
    daemon.say(TradeSockets())
    held, fds, *_ = socket.recv_fds(daemon.socket, MAX_SOCKETS_PACKET, MAX_HELD_SOCKETS)
    if packet:
        socket.send_fds(daemon.socket, [packet], [each.fileno() for each in sockets])
        assert daemon.socket.recv(1) == b""  # it has taken them
    daemon.close()
    addresses = []
    for fd in fds:
        with socket.socket(fileno=fd) as each:
            addresses.append(each.getsockname())
    return held, addresses


@pytest.fixture
def listening():
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
    yield sockets
    for each in sockets:
        each.close()


def is_listening(address):
    with socket.socket() as client:
        return client.connect_ex(address) == 0


def test_what_one_daemon_gave_the_next_one_gets_and_clients_can_connect_meanwhile(
    host, supervisor, listening
):
    addresses = [each.getsockname() for each in listening]
    assert trade(host) == (NO_SOCKETS, [])
    trade(host, b"secret", listening)
    for each in listening:
        each.close()
    supervisor.close()

    with socket.create_connection(addresses[0]):
        assert trade(host) == (b"secret", addresses)
        assert trade(host) == (b"secret", addresses)  # it keeps them


@pytest.mark.usefixtures("supervisor")
def test_what_it_is_given_replaces_what_it_held(host, listening):
    first = listening[0].getsockname()
    trade(host, b"first", listening[:1])
    listening[0].close()
    assert is_listening(first)

    trade(host, b"second", listening[1:])

    wait_until(lambda: not is_listening(first))
    assert trade(host) == (b"second", [listening[1].getsockname()])
    trade(host, b"third")
    assert trade(host) == (b"third", [])


@pytest.mark.usefixtures("supervisor")
def test_sockets_are_lost_with_the_launcher(host, listening):
    address = listening[0].getsockname()
    trade(host, b"secret", listening[:1])
    listening[0].close()

    host.kill()

    assert not is_listening(address)


def test_jobs_do_not_get_them(host, supervisor, listening):
    trade(host, b"secret", listening)

    listed = supervisor.launch("ls", "-l", "/proc/self/fd")
    supervisor.ended(listed)

    assert b"socket:" not in host.output(listed)


def test_a_launcher_short_of_descriptors_holds_what_it_held(host, supervisor, listening):
    trade(host, b"first", listening[:1])
    pid = host.launchers[0].pid
    most = len(list(Path(f"/proc/{pid}/fd").iterdir())) + 2  # a connection, and what it keeps of it
    _, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (most, hard))

    trade(host, b"second", listening * (MAX_HELD_SOCKETS // 2))

    resource.prlimit(pid, resource.RLIMIT_NOFILE, (hard, hard))
    assert trade(host) == (b"first", [listening[0].getsockname()])
    assert supervisor.run("true").exit_code == 0
