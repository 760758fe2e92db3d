"""All threads of the pool run from the start, or the daemon says in one line that they cannot start."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from bgd.daemon.threads import THREADS
from tests.support import DEADLINE, ROOT

STRANGER = 4_000_077  # a uid that nobody has, not even another test: its processes are counted
STORE_THREADS = 3

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0, reason="NOT RUN: the limit of processes does not bind root"
)


def run_as_stranger(imports, code, folder):
    """Run code as a user without any other process; its imports run before, as this user."""
    os.chown(folder, STRANGER, STRANGER)
    become = f"os.setgroups([]); os.setgid({STRANGER}); os.setuid({STRANGER})"
    limit = "def limit(most): resource.setrlimit(resource.RLIMIT_NPROC, (most, most))"
    return subprocess.run(
        [sys.executable, "-c", f"import os, resource\n{imports}\n{become}\n{limit}\n{code}"],
        env={"PYTHONPATH": str(ROOT), "HOME": str(folder), "BGD_HTTP_LISTEN": ""},
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=DEADLINE,
    )


def test_calls_find_threads_when_no_more_can_be_started(folder):
    code = f"""
async def many():
    with thread_pool(asyncio.get_running_loop()):
        limit(1)
        try:
            threading.Thread(target=print).start()
        except RuntimeError:
            results = await asyncio.gather(*(asyncio.to_thread(str, each) for each in range({3 * THREADS})))
            print(len(results))

with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
    runner.run(many())
print("well")
"""
    done = run_as_stranger(
        "import asyncio, threading, uvloop; from bgd.daemon.threads import thread_pool", code, folder
    )

    assert (done.stdout, done.stderr) == (f"{3 * THREADS}\nwell\n", "")


@pytest.mark.parametrize("most", [2, STORE_THREADS + 1, STORE_THREADS + 2, THREADS + STORE_THREADS])
def test_daemon_without_its_threads_ends_with_a_line(folder, most):
    done = run_as_stranger(
        "from bgd.__main__ import main", f"limit({most}); raise SystemExit(main([]))", folder
    )

    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "error: no thread can be started (can't start new thread): try again later, or let" in line
