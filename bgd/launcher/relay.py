"""Connect stdin and stdout to the socket of a pilot on this node: srun brings them to the launcher.

So the launcher reaches a pilot again after any of the programs in between has died.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from pathlib import Path

_PATIENCE = 20.0  # seconds for a pilot that starts, and reads its journal
_PAUSE = 0.02
_PART = 1 << 16


def main() -> int:
    """Relay until either side is at its end; return 1 if there is no pilot."""
    signal.signal(signal.SIGTERM, lambda *_: None)  # the pilot gets it, too, and still has ends to tell
    os.chdir(Path(sys.argv[1]).parent)
    connection = _connected(Path(sys.argv[1]).name)
    if connection is None:
        return 1
    threading.Thread(target=_send, args=[connection], daemon=True).start()
    while data := connection.recv(_PART):
        _write_all(data)
    return 0


def _connected(name: str) -> socket.socket | None:
    until = time.monotonic() + _PATIENCE
    while True:
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.connect(name)
        except OSError:
            connection.close()
            if time.monotonic() > until:
                return None
            threading.Event().wait(_PAUSE)
        else:
            return connection


def _send(connection: socket.socket) -> None:
    try:
        while data := os.read(0, _PART):
            connection.sendall(data)
    finally:
        connection.shutdown(socket.SHUT_RDWR)


def _write_all(data: bytes) -> None:
    while data:
        data = data[os.write(1, data) :]


if __name__ == "__main__":
    sys.exit(main())
