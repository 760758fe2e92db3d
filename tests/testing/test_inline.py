"""`inline()`: every way to submit a job runs it here, and mistakes fail as with a daemon."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import threading
from concurrent.futures import wait

import pytest

from bgd import (
    PREVIOUS,
    AsyncClient,
    Client,
    DaemonUnreachable,
    JobFailed,
    NoSuchJob,
    NotAllowed,
    Outcome,
    Refused,
    State,
    run_background_job,
)
from bgd.client.specs import ResultReference
from bgd.executor import Executor
from bgd.testing import inline
from bgd.wire.views import Progress
from tests.functions import scheduled, tasks
from tests.support import DEADLINE, wait_until

TASKS = "tests.functions.tasks"


@pytest.fixture
def jobs():
    with inline() as running:
        yield running


# --- ways to submit ---------------------------------------------------------------------------------------


def test_a_function_runs_where_it_is_submitted(jobs):
    assert tasks.add.submit(1, second=4).result() == 5
    assert jobs.submitted[0].result == 5


def test_a_result_is_the_argument_of_another_job(jobs):
    first = tasks.add.submit(1, second=4)

    assert tasks.add.submit(first.ref, second=first.ref).result() == 10
    assert jobs.submitted[1].args == [{"$result": 1}]


@pytest.mark.usefixtures("jobs")
def test_a_job_of_a_chain_gets_the_result_of_the_one_before():
    with Client() as client:
        _, second, third = client.chain(
            tasks.add.s(1), tasks.add.s(PREVIOUS, 10), tasks.echo.s({"all": [PREVIOUS]})
        )

        assert (second.result(), third.result()) == (13, {"all": [13]})


def test_a_job_is_cancelled_if_a_result_that_it_needs_is_missing():
    with inline(may_fail=True):
        failed = tasks.fail.submit("no")

        job = tasks.echo.submit(failed)

        with pytest.raises(JobFailed, match="job 1, which had to succeed first, failed"):
            job.result()
        assert job.refresh().state == "cancelled"


def test_results_that_are_too_long_together_fail_the_job():
    with inline(may_fail=True):
        long = tasks.echo.submit("x" * 600_000)

        with pytest.raises(JobFailed, match="the arguments are longer than 1000000 bytes"):
            tasks.echo.submit([long, long]).result()
        with pytest.raises(NoSuchJob):
            tasks.echo.submit(ResultReference(99))


def test_run_background_job_runs_it(jobs):
    job = run_background_job(f"{TASKS}.Report", "text", [3], priority=5)

    assert job.result() == "made anew, 3 pages"
    assert (job.state, job.priority, job.queue, job.retries, job.attempt) == ("succeeded", 5, "default", 3, 1)
    assert jobs.submitted[0].spec.priority == 5


@pytest.mark.usefixtures("jobs")
def test_a_client_runs_it_in_the_callers_own_process_and_thread():
    client = Client("/nonexistent/bgd.sock")

    assert client.call(f"{TASKS}:process_id").result() == os.getpid()
    assert client.call(f"{TASKS}:thread_id").result() == threading.get_ident()


@pytest.mark.usefixtures("jobs")
def test_many_jobs_run_in_order():
    with Client() as client:
        handed = client.submit_many([tasks.add.spec(1), tasks.add.spec(2), tasks.length.spec("word")])

        assert [job.id for job in client.as_finished(handed)] == [1, 2, 3]
        assert [client.result(job) for job in handed] == [3, 4, 4]


def test_the_rest_of_a_chain_does_not_run_after_a_failure(jobs):
    with Client() as client:
        first, failed, rest = client.chain(tasks.add.s(1), tasks.fail.s("x"), tasks.add.s(2))

        assert (first.result(), rest.state) == (3, "cancelled")
        with pytest.raises(JobFailed):
            failed.result()
    assert jobs.submitted[2].result is None


@pytest.mark.usefixtures("jobs")
async def test_an_async_client_runs_it_while_its_loop_runs_on():
    async with AsyncClient() as client:
        job = await client.call(f"{TASKS}:length", ["word"])

        assert await job.result() == 4
        assert (await client.job()).id == job.id
    assert await (await tasks.length.submit_async("word")).result() == 4


@pytest.mark.usefixtures("jobs")
async def test_a_blocking_client_runs_coroutines_under_a_running_loop():
    assert tasks.length.submit("word").result() == 4


@pytest.mark.usefixtures("jobs")
def test_an_executor_runs_it():
    with Executor() as executor:
        futures = [executor.submit(tasks.square, number) for number in range(3)]

        assert wait(futures, DEADLINE).done == set(futures)
        assert [future.result() for future in futures] == [0, 1, 4]
        assert list(executor.map(tasks.square, range(100))) == [number**2 for number in range(100)]
        assert isinstance(executor.submit(tasks.fail, "why").exception(DEADLINE), JobFailed)


def test_a_client_that_was_connected_before_runs_jobs_inline_too(daemon):
    with daemon.client() as client:
        last = client.last_event()
        with inline():
            assert client.call(f"{TASKS}:square", [3]).result() == 9
        with pytest.raises(NotAllowed):
            client.call(f"{TASKS}:square", [3])
        assert client.last_event() == last


def test_a_job_may_submit_another(jobs):
    with Client() as client:
        assert client.call(f"{TASKS}:square_of_sum", [1, 2]).result() == 9
    assert [job.target for job in jobs.submitted] == [f"{TASKS}:square_of_sum", f"{TASKS}:add"]


@pytest.mark.usefixtures("jobs")
def test_a_wait_in_another_thread_sees_the_end(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    results = []
    client = Client()
    started = threading.Event()

    def look_on() -> None:
        for event in client.events(0):
            if event.state is State.RUNNING:
                started.set()
                results.append(client.result(event.job))
                return

    watcher = threading.Thread(target=look_on)
    watcher.start()
    runner = threading.Thread(target=client.call, args=(f"{TASKS}:wait_for", [str(pipe)]))
    runner.start()
    assert started.wait(DEADLINE)
    pipe.write_text("written")
    watcher.join(DEADLINE)
    runner.join(DEADLINE)

    assert results == ["written"]


# --- the checks ---------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("jobs")
def test_arguments_and_results_go_through_json():
    assert tasks.echo.submit((1, (2,))).result() == [1, [2]]
    with pytest.raises(JobFailed, match="the result is not JSON"):
        Client().call(f"{TASKS}:a_set").result()
    with pytest.raises(TypeError, match="JSON"):
        tasks.echo.submit({1, 2})


@pytest.mark.parametrize(
    ("target", "error"),
    [
        ("os:system", "os:system is another name of posix:system"),
        (f"{TASKS}:Path", "is a class: name a method too"),
        (f"{TASKS}:alias", "is another name of .*:square"),
        (f"{TASKS}:nothing", "has no 'nothing'"),
        ("tests.functions.missing:run", "No module named"),
    ],
)
@pytest.mark.usefixtures("jobs")
def test_a_target_is_found_only_as_a_worker_finds_it(target, error):
    with pytest.raises(JobFailed, match=error):
        Client().call(target, check=False).result()


def test_an_impossible_target_is_refused(jobs):
    with pytest.raises(Refused, match="do not begin with an underscore"):
        Client().call(f"{TASKS}:_private")
    with pytest.raises(Refused, match=r"must be package\.module"):
        Client().call("no target")
    assert jobs.submitted == []


def test_only_allowed_targets_run():
    with inline(allowed=[f"{TASKS}.square"]) as jobs:
        assert Client().call(f"{TASKS}:square", [3]).result() == 9
        with pytest.raises(
            NotAllowed, match=rf"add is not in inline\(allowed=.*\): add '{TASKS}\.add' there$"
        ):
            tasks.add.submit(1)
        with pytest.raises(NotAllowed):
            Executor().submit(tasks.add, 1)
        assert [job.target for job in jobs.submitted] == [f"{TASKS}:square"]


def test_an_inherited_method_is_refused_as_by_a_daemon(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "inheriting.py").write_text("import json\nclass Report(json.JSONDecoder): pass\n")
    target = "inheriting:Report.decode"

    with inline():
        assert Client().call(target, ["[1]"]).result() == [1]
    with inline(allowed=["inheriting.Report", f"{TASKS}.square"]) as jobs:
        told = r"Report\.decode is inherited from json\.decoder\.JSONDecoder, which is not in"
        with pytest.raises(JobFailed, match=told):
            Client().call(target, ["[1]"]).result()
        assert jobs.submitted[0].outcome is Outcome.REFUSED
    with inline(allowed=["inheriting.Report.decode"]):
        assert asyncio.run(awaited(target, ["[1]"])) == [1]


def test_what_a_class_keeps_is_refused_as_by_a_daemon(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "keeping.py").write_text(
        "import bgd, functools, sqlite3\n"
        "class Report:\n"
        "    execute = sqlite3.connect(':memory:', check_same_thread=False).execute\n"
        "    @bgd.job\n"
        "    @functools.cache\n"
        "    def run(self): return 'own'\n"
    )
    with inline(allowed=["keeping.Report"], may_fail=True) as jobs, Client() as client:
        assert client.call("keeping:Report.run").result() == "own"
        with pytest.raises(JobFailed, match="not a function with code of its own"):
            client.call("keeping:Report.execute", ["select 1"]).result()
        assert jobs.submitted[-1].outcome is Outcome.REFUSED


async def awaited(target: str, args: list[str]) -> object:
    async with AsyncClient() as client:
        job = await client.call(target, args)
        return await job.result()


def test_all_or_none_of_a_batch_run():
    with inline(allowed=[f"{TASKS}.square"]) as jobs:
        with pytest.raises(NotAllowed):
            Client().submit_many([{"target": f"{TASKS}:square", "args": [3]}, tasks.add.spec(1)])
        assert jobs.submitted == []


def test_schedules_are_checked_and_counted_but_never_due(caplog):
    with inline() as jobs, caplog.at_level("INFO"), Client() as client:
        assert len(client.schedules.register(scheduled).added) == 3
        assert len(client.schedules.register(scheduled).unchanged) == 3
        told = client.schedules.register(scheduled.clean_up.options(retries=7))
        assert told.changed == ["tests.functions.scheduled.clean_up"]
        with pytest.raises(Refused, match="a schedule every-day already"):
            client.schedules.add_many(
                {"every-day": {"target": "tests.functions.tasks:add", "args": [1], "every": "1d"}}
            )
        assert jobs.submitted == []
    assert "never runs them: tests.functions.scheduled.clean_up, every-day" in caplog.text
    with inline(allowed=[f"{TASKS}.*"]), Client() as client, pytest.raises(NotAllowed):
        client.schedules.register(scheduled)


def test_requests_that_need_a_daemon_are_refused(jobs):
    with Client() as client:
        with pytest.raises(Refused, match=r"^Client\.batch is not for jobs that run inline"):
            client.batch([tasks.add.s(1)])
        assert jobs.submitted == []
        with pytest.raises(Refused, match=r"for commands, use a private_daemon\(\)"):
            client.submit(["true"])
        with pytest.raises(Refused, match="List is not for jobs that run inline"):
            client.jobs()
        with pytest.raises(Refused):
            client.shutdown()
        with pytest.raises(Refused, match="have no log, their output goes where the test prints"):
            tasks.add.submit(1).output()
        with pytest.raises(NoSuchJob, match="no job 7"):
            client.job(7)
        job = tasks.add.submit(1)
        with pytest.raises(Refused, match="the job has finished"):
            job.cancel()
        with pytest.raises(Refused, match="the job has finished"):
            job.edit(priority=3)


# --- the record -------------------------------------------------------------------------------------------


def test_jobs_are_recorded_with_their_options(jobs):
    tasks.send.options(delay=60.0, priority=9).submit("ada", copies=2)
    [job] = jobs.of(tasks.send)

    assert (job.args, job.kwargs) == (["ada"], {"copies": 2})
    assert (job.spec.queue, job.spec.delay, job.spec.priority) == ("mail", 60.0, 9)
    assert (job.state, job.outcome, job.result) == ("succeeded", "succeeded", "2 for ada")
    assert jobs.of(tasks.add) == []


def test_assert_submitted_finds_the_latest_job_with_these_arguments(jobs):
    tasks.send.submit("ada", copies=2)
    tasks.echo.submit((1, 2))

    assert jobs.assert_submitted(tasks.send, "ada", copies=2).id == 1
    assert jobs.assert_submitted(f"{TASKS}:echo", (1, 2)).id == 2
    with pytest.raises(AssertionError) as raised:
        jobs.assert_submitted(tasks.send, "ada")
    assert str(raised.value) == (
        f"{TASKS}:send('ada') was not submitted; what was:"
        f"\n  {TASKS}:send('ada', copies=2)\n  {TASKS}:echo([1, 2])"
    )


def test_it_does_not_matter_which_arguments_have_names(jobs):
    tasks.send.submit(address="ada", copies=1)
    tasks.Report().text.submit(3)

    assert jobs.assert_submitted(tasks.send, "ada").id == 1
    assert jobs.assert_submitted(tasks.Report.text, pages=3).id == 2
    jobs.assert_not_submitted(tasks.send, "ada", copies=2)
    jobs.assert_not_submitted(tasks.send, "ada", "what does not fit", 3)


def test_assert_submitted_without_arguments_means_any(jobs):
    tasks.send.submit("ada", copies=2)
    tasks.send.submit("bob")

    assert jobs.assert_submitted(tasks.send).args == ["bob"]
    with pytest.raises(AssertionError, match=f"{TASKS}:add was not submitted"):
        jobs.assert_submitted(tasks.add)


def test_assert_not_submitted_names_what_was(jobs):
    tasks.send.submit("ada", copies=2)

    jobs.assert_not_submitted(tasks.add)
    jobs.assert_not_submitted(tasks.send, "bob")
    with pytest.raises(AssertionError, match=r"send was submitted: .*send\('ada', copies=2\)"):
        jobs.assert_not_submitted(tasks.send)
    with pytest.raises(AssertionError, match=r"send\('ada', copies=2\) was submitted"):
        jobs.assert_not_submitted(tasks.send, "ada", copies=2)


@inline(may_fail=True)
def test_inline_is_a_decorator_too():
    tasks.fail.submit("unseen")


def test_assert_submitted_says_that_nothing_was_submitted(jobs):
    with pytest.raises(AssertionError, match=r"add\(1\) was not submitted; what was: nothing"):
        jobs.assert_submitted(tasks.add, 1)


# --- failures ---------------------------------------------------------------------------------------------


def test_an_error_is_a_job_failed_and_is_recorded(jobs):
    job = tasks.fail.submit("no such letter")

    with pytest.raises(JobFailed, match="LookupError: no such letter") as raised:
        job.result()
    assert "in fail" in (raised.value.traceback or "")
    assert [each.error and each.error.type for each in jobs.submitted] == ["LookupError"]
    assert [each.error and each.error.type for each in job.attempts()] == ["LookupError"]
    assert job.attempt == 1


def test_a_failure_that_nobody_asked_for_is_raised_at_the_end():
    def look_at_the_first_alone() -> None:
        with inline():
            with pytest.raises(JobFailed):
                tasks.fail.submit("first").result()
            tasks.fail.submit("second")

    with pytest.raises(JobFailed, match="LookupError: second"):
        look_at_the_first_alone()


def test_failures_are_not_raised_with_may_fail():
    with inline(may_fail=True) as jobs:
        tasks.fail.submit("why")

    assert jobs.submitted[0].state == "failed"


def test_an_error_of_the_block_itself_comes_first():
    def fail_twice() -> None:
        with inline():
            tasks.fail.submit("why")
            _ = 1 / 0

    with pytest.raises(ZeroDivisionError):
        fail_twice()


@pytest.mark.usefixtures("jobs")
def test_a_job_that_exits_has_an_exit_code():
    job = Client().call(f"{TASKS}:leave", [3])

    with pytest.raises(JobFailed, match="failed with exit code 3"):
        job.result()
    with pytest.raises(JobFailed, match="no_result"):
        Client().call(f"{TASKS}:leave", [0]).result()


def test_a_job_may_choose_its_next_step(jobs):
    with pytest.raises(JobFailed, match="snoozed"):
        Client().call(f"{TASKS}:snooze").result()

    assert jobs.submitted[0].outcome == "snoozed"


def test_progress_of_a_job_is_recorded(jobs):
    told, silent = Client().call(f"{TASKS}:halfway", ["a", "b"]), Client().call(f"{TASKS}:halfway", [])

    assert jobs.submitted[0].said == [Progress(0.5, "a"), Progress(0.5, "b")]
    assert told.progress == jobs.submitted[0].progress == Progress(0.5, "b")
    assert silent.progress is None
    assert Client().call(f"{TASKS}:halfway", ["a", None]).progress is None


def test_steps_of_a_job_are_recorded(jobs):
    told, again = (Client().call(f"{TASKS}:stepwise", [number]) for number in (2, 3))

    assert (told.result(), again.result()) == (4, 6)
    for steps in (jobs.submitted[1].steps, again.steps()):
        assert [(step.name, step.state) for step in steps] == [("rows", "done"), ("double", "done")]


def test_progress_of_a_coroutine_is_recorded(jobs):
    async def submit_it() -> None:
        async with AsyncClient() as client:
            await client.call(f"{TASKS}:halfway_awaited", ["below a loop"])

    Client().call(f"{TASKS}:halfway_awaited", ["a"])
    asyncio.run(submit_it())

    assert [job.progress for job in jobs.submitted] == [Progress(0.5, "a"), Progress(0.5, "below a loop")]


@pytest.mark.usefixtures("jobs")
def test_ctrl_c_in_a_job_ends_the_tests():
    with pytest.raises(KeyboardInterrupt):
        Client().call(f"{TASKS}:interrupt")


def test_it_works_in_a_forked_child_too():
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    child = context.Process(target=_in_child, args=(queue,))
    child.start()
    child.join(DEADLINE)

    assert child.exitcode == 0
    assert not queue.empty()
    assert queue.get() == 3


def _in_child(queue) -> None:
    with inline():
        queue.put(tasks.add.submit(1).result())


def test_blocks_may_be_nested():
    with inline() as outer:
        tasks.add.submit(1)
        with inline() as inner:
            tasks.add.submit(2)
        tasks.add.submit(3)

    assert [job.args for job in outer.submitted] == [[1], [3]]
    assert [job.args for job in inner.submitted] == [[2]]


def test_after_the_block_daemons_are_asked_again(monkeypatch):
    monkeypatch.setenv("BGD_SOCKET", "/nonexistent/bgd.sock")
    with inline():
        tasks.add.submit(1)

    with pytest.raises(DaemonUnreachable):
        tasks.add.submit(1)


async def test_maps_run_inline_and_read_only_what_is_needed():
    items = iter(range(100))
    with inline() as jobs:
        some = Client().map(tasks.square, items, buffersize=4)
        results = [next(some) for _ in range(3)]
        some.close()
        others = [number async for number in AsyncClient().map(tasks.add, [1, 2])]

    assert (results, others) == ([0, 1, 4], [3, 4])
    assert len(jobs.of(tasks.square)) == 100 - len(list(items)) <= 7


# --- a job that is to end ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["block", "block_awaited"])
def test_a_job_over_its_time_limit_cleans_up_and_fails(name, tmp_path):
    with inline(may_fail=True) as jobs:
        Client("/nonexistent/bgd.sock").call(f"{TASKS}:{name}", [str(tmp_path)], timeout=0.1)

    (job,) = jobs.submitted
    assert (job.state, job.outcome) == (State.FAILED, Outcome.TIMEOUT)
    assert job.error is not None
    assert job.error.type == "bgd_job.TimedOut"
    assert f"in {name}\n" in (job.error.traceback or "")
    assert (tmp_path / "ended").exists()


@pytest.mark.parametrize("name", ["run_on", "block_awaited"])
async def test_under_an_event_loop_a_job_over_its_time_limit_is_stopped_too(name, tmp_path):
    with inline(may_fail=True) as jobs:
        await AsyncClient("/nonexistent/bgd.sock").call(f"{TASKS}:{name}", [str(tmp_path)], timeout=0.1)

    (job,) = jobs.submitted
    assert (job.state, job.outcome, job.result) == (State.FAILED, Outcome.TIMEOUT, None)


@pytest.mark.parametrize("name", ["run_on", "block"])
def test_a_job_can_be_cancelled_from_another_thread(name, tmp_path):
    client = Client("/nonexistent/bgd.sock")

    def cancel() -> None:
        wait_until((tmp_path / "begun").exists)
        client.cancel([1])

    with inline() as jobs:
        other = threading.Thread(target=cancel)
        other.start()
        client.call(f"{TASKS}:{name}", [str(tmp_path)])
        other.join()

    (job,) = jobs.submitted
    assert (job.state, job.outcome) == (State.CANCELLED, Outcome.CANCELLED)


@pytest.mark.usefixtures("jobs")
def test_a_job_can_cancel_itself():
    job = Client("/nonexistent/bgd.sock").call(f"{TASKS}:cancel_itself", [1])

    assert job.refresh().state == State.CANCELLED


@pytest.mark.usefixtures("jobs")
def test_a_job_within_its_time_limit_is_left_alone():
    assert Client("/nonexistent/bgd.sock").call(f"{TASKS}:length", ["four"], timeout=60).result() == 4
