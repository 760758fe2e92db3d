"""What a caller of bgd may catch. The name says whose fault it is; the message says what to do."""

from __future__ import annotations

import re
from collections.abc import Iterator

from bgd.escape import one_line

MAX_MESSAGE = 2000  # characters; its end says what to do


class BgdError(Exception):
    """Anything bgd reports on purpose. Its message is a line that shows control characters and obeys none."""

    def __init__(self, message: str) -> None:
        super().__init__(in_short(one_line(" ".join(message.splitlines()))))


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
        self.args = (message,)  # words of the job, which may be many
        self.outcome = outcome
        self.exit_code = exit_code
        self.error_type = error_type
        self.error_message = error_message
        self.traceback = traceback


def in_short(message: str) -> str:
    """Return the message of an error with what it quotes cut, so that it stays a line for people."""
    if len(message) <= _MOST_QUOTED:
        return message
    message = _without_middle(message, _MOST_READ)
    message = _QUOTE.sub(_cut, message)
    message = _LONG_WORD.sub(r"\1…\2", message)
    return _without_middle(message, MAX_MESSAGE)


def _cut(quote: re.Match[str]) -> str:
    mark, text = quote.groups()
    most = _MOST_OF_A_WORD if text.startswith("/") else _MOST_QUOTED
    return quote[0] if len(text) <= most else f"{mark}{text[:_MOST_QUOTED]}…{mark}"


def _without_middle(message: str, most: int) -> str:
    half = most // 2 - 1
    return message if len(message) <= most else f"{message[:half]}…{message[-half:]}"


_MOST_READ = 20_000  # characters: a stranger's megabyte is not worth the time
_MOST_QUOTED = 80  # of a value
_MOST_OF_A_WORD = 256  # without quotes or space, as paths are, which are of use only whole

# as Python quotes a text; an apostrophe inside of a word begins none. Its time is linear in the text
_QUOTE = re.compile(r"""(?<![\w\\])(['"])((?:(?!\1)[^\\]|\\.)++)\1""", re.DOTALL)
_LONG_WORD = re.compile(rf"(\S{{{_MOST_QUOTED}}})\S{{{_MOST_OF_A_WORD - _MOST_QUOTED},}}?([:;,)]*)(?!\S)")


def leaves_of(error: BaseException) -> Iterator[BaseException]:
    """Yield the errors that a TaskGroup has gathered, or the one error itself."""
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from leaves_of(inner)
    else:
        yield error
