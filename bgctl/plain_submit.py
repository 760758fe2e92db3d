"""Submit a command without options, and without the client: its imports take longer than all the rest.

Scripts run `bgctl submit PROGRAM` thousands of times. This module writes a Hello and a Submit, and knows the
usual answers to both. It leaves everything else to the client. If the request was sent, the client sends it
again with its token, so that there is no second job.
"""

from __future__ import annotations

import _socket  # not `socket`, whose enums take as long to import as Python to start
import os
import sys

import bgd
from bgd.client.inherited import OWN_PREFIX, public_environment, read_umask

OPERATORS = frozenset({"|", "||", "&&", ">", ">>", "2>", "2>&1", "&>", "<", "&", ":::"})  # words of a shell
UNUSUAL = {"_BGCTL_COMPLETE", "TRACEPARENT"}  # variables that only the client reads

_TIMEOUT = 5.0  # seconds for each answer; then the client asks, which waits longer
_MOST_BYTES = 100_000  # of a request; the client explains its limits
_HEADER = 4  # bytes: the length of a frame
_UCRED = 12  # bytes: pid, uid, gid: struct ucred of unix(7)
_ANSWER = (
    b"\x86\xa4type\xa9submitted\xa2id\x01\xa4jobs\x91",
    b"\xa7created\xc3\xa5found\x90\xa8obstacle\xc0",
)  # around the id of the job
_REFUSAL = b"\xa4type\xa6failed"


class Unusual(Exception):
    """The client has to do it: there is something to check, to explain or to try again."""


def submit(argv: list[str]) -> tuple[bool, tuple[bytes, int] | None]:
    """Queue a command and print the id of its job.

    Return whether that is done. If it is not, but the request was sent, also return its token and the newest
    job that the daemon knew.
    """
    connection = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
    sent = None
    try:
        token = os.urandom(16)
        frame = submit_frame(argv, token)
        _connect(connection)
        newest = _greet(connection)
        connection.sendall(frame)  # a daemon does not take half a frame
        sent = token, newest
        answer = _receive(connection)
        if answer[1:].startswith(_REFUSAL):
            return False, None
        os.write(sys.stdout.fileno(), b"%d\n" % job_in(answer))
    except (Unusual, OSError, UnicodeError):
        return False, sent
    finally:
        connection.close()
    return True, None


def submit_frame(argv: list[str], token: bytes) -> bytes:
    """Return the frame that the client would send for a command.

    Raises:
        Unusual: the client may have something to say about it.
    """
    folder, umask = os.getcwd(), read_umask()  # noqa: PTH109 - pathlib takes longer than the rest
    env = {name: value for name, value in public_environment().items() if not name.startswith(OWN_PREFIX)}
    if not argv or argv[0][:1] in {"", "-"} or OPERATORS.intersection(argv[1:]) or UNUSUAL & env.keys():
        raise Unusual
    if umask is None or sys.getfilesystemencoding() != "utf-8" or not _exists(argv[0], env, folder):
        raise Unusual
    spec = {"argv": argv, "cwd": folder, "umask": umask, "env": env}
    frame = _frame({"type": "submit", "id": 1, "spec": spec, "token": token})
    if len(frame) > _MOST_BYTES:
        raise Unusual
    return frame


def job_in(answer: bytes) -> int:
    """Return the id of the job in a usual answer; raise Unusual if it is another."""
    before, after = _ANSWER
    if not (answer.startswith(before) and answer.endswith(after)):
        raise Unusual
    return _integer(answer[len(before) : -len(after)])


def _exists(program: str, env: dict[str, str], folder: str) -> bool:
    folders = [""] if "/" in program else env.get("PATH", os.defpath).split(os.pathsep)
    paths = (os.path.join(folder, each, program) for each in folders)  # noqa: PTH118 - as above
    return any(os.path.isfile(path) and os.access(path, os.X_OK) for path in paths)  # noqa: PTH113


# --- messages ---------------------------------------------------------------------------------------------


def _frame(message: object) -> bytes:
    payload = _packed(message)
    return len(payload).to_bytes(_HEADER, "big") + payload


def _packed(value: object) -> bytes:
    """Return MessagePack, each value in its shortest form."""
    match value:
        case str():
            text = value.encode()
            return _head(len(text), 32, 0xA0, (0xD9, 0xDA, 0xDB)) + text
        case bytes():
            return bytes((0xC4, len(value))) + value
        case list():
            return _head(len(value), 16, 0x90, (0, 0xDC, 0xDD)) + b"".join(map(_packed, value))
        case dict():
            items = (_packed(key) + _packed(item) for key, item in value.items())
            return _head(len(value), 16, 0x80, (0, 0xDE, 0xDF)) + b"".join(items)
        case int():
            return _head(value, _LEAST_TYPE, 0, (0xCC, 0xCD, 0xCE))
        case _:
            raise TypeError(value)


def _head(number: int, below: int, short: int, types: tuple[int, int, int]) -> bytes:
    """Return a small number in a byte with its type, others in 1, 2 or 4 bytes after one of these types."""
    if number < below:
        return bytes((short | number,))
    size = 1 if number < 1 << 8 and types[0] else 2 if number < 1 << 16 else 4
    return bytes((types[size // 2],)) + number.to_bytes(size, "big")


def _integer(data: bytes) -> int:
    """Return the number that all of these bytes are; raise Unusual if they are none."""
    if len(data) == 1 and data[0] < _LEAST_TYPE:
        return data[0]
    if not data or len(data) != 1 + _NUMBERS.get(data[0], -1):
        raise Unusual
    return int.from_bytes(data[1:], "big")


_LEAST_TYPE = 0x80  # smaller bytes are numbers
_NUMBERS = {0xCC: 1, 0xCD: 2, 0xCE: 4, 0xCF: 8}  # types, and how many bytes follow them


# --- the daemon -------------------------------------------------------------------------------------------


def _connect(connection: _socket.socket) -> None:
    """Connect to the daemon that the client would try first."""
    named = os.environ.get("BGD_SOCKET", "")
    if named and not named.startswith("/"):
        raise Unusual
    connection.settimeout(_TIMEOUT)
    connection.connect(named or own_socket())
    credentials = connection.getsockopt(_socket.SOL_SOCKET, _socket.SO_PEERCRED, _UCRED)
    # a socket that the caller named is trusted
    if not named and int.from_bytes(credentials[4:8], sys.byteorder) not in {0, os.geteuid()}:
        raise Unusual


def own_socket() -> str:
    """Return the socket of the caller's own daemon; raise Unusual if something may say where that is."""
    home = os.environ.get("HOME", "").rstrip("/")
    decisive = (OWN_PREFIX, "XDG_CONFIG_HOME", "XDG_STATE_HOME")
    is_told = any(name.startswith(decisive) for name in os.environ)
    if is_told or not home.startswith("/") or os.path.lexists(f"{home}/.config/bgd/bgd.toml"):
        raise Unusual
    return f"{home}/.local/state/bgd/bgd.sock"


def _greet(connection: _socket.socket) -> int:
    """Exchange hellos; return the newest job that the daemon knows."""
    hello = {"type": "hello", "protocol": 1, "version": bgd.__version__, "program": "bgd client"}
    connection.sendall(_frame(hello))
    head, _, newest = _receive(connection).partition(b"\xa6newest")
    if not head[1:].startswith(b"\xa4type\xa5hello\xa8protocol\x01"):
        raise Unusual
    return _integer(newest)


def _receive(connection: _socket.socket) -> bytes:
    """Return the payload of the frame that the daemon sends next."""
    data = b""
    while len(data) < _HEADER or len(data) < _HEADER + int.from_bytes(data[:_HEADER], "big"):
        part = connection.recv(64 * 1024)
        if not part:
            raise Unusual
        data += part
    return data[_HEADER:]
