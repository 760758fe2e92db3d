"""signal: a signal for running jobs."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Any

import click

from bgctl.acting import Action, Target, act, with_target
from bgctl.common import verb
from bgd import State
from bgd.settings import nearest
from bgd.wire.requests import MAX_SIGNAL

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

_NAMES = {each.name.removeprefix("SIG"): int(each) for each in signal.Signals}

_SIGNAL = Action(done="signalled", states=(State.RUNNING, State.STOPPING), tells_state=False)


class Signal(click.ParamType[int]):
    """A signal by its name or its number."""

    name = "signal"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Read "HUP", "SIGHUP" or "1"."""
        if isinstance(value, int):
            return value
        if value.isascii() and value.isdigit() and 1 <= int(value) <= MAX_SIGNAL:
            return int(value)
        name = value.upper().removeprefix("SIG")
        if name not in _NAMES:
            self.fail(
                f"{value!r} is no signal, nor a number from 1 to {MAX_SIGNAL}; {nearest(name, _NAMES)}",
                param,
                ctx,
            )
        return _NAMES[name]

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """Offer the names."""
        del ctx, param
        from click.shell_completion import CompletionItem  # noqa: PLC0415 - only a shell needs it

        return [CompletionItem(name) for name in _NAMES if name.startswith(incomplete.upper())]


@verb(
    "signal",
    "bgctl signal 12 -s USR1",
    "bgctl signal --tree -s INT 3-9",
)
@with_target(_SIGNAL)
@click.option(
    "-s", "--signal", "number", type=Signal(), default="TERM", show_default=True, metavar="SIG", help="Which."
)
@click.option("--tree", is_flag=True, help="For all processes of the job, not for its first alone.")
def signal_command(target: Target, *, number: int, tree: bool) -> int:
    """Send running jobs a signal.

    A job that ends by it has failed, and is retried if it has retries left; `bgctl cancel` ends it for good.
    """
    return act(_SIGNAL, target, lambda daemon, ids: daemon.signal(ids, number, whole_tree=tree))
