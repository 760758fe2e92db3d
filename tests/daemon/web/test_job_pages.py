"""The page of a job: why it waits, its timeline, its attempts and its history, also while it is open."""

from __future__ import annotations

import html
import json
import re
from typing import Any

import pytest
from playwright.sync_api import expect

from bgd import JobSpec
from bgd.core.explain import Cause, Reason, words_of
from bgd.daemon.web.responses import render_part
from tests.daemon.web.browsing import Browser
from tests.daemon.web.chromium import needs_chromium
from tests.daemon.web.test_actions import post
from tests.daemon.web.test_live import open_pages
from tests.support import wait_until

SERVICES = "rates.service"


# One slot, and jobs that fail with a traceback
CONFIGURATION = f"""
[daemon]
slots = 1
[security]
allowed_classes = ["{SERVICES}.*"]
[python]
path = ["~"]
"""
SERVICE = """
import os
import bgd_job
def walk(count):
    for number in range(count):
        bgd_job.step(f"<b>{number}", int, number)
def fail(text):
    raise ValueError(text)
def fail_silently(text):
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    raise ValueError(text)
"""
pytestmark = pytest.mark.daemon(CONFIGURATION, {"rates/service.py": SERVICE})


@pytest.fixture
def client(daemon):
    with daemon.client() as client:
        yield client
        client.resume()
        client.cancel(
            [job.id for job in client.jobs(states=["held", "blocked", "scheduled", "queued", "running"])]
        )


@pytest.fixture
def browser(daemon):
    return Browser(daemon).log_in()


def why(browser, job) -> str:
    """Return the line of a page that says why its job waits, without markup."""
    line = browser.get(f"/job-logs/{job.id}").text.partition('<p class="why" id="why"')[2]
    if line.startswith(" hidden"):
        return ""
    return " ".join(re.sub("<[^>]*>", " ", line.partition(">")[2].partition("</p>")[0]).split())


def test_the_latest_steps_are_on_the_page_and_in_its_json(browser, client):
    job = client.call(f"{SERVICES}:walk", [101]).wait(60)
    none = client.call(f"{SERVICES}:walk", [0]).wait(60)

    text = browser.get(f"/job-logs/{job.id}").text
    told = browser.json(f"/job-logs/{job.id}")["steps"]

    assert "Earlier steps are not shown." in text
    assert "101: &lt;b&gt;100, done" in text
    assert [step["name"] for step in told] == [f"<b>{number}" for number in range(1, 101)]
    assert told[0].keys() == {"name", "state", "at", "seconds"}
    assert '<details class="history" id="steps" hidden>' in browser.get(f"/job-logs/{none.id}").text


# --- why it waits


def test_a_page_says_why_its_job_waits_in_the_words_of_show(daemon, client, browser):
    running = client.submit(["/bin/sleep", "600"])
    wait_until(lambda: client.job(running.id).state == "running")
    held = client.submit(["/bin/true"], hold=True)
    blocked = client.submit_many([JobSpec(argv=("/bin/true",), after=(held.id, running.id))])[0]
    first, second = client.submit(["/bin/true"]), client.submit(["/bin/true"])
    holder = f" by job {running.id}"  # `bgctl explain` names it on a line of its own

    expected = {
        running: "",
        held: f"Waits until bgctl release {held.id}",
        blocked: f"Waits for jobs {held.id}, {running.id}",
        first: f"Waits for the only slot: it is taken{holder}",
        second: f"Waits for the only slot: it is taken{holder}, and 1 job is before it",
    }
    assert {job: why(browser, job).replace(" ,", ",") for job in expected} == expected
    assert f'<a href="/job-logs/{held.id}">{held.id}</a>' in browser.get(f"/job-logs/{blocked.id}").text
    assert f'<a href="/job-logs/{running.id}">{running.id}</a>' in browser.get(f"/job-logs/{first.id}").text
    for job, text in expected.items():
        words = text.replace(holder, "")
        shown = daemon.bgctl("show", str(job.id)).stdout.replace("`", "")
        assert words.replace("Waits ", "  waits      ") in shown
        said = browser.json(f"/job-logs/{job.id}")["why_waiting"]
        assert (said or "").replace("`", "") == words.removeprefix("Waits ")


def test_the_holders_are_links_with_their_tokens_and_only_some_are_named():
    held: dict[str, Any] = {"holders": (3, 4), "held": ("0", "1"), "suspended": (3,), "other_holders": 2}
    reason = Reason(cause=Cause.TOKENS, subject="gpu", slots=4, taken=4, **held)

    text = render_part(
        "why.html", {"reasons": [(words_of(reason), reason)], "likely_start": None, "run": None}
    )

    assert '<a href="/job-logs/3">3</a> (0) (suspended),' in text
    words = " ".join(html.unescape(re.sub("<[^>]*>", "", text)).split())
    assert words == "Waits for 1 gpu: 4 of 4 are taken by jobs 3 (0) (suspended), 4 (1) and 2 more"


def test_the_holders_stand_behind_what_they_hold_back():
    head = Reason(cause=Cause.TURN, ahead=2, head=9, head_wants=3, slots=3, taken=2, holders=(4, 5))
    key = Reason(cause=Cause.LIMIT, subject="is taken, x", slots=1, taken=1, ahead=39, holders=(481,))
    reasons = [(words_of(each), each) for each in (key, head)]

    text = render_part("why.html", {"reasons": reasons, "likely_start": None, "run": None})

    assert 'behind job <a href="/job-logs/9">9</a>, which' in text
    assert " ".join(html.unescape(re.sub("<[^>]*>", "", text)).split()) == (
        "Waits for limit is taken, x: 1 of 1 is taken by job 481, and 39 jobs are before it,"
        " then behind job 9, which needs 3 slots; 2 are taken by jobs 4, 5, and 2 jobs are before it"
    )


def test_explain_names_everything_in_the_words_of_show(daemon, client, browser):
    running = client.submit(["/bin/sleep", "600"], name="long")
    wait_until(lambda: client.job(running.id).state == "running")
    held = client.submit(["/bin/true"], hold=True, after=[running], delay=3600)
    queued = client.submit(["/bin/true"])

    assert [words_of(reason) for reason in held.explain().reasons] == [
        f"until `bgctl release {held.id}`",
        "until",
        "for job",
    ]
    assert daemon.bgctl("explain", str(queued.id)).stdout.splitlines() == [
        f"Job {queued.id} (/bin/true): queued, and waits",
        "  for the only slot: it is taken",
        f"    held by job {running.id}",
        "Likely start: not known",  # nobody knows how long the other one takes
    ]
    assert daemon.bgctl("explain", str(running.id)).stdout == (
        f"Job {running.id} (long): running; nothing blocks it\n"
    )
    client.pause()
    explained = json.loads(daemon.bgctl("explain", "--json", str(queued.id)).stdout)
    page = browser.json(f"/job-logs/{queued.id}")
    assert explained == {"id": queued.id, "state": "queued"} | {name: page[name] for name in EXPLAINED}
    assert [reason["cause"] for reason in explained["reasons"]] == ["pause", "slots"]


def test_the_likely_start_is_unknown_while_a_job_takes_longer_than_usual(daemon, client, browser):
    client.submit(["/bin/true"], name="usual").wait()
    running = client.submit(["/bin/sleep", "600"], name="usual")
    wait_until(lambda: client.job(running.id).state == "running")
    queued = client.submit(["/bin/true"], name="usual")

    assert daemon.bgctl("explain", str(queued.id)).stdout.endswith("\nLikely start: not known\n")
    assert queued.explain().likely_start_at is None
    assert browser.json(f"/job-logs/{queued.id}")["likely_start_at"] is None


EXPLAINED = ("why_waiting", "reasons", "likely_start_at")


def test_a_scheduled_job_counts_down_to_its_time(client, browser):
    job = client.submit(["/bin/true"], delay=3600)
    due = client.job(job.id).due_at
    words = why(browser, job)

    assert re.fullmatch(r"Waits until \d{4}-\d\d-\d\d \d\d:\d\d:\d\d \( in (59m\d+s|1h) \) Run now", words)
    assert due is not None
    assert (
        browser.json(f"/job-logs/{job.id}")["why_waiting"]
        == f"until {browser.json(f'/job-logs/{job.id}')['due_at']}"
    )


@needs_chromium
def test_an_open_page_follows_the_reason_and_its_place_in_the_queue(tab, client):
    running = client.submit(["/bin/sleep", "600"])
    wait_until(lambda: client.job(running.id).state == "running")
    first, job = client.submit(["/bin/true"]), client.submit(["/bin/true"])
    tab.goto(f"{open_pages(tab, client)}/{job.id}")
    reason = tab.locator("#why")
    holder = f" by job {running.id}"
    expect(reason).to_have_text(f"Waits for the only slot: it is taken{holder}, and 1 job is before it")
    tab.evaluate("window.isSamePage = true")
    client.cancel([first.id])
    expect(reason).to_have_text(f"Waits for the only slot: it is taken{holder}")
    client.pause()
    expect(reason).to_have_text("Waits until bgctl resume: all queues are paused")
    client.resume()
    client.pause("default")
    expect(reason).to_have_text("Waits until bgctl resume default: its queue is paused")
    client.resume("default")
    client.set_slots(2)
    expect(reason).to_be_hidden()
    expect(tab.locator("h1 .badge")).to_have_text("succeeded")
    client.set_slots(None)
    assert tab.evaluate("window.isSamePage")


@needs_chromium
def test_an_open_page_names_the_jobs_that_need_its_job(tab, client):
    first = client.submit(["/bin/true"], hold=True)
    tab.goto(f"{open_pages(tab, client)}/{first.id}")
    needed = tab.locator("#needed")
    expect(needed).to_be_hidden()
    [second] = client.submit_many([JobSpec(argv=("/bin/true",), after=(first.id,))])
    expect(needed).to_have_text(f"Needed by job {second.id}, which waits for its end.")
    third = client.submit_many([JobSpec(argv=("/bin/true",), after_any=(first.id,))])[0]
    expect(needed).to_have_text(f"Needed by job {second.id}, job {third.id}, which wait for its end.")
    needed.locator("a").first.click()
    expect(tab.locator("h1")).to_contain_text(f"Job {second.id}")
    expect(needed).to_be_hidden()
    client.release([first.id])
    client.wait([first.id, second.id, third.id])


def test_a_click_skips_the_countdown(tab, client):
    job = client.submit(["/bin/true"], delay=3600)
    tab.goto(f"{open_pages(tab, client)}/{job.id}")
    expect(tab.locator("#why time")).to_have_text(re.compile(r"in 59m\d+s"))
    tab.click("text=Run now")
    expect(tab.locator("h1 .badge")).to_have_text("succeeded")
    expect(tab.locator("#why")).to_be_hidden()


# --- attempts


@needs_chromium
def test_all_attempts_but_the_latest_are_folded_and_stay_as_they_are_put(tab, client):
    job = client.submit(["/bin/sh", "-c", "echo try $BGD_ATTEMPT; exit 3"], retries=1, retry_delay=0)
    client.wait([job.id])
    tab.goto(f"{open_pages(tab, client)}/{job.id}")
    expect(tab.locator("#attempt-2 pre")).to_be_visible()
    expect(tab.locator("#attempt-1 pre")).to_be_hidden()
    assert "exit code 3" in tab.locator("#attempt-1-head").inner_text()
    assert "ran " in tab.locator("#attempt-1-head").inner_text()
    tab.click("#attempt-1-head")
    tab.click("#attempt-2-head")
    client.retry([job.id])
    expect(tab.locator("#attempt-4 pre")).to_be_visible()

    expect(tab.locator("h1 .badge")).to_have_text("failed")
    expect(tab.locator("#attempt-1 pre")).to_be_visible()
    expect(tab.locator("#attempt-2 pre")).to_be_hidden()


def test_a_traceback_stands_once(client, browser):
    names = ("fail", "fail_silently")
    logged, silent = (client.call(f"{SERVICES}:{name}", ["no rates"], retries=0) for name in names)
    client.wait([logged.id, silent.id])

    for job in (logged, silent):
        page = browser.get(f"/job-logs/{job.id}").text
        assert page.count("Traceback (most recent call last)") == 1
        assert '<p class="error">ValueError: no rates</p>' in page
    assert '<pre class="traceback"' in page


# --- timeline, history and what is beside them


def test_the_timeline_shows_runs_pauses_and_what_is_due_to_scale(client, browser):
    job = client.submit(["/bin/sh", "-c", "exit 1"], retries=3, retry_delay=3600, jitter=0)
    wait_until(lambda: client.job(job.id).state == "scheduled")
    looks = bars(browser, job)
    assert [look for look, _ in looks if look != "wait"] == ["failed", "pending"]
    assert looks[-1][1] > 980  # an hour beside some milliseconds
    assert "attempt 2 is due 1h later" in browser.get(f"/job-logs/{job.id}").text


def bars(browser, job) -> list[tuple[str, float]]:
    found = re.findall(
        r'<rect class="(\w+)" x="[\d.]+" width="([\d.]+)">', browser.get(f"/job-logs/{job.id}").text
    )
    return [(look, float(width)) for look, width in found]


def test_the_history_says_who_did_what(client, browser):
    job = client.submit(["/bin/false"], hold=True)
    assert post(browser, f"/job-logs/{job.id}/release").status == 200
    client.wait([job.id])
    user = client.job(job.id).user
    lines = re.findall(
        r"<li><time[^>]*>[^<]*</time> <span>([^<]*)</span>", browser.get(f"/job-logs/{job.id}").text
    )
    assert lines == [
        f"submitted by {user}",
        f"released by {user}, on the page",
        "attempt 1 started",
        "attempt 1 failed (exit code 1)",
    ]


@needs_chromium
def test_an_open_page_adds_to_the_history(tab, client):
    job = client.submit(["/bin/true"], delay=3600)
    tab.goto(f"{open_pages(tab, client)}/{job.id}")
    tab.click("#history summary")
    tab.click("text=Hold")
    expect(tab.locator("#history li")).to_have_count(2)
    expect(tab.locator("#history li").last).to_contain_text("held by ")
    expect(tab.locator("#history li").last).to_be_visible()


def test_variables_are_named_without_their_values(client, browser):
    job = client.submit(["/bin/true"], env={"API_KEY": "hunter2"}, hold=True)
    page = browser.get(f"/job-logs/{job.id}").text

    assert "<code>API_KEY</code>" in page
    assert "hunter2" not in page


def test_queue_name_and_tags_lead_to_lists_of_jobs_that_share_them(client, browser):
    job = client.submit(["/bin/true"], queue="mail", name="a & [b]*", tags=["t/1"], hold=True)
    client.submit(["/bin/true"], name="a & b", hold=True)
    page = browser.get(f"/job-logs/{job.id}").text
    links = re.findall(r'href="(/job-logs\?[^"]*)"', page.partition("<main>")[2])

    assert len(links) == 3
    for link in links:
        assert browser.get(html.unescape(link)).ids == [job.id]
