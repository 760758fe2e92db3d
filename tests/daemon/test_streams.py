from __future__ import annotations

import pytest

from bgd.core.job import JobId
from bgd.daemon.streams import Feeds
from bgd.wire.views import JobProgress, Progress

ONE, TWO = JobId(1), JobId(2)


def test_feed_begins_with_a_first_look_at_all_its_jobs():
    with Feeds().following([ONE, TWO]) as feed:
        assert feed.take_moved() == {ONE, TWO}
        assert feed.take_moved() == set()


def test_feed_rings_for_its_jobs_and_for_no_others():
    feeds = Feeds()
    with feeds.following([ONE]) as feed:
        feed.take_moved()
        feeds.moved([TWO])
        assert not feed.changed.is_set()
        feeds.moved([TWO, ONE])
        assert feed.changed.is_set()
        assert feed.take_moved() == {ONE}


def test_change_between_two_looks_is_not_missed():
    feeds = Feeds()
    with feeds.following([ONE]) as feed:
        feed.take_moved()
        feeds.moved([ONE])
        feeds.moved([ONE])
        assert feed.changed.is_set()
        feed.take_moved()
        assert not feed.changed.is_set()


def test_every_follower_of_a_job_hears_of_it():
    feeds = Feeds()
    with feeds.following([ONE]) as first, feeds.following([ONE, TWO]) as second:
        first.take_moved()
        second.take_moved()
        feeds.moved([ONE])
        assert first.changed.is_set()
        assert second.changed.is_set()


def test_growing_log_rings_only_for_those_who_follow_the_log():
    feeds = Feeds()
    with feeds.following([ONE]) as state, feeds.following_log(ONE) as log:
        state.take_moved()
        log.take_moved()
        feeds.grew(ONE)
        assert not state.changed.is_set()
        assert log.changed.is_set()
        assert log.take_moved() == set()


def test_follower_of_a_log_hears_of_the_state_too():
    feeds = Feeds()
    with feeds.following_log(ONE) as feed:
        feed.take_moved()
        feeds.moved([ONE])
        assert feed.take_moved() == {ONE}


@pytest.mark.parametrize("kind", ["following", "following_log"])
def test_follower_who_leaves_in_whatever_way_leaves_nothing_behind(kind):
    feeds = Feeds()
    jobs = [ONE] if kind == "following" else ONE
    with pytest.raises(KeyboardInterrupt), getattr(feeds, kind)(jobs):
        raise KeyboardInterrupt
    assert not feeds.has_log_followers(ONE)
    assert feeds.__dict__ == Feeds().__dict__


def test_log_is_followed_until_the_last_follower_has_left():
    feeds = Feeds()
    with feeds.following_log(ONE):
        with feeds.following_log(ONE):
            pass
        assert feeds.has_log_followers(ONE)
    assert not feeds.has_log_followers(ONE)


def told(job_id, fraction):
    return {job_id: JobProgress(job_id, 1, Progress(fraction))}


def test_progress_is_told_to_those_who_asked_for_that_of_the_job():
    feeds = Feeds()
    with (
        feeds.following([ONE], progress=True) as asked,
        feeds.following([TWO], progress=True) as asked_of_another,
        feeds.following([ONE]) as did_not_ask,
        feeds.following_all(progress=True) as of_all,
        feeds.following_all() as of_all_but_progress,
    ):
        feeds.progressed(told(ONE, 0.5), [])

        rung = [asked, of_all]
        for feed in (asked, asked_of_another, did_not_ask, of_all, of_all_but_progress):
            assert feed.changed.is_set() is (feed in rung)
            assert feed.take_progress() == ([*told(ONE, 0.5).values()] if feed in rung else [])
            assert feed.take_progress() == []


def test_of_each_job_only_its_latest_progress_waits_for_a_slow_follower():
    feeds = Feeds()
    with feeds.following_all(progress=True) as feed:
        for fraction in (0.1, 0.2, 0.3):
            feeds.progressed(told(ONE, fraction) | told(TWO, fraction), [])
        feeds.progressed(told(ONE, 0.4), [TWO])

        assert feed.take_progress() == [*told(ONE, 0.4).values()]


def test_progress_is_told_to_nobody_who_has_left():
    feeds = Feeds()
    with feeds.following([ONE], progress=True) as one, feeds.following_all(progress=True) as of_all:
        pass

    feeds.progressed(told(ONE, 0.5), [])

    assert not one.take_progress()
    assert not of_all.take_progress()
