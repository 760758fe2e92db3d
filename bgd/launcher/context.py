"""The context: what every attempt works with."""

from __future__ import annotations

import asyncio

from msgspec import Struct

from bgd.launcher.cgroup import Delegation
from bgd.launcher.children import Children, Readers
from bgd.launcher.deadlines import Deadlines
from bgd.launcher.journal import Journal
from bgd.launcher.mounts import Mounts
from bgd.launcher.noting import Noting
from bgd.launcher.output import LogFolder
from bgd.launcher.scan import Looker
from bgd.wire.launching import Abilities


class Tools(Struct, frozen=True, kw_only=True):
    """`group` owns every task. `state` and `logs` are folders, `null` is a descriptor of /dev/null."""

    group: asyncio.TaskGroup
    deadlines: Deadlines
    readers: Readers
    looker: Looker
    mounts: Mounts
    children: Children
    journal: Journal
    noting: Noting
    delegation: Delegation
    abilities: Abilities
    state: str
    logs: str
    log_folder: LogFolder
    null: int
