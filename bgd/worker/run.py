"""The worker program: runs one class job in the user's own interpreter, which need not have bgd.

With arguments it becomes a warm worker, see warm.py. Without it reads from standard input one JSON document,
{"module", "name", "method" | null, "arguments": {"args", "kwargs"}, "path"}. To the file whose descriptor
stands in BGD_RESULT_FD it writes one of {"ok": VALUE}, {"error": {"type", "message", "traceback"}},
{"refused": "why"} and {"wish": {"aim": "retry" | "fail" | "snooze", ...}}, as docs/class-jobs.md has them.
All that the job prints is its log.

It is started as a script. This folder uses nothing but the standard library of Python 3.9, and its modules go
by the name of a package of their own, so that none of them stands in the way of the job's.
"""

from __future__ import annotations

import os
import sys

if __name__ == "__main__":  # and not for what a job starts by the spawn method of multiprocessing
    if not getattr(sys.flags, "safe_path", False):  # which is new in Python 3.11
        del sys.path[0]  # this file's folder: nothing in it is meant for the job
    package = sys.modules["bgd_worker"] = type(sys)("bgd_worker")
    package.__path__ = [os.path.dirname(__file__)]  # noqa: PTH120  pathlib is slow to import
    from bgd_worker.helpers import provide  # type: ignore[import-not-found]  # a name that only this gives it

    if sys.argv[1:]:
        from bgd_worker.warm import main  # type: ignore[import-not-found]
    else:
        from bgd_worker.spawned import main  # type: ignore[import-not-found]

    provide()
    sys.exit(main())
