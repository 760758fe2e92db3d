"""Which attempts may share a warm worker, and what such a worker is started with."""

from __future__ import annotations

from msgspec import Struct

from bgd.core.spec import Isolation
from bgd.launcher.process import MARK
from bgd.wire.launching import Launch, Warm


class WarmKey(Struct, frozen=True):
    """All that a worker cannot change any more once it runs."""

    isolation: Isolation
    argv: tuple[str, ...]
    path: tuple[str, ...]
    preload: tuple[str, ...]
    recycle: tuple[int | None, int | None]
    folder: str  # that it starts in
    waits_for: str | None  # a folder that may not answer: other jobs must not wait for it as well
    startup: tuple[tuple[str, str], ...]


def key_of(launch: Launch, warm: Warm, waits_for: str | None) -> WarmKey:
    return WarmKey(
        isolation=warm.isolation,
        argv=tuple(launch.argv),
        path=tuple(warm.path),
        preload=tuple(warm.preload),
        recycle=(warm.recycle_jobs, warm.recycle_memory),
        folder=launch.cwd if _has_relative_paths(launch.env) else "/",
        waits_for=waits_for,
        startup=tuple(sorted(item for item in launch.env.items() if item[0].startswith(_AT_STARTUP))),
    )


def environment_of_worker(launch: Launch, warm: Warm) -> dict[str, str]:
    """Return what a worker is started with to run this attempt, and others of its key."""
    environment = {MARK: ROOM_FOR_MARK, "PYTHONUNBUFFERED": "1", **launch.env}
    for name, value in warm.base.items():
        if name.startswith(_AT_STARTUP):
            continue
        if value is None:
            environment.pop(name, None)
        else:
            environment[name] = value
    environment[MARK] = ROOM_FOR_MARK
    return environment


ROOM_FOR_MARK = "-" * 160  # a job writes its own mark over it, where /proc shows it

# looked at by who starts the interpreter, by itself, its C library or the first import that computes, and
# never again
_AT_STARTUP = (
    *("PATH", "HOME", "PYTHON", "LD_", "LC_", "LANG", "TZ", "MALLOC_", "GLIBC_"),
    *("OMP_", "OPENBLAS_", "MKL_"),
)


def _has_relative_paths(environment: dict[str, str]) -> bool:
    """Tell whether the interpreter would look for modules from the folder that it starts in."""
    paths = environment.get("PYTHONPATH")
    return bool(paths) and not all(each.startswith("/") for each in str(paths).split(":"))
