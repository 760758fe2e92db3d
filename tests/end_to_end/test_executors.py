"""Executors: which one runs a job, and what a prefix does, under a real daemon."""

from __future__ import annotations

import pytest

from bgd import NotAllowed, Outcome, Refused, State
from tests.support import DEADLINE

MODULE = """
import os

def niceness(): return os.getpriority(os.PRIO_PROCESS, 0)
"""
CONFIGURATION = """
[security]
allowed_classes = ["work.*"]
allowed_commands = ["/bin/sh", "/usr/bin/env", "/usr/bin/printf"]
[python]
path = ["{folder}"]
[executors.gentle]
kind = "prefix"
argv = ["nice", "-n", "7"]
[executors.far]
kind = "prefix"
argv = ["nice", "sh", "{folder}/ssh", "build1", "--"]
[executors.shell]
kind = "prefix"
argv = ["sh", "-c"]
shell = true
[executors.missing]
kind = "prefix"
argv = ["/nowhere/prefix"]
[queues.render]
executor = "gentle"
"""

# what ssh does with its arguments, with a shell on this machine
SSH = """
[ "$1 $2" = "build1 --" ] && shift 2
exec sh -c "$*"
"""
WORDS = ["x; id", "$HOME `id` $(id)", "it's", '"', "", "*", "two\nlines", "\\", "~", "a  b", "\N{SNOWMAN}"]


pytestmark = pytest.mark.daemon(CONFIGURATION, {"work.py": MODULE, "ssh": SSH})


@pytest.fixture(scope="module")
def client(daemon):
    with daemon.client() as connected:
        yield connected


def niceness_of(client, **options) -> str:
    return str(client.submit(["/bin/sh", "-c", "nice"], **options).wait(DEADLINE).output()).strip()


def test_a_job_runs_on_the_executor_that_it_names_else_on_that_of_its_queue(client):
    own = niceness_of(client)

    assert niceness_of(client, executor="gentle") == str(int(own) + 7)
    assert niceness_of(client, queue="render") == str(int(own) + 7)
    assert niceness_of(client, queue="render", executor="local") == own


def test_attempts_say_what_ran_them(daemon, client):
    job = client.submit(["/bin/sh", "-c", "exit 3"], executor="gentle").wait(DEADLINE)
    plain = client.submit(["/bin/sh", "-c", "true"]).wait(DEADLINE)

    [attempt], [usual] = job.attempts(), plain.attempts()
    assert (attempt.executor, attempt.executor_kind, attempt.exit_code) == ("gentle", "prefix", 3)
    assert (usual.executor, usual.executor_kind) == (None, None)
    shown = daemon.bgctl("show", str(job.id)).stdout
    assert "  executor   gentle\n" in shown
    assert "ran on     gentle, a prefix: bgd promises nothing about what it runs on other machines" in shown
    assert "ran on" not in daemon.bgctl("show", str(plain.id)).stdout


def test_a_class_job_behind_a_prefix_returns_its_result(client):
    own = client.call("work:niceness").wait(DEADLINE)
    behind = client.call("work:niceness", executor="gentle").wait(DEADLINE)

    assert behind.result() == own.result() + 7


def test_a_stop_reaches_what_the_prefix_became(client):
    job = client.submit(["/bin/sh", "-c", "sleep 1000"], executor="gentle", timeout=0.2).wait(DEADLINE)

    assert (job.state, job.outcome) == (State.FAILED, Outcome.TIMEOUT)


def test_an_unknown_executor_is_refused_in_one_line(daemon, client):
    done = daemon.bgctl("submit", "--executor", "gentel", "/bin/sh")

    assert done.returncode == 1
    assert "there is no [executors.gentel] in " in done.stderr
    assert done.stderr.endswith("did you mean gentle?\n")
    waiting = client.submit(["/bin/sh"], hold=True)
    assert "no [executors.none]" in daemon.bgctl("edit", str(waiting.id), "--executor", "none").stderr
    assert "--executor: 'A B' must be a name" in daemon.bgctl("submit", "--executor", "A B", "/bin/sh").stderr
    with pytest.raises(Refused, match="a name of at most 32 small letters"):
        client.submit(["/bin/sh"], executor="A B")


def test_a_prefix_that_is_not_there_is_named(client):
    job = client.submit(["/bin/sh"], executor="missing").wait(DEADLINE)

    assert job.outcome is Outcome.NOT_STARTED
    assert job.problem == "program not found: /nowhere/prefix"


def test_the_allow_list_is_about_the_program_of_the_job(client):
    with pytest.raises(NotAllowed, match="allowed_commands"):
        client.submit(["/usr/bin/id"], executor="gentle")


@pytest.mark.parametrize("executor", ["local", "gentle", "far", "shell"])
def test_a_program_behind_a_shell_gets_exactly_the_words_of_the_job(client, executor):
    job = client.submit(["/usr/bin/printf", "<%s>\n", *WORDS], executor=executor).wait(DEADLINE)

    assert job.output() == "".join(f"<{word}>\n" for word in WORDS)


def test_a_program_of_another_machine_is_not_looked_for(daemon):
    assert daemon.bgctl("submit", "--hold", "/bin/sh", "-c", "true").returncode == 0
    refused = daemon.bgctl("submit", "no-such-program")
    queued = daemon.bgctl("submit", "--executor", "gentle", "no-such-program")

    assert "no program named 'no-such-program'" in refused.stderr
    assert "allowed_commands" in queued.stderr  # the daemon's word, not that of bgctl


def test_a_job_whose_executor_is_gone_is_refused_when_it_starts(daemon, client):
    job = client.submit(["/bin/sh"], executor="gentle", hold=True)
    daemon.configure(CONFIGURATION.replace("{folder}", str(daemon.folder)).replace("gentle", "other"))
    client.reload()

    client.release([job])

    ended = job.wait(DEADLINE)
    assert ended.outcome is Outcome.REFUSED
    assert ended.problem.startswith("there is no [executors.gentle] in ")
