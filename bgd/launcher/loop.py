"""The launcher's event loop: the standard one, but that Children wait for the processes it starts."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Callable
from typing import Any, TypeVar

from bgd.launcher.children import Children

P = TypeVar("P", bound=asyncio.BaseProtocol)


class Loop(asyncio.SelectorEventLoop):
    """What asyncio.create_subprocess_exec starts here has no pipes of asyncio's, only given descriptors.

    The ways of asyncio's own to wait for a process cost a third of starting it, a descriptor and a turn of
    the loop more, and tell nobody what the process used.
    """

    def __init__(self, children: Children) -> None:
        super().__init__()
        self._children = children

    async def subprocess_exec(
        self, protocol_factory: Callable[[], P], program: str, *args: str, **options: Any
    ) -> tuple[asyncio.SubprocessTransport, P]:
        """Start a process as subprocess.Popen does, before anything is awaited.

        Raises:
            OSError, ValueError, subprocess.SubprocessError: as Popen does; there is none then.
        """
        process = subprocess.Popen([program, *args], **options)  # noqa: ASYNC220  as long as a vfork
        process.returncode = 0  # it is not for Popen to wait
        transport = _Transport(process.pid)
        self._children.watch(process.pid, transport.end)
        protocol = protocol_factory()
        protocol.connection_made(transport)
        return transport, protocol


def process_of(pid: int, children: Children) -> asyncio.subprocess.Process:
    """Return what asyncio.create_subprocess_exec would have for a child that was just forked."""
    loop = asyncio.get_running_loop()
    transport = _Transport(pid)
    children.watch(pid, transport.end)
    protocol = asyncio.subprocess.SubprocessStreamProtocol(limit=0, loop=loop)
    protocol.connection_made(transport)
    return asyncio.subprocess.Process(transport, protocol, loop)


class _Transport(asyncio.SubprocessTransport):
    """All that asyncio's Process asks of a transport."""

    def __init__(self, pid: int) -> None:
        super().__init__()
        self._pid = pid
        self._code: int | None = None
        self._ended = asyncio.Event()

    def get_pid(self) -> int:
        return self._pid

    def get_returncode(self) -> int | None:
        return self._code

    def get_pipe_transport(self, fd: int) -> None:
        """Return none, as there are none."""

    async def _wait(self) -> int | None:
        await self._ended.wait()
        return self._code

    def end(self, code: int) -> None:
        self._code = code
        self._ended.set()
