"""Draw the latest runs of a name or a schedule as bars: the colour is the outcome, the height the time."""

from __future__ import annotations

from functools import lru_cache
from itertools import groupby
from time import localtime, strftime

from markupsafe import Markup

from bgd.core.job import ACTIVE, FINAL, State
from bgd.daemon.storage.summaries import RECENT, Run
from bgd.text.brief import short_duration
from bgd.text.formatting import outcome_in_words

STEP = 5  # units from one bar to the next
HEIGHT = 20
LEAST = 4  # units of a bar, so that even a short run is seen


def strip(runs: list[Run]) -> Markup:
    """Return the latest of these runs, which come newest first, as SVG; empty if there is none.

    A run that goes on is as high as can be, and one that has not begun low.
    """
    return _strip(tuple(runs[:RECENT][::-1])) if runs else Markup()


@lru_cache(maxsize=1024)  # a page has some hundred of 30 bars, and most are as they were
def _strip(runs: tuple[Run, ...]) -> Markup:
    longest = max(run.seconds or 0.0 for run in runs)
    # put together by hand, in a fifth of the time; no text is a stranger's
    bars = "".join(
        f'<rect class="{_look(run)}" x="{STEP * index}" height="{_height(run, longest):.0f}">'
        f"<title>Job {run.job}, {strftime('%F %H:%M', localtime(run.at))}: {_words(run)}</title></rect>"
        for index, run in enumerate(runs)
    )
    width = STEP * len(runs) - 1
    in_a_row = ", ".join(f"{len(list(each))} {words}" for words, each in groupby(map(state_of_run, runs)))
    took = f" The longest took {short_duration(longest)}." if longest else ""
    return Markup(  # noqa: S704
        f'<svg class="strip" viewBox="0 0 {width} {HEIGHT}" width="{width}" height="{HEIGHT}" role="img"'
        f' aria-label="The latest runs, oldest first: {in_a_row}.{took}">{bars}</svg>'
    )


def state_of_run(run: Run) -> str:
    """Return how a run ended, as "exit code 3"; of others their state."""
    return (run.state in FINAL and outcome_in_words(run)) or run.state


def _words(run: Run) -> str:
    took = "" if run.seconds is None else f" in {short_duration(run.seconds)}"
    return f"{state_of_run(run)}{took}"


def _look(run: Run) -> str:
    return State.RUNNING if run.state in ACTIVE else run.state if run.state in FINAL else "waiting"


def _height(run: Run, longest: float) -> float:
    share = 1.0 if run.state in ACTIVE else (run.seconds or 0.0) / (longest or 1.0)
    return LEAST + (HEIGHT - LEAST) * share
