"""The executor: what takes a `concurrent.futures.Executor` can hand its calls to the daemon."""

from __future__ import annotations

from bgd.executor.executor import Executor
from bgd.executor.futures import JobFuture

__all__ = ["Executor", "JobFuture"]
