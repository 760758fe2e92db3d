"""What Django promises of backends for tasks, tried with a daemon; tests/test_django.py runs this file."""

import asyncio
import unittest
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta

import tests.django_project.worker  # noqa: F401 - first: it sets Django up
from django.test import SimpleTestCase, override_settings

import bgd
from bgd.django import InvalidTaskBackend, TaskResultDoesNotExist, task_enqueued
from bgd.testing import inline, private_daemon
from tests.django_project import tasks

try:
    from django.tasks import task, task_backends
    from django.tasks.exceptions import InvalidTask, TaskResultMismatch
except ImportError:
    from django_tasks import task, task_backends
    from django_tasks.exceptions import InvalidTaskError as InvalidTask
    from django_tasks.exceptions import TaskResultMismatch

FAR = datetime.now(UTC).replace(microsecond=0) + timedelta(days=1)
running = ExitStack()


def setUpModule():
    settings = {
        "daemon": {"slots": 2},
        "retry": {"delay": "0s"},
        "python": {"preload": ["tests.django_project.worker"], "around": "bgd.django:around"},
    }
    daemon = private_daemon(allowed=["tests.django_project.tasks.*"], settings=settings)
    global client  # noqa: PLW0603
    client = running.enter_context(running.enter_context(daemon).client())


def tearDownModule():
    running.close()


def ended(result):
    """Wait for the job of a result, and return it with what the job printed."""
    output = client.job(int(result.id)).output(timeout=30)
    result.refresh()
    return result, output.splitlines()


class EnqueueTests(SimpleTestCase):
    def test_a_task_is_enqueued_runs_and_has_a_result(self):
        result = tasks.add.enqueue(3, second=4)

        assert result.enqueued_at == tasks.add.get_result(result.id).enqueued_at
        assert (result.status, result.attempts, result.args, result.kwargs) == (
            "READY",
            0,
            [3],
            {"second": 4},
        )
        assert not result.is_finished
        assert result.task == tasks.add
        with self.assertRaisesMessage(ValueError, "Task has not finished yet"):
            _ = result.return_value
        result, output = ended(result)
        assert (result.status, result.return_value, result.attempts, result.errors) == (
            "SUCCESSFUL",
            7,
            1,
            [],
        )
        assert len(set(result.worker_ids)) == 1
        assert result.enqueued_at <= result.started_at == result.last_attempted_at <= result.finished_at
        assert output == [f"BgdBackend {result.id} RUNNING 1 []", f"BgdBackend {result.id} SUCCESSFUL 1 []"]
        assert tasks.add.get_result(result.id) == result

    def test_enqueueing_tells_by_a_signal(self):
        told = []
        task_enqueued.connect(lambda task_result, **_: told.append(task_result), weak=False, dispatch_uid="t")
        self.addCleanup(task_enqueued.disconnect, dispatch_uid="t")

        result = tasks.add.enqueue(1)

        assert [each is result for each in told] == [True]

    def test_priority_queue_and_time_are_those_of_the_job(self):
        changed = tasks.add.using(priority=100, queue_name="mail", run_after=FAR)

        result = changed.enqueue(1)

        job = client.job(int(result.id))
        assert (job.priority, job.queue, job.state, job.at) == (100, "mail", "scheduled", FAR.timestamp())
        found = tasks.add.get_result(result.id)
        assert (found.task, found.status) == (changed, "READY")
        job.cancel()
        found.refresh()
        assert (found.status, found.attempts, found.started_at) == ("FAILED", 0, None)

    def test_a_backend_without_queues_takes_any_queue(self):
        result = tasks.add.using(backend="any", queue_name="elsewhere").enqueue(1)

        assert (ended(result)[0].return_value, client.job(int(result.id)).queue) == (3, "elsewhere")
        assert result.task.queue_name == "elsewhere"

    def test_a_job_that_a_person_moved_is_found(self):
        result = tasks.add.using(run_after=FAR).enqueue(1)
        client.edit([int(result.id)], queue="odd", priority=1000)

        found = tasks.add.get_result(result.id)

        assert (found.task.queue_name, found.task.priority) == ("default", 100)
        client.cancel([int(result.id)])

    def test_arguments_are_json_and_fit(self):
        assert tasks.add.enqueue(b"a", b"b").args == ["a", "b"]
        for args in ([object()], [], [1, 2, 3], [{1, 2}]):
            with self.assertRaises(TypeError):
                tasks.add.enqueue(*args)
        with self.assertRaises(TypeError):
            tasks.told.enqueue()

    def test_a_task_that_the_backend_cannot_run_is_invalid(self):
        def inner():
            return None

        for change in (
            lambda: tasks.add.using(priority=101),
            lambda: tasks.add.using(priority=-101),
            lambda: tasks.add.using(priority=1.5),
            lambda: tasks.add.using(queue_name="unknown"),
            lambda: tasks.add.using(backend="any", queue_name="two words"),
            lambda: tasks.add.using(backend="any", queue_name="x" * 65),
            lambda: tasks.add.using(backend="any", queue_name="bgd-notifications"),
            lambda: tasks.add.using(run_after=datetime(2030, 1, 1)),  # noqa: DTZ001
            lambda: task(inner),
            lambda: task(tasks._hidden),
            lambda: task(tasks.add.func, takes_context=True),
        ):
            with self.assertRaises(InvalidTask):
                change()

    def test_options_are_those_of_jobs(self):
        job = client.job(int(tasks.wait.enqueue("a").id))

        assert (job.retries, job.tags) == (1, ["t"])
        with self.assertRaisesMessage(InvalidTaskBackend, "did you mean retries"):
            _ = task_backends["wrong"]
        with self.assertRaisesMessage(InvalidTaskBackend, "each task has its own priority"):
            _ = task_backends["priority"]

    def test_a_queue_that_no_job_can_have_is_found_before_a_task_is_enqueued(self):
        for alias, problem in (("odd queue", "'two words'"), ("own queue", "for bgd's own notifications")):
            with self.assertRaisesMessage(InvalidTaskBackend, f"QUEUES of TASKS[{alias!r}]: ") as invalid:
                _ = task_backends[alias]
            assert problem in str(invalid.exception)

    def test_the_allow_list_judges_the_function(self):
        with self.assertRaises(bgd.NotAllowed):
            task(setUpModule).enqueue()
        job = client.call("tests.django_project.tasks:alias", [1]).wait(30)
        assert job.outcome == "refused"

    @override_settings(USE_TZ=False)
    def test_times_are_local_without_time_zones(self):
        result = tasks.add.enqueue(1)

        assert ended(result)[0].finished_at.tzinfo is None


class ResultTests(SimpleTestCase):
    def test_each_attempt_that_failed_is_an_error_of_the_result(self):
        result, output = ended(tasks.second_time.enqueue("no luck"))

        assert (result.status, result.return_value, result.attempts) == (
            "SUCCESSFUL",
            ["no luck", "bytes"],
            2,
        )
        [error] = result.errors
        assert error.exception_class is ValueError
        assert "ValueError: no luck" in error.traceback
        assert len(set(result.worker_ids)) == 2
        assert result.started_at < result.last_attempted_at
        assert f"BgdBackend {result.id} SUCCESSFUL 2 []" in output

    def test_an_attempt_that_was_killed_is_an_error_too(self):
        result, _ = ended(tasks.second_time.enqueue("killed"))

        assert [error.exception_class for error in result.errors] == [bgd.JobFailed]
        assert result.status == "SUCCESSFUL"

    def test_an_exit_is_told_as_such_in_the_result_and_by_the_signal(self):
        for code in (0, 3):  # without a value, 0 is a failure too
            result, _ = ended(tasks.second_time.enqueue(f"exit {code}"))
            output = b"".join(part.data for part in client.job(int(result.id)).logs(attempt=1)).decode()

            assert [error.exception_class for error in result.errors] == [SystemExit]
            assert result.errors[0].traceback == f"SystemExit: {code}"
            assert f"BgdBackend {result.id} FAILED 1 ['builtins.SystemExit']" in output

    def test_a_snooze_is_no_error(self):
        result, output = ended(tasks.second_time.enqueue("snooze"))

        assert (result.attempts, result.errors) == (2, [])
        assert sum("BgdBackend" in line for line in output) == 2  # of the attempt that followed

    def test_a_failed_task_has_no_value(self):
        result, output = ended(tasks.wait.enqueue("fail"))

        assert (result.status, result.attempts, len(result.errors)) == ("FAILED", 1, 1)
        assert output[-1] != output[0]
        assert f"BgdBackend {result.id} FAILED 1 ['bgd_job.Fail']" in output
        with self.assertRaisesMessage(ValueError, "Task failed"):
            _ = result.return_value

    def test_a_value_that_is_not_json_fails_the_task(self):
        result, _ = ended(tasks.unfit.enqueue())

        assert result.errors[0].exception_class is TypeError

    def test_a_task_that_takes_context_gets_it(self):
        result, _ = ended(tasks.told.enqueue("word"))

        assert result.return_value == ["word", 1, result.id, "RUNNING", 0]

    def test_only_a_result_of_the_same_task_is_found(self):
        command = client.submit(["true"])
        method = client.call("tests.django_project.tasks:missing", hold=True, check=False)
        for unknown in ("0", "99999", "x", "-1", str(command.id), str(method.id)):
            with self.assertRaises(TaskResultDoesNotExist):
                tasks.add.get_result(unknown)
        with self.assertRaises(TaskResultMismatch):
            tasks.other.get_result(tasks.add.enqueue(1).id)

    def test_connections_are_closed_around_each_job(self):
        first, second = (ended(tasks.use_database.enqueue())[0].return_value for _ in range(2))

        assert first == second == [False, first[1]]  # one process ran both


class AsyncTests(SimpleTestCase):
    async def test_coroutines_enqueue_and_look_up(self):
        result = await tasks.wait.aenqueue("word")

        await asyncio.to_thread(client.wait, [int(result.id)], timeout=30)
        await result.arefresh()
        assert (result.return_value, await tasks.wait.aget_result(result.id)) == ("word", result)


class InlineTests(SimpleTestCase):
    def test_inline_runs_a_task_where_it_is_enqueued(self):
        with inline() as jobs:
            result = tasks.add.enqueue(1)

            jobs.assert_submitted("tests.django_project.tasks:add", 1)
            assert tasks.add.get_result(result.id).return_value == 3

    def test_a_task_of_another_backend_is_called_as_it_is(self):
        with inline():
            assert bgd.Client().call("tests.django_project.tasks:plain", [1]).result() == 1


if __name__ == "__main__":
    unittest.main()
