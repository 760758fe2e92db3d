"""A terminal that is attached to a job: what is typed goes to the job, and its output comes here."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
import termios
import tty
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress

from bgctl.common import async_client
from bgctl.plain import write_all
from bgd import AsyncClient, ProtocolError, Refused
from bgd.client.keyboard import Keyboard
from bgd.text.escape import one_line
from bgd.wire.keyboard import KEYS, LOOK, MAX_PACKET, YOURS, size_packet


class Session:
    """One terminal that is attached to a job.

    Attributes:
        exit_code: after a signal has ended it.
    """

    def __init__(self, job_id: int) -> None:
        self.exit_code = 0
        self._job_id = job_id
        self._terminal = sys.stdin.fileno()
        self._output = _Output()
        self._modes = Modes()
        self._is_at_line_start = True
        self._has_begun = False
        self._problem: str | None = None  # why the keyboard was refused
        self._types: bool | None = False  # None: it has been told that it does not
        # of the present keyboard
        self._keyboard: Keyboard
        self._held: bytes  # the first of the keys that detach
        self._unsent: deque[bytes]
        self._is_detached: asyncio.Future[bool]

    async def run(self, *, is_new: bool) -> bool:
        """Show the output and pass on what is typed; return whether the job has finished."""
        this = asyncio.current_task()
        assert this is not None  # noqa: S101 - a coroutine runs in one

        def end(signum: int) -> None:
            self.exit_code = 128 + signum
            this.cancel()

        for signum in (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
            asyncio.get_running_loop().add_signal_handler(signum, end, signum)
        async with async_client() as daemon:
            first = await (self._next(daemon) if is_new else daemon.keyboard(self._job_id, wait=False))
            try:
                async with asyncio.TaskGroup() as tasks:
                    typing = tasks.create_task(self._type(daemon, first))
                    view = tasks.create_task(self._view(daemon, None if is_new else first))
                    watch = tasks.create_task(self._watch(daemon))
                    await asyncio.wait({typing, view}, return_when=asyncio.FIRST_COMPLETED)
                    if typing.done() and typing.result():
                        view.cancel()
                    else:
                        await view
                        typing.cancel()
                    watch.cancel()
                return not view.cancelled()
            except ExceptionGroup as errors:
                raise errors.exceptions[0] from None
            finally:
                self._output.end(self._modes.reset() + (b"" if self._is_at_line_start else b"\r\n"))

    async def _view(self, daemon: AsyncClient, first: Keyboard | None) -> None:
        """Print what the job writes; only the end of what it had written when `first` was opened."""
        attempt, offset = (0, None) if first is None else (first.attempt, max(first.log_bytes - _SHOWN, 0))
        is_cut = bool(offset)
        async for part in daemon.logs(self._job_id, attempt=attempt, offset=offset, follow=True):
            data = part.data[part.data.find(b"\n") + 1 or len(part.data) :] if is_cut else part.data
            is_cut = False
            self._modes.feed(data)
            self._is_at_line_start = data.endswith(b"\n") if data else self._is_at_line_start
            await self._output.write(data)

    async def _watch(self, daemon: AsyncClient) -> None:
        """Say at once when the daemon goes away, and connect to the next one."""
        while True:
            await daemon.reconnect()
            connection = await daemon._channel.connection()  # noqa: SLF001 - only this watches an idle one
            await connection.wait_for_end(None)
            keys = "what you type still reaches the job, and " if self._types else ""
            self._output.tell(f"the daemon is gone: {keys}the output is shown when a daemon is back")

    async def _type(self, daemon: AsyncClient, keyboard: Keyboard | None) -> bool:
        """Type into one attempt after another; return whether the user has detached."""
        while True:
            if keyboard is not None:
                with keyboard, _raw(self._terminal):
                    if await self._use(keyboard):
                        return True
            elif self._problem is None:
                return False
            else:
                await asyncio.sleep(_PAUSE)
            keyboard = await self._next(daemon)

    async def _next(self, daemon: AsyncClient) -> Keyboard | None:
        """Return the keyboard of the next attempt, or None: `_problem` says why, or the job is over."""
        before, self._problem = self._problem, None
        try:
            return await daemon.keyboard(self._job_id, wait=True)
        except (Refused, ProtocolError) as error:  # the job goes on, and so does its output
            self._problem, self._types = str(error), None
            if before is None:
                self._output.tell(f"job {self._job_id} keeps running, but you cannot type into it: {error}")
        return None

    async def _use(self, keyboard: Keyboard) -> bool:
        """Type until the user detaches, then return True, or until the terminal of the job is closed."""
        loop = asyncio.get_running_loop()
        self._keyboard, self._is_detached = keyboard, loop.create_future()
        self._held, self._unsent = b"", deque()
        keyboard.socket.setblocking(False)
        if not self._has_begun:
            self._has_begun = True
            self._output.tell(f"attached to job {self._job_id}: Ctrl-P Ctrl-Q detaches")
        self._send_size()
        loop.add_signal_handler(signal.SIGWINCH, self._send_size)
        loop.add_signal_handler(signal.SIGTSTP, lambda: None)  # a stopped bgctl would leave the terminal raw
        loop.add_reader(keyboard.socket, self._read_state)
        try:
            return await self._is_detached
        finally:
            for signum in (signal.SIGWINCH, signal.SIGTSTP):
                loop.remove_signal_handler(signum)
            loop.remove_reader(self._terminal)
            loop.remove_reader(keyboard.socket)
            loop.remove_writer(keyboard.socket)

    def _end(self, *, is_detached: bool) -> None:
        if not self._is_detached.done():
            self._is_detached.set_result(is_detached)

    def _read_state(self) -> None:
        """Read who types, and from then on the keys; the end means that the terminal is closed."""
        try:
            state = self._keyboard.socket.recv(MAX_PACKET)
        except OSError:
            state = b""
        if state == YOURS:
            if self._types is None:
                self._output.tell("you have the keyboard now")
            self._types = True
        elif state == LOOK:
            self._types = None
            self._output.tell("the keyboard is taken: you watch, and get it when the other terminal detaches")
        elif not state:
            return self._end(is_detached=False)
        asyncio.get_running_loop().add_reader(self._terminal, self._read_keys)
        return None

    def _read_keys(self) -> None:
        try:
            keys = os.read(self._terminal, _KEYS_AT_ONCE)
        except OSError:
            keys = b""
        typed, detach, _ = (self._held + keys).partition(DETACH_KEYS)
        self._held = DETACH_KEYS[:1] if not detach and typed.endswith(DETACH_KEYS[:1]) else b""
        if typed := typed.removesuffix(self._held):
            self._send(KEYS + typed) if self._types else self._output.ring()
        if detach or not keys:  # or the terminal is gone
            self._end(is_detached=True)

    def _send_size(self) -> None:
        columns, lines = os.get_terminal_size(self._terminal)
        self._send(size_packet(columns or _COLUMNS, lines or _LINES))

    def _send(self, packet: bytes) -> None:
        """Send a packet as soon as there is room; drop what is typed into a job that never reads."""
        if len(self._unsent) < _MOST_UNSENT:
            self._unsent.append(packet)
        else:
            self._output.ring()
        self._flush()

    def _flush(self) -> None:
        loop, own = asyncio.get_running_loop(), self._keyboard.socket
        try:
            while self._unsent:
                own.send(self._unsent[0])
                self._unsent.popleft()
        except BlockingIOError:
            loop.add_writer(own, self._flush)
        except OSError:  # the terminal of the job is closed
            self._unsent.clear()
        else:
            loop.remove_writer(own)


DETACH_KEYS = b"\x10\x11"  # Ctrl-P Ctrl-Q, as in docker
_SHOWN = 16 * 1024  # bytes of earlier output
_KEYS_AT_ONCE = 2048  # bytes
_MOST_UNSENT = 512  # packets
_PAUSE = 2.0  # seconds before a refused keyboard is asked for again: the launcher may be restarted
_COLUMNS, _LINES = 80, 24  # of a terminal that does not know its size
_BELL = b"\a"


@contextmanager
def _raw(terminal: int) -> Iterator[None]:
    """Pass on every key at once, unchanged, for the duration of the block."""
    before = termios.tcgetattr(terminal)
    tty.setraw(terminal, termios.TCSANOW)
    try:
        yield
    finally:
        with suppress(termios.error):  # the terminal is gone
            termios.tcsetattr(terminal, termios.TCSANOW, before)


class _Output:
    """Writes to stdout and stderr in a thread, because a full terminal would block the event loop."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1)
        self._last = self._thread.submit(write_all, 1, b"")

    async def write(self, data: bytes) -> None:
        """Write output of the job; return when the terminal has taken it."""
        for start in range(0, len(data), _PIECE):
            await asyncio.wrap_future(self._put(1, data[start : start + _PIECE]))

    def tell(self, message: str) -> None:
        """Print a message to stderr, whether or not the terminal is raw."""
        self._put(2, f"\rbgctl: {one_line(message)}\r\n".encode())

    def ring(self) -> None:
        """Ring the bell, unless the terminal is busy."""
        if self._last.done():
            self._put(1, _BELL)

    def end(self, data: bytes) -> None:
        """Write the last bytes, if the terminal takes them soon.

        Raises:
            OSError: stdout cannot be written.
        """
        with suppress(TimeoutError):
            self._put(1, data).result(_END_SECONDS)

    def _put(self, descriptor: int, data: bytes) -> Future[None]:
        self._last = self._thread.submit(write_all, descriptor, data)
        return self._last


_PIECE = 16 * 1024  # bytes written at once; the rest is not, when the user leaves
_END_SECONDS = 1.0


class Modes:
    """The private modes of a terminal that output has set, such as a hidden cursor or the other screen."""

    def __init__(self) -> None:
        self._modes: dict[bytes, bytes] = {}
        self._last = b""

    def feed(self, data: bytes) -> None:
        """Note the modes that this output sets; a sequence may be cut between two calls."""
        for modes, how in _MODE.findall(self._last + data):
            self._modes |= {mode: how for mode in modes.split(b";") if len(mode) <= _MODE_DIGITS}
        self._last = (self._last + data)[-_LONGEST_MODE:]

    def reset(self) -> bytes:
        """Return what undoes them."""
        usual = {mode: b"h" if mode in _USUALLY_ON else b"l" for mode in self._modes}
        return b"".join(
            b"\x1b[?%b%b" % (mode, how) for mode, how in usual.items() if how != self._modes[mode]
        )


_MODE = re.compile(rb"\x1b\[\?([0-9;]{1,32})([hl])")
_LONGEST_MODE = 36  # bytes
_MODE_DIGITS = 4  # of the largest number of a mode
_USUALLY_ON = {b"7", b"25"}  # lines wrap, the cursor is visible
