"""progress: what a job says of itself, from the shell."""

from __future__ import annotations

import os
import re

import click

from bgctl.common import client, global_options, print_json, verb
from bgd.formatting import progress_as_json
from bgd.wire.requests import MAX_PROGRESS_MESSAGE
from bgd.wire.views import Progress

_NONE = "-"
_LOOKS_LIKE_A_NUMBER = re.compile(r"[+-]?\.?[0-9]")
_NUMBER = r"[0-9]{1,18}(?:\.[0-9]{0,18})?|\.[0-9]{1,18}"
_SHARE = re.compile(rf"(?P<number>{_NUMBER})(?:(?P<percent>%)|/(?P<of>{_NUMBER}))?")


@verb(
    "progress",
    "bgctl progress 40%",
    "bgctl progress 3/10 'the third file'",
    "bgctl progress 'still counting'",
    "bgctl progress - '1 of who knows how many'",
)
@click.argument("fraction", metavar="FRACTION")
@click.argument("message", required=False)
def progress_command(fraction: str, message: str | None) -> int:
    """Say, in a job, how far it is.

    FRACTION is 0.4, 40% or 4/10, or - where nobody knows. What is said takes the place of what was said
    before. It prints nothing, unless JSON is asked for.
    """
    job, attempt = _own_attempt()
    if message is None and fraction != _NONE and not _LOOKS_LIKE_A_NUMBER.match(fraction):
        fraction, message = _NONE, fraction
    said = Progress(None if fraction == _NONE else _share(fraction), _cut(message or "") or None)
    with client() as daemon:
        daemon.set_progress(job, attempt, said.fraction, said.message)
    if global_options().json:
        print_json({"job": job, "attempt": attempt, "progress": progress_as_json(said)})
    return 0


def _own_attempt() -> tuple[int, int]:
    try:
        return int(os.environ["BGD_JOB_ID"]), int(os.environ["BGD_ATTEMPT"])
    except (KeyError, ValueError):
        raise click.UsageError(
            "this is no job: progress is told from inside one, which has BGD_JOB_ID and BGD_ATTEMPT"
        ) from None


def _share(text: str) -> float:
    found = _SHARE.fullmatch(text)
    if found is None:
        raise click.UsageError(f"{text!r} is no fraction: write 0.4, 40% or 4/10, and - before a message")
    whole = float(found["of"] or (100 if found["percent"] else 1))
    if not whole:
        raise click.UsageError(f"{text!r} is no fraction: nothing is a part of 0")
    share = float(found["number"]) / whole
    if share > 1:
        raise click.UsageError(f"{text!r} is more than all of it: write 0.4, 40% or 4/10")
    return share


def _cut(message: str) -> str:
    """Return the beginning of a message that is too long; what is not UTF-8 is made visible."""
    return message.encode(errors="backslashreplace").decode()[:MAX_PROGRESS_MESSAGE]
