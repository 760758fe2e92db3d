"""Settings: what the configuration file and the environment say, each with where it stands."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TypeVar

from msgspec import Struct

from bgd.errors import ConfigError, shorten

T = TypeVar("T")

MAX_FILE = 1 << 20  # bytes; a larger file is something else

# Tables and keys by name. None marks a key; the name ANY stands for any name, as of a queue.
Schema = Mapping[str, "Schema | None"]
ANY = "*"


class Setting(Struct, frozen=True):
    """One value as it was written.

    `origin` names it in messages, `folder` is where a relative path in it starts. A value that
    `is_text` stands in the environment, where numbers and lists are written as text too.
    """

    value: object
    origin: str
    folder: str
    is_text: bool = False

    def problem(self, text: str) -> ConfigError:
        """Return the error for a value that does not do, `text` saying what would."""
        return ConfigError(f"{self.origin} = {_shortened(shorten(repr(self.value)))}: {text}")


def from_file(path: str, schema: Schema) -> dict[str, Setting]:
    """Return the settings of a TOML file by dotted name.

    Raises:
        ConfigError: the file cannot be read or says what the schema has not.
        FileNotFoundError: there is none.
    """
    try:
        text = _text_of(path)
        import tomllib  # noqa: PLC0415 - only who has a file pays for it: clients start often

        document = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # no TOML, no UTF-8, a NUL in the path; nested too deep
        raise ConfigError(f"{path!r} is not a TOML file: {error}") from error
    folder = str(Path(path).parent)
    return {
        name: Setting(value, f"{path}: {_on_a_line(name)}", folder)
        for name, value in _flatten(document, schema, path)
    }


def from_environment(environ: Mapping[str, str], schema: Schema) -> dict[str, Setting]:
    """Return the settings that BGD_SECTION_KEY variables override, by dotted name.

    Variables of bgd that begin with no section's name, as BGD_JOB_ID, are none of these.

    Raises:
        ConfigError: a variable begins with a section's name and ends with no key of it.
    """
    sections = tuple(f"BGD_{section.upper()}_" for section in schema)
    found: dict[str, Setting] = {}
    for variable in environ:
        if variable.startswith(sections):
            name = _name_of_variable(variable, schema)
            found[name] = Setting(
                environ[variable], f"environment: {_on_a_line(variable)}", _here(), is_text=True
            )
    return found


def names_of(schema: Schema, prefix: str = "") -> Iterator[str]:
    """Yield the dotted name of every key."""
    for name, below in schema.items():
        if below is None:
            yield prefix + name
        else:
            yield from names_of(below, f"{prefix}{name}.")


def named_in(found: Mapping[str, Setting], section: str) -> dict[str, Setting]:
    """Return the names of the tables below a section of any names, each with the first setting in it."""
    names: dict[str, Setting] = {}
    for path, setting in found.items():
        first, _, rest = path.partition(".")
        if first == section:
            names.setdefault(rest.rpartition(".")[0], setting)  # no key has a dot, a name may
    return names


def read(found: Mapping[str, Setting], name: str, reader: Callable[[Setting], T], default: T) -> T:
    """Return a setting as `reader` makes it, `default` if nobody wrote it.

    Raises:
        ConfigError: the reader raised ValueError, whose text says what would do.
    """
    setting = found.get(name)
    if setting is None:
        return default
    try:
        return reader(setting)
    except ValueError as error:
        raise setting.problem(str(error)) from error


def nearest(name: str, known: Iterable[str]) -> str:
    """Return a hint for a mistyped name: the known one that is most like it, else all of them."""
    import difflib  # noqa: PLC0415 - needed only to word an error

    known = [word for word in known if word != ANY]
    alike = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f"did you mean {alike[0]}?" if alike else f"known are {', '.join(sorted(known))}"


def _here() -> str:
    """Return the working folder; of one that is gone, the kernel's name for it, which leads nowhere."""
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
    """Return as much of a file as shows whether it is too long, without waiting for any of it.

    Files of /proc say that they are regular, and hold nothing, and may yet wait, or never end.
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
        if below is None:
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
    """Return a name that may hold anything, as a quoted key does, fit for a message of one line."""
    return _shortened(name if name.isprintable() else repr(name)[1:-1])


def _shortened(text: str) -> str:
    return text if len(text) <= _MOST_SHOWN else f"{text[: _MOST_SHOWN - 3]}..."


_MOST_SHOWN = 100  # characters; more do not fit a line of a terminal
