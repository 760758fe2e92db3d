"""Steps of class jobs, in every isolation, while the daemon is down, and as people see them."""

from __future__ import annotations

import pytest

from bgd import JobFailed, State
from tests.support import DEADLINE, wait_until

MODULE = """
import asyncio, os

import bgd_job


def note(text):
    with open(os.environ["HOME"] + "/notes", "a") as file:
        print(text, file=file)
    return [text]


async def note_later(text):
    await asyncio.sleep(0)
    return note(text)


def everything(name):
    return asyncio.run(all_of(name))


async def all_of(name):
    first = bgd_job.step("first", note, f"{name} first")
    with bgd_job.step("rows") as step:
        for row in range((step.cursor or 0) + 1, 4):
            note(f"{name} row {row}")
            step.set(row)
    both = await asyncio.gather(*(bgd_job.step(each, note_later, f"{name} {each}") for each in "ab"))
    if bgd_job.current().attempt == 1:
        raise bgd_job.Retry(after=0)
    return [first, step.cursor, both]


def sockets():
    bgd_job.step("one", note, "one")
    return os.getpid()


def open_sockets():
    links = []
    for fd in os.listdir("/proc/self/fd"):
        try:
            links.append(os.readlink(f"/proc/self/fd/{fd}"))
        except FileNotFoundError:  # that of the listing
            pass
    return os.getpid(), sum(link.startswith("socket:") for link in links)


def in_a_child():
    bgd_job.step("own", note, "own")
    child = os.fork()
    if not child:
        try:
            bgd_job.step("of the child", note, "of the child")
        except bgd_job.Fail as error:
            note(f"refused: {error}")
        os._exit(0)
    os.waitpid(child, 0)
    return bgd_job.step("again", note, "again")


def wait_for_daemon():
    bgd_job.step("zero", note, "begun")
    os.mkfifo("gate")
    with open("gate"):
        pass
    try:
        return bgd_job.step("one", note, "while it was down")
    except bgd_job.TimedOut:
        note("out of time")
        raise


async def wait_for_daemon_later():
    bgd_job.step("zero", note, "begun")
    os.mkfifo("gate")
    with open("gate"):
        pass
    try:
        await asyncio.wait_for(bgd_job.step("one", note_later, "while it was down"), 0.2)
    except asyncio.TimeoutError:
        note("gave up")
    return "done"
"""
CONFIGURATION = """
[security]
allowed_classes = ["work.*"]
[python]
path = ["{folder}"]
[daemon]
slots = 4
"""

pytestmark = pytest.mark.daemon(CONFIGURATION, {"work.py": MODULE})


def notes(daemon) -> list[str]:
    file = daemon.folder / "notes"
    return file.read_text().splitlines() if file.exists() else []


@pytest.mark.parametrize("isolation", ["fork", "spawn", "reuse"])
def test_steps_that_are_done_do_not_run_again(daemon, isolation):
    with daemon.client() as client:
        job = client.call("work:everything", [isolation], retries=1, isolation=isolation)
        result = job.result(DEADLINE)
        seen = [(step.name, step.state) for step in job.steps()]

    assert result == [[f"{isolation} first"], 3, [[f"{isolation} a"], [f"{isolation} b"]]]
    own = [line.removeprefix(f"{isolation} ") for line in notes(daemon) if line.startswith(isolation)]
    assert own == ["first", "row 1", "row 2", "row 3", "a", "b"]
    assert seen == [(name, "done") for name in ("first", "rows", "a", "b")]
    shown = daemon.shown(str(job.id))["steps"]
    assert [(each["name"], each["state"]) for each in shown] == seen
    assert all(each.keys() == {"name", "state", "at", "seconds"} for each in shown)
    text = daemon.bgctl("show", str(job.id)).stdout
    assert "\nSteps: 4\n  step 1     first (done, " in text


def test_a_reused_worker_keeps_no_connection_of_a_job(daemon):
    with daemon.client() as client:
        before = client.call("work:open_sockets", isolation="reuse").result(DEADLINE)
        assert client.call("work:sockets", isolation="reuse").result(DEADLINE) == before[0]
        assert client.call("work:open_sockets", isolation="reuse").result(DEADLINE) == before


def test_another_process_of_a_job_is_refused_and_the_job_goes_on(daemon):
    with daemon.client() as client:
        job = client.call("work:in_a_child")

        assert job.result(DEADLINE) == ["again"]
        assert [step.name for step in job.steps()] == ["own", "again"]
    [refusal] = [line for line in notes(daemon) if line.startswith("refused")]
    assert "call bgd_job.step in one process of a job" in refusal


@pytest.mark.parametrize("name", ["wait_for_daemon", "wait_for_daemon_later"])
def test_a_step_waits_for_a_daemon_that_is_down(own_daemon, name, tmp_path):
    with own_daemon.client() as client:
        job = client.call(f"work:{name}", cwd=str(tmp_path))
        wait_until((tmp_path / "gate").exists)
        own_daemon.process.kill()
        own_daemon.process.wait(DEADLINE)
    (tmp_path / "gate").open("w").close()
    last = "while it was down" if name == "wait_for_daemon" else "gave up"
    wait_until(lambda: notes(own_daemon)[-1] == last)
    own_daemon.start()

    with own_daemon.client() as client:
        ended = client.job(job.id).wait(DEADLINE)
        assert ended.state is State.SUCCEEDED
        steps = [step.name for step in ended.steps()]
    assert steps == (["zero", "one"] if name == "wait_for_daemon" else ["zero"])


def test_the_time_limit_ends_a_step_that_waits(own_daemon, tmp_path):
    with own_daemon.client() as client:
        job = client.call("work:wait_for_daemon", cwd=str(tmp_path), timeout=1.0, retries=0)
        wait_until((tmp_path / "gate").exists)
        own_daemon.process.kill()
        own_daemon.process.wait(DEADLINE)
    (tmp_path / "gate").open("w").close()
    wait_until(lambda: notes(own_daemon)[-1] == "out of time")
    own_daemon.start()

    with own_daemon.client() as client, pytest.raises(JobFailed) as raised:
        client.job(job.id).result(DEADLINE)
    assert raised.value.outcome == "timeout"
