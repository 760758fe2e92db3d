"""Connect the launcher to a pilot on this node. srun runs this program and carries its stdin and stdout.

If one of the programs in between dies, the launcher reaches the same pilot through another srun.
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
    """Relay both directions until one side ends. Return 1 if no pilot listens."""
    signal.signal(signal.SIGTERM, lambda *_: None)  # the pilot gets it, too, and still has ends to report
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
