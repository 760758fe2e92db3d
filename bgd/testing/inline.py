"""Inline: jobs that run in the test's own process, while they are handed over."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from msgspec.structs import replace

from bgd.client.session import failure_of
from bgd.client.transport import install_backend
from bgd.config import Config, load
from bgd.core.job import State
from bgd.functions import target_of
from bgd.testing.recorded import InlineJob, view_of
from bgd.testing.running import provide_helpers
from bgd.testing.stage import Stage


class InlineJobs:
    """The jobs that were handed over, the oldest first."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage

    @property
    def submitted(self) -> list[InlineJob]:
        """All of them."""
        return list(self._stage.jobs)

    def of(self, what: Callable[..., Any] | str) -> list[InlineJob]:
        """Return those of one function or target."""
        target = what if isinstance(what, str) else target_of(what)
        return [job for job in self._stage.jobs if job.target == target]

    def assert_submitted(self, what: Callable[..., Any] | str, *args: object, **kwargs: object) -> InlineJob:
        """Return the latest job of a function or target with just these arguments.

        Raises:
            AssertionError: there is none; it tells which there are.
        """
        wanted = json.loads(json.dumps([args, kwargs]))
        for job in reversed(self.of(what)):
            if [job.args, job.kwargs] == wanted:
                return job
        target = what if isinstance(what, str) else target_of(what)
        words = [*map(repr, args), *(f"{name}={value!r}" for name, value in kwargs.items())]
        others = "".join(f"\n  {job}" for job in self._stage.jobs) or " nothing"
        raise AssertionError(f"{target}({', '.join(words)}) was not submitted; what was:{others}")


@contextmanager
def inline(*, allowed: Sequence[str] | None = None, may_fail: bool = False) -> Iterator[InlineJobs]:
    """Run jobs in this process, in whatever way they are handed over, and record them.

    A job has run, once, when `submit` returns, in the caller's thread: whatever delays, dates, other jobs,
    holds and retries were asked for. It is found by its name, as a worker finds it; its arguments and its
    result go through JSON. In all threads, clients speak with this instead of with a daemon. Commands are
    refused, and so is all that takes a daemon.

    Args:
        allowed: as `[security] allowed_classes` of a daemon; None: everything that can be named.
        may_fail: without it, the first job that failed is raised at the end of the block, unless its result
            was asked for.

    Raises:
        JobFailed: a job did, and nobody asked for its result.
    """
    provide_helpers()
    stage = Stage(_config(allowed), allows_all=allowed is None)
    try:
        with install_backend(stage):
            yield InlineJobs(stage)
    finally:
        stage.end()
    for job in stage.jobs:
        if job.state is State.FAILED and not may_fail and job.id not in stage.asked_for:
            raise failure_of(view_of(job, stage.config.retry), job.error)


def _config(allowed: Sequence[str] | None) -> Config:
    """Return that of a daemon for which nothing is configured, but what it allows."""
    usual = load(environ={"HOME": _NOWHERE})
    security = replace(usual.security, allowed_classes=tuple(allowed or ()))
    return replace(usual, security=security, source=f"inline(allowed={list(allowed or ())})")


_NOWHERE = "/nonexistent"  # where no configuration is
