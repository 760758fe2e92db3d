"""edit: what is changed in jobs that wait."""

from __future__ import annotations

from typing import Any

import click

from bgctl.acting import Action, Target, act, with_target
from bgctl.common import client, verb
from bgctl.options import WAITING, job_options, unset_options, with_changeable_options
from bgd.core.spec import JobSpec

_EDIT = Action(done="changed", states=WAITING)
_UNSET = unset_options()


class CommandWithProgram(click.Command):
    """A verb after whose arguments and `--` a program may stand: its `argv`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Set the program aside, which would be taken for more arguments."""
        end = args.index("--") if "--" in args else len(args)
        ctx.params["argv"] = tuple(args[end + 1 :])
        return super().parse_args(ctx, args[:end])


@verb(
    "edit",
    "bgctl edit 12 --priority 10 --queue mail",
    "bgctl edit 12 --unset timeout -- make -j4 all",
    "bgctl edit --state held --tagged import --retries 5 --yes",
    cls=CommandWithProgram,
)
@with_target(_EDIT, has_own_options=True)
@with_changeable_options
@click.option(
    "--unset",
    type=click.Choice(list(_UNSET)),
    multiple=True,
    metavar="OPTION",
    help="As if this option, as timeout, had never been given; several may be named.",
)
def edit_command(target: Target, *, argv: tuple[str, ...], unset: tuple[str, ...], **given: Any) -> int:
    """Change jobs that wait.

    Options take the place of what the jobs had, and what stands after -- that of their program. --delay and
    --expires count from now; --env sets variables in addition.
    """
    if given["stdin"] == "-":
        raise click.UsageError("--stdin - is for new jobs only: name a file")
    with client() as daemon:
        changes: dict[str, Any] = dict(job_options(daemon, given))
    for option in unset:
        changes[_UNSET[option]] = getattr(JobSpec(), _UNSET[option])
    if argv:
        changes["argv"] = argv
    if not changes:
        raise click.UsageError("nothing to change: give options, or a program after --")
    return act(_EDIT, target, lambda daemon, ids: daemon.edit(ids, **changes))
