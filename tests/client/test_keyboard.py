"""What a keyboard does after a job has not read what was typed."""

from __future__ import annotations

import socket

import pytest

from bgd.client.keyboard import Keyboard
from bgd.errors import Refused
from bgd.wire.replies import KeyboardOpened


def test_a_keyboard_is_closed_once_its_text_was_not_taken_in_time():
    own, launcher = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    keyboard = Keyboard(KeyboardOpened(1, 1, 0, own.detach()))
    with launcher:
        with pytest.raises(
            TimeoutError, match="the job does not read: the terminal has taken at least 0 of 1"
        ):
            keyboard.write(b"x", timeout=0.01)
        launcher.recv(10)

        assert launcher.recv(10) == b""  # its end, so that the launcher drops the text
        with pytest.raises(Refused, match="this keyboard is closed: open another one"):
            keyboard.write(b"y")
