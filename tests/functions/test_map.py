"""`map`: a job for each item, and results in the order of the items, with either client."""

from __future__ import annotations

import asyncio
import itertools
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager

import pexpect  # type: ignore[import-untyped]  # it has no types
import pytest

from bgd import AsyncClient, Client, DaemonUnreachable, JobFailed, NotAllowed, Refused
from tests.client.driven import Driven
from tests.functions import tasks
from tests.support import DEADLINE, ROOT, seen, wait_until

KINDS = ["blocking", "asynchronous"]


@contextmanager
def client_of(kind, socket, timeout=DEADLINE):
    if kind == "blocking":
        with Client(str(socket), timeout=timeout) as client:
            yield client
    else:
        with asyncio.Runner() as runner, Driven(runner, AsyncClient(str(socket), timeout=timeout)) as client:
            yield client


@pytest.fixture(params=KINDS)
def client(request, served):
    with client_of(request.param, served.socket) as client:
        yield client


@pytest.fixture
def narrow(client):
    """Options of a queue in which one job runs at a time."""
    client.set_queue("narrow", 1)
    return {"queue": "narrow", "retries": 0}


def states(client, **which):
    return [job.state for job in reversed(client.jobs(limit=10_000, **which))]


# --- what is called -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "target",
    [tasks.square, "tests.functions.tasks:square", tasks.square_job, tasks.square_job.options(slots=2)],
)
def test_results_come_in_the_order_of_the_items(client, target):
    assert list(client.map(target, (number for number in range(5)))) == [0, 1, 4, 9, 16]


def test_an_item_is_the_only_argument_of_any_type(client):
    assert list(client.map(tasks.echo, [(1, 2), {"a": None}, "text"])) == [[1, 2], {"a": None}, "text"]


def test_options_apply_to_every_job_and_override_those_of_the_function(client):
    assert list(client.map(tasks.send, ["ada"], queue="night", priority=5, time_limit=60)) == ["1 for ada"]
    [job] = client.jobs(limit=1, queue="night")

    assert (job.priority, job.timeout, job.retries, job.tags) == (5, 60, 0, ["letter"])


def test_no_items_give_no_results_and_no_request(tmp_path):
    with closing(Client(str(tmp_path / "nobody.sock"))) as client:
        assert list(client.map(tasks.square, [])) == []


def test_nothing_is_read_before_the_first_step(client):
    items = iter([3])
    results = client.map(tasks.square, items)
    results.close()

    assert list(items) == [3]


def test_no_more_jobs_are_buffered_than_buffersize(client):
    read: list[int] = []

    def items() -> Iterator[int]:
        for number in itertools.count():
            read.append(number)
            yield number

    results = client.map(tasks.square, items(), buffersize=4)
    for number in range(10):
        assert next(results) == number**2
        assert len(read) <= number + 4
    results.close()


@pytest.mark.parametrize("buffersize", [1, 2, 3, 5])
def test_no_item_is_left_out_with_any_buffersize(client, buffersize):
    assert list(client.map(tasks.square, range(7), buffersize=buffersize)) == [n**2 for n in range(7)]


# --- refusals ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "target", "words"),
    [
        (NotAllowed, os.system, "allowed_classes"),
        (TypeError, lambda number: number, "lambda"),
        (TypeError, tasks.process_id, "item 0: .*JSON"),
        (TypeError, tasks.thread_id, "item 0: .*thread_id"),
    ],
)
def test_an_impossible_job_is_an_error_at_the_first_step(client, error, target, words):
    with pytest.raises(error, match=words):
        next(client.map(target, [{1}] if target is tasks.process_id else ["true"]))


def test_options_that_make_no_sense_for_a_map_are_refused(client):
    with pytest.raises(Refused, match="key"):
        next(client.map(tasks.square, [1], key="one"))
    with pytest.raises(TypeError, match="no option 'prority'"):
        next(client.map(tasks.square, [1], prority=1))
    with pytest.raises(ValueError, match="buffersize must be >= 1"):
        client.map(tasks.square, [1], buffersize=0)


def test_an_impossible_item_is_named_and_waiting_jobs_are_cancelled(client, narrow):
    with pytest.raises(TypeError, match=r"item 2: .*JSON"):
        list(client.map(tasks.square, [1, 2, {3}], buffersize=4, hold=True, **narrow))

    assert set(states(client, queue="narrow")) <= {"cancelled", "succeeded"}


def test_an_error_of_the_iterable_is_raised_unchanged(client):
    def items():
        yield 1
        raise TimeoutError("they took too long")

    with pytest.raises(TimeoutError, match="they took too long"):
        list(client.map(tasks.square, items()))


# --- failures, and an early end -----------------------------------------------------------------------------


def test_the_first_failure_is_raised_in_its_place_and_waiting_jobs_are_cancelled(client, narrow):
    results = client.map(tasks.refuse_odd, [2, 3, *range(4, 200)], **narrow)

    assert next(results) == 2
    with pytest.raises(JobFailed, match="ValueError: 3 is odd"):
        next(results)
    assert list(results) == []
    assert states(client, queue="narrow")[-1] == "cancelled"
    assert not set(states(client, queue="narrow")) & {"queued", "held"}


def test_return_exceptions_yields_failures_in_place_of_results(client):
    two, three, four = client.map(tasks.refuse_odd, [2, 3, 4], retries=0, return_exceptions=True)

    assert (two, four) == (2, 4)
    assert isinstance(three, JobFailed)
    assert (three.error_type, three.error_message) == ("ValueError", "3 is odd")


def test_closing_an_endless_map_cancels_waiting_jobs(client, narrow):
    items = itertools.count()
    results = client.map(tasks.square, items, **narrow)
    some = [next(results) for _ in range(3)]
    results.close()

    assert some == [0, 1, 4]
    assert next(items) <= 1000
    assert not set(states(client, queue="narrow")) & {"queued", "held", "scheduled"}


def test_a_map_that_times_out_says_how_far_it_got_and_cancels_waiting_jobs(client, narrow):
    results = client.map(tasks.square, [1, 2], hold=True, timeout="50ms", time_limit="1h", **narrow)

    with pytest.raises(TimeoutError, match=r"^0 of 2 results came within 0\.05 s$"):
        next(results)
    assert states(client, queue="narrow")[-2:] == ["cancelled", "cancelled"]


PROGRAMS = {
    "blocking": """
import sys
from bgd import Client
from tests.functions import tasks

print("begins", flush=True)
for result in Client(sys.argv[1]).map(tasks.square, range(1000), hold=True, name="blocking"):
    print(result)
""",
    "asynchronous": """
import asyncio, sys
from bgd import AsyncClient
from tests.functions import tasks

async def main():
    async with AsyncClient(sys.argv[1]) as client:
        print("begins", flush=True)
        async for result in client.map(tasks.square, range(1000), hold=True, name="asynchronous"):
            print(result)

asyncio.run(main())
""",
}


@pytest.mark.parametrize("kind", KINDS)
def test_an_interrupted_map_leaves_no_waiting_jobs(kind, served):
    program = subprocess.Popen(
        [sys.executable, "-c", PROGRAMS[kind], str(served.socket)],
        cwd=ROOT,
        env=served.env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with served.client() as client:
        wait_until(lambda: client.jobs(name=kind))
        program.send_signal(signal.SIGINT)
        out, err = program.communicate(timeout=DEADLINE)

        assert (program.returncode, out) == (-signal.SIGINT, "begins\n")
        assert err.endswith("KeyboardInterrupt\n")
        assert "BgdError" not in err
        assert set(states(client, name=kind)) == {"cancelled"}


LEFT_OPEN = """
import sys
from bgd import Client
from tests.functions import tasks

files = ["/dev/null"] + 19 * [sys.argv[2]]
results = Client(sys.argv[1]).map(tasks.wait_for, files, name="left-open", buffersize=20)
print(next(results))
"""


def test_an_open_map_is_closed_when_the_program_ends(served, tmp_path):
    os.mkfifo(nobody_writes := tmp_path / "fifo")
    command = [sys.executable, "-X", "dev", "-c", LEFT_OPEN, str(served.socket), str(nobody_writes)]
    done = subprocess.run(command, cwd=ROOT, env=served.env, capture_output=True, text=True, check=False)

    with served.client() as client:
        assert (done.returncode, done.stdout, done.stderr) == (0, "\n", "")
        assert set(states(client, name="left-open")) == {"succeeded", "running", "cancelled"}
        for job in client.jobs(name="left-open", states=["running"]):
            job.cancel()


# --- the daemon ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_without_a_daemon_a_map_fails_at_once(kind, tmp_path):
    with client_of(kind, tmp_path / "nobody.sock") as client, pytest.raises(DaemonUnreachable):
        next(client.map(tasks.square, [1]))


@pytest.mark.parametrize("kind", KINDS)
def test_a_daemon_that_does_not_come_back_is_an_error_after_the_timeout(kind, own_served):
    with client_of(kind, own_served.socket, timeout=0.5) as client:
        results = client.map(tasks.square, itertools.chain([1], itertools.repeat(2)), buffersize=2)
        assert next(results) == 1
        own_served.process.kill()
        own_served.process.wait()

        with pytest.raises(DaemonUnreachable):
            list(results)
    own_served.start()


@pytest.mark.parametrize(("kind", "count", "buffersize"), [("blocking", 100, 100), ("asynchronous", 60, 8)])
def test_a_map_survives_repeated_kills_of_the_daemon(kind, count, buffersize, own_served):
    wanted = [number if number % 50 else "a round one" for number in range(count)]
    options = {"buffersize": buffersize, "return_exceptions": True, "retries": 0}
    came: list[object] = []
    starts: list[Future[None]] = []
    with client_of(kind, own_served.socket) as client, ThreadPoolExecutor(1) as starter:
        for result in client.map(tasks.refuse_fifties, range(count), **options):
            came.append(result.error_message if isinstance(result, JobFailed) else result)
            if len(came) % (count // 4) == 5:  # when results are read and new jobs are about to be submitted
                [start.result() for start in starts]
                own_served.process.kill()
                own_served.process.wait()
                starts.append(starter.submit(own_served.start))
        stats = client.stats()

    assert came == wanted
    assert len(starts) == 4
    assert stats.counts["succeeded"] + stats.counts["failed"] == count


# --- the bar ------------------------------------------------------------------------------------------------

DRAWING = """
import sys
from bgd import Client
from tests.functions import tasks

for result in Client(sys.argv[1]).map(
    tasks.refuse_odd, {items}, retries=0, return_exceptions=True, progress={progress}
):
    print("came:", result)
"""


def drawing(items="range(5)", progress=None):
    return DRAWING.format(items=items, progress=progress)


def on_a_terminal(served, command):
    """Return what a command shows on a terminal: the last state of each line."""
    child = pexpect.spawn(
        "/bin/sh",
        ["-c", command],
        cwd=str(ROOT),
        env=served.env | {"SOCKET": str(served.socket)},
        dimensions=(24, 100),
        timeout=DEADLINE,
        encoding="utf-8",
    )
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", seen(child))


def test_a_terminal_shows_progress(served, tmp_path):
    (tmp_path / "drawing.py").write_text(drawing())
    shown = on_a_terminal(served, f"{sys.executable} {tmp_path}/drawing.py $SOCKET")

    assert re.search(r"refuse_odd ━+ 5/5 2 failed 0:00:\d\d\s*$", shown)
    assert "came: 4\r\n" in shown


def test_an_iterable_without_length_counts_only_finished_items(served, tmp_path):
    (tmp_path / "drawing.py").write_text(drawing("iter([2, 4])"))
    shown = on_a_terminal(served, f"{sys.executable} {tmp_path}/drawing.py $SOCKET")

    assert re.search(r"refuse_odd \S+ 2/\?\s+0:00:\d\d\s*$", shown)


def test_printed_text_goes_where_it_is_sent_while_a_bar_is_drawn(served, tmp_path):
    (tmp_path / "drawing.py").write_text(drawing())
    shown = on_a_terminal(served, f"{sys.executable} {tmp_path}/drawing.py $SOCKET > {tmp_path}/printed")

    assert "5/5" in shown
    assert "came" not in shown
    assert (tmp_path / "printed").read_text().splitlines()[0] == "came: 0"


@pytest.mark.parametrize("progress", [None, False])
def test_no_bar_is_drawn_where_none_is_wanted(served, tmp_path, progress):
    (tmp_path / "drawing.py").write_text(drawing(progress=progress))
    away = " 2> $HOME/errors" if progress is None else ""
    shown = on_a_terminal(served, f"{sys.executable} {tmp_path}/drawing.py $SOCKET{away}")

    assert shown.startswith("came: 0\r\n")
    assert "━" not in shown
    if away:
        assert (served.folder / "errors").read_text() == ""


def test_a_bar_in_a_file_shows_its_last_state(served, tmp_path):
    (tmp_path / "drawing.py").write_text(drawing(progress=True))
    done = subprocess.run(
        [sys.executable, str(tmp_path / "drawing.py"), str(served.socket)],
        cwd=ROOT,
        env=served.env,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.stdout.splitlines()[0] == "came: 0"
    assert done.stderr.count("5/5 2 failed") == 1


def test_without_a_bar_rich_is_not_imported(served):
    program = (
        "import sys; from bgd import Client; from tests.functions import tasks;"
        "print(list(Client(sys.argv[1]).map(tasks.square, [3])), 'rich' in sys.modules)"
    )
    command = [sys.executable, "-c", program, str(served.socket)]
    done = subprocess.run(command, cwd=ROOT, env=served.env, capture_output=True, text=True, check=True)

    assert done.stdout == "[9] False\n"
