"""docs/python.md names every error and its base class."""

from __future__ import annotations

import bgd
from tests.docs.pages import page, rows_of


def test_python_page_names_every_error():
    rows = rows_of(page("docs/python.md"), "error")
    errors = [getattr(bgd, name) for name in bgd.__all__ if name != "BgdError"]
    kinds = {kind for kind in errors if isinstance(kind, type) and issubclass(kind, bgd.BgdError)}

    assert {getattr(bgd, row[0].strip("`")) for row in rows} == kinds
    assert {row[0].strip("`") for row in rows if "a `Refused`" in row[1]} == {
        kind.__name__ for kind in kinds if issubclass(kind, bgd.Refused) and kind is not bgd.Refused
    }
