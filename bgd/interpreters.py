"""The interpreters that class jobs run in, as the configuration says."""

from __future__ import annotations

import sys
from collections.abc import Mapping

from msgspec import Struct

from bgd import values
from bgd.core.spec import Isolation
from bgd.core.target import is_module
from bgd.settings import Setting, read


class PythonConfig(Struct, frozen=True, kw_only=True):
    interpreter: str
    path: tuple[str, ...]  # put on sys.path of class jobs
    preload: tuple[str, ...]  # modules
    isolation: Isolation  # where a job does not say


def python_config(found: Mapping[str, Setting], home: str) -> PythonConfig:
    """Read the section [python].

    Raises:
        ConfigError: as `bgd.config.load`.
    """
    return PythonConfig(
        interpreter=read(found, "python.interpreter", values.program(home), "") or sys.executable,
        path=read(found, "python.path", values.paths(home), ()),
        preload=read(found, "python.preload", values.texts_without(_problem_with_module), ()),
        isolation=read(found, "python.isolation", values.one_of(_ISOLATIONS), Isolation.FORK),
    )


_ISOLATIONS = {each.value: each for each in Isolation}


def _problem_with_module(name: str) -> str | None:
    return None if is_module(name) else f"{name!r} must be a module, as package.module"
