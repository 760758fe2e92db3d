"""Job options are declared at the fields of JobSpec; these tests name each place that does not follow."""

from __future__ import annotations

import re

import click
import pytest

from bgctl.cli import cli
from bgd.client.options import EditOptions, JobOptions
from bgd.core.spec import OPTIONS, JobSpec, kind_of
from bgd.wire.requests import Changes
from bgd.wire.views import JobView
from tests.docs.options import table
from tests.docs.pages import page
from tests.support import ROOT

# What a job is, not how people want it to run
NO_OPTIONS = {"argv", "target", "arguments", "references", "cause", "batch", "trace", "explicit_env"}

NOT_TYPED = {"umask", "input"}  # bgctl sends its own umask, and what `--stdin -` reads as input
# Shown beside the id, as a date or as what the job waits for, or not interesting to people
NOT_SHOWN = {"name", "after", "after_any", "at", "delay", "expires", "jitter", "umask"}
VIEWED = [name for name in OPTIONS if name in JobView.__struct_fields__]

MOST_WORDS = 10
LABEL_WIDTH = 10  # characters before the value, in `bgctl show`

by_name = pytest.mark.parametrize("name", OPTIONS)


def test_every_field_of_a_spec_says_whether_it_is_an_option():
    assert set(JobSpec.__struct_fields__) == set(OPTIONS) | NO_OPTIONS


@by_name
def test_help_is_short_and_has_no_full_stop(name):
    text = OPTIONS[name].help

    assert len(text.split()) <= MOST_WORDS
    assert text[0].isupper()
    assert not text.endswith(".")


@by_name
def test_a_label_fits_beside_its_value(name):
    assert len(OPTIONS[name].label or "") <= LABEL_WIDTH


@pytest.mark.parametrize("name", [name for name in OPTIONS if name not in NOT_TYPED])
def test_every_option_can_be_typed(name):
    option = OPTIONS[name]
    wanted = {"submit": option.only != "class", "call": option.only != "command", "edit": option.can_edit}

    found = {verb: parameter_of(verb, name) for verb in wanted}

    assert {verb: parameter is not None for verb, parameter in found.items()} == wanted
    assert all(
        parameter.is_flag or parameter.type is not click.STRING or name == "env"
        for parameter in found.values()
        if parameter is not None
    ), f"bgctl/options.py does not say how {kind_of(name)} is read"


@by_name
def test_every_option_is_a_keyword_of_the_client(name):
    assert name in JobOptions.__optional_keys__, "`make client`"
    assert (
        (name in EditOptions.__optional_keys__)
        == OPTIONS[name].can_edit
        == (name in Changes.__struct_fields__)
    )


@pytest.mark.parametrize("name", [name for name in VIEWED if name not in NOT_SHOWN])
def test_every_option_is_shown_to_people(name):
    option = OPTIONS[name]
    text = "".join((ROOT / file).read_text() for file in ("bgd/text/facts.py", "bgd/text/formatting.py"))

    assert option.limit or option.label or re.search(rf"\b(job|view)\.{name}\b", text), (
        f"give the Option of {name} a `label`, or show it in bgd/text/facts.py"
    )


@pytest.mark.parametrize("name", [name for name, option in OPTIONS.items() if option.in_policy])
def test_what_a_policy_sets_is_silent_in_a_spec_by_default(name):
    assert getattr(JobSpec(), name) is None  # or a policy could not tell that the job does not say it


def test_jobs_page_has_the_table_of_options():
    assert table() in page("docs/jobs.md"), "`.venv/bin/python -m tests.docs.options` writes it"


def parameter_of(verb: str, name: str) -> click.Option | None:
    command = cli.get_command(click.Context(cli), verb)
    assert command is not None
    return next(
        (each for each in command.params if each.name == name and isinstance(each, click.Option)), None
    )
