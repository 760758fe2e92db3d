"""Rendering: values become HTML, in one place that lets no text of a stranger be anything but text."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from bgd.daemon.web.colors import as_markup
from bgd.harmless import one_line

_TEMPLATES = Path(__file__).parent / "templates"


def render(template: str, values: dict[str, object]) -> bytes:
    """Return a page. Takes some milliseconds, so it belongs on a thread."""
    text = _environment().get_template(template).render(values)
    return text.encode(errors="replace")


@cache
def _environment() -> Environment:
    """Compile all templates at once: their files may be another version's by the time of the next page."""
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_harmless,
        auto_reload=False,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["colored"] = as_markup
    for name in environment.list_templates():
        environment.get_template(name)
    return environment


def _harmless(value: object) -> object:
    """Make what is special in a text visible, wherever it stands; markup is made here, and stays."""
    return one_line(value) if isinstance(value, str) and not isinstance(value, Markup) else value
