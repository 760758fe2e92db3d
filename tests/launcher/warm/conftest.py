from __future__ import annotations

import pytest

from tests.launcher.host import Host, Supervisor
from tests.launcher.warm.calls import FORK, SPAWN, Calls


@pytest.fixture(params=[FORK, SPAWN])
def every(request: pytest.FixtureRequest, host: Host, supervisor: Supervisor) -> Calls:
    """Class jobs in each isolation."""
    return Calls(host, supervisor, request.param)


@pytest.fixture
def forked(host: Host, supervisor: Supervisor) -> Calls:
    return Calls(host, supervisor, FORK)
