"""The examples: their configuration allows them, and they do what their README says."""

from __future__ import annotations

import hashlib
import importlib
import re
from pathlib import Path

import pytest

from bgd.config import load
from bgd.core.target import is_allowed, parse_target

EXAMPLES = Path(__file__).parents[1] / "examples"
CONFIG = load(str(EXAMPLES / "bgd.toml"), environ={"HOME": "/home/ada"})
TARGETS = sorted(set(re.findall(r"app\.services:[\w.]+", (EXAMPLES / "README.md").read_text())))


@pytest.fixture
def services(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(*CONFIG.python.path)
    return importlib.import_module("app.services")


def test_configuration_finds_the_application():
    assert CONFIG.python.path == (str(EXAMPLES),)


@pytest.mark.parametrize("text", TARGETS)
def test_every_target_of_the_readme_is_there_and_allowed(services, text):
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
