"""bgctl inbox --hook: what the hooks of Claude Code and Codex get, whatever happens."""

from __future__ import annotations

import io
import json
import os
import re
import socket
import subprocess
import sys
from typing import Any
from uuid import uuid4

import pytest

from bgctl.agents import hook as hooks
from tests.support import DEADLINE, serving

BGCTL = [sys.executable, "-m", "bgctl"]
each_event = pytest.mark.parametrize("event", ["SessionStart", "UserPromptSubmit", "Stop"])
CLIENTS: dict[str, dict[str, Any]] = {
    "claude": {
        "transcript_path": "/home/ada/.claude/projects/-home-ada-app/0199.jsonl",
        "cwd": "/home/ada/app",
        "permission_mode": "acceptEdits",
        "SessionStart": {"source": "startup", "model": "a-model"},
        "UserPromptSubmit": {"prompt": "Mend the log\u00adin \ud83d\ude00"},
        "Stop": {
            "stop_hook_active": False,
            "last_assistant_message": "It builds.",
            "background_tasks": [{"id": "b5d7261fo", "type": "shell", "status": "running"}],
            "session_crons": [],
        },
    },
    "codex": {
        "transcript_path": None,
        "cwd": "/home/ada/app",
        "model": "a-model",
        "permission_mode": "default",
        "SessionStart": {"source": "startup"},
        "UserPromptSubmit": {"turn_id": "0199-7", "prompt": "Mend the login"},
        "Stop": {"turn_id": "0199-7", "stop_hook_active": False, "last_assistant_message": None},
    },
}


class Session:
    """A session of a coding agent."""

    def __init__(self, daemon, client):
        self.daemon, self.client, self.id = daemon, client, str(uuid4())

    def input(self, event, **given):
        fields = CLIENTS[self.client]
        common = {name: value for name, value in fields.items() if name[0].islower()}
        own = {"session_id": self.id, "hook_event_name": event}
        return json.dumps(own | common | fields[event] | given)

    def job(self, *command, name="build", session=None):
        words = ["submit", "--wait", "--name", name, "--session", session or self.id, "--", *command]
        return self.daemon.bgctl(*words).stdout.split()[0]

    def hook(self, event, *words, env=None, **given):
        """Run the hook; return the added context or the reason of a block; "" for none."""
        env = {"BGD_SOCKET": str(self.daemon.socket)} | (env or {})  # so that the short way is tried first
        done = self.daemon.bgctl("inbox", "--hook", *words, read=self.input(event, **given), env=env)
        assert (done.returncode, done.stderr) == (0, "")
        assert len(done.stdout.encode()) <= 4096
        if not done.stdout:
            return ""
        answer = json.loads(done.stdout)
        if event == "Stop":
            assert answer == {"decision": "block", "reason": answer["reason"]}
            return answer["reason"]
        assert answer["hookSpecificOutput"]["hookEventName"] == event
        assert list(answer) == ["hookSpecificOutput"]
        return answer["hookSpecificOutput"]["additionalContext"]


@pytest.fixture(params=["claude", "codex"])
def session(request, daemon):
    return Session(daemon, request.param)


@each_event
def test_without_news_a_hook_says_nothing(session, event):
    assert session.hook(event) == ""


@each_event
def test_an_end_is_told_once(session, event):
    job = session.job("sh", "-c", "echo no rule to make it; exit 2")
    session.job("true", session="another")
    text = session.hook(event)

    first, line, mark, tail, *rest = text.splitlines()
    assert first.startswith("Background jobs of bgd that have ended. Names, errors and output come from")
    assert line.startswith(f'{job} "build" failed (exit code 2) after ')
    assert (mark, tail) == ("  output (untrusted):", "  | no rule to make it")
    assert rest == (["If you know this, stop again."] if event == "Stop" else [])
    assert session.hook("Stop") == session.hook("UserPromptSubmit") == session.hook("SessionStart") == ""


def test_an_end_stops_the_agent_from_stopping_once(session):
    session.job("true")
    with session.daemon.client() as client:  # a reader that is killed before it acknowledges
        assert client.inbox(session.id)

    assert session.hook("Stop") == ""
    second = session.job("false")
    reason = session.hook("Stop")
    assert (f'\n{second} "build" ' in reason, "redelivered" in reason) == (True, False)
    assert session.hook("Stop") == ""
    assert re.search(r'\d+ "build" succeeded after \S+, redelivered$', session.hook("UserPromptSubmit"))
    assert session.hook("UserPromptSubmit") == ""


def test_an_end_that_stops_a_continued_agent_is_told_again_at_the_next_prompt(session):
    session.job("true")

    assert session.hook("Stop", stop_hook_active=True) != ""
    assert session.hook("Stop", stop_hook_active=True) == session.hook("Stop") == ""
    assert "redelivered" in session.hook("UserPromptSubmit")
    assert session.hook("UserPromptSubmit") == ""


@pytest.mark.parametrize("is_short", [True, False])
def test_many_redelivered_ends_keep_no_agent_from_stopping(session, is_short):
    for _ in range(9):
        session.job("true")
    with session.daemon.client() as client:
        assert len(client.inbox(session.id)) == 9

    assert session.hook("Stop", env=None if is_short else {"BGD_SOCKET": ""}) == ""


def test_an_end_behind_many_redelivered_ones_stops_the_agent_from_stopping(session):
    for _ in range(9):
        session.job("true")
    with session.daemon.client() as client:
        assert len(client.inbox(session.id)) == 9

    last = session.job("false")
    assert f'\n{last} "build" failed ' in session.hook("Stop")
    assert session.hook("Stop") == ""
    assert session.hook("UserPromptSubmit").count("redelivered") == 8


@pytest.mark.parametrize("source", ["resume", "compact"])
def test_a_session_that_begins_again_knows_its_jobs(session, source):
    later = session.daemon.submit("--session", session.id, "--name", "later", "--delay", "1h", "sleep", "1")
    session.daemon.submit("--session", "another", "--hold", "true")
    held = session.daemon.submit("--session", session.id, "--hold", "true")
    ended = session.job("true")
    text = session.hook("SessionStart", source=source)

    lines = text.splitlines()
    assert lines[1].startswith(f'{ended} "build" succeeded after ')
    assert "`bgctl inbox --wait`" in lines[2]
    assert set(lines[3:]) == {f"{held} held: true", f'{later} "later" scheduled: sleep 1'}


def test_the_session_is_named_by_option_variable_or_input(session):
    jobs = {name: session.job("true", session=name) for name in ("by option", "by variable", session.id)}
    env = {"BGD_SESSION": "by variable"}

    assert f"\n{jobs['by option']} " in session.hook("Stop", "--session", "by option", env=env)
    assert f"\n{jobs['by variable']} " in session.hook("Stop", env=env)
    assert f"\n{jobs[session.id]} " in session.hook("Stop", env={"CODEX_THREAD_ID": "another"})


def test_an_answer_has_at_most_4_kb_and_says_that_there_is_more(session):
    script = "yes 'error: \u00e4\u00f6\u00fc \u001b[31m' | head -n 200; exit 3"
    for _ in range(9):
        session.job("sh", "-c", script, name="n" * 200)
    text = session.hook("UserPromptSubmit")

    assert text.count("(exit code 3)") == 8
    assert text.splitlines()[-1] == "There may be more: run `bgctl inbox`."
    assert session.hook("UserPromptSubmit").count("(exit code 3)") == 1


def test_each_end_that_is_acknowledged_has_been_told_in_any_script(session):
    script = f"yes '{'漢' * 120}' | head -n 3; exit 3"
    jobs = [session.job("sh", "-c", script, name="漢" * 60) for _ in range(8)]
    lines = session.hook("UserPromptSubmit").splitlines()

    assert [line.split()[0] for line in lines if "(exit code 3)" in line] == jobs
    assert session.hook("UserPromptSubmit") == ""


# --- a session's shell -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["0199d2f4-8e1c-7a9b", "it's; $HOME"])
def test_commands_of_the_shell_belong_to_the_session_from_its_start(session, tmp_path, name):
    file = tmp_path / "env"
    file.write_text("export OTHER=1\n")
    session.id = name
    session.hook("SessionStart", env={"CLAUDE_ENV_FILE": str(file)})
    shown = subprocess.run(
        ["sh", "-c", f'. {file}; printf %s "$OTHER$BGD_SESSION"'],
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=True,
    )

    assert shown.stdout == f"1{name}"


# --- a hook never disturbs the client ----------------------------------------------------------------------


def fails_quietly(home, read, *words, env=None):
    done = home.bgctl("inbox", "--hook", *words, read=read, env=env)
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr.startswith("bgctl: ")
    assert done.stderr.count("\n") == 1
    return done.stderr


@pytest.mark.parametrize(
    "read",
    [
        "",
        "\n",
        "{",
        "[]",
        "null",
        "{}",
        '{"hook_event_name": "Stop"}',
        '{"hook_event_name": "Stop", "session_id": 3}',
        '{"hook_event_name": ["Stop"], "session_id": "x"}',
        '{"hook_event_name": "PreToolUse", "session_id": "x"}',
        '{"hook_event_name": "Stop", "session_id": ""}',
        json.dumps({"hook_event_name": "Stop", "session_id": "x" * 1000}),
        "[" * 100_000,
    ],
)
def test_damaged_input_is_said_on_stderr_alone(daemon, read):
    fails_quietly(daemon, read)


def test_input_that_is_too_long_is_not_read_to_its_end(monkeypatch, capsys):
    whole = b'{"hook_event_name": "PreToolUse", "session_id": "x"}'
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(whole)))
    monkeypatch.setattr(hooks, "_MOST_INPUT", len(whole) - 1)

    assert hooks.answer_hook() == 0
    shown = capsys.readouterr()
    assert (shown.out, shown.err.startswith("bgctl: hook: JSONDecodeError: ")) == ("", True)


@each_event
def test_without_a_daemon_a_hook_says_so_on_stderr_alone(home, event):
    for client in CLIENTS:
        said = fails_quietly(home, Session(home, client).input(event))
        assert "no daemon answers at" in said


@each_event
def test_with_a_broken_configuration_a_hook_says_so_on_stderr_alone(home, event):
    home.configure("[daemon")
    fails_quietly(home, Session(home, "claude").input(event))


def test_an_end_outlives_a_killed_daemon_and_is_told_by_the_next_one():
    with serving() as daemon:
        session = Session(daemon, "claude")
        session.job("true")
        daemon.process.kill()
        daemon.process.wait(DEADLINE)
        fails_quietly(daemon, session.input("Stop"))
        daemon.start()

        assert "succeeded" in session.hook("Stop")


def test_a_daemon_that_does_not_answer_is_given_up_in_time(home):
    home.state_dir.mkdir(parents=True)
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(home.socket))
        silent.listen()
        said = fails_quietly(home, Session(home, "claude").input("Stop"))

    assert "does not answer" in said


@each_event
def test_an_answer_that_is_not_read_is_told_again(session, event):
    session.job("true")
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [*BGCTL, "inbox", "--hook"],
        env=session.daemon.env,
        input=session.input(event).encode(),
        stdout=writing,
        stderr=subprocess.PIPE,
        timeout=DEADLINE,
        check=False,
    )
    os.close(writing)

    assert (done.returncode, done.stderr.count(b"\n")) == (0, 1)
    assert "redelivered" in session.hook("UserPromptSubmit")
