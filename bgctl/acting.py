"""cancel, retry, hold and their like: what is done to jobs, by id or to all that are selected."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

import click
from msgspec import Struct

from bgctl import exit_codes
from bgctl.common import client, global_options, print_json, say, verb
from bgctl.options import FINISHED, UNFINISHED, WAITING, chosen_ids
from bgctl.selecting import Selection, with_selection
from bgd import Client, Job, State
from bgd.client.session import error_in
from bgd.formatting import number_ranges
from bgd.wire.replies import ActResult

FOREVER = " and their logs for good"

Do = Callable[[Client, list[int]], list[ActResult]]


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


_CANCEL = Action(done="cancelled", states=UNFINISHED[:-1])
_RETRY = Action(done="retried", states=FINISHED, usual=(State.FAILED,))
_HOLD = Action(done="held", states=WAITING[1:])
_RELEASE = Action(done="released", states=(State.HELD,))
_SUSPEND = Action(done="suspended", states=(State.RUNNING,), suspended=False, tells_state=False)
_CONTINUE = Action(done="continued", states=(State.RUNNING,), suspended=True, tells_state=False)
_REMOVE = Action(done="removed", states=FINISHED, tells_state=False, forever=FOREVER)


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
