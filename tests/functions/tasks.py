"""Functions of an application that uses bgd."""

from __future__ import annotations

import asyncio
import functools
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import bgd


@bgd.job
def add(first: int, second: int = 2) -> int:
    return first + second


@bgd.job(queue="mail", retries=0, tags=["letter"])
def send(address: str, *, copies: int = 1) -> str:
    return f"{copies} for {address}"


@bgd.job
def copy(path: str, whole: bool | None = True, mode: str = "{0}") -> None:  # noqa: FBT001, FBT002 - a default
    raise NotImplementedError(path, whole, mode)


@bgd.job(retries=0)
def echo(value: object) -> object:
    return value


@bgd.job(retries=0)
def fail(message: str) -> None:
    raise LookupError(message)


@bgd.job(retries=0)
def told(cause_id: int, cause_name: str | None, cause_error: str | None = None, note: str = "") -> object:
    return [cause_id, cause_name, cause_error, note]


@bgd.job(retries=0)
def loaded() -> list[str]:
    return sorted(sys.modules)


@bgd.job
async def length(text: str) -> int:
    return len(text)


def doubled(function: Callable[[int], int]) -> Callable[[int], int]:
    @functools.wraps(function)
    def twice(number: int) -> int:
        return 2 * function(number)

    return twice


@bgd.job
@doubled
def next_one(number: int) -> int:
    return number + 1


@bgd.job(every="1h")
def needs(argument: str) -> str:
    return argument


class Report:
    def __init__(self) -> None:
        self.title = "made anew"

    @bgd.job
    def text(self, pages: int) -> str:
        return f"{self.title}, {pages} pages"

    @classmethod
    @bgd.job
    def name(cls, suffix: str) -> str:
        return cls.__name__ + suffix

    @staticmethod
    @bgd.job
    def size(pages: int) -> int:
        return 10 * pages


def square(number: int) -> int:
    return number * number


@bgd.job
def square_job(number: int) -> int:
    return square(number)


def refuse_fifties(number: int) -> int:
    if number % 50 == 0:
        raise ValueError("a round one")
    return number


def refuse_odd(number: int) -> int:
    if number % 2:
        raise ValueError(f"{number} is odd")
    return number


def wait_for(path: str) -> str:
    """Read from a pipe: a job that ends when the test writes to it."""
    return Path(path).read_text()


def process_id(_number: int = 0) -> int:
    return os.getpid()


@bgd.job
def _private() -> None: ...


def thread_id() -> int:
    return threading.get_ident()


def square_of_sum(first: int, second: int) -> int:
    return square(add.submit(first, second).result())


def a_set() -> set[int]:
    return {1}


alias = square


def leave(code: int) -> None:
    sys.exit(code)


def add_to_batch_and_fail(how: str) -> None:
    import bgd_job  # the worker provides it

    batch, job = bgd_job.batch(), bgd_job.current()
    assert batch is not None
    assert job is not None
    call = add.options(key=f"{batch.id}", key_for=600).s(1) if how == "key" else add.s(1)
    if how == "step":
        bgd_job.step("add", lambda: batch.add(call) and None)
    else:
        batch.add(call)
    if job.attempt < 3:
        raise ValueError("again")


def add_to_batch(count: int) -> int:
    import bgd_job  # the worker provides it

    batch = bgd_job.batch()
    assert batch is not None
    batch.add(*(add.s(number) for number in range(count)))
    found = bgd_job.batch()
    assert found is not None
    return found.counts["total"]


def snooze() -> None:
    import bgd_job  # the worker provides it

    raise bgd_job.Snooze("1m")


def halfway(*messages: str | None) -> None:
    import bgd_job  # the worker provides it

    for message in messages:
        bgd_job.progress(0.5 if message else None, message)


async def halfway_awaited(message: str) -> None:
    halfway(message)


async def stepwise(number: int) -> int:
    import bgd_job  # the worker provides it

    with bgd_job.step("rows") as step:
        step.set(number)
    return bgd_job.step("double", lambda: 2 * number)


def interrupt() -> None:
    raise KeyboardInterrupt


@bgd.job
def block(folder: str) -> None:
    """Clean up when it is stopped."""
    try:
        Path(folder, "begun").touch()
        threading.Event().wait(1000)
    finally:
        Path(folder, "ended").touch()


async def block_awaited(folder: str) -> None:
    begun, ended = Path(folder, "begun"), Path(folder, "ended")
    begun.touch()  # noqa: ASYNC240  nobody else waits for this loop
    try:
        await asyncio.sleep(1000)
    finally:
        ended.touch()  # noqa: ASYNC240


def run_on(folder: str) -> str:
    """Catch what stops it, in a thread whose calls are short."""
    import bgd_job

    Path(folder, "begun").touch()
    try:
        while True:
            threading.Event().wait(0.01)
    except bgd_job.Stopped as stopped:
        return type(stopped).__name__


def cancel_itself(job: int) -> None:
    bgd.Client("/nonexistent/bgd.sock").cancel([job])
