"""Fixtures for all tests."""

import compileall
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pexpect  # type: ignore[import-untyped]  # it has no types
import pytest
from hypothesis import settings

from setup import make_blocking_client

make_blocking_client()  # what follows imports it

from tests.support import DEADLINE, ROOT, WIDTH, Daemon, serving  # noqa: E402

settings.register_profile("short", max_examples=30, stateful_step_count=30, deadline=None, print_blob=True)
settings.register_profile(
    "long", parent=settings.get_profile("short"), max_examples=2000, stateful_step_count=60
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "short"))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="run the tests in tests/slow.txt, too")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave the slow tests out where only folders are named, as in `pytest tests/launcher`."""
    if config.option.slow or not all(Path(each).is_dir() for each in config.args):
        return
    slow = frozenset(Path(__file__).with_name("slow.txt").read_text().split())
    left_out = [item for item in items if item.nodeid.partition("[")[0] in slow]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item.nodeid.partition("[")[0] not in slow]


def pytest_configure(config: pytest.Config) -> None:
    for name in ("CLAUDE_CODE_SESSION_ID", "CODEX_THREAD_ID"):  # a coding agent may run the tests
        os.environ.pop(name, None)
    # The tests start Python thousands of times; PYTHONDONTWRITEBYTECODE would compile all of bgd each time.
    for package in ("bgd", "bgctl"):
        compileall.compile_dir(ROOT / package, quiet=2)
    config.addinivalue_line(
        "markers",
        "daemon(configuration, files, env): what the daemon of the fixtures `daemon` and `own_daemon` starts"
        " with; see tests.support.serving",
    )


def _serving(request: pytest.FixtureRequest) -> AbstractContextManager[Daemon]:
    marker = request.node.get_closest_marker("daemon")
    return serving(*marker.args, **marker.kwargs) if marker else serving()


@pytest.fixture(scope="module")
def daemon(request: pytest.FixtureRequest) -> Iterator[Daemon]:
    """A daemon in its own home, shared by the tests of one module, which sets it up by `pytestmark`."""
    with _serving(request) as running:
        yield running


@pytest.fixture
def own_daemon(request: pytest.FixtureRequest) -> Iterator[Daemon]:
    """A daemon for one test, which may kill and restart it."""
    with _serving(request) as running:
        yield running


@pytest.fixture
def home():
    """A home in which nothing runs; the daemon that the test starts there is stopped afterwards."""
    with tempfile.TemporaryDirectory(prefix="bgd-") as folder:
        empty = Daemon(Path(folder))
        yield empty
        empty.stop()


@pytest.fixture
def terminal(daemon: Daemon):
    """Start bgctl on a terminal; kill what still runs after the test."""
    children: list[pexpect.spawn] = []

    def start(*arguments: str, width: int = WIDTH, **env: str) -> pexpect.spawn:
        child = pexpect.spawn(
            sys.executable,
            ["-m", "bgctl", *arguments],
            env=daemon.env | env,
            cwd=str(daemon.folder),
            timeout=DEADLINE,
            dimensions=(24, width),
            encoding="utf-8",
        )
        children.append(child)
        return child

    yield start
    for child in children:
        child.close(force=True)
