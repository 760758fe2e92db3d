"""The lists of allowed classes and commands hold for every way to submit, at every time of a job's life."""

from __future__ import annotations

import asyncio
import signal
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

import bgd
from bgd import AsyncClient, Client, JobSpec, NotAllowed, Outcome, Refused, State, run_background_job
from bgd.executor import Executor
from tests.support import DEADLINE, Daemon, wait_until

MODULE = """
import pathlib

pathlib.Path("{folder}/imported").touch()

class Listed:
    def run(self): return "listed"

class Other:
    def run(self): return "other"

def fail(): raise ValueError
"""
WIDE = '["work.Listed", "work.Other", "work.fail"]'
NARROW = '["work.Listed"]'
SCRIPTED = '[security]\nallowed_commands = ["{folder}/script"]\nallowed_env = [{names}]\n'
CONFIGURATION = '[security]\nallowed_classes = {allowed}\n[python]\npath = ["{folder}"]\n'

FORBIDDEN = "work:Other.run"


def _other(_: object = None) -> str:
    return "here"


_other.__module__, _other.__qualname__ = (
    "work",
    "Other.run",
)  # a class that is not listed
other = bgd.job(_other)


def narrow(daemon: Daemon) -> None:
    daemon.configure(CONFIGURATION.format(allowed=NARROW, folder=daemon.folder))


@pytest.fixture
def wide():
    """A daemon that allows everything in the module."""
    with tempfile.TemporaryDirectory(prefix="bgd-") as folder:
        running = Daemon(Path(folder))
        (running.folder / "work.py").write_text(MODULE.format(folder=folder))
        running.configure(CONFIGURATION.format(allowed=WIDE, folder=folder))
        running.start()
        yield running
        running.stop()


@pytest.fixture(scope="module")
def narrowed():
    """A daemon that allows only one class."""
    with tempfile.TemporaryDirectory(prefix="bgd-") as folder:
        running = Daemon(Path(folder))
        (running.folder / "work.py").write_text(MODULE.format(folder=folder))
        narrow(running)
        running.start()
        yield running
        running.stop()


def is_allowed(client: Client) -> bool:
    try:
        client.call(FORBIDDEN, hold=True).cancel()
    except NotAllowed:
        return False
    return True


async def called_asynchronously(daemon: Daemon) -> None:
    async with AsyncClient(str(daemon.socket)) as client:
        await client.call(FORBIDDEN)


def with_client(ask: Callable[[Client], object]) -> Callable[[Daemon], None]:
    def way(daemon: Daemon) -> None:
        with daemon.client() as client:
            ask(client)

    return way


WAYS: dict[str, Callable[[Daemon], object]] = {
    "call": with_client(lambda client: client.call(FORBIDDEN)),
    "call, awaited": lambda daemon: asyncio.run(called_asynchronously(daemon)),
    "run_background_job": lambda _: run_background_job("work.Other", "run"),
    "many, a mapping": with_client(lambda client: client.submit_many([["true"], {"target": FORBIDDEN}])),
    "many, a spec": with_client(lambda client: client.submit_many([["true"], other.spec()])),
    "map": with_client(lambda client: list(client.map(FORBIDDEN, [1, 2]))),
    "map, a function": with_client(lambda client: list(client.map(other, [1, 2]))),
    "decorator": lambda _: other.submit(),
    "decorator, many": lambda _: other.submit_many([()]),
    "decorator, awaited": lambda _: asyncio.run(other.submit_async()),
    "executor": with_client(lambda client: Executor(client).submit(other)),
    "executor, many": with_client(lambda client: Executor(client).map(other, [1, 2])),
}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_no_way_to_submit_bypasses_the_list(narrowed, monkeypatch, way):
    monkeypatch.setenv("BGD_SOCKET", str(narrowed.socket))

    with pytest.raises(NotAllowed, match=rf"{FORBIDDEN} is not in \[security\] allowed_classes"):
        way(narrowed)

    with narrowed.client() as client:
        assert client.jobs() == []
    assert not (narrowed.folder / "imported").exists()


def test_no_verb_of_bgctl_bypasses_the_list(narrowed):
    done = narrowed.bgctl("call", FORBIDDEN)

    assert done.returncode == 77
    assert f"{FORBIDDEN} is not in [security] allowed_classes" in done.stderr
    assert not (narrowed.folder / "imported").exists()


@pytest.mark.parametrize(
    "target",
    [
        "work:other.run",
        "work:Others.run",
        "work:Other.run ",
        "work.Listed:run",
        "work.:Listed.run",
        ".work:Listed.run",
        "WORK:Listed.run",
        "work.below:Listed.run",
        "w\N{CYRILLIC SMALL LETTER O}rk:Listed.run",
        "work:Listed.__init__",
        "work:Listed.__class__",
        "work:Listed.run.__globals__",
        "work:pathlib.os",
        "work:pathlib.os.system",
        "os:system",
        "builtins:eval",
    ],
)
def test_no_spelling_of_another_target_is_allowed(narrowed, target):
    with narrowed.client() as client, pytest.raises(Refused):
        client.call(target, check=False)


@pytest.mark.parametrize("name", ["PATH", "HOME", "PYTHONPATH", "LD_PRELOAD", "OPENSSL_CONF", "GCONV_PATH"])
def test_no_variable_changes_the_code_of_a_listed_class(narrowed, name):
    with narrowed.client() as client:
        with pytest.raises(NotAllowed, match=f"takes no {name} from outside"):
            client.call("work:Listed.run", env={name: "/elsewhere"})
        held = client.call("work:Listed.run", hold=True)
        with pytest.raises(NotAllowed, match=f"takes no {name} from outside"):
            held.edit(env={name: "/elsewhere"})
        held.cancel()
        held.remove()


@pytest.fixture
def scripted():
    """A daemon that allows only one bash script and one variable."""
    with tempfile.TemporaryDirectory(prefix="bgd-") as folder:
        running = Daemon(Path(folder))
        script = running.folder / "script"
        script.write_text('#!/bin/bash\ndate +known; echo "ran $LEVEL in $HOME"\nls / >/dev/null\n')
        script.chmod(0o700)
        running.configure(SCRIPTED.format(folder=folder, names='"LEVEL"'))
        running.start()
        yield running
        running.stop()


def test_no_variable_changes_what_an_allowed_script_runs(scripted, monkeypatch):
    monkeypatch.setenv("BASH_FUNC_date%%", "() { echo foreign code; }")
    monkeypatch.setenv("HOME", "/elsewhere")
    with scripted.client() as client:
        job = client.submit([f"{scripted.folder}/script"], env={"LEVEL": "2"}).wait(DEADLINE)

    assert scripted.bgctl("logs", str(job.id)).stdout == f"known\nran 2 in {scripted.env['HOME']}\n"
    assert job.state is State.SUCCEEDED


CHOICES: dict[str, Callable[[Client, str], object]] = {
    "env": lambda client, script: client.submit([script], env={"CHOSEN": "1"}),
    "env alone": lambda client, script: client.submit([script], env_pass="none", env={"CHOSEN": "1"}),
    "env_pass": lambda client, script: client.submit([script], env_pass=["CHOSEN"]),
    "many, a mapping": lambda client, script: client.submit_many(
        [{"argv": [script], "env": {"CHOSEN": "1"}}]
    ),
    "many, a spec": lambda client, script: client.submit_many([JobSpec(argv=(script,), env={"CHOSEN": "1"})]),
    "edit": lambda client, script: client.submit([script], hold=True).edit(env={"CHOSEN": "1"}),
}


@pytest.mark.parametrize("choose", CHOICES.values(), ids=CHOICES)
def test_variable_that_was_set_for_a_command_and_is_not_allowed_is_refused(scripted, monkeypatch, choose):
    monkeypatch.setenv("CHOSEN", "1")
    told = rf"takes no CHOSEN from outside: name it in \[security\] allowed_env of {scripted.folder}/"
    with scripted.client() as client, pytest.raises(NotAllowed, match=told):
        choose(client, f"{scripted.folder}/script")


def test_bgctl_refuses_a_variable_that_was_set_and_drops_one_of_the_whole_environment(scripted):
    script = f"{scripted.folder}/script"
    refused = scripted.bgctl("submit", "--env", "CHOSEN=1", script)
    taken = scripted.bgctl("submit", script, env={"CHOSEN": "1"})

    assert refused.returncode == 77
    assert "a command takes no CHOSEN from outside: name it in [security] allowed_env of" in refused.stderr
    assert refused.stderr.count("\n") == 1
    assert taken.returncode == 0


def test_queued_command_runs_without_a_variable_that_was_taken_off_the_list(scripted):
    script = f"{scripted.folder}/script"
    with scripted.client() as client:
        held = client.submit([script], env={"LEVEL": "2"}, hold=True)
        scripted.configure(SCRIPTED.format(folder=scripted.folder, names=""))
        assert scripted.bgctl("reload").returncode == 0
        with pytest.raises(NotAllowed, match="takes no LEVEL from outside"):
            client.submit([script], env={"LEVEL": "2"})
        held.edit(priority=1)
        held.release()
        assert held.wait(DEADLINE).state is State.SUCCEEDED

    assert scripted.bgctl("logs", str(held.id)).stdout == f"known\nran  in {scripted.env['HOME']}\n"


@pytest.mark.parametrize("isolation", ["fork", "spawn", "reuse"])
def test_nothing_but_the_code_of_a_listed_class_runs_whatever_the_folder(isolation):
    with tempfile.TemporaryDirectory(prefix="bgd-") as folder:
        daemon = Daemon(Path(folder))
        (daemon.folder / "elsewhere").mkdir()
        for place, word in (("", "own"), ("elsewhere", "foreign")):
            (daemon.folder / place / "work.py").write_text(
                f"class Listed:\n join = '-'.join\n def run(self): return '{word}'\n"
            )
        daemon.configure(f"[security]\nallowed_classes = {NARROW}\n")
        daemon.env["PYTHONPATH"] = f":{daemon.env['PYTHONPATH']}"  # from an empty entry
        daemon.start()
        try:
            with daemon.client() as client:
                job = client.call("work:Listed.run", cwd=f"{folder}/elsewhere", isolation=isolation)
                assert job.result(DEADLINE) == "own"
                kept = client.call("work:Listed.join", [["a"]], isolation=isolation).wait(DEADLINE)
                assert kept.outcome is Outcome.REFUSED
        finally:
            daemon.stop()


def test_job_is_not_retried_once_its_class_is_off_the_list(wide):
    with wide.client() as client:
        ended = client.call(FORBIDDEN).wait(DEADLINE)
        repeated = client.call("work:fail", retries=1, retry_delay=3600.0)
        wait_until(lambda: repeated.refresh().state is State.SCHEDULED)
        held = client.call(FORBIDDEN, hold=True)
        narrow(wide)
        wide.process.send_signal(signal.SIGHUP)
        wait_until(lambda: not is_allowed(client))

        for act in (ended.retry, lambda: held.edit(priority=1)):
            with pytest.raises(NotAllowed, match=f"{FORBIDDEN} is not in"):
                act()
        held.release()
        assert held.wait(DEADLINE).outcome is Outcome.REFUSED
        assert ended.refresh().state is State.SUCCEEDED
        assert wide.bgctl("retry", str(ended.id)).returncode == 77
        with pytest.raises(NotAllowed, match="work:fail is not in"):
            repeated.edit(delay=0.0)
        repeated.cancel()


def test_job_that_waited_for_a_restart_is_not_run_once_its_class_is_off_the_list(wide):
    with wide.client() as client:
        client.pause()
        waiting = client.call(FORBIDDEN)
        wide.process.send_signal(signal.SIGKILL)
        wide.process.wait()
        narrow(wide)
        wide.start()
        client.resume()

        assert waiting.wait(DEADLINE).outcome is Outcome.REFUSED
        assert waiting.attempts()[0].error.message.startswith(f"{FORBIDDEN} is not in")
    assert not (wide.folder / "imported").exists()
