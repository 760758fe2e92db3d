"""Schedules under kill -9: every occurrence and every job has one row, and what is late is noted once."""

from __future__ import annotations

from collections import Counter
from functools import partial

from bgd import State
from bgd.wire.views import ScheduleEvent
from tests.support import wait_until

KILLS = 8


def test_killed_daemons_queue_each_occurrence_once(own_daemon):
    with own_daemon.client() as client:
        client.schedules.add("tick", ["true"], every="1s", overlap="allow", retries=0)
        client.schedules.add("hangs", ["sleep", "1000"], every="1s", late_after="3s")
    for _ in range(KILLS):
        with own_daemon.client() as client:
            wait_until(partial(has_more_rows, client, rows_of(client)))
        own_daemon.process.kill()
        own_daemon.process.wait()
        own_daemon.start()
    with own_daemon.client() as client:
        client.schedules.remove("tick")
        rows = client.schedules.history("tick", limit=1000)
        jobs = [job.id for job in client.jobs(name="tick", states=list(State), limit=1000)]
    due = Counter(row.due_at for row in rows)
    assert [at for at, count in due.items() if count > 1] == []
    assert {row.outcome for row in rows} == {"ran"}  # a restart is over within the minute
    assert sorted(row.job for row in rows) == sorted(jobs)
    assert len(rows) >= KILLS
    first, last = min(due), max(due)
    with own_daemon.client() as client:  # a job that outlives the daemons is late, and noted once
        wait_until(lambda: client.schedules.list("hangs")[0].is_late)
        told = client.events(0, follow=False, schedules=True)
        late = [event for event in told if isinstance(event, ScheduleEvent) and event.outcome == "late"]
        [row] = [row for row in client.schedules.history("hangs", limit=1000) if row.outcome == "ran"]
        assert row.late
        assert [(event.schedule, event.job) for event in late] == [("hangs", row.job)]
        client.schedules.remove("hangs")
        client.cancel([row.job])
    assert sorted(due) == [first + number for number in range(int(last - first) + 1)]  # none was lost


def has_more_rows(client, before):
    return rows_of(client) > before


def rows_of(client):
    return len(client.schedules.history("tick", limit=1000))
