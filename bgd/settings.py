"""Settings: values as the configuration file and the environment give them, and how each kind is read.

bgd.config has the keys.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Generic, TypeVar, overload

import msgspec
from msgspec import UNSET, Struct, UnsetType, field

from bgd.core.spec import EXECUTOR_NAME, QUEUE_NAME, Duration, ExecutorName, QueueName
from bgd.errors import ConfigError, nearest, shorten
from bgd.paths import MAX_SOCKET_PATH
from bgd.units import format_duration, format_size, parse_duration, parse_size

T = TypeVar("T")
M = TypeVar("M")

MAX_FILE = 1 << 20  # bytes; a larger file is something else
MAX_PORT = 65_535
ANY = "*"  # in a schema: any name, for example of a queue

Reader = Callable[["Setting"], T]  # raises ValueError, whose text says what is allowed


class Setting(Struct, frozen=True, gc=False):
    """One value as somebody wrote it.

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


# Sections and keys by name; ANY stands for any name
Schema = Mapping[str, "Schema | Key[object]"]


def from_file(path: str, schema: Schema, home: str) -> dict[str, Setting]:
    """Return the settings of a TOML file by dotted name.

    Raises:
        ConfigError: the file cannot be read, or has a section or key that the schema does not have.
        FileNotFoundError: there is no such file.
    """
    try:
        text = _text_of(path)
        import tomllib  # noqa: PLC0415 - clients start often, and most have no file

        document = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # not TOML, not UTF-8, a NUL in the path; nested too deep
        raise ConfigError(f"{path!r} is not a TOML file: {error}") from error
    folder = str(Path(path).parent)
    return {
        name: Setting(value, f"{path}: {_on_a_line(name)}", folder, home)
        for name, value in _flatten(document, schema, path)
    }


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


# --- kinds of values --------------------------------------------------------------------------------------


def whole_number(kind: object) -> Reader[int]:
    """Return a reader of whole numbers within the bounds of an annotated type, such as Retries."""
    return lambda setting: int(_converted(setting.value, kind, is_text=setting.is_text))


def number(kind: object) -> Reader[float]:
    """Return a reader of numbers within the bounds of an annotated type."""
    return lambda setting: float(_converted(setting.value, kind, is_text=setting.is_text))


def duration(setting: Setting) -> float:
    """Read a duration, in seconds, within the usual bounds."""
    return checked_duration(setting.value, Duration)


def duration_within(kind: object) -> Reader[float]:
    """Return a reader of durations within the bounds of an annotated type."""
    return lambda setting: checked_duration(setting.value, kind)


def checked_duration(value: object, kind: object = Duration) -> float:
    """Return the seconds of a duration; ValueError if it is none, or out of bounds."""
    seconds = parse_duration(value) if isinstance(value, str) else value
    return float(_converted(seconds, kind, written=format_duration))


def size(kind: object) -> Reader[int]:
    """Return a reader of sizes, in bytes, within the bounds of an annotated type."""

    def reader(setting: Setting) -> int:
        value = parse_size(setting.value) if isinstance(setting.value, str) else setting.value
        return int(_converted(value, kind, written=lambda count: format_size(int(count))))

    return reader


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


def one_of(*words: T) -> Reader[T]:
    """Return a reader of one of a few words, for example the members of a StrEnum."""
    meanings = {str(word): word for word in words}

    def reader(setting: Setting) -> T:
        word = text(setting)
        if word not in meanings:
            raise ValueError(f"must be one of {', '.join(meanings)}")
        return meanings[word]

    return reader


def text(setting: Setting) -> str:
    """Read a printable text."""
    return _text(setting.value)


def texts(setting: Setting) -> tuple[str, ...]:
    """Read a list of texts; in the environment it is separated by commas, or written as in TOML."""
    value = _listed(setting.value) if setting.is_text else setting.value
    if not isinstance(value, list):
        raise ValueError('must be a list of texts, for example ["one", "two"]')  # noqa: TRY004 - what readers raise
    return tuple(_text(entry) for entry in value)


def texts_without(problem_with: Callable[[str], str | None]) -> Reader[tuple[str, ...]]:
    """Return a reader of lists in whose entries `problem_with` finds no problem."""

    def reader(setting: Setting) -> tuple[str, ...]:
        entries = texts(setting)
        for problem in filter(None, map(problem_with, entries)):
            raise ValueError(problem)
        return entries

    return reader


def queue_name(setting: Setting) -> str:
    """Read the name of a queue."""
    try:
        return str(msgspec.convert(setting.value, QueueName))
    except msgspec.ValidationError as error:
        raise ValueError(f"must be {QUEUE_NAME}") from error


def executor_name(setting: Setting) -> str:
    """Read the name of an executor."""
    try:
        return str(msgspec.convert(setting.value, ExecutorName))
    except msgspec.ValidationError as error:
        raise ValueError(f"must be {EXECUTOR_NAME}") from error


def absolute_path(setting: Setting) -> str:
    """Read a path and make it absolute."""
    return _absolute(text(setting), setting)


def absolute_paths(setting: Setting) -> tuple[str, ...]:
    """Read a list of paths and make them absolute."""
    return tuple(_absolute(entry, setting) for entry in texts(setting))


def program(setting: Setting) -> str:
    """Read a program: a path, a bare name that is looked for on PATH later, or an empty text."""
    return as_program(text(setting), setting)


def as_program(word: str, setting: Setting) -> str:
    """Return a program with its path made absolute, if it has one."""
    return _absolute(word, setting) if "/" in word else word


class TcpAddress(Struct, frozen=True):
    """A port of this machine, which only this machine reaches. Port 0: any free one."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class UnixAddress(Struct, frozen=True):
    """A Unix socket."""

    path: str

    def __str__(self) -> str:
        return f"{_UNIX}{self.path}"


Address = TcpAddress | UnixAddress

_UNIX = "unix:"
_ADDRESSES = 'write "127.0.0.1:8643", "[::1]:8643" or "unix:/path"'


def address(setting: Setting) -> Address:
    """Read an address: a port of this machine, or a Unix socket."""
    written = text(setting)
    if written.startswith(_UNIX):
        return _unix_address(written.removeprefix(_UNIX))
    host, _, port = written.rpartition(":")
    if not (port.isascii() and port.isdigit() and int(port) <= MAX_PORT):
        raise ValueError(_ADDRESSES)
    return TcpAddress(_loopback(host), int(port))


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
    file = Path(path)
    try:
        if not stat.S_ISREG(file.stat().st_mode):  # reading a named pipe would wait for its writer
            raise ConfigError(f"the configuration {path} is not a regular file")
        content = _beginning_of(path)
        if len(content) > MAX_FILE:
            raise ConfigError(f"the configuration {path} is over the limit of {MAX_FILE} bytes")
        return content.decode("utf-8-sig")  # an editor may put a byte order mark at the beginning
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ConfigError(f"cannot read the configuration {path}: {error.strerror}") from error


def _beginning_of(path: str) -> bytes:
    """Return enough of a file to show whether it is too long, without waiting for any of it.

    Files of /proc claim to be regular and empty, yet reading them may wait, or never end.
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    with open(fd, "rb") as opened:  # noqa: PTH123  a descriptor
        return opened.read(MAX_FILE + 1)


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


# --- how values are checked -------------------------------------------------------------------------------

# msgspec's words for a bound, and those of people
_BOUND = re.compile(r"Expected `\w+` ([<>]=?) (-?[\d.]+)$")
_COMPARED = {">=": "at least", "<=": "at most", ">": "more than", "<": "less than"}
_KINDS = {"int": "whole number", "float": "number"}


def _converted(
    value: object, kind: object, *, is_text: bool = False, written: Callable[[float], str] = "{:g}".format
) -> int | float:
    """Return the value as the annotated type has it; an error shows the bound as `written` writes it."""
    try:
        converted: int | float = msgspec.convert(value, kind, strict=not is_text)
    except msgspec.ValidationError as error:
        raise ValueError(_in_words(str(error), written)) from error
    return converted


def _in_words(problem: str, written: Callable[[float], str]) -> str:
    if (bound := _BOUND.match(problem)) is not None:
        return f"must be {_COMPARED[bound[1]]} {written(float(bound[2]))}"
    for kind, name in _KINDS.items():
        if problem.startswith(f"Expected `{kind}`"):
            return f"must be a {name}"
    return problem


def _text(value: object) -> str:
    if not isinstance(value, str) or not value.isprintable():
        raise ValueError("must be printable text")
    return value


def _listed(text: object) -> object:
    if not isinstance(text, str) or not text.lstrip().startswith("["):
        return [word.strip() for word in str(text).split(",") if word.strip()]
    import tomllib  # noqa: PLC0415 - clients start often and hardly ever come here

    return tomllib.loads(f"list = {text}")["list"]


def _absolute(text: str, setting: Setting) -> str:
    if not text:
        raise ValueError("must be a path")
    if text == "~" or text.startswith("~/"):
        text = setting.home.rstrip("/") + text[1:] or "/"
    return os.path.normpath(Path(setting.folder, text))


def _unix_address(path: str) -> UnixAddress:
    if not path.startswith("/") or len(path.encode()) > MAX_SOCKET_PATH:
        raise ValueError(f"a socket has an absolute path of at most {MAX_SOCKET_PATH} bytes: {_ADDRESSES}")
    return UnixAddress(path)


def _loopback(host: str) -> str:
    import ipaddress  # noqa: PLC0415 - clients start often, and most have no address to read

    is_bracketed = host.startswith("[") and host.endswith("]")
    try:
        found = ipaddress.ip_address(host[1:-1] if is_bracketed else host)
    except ValueError:
        raise ValueError(_ADDRESSES) from None
    if is_bracketed != (found.version == 6):  # noqa: PLR2004 - of the Internet Protocol
        raise ValueError(_ADDRESSES)
    if not found.is_loopback:
        raise ValueError(
            "pages are served to this machine only: "
            "for others put a proxy that speaks TLS in front of a unix socket"
        )
    return str(found)
