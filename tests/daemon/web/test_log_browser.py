"""The page of a log in a real browser: any place of it, its end as it grows, searches, links and switches."""

from __future__ import annotations

import os
import re

import pytest
from playwright.sync_api import Page, Route, expect

from tests.daemon.web.chromium import needs_chromium
from tests.support import DEADLINE, Daemon, wait_until

pytestmark = needs_chromium

MILLISECONDS = 1000 * DEADLINE


@pytest.fixture
def tab(tab):
    """A tab of the size that the tests below count on."""
    tab.set_viewport_size({"width": 1000, "height": 700})
    return tab


@pytest.fixture(scope="module")
def numbers(client):
    """A log of 12 MB: a line for each number up to 1,000,000, and one with capitals in it."""
    script = "seq -f '%07.0f line' 500000; echo The Needle; seq -f '%07.0f line' 500001 1000000"
    return client.submit(["/bin/sh", "-c", script]).wait()


def open_log(tab: Page, client, job, query: str = "") -> str:
    """Show the log of the job's first attempt; return the address without the query."""
    tab.goto(client.login_link())
    tab.wait_for_url("**/job-logs")
    address = f"{tab.url}/{job.id}/1/view"
    tab.goto(address + query)
    tab.wait_for_function("document.activeElement.id === 'log'")
    return address


def shown(tab: Page) -> list[str]:
    """Return the lines that the page holds."""
    return [line for line in tab.locator("#log pre").text_content().split("\n") if line]  # type: ignore[union-attr]


def visible(tab: Page) -> list[str]:
    """Return the lines on the screen."""
    lines: list[str] = tab.evaluate(
        """() => { const box = log.getBoundingClientRect();
        return [...log.querySelectorAll("[data-n]")].map((link) => link.parentNode).filter((line) => {
          const { top, bottom } = line.getBoundingClientRect();
          return bottom > box.top + 1 && top < box.bottom - 1; }).map((line) => line.textContent.trim()); }"""
    )
    return lines


def scroll_until(tab: Page, where: str, condition: str) -> None:
    """Scroll to the top or bottom of what is loaded, again and again, until a condition holds."""
    script = f"() => {{ log.scrollTop = {where}; return {condition}; }}"
    tab.wait_for_function(script, polling="raf")


@pytest.fixture
def gate(tmp_path):
    os.mkfifo(tmp_path / "gate")
    return tmp_path / "gate"


# --- Following ----------------------------------------------------------------------------------------------


def test_a_running_log_looks_as_in_a_terminal_and_is_followed_to_its_end(tab, client, gate):
    bar = "".join(rf"\r\033[3{share % 8}m%3d%% [" + "#" * (share // 10) + r"]\033[0m" for share in range(101))
    values = " ".join(map(str, range(101)))
    script = (
        r"printf '\033[1mbegin\033[0m\r\n'; "
        f"printf '{bar.replace('%3d%%', '%s%%')}' {values}; cat {gate}; "
        r"printf '\r\033[2Kdone \033[38;2;255;95;0mtrue\033[0m \033[48;5;21mblue\033[0m\n'"
    )
    job = client.submit(["/bin/sh", "-c", script])
    open_log(tab, client, job)
    expect(tab.locator("#log .open")).to_have_text("100% [##########]")
    assert shown(tab) == ["begin", "100% [##########]"]
    expect(tab.locator("#head .badge")).to_have_text("running")

    gate.write_text("")
    expect(tab.locator("#head .badge")).to_have_text("succeeded")
    expect(tab.locator("#log pre")).to_contain_text("done")
    assert shown(tab) == ["begin", "done true blue"]
    expect(tab.locator("#log .f202")).to_have_text("true")
    expect(tab.locator("#log .b21")).to_have_text("blue")
    expect(tab.locator("#log .bold")).to_have_text("begin")


def test_an_open_page_says_that_the_connection_is_lost_and_goes_on_after_a_restart(
    tab, request, gate, tmp_path
):
    daemon = Daemon(tmp_path)
    daemon.start()
    request.addfinalizer(daemon.stop)
    with daemon.client() as client:
        job = client.submit(["/bin/sh", "-c", f"seq 1500; printf half; cat {gate}; cat {gate}; echo last"])
        open_log(tab, client, job)
    expect(tab.locator("#log .open")).to_have_text("half")
    daemon.process.kill()
    daemon.process.wait()
    expect(tab.locator("#connection")).to_be_visible()
    gate.write_text(" while it was down\n")
    daemon.start()
    expect(tab.locator("#connection")).to_be_hidden()
    expect(tab.locator("#log pre")).to_contain_text("while it was down")
    gate.write_text("and after\n")
    expect(tab.locator("#log pre")).to_contain_text("last")
    expect(tab.locator("#head .badge")).to_have_text("succeeded")

    scroll_until(tab, "0", "+log.querySelector('a').dataset.n === 1")
    assert shown(tab) == [*map(str, range(1, 1501)), "half while it was down", "and after", "last"]
    assert visible(tab)[0] == "1"


def test_a_page_that_shows_another_place_does_not_move_while_the_log_grows(tab, client, gate):
    job = client.submit(["/bin/sh", "-c", f"seq 20000; cat {gate}; seq 20001 30000"])
    open_log(tab, client, job)
    expect(tab.locator("#log pre")).to_contain_text("20000")
    expect(tab.locator(".places")).to_have_text(re.compile(r"Start\s+Following"))
    tab.evaluate("log.scrollTop -= 1000")
    before = visible(tab)
    expect(tab.locator(".places")).to_have_text(re.compile(r"Start\s+End"))
    gate.write_text("")
    expect(tab.locator(".places")).to_have_text(re.compile(r"Start\s+End: [0-9,]+ or more new lines"))
    expect(tab.locator("#head .badge")).to_have_text("succeeded")
    assert visible(tab) == before

    tab.click("text=End")
    wait_until(lambda: visible(tab)[-1] == "30000")
    assert shown(tab) == [str(number) for number in range(int(shown(tab)[0]), 30001)]


def test_a_log_that_grows_faster_than_a_page_can_show_is_shown_to_its_end(tab, client, gate):
    job = client.submit(["/bin/sh", "-c", f"echo begin; cat {gate}; seq 2000000; cat {gate}; echo last"])
    open_log(tab, client, job)
    expect(tab.locator("#log pre")).to_contain_text("begin")
    gate.write_text("")
    expect(tab.locator("#log pre")).to_contain_text("\n2000000\n")
    gate.write_text("")
    expect(tab.locator("#log pre")).to_contain_text("last")

    lines = shown(tab)
    assert lines[-2:] == ["2000000", "last"]
    assert lines[:-1] == [str(number) for number in range(int(lines[0]), 2000001)]
    wait_until(lambda: visible(tab)[-1] == "last")  # it is scrolled to in the next frame


def test_a_group_of_a_running_log_is_folded_as_one_and_does_not_fill_the_page(tab, client, gate):
    rounds = f"cat {gate}; seq 990; echo round 1; " + "".join(
        f"cat {gate}; seq 990; echo round {number}; " for number in range(2, 7)
    )
    script = f"echo before; echo '::group::Set <b>'; seq 3; {rounds} echo ::endgroup::; cat {gate}; echo last"
    job = client.submit(["/bin/sh", "-c", script])
    open_log(tab, client, job)
    groups = tab.locator("#log details")
    expect(groups).to_have_count(1)
    expect(groups.locator("summary")).to_have_text("Set <b>\n")
    gate.write_text("")
    expect(groups.last).to_contain_text("round 1")
    assert groups.count() == 2
    wait_until(lambda: visible(tab)[-1] == "round 1")

    groups.first.locator("summary").evaluate("(summary) => summary.click()")
    expect(groups.last).not_to_have_attribute("open", "")
    for number in range(2, 7):
        gate.write_text("")
        expect(groups.last).to_contain_text(f"round {number}")
        expect(groups.last).not_to_have_attribute("open", "")
    assert tab.locator("#log [data-n]").count() < 5500
    gate.write_text("")
    wait_until(lambda: visible(tab)[-1] == "last")


def test_the_top_of_a_log_is_not_painted_before_the_script_scrolls_to_its_end(tab, client, numbers):
    open_log(tab, client, numbers)
    held: list[Route] = []
    tab.route("**/static/log.js*", lambda route: held.append(route))  # noqa: PLW0108 - Playwright needs it
    tab.reload(wait_until="commit")
    wait_until(lambda: tab.locator("#log code > span").count() and held)
    is_painted = (
        "new Promise((done) => { requestAnimationFrame(() => done(true)); setTimeout(done, 100, false); })"
    )

    assert not tab.evaluate(is_painted)
    held[0].continue_()
    expect(tab.locator("#log")).to_be_focused()
    assert tab.evaluate(is_painted)
    assert visible(tab)[-1] == "1000000 line"


# --- Places -------------------------------------------------------------------------------------------------


def test_any_place_of_a_long_log_is_at_hand_and_what_is_far_is_dropped(tab, client, numbers):
    open_log(tab, client, numbers)
    assert visible(tab)[-1] == "1000000 line"

    scroll_until(tab, "0", "parseInt(log.querySelector('code > span').textContent) < 985000")
    lines = shown(tab)
    assert len(lines) <= 2500  # 2000, and a part that has just come
    first = int(lines[0].split()[0])
    assert lines == [f"{number:07} line" for number in range(first, first + len(lines))]

    tab.click("text=Start")
    wait_until(lambda: visible(tab)[0] == "0000001 line")
    scroll_until(tab, "1e9", "parseInt([...log.querySelectorAll('code > span')].at(-1).textContent) > 15000")
    lines = shown(tab)
    assert len(lines) <= 2500  # 2000, and a part that has just come
    first = int(lines[0].split()[0])
    assert lines == [f"{number:07} line" for number in range(first, first + len(lines))]
    numbered = tab.evaluate(
        "[...log.querySelectorAll('code > span')]"
        ".map((line) => [+line.firstChild.dataset.n, parseInt(line.textContent)])"
    )
    assert len(numbered) > 1000
    assert all(number == line for number, line in numbered)


def test_the_browsers_own_search_selection_and_keys_work_on_what_is_shown(tab, client, numbers):
    open_log(tab, client, numbers)
    before = visible(tab)
    tab.keyboard.press("PageUp")
    wait_until(lambda: visible(tab)[0] < before[0])
    assert tab.evaluate("window.find('0999990 line', false, true)")
    assert tab.evaluate("String(getSelection())") == "0999990 line"

    tab.evaluate(
        """() => { const lines = [...log.querySelectorAll("code > span")].slice(-3);
        getSelection().setBaseAndExtent(lines[0], 0, lines[2], lines[2].childNodes.length); }"""
    )
    assert tab.evaluate("String(getSelection())").strip() == "0999998 line\n0999999 line\n1000000 line"


def test_a_link_to_a_line_opens_at_it_and_marks_it(tab, client, numbers):
    address = open_log(tab, client, numbers, "?at=6499990")
    marked = tab.locator("#log .target")
    expect(marked).to_have_text("0500000 line\n")
    wait_until(lambda: {"0500000 line", "0499990 line"} < set(visible(tab)))

    tab.locator("#log code > span", has_text="0499995 line").locator("a").click()
    expect(marked).to_have_text("0499995 line\n")
    link = tab.url
    assert re.fullmatch(re.escape(address) + r"\?at=6499922", link)
    tab.goto("about:blank")
    tab.goto(link)
    expect(marked).to_have_text("0499995 line\n")


def test_a_search_finds_all_places_and_visits_them(tab, client, numbers):
    open_log(tab, client, numbers)
    tab.fill("[type=search]", "needle")
    tab.keyboard.press("Enter")
    expect(tab.locator(".found")).to_have_text(re.compile(r"1\s*1 found"))
    expect(tab.locator("#log .target")).to_have_text("The Needle\n")

    tab.fill("[type=search]", "77777 LINE")
    tab.keyboard.press("Enter")
    expect(tab.locator(".found output")).to_have_text("0 found")
    tab.fill("[type=search]", "77777 line")
    tab.keyboard.press("Enter")
    expect(tab.locator(".found output")).to_have_text("10 found")
    expect(tab.locator("#log .target")).to_have_text("0077777 line\n")
    tab.keyboard.press("Enter")
    expect(tab.locator("#log .target")).to_have_text("0177777 line\n")
    tab.click("[aria-label='Previous match']")
    tab.click("[aria-label='Previous match']")
    expect(tab.locator("#log .target")).to_have_text("0977777 line\n")
    expect(tab.locator(".found b")).to_have_text("10")


def test_what_was_found_is_marked_in_sight_and_named_by_the_address(tab, client):
    long = r"printf 'wide %0900d nee\033[32mdle\033[0m, needle %0500d http://example.org/?a=<b>\n' 1 2"
    job = client.submit(["/bin/sh", "-c", f"seq 1500; {long}; seq 1500"]).wait()
    tab.goto(client.login_link())
    tab.wait_for_url("**/job-logs")
    tab.goto(f"{tab.url}/{job.id}/1/view#end")
    wait_until(lambda: visible(tab)[-1] == "1500")
    tab.keyboard.press("PageUp")
    wait_until(lambda: visible(tab)[-1] < "1500")

    found, box = tab.locator(".found"), tab.locator("[type=search]")
    box.fill("needle")
    box.press("Enter")
    expect(found).to_have_text(re.compile(r"1\s*2 found"))
    wait_until(lambda: in_sight(tab, "#found"))
    assert "".join(tab.locator("mark").all_text_contents()) == "needleneedle"
    first = tab.url
    box.press("Enter")
    expect(found).to_have_text(re.compile(r"2\s*2 found"))
    expect(tab.locator("#found")).to_have_text("needle")
    wait_until(lambda: in_sight(tab, "#found"))
    second = tab.url
    assert re.search(r"\?at=\d+&text=needle$", second)
    assert second != first
    box.press("Shift+Enter")
    tab.wait_for_url(first)
    expect(found).to_have_text(re.compile(r"1\s*2 found"))

    box.fill("not there")
    box.press("Enter")
    expect(found).to_have_text(re.compile(r"^[^0-9]*0 found$"))
    tab.goto(second)
    expect(found).to_have_text(re.compile(r"2\s*2 found"))
    expect(box).to_have_value("needle")
    wait_until(lambda: in_sight(tab, "#found"))
    tab.click("text=Start")
    expect(tab.locator("#found")).to_have_count(0)
    tab.go_back()
    wait_until(lambda: in_sight(tab, "#found"))
    link = tab.locator("#log .address")
    expect(link).to_have_text("http://example.org/?a=")
    assert link.get_attribute("rel") == "noopener noreferrer"


def in_sight(tab: Page, element: str) -> bool:
    """Tell whether an element of the log is where it can be seen."""
    is_inside: bool = tab.evaluate(
        """(element) => {
        const [of, all] = [document.querySelector(element), log].map((each) => each?.getBoundingClientRect());
        return !!of && of.left >= all.left && of.right <= all.right && of.top >= all.top
          && of.bottom <= all.bottom;
        }""",
        element,
    )
    return is_inside


def test_a_log_stays_at_its_place_and_clear_of_the_numbers_at_any_zoom(tab, client):
    script = f"for line in $(seq 900); do echo $line {'word ' * 60}; done"
    job = client.submit(["/bin/sh", "-c", script]).wait()
    open_log(tab, client, job)
    tab.check("text=Wrap")
    tab.evaluate("log.scrollTop -= 5000")
    wait_until(lambda: len(visible(tab)) > 1)
    tab.evaluate("new Promise(requestAnimationFrame)")
    first = tab.evaluate(
        "keptLine = [...log.querySelectorAll('code > span')]"
        "  .find((line) => line.offsetTop >= log.scrollTop).textContent"
    )
    for width, height in ((320, 225), (1000, 700)):  # 1280 x 900 at 400 %, and back
        tab.set_viewport_size({"width": width, "height": height})
        wait_until(lambda: first.strip() in visible(tab)[:2])
        assert tab.evaluate("log.clientHeight") > 180
        [number, text] = tab.evaluate(
            """() => { const line = [...log.querySelectorAll("code > span")].at(-1), range = new Range();
            range.selectNodeContents(line.lastChild);
            return [line.firstChild.getBoundingClientRect().right,
              Math.min(...[...range.getClientRects()].map((each) => each.left))]; }"""
        )
        assert text >= number


def test_switches_are_remembered(tab, client):
    job = client.submit(["/bin/sh", "-c", "echo " + "wide " * 300]).wait()
    open_log(tab, client, job)
    assert tab.evaluate("log.scrollWidth > log.clientWidth")
    assert time_shown(tab) == "none"
    tab.check("text=Wrap")
    tab.check("text=Times")
    tab.reload()

    assert tab.evaluate("log.scrollWidth === log.clientWidth")
    assert re.fullmatch(r'"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}"', time_shown(tab))
    tab.uncheck("text=Wrap")
    tab.reload()
    assert tab.evaluate("log.scrollWidth > log.clientWidth")


def time_shown(tab: Page) -> str:
    content: str = tab.evaluate("getComputedStyle(log.querySelector('a'), '::after').content")
    return content


@pytest.mark.parametrize("width", [390, 1920])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_fits_its_window_and_every_control_has_a_name(tab, client, numbers, width, scheme):
    tab.set_viewport_size({"width": width, "height": 700})
    tab.emulate_media(color_scheme=scheme)
    open_log(tab, client, numbers)

    assert tab.evaluate("document.documentElement.scrollWidth") == width
    assert tab.evaluate("document.documentElement.scrollHeight") == 700
    assert tab.locator("#log").bounding_box()["height"] > 350
    names = tab.evaluate(
        """[...document.querySelectorAll("main input, main button, main a:not([tabindex])")].map(
        (each) => each.ariaLabel || each.labels?.[0]?.textContent || each.textContent)"""
    )
    assert all(name.strip() for name in names)


def test_a_page_without_a_script_leads_through_the_log(chrome, client, numbers):
    context = chrome.new_context(java_script_enabled=False)
    context.set_default_timeout(MILLISECONDS)
    tab = context.new_page()
    tab.goto(client.login_link())
    tab.wait_for_url("**/job-logs")
    tab.goto(f"{tab.url}/{numbers.id}/1/view#end")
    assert shown(tab)[-1] == "1000000 line"
    assert tab.locator("text=Wrap").is_hidden()
    tab.click("text=Earlier")
    assert shown(tab)[-1] == "0999800 line"
    tab.click("text=Start")
    assert shown(tab)[0] == "0000001 line"
    tab.click("text=Later")
    assert shown(tab)[0] == "0000501 line"
    tab.fill("[type=search]", "needle")
    tab.click('.tools button:has-text("Search")')
    expect(tab.locator("main")).to_contain_text("Found once")
    tab.locator("#log a").click()
    expect(tab.locator("#log .target")).to_have_text("The Needle\n")
    context.close()
