"""Draw the jobs that a job waits for, and those that wait for it, as boxes from left to right."""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Callable
from itertools import chain
from typing import Any

from bgd.core.job import JobId
from bgd.daemon.storage import read
from bgd.daemon.web.views import beginning

MAX_JOBS = 200  # before a job, and behind it
MAX_LAYERS = 50  # the same
_ROWS = 12  # boxes above each other
_WIDTH, _HEIGHT = 168, 30  # of a box, in pixels
_ACROSS, _DOWN = 212, 40  # from one box to the next
_NAME = 14  # characters

Links = dict[int, list[int]]
"""Which jobs follow each job, in one direction."""


def jobs_behind(some_dependents_of: Callable[[JobId, int], tuple[int, list[JobId]]], job: int) -> Links:
    """Return the unfinished jobs that wait for this one, for those and so on; see Scheduler."""

    def found(jobs: list[int]) -> Links:
        return {each: [*some_dependents_of(JobId(each), MAX_JOBS)[1]] for each in jobs}

    return _follow(job, found)


def graph_of(db: sqlite3.Connection, job: int, behind: Links) -> dict[str, Any] | None:
    """Return the boxes and lines of the picture; None: the job waits for none, and none waits for it."""
    before = _follow(job, lambda jobs: read.waits_of(db, jobs))
    depths = {each: -depth for each, depth in _depths(job, before).items()} | _depths(job, behind)
    known = read.names_and_states(db, list(depths))
    places = _places({each: depth for each, depth in depths.items() if each in known})
    lines = {(earlier, each) for each, waits in before.items() for earlier in waits}
    lines |= {(each, later) for each, found in behind.items() for later in found}
    lines = {line for line in lines if places.keys() >= set(line)}
    if not lines:
        return None
    return {
        "width": max(x for x, _ in places.values()) + _WIDTH + 1,
        "height": max(y for _, y in places.values()) + _HEIGHT + 1,
        "box": (_WIDTH, _HEIGHT),
        "lines": [_line(places[earlier], places[later]) for earlier, later in sorted(lines)],
        "boxes": [
            (each, beginning(name or "", _NAME), state, x, y, each == job)
            for each, (x, y) in places.items()
            for name, state in [known[each]]
        ],
    }


def _follow(job: int, next_of: Callable[[list[int]], Links]) -> Links:
    found: Links = {}
    known, jobs = {job}, [job]
    while jobs:
        more = next_of(jobs)
        found |= more
        jobs = [each for each in dict.fromkeys(chain.from_iterable(more.values())) if each not in known]
        jobs = jobs[: MAX_JOBS - len(known)]
        known.update(jobs)
    return found


def _depths(job: int, links: Links) -> dict[int, int]:
    """Return how many jobs are between each job and this one at most; finished jobs may wait in a circle."""
    depths, layer = {job: 0}, {job}
    for depth in range(1, MAX_LAYERS + 1):
        layer = {later for each in layer for later in links[each] if later in links}
        depths |= dict.fromkeys(layer, depth)
    return depths | {job: 0}


def _places(depths: dict[int, int]) -> dict[int, tuple[int, int]]:
    layers: defaultdict[int, list[int]] = defaultdict(list)
    for job in sorted(depths):
        layers[depths[job]].append(job)
    places, x = {}, 1
    tallest = min(max(map(len, layers.values())), _ROWS)
    for _, jobs in sorted(layers.items()):
        y = 1 + (tallest - min(len(jobs), _ROWS)) * _DOWN // 2
        for place, job in enumerate(jobs):
            column, row = divmod(place, _ROWS)
            places[job] = x + column * _ACROSS, y + row * _DOWN
        x += (column + 1) * _ACROSS
    return places


def _line(begin: tuple[int, int], end: tuple[int, int]) -> str:
    x, y = begin[0] + _WIDTH, begin[1] + _HEIGHT // 2
    to_x, to_y = end[0], end[1] + _HEIGHT // 2
    return f"M{x} {y}C{x + 24} {y} {to_x - 24} {to_y} {to_x} {to_y}"
