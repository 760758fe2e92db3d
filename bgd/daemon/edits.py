"""Edits: apply the changes that a request names to the spec of a waiting job."""

from __future__ import annotations

from msgspec import UNSET
from msgspec.structs import replace

from bgd.core.spec import JobSpec
from bgd.errors import Refused
from bgd.wire.requests import Changes


def changes_in(changes: Changes) -> set[str]:
    """Return the names of the options to change."""
    return {name for name in changes.__struct_fields__ if getattr(changes, name) is not UNSET}


def edited(spec: JobSpec, changes: Changes) -> JobSpec:
    """Return the spec with the changes applied; variables in `env` are added to those of the spec.

    Raises:
        Refused: a class job would become a command.
    """
    if spec.target is not None and changes.argv is not UNSET:
        raise Refused("a class job cannot become a command: submit the command as a new job")
    wanted = {name: getattr(changes, name) for name in changes_in(changes)}
    for name in wanted.keys() & _EXCLUDED_BY.keys():
        other, unset = _EXCLUDED_BY[name]
        wanted.setdefault(other, unset)
    if "env" in wanted:
        wanted["env"] = {**(spec.env or {}), **wanted["env"]}
    # check only variables that are added now: one that the lists allowed earlier must not block an edit
    return replace(spec, **wanted, explicit_env=tuple(changes.env or ()))


# Of two options that cannot be combined, setting one unsets the other: its name and its unset value
_EXCLUDED_BY: dict[str, tuple[str, object]] = {
    "at": ("delay", 0.0),
    "delay": ("at", None),
    "retry_on": ("no_retry_on", None),
    "no_retry_on": ("retry_on", None),
    "stdin": ("input", None),
}

START_OPTIONS = {"delay", "at", "expires"}  # options that say when a job may start
