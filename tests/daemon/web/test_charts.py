"""Charts: what the page shows of counts, what a screen reader reads, and what changes while it is open."""

from __future__ import annotations

import re

import pytest
from axe_playwright_python.sync_playwright import Axe  # type: ignore[import-untyped]  # it has no types
from playwright.sync_api import expect

from bgd.core.job import Outcome
from bgd.daemon.storage.activity import OTHER, Counts, bucket_of
from bgd.daemon.storage.summaries import SlotRun
from bgd.daemon.web import charts
from bgd.daemon.web.charts import MAX_ROWS, SPANS, ChartQuery
from tests.daemon.web.chromium import needs_chromium
from tests.support import DEADLINE

BEGIN = 1_699_999_200  # a full minute


def columns(*counts, span="1h"):
    """Return the columns of a time that ends with these."""
    return [*(Counts() for _ in range(SPANS[span].count - len(counts))), *counts]


def shown(found, **query):
    return charts._shown(ChartQuery(**{"span": "1h", **query}), BEGIN, found)


def test_a_queue_has_its_sums_and_the_busiest_come_first():
    times = {bucket_of(2.0): 19, bucket_of(100.0): 1}
    mail = Counts(12, 90.0, {Outcome.SUCCEEDED: 9, Outcome.EXIT: 2, Outcome.TIMEOUT: 1}, {}, times, times)
    few = Counts(started=1, slot_seconds=360.0)
    values = shown({"default": columns(few), "mail": columns(mail, mail), OTHER: columns(few)})

    assert [row["label"] for row in values["rows"]] == ["mail", "default", "Other queues"]
    row = values["rows"][0]
    assert (row["started"], row["failed"], row["slots"]) == ("24", 6, "0.05")
    assert re.fullmatch(r"(1\.[89]|2\.[012])s / (1\.[89]|2\.[012])s", row["wait"])
    assert [look for look, _ in row["ended"]] == ["failed", "succeeded"]
    totals = dict(values["totals"])
    assert (totals["started"], totals["succeeded"], totals["exit"], totals["timeout"]) == (
        "26",
        "18",
        "4",
        "2",
    )
    assert [words for words, _, is_shown in values["spans"] if is_shown] == ["1 hour"]


def test_the_charts_of_one_name_lead_to_its_jobs_and_say_each_column():
    count = Counts(started=3, outcomes={Outcome.OOM: 1}, slot_seconds=30.0)
    values = shown({"a": columns(count), "b": columns(Counts(started=1))}, by="name", of="a")

    attempts, waited, _, slots = values["plots"]
    assert attempts["places"][-1][1].endswith(": 3 started, 1 oom")
    assert attempts["looks"] == ["started", "failed"]
    assert waited["places"][-1][1].endswith(charts.NONE)
    assert slots["places"][-1][1].endswith(": 0.50 slots")
    assert [numbers for _, numbers in values["columns"]] == [
        ["3", "0", "0", "0", "1", charts.NONE, charts.NONE, "0.50"]
    ]
    assert values["list_url"] == "/job-logs?q=name:=a"
    assert shown({}, by="name", of=OTHER)["list_url"] is None
    assert shown({}, of="gone")["columns"] == []


def test_all_but_the_busiest_share_a_row():
    found = {f"name-{number:02}": columns(Counts(started=number)) for number in range(1, MAX_ROWS + 3)}
    rows = shown({**found, OTHER: columns(Counts(started=9))}, by="name")["rows"]

    assert len(rows) == MAX_ROWS + 1
    assert (rows[0]["label"], rows[-1]["label"], rows[-1]["started"]) == (
        f"name-{MAX_ROWS + 2}",
        "No name, and other names",
        "12",
    )


def test_attempts_stand_in_their_slots_where_they_ran():
    now = 10_000.0
    runs = [
        SlotRun(3, "long", 2, now - 1800.0, None, None),
        SlotRun(1, None, 1, now - 7200.0, now - 2700.0, Outcome.SUCCEEDED),
        SlotRun(2, "oops", 1, now - 360.0, now - 359.0, Outcome.TIMEOUT),
        SlotRun(4, "far", 0, now - 360.0, None, None),
    ]
    first, second = charts._slot_rows(runs, now)

    assert [(row["slot"], row["busy"]) for row in (first, second)] == [(1, "25%"), (2, "50%")]
    assert [(job, look, path) for job, look, path, _ in first["runs"]] == [
        (1, "succeeded", "M0 0h150v100h-150z"),
        (2, "failed", "M540 0h1.5v100h-1.5z"),
    ]
    assert second["runs"][0][:3] == (3, "started", "M300 0h300v100h-300z")
    assert first["runs"][1][3].endswith(" job 2 oops: timeout, 1.0s")


def test_slots_are_not_called_busy_by_a_part_of_what_ran():
    runs = [SlotRun(1, None, 1, 0.0, 900.0, Outcome.SUCCEEDED)]

    assert [row["busy"] for row in charts._slot_rows(runs, 3600.0)] == ["25%"]
    assert [row["busy"] for row in charts._slot_rows(runs, 3600.0, is_whole=False)] == ["-"]


@pytest.mark.parametrize("query", ["span=2h", "by=user"])
def test_a_query_that_cannot_be_understood_is_refused(browser, query):
    assert browser.get(f"/job-logs/charts?{query}").status == 400


@needs_chromium
def test_charts_are_read_without_script_pointed_at_and_live(tab, client):
    client.wait([client.submit(["/bin/false"], name="<i>fails</i>", queue="mail").id], timeout=DEADLINE)
    tab.goto(client.login_link())
    tab.wait_for_url("**/job-logs")
    tab.goto(tab.url + "/overview")
    tab.click("text=Charts")
    row = tab.locator("#ordered tr", has_text="mail")
    expect(row.locator("[data-label=Failed]")).to_have_text("1")
    assert row.locator("path.failed").count() == 1
    tab.click("text=As a table")
    lines = tab.locator(".scrolled tbody tr")
    expect(lines).to_have_count(1)
    expect(lines.locator("td").nth(4)).to_have_text("1")
    for scheme, width in (("light", 390), ("dark", 1280)):
        tab.emulate_media(color_scheme=scheme)
        tab.set_viewport_size({"width": width, "height": 900})
        assert [each["id"] for each in Axe().run(tab).response["violations"]] == []
        assert tab.evaluate("document.documentElement.scrollWidth") <= width

    client.wait([client.submit(["/bin/true"], name="works", queue="mail").id], timeout=DEADLINE)
    expect(row.locator("[data-label=Started]")).to_have_text("2", timeout=1000 * DEADLINE)
    expect(lines.locator("td").nth(1)).to_have_text("1")  # the table is still open
    tab.click(".tabs >> text=1 hour")
    expect(tab.locator(".lanes a")).to_have_count(2)
    assert "<i>fails</i>: exit" in tab.locator(".lanes").text_content()
    assert [each["id"] for each in Axe().run(tab).response["violations"]] == []
    tab.click(".tabs >> text=By name")
    tab.click("#ordered >> text=<i>fails</i>")
    expect(tab.locator("#charts h2")).to_contain_text("<i>fails</i> in the last hour")
    assert "1 started, 1 exit" in tab.locator(".plot").first.text_content()
    tab.click("#charts >> text=Jobs")
    expect(tab.locator("tbody tr")).to_have_count(1)
