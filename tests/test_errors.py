"""Error messages: long quotes are cut, the rest is kept."""

from __future__ import annotations

import difflib
import pickle
import traceback

import pytest

from bgctl.program import run
from bgd.errors import MAX_MESSAGE, BgdError, ConfigError, JobFailed, nearest, shorten
from bgd.settings.config import load

LONG = "x" * 100_000
CUT = "x" * 80 + "…"


@pytest.mark.parametrize(
    ("message", "short"),
    [
        ("queue 'a' is not there: make it", "queue 'a' is not there: make it"),
        (f"text, not {LONG!r}: shorten it", f"text, not '{CUT}': shorten it"),
        (f'text, not "{LONG}": shorten it', f'text, not "{CUT}": shorten it'),
        (f"text, not {LONG + chr(39)!r}: shorten it", f'text, not "{CUT}": shorten it'),
        (f"{LONG}: shorten it", f"{CUT}: shorten it"),
        (f"unexpected ({LONG})", f"unexpected ({CUT[1:]})"),
        ("it's bgd's " + "and its " * 50 + "daemon's", "it's bgd's " + "and its " * 50 + "daemon's"),
        (f"'/{'p' * 200}' and /{'p' * 200} are there", f"'/{'p' * 200}' and /{'p' * 200} are there"),
    ],
    ids=lambda text: text[:40],
)
def test_long_values_are_cut_and_the_rest_of_a_message_is_kept(message, short):
    assert shorten(message) == short


@pytest.mark.parametrize(
    "text", ["a " * 100_000, "['one', " * 100_000, LONG, "' " * 100_000, r"\'" * 100_000]
)
def test_message_is_never_long_and_keeps_its_end(text):
    short = shorten(f"beginning {text} end")

    assert len(short) <= MAX_MESSAGE
    assert short.startswith("beginning ")
    assert short.endswith(" end")


def test_words_of_a_job_are_not_cut():
    assert str(JobFailed(f"failed: '{LONG}'")) == f"failed: '{LONG}'"
    assert str(BgdError(f"failed: '{LONG}'")) == f"failed: '{CUT}'"


def test_the_jobs_own_traceback_is_shown_below_its_error():
    error = JobFailed("job 7 failed", traceback="Traceback:\n  line\x1b[2J\nLookupError: gone\n")

    shown = "".join(traceback.format_exception(error))

    assert shown.endswith("job 7 failed\nThe job's own Traceback:\n  line␛[2J\nLookupError: gone\n")
    assert pickle.loads(pickle.dumps(error)).__notes__ == error.__notes__


def test_bad_argument_is_quoted_in_short(capsys):
    assert run(["submit", "-n", LONG, "true"]) == 2
    said = capsys.readouterr().err
    assert said.endswith(f"'{CUT}' must be text of 1 to 200 characters\n")


@pytest.mark.parametrize("place", ["security]\nallowed_commands", "python]\npreload"])
def test_configuration_is_quoted_in_short(tmp_path, place):
    file = tmp_path / "bgd.toml"
    file.write_text(f'[{place} = ["{LONG} {LONG}"]\n')

    with pytest.raises(ConfigError, match=f"'{CUT}' must be") as refused:
        load(str(file), environ={})

    assert len(str(refused.value)) < 500


def test_file_that_cannot_be_written_is_named_in_short(daemon):
    done = daemon.bgctl("backup", LONG)
    assert done.returncode == 1
    assert done.stderr.endswith("…: File name too long\n")
    assert len(done.stderr) < 200


def test_a_mistyped_name_is_compared_with_its_neighbours_only(monkeypatch):
    compared = []

    def get_close_matches(word, possibilities, **given):
        compared.extend(possibilities)
        return real(word, possibilities, **given)

    real = difflib.get_close_matches
    monkeypatch.setattr(difflib, "get_close_matches", get_close_matches)

    assert nearest("nightlu", [*(f"s{number}" for number in range(10_000)), "nightly"]) == (
        "did you mean nightly?"
    )
    assert len(compared) <= 200


def test_of_many_names_only_some_are_told():
    names = [f"s{number:04}" for number in range(1000)]

    assert nearest("report", names) == f"known are {', '.join(names[:50])} and 950 more"
