"""Progress that jobs report is seen everywhere, and survives the death of the daemon."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest

from bgd import State
from bgd.wire.views import Progress
from tests.support import DEADLINE, wait_until

MODULE = """
import os

import bgd_job


def read_lines(gate, lines):
    with open(gate) as commands:
        for number, line in enumerate(commands):
            bgd_job.progress((number + 1) / lines, line.strip())
    return "done"


def one_thing_and_gone(number):
    bgd_job.progress(1, f"job {number}")
"""


CONFIGURATION = """
[security]
allowed_classes = ["slowly.*"]
[python]
path = ["~"]
[daemon]
slots = 4
"""

pytestmark = pytest.mark.daemon(CONFIGURATION, {"slowly.py": MODULE})


def is_at(job, fraction, message):
    return lambda: job.refresh().progress == Progress(fraction, message)


def die_and_live_again(daemon):
    daemon.process.send_signal(signal.SIGKILL)
    daemon.process.wait(DEADLINE)
    daemon.start()


def test_progress_of_python_and_shell_jobs_is_seen_and_survives_a_kill(daemon):
    gates = [daemon.folder / name for name in ("python", "shell")]
    for gate in gates:
        os.mkfifo(gate)
    tell = f'{sys.executable} -m bgctl progress "$done/4" "$what"'
    script = f"while read -r done what; do {tell} || exit; done < {gates[1]}"
    with daemon.client() as client:
        jobs = [
            client.call("slowly:read_lines", [str(gates[0]), 4]),
            client.submit(script, shell=True, env=daemon.env),
        ]
        with gates[0].open("w", buffering=1) as python, gates[1].open("w", buffering=1) as shell:
            waiting = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "bgctl",
                    "wait",
                    "--progress",
                    "--json",
                    *(str(job.id) for job in jobs),
                ],
                env=daemon.env,
                stdout=subprocess.PIPE,
                text=True,
            )

            def go_on(number: int, what: str) -> None:
                python.write(f"{what}\n")
                shell.write(f"{number} {what}\n")
                for job in jobs:
                    wait_until(is_at(job, number / 4, what))

            go_on(1, "begun")
            listed = daemon.bgctl("list").stdout
            assert listed.count("25%␣begun") == 2
            for job in jobs:
                assert "  progress   25% begun\n" in daemon.bgctl("show", str(job.id)).stdout
            go_on(2, "half")

            die_and_live_again(daemon)

            assert [job.refresh().progress for job in jobs] == [Progress(0.5, "half")] * 2
            go_on(3, "again")
        told, _ = waiting.communicate(timeout=DEADLINE)
        assert waiting.returncode == 0
        assert [job.wait(DEADLINE).state for job in jobs] == [State.SUCCEEDED] * 2
        assert [job.progress for job in jobs] == [Progress(0.75, "again")] * 2

    lines = [json.loads(line) for line in told.splitlines()]
    assert sorted(line["id"] for line in lines if "id" in line) == [job.id for job in jobs]
    for job in jobs:
        said = [line["progress"]["message"] for line in lines if line.get("job") == job.id]
        assert list(dict.fromkeys(said)) == ["begun", "half", "again"]


def test_progress_reported_just_before_the_end_is_not_lost(daemon):
    with daemon.client() as client:
        jobs = [client.call("slowly:one_thing_and_gone", [number]) for number in range(10)]

        finished = client.wait(jobs, timeout=DEADLINE)

    assert [job.progress for job in finished] == [Progress(1.0, f"job {number}") for number in range(10)]
