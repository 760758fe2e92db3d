"""Nothing lies over anything else on a phone, however long names, tags, commands and reasons are."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Page

from tests.daemon.web.chromium import chromium, needs_chromium
from tests.support import serving, wait_until

pytestmark = needs_chromium

LONG = "a-name-of-sixty-letters-that-is-as-long-as-a-name-may-sensibly"
CONFIGURATION = f"""
[schedules.{LONG}]
cron = "0 3 * * *"
command = ["/bin/echo", "{"words " * 30}"]
[queues.{LONG}]
slots = 2
rate = "10/1m"
[resources]
gpu = ["0", "1"]
"""
TAGS = [f"tag-that-is-rather-long-number-{number}" for number in range(3)]
ROWS = 200
# Jobs in all states, with long and short words
JOBS: list[dict[str, Any]] = [
    {"argv": ["/bin/echo", "--customer", "4711"], "name": "nightly report " * 5, "tags": [*TAGS, "more"]},
    {"argv": ["/bin/echo", "-a", "/srv/data/", "backup:/srv/data/"], "tags": TAGS, "priority": 5},
    {"argv": ["true"], "name": "x" * 120, "tags": ["y" * 100]},
    {"argv": ["true"], "name": "漢字" * 20, "tags": ["ünïcödé-" * 8, "漢字" * 30]},
    {"argv": ["true"], "tags": ["a", "b", "c"], "name": "short"},
    {"argv": ["true"], "tags": TAGS, "queue": LONG, "delay": 3600},
]
ENDED: list[dict[str, Any]] = [
    {"argv": ["/bin/sh", "-c", "echo a needle; exit 3"], "tags": TAGS, "name": LONG},
    {"argv": ["/nowhere/a/program/with/a/long/path"], "tags": TAGS},
]
PAGES = (
    *("", "/overview", "/charts", "/queues", "/schedules", f"/schedules/{LONG}", "/batches", "/batches/1"),
    *("?q=state:running", "/search?text=needle", "/new", "/1", "/2", "/3", "/1/1/view"),
)
# Texts and fields as the reader sees them, and those pairs that lie over each other
OVERLAPS = """() => {
  const hidden = "thead, h1.quiet, .banner, footer, svg";
  const seen = (element) => element.checkVisibility() && !element.closest(hidden);
  const clipped = (box, element) => {
    let { left, right, top, bottom } = box;
    for (let outer = element; outer; outer = outer.parentElement) {
      if (getComputedStyle(outer).overflowX === "visible") continue;
      const edge = outer.getBoundingClientRect();
      [left, right] = [Math.max(left, edge.left), Math.min(right, edge.right)];
      [top, bottom] = [Math.max(top, edge.top), Math.min(bottom, edge.bottom)];
    }
    return { left, right, top, bottom };
  };
  const boxes = [];
  const add = (element, name, rects) => {
    for (const rect of rects) boxes.push({ element, name, ...clipped(rect, element) });
  };
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let text = texts.nextNode(); text; text = texts.nextNode()) {
    if (!text.data.trim() || !seen(text.parentElement)) continue;
    const range = document.createRange();
    range.selectNodeContents(text);
    add(text.parentElement, text.data.trim().slice(0, 40), range.getClientRects());
  }
  for (const field of document.querySelectorAll("input, select, progress, .tag")) {
    if (seen(field)) add(field, field.className || field.nodeName, [field.getBoundingClientRect()]);
  }
  const isOver = (one, other) =>
    Math.min(one.right, other.right) - Math.max(one.left, other.left) > 1 &&
    Math.min(one.bottom, other.bottom) - Math.max(one.top, other.top) > 3 && // lines of one text touch
    !one.element.contains(other.element) && !other.element.contains(one.element);
  const found = boxes.filter((box) => box.right - box.left > 1 && box.bottom - box.top > 3);
  const pairs = found.flatMap((one, at) =>
    found.slice(at + 1).filter((other) => isOver(one, other)).map((other) => [one.name, other.name]));
  return { count: found.length, pairs, width: document.documentElement.scrollWidth };
}"""


@pytest.fixture(scope="module")
def phone() -> Iterator[Page]:
    with serving(CONFIGURATION) as daemon, daemon.client() as client, chromium() as browser:
        client.wait([client.submit(**job, check=False) for job in ENDED])
        program = (
            f"{shlex.quote(sys.executable)} -m bgctl progress 1234567/2345678 '{'words ' * 9}'; sleep 1000"
        )
        running = client.submit(["/bin/sh", "-c", program], tags=TAGS, name=f"running {LONG}", env=daemon.env)
        client.submit_many([{"hold": "delay" not in job, **job} for job in JOBS] * (ROWS // len(JOBS)))
        client.batch([["true"], ["false"]], LONG, then=["true"])
        client.schedules.run(LONG)
        wait_until(lambda: running.refresh().progress is not None)
        context = browser.new_context(viewport={"width": 390, "height": 800}, has_touch=True, is_mobile=True)
        tab = context.new_page()
        tab.goto(client.login_link())
        tab.wait_for_url("**/job-logs")
        yield tab


@pytest.mark.parametrize("width", [320, 360, 390])
@pytest.mark.parametrize("path", PAGES)
def test_no_text_and_no_field_lies_over_another(phone, path, width):
    phone.set_viewport_size({"width": width, "height": 800})
    phone.goto(f"{phone.url.partition('/job-logs')[0]}/job-logs{path or f'?limit={ROWS}'}")
    found = phone.evaluate(OVERLAPS)

    assert found["count"] > (5 * ROWS if not path else 9)
    assert found["pairs"][:5] == []
    assert found["width"] == width


def test_every_job_of_a_long_list_is_a_card_of_72_pixels_that_shows_its_command_and_a_tag(phone):
    phone.goto(f"{phone.url.partition('/job-logs')[0]}/job-logs?q=state:held&limit={ROWS}")
    phone.set_viewport_size({"width": 320, "height": 800})
    heights = phone.evaluate("[...document.querySelectorAll('#ordered tr')].map((row) => row.offsetHeight)")
    widths = phone.evaluate(
        "[...document.querySelectorAll('#ordered tr')].map((row) =>"
        " ['.description a', '.tag'].map((part) => row.querySelector(part).offsetWidth))"
    )

    assert len(heights) > ROWS / 2
    assert max(heights) <= 72
    assert min(link for link, _ in widths) >= 80
    assert min(tag for _, tag in widths) >= 20
