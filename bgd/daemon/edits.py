"""Edits: a spec as it becomes under a person's changes."""

from __future__ import annotations

from msgspec import UNSET
from msgspec.structs import replace

from bgd.core.spec import JobSpec
from bgd.errors import Refused
from bgd.wire.changes import Changes

# Of two that exclude each other, the one that is asked for puts the other one out of force
_RIVALS: dict[str, tuple[str, object]] = {
    "at": ("delay", 0.0),
    "delay": ("at", None),
    "retry_on": ("no_retry_on", None),
    "no_retry_on": ("retry_on", None),
    "stdin": ("input", None),
}


def changes_in(changes: Changes) -> set[str]:
    """Return the names of what is to become other."""
    return {name for name in changes.__struct_fields__ if getattr(changes, name) is not UNSET}


def edited(spec: JobSpec, changes: Changes) -> JobSpec:
    """Return the spec under changes; `env` adds to the variables there are.

    Raises:
        Refused: a class job was to become a command.
    """
    if spec.target is not None and changes.argv is not UNSET:
        raise Refused("a class job cannot become a command: submit that as a job of its own")
    wanted = {name: getattr(changes, name) for name in changes_in(changes)}
    for name in wanted.keys() & _RIVALS.keys():
        rival, none = _RIVALS[name]
        wanted.setdefault(rival, none)
    if "env" in wanted:
        wanted["env"] = {**(spec.env or {}), **wanted["env"]}
    # only what is added now was chosen now: a variable that the lists allowed earlier blocks no edit
    return replace(spec, **wanted, explicit_env=tuple(changes.env or ()))
