"""Lists are found and counted slice by slice, within a time, in both directions and in each order."""

from __future__ import annotations

import math

import pytest
from msgspec.structs import replace

from bgd.core.filters import Filter, but_notifications
from bgd.core.job import State
from bgd.core.spec import NOTIFICATION_QUEUE
from bgd.daemon.storage import lists
from bgd.daemon.storage.store import Store
from bgd.daemon.storage.summaries import Count
from bgd.daemon.web import finding
from bgd.daemon.web.finding import count, find, find_page
from bgd.daemon.web.queries import ListQuery
from tests.daemon.storage.builders import move, new, put

ALL = but_notifications(Filter())


@pytest.fixture
async def store(tmp_path):
    store = await Store.open(str(tmp_path / "bgd.db"))
    yield store
    await store.close()


@pytest.fixture
async def hundred(store, monkeypatch):
    """A store with 100 jobs, of which a slice looks at few."""
    monkeypatch.setattr(finding, "_FIRST_SLICE", 18)
    await put(store, *(new(number, name=f"job-{number}", tags=("all",)) for number in range(1, 101)))
    return store


async def test_all_jobs_are_found_however_small_the_slices_are(hundred):
    found, rest = await find(hundred, Filter(name="*b-1?"))
    assert (found, rest) == (list(range(19, 9, -1)), None)
    assert (await find(hundred, Filter(name="*b-1?"), 12, ascending=True))[0] == list(range(13, 20))
    assert (await find(hundred, Filter(name="*b-1?"), limit=3))[0] == [19, 18, 17]


async def test_without_time_one_slice_is_looked_at_and_the_rest_is_told(hundred):
    page = await find_page(hundred, ListQuery(), Filter(name="*b-9?"), 0)
    assert page.ids == [99, 98]
    assert page.searched_to == 98
    assert page.older == {"before": 98, "after": None}

    following = await find_page(hundred, ListQuery(before=98), Filter(name="*b-9?"), 0)
    assert following.ids == [97, 96, 95]
    assert following.newer == {"before": None, "after": 97}


async def test_fewer_jobs_are_looked_at_first_if_their_arguments_are_compared(hundred, monkeypatch):
    monkeypatch.setattr(finding, "_FIRST_SPECS", 9)
    assert await find(hundred, Filter(name="*none*"), seconds=0) == ([], 98)
    assert await find(hundred, Filter(args=("none",)), seconds=0) == ([], 99)
    assert await find(hundred, Filter(without=(Filter(args=("*",)),)), seconds=0) == ([], 99)


async def test_pages_lead_to_each_other_in_both_directions(hundred):
    query, wanted = ListQuery(limit=40), Filter()
    first = await find_page(hundred, query, wanted, math.inf)
    assert (first.ids, first.newer) == (list(range(100, 60, -1)), None)
    second = await find_page(hundred, ListQuery(limit=40, before=61), wanted, math.inf)
    assert (second.ids[0], second.older) == (60, {"before": 21, "after": None})
    third = await find_page(hundred, ListQuery(limit=40, before=21), wanted, math.inf)
    assert (third.ids, third.older) == (list(range(20, 0, -1)), None)

    back = await find_page(hundred, ListQuery(limit=40, after=20), wanted, math.inf)
    assert back.ids == second.ids
    assert back.newer == {"before": None, "after": 60}
    assert back.older == {"before": 21, "after": None}
    assert await find_page(hundred, ListQuery(limit=40, after=60), wanted, math.inf) == first
    assert (await find_page(hundred, ListQuery(before=1), wanted, math.inf)).newer == {
        "before": None,
        "after": 0,
    }


async def test_running_jobs_come_first_on_request(hundred):
    for number in (3, 50):
        await move(hundred, number, State.RUNNING)

    page = await find_page(hundred, ListQuery(sort="running", limit=3), Filter(), math.inf)
    assert (page.ids, page.newer, page.older) == ([50, 3, 100], None, {"from": 3})
    page = await find_page(hundred, ListQuery(sort="running", limit=3, skip=3), Filter(), math.inf)
    assert (page.ids, page.newer, page.older) == ([99, 98, 97], {"from": None}, {"from": 6})


async def test_jobs_that_wait_are_sorted_as_they_start_and_finished_ones_by_their_end(hundred):
    await move(hundred, 7, State.QUEUED, priority=5)
    page = await find_page(hundred, ListQuery(sort="priority", limit=3), Filter(), math.inf)
    assert page.ids == [7, 1, 2]

    for number in (9, 4):
        await move(hundred, number, State.FAILED)
    await set_ends(hundred, {9: 18, 4: 8})
    page = await find_page(hundred, ListQuery(sort="finished", limit=3), Filter(), math.inf)
    assert page.ids == [9, 4, 100]
    page = await find_page(hundred, ListQuery(sort="finished", limit=3), Filter(tags=("all",)), math.inf)
    assert page.ids == [9, 4, 100]


async def set_ends(store, ends):
    """Let jobs have finished at these times, on both clocks."""
    rows = [(at, at, job) for job, at in ends.items()]
    await store.write(
        lambda db: db.executemany("UPDATE jobs SET finished_at = ?, aged_from = ? WHERE id = ?", rows)
    )


async def test_those_that_finished_last_are_found_among_all_however_many_there_are(hundred, monkeypatch):
    monkeypatch.setattr(finding, "MAX_SORTED", 2)
    ends = {1: 50.0, 2: 90.0, 3: 90.0, 4: 20.0, 5: 70.0}
    for number in ends:
        await move(hundred, number, State.FAILED if number % 2 else State.SUCCEEDED)
    await put(hundred, new(101, queue=NOTIFICATION_QUEUE))
    await move(hundred, 101, State.FAILED, queue=NOTIFICATION_QUEUE)
    await set_ends(hundred, ends | {101: 95.0})

    query = ListQuery(sort="finished", limit=2)
    page = await find_page(hundred, query, ALL, math.inf)
    assert (page.ids, page.older) == ([3, 2], {"from": 2})
    assert (await find_page(hundred, replace(query, skip=2), ALL, math.inf)).ids == [5, 1]
    assert (await find_page(hundred, replace(query, skip=4), ALL, math.inf)).ids == [4, 100]
    failed = replace(ALL, states=(State.FAILED,))
    assert (await find_page(hundred, replace(query, limit=4), failed, math.inf)).ids == [3, 5, 1]


async def test_counts_follow_the_filter_and_say_where_they_are_not_complete(hundred, monkeypatch):
    await move(hundred, 15, State.FAILED)
    nothing = dict.fromkeys(State, Count(0))

    await put(hundred, new(101, queue=NOTIFICATION_QUEUE))
    assert await count(hundred, ALL, 0) == nothing | {State.QUEUED: Count(99), State.FAILED: Count(1)}
    counted = await count(hundred, Filter(name="*b-1?", states=(State.HELD,)), math.inf)
    assert counted == nothing | {State.QUEUED: Count(9), State.FAILED: Count(1)}
    assert await count(hundred, Filter(tags=("all",)), 0) == await count(hundred, ALL, 0)
    monkeypatch.setattr(finding, "MAX_COUNTED", 4)
    assert (await count(hundred, Filter(name="*b-1?"), math.inf))[State.QUEUED] == Count(4, is_least=True)
    assert (await count(hundred, Filter(name="*b-1?"), 0))[State.QUEUED].is_least
    assert str(Count(1000, is_least=True)) == "1,000+"


async def test_names_tags_and_queues_are_listed_once_each(store):
    await put(
        store,
        *(
            new(number, name=name, tags=("t", f"t{number}"), queue=queue)
            for number, (name, queue) in enumerate(
                [("build", "default"), ("build", "mail"), ("bundle", "mail"), (None, "music")], start=1
            )
        ),
    )
    for what, beginning, limit, expected in (
        ("name", "b", 20, ["build", "bundle"]),
        ("name", "b", 1, ["build"]),
        ("name", "bun", 20, ["bundle"]),
        ("tag", "", 3, ["t", "t1", "t2"]),
        ("queue", "m", 20, ["mail", "music"]),
        ("queue", "x", 20, []),
    ):
        assert await store.search(lists.distinct, what, beginning, limit) == expected
