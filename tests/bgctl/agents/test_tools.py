"""The tools of `bgctl mcp`, called in this process."""

from __future__ import annotations

import asyncio
import re
from contextlib import asynccontextmanager

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bgctl import waiting
from bgctl.agents import tools
from bgctl.agents.tools import MAX_ANSWER, MAX_CALLS, TOOLS, AgentTools, described, fitted
from bgd import AsyncClient
from tests.support import DEADLINE

SESSION = 'a "session": *'


@asynccontextmanager
async def tools_of(daemon):
    async with AsyncClient(str(daemon.socket), timeout=DEADLINE) as client:
        yield AgentTools(client, SESSION)


@pytest.fixture
async def answer(daemon):
    """Call a tool that answers; return the answer."""
    async with tools_of(daemon) as agent:

        async def call(tool, **arguments):
            text, is_error = await agent.call(tool, arguments)
            assert not is_error, text
            assert len(text.encode()) <= MAX_ANSWER
            return text

        yield call


@pytest.fixture
async def refusal(daemon):
    """Call a tool that refuses; return its only line."""
    async with tools_of(daemon) as agent:

        async def call(tool, **arguments):
            text, is_error = await agent.call(tool, arguments)
            assert is_error, text
            assert text.isprintable()
            assert len(text.encode()) <= MAX_ANSWER
            return text

        yield call


def id_in(text: str) -> int:
    found = re.match(r"job (\d+) ", text)
    assert found, text
    return int(found[1])


def cursor_in(text: str) -> str:
    found = re.search(r"^cursor (\S+)$", text, re.MULTILINE)
    assert found, text
    return found[1]


def output_in(text):
    return text.partition("\noutput (untrusted):\n")[2]


async def test_a_submit_that_waits_answers_with_the_end_and_the_output(answer):
    text = await answer("submit", shell="echo hello; exit 3", wait=45)

    first, cursor, *_ = text.splitlines()
    assert re.fullmatch(r"job \d+ failed \(exit code 3, \S+\): /bin/sh -c 'echo hello; exit 3'", first)
    assert cursor == "cursor 1:6"
    assert output_in(text) == "hello"


async def test_an_end_that_was_shown_leaves_the_inbox_at_the_next_call(answer, daemon):
    job = id_in(await answer("submit", shell="exit 3", wait=45))

    with daemon.client() as client:
        before = [end.job for end in client.inbox(SESSION, peek=True)]
        await answer("list")
        after = [end.job for end in client.inbox(SESSION, peek=True)]

    assert job in before
    assert job not in after


async def test_a_submit_that_does_not_wait_says_how_to_be_woken(answer):
    text = await answer("submit", command=["sleep", "1000"], name="long")
    job = id_in(text)

    assert f"`bgctl wait {job}` in the background" in text
    await answer("cancel", jobs=[job])


async def test_words_of_a_command_reach_the_program_as_they_are(answer):
    text = await answer("submit", command=["printf", "%s\n", "a b", "$HOME", '"'], wait=45)

    assert output_in(text).splitlines() == ["a b", "$HOME", '"']


async def test_a_job_gets_the_options_of_its_submit(answer, daemon):
    options = {"cwd": "/", "env": {"A": "b"}, "name": "n", "queue": "default", "priority": 3}
    text = await answer("submit", shell="pwd; echo $A", wait=45, timeout=40, retries=2, **options)
    shown = daemon.shown(str(id_in(text)))

    assert output_in(text).splitlines() == ["/", "b"]
    assert shown["session"] == SESSION
    assert {name: shown[name] for name in ("name", "priority", "timeout", "retries")} == {
        "name": "n",
        "priority": 3,
        "timeout": 40,
        "retries": 2,
    }


async def test_a_wait_ends_with_the_first_job_that_has_ended(answer):
    endless = id_in(await answer("submit", command=["sleep", "1000"]))
    short = id_in(await answer("submit", command=["true"]))
    text = await answer("wait", jobs=[endless, short])

    assert text.startswith(f"job {short} succeeded (exit code 0, ")
    await answer("cancel", jobs=[endless])


async def test_a_wait_ends_with_a_line_that_matches_even_a_last_one_without_an_end(answer):
    job = id_in(await answer("submit", shell="echo port 80; printf '\\033[1mport 81'; read x", pty=True))
    assert (await answer("wait", jobs=[job], match="port [0-9]+")).endswith("\nport 80")
    await answer("send", job=job, text="")
    assert (await answer("wait", jobs=[job], match="port [0-9]1")).endswith("\nport 81")
    assert "matching line" not in await answer("wait", jobs=[job], match="port 82")


async def test_a_wait_without_an_end_shows_all_jobs_and_says_not_to_poll(answer):
    jobs = [id_in(await answer("submit", command=["sleep", "1000"])) for _ in range(2)]
    text = await answer("wait", jobs=jobs, seconds=0.1)

    first, *lines, last = text.splitlines()
    assert first == "nothing within 0.1 s"
    assert [id_in(line) for line in lines] == jobs
    assert f"`bgctl wait --any {jobs[0]} {jobs[1]}`" in last
    await answer("cancel", jobs=jobs)


async def test_a_wait_does_not_hold_up_other_calls(answer):
    job = id_in(await answer("submit", command=["sleep", "1000"]))
    async with asyncio.TaskGroup() as tasks:
        waiting = tasks.create_task(answer("wait", jobs=[job], match="never"))
        assert "nothing to show" in await answer("read", job=job)
        await answer("cancel", jobs=[job])
    assert waiting.result().startswith(f"job {job} cancelled")


async def test_a_long_output_is_shown_with_its_beginning_and_end(answer):
    text = await answer("submit", shell="seq 200000", wait=45)
    head, tail = re.split(r"\n\[\d+ bytes left out: cursor 1:800\]\n", output_in(text))

    assert head.startswith("1\n2\n")
    assert tail.endswith("199999\n200000")


async def test_pages_have_every_byte_once(answer):
    text = await answer("submit", shell="seq 3000; printf '\\344\\000\\001%.0s' $(seq 900)", wait=45)
    job, cursor, pages = id_in(text), "1:0", ""
    while (page := await answer("read", job=job, cursor=cursor)) and (following := cursor_in(page)) != cursor:
        assert "left out" not in page
        pages += output_in(page) + "\n" * (page[-1].isdecimal())
        cursor = following
    numbers, _, rest = pages.rpartition("3000\n")

    assert numbers.split() == list(map(str, range(1, 3000)))
    assert rest == tools.plain(b"\xe4\x00\x01" * 900)


async def test_a_cursor_at_the_end_shows_what_is_written_later(answer):
    job = id_in(await answer("submit", shell="echo before; read x; echo after", pty=True))
    await answer("wait", jobs=[job], match="before")
    cursor = cursor_in(await answer("read", job=job))
    await answer("send", job=job, text="")
    await answer("wait", jobs=[job])

    assert output_in(await answer("read", job=job, cursor=cursor)).split() == ["after"]


@pytest.mark.daemon('[logs]\nmax_bytes = "64KB"')
async def test_pages_say_what_the_log_did_not_keep(own_daemon):
    job = own_daemon.finished_job("--shell", "seq 100000; echo end")
    own_daemon.bgctl("retry", job)
    own_daemon.bgctl("wait", job)
    cursor, pages = "1:0", ""
    async with tools_of(own_daemon) as agent:
        while cursor != "2:0":
            page, _ = await agent.call("read", {"job": int(job), "cursor": cursor})
            pages += f"{output_in(page)}\n"
            cursor = cursor_in(page)
        whole, _ = await agent.call("read", {"job": int(job)})
    before, missing, after = re.split(r"\n\[(\d+) bytes were not kept\]\n", pages)
    written = "".join(f"{number}\n" for number in range(1, 100_001)) + "end\n"
    after = f"{after.rstrip()}\n"

    assert written.startswith(before)
    assert written.endswith(after)
    assert len(before) + int(missing) + len(after) == len(written)
    assert output_in(whole).endswith("\n100000\nend")


async def test_a_cursor_goes_on_to_the_next_attempt(answer):
    job = id_in(await answer("submit", command=["echo", "once"], wait=45))
    await answer("retry", jobs=[job])
    await answer("wait", jobs=[job])
    end = cursor_in(await answer("read", job=job, cursor="1:5"))

    assert end == "2:0"
    assert output_in(await answer("read", job=job, cursor=end)) == "once"


async def test_the_last_lines_of_an_output(answer):
    job = id_in(await answer("submit", shell="seq 5000", wait=45))

    assert output_in(await answer("read", job=job, tail=2)) == "4999\n5000"
    first, *lines = output_in(await answer("read", job=job, tail=1000)).splitlines()
    assert first == f"[{5 * (1000 - len(lines))} bytes of these lines left out]"
    assert (lines[-1], len(lines) > 500) == ("5000", True)


async def test_lines_that_match(answer):
    job = id_in(await answer("submit", shell="seq 5000; echo '\033[31m77\033[0m'", wait=45))
    text = await answer("read", job=job, grep="^77$")

    assert output_in(text) == "77\n77"
    assert "2 matching lines in bytes 0 to " in text
    assert "nothing to show" in await answer("read", job=job, grep="^1$", cursor="1:10")


async def test_a_long_search_goes_on_from_its_cursor(answer, monkeypatch):
    monkeypatch.setattr(tools, "MAX_SEARCHED", 100_000)
    job = id_in(await answer("submit", shell="seq 100000", wait=45))
    cursor, counts = "1:0", [0]
    while counts[-1] or cursor == "1:0":  # up to an answer without any
        text = await answer("read", job=job, grep="^[0-9]+$", cursor=cursor)
        counts.append(int(text.splitlines()[1].split()[0]))
        cursor = cursor_in(text)

    assert len(counts) > 5
    assert sum(counts) == 100_000


async def test_output_cannot_do_anything_to_a_terminal(answer):
    shell = r"printf 'a\033]0;title\007b\033[2Jc\rd\342\200\256e\n\033[31mred\033[0m\001'"
    text = await answer("submit", shell=shell, wait=45)

    assert all(line.isprintable() for line in text.splitlines())
    assert output_in(text).endswith("red\N{SYMBOL FOR START OF HEADING}")


async def test_a_list_has_the_jobs_of_the_session(answer, daemon):
    mine = id_in(await answer("submit", command=["true"], name="mine", wait=45))
    other = daemon.submit("--name", "other", "true")
    listed = await answer("list", filter="name:mine")

    assert str(mine) in listed.split()
    assert "other" not in await answer("list", limit=100)
    assert other in (await answer("list", all=True, filter="name:other")).split()
    assert await answer("list", filter="name:nothing") == "no jobs match"


async def test_why_a_job_waits(answer):
    first = id_in(await answer("submit", command=["sleep", "1000"]))
    second = id_in(await answer("submit", command=["true"], after=[first]))

    assert f"job {first}" in await answer("explain", job=second)
    assert "nothing blocks it" in await answer("explain", job=first)
    await answer("cancel", jobs=[first, second])


async def test_an_action_tells_of_each_job_and_is_refused_if_none_allows_it(answer, refusal):
    ended = id_in(await answer("submit", command=["true"], wait=45))
    running = id_in(await answer("submit", command=["sleep", "1000"]))
    lines = (await answer("cancel", jobs=[running, ended])).splitlines()

    assert lines[1] == f"job {ended} has already finished (succeeded)"
    assert await refusal("cancel", jobs=[ended]) == lines[1]


async def test_keys_reach_the_terminal_of_a_job(answer):
    # Not `cat`: what a shell has just forked loses a Ctrl-C that comes before it runs the program
    reads = "trap 'echo stopped; exit 4' INT; echo up; while read line; do echo got $line; done"
    job = id_in(await answer("submit", shell=reads, pty=True))
    await answer("wait", jobs=[job], match="up")
    await answer("send", job=job, text="hello")
    await answer("wait", jobs=[job], match="^got hello$")
    await answer("send", job=job, text="\x03", newline=False)

    assert "exit code 4" in await answer("wait", jobs=[job])


@pytest.mark.parametrize(
    ("tool", "arguments", "message"),
    [
        ("submit", {}, "give either command"),
        ("submit", {"command": ["a"], "shell": "b"}, "give either command"),
        ("submit", {"command": ["echo hi"]}, "`command` takes one word an item, `shell` a line"),
        ("submit", {"command": ["true"], "cwd": "/nowhere"}, "/nowhere does not exist"),
        ("submit", {"command": ["true", "a\0b"]}, "argv[1] contains a NUL character"),
        ("submit", {"command": ["true"], "priority": 5000}, "priority: 5000 must be a whole number"),
        ("submit", {"command": "true"}, "Expected `array`, got `str`"),
        ("submit", {"command": ["true"], "wait": 46}, "Expected `float` <= 45.0"),
        ("submit", {"shell": "x" * 300_000}, "more than 262144 bytes"),
        ("submit", {"command": ["true"], "unknown\nkey": 1}, "unknown field"),
        ("wait", {"jobs": []}, "length >= 1"),
        ("wait", {"jobs": list(range(1, 34))}, "length <= 32"),
        ("wait", {"jobs": [999]}, "no job 999: `list` shows the jobs there are"),
        ("wait", {"jobs": [2**70]}, "jobs[0]: 1180591620717411303424 must be a whole number from 1 to "),
        ("read", {"job": -1}, "job: -1 must be a whole number from 1 to "),
        ("wait", {"jobs": [1], "match": "("}, "match '(' is not a regular expression"),
        ("read", {"job": 1, "grep": "a{99999999999}"}, "grep 'a{99999999999}' is not a regular expression"),
        ("read", {"job": 1, "cursor": "1:\n"}, "cursor"),
        ("read", {"job": 1, "cursor": "9:0"}, "no attempt 9"),
        ("list", {"filter": 'name:"'}, "quotes of 'name:\"' are not closed"),
        ("send", {"job": 1, "text": "x"}, "job 1 has no keyboard"),
        ("no\x1b[2Jtool", {}, "there are submit, wait, read"),
    ],
)
async def test_what_cannot_be_done_is_refused_in_one_line(daemon, refusal, tool, arguments, message):
    daemon.finished_job("echo", "aaa")

    assert message in await refusal(tool, **arguments)


async def test_text_that_cannot_be_used_is_an_error_of_the_call(answer, refusal):
    job = id_in(await answer("submit", command=["true"], wait=45))

    assert await refusal("submit", command=["a\0b"]) == "no program 'a\\x00b' on its PATH"
    assert "surrogates not allowed" in await refusal("list", filter="\ud800")
    assert "invalid literal" in await refusal("read", job=job, cursor="\n")


async def test_a_folder_that_is_missing_brings_no_advice_about_the_command(refusal):
    assert (await refusal("submit", command=["true"], cwd="/nowhere")).endswith("/nowhere does not exist")


async def test_a_comparison_that_takes_too_long_is_refused(answer, refusal, monkeypatch):
    monkeypatch.setattr(waiting, "MATCH_SECONDS", 0.05)
    job = id_in(await answer("submit", command=["echo", "a" * 60 + "b"], wait=45))

    for tool, arguments in (
        ("wait", {"jobs": [job], "match": "(a+)+$"}),
        ("read", {"job": job, "grep": "(a+)+$"}),
    ):
        assert "takes longer than 0.05 s" in await refusal(tool, **arguments)


async def test_null_is_as_good_as_nothing_and_a_number_may_be_a_text(answer):
    text = await answer("submit", command=["echo", "x"], shell=None, cwd=None, wait="45")

    assert output_in(text) == "x"


async def test_too_many_calls_at_once_are_refused(answer, daemon):
    job = id_in(await answer("submit", command=["sleep", "1000"]))
    async with tools_of(daemon) as agent:
        calls = [agent.call("wait", {"jobs": [job]}) for _ in range(MAX_CALLS + 1)]
        async with asyncio.TaskGroup() as tasks:
            running = [tasks.create_task(call) for call in calls]
            done, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            [(text, is_error)] = [task.result() for task in done]
            assert is_error
            assert text == "32 calls are running: let one end first"
            await answer("cancel", jobs=[job])


async def test_no_daemon_is_one_line(tmp_path):
    async with AsyncClient(str(tmp_path / "none.sock"), timeout=0.1) as client:
        text, is_error = await AgentTools(client, "s").call("list", {})

    assert is_error
    assert text.isprintable()
    assert text.startswith(f"no daemon answers at {tmp_path}/none.sock")


@pytest.mark.parametrize("tool", TOOLS)
def test_the_description_of_a_tool_is_short_and_its_schema_whole(tool):
    about = described(tool)

    assert len(msgspec.json.encode(about)) < 2000
    assert about["inputSchema"]["type"] == "object"
    assert "$ref" not in str(about)


@given(st.text(alphabet=st.sampled_from("a\n\U0001f600é\x00"), min_size=0, max_size=9000))
def test_an_answer_always_fits_and_keeps_its_ends(text):
    shown = fitted(text)

    assert len(shown.encode()) <= MAX_ANSWER
    assert shown[:100] == text[:100]
    assert shown[-100:] == text[-100:]
    assert shown == text or "bytes left out]" in shown
