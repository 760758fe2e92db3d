"""Generates the blocking client from the asynchronous one, by removing what has to do with awaiting.

`make client` writes it; a test compares what is committed with what this would write.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "bgd/client/async_"
TARGET = ROOT / "bgd/client/blocking"
# the others are written by hand
GENERATED = ["batches", "client", "daemon", "job", "schedules"]

# Calls of what both clients share, which is written with async
SHARED = re.compile(r"self\._channel\.\w+|channel\.collect|sender\.send|Mapper\(.*\)\.results", re.DOTALL)
IMPORT = "from bgd.client.blocking.concurrency import closed_at_exit, iterate, run\n"

HEADER = "# Generated from bgd/client/async_/{name}.py by `make client`: edit that file.\n"

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


def blocking(name: str) -> str:
    """Return the source of a module of the blocking client."""
    text = _without_loop((SOURCE / f"{name}.py").read_text())
    for passage, other in PASSAGES.items():
        text = text.replace(passage, other)
    for pattern, replacement in PATTERNS:
        text = re.sub(pattern, replacement, text)
    return _tidy(HEADER.format(name=name) + text, name)


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
            assert node.end_lineno is not None
            assert node.end_col_offset is not None
            inserted.append((begins[node.lineno - 1] + node.col_offset, way))
            inserted.append((begins[node.end_lineno - 1] + node.end_col_offset, ")" * way.count("(")))
    code = text.encode()
    for place, words in sorted(inserted, reverse=True):
        code = code[:place] + words.encode() + code[place:]
    future = b"from __future__ import annotations\n\n"
    return code.replace(future, future + IMPORT.encode()).decode()


def _tidy(text: str, name: str) -> str:
    for arguments in (["check", "--select=I,F401", "--fix"], ["format"]):
        command = [
            sys.executable,
            "-m",
            "ruff",
            *arguments,
            "--quiet",
            f"--stdin-filename={TARGET / name}.py",
        ]
        text = subprocess.run([*command, "-"], input=text, capture_output=True, text=True, check=True).stdout
    return text


def main() -> None:
    """Write all generated modules."""
    for name in GENERATED:
        (TARGET / f"{name}.py").write_text(blocking(name))


if __name__ == "__main__":
    main()
