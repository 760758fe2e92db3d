"""What the lines of a batch say."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bgctl import batch_lines
from bgctl.batch_lines import (
    Source,
    SpecOfLine,
    argument_lines,
    document_lines,
    documents,
    portions_of_lines,
    program_check,
    shell_lines,
    template_words,
    word_lines,
    words_of,
)
from bgctl.common import WrongUsage
from bgd.client.portions import SpecMaker
from bgd.client.specs import Caller
from bgd.core.spec import MAX_ARGV, MAX_WORD, JobSpec, Reference
from bgd.errors import Refused


@pytest.fixture
def maker():
    return SpecMaker({"tags": ["t"]}, Caller())


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("echo one two", ["echo", "one", "two"]),
        ("  echo\ta  \r", ["echo", "a"]),
        ("echo 'one two' \"three four\" five\\ six", ["echo", "one two", "three four", "five six"]),
        ("echo ''", ["echo", ""]),
        ("echo $HOME * ~ | cat", ["echo", "$HOME", "*", "~", "|", "cat"]),
        ("echo a\u00a0b", ["echo", "a\u00a0b"]),
        ("echo a#b #c", ["echo", "a#b", "#c"]),
        ("", []),
    ],
)
def test_a_line_is_split_as_a_shell_splits_it(line, words):
    assert words_of(line) == words


@pytest.mark.parametrize("line", ["echo 'a", 'echo "a', "echo a\\"])
def test_an_open_quote_is_refused(line):
    with pytest.raises(ValueError, match="a quote is not closed, or a backslash ends the line"):
        words_of(line)


def test_comments_and_blank_lines_say_nothing(maker):
    for lines in (word_lines(maker), shell_lines(maker)):
        assert [lines(1, line) for line in (b"", b"  \t", b"# echo", b"  # echo")] == [None] * 4


def test_a_line_has_the_shared_options(maker):
    spec = word_lines(maker)(1, b"echo a")

    assert spec is not None
    assert (spec.argv, spec.tags, spec.cwd, spec.env) == (("echo", "a"), ("t",), str(Path.cwd()), None)


def test_a_shell_gets_the_line_as_it_is(maker):
    spec = shell_lines(maker)(1, b" echo 'a' | cat")

    assert spec is not None
    assert spec.argv == ("/bin/sh", "-c", " echo 'a' | cat")


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b"echo \xff", "it is not UTF-8 text"),
        (b"e\0c\0h\0o\0", "if it is UTF-16, `iconv -f UTF-16` converts it"),
        (b"echo " + b"x" * (MAX_WORD + 1), "longer than"),
        (b"x " * (MAX_ARGV + 1), f"{MAX_ARGV + 1} words are too many"),
    ],
)
def test_lines_that_no_job_can_be_are_refused(maker, line, why):
    with pytest.raises(ValueError, match=why):
        word_lines(maker)(1, line)


def test_an_operator_of_a_shell_is_noted_once(maker, capsys):
    lines = word_lines(maker)
    for number, line in enumerate([b"echo a", b"| b", b"echo a | cat", b"echo b > c"], start=1):
        lines(number, line)

    assert capsys.readouterr().err == (
        "bgctl: line 3: '|' is an argument here: with --shell, a shell runs each line\n"
    )


def test_each_program_is_looked_for_once_where_the_shared_options_say(monkeypatch):
    asked = []
    monkeypatch.setattr(batch_lines, "problem_with_program", lambda *args: asked.append(args))
    check = program_check({"env": {"PATH": "/p"}}, Caller(), "/")
    for folder in ("/", "/", "/other"):
        check(JobSpec(argv=("tool", "a"), cwd=folder))
    check(JobSpec(argv=("tool", "a"), cwd="/", env={}))
    check(JobSpec(target="app:tool"))

    assert asked == [("tool", "/p", "/")]


def test_a_missing_program_is_refused(maker):
    check = program_check({}, Caller(), maker.folder)
    lines: list[SpecOfLine] = [
        word_lines(maker),
        argument_lines(maker, template_words("no-such-program {}", shell=False), shell=False),
        argument_lines(maker, template_words("{}", shell=False), shell=False),
    ]
    for spec_of in lines:
        spec = spec_of(1, b"no-such-program")
        assert spec is not None
        with pytest.raises(Refused, match="no program 'no-such-program' on its PATH; --no-check queues it"):
            check(spec)


@pytest.mark.parametrize(
    ("template", "argv"),
    [
        ("convert {} {.}.png", ["convert", "/a b/c.d.tif", "/a b/c.d.png"]),
        ("x {/} {//} {/.} {#}", ["x", "c.d.tif", "/a b", "c.d", "7"]),
        ("x {#}", ["x", "7"]),
        ("x", ["x", "/a b/c.d.tif"]),
        ("x -i{} '{} {}'", ["x", "-i/a b/c.d.tif", "/a b/c.d.tif /a b/c.d.tif"]),
        ("x {other}", ["x", "{other}", "/a b/c.d.tif"]),
    ],
)
def test_a_template_takes_the_line_in_its_places(maker, template, argv):
    spec = argument_lines(maker, template_words(template, shell=False), shell=False)(7, b"/a b/c.d.tif")

    assert spec is not None
    assert list(spec.argv or ()) == argv


def test_parts_of_a_plain_name(maker):
    spec = argument_lines(maker, template_words("x {.} {/} {//} {/.}", shell=False), shell=False)(1, b"name")

    assert spec is not None
    assert spec.argv == ("x", "name", "name", ".", "name")


def test_a_shell_template_gets_the_line_as_a_parameter(maker):
    spec = argument_lines(maker, template_words("wc {} > {.}.txt", shell=True), shell=True)(
        1, b"a; rm -rf $HOME.c"
    )
    bare = argument_lines(maker, template_words("wc <", shell=True), shell=True)(1, b"a b")

    assert spec is not None
    assert spec.argv == ("/bin/sh", "-c", 'wc "$1" > "$2".txt', "sh", "a; rm -rf $HOME.c", "a; rm -rf $HOME")
    assert bare is not None
    assert bare.argv == ("/bin/sh", "-c", 'wc < "$1"', "sh", "a b")


def test_a_template_must_be_a_command(maker):
    for template in ("", "  ", "'x"):
        with pytest.raises(WrongUsage, match="--template"):
            argument_lines(maker, template_words(template, shell=False), shell=False)


def test_a_blank_line_makes_no_job_of_a_template(maker):
    assert argument_lines(maker, template_words("x", shell=False), shell=False)(1, b"") is None


def test_a_document_has_options_and_what_the_daemon_sets_is_ignored(maker):
    lines = document_lines(maker)
    spec = lines(1, b'{"argv": ["x"], "priority": 3, "id": 7, "state": "failed", "due_at": 1, "tags": null}')

    assert spec is not None
    assert (spec.argv, spec.priority, spec.tags) == (("x",), 3, ("t",))
    assert lines(2, b" ") is None


def test_a_document_refers_to_results_and_one_that_list_printed_only_to_those_it_waited_for(maker):
    lines, call = document_lines(maker), b'{"target": "a:b", "args": [{"$result": 7}]'

    written, listed = lines(1, call + b"}"), lines(2, call + b', "id": 9, "after": [7]}')
    data = lines(3, call + b', "id": 9, "after": []}')

    assert written is not None
    assert (written.references, written.after) == ((Reference(7, ("args", 0)),), (7,))
    assert listed is not None
    assert (listed.references, listed.after) == (written.references, (7,))
    assert data is not None
    assert (data.arguments, data.references) == (written.arguments, ())


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b'{"argv": ["x"], "prio": 3}', "no key 'prio': did you mean priority"),
        (b'{"argv": ["x"], "priority": "high"}', "priority: .high. must be a whole number"),
        (b'{"priority": 1}', "neither argv"),
        (b"[1", "it is not one JSON document"),
        (b"7", "it is not a JSON object"),
        (b"[" * 100_000, "it is not one JSON document"),
    ],
)
def test_a_document_that_cannot_be_a_job_is_refused(maker, line, why):
    with pytest.raises((ValueError, Refused), match=why):
        document_lines(maker)(1, line)


def test_an_array_counts_as_its_items():
    groups = documents([[b'[{"a": 1}, {"b": 2}]', b"{}", b"[1"], []])

    assert list(groups) == [[b'{"a": 1}', b'{"b": 2}', b"{}", b"[1"], []]


# --- reading ----------------------------------------------------------------------------------------------


@pytest.fixture
def pipe():
    reading, writing = os.pipe()
    yield reading, writing
    os.close(reading)


def test_lines_come_as_they_are_written_with_an_empty_group_before_each_wait(pipe):
    reading, writing = pipe
    groups = Source(reading).groups()
    os.write(writing, b"one\ntwo\nth")

    assert next(groups) == [b"one", b"two"]
    assert next(groups) == []
    os.write(writing, b"ree\nfour")
    assert next(groups) == [b"three"]
    os.close(writing)
    assert list(groups) == [[b"four"]]


def test_a_line_without_end_is_refused(pipe, monkeypatch):
    monkeypatch.setattr(batch_lines, "MAX_LINE", 10)
    os.write(pipe[1], b"x" * 11)

    with pytest.raises(Refused, match="a line has more than 10 bytes"):
        list(Source(pipe[0]).groups())
    os.close(pipe[1])


def test_a_portion_is_cut_by_number_and_after_what_there_is_to_read(maker, monkeypatch):
    monkeypatch.setattr(batch_lines, "PORTION", 2)
    groups = [[b"a", b"", b"b", b"c"], [], [b"d", b"e"], [b""]]

    def place_of(line, spec):
        return None if spec.argv == ("e",) else line

    cut = list(portions_of_lines(groups, maker, word_lines(maker), place_of, 1))

    assert [each and each.lines for each in cut] == [[3, 4], None, [5]]


def test_a_bad_line_is_named_after_those_before_it(maker):
    cut = portions_of_lines([[b"a", b"'", b"c"]], maker, word_lines(maker), lambda line, _: line, 0)

    first = next(cut)
    assert first is not None
    assert first.lines == [1]
    with pytest.raises(Refused, match="line 2: a quote is not closed"):
        next(cut)


def test_a_byte_order_mark_is_no_part_of_the_first_line(maker):
    mark = "\ufeff".encode()

    assert word_lines(maker)(1, mark + b"echo a").argv == ("echo", "a")  # type: ignore[union-attr]  # a job
    assert document_lines(maker)(1, mark + b'{"argv": ["a"]}').argv == ("a",)  # type: ignore[union-attr]


@pytest.mark.parametrize(("end", "lines"), [(b"\n", [b"a", b"\rb", b"c"]), (b"\0", [b"a\r\n\rb\r\nc\r"])])
def test_the_carriage_returns_of_a_file_from_windows_are_not_part_of_its_lines(tmp_path, end, lines):
    (tmp_path / "lines").write_bytes(b"a\r\n\rb\r\nc\r")
    descriptor = os.open(tmp_path / "lines", os.O_RDONLY)

    assert [line for group in Source(descriptor, end).groups() for line in group] == lines

    os.close(descriptor)
