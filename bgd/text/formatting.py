"""Format jobs: as JSON for programs, and as text for users."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from datetime import UTC, datetime
from typing import Any, Literal, Protocol

from msgspec import Struct

from bgd.core.explain import Explanation, in_words, waiting_line
from bgd.core.job import WAITING, Outcome, State
from bgd.core.spec import (
    OPTIONS,
    ExecutorKind,
    FollowUp,
    Limit,
    Resources,
    SlurmOptions,
    kind_of,
)
from bgd.text.brief import BATCH_COUNTS, arguments_of, percent, quoted
from bgd.text.escape import one_line
from bgd.text.units import format_duration, format_size, notation_of
from bgd.wire.views import (
    AttemptView,
    BatchView,
    JobUsage,
    JobView,
    QueueView,
    StepView,
)


def as_json(value: Any, name: str = "") -> Any:
    """Return a value for JSON: Structs as objects, instants, whose names end in `at`, as ISO 8601."""
    match value:
        case Struct():
            return {each: as_json(getattr(value, each), each) for each in value.__struct_fields__}
        case list() | tuple() if name == "why_waiting":
            return waiting_line(Explanation(reasons=tuple(value)), iso_time) or None
        case list() | tuple():
            return [as_json(each) for each in value]
        case float() if name == "at" or name.endswith("_at"):
            return iso_time(value)
        case _:
            return value


def reply_as_json(reply: Struct) -> dict[str, object]:
    """Return a reply of the daemon as a dict for JSON, without the number of its request."""
    fields: dict[str, object] = as_json(reply)
    del fields["id"]
    return fields


def job_as_json(view: JobView) -> dict[str, object]:
    """Return a job as a dict for JSON; programs rely on its keys."""
    fields: dict[str, object] = as_json(view)
    del fields["arguments"]
    arguments = arguments_of(view)
    return fields | {"args": arguments.get("args"), "kwargs": arguments.get("kwargs")}


def steps_as_json(steps: Iterable[StepView]) -> list[dict[str, object]]:
    """Return the steps of a job as a list for JSON."""
    names = ("name", "state", "at", "seconds")
    return [{name: as_json(getattr(each, name), name) for name in names} for each in steps]


def executor_line(attempt: AttemptView) -> str:
    """Return the executor of an attempt on one line, with what bgd cannot promise; empty: this machine."""
    kind = attempt.executor_kind
    if kind is None or kind is ExecutorKind.LOCAL:
        return ""
    if not kind.is_seen_through:
        return f"{attempt.executor}, a {kind}: bgd promises nothing about what it runs on other machines"
    if attempt.node is None:
        return attempt.executor or ""
    nodes = "nodes" if "[" in attempt.node or "," in attempt.node else "node"
    return f"{attempt.executor}, {nodes} {one_line(attempt.node)}"


def needs_node(attempt: AttemptView) -> bool:
    """Return whether an attempt is with a cluster that has no node for it yet."""
    kind = attempt.executor_kind
    return kind is not None and kind.has_nodes and attempt.node is None and attempt.outcome is None


def attempt_in_words(attempt: AttemptView, *, is_suspended: bool) -> str:
    """Return how an attempt ended, or that it has not; `is_suspended`: its job is."""
    running = "suspended" if is_suspended else State.RUNNING
    return outcome_in_words(attempt) or (_NEEDS_NODE if needs_node(attempt) else running)


_NEEDS_NODE = "waiting for a node"


def usage_line(usage: JobUsage) -> str:
    """Return what a job uses now on one line, for example "97% CPU, 120MB, 3 processes"."""
    processes = f"{usage.processes} process{'es' * (usage.processes != 1)}"
    return f"{brief_usage(usage)}, {processes}"


def brief_usage(usage: JobUsage) -> str:
    """Return the CPU and memory that a job uses now, for example "97% CPU, 120MB"."""
    cpu = f"{percent} CPU, " if (percent := load(usage)) else ""
    return f"{cpu}{format_size(usage.memory_bytes)}"


def load(usage: JobUsage) -> str:
    """Return how busy a job keeps processors: "97%"; empty if that is not known yet."""
    return "" if usage.cpu_percent is None else f"{usage.cpu_percent:.0f}%"


def options_of(view: JobView, kind: Literal["limit", "label"]) -> list[tuple[str, str]]:
    """Return the options of a job that are shown as limits or on lines of their own, each with its word."""
    return [
        (word, _option_text(name, value))
        for name, option in OPTIONS.items()
        if (word := getattr(option, kind)) is not None and (value := getattr(view, name)) is not None
    ]


def _option_text(name: str, value: Any) -> str:
    kind = kind_of(name)
    if kind is Resources:
        return ", ".join(f"{count} {resource}" for resource, count in value.items())
    if kind is Limit:
        return value[0] if value[1] == 1 else f"{value[0]}, {value[1]} at once"
    if kind is SlurmOptions:
        return " ".join(value)
    if kind is FollowUp:
        return " ".join(map(quoted, value))
    notation = notation_of(kind)
    return str(value) if notation is None else notation.show(value)


def batch_as_json(view: BatchView) -> dict[str, Any]:
    """Return a batch as JSON shows it."""
    follow_ups = {"then": view.then, "catch": view.catch, "finally": view.finally_}
    return {
        "id": view.id,
        "name": view.name,
        "created_at": iso_time(view.created_at),
        **{name: getattr(view, name) for name in BATCH_COUNTS},
        "finished_at": iso_time(view.finished_at),
        **{
            event: each and {"argv": each.argv, "target": each.target, "job": each.job}
            for event, each in follow_ups.items()
        },
    }


def iso_time(at: float | None) -> str | None:
    """Return an instant as ISO 8601 in UTC, to the millisecond; None stays None."""
    if at is None:
        return None
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def is_slow(view: JobView) -> bool:
    """Return whether a job has run longer than jobs of its name usually do."""
    if view.usual_seconds is None or view.run_seconds is None or view.state in WAITING:
        return False
    return view.run_seconds > view.usual_seconds


def state_in_words(view: JobView) -> str:
    """Return the state of a job and, in a word or two, why: "suspended", "failed (1)", "timeout"."""
    if view.state is State.RUNNING and view.suspended:
        return "suspended"
    if view.state is State.RUNNING and view.needs_node:
        return _NEEDS_NODE
    if view.state is State.CANCELLED and (view.reason or "").startswith(_EXPIRED):
        return _EXPIRED
    return _failure_in_words(view) if view.state is State.FAILED else view.state


_EXPIRED = "expired"


def _failure_in_words(view: JobView) -> str:
    kind = one_line((view.problem or "").partition(":")[0])  # a job may name its exceptions as it likes
    match view.outcome:
        case Outcome.EXIT:
            return f"failed ({view.exit_code})"
        case Outcome.SIGNAL:
            return f"failed ({outcome_in_words(view)})"
        case Outcome.ERROR:
            return f"failed ({kind.rpartition('.')[2]})" if kind else State.FAILED
        case Outcome.NOT_STARTED:
            return _NOT_STARTED.get(kind, kind) or outcome_in_words(view)
        case None | Outcome.CANCELLED | Outcome.SUCCEEDED | Outcome.SNOOZED:
            return State.FAILED
        case (
            Outcome.TIMEOUT
            | Outcome.LOG_LIMIT
            | Outcome.INTERRUPTED
            | Outcome.REFUSED
            | Outcome.OOM
            | Outcome.UNKNOWN
        ):
            return outcome_in_words(view)


_NOT_STARTED = {  # short words for some of bgd.wire.launching.NotStarted
    "program not found": "no program",
    "interpreter not found": "no interpreter",
    "no such directory": "no directory",
    "argument list too long": "arguments too long",
}


class Ended(Protocol):
    """What says how an attempt ended: a job, an attempt, or a part of one."""

    @property
    def outcome(self) -> Outcome | None: ...
    @property
    def exit_code(self) -> int | None: ...
    @property
    def signal(self) -> int | None: ...


def outcome_in_words(ended: Ended) -> str:
    """Return how an attempt, or a job's latest one, ended: "exit code 3", "SIGKILL"; empty if it has not."""
    match ended.outcome:
        case None:
            return ""
        case Outcome.EXIT:
            return f"exit code {ended.exit_code}"
        case Outcome.SIGNAL:
            return signal_name(ended.signal)
        case Outcome.OOM:
            return "out of memory"
        case Outcome.UNKNOWN:
            return "outcome unknown"
        case (
            Outcome.SUCCEEDED
            | Outcome.TIMEOUT
            | Outcome.CANCELLED
            | Outcome.INTERRUPTED
            | Outcome.NOT_STARTED
            | Outcome.LOG_LIMIT
            | Outcome.REFUSED
            | Outcome.ERROR
            | Outcome.SNOOZED
        ):
            return ended.outcome.replace("_", " ")


def reason_in_words(view: JobView) -> str:
    """Return the reason for the state of a job, in a few words: why it failed, or what it waits for."""
    words = state_in_words(view)
    match view.state:
        case State.FAILED:
            if view.outcome is Outcome.ERROR:
                return one_line(view.problem) if view.problem else outcome_in_words(view)
            return outcome_in_words(view) if words.startswith(State.FAILED) else words
        case State.SCHEDULED if view.attempt and view.outcome not in {None, Outcome.SNOOZED}:
            return f"retry after {outcome_in_words(view)}"
        case State.BLOCKED:
            return f"after {number_ranges(view.waits_for)}" if view.waits_for else ""
        case State.QUEUED:
            return why_queued(view)
        case (
            State.RUNNING | State.CANCELLED | State.SCHEDULED | State.HELD | State.STOPPING | State.SUCCEEDED
        ):
            return "" if words == view.state else words


def why_queued(view: JobView | QueueView) -> str:
    """Return what a queued job, or that of a queue, waits for besides its turn."""
    return waiting_line(Explanation(reasons=tuple(view.why_waiting)), clock_time)


def clock_time(at: float) -> str:
    """Return a time of day, with the date if it is not today."""
    local = datetime.fromtimestamp(at).astimezone()
    is_today = local.date() == datetime.now().astimezone().date()
    return f"{local:%H:%M:%S}" if is_today else f"{local:%b %d %H:%M}"


def signal_name(number: int | None) -> str:
    """Return the name of a signal, for example "SIGKILL"; real-time signals have only numbers."""
    import signal  # noqa: PLC0415 - few jobs end so

    try:
        return signal.Signals(number or 0).name
    except ValueError:
        return f"signal {number}"


def explanation_as_json(explanation: Explanation) -> dict[str, object]:
    """Return what keeps a job from running as a dict for JSON; programs rely on its keys."""
    fields: dict[str, object] = as_json(explanation)
    reasons = [as_json(each) | {"words": in_words(each, iso_time)} for each in explanation.reasons]
    return fields | {"why_waiting": waiting_line(explanation, iso_time) or None, "reasons": reasons}


def retries_line(view: JobView) -> str:
    """Return how often, how far apart and after which exit codes a job is retried, on one line."""
    if view.retries == 0 and view.retry_until is None:
        return "none; rerun if the outcome is lost" if view.rerun else "none"
    longest, growth = format_duration(view.max_delay), ""
    if isinstance(view.retry_delay, list):
        pauses = ", ".join(map(format_duration, view.retry_delay))
    else:
        pauses = format_duration(view.retry_delay)
        growth = f", times {view.backoff:g} each, at most {longest}" if view.backoff > 1 else ""
    only = f", only after {_codes(view.retry_on)}" if view.retry_on is not None else ""
    never = f", not after {_codes(view.no_retry_on)}" if view.no_retry_on is not None else ""
    unseen = ", not if the outcome is lost" if view.rerun is False else ""
    spread = f", jitter {percent(view.jitter)}%" if view.jitter and view.retry_delay else ""
    count = view.retries if view.retry_until is None else f"any within {format_duration(view.retry_until)}"
    return f"{count}, {pauses} apart{growth}{spread}{only}{never}{unseen}"


def rules_line(view: JobView) -> str:
    """Return what happens after which exceptions of a class job, on one line; empty if it has no rules."""
    return one_line(", ".join(f"{name}: {then}" for name, then in view.on_exceptions.items()))


def number_ranges(numbers: Iterable[int]) -> str:
    """Return ids or exit codes with runs joined: "3-9, 12"."""
    ranges: list[range] = []
    for number in sorted(numbers):
        if ranges and ranges[-1].stop == number:
            ranges[-1] = range(ranges[-1].start, number + 1)
        else:
            ranges.append(range(number, number + 1))
    return ", ".join(
        str(each.start) if len(each) == 1 else f"{each.start}-{each.stop - 1}" for each in ranges
    )


class Retried(Protocol):
    """A retried job with the jobs that were cancelled because of it: see `bgd.wire.replies.ActResult`."""

    @property
    def along(self) -> list[int]: ...
    @property
    def left(self) -> list[int]: ...


def pipeline_in_words(results: Collection[Retried], retried: int = 1) -> str:
    """Return what a sentence about so many retried jobs says of those that were cancelled because of them."""
    because = f"cancelled because of {'it' if retried == 1 else 'them'}"
    along = {job for result in results for job in result.along}
    left = {job for result in results for job in result.left} - along
    words = f"; also {number_ranges(along)}, {because}" if along else ""
    return words + (f"; not {number_ranges(left)}, {because} and of others" if left else "")


def _codes(codes: Iterable[int]) -> str:
    return number_ranges(codes) or "none"
