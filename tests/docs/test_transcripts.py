"""The commands and programs of the pages run, and print what the pages say."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.docs.pages import blocks, page
from tests.docs.transcripts import answers_in, as_written, steps_of, without_chance
from tests.support import DEADLINE, ROOT

CONFIGURATION = f"""\
[security]
allowed_classes = ["app.services.*", "app.tasks.*"]

[python]
path = ["{ROOT}/examples"]
"""


@pytest.mark.parametrize("name", ["README.md", "docs/agents.md", "docs/bgctl.md"])
def test_commands_answer_what_the_page_says(home, name):
    steps = steps_of(page(name))

    answers = answers_in(home, [command for command, _ in steps])

    assert [
        (command, without_chance(as_written(answer, home)))
        for (command, _), answer in zip(steps, answers, strict=True)
    ] == [(command, without_chance(answer)) for command, answer in steps]


def test_process_id_is_known_where_it_is_small_too():
    assert without_chance("a daemon (pid 17, log x)") == without_chance("a daemon (pid 31415, log x)")


@pytest.mark.parametrize(
    "name", ["README.md", "docs/python.md", "docs/schedules.md", "docs/coming-from.md", "examples/README.md"]
)
def test_programs_of_the_page_run_to_their_end(home, name):
    home.configure(CONFIGURATION)
    program = "".join(blocks(page(name), "python"))

    done = subprocess.run(
        [sys.executable, "-X", "dev", "-"],
        input=program,
        env=home.env | {"PYTHONPATH": f"{ROOT}:{ROOT}/examples"},
        cwd=home.folder,
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )

    assert (done.returncode, done.stderr) == (0, "")
