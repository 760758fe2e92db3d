"""Fixtures of the daemon's tests, which all run on uvloop like the daemon."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
import uvloop

from bgd.daemon.storage.store import Store
from bgd.settings.config import Config
from tests.daemon.harness import configure
from tests.daemon.schedule_lives import FakeClocks, LifeContext
from tests.daemon.scripted_launcher import ScriptedLauncher


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], uvloop.Loop]]:
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder with a short name: a socket's path may have 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="bgd-") as path:
        yield Path(path)


@pytest.fixture
def path(tmp_path: Path) -> str:
    """The path of a database that does not exist yet."""
    return str(tmp_path / "bgd.db")


@pytest.fixture
async def store(path: str) -> AsyncIterator[Store]:
    opened = await Store.open(path)
    yield opened
    await opened.close()


@pytest.fixture
def config(folder: Path) -> Config:
    return configure(folder)


@pytest.fixture
async def launcher(config: Config) -> AsyncIterator[ScriptedLauncher]:
    scripted = ScriptedLauncher(config.daemon.state_dir)
    await scripted.start()
    yield scripted
    await scripted.close()


@pytest.fixture
def clocks() -> FakeClocks:
    return FakeClocks()


@pytest.fixture
def lives(config: Config, launcher: ScriptedLauncher, clocks: FakeClocks) -> LifeContext:
    return LifeContext(config, launcher, clocks)
