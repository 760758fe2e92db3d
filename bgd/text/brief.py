"""Jobs in a few words, for the cells of tables.

This module imports next to nothing, because `bgctl list` starts with it.
"""

from __future__ import annotations

from bgd.text.escape import one_line

TYPE_CHECKING = False  # as type checkers know it; typing takes as long to import as Python to start
if TYPE_CHECKING:
    from typing import Any

    from bgd.core.spec import JobSpec
    from bgd.wire.views import JobView, Progress

GROUPS = (
    ("running", "stopping"),
    ("held", "blocked", "scheduled", "queued"),
    ("succeeded", "failed", "cancelled"),
)
"""States in the order of a list; `bgd.core.job` has them as well."""
BATCH_COUNTS = ("total", "pending", "running", "succeeded", "failed", "cancelled")
"""Fields of a BatchView: its jobs, all of them and by state."""
_SHORT = 10  # seconds, below which a decimal matters
_ROUNDING = 1e-9  # 0.29 * 100 is less than 29
_UNITS = ((86_400, "d"), (3_600, "h"), (60, "m"), (1, "s"))


def progress_of(view: JobView) -> Progress | None:
    """Return the progress that a job has reported; None once it has succeeded and the report is outdated."""
    return None if view.state == "succeeded" else view.progress


def progress_line(progress: Progress | None) -> str:
    """Return progress on one line, for example "40% reading"; empty if the job reports none."""
    if progress is None:
        return ""
    share = "" if progress.fraction is None else f"{percent(progress.fraction)}%"
    return " ".join(filter(None, [share, one_line(progress.message or "")]))


def percent(fraction: float) -> int:
    """Return the whole percents that are done, rounded down: 100 only when all is done."""
    return int(fraction * 100 + _ROUNDING)


def short_duration(seconds: float | None) -> str:
    """Return a duration in its two largest units, for example "2h5m", "3.5s" or "12ms"; empty for None."""
    if seconds is None:
        return ""
    if seconds < 1:
        return f"{max(0.0, seconds) * 1000:.0f}ms"
    if seconds < _SHORT:
        return f"{seconds:.1f}s"
    rest, words = round(seconds), []
    for size, unit in _UNITS:
        count, rest = divmod(rest, size)
        if count:
            words.append(f"{count}{unit}")
        elif words:
            break
    return "".join(words[:2])


def run_time(view: JobView) -> str:
    """Return how long the latest attempt took or has been running; empty while the job waits."""
    return "" if view.state in GROUPS[1] else short_duration(view.run_seconds)


def arguments_of(view: JobView | JobSpec) -> dict[str, Any]:
    """Return the arguments of a class job: a list `args` and a dict `kwargs`, or nothing for a command."""
    if not view.arguments:
        return {}
    import json  # noqa: PLC0415 - most jobs are commands, and bgctl starts often

    found: dict[str, Any] = json.loads(view.arguments)
    return found


def command_line(view: JobView | JobSpec, enough: int | None = None) -> str:
    """Return what the job runs, on one line and quoted for a shell.

    `enough` is the number of characters after which the rest may be left out: a job may have a million.
    """
    return one_line(_command(view, enough)[:enough])


def _command(view: JobView | JobSpec, enough: int | None) -> str:
    if view.argv is not None:
        return " ".join(map(quoted, view.argv[:enough]))
    import json  # noqa: PLC0415 - as above

    arguments = arguments_of(view)
    words = [json.dumps(each, ensure_ascii=False) for each in arguments.get("args", [])]
    words += [
        f"{name}={json.dumps(each, ensure_ascii=False)}" for name, each in arguments.get("kwargs", {}).items()
    ]
    return f"{view.target}({', '.join(words)})"


def quoted(word: str) -> str:
    """Return a word as a shell reads it, with the quotes that are easiest to read."""
    letters = word.translate(_HARMLESS)
    if word and (letters.isalnum() or not letters):
        return word
    if "'" in word and "!" not in word:  # interactive shells expand ! within double quotes
        doubled = '"' + word.translate(_SPECIAL_IN_DOUBLE_QUOTES) + '"'
        if len(doubled) <= len(word) + 2 + 3 * word.count("'"):
            return doubled
    return "'" + word.replace("'", r"'\''") + "'"


# tables for str.translate: re takes half as long to import as Python to start
_HARMLESS = str.maketrans("", "", "_@%+=:,./-")
_SPECIAL_IN_DOUBLE_QUOTES = str.maketrans({each: f"\\{each}" for each in '"$`\\'})
