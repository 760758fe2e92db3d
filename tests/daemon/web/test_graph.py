"""What waits for what, as a picture on the page of a job."""

from __future__ import annotations

import pytest
from axe_playwright_python.sync_playwright import Axe  # type: ignore[import-untyped]  # it has no types
from playwright.sync_api import expect

from bgd.core.job import State
from bgd.daemon.storage.store import Store
from bgd.daemon.web import graph
from bgd.daemon.web.graph import graph_of
from tests.daemon.storage.builders import move, new, put
from tests.daemon.web.chromium import needs_chromium


@pytest.fixture
async def store(tmp_path):
    opened = await Store.open(str(tmp_path / "bgd.db"))
    yield opened
    await opened.close()


async def drawn(store, job, behind=None):
    return await store.read(graph_of, job, behind or {job: []})


async def test_what_comes_first_stands_left_and_each_wait_is_a_line(store):
    await put(
        store,
        new(1, name="extract"),
        new(2, name="clean it thoroughly", after=(1,)),
        new(3, after=(1,), after_any=(2,)),
        new(4, after=(3,)),
        new(5),
    )
    await move(store, 1, State.SUCCEEDED)

    found = await drawn(store, 3, {3: [4], 4: []})

    boxes = {job: (name, state, is_here) for job, name, state, _, _, is_here in found["boxes"]}
    assert boxes == {
        1: ("extract", "succeeded", False),
        2: ("clean it thoro\N{HORIZONTAL ELLIPSIS}", "queued", False),
        3: ("", "queued", True),
        4: ("", "queued", False),
    }
    assert [job for job, _, _, x, _, _ in sorted(found["boxes"], key=lambda box: box[3])] == [1, 2, 3, 4]
    assert len(found["lines"]) == 4
    assert await drawn(store, 5) is None


async def test_many_jobs_are_bounded_and_stand_in_columns(store, monkeypatch):
    monkeypatch.setattr(graph, "MAX_JOBS", 20)
    await put(store, *(new(number) for number in range(1, 31)), new(31, after=tuple(range(1, 31))))

    found = await drawn(store, 31)

    assert len(found["boxes"]) == 20
    assert found["height"] < 500
    assert len({(x, y) for _, _, _, x, y, _ in found["boxes"]}) == 20


async def test_removed_jobs_are_left_out_and_a_circle_of_finished_ones_ends(store):
    await put(store, new(1, after=(2, 9)), new(2, after=(1,)))

    found = await drawn(store, 1)

    assert [job for job, *_ in found["boxes"]] == [2, 1]
    assert len(found["lines"]) == 2


@needs_chromium
def test_each_box_leads_to_its_job_and_new_ones_appear(tab, client):
    first = client.submit(["/bin/true"], name="first", hold=True)
    second = client.submit(["/bin/true"], name="second", after=[first.id])
    tab.goto(client.login_link())
    tab.wait_for_url("**/job-logs")
    tab.goto(f"{tab.url}/{second.id}")
    boxes = tab.locator("#graph a")
    expect(boxes).to_have_count(2)
    third = client.submit(["/bin/true"], name="third", after=[second.id])
    expect(boxes).to_have_count(3)
    tab.set_viewport_size({"width": 390, "height": 800})
    assert [each["id"] for each in Axe().run(tab).response["violations"]] == []
    assert tab.evaluate("document.documentElement.scrollWidth") <= 390
    tab.click(f"#graph >> text={third.id} third")
    tab.wait_for_url(f"**/job-logs/{third.id}")
    assert (
        tab.locator("#graph [aria-current]").get_attribute("aria-label") == f"Job {third.id} third: blocked"
    )
    client.cancel([first.id, second.id, third.id])
