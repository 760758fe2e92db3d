"""What do 1,000 running jobs cost? P14: memory of the daemon and its launcher, and the time of a list."""

from __future__ import annotations

import time
from functools import partial

from bgd.core.job import State
from bgd.core.spec import JobSpec
from bgd.wire.replies import Stats, Submitted
from bgd.wire.requests import GetStats, List, SubmitMany
from tests.bench.bench_lists import stream, timed
from tests.bench.harness import ENVIRONMENT, daemon, report
from tests.bench.options import arguments
from tests.support import wait_until

JOBS = 1_000
QUICK = 50
LISTS = 300


def main() -> None:
    options = arguments(__doc__, rounds=1)
    jobs = QUICK if options.quick else JOBS
    with daemon(slots=jobs) as running:
        client = running.connect()
        pids = {"daemon": running.process.pid, "launcher": running.launcher_pid}
        before = {who: running.resident_megabytes(pid) for who, pid in pids.items()}
        spec = JobSpec(argv=("/bin/sleep", "600"), cwd="/", umask=0o022)
        began = time.perf_counter()
        reply = client.ask(SubmitMany(id=1, specs=[spec] * jobs, env=ENVIRONMENT))
        assert isinstance(reply, Submitted), reply

        def all_run() -> bool:
            stats = client.ask(GetStats(1))
            assert isinstance(stats, Stats), stats
            return stats.counts.get(State.RUNNING, 0) == jobs

        wait_until(all_run)
        seconds = time.perf_counter() - began
        lists = timed(partial(stream, client, List(id=1)), LISTS)
        after = {who: running.resident_megabytes(pid) for who, pid in pids.items()}
    report(
        "running",
        jobs=jobs,
        p14_megabytes=round(sum(after.values()), 1),
        megabytes={who: {"before": before[who], "with_all_running": after[who]} for who in pids},
        seconds_until_all_run=round(seconds, 2),
        p14_list_ms=lists,
    )


if __name__ == "__main__":
    main()
