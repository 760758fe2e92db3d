"""The pages in a real browser: logging in, finding a job, and how pages look."""

from __future__ import annotations

import http.server
import shlex
import sys
import threading

import pytest
from playwright.sync_api import expect

from tests.daemon.web.chromium import needs_chromium
from tests.support import DEADLINE, wait_until

pytestmark = needs_chromium

BGCTL = f"{sys.executable} -m bgctl"

MARKUP = "<script>alert(1)</script>"


@pytest.fixture
def tab(tab):
    """A tab in which a dialog fails the test, too."""
    dialogs: list[str] = []
    tab.on("dialog", lambda dialog: dialogs.append(dialog.message))
    yield tab
    assert dialogs == []


@pytest.fixture
def jobs_page(tab, client):
    """A tab that has logged in and shows the list of jobs."""
    tab.goto(client.login_link())
    tab.wait_for_url("**/job-logs")
    return tab


@pytest.fixture
def other_site(client):
    """The address of a page on another site and another port of this host, with a login link."""

    class Page(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(f'<link rel=icon href="data:,"><a href="{client.login_link()}">in</a>'.encode())

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the library's name
            del format, args

    with http.server.HTTPServer(("127.0.0.1", 0), Page) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://site.localhost:{server.server_port}/"
        server.shutdown()
        thread.join()


def test_a_link_on_another_sites_page_logs_in(tab, other_site):
    tab.goto(other_site)
    tab.click("text=in")
    tab.wait_for_url("**/job-logs")

    assert tab.title() == "Jobs · bgd"


def test_no_page_is_shown_in_a_frame(chrome, client):
    context = chrome.new_context()
    tab = context.new_page()
    tab.goto(client.login_link())
    tab.wait_for_url("**/job-logs")
    address = tab.url
    tab.goto("about:blank")
    with tab.expect_event("framenavigated", lambda frame: frame.url.startswith("chrome-error:")):
        tab.set_content(f'<iframe src="{address}"></iframe>')
    context.close()


def test_a_job_is_found_by_a_filter_and_opened(jobs_page, client):
    job = client.submit(
        ["/bin/sh", "-c", "printf 'one \\033[32mgreen\\033[0m two\\n'; exit 4"], name="found me"
    )
    client.submit(["/bin/true"])
    client.wait([job.id])

    jobs_page.fill("input[name=q]", "name:und")
    jobs_page.click("#filter button")
    assert jobs_page.locator("tbody tr").count() == 1
    jobs_page.click("#tabs .failed")
    assert jobs_page.locator("input[name=q]").input_value() == "name:und state:failed"
    jobs_page.click("text=found me")

    assert jobs_page.title() == f"Job {job.id} found me · bgd"
    assert jobs_page.locator(".attempt .badge").inner_text() == "exit code 4"
    green = jobs_page.locator(".log .f2")
    assert green.inner_text() == "green"
    assert jobs_page.locator(".log pre").inner_text() == "one green two\n"
    assert green.evaluate("element => getComputedStyle(element).color") == "rgb(132, 220, 167)"


@pytest.mark.parametrize("width", [360, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_overflows_a_narrow_page(jobs_page, client, width, scheme):
    job = client.submit(["/bin/echo", "x" * 2000], name="long-" + "x" * 190, tags=["y" * 200])
    client.wait([job.id])
    jobs_page.set_viewport_size({"width": width, "height": 700})
    jobs_page.emulate_media(color_scheme=scheme)

    for address in ("/job-logs", f"/job-logs/{job.id}"):
        jobs_page.goto(jobs_page.url.partition("/job-logs")[0] + address)
        assert jobs_page.evaluate("document.documentElement.scrollWidth") == width


def test_a_schedule_that_takes_many_words_leaves_room_for_commands(jobs_page, client):
    client.schedules.add(
        "wordy",
        ["/bin/echo", "one two three four"],
        cron="*/5 8-18 1-5,15-20 jan-mar,jul mon-fri",
        replace=True,
    )
    base = jobs_page.url.partition("/job-logs")[0]
    for width in (360, 1280):
        jobs_page.set_viewport_size({"width": width, "height": 700})
        jobs_page.goto(f"{base}/job-logs/schedules")

        command = jobs_page.locator("#schedule-wordy .runs").evaluate(
            "element => element.getClientRects().length"
        )
        assert command <= 2  # lines
        assert jobs_page.evaluate("document.documentElement.scrollWidth") == width


def test_a_card_on_a_narrow_page_has_box_id_and_state_on_its_first_line(jobs_page, client):
    job = client.submit(["/bin/true"], hold=True)
    jobs_page.set_viewport_size({"width": 390, "height": 700})
    jobs_page.reload()
    cells = [jobs_page.locator(f"#job-{job.id} .{name}").bounding_box() for name in ("pick", "id", "state")]
    link = jobs_page.locator(f"#job-{job.id} .id a").bounding_box()

    middles = [cell["y"] + cell["height"] / 2 for cell in cells]
    assert max(middles) - min(middles) < 3
    assert cells[0]["x"] < link["x"] < cells[2]["x"]
    assert jobs_page.locator(f"#job-{job.id}").bounding_box()["height"] <= 72
    client.cancel([job.id])


def test_a_progress_bar_shows_what_a_job_reports(jobs_page, daemon, client):
    script = f"{BGCTL} progress 1/4 {shlex.quote(MARKUP)}; echo said; sleep 60"
    job = client.submit(script, shell=True, env=daemon.env)
    wait_until(lambda: job.refresh().progress is not None)

    for address in ("/job-logs", f"/job-logs/{job.id}"):
        jobs_page.goto(f"{jobs_page.url.partition('/job-logs')[0]}{address}")
        bar = jobs_page.locator("main progress")
        assert bar.evaluate("bar => [bar.value, bar.max]") == [0.25, 1]
        assert bar.bounding_box()["width"] >= 60
        assert jobs_page.locator(".progress").inner_text().strip() == f"25% {MARKUP}"

    job.cancel()
    job.wait(DEADLINE)
    jobs_page.goto(f"{jobs_page.url.partition('/job-logs')[0]}/job-logs")
    assert jobs_page.locator("main progress").count() == 0


def test_the_bar_of_a_batch_grows_while_its_jobs_end(jobs_page, client):
    batch = client.batch([["true"], ["true"]], "growing", hold=True)
    jobs_page.goto(f"{jobs_page.url}/batches")
    row = jobs_page.locator(f"#batch-{batch.id}")
    expect(row).to_contain_text("0 of 2")
    client.release([batch.jobs()[0].id])
    expect(row).to_contain_text("1 of 2")
    expect(row.locator("rect.succeeded")).to_have_attribute("width", "500")

    row.get_by_role("link", name="growing").click()
    client.release([batch.jobs()[1].id])

    expect(jobs_page.locator("#summary")).to_contain_text("2 of 2 jobs have ended")
    expect(jobs_page.locator("#ordered .badge")).to_have_text(["succeeded", "succeeded"])
    jobs_page.get_by_role("link", name="All jobs of the batch").click()
    expect(jobs_page.locator("input[name=q]")).to_have_value(f"batch:{batch.id}")
    expect(jobs_page.locator("#ordered tr")).to_have_count(2)


@pytest.mark.parametrize(("late", "skew"), [(1500, 0), (60_000, 60), (-60_000, -60)])
def test_a_page_that_took_a_moment_to_come_does_not_show_what_happened_as_in_the_future(
    jobs_page, late, skew
):
    """Only a larger difference, or one that cannot be a delay, is that between two clocks."""
    jobs_page.add_init_script(f"Date.now = () => 1000 * document.body.dataset.now + {late}")
    jobs_page.reload()

    assert round(jobs_page.evaluate("skew"), 3) == skew


def test_the_command_of_a_job_is_copied(jobs_page, client):
    job = client.submit(["/bin/echo", "two words", "ünïcödé"])
    jobs_page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    jobs_page.goto(f"{jobs_page.url}/{job.id}")
    jobs_page.click("text=Copy")
    jobs_page.wait_for_selector("#notice:has-text('Copied.')")

    assert jobs_page.evaluate("navigator.clipboard.readText()") == "/bin/echo 'two words' ünïcödé"


def test_a_command_that_may_not_be_copied_is_selected(jobs_page, client):
    job = client.submit(["/bin/true", "unusual"])
    jobs_page.add_init_script("Object.defineProperty(navigator, 'clipboard', { value: undefined })")
    jobs_page.goto(f"{jobs_page.url}/{job.id}")
    jobs_page.click("text=Copy")
    jobs_page.wait_for_selector("#notice:has-text('Press Ctrl-C')")

    assert jobs_page.evaluate("String(getSelection())") == "/bin/true unusual"
