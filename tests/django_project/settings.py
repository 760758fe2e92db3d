"""Settings of the project whose tasks tests/test_django.py runs."""

try:
    from django.tasks.backends import immediate
except ImportError:
    from django_tasks.backends import immediate

SECRET_KEY = "only for tests"
USE_TZ = True
INSTALLED_APPS: list[str] = []
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": "/dev/null"}}
TASKS = {
    "default": {"BACKEND": "bgd.django.BgdBackend", "QUEUES": ["default", "mail"]},
    "any": {"BACKEND": "bgd.django.BgdBackend", "QUEUES": []},
    "twice": {"BACKEND": "bgd.django.BgdBackend", "OPTIONS": {"retries": 1, "retry_delay": 0, "tags": ["t"]}},
    "reused": {"BACKEND": "bgd.django.BgdBackend", "OPTIONS": {"isolation": "reuse", "retries": 0}},
    "plain": {"BACKEND": f"{immediate.__name__}.ImmediateBackend"},
    "wrong": {"BACKEND": "bgd.django.BgdBackend", "OPTIONS": {"retires": 1}},
    "odd queue": {"BACKEND": "bgd.django.BgdBackend", "QUEUES": ["default", "two words"]},
    "own queue": {"BACKEND": "bgd.django.BgdBackend", "QUEUES": ["bgd-notifications"]},
    "priority": {"BACKEND": "bgd.django.BgdBackend", "OPTIONS": {"priority": 1}},
}
