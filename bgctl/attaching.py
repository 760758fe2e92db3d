"""The verbs attach and send, and `run -it`: a keyboard for the terminal of a job."""

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
from contextlib import contextmanager, suppress

import click

from bgctl import exit_codes
from bgctl.common import WrongUsage, async_client, global_options, print_json, say
from bgctl.options import NamedJobs, chosen_ids, job_ids
from bgctl.output import report_end
from bgctl.showing import say_if_waiting
from bgctl.verbs import verb
from bgd import AsyncClient, Client, DaemonUnreachable, State
from bgd.client.keyboard import Keyboard
from bgd.escape import one_line
from bgd.wire.keyboard import KEYS, LOOK, MAX_PACKET, YOURS, size_packet

MAX_TEXT = 64 * 1024  # bytes of one `send`

_active_job = click.argument("job", type=job_ids({State.RUNNING, State.STOPPING}), metavar="ID")


@verb("bgctl attach 12", "bgctl attach last")
@_active_job
def attach_command(daemon: Client, job: NamedJobs) -> int:
    """Type into the terminal of a running job.

    The job was submitted with --pty, or started by run -it. Ctrl-P Ctrl-Q detaches and leaves it running. Of
    several that are attached, the first one types; when it leaves, the next one does. The exit code is the
    job's own if it ends meanwhile, 0 after detaching.
    """
    check_terminal("attach")
    return attach(daemon, _only(daemon, job))


@verb("bgctl send 12 yes", "bgctl send --no-newline last q", "bgctl send 12 - < answers.txt")
@click.option("--no-newline", is_flag=True, help="Do not add a newline.")
@_active_job
@click.argument("text")
def send_command(daemon: Client, job: NamedJobs, text: str, *, no_newline: bool) -> None:
    """Write a line to the terminal of a running job.

    The job reads it as if it were typed. TEXT - reads stdin, at most 64 KiB. A newline is added unless the
    text ends with one.
    """
    data = sys.stdin.buffer.read(MAX_TEXT + 1) if text == "-" else os.fsencode(text)
    if not (no_newline or data.endswith(b"\n")):
        data += b"\n"
    if len(data) > MAX_TEXT:
        raise click.UsageError(f"send takes {MAX_TEXT} bytes at most: let the job read a file instead")
    job_id = _only(daemon, job)
    keyboard = daemon.keyboard(job_id)
    assert keyboard is not None  # noqa: S101 - the daemon refuses a job that does not run
    with keyboard:
        keyboard.write(data)
    if global_options().json:
        print_json({"job": job_id, "attempt": keyboard.attempt, "bytes": len(data)})


def _only(daemon: Client, words: NamedJobs) -> int:
    first, *others = chosen_ids(daemon, (words,))
    if others:
        raise click.UsageError("one job at a time")
    return first


def check_terminal(what: str) -> None:
    """Refuse to attach without a terminal.

    Raises:
        WrongUsage: stdin is none, or JSON is asked for.
    """
    if not sys.stdin.isatty():
        raise WrongUsage(
            f"{what} needs a terminal, and stdin is none: `bgctl run -i PROGRAM` passes stdin to a new job,"
            " `bgctl send ID TEXT` writes to a running one"
        )
    if global_options().json:
        raise WrongUsage(f"{what} prints no JSON: `bgctl logs -f --json ID` does")


def attach(daemon: Client, job_id: int, *, is_new: bool = False) -> int:
    """Connect this terminal to that of a job until it finishes or the user detaches; return the exit code.

    `is_new`: show its output from the beginning, and wait for its start.
    """
    how_to_return = f"`bgctl attach {job_id}` comes back, `bgctl cancel {job_id}` cancels it"
    session = _Session(job_id)
    try:
        if is_new:
            say_if_waiting(daemon, job_id)
        is_over = asyncio.run(session.run(is_new=is_new))
        code = exit_codes.INTERRUPTED if is_new else 0
    except KeyboardInterrupt:  # while the job does not run
        is_over, code = False, exit_codes.INTERRUPTED
    except asyncio.CancelledError:
        is_over, code = False, session.exit_code
    except DaemonUnreachable as error:
        raise DaemonUnreachable(f"{error}; job {job_id} keeps running: {how_to_return}") from error
    if is_over:
        return report_end(daemon.job(job_id).wait())
    say(f"job {job_id} keeps running: {how_to_return}")
    return code


class _Session:
    """One terminal that is attached to a job.

    Attributes:
        exit_code: after a signal has ended it.
    """

    def __init__(self, job_id: int) -> None:
        self.exit_code = 0
        self._job_id = job_id
        self._terminal = sys.stdin.fileno()
        self._modes = _Modes()
        self._is_at_line_start = True
        self._has_begun = False
        # of the present keyboard
        self._keyboard: Keyboard
        self._types: bool | None  # None: another one does
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

        for signum in (signal.SIGTERM, signal.SIGHUP):
            asyncio.get_running_loop().add_signal_handler(signum, end, signum)
        async with async_client() as daemon:
            first = await daemon.keyboard(self._job_id, wait=is_new)
            try:
                async with asyncio.TaskGroup() as tasks:
                    typing = tasks.create_task(self._type(daemon, first))
                    view = tasks.create_task(self._view(daemon, None if is_new else first))
                    await asyncio.wait({typing, view}, return_when=asyncio.FIRST_COMPLETED)
                    if typing.done() and typing.result():
                        view.cancel()
                    else:
                        await view
                        typing.cancel()
                return not view.cancelled()
            except ExceptionGroup as errors:
                raise errors.exceptions[0] from None
            finally:
                _write(self._modes.reset() + (b"" if self._is_at_line_start else b"\r\n"))

    async def _view(self, daemon: AsyncClient, first: Keyboard | None) -> None:
        """Print what the job writes; only the end of what it had written when `first` was opened."""
        attempt, offset = (0, None) if first is None else (first.attempt, max(first.log_bytes - _SHOWN, 0))
        is_cut = bool(offset)
        async for part in daemon.logs(self._job_id, attempt=attempt, offset=offset, follow=True):
            data = part.data[part.data.find(b"\n") + 1 or len(part.data) :] if is_cut else part.data
            is_cut = False
            self._modes.feed(data)
            self._is_at_line_start = data.endswith(b"\n") if data else self._is_at_line_start
            _write(data)

    async def _type(self, daemon: AsyncClient, keyboard: Keyboard | None) -> bool:
        """Type into one attempt after another; return whether the user has detached."""
        while keyboard or (keyboard := await daemon.keyboard(self._job_id, wait=True)):
            with keyboard, _raw(self._terminal):
                if await self._use(keyboard):
                    return True
            keyboard = None
        return False

    async def _use(self, keyboard: Keyboard) -> bool:
        """Type until the user detaches, then return True, or until the terminal of the job is closed."""
        loop = asyncio.get_running_loop()
        self._keyboard, self._is_detached = keyboard, loop.create_future()
        self._types, self._held, self._unsent = False, b"", deque()
        keyboard.socket.setblocking(False)
        if not self._has_begun:
            self._has_begun = True
            _tell(f"attached to job {self._job_id}: Ctrl-P Ctrl-Q detaches")
        self._send_size()
        loop.add_signal_handler(signal.SIGWINCH, self._send_size)
        loop.add_reader(keyboard.socket, self._read_state)
        try:
            return await self._is_detached
        finally:
            loop.remove_signal_handler(signal.SIGWINCH)
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
                _tell("you have the keyboard now")
            self._types = True
        elif state == LOOK:
            self._types = None
            _tell("the keyboard is taken: you watch, and get it when the other terminal detaches")
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
            self._send(KEYS + typed) if self._types else _write(_BELL)
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
            _write(_BELL)
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


def _tell(message: str) -> None:
    """Print a message to stderr, whether or not the terminal is raw."""
    print(f"\rbgctl: {one_line(message)}\r", file=sys.stderr, flush=True)


def _write(data: bytes) -> None:
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


class _Modes:
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
