"""Show output as a terminal does: carriage returns overwrite, colours become class names of a closed set.

Control sequences: ECMA-48; colours: xterm's ctlseqs. What would move text to other lines, set a title or a
clipboard, or hide text has no effect. Other control characters are shown as symbols.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import groupby

from markupsafe import Markup, escape

from bgd.escape import BIDI_CONTROL, CONTROL, visible_symbol

MAX_COLUMN = 1_000  # to which a sequence may move; text may be longer

Run = tuple[str, str]  # text, and its class names
Line = list[Run]


def as_markup(text: str) -> Markup:
    """Return output as HTML, with colours as spans and everything else as text."""
    terminal = Terminal()
    return Markup("\n").join(line_markup(line) for line in [*terminal.feed(text), terminal.end()])


def line_markup(line: Line) -> Markup:
    """Return one line as HTML, without its end."""
    # put together by hand, because Markup.format takes 15 microseconds; only the text is a stranger's
    return Markup("").join(
        Markup(f'<span class="{classes}">{escape(text)}</span>') if classes else escape(text)  # noqa: S704
        for text, classes in line
    )


class Terminal:
    """Turns output, piece by piece, into lines, in a time that is proportional to the length of the output.

    Args:
        style: the parameters of an SGR sequence that set the colours in effect at the beginning.

    Attributes:
        style: the same parameters as of the beginning of the open line, or as of the latest `mark`.
    """

    def __init__(self, style: str = "") -> None:
        # Characters of the open line, and the class names of each. One list item a column: to overwrite some
        # columns costs no more than the text that does it, however long the line is.
        self._text: list[str] = []
        self._classes: list[str] = []
        self._at = 0
        self._blank = 0  # columns that are known to be blank at the beginning: they are not erased again
        self._look = _Look()
        self._look.apply(style)
        self._waiting = ""  # the beginning of a sequence
        self.style = self._look.parameters()

    @property
    def length(self) -> int:
        """Characters of the open line."""
        return len(self._text)

    @property
    def open_line(self) -> Line:
        """The line whose end has not come yet."""
        line: Line = []
        end = 0
        for classes, cells in groupby(self._classes):
            begin, end = end, end + sum(1 for _ in cells)
            line.append(("".join(self._text[begin:end]), classes))
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
        self._text, self._classes = [], []
        self._at = self._blank = 0
        self.mark()
        return line

    def mark(self) -> None:
        """Let `style` be what is in effect now, from where a reader may go on in a long line."""
        self.style = self._look.parameters()

    def _obey(self, found: re.Match[str]) -> None:
        if found["final"]:
            self._obey_sequence(found["final"], found["parameters"])
        elif found["move"]:
            self._at = 0 if found["move"] == "\r" else max(0, self._at - 1)
        elif found["symbol"]:
            self._write(visible_symbol(found["symbol"]))

    def _obey_sequence(self, final: str, parameters: str) -> None:
        if final == "m":
            self._look.apply(parameters)
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
            del self._text[begin:], self._classes[begin:]
            self._blank = min(self._blank, begin)

    def _write(self, text: str) -> None:
        if not text:
            return
        if self._at > self.length:
            self._put(" " * (self._at - self.length), "", self.length)
        self._put(text, self._look.classes, self._at)
        self._blank = min(self._blank, self._at)
        self._at += len(text)

    def _put(self, text: str, classes: str, at: int) -> None:
        self._text[at : at + len(text)] = text
        self._classes[at : at + len(text)] = [classes] * len(text)


_CSI = r"\x1b\[[0-9:;<=>?]{0,64}[ -/]{0,4}"
_OSC = r"\x1b\][^\x07\x1b\n]{0,2000}"  # sets titles, clipboards and links
_SPECIAL = re.compile(
    rf"""(?P<newline>\n)
    | (?P<move>[\r\x08])
    | \x1b\[(?P<parameters>[0-9;:]{{0,64}})(?P<final>[@-~])
    | (?P<ignored>{_CSI}[@-~]|{_OSC}(?:\x07|\x1b\\)|\x1b[()*+][0-9A-Za-z]|\x1b[=>78c]|\x07)
    | (?P<incomplete>(?:{_CSI}|{_OSC}\x1b?|\x1b[()*+]?)\Z)
    | (?P<symbol>[{CONTROL}{BIDI_CONTROL}])""",
    re.VERBOSE,
)


class _Look:
    """The colours and styles in effect. Styles that hide text are ignored."""

    def __init__(self) -> None:
        self._fore = self._back = -1  # an index of the palette of 256 colours; -1: none
        self._styles: set[int] = set()
        self.classes = ""

    def parameters(self) -> str:
        """Return the parameters that set these colours and styles again."""
        colors = [(38, self._fore), (48, self._back)]
        codes = [f"{ground};5;{index}" for ground, index in colors if index >= 0]
        return ";".join([*map(str, sorted(self._styles)), *codes])

    def apply(self, parameters: str) -> None:
        """Apply the parameters of one SGR sequence."""
        numbers = iter(_without_arguments(parameters))
        for number in numbers:
            if number in _PALETTE:
                self._set_color(number, _palette_index(numbers))
            else:
                self._set(number)
        styles = [name for code, name in _STYLES.items() if code in self._styles]
        colors = [f"{name}{index}" for name, index in (("f", self._fore), ("b", self._back)) if index >= 0]
        self.classes = " ".join([*styles, *colors])

    def _set(self, code: int) -> None:
        if code == 0:
            self._fore = self._back = -1
            self._styles.clear()
        elif code in _STYLES:
            self._styles.add(code)
        elif code in _NO_STYLES:
            self._styles -= _NO_STYLES[code]
        elif code in _COLORS:
            self._set_color(*_COLORS[code])

    def _set_color(self, ground: int, index: int | None) -> None:
        if ground == _FORE:
            self._fore = self._fore if index is None else index
        elif ground == _BACK:
            self._back = self._back if index is None else index


def _without_arguments(parameters: str) -> Iterable[int]:
    """Return the numbers of parameters: 38:2::R:G:B as 38;2;R;G;B, and 4:3, for example, as 4."""
    for part in parameters.split(";"):
        number, *arguments = part.split(":")
        yield int(number or 0)
        if int(number or 0) in _PALETTE:
            if arguments[:1] == ["2"] and len(arguments) > len("2RGB"):
                del arguments[1]  # the id of a colour space
            yield from (int(argument or 0) for argument in arguments)


def _palette_index(numbers: Iterable[int]) -> int | None:
    """Return the index of the colour whose arguments come next, for a true colour that of the nearest one."""
    arguments = iter(numbers)
    kind = next(arguments, None)
    if kind == _BY_INDEX:
        index = next(arguments, None)
        return index if index is not None and index < _SIZE else None
    if kind == _BY_COMPONENTS:
        red, green, blue = (min(next(arguments, 0), 255) for _ in range(3))
        return _nearest(red, green, blue)
    return None


def _nearest(red: int, green: int, blue: int) -> int:
    steps = [min(range(6), key=lambda step: abs(_CUBE[step] - component)) for component in (red, green, blue)]
    grey = min(max(round((red + green + blue) / 3 - 8) // 10, 0), 23)
    cube_index = 16 + 36 * steps[0] + 6 * steps[1] + steps[2]
    distances = {
        cube_index: sum(
            (_CUBE[step] - each) ** 2 for step, each in zip(steps, (red, green, blue), strict=True)
        ),
        232 + grey: sum((8 + 10 * grey - each) ** 2 for each in (red, green, blue)),
    }
    return min(distances, key=distances.__getitem__)


def palette() -> str:
    """Return the style sheet of the colours 16 to 255; those below are in style.css, readable on a log."""
    cube = [(_CUBE[n // 36], _CUBE[n // 6 % 6], _CUBE[n % 6]) for n in range(216)]
    greys = [(8 + 10 * n,) * 3 for n in range(24)]
    rules = "".join(
        f".f{index}{{color:#{red:02x}{green:02x}{blue:02x}}}.b{index}{{background:#{red:02x}{green:02x}{blue:02x}}}\n"
        for index, (red, green, blue) in enumerate(cube + greys, start=16)
    )
    return f".log {{\n{rules}}}\n"


_SIZE = 256
_CUBE = (0, 95, 135, 175, 215, 255)
_FORE, _BACK = 38, 48
_PALETTE = {38, 48, 58}  # followed by 5 and an index, or by 2 and three components
_BY_COMPONENTS, _BY_INDEX = 2, 5
_STYLES = {1: "bold", 2: "dim", 3: "italic", 4: "underlined", 7: "inverse", 9: "struck"}
_NO_STYLES = {22: {1, 2}, 23: {3}, 24: {4}, 27: {7}, 29: {9}}
_COLORS = {
    first + number: (ground, base + number)
    for first, ground, base in ((30, _FORE, 0), (90, _FORE, 8), (40, _BACK, 0), (100, _BACK, 8))
    for number in range(8)
} | {39: (_FORE, -1), 49: (_BACK, -1)}
