"""What the pages show: lists, jobs and logs, as HTML and as JSON."""

from __future__ import annotations

import html
import json
import os
import re
from pathlib import Path

import pytest

from bgd import JobSpec, __version__
from tests.daemon.web.browsing import Browser
from tests.support import DEADLINE, wait_until


@pytest.fixture(scope="module")
def jobs(client):
    """Five jobs that succeeded and two that failed, in two queues."""
    submitted = [
        client.submit(["/bin/echo", "hello"], name="hello world", tags=["nightly"]),
        client.submit(["/bin/sh", "-c", "exit 3"], queue="mail", priority=-5),
        *(client.submit(["/bin/true"], queue="mail") for _ in range(4)),
        client.submit(["/bin/sh", "-c", "kill -9 $$"], retries=1, retry_delay=0, name="killed"),
    ]
    return client.wait([job.id for job in submitted])


def test_the_list_shows_the_newest_jobs_first_with_their_facts(browser, jobs):
    page = browser.get("/job-logs")

    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert page.ids[: len(jobs)] == [job.id for job in reversed(jobs)]
    for words in (
        "hello world",
        "/bin/echo hello",
        "attempt 2 of 2",
        "exit code 3",
        "SIGKILL",
        "mail",
        "priority -5",
    ):
        assert words in page.text
    for noise in ("of 1", "priority 0", "default"):
        assert noise not in page.text


@pytest.mark.parametrize(
    ("query", "chosen"),
    [
        ("state=failed", [6, 1]),
        ("state=failed&state=succeeded&queue=mail", [5, 4, 3, 2, 1]),
        ("queue=mail&state=failed&name=&tag=", [1]),
        ("name=hello*", [0]),
        ("tag=nightly", [0]),
        ("queue=nothing", []),
        ("state=running", []),
    ],
)
def test_filters_select_jobs(browser, jobs, query, chosen):
    expected = [jobs[index].id for index in chosen]
    assert browser.get(f"/job-logs?{query}").ids == expected
    assert [job["id"] for job in browser.json(f"/job-logs?{query}")] == expected


def test_a_bad_value_in_the_address_is_named(browser):
    state, limit = browser.get("/job-logs?state=bogus"), browser.get("/job-logs?limit=many")

    assert (state.status, limit.status) == (400, 400)
    assert "There is no state" in state.text
    assert "bogus" in state.text
    assert "succeeded" in state.text
    assert "limit" in limit.text
    assert "$." not in limit.text


def test_paging_shows_every_job_once(browser, jobs):
    page = browser.get("/job-logs?queue=mail&limit=2")
    seen = page.ids
    while older := re.search(r'href="([^"]*)">Older', page.text):
        page = browser.get(html.unescape(older[1]))
        assert page.ids[0] < seen[-1]
        seen += page.ids

    assert seen == [job.id for job in jobs[5:0:-1]]
    assert 'href="/job-logs?q=queue:mail&amp;limit=2">⇤ Newest' in page.text
    for number in range(2, 4):
        (newer,) = re.findall(r'href="([^"]*)">← Newer', page.text)
        page = browser.get(html.unescape(newer))
        assert page.ids == [job.id for job in jobs[5:0:-1]][4 - 2 * (number - 1) :][:2]
    assert "← Newer" not in page.text


def test_json_equals_that_of_bgctl(daemon, browser, jobs):
    listed = json.loads(daemon.bgctl("list", "--json").stdout)
    assert browser.json("/job-logs") == listed

    for job in jobs:
        assert browser.json(f"/job-logs/{job.id}") == json.loads(
            daemon.bgctl("show", "--json", str(job.id)).stdout
        )


def test_a_jobs_page_shows_its_attempts_with_outcome_and_output(browser, client):
    script = 'printf "\\033[31mtry\\033[0m $BGD_ATTEMPT <b>\\n"; exit $((3 - BGD_ATTEMPT))'
    job = client.submit(["/bin/sh", "-c", script], retries=5, retry_delay=0, name="third")
    client.wait([job.id])
    page = browser.get(f"/job-logs/{job.id}").text

    for words in ("Attempt 1", "exit code 2", "Attempt 2", "exit code 1", "Attempt 3", "succeeded"):
        assert words in page
    assert page.index("Attempt 3") < page.index("Attempt 1")
    assert '<span class="f1">try</span> 2 &lt;b&gt;' in page
    assert "3 of 6" in page


def test_a_job_that_could_not_start_says_why(browser, client):
    job = client.submit(["/nowhere/program"], check=False)
    client.wait([job.id])
    page = browser.get(f"/job-logs/{job.id}").text

    assert "not started" in page
    assert "program not found" in page
    assert "No output." in page


def test_many_attempts_are_split_into_pages(browser, client):
    job = client.submit(["/bin/false"], retries=24, retry_delay=0)
    client.wait([job.id])

    latest = browser.json(f"/job-logs/{job.id}")["attempts"]
    earlier = browser.json(f"/job-logs/{job.id}?before={latest[0]['attempt']}")["attempts"]
    assert [each["attempt"] for each in earlier + latest] == list(range(1, 26))
    assert f'href="/job-logs/{job.id}?before=6">Earlier attempts' in browser.get(f"/job-logs/{job.id}").text


def test_a_page_shows_the_end_of_a_long_log_and_raw_streams_all_of_it(browser, client):
    job = client.submit(["/bin/sh", "-c", "seq 1000000"])
    client.wait([job.id])
    whole = "".join(f"{number}\n" for number in range(1, 1_000_001)).encode()

    page = browser.get(f"/job-logs/{job.id}").text
    assert "<code>999999\n" not in page
    assert "999999\n1000000\n</span></code>" in page
    assert "without the first 6.82MB" in page
    raw = browser.get(f"/job-logs/{job.id}/1")
    assert raw.body == whole
    assert raw.headers["content-type"] == "text/plain; charset=utf-8"
    assert browser.get(f"/job-logs/{job.id}/1?tail=10").body == whole[-10:]
    assert browser.get(f"/job-logs/{job.id}/1", method="HEAD").body == b""
    download = browser.get(f"/job-logs/{job.id}/1?download=1").headers["content-disposition"]
    assert download == f'attachment; filename="bgd-{job.id}.1.log"'


def test_a_running_job_shows_what_it_has_written_so_far(browser, client, tmp_path):
    os.mkfifo(tmp_path / "gate")
    job = client.submit(["/bin/sh", "-c", "printf begun; read line < gate"], cwd=str(tmp_path))
    waiting = client.submit(["/bin/true"], delay=3600)
    wait_until(lambda: browser.get(f"/job-logs/{job.id}/1").body == b"begun")

    page = browser.get(f"/job-logs/{job.id}").text
    assert "begun</code>" in page
    (blocked,) = client.submit_many([JobSpec(argv=("/bin/true",), after=(job.id,), hold=True)])
    link = f'<a href="/job-logs/{job.id}">job {job.id}</a>'
    assert f"<dt>Waits for</dt><dd>{link}</dd>" in browser.get(f"/job-logs/{blocked.id}").text
    assert "This job has not started yet." in browser.get(f"/job-logs/{waiting.id}").text
    assert re.search(">in (1h|59m[0-9]+s)<", browser.get("/job-logs?state=scheduled").text)
    client.cancel([job.id, waiting.id, blocked.id])
    assert "This job was never started." in browser.get(f"/job-logs/{waiting.id}").text


def test_an_unreadable_log_only_breaks_its_own_page(browser, client):
    job = client.submit(["/bin/echo", "hello"])
    client.wait([job.id])
    log = Path(client.attempts(job.id)[0].log_path)
    log.unlink()
    log.mkdir()

    page = browser.get(f"/job-logs/{job.id}")
    assert (page.status, "the log is not a regular file" in page.text) == (500, True)
    assert not browser.get(f"/job-logs/{job.id}/1").body
    assert browser.get("/job-logs").status == 200


def test_a_log_that_is_gone_says_how_much_is_missing(browser, client):
    job = client.submit(["/bin/echo", "hello"])
    client.wait([job.id])
    log = Path(client.attempts(job.id)[0].log_path)
    log.unlink()

    assert browser.get(f"/job-logs/{job.id}/1").text == f"\n==> 6 bytes missing: {log} is not there <==\n"


def test_a_list_of_ten_thousand_jobs_is_served(browser, client):
    jobs = client.submit_many([{"argv": ["/bin/true"], "delay": 3600, "queue": "crowd"}] * 10_000)
    page = browser.get("/job-logs?queue=crowd&limit=10000")

    assert page.ids == [job.id for job in jobs[: -200 - 1 : -1]]
    assert "10,0" in page.text
    assert [job["id"] for job in browser.json("/job-logs?queue=crowd&limit=60")] == page.ids[:60]


def test_batches_are_listed_with_their_counts_and_one_names_what_follows_it(daemon, browser, client):
    batch = client.batch([["true"], ["false"]], "<b>two</b>", retries=0, then=["true"], catch=["echo", "<i>"])
    batch.wait(DEADLINE)

    text = browser.get("/job-logs/batches").text
    assert '<a href="/job-logs/batches">Batches</a>' in browser.get("/job-logs").text
    assert f'class="number failures"><a href="/job-logs?q=batch:{batch.id}+state:failed">1</a>' in text
    assert f'<a href="/job-logs/batches/{batch.id}">&lt;b&gt;two&lt;/b&gt;</a> ' in text
    assert f'<span class="quiet">{batch.id}</span>' in text
    assert '<rect class="succeeded" x="0" width="500">' in text
    one = browser.get(f"/job-logs/batches/{batch.id}").text
    assert "2 of 2 jobs have ended" in one
    assert f'href="/job-logs/{batch.view.catch.job}">job {batch.view.catch.job}<' in one
    assert f'href="/job-logs?q=batch:{batch.id}+state:failed">1<' in one
    assert browser.get(f"/job-logs/batches/{batch.id}").ids == [job.id for job in batch.jobs()[::-1]]
    assert "not started" in one
    [first, _] = batch.jobs()
    assert (
        f'<a href="/job-logs/batches/{batch.id}">{batch.id}</a>' in browser.get(f"/job-logs/{first.id}").text
    )
    followed = f'<a href="/job-logs/batches/{batch.id}">batch {batch.id} (catch)</a>'
    assert followed in browser.get(f"/job-logs/{batch.view.catch.job}").text
    asked = "Accept: application/json"
    shown = json.loads(daemon.bgctl("batch", "show", str(batch.id), "--json").stdout)
    assert browser.get(f"/job-logs/batches/{batch.id}", asked).json == shown
    assert browser.get("/job-logs/batches", asked).json[0] == shown
    assert browser.get("/job-logs/batches/9999").status == 404


def test_the_footer_of_pages_names_the_version_of_bgd_after_a_login(daemon, browser, jobs):
    footer = f"<footer>bgd {__version__} "

    for path in (
        "",
        "/overview",
        "/queues",
        "/schedules",
        "/search",
        f"/{jobs[0].id}",
        f"/{jobs[0].id}/1/view",
    ):
        assert footer in browser.get(f"/job-logs{path}").text
    assert "<footer>" not in Browser(daemon).get("/job-logs").text
