"""Parses `bgctl batch`, and has its verbs list, show, wait, cancel and retry."""

from __future__ import annotations

import time
from collections.abc import Iterator
from shutil import which
from typing import Any

import click

from bgctl.common import answer, global_options, labelled, print_json, print_lines, say
from bgctl.exit_codes import FAILED
from bgctl.options import ALONE, TIME_LIMIT, whole_number
from bgctl.plain import id_in
from bgctl.submitting import JobVerb
from bgctl.tables import USUAL_BATCHES, batch_lines, end_of_batch, local_time, more_batches
from bgctl.verbs import before_program, verb
from bgd import Client, State
from bgd.client.blocking.batches import Batch
from bgd.text.brief import BATCH_COUNTS, quoted
from bgd.text.formatting import batch_as_json, pipeline_in_words
from bgd.text.units import counted
from bgd.wire.replies import ActResult
from bgd.wire.requests import MAX_BATCHES, Selection
from bgd.wire.views import BatchView

KEPT_WORDS = frozenset({"list", "show", "wait", "cancel", "retry"})  # for verbs of batches
_BEFORE_ARGUMENTS = ":::"
_OTHER_SOURCES = frozenset({":::", ":::+", "::::", "::::+"})  # of GNU parallel

_batch = click.argument("batch", metavar="ID|NAME")


@verb("bgctl batch list", "bgctl batch list --json -n 100")
@click.option(
    "-n", "--limit", type=whole_number(1, MAX_BATCHES), default=USUAL_BATCHES, help="Number of batches."
)
def list_command(daemon: Client, limit: int) -> None:
    """List the newest batches with their counts."""
    batches = daemon.batches(limit=limit)
    if global_options().json:
        print_json([batch_as_json(each.view) for each in batches])
    elif batches:
        print_lines(*batch_lines([each.view for each in batches], time.time()))
    else:
        say("no batches: `bgctl batch` and Client.batch make them")
    if len(batches) == limit == USUAL_BATCHES:
        say(more_batches(limit))


@verb("bgctl batch show 3", "bgctl batch show nightly --json")
@_batch
def show_command(daemon: Client, batch: str) -> None:
    """Show a batch: its counts, and the jobs that it starts."""
    _answer(_found(daemon, batch))


@verb("bgctl batch wait nightly", "bgctl batch wait 3 --timeout 1h")
@click.option("--timeout", type=TIME_LIMIT, metavar="D", help="Limit on the wait.")
@_batch
def wait_command(daemon: Client, batch: str, timeout: float | None) -> int:
    """Wait until all jobs of a batch have ended.

    Exit with 1 unless all have succeeded.
    """
    found = _found(daemon, batch)
    if found.view.finished_at is None and not found.view.is_whole:
        say(
            f"batch {found.id} takes more jobs: it ends after the last one (if its `bgctl batch` was"
            f" interrupted, --resume queues the rest) or by `bgctl batch cancel {found.id}`"
        )
    try:
        found.wait(timeout)
    except TimeoutError as error:
        raise TimeoutError(f"{error}; `bgctl batch wait {found.id}` waits longer") from error
    _answer(found)
    return 0 if found.counts["succeeded"] == found.counts["total"] else FAILED


@verb("bgctl batch cancel nightly")
@_batch
def cancel_command(daemon: Client, batch: str) -> None:
    """Cancel the jobs of a batch that have not ended, and close it.

    A closed batch takes no more jobs.
    """
    found = _found(daemon, batch)
    if found.view.finished_at is not None and not global_options().json:
        say(f"batch {found.id} has ended: there is nothing to cancel")
    _answer(found.cancel())


@verb("bgctl batch retry nightly", "bgctl batch retry 3 --alone")
@ALONE
@_batch
def retry_command(daemon: Client, batch: str, *, alone: bool) -> None:
    """Run the failed jobs of a batch again.

    Jobs that were cancelled because of them run again, too. --then, --catch and --finally of the batch do not
    start a second time.
    """
    found, again, pipeline = _found(daemon, batch), 0, list[ActResult]()
    failed = Selection(words=f"batch:{found.id}", states=[State.FAILED])
    for results in daemon.act_on_all("retry", failed, alone=alone):
        again += sum(result.state is not None for result in results)
        pipeline += (result for result in results if result.along or result.left)
    if not again and not global_options().json:
        say(f"batch {found.id} has no failed job: there is nothing to run again")
    elif not global_options().json:
        say(f"{counted(again, 'job')} of batch {found.id} queued again{pipeline_in_words(pipeline, again)}")
    _answer(found.refresh())


class BatchVerb(JobVerb, click.Group):
    """The verb batch; it receives the PROGRAM after -- as `argv`, and the words after ::: as `arguments`.

    If the first word is one of `commands`, that verb gets the others.
    """

    def __init__(self, *args: Any, **settings: Any) -> None:
        settings["invoke_without_command"] = True
        super().__init__(*args, **settings)
        for each in (list_command, show_command, wait_command, cancel_command, retry_command):
            self.add_command(each)

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        """Read the words of this verb, or of one of its own."""
        if args and args[0] in self.commands:
            name = f"{info_name} {args[0]}"
            return self.commands[args[0]].make_context(name, args[1:], parent=parent, **extra)
        return super().make_context(info_name, args, parent=parent, **extra)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options, then the verbs."""
        super().format_options(ctx, formatter)
        self.format_commands(ctx, formatter)

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        """Return the pieces of the usage line, with the program and its arguments at its end."""
        pieces = click.Command.collect_usage_pieces(self, ctx)
        return [*pieces, "[-- PROGRAM [WORD]...]", "[::: ARG...]"]

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Set program and arguments aside; before ::: the program needs no --."""
        ctx.params["argv"], ctx.params["arguments"] = (), None
        if _BEFORE_ARGUMENTS in args:
            at = args.index(_BEFORE_ARGUMENTS)
            args, arguments = args[:at], args[at + 1 :]
            if not _OTHER_SOURCES.isdisjoint(arguments):
                raise click.UsageError("one ::: only: let the shell write the combinations")
            ctx.params["arguments"] = tuple(arguments)
        end = before_program(self, ctx, args, len(args))
        if ctx.params["arguments"] is not None and end == len(args):  # no --
            end = before_program(self, ctx, args, 0)
            check_is_not_kept(*args[end : end + 1])
        ctx.params["argv"] = tuple(args[end + 1 :] if args[end : end + 1] == ["--"] else args[end:])
        from bgctl.hints import for_batch  # noqa: PLC0415 - it is long

        if hint := for_batch(args[:end], args[end:]):
            raise click.UsageError(hint)
        return super().parse_args(ctx, args[:end])


def check_is_not_kept(word: str = "") -> None:
    """Refuse a word that is a verb of batches where it would be a file or a program."""
    if word in KEPT_WORDS:
        raise click.UsageError(f"{word!r} is kept for a verb of batches: a file of this name is ./{word}")


def misspelled(word: str) -> str | None:
    """Return the verb of batches that a word misspells; None if there is none."""
    from bgctl.hints import is_one_edit  # noqa: PLC0415 - it is long

    return None if which(word) else next((verb for verb in KEPT_WORDS if is_one_edit(word, verb)), None)


def _found(daemon: Client, batch: str) -> Batch:
    return daemon.find_batch(id_in(batch) or batch)


def _answer(batch: Batch) -> None:
    view = batch.view
    answer(batch_as_json(view), *labelled(_lines(view, time.time())))


def _lines(view: BatchView, now: float) -> Iterator[tuple[str, object]]:
    yield "batch", view.id if view.name is None else f"{view.id} ({view.name})"
    yield "created", local_time(view.created_at, now)
    yield "ended", end_of_batch(view, now)
    yield "jobs", ", ".join(f"{getattr(view, name)} {name}" for name in BATCH_COUNTS if getattr(view, name))
    for event, each in (("then", view.then), ("catch", view.catch), ("finally", view.finally_)):
        if each is not None:
            command = each.target or " ".join(map(quoted, each.argv or ()))
            yield event, f"{command} ({'not started' if each.job is None else f'job {each.job}'})"
