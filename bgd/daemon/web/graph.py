"""Draw the jobs that a job waits for, and those that wait for it, as boxes from left to right."""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Callable
from itertools import chain, islice
from typing import Any

from bgd.core.job import JobId
from bgd.core.spec import MAX_FILTER
from bgd.daemon.storage import read
from bgd.daemon.storage.summaries import Count
from bgd.daemon.web.queries import ListQuery, list_url
from bgd.daemon.web.views import beginning
from bgd.text.formatting import number_ranges

MAX_JOBS = 200  # before a job, and behind it
MAX_LAYERS = 50  # the same
MAX_FOLLOWED = 500  # the same: those that are not drawn are counted
_ROWS = 12  # boxes above each other
_WIDTH, _HEIGHT = 168, 30  # of a box, in pixels
_ACROSS, _DOWN = 212, 40  # from one box to the next
_NAME = 14  # characters

Links = dict[int, list[int]]
"""Which jobs follow each job, in one direction."""

Place = tuple[int, int]
"""The column and the row of a box."""


def jobs_behind(some_dependents_of: Callable[[JobId, int], tuple[int, list[JobId]]], job: int) -> Links:
    """Return the unfinished jobs that wait for this one, for those and so on; see Scheduler."""

    def next_of(jobs: list[int]) -> Links:
        return {each: [*some_dependents_of(JobId(each), MAX_FOLLOWED)[1]] for each in jobs}

    return _follow(job, next_of)


def graph_of(db: sqlite3.Connection, job: int, behind: Links) -> dict[str, Any] | None:
    """Return the boxes and lines of the picture; None: the job waits for none, and none waits for it.

    `behind`: the unfinished jobs that wait for it; finished ones that waited are read, such as those that
    were cancelled because of it. `others`: the jobs that it leaves out, with the address of their list;
    `removed`: how many there were.
    """
    before = _follow(job, lambda jobs: read.waits_of(db, jobs))
    unfinished = behind

    def next_of(jobs: list[int]) -> Links:
        links = read.dependents_of(db, jobs, MAX_FOLLOWED)
        return {each: [*dict.fromkeys(unfinished.get(each, []) + links[each])] for each in jobs}

    behind = _follow(job, next_of)
    depths = _depths(job, _nearest(behind))
    depths |= {each: -depth for each, depth in _depths(job, _nearest(before)).items()}
    known = read.names_and_states(db, list(depths))
    places = _places({each: depth for each, depth in depths.items() if each in known})
    lines = {(earlier, each) for each, waits in before.items() for earlier in waits}
    lines |= {(each, later) for each, jobs in behind.items() for later in jobs}
    others = sorted(set(chain.from_iterable(lines)) - places.keys())
    lines = {line for line in lines if places.keys() >= set(line)}
    if not lines:
        return None
    boxes = {each: (1 + column * _ACROSS, _TOP + row * _DOWN) for each, (column, row) in places.items()}
    return {
        "width": max(x for x, _ in boxes.values()) + _WIDTH + 1,
        "height": max(y for _, y in boxes.values()) + _HEIGHT + _TOP,
        "box": (_WIDTH, _HEIGHT),
        "lines": [_line(places[earlier], places[later]) for earlier, later in sorted(lines)],
        "boxes": [
            (each, beginning(name or "", _NAME), state, x, y, each == job)
            for each, (x, y) in boxes.items()
            for name, state in [known[each]]
        ],
        **_not_drawn(db, others, before | behind),
    }


def _not_drawn(db: sqlite3.Connection, jobs: list[int], followed: Links) -> dict[str, Any]:
    """Return how many of these jobs there are, the address of their list, and how many were removed."""
    known = read.names_and_states(db, jobs[:MAX_FOLLOWED])
    is_least = len(jobs) > MAX_FOLLOWED or not known.keys() <= followed.keys()
    words = number_ranges(known).replace(" ", "")
    return {
        "others": Count(len(known), is_least),
        "url": list_url(ListQuery(), id=words) if len(words) < MAX_FILTER - len("id:") else None,
        "removed": len(jobs[:MAX_FOLLOWED]) - len(known),
    }


def _nearest(links: Links) -> Links:
    return dict(islice(links.items(), MAX_JOBS))


def _follow(job: int, next_of: Callable[[list[int]], Links]) -> Links:
    links: Links = {}
    known, jobs = {job}, [job]
    while jobs:
        more = next_of(jobs)
        links |= more
        jobs = [each for each in dict.fromkeys(chain.from_iterable(more.values())) if each not in known]
        jobs = jobs[: MAX_FOLLOWED - len(known)]
        known.update(jobs)
    return links


def _depths(job: int, links: Links) -> dict[int, int]:
    """Return how many jobs are between each job and this one at most; finished jobs may wait in a circle."""
    depths, layer = {job: 0}, {job}
    for depth in range(1, MAX_LAYERS + 1):
        layer = {later for each in layer for later in links[each] if later in links}
        depths |= dict.fromkeys(layer, depth)
    return depths | {job: 0}


def _places(depths: dict[int, int]) -> dict[int, Place]:
    """Return where the boxes stand: those of a layer above each other, in one or more columns."""
    layers: defaultdict[int, list[int]] = defaultdict(list)
    for job in sorted(depths):
        layers[depths[job]].append(job)
    places: dict[int, Place] = {}
    column, tallest = 0, min(max(map(len, layers.values())), _ROWS)
    for _, jobs in sorted(layers.items()):
        top = (tallest - min(len(jobs), _ROWS)) // 2
        for number, job in enumerate(jobs):
            places[job] = column + number // _ROWS, top + number % _ROWS
        column += (len(jobs) - 1) // _ROWS + 1
    return places


def _line(begin: Place, end: Place) -> str:
    """Return a path from one box to another; it passes those in between through the gap between two rows."""
    (from_column, from_row), (to_column, to_row) = begin, end
    x, y = 1 + from_column * _ACROSS + _WIDTH, _TOP + from_row * _DOWN + _HEIGHT // 2
    to_x, to_y = 1 + to_column * _ACROSS, _TOP + to_row * _DOWN + _HEIGHT // 2
    if to_column == from_column + 1:
        return f"M{x} {y}C{x + _TURN} {y} {to_x - _TURN} {to_y} {to_x} {to_y}"
    gap = _TOP + (from_row + (to_row > from_row)) * _DOWN - (_DOWN - _HEIGHT) // 2
    turn = _TURN if to_column > from_column else 0  # jobs that have finished may wait in a circle
    return (
        f"M{x} {y}C{x + _TURN} {y} {x + _TURN - turn} {gap} {x + turn} {gap}H{to_x - turn}"
        f"C{to_x - _TURN + turn} {gap} {to_x - _TURN} {to_y} {to_x} {to_y}"
    )


_TURN = (_ACROSS - _WIDTH) // 2  # pixels, in which a line leaves or reaches a box
_TOP = _DOWN - _HEIGHT  # above the first row
