"""backup: a copy of the daemon's database in a file."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from stat import S_ISREG

import click

from bgctl.common import client, global_options, print_json, say, verb
from bgctl.options import FILE
from bgd.errors import Refused
from bgd.units import format_size


@verb(
    "backup",
    "bgctl backup ~/bgd-backup.db",
    "bgctl --system backup /mnt/backups/bgd.db",
)
@click.argument("file", type=FILE, metavar="FILE")
def backup_command(file: str) -> int:
    """Write a copy of the daemon's database to FILE, while it goes on.

    It is checked before it is sent, and takes FILE's place only when all of it is on disk.
    `bgd --recover FILE` puts it in the place of a database that is lost. Logs of jobs are not in it.
    """
    path = Path(file).absolute()
    with client() as daemon, closing(daemon.backup()) as pieces:
        if reason := _why_not(path, Path(daemon.info().state_dir)):
            raise Refused(f"{reason}: name another file")
        try:
            size = _write(path, pieces)
        except OSError as error:
            raise Refused(f"cannot write {path}: {error.strerror}") from error
    if global_options().json:
        print_json({"path": str(path), "bytes": size})
    else:
        say(f"backup written: {path} ({format_size(size)})")
    return 0


def _why_not(path: Path, state_dir: Path) -> str | None:
    """Say why nothing may take the place of what is at the path: root would lose /dev/null for good."""
    with suppress(OSError):  # nothing is there, or nobody may know: the write tells
        if not S_ISREG(path.stat().st_mode):
            return f"{path} is no regular file, and is left as it is"
        if path.parent.samefile(state_dir):
            return f"{path} is among the daemon's own files, and is left as it is"
    return None


def _write(path: Path, pieces: Iterator[bytes]) -> int:
    """Write the pieces to the file, all or none of them; return how many bytes they are."""
    new = path.with_name(f".{path.name}.{os.urandom(4).hex()}.part")
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            size = sum(map(file.write, pieces))
            file.flush()
            os.fsync(descriptor)
        new.replace(path)
    except BaseException:
        with suppress(FileNotFoundError):
            new.unlink()
        raise
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)  # else the new name may be gone after a power cut
    finally:
        os.close(folder)
    return size
