"""Time zones of this machine, from its tz database."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from datetime import datetime, tzinfo
from functools import cache
from io import BytesIO
from pathlib import Path
from struct import pack

_LOCALTIME = Path("/etc/localtime")
_ZONE = re.compile(r"[A-Za-z][A-Za-z0-9_+-]*(/[A-Za-z0-9_+-]+){0,3}")
_REVERSED = re.compile(r"(UTC|GMT|UCT|Z)([+-])([0-9]{1,2})")
_POSIX = re.compile(r"[A-Za-z<][A-Za-z0-9<>+,./:-]{3,80}")


def is_zone(name: str) -> bool:
    """Return whether the machine knows a time zone."""
    try:
        zone(name)
    except LookupError:
        return False
    return True


def problem_with_zone(name: str) -> str | None:
    """Return why a time zone's name is misleading; None: it is not."""
    found = _REVERSED.fullmatch(name)
    if found is None:
        return None
    sign, hours = found[2], found[3]
    real, side = ("-", "behind") if sign == "+" else ("+", "ahead of")
    return (
        f"{name!r} is {hours} h {side} UTC by the rules of POSIX: write"
        f" '<{real}{hours:0>2}>{sign}{hours}' or a name such as Europe/Paris"
    )


def zone(name: str | None) -> tzinfo:
    """Return a time zone by its name or POSIX rule; None: the machine's.

    A rule such as CET-1CEST,M3.5.0,M10.5.0/3 says when clocks change. What the C library takes for one that
    does not say so depends on the machine, so such a rule is refused.

    Raises:
        LookupError: there is no such zone.
    """
    name = machine_zone() if name is None else name
    file = None
    if name == "localtime":
        with suppress(OSError):
            status = _LOCALTIME.stat()
            file = status.st_ino, status.st_mtime_ns, status.st_size
    return _named(name, file)


def time_in_zone(at: float, name: str) -> str:
    """Return an instant in this time zone, or in local time if the zone is not known here."""
    try:
        found = zone(name)
    except LookupError:
        found = None
    return f"{datetime.fromtimestamp(at, found).astimezone(found):%a %Y-%m-%d %H:%M:%S %Z}"


@cache
def _named(name: str, _file: tuple[int, int, int] | None) -> tzinfo:
    from zoneinfo import ZoneInfo  # noqa: PLC0415 - clients never need it

    with suppress(
        ValueError, OSError, LookupError
    ):  # the tz database also has files and folders of other kinds
        if name == "localtime":
            with _LOCALTIME.open("rb") as file:
                return ZoneInfo.from_file(file, key=name)
        if _ZONE.fullmatch(name):  # it becomes part of a path
            return ZoneInfo(name)
    with suppress(ValueError):
        if _POSIX.fullmatch(name):
            return ZoneInfo.from_file(BytesIO(_file_with_rule(name)), key=name)
    raise LookupError(f"no time zone {name!r}")


def _file_with_rule(rule: str) -> bytes:
    """Return a file of the tz database (RFC 9636) without any change of clocks except by a POSIX rule."""
    block = b"TZif2" + bytes(15) + pack(">6l", 0, 0, 0, 0, 1, 4) + pack(">lbb", 0, 0, 0) + b"UTC\0"
    return block + block + b"\n" + rule.encode("ascii") + b"\n"


def machine_zone() -> str:
    """Return the machine's time zone as `zone` takes it; "localtime" if it has a file without a name.

    As for the C library, and so for cron, the variable TZ comes first.
    """
    named = os.environ.get("TZ", "").removeprefix(":")
    if named.startswith("/"):  # a file
        named = named.partition("zoneinfo/")[2]
    if named:
        return named
    try:
        target = str(_LOCALTIME.readlink())
    except OSError:
        return "localtime" if _LOCALTIME.is_file() else "UTC"
    return target.partition("zoneinfo/")[2] or "localtime"
