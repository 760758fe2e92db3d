"""The table of options in docs/jobs.md, made from the fields of JobSpec.

`python -m tests.docs.options` writes it into the page.
"""

from __future__ import annotations

import re

from bgd.core.spec import OPTIONS
from bgd.core.target import POLICY_KEYS
from tests.support import ROOT

PAGE = ROOT / "docs/jobs.md"

HEADING = "| option | what it does | for | edit | class policy |\n|---|---|---|---|---|\n"


def table() -> str:
    """Return the table, as the page has it."""
    keys = {name: key for key, name in POLICY_KEYS.items()}
    rows = [
        [
            f"`{name}`",
            option.help,
            {"command": "commands", "class": "class jobs", None: "all jobs"}[option.only],
            "yes" if option.can_edit else "",
            f"`{keys[name]}`" if name in keys else "",
        ]
        for name, option in OPTIONS.items()
    ]
    return HEADING + "".join(f"| {' | '.join(row)} |\n" for row in rows)


def main() -> None:
    """Write the table to the page."""
    text = PAGE.read_text()
    PAGE.write_text(re.sub(re.escape(HEADING) + r"(?:\|.*\|\n)*", lambda _: table(), text))


if __name__ == "__main__":
    main()
