"""Results as arguments in the simulation, and the laws that they keep."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import Any

from msgspec.structs import replace

from bgd.core.job import FINAL, Move, Outcome, State
from bgd.core.scheduler import REASONS_OF_CANCEL, SUBMIT
from bgd.core.spec import JobSpec, Reference
from bgd.settings.config import Config
from bgd.wire.views import EventView
from tests.end_to_end.history import History

ENDS = {State.FAILED: "failed", State.CANCELLED: "was cancelled"}
REMOVED = "remove"


def with_class_jobs(config: Config) -> Config:
    security = replace(config.security, allowed_classes=("app.*",))
    return replace(config, security=security, retry=config.retry_commands)


def with_references(spec: JobSpec) -> JobSpec:
    """Return the command as a class job that gets the results of the jobs that have to succeed first.

    Some stay commands; their result is 0.
    """
    if spec.retries == 1:
        return spec
    arguments = {"args": [spec.argv, *({"$result": job} for job in spec.after)]}
    references = tuple(Reference(job, ("args", place)) for place, job in enumerate(spec.after, start=1))
    return replace(
        spec,
        argv=None,
        env=None,
        target="app:call",
        arguments=json.dumps(arguments),
        references=references,
    )


def result_of(job: int, attempt: int) -> list[int]:
    """Return what a class job of the simulation returns."""
    return [job, attempt]


class ReferenceLaws:
    """Checks that attempts get the latest results, and that jobs are kept while others need theirs.

    If one of its sources does not succeed, a job that waits for it is cancelled next, for that reason, unless
    a person cancels both at once. `given`: the results that each attempt got.
    """

    def __init__(self, history: History, given: Mapping[tuple[int, int], list[Any]]) -> None:
        self._history = history
        self._given = given
        self._sources = {
            job: [each.job for each in spec.references]
            for job, spec in history.specs.items()
            if spec.references
        }
        self._states: dict[int, State] = {}
        self._awaited: dict[int, set[int]] = {}  # by jobs that wait
        self._to_cancel: dict[int, tuple[str, float]] = {}  # why, and when
        self._results: defaultdict[int, list[Any]] = defaultdict(list)
        self._found: Counter[str] = Counter()

    def check(self) -> Counter[str]:
        """Check everything; return how often it could have been wrong."""
        for event in self._history.events:
            if event.job in self._sources:
                self._check_user(event)
            if event.what == REMOVED:
                users = [job for job in self._users(event.job) if self._states[job] not in FINAL]
                assert not users, f"job {event.job} was removed, and {users} need its result"
            else:
                self._states[event.job] = event.state
            if event.outcome is Outcome.SUCCEEDED:
                is_call = self._history.specs[event.job].target is not None
                self._results[event.job].append(result_of(event.job, event.attempt) if is_call else 0)
            if event.state in FINAL and event.what != REMOVED:
                self._source_ended(event)
        self._check_given()
        return self._found

    def _check_user(self, event: EventView) -> None:
        """Check what happened to a job that needs results."""
        job, sources = event.job, self._sources[event.job]
        due = None if event.what == "note" else self._to_cancel.pop(job, None)
        if due is not None:
            with_source = event.reason in REASONS_OF_CANCEL and event.at == due[1]
            is_told = str(event.reason).startswith(due[0]) or with_source
            assert is_told, f"{event}, and it should have been cancelled: {due}"
            self._found["cancelled for a source"] += not with_source
        is_new = event.what == SUBMIT or (self._states[job] in FINAL and event.state not in FINAL)
        if is_new:
            self._awaited[job] = {each for each in sources if self._states[each] is not State.SUCCEEDED}
            for source in sources:
                self._cancel_for(source, job, event.at)
        elif event.state in FINAL:
            self._awaited[job] = set()
        if event.what == Move.START and (given := self._given.get((job, event.attempt))) is not None:
            for source, result in zip(sources, given, strict=True):
                latest = self._results[source][-1:]
                is_later = result not in self._results[source]  # it was launched again with another launcher
                assert [result] == latest or is_later, f"{event} got {result} of {source}, and not {latest}"
                self._found["results given"] += 1

    def _source_ended(self, event: EventView) -> None:
        for job in self._users(event.job):
            if event.state is State.SUCCEEDED:
                self._awaited[job].discard(event.job)
            else:
                self._cancel_for(event.job, job, event.at)

    def _cancel_for(self, source: int, job: int, at: float) -> None:
        if source in self._awaited[job] and (end := ENDS.get(self._states[source])) is not None:
            self._to_cancel.setdefault(job, (f"job {source}, which had to succeed first, {end}", at))

    def _users(self, source: int) -> list[int]:
        """Return the jobs so far that refer to the result of a job."""
        return [job for job, sources in self._sources.items() if source in sources and job in self._states]

    def _check_given(self) -> None:
        """Check that every result that was given is one that was returned."""
        for (job, attempt), results in self._given.items():
            for source, result in zip(self._sources.get(job, ()), results, strict=True):
                assert result in self._results[source], f"attempt {attempt} of job {job} got {result}"
