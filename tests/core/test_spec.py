from __future__ import annotations

import re

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bgd.core.job import Rate
from bgd.core.spec import (
    MAX_PATH,
    MAX_WORD,
    MAX_WORK,
    NOTIFICATION_QUEUE,
    PREVIOUS,
    ExecutorKind,
    Isolation,
    JobSpec,
    KeyUntil,
    OnLimit,
    Reference,
    StopSignal,
    kind_of,
    problem_with,
    problem_with_queue,
)
from bgd.text.units import read

LONGEST_VARIABLE = MAX_WORD - len("A=")


def command(**options):
    return JobSpec(argv=("true",), **options)


@pytest.mark.parametrize(
    "spec",
    [
        command(),
        JobSpec(target="app.services:Report.build"),
        JobSpec(target="app.services:build", arguments='{"args": [1]}'),
        JobSpec(argv=("printf", "", "ü€😀", "a\nb\t")),
        JobSpec(argv=("echo", "x" * MAX_WORD)),
        JobSpec(argv=("echo", "€" * (MAX_WORD // 3))),
        JobSpec(argv=("echo", *["x" * 100_000] * 9)),
        command(cwd="/"),
        command(cwd="/" + "x" * (MAX_PATH - 1)),
        command(name="nightly report", tags=("a", "späť")),
        command(env={}),
        command(at=0.0, stdin="/srv/list", pty=True, key="nightly", retry_on=(75,)),
        command(delay=1.0, input=b"\0\xff", no_retry_on=(2,)),
        JobSpec(target="a:b", after=(1,), after_any=(1,), expires=1.0, slots=2, hold=True),
        command(env={"A": "", "B": "b=c", "no good shell name": "x"}),
        command(env={"A": "x" * LONGEST_VARIABLE}),
        command(gres="gpu:a100:2", partition="short,long", account="physics", time="1-12:00:00"),
        command(
            slurm_options=("--qos=high", "--exclusive", "--mail-user=a@b.c", "--time-min=5", "--begin=a b")
        ),
    ],
)
def test_a_valid_spec_has_no_problem(spec):
    assert problem_with(spec) is None


@pytest.mark.parametrize(
    ("spec", "problem"),
    [
        (JobSpec(), "either argv"),
        (JobSpec(argv=("true",), target="a:b"), "either argv"),
        (JobSpec(argv=("true",), arguments="{}"), "arguments and isolation belong to a class job"),
        (JobSpec(argv=("true",), isolation=Isolation.FORK), "arguments and isolation belong to a class job"),
        (JobSpec(argv=("true",), references=(Reference(1, ("args", 0)),)), "belong to a class job"),
        (
            JobSpec(
                target="a:b", after=(1, 3), references=(Reference(3, ("args", 0)), Reference(2, ("args", 1)))
            ),
            "the result of job 2 is an argument, so after has to name that job",
        ),
        (
            JobSpec(target="a:b", references=(Reference(PREVIOUS, ("args", 0)),)),
            "an argument is the result of the job before: only later jobs of a chain have one",
        ),
        (JobSpec(argv=()), "argv is empty"),
        (JobSpec(argv=("", "x")), "argv is empty"),
        (JobSpec(argv=("safe\0; evil",)), r"argv\[0\] contains a NUL"),
        (JobSpec(argv=("echo", "a", "b\0")), r"argv\[2\] contains a NUL"),
        (JobSpec(argv=("echo", "x" * (MAX_WORD + 1))), rf"argv\[1\] is longer than {MAX_WORD} bytes"),
        (JobSpec(argv=("echo", "€" * (MAX_WORD // 3 + 1))), rf"argv\[1\] is longer than {MAX_WORD} bytes"),
        (JobSpec(argv=("echo", *["x" * 100_000] * 10)), f"longer than {MAX_WORK} bytes in all"),
        (JobSpec(target="a:b", arguments="€" * (MAX_WORK // 3 + 1)), f"longer than {MAX_WORK} bytes of JSON"),
        (command(cwd="relative/path"), "cwd must be an absolute path"),
        (command(cwd="/a\0b"), "cwd must be an absolute path"),
        (command(cwd="/" + "é" * (MAX_PATH // 2 + 1)), f"at most {MAX_PATH} bytes"),
        (command(name="two\nlines"), r"not 'two\\nlines'"),
        (command(name="bell\a"), "printable text"),
        (command(tags=("fine", "\x1b[31mred")), "printable text"),
        (command(env={"": "x"}), "env has a variable named ''"),
        (command(env={"A=B": "x"}), "env has a variable named 'A=B'"),
        (command(env={"A\0": "x"}), "env has a variable named"),
        (command(env={"A": "x\0y"}), "env A contains a NUL"),
        (command(env={"A\nB": "x\0y"}), r"env 'A\\nB' contains a NUL"),
        (command(env={"A": "x" * (LONGEST_VARIABLE + 1)}), f"env A is longer than {MAX_WORD} bytes"),
        (command(env={"A": "€" * (LONGEST_VARIABLE // 3 + 1)}), f"env A is longer than {MAX_WORD} bytes"),
        (JobSpec(target="a:b", cwd="relative"), "cwd must be an absolute path"),
        (JobSpec(target="a:b", stdin="/srv/list"), "stdin, input and pty belong to a command"),
        (JobSpec(target="a:b", input=b"x"), "stdin, input and pty belong to a command"),
        (JobSpec(target="a:b", pty=True), "stdin, input and pty belong to a command"),
        (JobSpec(target="a:b", delay=1.0, at=5.0), "delay and at cannot be combined"),
        (command(delay=1.0, at=0.0), "delay and at cannot be combined"),
        (command(debounce=1.0), "debounce, key_until and key_for need a key"),
        (command(key_for=1.0), "debounce, key_until and key_for need a key"),
        (command(key_until=KeyUntil.END), "debounce, key_until and key_for need a key"),
        (command(key="a", key_until=KeyUntil.START, key_for=1.0), "cannot be combined"),
        (command(debounce=1.0, key="a", delay=1.0), "debounce cannot be combined with delay"),
        (command(on_limit=OnLimit.SKIP), "on_limit needs a limit"),
        (command(debounce=1.0, key="a", after=(1,)), "debounce cannot be combined with delay, at, after"),
        (command(retry_on=(), no_retry_on=()), "retry_on and no_retry_on cannot be combined"),
        (command(stdin="/srv/list", input=b""), "stdin and input cannot be combined"),
        (command(stdin="list"), "stdin must be an absolute path"),
        (command(stdin="/a\0b"), "stdin must be an absolute path"),
        (command(key="two\nlines"), "printable text"),
        (command(gres="gpu\n"), "words for Slurm must be printable text"),
        (command(slurm_options=("--qos=a\0b",)), "must be printable text on one line, not '--qos=a"),
        (
            command(slurm_options=("--wrap=rm",)),
            "slurm_options: a job cannot have --wrap, which bgd sets itself",
        ),
        (command(slurm_options=("--wr=rm",)), "a job cannot have --wr, which bgd sets itself"),
        (command(slurm_options=("--job-name=x",)), "cannot have --job-name"),
        (command(slurm_options=("--uid=0",)), "cannot have --uid"),
        (command(slurm_options=("--mail-user",)), "--mail-user needs a value: --mail-user=VALUE"),
        (command(slurm_options=("--mem-per-cpu=1G",)), "in place of --mem-per-cpu use option memory"),
        (command(slurm_options=("--ntasks=2",)), "in place of --ntasks use option nodes"),
        (command(slurm_options=("--parti=x",)), "in place of --parti use option partition"),
        (
            command(slurm_options=("--qos=x", "-w", "n1")),
            "'-w' is not --NAME or --NAME=VALUE, in one word",
        ),
        (command(slurm_options=("--qos x",)), "'--qos x' is not"),
        (command(slurm_options=("--",)), "'--' is not"),
        (command(slurm_options=("script.sh",)), "'script.sh' is not"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_problem_with_an_invalid_spec_is_named(spec, problem):
    with pytest.raises(AssertionError, match=problem):
        raise AssertionError(problem_with(spec))


any_text = st.text(st.characters(codec=None), max_size=10)  # surrogates too, as in names that are not UTF-8


@given(
    argv=st.just(("true",)) | st.lists(any_text).map(tuple),
    cwd=st.none() | any_text,
    name=st.none() | any_text,
    env=st.none() | st.dictionaries(any_text, any_text),
)
def test_any_text_is_accepted_or_refused_in_one_line(argv, cwd, name, env):
    problem = problem_with(JobSpec(argv=argv, cwd=cwd, name=name, env=env))

    assert problem is None or "\n" not in problem


@pytest.mark.parametrize("queue", ["default", "A", "gpu-0", "a.b_c", "x" * 64])
def test_a_queue_is_named_like_a_file(queue):
    assert msgspec.convert({"queue": queue}, JobSpec).queue == queue


@pytest.mark.parametrize("queue", ["", ".hidden", "-q", "a/b", "a b", "ä", "x" * 65, "default\n", "a\nb"])
def test_other_names_of_queues_are_refused(queue):
    with pytest.raises(msgspec.ValidationError, match="queue"):
        msgspec.convert({"queue": queue}, JobSpec)


@pytest.mark.parametrize("time", ["30", "30:00", "1:30:00", "2-0", "2-12:30:00"])
def test_a_time_for_slurm_is_written_as_for_sbatch(time):
    assert msgspec.convert({"time": time}, JobSpec).time == time


@pytest.mark.parametrize("time", ["", "2h", "-1", "1:2:3:4", "30\n", 30])
def test_other_times_for_slurm_are_refused(time):
    with pytest.raises(msgspec.ValidationError, match="time"):
        msgspec.convert({"time": time}, JobSpec)


@pytest.mark.parametrize("options", [["--x=" + "y" * 500], ["--x"] * 21])
def test_options_of_slurm_are_limited_in_length_and_number(options):
    with pytest.raises(msgspec.ValidationError, match="slurm_options"):
        msgspec.convert({"slurm_options": options}, JobSpec)


@pytest.mark.parametrize("text", ["INT", "int", "SIGINT", "sigint"])
def test_a_stop_signal_is_known_by_each_of_its_spellings(text):
    assert StopSignal(text) is StopSignal.INT


@pytest.mark.parametrize("text", ["", "SIG", "STOP", "2"])
def test_other_signals_are_not_stop_signals(text):
    with pytest.raises(ValueError, match="is not a valid StopSignal"):
        StopSignal(text)


def test_a_rate_is_shown_as_people_write_it():
    assert str(Rate(10, 60.0, "10/1m")) == "10/1m"


def test_only_the_queue_of_notifications_is_bgds_own():
    assert problem_with_queue("mail") is problem_with_queue(None) is None
    assert "for bgd's own notifications" in str(problem_with_queue(NOTIFICATION_QUEUE))


def test_only_a_cluster_finds_nodes_and_only_a_program_in_front_hides_what_runs():
    assert [kind for kind in ExecutorKind if kind.has_nodes] == [ExecutorKind.SLURM]
    assert [kind for kind in ExecutorKind if not kind.is_seen_through] == [ExecutorKind.PREFIX]


@pytest.mark.parametrize(
    ("option", "text", "value"),
    [
        ("timeout", "1h30m", 5400.0),
        ("retry_delay", "5s", 5.0),
        ("retry_delay", "5s, 10s,1m", (5.0, 10.0, 60.0)),
        ("retry_delay", ["5s", 1], (5.0, 1.0)),
        ("retry_on", "1, 70-72,1", (1, 70, 71, 72)),
        ("memory_max", "2GB", 2_000_000_000),
        ("cpu_max", "150%", 150),
        ("cpu_max", "150", 150),
        ("limit", "mail", ("mail", 1)),
        ("limit", ["mail", 2], ("mail", 2)),
        ("priority", "5", 5),
        ("on_limit", "skip", "skip"),
        ("name", "17", "17"),
    ],
)
def test_an_option_is_read_from_what_people_write(option, text, value):
    assert read(text, kind_of(option), is_text=True) == value


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("timeout", "0s", "'0s' must be a duration above 0s and at most 366d, such as 500ms, 10s or 1h30m"),
        ("delay", "soon", "'soon' is not a duration: write 500ms"),
        ("retry_delay", [], "[] must be a duration from 0s to 366d, or a list of 1 to 100 of them"),
        ("retry_on", "1,x", "'x' is not an exit code from 0 to 255: write for example 1,2,70-79"),
        ("retry_on", "9-3", "'9-3' is not an exit code"),
        ("retry_on", "256", "'256' is not an exit code"),
        ("memory_max", 1, "1 must be a size from 1MB to 4611686TB, such as 500kB, 100MB or 64MiB"),
        ("cpu_max", "much", "'much' must be a percentage of one processor from 1% to 1000000%, such as 50"),
        ("limit", 5, "5 must be a key of 1 to 200 characters, or one and a number from 1 to 10000, such as"),
        ("after", [0], "[0] must be a list of at most 1000, each a whole number from 1 to"),
        ("env", "A", "'A' must be at most 4096 names, each with a text"),
        ("hold", "often", "'often' must be true or false"),
        ("input", 5, "5 must be at most 500000 bytes"),
        ("jitter", "2", "'2' must be a number from 0 to 1"),
        ("on_limit", "fail", "'fail' must be one of wait, skip"),
        ("queue", "a b", "'a b' must be a name of at most 64 letters"),
    ],
)
def test_a_wrong_value_of_an_option_is_refused_with_what_it_must_be(option, value, message):
    with pytest.raises(ValueError, match=re.escape(message)) as raised:
        read(value, kind_of(option), is_text=True)
    assert "\n" not in str(raised.value)
