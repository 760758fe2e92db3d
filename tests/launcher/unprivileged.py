"""Launchers, and so jobs, of a user without any rights."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.launcher.host import SOURCE, Host

NOBODY = 65534
# Python may be where other users may not go, so import everything before becoming another user
AS_NOBODY = f"""
import ctypes, encodings.ascii, encodings.idna, os, shutil, sys
from bgd.launcher import __main__ as launcher
os.setgroups([])
os.setresgid({NOBODY}, {NOBODY}, {NOBODY})
os.setresuid({NOBODY}, {NOBODY}, {NOBODY})
PR_SET_DUMPABLE = 4  # else its own /proc would be root's
ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 1, 0, 0, 0)
sys.exit(launcher.main())
"""


class UnprivilegedHost(Host):
    """A host whose launchers, and so jobs, run as user nobody."""

    def start(self, *options: str, source: Path = SOURCE, **popen: Any) -> subprocess.Popen[bytes]:
        """Start a launcher by hand."""
        folders = ["--state", str(self.state), "--logs", str(self.logs)]
        with (self.state / "stderr").open("ab") as stderr:
            launcher = subprocess.Popen(
                [sys.executable, "-P", "-c", AS_NOBODY, *folders, *options],
                env={**os.environ, "PYTHONPATH": str(source)},
                stderr=stderr,
                start_new_session=True,
                **popen,
            )
        self.launchers.append(launcher)
        return launcher
