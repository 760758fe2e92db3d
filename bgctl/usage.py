"""Usage errors in one sentence, with what to type instead."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

import click

from bgctl.hints import OPTIONS, OPTIONS_OF_VERBS, PROGRAM_OPTIONS, RETRY, STATES, VALUES, is_one_edit
from bgctl.submitting import call_command, run_command, submit_command


def message_of(error: click.ClickException) -> str:
    """Return the message of a usage error."""
    if isinstance(error, click.BadOptionUsage):  # it has no context, so the verb is unknown
        return _wrong_use(error.option_name, error.message)
    if isinstance(error, click.UsageError) and error.ctx is not None:
        return _problem_with_words(error, error.ctx)
    return error.format_message()


def _problem_with_words(error: click.UsageError, context: click.Context) -> str:
    see = f"see '{context.command_path} --help'"
    match error:
        case click.MissingParameter() if context.info_name == "run" and context.params.get("tags"):
            return "missing argument PROGRAM: -t is a tag; `bgctl run -it PROGRAM` types into its terminal"
        case click.MissingParameter(param=click.Parameter() as missing):
            queue = context.params.get("name") if context.command_path == "bgctl queue set" else None
            hint = see if queue is None else f"type `bgctl queue set {queue} --slots N`"
            return f"missing {missing.param_type_name} {_name_of(missing, context)}: {hint}"
        case click.BadParameter(param=click.Parameter() as wrong):
            name = _name_of(wrong, context)
            meaning = VALUES.get(f"{context.info_name} {name}")
            problem = _state_by_meaning(name, error.message) or _one_of(error.message)
            return f"{name}: {problem}{f': {meaning}' if meaning else ''}"
        case click.NoSuchOption(option_name=option):
            return _other_option(option, context) or f"no option {option}: {see}"
        case click.UsageError(message=message):
            if extra := re.fullmatch(r"Got unexpected extra arguments? \((.*)\)", message, re.DOTALL):
                hint = _INSTEAD_OF_ARGUMENTS.get(context.command_path, see)
                return f"unexpected argument {extra[1]!r}: {hint}"
            return error.format_message()


def _wrong_use(option: str, message: str) -> str:
    if "requires" not in message:
        return f"option {option} takes no value"
    hint = ": -q NAME chooses a queue; `bgctl list --ids` prints only ids" if option == "-q" else ""
    return f"option {option} needs a value{hint}"


def _name_of(parameter: click.Parameter, context: click.Context) -> str:
    """Return the long spelling of an option, or what the help calls an argument."""
    if isinstance(parameter, click.Option):
        return max(parameter.opts, key=len)
    return parameter.make_metavar(context).strip("[]{}.").partition(" ")[0]


def _one_of(message: str) -> str:
    """Return click's message about a choice in the form of all others."""
    value, middle, words = message.rstrip(".").rpartition(" is not one of ")
    return f"{value}{middle}{words.replace(chr(39), '')}" if middle else message


def _state_by_meaning(option: str, message: str) -> str | None:
    """Return a hint for a state of another program; None if it is unknown."""
    word = message.partition("' is not one of ")[0].removeprefix("'")
    return f"no state {word!r}: {STATES[word]}" if option == "--state" and word in STATES else None


def _other_option(option: str, context: click.Context) -> str | None:
    """Return what to type in place of an option that a verb does not have; None without a hint."""
    if hint := _hint_for_other_verb(option, context.info_name):
        return hint
    own = {spelling for each in context.command.params for spelling in each.opts}
    here = PROGRAM_OPTIONS if context.parent is None else OPTIONS_OF_VERBS.get(context.info_name or "", {})
    if hint := here.get(option) or _hint_by_meaning(option, own):
        return f"no option {option}: {hint}"
    if not option.startswith("--"):
        return None
    long = [each for each in own if each.startswith("--")]
    alike = [each for each in sorted(long) if is_one_edit(option, each)]
    alike += difflib.get_close_matches(option, long, n=1, cutoff=_SURELY_MEANT)
    return f"no option {option}: did you mean {alike[0]}?" if alike else None


def _hint_for_other_verb(option: str, own: str | None) -> str | None:
    """Name the other verb for new jobs that has this option; None if there is none."""
    if own == "run" and option in _OPTIONS_TO_WAIT:
        return f"{option} is for submit: run always shows the output and waits for the end"
    if own not in _FOR_NEW_JOBS:
        return None
    if own == "submit" and option == "-i":
        return "-i is for run: --stdin - passes the input of submit to the job"
    for verb, command in _FOR_NEW_JOBS.items():
        if any(option in each.opts for each in command.params):
            kind = "class jobs" if verb == "call" else "commands"
            return f"{option} is for {kind}: see 'bgctl {verb} --help'"
    return None


def _hint_by_meaning(option: str, own: Iterable[str]) -> str | None:
    """Return an equivalent option; None if there is none, or not for a verb with these options."""
    hints = OPTIONS.get(option, ())
    for hint in (hints,) if isinstance(hints, str) else hints:
        named = set() if "`bgctl" in hint else set(re.findall(r"(?<!\S)--?[a-z][a-z-]*", hint))
        if named <= set(own):
            return hint
    return None


_FOR_NEW_JOBS = {"submit": submit_command, "call": call_command, "run": run_command}
_INSTEAD_OF_ARGUMENTS = {
    "bgctl reload": f"it reads the configuration again; {RETRY}",
    "bgctl stats": "`bgctl stats --window 1d` looks back a day",
    "bgctl top": "`bgctl show --usage ID` shows what a job uses",
}
_SURELY_MEANT = 0.85  # of difflib; less similar words mean something else
_OPTIONS_TO_WAIT = ("--wait", "--follow", "-f")
