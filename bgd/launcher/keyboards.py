"""The keyboards of a job's terminal: clients that type into it, over socket pairs that outlive the daemon."""

from __future__ import annotations

import asyncio
import errno
import os
import select
import socket
import termios

from bgd.wire.keyboard import KEYS, LOOK, MAX_KEYBOARDS, MAX_PACKET, SIZE, TEXT, WRITTEN, YOURS, size_in


class Keyboards:
    """All keyboards of one terminal, whose number is `terminal`; `bgd.wire.keyboard` has their packets.

    One packet of each is in memory at most. While the job does not read it, the next ones stay in the socket,
    and their sender has to wait.
    """

    def __init__(self, terminal: int) -> None:
        self._terminal = terminal
        self._loop = asyncio.get_running_loop()
        self._open: list[_Keyboard] = []
        self._line: list[_Keyboard] = []  # those with a window; the first one types
        self._redraw: asyncio.TimerHandle | None = None

    def open(self) -> socket.socket:
        """Return the client's end of a new keyboard.

        Raises:
            OSError: there are too many, or this process has no descriptors left.
        """
        self._close_abandoned()
        if len(self._open) >= MAX_KEYBOARDS:
            raise OSError(errno.EUSERS, f"its {MAX_KEYBOARDS} keyboards are all in use: detach one")
        own, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        own.setblocking(False)
        keyboard = _Keyboard(own)
        self._open.append(keyboard)
        self._loop.add_reader(own, self._read, keyboard)
        return other

    def close(self) -> None:
        """Close all keyboards; call it before the terminal is closed."""
        self._cancel_redraw()
        self._line.clear()
        for keyboard in list(self._open):
            self._close(keyboard)

    def _close_abandoned(self) -> None:
        """Close keyboards whose clients are gone: one that is not read at present would not notice."""
        for keyboard in list(self._open):
            if keyboard.is_abandoned:
                self._close(keyboard)

    def _close(self, keyboard: _Keyboard) -> None:
        if keyboard not in self._open:
            return
        self._open.remove(keyboard)
        self._loop.remove_reader(keyboard.socket)
        keyboard.socket.close()
        if keyboard.rest is not None:
            keyboard.rest = None
            self._write()  # what others wait to write
        was_first = self._line[:1] == [keyboard]
        if keyboard in self._line:
            self._line.remove(keyboard)
        if was_first and self._line:
            self._tell(self._line[0], YOURS)
            self._resize()

    def _tell(self, keyboard: _Keyboard, what: bytes) -> None:
        try:
            keyboard.socket.send(what)
        except OSError:  # its client is gone, or does not read
            self._close(keyboard)

    # --- what is typed

    def _read(self, keyboard: _Keyboard) -> None:
        try:
            packet = keyboard.socket.recv(MAX_PACKET)
        except BlockingIOError:
            return
        except OSError:  # its client is gone
            packet = b""
        kind, content = packet[:1], packet[1:]
        if kind == TEXT or (kind == KEYS and self._line[:1] == [keyboard]):
            self._loop.remove_reader(keyboard.socket)
            keyboard.rest, keyboard.is_answered = content, kind == TEXT
            self._write()
        elif kind == SIZE and (size := size_in(content)):
            self._take_size(keyboard, size)
        elif kind != KEYS:
            self._close(keyboard)

    def _write(self) -> None:
        """Write what the terminal takes now, and the rest when the job has read some of it."""
        for keyboard in list(self._open):
            if keyboard.rest is None:
                continue
            if keyboard.is_answered and keyboard.is_abandoned:  # it has told its user what was taken
                keyboard.rest = None
                self._close(keyboard)
                continue
            try:
                keyboard.rest = keyboard.rest[os.write(self._terminal, keyboard.rest) :]
            except BlockingIOError:
                pass
            except OSError:  # no process has the terminal open
                keyboard.rest = b""
            if keyboard.rest:
                self._loop.add_writer(self._terminal, self._write)
                return
            keyboard.rest = None
            self._loop.add_reader(keyboard.socket, self._read, keyboard)
            if keyboard.is_answered:
                self._tell(keyboard, WRITTEN)
        self._loop.remove_writer(self._terminal)

    # --- the size of the window

    def _take_size(self, keyboard: _Keyboard, size: tuple[int, int]) -> None:
        keyboard.columns, keyboard.lines = size
        is_new = keyboard not in self._line
        if is_new:
            self._line.append(keyboard)
            self._tell(keyboard, YOURS if self._line[0] is keyboard else LOOK)
        if self._line and (is_new or self._line[0] is keyboard):
            self._resize(redraws=is_new)

    def _resize(self, *, redraws: bool = True) -> None:
        """Give the terminal the size of the window of the one that types.

        If it has that size already, programs draw again only if it has another one for a moment.
        """
        self._cancel_redraw()
        size = self._line[0].lines, self._line[0].columns
        if redraws and termios.tcgetwinsize(self._terminal) == size:
            termios.tcsetwinsize(self._terminal, (size[0] - 1 or 2, size[1]))
            self._redraw = self._loop.call_later(_REDRAW, termios.tcsetwinsize, self._terminal, size)
        else:
            termios.tcsetwinsize(self._terminal, size)

    def _cancel_redraw(self) -> None:
        if self._redraw is not None:
            self._redraw.cancel()


_REDRAW = 0.1  # seconds, in which a program sees the other size


class _Keyboard:
    """One keyboard. `rest`: of its packet, what the terminal has not taken; None: it may send another one."""

    def __init__(self, own: socket.socket) -> None:
        self.socket = own
        self.columns = self.lines = 0
        self.rest: bytes | None = None
        self.is_answered = False

    @property
    def is_abandoned(self) -> bool:
        """Whether its client has gone."""
        hangup = select.poll()
        hangup.register(self.socket, 0)
        return bool(hangup.poll(0))
