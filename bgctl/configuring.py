"""config: what the configuration says in the end, and where each part of it comes from."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping

import click
from msgspec import Struct

from bgctl.common import global_options, print_json, verb, verb_group
from bgd import config
from bgd.escape import one_line
from bgd.settings import ANY, Key, Schema, Setting
from bgd.units import format_duration, parse_duration

_DURATIONS = {"grace", "delay", "max_delay", "timeout", "succeeded_for", "failed_for", "every"}
_BARE_KEY = r"[A-Za-z0-9_-]+"

Path = tuple[str, ...]


@verb(
    "show",
    "bgctl config show",
    "bgctl config show --system",
    "bgctl config show --config new.toml",
)
def show_command() -> int:
    """Show the configuration as a daemon would read it.

    It is TOML, and would do as a configuration itself. A comment says where each value comes from
    that is not the default.
    """
    given = global_options()
    loaded = config.load(given.config, system=given.system)
    if given.json:
        print_json(_as_json(loaded))
    else:
        for line in _toml(loaded):
            click.echo(one_line(line))
    return 0


config_command = verb_group("config", "Show the configuration.", show_command)


def _as_json(loaded: config.Config) -> dict[str, object]:
    document: dict[str, object] = {"source": loaded.source}
    for path, values in _sections(loaded):
        table = document
        for name in path:
            below = table.setdefault(name, {})
            assert isinstance(below, dict)  # noqa: S101 - no section is called like a key
            table = below
        table |= values
    return document


def _toml(loaded: config.Config) -> Iterator[str]:
    found = config.settings_of(loaded.source)
    yield f"# {one_line(loaded.source)}" if loaded.source else "# built-in defaults: there is no file"
    for path, values in _sections(loaded):
        yield ""
        yield f"[{'.'.join(map(_key, path))}]"
        for key, value in values.items():
            if value is not None:  # which TOML cannot say; a key that is missing does
                yield f"{key} = {_value(key, value)}{_origin(found, (*path, key))}"


def _sections(loaded: config.Config) -> Iterator[tuple[Path, dict[str, object]]]:
    """Yield each section with its keys, those of a section within another after it."""
    for path, schema in _paths(config.SCHEMA):
        keys = {name: below for name, below in schema.items() if isinstance(below, Key)}
        if path[-1] == ANY:
            for name, section in getattr(loaded, path[0]).items():
                yield (*path[:-1], name), _plain_values(section, keys)
        elif keys:
            section = getattr(loaded, "_".join(path))
            yield path, _plain_values(section, keys)


def _paths(schema: Schema, above: Path = ()) -> Iterator[tuple[Path, Schema]]:
    for name, below in schema.items():
        if not isinstance(below, Key):
            yield (*above, name), below
            yield from _paths(below, (*above, name))


def _plain_values(section: Struct, keys: Mapping[str, Key[object]]) -> dict[str, object]:
    return {name: _plain(key, config.value_of(section, name)) for name, key in keys.items()}


def _plain(key: Key[object], value: object) -> object:
    if value is None:
        return key.none
    if key.reader is config.exception_rules and isinstance(value, tuple):
        return {name: config.rule_text(wish) for name, wish in value}
    return str(value) if isinstance(value, Struct) else value  # as an address


def _origin(found: Mapping[str, Setting], path: Path) -> str:
    setting = found.get(".".join(path))
    return "" if setting is None else f"  # {one_line(setting.origin)}"


def _key(name: str) -> str:
    return name if re.fullmatch(_BARE_KEY, name) else json.dumps(name)


def _value(key: str, value: object) -> str:
    if key in _DURATIONS and isinstance(value, float):
        text = format_duration(value)
        return json.dumps(text) if parse_duration(text) == value else repr(value)
    if isinstance(value, dict):
        pairs = (f"{json.dumps(name)} = {json.dumps(below)}" for name, below in value.items())
        return f"{{ {', '.join(pairs)} }}"
    # what JSON says of texts, numbers and lists means the same in TOML
    return json.dumps(value, ensure_ascii=False)
