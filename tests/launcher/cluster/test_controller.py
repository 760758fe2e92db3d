"""Requests to Slurm's controller are few, and spread so that it takes all of them at once."""

from __future__ import annotations

import asyncio
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest

from bgd.launcher.cluster import controller
from bgd.launcher.cluster.controller import Controller, excluding
from bgd.wire.launching import PilotStart, SlurmStart

PILOT = PilotStart(executor="pilots", nodes=1, options=[], keep_idle=600.0, cpus=1, memory=1)


@pytest.fixture
def waits_of(monkeypatch):
    """Return a function from the start times of programs to their waits, at two requests a second."""
    monkeypatch.setattr(controller, "elapsed", lambda: 0.0)
    waits: list[float] = []

    async def wait(seconds: float) -> None:
        waits.append(seconds)

    context: Any = SimpleNamespace(deadlines=SimpleNamespace(wait=wait))
    limited = Controller(
        context, SlurmStart(folder="/shared", python="python3", requests_per_second=2.0, pilot=PILOT)
    )

    async def ask(*times: float) -> list[float]:
        for at in times:
            monkeypatch.setattr(controller, "elapsed", partial(float, at))
            await limited.admit()
        return waits

    return ask


async def test_a_burst_goes_at_once_and_then_requests_wait_for_the_rate(waits_of):
    waits = await waits_of(*[0.0] * 12, 1.0, 10.0)

    assert waits == [0.0] * 10 + [1.0, 2.0, 2.0, 0.0]


async def test_a_long_silence_allows_no_larger_burst(waits_of):
    assert await waits_of(*[1e6] * 12) == [0.0] * 10 + [1.0, 2.0]


@pytest.fixture
async def asked():
    """Yield a controller, its answer to squeue (None: it gives none), and what was run, in order."""
    ran: list[tuple[str, ...]] = []
    answer: dict[str, str | None] = {"squeue": ""}

    async def run(*argv: str, with_errors: bool = False) -> tuple[int, bytes]:  # noqa: ARG001 - as the original
        ran.append(argv)
        text = answer.get(argv[0], "")
        return (1, b"") if text is None else (0, text.encode())

    async def wait(_seconds: float) -> None:
        await asyncio.sleep(0)

    async with asyncio.TaskGroup() as group:
        deadlines = SimpleNamespace(wait=wait)
        context: Any = SimpleNamespace(
            group=group, deadlines=deadlines, begin=lambda action, _: group.create_task(action)
        )
        asked = Controller(context, SlurmStart(folder="/shared", python="python3", pilot=PILOT))
        asked.run = run  # type: ignore[method-assign, assignment]  # which would run Slurm's programs
        yield asked, answer, ran


async def test_all_who_ask_at_a_time_share_an_answer(asked):
    controller, answer, ran = asked
    answer["squeue"] = "7|a|PENDING|main|2:00|2:00|Resources\n8|b|RUNNING|main|2:00|1:30|None\nnonsense\n"

    first, second = await asyncio.gather(controller.jobs(), controller.jobs())

    assert first == second
    assert len(ran) == 1
    assert {name: (job.number, job.state, controller.why_pending(job)) for name, job in first.items()} == {
        "a": ("7", "PENDING", "Resources"),
        "b": ("8", "RUNNING", None),
    }
    assert (first["b"].limit, first["b"].ends_at) == (120.0, controller.asked_at + 89.0)


async def test_a_job_that_lacks_nodes_is_told_what_their_admins_say(asked):
    controller, answer, ran = asked
    lacks = "ReqNodeNotAvail, UnavailableNodes:n[1-5]"
    answer["squeue"] = f"7|bgd-a|PENDING|main|2:00|2:00|{lacks}\n8|x|RUNNING|high|2:00|2:00|None\n"
    answer["sinfo"] = "n1|drained*|disk | fan\nn1|drained*|disk | fan\nn2|maint|none\nnonsense\n"

    jobs = await controller.jobs()

    assert [argv[0] for argv in ran] == ["squeue", "sinfo"]
    assert "--partition=main" in ran[1]
    assert controller.why_pending(jobs["bgd-a"]) == (
        f"{lacks}; maintenance of node n1 (drained*): disk | fan; maintenance of node n2 (maint): none"
    )
    await controller.jobs()
    assert [argv[0] for argv in ran] == ["squeue", "sinfo", "squeue"]  # nodes are asked for less often


async def test_fifty_cancels_are_one_request_by_number(asked):
    controller, answer, ran = asked
    answer["squeue"] = "".join(
        f"{number}|job{number}|PENDING|main|2:00|2:00|Priority\n" for number in range(60)
    )

    await asyncio.gather(*(controller.cancel(f"job{number}") for number in range(50)))

    assert [argv[0] for argv in ran] == ["squeue", "scancel"]
    assert sorted(ran[1][3:], key=int) == [str(number) for number in range(50)]


async def test_a_signal_for_the_steps_of_a_job_leaves_out_how_it_is_reached(asked):
    controller, answer, ran = asked
    answer["squeue"] = (
        "7|a|RUNNING|main|2:00|1:30|None\n7.batch|batch|x\n7.0|bgd-relay|x\n7.1|one|x\n71.2|two|x\n"
    )

    await controller.signal_steps("a", 19, "bgd-relay")

    assert ran[-1] == ("scancel", "--quiet", "--signal=19", "7.1")


@pytest.mark.parametrize(
    "asked", [["--exclude=n7,n8"], ["--exclud=n7,n8"], ["--exclude", "n7,n8"], ["-x", "n7,n8"], ["-xn7,n8"]]
)
def test_nodes_that_fail_are_left_out_besides_those_that_are_asked_for_in_any_way_of_sbatch(asked):
    arguments = ["--gres=gpu:1", *asked, "--exclusive", "--comment=-x n6"]

    assert excluding(["n1"], arguments) == [*arguments, "--exclude=n7,n8,n1"]
    assert excluding([], arguments) == arguments
