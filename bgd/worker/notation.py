"""JSON as bgd writes it, with nothing around it: to look for that costs as much as to read the rest."""

from __future__ import annotations

import json

TYPE_CHECKING = False  # as typing's, whose import is a tenth of an interpreter's start
if TYPE_CHECKING:
    from typing import Any

_decode = json.JSONDecoder().raw_decode


def decoded(text: str | bytes) -> Any:
    """Return the value that stands there.

    Raises:
        ValueError, RecursionError: there is none, or one of too many digits; it is nested too deep.
    """
    return _decode(text if isinstance(text, str) else text.decode())[0]
