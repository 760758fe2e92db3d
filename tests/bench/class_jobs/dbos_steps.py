"""Steps of DBOS, whose system database is SQLite: print how many a second one workflow does, and many.

It runs in the Python of the peers: `python dbos_steps.py STEPS WORKFLOWS`.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time

from dbos import DBOS


@DBOS.step()  # type: ignore[untyped-decorator]  # the peers are not installed where types are checked
def nothing(number: int) -> int:
    return number


@DBOS.workflow()  # type: ignore[untyped-decorator]
def steps(count: int) -> None:
    for number in range(count):
        nothing(number)


def main() -> None:
    count, at_once = map(int, sys.argv[1:])
    with tempfile.TemporaryDirectory() as folder:
        DBOS(
            config={
                "name": "bench",
                "system_database_url": f"sqlite:///{folder}/steps.db",
                "run_admin_server": False,
                "log_level": "ERROR",
            }
        )
        DBOS.launch()
        steps(10)
        began = time.perf_counter()
        steps(count)
        alone = count / (time.perf_counter() - began)
        began = time.perf_counter()
        for each in [DBOS.start_workflow(steps, count) for _ in range(at_once)]:
            each.get_result()
        together = count * at_once / (time.perf_counter() - began)
        print(json.dumps({"alone": alone, "together": together}))
        DBOS.destroy()


if __name__ == "__main__":
    main()
