"""What hints tell people to type is parsed, and what answers common habits works."""

from __future__ import annotations

import re
import shlex
from itertools import chain

import click
import pytest

from bgctl import common
from bgctl.cli import cli
from bgctl.hints import OPTIONS, OPTIONS_OF_VERBS, PROGRAM_OPTIONS, VALUES, VERBS, VERBS_OF_GROUPS
from bgctl.verbs import VerbGroup
from tests.support import serving, wait_until

WORDS = {
    "COMMAND": "true",
    "D": "5m",
    "FILE": "names",
    "GLOB": "'n*'",
    "ID": "7",
    "N": "2",
    "NAME": "habit",
    "PROGRAM": "true",
    "REGEX": "x",
    "TARGET": "ops",
    "TEXT": "text",
    "TIME": "'tomorrow 9:00'",
    "WHEN": "2h",
}


def commands_in(hint, **words):
    """Return the commands of a hint as a person would type them."""
    known = WORDS | words
    found = re.findall(r"`bgctl ([^`]+)`", hint)
    return [
        shlex.split(re.sub(r"\b[A-Z]+\b", lambda match: known.get(match[0], match[0]), each))
        for each in found
    ]


def hints():
    every = [VERBS.values(), VALUES.values(), OPTIONS.values(), PROGRAM_OPTIONS.values()]
    every += [table.values() for table in (*VERBS_OF_GROUPS.values(), *OPTIONS_OF_VERBS.values())]
    for hint in chain.from_iterable(every):
        yield from (hint,) if isinstance(hint, str) else hint


ONLY_NAMED = (["--version"], ["submit"], ["run"], ["schedule", "add"], ["schedule", "pause"])
TYPED = sorted({tuple(words) for hint in hints() for words in commands_in(hint) if words not in ONLY_NAMED})
HABITS = (
    *(
        "alert",
        "atq",
        "atrm 7",
        "bg 7",
        "cat 7",
        "delete 7",
        "describe 7",
        "exec 7 ls",
        "fg 7",
        "flush",
        "get 7",
    ),
    *(
        "htop",
        "inspect 7",
        "jobs",
        "kill 7",
        "monit",
        "nice 5",
        "parallel 4",
        "ps",
        "renice 5",
        "restart 7",
        "rm 7",
    ),
    *(
        "sbatch job.sh",
        "schedule '*/5 * * * *' date",
        "start 7",
        "stop 7",
        "submit --array 1-3 ls",
        "submit job.py",
    ),
    *("tail 7", "top 7", "watch -n 1", "why 7"),
    *("cp 7 x", "diff 7 7", "env 7", "login"),
)
GOES_ON = {"attach", "shutdown", "top", "watch"}


@pytest.fixture(scope="module")
def habits():
    with serving('[daemon]\nslots = 4\n[notify.ops]\nprogram = ["/bin/true"]\n') as daemon:
        (daemon.folder / "job.py").write_text("print('done')\n")
        yield daemon


@pytest.mark.parametrize("words", TYPED, ids=" ".join)
def test_every_command_in_a_hint_is_parsed(words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(common, "_given", {})  # --json must not stay for other tests
    name, verb, rest = cli.resolve_command(click.Context(cli, info_name="bgctl"), list(words))
    if isinstance(verb, VerbGroup) and rest:
        name, verb, rest = verb.resolve_command(click.Context(verb, info_name=name), rest)

    assert verb is not None
    verb.make_context(name, rest)  # raises a UsageError for what is not understood


@pytest.mark.parametrize("habit", HABITS)
def test_what_people_type_by_habit_is_answered_by_commands_that_work(habits, habit):
    """They exit with 0, or with 1 if the job is in another state."""
    job_id = habits.submit("sleep", "600")
    wait_until(lambda: habits.shown(job_id)["state"] == "running")
    answer = habits.bgctl(*shlex.split(habit.replace("7", job_id)))
    assert (answer.returncode in (1, 2), answer.stderr.count("\n")) == (True, 1)

    said = re.sub(r"(bgctl schedule add .*)\n", r"`\1`", answer.stderr)
    typed = [words for words in commands_in(said, ID=job_id) if words[0] not in GOES_ON and "-f" not in words]
    for words in typed:
        done = habits.bgctl(*words, read="a\n")
        assert done.returncode in (0, 1), (words, done.stderr)
        assert "bug:" not in done.stderr
    assert typed or habit in ("fg 7", "htop", "monit", "tail 7", "watch -n 1")
    habits.bgctl("cancel", job_id)
