# Made from bgd/client/asynchronous/ending.py by `make client`: change that.
"""The end of a daemon: asked for, then waited for."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

from bgd.client.blocking.channel import Channel
from bgd.client.blocking.runtime import wait_for_descriptor
from bgd.client.session import UNNUMBERED
from bgd.wire.replies import Done, Info
from bgd.wire.steering import GetInfo, Shutdown, ShutdownMode

_PARTING_SECONDS = 5.0  # between the end of a daemon's last connection and its own


def shut_down(channel: Channel, mode: ShutdownMode | None, timeout: float | None) -> None:
    """End the daemon and wait until it is gone, so that another one finds the state folder free.

    Raises:
        TimeoutError: it is still there after `timeout` seconds; it goes on ending.
    """
    deadline = None if timeout is None else time.monotonic() + timeout
    info = channel.ask(GetInfo(UNNUMBERED), Info, repeatable=True)
    with _watched(info.pid) as process:
        connection = channel.connection()
        channel.ask(Shutdown(UNNUMBERED, mode), Done)
        try:
            connection.wait_for_end(deadline)
        except TimeoutError:
            raise TimeoutError(f"the daemon has not ended within {timeout:g} s") from None
        if process is not None:
            wait_for_descriptor(process, _PARTING_SECONDS)


@contextmanager
def _watched(pid: int) -> Iterator[int | None]:
    """Give a descriptor that can be read when the process is gone.

    None where the daemon's number says nothing, as when it is in a container of its own.
    """
    try:
        descriptor = os.pidfd_open(pid)
    except OSError:
        yield None
        return
    try:
        yield descriptor
    finally:
        os.close(descriptor)
