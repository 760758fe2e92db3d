"""The verbs show and explain: everything about a job, and why it waits."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from functools import partial

import click

from bgctl.common import (
    answer,
    global_options,
    has_colors,
    print_json,
    say,
    state_color,
)
from bgctl.explaining import title_of, waiting_lines
from bgctl.listing import Usages, job_with_usage, running_usages
from bgctl.options import FINISHED, JobIdRanges, chosen_ids, with_ids
from bgctl.plain import MOST_EXPLAINED
from bgctl.tables import local_time
from bgctl.terminal import TerminalEscaper
from bgctl.verbs import verb
from bgd import Client, Job, JobFailed, NoSuchJob, Outcome, State
from bgd.core.explain import Cause, Explanation, deadlock_in_words, waiting_line
from bgd.core.job import WAITING
from bgd.text.brief import command_line, progress_line, progress_of, short_duration
from bgd.text.escape import one_line
from bgd.text.facts import Fact, Instant, Listed, facts_of, facts_of_attempt
from bgd.text.formatting import (
    as_json,
    attempt_in_words,
    explanation_as_json,
    needs_node,
    signal_name,
    state_in_words,
    steps_as_json,
    usage_line,
)
from bgd.wire.views import AttemptView, JobView, StepView


@verb("bgctl show 12", "bgctl show --json last")
@click.option("--usage", is_flag=True, help="Show CPU, memory and processes of running jobs.")
@with_ids()
def show_command(daemon: Client, ids: JobIdRanges, *, usage: bool) -> None:
    """Show everything about jobs, with results and attempts.

    The default is your latest job.
    """
    missing: list[NoSuchJob] = []
    gap = ""
    usages = running_usages(daemon) if usage else None
    for job_id in chosen_ids(daemon, ids):
        try:
            job = daemon.job(job_id)
            attempts = job.attempts()
        except NoSuchJob as error:
            missing.append(error)
            continue
        if global_options().json:
            print_json(_as_json(daemon, job, attempts, usages))
        else:
            click.echo(gap + "\n".join(_job_lines(daemon, job, attempts, usages)))
            gap = "\n"
    for earlier in missing[:-1]:
        say(str(earlier))
    if missing:
        raise missing[-1]


@verb("bgctl explain 12", "bgctl explain", "bgctl explain --json last")
@with_ids()
def explain_command(daemon: Client, ids: JobIdRanges) -> None:
    """Say why jobs have not started, and what has to happen first.

    The likely start is estimated from how long jobs of the same names took.

    The default is all jobs that wait, at most the newest 20.
    """
    jobs = [daemon.job(job_id) for job_id in chosen_ids(daemon, ids)] if ids else _waiting_jobs(daemon)
    for job in jobs:
        explanation = _explanation(daemon, job)
        document = {"id": job.id, "state": job.state} | explanation_as_json(explanation)
        answer(document, *explanation_lines(job.view, explanation))


def _waiting_jobs(daemon: Client) -> list[Job]:
    """Return jobs that wait, the oldest first; say so if there are none or more."""
    jobs = daemon.jobs(states=WAITING, limit=MOST_EXPLAINED + 1)
    if not jobs:
        say("no job waits")
    elif len(jobs) > MOST_EXPLAINED:
        say(f"the newest {MOST_EXPLAINED} that wait; `bgctl list` shows more, `bgctl explain ID` explains it")
    return jobs[MOST_EXPLAINED - 1 :: -1]


def explanation_lines(job: JobView, explanation: Explanation) -> Iterator[str]:
    """Yield why a job waits, and when it will likely start."""
    if explanation.reasons:
        state = State.RUNNING if job.needs_node else _describe_state(job)  # the reasons say the rest
        yield from waiting_lines(job, state, explanation, time.time())
        return
    blocked = "" if job.state in FINISHED else "; nothing blocks it"
    yield f"{title_of(job)}: {_describe_state(job)}{blocked}"


def _as_json(
    daemon: Client, job: Job, attempts: list[AttemptView], usages: Usages | None
) -> dict[str, object]:
    return job_with_usage(job, usages) | {
        **explanation_as_json(_explanation(daemon, job)),
        "result": _result(daemon, job),
        "attempts": as_json(attempts),
        "steps": steps_as_json(job.steps()),
    }


def _result(daemon: Client, job: Job) -> object:
    """Return the result of a class job; None if there is none."""
    if job.target is None or job.state is not State.SUCCEEDED:
        return None
    try:
        return daemon.result(job.id)
    except JobFailed:  # it was retried in the meantime
        return None


def _job_lines(daemon: Client, job: Job, attempts: list[AttemptView], usages: Usages | None) -> Iterator[str]:
    now = time.time()
    yield f"Job {job.id}: {_describe_state(job.view)}"
    yield from _labelled_lines(
        now,
        ("command" if job.argv is not None else "calls", command_line(job.view)),
        ("name", job.name or ""),
        *facts_of(job.view),
        ("waits", _why_waiting(_explanation(daemon, job))),
        ("progress", progress_line(progress_of(job.view))),
        ("uses", usage_line(usages[job.id]) if usages and job.id in usages else ""),
    )
    if job.target is not None and job.state is State.SUCCEEDED:
        yield from _labelled_lines(now, ("result", json.dumps(_result(daemon, job), ensure_ascii=False)))
    yield from _step_lines(job.steps(), now)
    shown: set[str] = set()  # tracebacks, the latest first: attempts often fail in the same way
    parts = [list(_attempt_lines(job, attempt, now, shown)) for attempt in reversed(attempts)]
    for lines in reversed(parts):
        yield ""
        yield from lines


def _step_lines(steps: list[StepView], now: float) -> Iterator[str]:
    """Yield the lines of the latest steps."""
    if not steps:
        return
    yield ""
    yield f"Steps: {len(steps)}" + (f", the latest {_MOST_STEPS} are" if len(steps) > _MOST_STEPS else "")
    for each in steps[-_MOST_STEPS:]:
        told = f"{each.name} ({each.state}, {short_duration(each.seconds)}, {local_time(each.at, now)})"
        yield from _labelled_lines(now, (f"step {each.position}", told))


_MOST_STEPS = 20


def _describe_state(job: JobView) -> str:
    words = state_in_words(job)
    reason = one_line(job.reason or "")
    if reason.startswith(words):
        words, reason = reason, ""
    colored = click.style(words, fg=state_color(job)) if has_colors() else words
    return f"{colored} ({reason})" if reason else colored


def _attempt_lines(job: Job, attempt: AttemptView, now: float, shown: set[str]) -> Iterator[str]:
    """Yield the lines of an attempt, without a traceback that was already `shown`; add a new one."""
    yield f"Attempt {attempt.attempt}: {_describe_outcome(job, attempt)}"
    facts = facts_of_attempt(attempt)
    took = (_time_label(attempt), short_duration(attempt.run_seconds))
    yield from _labelled_lines(now, *facts[:1], took, *facts[1:], ("log", _describe_log(attempt)))
    if attempt.error is not None:
        message = attempt.error.in_words(attempt.outcome)
        traceback = (attempt.error.traceback or "").strip("\n")
        if not traceback or traceback in shown:
            yield from _labelled_lines(now, ("error", message))
        else:  # it ends with the message
            shown.add(traceback)
            for line in traceback.splitlines():
                yield f"    {TerminalEscaper().feed(line.encode(), is_last=True)}"


def _time_label(attempt: AttemptView) -> str:
    if attempt.outcome is not None:
        return "took"
    return "waiting for" if needs_node(attempt) else "running for"


def _describe_outcome(job: Job, attempt: AttemptView) -> str:
    words = attempt_in_words(attempt, is_suspended=job.suspended)
    if attempt.outcome is Outcome.SIGNAL:
        return f"ended by {words}"
    return f"{words} ({signal_name(attempt.signal)})" if attempt.signal else words


def _describe_log(attempt: AttemptView) -> str:
    """Return the path and size of the log; "" if there was no output."""
    if attempt.log_bytes:  # may exceed the size of the file if the log's limit was reached
        return f"{attempt.log_path} ({attempt.log_bytes} bytes written)"
    return attempt.log_path if attempt.outcome is None else ""


def _labelled_lines(now: float, *facts: Fact) -> Iterator[str]:
    for label, value in facts:
        match value:
            case Instant(at):
                text = local_time(at, now)
            case Listed(_, values):
                text = ", ".join(values)
            case _:
                text = value
        if text:
            yield f"  {label:<{_LABEL_WIDTH}}{one_line(text)}"


_LABEL_WIDTH = 11


def say_if_waiting(daemon: Client, job_id: int) -> None:
    """Tell the user why a job has no output yet, unless it only waits for its turn."""
    job = daemon.job(job_id)
    explanation = _explanation(daemon, job, waits=True)
    if any(reason.cause is not Cause.TURN for reason in explanation.reasons):
        say(f"job {job_id} is {job.state}: it waits {_why_waiting(explanation)}")


def deadlock_line(daemon: Client, job_ids: Sequence[int]) -> str:
    """Return for which of these jobs this program would wait in a deadlock, and why; "" if for none."""
    for job_id in job_ids[:MOST_EXPLAINED]:
        if words := deadlock_in_words(daemon.explain(job_id, waits=True)):
            return f"job {job_id} waits {words}"
    return ""


def _why_waiting(explanation: Explanation) -> str:
    return waiting_line(explanation, partial(local_time, now=time.time()))


def _explanation(daemon: Client, job: Job, *, waits: bool = False) -> Explanation:
    view = job.view
    may_wait = view.state in WAITING or view.state is State.RUNNING
    return daemon.explain(job.id, waits=waits) if may_wait else Explanation()
