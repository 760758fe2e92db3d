"""Shell completion: the answers to completion scripts, and real shells."""

from __future__ import annotations

import json
import shutil
import sys

import pexpect  # type: ignore[import-untyped]  # it has no types
import pytest

from tests.support import DEADLINE, Daemon, Home

PROMPT = "ready> "


def offered(home: Home, *words: str, shell: str = "fish") -> list[str]:
    """Return the completions of the last word, each with its help."""
    *before, last = words
    env = {"_BGCTL_COMPLETE": f"{shell}_complete", "COMP_WORDS": " ".join(["bgctl", *before, last])}
    position = last if shell == "fish" else str(len(words))
    done = home.bgctl(env=env | {"COMP_CWORD": position})
    assert (done.returncode, done.stderr) == (0, "")
    return [line.removeprefix("plain,") for line in done.stdout.splitlines() if line]


def test_verbs_and_options_are_offered(home):
    assert [line.partition("\t")[0] for line in offered(home, "re")] == [
        "retry",
        "release",
        "remove",
        "resume",
        "reload",
    ]
    assert "set\tSet the number of slots of a queue." in offered(home, "queue", "")
    assert [line.partition("\t")[0] for line in offered(home, "submit", "--retry-")] == [
        "--retry-delay",
        "--retry-until",
        "--retry-on",
    ]
    assert offered(home, "signal", "1", "-s", "u") == ["USR1", "USR2", "URG"]
    assert offered(home, "list", "--state", "f") == ["failed"]
    assert offered(home, "submit", "ma") == ["file,ma"]


def test_only_jobs_to_which_the_verb_applies_are_offered(daemon):
    held = daemon.submit("--hold", "--name", "check: this", "true")
    waiting = daemon.submit("--delay", "1h", "echo", "a\nb")

    assert offered(daemon, "release", "") == [f"{held}\theld  check: this"]
    assert offered(daemon, "hold", "") == [f"{waiting}\tscheduled  echo 'a\N{SYMBOL FOR LINE FEED}b'"]
    assert offered(daemon, "cancel", f"{held},{waiting}") == [
        f"{held},{waiting}\tscheduled  echo 'a\N{SYMBOL FOR LINE FEED}b'"
    ]
    assert offered(daemon, "release", "", shell="zsh") == ["plain", held, "held  check: this"]
    assert offered(daemon, "release", "", shell="bash") == [held]


def test_queues_are_offered(daemon):
    daemon.submit("--hold", "-q", "mail", "true")

    assert offered(daemon, "submit", "-q", "ma") == ["mail\t1 job"]
    assert offered(daemon, "pause", "ma") == ["mail\t1 job"]


@pytest.mark.parametrize("words", [["cancel", ""], ["submit", "-q", ""], ["logs", "x"]])
def test_without_a_daemon_nothing_is_offered_printed_or_started(home, words):
    assert offered(home, *words) == []
    assert not home.state_dir.exists()


SHELLS = {
    "bash": (["--norc", "--noprofile"], "PS1='{prompt}'; eval \"$(bgctl completion bash)\""),
    "zsh": (["-f"], "autoload -U compinit; compinit -u; PS1='{prompt}'; eval \"$(bgctl completion zsh)\""),
    "fish": (
        ["--no-config"],
        "function fish_prompt; echo -n '{prompt}'; end; bgctl completion fish | source",
    ),
}


@pytest.fixture(params=SHELLS)
def shell(request, daemon: Daemon):
    """Start a real shell that has read the completion script; yield it at its prompt."""
    program = shutil.which(request.param)
    if program is None:
        pytest.skip(f"*** {request.param} IS NOT INSTALLED: its completion is NOT TESTED ***")
    (daemon.folder / "bin").mkdir(exist_ok=True)
    bgctl = daemon.folder / "bin/bgctl"
    bgctl.write_text(f'#!/bin/sh\nexec {sys.executable} -m bgctl "$@"\n')
    bgctl.chmod(0o755)
    arguments, script = SHELLS[request.param]
    child = pexpect.spawn(
        program,
        arguments,
        env=daemon.env | {"PATH": f"{bgctl.parent}:{daemon.env['PATH']}", "TERM": "dumb"},
        cwd=str(daemon.folder),
        timeout=DEADLINE,
        encoding="utf-8",
        dimensions=(24, 120),
    )
    child.sendline(script.format(prompt=PROMPT))
    child.expect_exact(f"\n{PROMPT}" if request.param == "bash" else PROMPT)
    yield child
    child.close(force=True)


def test_a_shell_completes_a_verb_and_an_id(daemon, shell):
    job_id = daemon.submit("--hold", "--delay", "1h", "true")
    for other in daemon.bgctl("list", "--ids", "--state", "held").stdout.split():
        if other != job_id:
            daemon.bgctl("cancel", other)

    shell.send("bgctl relea\t")
    shell.expect_exact("release ")
    shell.send("\t")
    shell.expect_exact(job_id)
    shell.send("\r")

    shell.expect_exact(f"{job_id} scheduled")


def test_json_of_a_completion_script_is_a_document(home):
    script = home.bgctl("completion", "bash").stdout

    assert json.loads(home.bgctl("completion", "bash", "--json").stdout) == {
        "shell": "bash",
        "script": script.removesuffix("\n"),
    }
