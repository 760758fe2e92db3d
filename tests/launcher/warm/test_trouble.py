"""An error of the launcher's own about one worker."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import pytest

from bgd.launcher.__main__ import _tools
from bgd.launcher.problems import CannotStart
from bgd.launcher.records import Recollection
from bgd.launcher.tools import Tools
from bgd.launcher.warm.workers import Workers
from bgd.wire.launching import Warm
from tests.launcher.host import launch_of


async def start(*_: object) -> None:
    raise LookupError("what nobody expected")


async def test_it_ends_no_other_job(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog):
    monkeypatch.setattr("bgd.launcher.warm.worker.start", start)
    async with asyncio.TaskGroup() as group:
        tools: Tools = _tools(group, tmp_path, tmp_path, Recollection())
        workers = Workers(tools)
        asked: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        with pytest.raises(CannotStart, match="its launcher failed it: LookupError: what nobody expected"):
            await workers.lease(launch_of("python"), Warm(), asked)

        assert caplog.messages == ["a warm worker failed"]
        assert caplog.records[0].levelno == logging.ERROR
    tools.deadlines.close()
