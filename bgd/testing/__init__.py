"""Testing: for the tests of programs that hand over jobs, without a daemon or with one of their own."""

from __future__ import annotations

from bgd.testing.inline import InlineJobs, inline
from bgd.testing.private import PrivateDaemon, private_daemon
from bgd.testing.recorded import InlineJob

__all__ = ["InlineJob", "InlineJobs", "PrivateDaemon", "inline", "private_daemon"]
