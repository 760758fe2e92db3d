"""Each failure is told by exactly one job, wherever bgd is killed between the two."""

from __future__ import annotations

import json
from collections import Counter

from bgd import Client
from bgd.core.spec import NOTIFICATION_QUEUE
from bgd.wire.views import JobView
from tests.faults.figures import record, times
from tests.faults.mortal_daemon import ARMED, POINT, POINTS
from tests.support import DEADLINE, Daemon, serving, wait_until

KILLS = times(100, len(POINTS))

CONFIGURATION = """
[daemon]
notify = "ops"

[notify.ops]
program = ["/bin/sh", "-c", "cat >>{folder}/told; echo >>{folder}/told"]
per_minute = 1000
"""


def test_killed_between_a_failure_and_its_notification_bgd_tells_it_by_one_job():
    with serving(CONFIGURATION, {}) as daemon:
        daemon.shut_down()
        daemon.process.wait(DEADLINE)
        armed = daemon.folder / "armed"
        failed: list[int] = []
        for number in range(KILLS):
            daemon.env |= {POINT: POINTS[number % len(POINTS)], ARMED: str(armed)}
            daemon.program = ("-m", "tests.faults.mortal_daemon")
            daemon.start()
            with daemon.client() as client:
                wait_until(lambda: len(tellers(client)) == len(failed))
                armed.touch()
                failed.append(client.submit(["/bin/false"]).id)
                daemon.process.wait(DEADLINE)
            assert daemon.process.returncode == -9
            armed.unlink()
        daemon.program = ("-m", "bgd")
        daemon.start()
        with daemon.client() as client:
            wait_until(lambda: len(tellers(client)) >= KILLS)
            client.wait([job.id for job in tellers(client)])
            jobs = tellers(client)
        delivered = told(daemon)

    assert len(jobs) == KILLS
    assert Counter(job for job, _ in set(delivered)) == Counter(failed), "one id for each failure"
    record(
        "bgd is killed between the failure of a job and the job that tells it",
        kills=KILLS,
        lost_notifications=KILLS - len({job for job, _ in delivered}),
        jobs_that_tell_the_same=len(jobs) - KILLS,
    )


def tellers(client: Client) -> list[JobView]:
    """Return all jobs that tell something."""
    return [job.view for job in client.jobs(queue=NOTIFICATION_QUEUE, limit=1000)]


def told(daemon: Daemon) -> list[tuple[int, str]]:
    """Return which jobs were told, and the ids of the messages, perhaps some of them twice."""
    lines = map(json.loads, (daemon.folder / "told").read_text().splitlines())
    return [(line["job"], line["id"]) for line in lines]
