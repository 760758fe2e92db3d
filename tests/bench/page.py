"""Writes docs/benchmarks.md and its plots from the figures of the benchmarks."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.bench import plot
from tests.bench.machine import ABOUT as MACHINE
from tests.bench.systems import SYSTEMS, YARDSTICKS, label, system_of
from tests.bench.tables import SECTIONS, Comparison, Growth, Report

Result = Mapping[str, Any]  # all that `python -m tests.bench` keeps of a question

# Figures that other pages rest on, which no program here measures
BY_HAND = {
    "start of a job": "0.5 ms",
    "start of a job on a file system that may not answer": "2 ms",
    "filter for the middle of a rare name among a million jobs": "a tenth of a second",
    "processor time of a cancel if the launcher scans processes in a fork": "1.5 times that without a fork",
}

PICTURES = "pictures/bench-{}.svg"
BUSY = 1.0  # the load average before the first measurement, of a machine that also does something else
MARK = "<!-- question: {} -->"  # before the part of each question
TRIAL = "; a trial with small numbers"
BY_HAND_TITLE = "## Other figures"
SETTING_TITLE = "## Machine, versions and settings"
WON_AND_LOST_TITLE = "## Won and lost"
NEAR = 0.05  # two speeds that differ by less count as the same


def write(results: Mapping[str, Result], folder: Path) -> None:
    """Write benchmarks.md and the plots into this folder; results are given by the name of their question.

    What the page there says of other questions stays.
    """
    path = folder / "benchmarks.md"
    earlier = path.read_text() if path.exists() else ""
    (folder / PICTURES).parent.mkdir(parents=True, exist_ok=True)
    tables = {name: SECTIONS[name](result["reports"]) for name, result in results.items()}
    path.write_text(text(results, tables, earlier))
    for parts in tables.values():
        for part in parts:
            (folder / PICTURES.format(part.key)).write_text(_picture(part))


def text(
    results: Mapping[str, Result], tables: Mapping[str, Sequence[Comparison | Growth]], earlier: str
) -> str:
    """Return the page, with the sections that an earlier page has for other questions."""
    found = _sections_of(earlier) | {
        name: "\n\n".join(_sections(results[name], parts)) for name, parts in tables.items()
    }
    sections = {name: found[name] for name in SECTIONS if name in found}
    head = [
        "# Benchmarks",
        (
            "How fast is bgd, and how fast are other job runners on the same machine? `make bench` measures"
            " all of them in one run and writes this page. Figures are medians, with the smallest and the"
            " largest in brackets where there were several rounds."
        ),
        "## How the systems differ",
        "The systems differ in what they do: some store nothing, some run no processes.",
        _table(
            (
                "system",
                "takes",
                "on disk before the answer",
                "process",
                "if it is killed",
                "after a power cut",
            ),
            [(each.name, *each[1:-1]) for each in SYSTEMS.values()],
        ),
        (
            "Durable systems were set to fsync each change. Of those that run commands, only bgd has each"
            " job, its start and its end on disk, with fsync; as set up here, only bgd, nq and pueue keep the"
            " output of a job. The libraries keep no output. Most of them run jobs on many machines, which"
            " bgd does only by way of Slurm."
        ),
    ]
    if any(TRIAL in section for section in sections.values()):
        head.insert(2, "**Some figures below come from a trial with small numbers. Do not go by them.**")
    marked = (f"{MARK.format(name)}\n\n{section}" for name, section in sections.items())
    setting, summary = _setting(results, earlier), _summary(tables, sections, earlier)
    return "\n\n".join([*head, *setting, *summary, *marked, *_by_hand()]) + "\n"


# --- the parts of the page ---------------------------------------------------------------------------------


def _sections_of(text: str) -> dict[str, str]:
    """Return the part of a page for each question."""
    measured, _, _ = text.partition(f"\n\n{BY_HAND_TITLE}\n")
    _, *parts = re.split(MARK.format(r"(\w+)"), measured)
    return {name: part.strip() for name, part in zip(parts[::2], parts[1::2], strict=True)}


def _setting(results: Mapping[str, Result], earlier: str) -> Iterator[str]:
    before = {cells[0]: cells[1] for cells in _rows(earlier, SETTING_TITLE)}  # of both tables
    newest = max(results.values(), key=lambda result: result["at"], default=None)
    machine = newest["machine"] if newest else {name: before[name] for name in MACHINE if name in before}
    versions = newest["versions"] if newest else {}
    yield SETTING_TITLE
    yield "As they were at the last measurement. Each section says when and on which processors its own was."
    yield _table(("", ""), [(name, str(value)) for name, value in machine.items()])
    yield _table(
        ("system", "version", "setting"),
        [
            (each.name, versions.get(name) or before.get(each.name, "not measured"), each.setting)
            for name, each in SYSTEMS.items()
        ],
    )


def _summary(
    tables: Mapping[str, Sequence[Comparison | Growth]], sections: Mapping[str, str], earlier: str
) -> Iterator[str]:
    yield WON_AND_LOST_TITLE
    yield (
        "The number behind a name says how many times as fast bgd is, or how many times as small. Where two"
        " are given, they are for the two columns of the table. What is within 5 % of bgd is in neither"
        " column; what is better than bgd in one of its numbers counts as lost."
    )
    before = {cells[0]: cells for cells in _rows(earlier, WON_AND_LOST_TITLE)}
    rows: list[Sequence[str]] = []
    for name, section in sections.items():
        if name in tables:
            rows += _won_and_lost(tables[name])
        else:
            titles = (line.removeprefix("## ") for line in section.splitlines() if line.startswith("## "))
            rows += [before[link] for link in map(_link, titles) if link in before]
    yield _table(("", "bgd is better than", "bgd is worse than"), rows)


def _won_and_lost(parts: Sequence[Comparison | Growth]) -> Iterator[Sequence[str]]:
    for part in parts:
        if isinstance(part, Comparison) and (found := _ratios(part)):
            faster = [name for name, ratios in found.items() if min(ratios) > 1 + NEAR]
            slower = [name for name, ratios in found.items() if min(ratios) < 1 - NEAR]
            sides = (", ".join(_won(name, found[name]) for name in side) for side in (faster, slower))
            yield (_link(part.title), *sides)


def _sections(result: Result, parts: Sequence[Comparison | Growth]) -> Iterator[str]:
    for part in parts:
        yield f"## {part.title}"
        yield part.about
        yield from _growth_table(part) if isinstance(part, Growth) else _comparison_table(part)
        yield f"![{part.title}]({PICTURES.format(part.key)})"
    rounds = {None: "", 1: ", 1 round"}.get(result["rounds"], f", {result['rounds']} rounds")
    trial = TRIAL if result["quick"] else ""
    where = f", on {on}" if (on := result["machine"].get("processors")) else ""
    yield f"Measured at {result['at']}, revision {result['revision']}{where}{rounds}{trial}."
    if (load := result.get("load", 0.0)) > BUSY:
        yield f"Measured on a busy machine (load {load}): compare these figures with each other only."


def _by_hand() -> Iterator[str]:
    yield BY_HAND_TITLE
    yield "Measured once, by hand."
    yield _table(("what", "figure"), list(BY_HAND.items()))


def _comparison_table(part: Comparison) -> Iterator[str]:
    better = "good" if part.is_less_better else "fast"
    last, compared = f"bgd is … times as {better}", _ratios(part)
    if part.multiples_of is not None:
        last, compared = f"times {_label(part.multiples_of)}", _multiples(part, part.multiples_of)
    rows = []
    for name in _best_first(part):
        shown = f"**{_label(name)}**" if name == part.ours else _label(name)
        rows.append(
            (shown, *map(_figure, part.rows[name]), *([_times(compared.get(name, []))] * bool(compared)))
        )
    columns = [f"{column}, {part.unit}" if column else part.unit for column in part.columns]
    yield _table(("", *columns, *([last] * bool(compared))), rows)
    if part.missing:
        yield (
            "Not measured: "
            + "; ".join(f"{_label(name)} ({why})" for name, why in part.missing.items())
            + "."
        )


def _growth_table(part: Growth) -> Iterator[str]:
    columns = [f"{size:,} jobs" for size in part.sizes]
    yield _table(
        (part.unit, *columns), [(name, *map(plot.number, values)) for name, values in part.rows.items()]
    )


def _picture(part: Comparison | Growth) -> str:
    if isinstance(part, Growth):
        series = {
            name: [(float(size), value) for size, value in zip(part.sizes, values, strict=True) if value > 0]
            for name, values in part.rows.items()
        }
        return plot.lines(
            part.title, f"{part.unit}; both axes are logarithmic", "jobs in the database", series
        )
    rows = {
        _label(name).replace("`", ""): [_middle(v) for v in part.rows[name][:2]] for name in _best_first(part)
    }
    ours = {_label(name).replace("`", "") for name in part.rows if part.ours is None or _is_ours(name)}
    better = "less is better" if part.is_less_better else "more is better"
    return plot.bars(part.title, f"{part.unit}; {better}", part.columns[:2], rows, ours)


def _ratios(part: Comparison) -> dict[str, list[float]]:
    """Return for rows of others how many times as fast, or as small, ours is, in each column."""
    if part.ours is None or part.ours not in part.rows:
        return {}
    found: dict[str, list[float]] = {}
    for name, values in part.rows.items():
        ours = part.rows[part.instead.get(name, part.ours)]
        pairs = zip(map(_middle, ours), map(_middle, values), strict=True)
        ratios = [(b / a if part.is_less_better else a / b) for a, b in pairs if a and b]
        if ratios and not _is_ours(name):
            found[name] = ratios
    return found


def _multiples(part: Comparison, unit: str) -> dict[str, list[float]]:
    """Return the first column of each row as a multiple of that of the row `unit`."""
    base = _middle(part.rows[unit][0])
    return {
        name: [value / base] for name, values in part.rows.items() if base and (value := _middle(values[0]))
    }


def _best_first(part: Comparison) -> list[str]:
    if part.ours is None:
        return list(part.rows)
    sign = 1 if part.is_less_better else -1
    return sorted(part.rows, key=lambda name: sign * (_middle(part.rows[name][0]) or 0.0))


def _is_ours(name: str) -> bool:
    return system_of(name) == "bgd" or name.startswith(("bgd", "bgctl"))


def _label(name: str) -> str:
    return label(name) if system_of(name) or name in YARDSTICKS else name


def _middle(value: float | Report | None) -> float | None:
    return value["median"] if isinstance(value, Mapping) else value


def _figure(value: float | Report | None) -> str:
    if value is None:
        return ""
    if isinstance(value, Mapping):
        middle, low, high = (plot.number(value[name]) for name in ("median", "min", "max"))
        return middle if value["n"] == 1 else f"{middle} ({low} to {high})"
    return plot.number(value)


def _won(name: str, ratios: Sequence[float]) -> str:
    return f"{_label(name)} ({_times(ratios)})"


def _times(ratios: Sequence[float]) -> str:
    return ", ".join(plot.number(ratio) for ratio in ratios)


def _link(title: str) -> str:
    return f"[{title}](#{_anchor(title)})"


def _anchor(title: str) -> str:
    kept = "".join(letter for letter in title.lower() if letter.isalnum() or letter in " -_")
    return kept.replace(" ", "-")


def _rows(text: str, title: str) -> Iterator[list[str]]:
    """Return the cells of the tables of a section."""
    section = text.partition(f"\n{title}\n")[2].partition("\n## ")[0]
    for line in section.splitlines():
        if line.startswith("| "):
            yield line.removeprefix("| ").removesuffix(" |").split(" | ")


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
