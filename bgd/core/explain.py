"""Why a queued job has not started; its state says that of all others."""

from __future__ import annotations

from enum import StrEnum

from msgspec import Struct

MAX_AHEAD = 100  # queued jobs before another one that are counted; there may be a million


class Cause(StrEnum):
    """What a queued job waits for: the first of these that applies."""

    LAUNCHER = "launcher"
    PAUSE = "pause"  # of all queues together
    QUEUE_PAUSE = "queue_pause"
    QUEUE_SLOTS = "queue_slots"
    SLOTS = "slots"
    TURN = "turn"  # it may start at any moment


class QueuedReason(Struct, frozen=True, kw_only=True):
    """Why a queued job has not started.

    `taken` of `slots` slots are taken, of its queue or of all, and it needs `wanted`. `ahead`: queued jobs
    that start before it, counted up to MAX_AHEAD; None: unknown. `problem`: why there is no launcher.
    """

    cause: Cause
    wanted: int = 1
    slots: int | None = None
    taken: int = 0
    ahead: int | None = None
    problem: str | None = None
