"""bgctl without a terminal, below a program: short answers, no colors, bars or questions."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bgctl.output import head_and_tail
from bgd.errors import nearest
from bgd.wire.replies import LogPart
from tests.support import seen, serving

ESCAPE = "\x1b"
GAP = re.compile(r"==> (\d+) bytes missing: left out by --max-output; `bgctl (logs \d+ .*)` shows more <==\n")
LONG = ("--shell", "seq 1 100000; exit 3")  # 588,895 bytes


# --- bounded output ---------------------------------------------------------------------------------------


def test_run_prints_the_first_and_the_last_bytes_and_how_to_read_the_others(daemon):
    done = daemon.bgctl("run", "--max-output", "4KB", *LONG)

    whole = "".join(f"{number}\n" for number in range(1, 100_001))
    found = GAP.match(done.stderr)
    assert found is not None, done.stderr
    assert done.returncode == 3
    assert len(done.stdout) + len(done.stderr) <= 4000
    head, tail = 1750, len(done.stdout) - 1751
    assert done.stdout == f"{whole[:head]}\n{whole[-tail:]}"
    assert int(found[1]) == len(whole) - head - tail
    more = daemon.bgctl(*shlex.split(found[2]))
    assert more.stdout == whole[head : head + 4000]
    assert more.stderr == f"bgctl: next byte: {head + 4000}\n"


def test_output_that_fits_is_printed_unchanged(daemon):
    done = daemon.bgctl("run", "--max-output", "4KB", "seq", "700")

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "".join(f"{number}\n" for number in range(1, 701))


def test_the_beginning_is_printed_while_the_job_runs(daemon):
    (daemon.folder / "gate").unlink(missing_ok=True)
    script = "seq 1 10000; until [ -e gate ]; do sleep 0.01; done"
    command = [sys.executable, "-m", "bgctl", "run", "--max-output", "1kB", "--shell", script]
    with subprocess.Popen(command, env=daemon.env, cwd=daemon.folder, stdout=subprocess.PIPE) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == b"1\n"
        (daemon.folder / "gate").touch()
        assert running.stdout.read().endswith(b"\n9999\n10000\n")


def test_the_gap_names_the_attempt_in_which_it_begins(daemon):
    script = "seq 1 500; exit 7"
    done = daemon.bgctl(
        "run", "--max-output", "2kB", "--retries", "1", "--retry-delay", "0", "--shell", script
    )

    header, gap, end = done.stderr.splitlines(keepends=True)
    found = GAP.match(gap)
    assert found is not None
    assert header.endswith(", attempt 2 <==\n")
    assert end.endswith(" failed (exit code 7)\n")
    assert int(found[1]) == 2 * 1892 - 1500
    assert daemon.bgctl(*shlex.split(found[2])).stdout.startswith("5\n216\n")


def test_json_tells_of_the_gap(daemon):
    done = daemon.bgctl("run", "--json", "--max-output", "4KB", *LONG)

    created, *pieces, end = map(json.loads, done.stdout.splitlines())
    assert created["created"]
    assert sum(len(piece["data"]) for piece in pieces) == 3500
    [gap] = [piece for piece in pieces if piece.get("left_out")]
    assert gap["missing"].startswith("left out by --max-output; `bgctl logs")
    assert (done.returncode, end["exit_code"]) == (3, 3)


@pytest.mark.parametrize("size", ["999", "0", "17MiB"])
def test_a_size_that_cannot_be_kept_is_refused(daemon, size):
    done = daemon.bgctl("run", "--max-output", size, "true")

    assert (done.returncode, done.stdout) == (2, "")
    assert (
        done.stderr
        == f"bgctl: --max-output: {size!r} must be a size from 1kB to 16.8MB, such as 500kB, 100MB or 64MiB\n"
    )


def parts_of(text: bytes, cuts: list[int]) -> list[LogPart]:
    places = sorted({0, len(text), *(cut % (len(text) + 1) for cut in cuts)})
    spans = pairwise(places)
    return [LogPart(1, 1, text[begin:end], offset=begin) for begin, end in spans]


@given(
    text=st.text(st.sampled_from("aé\N{CJK UNIFIED IDEOGRAPH-65E5}\N{PILE OF POO}"), max_size=900),
    cuts=st.lists(st.integers(0, 5000)),
    is_binary=st.booleans(),
)
@settings(deadline=None)
def test_head_and_tail_are_what_they_say_however_the_output_arrives(text, cuts, is_binary):
    data = b"\x80" * len(text) if is_binary else text.encode()
    shown = list(head_and_tail(7, parts_of(data, cuts), 1000))

    gaps = [part for part in shown if part.left_out]
    for part in shown:
        assert data[part.offset :].startswith(part.data)
    if len(data) <= 500:
        assert gaps == []
    if not gaps:
        assert b"".join(part.data for part in shown) == data
        return
    [first] = gaps
    before = sum(len(part.data) for part in shown[: shown.index(first)])
    after = sum(len(part.data) for part in shown[shown.index(first) :])
    assert (first.offset, first.left_out) == (len(data) - after, len(data) - before - after)
    assert f"--attempt 1 --after-byte {before} " in first.missing
    assert before <= 254
    assert after <= 250


def test_only_as_much_as_is_shown_is_held():
    held = 0

    def endless():
        nonlocal held
        for number in range(100_000):
            yield LogPart(1, 1, b"x" * 10, offset=10 * number)

    shown = list(head_and_tail(7, endless(), 1000))

    assert sum(len(part.data) for part in shown) <= 504
    assert len(shown) <= 51 + 1


# --- quiet ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "code", "output"),
    [
        (["submit", "--quiet", "true"], 0, ""),
        (["submit", "--quiet", "--json", "true"], 0, ""),
        (["submit", "--quiet", "--wait", "false"], 1, ""),
        (["submit", "--quiet", "-f", "--shell", "echo out; exit 3"], 3, "out\n"),
        (["run", "--quiet", "--shell", "echo out; exit 3"], 3, "out\n"),
        (
            ["run", "--quiet", "--retries", "1", "--retry-delay", "0", "--shell", "echo out; exit 3"],
            3,
            "out\nout\n",
        ),
        (["batch", "--quiet", "--wait", "--", "test", ":::", "", "a"], 1, ""),
        (["batch", "--quiet", "--json", "--wait", "--", "true", ":::", "a"], 0, ""),
        (["wait", "--quiet"], 0, ""),
        (["wait", "--quiet", "--progress"], 0, ""),
    ],
)
def test_quiet_prints_nothing_but_the_output(daemon, words, code, output):
    if words[0] == "wait":
        daemon.finished_job("true")

    done = daemon.bgctl(*words)

    assert (done.returncode, done.stdout, done.stderr) == (code, output, "")


def test_quiet_does_not_hide_refusals(daemon):
    done = daemon.bgctl("run", "--quiet", "no-such-program")

    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("bgctl: ")


# --- wait -------------------------------------------------------------------------------------------------


def test_wait_any_exits_with_the_code_of_the_first_that_ends(daemon):
    slow = daemon.submit("--hold", "true")
    quick = daemon.submit("sh", "-c", "exit 9")

    waited = daemon.bgctl("wait", "--any", "--json", slow, quick)

    [end] = map(json.loads, waited.stdout.splitlines())
    assert (waited.returncode, end["id"], end["exit_code"]) == (9, int(quick), 9)


def test_wait_prints_as_json_what_has_not_ended_at_the_timeout(daemon):
    done, held, other = (
        daemon.finished_job("false"),
        daemon.submit("--hold", "true"),
        daemon.submit("--hold", "true"),
    )

    waited = daemon.bgctl("wait", "--json", "--timeout", "0.5", done, held, other)

    states = {str(job["id"]): job["state"] for job in map(json.loads, waited.stdout.splitlines())}
    assert waited.returncode == 75
    assert states == {done: "failed", held: "held", other: "held"}
    again = f"`bgctl wait {held}-{other}` waits longer"
    assert waited.stderr == f"bgctl: 2 jobs have not finished within 0.5 s; {again}\n"
    assert daemon.bgctl("wait", "--any", "--timeout", "10ms", held, other).stdout == ""


# --- no terminal ------------------------------------------------------------------------------------------

VERBS = [
    *(
        "list",
        "list --usage",
        "show",
        "show --usage",
        "top",
        "explain",
        "logs",
        "search out",
        "stats",
        "events",
    ),
    *(
        "queue",
        "schedule",
        "batch list",
        "info",
        "doctor",
        "config show",
        "wait --progress",
        "slots",
        "help run",
    ),
    *("prune", "submit true", "run echo out", "batch --wait -- echo ::: a b", "completion bash", "reload"),
]


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("env", [{}, {"TERM": "dumb"}, {"NO_COLOR": "1", "FORCE_COLOR": "1"}, {"CI": "true"}])
def test_no_verb_writes_an_escape_or_asks_without_a_terminal(finished, verb, env):
    done = finished.bgctl(*verb.split(), env=env)

    assert done.returncode in {0, 1}, done.stderr
    assert ESCAPE not in done.stdout + done.stderr
    assert "\r" not in done.stdout + done.stderr


@pytest.fixture(scope="module")
def finished(daemon):
    daemon.finished_job("echo", "out")
    return daemon


@pytest.mark.parametrize(
    "verb", ["run echo out", "submit --quiet true", "batch -- echo ::: a", "list --ids", "logs"]
)
def test_standard_streams_may_be_closed(finished, verb):
    closed = ["sh", "-c", 'exec "$@" <&-', "sh", sys.executable, "-m", "bgctl", *verb.split()]

    done = subprocess.run(
        closed, env=finished.env, cwd=finished.folder, capture_output=True, text=True, check=False
    )

    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("words", "option"),
    [
        ("cancel --queue mail", "--yes"),
        ("remove --queue mail", "--yes"),
        ("prune --keep 0", "--yes"),
        ("watch", "--json"),
        ("list --watch", "--json"),
        ("attach last", "`bgctl run -i PROGRAM`"),
        ("run -it cat", "`bgctl run -i PROGRAM`"),
    ],
)
def test_what_needs_a_person_is_refused_in_one_line_that_says_what_to_type(daemon, words, option):
    for _ in range(2):
        daemon.submit("-q", "mail", "--hold", "true")
        daemon.finished_job("true")

    done = daemon.bgctl(*words.split())

    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert option in done.stderr
    daemon.bgctl("cancel", "--yes", "--queue", "mail")


@pytest.mark.parametrize(
    ("words", "remedy"),
    [
        ("show 999999", "`bgctl list --all` lists jobs"),
        ("logs 999999", "`bgctl list --all` lists jobs"),
        ("wait 999999", "`bgctl list --all` lists jobs"),
        ("cancel 999999", "`bgctl list --all` lists jobs"),
        ("wait nobody", "give a name, an id such as 12 or 3-9, or last"),
        ("batch show 999999", "`bgctl batch list` shows names and ids"),
        ("schedule run gone", "known are none"),
        ("edit 1", "see 'bgctl edit --help'"),
        ("schedule edit x", "see 'bgctl schedule edit --help'"),
        ("submit", "see 'bgctl submit --help'"),
        ("logs --path held", "`bgctl show "),
        ("wait --match x --timeout 10ms held", "`bgctl logs -n 20 "),
        ("wait --timeout 10ms held", "`bgctl wait "),
        ("send held hi", "`bgctl run -it PROGRAM`"),
        ("frobnicate", "see 'bgctl --help'"),
    ],
)
def test_a_refusal_is_one_line_with_what_to_type_next(daemon, words, remedy):
    daemon.submit("--hold", "-n", "held", "true")

    done = daemon.bgctl(*words.split())

    assert done.returncode != 0
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("bgctl: ")
    assert remedy in done.stderr


def test_nothing_is_suggested_where_nothing_is_known():
    assert nearest("gone", []) == "known are none"


# --- variables that other programs obey -------------------------------------------------------------------


def test_force_color_colors_what_people_read_and_not_what_programs_read(daemon):
    daemon.finished_job("false")
    forced = {"FORCE_COLOR": "1"}

    assert f"{ESCAPE}[31mfailed" in daemon.bgctl("show", env=forced).stdout
    assert ESCAPE not in daemon.bgctl("list", env=forced).stdout
    for more in ({"NO_COLOR": "1"}, {"FORCE_COLOR": "0"}):
        assert ESCAPE not in daemon.bgctl("show", env=forced | more).stdout
    assert ESCAPE not in daemon.bgctl("--color", "never", "show", env=forced).stdout
    assert ESCAPE in daemon.bgctl("show", "--color", "always", env={"NO_COLOR": "1"}).stdout


def test_a_dumb_terminal_gets_neither_colors_nor_redrawn_lines(daemon, terminal):
    daemon.finished_job("printf", r"one\rtwo\n")

    for words in (["list"], ["show"], ["logs"], ["top"], ["wait", "--progress"]):
        assert ESCAPE not in seen(terminal(*words, TERM="dumb"))
    watched = terminal("watch", TERM="dumb")
    assert "use --json, or `bgctl events -f`" in seen(watched)
    assert watched.exitstatus == 2
    assert seen(terminal("logs", TERM="dumb")) == "two\r\n"


def test_nothing_is_asked_and_no_bar_is_drawn_on_a_build_server(terminal):
    with serving() as own:
        for _ in range(2):
            own.finished_job("true")

        refused = terminal("prune", "--keep", "0", HOME=str(own.folder), CI="true")
        assert "2 jobs would be removed: confirm with --yes" in seen(refused)
        asked = terminal("prune", "--keep", "0", HOME=str(own.folder), CI="false")
        asked.expect_exact("Prune 2 jobs")
        asked.sendline("n")
        seen(asked)
        assert ESCAPE not in seen(
            terminal("--color", "never", "wait", "--progress", HOME=str(own.folder), CI="1")
        )
