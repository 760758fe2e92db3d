"""A job writes without end: its log keeps only its limit, and nobody else notices."""

from __future__ import annotations

import select
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from bgd.core.job import FINAL, Outcome
from bgd.core.spec import JobSpec
from bgd.wire.replies import End, JobsPart, Submitted
from bgd.wire.requests import List, Submit
from tests.end_to_end.chaos import Caller, Rig
from tests.faults.figures import record, seconds
from tests.faults.watching import memory, processor_seconds

CAP = 100 << 20  # bytes of output that are kept
BESIDE = 1 << 20  # bytes for the times of the output, and for output that is just written
AT_ONCE = 2.0  # seconds
MOST_GROWN = 5 << 10  # KiB
MOST_BUSY = 0.1  # of a processor; docs/faults.md has the measured figure
PAUSE = 0.02  # seconds between two requests


def test_a_job_that_writes_without_end_costs_only_its_log(tmp_path: Path):
    length = seconds(10.0, 2.0)
    noise = ("timeout", f"{length:g}", "yes")
    rig = Rig(tmp_path, more=f"[logs]\nmax_bytes = {CAP}\n")
    rig.start()
    try:
        before = memory(rig.pid, "RssAnon")
        with closing(Caller(rig.socket)) as caller:
            began = processor_seconds(rig.pid)
            caller.wait([submit(caller, noise)])
            busy = (processor_seconds(rig.pid) - began) / length
            waited = list(lists(caller, submit(caller, noise)))
        grown = memory(rig.pid, "RssAnon") - before
        kept = on_disk(rig)
    finally:
        rig.close()
    assert CAP / 2 < kept / 2 < CAP + BESIDE
    assert busy < MOST_BUSY
    assert grown < MOST_GROWN
    record(
        f"a job writes as much as it can for {length:g} s; {CAP >> 20} MiB of it are kept",
        kept_MiB=kept // 2 >> 20,
        percent_of_a_processor_for_bgd=f"{100 * busy:.1f}",
        grown_by_KiB=grown,
        p99_of_lists_in_ms=int(1000 * sorted(waited)[len(waited) * 99 // 100]) + 1,
    )


def test_a_job_that_exceeds_its_log_limit_is_killed_if_configured(tmp_path: Path):
    rig = Rig(tmp_path, more=f'[logs]\nmax_bytes = {CAP}\non_limit = "kill"\n')
    rig.start()
    try:
        with closing(Caller(rig.socket)) as caller:
            job = submit(caller, ("yes",))
            while on_disk(rig) < CAP:
                assert caller.show(job)[0].state not in FINAL
            reached = time.monotonic()
            caller.wait([job])
            took = time.monotonic() - reached
            [attempt] = caller.show(job)[1]
    finally:
        rig.close()
    assert attempt.outcome is Outcome.LOG_LIMIT
    assert took < AT_ONCE
    record(f"a job writes more than {CAP >> 20} MiB, and is to be ended then", after_ms=round(1000 * took))


def submit(caller: Caller, argv: tuple[str, ...]) -> int:
    submitted = caller.ask(Submit(1, JobSpec(argv=argv, env={"PATH": "/usr/bin:/bin"}, cwd="/")))
    assert isinstance(submitted, Submitted), submitted
    return submitted.jobs[0]


def lists(caller: Caller, job: int) -> Iterator[float]:
    """List jobs again and again until this one has finished; yield how many seconds each list took."""
    state = None
    while state not in FINAL:
        select.select([], [], [], PAUSE)  # the pace of somebody who watches
        began = time.monotonic()
        reply = caller.ask(List(id=1))
        while not isinstance(reply, End):
            assert isinstance(reply, JobsPart), reply
            state = next((each.state for each in reply.jobs if each.id == job), state)
            reply = caller.next()
        yield time.monotonic() - began


def on_disk(rig: Rig) -> int:
    """Return the bytes of all logs."""
    return sum(file.stat().st_size for file in (rig.folder / "state/logs").rglob("*") if file.is_file())
