"""The form for a new job: what it shows, what it submits, and what it refuses."""

from __future__ import annotations

from urllib.parse import urlencode

import pytest
from playwright.sync_api import expect

from bgd.daemon.web.new_job import MAX_SENT
from tests.daemon.web.browsing import Browser
from tests.daemon.web.chromium import needs_chromium
from tests.support import DEADLINE

CLASS = """
def add(*numbers, label="sum"):
    return {label: sum(numbers)}
"""
pytestmark = pytest.mark.daemon(
    '[security]\nallowed_classes = ["work.add"]\n[python]\npath = ["{folder}"]\n', {"work.py": CLASS}
)


def sent(**fields: object) -> str:
    return f"X-Bgd-Form: {urlencode(fields)}"


def checked(browser: Browser, **fields: object):
    return browser.get("/job-logs/new/check", "Accept: application/json", sent(**fields)).json


def submitted(browser: Browser, **fields: object):
    own = ["Sec-Fetch-Site: same-origin", f"X-Bgd-Token: {browser.token}", "Accept: application/json"]
    return browser.get("/job-logs/submit", *own, sent(**fields), method="POST")


def test_a_job_like_an_earlier_one_differs_in_what_the_form_has_and_starts_at_once(client, browser, tmp_path):
    words = ["sh", "-c", 'echo "$1 $PLACE"; pwd', "sh", "it's  \n fünf"]
    earlier = client.submit(
        words, env={"PLACE": "here"}, cwd=str(tmp_path), name="first", delay=3600, tags=["kept"], session="s"
    )

    form = browser.get(f"/job-logs/new?job={earlier.id}").text
    assert "<li><code>echo &#34;$1 $PLACE&#34;; pwd</code></li>" in form
    assert "<li><code>it&#39;s  \N{SYMBOL FOR LINE FEED} fünf</code></li>" in form
    assert "it&#39;s  \n fünf&#34;</textarea>" in form
    command = """sh -c 'echo "$1 $PLACE"; pwd' sh "it's\r\nsix" """
    assert checked(browser, job=earlier.id, command=command) == {
        "words": [*words[:-1], "it's\N{SYMBOL FOR LINE FEED}six"],
        "where": str(tmp_path),
        "queue": "default",
        "problem": None,
    }
    answered = submitted(browser, job=earlier.id, command=command, name="second", priority=7)

    later = client.job(answered.json["id"]).wait(timeout=DEADLINE)
    assert later.output() == f"it's\nsix here\n{tmp_path}\n"
    assert (later.view.name, later.view.priority, later.view.tags) == ("second", 7, ["kept"])
    assert later.view.session == "s"
    assert later.view.user == earlier.view.user
    assert earlier.refresh().state == "scheduled"
    earlier.cancel()


def test_a_job_like_an_earlier_one_has_its_key_and_is_refused_while_that_one_has_it(client, browser):
    earlier = client.submit(["true"], key="sync", hold=True)
    problem = f"job {earlier.id} still has the key sync"

    assert checked(browser, job=earlier.id, command="true")["problem"] == problem
    assert submitted(browser, job=earlier.id, command="true").json["error"] == problem
    earlier.cancel()
    later = submitted(browser, job=earlier.id, command="true").json["id"]
    assert client.job(later).wait(timeout=DEADLINE).key == "sync"


def test_a_class_job_takes_other_arguments(client, browser):
    earlier = client.call("work:add", (1, 2), {"label": "old"}).wait(timeout=DEADLINE)
    form = browser.get(f"/job-logs/new?job={earlier.id}").text
    assert "work:add(1, 2, label=&#34;old&#34;)" in form

    arguments = '{"args": [3, 4], "kwargs": {"label": "new"}}'
    answered = submitted(browser, job=earlier.id, target="work:add", arguments=arguments)

    assert client.job(answered.json["id"]).wait(timeout=DEADLINE).result() == {"new": 7}


def test_a_class_job_gets_the_result_of_another_one_again(client, browser):
    first = client.submit(["true"])
    earlier = client.call("work:add", (3, first)).wait(timeout=DEADLINE)

    answered = submitted(browser, job=earlier.id, target="work:add", arguments=earlier.arguments)

    again = client.job(answered.json["id"])
    assert (again.after, again.arguments) == ([first.id], earlier.arguments)
    assert again.result(timeout=DEADLINE) == {"sum": 3}
    other = submitted(browser, job=earlier.id, target="work:add", arguments='{"args": [1, 2]}')
    assert """the arguments have no {"$result":""" in other.json["error"]


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"command": "echo 'open"}, "this cannot be split into words: no closing quotation"),
        ({"command": " \n"}, "type a command"),
        ({"target": "os:system", "arguments": '{"args": ["true"]}'}, "os:system"),
        ({"target": "work:add", "arguments": "[1]"}, 'the arguments must be JSON, {"args"'),
        (
            {"target": "work:add", "arguments": f'{{"args": {"[" * 990}{"]" * 990}}}'},
            "the arguments must be JSON",
        ),
        ({"command": "true", "queue": "bgd-notifications"}, "bgd-notifications"),
    ],
)
def test_what_cannot_run_says_why_before_and_after_it_is_submitted(client, browser, fields, problem):
    before = [job.id for job in client.jobs()]

    assert problem in checked(browser, **fields)["problem"]
    refused = submitted(browser, **fields)
    assert refused.status == 409
    assert problem in refused.json["error"]
    assert [job.id for job in client.jobs()] == before


def test_a_value_that_cannot_be_used_is_named(browser):
    for fields, message in (
        ({"priority": "high"}, "priority: 'high' must be a whole number from -1000 to 1000."),
        ({"queue": "a b"}, "queue: 'a b' must be a name of at most 64 letters,"),
        ({"job": "x"}, "job: 'x' must be a whole number from 1"),
    ):
        refused = submitted(browser, command="true", **fields)
        assert refused.status == 400
        assert message in refused.json["error"]
    assert submitted(browser, command="true", job=10**9).status == 404


@pytest.mark.parametrize("word", ["x" * MAX_SENT, "a\rb"])
def test_what_a_form_cannot_send_back_is_for_the_terminal(client, browser, word):
    job = client.submit(["/bin/echo", word], hold=True)

    form = browser.get(f"/job-logs/new?job={job.id}")

    assert "This job does not fit into a form" in form.text
    assert "<textarea" not in form.text


def test_only_a_login_that_may_write_submits(daemon, client):
    before = [job.id for job in client.jobs()]
    reader = Browser(daemon).log_in(read_only=True)

    assert submitted(reader, command="true").status == 403
    assert Browser(daemon).get("/job-logs/new").status == 401
    assert [job.id for job in client.jobs()] == before


@needs_chromium
def test_what_is_typed_before_the_script_arrives_is_shown_too(client, tab):
    scripts = []
    tab.route("**/new-job*.js*", lambda route: scripts.append(route))  # noqa: PLW0108 - asked for attributes
    tab.goto(client.login_link())
    tab.wait_for_url("**/job-logs")
    tab.click("text=New job")
    tab.fill("textarea", "echo 'second run'")
    assert tab.locator("#words li").count() == 0
    scripts[0].continue_()
    expect(tab.locator("#words li")).to_have_text(["echo", "second run"])


@needs_chromium
def test_a_person_runs_a_job_again_with_other_arguments(client, tab):
    earlier = client.submit(["echo", "first", "run"]).wait(timeout=DEADLINE)
    tab.goto(client.login_link())
    tab.wait_for_url("**/job-logs")
    tab.click(f"#job-{earlier.id} a >> nth=0")
    tab.click("text=Run again …")
    expect(tab.locator("#words li")).to_have_text(["echo", "first", "run"])
    tab.fill("textarea", "echo 'second run' \"")
    expect(tab.locator("#problem")).to_contain_text("no closing quotation")
    tab.fill("textarea", "echo 'second run' <b>")
    expect(tab.locator("#words li")).to_have_text(["echo", "second run", "<b>"])
    expect(tab.locator("#problem")).to_be_empty()
    tab.click("text=Submit")
    expect(tab.locator(".log")).to_contain_text("second run <b>")
