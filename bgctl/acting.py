"""cancel, retry, hold, edit, signal, prune and the like: act on jobs by id or selection."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Sequence
from functools import partial, wraps
from typing import TYPE_CHECKING, Any

import click
from msgspec import Struct

from bgctl import exit_codes
from bgctl.common import client, global_options, print_json, say, verb
from bgctl.options import (
    DURATION,
    FINISHED,
    SIZE,
    UNFINISHED,
    WAITING,
    chosen_ids,
    job_options,
    unset_options,
    whole_number,
    with_changeable_options,
)
from bgctl.selecting import Selection, with_selection
from bgd import Client, Job, State
from bgd.client.session import error_in
from bgd.core.spec import JobSpec
from bgd.formatting import number_ranges
from bgd.settings import nearest
from bgd.units import format_size
from bgd.wire.replies import ActResult, Pruned
from bgd.wire.requests import MAX_SIGNAL
from bgd.wire.steering import MAX_KEPT

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem


class Action(Struct, frozen=True, kw_only=True):
    """What a verb does to jobs.

    Args:
        done: what jobs are after it, in a word.
        states: in which jobs are to which it can be done.
        usual: of these states, those of the jobs selected unless the selection says in which; None: all.
        suspended: whether jobs are to which it can be done; None: either.
        tells_state: the word to say of each job is its new state, not `done`.
        forever: what a person who is asked is told besides, as it cannot be undone.
    """

    done: str
    states: tuple[State, ...]
    usual: tuple[State, ...] | None = None
    suspended: bool | None = None
    tells_state: bool = True
    forever: str = ""

    def suits(self, job: Job) -> bool:
        return job.state in self.states and self.suspended in {None, job.suspended}


class Target(Struct, frozen=True, kw_only=True):
    """The jobs that something is to be done to, and with how much care."""

    selection: Selection
    dry_run: bool
    yes: bool


def with_target(
    action: Action, *, has_own_options: bool = False
) -> Callable[[Callable[..., int]], Callable[..., int]]:
    """Give a verb ids or a selection, --dry-run and --yes; it takes them as one `target`."""

    def decorate(function: Callable[..., int]) -> Callable[..., int]:
        @wraps(function)
        def acting(selection: Selection, *, dry_run: bool, yes: bool, **given: Any) -> int:
            return function(target=Target(selection=selection, dry_run=dry_run, yes=yes), **given)

        dry_run = click.option("--dry-run", is_flag=True, help="Only say to which jobs it would be done.")
        yes = click.option("-y", "--yes", is_flag=True, help="Do not ask before it is done to several.")
        return with_selection(action.states, has_own_options=has_own_options)(dry_run(yes(acting)))

    return decorate


FOREVER = " and their logs for good"
Do = Callable[[Client, list[int]], list[ActResult]]
_CANCEL = Action(done="cancelled", states=UNFINISHED[:-1])
_RETRY = Action(done="retried", states=FINISHED, usual=(State.FAILED,))
_HOLD = Action(done="held", states=WAITING[1:])
_RELEASE = Action(done="released", states=(State.HELD,))
_EDIT = Action(done="changed", states=WAITING)
_SUSPEND = Action(done="suspended", states=(State.RUNNING,), suspended=False, tells_state=False)
_CONTINUE = Action(done="continued", states=(State.RUNNING,), suspended=True, tells_state=False)
_SIGNAL = Action(done="signalled", states=(State.RUNNING, State.STOPPING), tells_state=False)
_REMOVE = Action(done="removed", states=FINISHED, tells_state=False, forever=FOREVER)


@verb(
    "cancel",
    "bgctl cancel 12",
    "bgctl cancel 3-9 last",
    "bgctl cancel --queue mail --dry-run",
)
@with_target(_CANCEL)
def cancel_command(target: Target) -> int:
    """Cancel jobs.

    One that waits never starts; one that runs is made to end, first politely, then by force.
    """
    return act(_CANCEL, target, Client.cancel)


@verb(
    "retry",
    "bgctl retry 12",
    "bgctl retry --state failed --since 1d",
)
@with_target(_RETRY)
def retry_command(target: Target) -> int:
    """Run finished jobs again.

    All their retries are before them. A selection without --state means those that failed.
    """
    return act(_RETRY, target, Client.retry)


@verb(
    "hold",
    "bgctl hold 12",
    "bgctl hold --queue mail --yes",
)
@with_target(_HOLD)
def hold_command(target: Target) -> int:
    """Keep waiting jobs from starting until they are released."""
    return act(_HOLD, target, Client.hold)


@verb(
    "release",
    "bgctl release 12",
    "bgctl release --state held --tag checked",
)
@with_target(_RELEASE)
def release_command(target: Target) -> int:
    """Let held jobs go on.

    They wait for their turn, or for what else they were told to.
    """
    return act(_RELEASE, target, Client.release)


class CommandWithProgram(click.Command):
    """A verb after whose arguments and `--` a program may stand: its `argv`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Set the program aside, which would be taken for more arguments."""
        end = args.index("--") if "--" in args else len(args)
        ctx.params["argv"] = tuple(args[end + 1 :])
        return super().parse_args(ctx, args[:end])


_UNSET = unset_options()


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


@verb(
    "suspend",
    "bgctl suspend 12",
    "bgctl suspend --queue render --yes",
)
@with_target(_SUSPEND)
def suspend_command(target: Target) -> int:
    """Stop the processes of running jobs, to go on later.

    Their time limits stand still meanwhile; they keep their slots.
    """
    return act(_SUSPEND, target, Client.suspend)


@verb(
    "continue",
    "bgctl continue 12",
    "bgctl continue --queue render --yes",
)
@with_target(_CONTINUE)
def continue_command(target: Target) -> int:
    """Continue jobs that were suspended or stopped themselves."""
    return act(_CONTINUE, target, Client.continue_)


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


_NAMES = {each.name.removeprefix("SIG"): int(each) for each in signal.Signals}


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


@verb(
    "remove",
    "bgctl remove 12",
    "bgctl remove --state succeeded --name 'nightly-*' --dry-run",
)
@with_target(_REMOVE)
def remove_command(target: Target) -> int:
    """Delete finished jobs and their logs.

    Their ids are never given out again.
    """
    return act(_REMOVE, target, Client.remove)


@verb(
    "prune",
    "bgctl prune --dry-run",
    "bgctl prune --older-than 2d",
    "bgctl prune --state succeeded --keep 1000 --yes",
)
@click.option(
    "--state",
    "states",
    multiple=True,
    type=click.Choice([str(state) for state in FINISHED]),
    metavar="STATE",
    help="Only jobs in this state; several may be given.",
)
@click.option("--older-than", type=DURATION, metavar="D", help="That finished longer ago, as 2d.")
@click.option(
    "--keep", type=whole_number(0, MAX_KEPT), metavar="N", help="All but the latest N of each state."
)
@click.option("--logs-total", type=SIZE, metavar="SIZE", help="Until all logs take no more, as 1GB.")
@click.option("--dry-run", is_flag=True, help="Only say how many they are.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask before it is done to several.")
def prune_command(
    *,
    states: tuple[str, ...],
    older_than: float | None,
    keep: int | None,
    logs_total: int | None,
    dry_run: bool,
    yes: bool,
) -> int:
    """Delete finished jobs and their logs, the longest finished first.

    Without --older-than, --keep and --logs-total it does at once what the daemon does by itself as
    [retention] of its configuration says. Of several, each takes its share. Ids are never given out again.
    """
    with client() as daemon:
        prune = partial(
            daemon.prune, states=states or None, older_than=older_than, keep=keep, logs_total=logs_total
        )
        pruned = prune(dry_run=True)
        if not dry_run and pruned.jobs:
            if (
                pruned.jobs > 1
                and not yes
                and not is_confirmed("removed", pruned.jobs, FOREVER, rehearsal="")
            ):
                say("nothing was done")
                return exit_codes.REFUSED
            pruned = prune()
    if global_options().json:
        print_json({"jobs": pruned.jobs, "log_bytes": pruned.log_bytes})
    else:
        click.echo(_in_words(pruned, dry_run=dry_run))
    return 0


def _in_words(pruned: Pruned, *, dry_run: bool) -> str:
    if not pruned.jobs:
        return "no job would be removed" if dry_run else "no job was removed"
    jobs = "1 job" if pruned.jobs == 1 else f"{pruned.jobs} jobs"
    return f"{jobs}{' would be' if dry_run else ''} removed, with {format_size(pruned.log_bytes)} of logs"


def act(action: Action, target: Target, do: Do) -> int:
    """Do something to jobs and say what became of each, or only say to which it would be done."""
    selection = target.selection
    with client() as daemon:
        if target.dry_run:
            return _rehearse(action, _suitable(action, selection, daemon))
        if selection.is_by_filter:
            ids = [job.id for job in _suitable(action, selection, daemon)]
            if len(ids) > 1 and not target.yes and not is_confirmed(action.done, len(ids), action.forever):
                say("nothing was done")
                return exit_codes.REFUSED
        else:
            ids = chosen_ids(daemon, selection.ids)
        return _report(action, do(daemon, ids) if ids else [])


def _suitable(action: Action, selection: Selection, daemon: Client) -> list[Job]:
    """Return the jobs that are meant and that it can be done to; those selected oldest first.

    Raises:
        NoSuchJob: one that was named does not exist.
    """
    if selection.is_by_filter:
        jobs = selection.jobs_in(daemon, action.usual or action.states)
    else:
        jobs = [daemon.job(job_id) for job_id in chosen_ids(daemon, selection.ids)]
    return [job for job in jobs if action.suits(job)]


def is_confirmed(
    done: str, count: int, forever: str = "", *, rehearsal: str = ", --dry-run says which they are"
) -> bool:
    """Ask the person at the terminal whether so many jobs are to be `done`, as "removed".

    `forever` says what cannot be undone of it, `rehearsal` how to learn more first.

    Raises:
        UsageError: there is no person to ask.
    """
    name = click.get_current_context().info_name or ""
    if not sys.stdin.isatty():
        raise click.UsageError(f"{count} jobs would be {done}: --yes does it{rehearsal}")
    try:
        return click.confirm(f"{name.capitalize()} {count} jobs{forever}?", err=True)
    except click.Abort:  # Ctrl-C, or the end of what can be read
        click.echo(err=True)
        return False


def _rehearse(action: Action, jobs: Sequence[Job]) -> int:
    if global_options().json:
        print_json([{"id": job.id, "state": job.state, "error": None} for job in jobs])
    elif jobs:
        are = "job" if len(jobs) == 1 else "jobs"
        click.echo(f"{len(jobs)} {are} would be {action.done}: {number_ranges(job.id for job in jobs)}")
    else:
        say(f"no job would be {action.done}")
    return 0


def _report(action: Action, results: Sequence[ActResult]) -> int:
    """Say what became of each; return 0 if it was done to all, else the code of the first refusal."""
    errors = [error for result in results if (error := error_in(result))]
    if global_options().json:
        print_json([{"id": each.job, "state": each.state, "error": each.message} for each in results])
    elif not results:
        say("no jobs match")
    else:
        for result in results:
            if result.state is not None:
                click.echo(f"{result.job} {result.state if action.tells_state else action.done}")
    for error in errors:
        say(str(error))
    return exit_codes.exit_code_for(errors[0]) if errors else 0
