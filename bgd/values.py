"""Values: how each kind of setting is read. A reader raises ValueError, whose text says what would do."""

from __future__ import annotations

import os.path
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import msgspec

from bgd.core.spec import QUEUE_NAME, Duration, QueueName
from bgd.settings import Setting
from bgd.units import format_duration, format_size, parse_duration, parse_size

T = TypeVar("T")
Reader = Callable[[Setting], T]

# as msgspec says it, and as people do
_BOUND = re.compile(r"Expected `\w+` ([<>]=?) (-?[\d.]+)$")
_COMPARED = {">=": "at least", "<=": "at most", ">": "more than", "<": "less than"}
_KINDS = {"int": "whole number", "float": "number"}


def whole_number(kind: object) -> Reader[int]:
    """Return a reader of whole numbers within the bounds of an annotated type, such as Retries."""
    return lambda setting: int(_converted(setting.value, kind, is_text=setting.is_text))


def number(kind: object) -> Reader[float]:
    """Return a reader of numbers within the bounds of an annotated type."""
    return lambda setting: float(_converted(setting.value, kind, is_text=setting.is_text))


def number_or(word: str, meaning: T, kind: object) -> Reader[int | T]:
    """Return a reader of whole numbers, or of a word that means `meaning`."""

    def reader(setting: Setting) -> int | T:
        if setting.value == word:
            return meaning
        try:
            return int(_converted(setting.value, kind, is_text=setting.is_text))
        except ValueError as error:
            raise ValueError(f'{error}; or write "{word}"') from error

    return reader


def unless(word: str, reader: Reader[T]) -> Reader[T | None]:
    """Return a reader that takes what `reader` takes, or a word that means None."""

    def either(setting: Setting) -> T | None:
        if setting.value == word:
            return None
        try:
            return reader(setting)
        except ValueError as error:
            raise ValueError(f'{error}; or write "{word}"') from error

    return either


def seconds(setting: Setting) -> float:
    return seconds_of(Duration)(setting)


def seconds_of(kind: object) -> Reader[float]:
    """Return a reader of durations within the bounds of an annotated type."""

    def reader(setting: Setting) -> float:
        value = setting.value
        return float(
            _converted(parse_duration(value) if isinstance(value, str) else value, kind, said=format_duration)
        )

    return reader


def checked_seconds(value: float) -> float:
    """Return a duration that is within the usual bounds; ValueError otherwise."""
    return float(_converted(value, Duration, said=format_duration))


def size(kind: object) -> Reader[int]:
    """Return a reader of bytes within the bounds of an annotated type."""

    def reader(setting: Setting) -> int:
        value = setting.value
        return int(_converted(parse_size(value) if isinstance(value, str) else value, kind, said=_said_size))

    return reader


def text(setting: Setting) -> str:
    return _text(setting.value)


def queue_name(setting: Setting) -> str:
    try:
        return str(msgspec.convert(setting.value, QueueName))
    except msgspec.ValidationError as error:
        raise ValueError(f"must be {QUEUE_NAME}") from error


def path(home: str) -> Reader[str]:
    """Return a reader of absolute paths; ~ is `home`, and a relative path starts where it was written."""
    return lambda setting: _absolute(_text(setting.value), setting.folder, home)


def paths(home: str) -> Reader[tuple[str, ...]]:
    return lambda setting: tuple(_absolute(entry, setting.folder, home) for entry in texts(setting))


def program(home: str) -> Reader[str]:
    """Return a reader of programs: any path, or a bare name to be looked for on PATH, or nothing."""

    def reader(setting: Setting) -> str:
        text = _text(setting.value)
        return _absolute(text, setting.folder, home) if "/" in text else text

    return reader


def one_of(meanings: Mapping[str, T]) -> Reader[T]:
    """Return a reader of one word out of a few."""

    def reader(setting: Setting) -> T:
        word = _text(setting.value)
        if word not in meanings:
            raise ValueError(f"must be one of {', '.join(meanings)}")
        return meanings[word]

    return reader


def texts(setting: Setting) -> tuple[str, ...]:
    """Read a list of texts; in the environment it is separated by commas, or written as in TOML."""
    value = _listed(setting.value) if setting.is_text else setting.value
    if not isinstance(value, list):
        raise ValueError('must be a list of texts, as ["one", "two"]')  # noqa: TRY004 - what readers raise
    return tuple(_text(entry) for entry in value)


def texts_without(problem_with: Callable[[str], str | None]) -> Reader[tuple[str, ...]]:
    """Return a reader of lists in whose entries `problem_with` finds no problem."""

    def reader(setting: Setting) -> tuple[str, ...]:
        entries = texts(setting)
        for problem in filter(None, map(problem_with, entries)):
            raise ValueError(problem)
        return entries

    return reader


def problem_with_variable(name: str) -> str | None:
    """Say what is wrong with the name of an environment variable, or None."""
    if name and "=" not in name and "\0" not in name:
        return None
    return f"{name!r} is not the name of a variable: it is not empty and holds no '=' or NUL"


def _converted(
    value: object, kind: object, *, is_text: bool = False, said: Callable[[float], str] = "{:g}".format
) -> int | float:
    """Return the value as the kind has it; a bound that it does not keep is told as `said` writes it."""
    try:
        converted: int | float = msgspec.convert(value, kind, strict=not is_text)
    except msgspec.ValidationError as error:
        raise ValueError(_in_words(str(error), said)) from error
    return converted


def _in_words(problem: str, said: Callable[[float], str]) -> str:
    if (bound := _BOUND.match(problem)) is not None:
        return f"must be {_COMPARED[bound[1]]} {said(float(bound[2]))}"
    for kind, name in _KINDS.items():
        if problem.startswith(f"Expected `{kind}`"):
            return f"must be a {name}"
    return problem


def _said_size(count: float) -> str:
    return format_size(int(count))


def _text(value: object) -> str:
    if not isinstance(value, str) or not value.isprintable():
        raise ValueError("must be printable text")
    return value


def _absolute(text: str, folder: str, home: str) -> str:
    if not text:
        raise ValueError("must be a path")
    if text == "~" or text.startswith("~/"):
        text = home.rstrip("/") + text[1:] or "/"
    return os.path.normpath(Path(folder, text))


def _listed(text: object) -> object:
    if not isinstance(text, str) or not text.lstrip().startswith("["):
        return [word.strip() for word in str(text).split(",") if word.strip()]
    import tomllib  # noqa: PLC0415 - clients start often and hardly ever come here

    return tomllib.loads(f"list = {text}")["list"]
