from __future__ import annotations

import os
import socket
import subprocess
import sys

import pytest

from bgd.daemon.web import auth
from tests.support import DEADLINE

STRANGER = 4_000_000  # a uid that nobody has
# modules are loaded as root, whose folders may be closed to others
CONNECT = """
import os, socket, sys
os.setuid(int(sys.argv[1]))
stranger = socket.socket(socket.AF_INET6 if ":" in sys.argv[2] else socket.AF_INET)
stranger.connect((sys.argv[2], int(sys.argv[3])))
stranger.recv(1)
"""

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="NOT TESTED: only root can become somebody else")
ways = pytest.mark.parametrize("ask", [auth._uid_from_netlink, auth._uid_from_proc, auth.peer_uid])


@pytest.fixture(params=["127.0.0.1", "::1"])
def listening(request):
    host = request.param
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as listening:
        listening.settimeout(DEADLINE)
        listening.bind((host, 0))
        listening.listen()
        yield listening


def ends_of(connection):
    return connection.getpeername()[:2], connection.getsockname()[:2]


@ways
def test_the_owner_of_a_connection_is_found(ask, listening):
    with socket.create_connection(listening.getsockname()[:2]), listening.accept()[0] as connection:
        assert ask(*ends_of(connection)) == os.getuid()


@needs_root
@ways
def test_a_connection_of_another_user_is_recognized(ask, listening):
    host, port = listening.getsockname()[:2]
    stranger = subprocess.Popen([sys.executable, "-c", CONNECT, str(STRANGER), host, str(port)])
    with listening.accept()[0] as connection:
        assert ask(*ends_of(connection)) == STRANGER
    assert stranger.wait(DEADLINE) == 0


@ways
def test_a_closed_connection_has_no_owner(ask, listening):
    """The kernel says that root owns such a socket."""
    other = socket.create_connection(listening.getsockname()[:2])
    with listening.accept()[0] as connection:
        ends = ends_of(connection)
        other.close()
        assert ask(*ends) is None
    assert ask(*ends) is None


@ways
def test_a_listening_socket_is_not_a_connection(ask, listening):
    own = listening.getsockname()[:2]
    assert ask(own, (own[0], 1)) is None
