"""Feeds: who waits for something to happen to which job."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from bgd.core.job import JobId


class Feed:
    """Tells one follower that jobs of his changed; what has become of them he finds out by looking.

    Attributes:
        changed: set at every change; the follower clears it before he looks.
        moved: jobs whose state or attempt changed since he last emptied it; at first all of his.
    """

    def __init__(self, job_ids: Iterable[JobId]) -> None:
        self.changed = asyncio.Event()
        self.moved = set(job_ids)

    def take_moved(self) -> set[JobId]:
        self.changed.clear()
        moved, self.moved = self.moved, set()
        return moved


class Feeds:
    """All feeds by job: a job that nobody follows costs one look-up."""

    def __init__(self) -> None:
        self._of_state: dict[JobId, set[Feed]] = {}
        self._of_log: dict[JobId, set[Feed]] = {}
        self._of_all: set[Feed] = set()

    @contextmanager
    def following(self, job_ids: Iterable[JobId]) -> Iterator[Feed]:
        """Give a Feed of the states of these jobs."""
        ids = set(job_ids)
        feed = Feed(ids)
        _enter(self._of_state, ids, feed)
        try:
            yield feed
        finally:
            _leave(self._of_state, ids, feed)

    @contextmanager
    def following_log(self, job_id: JobId) -> Iterator[Feed]:
        """Give a Feed of a job's state and of its growing log."""
        with self.following({job_id}) as feed:
            _enter(self._of_log, {job_id}, feed)
            try:
                yield feed
            finally:
                _leave(self._of_log, {job_id}, feed)

    @contextmanager
    def following_all(self) -> Iterator[Feed]:
        """Give a Feed that rings whenever anything has happened to any job, and names none."""
        feed = Feed(())
        self._of_all.add(feed)
        try:
            yield feed
        finally:
            self._of_all.discard(feed)

    def has_log_followers(self, job_id: JobId) -> bool:
        return job_id in self._of_log

    def moved(self, job_ids: Iterable[JobId]) -> None:
        """Ring for jobs whose change is on disk."""
        for feed in self._of_all:
            feed.changed.set()
        if not self._of_state:
            return
        for job_id in job_ids:
            for feed in self._of_state.get(job_id, ()):
                feed.moved.add(job_id)
                feed.changed.set()

    def grew(self, job_id: JobId) -> None:
        """Ring for a log that has grown."""
        for feed in self._of_log.get(job_id, ()):
            feed.changed.set()


def _enter(feeds: dict[JobId, set[Feed]], job_ids: set[JobId], feed: Feed) -> None:
    for job_id in job_ids:
        feeds.setdefault(job_id, set()).add(feed)


def _leave(feeds: dict[JobId, set[Feed]], job_ids: set[JobId], feed: Feed) -> None:
    for job_id in job_ids:
        feeds[job_id].discard(feed)
        if not feeds[job_id]:
            del feeds[job_id]
