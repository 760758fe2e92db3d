"""Modules that the most frequent verbs import: every call of a script waits for each of them."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.support import DEADLINE, Daemon

# Allowed besides bgd's own modules, with all that they import themselves. Not rich, asyncio or subprocess.
NEEDED = {
    "msgspec": "reads and writes what goes over the socket",
    "socket": "the way to the daemon",
    "struct": "lengths of frames",
    "select": "waits for an answer, but not for ever",
    "gc": "is told to keep out of the way",
    "threading": "threads may share a client",
    "weakref": "finds generators that are still open at the exit",
}
NEEDED_WITHOUT_CLIENT = {
    "_socket": "the way to the daemon",
    "struct": "numbers in messages",
    "gc": "is told to keep out of the way",
    "__future__": "as everywhere",
}
NEEDED_FOR_TABLES = {*NEEDED_WITHOUT_CLIENT, "re", "select"}  # what knows terminals
NEEDED_TO_PARSE = {
    "click": "parses the words",
    "locale": "says in which language click is to speak",
}
PLAIN = {"plain", "plain_wire"}  # nothing to parse, and the usual answers
PARSING = PLAIN | {"cli", "columns", "common", "exit_codes", "options", "program", "verbs"}
SUBMITTING = PARSING | {"commands", "submitting"}
OWN = {
    "submit true": PLAIN,
    "run true": PLAIN,
    "list": PLAIN | {"columns"},
    "wait 1": PLAIN,
    "logs 1": PLAIN,
    "release HELD": PLAIN,
    "explain HELD": PLAIN | {"columns", "explaining", "tables", "terminal"},
    "queue": PLAIN | {"columns", "tables", "terminal"},
    "batch list": PLAIN | {"columns", "tables", "terminal"},
    "inbox --hook": PLAIN | {"agents", "agents.hook"},
    "--help": set(),  # it is in a file
    "run printf a\\rb": SUBMITTING | {"output", "terminal"},  # the client goes on
    "submit --priority 3 true": SUBMITTING,
    "list --all": PARSING | {"listing", "selecting", "tables", "terminal"},
}
NEEDED_BY = {arguments: {*NEEDED_WITHOUT_CLIENT} for arguments in OWN} | {
    "--help": {"gc", "__future__"},
    "explain HELD": NEEDED_FOR_TABLES | {"msgspec"},
    "queue": NEEDED_FOR_TABLES,
    "batch list": NEEDED_FOR_TABLES | {"datetime"},
    "inbox --hook": {*NEEDED_WITHOUT_CLIENT, "json"},
    "run printf a\\rb": {*NEEDED, *NEEDED_TO_PARSE},
    "submit --priority 3 true": {*NEEDED, *NEEDED_TO_PARSE},
    "list --all": {*NEEDED, *NEEDED_TO_PARSE},
}


@pytest.mark.parametrize("verb", OWN)
def test_a_frequent_verb_imports_only_what_it_needs(daemon, verb):
    daemon.finished_job("echo")
    arguments = verb.replace("HELD", daemon.bgctl("submit", "--hold", "true").stdout.strip())
    daemon.bgctl("batch", "echo", ":::", "a")
    imported = modules_after(
        daemon,
        "import os, sys; os._exit = lambda code: print(code, *sys.modules, file=sys.stderr)\n"
        f"sys.argv[1:] = {arguments.split()}; from bgctl.__main__ import main; main()",
    )
    needed = NEEDED_BY[verb]
    allowed = modules_after(
        daemon, f"import sys, {', '.join(needed)}; print(0, *sys.modules, file=sys.stderr)"
    )

    foreign = {name for name in imported if name.partition(".")[0] not in {"bgd", "bgctl"}}
    # without cached bytecode, Python's compiler needs unicodedata
    assert foreign - allowed - {"unicodedata"} == set()
    assert foreign >= needed
    assert {name.removeprefix("bgctl.") for name in imported if name.startswith("bgctl.")} == {
        "__main__",
        *OWN[verb],
    }


def modules_after(daemon: Daemon, code: str) -> set[str]:
    """Run code that prints 0 and the names of its modules to stderr; return them. A hook has input."""
    (daemon.folder / "input").write_text('{"hook_event_name": "UserPromptSubmit", "session_id": "x"}')
    with (daemon.folder / "input").open() as stdin:
        done = subprocess.run(
            [sys.executable, "-c", code],
            env=daemon.env | {"BGD_SOCKET": str(daemon.socket)},  # so that no configuration is read
            cwd=daemon.folder,
            stdin=stdin,
            capture_output=True,
            text=True,
            timeout=DEADLINE,
            check=True,
        )
    exit_code, *names = done.stderr.split()
    assert exit_code == "0"
    return set(names)
