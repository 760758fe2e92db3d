"""What waits for what, as a picture on the page of a job."""

from __future__ import annotations

import re

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


async def test_jobs_that_are_not_drawn_are_counted_and_lead_to_their_list(store, monkeypatch):
    monkeypatch.setattr(graph, "MAX_JOBS", 20)
    await put(store, *(new(number) for number in range(1, 31)), new(31, after=(*range(1, 31), 99)))

    found = await drawn(store, 31, {31: []})

    assert len(found["boxes"]) == 20
    assert found["height"] < 500
    assert len({(x, y) for _, _, _, x, y, _ in found["boxes"]}) == 20
    assert (str(found["others"]), found["url"], found["removed"]) == ("11", "/job-logs?q=id:20-30", 1)


async def test_a_long_chain_and_very_many_followers_are_counted_too(store, monkeypatch):
    monkeypatch.setattr(graph, "MAX_LAYERS", 3)
    chain = [new(number, after=(number - 1,) if number > 1 else ()) for number in range(1, 10)]
    await put(store, *chain, *(new(number, after=(9,)) for number in range(10, 20)))

    behind = {9: [*range(10, 20)], **{number: [] for number in range(10, 20)}}
    found = await drawn(store, 9, behind)
    assert (str(found["others"]), found["url"]) == ("5", "/job-logs?q=id:1-5")
    monkeypatch.setattr(graph, "MAX_JOBS", 3)
    assert str((await drawn(store, 9, behind))["others"]) == "14"
    monkeypatch.setattr(graph, "MAX_FOLLOWED", 6)
    assert str((await drawn(store, 9, {9: [*range(10, 20)]}))["others"]) == "6+"
    monkeypatch.setattr(graph, "MAX_FILTER", 6)
    assert (await drawn(store, 9))["url"] is None


async def test_jobs_that_were_cancelled_because_of_a_job_stay_in_its_picture(store):
    await put(store, new(1), new(2, after=(1,)), new(3, after=(2,)), new(4, after_any=(3,)))
    await move(store, 1, State.FAILED)
    for job in (2, 3):
        await move(store, job, State.CANCELLED)

    assert [job for job, *_ in (await drawn(store, 1))["boxes"]] == [1, 2, 3]
    assert [job for job, *_ in (await drawn(store, 2))["boxes"]] == [1, 2, 3]
    assert [job for job, *_ in (await drawn(store, 3, {3: [4], 4: []}))["boxes"]] == [1, 2, 3, 4]


async def test_removed_jobs_are_counted_and_a_circle_of_finished_ones_ends(store):
    await put(store, new(1, after=(2, 9)), new(2, after=(1,)))

    found = await drawn(store, 1)

    assert [job for job, *_ in found["boxes"]] == [2, 1]
    assert len(found["lines"]) == 2
    assert (found["others"].jobs, found["removed"]) == (0, 1)
    assert not crossed_boxes(found)


async def test_no_line_runs_behind_a_box(store):
    await put(
        store,
        *(new(number) for number in range(1, 31)),
        new(31, after=tuple(range(1, 31))),
        new(32, after=(31, 1, 30)),
        new(33, after=(32,)),
        new(34, after=(32,)),
        new(35, after=(34, 31, 2), after_any=(33, 29)),
    )

    found = await drawn(store, 32, {32: [33, 34, 35], 33: [35], 34: [35], 35: []})

    assert len(found["boxes"]) == 35
    assert not crossed_boxes(found)


def crossed_boxes(found):
    """Return the lines that have a point inside a box."""
    (width, height), boxes = found["box"], [(x, y) for _, _, _, x, y, _ in found["boxes"]]
    return [
        line
        for line in found["lines"]
        if any(
            left < x < left + width and top < y < top + height
            for x, y in points_of(line)
            for left, top in boxes
        )
    ]


def points_of(line):
    """Yield points of a path that has the commands M, C and H."""
    x = y = 0.0
    for command, numbers in re.findall(r"([MCH])([-0-9 ]+)", line):
        values = [float(number) for number in numbers.split()]
        steps = [number / 50 for number in range(51)]
        if command == "M":
            x, y = values
        elif command == "H":
            yield from ((x + (values[0] - x) * share, y) for share in steps)
            x = values[0]
        else:
            xs, ys = (x, *values[::2]), (y, *values[1::2])
            yield from ((bezier(xs, share), bezier(ys, share)) for share in steps)
            x, y = values[4:]


def bezier(places, share):
    rest = 1 - share
    weights = rest**3, 3 * rest**2 * share, 3 * rest * share**2, share**3
    return sum(weight * place for weight, place in zip(weights, places, strict=True))


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
