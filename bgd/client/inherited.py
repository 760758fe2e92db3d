"""What a job inherits from the process that submits it: its variables, its umask and its trace.

This module imports next to nothing, because `bgctl submit PROGRAM` starts with it.
"""

from __future__ import annotations

import os
import sys

# Meant for this process alone: about its service manager, its sockets, its journal and its own job
_PRIVATE_NAMES = frozenset({"NOTIFY_SOCKET", "MAINPID", "INVOCATION_ID", "JOURNAL_STREAM"})
_PRIVATE_PREFIXES = ("LISTEN_", "WATCHDOG_")
OWN_PREFIX = "BGD_"  # of variables that say how bgd itself runs; no job gets them from its caller
SESSION = "BGD_SESSION"  # the variable that names the session of the caller

_BEGINNING_OF_STATUS = 256  # bytes: the umask follows the name, which takes at most 64


def public_environment() -> dict[str, str]:
    """Return this process's environment without variables from its service manager."""
    return {
        name: value
        for name, value in os.environ.items()
        if name not in _PRIVATE_NAMES and not name.startswith(_PRIVATE_PREFIXES)
    }


def caller_trace() -> tuple[str, str] | None:
    """Return the caller's trace as values of TRACEPARENT and TRACESTATE, not validated; None: it has none.

    In a program that has loaded OpenTelemetry, its current span comes before the caller's own variables.
    """
    opentelemetry = sys.modules.get("opentelemetry.trace")
    if opentelemetry is not None:
        span = opentelemetry.get_current_span().get_span_context()
        if span.is_valid:
            parent = f"00-{span.trace_id:032x}-{span.span_id:016x}-{span.trace_flags:02x}"
            return parent, span.trace_state.to_header()
    if "TRACEPARENT" not in os.environ:
        return None
    return os.environ["TRACEPARENT"], os.environ.get("TRACESTATE", "")


def caller_session() -> str | None:
    """Return the session that the caller's jobs belong to unless they name another; None: no session.

    A job inherits the variables of the agent that submitted it, but what it submits is not the agent's.
    """
    session = os.environ.get(SESSION)
    if not session and "BGD_JOB_ID" not in os.environ:
        session = os.environ.get("CLAUDE_CODE_SESSION_ID") or os.environ.get("CODEX_THREAD_ID")
    return session or None


def read_umask() -> int | None:
    """Return the umask; None if this Linux is older than 4.7 and does not show it."""
    # os.umask() can only tell it by setting it, which other threads would notice
    status = os.open("/proc/self/status", os.O_RDONLY | os.O_CLOEXEC)
    try:
        beginning = os.read(status, _BEGINNING_OF_STATUS)
    finally:
        os.close(status)
    digits = beginning.partition(b"\nUmask:\t")[2].partition(b"\n")[0]
    return int(digits, 8) if digits else None
