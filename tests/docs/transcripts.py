"""Transcripts: type the `console` blocks of a page into a real shell.

`python -m tests.docs.transcripts PAGE...` types them again and writes the new answers to the page.
"""

from __future__ import annotations

import getpass
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from bgd import Client, DaemonUnreachable
from tests.docs.pages import blocks, page
from tests.support import DEADLINE, ROOT, Home

PATIENCE = 3 * DEADLINE  # seconds for all commands of a page; one of them sleeps for ten
PROMPT = "$ "

_MARK = "--- next ---"
_WRITTEN_HOME = "/home/ada"
_WRITTEN_USER = "ada"
_WRITTEN_SLOTS = "2"

# Text that differs from run to run, with the name that replaces it
_VARIABLE = [
    (r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d(\.\d+)?(\+\d\d:\d\d|Z)?", "an instant"),
    (r"(\d+(\.\d+)?(ms|s|m|h|d)){1,2}\b", "a duration"),
    (r"\d+(\.\d+)?[kMG]?B\b|\d+ bytes", "a size"),
    (r"\b[0-9a-f]{64}\b", "a checksum"),
    (r"(?<=\bpid )\d+\b|\b\d{4,}\b", "a process id"),
    (r"\s+", " "),
]


def steps_of(text: str) -> list[tuple[str, str]]:
    """Return the commands of a page's console blocks, each with its answer."""
    steps = []
    for block in blocks(text, "console"):
        assert block.startswith(PROMPT), f"a console block begins with {PROMPT!r}: {block!r}"
        for step in f"\n{block}".split(f"\n{PROMPT}")[1:]:
            command, _, answer = step.partition("\n")
            steps.append((command, answer.strip("\n")))
    return steps


def answers_in(home: Home, commands: list[str]) -> list[str]:
    """Type commands into one shell at home, where this checkout is `bgd`; return the answers."""
    (home.folder / "bgd").symlink_to(ROOT)
    path = f"{Path(sys.executable).parent}:{home.env['PATH']}"
    script = "\n".join(f"echo; echo '{_MARK}'\n{command}" for command in commands)
    try:
        done = subprocess.run(
            ["bash", "-c", script],
            env=home.env | {"PATH": path, "BGD_DAEMON_SLOTS": _WRITTEN_SLOTS},
            cwd=home.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
    finally:
        _end_daemons_of(home)
    return [answer.strip("\n") for answer in done.stdout.split(f"{_MARK}\n")[1:]]


def as_written(answer: str, home: Home) -> str:
    """Return an answer as it would be on the machine of the pages."""
    at_home = answer.replace(str(home.folder), _WRITTEN_HOME)
    return re.sub(rf"\b{re.escape(getpass.getuser())}\b", _WRITTEN_USER, at_home)


def without_chance(answer: str) -> str:
    """Return an answer with names in place of text that differs each time."""
    for pattern, name in _VARIABLE:
        answer = re.sub(pattern, name, answer)
    return answer


def _end_daemons_of(home: Home) -> None:
    for socket in home.folder.glob(".local/state/*/bgd.sock"):
        try:
            with Client(str(socket), timeout=DEADLINE) as client:
                client.shutdown("cancel", timeout=DEADLINE)
        except DaemonUnreachable:
            continue  # the page ended it


def _write_anew(name: str) -> None:
    text = page(name)
    with tempfile.TemporaryDirectory(prefix="bgd-") as folder:
        home = Home(Path(folder))
        steps = steps_of(text)
        answers = answers_in(home, [command for command, _ in steps])
        written = ""
        for (command, old), answer in zip(steps, answers, strict=True):
            before, _, text = text.partition(_step(command, old))
            written += before + _step(command, as_written(answer, home))
    (ROOT / name).write_text(written + text)


def _step(command: str, answer: str) -> str:
    return f"{PROMPT}{command}\n" + (f"{answer}\n" if answer else "")


if __name__ == "__main__":
    for each in sys.argv[1:]:
        _write_anew(each)
