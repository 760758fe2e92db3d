"""A keyboard: types into the terminal of a job, past the daemon, which may restart meanwhile."""

from __future__ import annotations

import socket
from typing import Self

from bgd.errors import Refused
from bgd.wire.keyboard import MAX_PACKET, TEXT
from bgd.wire.replies import KeyboardOpened

_PIECE = MAX_PACKET - len(TEXT)


class Keyboard:
    """Types into the terminal of one attempt of a job.

    Attributes:
        attempt: its number.
        log_bytes: the size of its output when the keyboard was opened.
        socket: for the packets of `bgd.wire.keyboard`; at its end when the terminal is closed.
    """

    def __init__(self, opened: KeyboardOpened) -> None:
        self.attempt = opened.attempt
        self.log_bytes = opened.log_bytes
        self.socket = socket.socket(fileno=opened.descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def write(self, text: bytes, timeout: float = 10.0) -> None:
        """Write text as if it were typed; block until the terminal has taken all of it.

        Raises:
            TimeoutError: the job has not read its terminal, which holds some KiB, for this many seconds. The
                keyboard is closed, and what the terminal has not taken is dropped.
            Refused: the job ended meanwhile, or the keyboard is closed.
        """
        if self.socket.fileno() < 0:
            raise Refused("this keyboard is closed: open another one")
        self.socket.settimeout(timeout)
        for start in range(0, len(text), _PIECE):
            taken = f"the terminal has taken at least {start} of {len(text)} bytes"
            try:
                self.socket.send(TEXT + text[start : start + _PIECE])
                is_written = bool(self.socket.recv(MAX_PACKET))
            except TimeoutError as error:
                self.close()
                raise TimeoutError(f"the job does not read: {taken}") from error
            except OSError:  # of a terminal that is closed
                is_written = False
            if not is_written:
                raise Refused(f"the job has ended: {taken}")

    def close(self) -> None:
        """Leave the keyboard to the next one in line."""
        self.socket.close()
