"""Settings: values as the configuration file and the environment give them, and where each came from.

bgd.settings.values reads them; bgd.settings.config has the keys.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Generic, TypeVar, overload

from msgspec import UNSET, Struct, UnsetType, field

from bgd.errors import ConfigError, nearest, shorten

T = TypeVar("T")
M = TypeVar("M")

MAX_FILE = 1 << 20  # bytes; a larger file is something else
ANY = "*"  # in a schema: any name, for example of a queue

Reader = Callable[["Setting"], T]  # raises ValueError, whose text says what is allowed


class Setting(Struct, frozen=True, gc=False):
    """One value as it was written.

    `origin` names it in messages. A relative path in it starts at `folder`, and ~ stands for `home`. A value
    that `is_text` comes from the environment, where numbers and lists are text too.
    """

    value: object
    origin: str
    folder: str
    home: str
    is_text: bool = False

    def problem(self, text: str) -> ConfigError:
        """Return the error for a value that is not allowed; `text` says what is."""
        return ConfigError(f"{self.origin} = {_shortened(shorten(repr(self.value)))}: {text}")


class Key(Struct, Generic[T], frozen=True):
    """A key: how its value is read, its default, and the word that stands for None, if one does.

    `default` is UNSET where it depends on the machine or on other keys; a file may say `word` for it.
    """

    reader: Reader[T]
    default: T | UnsetType = UNSET
    none: str | None = None
    word: str | None = None

    def __call__(self) -> T:
        """Return the default, for a Struct whose field is this key."""
        if self.default is UNSET:
            raise TypeError("this key has no fixed default")
        return self.default


@overload
def key(reader: Reader[T], default: T | UnsetType = UNSET, *, word: str | None = None) -> T: ...
@overload
def key(reader: Reader[T], default: M, *, none: str) -> T | M | None: ...
def key(
    reader: Reader[T],
    default: T | UnsetType | None = UNSET,
    *,
    none: str | None = None,
    word: str | None = None,
) -> T | None:
    """Declare a field of a Struct that is a key of the configuration; for `none` and `word` see Key."""
    either: Reader[T | None] = reader if none is None else or_word(none, lambda: None, reader)
    return field(default_factory=Key(either, default, none, word))


@cache
def keys_of(kind: type[Struct]) -> dict[str, Key[object]]:
    """Return those fields of a Struct that were declared with `key`."""
    defaults = kind.__struct_defaults__  # of the last fields only
    names = kind.__struct_fields__[len(kind.__struct_fields__) - len(defaults) :]
    factories = (
        (name, getattr(default, "factory", None)) for name, default in zip(names, defaults, strict=True)
    )
    return {name: factory for name, factory in factories if isinstance(factory, Key)}


def or_word(word: str, meaning: Callable[[], M], reader: Reader[T]) -> Reader[T | M]:
    """Return a reader that also takes a word, which stands for what `meaning` returns."""

    def either(setting: Setting) -> T | M:
        if setting.value == word:
            return meaning()
        try:
            return reader(setting)
        except ValueError as error:
            raise ValueError(f'{error}; or write "{word}"') from error

    return either


# Sections and keys by name; ANY stands for any name
Schema = Mapping[str, "Schema | Key[object]"]


def from_file(path: str, schema: Schema, home: str) -> dict[str, Setting]:
    """Return the settings of a TOML file by dotted name.

    Raises:
        ConfigError: the file cannot be read, or has a section or key that the schema does not have.
        FileNotFoundError: there is no such file.
    """
    try:
        document = parse_toml(_text_of(path))
    except ValueError as error:  # not TOML, not UTF-8, a NUL in the path
        raise ConfigError(f"{path!r} is not a TOML file: {error}") from error
    folder = str(Path(path).parent)
    return {
        name: Setting(value, f"{path}: {_on_a_line(name)}", folder, home)
        for name, value in _flatten(document, schema, path)
    }


def parse_toml(text: str) -> dict[str, Any]:
    """Return a TOML document.

    Raises:
        ValueError: it is none, or too deep.
    """
    import tomllib  # noqa: PLC0415 - clients start often, and most have no file

    try:
        return tomllib.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deep") from error


def from_environment(environ: Mapping[str, str], schema: Schema, home: str) -> dict[str, Setting]:
    """Return the settings that BGD_SECTION_KEY variables override, by dotted name.

    Variables of bgd that do not begin with the name of a section, such as BGD_JOB_ID, are not settings.

    Raises:
        ConfigError: a variable begins with a section's name but does not end with one of its keys.
    """
    sections = tuple(f"BGD_{section.upper()}_" for section in schema)
    found: dict[str, Setting] = {}
    for variable in environ:
        if variable.startswith(sections):
            name = _name_of_variable(variable, schema)
            origin = f"environment: {_on_a_line(variable)}"
            found[name] = Setting(environ[variable], origin, _here(), home, is_text=True)
    return found


def read_section(
    found: Mapping[str, Setting], section: str, keys: Mapping[str, Key[object]], **defaults: object
) -> dict[str, Any]:
    """Return the value of each key of a section; `defaults` go before those of the keys.

    Raises:
        ConfigError: a value is not allowed.
    """
    return {name: _value(found, f"{section}.{name}", each, defaults) for name, each in keys.items()}


def names_of(schema: Schema, prefix: str = "") -> Iterator[str]:
    """Yield the dotted name of every key."""
    for name, below in schema.items():
        if isinstance(below, Key):
            yield prefix + name
        else:
            yield from names_of(below, f"{prefix}{name}.")


def names_in(found: Mapping[str, Setting], section: str) -> dict[str, Setting]:
    """Return the names of the tables in a section that takes any names, each with the first setting in it."""
    names: dict[str, Setting] = {}
    for path, setting in found.items():
        first, _, rest = path.partition(".")
        if first == section:
            names.setdefault(rest.rpartition(".")[0], setting)  # a name may have dots, a key has none
    return names


# --- how settings are found -------------------------------------------------------------------------------


def _value(
    found: Mapping[str, Setting], name: str, each: Key[object], defaults: Mapping[str, object]
) -> object:
    setting = found.get(name)
    if setting is None:
        own = name.rpartition(".")[2]
        return defaults[own] if own in defaults else each()
    try:
        return each.reader(setting)
    except ValueError as error:
        raise setting.problem(str(error)) from error


def _here() -> str:
    """Return the working folder; for one that is gone the kernel's name, which leads nowhere."""
    try:
        return str(Path.cwd())
    except FileNotFoundError:
        return "/proc/self/cwd"


def _text_of(path: str) -> str:
    try:
        # without waiting for the writer of a named pipe, or for an end that a file of /proc never has
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with open(fd, "rb") as opened:  # noqa: PTH123  a descriptor
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise ConfigError(f"the configuration {path} is not a regular file")
            content = opened.read(MAX_FILE + 1)
        if len(content) > MAX_FILE:
            raise ConfigError(f"the configuration {path} is over the limit of {MAX_FILE} bytes")
        return content.decode("utf-8-sig")  # an editor may put a byte order mark at the beginning
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ConfigError(f"cannot read the configuration {path}: {error.strerror}") from error


def _flatten(
    table: Mapping[str, object], schema: Schema, path: str, prefix: str = ""
) -> Iterator[tuple[str, object]]:
    for name, value in table.items():
        if name not in schema and ANY not in schema:
            kind = "key" if prefix else "section"
            raise ConfigError(f"{path}: {_on_a_line(prefix + name)} is not a {kind}; {nearest(name, schema)}")
        below = schema[name if name in schema else ANY]
        if isinstance(below, Key):
            yield prefix + name, value
        elif isinstance(value, dict):
            yield from _flatten(value, below, path, f"{prefix}{name}.")
        else:
            shown = _on_a_line(prefix + name)
            raise ConfigError(f"{path}: {shown} is a section: write [{shown}] above its keys")


def _name_of_variable(variable: str, schema: Schema) -> str:
    patterns = {f"BGD_{name.upper().replace('.', '_')}": name for name in names_of(schema)}
    if variable in patterns:
        return patterns[variable]
    for pattern, name in patterns.items():
        before, star, after = pattern.partition(ANY)
        match = re.fullmatch(f"{before}(.+){after}", variable) if star else None
        if match:
            return name.replace(ANY, match[1].lower())
    raise ConfigError(f"environment: {_on_a_line(variable)} is not a key; {nearest(variable, patterns)}")


def _on_a_line(name: str) -> str:
    """Return a name so that it fits a message of one line; a quoted key may hold anything."""
    return _shortened(name if name.isprintable() else repr(name)[1:-1])


def _shortened(text: str) -> str:
    return text if len(text) <= _MOST_SHOWN else f"{text[: _MOST_SHOWN - 3]}..."


_MOST_SHOWN = 100  # characters; more do not fit a line of a terminal
