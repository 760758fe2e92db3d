"""The executor: what `concurrent.futures` promises, with jobs instead of threads."""

from __future__ import annotations

import asyncio
import functools
import os
import sqlite3
import threading
from concurrent.futures import (
    FIRST_COMPLETED,
    CancelledError,
    Future,
    ThreadPoolExecutor,
    as_completed,
    wait,
)
from contextlib import closing

import pytest

from bgd import Client, DaemonUnreachable, JobFailed, NoSuchJob, NotAllowed, Refused, using
from bgd.executor import Executor
from tests.functions import tasks
from tests.support import DEADLINE, Daemon, wait_until

pytestmark = pytest.mark.usefixtures("served")


@pytest.fixture
def executor():
    with Executor(retries=0) as running:
        yield running


@pytest.fixture
def held():
    """An executor whose jobs do not start until they are released."""
    executor = Executor(retries=0, hold=True)
    yield executor
    executor.shutdown(cancel_futures=True)


@pytest.fixture
def pipe(tmp_path):
    """The path of an empty pipe."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    return path


# --- calls --------------------------------------------------------------------------------------------------


def test_a_call_is_a_job_with_a_future(executor):
    future = executor.submit(tasks.add, 3, second=4)

    assert issubclass(type(future), Future)
    assert future.result(DEADLINE) == 7
    assert future.done()
    assert not future.running()
    assert future.job.refresh().state == "succeeded"


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"max_workers": 3}, TypeError, "no option 'max_workers': the slots of the daemon, or of a queue"),
        ({"client": 3}, TypeError, "an Executor takes a client, not 3"),
        ({"retires": 3}, TypeError, r"no option 'retires': did you mean retries\?"),
        ({"timeout": "soon"}, Refused, "timeout: 'soon' is not a duration"),
    ],
)
def test_a_wrong_option_is_refused_at_once(options, error, words):
    with pytest.raises(error, match=words):
        Executor(**options)


def test_undecorated_functions_and_methods_can_be_called(executor):
    futures = [executor.submit(tasks.square, 3), executor.submit(tasks.Report().text, 3)]

    assert [future.result(DEADLINE) for future in futures] == [9, "made anew, 3 pages"]


def test_options_of_the_executor_override_those_of_the_function():
    with Executor(queue="night", priority=5) as executor:
        job = executor.submit(tasks.send, "ada").job

        assert (job.queue, job.priority, job.tags, job.retries) == ("night", 5, ["letter"], 0)


def test_an_error_is_a_job_failed(executor):
    future = executor.submit(tasks.fail, "no such letter")

    error = future.exception(DEADLINE)
    assert isinstance(error, JobFailed)
    assert (error.outcome, error.error_type) == ("error", "LookupError")
    with pytest.raises(JobFailed, match="LookupError: no such letter"):
        future.result()


def test_a_future_runs_until_the_last_attempt_has_ended():
    with Executor(retries=1, retry_delay=0) as executor:
        future = executor.submit(tasks.fail, "no such letter")

        assert isinstance(future.exception(DEADLINE), JobFailed)
        assert future.job.refresh().attempt == 2


@pytest.mark.parametrize(
    ("function", "args"),
    [
        (lambda: 1, ()),
        (functools.partial(tasks.add, 1), ()),
        (tasks.Report, ()),
        (tasks.add, ()),
        (tasks.add, ({1, 2},)),
        (tasks.add, (object(),)),
        (tasks.add, ({1: 2},)),
    ],
)
def test_an_impossible_job_is_a_type_error_at_once(executor, function, args):
    with pytest.raises(TypeError):
        executor.submit(function, *args)


@pytest.mark.parametrize("function", [os.system, print, wait_until])
def test_a_function_that_is_not_allowed_is_refused_at_once(executor, function):
    with pytest.raises(NotAllowed):
        executor.submit(function, "true")
    with pytest.raises(NotAllowed):
        executor.map(function, ["true"])


def test_it_uses_the_client_of_using(served, monkeypatch):
    monkeypatch.setenv("BGD_SOCKET", "/nonexistent/bgd.sock")
    with served.client() as client:
        with Executor(client) as executor:
            assert executor.submit(tasks.add, 1).result(DEADLINE) == 3
        with using(client), Executor() as executor:
            assert executor.submit(tasks.add, 1).result(DEADLINE) == 3


async def test_an_event_loop_can_use_it(executor):
    loop = asyncio.get_running_loop()

    assert await loop.run_in_executor(executor, tasks.square, 3) == 9


# --- waiting ------------------------------------------------------------------------------------------------


def test_the_wait_functions_of_concurrent_futures_work(executor, pipe):
    slow, quick = executor.submit(tasks.wait_for, str(pipe)), executor.submit(tasks.square, 3)

    first = wait([slow, quick], DEADLINE, FIRST_COMPLETED)
    pipe.write_text("written")
    rest = list(as_completed([slow, quick], DEADLINE))

    assert (first.done, first.not_done) == ({quick}, {slow})
    assert set(rest) == {slow, quick}
    assert slow.result() == "written"


def test_a_result_timeout_leaves_the_job_running(executor, pipe):
    future = executor.submit(tasks.wait_for, str(pipe))
    with pytest.raises(TimeoutError):
        future.result(0.01)
    pipe.write_text("written")

    assert future.result(DEADLINE) == "written"


def test_a_future_is_running_while_its_job_runs(executor, pipe):
    future = executor.submit(tasks.wait_for, str(pipe))
    wait_until(future.running)
    pipe.write_text("written")

    assert future.result(DEADLINE) == "written"
    assert not future.running()


def test_callbacks_are_called_and_may_submit_jobs(executor):
    called: list[Future[int]] = []
    done = threading.Event()

    def go_on(future: Future[int]) -> None:
        called.append(future)
        if len(called) == 3:
            done.set()
        else:
            executor.submit(tasks.square, future.result()).add_done_callback(go_on)

    executor.submit(tasks.square, 2).add_done_callback(go_on)

    assert done.wait(DEADLINE)
    assert [future.result() for future in called] == [4, 16, 256]


# --- cancelling ---------------------------------------------------------------------------------------------


def test_cancelling_a_waiting_future_cancels_its_job(held):
    future = held.submit(tasks.square, 3)

    assert future.cancel()
    assert future.cancel()
    assert future.cancelled()
    assert future.done()
    assert future.job.refresh().state == "cancelled"
    with pytest.raises(CancelledError):
        future.result()
    assert wait([future], DEADLINE).done == {future}


def test_a_running_future_is_not_cancelled_but_its_job_can_be(executor, pipe):
    future = executor.submit(tasks.wait_for, str(pipe))
    wait_until(future.running)

    assert not future.cancel()
    future.job.cancel()

    with pytest.raises(JobFailed, match="was cancelled"):
        future.result(DEADLINE)
    assert not future.cancelled()


def test_a_finished_future_is_not_cancelled(executor):
    future = executor.submit(tasks.square, 3)
    future.result(DEADLINE)

    assert not future.cancel()


def test_a_future_is_cancelled_if_somebody_cancels_its_waiting_job(held):
    future = held.submit(tasks.square, 3)
    future.job.cancel()

    assert list(as_completed([future], DEADLINE)) == [future]
    assert future.cancelled()


# --- map ----------------------------------------------------------------------------------------------------


def test_results_come_in_the_order_of_the_items(executor):
    assert list(executor.map(tasks.add, [1, 2, 3], (10, 20))) == [11, 22]
    assert list(executor.map(tasks.square, range(5), chunksize=2)) == [0, 1, 4, 9, 16]
    assert list(executor.map(tasks.square, [])) == []


def test_map_queues_all_items_before_the_first_result(held, served):
    results = held.map(tasks.square, [1, 2, 3])
    with served.client() as client:
        [third, *_] = client.jobs(limit=1)
        client.release([third.id - 2, third.id - 1, third.id])

    assert list(results) == [1, 4, 9]


def test_the_first_error_is_raised_in_its_place_and_the_rest_is_cancelled(served):
    with served.client() as client, Executor(retries=0, queue="narrow") as executor:
        client.set_queue("narrow", 1)
        results = executor.map(tasks.refuse_odd, [2, 3, *range(4, 200)])

        assert next(results) == 2
        with pytest.raises(JobFailed, match="3 is odd"):
            next(results)
        executor.shutdown()
        last = client.jobs(queue="narrow", limit=1)[0]

        assert last.state == "cancelled"


def test_a_map_that_times_out_cancels_waiting_jobs(held, served):
    results = held.map(tasks.square, [1, 2], timeout=0.05)

    with pytest.raises(TimeoutError, match=r"^0 of 2 results came within 0\.05 s$"):
        next(results)
    with served.client() as client:
        assert [job.state for job in client.jobs(limit=2)] == ["cancelled", "cancelled"]


def test_no_job_of_a_map_stays_queued_if_one_call_does_not_fit(held, served):
    with pytest.raises(TypeError, match="JSON"):
        held.map(tasks.square, [1, 2, {3}], chunksize=1)

    with served.client() as client:
        assert [job.state for job in client.jobs(limit=2)] == ["cancelled", "cancelled"]


def test_a_chunk_has_at_least_one_call(executor):
    with pytest.raises(ValueError, match="chunksize must be >= 1"):
        executor.map(tasks.square, [1], chunksize=0)


def test_ten_thousand_futures_need_one_thread(held):
    before = threading.active_count()
    futures = [held.submit(tasks.square, 0)]
    results = held.map(tasks.square, range(10_000))

    assert threading.active_count() == before + 1
    held.shutdown(cancel_futures=True)
    assert futures[0].cancelled()
    with pytest.raises(CancelledError):
        next(results)


# --- the end ------------------------------------------------------------------------------------------------


def test_a_shut_down_executor_takes_no_calls():
    executor = Executor()
    executor.shutdown()

    with pytest.raises(RuntimeError, match="after shutdown"):
        executor.submit(tasks.square, 3)
    with pytest.raises(RuntimeError, match="after shutdown"):
        executor.map(tasks.square, [3])


def test_the_end_of_the_block_waits_for_all_calls():
    with Executor() as executor:
        futures = [executor.submit(tasks.square, number) for number in range(4)]

    assert [future.done() for future in futures] == [True] * 4


def test_jobs_go_on_after_a_shutdown_that_does_not_wait(pipe):
    executor = Executor()
    future = executor.submit(tasks.wait_for, str(pipe))
    executor.shutdown(wait=False)
    assert not future.done()
    pipe.write_text("written")

    assert future.result(DEADLINE) == "written"


def test_a_shutdown_can_cancel_waiting_jobs(held):
    futures = [held.submit(tasks.square, number) for number in range(3)]
    held.shutdown(cancel_futures=True)

    assert [future.cancelled() for future in futures] == [True] * 3


def test_there_is_no_thread_without_unfinished_futures():
    before = threading.active_count()
    executor = Executor()
    executor.submit(tasks.square, 3).result(DEADLINE)
    executor.shutdown()

    assert threading.active_count() == before


def test_a_callback_that_would_wait_for_itself_raises(executor):
    told: list[str] = []
    done = threading.Event()

    def shut_down(_: Future[int]) -> None:
        try:
            executor.shutdown()
        except RuntimeError as error:
            told.append(str(error))
        done.set()

    executor.submit(tasks.square, 3).add_done_callback(shut_down)

    assert done.wait(DEADLINE)
    assert told == ["a callback of a future cannot wait for all of them: shutdown(wait=False)"]


# --- the daemon ---------------------------------------------------------------------------------------------


def test_futures_survive_a_restart_of_the_daemon(own_served, pipe):
    with Executor(Client(str(own_served.socket)), retries=0) as executor:
        slow = executor.submit(tasks.wait_for, str(pipe))
        waiting = executor.submit(tasks.square, 3)
        wait_until(slow.running)
        own_served.process.kill()
        own_served.process.wait()
        pipe.write_text("written")
        own_served.start()

        assert slow.result(DEADLINE) == "written"
        assert waiting.result(DEADLINE) == 9
        assert executor.submit(tasks.square, 4).result(DEADLINE) == 16


class KillingClient(Client):
    """A client that kills and restarts the daemon just before it asks for a result."""

    daemon: Daemon

    def returned(self, job_id):
        self.daemon.process.kill()
        self.daemon.process.wait()
        with ThreadPoolExecutor(1) as starter:
            starting = starter.submit(self.daemon.start)
            result = super().returned(job_id)
            starting.result()
        return result


def test_a_future_survives_a_restart_between_the_end_of_its_job_and_its_result(own_served):
    client = KillingClient(str(own_served.socket))
    client.daemon = own_served
    with Executor(client, retries=0) as executor:
        assert executor.submit(tasks.square, 3).result(DEADLINE) == 9


def test_futures_fail_if_the_daemon_stays_away(own_served, pipe):
    executor = Executor(Client(str(own_served.socket), timeout=0.5), retries=0)
    future = executor.submit(tasks.wait_for, str(pipe))
    wait_until(future.running)
    own_served.process.kill()
    own_served.process.wait()

    with pytest.raises(DaemonUnreachable):
        future.result(DEADLINE)
    executor.shutdown()
    own_served.start()
    pipe.write_text("written")


def test_futures_finish_though_the_events_are_no_longer_kept(own_served, pipe):
    client = own_served.client()
    client.set_slots(1)
    with Executor(client, retries=0) as executor:
        slow, removed = (executor.submit(tasks.wait_for, str(pipe)) for _ in range(2))
        wait_until(slow.running)
        own_served.process.kill()
        own_served.process.wait()
        with closing(sqlite3.connect(own_served.state_dir / "bgd.db")) as db, db:
            db.execute("DELETE FROM events WHERE last < (SELECT max(last) FROM events)")
            db.execute("UPDATE events SET last = last + 1000")
            db.execute("DELETE FROM jobs WHERE id = ?", (removed.job.id,))
        own_served.start()
        pipe.write_text("written")

        assert slow.result(DEADLINE) == "written"
        assert isinstance(removed.exception(DEADLINE), NoSuchJob)
