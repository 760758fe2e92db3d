"""A damaged database is read, or refused in one line that says what to do; it never counts as empty."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
from collections import Counter

import pytest

from bgd.core.filters import Filter
from bgd.core.job import Conditions, JobId, Outcome, State
from bgd.daemon.launching import LauncherLink
from bgd.daemon.storage import change_stream, read, summaries
from bgd.daemon.storage.database import StoreBroken
from bgd.daemon.storage.records import AttemptEnd, JobEvent, Transaction
from bgd.daemon.storage.store import Store, adopt_boot, begin_generation
from bgd.daemon.supervisor import Supervisor
from bgd.settings.config import load
from bgd.wire.requests import GetStats, List
from tests.daemon.storage.builders import BOOT, NOW, a_job, first_attempt, new, put, saves, submitted
from tests.faults.figures import record
from tests.support import DEADLINE, ROOT

DAMAGES = 400 if os.environ.get("HYPOTHESIS_PROFILE") == "long" else 100
JOBS = 120

_PAGE = 2048


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """Return a folder with a database and its -wal as a killed daemon leaves them, and with another one."""
    folder = tmp_path_factory.mktemp("sound")
    for name in ("bgd.db", "other.db"):
        fill = f"""
import asyncio, os
from tests.daemon.storage.test_damage import fill
asyncio.run(fill({str(folder / name)!r}))
os._exit(0)  # the -wal file stays as it is
"""
        subprocess.run([sys.executable, "-c", fill], cwd=ROOT, check=True, timeout=DEADLINE)
    return folder


async def fill(path):
    """Fill a store with jobs in several states, and leave it open."""
    store = await Store.open(path)
    await store.write(adopt_boot, NOW, BOOT)
    for number in range(1, JOBS + 1):
        conditions = Conditions(key=f"key-{number}", after=(JobId(1),)) if number % 5 == 1 else Conditions()
        state = State.BLOCKED if number % 5 == 1 else State.QUEUED
        item = new(number, name=f"job-{number}", tags=("t",), env={"A": "x" * 300, "B": str(number % 7)})
        job = a_job(number, state, conditions=conditions)
        event = JobEvent(NOW.wall, job.id, "submit", state, 0, None, None)
        await store.commit(submitted(item._replace(job=job), events=[event]))
        if number % 5 > 2:
            running = saves(a_job(number, State.RUNNING, attempt=1))
            await store.commit(Transaction(now=NOW, saves=running, attempts=[first_attempt(number)]))
        if number % 5 == 4:
            end = AttemptEnd(
                job=job.id, attempt=1, outcome=Outcome.SUCCEEDED, finished_at=NOW.wall, result="1"
            )
            done = saves(a_job(number, State.SUCCEEDED, attempt=1))
            await store.commit(Transaction(now=NOW, saves=done, ends=[end]))
        if number == JOBS // 2:  # both files have jobs
            await store.write(lambda db: db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall())
    return store  # a process that ends here leaves the files as if it had been killed


def overwrite(dice, path):
    with path.open("r+b") as file:
        file.seek(dice.randrange(path.stat().st_size))
        file.write(dice.randbytes(dice.choice((1, 16, 512))))


def cut(dice, path):
    with path.open("r+b") as file:
        file.truncate(dice.randrange(path.stat().st_size))


def blank(dice, path):
    pages = path.stat().st_size // _PAGE
    with path.open("r+b") as file:
        file.seek(dice.randrange(pages) * _PAGE)
        file.write(bytes(_PAGE))


def swap(dice, path):
    del dice
    other = path.with_name("other.db-wal")
    shutil.copy(other, path.with_name("bgd.db-wal"))


DAMAGE = (overwrite, overwrite, overwrite, cut, blank, swap)


@pytest.fixture(scope="module")
def tally():
    """Count how many damaged databases were read and how many refused."""
    tally: Counter[str] = Counter()
    yield tally
    if tally.total() == DAMAGES:
        assert min(tally["refused"], tally["read"]) > DAMAGES / 10  # neither is the only answer
        what = "a database or its -wal file is damaged at random: overwritten, cut, blanked, that of another"
        record(what, damages=DAMAGES, refused=tally["refused"], read=tally["read"], empty=0, tracebacks=0)


@pytest.mark.parametrize("seed", range(DAMAGES))
async def test_damaged_database_is_refused_or_read(sound, tmp_path, tally, seed):
    for name in ("bgd.db", "bgd.db-wal", "other.db-wal"):
        shutil.copy(sound / name, tmp_path / name)
    dice = random.Random(seed)
    damage = dice.choice(DAMAGE)
    damage(dice, tmp_path / dice.choice(("bgd.db", "bgd.db", "bgd.db-wal")))

    path = str(tmp_path / "bgd.db")
    problem, found = await judged(path)

    assert found or (problem.startswith("database " + path) and "`bgd --recover`" in problem)
    assert problem.isprintable()
    tally["read" if found else "refused"] += 1


async def judged(path):
    """Return why a daemon refuses the file, or how many jobs it finds in it."""
    try:
        return "", await look_through(path)
    except StoreBroken as refusal:
        return str(refusal), 0


async def look_through(path):
    """Do what a daemon does at its start and on requests; return how many jobs there are."""
    store = await Store.open(path)
    try:
        generation = await store.write(begin_generation)
        link = LauncherLink("/nowhere", "/nowhere", store, generation)
        await Supervisor(load(environ={"HOME": "/nowhere"}), store, link).restore()
        views, _ = await store.search(read.first_views, List(id=1, limit=10_000), Filter())
        for view in views:
            await store.read(read.attempts_of, JobId(view.id), 0, 10)
            await store.read(read.result_of, JobId(view.id))
            await store.read(read.read_spec, JobId(view.id))
        await store.read(change_stream.read_events, 0, 10_000)
        await store.search(summaries.stats, GetStats(id=1), 0.0)
        await put(store, new(10_000))
        return len(views)
    finally:
        await store.close()
