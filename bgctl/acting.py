"""The verbs that act on existing jobs, by id or by selection: cancel, retry, hold, edit and others."""

from __future__ import annotations

import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import chain, islice
from keyword import iskeyword
from typing import TYPE_CHECKING, Any

import click
from msgspec.structs import replace

from bgctl import exit_codes
from bgctl.common import (
    answer,
    begun,
    global_options,
    is_confirmed,
    may_ask,
    print_json_array,
    say,
    wants_bar,
    with_remedy,
)
from bgctl.options import (
    ALONE,
    DURATION,
    FINISHED,
    SIZE,
    YES,
    Parsed,
    chosen_ids,
    job_options,
    no_check_option,
    offer,
    unset_option,
    unset_options,
    whole_number,
    with_changeable_options,
)
from bgctl.selecting import Selection, with_selection
from bgctl.verbs import ProgramVerb, name_of, verb
from bgd import BgdError, Client, Refused, State
from bgd.client.bar import progress_bar
from bgd.client.blocking.concurrency import run
from bgd.client.programs import CannotStart
from bgd.client.session import error_in
from bgd.core.filters import read_signal
from bgd.core.job import VERBS
from bgd.core.spec import JobSpec
from bgd.text.formatting import number_ranges, pipeline_in_words
from bgd.text.units import counted, format_size
from bgd.wire import requests
from bgd.wire.replies import ActResult, Pruned
from bgd.wire.requests import MAX_KEPT

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem


_Call = Callable[[Client, list[int]], list[ActResult]]


def _with_action_options(function: Callable[..., int]) -> Callable[..., int | None]:
    """Add ids, a selection, --dry-run and --yes to a verb."""
    dry_run = click.option(
        "--dry-run", is_flag=True, help="Show which jobs would be affected, change nothing."
    )
    name = name_of(function)
    with_all = with_selection(VERBS[name].states, has_own_options=name == "edit")
    return with_all(dry_run(YES(function)))


_AND_LOGS = " and their logs for good"
_FEW = 1_000  # jobs from which a bar is useful
_MAX_ERRORS = 10  # limit on printed errors of an action on all matching jobs
_NO_MATCH = "no jobs match"
_NO_FAILED = "no failed jobs match: --state cancelled or --state succeeded retries others"
_REMEDY = ": remove takes finished jobs that you name, `bgctl prune` removes old ones"


def _command_of(name: str) -> click.Command:
    """Make the command of a verb that takes nothing except jobs."""
    usual = getattr(Client, f"{name}_" if iskeyword(name) else name)

    def call(daemon: Client, ids: list[int]) -> list[ActResult]:
        if begun().is_asked:  # without an answer, or it could not be printed
            return run(daemon._channel.act(name, ids, repeated=True))  # noqa: SLF001 - no one else does this
        results: list[ActResult] = usual(daemon, ids)
        return results

    def command(daemon: Client, **options: Any) -> int:
        return _perform(daemon, name, call, options)

    command.__name__, command.__doc__ = name, VERBS[name].help
    return verb(*VERBS[name].examples)(_with_action_options(command))


globals().update(
    {f"{name}_command": _command_of(name) for name, each in VERBS.items() if not each.has_fields}
)


@verb("bgctl retry 12", "bgctl retry --state failed --since 1d", "bgctl retry 12 --alone")
@_with_action_options
@ALONE
def retry_command(daemon: Client, *, alone: bool, **options: Any) -> int:
    """Run finished jobs again.

    They get all their retries again, and wait for other jobs as before, but not for their delay. Jobs that
    were cancelled because of them run again, too. A selection without --state means failed jobs.
    """
    return _perform(daemon, "retry", partial(Client.retry, alone=alone), options, alone=alone)


_UNSET = unset_options()


@verb(
    "bgctl edit 12 --priority 10 --queue mail",
    "bgctl edit 12 --unset timeout -- make -j4 all",
    "bgctl edit --state held --tagged import --retries 5 --yes",
    cls=ProgramVerb,
)
@_with_action_options
@with_changeable_options
@unset_option(_UNSET, "timeout")
@no_check_option("Change")
def edit_command(
    daemon: Client, *, argv: tuple[str, ...], unset: tuple[str, ...], no_check: bool, **given: Any
) -> int:
    """Change waiting jobs.

    Options replace the values that the jobs have, and the words after -- replace their program. --delay and
    --expires count from now. --env adds variables. --unset takes the name of an option without dashes and
    restores its default. A new program is looked up on your PATH.
    """
    if given["stdin"] == "-":
        raise click.UsageError("--stdin - is for new jobs only: give the name of a file")
    options = {name: given.pop(name) for name in ("selection", "dry_run", "yes")}
    changes: dict[str, Any] = dict(job_options(daemon, given))
    for option in unset:
        if _UNSET[option] in changes:
            raise click.UsageError(f"--{option} and --unset {option} cannot be combined")
    for option in unset:
        changes[_UNSET[option]] = getattr(JobSpec(), _UNSET[option])
    if argv:
        changes["argv"] = argv
    if not changes:
        raise click.UsageError(
            "nothing to change: give options or a program after --, see 'bgctl edit --help'"
        )
    changes["check"] = not no_check
    try:
        return _perform(daemon, "edit", lambda daemon, ids: daemon.edit(ids, **changes), options, **changes)
    except CannotStart as error:
        raise Refused(f"{error.problem}; --no-check changes it anyway") from None


def _signals_like(incomplete: str) -> Iterator[CompletionItem]:
    names = (each.name.removeprefix("SIG") for each in signal.Signals)
    return (offer(name) for name in names if name.startswith(incomplete.upper()))


@verb("bgctl signal 12 -s USR1", "bgctl signal --tree -s INT 3-9")
@_with_action_options
@click.option(
    "-s",
    "--signal",
    "number",
    type=Parsed("signal", read_signal, _signals_like),
    default="TERM",
    show_default=True,
    metavar="SIG",
    help="Signal to send.",
)
@click.option("--tree", is_flag=True, help="Signal all processes of the job, not only the first.")
def signal_command(daemon: Client, *, number: int, tree: bool, **options: Any) -> int:
    """Send a signal to running jobs.

    A job that ends because of it has failed, and is retried if it has retries left. Use `bgctl cancel` to
    end a job for good.
    """
    call = partial(Client.signal, signum=number, whole_tree=tree)
    return _perform(daemon, "signal", call, options, signal=number, whole_tree=tree)


@verb(
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
    help="Delete only jobs in this state; may be repeated.",
)
@click.option(
    "--older-than", type=DURATION, metavar="D", help="Delete jobs that finished longer ago, for example 2d."
)
@click.option(
    "--keep", type=whole_number(0, MAX_KEPT), metavar="N", help="Keep the latest N jobs of each state."
)
@click.option(
    "--logs-total", type=SIZE, metavar="SIZE", help="Delete until all logs fit, for example into 1GB."
)
@click.option("--dry-run", is_flag=True, help="Show how many jobs would be deleted.")
@YES
def prune_command(
    daemon: Client,
    *,
    states: tuple[str, ...],
    older_than: float | None,
    keep: int | None,
    logs_total: int | None,
    dry_run: bool,
    yes: bool,
) -> int:
    """Delete finished jobs and their logs, oldest first.

    Without --older-than, --keep and --logs-total, apply the [retention] section of the daemon's configuration
    now. With several of them, a job is deleted if any applies. Ids are never used again.
    """
    prune = partial(
        daemon.prune, states=states or None, older_than=older_than, keep=keep, logs_total=logs_total
    )
    pruned = prune(dry_run=True)
    if not dry_run and pruned.jobs:
        hint = "; --dry-run only counts them"
        if not (yes or _is_confirmed("removed", pruned.jobs, _AND_LOGS, hint=hint)):
            return exit_codes.REFUSED
        pruned = prune()
    answer({"jobs": pruned.jobs, "log_bytes": pruned.log_bytes}, _describe_pruned(pruned, dry_run=dry_run))
    if not pruned.jobs and not global_options().json:
        say("prune removes jobs by age and number; `bgctl remove` removes those you name")
    return 0


def _describe_pruned(pruned: Pruned, *, dry_run: bool) -> str:
    if not pruned.jobs:
        return "no job would be removed" if dry_run else "no job was removed"
    removed = f"{counted(pruned.jobs, 'job')}{' would be' if dry_run else ''} removed"
    return f"{removed}, with {format_size(pruned.log_bytes)} of logs"


def _perform(daemon: Client, name: str, call: _Call, options: dict[str, Any], /, **fields: Any) -> int:
    """Act on jobs and report what became of them, or only show them; return the exit code.

    Args:
        daemon: does it.
        name: the verb.
        call: the method of the client for jobs by their ids.
        options: those of `with_action_options`.
        fields: what the verb has besides jobs.
    """
    selection: Selection = options["selection"]
    dry_run, yes = options["dry_run"], options["yes"]
    act_on = partial(daemon.act_on_all, name, **fields)
    if selection.is_by_filter and not selection.ids:
        return _act_on_all(name, selection.where(), act_on, dry_run=dry_run, yes=yes)
    ids = chosen_ids(daemon, selection.ids)
    if dry_run or selection.is_by_filter:
        found = _found(name, selection, ids, daemon, act_on)
        if dry_run:
            return _print_dry_run(name, found)
        ids = [each.job for each in found]
        if not (yes or _is_confirmed(VERBS[name].done, len(ids))):
            return exit_codes.REFUSED
    if not ids and not global_options().json:
        say(_NO_MATCH)
    return _report(name, call(daemon, ids) if ids else [])


_ActOn = Callable[[requests.Selection], Iterator[list[ActResult]]]


def _found(
    name: str, selection: Selection, ids: list[int], daemon: Client, act_on: _ActOn
) -> Iterator[ActResult]:
    """Yield the selected jobs that the verb applies to.

    Raises:
        NoSuchJob: an id does not exist.
    """
    verb, among = VERBS[name], set(ids)
    if selection.is_by_filter:
        for results in act_on(replace(selection.where(), dry_run=True)):
            yield from (each for each in results if each.job in among)
        return
    for job in map(daemon.job, ids):
        if job.state in verb.states and verb.suspended in {None, job.suspended}:
            yield ActResult(job.id, job.state)


def _act_on_all(name: str, where: requests.Selection, act: _ActOn, *, dry_run: bool, yes: bool) -> int:
    """Act on all jobs that match, whatever their number: the daemon finds them."""
    found = chain.from_iterable(act(replace(where, dry_run=True)))
    if dry_run:
        return _print_dry_run(name, found)
    has_bar = wants_bar(sys.stderr)
    total = sum(1 for _ in found) if has_bar or not yes else 0
    also_lost = _AND_LOGS if name == "remove" else ""
    if not (yes or _is_confirmed(VERBS[name].done, total, also_lost)):
        return exit_codes.REFUSED
    if global_options().json:
        return _report(name, chain.from_iterable(act(where)))
    states, errors, pipeline = Counter[State | None](), list[BgdError](), list[ActResult]()
    try:
        with progress_bar(name, total, wanted=has_bar and total > _FEW) as advance:
            for results in act(where):
                states.update(result.state for result in results)
                pipeline += (result for result in results if result.along or result.left)
                refused = filter(None, map(error_in, results))
                errors += islice(refused, _MAX_ERRORS - len(errors))
                advance(len(results), 0)
        if not states:
            is_usual = name == "retry" and where.states is None
            say(_NO_FAILED if is_usual else f"{_NO_MATCH}{_REMEDY if name == 'remove' else ''}")
    finally:  # also if the daemon goes away in between
        if done := states.total() - states[None]:
            stopping = states[State.STOPPING]
            rest = f"; {'it is' if done == 1 else f'{stopping} still'} stopping" if stopping else ""
            click.echo(f"{VERBS[name].done} {counted(done, 'job')}{rest}{pipeline_in_words(pipeline, done)}")
    return _say_errors(errors, states[None])


def _is_confirmed(
    done: str, count: int, also_lost: str = "", *, hint: str = "; --dry-run lists them"
) -> bool:
    """Return whether an action may proceed; ask the user at the terminal if it is for several jobs.

    Args:
        done: past participle of the action, for example "removed".
        count: number of jobs.
        also_lost: what to add to the question.
        hint: what to add to the error, for example how to see the jobs first.

    Raises:
        UsageError: nobody can answer.
    """
    if count <= 1:
        return True
    name = click.get_current_context().info_name or ""
    if not may_ask():
        raise click.UsageError(f"{count} jobs would be {done}: confirm with --yes{hint}")
    return is_confirmed(f"{name.capitalize()} {count} jobs{also_lost}?")


def _print_dry_run(name: str, found: Iterable[ActResult]) -> int:
    if global_options().json:
        return _report(name, found)
    ids = [result.job for result in found]
    if ids:
        click.echo(f"{counted(len(ids), 'job')} would be {VERBS[name].done}: {number_ranges(ids)}")
    else:
        say(f"no job would be {VERBS[name].done}")
    return 0


def _report(name: str, results: Iterable[ActResult]) -> int:
    """Print the result for each job; return 0, or the exit code of the first error."""
    verb, errors = VERBS[name], list[BgdError]()

    def noted() -> Iterator[ActResult]:
        for result in results:
            errors.extend(filter(None, [error_in(result)]))
            yield result

    if global_options().json:
        print_json_array(
            {"id": each.job, "state": each.state, "error": each.message}
            | ({"along": each.along} if name == "retry" else {})
            for each in noted()
        )
    else:
        for result in noted():
            if result.state is not None:
                state = result.state if verb.tells_state else verb.done
                click.echo(f"{result.job} {state}{pipeline_in_words([result])}")
    return _say_errors(errors, len(errors))


def _say_errors(errors: list[BgdError], count: int) -> int:
    """Print errors, the first of `count`; return 0 if there are none, else the exit code of the first."""
    for error in errors:
        say(with_remedy(error))
    if count > len(errors):
        say(f"{count - len(errors)} more jobs were refused")
    return exit_codes.exit_code_of_error(errors[0]) if errors else 0
