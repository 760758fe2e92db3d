"""The schedules in the browser: all of them, the history of one, and what can be done to them."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Page, expect

from tests.daemon.web.chromium import needs_chromium
from tests.daemon.web.test_actions import post
from tests.support import DEADLINE


@pytest.fixture(scope="module")
def client(daemon):
    with daemon.client() as client:
        client.schedules.add(
            "nightly", ["true", "<b>x</b>"], cron="0 3 * * *", timezone="Europe/Paris", replace=True
        )
        client.schedules.add("rare", ["true"], cron="0 0 29 2 *", replace=True)
        yield client


def test_the_page_lists_schedules_with_their_next_times(browser, client):
    del client
    page = browser.get("/job-logs/schedules")

    names = re.findall(r'<tr role="row" id="schedule-([\w.-]+)"', page.text)
    assert {"nightly", "rare"} <= set(names)
    assert "&lt;b&gt;x&lt;/b&gt;" in page.text
    assert " 03:00:00 CET" in page.text


def test_json_has_the_schedules(browser, client):
    del client
    found = {
        each["name"]: each for each in browser.get("/job-logs/schedules", "Accept: application/json").json
    }

    assert found["nightly"]["spec"]["cron"] == "0 3 * * *"
    assert found["nightly"]["timezone"] == "Europe/Paris"


def test_the_page_of_a_schedule_shows_its_history(browser, client):
    job = client.schedules.run("rare")
    page = browser.get("/job-logs/schedules/rare")

    assert f'href="/job-logs/{job.id}"' in page.text
    assert "run by " in page.text
    assert page.text.count(" 00:00:00 ") == 5


def test_the_page_of_a_schedule_shows_how_it_runs(browser, client):
    client.schedules.add(
        "careful",
        ["true"],
        every="1h",
        overlap="replace",
        missed="latest",
        missed_within="2h",
        late_after="10m",
        excluded=["12-25"],
        timeout="5m",
        queue="mail",
        tags=["<i>"],
    )
    page = browser.get("/job-logs/schedules/careful").text

    assert (
        dict(re.findall("<dt>([^<]*)</dt><dd>([^<]*)</dd>", page)).items()
        >= {
            "If the last job still runs": "cancel it",
            "If missed": "run the latest, if not older than 2h",
            "Late after": "10m",
            "Not on": "12-25",
            "Time limit": "5m",
            "Queue": "mail",
            "Tags": "&lt;i&gt;",
        }.items()
    )


def test_the_history_does_not_name_a_job_that_was_removed(browser, client):
    job = client.schedules.run("rare")
    job.wait(timeout=DEADLINE)
    client.remove([job.id])

    assert client.schedules.history("rare", limit=1)[0].job is None
    assert f'href="/job-logs/{job.id}"' not in browser.get("/job-logs/schedules/rare").text
    assert f'href="/job-logs/{job.id}"' not in browser.get("/job-logs/schedules").text


def test_a_removed_schedule_has_a_page_and_an_unknown_one_has_none(browser, client):
    client.schedules.add("gone", ["true"], cron="@daily")
    client.schedules.run("gone").wait(timeout=DEADLINE)
    client.schedules.remove("gone")

    assert "removed" in browser.get("/job-logs/schedules/gone").text
    assert browser.get("/job-logs/schedules/never-was").status == 404


def test_a_schedule_is_paused_resumed_and_run_with_the_name_of_who_did_it(browser, client):
    assert post(browser, "/job-logs/schedules/nightly/pause").json == {"name": "nightly", "paused": True}
    assert client.schedules.get("nightly").is_paused
    assert "paused" in browser.get("/job-logs/schedules/nightly").text
    post(browser, "/job-logs/schedules/nightly/resume")
    job = post(browser, "/job-logs/schedules/nightly/run").json["id"]

    row = client.schedules.history("nightly")[0]
    assert row.job == job
    assert row.reason.endswith(", on the page")


@pytest.mark.parametrize(("verb", "status"), [("run", 404), ("pause", 404), ("remove", 405)])
def test_what_cannot_be_done_is_refused(browser, verb, status):
    assert post(browser, f"/job-logs/schedules/never-was/{verb}").status == status


@needs_chromium
def test_the_page_is_live_and_its_buttons_work(chrome, client):
    page: Page = chrome.new_page()
    page.goto(client.login_link())
    page.wait_for_url("**/job-logs")
    page.get_by_role("link", name="Schedules").click()
    row = page.locator("#schedule-nightly")
    client.schedules.pause("nightly")
    expect(row.get_by_text("paused")).to_be_visible()
    row.get_by_role("button", name="Resume").click()
    expect(row.get_by_role("button", name="Pause")).to_be_visible()
    row.get_by_role("button", name="Run now").click()
    expect(row.locator(".badge.succeeded")).to_be_visible()
    page.mouse.move(0, 0)  # rows stay where they are under a pointer
    client.schedules.add("fresh", ["true"], cron="@daily", replace=True)
    expect(page.locator("#schedule-fresh")).to_be_visible()
    client.schedules.add("failing", ["/bin/false"], cron="@daily", replace=True)
    page.goto(page.url + "/failing")
    expect(page.locator("#times")).to_contain_text("It has not been due yet.")
    run = page.get_by_role("button", name="Run now")
    run.dblclick()
    expect(page.locator("#times .badge")).to_have_text(["exit code 1"])
    expect(page.locator("#times .strip .failed")).to_have_count(1)
    page.get_by_role("button", name="Pause").click()
    expect(page.get_by_role("button", name="Resume")).to_be_visible()
    assert len(client.schedules.history("failing")) == 1  # of two clicks
    run.focus()
    for _ in range(100):
        page.keyboard.down("Enter")  # which repeats
    expect(page.locator("#times .badge")).to_have_text(["exit code 1"] * 2)
    page.get_by_role("button", name="Resume").click()
    expect(page.get_by_role("button", name="Pause")).to_be_visible()
    assert len(client.schedules.history("failing")) == 2
    client.schedules.remove("failing")
    expect(page.locator("h1")).to_contain_text("removed")
    job = client.jobs(name="failing")[0]
    page.get_by_role("button", name="Run now").wait_for(state="detached")
    page.locator("#times a").first.click()
    expect(page.locator("h1")).to_contain_text(f"Job {job.id}")
