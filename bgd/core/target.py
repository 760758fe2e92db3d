"""What a class job runs, as text, and the list of what is allowed: both are judged before any import."""

from __future__ import annotations

import keyword
from collections.abc import Iterable

from msgspec import Struct


class Target(Struct, frozen=True):
    """`package.module:Class.method` (method given) or `package.module:function` (method None)."""

    module: str
    name: str  # of the class, or of the function
    method: str | None = None

    def __str__(self) -> str:
        return f"{self.module}:{self.name}" + (f".{self.method}" if self.method else "")


def parse_target(text: str) -> Target:
    """Read a target.

    Raises:
        ValueError: the text is none; the message says what it must look like.
    """
    module, colon, path = text.partition(":")
    names = path.split(".")
    if not colon or len(names) > 2 or not all(map(_is_public_name, names)) or not _is_module(module):  # noqa: PLR2004
        raise ValueError(
            f"target {text!r} must be package.module:Class.method or package.module:function, "
            f"of names that do not begin with an underscore{_with_a_colon(text)}"
        )
    return Target(module, names[0], names[1] if len(names) == 2 else None)  # noqa: PLR2004


def target_of_class(class_path: str, method: str) -> str:
    """Return the target of `package.module.Class` and one of its methods, as the first design named them."""
    module, _, name = class_path.rpartition(".")
    return f"{module}:{name}.{method}"


def is_allowed(target: Target, allowed: Iterable[str]) -> bool:
    """Tell whether a list such as ["app.services.ReportService", "app.tasks.*"] has the target.

    An entry is a class or function by its full dotted name, or `module.*` for every class and function
    of that module, not of the modules below it.
    """
    patterns = patterns_for(target)
    return any(entry in patterns for entry in allowed)


def patterns_for(target: Target) -> tuple[str, ...]:
    """Return the entries that would have the target, the longest first."""
    return f"{target.module}.{target.name}", f"{target.module}.*"


def problem_with_entry(entry: str) -> str | None:
    """Say what is wrong with an entry of the list of allowed classes, or None."""
    module, dot, name = entry.rpartition(".")
    if dot and _is_module(module) and (name == "*" or _is_public_name(name)):
        return None
    return f"{entry!r} must be package.module.Class, package.module.function or package.module.*"


def _with_a_colon(text: str) -> str:
    """Ask whether another target was meant, where all that is wrong is a dot in the colon's place."""
    if ":" in text or not _is_module(text):
        return ""
    words = text.split(".")
    classes = [index for index, word in enumerate(words) if word[0].isupper()]
    split = classes[0] if classes else len(words) - 1
    if split == 0 or len(words) - split > 2:  # noqa: PLR2004
        return ""
    return f"; did you mean {'.'.join(words[:split])}:{'.'.join(words[split:])}?"


def _is_module(text: str) -> bool:
    return all(part.isidentifier() and not keyword.iskeyword(part) for part in text.split("."))


def _is_public_name(text: str) -> bool:
    return text.isidentifier() and not keyword.iskeyword(text) and not text.startswith("_")
