from __future__ import annotations

import asyncio
import errno
import os
import socket
import stat
from contextlib import suppress
from http import HTTPStatus
from types import SimpleNamespace
from typing import Any

import pytest

from bgd.daemon.launching import Held
from bgd.daemon.web import connection
from bgd.daemon.web.connection import WebServer
from bgd.daemon.web.listening import SECRET_BYTES, Listening, listen
from bgd.daemon.web.responses import PageResponse
from bgd.errors import ConfigError
from bgd.settings.values import MAX_PORT, TcpAddress, UnixAddress
from bgd.wire.http import HttpResponse, RequestRefused


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


def port_of(opened: Listening) -> int:
    assert isinstance(opened.address, TcpAddress)
    return opened.address.port


def close(opened: Listening) -> None:
    for each in opened.sockets:
        each.close()


def is_free(host, port):
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            other.bind((host, port))
        except OSError:
            return False
    return True


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_port_0_takes_any_port_that_is_free_on_both_addresses(host):
    opened = listen(TcpAddress(host, 0), 1)

    port = port_of(opened)
    assert opened.address == TcpAddress(host, port)
    for each in ("127.0.0.1", "::1"):
        socket.create_connection((each, port)).close()
        assert not is_free(each, port)
    close(opened)


def test_another_address_of_this_machine_is_listened_on_alone():
    opened = listen(TcpAddress("127.0.0.2", 0), 1)

    assert [each.getsockname()[0] for each in opened.sockets] == ["127.0.0.2"]
    close(opened)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_port_is_skipped_if_the_other_address_is_taken(host):
    first = listen(TcpAddress("127.0.0.1", 0), 1)
    port = port_of(first)
    next(each for each in first.sockets if each.getsockname()[0] == host).close()

    with pytest.raises(ConfigError, match=f":{port}: Address already in use"):
        listen(TcpAddress(host, port), 1)
    second = listen(TcpAddress(host, port), 20)

    assert port_of(second) > port
    assert is_free(host, port)  # nothing is left there
    close(first)
    close(second)


@pytest.mark.parametrize("number", [errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL])
def test_without_ipv6_only_ipv4_is_listened_on(monkeypatch, number):
    bind = socket.socket.bind

    def bind_ipv4(self, address):
        if ":" in address[0]:
            raise OSError(number, "no IPv6")
        bind(self, address)

    monkeypatch.setattr(socket.socket, "bind", bind_ipv4)
    opened = listen(TcpAddress("127.0.0.1", 0), 1)

    assert [each.family for each in opened.sockets] == [socket.AF_INET]
    with pytest.raises(ConfigError, match="no IPv6"):
        listen(TcpAddress("::1", 0), 1)
    close(opened)


def test_the_next_port_is_used_if_the_configuration_allows_it(taken):
    opened = listen(TcpAddress("127.0.0.1", taken), 20)
    assert taken < port_of(opened) < taken + 20
    close(opened)

    with pytest.raises(ConfigError, match=f"cannot serve pages at 127.0.0.1:{taken}: Address already in use"):
        listen(TcpAddress("127.0.0.1", taken), 1)


def test_held_sockets_are_taken_with_their_secret_if_they_are_of_the_wanted_address():
    first = listen(TcpAddress("127.0.0.1", 0), 1)
    port, held = port_of(first), Held(first.secret, first.sockets)

    for wanted in (TcpAddress("127.0.0.1", 0), TcpAddress("::1", port), TcpAddress("127.0.0.1", port - 19)):
        later = listen(wanted, 20, held=held)
        assert (later.sockets, later.secret) == (first.sockets, first.secret)
        assert later.address == TcpAddress(wanted.host, port)
    other = listen(TcpAddress("127.0.0.1", port + 1), 20, held=held)

    assert other.secret != first.secret
    assert [each.fileno() for each in first.sockets] == [-1, -1]
    close(other)


@pytest.mark.parametrize("packet", [b"-", b"", b"x" * 31])
def test_held_sockets_without_a_secret_are_not_used(packet):
    first = listen(TcpAddress("127.0.0.1", 0), 1)

    later = listen(TcpAddress("127.0.0.1", 0), 1, held=Held(packet, first.sockets))

    assert len(later.secret) == SECRET_BYTES
    assert later.address != first.address
    close(later)


def test_a_unix_socket_is_new_and_keeps_the_secret(folder):
    address = UnixAddress(str(folder / "http.sock"))
    first = listen(address, 1)
    close(first)
    later = listen(address, 1, held=Held(first.secret, []))
    assert later.secret == first.secret
    close(later)

    on_port = listen(TcpAddress("127.0.0.1", 0), 1)
    other = listen(address, 1, held=Held(on_port.secret, on_port.sockets))
    assert other.secret != on_port.secret
    close(other)


def test_no_port_after_the_last_is_tried():
    with socket.socket() as last:
        last.bind(("127.0.0.1", MAX_PORT))
        last.listen()
        with pytest.raises(ConfigError, match="Address already in use"):
            listen(TcpAddress("127.0.0.1", MAX_PORT), 20)


def test_a_socket_is_for_its_owner_and_group(folder):
    path = folder / "http.sock"
    (listening,) = listen(UnixAddress(str(path)), 1).sockets
    with listening:
        assert stat.S_IMODE(path.stat().st_mode) == 0o660


def test_only_a_socket_without_a_listener_is_replaced(folder):
    address = UnixAddress(str(folder / "http.sock"))
    (listening,) = listen(address, 1).sockets
    with pytest.raises(ConfigError, match="another process listens there"):
        listen(address, 1)
    listening.close()
    close(listen(address, 1))


def test_a_file_that_is_not_a_socket_is_left_alone(folder):
    path = folder / "notes"
    path.write_text("mine")
    with pytest.raises(ConfigError, match="something that is not a socket has this name"):
        listen(UnixAddress(str(path)), 1)
    assert path.read_text() == "mine"


def test_a_missing_folder_is_reported(folder):
    umask = os.umask(0o022)
    os.umask(umask)
    with pytest.raises(ConfigError, match="No such file or directory"):
        listen(UnixAddress(f"{folder}/gone/http.sock"), 1)
    assert os.umask(umask) == umask


async def test_a_page_that_fails_halfway_is_cut_off_and_the_log_says_why(monkeypatch, caplog):
    async def chunks():
        yield b"half"
        raise RequestRefused(HTTPStatus.NOT_FOUND, "the rest is gone")

    async def answer(*_: object) -> PageResponse:
        return PageResponse(HttpResponse(body=None), chunks())

    monkeypatch.setattr(connection, "answer", answer)
    opened = listen(TcpAddress("127.0.0.1", 0), 1)
    received = bytearray()
    async with asyncio.TaskGroup() as tasks:
        site: Any = SimpleNamespace(tasks=tasks)
        server = WebServer(site)
        await server.start(opened.sockets)
        reader, writer = await asyncio.open_connection("127.0.0.1", port_of(opened))
        writer.write(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        with suppress(ConnectionResetError):
            while data := await reader.read(1024):
                received += data
        writer.close()
        server.close()

    assert not received.endswith(b"0\r\n\r\n")  # the end of a whole answer
    assert "an answer to a browser was cut off: the rest is gone" in caplog.text
