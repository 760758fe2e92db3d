"""The verbs submit, call and run: create jobs."""

from __future__ import annotations

from typing import Any, TypeVar

import click

from bgctl.commands import (
    print_id,
    queue_command_of,
    say_if_exists,
    say_if_it_is_too_wide,
    say_obstacle,
    say_once_what_a_reboot_does,
    wait_or_follow,
)
from bgctl.common import global_options, say
from bgctl.options import (
    ARGUMENT,
    MAX_OUTPUT,
    job_options,
    no_check_option,
    with_call_options,
    with_command_options,
    with_options,
)
from bgctl.plain import input_waits
from bgctl.verbs import quiet_option, verb
from bgd import Client
from bgd.client.specs import with_references

T = TypeVar("T")

# The headings of the help, each with the parameters below it
GROUPS = {
    "Lines": "jobs ndjson null template skip halt joblog resume retry_failed",
    "What runs": "executor shell no_check cwd env env_pass isolation named args_text kwargs_text",
    "When": "queue priority delay at expires after after_any slots resources hold",
    "Retries": "retries retry_delay retry_until backoff max_delay jitter retry_on no_retry_on rerun",
    "Follow-ups": "on_failure on_success then catch finally_ notify session",
    "On a cluster": "cpus memory nodes gpus gres time partition account slurm_options",
    "Keys": "key key_until key_for debounce limit on_limit",
    "Limits": "timeout stop_signal keep_leftovers nice memory_max cpu_max pids_max open_files core_max",
    "Input and output": "stdin interactive pty raw most quiet wait follow",
    "Finding it": "name tags",
}


class JobVerb(click.Command):
    """A verb that makes a job; its help groups the options."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options below their headings."""
        options = [param for param in self.get_params(ctx) if isinstance(param, click.Option)]
        params = [(option.name, option.get_help_record(ctx)) for option in options]
        grouped = {heading: names.split() for heading, names in GROUPS.items()}
        grouped["Other"] = [str(name) for name, _ in params if name not in " ".join(GROUPS.values()).split()]
        for heading, names in grouped.items():
            rows = [record for each in names for name, record in params if name == each and record]
            if rows:
                with formatter.section(heading):
                    formatter.write_dl(rows)


_program = click.argument("argv", nargs=-1, required=True, metavar="PROGRAM [ARGS]...", type=ARGUMENT)
_no_check = no_check_option("Queue")
shell_option = click.option("--shell", is_flag=True, help="Run PROGRAM, one quoted text, with /bin/sh.")
with_end_options = with_options(
    click.option("--wait", is_flag=True, help="Wait for the job and exit with its code."),
    click.option("-f", "--follow", is_flag=True, help="Show the output and exit with the job's code."),
    quiet_option,
)


@verb(
    "bgctl submit make -j2",
    "bgctl submit -p 10 --timeout 5m -n nightly -- rsync -a /srv/ /backup/",
    "bgctl submit --retries 3 --retry-delay 30s --backoff 2 ./flaky.sh",
    "bgctl submit --after last --shell 'zcat /srv/*.gz | sort -u > all.txt'",
    ends_options=True,
    cls=JobVerb,
    autostart=True,
)
@with_command_options
@shell_option
@_no_check
@with_end_options
@_program
def submit_command(
    daemon: Client,
    argv: tuple[str, ...],
    *,
    shell: bool,
    no_check: bool,
    wait: bool,
    follow: bool,
    **given: Any,
) -> int:
    """Queue a command and print its id.

    Standard input is empty unless --stdin is given.
    """
    options = job_options(daemon, given)
    job = queue_command_of(daemon, argv, options, shell=shell, no_check=no_check, verb="submit")
    print_id(job)
    say_if_exists(job, options)
    return wait_or_follow(daemon, job, wait=wait, follow=follow)


@verb(
    "bgctl call app.services:ExampleService.example_method param1 param2",
    "bgctl call app.reports:build month=2026-10 copies=3 --retries 0",
    "bgctl call app.mail:send --args '[\"someone@example.org\", 3]' --kwargs '{\"urgent\": true}'",
    cls=JobVerb,
    autostart=True,
)
@with_call_options
@with_end_options
@click.option("--kw", "named", multiple=True, metavar="K=V", help="Pass a named argument, as text.")
@click.option("--args", "args_text", metavar="JSON", help="Pass positional arguments as a JSON array.")
@click.option("--kwargs", "kwargs_text", metavar="JSON", help="Pass named arguments as a JSON object.")
@click.argument("target")
@click.argument("args", nargs=-1)
def call_command(
    daemon: Client,
    target: str,
    args: tuple[str, ...],
    *,
    named: tuple[str, ...],
    wait: bool,
    follow: bool,
    **given: Any,
) -> int:
    """Queue a class job and print its id.

    TARGET is package.module:Class.method or package.module:function; in another language it is runner::name
    or runner::name@method.

    ARGS are converted by the function's annotations: int, float, bool, None, and JSON for list and dict.
    NAME=VALUE is a named argument if the function has such a parameter. Without annotation ARGS are text.
    """
    positional: list[object] = with_references(json_option("--args", given.pop("args_text"), list))
    keywords = with_references(json_option("--kwargs", given.pop("kwargs_text"), dict)) | _keywords(named)
    from bgctl.arguments import read_arguments  # noqa: PLC0415 - it reads the configuration and source

    positional, keywords = read_arguments(daemon, target, args, positional, keywords)
    options = job_options(daemon, given)
    options["check"] = False  # what bgctl itself imports, such as click, may be another version in the worker
    job = daemon.call(target, positional, keywords, **options)
    print_id(job)
    say_if_it_is_too_wide(daemon, options)
    say_once_what_a_reboot_does(daemon, options)
    say_if_exists(job, options)
    return wait_or_follow(daemon, job, wait=wait, follow=follow)


@verb(
    "bgctl run make test",
    "bgctl run --timeout 1h -- ./import.sh --all",
    "bgctl run --max-output 4KB make test",
    ends_options=True,
    cls=JobVerb,
    autostart=True,
)
@with_command_options
@shell_option
@_no_check
@click.option("--raw", is_flag=True, help="Print the output unchanged.")
@click.option(
    "--max-output", "most", type=MAX_OUTPUT, metavar="SIZE", help="Print only the first and last bytes."
)
@quiet_option
@click.option("-i", "stdin", flag_value="-", help="Pass stdin to the command, as --stdin - does.")
@click.option("-it", "interactive", is_flag=True, help="Type into the command's terminal while it runs.")
@_program
def run_command(
    daemon: Client, argv: tuple[str, ...], *, interactive: bool, raw: bool, most: int | None, **given: Any
) -> int:
    """Queue a command, show its output, and exit with its code.

    Standard input is empty unless -i or --stdin is given. With --pty its output is printed unchanged.

    Ctrl-C leaves the job running; a second Ctrl-C cancels it. The exit code is the job's own, or 128+N after
    signal N, 124 after its timeout, 127 or 126 if it could not be started, 143 if it was cancelled, else 125.

    --max-output prints the beginning of the output as it comes, and its end when the job has finished: at
    most SIZE bytes with the messages of bgctl, which say how much is left out and how to read it.
    """
    if interactive:
        from bgctl.attaching import attach, check_terminal  # noqa: PLC0415 - it imports an event loop

        check_terminal("run -it")
        if given["stdin"] or most is not None:
            raise click.UsageError("-it types while the command runs: leave out -i, --stdin and --max-output")
        given["pty"] = True
    how = {name: given.pop(name) for name in ("shell", "no_check")}
    options = job_options(daemon, given)
    job = queue_command_of(daemon, argv, options, verb="run", **how)
    if global_options().json:
        print_id(job)
    say_if_exists(job, options)
    say_obstacle(job)
    if interactive:
        return attach(daemon, job.id, is_new=True)
    from bgctl.output import follow_job  # noqa: PLC0415 - most submits do not wait

    # with its own terminal the job expects this one to obey its control characters
    code = follow_job(daemon, job, raw=raw or options.get("pty", False), most=most)
    if "stdin" not in options and "input" not in options and input_waits(argv):
        import shlex  # noqa: PLC0415 - hardly any command gets here

        say(f"the job did not get what was piped in: `bgctl run -i {shlex.join(argv)}` passes it on")
    return code


def json_option(option: str, text: str | None, kind: type[T]) -> T:
    """Parse the JSON array or object of an option; return an empty one if it was not given."""
    if text is None:
        return kind()
    import json  # noqa: PLC0415 - commands, which most jobs are, have no such option

    try:
        value = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise click.UsageError(f"{option} is not valid JSON: {error}") from error
    if not isinstance(value, kind):
        raise click.UsageError(f"{option} takes a JSON {'array' if kind is list else 'object'}, not {text}")
    return value


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")


def _keywords(words: tuple[str, ...]) -> dict[str, str]:
    keywords = {}
    for word in words:
        name, equals, keywords[name] = word.partition("=")
        if not (name and equals):
            raise click.UsageError(f"--kw takes NAME=VALUE, not {word!r}")
    return keywords
