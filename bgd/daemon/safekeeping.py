"""Safekeeping: whether the database and its backups are such that the next start finds all jobs."""

from __future__ import annotations

import os
import time
from pathlib import Path

from bgd.config import Config
from bgd.daemon.backups import backups_in
from bgd.daemon.storage.database import StoreBroken
from bgd.daemon.storage.recovery import examine, newest_good
from bgd.daemon.storage.schema import VERSION
from bgd.places import in_the_way_of
from bgd.units import format_duration
from bgd.wire.views import Finding, Level

PATIENCE = 10.0  # seconds for the database, and as many for the backups: whoever asks waits
_BACKUPS_LATE = 2.5  # times the interval


def database(config: Config, patience: float = PATIENCE) -> Finding:
    """Return what is found of the database, with or without a daemon that has it open."""
    subject = "database"
    path = f"{config.daemon.state_dir}/bgd.db"
    try:
        found = examine(path, patience)
    except FileNotFoundError:
        remedy = "the first start makes it"
        if backups_in(config.backup.folder):
            remedy += "; if there was one, `bgd --recover` puts the newest backup in its place"
        return Finding(subject, Level.NOTE, f"{path} is not there", remedy)
    except PermissionError:
        return Finding(subject, Level.PROBLEM, f"{path} may not be read", "ask as the user of the daemon")
    except StoreBroken as error:
        return Finding(subject, Level.PROBLEM, error.problem, error.remedy or "see the daemon's log")
    version = f"version {found.version} of its tables"
    if not found.is_whole:
        return Finding(
            subject,
            Level.NOTE,
            f"{path}: {version}, no damage found in {patience:g} s, which was too short for all of it",
            "`bgctl backup FILE` writes a copy that is checked to its end",
        )
    if found.version < VERSION:
        return Finding(
            subject,
            Level.NOTE,
            f"{path} is sound, and of an earlier bgd ({version}, this bgd makes {VERSION})",
            "the next start upgrades it; earlier releases do not read it any more then",
        )
    return Finding(subject, Level.OK, f"{path} is sound, {version}")


def backups(config: Config, patience: float = PATIENCE) -> Finding:
    """Return what is found of the backups, of which the newest are checked as `bgd --recover` does."""
    subject = "backups"
    every = config.backup.every
    if every is None:
        return Finding(subject, Level.NOTE, "none are written", "set [backup] every, or use bgctl backup")
    if (problem := _obstacle_to(config.backup.folder)) is not None:
        return Finding(subject, Level.PROBLEM, f"none can be written: {problem}", "see [backup] folder")
    paths = backups_in(config.backup.folder)
    if not paths:
        return Finding(
            subject, Level.NOTE, f"none yet in {config.backup.folder}", "bgctl backup FILE writes one"
        )
    return _checked(paths, every, patience)


def _obstacle_to(folder: str) -> str | None:
    """Return why nothing can be written to a folder, which is made when it is needed; None: it can."""
    if (in_the_way := in_the_way_of(Path(folder))) is not None:
        return in_the_way
    there = folder
    while not os.path.exists(there):  # noqa: PTH110 - Path.exists raises where one may not look
        there = str(Path(there).parent)
    if not os.access(there, os.R_OK | os.W_OK | os.X_OK):
        return f"{there} may not be written to"
    return None


def _checked(paths: list[str], every: float, patience: float) -> Finding:
    subject = "backups"
    try:
        good, problems = newest_good(paths, patience)
    except TimeoutError:
        return Finding(
            subject,
            Level.NOTE,
            f"{_number_and_age(paths, paths[0])}; it could not be checked to its end in {patience:g} s",
            "nothing is to be done: it was checked when it was written, and bgd --recover does so again",
        )
    if good is None:
        return Finding(
            subject, Level.PROBLEM, f"none is good: {problems[0]}", f"delete it; {_WRITE_ONE} meanwhile"
        )
    if problems:
        return Finding(
            subject,
            Level.WARNING,
            f"{_number_and_age(paths, good.path)} of the good ones: {problems[0]}",
            f"delete what is damaged (bgd --recover passes it over); {_WRITE_ONE} meanwhile",
        )
    found = _number_and_age(paths, good.path)
    if _age_of(good.path) > _BACKUPS_LATE * every:
        return Finding(subject, Level.WARNING, found, "the daemon's log says why, if it has run meanwhile")
    return Finding(subject, Level.OK, f"{found} and sound")


def _number_and_age(paths: list[str], newest: str) -> str:
    return f"{len(paths)}, the newest {format_duration(_age_of(newest) // 60 * 60)} old"


def _age_of(path: str) -> float:
    return max(time.time() - Path(path).stat().st_mtime, 0)  # if the clock was not set back since


_WRITE_ONE = "`bgctl backup FILE` writes one"
