"""Render values as HTML, in one place where no text of a stranger can become markup."""

from __future__ import annotations

import time
from datetime import datetime
from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

import bgd
from bgd.core.filters import exact_name
from bgd.core.job import ACTIVE, FINAL, WAITING
from bgd.core.spec import NOTIFICATION_QUEUE
from bgd.daemon.web.markup import as_markup
from bgd.daemon.web.queries import ListQuery, list_url
from bgd.daemon.web.static_files import static_address
from bgd.daemon.web.strip import strip
from bgd.system import timezones
from bgd.text.brief import short_duration
from bgd.text.escape import one_line
from bgd.text.formatting import iso_time
from bgd.text.units import format_duration, format_size


def render(template: str, values: dict[str, object], base: str, *, has_proxy_users: bool) -> str:
    """Return a page or a part of one, with `base` before all addresses. Takes milliseconds: use a thread.

    `has_proxy_users`: a proxy may name the user, so the buttons are there without a login.
    """
    return _environment(base, has_proxy_users=has_proxy_users).get_template(template).render(values)


@cache
def _environment(base: str, *, has_proxy_users: bool) -> Environment:
    """Compile all templates at once: when the next page is due, their files may be of another version."""
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_escape_text,
        auto_reload=False,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    durations = (format_duration, short_duration, relative_time, time_since)
    for each in (*durations, local_time, timezones.time_in_zone, iso_time, format_size, exact_name, strip):
        environment.filters[each.__name__] = each
    environment.filters["colored"] = as_markup
    environment.globals |= {"ACTIVE": ACTIVE, "FINAL": FINAL, "WAITING": WAITING}
    environment.globals["NOTIFICATION_QUEUE"] = NOTIFICATION_QUEUE
    environment.globals["base"] = base
    environment.globals["bgd_version"] = bgd.__version__
    environment.globals["has_proxy_users"] = has_proxy_users
    environment.globals["jobs_url"] = lambda **fields: base + list_url(ListQuery(), **fields)
    environment.globals["static"] = lambda name: base + static_address(name)
    for name in environment.list_templates():
        environment.get_template(name)
    return environment


def _escape_text(value: object) -> object:
    """Make the special characters of any text visible; markup was made here, and stays."""
    return one_line(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def local_time(at: float) -> str:
    """Return an instant as local time."""
    return f"{datetime.fromtimestamp(at).astimezone():%Y-%m-%d %H:%M:%S}"


def relative_time(at: float) -> str:
    """Return how long ago an instant was, or how long it is until then."""
    seconds = time.time() - at
    return f"{short_duration(seconds)} ago" if seconds >= 0 else f"in {short_duration(-seconds)}"


def time_since(at: float) -> str:
    """Return the time since an instant."""
    return short_duration(time.time() - at)


_TEMPLATES = Path(__file__).parent / "templates"
