"""A list finds what a filter in memory finds, whatever is asked for and whichever index is used."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from contextlib import closing, contextmanager
from fnmatch import fnmatchcase

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bgd.core.job import FINAL, JobId, State
from bgd.daemon.storage import read, schema, write
from bgd.daemon.storage.records import Transaction
from bgd.wire.requests import List
from tests.daemon.storage.builders import NOW, UID, a_job, ids, new, put, saves

LETTERS = "ab*?[]!^"
QUEUES = ("default", "builds", "mail")
INTEREST = (
    {State.RUNNING, State.STOPPING},
    {State.QUEUED, State.SCHEDULED, State.BLOCKED, State.HELD},
    {State.SUCCEEDED, State.FAILED, State.CANCELLED},
)

some_tags = st.lists(st.sampled_from(["red", "blue"]), unique=True)
jobs = st.fixed_dictionaries(
    {
        "state": st.sampled_from(State),
        "queue": st.sampled_from(QUEUES),
        "name": st.none() | st.text(LETTERS, min_size=1, max_size=6),
        "tags": some_tags.map(tuple),
        "uid": st.integers(UID, UID + 1),
        "at": st.integers(0, 5).map(float),
    }
)
# In SQLite and in the shell [^ means [!, but not in fnmatch
patterns = st.text(LETTERS, max_size=6).filter(lambda text: "[^" not in text)
queries = st.fixed_dictionaries(
    {},
    optional={
        "states": st.lists(st.sampled_from(State), min_size=1, max_size=4),
        "queue": st.sampled_from((*QUEUES, "none")),
        "name": patterns,
        "tag": st.sampled_from(["red", "blue", "green"]),
        "since": st.integers(0, 6).map(float),
        "limit": st.integers(1, 8),
        "mine": st.booleans(),
        "before": st.integers(1, 25),
    },
).map(lambda fields: msgspec.convert({"id": 1, **fields}, List))


def is_selected(job, query):
    return (
        (query.queue in {None, job["queue"]})
        and (query.name is None or (job["name"] is not None and fnmatchcase(job["name"], query.name)))
        and (query.tag is None or query.tag in job["tags"])
        and (query.since is None or job["at"] >= query.since)
        and (not query.mine or job["uid"] == UID)
        and (query.before is None or job["id"] < query.before)
    )


def plainly_filtered(known, query):
    groups = INTEREST if query.before is None else (set(State),)
    if query.states is not None:
        groups = (set(query.states),)
    found: list[int] = []
    for states in groups:
        matching = [job["id"] for job in known if job["state"] in states and is_selected(job, query)]
        found += sorted(matching, reverse=True)[: query.limit - len(found)]
    return sorted(found, reverse=True)


@contextmanager
def written(db, known):
    """Fill the database with these jobs for the duration of the block."""
    items = [
        new(job["id"], uid=job["uid"], at=job["at"], queue=job["queue"], name=job["name"], tags=job["tags"])
        for job in known
    ]
    moved = saves(*(a_job(job["id"], job["state"], queue=job["queue"]) for job in known))
    db.execute("BEGIN IMMEDIATE")
    try:
        if items:
            write.TransactionWriter().save(db, Transaction(now=NOW, new=items))
            write.TransactionWriter().save(db, Transaction(now=NOW, saves=moved))
        yield
    finally:
        db.execute("ROLLBACK")


@pytest.mark.parametrize("few", [0, 3, read._FEW])
def test_list_is_what_a_filter_in_memory_finds(path, monkeypatch, few):
    monkeypatch.setattr(read, "_FEW", few)  # so that a handful of jobs is enough for every index
    with closing(schema.open_writable(path)) as db:

        @given(st.lists(jobs, max_size=20), st.lists(queries, min_size=1, max_size=5))
        def try_out(known, asked):
            known = [job | {"id": number} for number, job in enumerate(known, start=1)]
            with written(db, known):
                for query in asked:
                    found = read.select_ids(db, query, UID)
                    assert found == plainly_filtered(known, query)

        try_out()


def test_counts_by_queue_and_state_are_what_counting_one_by_one_gives(path):
    with closing(schema.open_writable(path)) as db:
        read.prepare(db)

        @given(st.lists(jobs, max_size=20))
        def try_out(known):
            known = [job | {"id": number} for number, job in enumerate(known, start=1)]
            counted = Counter((job["queue"], job["state"]) for job in known if job["state"] not in FINAL)
            with written(db, known):
                found = {
                    (queue, State(state)): number
                    for queue, of_queue in read.queue_counts(db).items()
                    for state, number in of_queue.items()
                }
            assert found == counted

        try_out()


@pytest.mark.parametrize(
    ("pattern", "name", "is_like_it"),
    [
        ("build-[0-9]", "build-7", True),
        ("build-[0-9]", "build-x", False),
        ("build-[!0-9]", "build-x", True),
        ("build-[^0-9]", "build-7", False),
        ("[]]", "]", True),
        ("[!]]", "]", False),
        ("a[b", "a[b", True),
        ("a[!", "a[!", True),
        ("[a-]", "-", True),
        ("caf?", "café", True),
        ("Build", "build", False),
    ],
)
async def test_pattern_matches_as_in_a_shell(store, pattern, name, is_like_it):
    await put(store, new(1, name=name))

    assert await ids(store, name=pattern) == ([1] if is_like_it else [])


async def test_list_that_reads_many_jobs_does_not_delay_other_reads(store):
    await put(store, new(1))
    began, continue_ = threading.Event(), threading.Event()

    def look_on(_):
        began.set()
        assert continue_.wait(30)

    async with asyncio.timeout(30), asyncio.TaskGroup() as group:
        group.create_task(store.search(look_on))
        await asyncio.to_thread(began.wait, 30)
        asked_later = group.create_task(store.search(read.list_jobs, List(id=1), UID))
        assert (await store.read(read.view, JobId(1))).id == 1
        assert await store.read(write.read_spec, JobId(1)) is not None
        assert not asked_later.done()
        continue_.set()
    assert [view.id for view in asked_later.result()] == [1]
