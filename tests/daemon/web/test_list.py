"""The list of jobs: filters, counts and actions on all that match, over HTTP and in a real browser."""

from __future__ import annotations

import html
import json
import re

import pytest
from playwright.sync_api import expect

from tests.daemon.web.browsing import Browser
from tests.daemon.web.chromium import needs_chromium
from tests.support import DEADLINE, serving, wait_until

MILLISECONDS = 1000 * DEADLINE


@pytest.fixture(scope="module")
def jobs(client):
    """Jobs that ended in many ways, by what they show."""
    sh = "/bin/sh"
    made = {
        "exit 3": client.submit(
            [sh, "-c", "exit 3"], name="build [42]", queue="mail", tags=["eu", "nightly"]
        ),
        "killed": client.submit([sh, "-c", "kill -9 $$"], name="a*b", tags=["eu"], priority=5),
        "timeout": client.submit(["/bin/sleep", "60"], timeout=0.1, name="slow"),
        "lost": client.submit(["/nowhere/program"], check=False),
        "done": client.submit(["/bin/echo", "two words"], name="nightly-2"),
        "held": client.submit(["/bin/echo", "two", "words"], name="nightly", hold=True, queue="mail"),
    }
    client.wait([job.id for name, job in made.items() if name != "held"])
    return {name: job.id for name, job in made.items()}


def names_of(jobs, ids):
    return [name for job_id in ids for name, known in jobs.items() if known == job_id]


@pytest.mark.parametrize(
    ("filter_", "expected"),
    [
        ("state:failed", ["lost", "timeout", "killed", "exit 3"]),
        ("state:failed queue:mail", ["exit 3"]),
        ("name:night", ["held", "done"]),
        ("name:=nightly", ["held"]),
        ("name:*-2", ["done"]),
        ("name:[4", ["exit 3"]),
        ('name:"a*"', ["killed"]),
        ("tag:eu tag:nightly", ["exit 3"]),
        ("exit:137", ["killed"]),
        ("exit:124", ["timeout"]),
        ("exit:3 name:build", ["exit 3"]),
        ("priority:5", ["killed"]),
        ("two", ["held", "done"]),
        ('"echo two words" name:night', ["held", "done"]),
        ("Two", ["held", "done"]),
        ("arg:WORDS arg:two", ["held"]),
        ("error:timeout", ["timeout"]),
        ('error:"not found"', ["lost"]),
        ("-state:held,succeeded -exit:3 -name:slow", ["lost", "killed"]),
        ("build", ["exit 3"]),
        ("since:1h state:held", ["held"]),
        ("since:2100-01-01", []),
        ("class:app.*", []),
    ],
)
def test_a_filter_finds_jobs_on_the_page_as_json_and_for_actions(browser, jobs, filter_, expected):
    query = f"q={filter_}".replace("+", "%2B").replace(" ", "+").replace('"', "%22")

    assert names_of(jobs, browser.get(f"/job-logs?{query}").ids) == expected
    assert names_of(jobs, [job["id"] for job in browser.json(f"/job-logs?{query}")]) == expected
    retried = [name for name in expected if name not in {"done", "held"}]
    assert browser.json(f"/job-logs/all/retry?{query}") == {"count": len(retried)}
    assert browser.json(f"/job-logs/all/release?{query}") == {"count": expected.count("held")}


@pytest.mark.usefixtures("jobs")
def test_rows_say_why_a_job_failed_and_counts_follow_the_filter(browser):
    text = browser.get("/job-logs?q=name:i").text
    assert re.findall(r"(all|held|succeeded|failed) <b>(\S+)</b>", text) == [
        ("all", "3"),
        ("held", "1"),
        ("succeeded", "1"),
        ("failed", "1"),
    ]
    text = browser.get("/job-logs").text
    for words in ("exit code 3", "SIGKILL", "timeout", "no program", "priority 5"):
        assert f">{words}</span>" in text
    assert 'title="program not found' in text
    assert '<span class="tag">nightly</span>' in text


@pytest.mark.usefixtures("jobs")
def test_a_bad_filter_is_answered_on_the_page_without_jobs_or_actions(browser):
    answer = browser.get("/job-logs?q=stat:failed+name:x")

    assert answer.status == 400
    assert "There is no filter &#39;stat&#39; (did you mean state?)." in answer.text
    assert 'value="stat:failed name:x"' in answer.text
    assert answer.ids == []
    assert "data-many" not in answer.text
    assert browser.json("/job-logs?q=stat:x")["error"].startswith("There is no")
    assert browser.get("/job-logs/all/retry?q=stat:x").status == 400


def test_words_are_completed(browser, jobs):
    def completed(word):
        return browser.json(f"/job-logs/complete?word={word}")

    assert completed("") == [
        *("state:", "queue:", "name:", "tag:", "class:", "arg:", "error:", "outcome:", "exit:", "signal:"),
        *("since:", "until:", "finished:", "id:", "priority:", "batch:", "session:"),
    ]
    assert completed("q") == ["queue:"]
    assert completed("state:s") == ["state:scheduled", "state:stopping", "state:succeeded", "state:suspended"]
    assert completed("outcome:no") == ["outcome:not_started", "outcome:none"]
    assert completed("queue:") == ["queue:default", "queue:mail"]
    assert completed("name:b") == ['name:="build [[]42]"']
    assert completed("tag:n") == ["tag:nightly"]
    assert completed("-ta") == ["-tag:"]
    assert completed("-tag:n") == ["-tag:nightly"]
    assert completed("exit:") == completed("stat:") == []
    (word,) = completed("name:b")
    assert browser.get(f"/job-logs?q={word}".replace(" ", "+").replace('"', "%22")).ids == [jobs["exit 3"]]


@pytest.mark.usefixtures("jobs")
def test_running_jobs_come_first_on_request(browser, client):
    running = client.submit(["/bin/sleep", "60"], queue="first")
    wait_until(lambda: client.job(running.id).state == "running")
    later = client.submit(["/bin/true"], queue="first", hold=True)

    assert browser.get("/job-logs?q=queue:first").ids == [later.id, running.id]
    first = browser.get("/job-logs?q=queue:first&sort=running&limit=1")
    assert first.ids == [running.id]
    (following,) = re.findall(r'href="([^"]*)">Next', first.text)
    assert browser.get(html.unescape(following)).ids == [later.id]
    client.cancel([running.id, later.id])


@pytest.mark.usefixtures("jobs")
def test_a_search_that_takes_too_long_shows_how_far_it_came(browser, client):
    """Large commands take as much time as very many jobs."""
    many = client.submit_many(
        [{"argv": ["/bin/echo", "x" * 100_000] * 2, "hold": True, "queue": "long"}] * 200
    )
    answer = browser.get("/job-logs?q=hello+there")
    while searched := re.findall(r"No job from (\d+) on matches", answer.text):
        (older,) = re.findall(r'href="([^"]*)">Search older', answer.text)
        assert int(searched[0]) > 1
        answer = browser.get(html.unescape(older))
    assert "No jobs match." in answer.text
    client.cancel([job.id for job in many])
    client.remove(many)  # or pages of later tests would stop at these jobs


# --- in a browser


@pytest.fixture
def tab(tab, client):
    """A tab that shows the list."""
    tab.goto(client.login_link())
    tab.wait_for_url("**/job-logs")
    return tab


@needs_chromium
def test_keys_reach_the_filter_box_and_the_rows(tab, jobs):
    tab.keyboard.press("/")
    box = tab.locator("#filter input[name=q]")
    expect(box).to_be_focused()
    tab.keyboard.type("name:nightly j/k")
    assert box.input_value() == "name:nightly j/k"
    box.fill("name:nightly")
    tab.keyboard.press("Enter")
    tab.wait_for_url("**/job-logs?q=name%3Anightly")
    tab.keyboard.press("j")
    expect(tab.locator(f"#job-{jobs['held']} .description a")).to_be_focused()
    tab.keyboard.press("j")
    expect(tab.locator(f"#job-{jobs['done']} .description a")).to_be_focused()
    tab.keyboard.press("k")
    tab.keyboard.press("Enter")
    tab.wait_for_url(f"**/job-logs/{jobs['held']}")


@needs_chromium
@pytest.mark.usefixtures("jobs")
def test_the_last_word_is_completed(tab):
    box = tab.locator("#filter input[name=q]")
    box.press_sequentially("state:failed queue:m")
    expect(tab.locator('#words option[value="state:failed queue:mail"]')).to_have_count(1)
    expect(tab.locator("#words option")).to_have_count(1)


@needs_chromium
def test_a_number_opens_a_job_and_a_view_is_kept_by_name(tab, jobs):
    box, views = tab.locator("#filter input[name=q]"), tab.locator("#views")
    box.fill(str(jobs["killed"]))
    box.press("Enter")
    tab.wait_for_url(f"**/job-logs/{jobs['killed']}")
    tab.go_back()
    tab.on("dialog", lambda dialog: dialog.accept(" <b>bad</b> mail "))
    expect(views).to_be_hidden()
    box.fill("-state:held queue:mail")
    box.press("Enter")
    tab.click("text=Save view…")
    tab.goto(tab.url.partition("?")[0])
    views.get_by_text("<b>bad</b> mail").click()
    assert box.input_value() == "-state:held queue:mail"
    expect(views.locator("[aria-current]")).to_have_text("<b>bad</b> mail")
    assert tab.locator("#ordered tr").count() == 1
    tab.click("text=Forget view")
    tab.goto(tab.url.partition("?")[0])
    expect(views).to_be_hidden()


def test_the_number_of_no_job_is_searched_for_as_text(browser, jobs):
    found = browser.get(f"/job-logs?q={jobs['exit 3']}")
    assert (found.status, found.headers["location"]) == (303, f"/job-logs/{jobs['exit 3']}")
    assert browser.get("/job-logs?q=137137").status == 200
    assert browser.get(f'/job-logs?q="{jobs["exit 3"]}"'.replace('"', "%22")).status == 200
    assert isinstance(browser.json(f"/job-logs?q={jobs['exit 3']}"), list)


@needs_chromium
@pytest.mark.usefixtures("jobs")
def test_the_order_is_changed_by_choosing_it(tab):
    tab.select_option("#filter select", "running")
    tab.wait_for_url("**/job-logs?sort=running")
    assert tab.locator("#filter select").input_value() == "running"


@needs_chromium
@pytest.mark.usefixtures("jobs")
def test_a_filtered_list_shows_changes_and_its_counts_without_a_reload(tab, client):
    tab.goto(f"{tab.url}?q=tag:fresh+state:held,failed")
    expect(tab.locator("#empty")).to_contain_text("No jobs match.")
    other = client.submit(["/bin/false"], hold=True)
    job = client.submit(["/bin/false"], hold=True, tags=["fresh"], name="fresh one")
    row = tab.locator(f"#job-{job.id}")
    expect(row).to_contain_text("held")
    expect(row).to_contain_text("fresh one")
    expect(tab.locator("#empty")).to_be_hidden()
    client.release([job.id])
    expect(row).to_contain_text("exit code 1")
    expect(tab.locator("#tabs .failed b")).to_have_text("1")
    expect(tab.locator("#tabs .held b")).to_have_text("0")
    assert tab.locator(f"#job-{other.id}").count() == 0
    client.cancel([other.id])


@needs_chromium
def test_only_chosen_jobs_are_acted_on_also_when_they_have_left_the_list(tab, client):
    asked: list[str] = []
    tab.on("dialog", lambda dialog: asked.append(dialog.message))
    tab.on("dialog", lambda dialog: dialog.accept())
    held = [client.submit(["/bin/true"], hold=True, queue="choice") for _ in range(5)]
    tab.goto(f"{tab.url}?q=queue:choice+state:held")
    every, chosen = tab.locator("#matching [data-many=cancel]"), tab.locator("#chosen")
    expect(every).to_have_text("Cancel all 5 that match…")
    expect(tab.locator("#matching [data-many=retry]")).to_be_disabled()
    tab.locator("#ordered .pick input").nth(0).click()
    tab.locator("#ordered .pick input").nth(2).click(modifiers=["Shift"])
    expect(chosen).to_contain_text("3 chosen")
    assert tab.evaluate("document.getElementById('pick-all').indeterminate")

    client.cancel([held[4].id])
    tab.hover("header")
    expect(tab.locator(f"#job-{held[4].id}")).to_have_count(0)
    expect(chosen).to_contain_text(f"3 chosen, 1 not shown: {held[4].id}")
    expect(chosen.locator("[data-many]")).to_have_text(
        ["Retry 1", "Hold", "Release 2", "Cancel 2", "Remove 1"]
    )
    expect(chosen.locator("[data-many=hold]")).to_be_disabled()
    expect(every).to_have_text("Cancel all 4 that match…")

    chosen.locator("[data-many=cancel]").click()
    expect(tab.locator(".acting:has(#chosen) #notice")).to_contain_text("Cancel: 2 jobs done.")
    expect(chosen).to_be_hidden()
    states = [client.job(job.id).state for job in held]
    assert states == ["held", "held", "cancelled", "cancelled", "cancelled"]

    tab.hover("header")
    expect(tab.locator("#ordered tr")).to_have_count(2)
    tab.click("#pick-all")
    expect(chosen).to_contain_text("2 chosen")
    tab.click("#clear")
    expect(chosen).to_be_hidden()
    assert tab.locator("#ordered .pick input:checked").count() == 0
    expect(every).to_have_text("Cancel all 2 that match…")
    every.click()
    expect(tab.locator(".controls #notice")).to_contain_text("Cancel: 2 jobs done.")
    expect(every).to_be_disabled()
    assert asked == ["Cancel 2 chosen jobs?", "Cancel all 2 jobs that match?"]


@needs_chromium
@pytest.mark.parametrize("width", [390, 1280, 1920])
def test_a_job_takes_one_line_or_two_on_a_phone_where_filters_fold_away(tab, client, jobs, width):
    client.submit(
        ["/bin/echo", *["word"] * 80],
        name="long " * 30,
        tags=["tag " * 9, "b", "c", "d"],
        priority=-500,
        hold=True,
    )
    tab.set_viewport_size({"width": width, "height": 800})
    tab.reload()
    heights = tab.evaluate("[...document.querySelectorAll('#ordered tr')].map((row) => row.offsetHeight)")

    assert len(heights) >= len(jobs)
    assert max(heights) <= (72 if width == 390 else 36)
    assert tab.locator("#filter").is_visible() == (width > 390)
    if width == 390:
        tab.locator("summary").click()
        expect(tab.locator("#filter")).to_be_visible()


@needs_chromium
def test_the_list_is_filtered_and_paged_without_javascript(chrome, browser, jobs):
    context = chrome.new_context(java_script_enabled=False)
    context.set_default_timeout(MILLISECONDS)
    name, _, value = browser.cookie.partition("=")
    context.add_cookies([{"name": name, "value": value, "url": f"http://{browser.host}"}])
    tab = context.new_page()
    tab.goto(f"http://{browser.host}/job-logs?limit=1")
    tab.fill("#filter input[name=q]", "tag:eu")
    tab.click("#filter button")
    assert tab.locator("#ordered tr").count() == 1
    assert tab.locator("#ordered tr").get_attribute("id") == f"job-{jobs['killed']}"
    tab.click("text=Older →")
    assert tab.locator("#ordered tr").get_attribute("id") == f"job-{jobs['exit 3']}"
    tab.click("text=← Newer")
    assert tab.locator("#ordered tr").get_attribute("id") == f"job-{jobs['killed']}"
    context.close()


def test_rows_say_why_a_queued_job_waits_in_the_words_of_explain():
    with serving("[daemon]\nslots = 3\n[queues.mail]\nslots = 1\n", {}) as daemon, daemon.client() as client:
        running = [client.submit(["sleep", "1000"], queue=queue) for queue in ("default", "mail")]
        wait_until(lambda: all(client.job(job.id).state == "running" for job in running))
        wide = client.submit(["true"], slots=3)
        small, letter = client.submit(["true"]), client.submit(["true"], queue="mail")
        browser = Browser(daemon).log_in()
        behind = f"behind job {wide.id}, which needs 3 slots; 2 are taken"
        expected = {
            wide.id: "for 3 of 3 slots: 2 are taken",
            small.id: behind,
            letter.id: f"for a slot of queue mail: 1 of 1 is taken, then {behind}",
            **{job.id: None for job in running},
        }

        listed = json.loads(daemon.bgctl("list", "--json").stdout)
        queues = {each["name"]: each["why_waiting"] for each in browser.json("/job-logs/queues")["queues"]}
        page = browser.get("/job-logs?q=state:queued").text
        table = daemon.bgctl("--color", "always", "list", env={"COLUMNS": "160"}).stdout

        assert {job["id"]: job["why_waiting"] for job in listed} == expected
        assert {job["id"]: job["why_waiting"] for job in browser.json("/job-logs")} == expected
        assert queues == {"default": expected[wide.id], "mail": expected[letter.id]}
        assert json.loads(daemon.bgctl("explain", "--json", str(small.id)).stdout)["why_waiting"] == behind
        for words in filter(None, expected.values()):
            assert f'<span class="outcome" title="{words}">{words}</span>' in page
        assert [words for words in expected.values() if words and words[:50] not in table] == []
        assert daemon.bgctl("queue").stdout.splitlines()[-3:] == [
            "QUEUE    QUEUED JOBS WAIT",
            f"default  {expected[wide.id]}",
            f"mail     {expected[letter.id]}",
        ]
        assert behind in browser.get("/job-logs/queues").text
        client.cancel([wide.id])
        wait_until(lambda: client.job(small.id).state == "succeeded")
        assert "behind job" not in browser.get("/job-logs?q=state:queued").text
