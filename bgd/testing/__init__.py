"""For the tests of programs that submit jobs: run them without a daemon, or with a private one."""

from __future__ import annotations

from bgd.testing.inline import InlineJob, InlineJobs, inline
from bgd.testing.private import PrivateDaemon, private_daemon

__all__ = ["InlineJob", "InlineJobs", "PrivateDaemon", "inline", "private_daemon"]
