"""Show a private daemon at work, and kill it meanwhile. `make demo` runs this; it ends by itself.

Everything happens in a temporary folder, which is removed at the end. Your own daemon is not touched.
"""
# ruff: noqa: INP001, T201 - a program that prints for people

from __future__ import annotations

import lzma
import os
import re
import sys
import tempfile
import time
from collections import Counter
from hashlib import sha256
from pathlib import Path

from stage import End, Stage, ends, headline, parent_of

# Ends with an unusual exit code, and not before a line was written to the gate
STEPS = 'for n in 1 2 3 4 5 6; do echo "step $n"; sleep 0.5; done; head -n 1 gate; exit 7'


def main() -> int:
    """Run the demo; return 0 if every job ended as expected."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="bgd-demo-") as folder:
        stage = Stage(Path(folder))
        try:
            for act in (_open, _show_priorities, _show_failures, _show_kill, _check, _close):
                act(stage)
        finally:
            stage.clear()
    for problem in stage.problems:
        print(f"NOT AS EXPECTED: {problem}")
    if not stage.problems:
        print(f"\n{len(stage.ends)} jobs, every end as expected, in {time.monotonic() - began:.0f} seconds.")
    return 1 if stage.problems else 0


# --- the acts ---------------------------------------------------------------------------------------------


def _open(stage: Stage) -> None:
    headline("A private daemon with one slot")
    stage.prepare()
    print(f"$ cd {stage.folder}\n$ export BGD_SOCKET=state/bgd.sock\n$ cat bgd.toml")
    print(stage.configuration.read_text(), end="")
    stage.start_daemon()
    stage.show("run", "echo", "hello from a job")
    stage.ends[1] = End()  # id of the first job, which `run` does not print
    stage.remember_launcher()
    stage.show("info")


def _show_priorities(stage: Stage) -> None:
    headline("Urgent jobs first, equal ones in the order of submission")
    print("The first job occupies the only slot until a line is written to the named pipe `gate`.")
    first = stage.queue("submit", "head", "-n", "1", "gate")
    archive = stage.queue("call", "-p", "-10", "app.services:Archive.compress", "source", "source")
    words = stage.queue("call", "app.services:LogReport.top_words", "source/core/scheduler.py", "3")
    sums = stage.queue("call", "-p", "10", "app.services:Checksums.of_files", "source")
    lines = stage.queue("submit", "-p", "10", "wc", "-l", "source/core/job.py")
    stage.open_gate()
    stage.wait_for(first, archive, words, sums, lines)
    stage.show("list", "--sort", "started")
    stage.order = [first, sums, lines, words, archive]
    unpacked = stage.queue("call", "app.services:Archive.verify", "source.tar.xz")
    stage.wait_for(unpacked)
    stage.results |= {
        words: _top_words(stage.sources / "core/scheduler.py", 3),
        sums: _checksums(stage.sources),
        unpacked: len(lzma.decompress((stage.folder / "source.tar.xz").read_bytes())),
    }


def _show_failures(stage: Stage) -> None:
    headline("One job fails twice, one takes too long, one is not allowed")
    flaky = stage.queue(
        *("call", "--retry-delay", "0.5s", "app.services:Flaky.fetch", "tries"), end=End(attempts=3)
    )
    slow = stage.queue(*("submit", "--timeout", "1s", "sleep", "60"), end=End("failed", "timeout", None))
    stage.show("wait", str(slow), code=124)
    stage.show("wait", str(flaky))
    stage.show("show", str(flaky))
    stage.show("call", "os:system", "echo no", code=77)


def _show_kill(stage: Stage) -> None:
    headline("kill -9 while a job runs")
    job = stage.queue("submit", "--name", "survivor", "sh", "-c", STEPS, end=End("failed", "exit", 7))
    waiting = stage.queue("call", "app.services:count_lines", "source/core/job.py")
    with stage.following(job, until="step 2"):
        pid = stage.ask("show", str(job))["attempts"][0]["pid"]
        process = os.pidfd_open(pid)
        stage.kill_daemon()
        if ends(process, within=1.0) or parent_of(pid) != stage.launcher:
            raise SystemExit(f"process {pid} of job {job} did not survive the daemon, under the launcher")
        print(f"A second later process {pid} of job {job} still runs, under the launcher, {stage.launcher}.")
        stage.show("list", code=69)
        stage.start_daemon()
        stage.show("list", "--state", "running", "--state", "queued")
        stage.open_gate()
    stage.show("wait", str(job), code=7)
    stage.show("logs", "--timestamps", str(job))
    stage.wait_for(waiting)
    stage.results[waiting] = (stage.sources / "core/job.py").read_bytes().count(b"\n")


def _check(stage: Stage) -> None:
    """Show how all jobs ended, and note every difference from what was expected."""
    headline("How the jobs ended")
    stage.show("list")
    found = {job["id"]: job for job in stage.ask("list")}
    for job_id, expected in stage.ends.items():
        job = found[job_id]
        end = End(job["state"], job["outcome"], job["exit_code"], job["attempt"])
        if end != expected:
            stage.problems.append(f"job {job_id} ended as {end}, not as {expected}")
    for job_id, result in stage.results.items():
        if (returned := stage.ask("show", str(job_id))["result"]) != result:
            stage.problems.append(f"job {job_id} returned {returned!r}, not {result!r}")
    started = sorted(stage.order, key=lambda job_id: found[job_id]["started_at"])
    if started != stage.order:
        stage.problems.append(f"jobs started in the order {started}, not {stage.order}")


def _close(stage: Stage) -> None:
    headline("The end")
    stage.show("shutdown")
    stage.problems += [f"the {who} still runs" for who in stage.who_stays()]


# --- expected results of class jobs ------------------------------------------------------------------------


def _top_words(path: Path, count: int) -> list[list[object]]:
    words = Counter(re.findall(r"[^\W\d_]+", path.read_text().lower()))
    return [[word, times] for word, times in words.most_common(count)]


def _checksums(folder: Path) -> dict[str, str]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(file.relative_to(folder)): sha256(file.read_bytes()).hexdigest() for file in files}


if __name__ == "__main__":
    sys.exit(main())
