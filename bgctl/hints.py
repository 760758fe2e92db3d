"""Hints for words of other programs, such as docker, systemctl, celery, at or pueue."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TypeVar

from bgctl.plain import OPERATORS
from bgd.text.brief import quoted

_SUBMIT = "`bgctl submit PROGRAM` queues a command"
_CANCEL = "`bgctl cancel ID` stops a job"
_FOLLOW = "`bgctl logs -f ID` follows the output of a job"
_LIST = "`bgctl list` shows jobs, with `--json` for programs"
_SHOW = "`bgctl show ID` shows all about a job"
_LOGS = "`bgctl logs ID` shows the output of a job, with `-f` while it runs"
_STATE = "`bgctl show ID` shows the state of a job, `bgctl wait ID` exits with its code"
_EDIT = "`bgctl edit ID` changes a waiting job"
_SCHEDULE = "`bgctl schedule add NAME '0 3 * * *' -- PROGRAM` runs it at certain times"
_PRUNE = "`bgctl prune` deletes old finished jobs, `bgctl remove ID` those you name"
_BATCHES = "`bgctl batch list` lists batches, `bgctl batch show NAME` shows one"
_SLOTS = "`bgctl slots N` sets how many jobs run at once"
_BATCH = "`bgctl batch -- PROGRAM` queues a job for each line of stdin"
RETRY = "`bgctl retry ID` runs a finished job again, `bgctl retry --state failed` all that failed"
_WHEN = "`bgctl submit --at TIME PROGRAM` or `--delay D` starts a command later"
_DAEMON = "`bgd` starts the daemon, and so does a submit"

T = TypeVar("T")


def _by_word(hints: dict[str, T]) -> dict[str, T]:
    """Return a table by single words of one by several words."""
    return {word: hint for words, hint in hints.items() for word in words.split()}


_VERBS = {
    "add new create nohup launch push qsub sbatch spawn": _SUBMIT,
    "apply compose": "bgd reads no files of jobs: " + _SUBMIT,
    "exec": "`bgctl run PROGRAM` runs a command; `bgctl show ID` has the pid of a job",
    "start enqueue": "`bgctl submit PROGRAM` queues a command, `bgctl release ID` lets a held job start",
    "unhold unstash": "`bgctl release ID` lets a held job start",
    "abort atrm qdel revoke scancel terminate": _CANCEL,
    "kill": "`bgctl cancel ID` stops a job, `bgctl signal ID -s KILL` sends a signal",
    "stop": "`bgctl cancel ID` stops a job, `bgctl suspend ID` halts it, `bgctl shutdown` stops the daemon",
    "atq get history jlist jobs list-units ps squeue container job pod pods processes task tasks": _LIST,
    "report summary": "`bgctl stats` shows the number of jobs and how they ended",
    "monit monitor": "`bgctl watch` shows jobs while they change",
    "htop": "`bgctl top` shows what running jobs use",
    "describe inspect pid": _SHOW,
    "has-session is-active is-failed poll result": _STATE,
    "capture-pane cat journal journalctl": _LOGS,
    "follow output tail": _FOLLOW,
    "a fg": "`bgctl attach ID` types into a job with a terminal, `bgctl logs -f ID` follows any job",
    "clean cleanup clear empty flush gc purge reset system": _PRUNE,
    "del delete rm": "`bgctl remove ID` deletes a finished job; " + _CANCEL,
    "redo requeue rerun restart rollout": f"{RETRY}; for a running job first `bgctl cancel ID`",
    "change modify rename set update": _EDIT,
    "nice renice": "`bgctl submit --nice N PROGRAM` queues a nice job, `bgctl edit ID --nice N` changes one",
    "priority switch": "`bgctl edit ID -p N` changes the priority of a waiting job",
    "annotate label tag": "`bgctl edit ID --tag TEXT` labels a waiting job",
    "cordon drain": "`bgctl pause` starts no more jobs, `bgctl resume` undoes it",
    "dump resurrect save": "bgd keeps all jobs on disk: there is nothing to save",
    "stash": "`bgctl hold ID` keeps a job from starting",
    "freeze": "`bgctl suspend ID` halts a running job",
    "bg thaw unfreeze": "`bgctl continue ID` continues a suspended job",
    "concurrency multi scale workers": _SLOTS,
    "group groups queues": "`bgctl queue` shows and changes queues",
    "at later timer": _WHEN,
    "beat cron crontab": f"{_SCHEDULE}, `bgctl schedule list` lists schedules",
    "list-timers schedules timers": "`bgctl schedule` lists schedules",
    "find grep": "`bgctl search TEXT` searches all logs, `bgctl list --name GLOB` finds jobs",
    "array map xargs": _BATCH,
    "batches": _BATCHES,
    "chain workflow": "`bgctl submit --after ID PROGRAM` starts a command after a job",
    "parallel": f"{_SLOTS}, {_BATCH}",
    "detach": "every job runs in the background: Ctrl-C ends only `bgctl logs -f` and `bgctl run`",
    "version": "`bgctl --version` prints the version",
    "enable install startup": "`bgctl service install` starts bgd with the machine",
    "disable uninstall": "`bgctl service remove` no longer starts bgd with the machine",
    "daemon serve server up worker": _DAEMON,
    "control down kill-server quit": "`bgctl shutdown` stops the daemon",
    "unpause": "`bgctl resume` undoes `bgctl pause`, `bgctl continue ID` continues a suspended job",
    "daemon-reload": "`bgctl reload` reads the configuration again",
    "health ping": "`bgctl info` shows the daemon, `bgctl doctor` checks it",
    "reason why": "`bgctl explain ID` says why a job does not run",
    "alert mail notify": "`bgctl submit --notify TARGET PROGRAM` tells you how a job ends",
    "image images": "jobs run programs of this machine: there are no images",
    "flower ui web": "`bgctl dashboard` prints a link to the pages",
    "auth login": "`bgctl dashboard` prints a link that logs in to the pages",
    "cp diff": "`bgctl logs ID` prints the output of a job, with `--path` the name of its file",
    "env": "`bgctl submit -e K=V PROGRAM` sets a variable; bgd does not show those of a job",
}
VERBS = _by_word(_VERBS)
"""What to type in place of a verb that bgctl does not have."""

_VERBS_OF_GROUPS = {
    "queue": {
        "add create edit new": "`bgctl queue set NAME --slots N` makes or changes a queue",
        "delete rm": "`bgctl queue remove NAME` makes it as configured",
        "get info show status": "`bgctl queue list` shows all queues",
        "pause resume": "`bgctl pause NAME` and `bgctl resume NAME` do it",
    },
    "config": {
        "edit set": "edit the file that `bgctl config show` names at its top, then `bgctl reload`",
        "check test validate": "`bgd --check` checks the configuration",
    },
    "service": {
        "disable uninstall": "`bgctl service remove` removes it",
        "enable start": "`bgctl service install` starts it, now and with the machine",
    },
    "schedule": {
        "create new set": "`bgctl schedule add` adds one, `edit` changes one",
        "delete rm": "`bgctl schedule remove NAME` removes one",
        "disable stop suspend": "`bgctl schedule pause NAME` skips its times",
        "enable unpause": "`bgctl schedule resume NAME` undoes `bgctl schedule pause`",
        "now start trigger": "`bgctl schedule run NAME` queues its job now",
        "get info show status": "`bgctl schedule list NAME --json` shows all of it",
        "rename": "add it again under the other name, then `bgctl schedule remove NAME`",
        "log logs": "`bgctl logs NAME` shows its last output, `history` its times",
    },
}
VERBS_OF_GROUPS = {group: _by_word(hints) for group, hints in _VERBS_OF_GROUPS.items()}
"""What to type in place of a verb that a group of verbs does not have."""

_BACKGROUND = "leave it out: `bgctl submit` returns at once, the job runs in the background"

_OPTIONS: dict[str, str | tuple[str, ...]] = {
    "--countdown --in --on-active --wait-for": "--delay D starts a job later",
    "--begin --date --eta --start-time": "--at TIME starts a job at a time",
    "--on-error --failed --link-error": "--on-failure 'CMD ARGS' runs a command if the job fails",
    "--after-success --link": "--on-success 'CMD ARGS' runs a command if the job succeeds",
    "--then --catch --finally": "it is for a batch: `bgctl batch --then 'CMD ARGS' -- PROGRAM ::: ARG...`",
    "--unique-for": "--key TEXT --key-for D queues no second job until D after its end",
    "--dependency --depends --depends-on --needs -a": "--after ID waits for a job",
    "--label --labels -l": "--tag TEXT is a label of jobs",
    "--group -g": "--queue NAME chooses the queue",
    "--description --job-name --title --unit": "--name TEXT is the name of a job",
    "-S": f"--name TEXT names a job, {_SLOTS}",
    "--paused --stashed": "--hold keeps a job from starting",
    "--deadline --ttl": "--expires D cancels a job that has not started within D",
    "--max-time --runtime --time --time-limit": "--timeout D is the time limit",
    "--attempts --max-retries --restart --retry --tries": "--retries N tries again after a failure",
    "--background --bg --detach -D -d": _BACKGROUND,
    "--resume-failed": "--retry-failed resumes and reruns failed lines",
    "--rm": "leave it out: `bgctl prune` and [retention] delete finished jobs",
    "--chdir --dir --workdir --working-directory -C": "--cwd DIR sets it",
    "--environment --export --setenv -E": "--env K=V sets a variable",
    "--mem --memory -m": "--memory-max SIZE limits memory",
    "--cpu --cpu-limit --cpus": "--cpu-max PERCENT limits processor time",
    "--pids-limit": "--pids-max N limits processes",
    "--log --output -o": "`bgctl logs ID` shows the output of a job; --json is output for programs",
    "--interactive --tty -it": (
        "-it types into its terminal",
        "`bgctl run -it PROGRAM` does, --pty gives a job a terminal",
    ),
    "--concurrency --jobs --max-procs --workers -P -j": ("-j N runs N of them at once", _SLOTS),
    "--dedupe --job-id --task-id --unique -k": "--key TEXT queues only one job",
    "--quiet --silent": "leave it out: bgctl prints little, `--ids` of list only ids",
    "--force -9": "`bgctl signal ID -s KILL` kills at once",
    "--lines --tail": "`bgctl logs -n N ID` shows the last lines of output",
    "--cron --every --on-calendar --schedule --when": (
        "write '0 3 * * *' or 'every 15m' after the name, or use --calendar SPEC",
        _SCHEDULE,
    ),
    "--tz --zone": "--timezone ZONE sets the zone of its times",
    "--grace --late": "--late-after D says when a job is late",
    "--dry-run": "`bgctl cancel`, `retry`, `remove` and `prune` have it; submit does not",
    "--immediate": "leave it out: a job starts as soon as a slot is free",
    "--print-task-id": "leave it out: submit prints the id",
    "--since": ("--window D looks back this far", "`bgctl logs --since WHEN ID` shows output, `list` jobs"),
    "--rate": "[queues.NAME] rate in the configuration limits how many jobs start in some time",
    "--weight": "[queues.NAME] weight in the configuration shares the slots out among queues",
    "--failed --queued --running --status": "--state STATE selects jobs by state",
    "--mount --volume -v": "leave it out: jobs use the files of this machine, --cwd DIR is where they run",
    "--session": "--filter session:NAME selects the jobs of a session",
    "--filter": "--state, --queue, --name and --tag select jobs",
    "--previous -p": ("--attempt N shows an earlier attempt", "--json prints everything, for programs"),
    "--property --format": "--json prints everything, for programs",
    "--no-pager": "leave it out: bgctl has no pager",
    "--err --stderr": "leave it out: `bgctl logs ID` shows stdout and stderr together",
    "--results": "`bgctl logs ID` shows the output of a job",
    "-w": ("--cwd DIR sets it", "--watch shows jobs while they change", "-f follows new output"),
    "--watch": "-f follows new output",
    "--match": "`bgctl wait --match REGEX ID` waits for a line of output, `bgctl search TEXT` finds lines",
    "--grep": "`bgctl search TEXT ID` prints the lines that contain a text",
    "--bar --progress": "`bgctl wait --progress ID` shows how far jobs are",
    "--no-stream": "leave it out: bgctl prints once, `bgctl watch` shows jobs while they change",
    "--interval": "`bgctl watch` shows jobs while they change",
    "--array --arrays": _BATCH,
    "--condition --for": "`bgctl wait ID` waits for the end, `bgctl wait --match REGEX ID` for a line",
    "--all -A": ("--state STATE selects jobs; --yes asks no question", "`bgctl list --all` lists all jobs"),
    "--mail --mail-type --mail-user": "--notify NAME tells a [notify] target how a job ends",
    "-f": ("--yes asks no question",),
    "-t": ("--timestamps shows the time of each line",),
}
OPTIONS = _by_word(_OPTIONS)
"""What to type in place of an option that a verb does not have: the first that the verb understands."""

_FROM_FILE = "`bgctl batch -- PROGRAM < FILE` queues a job for each line"
_SEVERAL_WORDS = "a job gets one line: `xargs -n 2 echo PROGRAM | bgctl batch` writes lines with two words"
_QUEUES = {
    "--all -a": "leave it out: without QUEUE it is about all queues together",
    "--group --queue -g -q": "leave it out, and name the queue: `bgctl pause QUEUE`, `bgctl resume QUEUE`",
}
_OPTIONS_OF_VERBS = {
    "attach": {"-t": "`bgctl attach ID` takes an id, or the name of a job"},
    "list": {
        "-l --long --wide": "`bgctl show ID` shows all about a job, --usage what running jobs use",
        "-o --format --output": "--json prints everything, for programs",
    },
    "events": {"-n --lines --tail": "in a pipe, `tail -n N` prints the last N"},
    "logs": {"--lines --tail": "-n N shows the last lines"},
    "wait": {"-n": "--any waits for the first of several jobs"},
    "watch": {"-d -n": "leave it out: what is shown is always up to date"},
    "backup": {"-f --force --overwrite": "--replace replaces FILE"},
    "batch": {
        "--bar --eta --progress": "`bgctl wait --progress ID` shows how far jobs are",
        "-c -l -r -z": "options of the program follow --: `bgctl batch -- PROGRAM -l`",
        "-a --arg-file": f"a file needs no option: {_FROM_FILE}",
        "-L -N -X -m --max-args --max-lines --max-replace-args --xargs": _SEVERAL_WORDS,
        "-I --replace": "leave it out: {} is the line",
        "-d --colsep --delimiter": "lines end with a newline, or with NUL after -0: `tr` converts others",
        "-k --group --keep-order --line-buffer -u --ungroup": "`bgctl logs ID` shows the output of each job",
        "-v --dry-run": "--hold queues jobs that do not start, and `bgctl list` shows their commands",
        "--load --memfree": "[daemon] max_load and min_memory in the configuration say when jobs start",
    },
    "pause": _QUEUES,
    "prune": {"--force": "--yes asks no question"},
    "remove": {"--force": "--yes asks no question"},
    "resume": _QUEUES,
    "top": {
        "--delay -d -n": "leave it out: `bgctl top` draws by itself",
        "-b --batch": "`bgctl list --sort cpu` prints the list once",
    },
}
OPTIONS_OF_VERBS = {verb: _by_word(hints) for verb, hints in _OPTIONS_OF_VERBS.items()}
"""What to type in place of an option that means something else for this verb than for others."""

VALUES = {
    "events --since": "it is the id of an event; `bgctl list --since WHEN` lists jobs",
    "list --sort": "--reverse reverses the order",
    "run --priority": "a limit has an option of its own, such as --memory-max SIZE",
}
"""What to type if the value of an option is wrong, because it means something else for other programs."""

_PROGRAM_OPTIONS = {
    "-V -v": "`bgctl --version` prints the version",
    "-l": _LIST,
    "-r -x": f"{_FOLLOW}, {_LIST}",
    "-d -m": _SUBMIT,
    "-S": f"{_SLOTS}, `bgctl submit -n NAME PROGRAM` names a job",
    "-k -X": _CANCEL,
    "-C": _PRUNE,
    "-D": "`bgctl submit --after ID PROGRAM` starts a command after a job",
    "-K": "`bgctl shutdown` stops the daemon",
    "-c": "`bgctl logs ID` shows the output of a job, `bgctl submit --shell TEXT` runs a shell command",
    "-i": _SHOW,
    "-t": _FOLLOW,
    "-f": "`bgctl submit ./script.sh` queues a script, `bgctl submit --stdin FILE PROGRAM` gives it input",
    "-n": "`bgctl list -n N` shows N jobs, `bgctl logs -n N ID` the last N lines of one",
    "-p -q": "options of a job follow the verb: `bgctl submit -p 5 -q NAME PROGRAM`",
}
PROGRAM_OPTIONS = _by_word(_PROGRAM_OPTIONS)
"""What to type in place of an option where the verb belongs, such as those of screen, at and tsp."""

_STATES = {
    "pending waiting": "waiting jobs are held, blocked, scheduled or queued",
    "completed done ended exited finished": "finished jobs are succeeded, failed or cancelled",
    "active started": "running or stopping",
    "error errored timeout": "failed",
    "aborted killed stopped": "cancelled, failed or suspended",
    "ok success": "succeeded",
}
STATES = _by_word(_STATES)
"""What to type in place of a state that bgd does not have."""

_BUILTINS = {".", "[[", "alias", "bg", "case", "cd", "command", "eval", "exec", "export", "fg", "for"}
_BUILTINS |= {"if", "jobs", "set", "source", "time", "type", "ulimit", "umask", "unset", "until", "while"}
_NEED_NO_DASHES = ("submit", "run")  # the first argument ends their options
_TAKES_OPERATORS = frozenset({"[", "awk", "bc", "dc", "expr", "parallel", "test"})
_PLAIN = re.compile(r"[\w@%+=:,./{}-]+")  # a batch itself quotes what it puts in place of {}
_SHELL_CHARACTERS = frozenset("|&;<>()$`*\"' \t")


def for_missing_verb(words: Sequence[str], known: Iterable[str]) -> str:
    """Return what to type in place of a verb that does not exist, which is the first of the words."""
    name = words[0]
    if hint := VERBS.get(name):
        return hint
    is_program = shutil.which(name) is not None
    for part in [] if is_program else reversed(name.split("-")):  # for example kill-session or show-logs
        if hint := VERBS.get(part) or (f"did you mean {part}?" if part in known else None):
            return hint
    if alike := next((word for word in known if is_one_edit(name, word)), None):
        return f"did you mean {alike}?"
    return f"`bgctl submit {_line(words)}` queues a command" if is_program else "see 'bgctl --help'"


def in_group(group: str, words: Sequence[str]) -> str | None:
    """Return a hint for a first word that is not a verb of its group; None if there is none."""
    name, *rest = words
    if group == "schedule" and " " in name:
        return name_first(name, [word for word in rest if word != "--"])
    if (hint := VERBS_OF_GROUPS.get(group, {}).get(name)) is not None or group != "queue":
        return hint
    if any(is_one_edit(name, verb) for verb in ("list", "remove", "set")):
        return None
    queue = quoted(name)
    return (
        f"`bgctl list -q {queue}` lists the jobs of a queue, `bgctl queue set {queue} --slots N` changes it"
    )


def name_first(when: str, argv: Sequence[str] = ()) -> str:
    """Return what to type in place of `schedule add WHEN`, for the program if it is known."""
    return f"a NAME comes first: bgctl schedule add NAME {quoted(when)} -- {_line(argv) or 'PROGRAM'}"


AFTER_USER = "--user takes no name, it chooses your own daemon; jobs run as the user of their daemon"


def for_missing_program(argv: Sequence[str], verb: str) -> str | None:
    """Return what to type in place of a command whose program does not exist; None without a hint.

    `verb`: the verb that was typed, with what goes before its options.
    """
    before = "" if verb in _NEED_NO_DASHES else "-- "
    name = argv[0]
    variable, equals, _ = name.partition("=")
    if equals and variable.isidentifier() and len(argv) > 1:
        return f"`bgctl {verb} -e {quoted(name)} {before}{quoted(argv[1])}` sets a variable"
    if name in _BUILTINS or _SHELL_CHARACTERS & set(name):
        text = name if len(argv) == 1 else _line(argv)
        return f"to run it in a shell, type `bgctl {verb} --shell {before}{quoted(text)}`"
    if "/" in name:
        return None
    if name.endswith(".py") and Path(name).is_file():
        return f"type `bgctl {verb} {before}{_line(['python3', *argv])}`"
    if Path(name).is_file():
        return f"./{name} is here: type `bgctl {verb} {before}{_line([f'./{name}', *argv[1:]])}`"
    return f"if it is an alias of your shell, type `bgctl {verb} {before}bash -ic {quoted(_line(argv))}`"


def for_batch(options: Sequence[str], program: Sequence[str]) -> str | None:
    """Return what to type in place of what GNU parallel and xargs take before :::; None if there is none."""
    if "::::" in (*options, *program):
        return f":::: FILE is not known here: {_FROM_FILE}"
    if re.search(r"(?<!\S)-n ?\d+(?!\S)", " ".join(options)):
        return f"-n names the jobs, as --name does; {_SEVERAL_WORDS}"
    text = " ".join(program)
    place = None if "{}" in text else re.search(r"(?<!\S)\{\d+\}(?!\S)", text)
    return f"{place[0]} is not replaced here: write {{}} where the line goes" if place else None


def for_operators(argv: Sequence[str], verb: str) -> str | None:
    """Return a note about a pipe or redirection that the program would get as an argument; None: none."""
    found = next((word for word in argv[1:] if word in OPERATORS), None)
    if found is None or argv[0].rpartition("/")[2] in _TAKES_OPERATORS:
        return None
    if found == _OF_PARALLEL:
        return (
            f"{found!r} is an argument here: `bgctl batch {_line(argv)}` queues a job for each word after it"
        )
    line = " ".join(word if word in OPERATORS or _PLAIN.fullmatch(word) else quoted(word) for word in argv)
    before = "" if verb in _NEED_NO_DASHES else "-- "
    return f"{found!r} is an argument here: for a shell type `bgctl {verb} --shell {before}{quoted(line)}`"


def is_one_edit(typed: str, meant: str) -> bool:
    """Return whether a character was added, left out or replaced, or two neighbours were exchanged."""
    shorter = min(len(typed), len(meant))
    at = next((n for n in range(shorter) if typed[n] != meant[n]), shorter)
    after, behind = typed[at:], meant[at:]
    exchanged = after[1:2] + after[:1] + after[2:]
    return behind in {exchanged, after[1:]} or after == behind[1:] or after[1:] == behind[1:]


def _line(words: Iterable[str]) -> str:
    return " ".join(map(quoted, words))


_OF_PARALLEL = ":::"
