"""What running jobs use, in lists, of one job, and live."""

from __future__ import annotations

import json
import sys

import pytest

from tests.support import Daemon, seen, wait_until

MIB = 1 << 20
HOLDS = f"import time; kept = b'x' * {200 * MIB}; print('ready', flush=True); time.sleep(1000)"
# a quarter of a processor, so that the other tests have the rest
COMPUTES = "import time\nwhile True: sum(range(300_000)); time.sleep(0.01)"


@pytest.fixture(scope="module")
def jobs(daemon: Daemon) -> dict[str, str]:
    """Return a job that keeps a processor busy, one that has much memory, and one that has ended."""
    daemon.bgctl("slots", "2")
    done = daemon.finished_job("true")
    large = daemon.submit("-n", "large", sys.executable, "-c", HOLDS)
    busy = daemon.submit("-n", "busy", sys.executable, "-c", COMPUTES)
    wait_until(lambda: daemon.bgctl("logs", large).stdout == "ready\n")
    wait_until(lambda: (usage_of(daemon, busy)["cpu_percent"] or 0) > 10)
    return {"busy": busy, "large": large, "done": done}


def usage_of(daemon: Daemon, job: str) -> dict[str, float]:
    usage: dict[str, float] = json.loads(daemon.bgctl("show", "--usage", "--json", job).stdout)["usage"]
    return usage


def test_lists_and_jobs_show_what_runs_uses_if_asked(daemon, jobs):
    usage = usage_of(daemon, jobs["large"])
    assert usage.keys() == {"cpu_percent", "memory_bytes", "processes"}
    assert 200 * MIB < usage["memory_bytes"] < 260 * MIB
    assert usage["processes"] == 1
    assert usage_of(daemon, jobs["done"]) is None
    assert "usage" not in json.loads(daemon.bgctl("show", "--json", jobs["large"]).stdout)
    listed = json.loads(daemon.bgctl("list", "--usage", "--json").stdout)
    assert [each["id"] for each in listed if each["usage"] is None] == [int(jobs["done"])]
    assert all("usage" not in each for each in json.loads(daemon.bgctl("list", "--json").stdout))

    heading, *rows = daemon.bgctl("list", "--usage").stdout.splitlines()
    assert heading.split()[:5] == ["ID", "STATE", "CPU", "MEMORY", "PROCESSES"]
    cells = {row.split()[0]: row.split()[2:5] for row in rows}
    assert cells[jobs["done"]] == ["-", "-", "-"]
    assert cells[jobs["large"]][1:] != ["-", "-"]
    shown = daemon.bgctl("show", "--usage", jobs["busy"]).stdout
    assert "% CPU, " in shown
    assert ", 1 process\n" in shown


def test_lists_are_sorted_by_what_jobs_use_now(daemon, jobs):
    by_memory = daemon.bgctl("list", "--ids", "--sort", "memory").stdout.split()
    by_cpu = daemon.bgctl("list", "--ids", "--sort", "cpu").stdout.split()

    assert by_memory == [jobs["large"], jobs["busy"], jobs["done"]]
    assert by_cpu == [jobs["busy"], jobs["large"], jobs["done"]]
    assert by_cpu[::-1] == daemon.bgctl("list", "--ids", "--sort", "cpu", "-r").stdout.split()


def test_top_in_a_pipe_prints_running_jobs_once(daemon, jobs):
    heading, first, second = daemon.bgctl("top").stdout.splitlines()
    assert heading.split()[:5] == ["ID", "STATE", "CPU", "MEMORY", "PROCESSES"]
    assert [line.split()[0] for line in (first, second)] == [jobs["busy"], jobs["large"]]

    by_memory = json.loads(daemon.bgctl("top", "--json", "--sort", "memory").stdout)
    assert [str(each["id"]) for each in by_memory] == [jobs["large"], jobs["busy"]]
    assert all(each["usage"]["processes"] == 1 for each in by_memory)


@pytest.mark.usefixtures("jobs")
def test_top_on_a_small_terminal_says_what_it_leaves_out(terminal):
    child = terminal("top", width=40, LINES="6")

    child.expect_exact("1 more")
    child.send("q")

    assert max(map(len, seen(child).splitlines()), default=0) <= 60  # with sequences that move the cursor


# last, because it cancels the jobs
def test_top_is_live_until_q(daemon, jobs, terminal):
    child = terminal("top")
    child.expect(r"2 running: \d+% CPU, \d+MB, 2 processes .*q quits")
    child.expect(r"busy.*large")

    daemon.bgctl("cancel", jobs["busy"])
    child.expect(r"1 running: \d+% CPU, \d+MB, 1 process .*q quits")
    daemon.bgctl("cancel", jobs["large"])
    child.expect("no job is running")
    child.send("q")

    assert seen(child).endswith("\x1b[?1049l")
    assert child.exitstatus == 0


def test_without_running_jobs_top_says_so(own_daemon):
    top = own_daemon.bgctl("top")

    assert (top.returncode, top.stdout, top.stderr) == (0, "", "bgctl: no jobs match\n")
    assert own_daemon.bgctl("top", "--json").stdout == "[]\n"


def test_a_watched_list_does_not_show_usage(own_daemon):
    refused = own_daemon.bgctl("list", "--watch", "--sort", "cpu")

    assert refused.returncode == 2
    assert refused.stderr == "bgctl: a watched list shows no usage: use `bgctl top`\n"
