"""The errors that callers of bgd may catch: the class says which side is at fault, the message what to do."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from bgd.text.escape import one_line, visible

MAX_MESSAGE = 2000  # characters; the end is kept because it says what to do


class BgdError(Exception):
    """Any error that bgd reports on purpose. Its message is one line with control characters escaped."""

    def __init__(self, message: str) -> None:
        super().__init__(shorten(one_line(" ".join(message.splitlines()))))


class Refused(BgdError):
    """The request was understood and refused: a value is out of range, or the state does not allow it."""


class NotAllowed(Refused):
    """The caller may not do this, or the configuration does not allow it."""


class NoSuchJob(Refused):
    """There is no job with this id that the caller may see."""


class Full(Refused):
    """A limit is reached: too many jobs, connections or bytes. It may work later."""


class DaemonUnreachable(BgdError):
    """No daemon answers on the socket, or the connection broke before the answer came."""


class ProtocolError(BgdError):
    """The other side of a socket does not follow docs/protocol.md."""


class ConfigError(BgdError):
    """The configuration cannot be used; the message names file and key."""


class JobFailed(BgdError):
    """The job whose result was asked for did not succeed.

    Python shows the job's own traceback below this error's.

    Attributes:
        job_id: the job, None if it is not known.
        name: the job's name, None if it has none.
        outcome: how its last attempt ended (see bgd.Outcome); cancelled if the job was, even before it ran.
        exit_code: exit code of its process, None if it has none.
        error_type: qualified name of the exception a class job raised, else None.
        error_message: that exception's text, or why the job was not started, else None.
        traceback: that exception's traceback as text, else None.
    """

    def __init__(  # noqa: PLR0913 - each is optional
        self,
        message: str,
        *,
        job_id: int | None = None,
        name: str | None = None,
        outcome: str | None = None,
        exit_code: int | None = None,
        error_type: str | None = None,
        error_message: str | None = None,
        traceback: str | None = None,
    ) -> None:
        super().__init__(message)
        self.args = (message,)  # the job's own message, which is not cut

        self.job_id = job_id
        self.name = name
        self.outcome = outcome
        self.exit_code = exit_code
        self.error_type = error_type
        self.error_message = error_message
        self.traceback = traceback
        if traceback is not None:
            self.add_note("The job's own " + visible(traceback).strip())


def shorten(message: str) -> str:
    """Return an error message with the values that it quotes cut, so that it stays a readable line."""
    if len(message) <= _MAX_QUOTED:
        return message
    message = _without_middle(message, _MAX_SEARCHED)
    message = re.sub(_QUOTE, _cut, message, flags=re.DOTALL)
    message = re.sub(_LONG_WORD, r"\1…\2", message)
    return _without_middle(message, MAX_MESSAGE)


def _cut(quote: re.Match[str]) -> str:
    mark, text = quote.groups()
    most = _MAX_WORD if text.startswith("/") else _MAX_QUOTED
    return quote[0] if len(text) <= most else f"{mark}{text[:_MAX_QUOTED]}…{mark}"


def _without_middle(message: str, most: int) -> str:
    half = most // 2 - 1
    return message if len(message) <= most else f"{message[:half]}…{message[-half:]}"


_MAX_SEARCHED = 20_000  # characters: more of a stranger's megabyte is not worth the time
_MAX_QUOTED = 80  # characters of a value
_MAX_WORD = 256  # characters without quotes or spaces, such as a path, which is only useful as a whole

# A text as Python quotes it; an apostrophe inside a word begins none. The time is linear in the text
_QUOTE = r"""(?<![\w\\])(['"])((?:(?!\1)[^\\]|\\.)++)\1"""
_LONG_WORD = rf"(\S{{{_MAX_QUOTED}}})\S{{{_MAX_WORD - _MAX_QUOTED},}}?([:;,)]*)(?!\S)"


def nearest(name: str, known: Iterable[str], others: str = "known are") -> str:
    """Return a hint for a mistyped name: the most similar known name, or else the first known names.

    `others`: what to write before these.

    Of many names only its neighbours in the alphabet are compared: the daemon answers nothing else meanwhile.
    """
    import difflib  # noqa: PLC0415 - needed only to word an error

    known = sorted(word for word in known if word != "*")  # which stands for any name
    here = sum(word < name for word in known)
    neighbours = known[max(0, here - _MAX_COMPARED // 2) : here + _MAX_COMPARED // 2]
    if alike := difflib.get_close_matches(name, neighbours, n=1, cutoff=0.6):
        return f"did you mean {alike[0]}?"
    more = f" and {len(known) - _MAX_NAMED} more" if len(known) > _MAX_NAMED else ""
    return f"{others} {', '.join(known[:_MAX_NAMED]) or 'none'}{more}"


_MAX_COMPARED = 200  # names: 10,000 of 64 characters take a second
_MAX_NAMED = 50


def leaf_errors(error: BaseException) -> Iterator[BaseException]:
    """Yield the errors that a TaskGroup has gathered, or the one error itself."""
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from leaf_errors(inner)
    else:
        yield error
