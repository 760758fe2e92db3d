"""What pages may do: one action, an action on all that match, and who is refused."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest
from playwright.sync_api import Dialog, expect

from bgd.daemon.web import actions
from tests.daemon.web.browsing import Browser
from tests.daemon.web.chromium import needs_chromium
from tests.support import DEADLINE, wait_until

pytestmark = pytest.mark.daemon("""
[notify.broken]
program = ["/bin/false"]
""")


def post(browser: Browser, path: str, *headers: str):
    own = ["Sec-Fetch-Site: same-origin", f"X-Bgd-Token: {browser.token}", "Accept: application/json"]
    return browser.get(path, *own, *headers, method="POST")


def progress_of(answered) -> list[dict[str, object]]:
    return [json.loads(found) for found in re.findall("data: (.*)", answered.text)]


def history(client, job):
    return [(event.what, event.by) for event in client.events(since=0, follow=False) if event.job == job.id]


# --- one job


def test_a_job_is_held_released_and_cancelled_and_its_history_says_by_whom(client, browser):
    job = client.submit(["/bin/true"], delay=300)
    states = [
        post(browser, f"/job-logs/{job.id}/{verb}").json["state"] for verb in ("hold", "release", "cancel")
    ]

    assert states == ["held", "scheduled", "cancelled"]
    assert {by for what, by in history(client, job) if what != "submit"} == {
        f"{job.refresh().user}, on the page"
    }


def test_a_job_that_waits_for_a_retry_runs_now(client, browser):
    job = client.submit(["/bin/sh", "-c", 'test "$BGD_ATTEMPT" = 2'], retries=1, retry_delay=3600)
    wait_until(lambda: client.job(job.id).state == "scheduled")
    assert post(browser, f"/job-logs/{job.id}/run").status == 200
    assert job.wait(timeout=DEADLINE).state == "succeeded"


def test_a_running_job_is_suspended_and_continued(client, browser):
    job = client.submit(["/bin/sleep", "60"])
    wait_until(lambda: client.job(job.id).state == "running")
    assert post(browser, f"/job-logs/{job.id}/suspend").json["state"] == "running"
    assert client.job(job.id).suspended
    shown = browser.get(f"/job-logs/{job.id}").text
    assert '<span class="badge held">suspended</span></h1>' in shown
    assert '<h2>Attempt 1</h2> <span class="badge held">suspended</span>' in shown
    assert "attempt 1: suspended, started " in shown
    assert post(browser, f"/job-logs/{job.id}/continue").status == 200
    assert not client.job(job.id).suspended
    assert post(browser, f"/job-logs/{job.id}/cancel").json["state"] == "stopping"


def test_the_priority_of_a_waiting_job_is_changed(client, browser):
    job = client.submit(["/bin/true"], hold=True)
    assert post(browser, f"/job-logs/{job.id}/priority?value=-7").status == 200
    assert client.job(job.id).priority == -7
    for value, message in (
        ("1001", "priority: '1001' must be a whole number from -1000 to 1000."),
        ("high", "priority: 'high' must be a whole number from -1000 to 1000."),
        ("", "priority: a value is missing."),
    ):
        refused = post(browser, f"/job-logs/{job.id}/priority?value={value}")
        assert (refused.status, refused.json["error"]) == (400, message)


@pytest.mark.parametrize(
    ("path", "status", "message"),
    [
        ("/job-logs/999999/cancel", 404, "no job 999999"),
        ("/job-logs/{finished}/cancel", 409, "has already finished"),
        ("/job-logs/{finished}/eat", 404, "There is no action 'eat'."),
        ("/job-logs/all/eat", 404, "There is no action 'eat'."),
        ("/job-logs/all/cancel?state=bogus", 400, "There is no state 'bogus'"),
        (
            "/job-logs/all/cancel?ids=1,x",
            400,
            "ids: ['1', 'x'] must be a list of at most 500, each a whole number from 1",
        ),
        ("/job-logs/all/cancel?ids=" + "1," * 500 + "1", 400, "must be a list of at most 500, each"),
        ("/job-logs/all/cancel?ids=", 400, "ids"),
        ("/job-logs/batches/999/cancel", 404, "There is no batch 999."),
        ("/job-logs", 405, "This can only be read"),
    ],
)
def test_what_cannot_be_done_says_why(client, browser, path, status, message):
    finished = client.submit(["/bin/true"]).wait(timeout=DEADLINE)
    answered = post(browser, path.format(finished=finished.id))

    assert answered.status == status
    assert message in answered.json["error"]


# --- many jobs


def test_all_that_match_are_retried_and_others_are_not(client, browser):
    failed = client.submit_many([{"argv": ["/bin/false"], "queue": "many"}] * 5)
    others = [client.submit(["/bin/false"], queue="other"), client.submit(["/bin/true"], queue="many")]
    cancelled = client.submit(["/bin/true"], queue="many", hold=True)
    cancelled.cancel()
    client.wait([*failed, *others], timeout=DEADLINE)
    client.pause("many")

    path = "/job-logs/all/retry?queue=many"
    page = browser.get("/job-logs?q=queue:many").text
    assert re.search(r">Retry all 5 that match…<", page)
    assert browser.json("/job-logs/all/retry?q=queue:many+state:cancelled") == {"count": 1}
    assert ">Retry the 1 that matches…<" in browser.get("/job-logs?q=queue:many+state:cancelled").text
    assert browser.json(path) == {"count": 5}
    assert progress_of(post(browser, path)) == [{"done": 5, "of": 5, "refused": 0, "why": []}, {"end": True}]
    assert {client.job(job.id).state for job in failed} == {"queued"}
    assert [client.job(job.id).state for job in [*others, cancelled]] == ["failed", "succeeded", "cancelled"]
    client.resume("many")


def test_jobs_that_come_along_with_a_retry_are_named(client, browser):
    first = client.submit(["/bin/false"], hold=True, queue="line")
    second = client.submit(["/bin/true"], after=[first])
    first.release()
    client.wait([first, second], timeout=DEADLINE)
    client.pause("line")

    retried = post(browser, f"/job-logs/{first.id}/retry").json
    words = f"also {second.id}, cancelled because of it"
    assert (retried["along"], retried["words"]) == ([second.id], f"Job {first.id} is queued; {words}.")
    history = browser.get(f"/job-logs/{second.id}").text
    assert "retried; has to wait for other jobs" in history
    client.resume("line")
    client.wait([first, second], timeout=DEADLINE)
    client.pause("line")
    [progress, _] = progress_of(post(browser, f"/job-logs/all/retry?ids={first.id}"))
    assert progress["also"] == f"; {words}"
    client.resume("line")


def test_chosen_jobs_are_acted_on_where_their_state_allows_it(client, browser):
    held = [client.submit(["/bin/true"], hold=True) for _ in range(3)]
    finished = client.submit(["/bin/true"]).wait(timeout=DEADLINE)
    path = f"/job-logs/all/cancel?ids={held[0].id},{finished.id},{held[2].id},999999"

    assert browser.json(path) == {"count": 2}
    assert progress_of(post(browser, path))[0]["done"] == 2
    assert [client.job(job.id).state for job in held] == ["cancelled", "held", "cancelled"]
    counts = {"retry": 3, "hold": 0, "release": 1, "cancel": 1, "remove": 3}
    assert browser.json(f"{path.replace('/cancel', '')},{held[1].id}") == counts
    assert browser.json("/job-logs/all") == dict.fromkeys(counts, 0)


def test_notifications_do_not_match_unless_their_queue_is_named(daemon, client, browser):
    job = client.submit(["/bin/true"], hold=True)
    assert daemon.bgctl("doctor", "--notify", "broken").returncode == 1
    [test] = client.jobs(queue="bgd-notifications")

    for query, count in ((f"name={test.name}".replace(" ", "+"), 0), ("queue=bgd-notifications", 1)):
        found = [browser.json(f"/job-logs/all/{verb}?{query}")["count"] for verb in ("cancel", "remove")]
        assert sum(found) == count  # it has failed or will be retried
        assert browser.get(f"/job-logs?{query}").ids == [test.id] * count
    hidden = browser.get(f"/job-logs?name={test.name}".replace(" ", "+"))
    assert "queue:bgd-notifications" in hidden.text.partition("Notifications of bgd are hidden.")[2]
    assert browser.get("/job-logs").ids[0] == job.id
    assert re.search(rf'href="(/job-logs\?[^"]*)".*{test.name}', browser.get(f"/job-logs/{test.id}").text)
    assert "bgd-notifications" in browser.get("/job-logs/queues").text


def test_queues_are_paused_and_resumed(client, browser):
    assert post(browser, "/job-logs/queues/mail/pause").json == {"queue": "mail", "paused": True}
    assert [queue.name for queue in client.queues().queues if queue.paused] == ["mail"]
    assert post(browser, "/job-logs/queues/mail/resume").status == 200
    assert post(browser, "/job-logs/pause").json == {"queue": None, "paused": True}
    assert client.queues().paused
    post(browser, "/job-logs/resume")
    assert not client.queues().paused


# --- strangers


@pytest.mark.parametrize("path", ["/job-logs/{job}/cancel", "/job-logs/all/cancel", "/job-logs/pause"])
@pytest.mark.parametrize(
    "headers",
    [
        ["Sec-Fetch-Site: same-origin"],
        ["Sec-Fetch-Site: same-origin", "X-Bgd-Token: wrong"],
        ["Sec-Fetch-Site: same-site", "X-Bgd-Token: {token}"],
        ["Sec-Fetch-Site: cross-site", "X-Bgd-Token: {token}"],
        ["Origin: http://127.0.0.1:1", "X-Bgd-Token: {token}"],
    ],
)
def test_nobody_else_may_act(client, browser, path, headers):
    job = client.submit(["/bin/true"], hold=True)
    sent = [header.format(token=browser.token) for header in headers]
    answered = browser.get(path.format(job=job.id), *sent, method="POST")

    assert answered.status in (401, 403)
    assert client.job(job.id).state == "held"
    assert not client.queues().paused


def test_a_browser_that_is_logged_in_to_read_sees_everything_and_changes_nothing(daemon, client):
    job = client.submit(["/bin/true"], hold=True)
    browser = Browser(daemon).log_in(read_only=True)

    assert browser.get(f"/job-logs/{job.id}").status == 200
    refused = post(browser, f"/job-logs/{job.id}/cancel")
    assert refused.status == 403
    assert "open a new link of `bgctl dashboard`, without --read-only" in refused.json["error"]
    assert client.job(job.id).state == "held"


def test_every_verb_of_a_page_is_offered_in_its_states():
    assert set(actions.BUTTONS) == {
        "retry",
        "run",
        "hold",
        "release",
        "suspend",
        "continue",
        "cancel",
        "remove",
    }
    assert {name for name, verb in actions.BUTTONS.items() if verb.asks} == {"cancel", "remove"}


# --- in a browser


@needs_chromium
def test_a_person_retries_what_the_filter_shows_and_cancels_a_job(client, tab):
    failed = client.submit_many([{"argv": ["/bin/false"], "queue": "browser"}] * 3)
    client.wait(failed, timeout=DEADLINE)
    client.pause("browser")
    said: list[str] = []

    def confirm(dialog: Dialog) -> None:
        said.append(dialog.message)
        dialog.accept()

    tab.on("dialog", confirm)
    tab.goto(client.login_link())
    tab.wait_for_url("**/job-logs")
    tab.fill("input[name=q]", "queue:browser")
    tab.click("#filter button")
    tab.click("#matching [data-many=retry]")
    expect(tab.locator("#notice")).to_contain_text("Retry: 3 jobs done.")
    tab.click(f"#job-{failed[0].id} a >> nth=0")
    tab.focus("[data-verb=cancel]")
    tab.keyboard.press("Enter")
    expect(tab.locator("h1 .badge")).to_have_text("cancelled")
    expect(tab.locator("#summary .actions")).to_be_focused()
    tab.keyboard.press("Enter")  # it presses no other button
    tab.keyboard.press("Tab")
    expect(tab.locator("[data-verb=retry]")).to_be_focused()

    assert said == ["Retry all 3 jobs that match?", f"Cancel job {failed[0].id}?"]
    client.resume("browser")


@needs_chromium
def test_a_person_retries_the_failed_jobs_of_a_batch_and_cancels_it(client, tab):
    script = 'test "$BGD_ATTEMPT" -gt 1'
    jobs = [["sh", "-c", script], {"argv": ["true"], "hold": True}, {"argv": ["true"], "hold": True}]
    batch = client.batch(jobs, "months")
    failed, *held = batch.jobs()
    failed.wait(timeout=DEADLINE)
    said: list[str] = []
    tab.on("dialog", lambda dialog: said.append(dialog.message))
    tab.on("dialog", lambda dialog: dialog.accept())
    tab.goto(client.login_link())
    tab.wait_for_url("**/job-logs")
    tab.goto(f"{tab.url}/batches/{batch.id}")
    cancel, retry = tab.locator("#matching button").all()
    retry.dblclick()
    expect(tab.locator("#notice")).to_contain_text("Retry: 1 job done.")
    expect(tab.locator(f"#job-{failed.id}")).to_contain_text("succeeded")
    expect(tab.locator("#summary")).to_contain_text("1 of 3 jobs has ended")
    expect(retry).to_be_disabled()

    cancel.click()
    expect(tab.locator("#notice")).to_contain_text("Cancel: 2 jobs done.")
    expect(tab.locator("#summary rect.cancelled")).to_have_attribute("width", "666")
    expect(cancel).to_be_disabled()
    assert [client.job(job.id).state for job in held] == ["cancelled", "cancelled"]
    assert said == [f"Retry 1 job of batch {batch.id}?", f"Cancel 2 jobs of batch {batch.id}?"]
    assert ("cancel", f"{failed.refresh().user}, on the page") in history(client, held[0])


@needs_chromium
def test_a_batch_that_stayed_open_takes_no_more_jobs_once_it_is_cancelled(daemon, client, tab):
    command = [sys.executable, "-m", "bgctl", "batch", "--name", "open", "--", "true"]
    with subprocess.Popen(command, env=daemon.env, stdin=subprocess.PIPE, text=True) as running:
        assert running.stdin is not None
        running.stdin.write("one\n")
        running.stdin.flush()
        wait_until(
            lambda: [each.counts["succeeded"] for each in client.batches() if each.name == "open"] == [1]
        )
        running.kill()
    tab.on("dialog", lambda dialog: dialog.accept())
    tab.goto(client.login_link())
    tab.wait_for_url("**/job-logs")
    tab.goto(f"{tab.url}/batches/{client.batches(name='open')[0].id}")
    expect(tab.locator("#summary")).to_contain_text("more jobs may come")
    tab.click("[data-post]")
    expect(tab.locator("#notice")).to_contain_text("Cancel: 0 jobs done.")
    expect(tab.locator("#summary")).not_to_contain_text("more jobs may come")
    assert client.batches(name="open")[0].view.finished_at is not None
