"""Time zones by name, and by POSIX rules as the C library reads them."""

from __future__ import annotations

import shutil
import time
from datetime import datetime, timedelta

import pytest

from bgd.system import timezones

RULES = [
    "CET-1CEST,M3.5.0,M10.5.0/3",
    "EST5EDT4,M3.2.0/2,M11.1.0/2",
    "AEST-10AEDT,M10.1.0,M4.1.0/3",
    "<-03>3<-02>,M3.5.0/-2,M10.5.0/-1",
    "<+0330>-3:30",
    "UTC0",
]


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize("rule", RULES)
def test_a_rule_in_the_variable_tz_is_read_as_by_the_c_library(monkeypatch, rule):
    monkeypatch.setenv("TZ", rule)
    time.tzset()
    zone = timezones.zone(None)

    assert timezones.machine_zone() == rule
    for at in range(1_767_225_600, 1_830_000_000, 1800):  # two years of half hours
        offset = datetime.fromtimestamp(at, zone).utcoffset()
        assert offset is not None
        assert offset.total_seconds() == time.localtime(at).tm_gmtoff, time.gmtime(at)


@pytest.mark.parametrize(
    ("value", "name"),
    [
        ("Europe/Paris", "Europe/Paris"),
        (":Europe/Paris", "Europe/Paris"),
        ("/usr/share/zoneinfo/Europe/Paris", "Europe/Paris"),
        (":/usr/share/zoneinfo/Europe/Paris", "Europe/Paris"),
    ],
)
def test_the_variable_tz_names_a_zone_or_its_file(monkeypatch, value, name):
    monkeypatch.setenv("TZ", value)

    assert timezones.machine_zone() == name
    assert str(timezones.zone(None)) == name


@pytest.mark.parametrize("value", ["", ":", ":/etc/localtime"])
def test_otherwise_the_zone_is_that_of_the_machine(monkeypatch, value):
    monkeypatch.delenv("TZ", raising=False)
    of_machine = timezones.machine_zone()
    monkeypatch.setenv("TZ", value)

    assert timezones.machine_zone() == of_machine


@pytest.mark.parametrize(
    "name", ["CET-1CEST", "Mars/Phobos", "Europe", "leapseconds", "../../etc/passwd", "A" * 200]
)
def test_what_is_no_zone_is_refused(name):
    assert not timezones.is_zone(name)


def test_an_offset_that_posix_turns_around_is_explained():
    problem = timezones.problem_with_zone("UTC+2")

    assert problem == (
        "'UTC+2' is 2 h behind UTC by the rules of POSIX: write '<-02>+2' or a name such as Europe/Paris"
    )
    assert timezones.zone("<-02>+2").utcoffset(datetime(2026, 1, 1)) == timedelta(hours=-2)  # noqa: DTZ001
    assert [timezones.problem_with_zone(name) for name in ("UTC", "CET-1", "Etc/GMT-2")] == [None] * 3


def test_a_zone_that_is_a_plain_file_is_read_again_once_the_file_is_another(tmp_path, monkeypatch):
    monkeypatch.delenv("TZ", raising=False)
    local = tmp_path / "localtime"
    monkeypatch.setattr(timezones, "_LOCALTIME", local)
    shutil.copy("/usr/share/zoneinfo/Asia/Tokyo", local)
    tokyo = timezones.zone(None)
    assert timezones.zone(None) is tokyo
    local.unlink()
    shutil.copy("/usr/share/zoneinfo/America/New_York", local)

    assert timezones.machine_zone() == "localtime"
    hours = [datetime.fromtimestamp(0, zone).hour for zone in (tokyo, timezones.zone(None))]
    assert hours == [9, 19]
