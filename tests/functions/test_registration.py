"""Schedules of functions, which an application registers when it is deployed."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

import bgd
from bgd import Client, Refused
from bgd.core.schedule_spec import Overlap
from tests.functions import scheduled, tasks
from tests.functions.scheduled import Report, clean_up, every_day
from tests.support import DEADLINE

NAMES = ["tests.functions.scheduled.clean_up", "every-day", "tests.functions.scheduled.Report.write"]


@pytest.fixture
def client(served):
    del served
    with Client() as client:
        yield client
        for view in client.schedules.list():
            client.schedules.remove(view.name)


def test_importing_a_module_stores_nothing(client):
    subprocess.run([sys.executable, "-c", "import tests.functions.scheduled"], check=True)

    assert client.schedules.list() == []


def test_a_module_stands_for_all_that_it_defines(client):
    assert client.schedules.register(scheduled).added == NAMES
    views = {view.name: view for view in client.schedules.list()}

    assert sorted(views) == sorted(NAMES)
    spec = views[NAMES[0]].spec
    assert (spec.cron, spec.timezone, spec.overlap, spec.late_after) == (
        "0 3 * * *",
        "Europe/Paris",
        Overlap.QUEUE,
        600.0,
    )
    assert (spec.job.target, spec.job.retries, spec.job.jitter, spec.jitter) == (
        "tests.functions.scheduled:clean_up",
        2,
        0.5,  # of its retries
        0.0,
    )
    assert views["every-day"].spec.excluded == ("12-25",)


def test_registering_again_changes_what_has_changed_and_leaves_the_rest(client):
    client.schedules.register(scheduled)
    client.schedules.pause(NAMES[0])
    before = client.schedules.get("every-day")

    told = client.schedules.register(scheduled, clean_up.options(retries=5), every_day)
    assert (told.added, told.changed, told.unchanged) == ([], [], NAMES)  # the first of a name counts
    told = client.schedules.register(clean_up.options(retries=5), every_day)
    assert (told.added, told.changed, told.unchanged) == ([], NAMES[:1], ["every-day"])

    view = client.schedules.get(NAMES[0])
    assert view is not None
    assert (view.spec.job.retries, view.is_paused) == (5, True)
    assert client.schedules.get("every-day") == before
    assert len(client.schedules.list()) == len(NAMES)  # nothing is removed


def test_many_processes_may_register_at_once(client):
    with ThreadPoolExecutor(4) as threads:
        told = list(threads.map(lambda _: client.schedules.register(scheduled), range(8)))

    assert sorted(name for each in told for name in each.added) == sorted(NAMES)
    assert all(not each.changed for each in told)


def test_the_job_of_a_schedule_is_a_call_of_the_function(client):
    client.schedules.register(scheduled)

    assert client.schedules.run(NAMES[0]).result(DEADLINE) == 10
    assert client.schedules.run(NAMES[2]).result(DEADLINE) == "Report"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (tasks.add, "has no schedule: put @bgd.job"),
        (tasks.square, "has no schedule: put @bgd.job"),
        (bgd.job(every="1h")(lambda: None), "a lambda"),
        (tasks.needs, "missing a required argument"),
    ],
)
def test_what_cannot_be_registered_is_a_type_error(client, source, message):
    with pytest.raises(TypeError, match=message):
        client.schedules.register(scheduled, source)

    assert client.schedules.list() == []


def test_a_name_that_no_schedule_can_have_is_refused(client):
    with pytest.raises(Refused, match=r"of tests.functions.scheduled:every_day: 'of two words' must be"):
        client.schedules.register(every_day.options(name="of two words"))
    with pytest.raises(Refused, match="both have the name 'every-day'"):
        client.schedules.register(every_day, Report.write.options(name="every-day"))


def test_options_that_make_no_sense_are_refused_where_they_are_written():
    with pytest.raises(Refused, match="not 4"):
        bgd.job(cron="0 3 * *")
    with pytest.raises(Refused, match="one of cron, calendar and every"):
        bgd.job(cron="0 3 * * *", every="1h")
    with pytest.raises(TypeError, match="timezone is for schedules: say when"):
        bgd.job(timezone="UTC")
    with pytest.raises(Refused, match="takes no key"):
        every_day.options(key="one").schedule_spec()


# --- many at once


def test_of_many_schedules_all_are_stored_or_none(client):
    good = {"argv": ["true"], "cron": "@daily"}
    with pytest.raises(Refused, match="fields"):
        client.schedules.add_many({"one": good, "two": {**good, "cron": "1 2 3"}})
    assert client.schedules.list() == []
    assert client.schedules.add_many({"one": good}).added == ["one"]
    with pytest.raises(Refused, match="a schedule one already"):
        client.schedules.add_many({"two": good, "one": good})
    assert [view.name for view in client.schedules.list()] == ["one"]
    told = client.schedules.add_many({"two": good, "one": {**good, "cron": "@hourly"}}, replace=True)

    assert (told.added, told.changed) == (["two"], ["one"])


def test_too_many_schedules_for_one_transaction_are_refused_before_they_are_sent(client):
    many = {f"s{number}": {"argv": ["true", "x" * 100_000], "cron": "@daily"} for number in range(11)}
    with pytest.raises(Refused, match=r"these 11 schedules take 1\d+ bytes: at most 1048476 fit"):
        client.schedules.add_many(many)
    most = {f"s{number}": {"argv": ["true"], "cron": "@daily", "check": False} for number in range(10_001)}
    with pytest.raises(Refused, match=r"these are 10001 schedules: a daemon takes at most 10000"):
        client.schedules.add_many(most)
