"""How busy the machine is, and that no job starts meanwhile."""

from __future__ import annotations

import pytest

from bgd.core.explain import Cause
from bgd.daemon import machine
from bgd.daemon.machine import exceeded_limit
from bgd.wire.launching import Acknowledge, Launch
from tests.daemon.harness import command, configure, served
from tests.daemon.scripted_launcher import end
from tests.support import DEADLINE, serving

MEMINFO = "MemTotal:       16000000 kB\nMemFree:          100000 kB\nMemAvailable:    2000000 kB\n"


@pytest.mark.parametrize(
    ("max_load", "min_memory", "exceeded"),
    [
        (None, None, None),
        (3.6, 2_000_000_000, None),
        (3.5, None, (Cause.LOAD, "it is 3.50; jobs start below 3.5")),
        (
            4.0,
            3_000_000_000,
            (Cause.MEMORY, "2.05GB available; jobs start at 3GB"),
        ),
    ],
)
def test_the_kernel_says_how_busy_the_machine_is(tmp_path, max_load, min_memory, exceeded):
    (tmp_path / "loadavg").write_text("3.50 1.00 0.50 2/345 6789\n")
    (tmp_path / "meminfo").write_text(MEMINFO)

    assert exceeded_limit(max_load, min_memory, tmp_path) == exceeded


def test_a_machine_that_does_not_tell_its_memory_is_an_error(tmp_path):
    (tmp_path / "meminfo").write_text("MemTotal: 16000000 kB\n")

    with pytest.raises(OSError, match="has no line MemAvailable"):
        exceeded_limit(None, 1, tmp_path)


def test_no_job_starts_on_a_busy_machine_until_the_limit_is_gone():
    with serving("daemon.max_load = 0", {}) as daemon, daemon.client() as client:
        job = client.submit(["/bin/true"])

        [reason] = job.explain().reasons
        assert reason.cause == "load"
        assert "for the load of the machine: it is " in daemon.bgctl("show", str(job.id)).stdout
        daemon.configure('daemon.min_memory = "1000TB"')
        daemon.bgctl("reload")
        [reason] = job.explain().reasons
        assert reason.cause == "memory"
        daemon.configure("daemon.max_load = 1000000")
        daemon.bgctl("reload")
        assert job.wait(DEADLINE).state == "succeeded"
        client.pause()
        paused = client.submit(["/bin/true"])
        assert [reason.cause for reason in paused.explain().reasons] == ["pause"]  # nobody looks meanwhile
        client.resume()
        assert paused.wait(DEADLINE).state == "succeeded"
        # the next job has the daemon look again
        assert client.submit(["/bin/true"]).wait(DEADLINE).state == "succeeded"


async def test_the_machine_is_looked_at_only_while_a_job_is_queued(folder, launcher, monkeypatch):
    looks, busy = [], True

    def exceeded(*_):
        looks.append(busy)
        return (Cause.LOAD, "it is too high") if busy else None

    monkeypatch.setattr(machine, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr(machine, "exceeded_limit", exceeded)
    async with served(configure(folder, "slots = 1\nmax_load = 4"), launcher) as life:
        await life.submit(command(hold=True))
        assert looks == []
        job_id = await life.submit(command())
        assert set(looks) == {True}
        busy = False
        launch = await launcher.hear(Launch)  # a timer has it look again
        assert (launch.key, looks[-1]) == (life.key(job_id), False)
        count = len(looks)
        launcher.say(end(launch.key))
        await launcher.hear(Acknowledge)
        assert len(looks) == count  # nothing waits
