"""What does a job that writes 1 GB cost? P13: wall time beside a redirect, CPU, and a start meanwhile."""

from __future__ import annotations

import subprocess
import time

from tests.bench.harness import BareClient, daemon, percentiles, report, spread, submit, submitted
from tests.bench.options import arguments

BYTES = 1 << 30
QUICK = 1 << 26
STAMP = ("/bin/date", "+%s.%N")


def main() -> None:
    options = arguments(__doc__, rounds=3)
    size = QUICK if options.quick else BYTES
    writer = ("/usr/bin/head", "-c", str(size), "/dev/zero")
    ours, plain, daemon_cpu, launcher_cpu, starts = [], [], [], [], []
    with daemon(slots=4, extra='[logs]\nmax_bytes = "3GB"\n') as running:
        client = BareClient(running.socket)
        logs = running.folder / "logs"
        for _ in range(options.rounds):
            redirected = running.folder / "plain"
            began = time.perf_counter()
            with redirected.open("wb") as target:
                subprocess.run(writer, stdout=target, check=True)
            plain.append(time.perf_counter() - began)
            redirected.unlink()

            before = [running.seconds_of(pid) for pid in (running.process.pid, running.launcher_pid)]
            began = time.perf_counter()
            job = submitted(client, submit(1, writer))
            client.wait([job])
            ours.append(time.perf_counter() - began)
            after = [running.seconds_of(pid) for pid in (running.process.pid, running.launcher_pid)]
            daemon_cpu.append(after[0] - before[0])
            launcher_cpu.append(after[1] - before[1])
            (logs / f"{job // 1000}/{job}.1.log").unlink()

            job = submitted(client, submit(1, writer))
            for number in range(10):
                began = time.time()
                other = submitted(client, submit(number, STAMP))
                client.wait([other])
                starts.append(float((logs / f"{other // 1000}/{other}.1.log").read_text()) - began)
            client.wait([job])
            (logs / f"{job // 1000}/{job}.1.log").unlink()
    report(
        "output",
        bytes=size,
        redirect_seconds=spread([value * 10 for value in plain]) | {"unit": "0.1 s"},
        bgd_seconds=spread([value * 10 for value in ours]) | {"unit": "0.1 s"},
        ratio_of_medians=round(sorted(ours)[len(ours) // 2] / sorted(plain)[len(plain) // 2], 2),
        daemon_cpu_ms=spread([value * 1000 for value in daemon_cpu]),
        launcher_cpu_ms=spread([value * 1000 for value in launcher_cpu]),
        submit_to_start_meanwhile_ms=percentiles(starts),
    )


if __name__ == "__main__":
    main()
