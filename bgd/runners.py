"""Runners: programs that run class jobs of other languages, as [runners.NAME] of the configuration says."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct
from msgspec.structs import replace

from bgd import values
from bgd.core.target import is_runner_name
from bgd.errors import ConfigError
from bgd.settings import Setting, named_in, read

SECTION = "runners"

MAX_WORDS = 100  # of a program and its arguments; a longer one belongs into a file

_HOW = 'name a program and its arguments, as ["php", "artisan", "bgd:run"]'


class RunnerConfig(Struct, frozen=True, kw_only=True):
    """`argv`: the program, a path or a name to be looked for on PATH, and its arguments.

    `cwd`: the folder it is started in, None: the daemon's.
    """

    argv: tuple[str, ...]
    cwd: str | None


KEYS = RunnerConfig.__struct_fields__


def runners(found: Mapping[str, Setting], home: str) -> dict[str, RunnerConfig]:
    """Return the runners by their names.

    Raises:
        ConfigError: one of them is wrong.
    """
    return {name: _runner(found, name, setting, home) for name, setting in named_in(found, SECTION).items()}


def _runner(found: Mapping[str, Setting], name: str, setting: Setting, home: str) -> RunnerConfig:
    if not is_runner_name(name):
        raise ConfigError(
            f"{setting.origin}: {name!r} is no name for a runner: "
            "a small letter, then small letters, digits, _ and -, 32 at most"
        )
    section = f"{SECTION}.{name}"
    argv: tuple[str, ...] | None = read(found, f"{section}.argv", _argv(home), None)
    if argv is None:
        raise ConfigError(f"{setting.origin}: [{section}] has no argv: {_HOW}")
    return RunnerConfig(argv=argv, cwd=read(found, f"{section}.cwd", values.path(home), None))


def _argv(home: str) -> values.Reader[tuple[str, ...]]:
    def reader(setting: Setting) -> tuple[str, ...]:
        words = values.texts(setting)
        if not words or not words[0]:
            raise ValueError(_HOW)
        if len(words) > MAX_WORDS:
            raise ValueError(f"has {len(words)} words, the limit is {MAX_WORDS}")
        program = values.program(home)(replace(setting, value=words[0]))
        return (program, *words[1:])

    return reader
