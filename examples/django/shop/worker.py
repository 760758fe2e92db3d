"""What bgd imports before the tasks, by [python] preload: it sets Django up, as wsgi.py does for a server."""

import os

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "shop.settings")
django.setup()
