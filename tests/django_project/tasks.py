"""Tasks that tests run."""

import os
import signal
import sys

import bgd_job
from django.db import connection

try:
    from django.tasks import task
except ImportError:
    from django_tasks import task


@task
def add(first, second=2):
    return first + second


@task
def other():
    return None


@task(takes_context=True)
def told(context, word):
    result = context.task_result
    result.refresh()
    return [word, context.attempt, result.id, result.status, len(result.errors)]


@task(backend="twice", takes_context=True)
def second_time(context, how):
    if context.attempt == 1:
        if how == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if how.startswith("exit"):
            sys.exit(int(how.removeprefix("exit ")))
        if how == "snooze":
            raise bgd_job.Snooze(1)
        raise ValueError(how)
    return how, b"bytes"


@task(backend="twice")
async def wait(word):
    if word == "fail":
        raise bgd_job.Fail("no")
    return word


@task(backend="reused")
def use_database():
    was_open = connection.connection is not None
    connection.ensure_connection()
    return [was_open, os.getpid()]


@task(backend="reused")
def unfit():
    return object()


def _hidden():
    raise NotImplementedError


@task(backend="plain")
def plain(number):
    return number


alias = add
