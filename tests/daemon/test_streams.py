"""Who follows which jobs is notified of their changes, of growing logs and of progress."""

from __future__ import annotations

import pytest

from bgd.core.job import JobId
from bgd.daemon.streams import Subscriptions
from bgd.wire.views import JobProgress, Progress

ONE, TWO = JobId(1), JobId(2)


def test_subscription_starts_with_all_its_jobs_as_moved():
    with Subscriptions().subscribe([ONE, TWO]) as subscription:
        assert subscription.take_moved() == {ONE, TWO}
        assert subscription.take_moved() == set()


def test_subscription_is_notified_of_its_jobs_and_of_no_others():
    subscriptions = Subscriptions()
    with subscriptions.subscribe([ONE]) as subscription:
        subscription.take_moved()
        subscriptions.notify_moved([TWO])
        assert not subscription.changed.is_set()
        subscriptions.notify_moved([TWO, ONE])
        assert subscription.changed.is_set()
        assert subscription.take_moved() == {ONE}


def test_changes_between_two_reads_are_not_missed():
    subscriptions = Subscriptions()
    with subscriptions.subscribe([ONE]) as subscription:
        subscription.take_moved()
        subscriptions.notify_moved([ONE])
        subscriptions.notify_moved([ONE])
        assert subscription.changed.is_set()
        subscription.take_moved()
        assert not subscription.changed.is_set()


def test_every_follower_of_a_job_is_notified():
    subscriptions = Subscriptions()
    with subscriptions.subscribe([ONE]) as first, subscriptions.subscribe([ONE, TWO]) as second:
        first.take_moved()
        second.take_moved()
        subscriptions.notify_moved([ONE])
        assert first.changed.is_set()
        assert second.changed.is_set()


def test_growing_log_notifies_only_followers_of_the_log():
    subscriptions = Subscriptions()
    with subscriptions.subscribe([ONE]) as state, subscriptions.subscribe([ONE], log=True) as log:
        state.take_moved()
        log.take_moved()
        subscriptions.notify_log_grew(ONE)
        assert not state.changed.is_set()
        assert log.changed.is_set()
        assert log.take_moved() == set()


def test_follower_of_a_log_is_notified_of_the_state_too():
    subscriptions = Subscriptions()
    with subscriptions.subscribe([ONE], log=True) as subscription:
        subscription.take_moved()
        subscriptions.notify_moved([ONE])
        assert subscription.take_moved() == {ONE}


@pytest.mark.parametrize("log", [False, True])
def test_nothing_remains_of_a_follower_that_fails(log):
    subscriptions = Subscriptions()
    with pytest.raises(KeyboardInterrupt), subscriptions.subscribe([ONE], progress=True, log=log):
        raise KeyboardInterrupt
    assert not subscriptions.has_log_subscribers(ONE)
    assert subscriptions.__dict__ == Subscriptions().__dict__


def test_log_is_followed_until_the_last_follower_has_left():
    subscriptions = Subscriptions()
    with subscriptions.subscribe([ONE], log=True):
        with subscriptions.subscribe([ONE], log=True):
            pass
        assert subscriptions.has_log_subscribers(ONE)
    assert not subscriptions.has_log_subscribers(ONE)


def told(job_id, fraction):
    return {job_id: JobProgress(job_id, 1, Progress(fraction))}


def test_progress_is_told_to_those_who_asked_for_that_of_the_job():
    subscriptions = Subscriptions()
    with (
        subscriptions.subscribe([ONE], progress=True) as asked,
        subscriptions.subscribe([TWO], progress=True) as asked_of_another,
        subscriptions.subscribe([ONE]) as did_not_ask,
        subscriptions.subscribe_to_all(progress=True) as of_all,
        subscriptions.subscribe_to_all() as of_all_but_progress,
    ):
        subscriptions.notify_progress(told(ONE, 0.5), [])

        rung = [asked, of_all]
        for subscription in (asked, asked_of_another, did_not_ask, of_all, of_all_but_progress):
            assert subscription.changed.is_set() is (subscription in rung)
            assert subscription.take_progress() == (
                [*told(ONE, 0.5).values()] if subscription in rung else []
            )
            assert subscription.take_progress() == []


def test_slow_follower_gets_only_the_latest_progress_of_each_job():
    subscriptions = Subscriptions()
    with subscriptions.subscribe_to_all(progress=True) as subscription:
        for fraction in (0.1, 0.2, 0.3):
            subscriptions.notify_progress(told(ONE, fraction) | told(TWO, fraction), [])
        subscriptions.notify_progress(told(ONE, 0.4), [TWO])

        assert subscription.take_progress() == [*told(ONE, 0.4).values()]


def test_nobody_who_has_left_gets_progress():
    subscriptions = Subscriptions()
    with (
        subscriptions.subscribe([ONE], progress=True) as one,
        subscriptions.subscribe_to_all(progress=True) as of_all,
    ):
        pass

    subscriptions.notify_progress(told(ONE, 0.5), [])

    assert not one.take_progress()
    assert not of_all.take_progress()
