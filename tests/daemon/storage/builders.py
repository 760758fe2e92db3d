"""Builders for jobs, specs and attempts in a store, and ways to look into it."""

from __future__ import annotations

from typing import NamedTuple

from msgspec.structs import replace

from bgd.core.job import NO_CONDITIONS, Job, JobId, Now, RetryPolicy, State
from bgd.core.scheduler import NOTE, SaveJob
from bgd.core.spec import DEFAULT_QUEUE, JobSpec
from bgd.daemon.storage import lists, read
from bgd.daemon.storage.records import NewAttempt, StoredSpec, Transaction
from bgd.wire.requests import List

NOW = Now(elapsed=5_000.0, wall=1_700_000_000.0)
BOOT = "first-boot"
POLICY = RetryPolicy(retries=2, delay=1.5, rerun=True)
UID = 4_000_000  # that no user here has


def a_job(number, state=State.QUEUED, **fields):
    known = {"queue": "default", "priority": 0, "policy": POLICY, **fields}
    return Job(id=JobId(number), state=state, **known)


class New(NamedTuple):
    job: Job
    stored: StoredSpec

    @property
    def spec(self):
        return self.stored.whole()


def new(number, *, uid=UID, at=NOW.wall, due=None, conditions=NO_CONDITIONS, **fields):
    spec = JobSpec(**{"argv": ("/bin/echo", str(number)), "cwd": "/tmp", "retries": 2, **fields})
    state = State.QUEUED if due is None else State.SCHEDULED
    job = a_job(number, state, due=due, queue=spec.queue or DEFAULT_QUEUE, conditions=conditions)
    return New(job, StoredSpec.of(spec, uid, at))


def saves(*jobs, at=NOW.wall, reason=None, before=State.QUEUED):
    return {job.id: SaveJob(job, at, NOTE, before, reason) for job in jobs}


def first_attempt(number, slot=1, launcher="boot:launcher"):
    return NewAttempt(JobId(number), 1, slot, launcher, NOW.wall + 1)


def submitted(*jobs, now=NOW, **fields):
    """Return the transaction of jobs that `new` made."""
    return Transaction(
        now=now, new=[job for job, _ in jobs], specs={job.id: stored for job, stored in jobs}, **fields
    )


async def put(store, *jobs):
    await store.commit(submitted(*jobs, wall_ahead=NOW.wall - NOW.elapsed))


async def move(store, number, state, *, before=State.QUEUED, **fields):
    await store.commit(Transaction(now=NOW, saves=saves(a_job(number, state, **fields), before=before)))


async def ids(store, uid=UID, **query):
    asked = List(id=1, **query)
    views, _ = await store.search(read.first_views, asked, lists.asked_by(asked, NOW.wall, uid))
    return [view.id for view in views]


async def restored(store):
    return [
        replace(item.job, id=JobId(item.job.id + number))
        for item in await unfinished(store)
        for number in range(item.count)
    ]


async def unfinished(store):
    """Return all unfinished jobs as a start reads them, by their ids."""
    found = [item async for page in store.unfinished() for item in page]
    return sorted(found, key=lambda item: item.job.id)


async def sql(store, query):
    return await store.read(lambda db: [tuple(row) for row in db.execute(query)])
