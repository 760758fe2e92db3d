"""The interpreters that class jobs run in, as the configuration says."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Annotated

from msgspec import Meta, Struct

from bgd import values
from bgd.core.spec import Isolation
from bgd.core.target import is_module
from bgd.settings import Setting, read

MIN_MEMORY = 10_000_000  # bytes; a bare interpreter has more, and would never be used twice

JobCount = Annotated[int, Meta(ge=1, le=1_000_000_000)]
MemoryBytes = Annotated[int, Meta(ge=MIN_MEMORY, le=2**62)]


class PythonConfig(Struct, frozen=True, kw_only=True):
    interpreter: str
    path: tuple[str, ...]  # put on sys.path of class jobs
    preload: tuple[str, ...]  # modules
    env: tuple[str, ...]  # names of variables that a class job may bring
    isolation: Isolation  # where a job does not say
    recycle_jobs: int  # after so many a worker that is reused gives way to another
    recycle_memory: int  # likewise beyond so many bytes


def python_config(found: Mapping[str, Setting], home: str) -> PythonConfig:
    """Read the section [python].

    Raises:
        ConfigError: as `bgd.config.load`.
    """
    return PythonConfig(
        interpreter=read(found, "python.interpreter", values.program(home), "") or sys.executable,
        path=read(found, "python.path", values.paths(home), ()),
        preload=read(found, "python.preload", values.texts_without(_problem_with_module), ()),
        env=read(found, "python.env", values.texts_without(values.problem_with_variable), ()),
        isolation=read(found, "python.isolation", values.one_of(_ISOLATIONS), Isolation.FORK),
        recycle_jobs=read(found, "python.recycle_jobs", values.whole_number(JobCount), 10_000),
        recycle_memory=read(found, "python.recycle_memory", values.size(MemoryBytes), 500_000_000),
    )


_ISOLATIONS = {each.value: each for each in Isolation}


def _problem_with_module(name: str) -> str | None:
    return None if is_module(name) else f"{name!r} must be a module, as package.module"
