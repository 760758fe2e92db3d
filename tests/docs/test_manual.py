"""docs/man: the manual pages are those of the help texts, and man can show them."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from tests.docs import manual

NAMES = ["bgctl.1", "bgd.1", "bgd.toml.5"]


def test_there_are_three_pages():
    assert sorted(manual.pages()) == sorted(path.name for path in manual.FOLDER.iterdir()) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_pages_are_up_to_date(name):
    assert (manual.FOLDER / name).read_text() == manual.pages()[name], "run `make man`"


def test_the_short_help_is_up_to_date():
    assert manual.HELP.read_text() == manual.help_text(), "run `make man`"


@pytest.mark.parametrize("name", NAMES)
def test_groff_formats_them_without_a_warning(name):
    if not shutil.which("groff"):
        pytest.skip("groff is not installed: the format of the manual pages is NOT CHECKED")
    done = subprocess.run(
        ["groff", "-man", "-Tutf8", "-ww", manual.FOLDER / name], capture_output=True, text=True, check=True
    )

    assert done.stderr == ""
    assert "NAME" in done.stdout


def test_text_cannot_be_a_request_of_the_formatter():
    assert list(manual._term(".SH", "'x' is a \\word")) == [".TP", r".B \&.SH", r"\(aqx\(aq is a \eword"]


def test_every_key_of_the_configuration_is_described():
    text = manual.pages()["bgd.toml.5"]

    assert r".SS [retry.commands]" in text
    assert ".B state_dir = \\(dq~/.local/state/bgd\\(dq\nThe database" in text
