"""The program on a node: it starts at most once, tells how its program ended, and leaves nothing running."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bgd.launcher.shared_folder import _look, _over
from bgd.worker import NODE

MARK = "bgd-node: "


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "attempt").mkdir()
    return tmp_path / "attempt"


def run(folder, *argv: str, cwd="/", number=1, result="0", stdin="/dev/null", grace="5"):
    command = ["python3", "-I", "-S", str(NODE), str(folder), str(number), grace, cwd, "22", stdin, result]
    return subprocess.run([*command, *argv], capture_output=True, text=True, timeout=20, check=False)


def reports(done) -> dict[str, dict[str, object]]:
    lines = [line.removeprefix(MARK) for line in done.stderr.splitlines() if line.startswith(MARK)]
    return {key: value for line in lines for key, value in json.loads(line).items()}


def test_it_reports_a_code_on_its_stderr_and_in_the_folder(folder):
    done = run(folder, "sh", "-c", "echo out; echo err >&2; umask; exit 4")

    assert done.stdout == "out\nerr\n0022\n"
    assert done.returncode == 4
    ended = reports(done)["ended"]
    assert (ended["code"], ended["problem"], ended["leftovers"]) == (4, "", "")
    assert json.loads((folder / "outcome").read_text()) == ended


def test_it_reports_a_signal_and_survives_one_itself(folder):
    done = run(folder, "sh", "-c", "kill -USR1 $PPID; kill -TERM $PPID; kill -KILL $$")

    assert reports(done)["ended"]["code"] == -9


def test_a_submission_runs_once(folder):
    run(folder, "sh", "-c", f"echo run >>{folder}/runs")
    again = run(folder, "sh", "-c", f"echo run >>{folder}/runs")

    assert (folder / "runs").read_text() == "run\n"
    assert (again.returncode, reports(again)) == (0, {})


def test_a_submission_that_the_launcher_has_claimed_never_runs(folder):
    found = json.loads(_look(str(folder), 1))
    done = run(folder, "sh", "-c", f"echo run >>{folder}/runs")

    assert found["is_ours"]
    assert reports(done) == {}
    assert not (folder / "runs").exists()
    assert json.loads(_look(str(folder), 1))["is_ours"]


def test_the_launcher_finds_the_node_the_end_and_a_lock_while_it_runs(folder):
    looked = f"import sys; sys.path[:0] = {[str(NODE.parents[2])]!r} + {sys.path!r}; "
    looked += "from bgd.launcher.shared_folder import _look; sys.stdout.buffer.write(_look(sys.argv[1], 1))"
    done = run(folder, sys.executable, "-c", looked, str(folder))
    while_it_ran, after = json.loads(done.stdout), json.loads(_look(str(folder), 1))

    assert (while_it_ran["is_locked"], while_it_ran["outcome"]) == (True, None)
    assert (while_it_ran["sees_locks"], after["sees_locks"]) == (True, True)
    assert while_it_ran["node"]["node"] == os.uname().nodename
    assert (after["is_locked"], after["outcome"]["code"]) == (False, 0)


def test_a_free_lock_means_something_only_if_it_was_seen_locked(folder):
    (folder / "lock").touch()
    (folder / "claim.1").write_text('{"node": "n1", "pid": 7, "step": "1.0"}')

    assert not json.loads(_look(str(folder), 1))["sees_locks"]
    assert json.loads(_over(str(folder.parent), "attempt")) == []
    with (folder / "lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert json.loads(_over(str(folder.parent), "attempt")) == []
    assert json.loads(_over(str(folder.parent), "attempt")) == ["attempt"]
    assert json.loads(_look(str(folder), 1))["sees_locks"]


def test_what_waits_for_another_submission_is_not_over(folder):
    run(folder, "true")
    (folder / "outcome").unlink()
    _look(str(folder), 2)

    assert json.loads(_over(str(folder.parent), "attempt")) == []


def test_a_folder_that_is_gone_is_no_proof_that_it_did_not_run(folder):
    assert json.loads(_look(f"{folder}/gone", 1))["is_lost"]


def test_leftovers_are_ended_and_named(folder):
    script = "sleep 1000 & (trap '' TERM; echo deaf; sleep 1001) & sleep 0.1; exit 0"

    done = run(folder, "sh", "-c", script, grace="0.2")

    left = str(reports(done)["ended"]["leftovers"])
    assert "sleep (pid " in left
    assert not [pid for pid in pids_in(left) if Path(f"/proc/{pid}").exists()]


def pids_in(text: str) -> list[str]:
    return [part.partition(")")[0] for part in text.split("(pid ")[1:]]


@pytest.mark.parametrize(
    ("argv", "options", "problem"),
    [
        (["no-such-program"], {}, "program not found: no-such-program on node "),
        (["/etc/passwd"], {}, "not executable: /etc/passwd on node "),
        (["true"], {"cwd": "/nowhere"}, "no such directory: /nowhere on node "),
        (["cat"], {"stdin": "/nowhere"}, "no input: /nowhere on node "),
    ],
)
def test_it_says_why_a_program_did_not_start(folder, argv, options, problem):
    assert str(reports(run(folder, *argv, **options))["ended"]["problem"]).startswith(problem)


def test_a_result_is_written_to_the_folder(folder):
    run(folder, "sh", "-c", "echo done >&$BGD_RESULT_FD", result="1")

    assert (folder / "result").read_text() == "done\n"


def test_a_folder_that_is_not_shared_is_named(tmp_path):
    done = run(tmp_path / "gone", "true")

    assert done.returncode == 1
    assert "do the nodes share it?" in done.stderr
