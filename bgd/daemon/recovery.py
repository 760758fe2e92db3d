"""`bgd --recover`: puts the newest good backup in the place of a lost database, and says what is missing."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

from bgd import clock
from bgd.clock import now
from bgd.config import Config
from bgd.daemon import folder
from bgd.daemon.backups import backups_in
from bgd.daemon.logs import highest_job
from bgd.daemon.storage import recovery
from bgd.daemon.storage.copying import Copy
from bgd.daemon.storage.database import StoreBroken, StoreTooNew
from bgd.daemon.storage.recovery import Recovered
from bgd.errors import Refused
from bgd.units import format_duration


def recover(config: Config, wanted: str | None = None) -> list[str]:
    """Restore the newest good backup, or the file `wanted`; return what to tell, line by line.

    Raises:
        Refused: the database is sound.
        StoreBroken: there is no good backup.
        BgdError: a daemon runs, or the folders cannot be used.
    """
    folder.prepare(config)
    with folder.locked(config):
        try:
            return list(_recover(config, wanted))
        except OSError as error:
            raise StoreBroken(f"nothing is restored: {error}") from error


def _recover(config: Config, wanted: str | None) -> Iterator[str]:
    path = f"{config.daemon.state_dir}/bgd.db"
    try:
        problem = recovery.problem_with(path)
    except StoreTooNew as error:
        raise Refused(
            f"database {error}, so nothing is restored: install that bgd again, or move it away to have a"
            " backup instead"
        ) from error
    if problem is None:
        raise Refused(
            f"database {path} is sound, so nothing is restored: move it away to have a backup instead"
        )
    backup, problems = recovery.newest_good([wanted] if wanted else backups_in(config.backup.folder))
    if backup is None:
        tried = "; ".join(problems) or f"{config.backup.folder} has none"
        raise StoreBroken(f"{problem}; there is no good backup: {tried}")
    highest = max(backup.last_id, recovery.last_id_in(path), highest_job(config.log_dir))
    at = now().wall
    stamp = datetime.fromtimestamp(at, UTC).strftime("%Y%m%dT%H%M%SZ")
    aside = recovery.put_aside(path, stamp)
    restored = recovery.restore(backup, path, highest, f"{clock.boot_id()}:before-recovery", at)
    yield f"{problem}" + (f"; it is kept as {aside}" if aside else "")
    yield from (f"passed over: {each}" for each in problems)
    yield from _told(backup, restored, highest)


def _told(backup: Copy, restored: Recovered, highest: int) -> Iterator[str]:
    written = f"{datetime.fromtimestamp(backup.written_at).astimezone():%Y-%m-%d %H:%M:%S}"
    age = format_duration(max(now().wall - backup.written_at, 0) // 1)
    lost = f"any job after {backup.last_id}"
    if highest > backup.last_id:
        lost = f"jobs {backup.last_id + 1} to {highest}, and perhaps later ones"
    yield f"restored from {backup.path}, which is sound: {_jobs(backup.jobs)}"
    yield f"missing is what happened since {written} ({age} ago): {lost}, and how older ones went on"
    if restored.held:
        yield (
            f"held: {_jobs(restored.held)} that waited then and may have run since; "
            "see bgctl list --state held, then bgctl release or bgctl cancel"
        )
    if restored.running:
        yield (
            f"unsure: {_jobs(restored.running)} that ran then; what still runs is taken over, of the rest"
            " nobody saw the end, and nothing is run again by itself"
        )
    yield f"new jobs get ids from {restored.last_id + 1} on, so that none is given out twice"
    yield "start bgd as usual"


def _jobs(count: int) -> str:
    return "1 job" if count == 1 else f"{count} jobs"
