from __future__ import annotations

import os
import socket
import stat

import pytest

from bgd.daemon.web.connection import CannotListen, listen
from bgd.values import MAX_PORT, TcpAddress, UnixAddress


@pytest.fixture
def taken():
    """The first of two consecutive ports; a socket listens on the first, and the second is free."""
    while True:
        with socket.socket() as first, socket.socket() as second:
            first.bind(("127.0.0.1", 0))
            port = first.getsockname()[1]
            try:
                second.bind(("127.0.0.1", port + 1))
            except OSError:
                continue
            second.close()
            first.listen()
            yield port
            return


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_port_0_takes_any_free_port(host):
    listening, address = listen(TcpAddress(host, 0), 1)
    with listening:
        assert address == TcpAddress(host, listening.getsockname()[1])
        socket.create_connection((host, address.port)).close()


def test_the_next_port_is_used_if_the_configuration_allows_it(taken):
    listening, address = listen(TcpAddress("127.0.0.1", taken), 2)
    with listening:
        assert address == TcpAddress("127.0.0.1", taken + 1)

    with pytest.raises(
        CannotListen, match=f"cannot serve pages at 127.0.0.1:{taken}: Address already in use"
    ):
        listen(TcpAddress("127.0.0.1", taken), 1)


def test_no_port_after_the_last_is_tried():
    with socket.socket() as last:
        last.bind(("127.0.0.1", MAX_PORT))
        last.listen()
        with pytest.raises(CannotListen, match="Address already in use"):
            listen(TcpAddress("127.0.0.1", MAX_PORT), 20)


def test_a_socket_is_for_its_owner_and_group(folder):
    path = folder / "http.sock"
    listening, _ = listen(UnixAddress(str(path)), 1)
    with listening:
        assert stat.S_IMODE(path.stat().st_mode) == 0o660


def test_only_a_socket_without_a_listener_is_replaced(folder):
    address = UnixAddress(str(folder / "http.sock"))
    listening, _ = listen(address, 1)
    with pytest.raises(CannotListen, match="another process listens there"):
        listen(address, 1)
    listening.close()
    listen(address, 1)[0].close()


def test_a_file_that_is_not_a_socket_is_left_alone(folder):
    path = folder / "notes"
    path.write_text("mine")
    with pytest.raises(CannotListen, match="something that is not a socket has this name"):
        listen(UnixAddress(str(path)), 1)
    assert path.read_text() == "mine"


def test_a_missing_folder_is_reported(folder):
    umask = os.umask(0o022)
    os.umask(umask)
    with pytest.raises(CannotListen, match="No such file or directory"):
        listen(UnixAddress(f"{folder}/gone/http.sock"), 1)
    assert os.umask(umask) == umask
