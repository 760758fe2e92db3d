"""The blocking client, made from the asynchronous one: the same words without what has to do with awaiting.

`make client` writes it; a test holds what is committed against what this would write.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "bgd/client/asynchronous"
TARGET = ROOT / "bgd/client/blocking"
# The other modules there are written by hand
MADE = ["acting", "asking", "channel", "client", "door", "ending", "job", "rehearsal", "results", "steering"]

HEADER = "# Made from bgd/client/asynchronous/{name}.py by `make client`: change that.\n"

# Replaced in turn, so the longer stand before the shorter
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
    (r"Async(Acting|Asking|Client|Job|Steering)", r"\1"),
    (r"bgd\.client\.asynchronous", "bgd.client.blocking"),
]

# Where the two are not alike
PASSAGES = {
    "The tasks of one event loop may share an AsyncClient; a": "Threads may share a Client; a",
    """
    A job that was just submitted knows its `id`, and whether it `is_new` or was there with the same key. What
    else there is to know, `refresh` and `wait` find out; before that other attributes raise BgdError.
""": """
    A job that was just submitted knows its `id`, and whether it `is_new` or was there with the same key. When
    more is asked for it is looked at; `refresh` and `wait` look again.
""",
}


def blocking(name: str) -> str:
    """Return the blocking form of a module of the asynchronous client."""
    text = (SOURCE / f"{name}.py").read_text()
    for passage, other in PASSAGES.items():
        text = text.replace(passage, other)
    for pattern, replacement in PATTERNS:
        text = re.sub(pattern, replacement, text)
    return _tidy(HEADER.format(name=name) + text, name)


def _tidy(text: str, name: str) -> str:
    for arguments in (["check", "--select=I", "--fix"], ["format"]):
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
    """Write all of it."""
    for name in MADE:
        (TARGET / f"{name}.py").write_text(blocking(name))


if __name__ == "__main__":
    main()
