"""Cancel jobs whose children have lower pids than the shell that waits for them.

Needs root and a PID namespace: `unshare -pf --mount-proc python -m tests.faults.wrapped_pids FOLDER ROUNDS`.
It prints how many scripts ran their next command.
"""

from __future__ import annotations

import sys
from pathlib import Path

from bgd import Client, Job
from bgd.core.job import FINAL
from tests.end_to_end.chaos import Rig
from tests.support import DEADLINE, wait_until

LAST_PID = Path("/proc/sys/kernel/ns_last_pid")
HIGH = 20_000  # pid of the shell
LOW = 600  # pid of the child that it waits for
CROWD = 40  # further processes, with pids between the two
SCRIPT = """
echo $(({low} + 100)) > {last_pid}
number=0
while test $((number += 1)) -le {crowd}; do sleep 1000 & done
echo {low} > {last_pid}
sh -c 'echo $$ > {here}; exec sleep 1000'
echo next > {went_on}
"""


def main(folder: Path, rounds: int) -> int:
    """Return how many scripts ran their next command."""
    rig = Rig(folder)
    rig.start()
    went_on = 0
    try:
        with Client(str(rig.socket), timeout=DEADLINE) as client:
            for number in range(rounds):
                went_on += cancel_one(
                    client, folder / str(number), CROWD if number % 2 else 0, limit=number % 3 == 0
                )
    finally:
        rig.close()
    return went_on


def cancel_one(client: Client, place: Path, crowd: int, *, limit: bool) -> bool:
    place.mkdir()
    here, went_on = place / "here", place / "went-on"
    script = SCRIPT.format(low=LOW, last_pid=LAST_PID, crowd=crowd, here=here, went_on=went_on)

    def waits() -> bool:
        return here.exists() and here.read_text().endswith("\n")

    def submit(seconds: float | None) -> Job:
        LAST_PID.write_text(str(HIGH))
        job = client.submit(["sh", "-c", script], timeout=seconds)
        wait_until(lambda: waits() or job.refresh().state in FINAL)
        return job

    seconds = 0.2
    job = submit(seconds if limit else None)
    while limit and not waits():  # on a busy machine the time is up before the script waits for its child
        seconds *= 2
        job = submit(seconds)
    assert int(here.read_text()) < HIGH, "the numbers were not wrapped"
    if not limit:
        job.cancel()
    job.wait(DEADLINE)
    return went_on.exists()


if __name__ == "__main__":
    print(main(Path(sys.argv[1]), int(sys.argv[2])))
