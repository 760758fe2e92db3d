"""Groups of lines in output, which can be folded: from `::group::TITLE` to `::endgroup::`, as on GitHub.

A part of a log may begin within a group, which then has the same title there.
"""

from __future__ import annotations

from collections.abc import Iterable

from markupsafe import Markup

from bgd.logs.files import LogReader
from bgd.text.terminal import Line, plain_line

BEGIN, END = "::group::", "::endgroup::"
MAX_GROUP = 1024 * 1024  # bytes before a part in which its group may have begun
MAX_TITLE = 1000  # bytes that are shown where a group continues


def group_before(log: LogReader, offset: int) -> str | None:
    """Return the title of the group that goes on at an offset; None: of none. Reads files."""
    first = max(offset - MAX_GROUP, 0)
    data = b"\n" * (first == 0) + b"".join(block for _, block in log.blocks(first, offset))
    begin = data.rfind(f"\n{BEGIN}".encode())
    if begin < 0 or data.rfind(f"\n{END}".encode()) > begin:
        return None
    title = data[begin + 1 + len(BEGIN) :].partition(b"\n")[0][:MAX_TITLE]
    return plain_line(title.decode(errors="replace"))


def title_of(line: Line) -> str | None:
    """Return the title of the group that a line begins, or END; None: it does neither."""
    if not line or not line[0][0].startswith("::"):
        return None
    text = "".join(text for text, _ in line)
    if text.startswith(END):
        return END
    return text.removeprefix(BEGIN) if text.startswith(BEGIN) else None


def without_mark(line: Line) -> Line:
    """Return a line that begins a group, without its mark."""
    left, shown = len(BEGIN), Line()
    for text, style in line:
        shown.append((text[left:], style))
        left = max(left - len(text), 0)
    return shown


def group_after(lines: Iterable[Line], group: str | None) -> str | None:
    """Return the title of the group that goes on behind these lines, which begin in another one."""
    for line in lines:
        if (title := title_of(line)) is not None:
            group = None if title == END else title
    return group


def folded(lines: Iterable[tuple[str | None, Markup]], group: str | None) -> Markup:
    """Return lines, each with what `title_of` returns, as HTML with its groups; they begin in one."""
    pieces: list[Markup] = []
    is_open = False
    if group is not None:
        pieces.append(
            Markup('<details class="continued" open><summary>{}, continued\n</summary>').format(group)
        )
        is_open = True
    for title, line in lines:
        if title is None:
            pieces.append(line)
            continue
        if is_open:
            pieces.append(Markup("</details>"))
        if is_open := title != END:
            pieces.append(Markup("<details open><summary>{}</summary>").format(line))
    if is_open:
        pieces.append(Markup("</details>"))
    return Markup("").join(pieces)
