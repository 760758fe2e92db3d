"""axe-core finds nothing on any page, light or dark, wide or narrow."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe  # type: ignore[import-untyped]  # it has no types

from tests.daemon.web.chromium import chromium, needs_chromium
from tests.daemon.web.every_page import PAGES
from tests.support import Daemon, wait_until

pytestmark = needs_chromium

STARTED_NEVER = ("blocked", "scheduled", "held")  # they have no attempt 1
VARIANTS = [f"/job-logs?{query}" for query in ("state=failed", "queue=nothing-here", "limit=1")]
VARIANTS += [f"/job-logs/search?text={text}" for text in ("needle", "line+of")]
LINES = "for i in 1 2 3 4; do echo a line of words without it; done; "
COLOURS = (
    f"{LINES} echo one that has the needle in it; {LINES}"
    "echo ::group::http://x.example; for i in 0 1 2 3 4 5 6 7; do "
    r"printf '\033[3%dmcolour\033[0m \033[9%dmbright\033[0m\n' $i $i; done"
)


@pytest.fixture(scope="module")
def jobs():
    """The tab of a browser that has logged in, and jobs in many states: by name, their ids."""
    with tempfile.TemporaryDirectory(prefix="bgd-") as folder:
        daemon = Daemon(Path(folder))
        daemon.start()
        with daemon.client() as client, chromium() as browser:
            ended = {
                "succeeded": client.submit(["/bin/sh", "-c", COLOURS], name="colours", tags=["one", "two"]),
                "failed": client.submit(
                    ["/bin/sh", "-c", f"{COLOURS}; exit 3"], retries=1, retry_delay=0, queue="mail"
                ),
                "lost": client.submit(["/nowhere"], check=False),
            }
            client.wait([job.id for job in ended.values()])
            running = client.submit(["/bin/sh", "-c", "echo working; sleep 1000"])
            waiting = {
                "running": running,
                "blocked": client.submit(["/bin/true"], after=[running.id]),
                "scheduled": client.submit(["/bin/true"], delay=3600, priority=5),
                "held": client.submit(["/bin/true"], hold=True),
            }
            client.cancel([client.submit(["/bin/true"], hold=True).id])
            client.pause("mail")
            client.batch([["true"], ["false"], ["sleep", "1000"]], "three", then=["true"], catch=["true"])
            client.schedules.add("default", ["/bin/true"], cron="@daily")
            client.schedules.run("default")
            wait_until(lambda: running.refresh().state == "running")
            tab = browser.new_page()
            tab.goto(client.login_link())
            tab.wait_for_url("**/job-logs")
            yield tab, {name: job.id for name, job in (ended | waiting).items()}
        daemon.stop()


@pytest.mark.parametrize("address", [*PAGES, *VARIANTS])
def test_axe_finds_nothing(jobs, address):
    tab, ids = jobs
    origin = tab.url.partition("/job-logs")[0]
    if "/1" in address:  # pages of an attempt, which the last of these jobs does not have
        ids = {name: ids[name] for name in ("failed", "running", "blocked")}
    for name, job_id in ids.items() if "{job}" in address else [("", 0)]:
        answered = tab.goto(origin + address.format(job=job_id))
        assert answered.status == 200 or (name in STARTED_NEVER and "/1" in address)
        if tab.evaluate("document.contentType") == "text/html":
            assert_nothing_found(tab, f"{address} {name}")


def test_axe_finds_nothing_on_the_page_of_a_refusal(jobs):
    tab, _ = jobs
    origin = tab.url.partition("/job-logs")[0]
    for address in ("/job-logs/999999", "/nowhere", "/job-logs?state=bogus"):
        tab.goto(origin + address)
        assert_nothing_found(tab, address)


def assert_nothing_found(tab, where):
    """Check the open page with axe, in both themes, on a phone and on a wide screen."""
    tab.evaluate(Axe().axe_script)
    for scheme, width in (("light", 320), ("light", 390), ("dark", 1920)):
        tab.emulate_media(color_scheme=scheme)
        tab.set_viewport_size({"width": width, "height": 900})
        found = violations(tab)

        assert not found, f"{where}, {scheme}, {width} wide:\n" + "\n".join(
            f"{each['id']}: {each['help']}\n  {node['html'][:200]}\n  {node['failureSummary']}"
            for each in found
            for node in each["nodes"][:3]
        )


def violations(tab):
    """Return what axe finds wrong; fetching all that it passes would take longer than the check.

    An address in a line of output is as high as the line, which WCAG allows.
    """
    options = {"resultTypes": ["violations"], "rules": {"target-size": {"enabled": True}}}
    found = tab.evaluate("(options) => axe.run(options).then((results) => results.violations)", options)
    for each in found:
        if each["id"] == "target-size":
            each["nodes"] = [node for node in each["nodes"] if '<a class="address"' not in node["html"]]
    return [each for each in found if each["nodes"]]


def test_axe_would_find_something(jobs):
    tab, _ = jobs
    tab.goto("about:blank")
    tab.set_content("<html><body><img src=x><p style='color: #eee; background: #fff'>pale</p></body></html>")

    tab.evaluate(Axe().axe_script)
    found = {each["id"] for each in violations(tab)}
    assert {"image-alt", "color-contrast", "html-has-lang"} <= found
