"""`bgd_job`, which every class job can import, whether its interpreter has it or not."""

from __future__ import annotations

import os
import sys

_FILE = __file__.rpartition("/")[0] + "/../inside/bgd_job/__init__.py"


def provide() -> None:
    """Have `bgd_job` found, and looked for only when it is imported.

    No folder is put on sys.path for it: what else is in there would come with it.
    """
    sys.meta_path.insert(0, _Finder)  # type: ignore[arg-type]  # a class does as well as an instance


def say_the_rest() -> None:
    """Have `bgd_job` send what `progress` held back, if the job has used it."""
    reporter = sys.modules.get("bgd_job._reporter")
    if reporter is not None:
        reporter.end()


class _Finder:
    @staticmethod
    def find_spec(name: str, path: object = None, target: object = None) -> object:
        del path, target
        if name != "bgd_job" or not os.path.exists(_FILE):  # noqa: PTH110  pathlib is slow to import
            return None
        from importlib.util import spec_from_file_location  # noqa: PLC0415 - most jobs do without

        return spec_from_file_location(name, _FILE)
