"""Signals: how bgd and the launcher send them, and that a stray one ends neither of them."""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Callable
from contextlib import suppress

from bgd.errors import BgdError

# Each of these has a meaning: it ends, reloads, stops or crashes a process, or says that a child has ended
_MEANT = {
    *(signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD, signal.SIGKILL),
    *(signal.SIGSTOP, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU, signal.SIGCONT),
    *(signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGSEGV, signal.SIGSYS),
    *(signal.SIGPIPE, signal.SIGXFSZ, signal.SIGWINCH, signal.SIGURG),  # the first two Python ignores
}


def ignore_strays(heard: Callable[[str], object]) -> None:
    """Ignore every signal that would end the process for no reason; `heard` is told the name of each, once.

    It is called between two instructions of whatever runs, so it only hands the name on.
    """
    told: set[int] = set()

    def ignore(signum: int, _: object) -> None:
        if signum not in told:
            told.add(signum)
            heard(_name_of(signum))

    for signum in signal.valid_signals() - _MEANT:
        signal.signal(signum, ignore)  # a handler, not SIG_IGN, which every job would inherit


def check_system_calls() -> None:
    """Try the system calls without which no job can be stopped, or its end be seen.

    Raises:
        BgdError: the kernel is too old, or a filter of system calls refuses; it names the call.
    """
    call = "pidfd_open"
    try:
        pidfd = os.pidfd_open(os.getpid())
        try:
            call = "pidfd_send_signal"
            signal.pidfd_send_signal(pidfd, 0)
        finally:
            os.close(pidfd)
        call = "waitid"
        with suppress(ChildProcessError):  # this process is not its own child
            os.waitid(os.P_PID, os.getpid(), os.WEXITED | os.WNOHANG | os.WNOWAIT)
        call = "prctl"
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(_PR_GET_CHILD_SUBREAPER, ctypes.byref(ctypes.c_int()), 0, 0, 0):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))  # noqa: TRY301  as the others
    except OSError as error:
        raise BgdError(
            f"the system call {call} fails ({error.strerror}), and bgd cannot watch or stop jobs without it:"
            " it needs Linux 5.4 or newer, and a seccomp filter that allows this call"
        ) from error


_PR_GET_CHILD_SUBREAPER = 37  # linux/prctl.h


def _name_of(signum: int) -> str:
    try:
        return signal.Signals(signum).name
    except ValueError:  # a real-time signal between the first and the last
        return f"signal {signum}"
