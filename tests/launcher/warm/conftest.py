from __future__ import annotations

import pytest

from tests.launcher.host import Host, Supervisor
from tests.launcher.warm.calls import FORK, REUSE, SPAWN, Calls


@pytest.fixture(params=[FORK, SPAWN, REUSE])
def every(request: pytest.FixtureRequest, host: Host, supervisor: Supervisor) -> Calls:
    """Class jobs in each isolation."""
    return Calls(host, supervisor, request.param)


@pytest.fixture
def forked(host: Host, supervisor: Supervisor) -> Calls:
    return Calls(host, supervisor, FORK)


@pytest.fixture
def reused(host: Host, supervisor: Supervisor) -> Calls:
    return Calls(host, supervisor, REUSE)
