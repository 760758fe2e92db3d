"""What a terminal needs: untrusted text escaped, and the size of the screen and of text on it."""

from __future__ import annotations

import codecs
import os
import re

from bgd.escape import BIDI_CONTROL, CONTROL, visible_symbol

# ESC [ ... m sets colors and passes. Other sequences could move the cursor, hide text, set the title or make
# the terminal send an answer.
_COLOR = r"\x1b\[[0-9;:]{0,64}m"
_ERASE = r"\x1b\[[02]?K"  # to the end of the line, or (2) all of it
_INCOMPLETE = re.compile(r"(?:\x1b(?:\[[0-9;:]{0,64})?|\r)\Z")
_SPECIAL = re.compile(rf"{_COLOR}|{_ERASE}|\r\n|[{CONTROL}{BIDI_CONTROL}]")


class TerminalEscaper:
    """Turns bytes, in pieces of any size, into text that is safe on a terminal of this encoding.

    An incomplete line is shown at once. If a carriage return rewrites it, it is drawn again.
    """

    def __init__(self, encoding: str = "utf-8") -> None:
        self._decoder = codecs.getincrementaldecoder(encoding)("replace")
        self._incomplete = ""
        self._lines = LineRewriter(redraws=True)

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
        """Go on as on a new line, because something else has ended this one."""
        self._lines.end()


class PipeOutput:
    """Turns output, in pieces of any size, into what a pipe or file gets: lines as they ended.

    Lines without a lone carriage return stay as they are. So does everything from the first byte that no text
    has: a program may write an archive or an image.
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
        return self._lines.take_line().encode()


class LineRewriter:
    """Turns text, in pieces of any size, into lines as they look after their carriage returns.

    Args:
        redraws: show an incomplete line at once, and draw it again when it changes; otherwise hold it back.
    """

    def __init__(self, *, redraws: bool) -> None:
        self._redraws = redraws
        self._line = ""
        self._shown = ""  # of this line

    def feed(self, text: str) -> str:
        """Return the text to write now."""
        if not _REWRITES.search(self._line) and not _REWRITES.search(text):
            return self._feed_plain(text)
        *ends, rest = text.split("\n")
        written = []
        for end in ends:
            self._line += end
            written += [self._update(), "\n"]
            self._line = self._shown = ""
        self._line += rest
        if self._redraws:
            written.append(self._update())
        if len(self._line) > _LONGEST_LINE:
            written.append(self._shorten())
        return "".join(written)

    def _feed_plain(self, text: str) -> str:
        whole, newline, rest = text.rpartition("\n")
        written = text if self._redraws else (self._line + whole + newline if newline else "")
        self._line = rest if newline else self._line + rest
        self._shown = self._line if self._redraws else ""
        return written + self._shorten() if len(self._line) > _LONGEST_LINE else written

    def end(self) -> str:
        """Return what was held back of an incomplete line, and forget that line."""
        rest = self._update()
        self.take_line()
        return rest

    def take_line(self) -> str:
        """Return an incomplete line unchanged, and forget it."""
        line, self._line, self._shown = self._line, "", ""
        return line

    def _update(self) -> str:
        body = self._line.rstrip("\r")  # a line may end in CR LF
        end = self._line[len(body) :]
        line = body
        if "\r" in body or (self._redraws and _REWRITES.search(body)):
            line = line_on_terminal(body)
        if self._redraws:
            self._line = _without_hidden(body, line) + end
        else:
            line += end
        before, self._shown = self._shown, line
        return line[len(before) :] if line.startswith(before) else f"\r{line}\x1b[K"

    def _shorten(self) -> str:
        """Forget what a long line no longer needs; if it has no carriage return, show it in pieces."""
        _, is_rewritten, last = self._line.rpartition("\r")
        if is_rewritten and len(last) <= _LONGEST_LINE // 2:
            self._line = f"{line_on_terminal(self._line)[: _LONGEST_LINE // 2]}\r{last}"
            return ""
        return self.end()


_REWRITES = re.compile(rf"\r|{_ERASE}")
_LONGEST_LINE = 64 * 1024  # characters


def _without_hidden(line: str, shown: str) -> str:
    """Return a line without what was overwritten before its last part; `shown`: what a terminal shows of it.

    Otherwise each piece of a long progress bar would cost as much as all before it.
    """
    before, _, last = line.rpartition("\r")
    if re.search(_ERASE, last):
        return shown
    if "\r" not in before:
        return line
    text, style = _overwritten(before)
    return f"{text}\r{style}{last}"


def line_on_terminal(line: str) -> str:
    """Return what a terminal shows of a line: after a carriage return, text overwrites what was there."""
    return "".join(_overwritten(line))


def _overwritten(line: str) -> tuple[str, str]:
    """Return what a terminal shows of a line, and the sequences that then set the colors at its end."""
    parts = line.split("\r")
    styles = [""]  # in effect at the beginning of each part, and at the end
    for part in parts:
        styles.append(_style_after(styles[-1] + part) if "\x1b" in part else styles[-1])
    has_colors = re.search(_COLOR, line) is not None
    shown: list[str] = []
    length = 0
    for number, part in reversed(list(enumerate(parts))):
        erased, _, rest = part.rpartition("\x1b[2K")
        text = re.sub(_ERASE, "", rest)
        if (own := len(without_colors(text))) > length or number == len(parts) - 1:
            if has_colors and (number or shown or re.search(_COLOR, erased)):
                shown.append(_RESET + _from_column(text, length, styles[number] + erased))
            else:
                shown.append(text[length:])  # without colors, or all of it
            length = own
        if re.search(_ERASE, part):
            break
    return "".join(shown), f"{_RESET}{styles[-1]}" if has_colors and len(shown) > 1 else ""


_RESET = "\x1b[0m"  # resets colors that a job left on


def _style_after(text: str) -> str:
    """Return the color sequences that are in effect after a text."""
    colors = re.findall(_COLOR, text)[-_MAX_COLORS:]
    resets = [number for number, color in enumerate(colors) if color in {_RESET, "\x1b[m"}]
    return "".join(colors[resets[-1] + 1 if resets else 0 :])


_MAX_COLORS = 20  # in effect at a time


def _from_column(text: str, column: int, before: str) -> str:
    """Return a text from a column on, after the colors in effect there; `before` stands before the text."""
    pieces = re.split(rf"({_COLOR})", text)
    for index in range(0, len(pieces), 2):  # between them stand the colors
        if len(pieces[index]) > column:
            colors = "".join(pieces[1:index:2])
            return _style_after(before + colors) + pieces[index][column:] + "".join(pieces[index + 1 :])
        column -= len(pieces[index])
    return _style_after(before + text)


def without_colors(text: str) -> str:
    """Return escaped text without its color sequences."""
    return re.sub(_COLOR, "", text)


def _replacement(match: re.Match[str]) -> str:
    found = match.group()
    if found == "\r\n":
        return "\n"
    if found == "\r" or found.endswith("K"):
        return found  # for LineRewriter
    if len(found) > 1 and not _hides_text(found):
        return found  # a color
    return visible_symbol(found[0]) + found[1:]


def _hides_text(sequence: str) -> bool:
    """Return whether a color sequence contains attribute 8, which makes the following text invisible.

    Skip the parameters of colors: after 38, 48 or 58 come 5 and an index, or 2 and three components (ECMA-48,
    xterm's ctlseqs).
    """
    numbers = iter(sequence[2:-1].split(";"))
    for number in numbers:
        if number in {"38", "48", "58"}:
            for _ in range({"5": 1, "2": 3}.get(next(numbers, ""), 0)):
                next(numbers, "")
        elif number.partition(":")[0].lstrip("0") == "8":
            return True
    return False


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
