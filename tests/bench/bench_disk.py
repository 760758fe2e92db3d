"""How many bytes does a no-op job write to disk? P15: one by one, and in a batch of 2,000.

Counted by the kernel for the daemon and its launcher (write_bytes of /proc/PID/io), from the submit until
they have been quiet for a second.
"""

from __future__ import annotations

import threading
from pathlib import Path

from bgd.core.spec import JobSpec
from bgd.wire.replies import Submitted
from bgd.wire.requests import SubmitMany
from tests.bench.harness import ENVIRONMENT, Daemon, daemon, report, submit, submitted
from tests.bench.options import arguments

ONE_BY_ONE = 300
BATCH = 2_000
QUICK = 0.1
PART = 500  # jobs in one frame


def written(running: Daemon) -> dict[str, int]:
    """Return what each process has written, when they have nothing left to write."""
    pids = {"daemon": running.process.pid, "launcher": running.launcher_pid}
    before: dict[str, int] = {}
    while before != (now := {who: _bytes(pid) for who, pid in pids.items()}):
        before = now
        threading.Event().wait(1)
    return now


def _bytes(pid: int) -> int:
    lines = Path(f"/proc/{pid}/io").read_text().splitlines()
    (line,) = [line for line in lines if line.startswith("write_bytes")]
    return int(line.split()[1])


def one_by_one(running: Daemon, count: int) -> None:
    client = running.connect()
    for number in range(count):
        client.wait([submitted(client, submit(number))])


def batch(running: Daemon, count: int) -> None:
    client = running.connect()
    spec = JobSpec(argv=("/bin/true",), cwd="/", umask=0o022)
    parts = range(0, count, PART)
    client.send(
        *(
            SubmitMany(
                id=1, specs=[spec] * min(PART, count - start), env=ENVIRONMENT, more=start + PART < count
            )
            for start in parts
        )
    )
    reply = client.receive()
    assert isinstance(reply, Submitted), reply
    client.wait(reply.jobs)


def main() -> None:
    share = QUICK if arguments(__doc__, rounds=1).quick else 1.0
    ways = {"one_by_one": (one_by_one, ONE_BY_ONE), "in_a_batch": (batch, BATCH)}
    figures: dict[str, float] = {}
    for name, (work, full) in ways.items():
        count = round(full * share)
        with daemon(slots=2) as running:
            one_by_one(running, 1)  # what the first job alone costs is not asked for
            before = written(running)
            work(running, count)
            after = written(running)
        each = {who: (after[who] - before[who]) / count / 1024 for who in after}
        figures |= {f"p15_kilobytes_{name}_{who}": round(value, 1) for who, value in each.items()}
        figures[f"p15_kilobytes_{name}"] = round(sum(each.values()), 1)
    report("disk", **figures)


if __name__ == "__main__":
    main()
