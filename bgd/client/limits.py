"""Limits: what the options of a new job may be, for programs that ask people for them."""

from bgd.core.spec import (
    MAX_DURATION,
    MAX_INPUT,
    MAX_NAME,
    MAX_PRIORITY,
    MAX_RETRIES,
    MAX_SLOTS,
    Backoff,
    Name,
    Priority,
    QueueName,
    Retries,
    Share,
    SlotCount,
)

__all__ = [
    "MAX_DURATION",
    "MAX_INPUT",
    "MAX_NAME",
    "MAX_PRIORITY",
    "MAX_RETRIES",
    "MAX_SLOTS",
    "Backoff",
    "Name",
    "Priority",
    "QueueName",
    "Retries",
    "Share",
    "SlotCount",
]
