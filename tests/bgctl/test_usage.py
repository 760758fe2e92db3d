"""Usage errors: one line on stderr, exit code 2, nothing on stdout, and nothing changes."""

from __future__ import annotations

import os
import re
import shlex

import click
import pytest

import bgd
from bgctl import common
from bgctl.cli import cli as command
from bgctl.hints import OPTIONS, PROGRAM_OPTIONS, VERBS, VERBS_OF_GROUPS, for_missing_program, for_operators
from bgctl.program import run


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["submitt", "true"], "no verb 'submitt': did you mean submit?"),
        (["sho"], "no verb 'sho': did you mean show?"),
        (["kill", "12"], "no verb 'kill': `bgctl cancel ID` stops a job"),
        (["ps"], "no verb 'ps': `bgctl list` shows jobs"),
        (["log"], "no verb 'log': did you mean logs?"),
        (
            ["cron", "* * * * *", "true"],
            "no verb 'cron': `bgctl schedule add NAME '0 3 * * *' -- PROGRAM` runs it at certain times",
        ),
        (["sleep", "a b"], "no verb 'sleep': `bgctl submit sleep 'a b'` queues a command"),
        (["no-such-program"], "no verb 'no-such-program': see 'bgctl --help'"),
        (["kill-session", "-t", "1"], "no verb 'kill-session': `bgctl cancel ID` stops a job"),
        (["is-active", "1"], "no verb 'is-active': `bgctl show ID` shows the state"),
        (["run", "-i", "-t", "bash"], "-t is a tag; `bgctl run -it PROGRAM` types into its terminal"),
        (["run", "-v", "/tmp:/tmp", "ls"], "no option -v: leave it out: jobs use the files of this machine"),
        (["logs", "-p", "1"], "no option -p: --attempt N shows an earlier attempt"),
        (["show", "-p", "State", "1"], "no option -p: --json prints everything"),
        (["events", "-w"], "no option -w: -f follows new output"),
        (["submit", "--results", "out", "true"], "no option --results: `bgctl logs ID` shows the output"),
        (["show-logs", "1"], "no verb 'show-logs': did you mean logs?"),
        (["unpause"], "no verb 'unpause': `bgctl resume` undoes `bgctl pause`"),
        (["tasks"], "no verb 'tasks': `bgctl list` shows jobs"),
        (["events", "-n", "3"], "no option -n: in a pipe, `tail -n N` prints the last N"),
        (["events", "--tail", "3"], "no option --tail: in a pipe, `tail -n N` prints the last N"),
        (["list", "--lines", "3"], "no option --lines: `bgctl logs -n N ID` shows the last lines of output"),
        (["stats", "-n", "3"], "no option -n: see 'bgctl stats --help'"),
        (["wait", "--time-limit", "3", "1"], "no option --time-limit: --timeout D is the time limit"),
        (["cancel", "--label", "x"], "no option --label: --tag TEXT is a label of jobs"),
        (["wait", "-n", "10"], "no option -n: --any waits for the first of several jobs"),
        (["-f", "script.sh"], "no option -f: `bgctl submit ./script.sh` queues a script"),
        (["queue", "add", "mail"], "no verb 'queue add': `bgctl queue set NAME --slots N` makes"),
        (["config", "edit"], "edit the file that `bgctl config show` names at its top, then `bgctl reload`"),
        (
            ["nice", "-n", "10", "3"],
            "no verb 'nice': `bgctl submit --nice N PROGRAM` queues a nice job, `bgctl edit ID --nice N`",
        ),
        (["schedule", "rm", "x"], "no verb 'schedule rm': `bgctl schedule remove NAME` removes one"),
        (["config", "check"], "no verb 'config check': `bgd --check` checks the configuration"),
        (["list", "--state", "pending"], "--state: no state 'pending': waiting jobs are held, blocked"),
        (["list", "-q"], "-q NAME chooses a queue; `bgctl list --ids` prints only ids"),
        (["list", "failed"], "'failed' is not an id: type `bgctl list --state failed`\n"),
        (["list", "web"], "'web' is not an id: --state, --queue, --name and --tag select jobs"),
        (["queue", "show", "mail"], "no verb 'queue show': `bgctl queue list` shows all queues"),
        (["queue", "set", "mail", "--rate", "5/1m"], "no option --rate: [queues.NAME] rate in the"),
        (["stats", "--since", "1h"], "no option --since: --window D looks back"),
        (["list", "--failed"], "no option --failed: --state STATE selects jobs by state"),
        (["list", "-o", "json"], "no option -o: --json prints everything, for programs"),
        (["submit", "-it", "true"], "-i is for run: --stdin - passes the input of submit to the job"),
        (
            ["submit", "--cpu-limit", "2", "true"],
            "no option --cpu-limit: --cpu-max PERCENT limits processor time",
        ),
        (["-ls"], "no option -l: `bgctl list` shows jobs"),
        (
            ["-r", "12"],
            "no option -r: `bgctl logs -f ID` follows the output of a job, `bgctl list` shows jobs",
        ),
        (["-dmS", "nightly", "make"], "no option -d: `bgctl submit PROGRAM` queues a command"),
        (["submit", "-k", "nightly", "true"], "no option -k: --key TEXT queues only one job"),
        (["-v"], "no option -v: `bgctl --version` prints the version"),
        (["submit"], "missing argument PROGRAM: see"),
        (["submit", "--in", "5m", "true"], "no option --in: --delay D starts a job later"),
        (["submit", "-j", "4", "true"], "no option -j: `bgctl slots N` sets how many"),
        (["run", "--workdir", "/", "true"], "no option --workdir: --cwd DIR sets it"),
        (["cancel", "--force", "1"], "no option --force: `bgctl signal ID -s KILL`"),
        (["submit", ""], "the name of the program is empty"),
        (["submit", "--prioritty", "3", "true"], "no option --prioritty: did you mean --priority?"),
        (["stats", "--win"], "no option --win: see 'bgctl stats --help'"),
        (
            ["submit", "--isolation", "reuse", "true"],
            "--isolation is for class jobs: see 'bgctl call --help'",
        ),
        (["run", "--kw", "a=b", "true"], "--kw is for class jobs: see 'bgctl call --help'"),
        (["call", "--stdin", "x", "app:run"], "--stdin is for commands: see 'bgctl submit --help'"),
        (["call", "app:run", "--shell"], "--shell is for commands: see 'bgctl submit --help'"),
        (
            ["run", "--wait", "true"],
            "--wait is for submit: run always shows the output and waits",
        ),
        (["submit", "-p", "high", "true"], "'high' must be a whole number from -1000 to 1000"),
        (["submit", "--timeout", "soon", "true"], "'soon' is not a duration: write 500ms, 5s"),
        (["submit", "-p", "1001", "true"], "'1001' must be a whole number from -1000 to 1000"),
        (["submit", "--retries", "-1", "true"], "'-1' must be a whole number from 0 to 1000"),
        (["submit", "--timeout", "0", "true"], "must be a duration above 0s and at most 366d"),
        (["submit", "--delay", "9" * 20, "true"], "must be a duration from 0s to 366d"),
        (["submit", "--delay", "400d", "true"], "'400d' must be a duration from 0s to 366d"),
        (["submit", "-q", "two words", "true"], "at most 64 letters, digits, '.', '_' and '-'"),
        (["submit", "-n", "", "true"], "'' must be text of 1 to 200 characters"),
        (["submit", "-t", "t" * 201, "true"], "must be text of 1 to 200 characters"),
        (["submit", "--backoff", "0.5", "true"], "'0.5' must be a number from 1 to 100"),
        (["submit", "--jitter", "2", "true"], "'2' must be a number from 0 to 1"),
        (["submit", "--jitter", "much", "true"], "'much' must be a number from 0 to 1"),
        (["submit", "--rerun", "perhaps", "true"], "--rerun: 'perhaps' is not one of yes, no\n"),
        (["submit", "-e", "NAME", "true"], "'NAME' is not NAME=VALUE"),
        (["call"], "missing argument TARGET: see"),
        (["call", "app:run", "--args", "{}"], "--args takes a JSON array, not {}"),
        (["call", "app:run", "--kwargs", "[1"], "--kwargs is not valid JSON"),
        (["call", "app:run", "--kw", "x"], "--kw takes NAME=VALUE, not 'x'"),
        (["cancel"], "name jobs by ID (12, 3-9, last) or select them with --state, --queue, --name"),
        (
            ["edit", "-p", "3"],
            "select them with --state, --in-queue, --named, --tagged, --since, --until, --filter",
        ),
        (["edit", "3"], "nothing to change: give options or a program after --"),
        (["edit", "3", "--stdin", "-"], "--stdin - is for new jobs only"),
        (
            ["signal", "3", "-s", "HIP"],
            "'HIP' is neither a signal nor a number from 1 to 64; did you mean HUP?",
        ),
        (["signal", "3", "-s", "65"], "'65' is neither a signal nor a number"),
        (
            ["submit", "--retry-on", "1,x", "true"],
            "'x' is not an exit code from 0 to 255: write for example 1,2,70-79",
        ),
        (["submit", "--retry-on", "9-3", "true"], "'9-3' is not an exit code from 0 to 255"),
        (["submit", "--retry-on", "1", "--no-retry-on", "2", "true"], "--no-retry-on cannot be combined"),
        (["submit", "--at", "soon", "true"], "or 2026-10-01T14:30Z; --delay 5m counts from now"),
        (["submit", "--at", "14:30", "--delay", "1h", "true"], "--delay and --at cannot be combined"),
        (["submit", "--expires", "0", "true"], "must be a duration above 0s and at most 366d"),
        (["submit", "--after", "3,4x", "true"], "'4x' is not a job id: write 12, 3-9, last or the name"),
        (["submit", "--slots", "0", "true"], "'0' must be a whole number from 1 to 10000"),
        (
            ["submit", "--shell", "echo", "a"],
            "--shell takes one text, not 2 words: quote the text, and put options before it",
        ),
        (["slots", "0"], "'0' must be a whole number from 1 to 10000 or 'auto'; use `bgctl pause`"),
        (["queue", "lst"], "no verb 'queue lst': did you mean list?"),
        (["config", "shw"], "no verb 'config shw': did you mean show?"),
        (["submit"], "missing argument PROGRAM: see 'bgctl submit --help'\n"),
        (["info", "x"], "unexpected argument 'x': see 'bgctl info --help'\n"),
        (["logs", "--n"], "no option --n: see 'bgctl logs --help'\n"),
        (["submit", "-p"], "option -p needs a value\n"),
        (["submit", "--hold=3", "true"], "option --hold takes no value\n"),
        (["queue", "set", "mail", "3"], "missing option --slots: type `bgctl queue set mail --slots N`\n"),
        (["help", "lst"], "no verb 'lst': did you mean list?"),
        (["events", "--since", "-1"], "'-1' must be a whole number from 0 to 9223372036854775807"),
        (["prune", "--keep", "9" * 20], "must be a whole number from 0 to 9007199254740992"),
        (["prune", "--logs-total", "9" * 20], "must be a size from 0B to 4611686TB"),
        (["logs", "-n", "9" * 20], "must be a whole number from 0 to 1000000"),
        (["logs", "--attempt", "9" * 20], "must be a whole number from 1 to 2147483648"),
        (["submit", "--open-files", "9" * 20, "true"], "a whole number from 16 to 1073741824"),
        (["submit", "--pids-max", "9" * 20, "true"], "a whole number from 1 to 4194304"),
        (
            ["submit", "--cpu-max", "9" * 20, "true"],
            "must be a percentage of one processor from 1% to 1000000%, such as 50 or 150%",
        ),
        (["submit", "--memory-max", "9" * 20, "true"], "must be a size from 1MB to 4611686TB"),
        (["submit", "--core-max", "9" * 20, "true"], "must be a size from 0B to 4611686TB"),
        (["backup", ""], "bgctl: FILE: the path is empty"),
        (["submit", "--cwd", "", "true"], "bgctl: --cwd: the path is empty"),
        (["submit", "--stdin", "", "true"], "bgctl: --stdin: the path is empty"),
        (["edit", "1", "--cwd", ""], "bgctl: --cwd: the path is empty"),
        (["--socket", "", "list"], "bgctl: --socket: the path is empty"),
        (["list", "--config", ""], "bgctl: --config: the path is empty"),
        (["completion", "csh"], "'csh' is not one of"),
        (["show", "12th"], "'12th' is not a job id: write 12, 3-9, last or the name of a job"),
        (["wait", "9-3"], "'9-3' is not a range of at most"),
        (["cancel", "0"], "'0' is not a job id"),
        (["logs", "--attempt", "1", "--all"], "cannot be combined"),
        (["logs", "--match", "ready", "1"], "no option --match: `bgctl wait --match REGEX ID` waits"),
        (["list", "--state", "done"], "no state 'done': finished jobs are succeeded, failed"),
        (["list", "--state", "new"], "'new' is not one of held, blocked, scheduled"),
        (["list", "--since", "last week"], "neither an age such as 2h nor a date"),
        (["list", "--queue", "two words"], "at most 64 letters, digits, '.', '_' and '-'"),
        (["list", "--limit", "0"], "'0' must be a whole number from 1 to 10000"),
        (["info", "--user", "--system"], "cannot be combined"),
        (["service", "install", "--user", "--system"], "cannot be combined"),
        (["service", "status", "--socket", "/tmp/bgd.sock"], "--socket is not for service"),
        (["--color", "sometimes", "list"], "'sometimes' is not one of"),
    ],
)
def test_a_usage_error_is_one_line_that_names_the_remedy(home, monkeypatch, capsys, arguments, message):
    monkeypatch.setattr(os, "environ", home.env)
    monkeypatch.setattr(common, "_given", {})  # the global options of one process
    code = run(arguments)
    said = capsys.readouterr()

    assert (code, said.out) == (2, "")
    assert said.err.startswith("bgctl: ")
    assert message in said.err
    assert said.err.count("\n") == 1


def test_the_help_is_the_same_from_its_file_and_by_the_parser(home):
    usual = home.bgctl("--help")

    assert usual.returncode == 0
    assert home.bgctl("-h").stdout == usual.stdout == home.bgctl("--help", "--json").stdout
    narrow = home.bgctl("--help", env={"COLUMNS": "60"}).stdout
    assert max(map(len, narrow.splitlines())) < 60
    assert narrow.startswith("Usage: bgctl [OPTIONS] VERB ...\n")


def test_a_usage_error_ends_bgctl(home):
    done = home.bgctl("submitt", "true")

    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "bgctl: no verb 'submitt': did you mean submit?\n"


ASKING = "list, show, logs, wait, info, shutdown, cancel 1, retry --tag a, edit 1 -p 1, slots, pause, queue"


@pytest.mark.parametrize("arguments", [*ASKING.split(", "), "events", "stats"])
def test_verbs_for_existing_jobs_never_start_a_daemon(home, arguments):
    done = home.bgctl(*arguments.split())

    assert (done.returncode, done.stdout) == (69, "")
    assert str(home.socket) in done.stderr
    assert "bgd.sock: `bgctl submit` or `bgd` starts a daemon of your own" in done.stderr


def test_whoever_has_had_a_daemon_reads_that_the_jobs_are_kept(home):
    home.bgctl("submit", "--hold", "true")
    home.bgctl("shutdown")

    assert "your jobs are kept; `bgctl submit` or `bgd` starts a daemon" in home.bgctl("list").stderr


def test_an_explicit_socket_is_never_started(home):
    done = home.bgctl("submit", "--socket", str(home.folder / "my.sock"), "true")

    assert done.returncode == 69
    assert "my.sock" in done.stderr
    assert not home.state_dir.exists()


def test_an_invalid_configuration_has_its_own_exit_code(home):
    home.configure("[daemon]\nslotts = 3\n")

    done = home.bgctl("list")

    assert done.returncode == 78
    assert "slots" in done.stderr


def test_version_is_that_of_the_package(home):
    assert home.bgctl("--version").stdout == f"bgctl {bgd.__version__}\n"


def test_help_of_every_verb_has_examples(home):
    """Run in this process, because there are many verbs."""
    context = click.Context(command)
    for name in command.list_commands(context):
        verb = command.get_command(context, name)
        assert verb is not None
        single = list(verb.commands.values()) if isinstance(verb, click.Group) else [verb]
        for each in single:
            text = each.get_help(click.Context(each, info_name=name, parent=context))
            assert f"  bgctl {name}" in text or f"(bgctl {name}" in text, name
            assert "Examples:\n" in text, name
    submit, queue = home.bgctl("submit", "--help"), home.bgctl("queue", "--help")
    assert (submit.returncode, home.bgctl("help", "submit").stdout) == (0, submit.stdout)
    assert home.bgctl("queue", "help").stdout == queue.stdout


def _commands_of(group: click.Group) -> dict[str, click.Command]:
    context = click.Context(group)
    found = {name: group.get_command(context, name) for name in group.list_commands(context)}
    return {name: verb for name, verb in found.items() if verb is not None}


def test_overviews_show_what_each_verb_does_in_full_on_80_columns():
    groups = [command, *(verb for verb in _commands_of(command).values() if isinstance(verb, click.Group))]
    for group in groups:
        text = group.get_help(click.Context(group, terminal_width=80))
        for name, verb in _commands_of(group).items():
            summary = " ".join((verb.help or "").split("\n\n")[0].split())
            assert re.search(rf"^  {name} +{re.escape(summary)}$", text, re.MULTILINE), (name, text)
    assert len(groups) > 3


def test_help_of_an_option_is_at_most_ten_words():
    context = click.Context(command)
    verbs = [command.get_command(context, name) for name in command.list_commands(context)]
    groups = [verb for verb in verbs if isinstance(verb, click.Group)]
    every = [command, *filter(None, verbs), *(verb for group in groups for verb in group.commands.values())]
    helps = {option.help for verb in every for option in verb.params if isinstance(option, click.Option)}

    assert len(helps) > 50
    assert [text for text in helps if text is None or len(text.split()) > 10] == []


_OF_GROUPS = [hint for hints in VERBS_OF_GROUPS.values() for hint in hints.values()]
_OF_OPTIONS = [hint for hints in OPTIONS.values() for hint in ((hints,) if isinstance(hints, str) else hints)]


@pytest.mark.parametrize(
    "hint", sorted({*VERBS.values(), *_OF_OPTIONS, *PROGRAM_OPTIONS.values(), *_OF_GROUPS})
)
def test_every_verb_that_a_hint_names_exists(hint):
    named = re.findall(r"`bgctl (\w+)", hint)

    assert [verb for verb in named if command.get_command(click.Context(command), verb) is None] == []


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        ("why 1", "bgctl explain ID"),
        ("monit", "bgctl watch"),
        ("flush", "bgctl prune"),
        ("nice 5 ls", "bgctl submit --nice N PROGRAM"),
        ("nice 7", "bgctl edit ID --nice N"),
        ("top 7", "bgctl show --usage ID"),
        ("nce", "see 'bgctl --help'"),
        ("w", "`bgctl submit w`"),
        ("canceel 1", "did you mean cancel?"),
        ("wathc", "did you mean watch?"),
        ("sbatch job.sh", "bgctl submit PROGRAM"),
        ("submit --array 1-3 ls", "bgctl batch -- PROGRAM"),
        ("parallel 4", "bgctl slots N"),
        ("notify", "bgctl submit --notify TARGET"),
        ("watch -n 2", "always up to date"),
        ("watch --all", "`bgctl list --all`"),
        ("top -d 1", "draws by itself"),
        ("top -b", "`bgctl list --sort cpu`"),
        ("queue mail", "`bgctl list -q mail`"),
        ("queue lst", "did you mean list?"),
        ("list -l", "`bgctl show ID`"),
        ("list -o json", "--json prints everything"),
        ("list --sort=-created", "--reverse"),
        ("batch --eta -- ls", "bgctl wait --progress ID"),
        ("batch --progress -- ls", "bgctl wait --progress ID"),
        ("batch -j4 wc -l", "`bgctl batch -- PROGRAM -l`"),
        ("batch -a files ls", "bgctl batch -- PROGRAM < FILE"),
        ("batch -N 2 -- ls", "xargs -n 2"),
        ("batch -I {} -- ls", "{} is the line"),
        ("batch -k -- ls", "`bgctl logs ID`"),
        ("batch --dry-run -- ls", "--hold queues"),
        ("logs -t 7", "--timestamps"),
        ("a 7", "bgctl attach ID"),
        ("attach -t web", "takes an id, or the name"),
        ("label 7 a=b", "bgctl edit ID --tag TEXT"),
        ("drain", "bgctl pause"),
        ("save", "nothing to save"),
        ("run --unit x ls", "--name TEXT"),
        ("run --on-calendar daily ls", "bgctl schedule add"),
        ("submit --on-active 5m ls", "--delay D"),
        ("run -p MemoryMax=1G ls", "such as --memory-max"),
        ("events --since 1h", "it is the id of an event; `bgctl list --since WHEN` lists jobs"),
        ("logs --err web", "stdout and stderr together"),
        ("list -A", "bgctl list --all"),
        ("reload all", "bgctl retry ID"),
        ("backup --force", "--replace"),
        ("prune --force", "--yes"),
        ("queue delete mail", "bgctl queue remove NAME"),
        ("stats today", "bgctl stats --window 1d"),
        ("pause --all", "without QUEUE it is about all queues"),
        ("resume -q mail", "`bgctl resume QUEUE`"),
        ("restart 7", "first `bgctl cancel ID`"),
        ("wait --for=complete 7", "bgctl wait --match REGEX ID"),
        ("-S 4", "bgctl slots N"),
        ("-C", "bgctl prune"),
        ("-D 7 ls", "bgctl submit --after ID"),
        ("-K", "bgctl shutdown"),
        ("startup", "bgctl service install"),
        ("crontab -l", "bgctl schedule list"),
        ("prune -f", "--yes"),
        ("cancel --all", "--state STATE"),
        ("qsub job.sh", "bgctl submit PROGRAM"),
        ("images", "no images"),
        ("exec 1 sh", "`bgctl show ID` has the pid of a job"),
        ("schedule '*/5 * * * *' date -u", "bgctl schedule add NAME '*/5 * * * *' -- date -u\n"),
        ("schedule add '*/5 * * * *' -- date", "bgctl schedule add NAME '*/5 * * * *' -- date\n"),
        ("schedule add '*/5 * * * *' date", "bgctl schedule add NAME '*/5 * * * *' -- date\n"),
        ("schedule add '*/5 * * * *' echo hi", "bgctl schedule add NAME '*/5 * * * *' -- echo hi\n"),
        ("schedule add 'every 5m' echo hi", "bgctl schedule add NAME 'every 5m' -- echo hi\n"),
        ("schedule add 'x y' @daily true", "bgctl schedule add NAME @daily -- true\n"),
    ],
)
def test_habits_of_other_programs_are_answered_with_what_to_type(words, answer, capsys):
    assert run(shlex.split(words)) == 2

    assert answer in capsys.readouterr().err


@pytest.mark.parametrize(("typed", "meant"), [("7", "show"), ("status", "list")])
def test_a_number_is_a_job_and_status_is_the_list(typed, meant):
    context = click.Context(command)

    _, verb, _ = command.resolve_command(context, [typed])

    assert verb is command.get_command(context, meant)


def test_no_hint_is_for_a_verb_that_exists():
    context = click.Context(command)

    assert [word for word in VERBS if command.get_command(context, word) is not None] == []


@pytest.mark.parametrize(
    ("argv", "remedy"),
    [
        (["ls | wc"], "`bgctl submit --shell 'ls | wc'`"),
        (["cd", "/tmp"], "`bgctl submit --shell 'cd /tmp'`"),
        (["COUNT=1", "make"], "`bgctl submit -e COUNT=1 make`"),
        (["ll"], "`bgctl submit bash -ic ll`"),
    ],
)
def test_a_command_for_a_shell_is_answered_with_one_that_works(argv, remedy):
    own = for_missing_program(argv, "submit")

    assert own is not None
    assert remedy in own


def test_a_script_in_the_folder_is_found(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "script.sh").touch()

    assert for_missing_program(["/no/such"], "submit") is None
    assert for_missing_program(["script.sh", "a b"], "submit") == (
        "./script.sh is here: type `bgctl submit ./script.sh 'a b'`"
    )


def test_a_python_script_in_the_folder_is_run_by_python(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "job.py").touch()

    assert for_missing_program(["job.py", "-x"], "submit") == "type `bgctl submit python3 job.py -x`"


def test_a_pipe_among_the_arguments_is_noted():
    note = for_operators(["ls", "-l", "|", "wc"], "submit")

    assert note == "'|' is an argument here: for a shell type `bgctl submit --shell 'ls -l | wc'`"
    assert for_operators(["expr", "1", "<", "2"], "submit") is None
    assert for_operators(["ls", "a|b"], "submit") is None
    assert for_operators(["gzip", ":::", "a"], "submit") == (
        "':::' is an argument here: `bgctl batch gzip ::: a` queues a job for each word after it"
    )


def test_commands_in_hints_have_readable_quotes():
    assert for_missing_program(["ll", "a b"], "submit") == (
        """if it is an alias of your shell, type `bgctl submit bash -ic "ll 'a b'"`"""
    )
    assert for_missing_program(["alias", "a b"], "submit") == (
        """to run it in a shell, type `bgctl submit --shell "alias 'a b'"`"""
    )


def test_run_is_answered_with_run():
    own = for_missing_program(["ls | wc"], "run")

    assert own == "to run it in a shell, type `bgctl run --shell 'ls | wc'`"
    assert "`bgctl run --shell 'ls | wc'`" in (for_operators(["ls", "|", "wc"], "run") or "")


def test_a_name_after_user_is_explained(home):
    done = home.bgctl("submit", "--user", "bob", "true")

    assert (done.returncode, done.stdout) == (1, "")
    assert (
        "no program named 'bob': --user takes no name, it chooses your own daemon; jobs run as" in done.stderr
    )
