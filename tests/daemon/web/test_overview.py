"""The overview and the queues: what they show, where numbers lead, what they change, and what is live."""

from __future__ import annotations

import html
import re
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from bgd.core.job import State
from bgd.core.spec import NOTIFICATION_QUEUE
from bgd.daemon.queue_controls import queue_views
from bgd.daemon.storage.records import QueueControls
from bgd.daemon.storage.summaries import Count, Finished
from bgd.daemon.web import overview
from bgd.daemon.web.rendering import render
from bgd.settings.config import load
from tests.daemon.web.browsing import Browser
from tests.daemon.web.chromium import needs_chromium
from tests.daemon.web.test_actions import post
from tests.daemon.web.test_live import events_of
from tests.support import DEADLINE, serving


@pytest.fixture(scope="module")
def jobs(client):
    """Jobs of four names: one fails again and again, one has failed once, one is fine, one waits."""
    client.set_queue("mail", 2)
    submitted = [
        *(client.submit(["/bin/false"], name="always * fails", queue="mail") for _ in range(3)),
        client.submit(["/bin/false"], name="flaky"),
        client.submit(["/bin/true"], name="flaky"),
        client.submit(["/bin/true"], name="<b>fine</b>", queue="mail"),
    ]
    for job in submitted:  # one after the other, so that the latest is known
        client.wait([job.id], timeout=DEADLINE)
    return [*submitted, client.submit(["/bin/true"], name="waits", queue="held", hold=True)]


def link_behind(page, pattern):
    """Return the address of the link whose text the pattern finds."""
    return html.unescape(re.findall(rf'href="([^"]*)"[^>]*>{pattern}', page.text)[0])


def names_in(page):
    rows = re.findall(
        r'<tr role="row" id="(?:name|target)-[0-9a-f]{16}".*?<th[^>]*>(.*?)</th>', page.text, re.DOTALL
    )
    return [html.unescape(re.sub("<.*?>", "", row)) for row in rows]


# --- the overview


@pytest.mark.usefixtures("jobs")
def test_the_overview_shows_names_those_that_fail_first(browser):
    page = browser.get("/job-logs/overview")

    assert names_in(page) == ["always * fails", "<b>fine</b>", "flaky", "waits"]
    assert "3 in a row" in page.text
    assert "<b>fine" not in page.text


def test_names_as_json(browser, jobs):
    overview = browser.json("/job-logs/overview")
    fails, fine, flaky, waits = overview["names"]

    assert (fails["streak"], fails["runs"], fails["succeeded"]) == (3, 3, None)
    assert fails["failed"]["job"] == jobs[2].id
    assert (flaky["streak"], flaky["succeeded"]["job"], flaky["failed"]["job"]) == (0, jobs[4].id, jobs[3].id)
    assert fine["failed"] is None
    assert 0 < fine["median"] == fine["last_seconds"] < DEADLINE
    assert (waits["waiting"], waits["running"], waits["latest"]) == (1, 0, jobs[6].id)
    assert overview["hours"][-1] == {"done": 6, "failed": 4}
    assert overview["counts"]["held"] == 1
    assert (overview["left_out"], overview["has_more"]) == (0, False)


def test_names_and_numbers_lead_to_their_jobs(browser, jobs):
    page = browser.get("/job-logs/overview")

    assert browser.get(link_behind(page, r"always \* fails")).ids == [job.id for job in reversed(jobs[:3])]
    assert browser.get(link_behind(page, "3 in a row")).ids == [job.id for job in reversed(jobs[:3])]
    assert browser.get(link_behind(page, r"1</a></td>\s*</tr>")).ids == [jobs[6].id]
    failed = browser.get(link_behind(page, "4</a></dd>"))
    assert failed.ids == [job.id for job in reversed(jobs[:4])]
    latest = re.findall(r'href="(/job-logs/\d+)"><time', page.text)
    assert {int(each.rpartition("/")[2]) for each in latest} == {jobs[index].id for index in (2, 3, 4, 5)}


def test_failures_of_the_day_are_grouped_and_lead_to_their_jobs(browser, jobs):
    section = browser.get("/job-logs/overview").text.partition('id="failures"')[2].partition("</table>")[0]
    rows = re.findall(r"<tr.*?</tr>", section, re.DOTALL)[1:]

    assert ["exit code 1" in row for row in rows] == [True, True]
    assert [html.unescape(name) for name in re.findall('data-label="Name">(.*?)<', section)] == [
        "always * fails",
        "flaky",
    ]
    assert re.findall(r'href="/job-logs/(\d+)"', section) == [str(jobs[2].id), str(jobs[3].id)]
    [all_, _] = re.findall(r'href="(/job-logs\?[^"]*)"', section)
    assert browser.get(html.unescape(all_)).ids == [job.id for job in reversed(jobs[:3])]
    assert [each["jobs"] for each in browser.json("/job-logs/overview")["failures"]] == [3, 1]


@pytest.mark.usefixtures("jobs")
def test_the_chart_says_its_numbers_in_words(browser):
    page = browser.get("/job-logs/overview").text

    zeros = "0, " * 23
    text = f"Jobs done in each of the last 24 hours, oldest first: {zeros}6. Failed: {zeros}4."
    assert f'aria-label="{text}"' in page
    assert f"<title>{text}</title>" in page
    assert "style=" not in page


def test_an_empty_overview_teaches_how_to_name_a_job(own_daemon):
    page = Browser(own_daemon).log_in().get("/job-logs/overview").text

    assert "No job has a name yet." in page


def test_class_jobs_without_a_name_are_shown_by_target(own_daemon):
    own_daemon.stop()
    own_daemon.configure('[security]\nallowed_classes = ["json.*"]\n')
    own_daemon.start()
    with own_daemon.client() as client:
        client.wait(
            [client.call("json:dumps", [1]).id, client.call("json:loads", ["x"]).id], timeout=DEADLINE
        )
    browser = Browser(own_daemon).log_in()

    assert names_in(browser.get("/job-logs/overview")) == ["json:loads", "json:dumps"]
    assert [each["is_target"] for each in browser.json("/job-logs/overview")["names"]] == [True, True]
    page = browser.get("/job-logs/overview")
    assert browser.get(link_behind(page, "<code>json:loads")).ids == [2]
    assert browser.get(link_behind(page, "<code>json:dumps")).ids == [1]


# --- queues


@pytest.mark.usefixtures("jobs")
def test_the_queues_show_slots_jobs_and_what_ended(browser, client):
    client.pause("held")
    queues = {each["name"]: each for each in browser.json("/job-logs/queues")["queues"]}

    assert list(queues) == ["default", "held", "mail"]
    assert (queues["mail"]["slots"], queues["mail"]["configured_slots"]) == (2, None)
    assert [queues["mail"][name] for name in ("hour", "hour_failed", "day", "day_failed")] == [4, 3, 4, 3]
    assert (queues["held"]["paused"], queues["held"]["counts"]) == (True, {"held": 1})
    client.resume("held")


def test_numbers_of_a_queue_lead_to_its_jobs(browser, jobs):
    page = browser.get("/job-logs/queues")
    row = re.findall(r'id="queue-mail".*?</tr>', page.text, re.DOTALL)[0]
    listed = [browser.get(html.unescape(url)).ids for url in re.findall('href="([^"]*)"', row)]
    of_queue = [jobs[index].id for index in (5, 2, 1, 0)]

    assert listed == [of_queue, of_queue, of_queue[1:], of_queue, of_queue[1:]]


def test_slots_of_a_queue_and_of_the_daemon_are_set(daemon, client):
    page = Browser(daemon).log_in()
    assert post(page, "/job-logs/queues/mail/slots?value=7").json == {"queue": "mail", "slots": 7}
    assert [queue.slots for queue in client.queues().queues if queue.name == "mail"] == [7]
    assert post(page, "/job-logs/queues/mail/slots?value=").json == {"queue": "mail", "slots": None}
    assert [queue.slots for queue in client.queues().queues if queue.name == "mail"] == [None]
    configured = client.queues().slots
    assert post(page, "/job-logs/slots?value=9").status == 200
    assert client.queues().slots == 9
    post(page, "/job-logs/slots")
    assert client.queues().slots == configured


def test_a_queue_whose_jobs_have_ended_keeps_its_figures(daemon, client):
    client.submit(["/bin/true"], queue="over").wait(timeout=60)
    browser = Browser(daemon).log_in()

    [row] = [each for each in browser.json("/job-logs/queues")["queues"] if each["name"] == "over"]
    assert (row["counts"], row["day"]) == ({}, 1)
    assert 'id="queue-over"' in browser.get("/job-logs/queues").text


@pytest.mark.parametrize("value", ["0", "-1", "10001", "many", "1.5"])
@pytest.mark.parametrize("path", ["/job-logs/slots", "/job-logs/queues/mail/slots"])
def test_bad_slots_are_refused(daemon, client, path, value):
    before = client.queues().queues
    answered = post(Browser(daemon).log_in(), f"{path}?value={value}")

    assert (answered.status, f"slots: '{value}' must be" in answered.json["error"]) == (400, True)
    assert client.queues().queues == before


@pytest.mark.parametrize("path", ["/job-logs/overview", "/job-logs/queues"])
def test_these_pages_are_for_those_who_are_logged_in(daemon, path):
    assert Browser(daemon).get(path).status == 401
    assert Browser(daemon).get(f"{path}/live").status == 401


def test_sections_mark_the_current_one(browser, jobs):
    for path, here in (
        ("/job-logs/overview", "Overview"),
        ("/job-logs", "Jobs"),
        (f"/job-logs/{jobs[0].id}", "Jobs"),
        ("/job-logs/queues", "Queues"),
    ):
        assert re.findall('aria-current="true">(.*?)<', browser.get(path).text) == [here]
    assert "aria-current" not in browser.get("/job-logs/nothing").text


# --- live


def test_the_overview_tells_what_changed(daemon, client):
    with events_of(daemon, "/job-logs/overview/live?since=") as events:
        assert next(events) is None
        client.submit(["/bin/true"], name="new on the overview", hold=True)
        news = next(events)
        changed = "".join(news["parts"].values())
        while "new on the overview" not in changed:
            news = next(events)
            changed = "".join(news["parts"].values())

    row = next(id_ for id_, text in news["parts"].items() if "new on the overview" in text)
    assert row in news["order"]


def test_the_queues_tell_that_one_was_paused(daemon, client):
    with events_of(daemon, "/job-logs/queues/live?since=") as events:
        assert next(events) is None
        client.submit(["/bin/true"], queue="live", hold=True)
        changed = next(events)["parts"]
        while "queue-live" not in changed:
            changed = next(events)["parts"]
        client.pause("live")
        changed = next(events)["parts"]
        while "queue-live" not in changed:
            changed = next(events)["parts"]

    assert "paused" in changed["queue-live"]
    client.resume("live")


# --- in a browser


LIMITED = """
[daemon]
slots = 8
[queues.api]
rate = "1/1h"
weight = 3
[resources]
gpu = ["a"]
"""


def test_the_queues_show_rates_weights_and_resources():
    with serving(LIMITED, {}) as daemon, daemon.client() as client:
        client.submit(["/bin/true"], queue="api").wait(timeout=DEADLINE)
        client.submit(["/bin/true"], queue="api", resources={"gpu": 1})
        browser = Browser(daemon).log_in()
        found, page = browser.json("/job-logs/queues"), browser.get("/job-logs/queues").text

    api, default = found["queues"]
    assert [api[key] for key in ("rate", "weight")] == ["1/1h", 3]
    assert [default[key] for key in ("rate", "weight", "opens_at")] == [None, None, None]
    assert found["resources"] == [{"name": "gpu", "tokens": 1, "taken": 0, "waiting": 1}]
    assert re.search(rf'>1/1h <span class="next">next <time datetime="{api["opens_at"]}"', page)
    [row] = re.findall('<th role="rowheader" scope="row">gpu</th>.*?</tr>', page, re.DOTALL)
    assert re.findall(r'class="number">(\d+)<', row) == ["1", "0", "1"]


@needs_chromium
@pytest.mark.usefixtures("jobs")
def test_a_person_pauses_a_queue_and_sets_slots(chrome, client):
    tab = chrome.new_page()
    tab.set_default_timeout(1000 * DEADLINE)
    complaints = listen(tab, answer="3")
    tab.goto(client.login_link())
    tab.wait_for_url("**/job-logs")
    tab.click("nav.sections >> text=Queues")
    row = tab.locator("#queue-mail")
    row.locator("text=Pause").click()
    expect(row.locator(".badge")).to_have_text("paused")
    row.locator("text=Slots …").click()
    expect(row.locator("[data-label=Slots]")).to_have_text("3")
    row.locator("text=Resume").click()
    expect(row.locator(".badge")).to_have_count(0)
    tab.click("text=Pause all")
    expect(tab.locator("#banner")).to_contain_text("no job starts")
    tab.click("text=Resume all")
    expect(tab.locator("#banner")).not_to_contain_text("no job starts")

    assert complaints == []


@pytest.mark.parametrize(("name", "buttons"), [("mail", 2), (NOTIFICATION_QUEUE, 0)])
def test_nobody_can_change_the_queue_of_notifications(name, buttons):
    views = queue_views(load(environ={"HOME": "/"}), QueueControls(), {(name, State.QUEUED): 1}, {})
    [view] = [each for each in views if each.name == name]
    row = overview._queue_row(view, None, Finished(Count(), Count(), Count(), Count()))

    html = render("queue_row.html", {"row": row}, "", has_proxy_users=False)
    assert html.count("<button") == buttons
    assert "configured:" not in html


@needs_chromium
@pytest.mark.usefixtures("jobs")
def test_the_sections_fit_into_one_line_of_a_phone(chrome, client):
    tab = chrome.new_page(viewport={"width": 390, "height": 700})
    complaints = listen(tab)
    tab.goto(client.login_link())
    tab.wait_for_url("**/job-logs")
    for section in ("Overview", "Queues", "Schedules", "Batches", "Search"):
        tab.click(f"nav.sections >> text={section}")
        tops = tab.eval_on_selector_all(
            "header .brand, .sections a", "all => all.map(each => each.offsetTop)"
        )
        assert max(tops) - min(tops) < 10
        assert tab.evaluate("document.documentElement.scrollWidth") == 390

    tab.set_viewport_size({"width": 320, "height": 700})
    assert max(each["x"] + each["width"] for each in boxes(tab, ".sections a")) <= 320
    assert complaints == []


def boxes(tab: Page, selector: str) -> list[Any]:
    return [each.bounding_box() for each in tab.locator(selector).all()]


def listen(tab: Page, answer: str = "") -> list[str]:
    """Answer what the page asks; return the list that gets its errors."""
    complaints: list[str] = []
    tab.on("dialog", lambda dialog: dialog.accept(answer))
    tab.on("console", lambda message: complaints.append(message.text))
    tab.on("pageerror", lambda error: complaints.append(str(error)))
    return complaints
