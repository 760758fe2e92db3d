"""Exactly one job follows the end of another, wherever bgd is killed between the two."""

from __future__ import annotations

from bgd import Client
from bgd.core.job import FINAL
from bgd.wire.requests import MAX_LIST
from bgd.wire.views import JobView
from tests.faults.figures import record, times
from tests.faults.mortal_daemon import ARMED, FOLLOW_UP_POINTS, POINT
from tests.support import DEADLINE, Daemon, serving, wait_until

KILLS = times(300, len(FOLLOW_UP_POINTS))
ENDS = [("/bin/false", "on_failure"), ("/bin/true", "on_success")]


def test_killed_between_an_end_and_its_follow_up_bgd_starts_it_once():
    expected: list[tuple[int, str]] = []
    with serving() as daemon:
        daemon.shut_down()
        daemon.process.wait(DEADLINE)
        daemon.program = ("-m", "tests.faults.mortal_daemon")
        for number in range(KILLS):
            program, event = ENDS[number % len(ENDS)]
            point = FOLLOW_UP_POINTS[number % len(FOLLOW_UP_POINTS)]
            expected.append((end_and_die(daemon, program, point, number), event))
        daemon.program = ("-m", "bgd")
        daemon.start()
        with daemon.client() as client:
            wait_until(lambda: have_ended(client, KILLS))
            found = followers(client)
        runs = (daemon.folder / "runs").read_text().split()

    followed = [(job.cause.id, job.cause.event) for job in found if job.cause is not None]
    assert sorted(followed) == sorted(expected)
    assert sorted(map(int, runs)) == sorted(job for job, _ in expected), "a follow-up ran twice or never"
    record(
        "bgd is killed between the end of a job and the job of its on_failure or on_success",
        kills=KILLS,
        not_followed=0,
        followed_twice=0,
        run_twice=0,
    )


def end_and_die(daemon: Daemon, program: str, point: str, earlier: int) -> int:
    """Run a job in a daemon that kills itself at this point after the end; return the job."""
    armed = daemon.folder / "armed"
    daemon.env |= {POINT: point, ARMED: str(armed)}
    daemon.start()
    tell = ["/bin/sh", "-c", f"echo $BGD_CAUSE_ID >>{daemon.folder}/runs"]
    with daemon.client() as client:
        wait_until(lambda: have_ended(client, earlier))
        armed.touch()
        job = client.submit([program], on_failure=tell, on_success=tell)
        daemon.process.wait(DEADLINE)
    assert daemon.process.returncode == -9
    armed.unlink()
    return job.id


def have_ended(client: Client, count: int) -> bool:
    """Return whether there are so many follow-ups, and all have ended."""
    found = followers(client)
    return len(found) >= count and all(job.state in FINAL for job in found)


def followers(client: Client) -> list[JobView]:
    """Return all jobs that follow others."""
    return [job.view for job in client.jobs(limit=MAX_LIST) if job.view.cause is not None]
