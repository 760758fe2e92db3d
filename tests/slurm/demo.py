"""Show jobs on a Slurm of two nodes, started for this and stopped again: `make cluster-demo`."""

from __future__ import annotations

import shlex
import subprocess
import sys

from tests.slurm.two_nodes import running_cluster, serving_as_user, what_is_missing
from tests.support import Daemon

COMMANDS = (
    "bgctl doctor",
    "bgctl run --executor cluster --cpus 1 hostname",
    "bgctl run --executor cluster --cpus 2 --memory 200MB -- sh -c 'echo on $SLURMD_NODENAME; exit 3'",
    "bgctl run --executor cluster --nodes 2 -- srun sh -c 'echo a task on $SLURMD_NODENAME'",
    "bgctl call --executor cluster --wait work:where 41",
    "bgctl show last",
    "bgctl batch --executor cluster --wait --template 'echo job {}' numbers",
    "bgctl show last",
    "bgctl submit --executor cluster -n sleeper sleep 1000",
    "bgctl cancel sleeper",
    "bgctl wait sleeper",
    "bgctl submit --executor later -n waiter true",
    "bgctl wait --timeout 4s waiter",
    "bgctl explain waiter",
    "bgctl cancel waiter",
    "bgctl wait waiter",
    "bgctl list -n 8",
)


def main() -> int:
    """Run the demo; return 1 if it left anything in Slurm."""
    missing = what_is_missing()
    if missing is not None:
        print(missing, file=sys.stderr)
        return 1
    with running_cluster() as cluster:
        print(cluster.run("sinfo"))
        with serving_as_user(cluster) as daemon:
            numbers = daemon.folder / "numbers"
            numbers.write_text("".join(f"{number}\n" for number in range(1, 501)))
            numbers.chmod(0o644)
            for command in COMMANDS:
                show(daemon, command)
        cluster.wait_until_idle()
        left = cluster.jobs()
        print(f"left in Slurm: {', '.join(left) or 'nothing'}")
    return bool(left)


def show(daemon: Daemon, command: str) -> None:
    print(f"$ {command}", flush=True)
    argv = [*daemon.prefix, sys.executable, "-m", *shlex.split(command)]
    subprocess.run(argv, env=daemon.env, cwd=daemon.folder, check=False)
    print(flush=True)


if __name__ == "__main__":
    sys.exit(main())
