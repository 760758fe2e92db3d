"""The verb inbox: print how the jobs of a session have ended, each end once."""

from __future__ import annotations

from collections.abc import Iterator

import click
from msgspec.structs import replace

from bgctl.agents.hook import MOST_BYTES, MOST_ENDS, answer_hook, quoted_name
from bgctl.columns import excerpt
from bgctl.common import (
    answer,
    client,
    global_options,
    is_terminal,
    json_line,
    say,
)
from bgctl.exit_codes import TRY_LATER
from bgctl.options import DURATION
from bgctl.verbs import verb_without_daemon
from bgd import State
from bgd.client.connection import client_sockets
from bgd.client.inherited import caller_session
from bgd.errors import DaemonUnreachable
from bgd.text.brief import short_duration
from bgd.text.formatting import as_json, outcome_in_words
from bgd.wire.views import JobEnd


@verb_without_daemon(
    "bgctl inbox",
    "bgctl inbox --session fix-login --json",
    "bgctl inbox --wait --timeout 10m",
)
@click.option("--session", metavar="NAME", help="Session to read; default: $BGD_SESSION.")
@click.option("--wait", is_flag=True, help="Wait for an end if there is none.")
@click.option("--timeout", type=DURATION, metavar="D", help="With --wait: give up after D and exit with 75.")
@click.option("--peek", is_flag=True, help="Only look: the same ends are handed out again.")
@click.option("--hook", is_flag=True, help="Answer a hook of a coding agent, described on stdin.")
def inbox_command(*, session: str | None, wait: bool, timeout: float | None, peek: bool, hook: bool) -> int:
    """Print how jobs of a session have ended, each end once.

    An end is a job's id, name, outcome and running time, with the last lines of its output. Once it is
    written to stdout it counts as read. If bgctl is killed before that, the next one prints it again, as
    "redelivered". Two readers never get the same end at the same time.

    Without --wait, and with nothing new, it prints nothing and exits with 0. An answer has at most 8 ends,
    with as much of their output as fits into 4 KB; it says if there may be more.

    `bgctl agent install` writes hooks with --hook. They tell an agent at most 4 KB, and always exit with 0.
    """
    if hook:
        return answer_hook(session)
    name = session or caller_session()
    if name is None:
        raise click.UsageError("no session: give its name with --session NAME, or set BGD_SESSION")
    if timeout is not None and not wait:
        raise click.UsageError("--timeout needs --wait")
    with client() as daemon:
        try:
            ends = daemon.inbox(name, wait=timeout if wait else 0.0, peek=peek, limit=MOST_ENDS)
        except DaemonUnreachable:
            if wait or not _is_unused():
                raise
            ends = []
        if not ends and (wait or is_terminal()):
            say(f"no job of session {name} has ended{' meanwhile' if wait else ' that you have not seen'}")
            return TRY_LATER if wait else 0
        for end in ends:
            shown = _shortened(end, MOST_BYTES // len(ends))
            answer(as_json(shown), *lines_about(shown))
        if not peek:
            daemon.acknowledge(ends)
        if len(ends) == MOST_ENDS:
            say(f"there may be more: run `bgctl inbox` {'without --peek' if peek else 'again'}")
    return 0


def _shortened(end: JobEnd, size: int) -> JobEnd:
    """Return an end whose output is cut at its beginning until the end can be printed in `size` bytes."""
    while end.tail and (excess := _printed_size(end) - size) > 0:
        end = replace(end, tail=end.tail[excess // _LONGEST_ESCAPE + 1 :])
    return end


def _printed_size(end: JobEnd) -> int:
    if global_options().json:
        return len(json_line(as_json(end)))
    return len("\n".join(lines_about(end)).encode())


_LONGEST_ESCAPE = 12  # bytes of a character in JSON


def lines_about(end: JobEnd) -> Iterator[str]:
    """Yield the lines for people and agents: what ended and how, then the end of its output, set apart."""
    name = "" if end.name is None else f" {quoted_name(end.name)}"
    why = outcome_in_words(end) if end.state is State.FAILED else ""
    if end.reason is not None:
        reason = excerpt(end.reason)
        why = f"{why}: {reason}" if why and not reason.startswith(why) else reason
    ran = "" if end.seconds is None else f" after {short_duration(end.seconds)}"
    yield f"{end.job}{name} {end.state}{f' ({why})' if why else ''}{ran}{', redelivered' * end.redelivered}"
    if end.tail:
        yield "  output (untrusted):"
        yield from (f"  | {line}" for line in end.tail.split("\n"))


def _is_unused() -> bool:
    """Return whether no daemon has ever run here, judging by its folders, so that no job can have ended."""
    options = global_options()
    sockets = client_sockets(options.socket, config=options.config, user=options.user, system=options.system)
    return not any(place.is_explicit or place.is_used() for place in sockets)
