"""What is put into JSON text comes out again, and no other byte changes."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bgctl.agents.json_edit import added, removed

VALUE = {"command": "bgctl", "args": ["mcp"]}
SERVER = ("mcpServers", "bgd")
HOOK = ("hooks", "Stop", None)


def is_ours(found: object) -> bool:
    return found == VALUE


spaces = st.text(" \t\r\n", max_size=4)
keys = st.sampled_from(["hooks", "mcpServers", "Stop", "other", "bgd2", "ä\n\"'\\"])
scalars = st.sampled_from(["1.50e3", "-0", "true", "null", r'"\u00e4\/ { [ , \""', '"ä"', '""'])


@st.composite
def arrays(draw: Any, elements: Any) -> str:
    return f"[{_listed(draw, [draw(elements) for _ in range(draw(st.integers(0, 3)))])}]"


@st.composite
def objects(draw: Any, values: Any) -> str:
    members = draw(st.dictionaries(keys, values, max_size=4))
    pairs = [f"{json.dumps(key)}{draw(spaces)}:{draw(spaces)}{value}" for key, value in members.items()]
    return f"{{{_listed(draw, pairs)}}}"


def _listed(draw: Any, members: list[str]) -> str:
    return ",".join(f"{draw(spaces)}{each}{draw(spaces)}" for each in members) or draw(spaces)


values = st.recursive(scalars, lambda inner: arrays(inner) | objects(inner), max_leaves=12)
files = st.builds("{}{}{}".format, spaces, objects(values), spaces)


@given(files, st.sampled_from([SERVER, HOOK]))
def test_what_is_put_in_comes_out_and_no_other_byte_changes(text, path):
    before = json.loads(text)
    try:
        after = added(text, path, VALUE)
    except ValueError:  # something else is there
        below = before[path[0]]
        assert not isinstance(below, dict) or (path is HOOK and not isinstance(below["Stop"], list))
        return

    assert removed(after, path, is_ours) == text
    assert json.loads(after) == expected(before, path)


@given(files, st.sampled_from([SERVER, HOOK]))
def test_it_comes_out_of_a_file_that_another_program_has_rewritten(text, path):
    try:
        after = json.dumps(json.loads(added(text, path, VALUE)), indent=2)
    except ValueError:
        return

    left = json.loads(removed(after, path, is_ours) or "{}")
    assert without_empty(left, path) == without_empty(json.loads(text), path)


@given(files, st.sampled_from([SERVER, HOOK]))
def test_nothing_changes_where_it_is_not(text, path):
    with suppress(ValueError):  # something else is there
        assert removed(text, path, is_ours) == text


def expected(before: Any, path: Any) -> Any:
    """Return the document as a program that parses and rewrites it would make it."""
    first, second, *_ = path
    inner = before.get(first, {})
    new = [VALUE, *inner.get(second, [])] if path is HOOK else VALUE
    return before | {first: inner | {second: new}}


def without_empty(document: Any, path: Any) -> Any:
    """Drop empty containers on the way: `removed` takes them for its own if the file was rewritten."""
    inner = document.get(path[0], {})
    if path is HOOK and inner.get("Stop") == []:
        inner = {key: value for key, value in inner.items() if key != "Stop"}
    rest = {key: value for key, value in document.items() if key != path[0]}
    return rest | ({path[0]: inner} if inner else {})


def test_lines_that_are_there_do_not_change():
    text = '{\n    "theme": "dark",\n    "mcpServers": {\n        "x": {}\n    }\n}\n'

    after = added(text, SERVER, VALUE).splitlines()

    assert [line for line in after if line not in text.splitlines()] == [
        '        "bgd": {',
        '          "command": "bgctl",',
        '          "args": [',
        '            "mcp"',
        "          ]",
        "        },",
    ]
    assert [line for line in after if line in text.splitlines()] == text.splitlines()


def test_a_file_is_made_and_goes_again():
    text = added(added("", HOOK, VALUE), ("hooks", "SessionStart", None), VALUE)

    assert json.loads(text) == {"hooks": {"Stop": [VALUE], "SessionStart": [VALUE]}}
    left = removed(text, HOOK, is_ours)
    assert json.loads(left) == {"hooks": {"SessionStart": [VALUE]}}
    assert removed(left, ("hooks", "SessionStart", None), is_ours) == ""


def test_of_equal_keys_the_last_counts():
    text = '{"mcpServers": {}, "mcpServers": {"x": 1}}'

    assert json.loads(added(text, SERVER, VALUE)) == {"mcpServers": {"bgd": VALUE, "x": 1}}
    assert removed(added(text, SERVER, VALUE), SERVER, is_ours) == text


@pytest.mark.parametrize(
    ("text", "path", "problem"),
    [
        ("[]", SERVER, "[] stands where an object is needed"),
        ('{"mcpServers": 3}', SERVER, "3} stands where an object is needed"),
        ('{"hooks": {"Stop": "x"}}', HOOK, '"x"}} stands where an array is needed'),
    ],
)
def test_another_kind_of_value_is_refused(text, path, problem):
    with pytest.raises(ValueError, match="stands where") as caught:
        added(text, path, VALUE)

    assert str(caught.value) == problem
