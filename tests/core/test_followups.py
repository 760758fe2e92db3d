"""Which job follows the end of another one."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from bgd.core.followups import event_after, follow_up, notify_event
from bgd.core.job import EXPIRED, Move, Outcome
from bgd.core.notifications import NotifyEvent
from bgd.core.retry import policy_of
from bgd.core.spec import NOTIFICATION_QUEUE, JobCause, JobSpec, problem_with
from tests.core.scheduling import NO_RETRIES, at, end, make_scheduler, spec, submit

TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
BOTH = {"on_failure": ("mail", "ops"), "on_success": ("app.jobs:report",)}
FOLLOWED = policy_of(spec(retries=1, retry_delay=5.0, jitter=0.0, **BOTH), NO_RETRIES)


def cause(event):
    return JobCause(id=7, event=event, outcome=Outcome.EXIT)


def test_only_the_last_end_of_a_job_counts():
    scheduler = make_scheduler()
    job = submit(scheduler, FOLLOWED)

    end(scheduler, job, Outcome.EXIT)
    assert scheduler.take_causes() == []

    scheduler.advance(at(5.0))
    end(scheduler, job, Outcome.EXIT, at(6.0))
    [failed] = scheduler.take_causes()
    assert (failed.job.id, failed.what, event_after(failed)) == (job, Move.GIVE_UP, "on_failure")
    assert scheduler.take_causes() == []


def test_a_success_and_a_job_without_follow_ups():
    scheduler = make_scheduler(slots=2)
    followed, other = submit(scheduler, FOLLOWED), submit(scheduler)

    end(scheduler, followed)
    end(scheduler, other)

    assert [(save.job.id, event_after(save)) for save in scheduler.take_causes()] == [
        (followed, "on_success")
    ]


def test_nothing_follows_a_job_that_a_person_cancels():
    scheduler = make_scheduler()
    running, waiting = submit(scheduler, FOLLOWED), submit(scheduler, FOLLOWED)

    scheduler.cancel(waiting, at(1.0))
    scheduler.cancel(running, at(1.0))
    end(scheduler, running, Outcome.CANCELLED)

    assert list(map(event_after, scheduler.take_causes())) == [None, None]


def test_a_job_that_bgd_cancels_has_failed():
    scheduler = make_scheduler()
    submit(scheduler)
    submit(scheduler, FOLLOWED, expires=1.0)

    scheduler.advance(at(1.0))

    [expired] = scheduler.take_causes()
    assert (expired.reason, event_after(expired)) == (EXPIRED, "on_failure")


def test_notifications_are_about_first_starts_and_last_ends():
    scheduler = make_scheduler(slots=3)
    policy = policy_of(spec(retries=1, retry_delay=0.0), NO_RETRIES)
    succeeds, fails, stops = (submit(scheduler, policy) for _ in range(3))
    events = [(effect.job.id, notify_event(effect)) for effect in scheduler.take_effects()]

    scheduler.ended(succeeds, 1, Outcome.SUCCEEDED, at(1.0))
    scheduler.ended(fails, 1, Outcome.EXIT, at(1.0))
    scheduler.ended(fails, 2, Outcome.EXIT, at(2.0))
    scheduler.cancel(stops, at(2.0))
    scheduler.ended(stops, 1, Outcome.CANCELLED, at(3.0))
    events += [(effect.job.id, notify_event(effect)) for effect in scheduler.take_effects()]

    assert [(job, event) for job, event in events if event is not None] == [
        *((job, NotifyEvent.STARTED) for job in (succeeds, fails, stops)),
        (succeeds, NotifyEvent.SUCCEEDED),
        (fails, NotifyEvent.FAILED),
    ]


def test_a_job_that_sends_a_notification_causes_none():
    scheduler = make_scheduler()
    submit(scheduler, queue=NOTIFICATION_QUEUE)

    assert {notify_event(effect) for effect in scheduler.take_effects()} == {None}


def test_a_command_follows_in_folder_queue_priority_trace_and_session_of_the_job():
    own = JobSpec(queue="mail", priority=5, cwd="/srv", umask=0o077, trace=(TRACE, ""), session="s")
    job = replace(own, argv=("true",), retries=3, **BOTH)
    following = replace(own, argv=("mail", "ops"), cause=cause("on_failure"))

    assert follow_up(job, cause("on_failure")) == following


def test_a_target_follows():
    job = spec(cwd="/srv", **BOTH)

    assert follow_up(job, cause("on_success")) == JobSpec(target="app.jobs:report", cause=cause("on_success"))


def test_a_job_may_name_only_one_follow_up():
    assert follow_up(spec(on_success=("true",)), cause("on_failure")) is None


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (BOTH, None),
        ({"on_failure": ()}, "on_failure is a command or a target, without NUL"),
        ({"on_success": ("",)}, "on_success is a command or a target, without NUL"),
        ({"on_success": ("true", "a\0b")}, "on_success is a command or a target, without NUL"),
        ({"on_failure": ("x" * 10_001,)}, "on_failure is longer than 10000 bytes in all"),
        (
            {"on_success": ("true",), "cause": cause("on_failure")},
            "on_success is not for a job that itself follows job 7 (on_failure)",
        ),
    ],
)
def test_what_a_follow_up_may_be(options, problem):
    assert problem_with(spec(**options)) == problem


def test_a_cause_says_what_it_is():
    assert str(JobCause(id=3, event="then", outcome="succeeded", of_batch=True)) == "batch 3 (then)"
