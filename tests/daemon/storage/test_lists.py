"""A list finds what a filter in memory finds, whatever is asked for and whichever index is used."""

from __future__ import annotations

import asyncio
import re
import threading
import time
from collections import Counter
from contextlib import closing, contextmanager, nullcontext
from fnmatch import fnmatchcase

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from bgd.core.filters import Filter
from bgd.core.job import FINAL, JobId, Outcome, State
from bgd.core.retry import exit_code_of
from bgd.core.spec import JobSpec
from bgd.daemon.storage import lists, read, schema, write
from bgd.daemon.storage.records import Transaction
from bgd.wire.requests import List
from tests.daemon.storage.builders import NOW, UID, a_job, ids, move, new, put, saves, submitted

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
patterns = st.text(LETTERS, max_size=6)
queries = st.fixed_dictionaries(
    {},
    optional={
        "states": st.lists(st.sampled_from(State), min_size=1, max_size=4),
        "queue": st.sampled_from((*QUEUES, "none")),
        "name": patterns,
        "tag": st.sampled_from(["red", "blue", "green"]),
        "since": st.integers(0, 6).map(float),
        "until": st.integers(0, 6).map(float),
        "limit": st.integers(1, 8),
        "mine": st.booleans(),
        "before": st.integers(1, 25),
    },
).map(lambda fields: msgspec.convert({"id": 1, **fields}, List))


def is_like(text, pattern):
    """Compare as the standard library does, with each bracket escaped that does not escape a wildcard."""
    return fnmatchcase(
        text, re.sub(r"\[[*?[]\]|\[", lambda found: found[0] if found[0][1:] else "[[]", pattern)
    )


def is_selected(job, query):
    return (
        (query.queue in {None, job["queue"]})
        and (query.name is None or (job["name"] is not None and is_like(job["name"], query.name)))
        and (query.tag is None or query.tag in job["tags"])
        and (query.since is None or job["at"] >= query.since)
        and (query.until is None or job["at"] < query.until)
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
            write.TransactionWriter().save(db, submitted(*items))
            write.TransactionWriter().save(db, Transaction(now=NOW, saves=moved))
        yield
    finally:
        db.execute("ROLLBACK")


@pytest.mark.parametrize("few", [0, 3, lists._FEW])
def test_list_is_what_a_filter_in_memory_finds(path, monkeypatch, few):
    monkeypatch.setattr(lists, "_FEW", few)  # so that a handful of jobs is enough for every index
    with closing(schema.open_writable(path)) as db:

        @given(st.lists(jobs, max_size=20), st.lists(queries, min_size=1, max_size=5))
        def try_out(known, asked):
            known = [job | {"id": number} for number, job in enumerate(known, start=1)]
            with written(db, known):
                for query in asked:
                    found = lists.select_ids(db, query, lists.asked_by(query, NOW.wall, UID))
                    assert found == plainly_filtered(known, query)

        try_out()


# --- slices of a list, with all that a filter can ask for

COMMANDS = [("/bin/echo", "one two"), ("make", "-j2", "two.txt"), ("/bin/true",)]
TARGETS = ["app.services:Report.build", "app.tasks:clean", "shop::Invoices@send"]
ARGUMENTS = '{"args": ["Two.txt", 7], "kwargs": {"id": 42, "to": "a b"}}'
UNWANTED = [
    *(Filter(queue="mail"), Filter(name="a*"), Filter(name_parts=("B",)), Filter(tags=("red",))),
    Filter(session="one"),
    *(Filter(since=5.0), Filter(until=5.0), Filter(priority=1), Filter(exit_code=3), Filter(exit_code=0)),
    *(Filter(has_name=False), Filter(ids=frozenset({range(3, 5)})), Filter(outcome="exit"), Filter(signal=9)),
    *(Filter(exact_error="ValueError"), Filter(exact_target=TARGETS[0]), Filter(finished=5.0)),
    *(Filter(errors=("Error: Bad",)), Filter(args=("two*",)), Filter(target="app.*"), Filter(texts=("TWO",))),
]
ENDS = [(Outcome.EXIT, 3, None), (Outcome.SIGNAL, None, 9), (Outcome.OOM, None, None), (None, None, None)]

full_jobs = st.fixed_dictionaries(
    {
        "state": st.sampled_from(State),
        "queue": st.sampled_from(QUEUES),
        "name": st.none() | st.text(LETTERS, min_size=1, max_size=6),
        "tags": some_tags.map(tuple),
        "priority": st.integers(0, 1),
        "session": st.sampled_from([None, "one", "two"]),
        "work": st.sampled_from(
            [{"argv": argv} for argv in COMMANDS]
            + [{"target": each} for each in TARGETS]
            + [{"target": TARGETS[0], "arguments": ARGUMENTS}]
        ),
        "end": st.sampled_from(ENDS),
        "suspended": st.booleans(),
    }
)
filters = st.fixed_dictionaries(
    {},
    optional={
        "states": st.lists(st.sampled_from(State), min_size=1, max_size=4, unique=True).map(tuple),
        "suspended": st.none() | st.booleans(),
        "queue": st.sampled_from(QUEUES),
        "name": patterns,
        "name_parts": st.lists(st.sampled_from("aB["), max_size=2).map(tuple),
        "errors": st.sampled_from([(), ("OOM",), ("i",), ("Error: Bad",)]),
        "args": st.sampled_from([(), ("-j?",), ("TWO.*", "-j2"), ("id=4*", "a b"), ("[0-9]",)]),
        "tags": some_tags.map(tuple),
        "since": st.integers(0, 20).map(float),
        "until": st.integers(0, 20).map(float),
        "priority": st.integers(0, 1),
        "session": st.sampled_from(["one", "two", "three"]),
        "exit_code": st.sampled_from([0, 3, 137]),
        "target": st.sampled_from(
            ["app.*", "app.services.Report", "app:tasks.clean", "shop::Invoices", "*build"]
        ),
        "has_name": st.booleans(),
        "ids": st.sampled_from([(range(3, 9),), (range(1, 3), range(7, 8), range(12, 2**63))]).map(frozenset),
        "outcome": st.sampled_from(["exit", "signal", "none"]),
        "signal": st.sampled_from([9, 15]),
        "exact_error": st.sampled_from(["", "ValueError", "Value"]),
        "exact_target": st.sampled_from(["", TARGETS[0], "app.services:Report"]),
        "finished": st.integers(0, 20).map(float),
        "texts": st.lists(st.sampled_from(["two", "o T", "echo one two", "Report", "a"]), max_size=2).map(
            tuple
        ),
        "without": st.lists(st.sampled_from(UNWANTED), max_size=2).map(tuple),
    },
).map(lambda fields: replace(Filter(), **fields))


def is_wanted(job, wanted):
    return is_plainly_wanted(job, wanted) and not any(is_plainly_wanted(job, each) for each in wanted.without)


def is_plainly_wanted(job, wanted):
    spec = JobSpec(**job["work"])
    command = " ".join(spec.argv or (spec.target or "", spec.arguments or ""))
    has_arguments = spec.arguments is not None
    arguments = ["two.txt", "7", "42", "a b", "id=42", "to=a b"] if has_arguments else (spec.argv or ())[1:]
    outcome = None if job["state"] is State.SUCCEEDED else job["end"][0]
    errors = [outcome or "", "valueerror: bad" if outcome is Outcome.EXIT else ""]
    target = (spec.target or "").replace("::", ".").replace(":", ".").replace("@", ".")
    pattern = (wanted.target or "").replace("::", ".").replace(":", ".")
    code = {State.SUCCEEDED: 0}.get(job["state"], exit_code_of(*job["end"]) if job["end"][0] else None)
    return (
        job["state"] in wanted.states
        and (
            wanted.suspended is None
            or job["state"] is not State.RUNNING
            or job["suspended"] is wanted.suspended
        )
        and (wanted.queue in {None, job["queue"]})
        and (wanted.name is None or (job["name"] is not None and is_like(job["name"], wanted.name)))
        and set(wanted.tags) <= set(job["tags"])
        and (wanted.since is None or job["id"] >= wanted.since)
        and (wanted.until is None or job["id"] < wanted.until)
        and (wanted.priority in {None, job["priority"]})
        and (wanted.session in {None, job["session"]})
        and (wanted.has_name in {None, job["name"] is not None})
        and (wanted.ids is None or any(job["id"] in each for each in wanted.ids))
        and (
            wanted.outcome
            in {None, Outcome.SUCCEEDED if job["state"] is State.SUCCEEDED else outcome or "none"}
        )
        and (wanted.signal is None or (outcome is Outcome.SIGNAL and job["end"][2] == wanted.signal))
        and (wanted.exact_error in {None, "ValueError" if job["end"][0] is Outcome.EXIT else ""})
        and (wanted.exact_target in {None, spec.target or ""})
        and (wanted.finished is None or (job["state"] in FINAL and job["id"] >= wanted.finished))
        and (wanted.exit_code is None or (job["state"] in FINAL and wanted.exit_code == code))
        and (wanted.target is None or any(is_like(target, each) for each in (pattern, f"{pattern}.*")))
        and all(part.lower() in (job["name"] or "") for part in wanted.name_parts)
        and all(any(text.lower() in each for each in errors) for text in wanted.errors)
        and all(any(is_like(each, arg.lower()) for each in arguments) for arg in wanted.args)
        and all(
            text.lower() in command.lower() or text.lower() in (job["name"] or "") for text in wanted.texts
        )
    )


@contextmanager
def written_in_full(db, known):
    """Fill the database with these jobs: each was submitted at the instant that is its id."""
    plain = [job | {"uid": UID, "at": float(job["id"])} for job in known]
    with written(db, plain):
        for job in known:
            outcome, exit_code, signal = job["end"]
            if job["state"] is State.SUCCEEDED:
                outcome, exit_code, signal = Outcome.SUCCEEDED, 0, None
            db.execute(
                "UPDATE jobs SET priority = ?, outcome = ?, exit_code = ?, signal = ?, suspended = ?,"
                " session = ?, aged_from = iif(aged_from IS NULL, NULL, id) WHERE id = ?",
                (*(job["priority"], outcome, exit_code, signal), job["suspended"], job["session"], job["id"]),
            )
            if job["end"][0] is Outcome.EXIT:
                db.execute(
                    "INSERT INTO results SELECT id, attempt, NULL, ? FROM jobs WHERE id = ?",
                    ('{"type":"ValueError","message":"Bad"}', job["id"]),
                )
            spec = JobSpec(name=job["name"], tags=job["tags"], **job["work"])
            db.execute("UPDATE specs SET spec = ? WHERE job = ?", (msgspec.msgpack.encode(spec), job["id"]))
        yield


def slices(db, wanted, limit, rows, *, start=None, ascending=False):
    """Return all wanted jobs, slice by slice."""
    found: list[int] = []
    while True:
        part, rest = lists.next_slice(db, wanted, start, limit, rows, ascending=ascending)
        assert len(part) <= limit
        found += part
        if rest is None:
            return found
        assert start is None or (rest > start if ascending else rest < start)
        start = rest


@pytest.mark.parametrize("few", [0, 3, lists._FEW])
def test_slices_of_a_list_are_what_a_filter_in_memory_finds(path, monkeypatch, few):
    monkeypatch.setattr(lists, "_FEW", few)
    monkeypatch.setattr(lists, "transaction", lambda *_: nullcontext())  # they are in one
    monkeypatch.setitem(lists._PARAMETERS, "finished", float)
    with closing(schema.open_writable(path)) as db:
        db.execute("UPDATE meta SET age_ahead = 0")

        @given(
            st.lists(full_jobs, max_size=20),
            st.lists(filters, min_size=1, max_size=5),
            st.integers(1, 5),
            st.integers(1, 10),
            st.none() | st.integers(1, 20),
        )
        def try_out(known, asked, limit, rows, start):
            known = [job | {"id": number} for number, job in enumerate(known, start=1)]
            with written_in_full(db, known):
                for wanted in asked:
                    expected = [job["id"] for job in known if is_wanted(job, wanted)]
                    older = [number for number in expected if start is None or number < start][::-1]
                    newer = [number for number in expected if start is None or number > start]
                    assert slices(db, wanted, limit, rows, start=start) == older
                    assert slices(db, wanted, limit, rows, start=start, ascending=True) == newer
                    counted = Counter(job["state"] for job in known if is_wanted(job, wanted))
                    assert lists.count_few(db, wanted) in (None, counted)

        try_out()


async def test_a_slice_looks_at_about_as_many_jobs_as_it_may(store):
    await put(store, *(new(number, name=f"job-{number}") for number in range(1, 101)))

    part = await store.search(lists.next_slice, Filter(name="*b-1"), None, 5, 30)
    assert part == ([], 97)  # 30 among nine states
    assert await store.search(lists.count_few, Filter(name="job-1*")) == {State.QUEUED: 12}


async def test_jobs_are_put_into_the_order_of_a_column(store):
    await put(store, *(new(number) for number in range(1, 5)))
    for number, priority in ((2, 7), (4, 7), (3, -1)):
        await move(store, number, State.QUEUED, priority=priority)

    numbers = [JobId(number) for number in (1, 4, 3, 2, 99)]
    assert await store.search(lists.in_order, numbers, "priority") == [2, 4, 1, 3]


# ---


@pytest.mark.parametrize(
    ("pattern", "name", "is_like_it"),
    [
        ("[x]", "[x]", True),
        ("[x]", "x", False),
        ("build-[0-9]*", "build-[0-9]", True),
        ("build-[0-9]", "build-7", False),
        ("a[*]", "a*", True),
        ("a[*]", "ab", False),
        ("[?][[]", "?[", True),
        ("a[b", "a[b", True),
        ("caf?", "café", True),
        ("Build", "build", False),
    ],
)
async def test_only_star_and_question_mark_are_wildcards(store, pattern, name, is_like_it):
    await put(store, new(1, name=name), new(2, argv=("/bin/true", name)))

    assert await ids(store, name=pattern) == ([1] if is_like_it else [])
    found, _ = await store.search(lists.next_slice, Filter(args=(pattern,)), None, 1, 1000)
    assert found == ([2] if is_like_it or name.lower() == pattern.lower() else [])


async def test_commands_have_no_class(store):
    await put(store, new(1), new(2, argv=None, target="app.Report:run"))

    for pattern in ("*", "?*", "*.run"):
        assert (await store.search(lists.next_slice, Filter(target=pattern), None, 9, 1000))[0] == [2]
    assert (await store.search(lists.next_slice, Filter(without=(Filter(target="*"),)), None, 9, 1000))[
        0
    ] == [1]


@given(patterns | st.text("ab*?[]!-\n", max_size=8), st.text("abA*[]!^-\n", max_size=8))
def test_a_pattern_for_arguments_matches_as_in_the_standard_library(pattern, text):
    assert lists._is_like(text, pattern) == is_like(text, pattern)


@pytest.mark.parametrize(
    "pattern", [f"*{'?' * 960}é", f"*{'a' * 960}é*", f"{'*a' * 450}é", f"*{'a?' * 16}é*"]
)
async def test_no_pattern_takes_long_however_large_the_arguments_are(store, pattern):
    """With `fnmatch` the first two take seconds."""
    await put(store, new(1, argv=("/bin/true", *["a" * 130_000] * 7)))

    def took(db):
        began = time.thread_time()
        assert lists.next_slice(db, Filter(args=(pattern,)), None, 1, 1000) == ([], None)
        return time.thread_time() - began

    assert await store.search(took) < 0.7


async def test_list_that_reads_many_jobs_does_not_delay_other_reads(store):
    await put(store, new(1))
    began, continue_ = threading.Event(), threading.Event()

    def look_on(_):
        began.set()
        assert continue_.wait(30)

    async with asyncio.timeout(30), asyncio.TaskGroup() as group:
        group.create_task(store.search(look_on))
        await asyncio.to_thread(began.wait, 30)
        asked_later = group.create_task(store.search(read.first_views, List(id=1), Filter()))
        assert (await store.read(read.view, JobId(1))).id == 1
        assert await store.read(read.read_spec, JobId(1)) is not None
        assert not asked_later.done()
        continue_.set()
    assert [view.id for view in asked_later.result()[0]] == [1]


@pytest.mark.parametrize(("name", "sorts"), [("backup", False), ("back*", True)])
async def test_jobs_of_one_name_are_read_in_their_order(store, name, sorts):
    """The newest ones are found without reading all others and sorting them."""
    await put(store, new(1, name="backup"), new(2, name="backup"))
    asked: list[str] = []

    def plans(db):
        db.set_trace_callback(asked.append)
        found, _ = lists.next_slice(db, Filter(name=name), None, 1, 1000)
        db.set_trace_callback(None)
        steps = [
            step for sql in asked if "ORDER BY id" in sql for step in db.execute(f"EXPLAIN QUERY PLAN {sql}")
        ]
        return found, [step["detail"] for step in steps]

    found, details = await store.search(plans)
    assert found == [2]
    assert any("TEMP B-TREE" in detail for detail in details) is sorts
