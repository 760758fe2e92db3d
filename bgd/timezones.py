"""Time zones of this machine, from its tz database."""

from __future__ import annotations

import os
import re
from datetime import tzinfo
from functools import cache
from pathlib import Path

_LOCALTIME = Path("/etc/localtime")
_ZONE = re.compile(r"[A-Za-z][A-Za-z0-9_+-]*(/[A-Za-z0-9_+-]+){0,3}")


def is_zone(name: str) -> bool:
    """Tell whether the machine knows a time zone."""
    try:
        zone(name)
    except LookupError:
        return False
    return True


@cache
def zone(name: str | None) -> tzinfo:
    """Return a time zone by its name; None: the machine's.

    Raises:
        LookupError: there is no such zone.
    """
    from zoneinfo import ZoneInfo  # noqa: PLC0415 - clients never need it

    name = machine_zone() if name is None else name
    try:
        if name == "localtime":
            with _LOCALTIME.open("rb") as file:
                return ZoneInfo.from_file(file, key=name)
        if _ZONE.fullmatch(name):  # it becomes part of a path
            return ZoneInfo(name)
    except (ValueError, OSError) as error:  # the tz database also has files and folders that are no zones
        raise LookupError(f"no time zone {name!r}") from error
    raise LookupError(f"no time zone {name!r}")


def machine_zone() -> str:
    """Return the name of the machine's time zone; "localtime" if it has a file without a name."""
    named = os.environ.get("TZ", "").removeprefix(":")
    if _ZONE.fullmatch(named):
        return named
    try:
        target = str(_LOCALTIME.readlink())
    except OSError:
        return "localtime" if _LOCALTIME.is_file() else "UTC"
    return target.partition("zoneinfo/")[2] or "localtime"
