"""docs/development.md: a line for every file, and only functions that exist."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from keyword import iskeyword
from pathlib import Path
from typing import get_args

import pytest

from bgctl import acting
from bgd import AsyncClient, AsyncJob
from bgd.core.job import ACTIVE, FINAL, MOVES, VERBS, WAITING, State
from bgd.wire.messages import kinds_of
from bgd.wire.requests import Action, Request
from tests.docs.pages import block, page, section
from tests.support import ROOT

DEVELOPMENT = page("docs/development.md")
OTHERS = {"CASES", "SEED", "SHARE", "TIME"}  # variables of make
GROUPS = {"waiting": WAITING, "active": ACTIVE, "finished": FINAL}
STEP = re.compile(r"`((?:bgd|bgctl)/[\w/]+\.py): ([\w.]+)`")


@pytest.mark.parametrize("heading", ["## How a submit travels", "## How the end of a job travels"])
def test_development_page_names_only_functions_that_there_are(heading):
    steps = STEP.findall(section(DEVELOPMENT, heading))
    wrong = [f"{path}: {name}" for path, name in steps if name not in definitions(path)]

    assert len(steps) > 10
    assert not wrong, (
        f"docs/development.md, {heading!r}: these are not there any more: {wrong}."
        " Name the file and function that do that step now."
    )


def test_development_page_has_one_line_for_every_file():
    named = re.findall(r"^\| `([^`]+)` \|", section(DEVELOPMENT, "## Every file"), re.MULTILINE)
    folders = tuple(name for name in named if name.endswith("/"))
    files = {name for name in product_files() if not name.startswith(folders)}
    missing = [f"| `{name}` | {purpose_of(name)} |" for name in sorted(files - set(named))]
    gone = sorted(name for name in set(named) if not (ROOT / name).exists())
    twice = sorted({name for name in named if named.count(name) > 1})

    where = "docs/development.md, section 'Every file':"
    assert not missing, f"{where} add these lines, in a few words:\n" + "\n".join(missing)
    assert not gone, f"{where} remove or rename the lines of {gone}"
    assert not twice, f"{where} keep one line of each of {twice}"


def test_development_page_names_only_classes_and_constants_that_exist():
    text = re.sub(r"^```.*?^```$", "", DEVELOPMENT, flags=re.MULTILINE | re.DOTALL)
    named = set(re.findall(r"`([A-Z][A-Za-z]{3,})(?:\.\w+)?`", text)) - OTHERS
    there = {name for path in product_files() for name in definitions(path) | constants(path)}

    assert not named - there, (
        f"docs/development.md: {named - there} are not in the code: name what is there now"
    )


@pytest.mark.parametrize("room", ["bgd/daemon/control", "bgd/client"])
def test_every_request_is_named_in_every_room_of_a_new_verb(room):
    text = "".join(path.read_text() for path in (ROOT / room).rglob("*.py"))
    names = ["Action" if kind in get_args(Action) else kind.__name__ for kind in kinds_of(Request).values()]
    missing = [name for name in names if not re.search(rf"\b{name}\b", text)]

    assert not missing, f"docs/development.md, 'A verb': no file of {room} names {missing}"


@pytest.mark.parametrize("heading", ["A verb", "A job option"])
def test_adding_a_verb_or_a_job_option_takes_four_files_at_most(heading):
    steps = section(DEVELOPMENT, f"### {heading}").partition("Any other:")[0]
    files = re.findall(r"^\d\. `([^`]+)`", steps, re.MULTILINE)

    assert 2 < len(files) <= 4
    assert [name for name in files if not (ROOT / name).exists()] == []


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_a_method_of_clients_and_jobs_and_a_command(verb):
    method = f"{verb}_" if iskeyword(verb) else verb
    of_jobs = "send_signal" if verb == "signal" else method  # a job's `signal` is that which ended it

    assert callable(getattr(AsyncClient, method))
    assert callable(getattr(AsyncJob, of_jobs))
    assert acting.__dict__[f"{verb}_command"].help


def test_a_row_of_verbs_alone_makes_a_request_and_a_command():
    program = """
from bgd.core import job
job.VERBS["nap"] = job.Verb(done="napped", states=job.ACTIVE, help="Let jobs nap.", examples=("bgctl nap 3",))
from bgd import Client
from bgd.wire import messages, requests
request = requests.act("nap", jobs=[3])
assert messages.decode_request(messages.encode(request)) == request and isinstance(request, requests.Act)
Client.nap = lambda client, ids: []
from bgctl.cli import invoke
invoke(["nap", "--help"])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)

    assert done.stderr == ""
    assert "Let jobs nap." in done.stdout
    assert "bgctl nap 3" in done.stdout


def test_development_page_draws_the_table_of_moves():
    assert block(section(DEVELOPMENT, "## The life of a job"), "mermaid") == diagram()


# --- reading the code -----------------------------------------------------------------------------------


def product_files() -> list[str]:
    """Return the product's Python files, except packages that only have a docstring or imports."""
    paths = [path for room in ("bgd", "bgctl") for path in (ROOT / room).rglob("*.py")]
    return [
        str(path.relative_to(ROOT)) for path in paths if not (path.name == "__init__.py" and is_bare(path))
    ]


def is_bare(path: Path) -> bool:
    return all(
        isinstance(node, ast.Expr | ast.Import | ast.ImportFrom)
        or (isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__")
        for node in ast.parse(path.read_text()).body
    )


def purpose_of(name: str) -> str:
    """Return the first sentence of a module's docstring."""
    docstring = ast.get_docstring(ast.parse((ROOT / name).read_text())) or "what it is for"
    return " ".join(docstring.partition("\n\n")[0].split())


def definitions(path: str) -> set[str]:
    """Return the classes and functions of a file, methods as `Class.method`; none if it does not exist."""
    tree = _tree_of(path)
    return set(_definitions_in(tree.body))


def constants(path: str) -> set[str]:
    """Return the names that a file assigns at its top."""
    assigned = [node for node in _tree_of(path).body if isinstance(node, ast.Assign | ast.AnnAssign)]
    targets = [
        target for node in assigned for target in getattr(node, "targets", [getattr(node, "target", None)])
    ]
    return {target.id for target in targets if isinstance(target, ast.Name)}


def _tree_of(path: str) -> ast.Module:
    return ast.parse((ROOT / path).read_text() if (ROOT / path).exists() else "")


def _definitions_in(body: list[ast.stmt], prefix: str = "") -> Iterator[str]:
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield prefix + node.name
        if isinstance(node, ast.ClassDef):
            yield from _definitions_in(node.body, f"{prefix}{node.name}.")
        elif isinstance(node, ast.If):  # for type checkers only
            yield from _definitions_in(node.body, prefix)


def diagram() -> str:
    """Draw the moves; moves that all states of a group have are drawn once, from the group."""
    lines, between = ["stateDiagram-v2", "    [*] --> waiting: submit"], []
    for name, group in GROUPS.items():
        states = [state for state in State if state in group]
        moves = [(state, *move) for state in states for move in MOVES[state].items()]
        common = [move for move in MOVES[states[0]].items() if all((each, *move) in moves for each in states)]
        single = [(state, *move) for state, *move in moves if tuple(move) not in common]
        lines += [f"    state {name} {{", *(f"        {state}" for state in states)]
        lines += [f"        {state} --> {after}: {move}" for state, move, after in single if after in group]
        lines += ["    }"]
        between += [(name, *move) for move in common] + [move for move in single if move[2] not in group]
    lines += [f"    {before} --> {after}: {move}" for before, move, after in between]
    return "\n".join(lines) + "\n"
