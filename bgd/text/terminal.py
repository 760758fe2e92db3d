"""Show output as a terminal does: carriage returns overwrite, colours and styles become a canonical text.

Control sequences: ECMA-48; colours: xterm's ctlseqs. What would move text to other lines, set a title or a
clipboard, or hide text has no effect. Other control characters are shown as symbols.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import lru_cache
from itertools import chain, groupby

from bgd.text.escape import CONTROL, INVISIBLE, visible_symbol

MAX_COLUMN = 1_000  # to which a sequence may move; text may be longer

Run = tuple[str, str]  # text, and the parameters of an SGR sequence that set its colours and styles
Line = list[Run]


def plain_line(line: str) -> str:
    """Return what a terminal shows of one line, without its colours."""
    [shown] = Terminal().feed(f"{line}\n")
    return "".join(text for text, _ in shown)


def plain_lines(output: bytes) -> list[str]:
    """Return the lines of some output as a terminal shows them, without colours."""
    text = output.decode(errors="replace").removesuffix("\n")
    return [plain_line(line).expandtabs() for line in text.split("\n")]


class Terminal:
    """Turns output, piece by piece, into lines, in a time that is proportional to the length of the output.

    Args:
        style: the parameters of an SGR sequence that set the colours in effect at the beginning.

    Attributes:
        style: the same parameters as of the beginning of the open line, or as of the latest `mark`.
        style_now: the same in effect now.
    """

    def __init__(self, style: str = "") -> None:
        # Characters of the open line, and the style of each. One list item a column: to overwrite some
        # columns costs no more than the text that does it, however long the line is.
        self._text: list[str] = []
        self._styles: list[str] = []
        self._at = 0
        self._blank = 0  # columns that are known to be blank at the beginning: they are not erased again
        self._waiting = ""  # the beginning of a sequence
        self.style = self.style_now = _with("", style)

    @property
    def length(self) -> int:
        """Characters of the open line."""
        return len(self._text)

    @property
    def open_line(self) -> Line:
        """The line whose end has not come yet."""
        line: Line = []
        end = 0
        for style, cells in groupby(self._styles):
            begin, end = end, end + sum(1 for _ in cells)
            line.append(("".join(self._text[begin:end]), style))
        return line

    def feed(self, text: str) -> list[Line]:
        """Take output; return the lines that it ends."""
        text, self._waiting = self._waiting + text, ""
        lines: list[Line] = []
        begin = 0
        for found in _SPECIAL.finditer(text):
            self._write(text[begin : found.start()])
            begin = found.end()
            if found.lastgroup == "incomplete":
                self._waiting = found.group()
            elif found.lastgroup == "newline":
                lines.append(self.end())
            else:
                self._obey(found)
        self._write(text[begin:])
        return lines

    def end(self) -> Line:
        """End the open line and return it."""
        line = self.open_line
        self._text, self._styles = [], []
        self._at = self._blank = 0
        self.mark()
        return line

    def mark(self) -> None:
        """Let `style` be what is in effect now, from where a reader may go on in a long line."""
        self.style = self.style_now

    def _obey(self, found: re.Match[str]) -> None:
        if found["final"]:
            self._obey_sequence(found["final"], found["parameters"])
        elif found["move"]:
            self._at = 0 if found["move"] == "\r" else max(0, self._at - 1)
        elif found["symbol"]:
            self._write(visible_symbol(found["symbol"]))

    def _obey_sequence(self, final: str, parameters: str) -> None:
        if final == "m":
            self.style_now = _with(self.style_now, parameters)
            return
        count = int(parameters) if parameters.isdecimal() else 0
        if final == "K":
            self._erase(count)
        elif final == "G":
            self._at = min(max(count, 1) - 1, MAX_COLUMN)
        elif final == "C":
            self._at = max(self._at, min(self._at + max(count, 1), MAX_COLUMN))
        elif final == "D":
            self._at = max(0, self._at - max(count, 1))

    def _erase(self, part: int) -> None:
        """Erase to the end of the line (0), from its beginning (1), or all of it (2)."""
        if part == 1:
            end = min(self._at, self.length)
            if end > self._blank:
                self._put(" " * (end - self._blank), "", self._blank)
                self._blank = end
        elif part in {0, 2}:
            begin = 0 if part else self._at
            del self._text[begin:], self._styles[begin:]
            self._blank = min(self._blank, begin)

    def _write(self, text: str) -> None:
        if not text:
            return
        if self._at > self.length:
            self._put(" " * (self._at - self.length), "", self.length)
        self._put(text, self.style_now, self._at)
        self._blank = min(self._blank, self._at)
        self._at += len(text)

    def _put(self, text: str, style: str, at: int) -> None:
        self._text[at : at + len(text)] = text
        self._styles[at : at + len(text)] = [style] * len(text)


_CSI = r"\x1b\[[0-9:;<=>?]{0,64}[ -/]{0,4}"
_OSC = r"\x1b[\]PX^_][^\x07\x1b\n]{0,2000}"  # sets titles, clipboards and links
_SPECIAL = re.compile(
    rf"""(?P<newline>\n)
    | (?P<move>[\r\x08])
    | \x1b\[(?P<parameters>[0-9;:]{{0,64}})(?P<final>[@-~])
    | (?P<ignored>{_CSI}[@-~]|{_OSC}(?:\x07|\x1b\\)|\x1b[()*+][0-9A-Za-z]|\x1b[=>78c]|\x07)
    | (?P<incomplete>(?:{_CSI}|{_OSC}\x1b?|\x1b[()*+]?)\Z)
    | (?P<symbol>[{CONTROL}{INVISIBLE}])""",
    re.VERBOSE,
)


@lru_cache(maxsize=4096)
def _with(style: str, parameters: str) -> str:
    """Return a style after an SGR sequence. Styles that hide text are ignored."""
    colors: dict[int, Color] = {}  # by FORE and BACK
    styles: set[int] = set()
    for code, color in chain(attributes_of(style), attributes_of(parameters)):
        if code == 0:
            colors, styles = {}, set()
        elif code in STYLES:
            styles.add(code)
        elif code in _NO_STYLES:
            styles -= _NO_STYLES[code]
        elif code in _DEFAULTS:
            colors.pop(_DEFAULTS[code], None)
        elif code in _COLORS:
            ground, index = _COLORS[code]
            colors[ground] = (index,)
        elif code in {FORE, BACK} and color:
            colors[code] = color
    shown = [
        f"{ground};{_BY_INDEX if len(color) == 1 else _BY_COMPONENTS};{';'.join(map(str, color))}"
        for ground, color in sorted(colors.items())
    ]
    return ";".join([*map(str, sorted(styles)), *shown])


Color = tuple[int, ...]
"""An index of the palette of 256 colours, or red, green and blue."""


def attributes_of(parameters: str) -> Iterator[tuple[int, Color]]:
    """Yield the codes of an SGR sequence, FORE and BACK with a colour if it is understood, others with ()."""
    numbers = iter(_without_arguments(parameters))
    for number in numbers:
        yield number, _color(numbers) if number in _TAKE_COLOR else ()


def _without_arguments(parameters: str) -> Iterable[int]:
    """Return the numbers of parameters: 38:2::R:G:B as 38;2;R;G;B, and 4:3, for example, as 4."""
    for part in parameters.split(";"):
        number, *arguments = part.split(":")
        yield int(number or 0)
        if int(number or 0) in _TAKE_COLOR:
            if arguments[:1] == ["2"] and len(arguments) > len("2RGB"):
                del arguments[1]  # the id of a colour space
            yield from (int(argument or 0) for argument in arguments)


def _color(arguments: Iterator[int]) -> Color:
    kind = next(arguments, None)
    if kind == _BY_INDEX:
        index = next(arguments, _SIZE)
        return (index,) if index < _SIZE else ()
    if kind == _BY_COMPONENTS:
        return tuple(min(next(arguments, 0), 255) for _ in range(3))
    return ()


_SIZE = 256
FORE, BACK = 38, 48
_TAKE_COLOR = {FORE, BACK, 58}  # followed by 5 and an index, or by 2 and three components
_BY_COMPONENTS, _BY_INDEX = 2, 5
STYLES = {1: "bold", 2: "dim", 3: "italic", 4: "underlined", 7: "inverse", 9: "struck"}
_NO_STYLES = {22: {1, 2}, 23: {3}, 24: {4}, 27: {7}, 29: {9}}
_DEFAULTS = {39: FORE, 49: BACK}
_COLORS = {
    first + number: (ground, base + number)
    for first, ground, base in ((30, FORE, 0), (90, FORE, 8), (40, BACK, 0), (100, BACK, 8))
    for number in range(8)
}
