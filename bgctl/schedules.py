"""The verb schedule: jobs that start at certain times, and their history."""

from __future__ import annotations

import os
import pwd
import re
import shlex
import shutil
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, get_args

import click

from bgctl import exit_codes
from bgctl.commands import (
    print_id,
    program_of,
    say_once_what_a_reboot_does,
    wait_or_follow,
)
from bgctl.common import (
    answer,
    global_options,
    print_json,
    print_lines,
    report,
    result_word,
    say,
)
from bgctl.crontab import (
    MAX_CRONTAB,
    PAM_FILES,
    Definition,
    Machine,
    has_user_column,
    pam_variables,
    parse_crontab,
)
from bgctl.options import (
    DURATION,
    FILE,
    TIME_LIMIT,
    Parsed,
    given_options,
    no_check_option,
    unset_option,
    unset_options_of_schedules,
    whole_number,
    with_options,
    with_schedule_options,
)
from bgctl.submitting import json_option, shell_option, with_end_options
from bgctl.tables import local_time, table_of
from bgctl.verbs import ProgramVerb, verb, verb_group
from bgd import Client, Refused
from bgd.core.schedule_spec import Missed, Overlap, ScheduleName, ScheduleSpec
from bgd.core.spec import JobSpec
from bgd.system import timezones
from bgd.text.brief import command_line, short_duration
from bgd.text.formatting import as_json, iso_time
from bgd.text.units import WrongValue
from bgd.wire.schedules import MAX_HISTORY, MAX_UPCOMING, OccurrenceView, ScheduleView

_HEADINGS = ("NAME", "NEXT", "LAST", "WHEN", "COMMAND")
_HISTORY_HEADINGS = ("DUE", "OUTCOME", "JOB", "REASON")
_NO_WHEN = "say when, after the name: a cron expression such as '0 3 * * *', 'every 15m', or --calendar SPEC"
_TIMES = frozenset({"hourly", "daily", "weekly", "monthly", "yearly"})  # cron knows them after an @
_name = click.argument("name")
_names = click.argument("names", nargs=-1, required=True, metavar="NAME...")
_schedule = click.argument("schedule", metavar="NAME")  # beside an option --name
_when = click.argument("when", required=False)


def _day(text: str) -> str:
    if "," in text:
        words = " ".join(f"--except {each.strip()}" for each in text.split(","))
        raise ValueError(f"{text!r} is not one day: write {words}")
    return text


_settings = with_options(
    click.option("--calendar", metavar="SPEC", help="Use a systemd calendar spec in place of WHEN."),
    click.option("--timezone", metavar="ZONE", help="Time zone of WHEN, for example Europe/Paris."),
    click.option(
        "--overlap",
        type=click.Choice([str(each) for each in Overlap]),
        help="What to do while an earlier job has not finished.",
    ),
    click.option(
        "--missed",
        type=click.Choice([str(each) for each in Missed]),
        help="What to do with missed times.",
    ),
    click.option(
        "--missed-within",
        type=TIME_LIMIT,
        metavar="D",
        help="Limit on the age of a missed time that runs.",
    ),
    click.option(
        "--jitter", type=DURATION, metavar="D", help="Delay each start by up to D, fixed per schedule."
    ),
    click.option(
        "--late-after", type=TIME_LIMIT, metavar="D", help="Mark a job late if not finished after D."
    ),
    click.option(
        "--except",
        "excluded",
        multiple=True,
        type=Parsed("day", _day),
        metavar="DAY",
        help="Skip this day: 2026-12-24 or 12-25.",
    ),
)


@verb("bgctl schedule list", "bgctl schedule list nightly --json")
@click.argument("name", required=False)
def list_command(daemon: Client, name: str | None) -> None:
    """List schedules with their next and last times.

    With NAME, list only that schedule.
    """
    views = daemon.schedules.list(name)
    if global_options().json:
        print_json([_as_json(view) for view in views])
    elif not views:
        say("no schedules: add one with `bgctl schedule add nightly '0 3 * * *' -- PROGRAM`")
    else:
        now = time.time()
        print_lines(*table_of(_HEADINGS, [_row(view, now) for view in views]))
        for view in views:
            if view.problem:
                say(f"schedule {view.name} never runs: {view.problem}")


@verb(
    "bgctl schedule add nightly '0 3 * * *' -- /usr/local/bin/backup --all",
    "bgctl schedule add tick 'every 15m' --overlap queue -- ./poll.sh",
    "bgctl schedule add report @daily --timezone Europe/Paris --target app.reports:build",
    cls=ProgramVerb,
    autostart=True,
)
@_settings
@with_schedule_options
@click.option("--target", metavar="TARGET", help="Run this class job instead of a program.")
@click.option("--args", "args_text", metavar="JSON", help="Positional arguments of TARGET, a JSON array.")
@click.option("--kwargs", "kwargs_text", metavar="JSON", help="Named arguments of TARGET, a JSON object.")
@click.option("--replace", is_flag=True, help="Replace a schedule of this name.")
@shell_option
@no_check_option("Store")
@_schedule
@_when
def add_command(
    daemon: Client,
    schedule: str,
    when: str | None,
    *,
    argv: tuple[str, ...],
    shell: bool,
    no_check: bool,
    **given: Any,
) -> None:
    """Add a schedule.

    WHEN is a cron expression, one of cron's @names such as @daily or @reboot, or 'every 15m'. The command
    gets the environment of the daemon, and runs in the current folder.
    """
    if " " in schedule:
        from bgctl.hints import name_first  # noqa: PLC0415 - only for an error

        if when and (" " in when or when.startswith("@")):
            raise click.UsageError(name_first(when, argv))
        raise click.UsageError(name_first(schedule, (when, *argv) if when else argv))
    values = _given(when, given)
    args = json_option("--args", values.pop("args_text", None), list)
    kwargs = json_option("--kwargs", values.pop("kwargs_text", None), dict)
    if not argv and "target" not in values:
        raise click.UsageError("a schedule needs a program: put it at the end, after --")
    if not values.keys() & {"cron", "calendar", "every"}:
        raise click.UsageError(_NO_WHEN)
    with program_of(argv, shell=shell, verb=f"schedule add {schedule} WHEN", does="stores") as words:
        view = daemon.schedules.add(
            schedule, words or None, args=args, kwargs=kwargs, check=bool(words) and not no_check, **values
        )
    say_once_what_a_reboot_does(daemon)
    report(_as_json(view), f"schedule {schedule} is stored{_next_in_words(view)}")


def _unset_values() -> dict[str, tuple[str, object]]:
    """Return what `edit --unset` accepts, each with the name that the client takes and the default."""
    job = JobSpec()
    schedule = ScheduleSpec(job=job)
    names = ("timezone", "overlap", "missed", "missed_within", "jitter", "late_after", "env_pass")
    settings = {name.replace("_", "-"): name for name in names} | {"except": "excluded"}
    return {option: (name, getattr(schedule, name)) for option, name in settings.items()} | {
        option: (name, getattr(job, name)) for option, name in unset_options_of_schedules().items()
    }


_UNSET = _unset_values()


@verb(
    "bgctl schedule edit nightly '30 4 * * *'",
    "bgctl schedule edit nightly --unset late-after",
    "bgctl schedule edit nightly --retries 2 -- /usr/local/bin/backup --fast",
    cls=ProgramVerb,
)
@_settings
@with_schedule_options
@unset_option(_UNSET, "late-after")
@shell_option
@no_check_option("Store")
@_schedule
@_when
def edit_command(
    daemon: Client,
    schedule: str,
    when: str | None,
    *,
    argv: tuple[str, ...],
    unset: tuple[str, ...],
    shell: bool,
    no_check: bool,
    **given: Any,
) -> None:
    """Change a schedule.

    --unset takes the name of an option without dashes and puts its default back. A running job is not
    affected. Use `bgd.toml` to change a schedule that is configured there.
    """
    values = _given(when, given)
    for option in unset:
        name, default = _UNSET[option]
        if values.setdefault(name, default) is not default:
            raise click.UsageError(f"--{option} and --unset {option} cannot be combined")
    if no_check:
        values["check"] = False
    if not values and not argv:
        raise click.UsageError(
            "nothing to change: give at least one option, see 'bgctl schedule edit --help'"
        )
    with program_of(argv, shell=shell, verb=f"schedule edit {schedule}", does="stores") as words:
        view = daemon.schedules.edit(schedule, words or None, **values)
    report(_as_json(view), f"schedule {schedule} is changed{_next_in_words(view)}")


@verb("bgctl schedule remove nightly", "bgctl schedule remove nightly weekly")
@_names
def remove_command(daemon: Client, names: tuple[str, ...]) -> int:
    """Remove schedules.

    Their history is kept, and running jobs continue.
    """
    return _act_on_each(daemon.schedules.remove, names, lambda _: "is removed")


@verb("bgctl schedule pause nightly", "bgctl schedule pause nightly weekly")
@_names
def pause_command(daemon: Client, names: tuple[str, ...]) -> int:
    """Skip the times of schedules until they are resumed."""
    undo = "is paused: `bgctl schedule resume {}` undoes that"
    return _act_on_each(daemon.schedules.pause, names, lambda view: undo.format(view.name))


@verb("bgctl schedule resume nightly", "bgctl schedule resume nightly weekly")
@_names
def resume_command(daemon: Client, names: tuple[str, ...]) -> int:
    """Undo `bgctl schedule pause`."""
    return _act_on_each(daemon.schedules.resume, names, lambda view: f"is resumed{_next_in_words(view)}")


def _act_on_each(act: Callable[[str], Any], names: tuple[str, ...], in_words: Callable[[Any], str]) -> int:
    """Act on each schedule and report the result; return 0, or the exit code of the first error."""
    errors: list[Refused] = []
    results: list[dict[str, object]] = []
    for name in dict.fromkeys(names):
        try:
            view = act(name)
        except Refused as error:
            errors.append(error)
            results.append({"name": name, "error": str(error)})
            say(str(error))
            continue
        fields = {"name": name, "removed": True} if view is None else _as_json(view)
        results.append({**fields, "error": None})
        if not global_options().json:
            say(f"schedule {name} {in_words(view)}")
    if global_options().json:
        print_json(results)
    return exit_codes.exit_code_of_error(errors[0]) if errors else 0


@verb("bgctl schedule run nightly", "bgctl schedule run nightly --follow")
@with_end_options
@_name
def run_command(daemon: Client, name: str, *, wait: bool, follow: bool) -> int:
    """Queue the job of a schedule now and print its id.

    It is the same job with the same environment. --overlap of the schedule says what happens while an earlier
    one has not finished; with skip this is refused.
    """
    job = daemon.schedules.run(name)
    print_id(job)
    return wait_or_follow(daemon, job, wait=wait, follow=follow)


@verb("bgctl schedule next nightly", "bgctl schedule next nightly -n 10")
@click.option(
    "-n", "--count", type=whole_number(1, MAX_UPCOMING), default=5, metavar="N", help="Number of times."
)
@_name
def next_command(daemon: Client, name: str, *, count: int) -> None:
    """Show when a schedule is due next, in its time zone."""
    [view] = daemon.schedules.list(name, upcoming=count)
    if global_options().json:
        print_json({"name": name, "timezone": view.timezone, "next": [iso_time(at) for at in view.upcoming]})
        return
    zone = "" if view.timezone in view.words else f", {view.timezone}"
    say(f"schedule {name}: {view.words}{zone}")
    if view.is_paused:
        say(f"it is paused: `bgctl schedule resume {name}` undoes that")
    now = time.time()
    times = [(timezones.time_in_zone(at, view.timezone), at - now) for at in view.upcoming]
    print_lines(*(f"{words} (in {short_duration(left)})" for words, left in times))


_ROWS = 20  # of a history, by default


@verb("bgctl schedule history nightly", "bgctl schedule history nightly -n 200 --json")
@click.option(
    "-n", "--limit", type=whole_number(1, MAX_HISTORY), default=_ROWS, metavar="N", help="Number of rows."
)
@click.option(
    "--before", type=whole_number(1, 2**63 - 1), metavar="ROW", help="Show only rows below this one."
)
@_name
def history_command(daemon: Client, name: str, *, limit: int, before: int | None) -> None:
    """Show the history of a schedule, newest first.

    Each time, its job was queued, or it was skipped, replaced or missed. A row may stand for several times in
    a row.
    """
    rows = daemon.schedules.history(name, limit=limit, before=before)
    if not (rows or global_options().json):
        say(f"schedule {name} has not been due yet")
        return
    answer(as_json(rows), *table_of(_HISTORY_HEADINGS, map(_history_row, rows)))
    if len(rows) == limit == _ROWS:
        say(f"showing {limit} rows; there may be more: --limit N, --before {rows[-1].id}")


@verb(
    "crontab -l | bgctl schedule import -",
    "bgctl schedule import /etc/cron.d/backup --dry-run",
    autostart=True,
)
@click.option("--dry-run", is_flag=True, help="Only show what would be stored.")
@click.option("--replace", is_flag=True, help="Replace schedules of the same names.")
@click.option("--prefix", default="", metavar="TEXT", help="Prefix each name with TEXT.")
@click.argument("crontab", type=FILE, metavar="CRONTAB|-")
def import_command(daemon: Client, crontab: str, *, dry_run: bool, replace: bool, prefix: str) -> int:
    """Store a schedule for each line of a crontab.

    The crontab is not changed: check `bgctl schedule`, then remove its lines, or both run. Messages report
    each difference from cron. If a line cannot be imported, the others are stored and the exit code is 65.
    """
    try:
        read = parse_crontab(_crontab_text(crontab), machine_of(Path(crontab)))
    except ValueError as error:
        raise Refused(f"{crontab}: {error}") from error
    for note in read.notes:
        say(f"{crontab}: {note}")
    definitions = {prefix + each.name: each for each in read.definitions}
    for name in definitions:
        if not re.fullmatch(get_args(ScheduleName)[1].pattern, name):
            raise click.UsageError(f"--prefix: {WrongValue(name, ScheduleName)}")
    if not replace:
        _refuse_names_in_use(daemon, definitions)
    if dry_run:
        for name, each in definitions.items():
            click.echo(f"{name}  {each.cron}  {shlex.join(each.argv)}")
    else:
        schedules = {name: _as_schedule(each) for name, each in definitions.items()}
        daemon.schedules.add_many(schedules, replace=replace)
        if schedules:
            click.echo("\n".join(schedules))
            say_once_what_a_reboot_does(daemon)
    left_out = sum(note.is_left_out for note in read.notes)
    if not left_out:
        return 0
    say(f"{crontab}: not imported: {left_out} of {left_out + len(read.definitions)} lines")
    return exit_codes.LEFT_OUT


def machine_of(path: Path) -> Machine:
    """Return the machine of a crontab at this path."""
    user = pwd.getpwuid(os.getuid())
    pam: dict[str, str] = {}
    for file in PAM_FILES:
        with suppress(FileNotFoundError):
            pam |= pam_variables(Path(file).read_text(errors="surrogateescape"))
    return Machine(
        user=user.pw_name,
        home=user.pw_dir,
        has_users=has_user_column(path),
        is_user=_is_only_a_user,
        is_folder=os.path.isdir,
        pam=pam,
    )


def _is_only_a_user(word: str, path: str) -> bool:
    try:
        pwd.getpwnam(word)
    except (KeyError, ValueError):
        return False
    return shutil.which(word, path=path) is None


def _refuse_names_in_use(daemon: Client, definitions: dict[str, Definition]) -> None:
    in_use = sorted({view.name for view in daemon.schedules.list(upcoming=0)} & definitions.keys())
    if in_use:
        raise Refused(
            f"there are schedules already named {', '.join(in_use[:5])}{', ...' if in_use[5:] else ''}: "
            "--replace replaces them, --prefix TEXT changes the names; nothing was stored"
        )


def _as_schedule(each: Definition) -> dict[str, object]:
    fields = ("argv", "cron", "overlap", "env", "cwd", "input")
    return {name: getattr(each, name) for name in fields} | {"env_pass": (), "check": False}


def _crontab_text(path: str) -> str:
    """Return the text of a crontab; bytes that are not UTF-8 stay."""
    try:
        if path == "-":
            return sys.stdin.buffer.read(MAX_CRONTAB + 1).decode(errors="surrogateescape")
        with Path(path).open("rb") as file:
            return file.read(MAX_CRONTAB + 1).decode(errors="surrogateescape")
    except OSError as error:
        raise Refused(f"cannot read {path}: {error.strerror}") from error


schedule_command = verb_group(
    "schedule",
    "Run jobs at certain times.",
    list_command,
    add_command,
    edit_command,
    remove_command,
    pause_command,
    resume_command,
    run_command,
    next_command,
    history_command,
    import_command,
)


def _given(when: str | None, given: dict[str, Any]) -> dict[str, Any]:
    """Return the settings and options that were given, with WHEN as the client takes it."""
    if given.get("stdin") == "-":
        raise click.UsageError("--stdin - cannot be read again each time: write a file and use --stdin FILE")
    values = given_options(given)
    if when is None:
        return values
    if "calendar" in values:
        raise click.UsageError(f"--calendar and {when!r} both say when: give one of them")
    kind, _, rest = when.strip().partition(" ")
    if len(when.split()) == 1 and not kind.startswith("@"):
        if ":" in when:
            raise click.UsageError(f"{when!r} is a systemd calendar spec: use --calendar {when}")
        remedy = f"write @{when}," if when in _TIMES else "write all of it in quotes, such as"
        raise click.UsageError(f"{when!r} is not a time: {remedy} '0 3 * * *' or 'every 15m'")
    return values | ({"every": rest.strip()} if kind == "every" else {"cron": when})


def _next_in_words(view: ScheduleView) -> str:
    if view.is_paused:
        return ", and paused"
    if not view.upcoming:
        return "" if view.spec.cron == "@reboot" else "; it is never due"
    at = view.upcoming[0]
    return f"; next: {timezones.time_in_zone(at, view.timezone)}, in {short_duration(at - time.time())}"


def _row(view: ScheduleView, now: float) -> tuple[str, ...]:
    upcoming = f"in {short_duration(view.upcoming[0] - now)}" if view.upcoming else "-"
    latest = view.latest
    last = (
        "-" if latest is None else f"{result_word(latest.outcome)} {short_duration(now - latest.due_at)} ago"
    )
    if view.is_late:
        last += ", late"
    return (
        view.name,
        "paused" if view.is_paused else upcoming,
        last,
        view.words if view.spec.timezone else view.words.replace(f", {view.timezone}", ""),
        command_line(view.spec.job),
    )


def _history_row(each: OccurrenceView) -> tuple[str, ...]:
    count = f", {each.count} times" if each.count > 1 else ""
    return (
        local_time(each.due_at, time.time()),
        f"{result_word(each.outcome)}{count}{', late' if each.late else ''}",
        "-" if each.job is None else str(each.job),
        each.reason or "",
    )


def _as_json(view: ScheduleView) -> dict[str, object]:
    import msgspec  # noqa: PLC0415 - people read text

    spec = msgspec.to_builtins(view.spec)
    job = spec.pop("job")
    if excluded := spec.pop("excluded", None):
        spec["except"] = excluded
    return {
        "name": view.name,
        **job,
        **spec,
        "configured": view.is_configured,
        "paused": view.is_paused,
        "when": view.words,
        "timezone": view.timezone,
        "next": iso_time(view.upcoming[0]) if view.upcoming else None,
        "last": as_json(view.latest),
        "problem": view.problem,
        "late": view.is_late,
    }
