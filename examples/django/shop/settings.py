"""Settings of a small shop."""

import os
import tempfile
from pathlib import Path

SECRET_KEY = "only for an example"
DEBUG = True
ROOT_URLCONF = "shop.urls"
USE_TZ = True
STATIC_URL = "static/"
INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.messages",
    "django.contrib.sessions",
    "django.contrib.staticfiles",
    "shop",
]
MIDDLEWARE = [
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
]
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": os.environ.get("SHOP_DATABASE", Path(__file__).parents[1] / "db.sqlite3"),
        "TEST": {
            "NAME": f"{tempfile.gettempdir()}/shop-{os.getpid()}.sqlite3"
        },  # a file, which jobs can open
    }
}

TASKS = {
    "default": {
        "BACKEND": "bgd.django.BgdBackend",
        "QUEUES": ["default", "mail"],
        "OPTIONS": {"retries": 3, "timeout": "1m"},
    }
}
