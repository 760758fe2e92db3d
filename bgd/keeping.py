"""What is kept, and how long: the sections [retention] and [backup] of the configuration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from msgspec import Meta, Struct

from bgd import values
from bgd.core.spec import MAX_DURATION
from bgd.settings import Setting, read

FOR_EVER = "unlimited"
DAY = 86_400.0  # seconds

Interval = Annotated[float, Meta(ge=60.0, le=MAX_DURATION)]
Backups = Annotated[int, Meta(ge=1, le=1000)]
Count = Annotated[int, Meta(ge=0, le=2**53)]
Bytes = Annotated[int, Meta(ge=0, le=2**62)]


class RetentionConfig(Struct, frozen=True, kw_only=True):
    """How long finished jobs are kept; None: for ever, or any number of them."""

    succeeded_for: float | None  # seconds since their end
    failed_for: float | None  # likewise, of failed and cancelled ones
    max_finished: int | None  # of each state
    logs_total: int | None  # bytes of all logs together


class BackupConfig(Struct, frozen=True, kw_only=True):
    """Copies of the database that the daemon writes by itself."""

    every: float | None  # seconds; None: never
    keep: int
    folder: str


def retention_config(found: Mapping[str, Setting]) -> RetentionConfig:
    """Read `[retention]`; ConfigError as from `bgd.settings.read`."""
    lasting = values.unless(FOR_EVER, values.seconds)
    succeeded_for: float | None = 7 * DAY
    failed_for: float | None = 30 * DAY
    most: int | None = 100_000
    log_bytes: int | None = 5_000_000_000
    return RetentionConfig(
        succeeded_for=read(found, "retention.succeeded_for", lasting, succeeded_for),
        failed_for=read(found, "retention.failed_for", lasting, failed_for),
        max_finished=read(
            found, "retention.max_finished", values.unless(FOR_EVER, values.whole_number(Count)), most
        ),
        logs_total=read(
            found, "retention.logs_total", values.unless(FOR_EVER, values.size(Bytes)), log_bytes
        ),
    )


def backup_config(found: Mapping[str, Setting], state_dir: str, home: str) -> BackupConfig:
    """Read `[backup]`; ConfigError as from `bgd.settings.read`."""
    every: float | None = DAY
    return BackupConfig(
        every=read(found, "backup.every", values.unless("never", values.seconds_of(Interval)), every),
        keep=read(found, "backup.keep", values.whole_number(Backups), 3),
        folder=read(found, "backup.folder", values.path(home), f"{state_dir}/backups"),
    )
