"""What does an idle bgd cost? P12: system calls of daemon and launcher in five seconds, and their memory.

It needs strace.
"""

from __future__ import annotations

import subprocess
import threading
from pathlib import Path

from tests.bench.harness import daemon, report, submit, submitted
from tests.bench.options import arguments

SECONDS = 5


def resident_megabytes(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    (line,) = [line for line in status.splitlines() if line.startswith("VmRSS:")]
    return round(int(line.split()[1]) / 1024, 1)


def system_calls(pid: int) -> int:
    """Count the system calls of a process and its threads that begin within `SECONDS`."""
    command = ["timeout", "--signal=INT", str(SECONDS), "strace", "-f", "-qq", "-e", "signal=none"]
    done = subprocess.run(
        [*command, "-o", "/dev/stdout", "-p", str(pid)], stdout=subprocess.PIPE, check=False
    )
    calls = [line for line in done.stdout.splitlines() if b"(" in line and b"resumed>" not in line]
    # threads wait in calls that began before; strace prints these when it attaches
    return sum(not line.endswith((b"<unfinished ...>", b"<detached ...>")) for line in calls)


def main() -> None:
    arguments(__doc__, rounds=1)
    with daemon(slots=2) as running:
        client = running.connect()
        client.wait([submitted(client, submit(1))])
        threading.Event().wait(1)  # let the daemon finish, for example its last commit
        report(
            "idle",
            p12_system_calls_of_the_daemon=system_calls(running.process.pid),
            p12_system_calls_of_the_launcher=system_calls(running.launcher_pid),
            p12_daemon_megabytes=resident_megabytes(running.process.pid),
            p12_launcher_megabytes=resident_megabytes(running.launcher_pid),
        )


if __name__ == "__main__":
    main()
