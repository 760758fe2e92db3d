"""Fill a database with very many jobs, through the store, as a busy daemon would."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

from msgspec.structs import replace

from bgd.core.job import Job, JobId, Now, Outcome, RetryPolicy, State
from bgd.core.scheduler import NOTE, SaveJob
from bgd.core.spec import DEFAULT_QUEUE, JobSpec
from bgd.daemon.storage.records import (
    AttemptEnd,
    JobEvent,
    NewAttempt,
    QueueControls,
    StoredSpec,
    Transaction,
)
from bgd.daemon.storage.store import Store, adopt_boot
from bgd.system import clock
from bgd.wire.launching import AttemptKey, AttemptStarted
from tests.bench.harness import ENVIRONMENT

RARE = 100_000  # one in this many jobs is in the rare queue, has the rare tag and failed
AT_ONCE = 2_000  # jobs in a transaction
SPACING = 0.1  # seconds between two submits

_POLICY = RetryPolicy(retries=0, delay=5.0, rerun=False)


async def fill(path: Path, jobs: int, *, finished: bool, uid: int) -> float:
    """Put `count` jobs into a new database; return how many new jobs per second the store took."""
    store = await Store.open(str(path))
    await store.write(adopt_boot, clock_now(), clock.boot_id())
    await store.commit(
        Transaction(now=clock_now(), controls=QueueControls(paused=True))
    )  # so that none starts
    began_at = time.time() - jobs * SPACING
    taking = 0.0
    for numbers in _portions(jobs):
        specs: dict[JobId, StoredSpec] = {}
        new: list[Job] = []
        for number in numbers:
            job, stored = _new(number, began_at + number * SPACING, uid)
            specs[job.id] = stored
            new.append(job)
        told = [JobEvent(specs[job.id].created_at, job.id, "submit", job.state, 0, None, None) for job in new]
        began = time.perf_counter()
        await store.commit(Transaction(now=clock_now(), new=new, specs=specs, events=told))
        taking += time.perf_counter() - began
        if finished:
            for transaction in _ran(new, specs[new[-1].id].created_at):
                await store.commit(transaction)
    await store.close()
    return jobs / taking


def clock_now() -> Now:
    return Now(elapsed=clock.elapsed(), wall=time.time())


def _portions(jobs: int) -> Iterator[range]:
    for start in range(1, jobs + 1, AT_ONCE):
        yield range(start, min(start + AT_ONCE, jobs + 1))


def _new(number: int, at: float, uid: int) -> tuple[Job, StoredSpec]:
    """Return a spec: one in `RARE` stands out; the names of the others begin alike and differ."""
    is_rare = number % RARE == RARE // 2
    queue = "rare" if is_rare else DEFAULT_QUEUE
    spec = JobSpec(
        argv=("/usr/bin/convert", f"picture-{number}.png", f"thumbnail-{number}.png"),
        cwd="/srv/pictures",
        umask=0o022,
        env=ENVIRONMENT,
        queue=queue,
        name=f"rare-{number}" if is_rare else f"thumbnail-{number}",
        tags=("rare",) if is_rare else (),
    )
    job = Job(id=JobId(number), state=State.QUEUED, queue=queue, priority=0, policy=_POLICY)
    return job, StoredSpec.of(spec, uid, at)


def _ran(jobs: list[Job], at: float) -> Iterator[Transaction]:
    """Yield the start and the end of one attempt of each of these jobs."""
    running = [replace(job, state=State.RUNNING, attempt=1) for job in jobs]
    yield Transaction(
        now=clock_now(),
        saves={job.id: SaveJob(job, at, NOTE, State.QUEUED) for job in running},
        attempts=[NewAttempt(job.id, 1, 1, "launcher", at - 0.2) for job in jobs],
        pids={job.id: AttemptStarted(AttemptKey("", job.id, 1), 4711, at - 0.1) for job in jobs},
    )
    ends = [_end(job.id, at) for job in jobs]
    saves = {
        job.id: SaveJob(_after(job, end), at, NOTE, State.RUNNING)
        for job, end in zip(jobs, ends, strict=True)
    }
    yield Transaction(
        now=clock_now(),
        saves=saves,
        ends=ends,
        events=[JobEvent(at, end.job, "end", saves[end.job].job.state, 1, end.outcome, None) for end in ends],
    )


def _end(job: JobId, at: float) -> AttemptEnd:
    outcome = Outcome.EXIT if job % RARE == 1 else Outcome.SUCCEEDED
    return AttemptEnd(
        job=job,
        attempt=1,
        outcome=outcome,
        exit_code=int(outcome is Outcome.EXIT),
        finished_at=at,
        log_bytes=80,
    )


def _after(job: Job, end: AttemptEnd) -> Job:
    state = State.SUCCEEDED if end.outcome is Outcome.SUCCEEDED else State.FAILED
    return Job(id=job.id, state=state, queue=job.queue, priority=0, policy=job.policy, attempt=1)
