"""Occurrences: the instants at which a schedule is due, in a time zone whose clocks change, as Debian's cron.

    next_due(when, zone, after)                     the next one
    due_between(when, zone, after, until, limit)    those of a span, oldest first
    count_between(when, zone, after, until)         how many there are, without walking through them
    catch_up(zone, seen, before, now)               which ones run after the clock was set

All instants are epoch seconds; spans leave out `after` and contain `until`. No two occurrences of a schedule
have the same instant, so schedule and instant together name one.

Where clocks change, as in Debian's cron:

* A wildcard runs in every real minute whose time matches. It runs again in a repeated hour, and a skipped
  hour is lost. Its intervals stay real.
* A fixed time runs once. A time that the clocks skip runs right after the gap, once for each skipped time. A
  time that they repeat runs the first time only. Gaps of three hours or more, such as the day that Samoa left
  out, are lost; more than three hours repeated run again.

Debian's cron misses a change of the zone's offset that is not daylight saving (Pyongyang in 2018) until it is
restarted. Here it is treated like any other.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, tzinfo
from functools import lru_cache
from itertools import islice, takewhile

from msgspec import Struct

from bgd.core.pattern import DAY, Pattern, count_walls, matching_days, walls_between
from bgd.core.when import When

MINUTE = 60
LIMIT = 180 * MINUTE  # cron's: a gap shorter than this is caught up, no more than this counts as repeated
MOMENT = 2.0**-14  # seconds between runs of skipped times: three hours of seconds fit into one second
END = 7_258_118_400  # 2200-01-01 00:00 UTC; nothing is due from then on


def next_due(when: When, zone: tzinfo, after: float) -> float | None:
    """Return the first instant after `after`; None: there is none before the year 2200, or ever."""
    return next(_occurrences(when, zone, after), None)


def due_between(when: When, zone: tzinfo, after: float, until: float, limit: int) -> list[float]:
    """Return the first instants after `after` that are not later than `until`, at most `limit`."""
    return list(islice(takewhile(lambda at: at <= until, _occurrences(when, zone, after)), limit))


def count_between(when: When, zone: tzinfo, after: float, until: float) -> int:
    """Return how many instants `due_between` would return without its limit.

    Ten years of minutes take a millisecond, a clock that is wrong by a century ten.
    """
    after, until = after - when.delay, min(until - when.delay, END - 1)
    if until <= after:
        return 0
    if when.rule is None:
        return 0
    if isinstance(when.rule, int):
        return _multiples(until, when.rule) - _multiples(after, when.rule)
    return _count(when.rule, zone, after, until)


def _occurrences(when: When, zone: tzinfo, after: float) -> Iterator[float]:
    after -= when.delay
    found: Iterable[float]
    if when.rule is None:
        found = ()
    elif isinstance(when.rule, int):
        found = range((_multiples(after, when.rule) + 1) * when.rule, END, when.rule)
    else:
        found = _instants(when.rule, zone, after)
    return (at + when.delay for at in found)


def _multiples(at: float, seconds: int) -> int:
    return math.floor(at) // seconds


# --- patterns in a zone --------------------------------------------------------------------------------


class _Stretch(Struct, frozen=True):
    """Real time from `begin` to before `end` in which the clocks do not change.

    `offset` is the zone's, east of UTC; `forward` is how far the clocks went forward at `begin`. All are
    seconds.
    """

    begin: int
    end: int
    offset: int
    forward: int


def _instants(pattern: Pattern, zone: tzinfo, after: float) -> Iterator[float]:
    for begin, end in _spans(pattern, after):
        for stretch in _stretches(zone, begin - LIMIT, end):
            # the previous span yielded everything before `begin`
            yield from (at for at in _in_stretch(pattern, stretch, begin) if at >= begin and at > after)


def _spans(pattern: Pattern, after: float) -> Iterator[tuple[int, int]]:
    """Yield consecutive spans of real time that cover all instants after `after`.

    An offset is less than a day, so the wall clock shows a day at most a day earlier or later than UTC. The
    spans skip the years between two rare days, so their clocks need no check.
    """
    done = min(math.floor(after), END)
    for day in matching_days(pattern, done // DAY - 2):
        begin, end = max(done, (day - 1) * DAY), min((day + 2) * DAY, END)
        if begin < end:
            yield begin, end
            done = end


def _in_stretch(pattern: Pattern, stretch: _Stretch, begin: int) -> Iterator[float]:
    """Yield the instants of a stretch, without most of those before `begin`."""
    skipped, first, last = _walls_of(pattern, stretch)
    if skipped < first:
        for index, _ in enumerate(walls_between(pattern, skipped, first)):
            yield stretch.begin + index * MOMENT
    for wall in walls_between(pattern, max(first, begin + stretch.offset), last):
        yield wall - stretch.offset


def _walls_of(pattern: Pattern, stretch: _Stretch) -> tuple[int, int, int]:
    """Return three wall seconds: times between the first two run at once, later ones at their time.

    If there are skipped times, the second in which the clocks went forward is the last that runs at once, in
    its turn, as in cron.
    """
    first, last = stretch.begin + stretch.offset, stretch.end + stretch.offset
    if pattern.is_wildcard:
        return first, first, last
    if 0 < stretch.forward < LIMIT:
        return first - stretch.forward, first + 1, last
    repeated = -stretch.forward if -LIMIT <= stretch.forward < 0 else 0
    return first + repeated, first + repeated, max(first + repeated, last)


def _count(pattern: Pattern, zone: tzinfo, after: float, until: float) -> int:
    first, last = (
        math.floor(after) + 1,
        math.floor(until) + 1,
    )  # except the runs at once, all are whole seconds
    count = 0
    for stretch in _stretches(zone, first - LIMIT, last):
        skipped, begin, end = _walls_of(pattern, stretch)
        if stretch.begin > after and stretch.begin + 1 <= until:
            count += count_walls(pattern, skipped, begin)
        else:  # those at once may lie on both sides of `after` or `until`
            instants = (
                stretch.begin + index * MOMENT for index in range(count_walls(pattern, skipped, begin))
            )
            count += sum(1 for at in instants if after < at <= until)
        begin = max(begin, first + stretch.offset)
        count += count_walls(pattern, begin, end) if begin < end else 0
    return count


# --- zones ---------------------------------------------------------------------------------------------


def _stretches(zone: tzinfo, begin: int, end: int) -> Iterator[_Stretch]:
    """Yield the stretches of a span. Where the first one begins, the clocks count as unchanged."""
    offset, forward = _offset(zone, begin), 0
    for year in range(_year_of(begin), _year_of(end) + 1):
        for at, changed in _changes(zone, year):
            if begin < at < end:
                yield _Stretch(begin, at, offset, forward)
                begin, offset, forward = at, changed, changed - offset
    yield _Stretch(begin, end, offset, forward)


@lru_cache(maxsize=4096)  # some 300 bytes each: a few zones, and the years that a clock may be wrong by
def _changes(zone: tzinfo, year: int) -> tuple[tuple[int, int], ...]:
    """Return when the clocks change within a year of UTC, each with the new offset.

    A zone gives its offset only for an instant, so each day is checked. No zone has changed twice within a
    day since 1970; the second change would count as part of the first.
    """
    begin, end = _start_of(year), _start_of(year + 1)
    offset, found = _offset(zone, begin), []
    for day in range(begin, end, DAY):
        changed = _offset(zone, day + DAY)
        if changed != offset:
            seconds = range(day, day + DAY + 1)
            at = seconds[bisect_left(seconds, True, key=lambda at: _offset(zone, at) == changed)]
            found.append((at, changed))
            offset = changed
    return tuple(found)


def _offset(zone: tzinfo, at: int) -> int:
    offset = datetime.fromtimestamp(at, zone).utcoffset()
    return 0 if offset is None else math.floor(offset.total_seconds())


def _start_of(year: int) -> int:
    return math.floor(datetime(year, 1, 1, tzinfo=UTC).timestamp())


def _year_of(at: int) -> int:
    return datetime.fromtimestamp(at, UTC).year


# --- the clock is set --------------------------------------------------------------------------------------


class CatchUp(Struct, frozen=True, kw_only=True):
    """What runs after the clock was set: the occurrences after these instants, as their time comes.

    Those that are not later than the new time run at once. `seen` goes into the next call.
    """

    wildcards_after: float
    fixed_after: float
    seen: float

    def after(self, when: When) -> float:
        """Return the instant after which the occurrences of a schedule run."""
        return self.wildcards_after if when.is_wildcard else self.fixed_after


def catch_up(zone: tzinfo, seen: float, before: float, now: float) -> CatchUp:
    """Decide what runs after the clock jumped from `before` to `now`, for example during a suspend.

    `seen` is the latest instant whose fixed times have run: `before`, or more while the clock has not come
    back to where it was set back from. The caller detects a step by a clock that cannot be set.

    The rule is that of the main loop of Debian's cron. It looks at the clock when a minute is over. It counts
    the minutes that the wall clock has moved since it last did:

    * 1 to 5 forward (a step of 1 to 4): every missed minute runs.
    * 6 to 180 forward: fixed times run once for each missed minute; wildcards go on with this minute.
    * back by less than 180: wildcards run again, fixed times not until the clock is where it was.
    * more than that: the clock was wrong. Everything continues with this minute; times in between are missed.

    What is missed lies after `seen` and not after `after(when)` of the answer, if that is later.
    """
    woken = now + MINUTE - (before + _offset(zone, math.floor(before))) % MINUTE
    minute = _wall_minute(zone, woken)
    if minute - _wall_minute(zone, before) in {0, 1}:  # cron does not notice it
        return CatchUp(wildcards_after=before, fixed_after=seen, seen=max(seen, now))
    begin = math.nextafter(minute * MINUTE - _offset(zone, math.floor(woken)), -math.inf)
    moved = minute - _minute_seen(zone, seen)
    if 1 <= moved <= _FEW:
        return CatchUp(wildcards_after=seen, fixed_after=seen, seen=now)
    if _FEW < moved <= _MANY:
        return CatchUp(wildcards_after=begin, fixed_after=seen, seen=now)
    if -_MANY < moved <= 0:
        return CatchUp(wildcards_after=begin, fixed_after=seen, seen=seen)
    return CatchUp(wildcards_after=begin, fixed_after=begin, seen=now)


_FEW, _MANY = 5, 180  # minutes


def _wall_minute(zone: tzinfo, at: float) -> int:
    return math.floor(at + _offset(zone, math.floor(at))) // MINUTE


def _minute_seen(zone: tzinfo, seen: float) -> int:
    """Return the last minute of the wall clock whose fixed times have run; in a repeated hour its end."""
    *_, stretch = _stretches(zone, math.floor(seen) - LIMIT, math.floor(seen) + 1)
    if -LIMIT <= stretch.forward < 0:
        return max(_wall_minute(zone, seen), _wall_minute(zone, stretch.begin - 1))
    return _wall_minute(zone, seen)
