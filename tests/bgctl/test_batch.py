"""The verb batch with a real daemon."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys

import pexpect  # type: ignore[import-untyped]  # it has no types
import pytest

from bgctl.batch import IdPrinter
from bgctl.common import set_global_options
from bgd.client.blocking.batch import Taken
from bgd.wire.requests import MAX_IDS
from tests.support import DEADLINE


def batch(daemon, text, *arguments):
    return daemon.bgctl("batch", *arguments, read=text)


def ids_in(text):
    return [
        job_id
        for word in text.split()
        for first, _, last in [word.partition("-")]
        for job_id in range(int(first), int(last or first) + 1)
    ]


def test_each_line_is_a_job_and_the_ids_are_a_range_that_other_verbs_take(daemon):
    done = batch(daemon, "echo one\n# no\n\necho 'two three'\n", "-t", "lines")

    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert re.fullmatch(r"\d+-\d+\n", done.stdout)
    waited = daemon.bgctl("wait", done.stdout.strip()).stdout
    assert waited.count("succeeded") == 2
    job = daemon.shown(str(ids_in(done.stdout)[1]))
    assert (job["argv"], job["tags"], job["cwd"]) == (["echo", "two three"], ["lines"], str(daemon.folder))


def test_a_file_is_read_and_a_single_job_is_a_plain_id(daemon):
    (daemon.folder / "jobs.txt").write_text("true")

    assert re.fullmatch(r"\d+\n", daemon.bgctl("batch", "jobs.txt").stdout)


def test_json_tells_line_id_and_whether_it_is_new(daemon):
    held = '{"argv": ["true"], "key": "once", "hold": true}\n'
    done = batch(daemon, f"{held}\n{held}", "--ndjson", "--json")

    first, second = map(json.loads, done.stdout.splitlines())
    assert first == {"line": 1, "id": first["id"], "created": True}
    assert second == {"line": 3, "id": first["id"], "created": False}
    plain = batch(daemon, held, "--ndjson")
    assert plain.stderr == "bgctl: lines that queued nothing, because an unfinished job has their key: 1\n"
    daemon.bgctl("cancel", str(first["id"]))


def test_a_list_of_jobs_can_be_queued_again(daemon):
    again = daemon.finished_job("--tag", "again", "--retries", "2", "echo", "a b")

    listed = daemon.bgctl("list", "--json", "--tag", "again").stdout
    done = batch(daemon, listed, "--ndjson")

    job = daemon.shown(done.stdout.strip())
    assert (job["argv"], job["tags"], job["retries"]) == (["echo", "a b"], ["again"], 2)
    assert job["id"] != int(again)


def test_a_template_makes_each_line_an_argument(daemon):
    done = batch(daemon, "a.tif\nb c.tif\n", "--hold", "--template", "convert-it {} {.}.png", "--no-check")

    jobs = [daemon.shown(str(job_id))["argv"] for job_id in ids_in(done.stdout)]
    assert jobs == [["convert-it", "a.tif", "a.png"], ["convert-it", "b c.tif", "b c.png"]]
    daemon.bgctl("cancel", done.stdout.strip())


def test_a_bad_line_is_named_with_what_is_queued_and_skip_goes_on(daemon):
    text = "true\ntrue\nno-such-program\ntrue\n"
    done = batch(daemon, text)

    assert done.returncode == 1
    assert done.stderr == (
        "bgctl: line 3: no program 'no-such-program' on its PATH; --no-check queues it anyway;"
        " the lines up to 2 are queued: --skip 2 continues after them\n"
    )
    assert len(ids_in(done.stdout)) == 2
    assert len(ids_in(batch(daemon, text, "--skip", "3").stdout)) == 1
    assert "; nothing is queued\n" in batch(daemon, "'").stderr
    assert "; nothing after line 1 is queued\n" in batch(daemon, "\n'", "--skip", "1").stderr


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["no-such-file"], "cannot read no-such-file: No such file or directory"),
        (["/"], "cannot read /: Is a directory"),
        (["--ndjson", "--shell"], "--ndjson excludes --template and --shell"),
        (["--key", "a"], "--key would make one job of all lines"),
        (["--stdin", "-"], "--stdin takes a file here"),
        (["--template", "'"], "--template: a quote is not closed"),
    ],
)
def test_wrong_usage_is_told_in_a_line(daemon, arguments, why):
    done = batch(daemon, "", *arguments)

    assert (done.returncode, done.stdout) == (2, "")
    assert why in done.stderr


def test_interrupted_batch_says_what_is_queued_and_how_to_go_on(daemon):
    with subprocess.Popen(
        [sys.executable, "-m", "bgctl", "batch", "--json"],
        env=daemon.env,
        cwd=daemon.folder,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as running:
        assert running.stdin is not None
        assert running.stdout is not None
        assert running.stderr is not None
        running.stdin.write("true\ntrue\n")
        running.stdin.flush()
        told = [json.loads(running.stdout.readline())["line"] for _ in range(2)]  # before more comes
        assert told == [1, 2]
        running.send_signal(signal.SIGINT)
        said = running.stderr.read()

    assert running.wait(DEADLINE) == 130
    assert said == "bgctl: interrupted: the lines up to 2 are queued: --skip 2 continues after them\n"


def test_a_terminal_shows_a_bar_for_a_long_batch(daemon, terminal):
    (daemon.folder / "many.txt").write_text("true\n" * 12_000)
    child = terminal("batch", "--hold", "-t", "bar", "many.txt")

    child.expect(r"\d+ queued")
    child.expect(r"\d+-\d+\r\n")
    child.expect(pexpect.EOF)
    child.wait()
    assert child.exitstatus == 0
    daemon.bgctl("cancel", "--tag", "bar", "--yes")


def test_a_range_is_no_longer_than_other_verbs_take(capsys):
    printer = IdPrinter()
    printer.add(Taken([(1, 5, MAX_IDS + 1), (MAX_IDS + 2, 90_000, 1)]))
    printer.end()

    assert capsys.readouterr().out == f"5-{MAX_IDS + 4}\n{MAX_IDS + 5}\n90000\n"


def test_json_documents_are_printed_for_each_job(capsys):
    set_global_options(json=True)
    try:
        IdPrinter().add(Taken([(4, 7, 2)], frozenset([5])))
    finally:
        set_global_options(json=False)

    assert capsys.readouterr().out == (
        '{"line": 4, "id": 7, "created": true}\n{"line": 5, "id": 8, "created": false}\n'
    )
