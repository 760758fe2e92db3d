"""The log of a batch, in the format of GNU parallel: a line for each job that has run."""

from __future__ import annotations

import fcntl
import json
import os
import re
import stat
import time
from contextlib import suppress
from pathlib import Path

from bgctl.batch_resume import Known, Standing, command_of, fingerprint
from bgctl.common import WrongUsage, say
from bgctl.exit_codes import exit_code_of_job
from bgd import Job, Outcome
from bgd.client.portions import new_batch
from bgd.errors import Refused

HEADER = "Seq\tHost\tStarttime\tJobRuntime\tSend\tReceive\tExitval\tSignal\tCommand\n"
SYNC_EVERY = 1.0  # seconds: the daemon still knows what a power cut removes


class JobLog:
    """A joblog that is being written, and the identity of its batch, which is in a file beside it.

    Attributes:
        batch: the identity.
        known: what the log says of each line; of several rows the last counts.
        problem: why no more can be written; None: nothing.
    """

    def __init__(self, path: str, *, resume: bool, store: str) -> None:
        """Open a log; begin it unless it is to be resumed.

        Args:
            path: of the log.
            resume: go on with a log that exists, or whose identity does.
            store: the database of the daemon.

        Raises:
            WrongUsage: it cannot be opened or resumed. The message says why.
            Refused: the identity is that of another daemon's batch.
        """
        self.known = Known()
        self.problem: str | None = None
        self._path = path
        self._identity = Path(f"{os.path.realpath(path)}.batch")
        self._synced = time.monotonic()
        try:
            self._file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
            try:
                self.batch = self._begun(resume=resume, store=store)
            except BaseException:
                self.close()
                raise
        except OSError as error:
            raise WrongUsage(f"cannot write {path}: {error.strerror}") from error

    def _begun(self, *, resume: bool, store: str) -> bytes:
        """Begin the log, or read what it has; return the identity of the batch."""
        if not stat.S_ISREG(os.fstat(self._file).st_mode):
            raise WrongUsage(f"{self._path} is not a regular file: --resume has to read a joblog again")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise WrongUsage(f"another bgctl writes {self._path}: wait until it has ended") from error
        size = os.fstat(self._file).st_size
        if size and not resume:
            raise WrongUsage(f"{self._path} exists: --resume continues it; delete it to start again")
        complete = self._read()
        identity = self._read_identity(store) if resume else None
        os.ftruncate(self._file, complete)
        if not complete:
            self._write(_HEADER)
        if identity is None:
            if complete:
                say(f"there is no {self._identity}: lines that {self._path} does not have are run")
            identity = new_batch()
            self._save_identity(identity, store)
        return identity

    def add(self, line: int, job: Job) -> None:
        """Write the end of a job, unless there was a `problem`."""
        code = exit_code_of_job(job)
        signal = job.signal if job.outcome is Outcome.SIGNAL else None
        began, took = job.started_at or job.finished_at or 0.0, job.run_seconds or 0.0
        row = f"{line}\t:\t{began:.3f}\t{took:10.3f}\t0\t0\t{code}\t{signal or 0}\t{command_of(job)}\n"
        self._save(row.encode(), sync=time.monotonic() > self._synced + SYNC_EVERY)

    def finish(self) -> str | None:
        """Sync the log; return why it lacks rows, None if it is complete."""
        self._save(b"", sync=True)
        return self.problem

    def _save(self, rows: bytes, *, sync: bool) -> None:
        if self.problem is not None:
            return
        try:
            self._write(rows)
            if sync:
                os.fsync(self._file)
                self._synced = time.monotonic()
        except OSError as error:
            self.problem = f"cannot write {self._path}: {error.strerror}"
            say(f"{self.problem}; the batch goes on, and --resume writes what is missing")

    def close(self) -> None:
        os.close(self._file)

    def _write(self, data: bytes) -> None:
        while data:
            data = data[os.write(self._file, data) :]

    def _read(self) -> int:
        """Read its rows; return its bytes without a last row that a power cut left incomplete."""
        complete = 0
        with open(self._file, "rb", closefd=False) as file:
            for number, row in enumerate(file, start=1):
                found = _ROW.fullmatch(row)
                if found is not None:
                    has_succeeded = int(found["code"]) == int(found["signal"]) == 0
                    standing = Standing.SUCCEEDED if has_succeeded else Standing.FAILED
                    command = found["command"].decode(errors="backslashreplace")
                    self.known.set(int(found["line"]), standing, fingerprint(command))
                elif row.endswith(b"\n") if number > 1 else not _HEADER.startswith(row.rstrip(b"\0")):
                    raise WrongUsage(
                        f"line {number} of {self._path} is not a joblog line: is it the right file?"
                    )
                complete += len(row) if row.endswith(b"\n") else 0
        return complete

    def _read_identity(self, store: str) -> bytes | None:
        """Return the identity of the batch; None: another program, such as GNU parallel, began the log."""
        try:
            known = json.loads(self._identity.read_text())
            batch, database = bytes.fromhex(known["batch"]), known["store"]
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise WrongUsage(f"{self._identity} cannot be read: {error}") from error
        if database != store:
            raise Refused(
                f"{self._path} is about jobs of another daemon, or of a database that was replaced: only that"
                " daemon knows which lines it has queued"
            )
        return batch

    def _save_identity(self, batch: bytes, store: str) -> None:
        """Write the identity to the disk, before the daemon takes a line."""
        new = Path(f"{self._identity}.new")
        with new.open("w") as file:
            json.dump({"batch": batch.hex(), "store": store}, file)
            file.flush()
            os.fsync(file.fileno())
        new.replace(self._identity)
        folder = os.open(new.parent, os.O_RDONLY | os.O_CLOEXEC)
        with suppress(OSError):  # some file systems cannot
            os.fsync(folder)
        os.close(folder)


_HEADER = HEADER.encode()
_ROW = re.compile(
    rb"(?P<line>[1-9][0-9]{0,15})\t[^\t]*(?:\t *[-0-9.]+){4}\t *(?P<code>-?[0-9]+)\t *(?P<signal>[0-9]+)"
    rb"\t(?P<command>.*)\n",
    re.DOTALL,
)
