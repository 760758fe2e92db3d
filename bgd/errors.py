"""What a caller of bgd may catch. The name says whose fault it is; the message says what to do."""

from __future__ import annotations


class BgdError(Exception):
    """Anything bgd reports on purpose."""


class Refused(BgdError):
    """The request was understood and turned down: a value out of range, a state that does not allow it."""


class NotAllowed(Refused):
    """The caller, or the configuration, does not permit it."""


class NoSuchJob(Refused):
    """There is no job of that id that the caller may see."""


class Full(Refused):
    """There is no room for it now: too many jobs, connections or bytes. Trying again later may work."""


class DaemonUnreachable(BgdError):
    """No daemon answers on the socket, or the connection broke before the answer came."""


class ProtocolError(BgdError):
    """The other side of a socket does not speak as docs/protocol.md says."""


class ConfigError(BgdError):
    """The configuration cannot be used; the message names file and key."""


class JobFailed(BgdError):
    """The job whose result was asked for did not succeed.

    Attributes:
        outcome: how its last attempt ended (see bgd.Outcome), None if it never ran.
        exit_code: what its process returned, None if there is no such number.
        error_type: qualified name of the exception a class job raised, else None.
        error_message: that exception's text, or why the job was not started, else None.
        traceback: that exception's traceback as text, else None.
    """

    def __init__(
        self,
        message: str,
        *,
        outcome: str | None = None,
        exit_code: int | None = None,
        error_type: str | None = None,
        error_message: str | None = None,
        traceback: str | None = None,
    ) -> None:
        super().__init__(message)
        self.outcome = outcome
        self.exit_code = exit_code
        self.error_type = error_type
        self.error_message = error_message
        self.traceback = traceback
