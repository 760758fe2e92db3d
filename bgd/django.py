"""Django's tasks as jobs: a backend for `django.tasks`, or before Django 6.0 for the package django-tasks."""

from __future__ import annotations

import builtins
import json
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from importlib import import_module
from inspect import iscoroutinefunction
from traceback import format_exception
from typing import Any

import bgd_job
from django.conf import settings
from django.db import close_old_connections, reset_queries
from django.utils import timezone

from bgd.client.background import default_client
from bgd.client.functions import check_call, target_of
from bgd.client.specs import check_options
from bgd.core.job import ACTIVE, WAITING, Outcome, State
from bgd.errors import BgdError, NoSuchJob, Refused
from bgd.wire.class_jobs import NO_RESULT
from bgd.wire.views import AttemptView, JobView

try:
    from django.tasks.backends.base import BaseTaskBackend
    from django.tasks.base import Task, TaskContext, TaskError, TaskResult, TaskResultStatus
    from django.tasks.exceptions import InvalidTask, InvalidTaskBackend, TaskResultDoesNotExist
    from django.tasks.signals import task_enqueued, task_finished, task_started
    from django.utils.json import normalize_json
except ImportError:  # before Django 6.0
    from django_tasks.backends.base import BaseTaskBackend
    from django_tasks.base import Task, TaskContext, TaskError, TaskResult, TaskResultStatus
    from django_tasks.exceptions import InvalidTaskBackendError as InvalidTaskBackend
    from django_tasks.exceptions import InvalidTaskError as InvalidTask
    from django_tasks.exceptions import TaskResultDoesNotExist
    from django_tasks.signals import task_enqueued, task_finished, task_started
    from django_tasks.utils import normalize_json

_SET_BY_TASKS = ("queue", "priority", "at", "delay")
_NO_ERROR = {None, Outcome.SUCCEEDED, Outcome.SNOOZED}


@contextmanager
def _translated(kind: type[Exception], context: str = "") -> Iterator[None]:
    """Raise what bgd refuses as an error of Django, with the context in front of the message."""
    try:
        yield
    except (TypeError, Refused) as error:
        raise kind(f"{context}{error}") from error


@contextmanager
def around(_job: object = None, _target: object = None) -> Iterator[None]:
    """Close database connections around a job where Django does around a request; for `[python] around`."""
    reset_queries()
    close_old_connections()
    try:
        yield
    finally:
        close_old_connections()


class BgdBackend(BaseTaskBackend):  # type: ignore[misc]  # Django has no types
    """Makes a job of each task that is enqueued. OPTIONS are options of these jobs, such as `timeout`.

    The id of a TaskResult is that of the job; each attempt of it is a worker. A task is enqueued when its job
    is on disk, by the client that functions with `bgd.job` use. If a task is in a transaction of a database,
    pass `partial(task.enqueue, ...)` to `transaction.on_commit`.
    """

    supports_defer = supports_async_task = supports_get_result = supports_priority = True

    def __init__(self, alias: str, params: Mapping[str, Any]) -> None:
        super().__init__(alias, params)
        for name in sorted(self.queues):
            with _translated(InvalidTaskBackend, f"QUEUES of TASKS[{alias!r}]: "):
                check_options({"queue": name})
        if unusable := [name for name in _SET_BY_TASKS if name in self.options]:
            raise InvalidTaskBackend(f"OPTIONS of TASKS[{alias!r}]: each task has its own {unusable[0]}")
        with _translated(InvalidTaskBackend, f"OPTIONS of TASKS[{alias!r}]: "):
            check_options(self.options)

    def validate_task(self, task: Task) -> None:
        """Raise InvalidTask if no worker would find the task's function, or no job can be in its queue."""
        super().validate_task(task)
        with _translated(InvalidTask):
            target_of(task.func)
            check_options({"queue": task.queue_name})

    def enqueue(self, task: Task, args: Sequence[Any], kwargs: Mapping[str, Any]) -> TaskResult:
        """Queue a task; return when its job is on disk.

        Raises:
            TypeError: the arguments are not JSON, or do not fit the function.
            Refused, DaemonUnreachable: as `Client.call`.
        """
        self.validate_task(task)
        args, kwargs = normalize_json(list(args)), normalize_json(dict(kwargs))
        check_call(task.func, (None, *args) if task.takes_context else args, kwargs)
        job = default_client().call(
            target_of(task.func),
            args,
            kwargs,
            # None leaves the default to the policies of classes
            queue=None if task.queue_name == "default" else task.queue_name,
            priority=task.priority or None,
            at=task.run_after,
            **self.options,
        )
        try:
            created_at = _instant(job.created_at)
        except BgdError:  # the daemon has just gone away, or the job is removed
            created_at = timezone.now()
        result = self._result(task, job.id, args, kwargs, enqueued_at=created_at)
        task_enqueued.send(type(self), task_result=result)
        return result

    def get_result(self, result_id: str) -> TaskResult:
        """Look up the job of a task.

        Raises:
            TaskResultDoesNotExist: there is no such job, or it is not of a task.
        """
        client = default_client()
        try:
            view = client.view(int(result_id))
        except (ValueError, NoSuchJob, Refused) as error:  # no number, or one that no job has
            raise TaskResultDoesNotExist(result_id) from error
        if (task := self._task_of(view)) is None:
            raise TaskResultDoesNotExist(result_id)
        attempts = client.attempts(view.id)
        given = json.loads(view.arguments or "{}")
        started = [attempt.started_at for attempt in attempts if attempt.started_at is not None]
        result = self._result(
            task,
            view.id,
            given.get("args", []),
            given.get("kwargs", {}),
            attempts=len(attempts),
            status=_status_of(view.state),
            enqueued_at=_instant(view.created_at),
            started_at=_instant(started[0]) if started else None,
            last_attempted_at=_instant(started[-1]) if started else None,
            finished_at=_instant(view.finished_at),
            errors=[_error_of(attempt) for attempt in attempts if attempt.outcome not in _NO_ERROR],
        )
        if view.state is State.SUCCEEDED:
            _set(result, _return_value=client.result(view.id))
        return result

    def runner_of(self, task: Task) -> Callable[..., Any]:
        """Return the function that a worker calls for a task: it sends signals, and passes the context."""

        def run(*args: Any, **kwargs: Any) -> Any:
            result, given = self._begin(task, args, kwargs)
            task_started.send(type(self), task_result=result)
            try:
                value = normalize_json(task.func(*given, **kwargs))
            except BaseException as error:
                if _has_ended(result, error):
                    task_finished.send(type(self), task_result=result)
                raise
            _succeed(result, value)
            task_finished.send(type(self), task_result=result)
            return value

        async def run_async(*args: Any, **kwargs: Any) -> Any:
            result, given = self._begin(task, args, kwargs)
            await task_started.asend(type(self), task_result=result)
            try:
                value = normalize_json(await task.func(*given, **kwargs))
            except BaseException as error:
                if _has_ended(result, error):
                    await task_finished.asend(type(self), task_result=result)
                raise
            _succeed(result, value)
            await task_finished.asend(type(self), task_result=result)
            return value

        return run_async if iscoroutinefunction(task.func) else run

    def _begin(
        self, task: Task, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> tuple[TaskResult, Sequence[Any]]:
        """Return the result of a task that begins, as its process knows it, and what its function gets."""
        job, now = bgd_job.current(), timezone.now()
        result = self._result(
            task,
            job.id if job else 0,
            args,
            kwargs,
            attempts=job.attempt if job else 1,
            status=TaskResultStatus.RUNNING,
            started_at=now,
            last_attempted_at=now,
        )
        return result, (TaskContext(task_result=result), *args) if task.takes_context else args

    def _result(
        self,
        task: Task,
        job: int,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        attempts: int = 0,
        **known: Any,
    ) -> TaskResult:
        unknown = dict.fromkeys(("enqueued_at", "started_at", "finished_at", "last_attempted_at"))
        return TaskResult(
            task=task,
            id=str(job),
            args=args,
            kwargs=kwargs,
            backend=self.alias,
            worker_ids=[f"{socket.gethostname()}:{job}.{attempt + 1}" for attempt in range(attempts)],
            **{**unknown, "status": TaskResultStatus.READY, "errors": [], **known},
        )

    def _task_of(self, view: JobView) -> Task | None:
        """Return the task that a job calls, with the job's queue and priority; None: it calls none."""
        module, _, name = (view.target or "").partition(":")
        try:
            task = getattr(import_module(module), name, None)
        except (ImportError, ValueError):
            return None
        if not isinstance(task, Task):
            return None
        is_known = not self.queues or view.queue in self.queues  # a policy or a person may have moved it
        return replace(
            task,
            backend=self.alias,
            queue_name=view.queue if is_known else task.queue_name,
            priority=max(-100, min(view.priority, 100)),
            run_after=_instant(view.at),
        )


def _set(result: TaskResult, **changed: Any) -> None:
    for name, value in changed.items():
        object.__setattr__(result, name, value)  # as Django does


def _succeed(result: TaskResult, value: Any) -> None:
    _set(result, status=TaskResultStatus.SUCCESSFUL, finished_at=timezone.now(), _return_value=value)


def _has_ended(result: TaskResult, error: BaseException) -> bool:
    """Record the error in a result; return False if the job snoozes, because then it has not ended."""
    if isinstance(error, bgd_job.Snooze):
        return False
    kind = type(error)
    told = TaskError(
        exception_class_path=f"{kind.__module__}.{kind.__qualname__}",
        traceback="".join(format_exception(error)),
    )
    _set(result, status=TaskResultStatus.FAILED, finished_at=timezone.now(), errors=[told])
    return True


def _status_of(state: State) -> TaskResultStatus:
    if state in WAITING:
        return TaskResultStatus.READY
    if state in ACTIVE:
        return TaskResultStatus.RUNNING
    return TaskResultStatus.SUCCESSFUL if state is State.SUCCEEDED else TaskResultStatus.FAILED


def _error_of(attempt: AttemptView) -> TaskError:
    error = attempt.error
    if attempt.outcome is Outcome.EXIT or (error is not None and error.type == NO_RESULT):  # after sys.exit()
        return TaskError(
            exception_class_path="builtins.SystemExit", traceback=f"SystemExit: {attempt.exit_code}"
        )
    kind = "" if error is None else error.type
    if "." not in kind:  # of Python, or of a job that bgd or a signal ended
        kind = f"builtins.{kind}" if isinstance(getattr(builtins, kind, None), type) else "bgd.JobFailed"
    text = f"{attempt.outcome}" if error is None else error.traceback or f"{error.type}: {error.message}"
    return TaskError(exception_class_path=kind, traceback=text)


def _instant(seconds: float | None) -> datetime | None:
    """Return an epoch time as Django has it: aware with USE_TZ, else local."""
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC if settings.USE_TZ else None)
