"""The context: what every attempt works with."""

from __future__ import annotations

import asyncio

from msgspec import Struct

from bgd.launcher.cgroup import Delegation
from bgd.launcher.children import Children, Readers
from bgd.launcher.deadlines import Deadlines
from bgd.launcher.journal import Journal
from bgd.launcher.mounts import Mounts
from bgd.launcher.output import LogFolder
from bgd.launcher.pid_journal import PidJournal
from bgd.launcher.scan import Scanner
from bgd.wire.launching import Abilities


class Context(Struct, frozen=True, kw_only=True):
    """One per launcher. `group` owns every task; `state`, `logs` are folders; `null` is open on /dev/null."""

    group: asyncio.TaskGroup
    deadlines: Deadlines
    readers: Readers
    scanner: Scanner
    mounts: Mounts
    children: Children
    journal: Journal
    pid_journal: PidJournal
    delegation: Delegation
    abilities: Abilities
    state: str
    logs: str
    log_folder: LogFolder
    null: int
