"""Schedules under kill -9: every occurrence and every job has one row, and what is late is noted once."""

from __future__ import annotations

from collections import Counter
from functools import partial

from bgd import State
from bgd.wire.views import ScheduleEvent
from tests.support import DEADLINE, wait_until

KILLS = 8
TOKEN = "a-secret-of-the-daemon-alone"


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


def test_the_settings_of_the_daemon_are_neither_stored_nor_passed_to_what_a_schedule_runs(own_daemon):
    own_daemon.stop()
    own_daemon.env |= {"BGD_HTTP_METRICS_TOKEN": TOKEN, "PASSED": "with the rest"}
    own_daemon.start()
    chosen = {"env": {"OWN": "1"}, "every": "1h"}
    with own_daemon.client() as client:
        client.schedules.add("all", ["env"], **chosen)
        client.schedules.add("named", ["env"], env_pass=["BGD_HTTP_METRICS_TOKEN", "PASSED"], **chosen)
        ran = [client.schedules.run(name) for name in ("all", "named")]
        logs = [b"".join(part.data for part in job.wait(DEADLINE).logs()).decode() for job in ran]
    for text in logs:
        assert {"OWN=1", "PASSED=with the rest"} < set(text.splitlines())
        assert TOKEN not in text
    stored = b"".join(path.read_bytes() for path in own_daemon.state_dir.glob("bgd.db*"))
    assert b"with the rest" in stored
    assert TOKEN.encode() not in stored


def has_more_rows(client, before):
    return rows_of(client) > before


def rows_of(client):
    return len(client.schedules.history("tick", limit=1000))
