"""The examples are allowed by their configuration and do what their README says."""

from __future__ import annotations

import hashlib
import importlib
import json
import random
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

import pytest

from bgd.core.target import is_allowed, parse_target
from bgd.settings.config import load
from tests.support import DEADLINE, ROOT, Home

EXAMPLES = ROOT / "examples"
CONFIG = load(str(EXAMPLES / "bgd.toml"), environ={"HOME": "/home/ada"})
TARGETS = sorted(set(re.findall(r"app\.services:[\w.]+", (EXAMPLES / "README.md").read_text())))


@pytest.fixture
def services(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(*CONFIG.python.path)
    return importlib.import_module("app.services")


def test_configuration_finds_the_application():
    assert CONFIG.python.path == (str(EXAMPLES),)


@pytest.mark.parametrize("text", TARGETS)
def test_every_target_of_the_readme_exists_and_is_allowed(services, text):
    target = parse_target(text)

    assert is_allowed(target, CONFIG.security.allowed_classes)
    assert callable(getattr(getattr(services, target.name), target.method or "__call__"))


def test_readme_names_every_public_part_of_the_application(services):
    public = {
        name for name, value in vars(services).items() if getattr(value, "__module__", "") == "app.services"
    }

    assert {parse_target(text).name for text in TARGETS} == {name for name in public if name[0] != "_"}


def test_words_are_counted_most_frequent_first(services, tmp_path):
    (tmp_path / "log").write_text("Error warn error\nERROR warn 17 über\n")

    assert services.LogReport().top_words(str(tmp_path / "log"), "2") == [["error", 3], ["warn", 2]]


def test_archive_is_written_and_read_to_its_end(services, tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "zeros").write_bytes(bytes(100_000))

    archive = services.Archive.compress(str(folder), str(tmp_path / "archive"))

    assert Path(archive["path"]).stat().st_size == archive["bytes"] < 10_000
    assert services.Archive.verify(archive["path"]) > 100_000


async def test_checksums_are_of_every_file_below(services, tmp_path):
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "file").write_bytes(b"content")

    sums = await services.Checksums().of_files(str(tmp_path))

    assert sums == {"below/file": hashlib.sha256(b"content").hexdigest()}


def test_flaky_fetch_fails_twice_and_then_succeeds(services, tmp_path):
    state = str(tmp_path / "state")

    for number in (1, 2):
        with pytest.raises(ConnectionError, match=f"try {number}:"):
            services.Flaky().fetch(state)

    assert services.Flaky().fetch(state) == "fetched at try 3"


def test_lines_are_counted(services, tmp_path):
    (tmp_path / "log").write_text("one\ntwo\n")

    assert services.count_lines(str(tmp_path / "log")) == 2


def test_web_request_submits_a_job_and_another_asks_for_its_state(home):
    home.configure(f'[security]\nallowed_classes = ["app.services.*"]\n[python]\npath = ["{EXAMPLES}"]')
    (home.folder / "words").write_text("one two two three three three")

    with running(home, "web.py", "0") as web:
        reports = web.readline().strip()
        order = urllib.request.Request(reports, data=f"{home.folder}/words".encode())
        with urllib.request.urlopen(order, timeout=DEADLINE) as response:
            place, status = response.headers["Location"], response.status
        with home.client() as client:
            client.job().wait(DEADLINE)
        with urllib.request.urlopen(reports.replace("/reports", place), timeout=DEADLINE) as response:
            report = json.load(response)

    assert (status, place) == (202, "/reports/1")
    assert report == {"state": "succeeded", "words": [["three", 3], ["two", 2], ["one", 1]]}


def test_parts_are_sorted_and_then_merged(daemon):
    lines = [f"{random.randrange(10**6)}\n" for _ in range(10_000)]
    (daemon.folder / "lines").write_text("".join(lines))

    done = subprocess.run(
        [str(EXAMPLES / "sort.sh"), "lines", "sorted"],
        env=daemon.env | {"PATH": f"{Path(sys.executable).parent}:{daemon.env['PATH']}", "LC_ALL": "C"},
        cwd=daemon.folder,
        timeout=DEADLINE,
        check=False,
    )

    assert done.returncode == 0
    assert (daemon.folder / "sorted").read_text() == "".join(sorted(lines))


def test_watcher_reports_every_end_once_even_those_it_missed(own_daemon):
    with own_daemon.client() as client:
        client.submit(["true"]).wait(DEADLINE)
        with running(own_daemon, "watch.py", "place") as watcher:
            first = watcher.readline()
        client.submit(["false"]).wait(DEADLINE)
        client.submit(["true"], hold=True).cancel()
        with running(own_daemon, "watch.py", "place") as watcher:
            rest = [watcher.readline(), watcher.readline()]

    assert first == "job 1 succeeded: succeeded\n"
    assert rest == ["job 2 failed: exit\n", "job 3 cancelled: cancelled before it started\n"]


@contextmanager
def running(home: Home, program: str, *arguments: str) -> Iterator[IO[str]]:
    """Run an example in the home; yield its output, and interrupt it at the end."""
    with subprocess.Popen(
        [sys.executable, str(EXAMPLES / program), *arguments],
        env=home.env,
        cwd=home.folder,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        try:
            yield process.stdout
        finally:
            while process.poll() is None:  # wsgiref drops a KeyboardInterrupt that comes while it answers
                process.send_signal(signal.SIGINT)
                with suppress(subprocess.TimeoutExpired):
                    process.wait(DEADLINE / 10)
