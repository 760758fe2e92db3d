"""The worker program: run class jobs in the user's own interpreter, which need not have bgd installed.

With an argument it becomes a warm worker: see warm.py. Without one it runs a single job: see job.py.
It reads one JSON document from standard input:
  {"module", "name", "method" | null, "arguments": {"args", "kwargs"}, "path"}
Optional keys are "allowed", "stop_signal" and "around": see bgd/wire/class_jobs.py.
It writes one of these to the file whose descriptor is in BGD_RESULT_FD:
  {"ok": VALUE}
  {"error": {"type", "message", "traceback"}}
  {"refused": "why"}
  {"wish": {"aim": "retry" | "fail" | "snooze", ...}}
docs/class-jobs.md describes these documents. Everything that the job prints is its log.

This file is started as a script. The folder uses only the standard library of Python 3.9. Its modules are
imported as the package `bgd_worker`, so they never hide a module of the job.
"""

from __future__ import annotations

import os
import sys

if __name__ == "__main__":  # false in processes that a job starts by multiprocessing's spawn method
    if not getattr(sys.flags, "safe_path", False):  # new in Python 3.11
        del sys.path[0]  # this file's folder: the job must not import from it
    package = sys.modules["bgd_worker"] = type(sys)("bgd_worker")
    package.__path__ = [os.path.dirname(__file__)]  # noqa: PTH120  pathlib is slow to import
    # the package exists only from here on, so mypy cannot find it
    from bgd_worker.job import provide_bgd_job  # type: ignore[import-not-found]

    if sys.argv[1:]:
        from bgd_worker.warm import main  # type: ignore[import-not-found]
    else:
        from bgd_worker.job import main

    provide_bgd_job()
    sys.exit(main())
