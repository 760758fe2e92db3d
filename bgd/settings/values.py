"""Readers: how the values of keys are read and checked, for example durations, sizes, paths and addresses.

A reader takes a Setting and raises ValueError, whose text says what is allowed. bgd.settings.config has the
keys.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from msgspec import Struct

from bgd.core import spec
from bgd.core.job import Decision, ExceptionRules, NextStep, Rate
from bgd.core.spec import kind_of
from bgd.core.target import is_dotted_name, is_module
from bgd.errors import ConfigError
from bgd.settings.paths import MAX_SOCKET_PATH
from bgd.settings.sources import Reader, Setting, parse_toml
from bgd.text.units import WrongValue, format_duration, read

T = TypeVar("T")

ANY_COMMAND = "*"
MAX_PROGRAM_WORDS = 100  # a program with its arguments; a longer one belongs in a file
MAX_RATE = 10_000  # starts; the daemon keeps the time of each in memory
MAX_FAILURES = 100  # of calls of a class; bgd stores the time of each
MAX_URL = 2_000  # characters
MAX_BASE = 200  # characters of a path in front of all pages
MAX_RULES = 100  # exceptions in one policy; each of its jobs carries them
MAX_EXCEPTION_NAME = 200  # characters
MAX_PORT = 65_535

# --- values of many kinds of keys -------------------------------------------------------------------------


def of(kind: Any) -> Reader[Any]:
    """Return a reader of values of a kind, such as Retries; a text may stand for one in its notation."""

    def reader(setting: Setting) -> Any:
        is_list = setting.is_text and str(setting.value).lstrip().startswith("[")
        try:
            return read(_listed(setting.value) if is_list else setting.value, kind, is_text=setting.is_text)
        except WrongValue as error:
            raise ValueError(error.requirement) from error

    return reader


def one_of(*words: T) -> Reader[T]:
    """Return a reader of one of a few words, for example the members of a StrEnum."""
    meanings = {str(word): word for word in words}

    def reader(setting: Setting) -> T:
        if (word := text(setting)) not in meanings:
            raise ValueError(f"must be one of {', '.join(meanings)}")
        return meanings[word]

    return reader


def text(setting: Setting) -> str:
    """Read a printable text."""
    return _text(setting.value)


def matching(pattern: str, allowed: str, *, may_be_empty: bool = True) -> Reader[str]:
    """Return a reader of texts that a pattern matches as a whole; `allowed` says in errors what that is."""

    def reader(setting: Setting) -> str:
        written = text(setting)
        if not (re.fullmatch(pattern, written) or (may_be_empty and not written)):
            raise ValueError(allowed)
        return written

    return reader


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


def absolute_path(setting: Setting) -> str:
    """Read a path and make it absolute."""
    return _absolute(text(setting), setting)


def absolute_paths(setting: Setting) -> tuple[str, ...]:
    """Read a list of paths and make them absolute."""
    return tuple(_absolute(entry, setting) for entry in texts(setting))


def as_program(word: str, setting: Setting) -> str:
    """Return a program with its path made absolute, if it has one; a bare name is searched for later."""
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


# --- values that only one key has -------------------------------------------------------------------------


def python_interpreter(setting: Setting) -> str:
    """Read an interpreter; an empty text stands for the one that runs this."""
    return as_program(text(setting), setting) or sys.executable


function_name = matching(
    r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*",
    'must be empty or a function of a module, for example "app.jobs:around"',
)
# What browsers and proxies pass on unchanged
page_base = matching(
    rf"(?!.{{{MAX_BASE + 1}}})(/[A-Za-z0-9_-][A-Za-z0-9._-]*)+",
    'must be empty or a path such as "/jobs": it begins with "/", does not end with one, '
    f"has only letters, digits, '-', '_' and '.', and at most {MAX_BASE} characters",
)
# The headers that it excludes say something else
header_name = matching(
    r"(?!(?i:authorization|cookie|host|origin|x-bgd-token)\Z)[A-Za-z][A-Za-z0-9-]{0,63}",
    'must be empty or the name of a header such as "X-Remote-User"',
)
# A secret that programs send: b64token of RFC 6750, and not to be guessed. `bgctl config show` hides it
token = matching(
    r"[A-Za-z0-9._~+/=-]{16,200}",
    "must be 16 to 200 letters, digits and -._~+/=, for example from `openssl rand -hex 16`",
)
# Less than mail allows: some programs take a recipient that begins with - | or / as something else
mail_address = matching(
    r"[A-Za-z0-9_][A-Za-z0-9._+=~-]{0,63}(@[A-Za-z0-9][A-Za-z0-9.-]{0,252})?",
    'must be one address, such as "ops@example.org", or a user of this machine',
    may_be_empty=False,
)


def program_with_arguments(setting: Setting, example: str) -> tuple[str, ...]:
    """Read a program and its arguments; an error shows the example."""
    words = texts(setting)
    if not words or not words[0]:
        raise ValueError(f"name a program and its arguments, for example {example}")
    if len(words) > MAX_PROGRAM_WORDS:
        raise ValueError(f"has {len(words)} words, the limit is {MAX_PROGRAM_WORDS}")
    return (as_program(words[0], setting), *words[1:])


def node_python(setting: Setting) -> str:
    """Read an interpreter that the nodes of a cluster have."""
    if not (name := as_program(text(setting), setting)):
        raise ValueError('must be a program on the nodes, for example "python3"')
    return name


def path_or_nothing(setting: Setting) -> str:
    """Read a path and make it absolute; an empty text stays empty."""
    return absolute_path(setting) if text(setting) else ""


def events(setting: Setting) -> tuple[str, ...]:
    """Read a list of events of bgd.core.notifications."""
    from bgd.core.notifications import CHOSEN  # noqa: PLC0415 - a client that has targets does not need it

    words = texts(setting)
    for word in words:
        if word not in CHOSEN:
            raise ValueError(f"{word!r} is not one of {', '.join(CHOSEN)}")
    return tuple(event.value for event in CHOSEN if event in words)


def secret_url(setting: Setting) -> str:
    """Read an address whose path is a secret; neither errors nor `bgctl config show` print it."""
    url = setting.value
    found = _URL.fullmatch(url) if isinstance(url, str) and len(url) <= MAX_URL else None
    if (
        found is None
        or int(found["port"] or 0) > MAX_PORT
        or (found["scheme"] == "http" and not is_loopback(found["host"]))
    ):
        raise ConfigError(  # not a ValueError, in whose message the value would stand
            f"{setting.origin} must be an address such as https://hc-ping.com/UUID, with at most {MAX_URL} "
            "ASCII characters, without user, password or fragment; http only for this machine"
        )
    return found.string


def is_loopback(host: str) -> bool:
    """Return whether a host, as it stands in a URL, is this machine."""
    return host.lower() in {"localhost", "[::1]"} or bool(_LOOPBACK.fullmatch(host))


_LOOPBACK = re.compile(r"127(\.[0-9]{1,3}){3}")
_URL = re.compile(
    r"(?P<scheme>https?)://(?P<host>[A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\])(:(?P<port>[0-9]{1,5}))?"
    r"(/[\w.~%!$&'()*+,;=:@/-]*(\?[\w.~%!$&'()*+,;=:@/?-]*)?)?",
    re.ASCII,
)


def resource_tokens(setting: Setting) -> tuple[str, ...]:
    """Read the tokens of a resource: their names, or how many there are."""
    value = setting.value
    if isinstance(value, str) and value.isdecimal():  # from the environment
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool):
        if not 0 <= value <= spec.MAX_TOKENS:
            raise ValueError(f"must be a list of names, or how many there are: 0 to {spec.MAX_TOKENS}")
        return tuple(str(number) for number in range(1, value + 1))
    if not isinstance(value, str | list):
        raise ValueError(  # noqa: TRY004 - what readers raise
            'must be a list of names such as ["0", "1"], or a number such as 3'
        )
    names = texts(setting)
    for name in names:
        if not _TOKEN_NAME.fullmatch(name):
            raise ValueError(f"{name!r} is not a name of 1 to 64 letters, digits and '.', '_', ':', '-', '/'")
    if len(set(names)) < len(names) or len(names) > spec.MAX_TOKENS:
        raise ValueError(f"must be different names, at most {spec.MAX_TOKENS}")
    return names


_TOKEN_NAME = re.compile(r"[A-Za-z0-9._:/-]{1,64}")  # a job gets them separated by commas


def start_rate(setting: Setting) -> Rate:
    """Read how many starts there may be within some time."""
    return _rate(setting, "", "starts", MAX_RATE, '"10/1m"')


def failure_rate(setting: Setting) -> Rate:
    """Read after how many failures within some time the calls of a class pause."""
    return _rate(setting, " failures?", "failures", MAX_FAILURES, '"5 failures/10m"')


def _rate(setting: Setting, unit: str, what: str, most: int, example: str) -> Rate:
    found = re.fullmatch(rf"([0-9]{{1,9}}){unit}/([0-9].*)", written := text(setting))
    if found is None or not 1 <= int(found[1]) <= most:
        raise ValueError(f"must be like {example}: 1 to {most} {what}, and a duration")
    return Rate(int(found[1]), read(found[2], spec.Timeout), written)


def exception_rules(setting: Setting) -> ExceptionRules:
    """Read a table of exceptions and what follows each."""
    table = setting.value
    if not isinstance(table, dict):
        raise ValueError(  # noqa: TRY004 - what readers raise
            f'must be a table, for example {{ "app.errors.Busy" = "snooze 5m" }}; {_SAY_WHAT_FOLLOWS}'
        )
    if len(table) > MAX_RULES:
        raise ValueError(f"has {len(table)} exceptions, the limit is {MAX_RULES}")
    for name in table:
        if len(name) > MAX_EXCEPTION_NAME or not is_dotted_name(name):
            raise ValueError(
                f"{name!r} is not the name of an exception: write ValueError or package.module.Class, quoted"
            )
    return tuple((name, _rule(text)) for name, text in table.items())


def _rule(text: object) -> Decision:
    step, _, after = str(text).partition(" ")
    if (
        step not in set(NextStep)
        or (step == NextStep.FAIL and after)
        or (step == NextStep.SNOOZE and not after)
    ):
        raise ValueError(f"{text!r} does not say what to do: {_SAY_WHAT_FOLLOWS}")
    return Decision(NextStep(step), read(after, spec.Duration) if after else None)


def rule_text(decision: Decision) -> str:
    """Return what follows an exception, in the words of `on_exceptions`."""
    return decision.step if decision.after is None else f"{decision.step} {format_duration(decision.after)}"


_SAY_WHAT_FOLLOWS = 'write "retry", "retry 30s", "fail" or "snooze 5m"'


def job_option(name: str) -> Reader[Any]:
    """Return a reader of an option of a job."""
    if name == "slurm_options":
        return texts_without(spec.problem_with_slurm_option)

    def reader(setting: Setting) -> object:
        return of(kind_of(name))(setting)  # not earlier: it would make each client start later

    return reader


def time_zone(setting: Setting) -> str:
    """Read the name of a time zone that this machine has."""
    from bgd.system.timezones import is_zone, problem_with_zone  # noqa: PLC0415 - most configurations name no zone

    name = text(setting)
    if problem := problem_with_zone(name):
        raise ValueError(f"is misleading: {problem}")
    if not is_zone(name):
        raise ValueError("is not a time zone of this machine: write one such as Europe/Paris")
    return name


def table_or_list(kind: type[T], example: str) -> Reader[T]:
    """Return a reader of arguments of a class job, which are a list or a table."""

    def reader(setting: Setting) -> T:
        if not isinstance(setting.value, kind):
            raise ValueError(f"must be written like {example}")  # noqa: TRY004 - what readers raise
        return setting.value

    return reader


def problem_with_command(entry: str) -> str | None:
    """Return why an entry cannot stand in allowed_commands, or None."""
    if entry == ANY_COMMAND or entry.startswith("/"):
        return None
    return f'{entry!r} must be "{ANY_COMMAND}" or the absolute path of a program'


def problem_with_variable(name: str) -> str | None:
    """Return why this is not the name of a variable, or None."""
    if name and "=" not in name and "\0" not in name:
        return None
    return f"{name!r} is not the name of a variable: it is not empty and holds no '=' or NUL"


def problem_with_host(name: str) -> str | None:
    """Return why no browser asks for this host, or None."""
    if re.fullmatch(HOST, name):
        return None
    return f'{name!r} must be a name without scheme and port, as browsers send it, such as "jobs.example.org"'


# A name, in ASCII as browsers send it, or an address
HOST = r"(?!-)[A-Za-z0-9._-]{1,255}|\[[0-9A-Fa-f:.]{2,45}\]"


def problem_with_module(name: str) -> str | None:
    """Return why this is not the name of a module, or None."""
    return None if is_module(name) else f"{name!r} must be a module, for example package.module"


# --- how values are checked -------------------------------------------------------------------------------


def _text(value: object) -> str:
    if not isinstance(value, str) or not value.isprintable():
        raise ValueError("must be printable text")
    return value


def _listed(text: object) -> object:
    if not isinstance(text, str) or not text.lstrip().startswith("["):
        return [word.strip() for word in str(text).split(",") if word.strip()]
    return parse_toml(f"list = {text}")["list"]


def _absolute(text: str, setting: Setting) -> str:
    if not text:
        raise ValueError("must be a path")
    if text == "~" or text.startswith("~/"):
        text = setting.home.rstrip("/") + text[1:] or "/"
    elif text.startswith("~"):
        raise ValueError("must be a full path: ~ works only for your own home")
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
