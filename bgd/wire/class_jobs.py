"""Calls of class jobs: the request to a worker, and its report, both as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, Raw, Struct, UnsetType
from msgspec.structs import replace

from bgd.core.job import Decision, NextStep, Outcome
from bgd.core.spec import MAX_RESULT, MAX_WORK, PREVIOUS, Duration, Instant, JobSpec, Reference, StopSignal
from bgd.core.target import PythonTarget, RunnerTarget, decode_arguments
from bgd.wire.views import JobError

MAX_DOCUMENT = MAX_RESULT + 100  # bytes of a result file: a result at its limit, and what surrounds it
MAX_BASES = 100  # classes of an exception
NULL_RESULT = b'{"ok":null}'  # default if a program of another language writes nothing
NO_RESULT = "no_result"  # type of the error if a process ended well without a result

_DEFAULT_TYPES = {NextStep.RETRY: "retry", NextStep.FAIL: "fail", NextStep.SNOOZE: Outcome.SNOOZED.value}
_ENDED_BY_BGD = frozenset({Outcome.TIMEOUT, Outcome.CANCELLED})
_ENDED_BY_ITSELF = frozenset({Outcome.SUCCEEDED, Outcome.EXIT})


def problem_with_arguments(arguments: str) -> str | None:
    """Return in one line what is wrong with the JSON text of a class job's arguments; None: nothing."""
    try:
        decode_arguments(arguments)
    except _UNDECODABLE as error:
        return f'the arguments must be JSON, {{"args": [...], "kwargs": {{...}}}}: {error}'
    problem = _problem_for_python(arguments)
    return f"Python cannot read the arguments: {problem}" if problem else None


def with_results(
    arguments: str | None, references: Sequence[Reference], results: Mapping[int, str] | None = None
) -> str:
    """Put the results of other jobs, as JSON text, into arguments; no number loses a digit.

    `results` None: only check the places.

    Raises:
        ValueError: a place does not exist, a result is gone, or the arguments get longer than MAX_WORK.
    """
    jobs = {each.job: f'{{"$result":{each.job}}}' for each in references}
    found = jobs if results is None else results
    value: Any = Raw((arguments or "{}").encode())
    if len(arguments or "") + sum(len(found.get(each.job, "")) for each in references) > MAX_WORK:
        raise ValueError(_too_long(jobs))
    for each in references:
        if each.job not in found:
            raise ValueError(
                f"an argument is the result of job {each.job}, which has not succeeded or was removed"
            )
        try:
            value = _with_result(value, each.path, each.job, Raw(found[each.job].encode()))
        except (LookupError, TypeError, *_UNDECODABLE):
            where = "".join(f"[{step!r}]" for step in each.path)
            raise ValueError(f"the arguments have no {jobs[each.job]} at {where}") from None
    text = msgspec.json.encode(value)
    if len(text) > MAX_WORK:
        raise ValueError(_too_long(jobs))
    return text.decode()


def after_previous(spec: JobSpec, job: int) -> JobSpec:
    """Return the spec of a chain's job that waits for the job before, whose result may be an argument.

    Raises:
        ValueError: as `with_results`.
    """
    spec = replace(spec, after=(*spec.after, job))
    unnamed = [each for each in spec.references if each.job == PREVIOUS]
    if not unnamed:
        return spec
    arguments = with_results(spec.arguments, unnamed, {PREVIOUS: f'{{"$result":{job}}}'})
    named = tuple(replace(each, job=job) if each in unnamed else each for each in spec.references)
    return replace(spec, arguments=arguments, references=named)


def _with_result(value: Any, path: Sequence[int | str], job: int, result: Raw) -> Any:
    if not path:
        if _decode_placeholder(value).job != job:
            raise LookupError(job)
        return result
    inner: Any = _decode_level(value) if isinstance(value, Raw) else value
    inner[path[0]] = _with_result(inner[path[0]], path[1:], job, result)
    return inner


def _too_long(jobs: Iterable[int]) -> str:
    named = ", ".join(f"job {job}" for job in sorted(jobs))
    return (
        f"with the results of {named}, the arguments are longer than {MAX_WORK} bytes of JSON: "
        "let those jobs write files, and return the paths"
    )


def worker_request(
    target: PythonTarget,
    arguments: str | None,
    path: Sequence[str],
    allowed: Sequence[str] | None = None,
    stop_signal: StopSignal | None = None,
    around: str = "",
) -> bytes:
    """Return what a worker reads from its standard input.

    * `arguments`: JSON text in which `problem_with_arguments` finds no problem; None: no arguments. It is
      passed on unchanged, so that no number loses a digit.
    * `path`: goes in front of sys.path.
    * `allowed`: the entries that decide whether an inherited method may be called; None: it may.
    * `stop_signal`: the signal that ends the job; None: TERM.
    * `around`: the function whose context manager surrounds the job, as "module:function"; empty: none does.
    """
    given = Raw((arguments or "{}").encode())
    request = {"module": target.module, "name": target.name, "method": target.method, "arguments": given}
    more = {"path": list(path), "allowed": allowed, "stop_signal": stop_signal}
    if around:
        more["around"] = around
    return msgspec.json.encode(request | more)


def runner_request(target: RunnerTarget, job: int, attempt: int, arguments: str | None) -> bytes:
    """Return what a runner reads from its standard input; `arguments` as in `worker_request`."""
    given = decode_arguments(arguments or "{}")
    request = {"id": job, "attempt": attempt, "target": target.words}
    return msgspec.json.encode({**request, "args": given.args, "kwargs": given.kwargs})


class AttemptReport(Struct, frozen=True):
    """The result of an attempt of a class job, from its own report, as far as that is plausible.

    * `value`: JSON text of what the method returned.
    * `error`: what it raised.
    * `decision`: about its next step.
    * `lineage`: if it raised an exception without a decision, the names of its type and base classes, nearest
      first.
    """

    outcome: Outcome
    value: str | None = None
    error: JobError | None = None
    decision: Decision | None = None
    lineage: tuple[str, ...] = ()


def read_result(raw: bytes | None, outcome: Outcome) -> AttemptReport:
    """Return the result of a class job, from its result file (None or empty: nothing) and its outcome.

    If another program ended the process, the launcher's outcome stays, whatever the file says. If bgd ended
    the job, its error is kept: it shows where the job was.
    """
    if outcome in _ENDED_BY_BGD:
        return AttemptReport(outcome, error=_error_in(raw or b""))
    if outcome not in _ENDED_BY_ITSELF:
        return AttemptReport(outcome)
    try:
        told, value = _read_document(raw or b"")
        if value is None:
            return _report_of(told)
    except ValueError as error:
        # an exit code that the job chose says enough, and must not be hidden
        is_silent = outcome is Outcome.EXIT
        return (
            AttemptReport(outcome)
            if is_silent
            else AttemptReport(Outcome.ERROR, error=JobError(NO_RESULT, str(error)))
        )
    return AttemptReport(outcome, value if outcome is Outcome.SUCCEEDED else None)


def _error_in(raw: bytes) -> JobError | None:
    """Return the error in a result file, None if it holds none or cannot be read."""
    try:
        told, value = _read_document(raw)
        return None if value is not None else _report_of(told).error
    except ValueError:
        return None


def _report_of(told: _Document) -> AttemptReport:
    """Return the report of a job whose result file holds no value."""
    if told.wish is not None:
        return _report_of_decision(told.wish)
    if told.refused is not None:
        return AttemptReport(Outcome.REFUSED, error=JobError(Outcome.REFUSED, told.refused))
    if told.error is None:
        raise ValueError("the result file holds no result, error or decision")
    error = told.error
    return AttemptReport(
        Outcome.ERROR,
        error=JobError(error.type, error.message, error.traceback),
        lineage=(error.type, *error.bases),
    )


def _report_of_decision(told: _Decision) -> AttemptReport:
    is_snooze = told.aim is NextStep.SNOOZE
    error = JobError(told.type or _DEFAULT_TYPES[told.aim], told.message, told.traceback)
    return AttemptReport(
        Outcome.SNOOZED if is_snooze else Outcome.ERROR,
        error=error if told.message or not is_snooze else None,
        decision=Decision(told.aim, told.after, told.until),
    )


def _read_document(raw: bytes) -> tuple[_Document, str | None]:
    """Return the content of a result file, and the JSON text of its value."""
    if not raw:
        raise ValueError("the process ended before the method returned")
    if len(raw) > MAX_DOCUMENT:
        raise ValueError(f"the result file is over the limit of {MAX_DOCUMENT} bytes")
    try:
        told = _decode_document(raw)
        value = None if told.ok is UNSET else bytes(told.ok).decode()
    except _UNDECODABLE as error:
        raise ValueError(f"the result file holds no result: {error}") from error
    problem = None if value is None else _problem_for_python(value)
    if problem is not None:
        raise ValueError(f"Python cannot read the result: {problem}")
    return told, value


def _problem_for_python(text: str) -> str | None:
    """Return why Python's json module, which every reader uses, refuses this JSON; None: it does not.

    It refuses integers with thousands of digits, and what is nested too deep.
    """
    try:
        json.loads(text)
    except (ValueError, RecursionError) as error:
        return str(error)
    return None


class _Placeholder(Struct, forbid_unknown_fields=True):
    job: int = msgspec.field(name="$result")


class _Error(JobError, frozen=True):
    bases: Annotated[tuple[str, ...], Meta(max_length=MAX_BASES)] = ()


class _Decision(Struct):
    aim: NextStep
    after: Duration | None = None
    until: Instant | None = None
    type: str | None = None
    message: str = ""
    traceback: str | None = None


class _Document(Struct):
    ok: Raw | UnsetType = UNSET
    error: _Error | None = None
    refused: str | None = None
    wish: _Decision | None = None


_decode_document = msgspec.json.Decoder(_Document).decode
_decode_placeholder = msgspec.json.Decoder(_Placeholder).decode
_decode_level = msgspec.json.Decoder(list[Raw] | dict[str, Raw]).decode

# MsgspecError alone is not enough: deep nesting and what is not Unicode raise errors of their own
_UNDECODABLE = (msgspec.MsgspecError, RecursionError, UnicodeError)
