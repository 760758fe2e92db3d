"""Fixtures for pytest. A project gets them by `pytest_plugins = ["bgd.testing.pytest"]`."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence

import pytest

from bgd.testing.inline import InlineJobs, hide_frames, inline
from bgd.testing.private import PrivateDaemon, Settings, private_daemon


@pytest.fixture
def bgd_inline() -> Iterator[InlineJobs]:
    """Run jobs while they are submitted: see `bgd.testing.inline`."""
    with inline(may_fail=True) as jobs:
        yield jobs


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, None, None]:
    """Fail a test of `bgd_inline` if a job failed unseen; one that fails itself is reported once."""
    yield
    jobs = getattr(item, "funcargs", {}).get("bgd_inline")
    if isinstance(jobs, InlineJobs):
        jobs.check()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_makereport() -> None:
    """Show the line of the test, and no frames of bgd below it."""
    hide_frames()


@pytest.fixture(scope="module")
def bgd_allowed() -> Sequence[str]:
    """What jobs of `bgd_daemon` may call. A project overrides this by a fixture of the same name."""
    return ()


@pytest.fixture(scope="module")
def bgd_settings() -> Settings:
    """The rest of the configuration of `bgd_daemon`. A project may override this too."""
    return {}


@pytest.fixture(scope="module")
def bgd_daemon(bgd_allowed: Sequence[str], bgd_settings: Settings) -> Iterator[PrivateDaemon]:
    """Run a private daemon for the tests of one module: see `bgd.testing.private_daemon`."""
    with private_daemon(allowed=bgd_allowed, settings=bgd_settings) as daemon:
        yield daemon
