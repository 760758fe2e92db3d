"""Sets Django up in workers; signals are printed, so that the output of a job shows them."""

import os

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.django_project.settings")
django.setup()

from bgd.django import task_finished, task_started


def _print(sender, task_result, **_):
    raised = [error.exception_class_path for error in task_result.errors]
    print(sender.__name__, task_result.id, task_result.status, task_result.attempts, raised)


task_started.connect(_print)
task_finished.connect(_print)
