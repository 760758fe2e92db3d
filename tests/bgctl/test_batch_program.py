"""Batches with a program after --, arguments after :::, and a limit on how many of their jobs run at once."""

from __future__ import annotations

import subprocess

import pytest

from bgctl import batches as batch_module
from bgd import State
from tests.bgctl.test_batch import ids_in
from tests.support import serving, wait_until


def outputs(daemon, *arguments, read="", cwd=None):
    done = daemon.bgctl("batch", *arguments, read=read, cwd=cwd)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    ids = [str(each) for each in ids_in(done.stdout)]
    daemon.bgctl("wait", *ids)
    return [daemon.bgctl("logs", "--raw", each).stdout for each in ids]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--", "printf", "<%s>", "{.}", "x {#}"], ["<a b><x 1>", "<$c><x 2>"]),
        (["--", "printf", "<%s>", "-9 q"], ["<-9 q><a b.txt>", "<-9 q><$c>"]),
        (["--shell", "--", "printf '<%s>' {} | tr a 0"], ["<0 b.txt>", "<$c>"]),
        (["names", "--", "printf", "<%s>", "--"], ["<--><of a file>"]),
    ],
)
def test_each_line_becomes_an_argument_of_the_program_whose_words_stay_words(daemon, arguments, expected):
    (daemon.folder / "names").write_text("of a file\n")

    assert outputs(daemon, *arguments, read="a b.txt\n\n$c\n") == [
        text.replace("x 2", "x 3") for text in expected
    ]  # blank lines are counted


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (
            ["printf", "<%s>", "{}", ":::", "a b", "-c", "--", "two\nlines"],
            ["<a b>", "<-c>", "<-->", "<two\nlines>"],
        ),
        (["-t", "x", "printf", "<%s>", "-t", ":::", "a"], ["<-t><a>"]),
        (["--", "printf", "%s", ":::", "a", "b"], ["a", "b"]),
        ([":::", "printf 'a b'", "printf c"], ["a b", "c"]),
        (["--shell", ":::", "printf a | tr a b"], ["b"]),
        (["--template", "printf <%s>", ":::", "a"], ["<a>"]),
        (["--", "true", ":::"], []),
        (["--", "printf", "<%s>", ":::", "a", "", "b", ""], ["<a>", "<>", "<b>", "<>"]),
        (["--shell", "printf '<%s>' {} {/}", ":::", ""], ["<><>"]),
        (["--template", "printf <%s>", ":::", ""], ["<>"]),
        (["-n", "7x", "printf", "%s%s", "{1}", "{}", ":::", "a"], ["{1}a"]),
        ([":::", "", " ", "printf a"], ["a"]),
    ],
)
def test_each_word_behind_three_colons_is_a_line(daemon, arguments, expected):
    assert outputs(daemon, *arguments, read="not read\n") == expected


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["--wait", "list"], "'list' is kept for a verb of batches: a file of this name is ./list\n"),
        (["--shell", "retry", ":::", "a"], "'retry' is kept for a verb of batches"),
        (["wait", "1-3", "4"], "unexpected argument '4'"),
        (["show"], "missing argument ID|NAME"),
        (["echo", "{}", "a b"], "-- comes before a program: `bgctl batch -- echo '{}' 'a b'`\n"),
        (
            ["gzip"],
            "cannot read gzip: No such file or directory: `bgctl batch -- gzip` runs it for each line",
        ),
        (["echo", ":::", "a", ":::", "b"], "one ::: only"),
        (["echo", ":::", "a", ":::+", "b"], "one ::: only"),
        (["echo", "::::", "names"], ":::: FILE is not known here: `bgctl batch -- PROGRAM < FILE` queues"),
        (["--", "echo", "::::", "names"], ":::: FILE is not known here"),
        (
            ["-n", "2", "--", "echo"],
            "-n names the jobs, as --name does; a job gets one line: `xargs -n 2 echo P",
        ),
        (["-n2", "echo", ":::", "a"], "-n names the jobs"),
        (["--", "echo", "{1}", ":::", "a"], "{1} is not replaced here: write {} where the line goes\n"),
        (["--shell", "echo {2}", ":::", "a"], "{2} is not replaced here"),
        (
            ["names", "--", "echo", ":::", "b"],
            "the arguments come from FILE names or from :::, not from both",
        ),
        (["--template", "echo", "--", "echo"], "the command is --template TEXT or follows --, not both"),
        (
            ["--ndjson", "--", "echo"],
            "--ndjson cannot be combined with --template and --shell, or with a prog",
        ),
        (["--shell", "--", "echo", "a"], "--shell takes one text, not 2 words"),
        (["--shell", "--", "true; # {}"], "ends with a comment: write {} before it"),
        (["--", ""], "the name of the program is empty"),
        (
            ["-j", "2", "--limit", "mail", "--", "echo"],
            "-j is a limit by key: leave out either it, or --limit",
        ),
        (
            ["-j", "2", "--on-limit", "skip", "--", "echo"],
            "-j is a limit by key: leave out either it, or --li",
        ),
        (["-j", "0", "--", "echo"], "'0' must be a whole number from 1 to"),
    ],
)
def test_what_cannot_be_a_batch_is_told_in_a_line(daemon, arguments, why):
    done = daemon.bgctl("batch", *arguments, read="a\n")

    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert why in done.stderr


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["{}", ":::", ""], "line 1: the name of the program is empty; nothing is queued\n"),
        (
            ["--", "echo {}"],
            "to run it in a shell, type `bgctl batch --shell -- 'echo {}'`; --no-check queues",
        ),
    ],
)
def test_a_batch_whose_program_has_no_name_or_a_whole_line_is_refused(daemon, arguments, why):
    done = daemon.bgctl("batch", *arguments, read="a\n")

    assert (done.returncode, done.stdout) == (1, "")
    assert why in done.stderr


@pytest.mark.parametrize("word", sorted(batch_module.KEPT_WORDS))
def test_a_file_with_the_name_of_a_verb_is_read_with_its_folder(daemon, word):
    (daemon.folder / word).write_text("printf it\n")

    assert outputs(daemon, f"./{word}") == ["it"]


def test_a_shell_word_behind_a_program_is_told_with_what_to_type(daemon):
    note = daemon.bgctl("batch", "--", "echo", "{}", ">", "{}.txt", ":::", "a b").stderr

    assert note == (
        "bgctl: '>' is an argument here: for a shell type `bgctl batch --shell -- 'echo {} > {}.txt'`\n"
    )
    assert outputs(daemon, "--shell", "--", "echo {} > {}.txt", ":::", "a b") == [""]
    assert (daemon.folder / "a b.txt").read_text() == "a b\n"


@pytest.mark.parametrize("option", ["--", "--template"])
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("printf '<%s>' {}", "<{}>"),
        ("printf '<%s>' {}.x \"$(printf '%s' {})\" {#}", "<{}.x><{}><1>"),
        ("printf '<%s>' `printf '%s' a`; # don't {}\nprintf '<%s>' {}", "<a><{}>"),
        ("printf '<%s>' it\\'s {} '{'", "<it's><{}><{>"),
        ("cat <<end\n<{}>\nend", '<"{}">\n'),
        ('sh -c "printf \\$1" sh {}; printf a', None),
        ("set -- a b; printf ${#}", "2"),
    ],
)
def test_no_shell_reads_an_argument(daemon, option, text, expected):
    argument = "';`touch read`$(touch read)\ntouch read"

    (said,) = outputs(daemon, "--shell", option, text, ":::", argument)

    assert expected is None or said == expected.replace("{}", argument)
    assert not (daemon.folder / "read").exists()


@pytest.mark.parametrize(
    "text",
    ['echo "{}"', "sh -c 'echo {}'", 'echo "a $(echo {}) {/}"', "sh -c \"echo '{}'\"", "echo $(({} + 1))"],
)
def test_an_argument_within_quotes_of_a_shell_command_is_refused(daemon, text):
    done = daemon.bgctl("batch", "--shell", "--wait", "--", text, ":::", "$(touch read)")

    assert (done.returncode, done.stdout) == (2, "")
    assert "} is quoted already, and cannot stand within quotes or $(( )): end them before it" in done.stderr
    assert not (daemon.folder / "read").exists()


def test_a_log_resumes_shell_commands_with_arguments_and_runs_them_anywhere(daemon, tmp_path):
    command = ("--joblog", "log", "--shell", "--", "echo {} >> traces; test {} != b || test -e good")
    words = (":::", "a  a", "b")

    first = daemon.bgctl("batch", *command, *words, cwd=tmp_path)
    (tmp_path / "good").touch()
    rows = (tmp_path / "log").read_text().splitlines()
    (logged,) = (row.split("\t")[-1] for row in rows if row.endswith("sh b"))
    again = daemon.bgctl("batch", "--retry-failed", *command, *words, cwd=tmp_path)

    assert first.stderr == "bgctl: 1 of 2 jobs failed: line 2; --retry-failed reruns them\n"
    assert (again.returncode, again.stderr) == (0, "")
    assert subprocess.run(logged, shell=True, cwd=tmp_path, check=False).returncode == 0
    assert (tmp_path / "traces").read_text().count("b\n") == 3


@pytest.mark.parametrize("lines", [["--"], []])
def test_a_log_resumes_a_batch_with_a_program_and_with_arguments(daemon, tmp_path, lines):
    program = ["sh", "-c", "echo $1 >> traces; test $1 != b || test -e good", "sh", "{}"]
    words, read = ([":::", "a", "b"], "") if not lines else ([], "a\nb\n")
    command = ["batch", "--joblog", "log", *lines, *program, *words]

    first = daemon.bgctl(*command, cwd=tmp_path, read=read)
    (tmp_path / "good").touch()
    again = daemon.bgctl("batch", "--retry-failed", *command[1:], cwd=tmp_path, read=read)

    assert first.stderr == "bgctl: 1 of 2 jobs failed: line 2; --retry-failed reruns them\n"
    assert (again.returncode, again.stderr) == (0, "")
    assert sorted((tmp_path / "traces").read_text().split()) == ["a", "b", "b"]
    other = daemon.bgctl("batch", "--resume", *command[1:3], "--", "true", ":::", "a", cwd=tmp_path)
    assert "this line was queued with another command" in other.stderr


def test_as_many_jobs_of_a_batch_run_at_once_as_it_says_also_after_bgd_was_killed():
    with serving("[daemon]\nslots = 8\n") as daemon:
        done = daemon.bgctl("batch", "-j", "2", "--", "sleep", ":::", "600", "601", "602", "603")
        ids = ids_in(done.stdout)

        def states():
            with daemon.client() as client:
                return [client.job(each).state for each in ids]

        running = [State.RUNNING] * 2 + [State.QUEUED] * 2
        wait_until(lambda: states() == running)
        daemon.process.kill()
        daemon.process.wait()
        daemon.start()

        assert states() == running
        daemon.bgctl("cancel", str(ids[0]))
        wait_until(lambda: states()[2] is State.RUNNING)
        assert states()[3] is State.QUEUED
        assert "for limit batch-" in daemon.bgctl("explain", str(ids[3])).stdout


def limit_of(daemon, done):
    assert done.returncode == 0, done.stderr
    with daemon.client() as client:
        view = client.job(ids_in(done.stdout)[-1]).view
        return view.queue, view.limit, view.on_limit


def test_a_resumed_batch_keeps_the_key_of_its_limit_and_takes_another_number(daemon, tmp_path):
    def run(*words):
        return limit_of(daemon, daemon.bgctl("batch", "--joblog", "log", *words, cwd=tmp_path))

    queue, (key, jobs), _ = run("-j", "2", "-q", "mail", "--", "true", ":::", "a")

    assert (queue, jobs) == ("mail", 2)
    assert run("--resume", "-j", "3", "--", "true", ":::", "a", "b") == ("default", (key, 3), "wait")
    other = limit_of(daemon, daemon.bgctl("batch", "-j", "2", "--", "true", ":::", "a"))
    assert other[1][0] != key


def test_a_document_with_a_limit_is_refused_beside_that_of_the_batch(daemon):
    lines = '{"argv": ["true"]}\n{"argv": ["true"], "limit": ["mail", 1]}\n'

    done = daemon.bgctl("batch", "-j", "1", "--ndjson", read=lines)

    assert (done.returncode, len(ids_in(done.stdout))) == (1, 1)
    assert "line 2: it has a limit or on_limit, and -j is a limit, too: leave out one of them" in done.stderr
