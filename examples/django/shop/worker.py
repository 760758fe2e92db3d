"""Sets Django up, as wsgi.py does for a server: bgd imports this before the tasks, see [python] preload."""

import os

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "shop.settings")
django.setup()
