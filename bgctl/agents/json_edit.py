"""Add values to JSON text and remove them again, without changing any other byte.

Parsing a file and writing it again would lose its spaces, its escapes and the form of its numbers. `removed`
compares parsed values, so it finds what `added` has added even if another program has rewritten the file.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

Path = Sequence[str | None]  # the keys that lead to a value; None: any element of an array


def added(text: str, path: Path, value: object) -> str:
    """Return valid JSON text with a value added at a path that is free; "" is a file that does not exist.

    Missing objects and arrays on the way are created. The value comes first in its object or array, so that
    no existing line changes.

    Raises:
        ValueError: the path needs an object or an array where something else stands.
    """
    if not text:
        return f"{json.dumps(_nested(path, value), indent=2)}\n"
    at = _after_space(text, 0)
    depth = 0
    while True:
        key = path[depth]
        members, end = _members(text, at, key)
        found = [member for member in members if member.key == key]
        depth += 1
        if key is None or not found:
            break
        at = found[-1].value_at
    space = text[at + 1 : members[0].at] if members else ""
    _, newline, indent = space.rpartition("\n")
    new = "" if key is None else f"{json.dumps(key)}: "
    new += json.dumps(_nested(path[depth:], value), indent=2).replace("\n", f"\n{indent if newline else ''}")
    if not members:
        return text[:end] + new + text[end:]
    return f"{text[: at + 1]}{space}{new},{text[at + 1 :]}"


def removed(text: str, path: Path, is_ours: Callable[[Any], bool]) -> str:
    """Return the text without the value at the path and without the objects and arrays that `added` created.

    It is "" if nothing is left, and the same text if there is no such value. Raises the errors of `added`.
    """
    cut = _cut(text, _after_space(text, 0), path, is_ours)
    left = text[: cut[0]] + text[cut[1] :] if cut else text
    return left if left.strip() else ""


def _cut(text: str, at: int, path: Path, is_ours: Callable[[Any], bool]) -> tuple[int, int] | None:
    """Return begin and end of what to cut for the value at the path, which starts at this object or array."""
    key, *rest = path
    members, end = _members(text, at, key)
    for place, member in reversed(list(enumerate(members))):  # of equal keys the last counts
        if member.key != key or not (rest or is_ours(member.value)):
            continue
        inner = _cut(text, member.value_at, rest, is_ours) if rest else (member.value_at, member.end)
        if inner != (member.value_at, member.end):
            return inner
        if place + 1 < len(members):
            return member.at, members[place + 1].at
        if place:
            return members[place - 1].end, member.end
        # an empty object or array of the user stays: those that `added` creates have a newline before the end
        return (member.at, end) if member.end == end else (at, end + 1)
    return None


class _Member(NamedTuple):
    """A member of an object, or an element of an array, whose key is None."""

    key: str | None
    value: Any
    at: int
    value_at: int
    end: int


def _members(text: str, at: int, key: str | None) -> tuple[list[_Member], int]:
    """Return the members of the object, or if `key` is None the array, that begins here, and its end."""
    if text[at] != ("[" if key is None else "{"):
        raise ValueError(
            f"{text[at : at + 9]} stands where {'an array' if key is None else 'an object'} is needed"
        )
    members = []
    at = _after_space(text, at + 1)
    while text[at] not in "}]":
        begin, name = at, None
        if key is not None:
            name, at = _decode(text, at)
            at = _after_space(text, _after_space(text, at) + 1)
        value, end = _decode(text, at)
        members.append(_Member(name, value, begin, at, end))
        at = _after_space(text, end)
        at = _after_space(text, at + (text[at] == ","))
    return members, at


def _nested(path: Path, value: object) -> object:
    for key in reversed(path):
        value = [value] if key is None else {key: value}
    return value


def _after_space(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    assert found  # noqa: S101 - it matches anywhere
    return found.end()


_decode = json.JSONDecoder().raw_decode
_SPACE = re.compile(r"[ \t\n\r]*")
