"""What the launcher's tests start with."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.launcher.host import Host, Supervisor


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    """A host on which no launcher runs yet; what is started there is over after the test."""
    host = Host(tmp_path)
    yield host
    host.clear_up()
    assert "Traceback" not in host.said, host.said


@pytest.fixture
def supervisor(host: Host) -> Supervisor:
    """The master of a launcher that has just started."""
    host.start()
    return host.supervise()
