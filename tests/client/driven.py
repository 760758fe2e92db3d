"""An AsyncClient that is called like a Client, so that both pass the same tests."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncGenerator, Callable, Generator
from typing import Any, Self

from bgd import AsyncJob
from bgd.client.batch import BatchSender


class Driven:
    """A client, a job or a sender whose awaitables are awaited on one event loop."""

    def __init__(self, runner: asyncio.Runner, thing: Any) -> None:
        self._runner = runner
        self._thing = thing

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._thing, name)
        return self._called(value) if inspect.ismethod(value) else value

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _called(self, method: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *args, **kwargs: self._result(method(*args, **kwargs))

    def _result(self, value: Any) -> Any:
        if inspect.iscoroutine(value):
            return self._result(self._runner.run(value))
        if isinstance(value, AsyncGenerator):
            return self._steps(value)
        if isinstance(value, list):
            return [self._result(each) for each in value]
        return Driven(self._runner, value) if isinstance(value, AsyncJob | BatchSender) else value

    def _steps(self, values: AsyncGenerator[Any, None]) -> Generator[Any, None, None]:
        async def step() -> Any:
            return await anext(values)

        try:
            while True:
                yield self._result(self._runner.run(step()))
        except StopAsyncIteration:
            return
        finally:
            self._runner.run(values.aclose())
