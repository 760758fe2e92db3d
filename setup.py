"""Makes the blocking client from the asynchronous one, by removing what has to do with awaiting.

It runs whenever pip or another tool builds bgd. `make check`, `make test` and pytest bring a checkout up to
date, and so does `python setup.py` alone. A line keeps its number, so a traceback leads to the line to edit.
"""

from __future__ import annotations

import ast
import os
import re
import sys
from pathlib import Path

ROOT = Path(__file__).parent
SOURCE = ROOT / "bgd/client/async_"
TARGET = ROOT / "bgd/client/blocking"
MODULES = ["batches", "client", "daemon", "job", "schedules"]  # the others are written by hand

# Calls of what both clients share, which is written with async
SHARED = re.compile(r"self\._channel\.\w+|channel\.collect|sender\.send|Mapper\(.*\)\.results", re.DOTALL)

FUTURE = "from __future__ import annotations\n"
BEGINNING = f"""\
# Made from bgd/client/async_/{{name}}.py by setup.py: edit that file.
{FUTURE}from bgd.client.blocking.concurrency import closed_at_exit, iterate, run
"""

# Replaced in this order, longer ones before shorter ones
PATTERNS = [
    (r"AsyncGenerator\[(.+), None\]", r"Generator[\1, None, None]"),
    (r"AsyncGenerator", "Generator"),
    (r"Awaitable\[([\w| ]+)\]", r"\1"),
    (r"Awaitable, ", ""),
    (r"async (def|with|for) ", r"\1 "),
    (r"await ", ""),
    (r"\banext\b", "next"),
    (r"aclosing", "closing"),
    (r"__a(enter|exit)__", r"__\1__"),
    (r"\ban Async", "a Async"),
    (r"Async(Batch|Client|DaemonClient|Job|Schedules)", r"\1"),
    (r"bgd\.client\.async_", "bgd.client.blocking"),
]

# Where the two differ in more than that
PASSAGES = {
    "The tasks of one event loop may share an AsyncClient, but a forked child makes its own.": (
        "Threads and forked children may share a Client."
    ),
    """
    A job that was just submitted knows its `id`, and whether it `is_new` or existed with the same key.
    `refresh` and `wait` look up the rest; before that, other attributes raise BgdError.
""": """
    A job that was just submitted knows its `id`, and whether it `is_new` or existed with the same key. It
    is looked up when another attribute is read; `refresh` and `wait` look it up again.
""",
}


def make_blocking_client() -> None:
    """Write the modules of the blocking client that are not up to date."""
    for name in MODULES:
        path, text = TARGET / f"{name}.py", blocking(name)
        if not path.exists() or path.read_text("utf-8") != text:
            draft = path.with_suffix(f".{os.getpid()}")  # another process may be importing it
            draft.write_text(text, "utf-8")
            draft.replace(path)


def blocking(name: str) -> str:
    """Return the text of a module of the blocking client."""
    text = _without_loop((SOURCE / f"{name}.py").read_text("utf-8"))
    for passage, other in PASSAGES.items():
        text = text.replace(passage, other)
    for pattern, replacement in PATTERNS:
        text = re.sub(pattern, replacement, text)
    return text.replace(f"\n{FUTURE}\n", BEGINNING.format(name=name), 1)


def _without_loop(text: str) -> str:
    """Let the thread run what both clients share: the first way for one that is awaited, else the second."""
    tree, begins = ast.parse(text), [0]
    for line in text.encode().splitlines(keepends=True):
        begins.append(begins[-1] + len(line))
    awaited = {node.value for node in ast.walk(tree) if isinstance(node, ast.Await)}
    inserted: list[tuple[int, str]] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and SHARED.fullmatch(called := ast.unparse(node.func)):
            way = "run(" if node in awaited else "iterate("
            if called.endswith(".results"):  # a map that is left open must still cancel its jobs
                way = "closed_at_exit(iterate("
            # a parser leaves neither out
            end = begins[(node.end_lineno or 0) - 1] + (node.end_col_offset or 0)
            inserted.append((begins[node.lineno - 1] + node.col_offset, way))
            inserted.append((end, ")" * way.count("(")))
    code = text.encode()
    for place, words in sorted(inserted, reverse=True):
        code = code[:place] + words.encode() + code[place:]
    return code.decode()


if __name__ == "__main__":
    make_blocking_client()
    if sys.argv[1:]:  # a build
        from setuptools import setup

        setup()
