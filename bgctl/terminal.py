"""Terminals: escapes untrusted text, and measures the screen and text."""

from __future__ import annotations

import codecs
import os
import re
import select

from bgd.text.escape import CONTROL, INVISIBLE, visible_symbol

TYPE_CHECKING = False  # as type checkers know it; typing takes as long to import as Python to start
if TYPE_CHECKING:
    from bgd.text.terminal import Terminal

# ESC [ ... m sets colors and passes. Other sequences could move the cursor, hide text, set the title or make
# the terminal send an answer.
_COLOR = r"\x1b\[[0-9;:]{0,64}m"
_ERASE = r"\x1b\[[02]?K"  # to the end of the line, or (2) all of it
_INCOMPLETE = re.compile(r"(?:\x1b(?:\[[0-9;:]{0,64})?|\r)\Z")
_SPECIAL = re.compile(rf"{_COLOR}|{_ERASE}|\r\n|[{CONTROL}{INVISIBLE}]")


class TerminalEscaper:
    """Turns bytes, in pieces of any size, into text that is safe on a terminal of this encoding.

    An incomplete line is shown at once. If a carriage return rewrites it, it is drawn again.

    `redraws`: the terminal can do that; otherwise an incomplete line is held back.
    """

    def __init__(self, encoding: str = "utf-8", *, redraws: bool = True) -> None:
        self._decoder = codecs.getincrementaldecoder(encoding)("replace")
        self._incomplete = ""
        self._lines = LineRewriter(redraws=redraws)

    def feed(self, data: bytes, *, is_last: bool = False) -> str:
        """Return the text that can be shown now; keep an incomplete sequence for the next call."""
        text = self._incomplete + self._decoder.decode(data, is_last)
        self._incomplete = ""
        if not is_last and (incomplete := _INCOMPLETE.search(text)):
            self._incomplete = incomplete.group()
            text = text[: incomplete.start()]
        shown = self._lines.feed(_SPECIAL.sub(_replacement, text))
        return shown + self._lines.end() if is_last else shown

    def begin_line(self) -> None:
        """Continue on a new line, because other output has ended this one."""
        self._lines.end()


class PipeOutput:
    """Turns output, in pieces of any size, into what a pipe or file gets: lines as they ended.

    Lines without a lone carriage return stay as they are. So does everything from the first byte that cannot
    be text: a program may write an archive or an image.
    """

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._is_text = True
        self._lines = LineRewriter(redraws=False)

    def feed(self, data: bytes) -> bytes:
        """Return what can be written now: all complete lines."""
        if not self._is_text:
            return data
        undecoded, _ = self._decoder.getstate()
        try:
            text = self._decoder.decode(data)
        except UnicodeDecodeError:
            return self._end_of_text() + undecoded + data
        return self._end_of_text() + undecoded + data if "\0" in text else self._lines.feed(text).encode()

    def end(self) -> bytes:
        """Return the rest: an incomplete line."""
        undecoded, _ = self._decoder.getstate()
        self._decoder.reset()
        return self._lines.end().encode() + undecoded

    def _end_of_text(self) -> bytes:
        self._is_text = False
        self._decoder.reset()
        return self._lines.end().encode()


class LineRewriter:
    """Turns text, in pieces of any size, into lines as they look after their carriage returns.

    Args:
        redraws: show an incomplete line at once, and draw it again when it changes; otherwise hold it back.
    """

    def __init__(self, *, redraws: bool) -> None:
        self._redraws = redraws
        self._begin_line()

    def _begin_line(self) -> None:
        self._line = ""  # text not yet sent to the terminal; without a terminal the whole line
        self._terminal: Terminal | None = None  # once the line is rewritten
        self._has_colors = False
        self._shown = ""

    def feed(self, text: str) -> str:
        """Return the text to write now."""
        if self._terminal is None and not _REWRITES.search(self._line) and not _REWRITES.search(text):
            return self._feed_plain(text)
        *ends, rest = text.split("\n")
        written = []
        for end in ends:
            self._add(end)
            written += [self.end(), "\n"]
        self._add(rest)
        if self._redraws:
            written.append(self._update())
        return "".join(written) + self._shorten()

    def _feed_plain(self, text: str) -> str:
        whole, newline, rest = text.rpartition("\n")
        written = text if self._redraws else (self._line + whole + newline if newline else "")
        self._line = rest if newline else self._line + rest
        self._shown = self._line if self._redraws else ""
        return written + self._shorten()

    def _shorten(self) -> str:
        """End a line that is too long to be drawn again."""
        length = len(self._line) if self._terminal is None else self._terminal.length
        return self.end() if length > _LONGEST_LINE else ""

    def end(self) -> str:
        """Return the rest of an incomplete line, and forget that line."""
        rest = self._update()
        self._begin_line()
        return rest

    def _add(self, piece: str) -> None:
        """Add a piece to the line, to the terminal as soon as a carriage return is not its end."""
        self._line += piece
        body = self._line.rstrip("\r")
        if self._terminal is None and ("\r" in body or (self._redraws and _REWRITES.search(body))):
            from bgd.text.terminal import Terminal  # noqa: PLC0415 - most lines are not rewritten

            self._terminal = Terminal()
        if self._terminal is not None:
            self._has_colors = self._has_colors or ("m" in body and re.search(_COLOR, body) is not None)
            self._terminal.feed(body)
            self._line = self._line[len(body) :]

    def _update(self) -> str:
        end = self._line.rstrip("\r") if self._redraws else self._line
        line = end if self._terminal is None else self._drawn(self._terminal) + end
        before, self._shown = self._shown, line
        return line[len(before) :] if line.startswith(before) else f"\r{line}\x1b[K"

    def _drawn(self, terminal: Terminal) -> str:
        """Return the line of the terminal with its colors, and at its end those in effect."""
        drawn, style = [_RESET] if self._has_colors else [], ""
        for text, wanted in [*terminal.open_line, ("", terminal.style_now)]:
            if wanted != style:
                drawn += [_RESET if style else "", f"\x1b[{wanted}m" if wanted else ""]
                style = wanted
            drawn.append(text)
        return "".join(drawn)


_REWRITES = re.compile(rf"\r|{_ERASE}")
_RESET = "\x1b[0m"
_LONGEST_LINE = 64 * 1024  # characters


def without_colors(text: str) -> str:
    """Return escaped text without its color sequences."""
    return re.sub(_COLOR, "", text)


def _replacement(match: re.Match[str]) -> str:
    found = match.group()
    if found == "\r\n":
        return "\n"
    if found == "\r" or found.endswith("K"):
        return found  # for LineRewriter
    from bgd.text.terminal import attributes_of  # noqa: PLC0415 - most output has no colors

    if len(found) > 1 and all(code != _HIDDEN for code, _ in attributes_of(found[2:-1])):
        return found  # a color
    return visible_symbol(found[0]) + found[1:]


_HIDDEN = 8  # the attribute that makes the following text invisible


def takes_more(descriptor: int) -> bool:
    """Return whether a terminal or pipe accepts output within a second; it may be full."""
    waiting = select.poll()
    waiting.register(descriptor, select.POLLOUT)
    return bool(waiting.poll(_SOON))


_SOON = 1000  # milliseconds


def screen_size() -> tuple[int, int]:
    """Return the columns and lines of the terminal; $COLUMNS and $LINES win, as in other programs."""
    columns, lines = (os.environ.get(name, "") for name in ("COLUMNS", "LINES"))
    measured = next(filter(None, map(_size_of, (1, 2))), _USUAL_SIZE)  # stdout may be a pipe to `less -R`
    return (
        _size_in(columns) or measured[0],
        _size_in(lines) or measured[1],
    )


_USUAL_SIZE = (80, 24)
_MAX_SIZE = 10_000  # columns or lines


def _size_of(descriptor: int) -> tuple[int, int] | None:
    try:
        columns, lines = os.get_terminal_size(descriptor)
    except OSError:
        return None
    return (columns, lines) if columns and lines else None


def _size_in(text: str) -> int | None:
    return min(int(text), _MAX_SIZE) or None if text.isascii() and text.isdigit() and len(text) < 10 else None  # noqa: PLR2004


def cells_of(text: str) -> int:
    """Return how many cells of a terminal line a text takes."""
    if text.isascii():
        return len(text)
    return sum(map(_cells_of_character, text))


def _cells_of_character(character: str) -> int:
    import unicodedata  # noqa: PLC0415 - most texts are ASCII

    if unicodedata.category(character) in {"Mn", "Me", "Cf"}:
        return 0
    return 2 if unicodedata.east_asian_width(character) in {"W", "F"} else 1


def fitted(text: str, cells: int) -> str:
    """Return the text, or its beginning and an ellipsis, in at most this many cells."""
    if len(text) <= cells and cells_of(text) <= cells:
        return text
    kept, left = [], cells - 1
    for character in text[:_MAX_SIZE]:
        left -= _cells_of_character(character)
        if left < 0:
            break
        kept.append(character)
    return "".join(kept) + _ELLIPSIS


_ELLIPSIS = "\N{HORIZONTAL ELLIPSIS}"
