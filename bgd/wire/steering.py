"""What a client asks of the daemon itself: its slots and queues, what it keeps, how it is, and its end.

An arrow in a docstring names the replies, as in requests.py.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from msgspec import Meta, Struct

from bgd.core.job import State
from bgd.core.spec import MAX_DURATION, Duration, QueueName, SlotCount

MAX_KEPT = 2**53  # jobs

RequestId = Annotated[int, Meta(ge=0, le=2**63 - 1)]


class GetInfo(Struct, frozen=True, tag="info"):
    """-> Info."""

    id: RequestId


class GetStats(Struct, frozen=True, tag="stats"):
    """-> Stats: figures of the last `window` seconds, and of all that waits and runs."""

    id: RequestId
    window: Annotated[float, Meta(gt=0, le=MAX_DURATION)] = 3600.0


class GetLogin(Struct, frozen=True, tag="login"):
    """-> Login: a link that logs a browser in."""

    id: RequestId


class Reload(Struct, frozen=True, tag="reload"):
    """-> Reloaded: read the configuration again; one that cannot be used changes nothing."""

    id: RequestId


class ShutdownMode(StrEnum):
    LEAVE = "leave"  # running jobs run on and are adopted by the next daemon
    REQUEUE = "requeue"  # running jobs are stopped and run again under the next daemon
    WAIT = "wait"  # nothing more is started; the daemon ends when what runs has ended
    CANCEL = "cancel"  # running jobs are cancelled


class Shutdown(Struct, frozen=True, tag="shutdown"):
    """-> Done when it is taken; the connection ends with the daemon. `mode` None: as configured."""

    id: RequestId
    mode: ShutdownMode | None = None


class GetCheckup(Struct, frozen=True, tag="checkup"):
    """-> Checkup: what of the installation is not as it should be."""

    id: RequestId


class GetQueues(Struct, frozen=True, tag="queues"):
    """-> Queues."""

    id: RequestId


class SetSlots(Struct, frozen=True, tag="slots"):
    """-> Queues. How many slots the daemon has from now on; None: as configured. Kept over restarts."""

    id: RequestId
    slots: SlotCount | None


class SetQueue(Struct, frozen=True, tag="set_queue"):
    """-> Queues. How many slots a queue has from now on, None: no limit. Kept over restarts."""

    id: RequestId
    queue: QueueName
    slots: SlotCount | None


class RemoveQueue(Struct, frozen=True, tag="remove_queue"):
    """-> Queues. Forget what SetQueue and Pause said of a queue: it is as configured again.

    `repeated`: the answer to the same request was lost. If there is nothing to forget, that is no error.
    """

    id: RequestId
    queue: QueueName
    repeated: bool = False


class Pause(Struct, frozen=True, tag="pause"):
    """-> Queues. Start no job of a queue, None: of any, until it is resumed. Kept over restarts."""

    id: RequestId
    queue: QueueName | None = None


class Resume(Struct, frozen=True, tag="resume"):
    """-> Queues. Undo Pause; None: that of all queues together, not those of single queues.

    `repeated`: the answer to the same request was lost. If there is no such queue now, that is no error.
    """

    id: RequestId
    queue: QueueName | None = None
    repeated: bool = False


class Prune(Struct, frozen=True, tag="prune", kw_only=True, omit_defaults=True):
    """-> Pruned..., End: finished jobs and their logs are deleted, the longest finished first.

    Those go that finished more than `older_than` seconds ago, that are not among the latest `keep` of their
    state, or whose logs make all logs together more than `logs_total` bytes. None of the three: as
    configured. `states`: only jobs in these, None: in any final state. `dry_run`: only say what would go.
    """

    id: RequestId
    states: Annotated[list[State], Meta(min_length=1, max_length=3)] | None = None
    older_than: Duration | None = None
    keep: Annotated[int, Meta(ge=0, le=MAX_KEPT)] | None = None
    logs_total: Annotated[int, Meta(ge=0, le=2**62)] | None = None
    dry_run: bool = False


class GetBackup(Struct, frozen=True, tag="backup"):
    """-> BackupPart..., End: a copy of the database, as it was at one instant."""

    id: RequestId
