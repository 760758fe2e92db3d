"""A client in Perl, written from docs/protocol.md alone, behaves like ours."""

from __future__ import annotations

import shutil
import signal
import subprocess

import pytest

from tests.support import DEADLINE, ROOT

PERL = shutil.which("perl")
LINES = 100
COUNT = f"for i in $(seq {LINES}); do echo $BGD_ATTEMPT.$i; sleep 0.02; done; test $BGD_ATTEMPT = 2"

pytestmark = pytest.mark.skipif(PERL is None, reason="NOT TESTED: there is no perl")


def started(daemon, *arguments: str, **env: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [str(PERL), str(ROOT / "examples/client.pl"), *arguments],
        env=daemon.env | env,
        cwd=daemon.folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        bufsize=0,  # a buffer would hold lines after the one that readline returns, and communicate skips it
    )


def ended(daemon, *arguments: str, **env: str) -> tuple[int, bytes, bytes]:
    with started(daemon, *arguments, **env) as client:
        output, errors = client.communicate(timeout=DEADLINE)
    return client.returncode, output, errors


def test_a_command_runs_in_the_callers_folder_and_returns_its_exit_code(daemon):
    command = 'pwd; echo "$NAME 12" >&2; exit 7'

    assert ended(daemon, "run", "sh", "-c", command, NAME="Käffchen") == (
        7,
        f"{daemon.folder}\nKäffchen 12\n".encode(),
        b"",
    )


def test_output_of_many_frames_arrives_as_it_was_written(daemon):
    code, output, _ = ended(daemon, "run", "head", "-c", "3000000", "/dev/zero")

    assert (code, output) == (0, bytes(3_000_000))


def test_refusals_are_shown_in_the_daemons_words(daemon):
    code, _, errors = ended(daemon, "logs", "999")

    assert code != 0
    assert b"no job 999" in errors


def test_a_job_is_submitted_and_waited_for(daemon):
    _, job, _ = ended(daemon, "submit", "sh", "-c", "kill -9 $$")

    assert ended(daemon, "wait", job.decode().strip())[0] == 128 + signal.SIGKILL


def test_a_followed_log_continues_after_a_kill_of_the_daemon(own_daemon):
    with own_daemon.client() as client:
        job = client.submit(COUNT, shell=True, retries=1, retry_delay=0.2)
        with started(own_daemon, "logs", str(job.id)) as follower:
            assert follower.stdout
            first = follower.stdout.readline()
            own_daemon.process.send_signal(signal.SIGKILL)
            own_daemon.process.wait()
            own_daemon.start()
            rest, errors = follower.communicate(timeout=DEADLINE)

    expected = [b"%d.%d" % (attempt, line) for attempt in (1, 2) for line in range(1, LINES + 1)]
    assert (first + rest).split() == expected
    assert errors == b""
