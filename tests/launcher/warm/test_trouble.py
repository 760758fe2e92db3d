"""What goes wrong between the launcher and one worker."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import shutil
from pathlib import Path

import pytest

from bgd.core.job import Outcome
from bgd.core.spec import Isolation
from bgd.launcher.__main__ import _context
from bgd.launcher.context import Context
from bgd.launcher.journal import JournalContents
from bgd.launcher.problems import CannotStart
from bgd.launcher.warm.channel import _MAX_PACKET, WORKER_PROTOCOL
from bgd.launcher.warm.worker import WorkerPool
from bgd.settings.startup import open_descriptors
from bgd.wire.launching import WarmStart
from bgd.worker import WORKER, channel
from tests.launcher.host import Host, Supervisor, launch_of, needs_strace
from tests.launcher.warm.calls import FORK, Calls, value_of


def start(*_: object) -> None:
    raise LookupError("what nobody expected")


async def test_it_ends_no_other_job(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog):
    monkeypatch.setattr("bgd.launcher.warm.worker.start_process", start)
    async with asyncio.TaskGroup() as group:
        context: Context = _context(group, tmp_path, tmp_path, JournalContents())
        workers = WorkerPool(context)
        asked: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        with pytest.raises(CannotStart, match="an error in the launcher: LookupError: what nobody expected"):
            await workers.lease(launch_of("python"), WarmStart(), asked)

        assert caplog.messages == ["a warm worker failed"]
        assert caplog.records[0].levelno == logging.ERROR
    context.deadlines.close()


async def test_a_shortage_while_it_is_started_leaves_no_descriptor(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    def refuse(*_: object) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    async with asyncio.TaskGroup() as group:
        context = _context(group, tmp_path, tmp_path, JournalContents())
        workers = WorkerPool(context)
        asked: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        before = open_descriptors(os.getpid())

        for call in "os.truncate", "mmap.mmap", "socket.socketpair":
            with monkeypatch.context() as patch:
                patch.setattr(f"bgd.launcher.warm.channel.{call}", refuse)
                with pytest.raises(OSError, match="Too many open files"):
                    await workers.lease(launch_of("python"), WarmStart(isolation=Isolation.REUSE), asked)

        assert open_descriptors(os.getpid()) == before
    context.deadlines.close()


@needs_strace
def test_a_job_whose_process_cannot_be_watched_at_once_is_watched_later(
    forked: Calls, tamper, tmp_path: Path
):
    starts = tmp_path / "starts"
    starts.touch()
    forked.write(
        "work", f"def note():\n    with open({str(starts)!r}, 'a') as file:\n        file.write('x')\n"
    )
    forked.value("work:note")  # its worker is there

    tamper("epoll_ctl", "error=ENOSPC:when=2")  # the first is the output's
    ended = forked.run("work:note")

    assert ended.outcome is Outcome.SUCCEEDED
    assert starts.read_text() == "xx"


@needs_strace
def test_a_message_that_the_kernel_has_no_room_for_is_sent_a_moment_later(forked: Calls, tamper):
    """Without the retry, the launcher would kill the worker, after minutes."""
    forked.write("work", "def nothing(): pass\n")
    forked.value("work:nothing")  # its worker is there

    tamper("sendmsg", "error=ENOBUFS:when=1..3")

    assert forked.run("work:nothing").outcome is Outcome.SUCCEEDED


def test_both_ends_of_the_channel_to_a_worker_have_the_same_protocol_and_limit():
    assert (channel.PROTOCOL, channel.MAX_PACKET) == (WORKER_PROTOCOL, _MAX_PACKET)


def test_a_worker_of_another_protocol_leaves_the_jobs_to_fresh_interpreters(host, supervisor, tmp_path):
    """This is what an upgrade under a running launcher looks like."""
    calls = calls_of_a_copy(host, supervisor, tmp_path)
    upgrade(calls)

    end = calls.run("job:parent")

    assert value_of(end) == host.launchers[-1].pid
    assert "bgd was upgraded" in calls.output(end)


def test_a_worker_that_runs_when_its_files_are_replaced_goes_on_with_what_it_has_read(
    host, supervisor, tmp_path
):
    calls = calls_of_a_copy(host, supervisor, tmp_path)
    before = calls.value("job:parent")

    upgrade(calls)

    assert calls.value("job:parent") == before != host.launchers[-1].pid


def calls_of_a_copy(host: Host, supervisor: Supervisor, folder: Path) -> Calls:
    """Return calls by a worker whose files a test may change."""
    shutil.copytree(WORKER.parent, folder / "worker")
    shutil.copytree(WORKER.parents[1] / "inside", folder / "inside")
    calls = Calls(host, supervisor, FORK)
    calls.write("job", "import os\ndef parent(): return os.getppid()\n")
    calls.worker = folder / "worker" / WORKER.name
    return calls


def upgrade(calls: Calls) -> None:
    """Replace the worker with one that speaks another protocol."""
    file = calls.worker.with_name("channel.py")
    this = f"PROTOCOL = {WORKER_PROTOCOL} "
    text = file.read_text()
    assert this in text
    file.write_text(text.replace(this, f"PROTOCOL = {WORKER_PROTOCOL + 1} "))
