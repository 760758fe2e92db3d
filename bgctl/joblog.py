"""The log of a batch, in the format of GNU parallel: a line for each job that has run."""

from __future__ import annotations

import fcntl
import json
import os
import re
import shlex
from contextlib import suppress
from pathlib import Path
from typing import IO

from bgctl.common import WrongUsage
from bgctl.exit_codes import exit_code_of_job
from bgd import Job, Outcome
from bgd.client.portions import new_batch
from bgd.errors import Refused

HEADER = "Seq\tHost\tStarttime\tJobRuntime\tSend\tReceive\tExitval\tSignal\tCommand\n"
_SHELL = ["/bin/sh", "-c"]


class LineSet:
    """Numbers of lines, a bit each."""

    def __init__(self) -> None:
        self._bits = bytearray()

    def add(self, line: int) -> None:
        index = line >> 3
        if index >= len(self._bits):
            self._bits.extend(bytes(index + 1 - len(self._bits) + len(self._bits) // 2))
        self._bits[index] |= 1 << (line & 7)

    def __contains__(self, line: int) -> bool:
        index = line >> 3
        return index < len(self._bits) and bool(self._bits[index] >> (line & 7) & 1)


class JobLog:
    """A joblog that is being written, and the identity of its batch, which is in a file beside it.

    Attributes:
        batch: the identity.
        done: lines whose jobs the log has.
    """

    def __init__(self, path: str, *, resume: bool, store: str) -> None:
        """Open a log; begin it unless it is to be resumed.

        Args:
            path: of the log.
            resume: go on with a log that exists.
            store: the database of the daemon.

        Raises:
            WrongUsage: it cannot be opened or resumed. The message says why.
        """
        self.done = LineSet()
        self._path = path
        self._file = self._opened()
        try:
            self.batch = self._begun(resume=resume, store=store)
        except BaseException:
            self._file.close()
            raise

    def _begun(self, *, resume: bool, store: str) -> bytes:
        """Begin the log, or read what it has; return the identity of the batch."""
        path = self._path
        size = os.fstat(self._file.fileno()).st_size
        if size and not resume:
            raise WrongUsage(f"{path} exists: --resume goes on with it; delete it to begin again")
        identity = self._identity(store) if size else None
        if size:
            self._read()
        else:
            self._file.write(HEADER.encode())
        if identity is None:
            identity = new_batch()
            self._save_identity(identity, store)
        self._file.flush()
        return identity

    def add(self, line: int, job: Job) -> None:
        """Write how a job has ended."""
        code = exit_code_of_job(job)
        signal = job.signal if job.outcome is Outcome.SIGNAL else None
        began, took = job.started_at or job.finished_at or 0.0, job.run_seconds or 0.0
        row = f"{line}\t:\t{began:.3f}\t{took:10.3f}\t0\t0\t{code}\t{signal or 0}\t{_command_of(job)}\n"
        self._file.write(row.encode(errors="backslashreplace"))
        self._file.flush()  # from now on the line counts as done, even if this process is killed
        self.done.add(line)

    def close(self) -> None:
        self._file.close()

    def _opened(self) -> IO[bytes]:
        try:
            file = Path(self._path).open("a+b")  # noqa: SIM115 - `close` closes it
        except OSError as error:
            raise WrongUsage(f"cannot write {self._path}: {error.strerror}") from error
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.close()
            raise WrongUsage(f"another bgctl writes {self._path}: wait until it has ended") from error
        return file

    def _read(self) -> None:
        """Note which lines have run. The last one may be incomplete, if the machine lost power."""
        self._file.seek(0)
        complete = 0
        for number, line in enumerate(self._file, start=1):
            if not line.endswith(b"\n"):
                break
            complete += len(line)
            found = _ROW.match(line)
            if found is not None:
                self.done.add(int(found[1]))
            elif number > 1:
                raise WrongUsage(f"line {number} of {self._path} is not one of a joblog: is it this file?")
        self._file.truncate(complete)

    def _identity(self, store: str) -> bytes | None:
        """Return the identity of the batch; None: another program, such as GNU parallel, began the log."""
        try:
            known = json.loads(Path(f"{self._path}.batch").read_text())
            batch, database = bytes.fromhex(known["batch"]), known["store"]
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise WrongUsage(f"{self._path}.batch cannot be read: {error}") from error
        if database != store:
            raise Refused(
                f"{self._path} is about jobs of another daemon, or of a database that was replaced: only that"
                " daemon knows which lines it has queued"
            )
        return batch

    def _save_identity(self, batch: bytes, store: str) -> None:
        """Write the identity to the disk, before the daemon takes a line."""
        path = Path(f"{self._path}.batch")
        new = Path(f"{path}.new")
        try:
            with new.open("w") as file:
                json.dump({"batch": batch.hex(), "store": store}, file)
                file.flush()
                os.fsync(file.fileno())
            new.replace(path)
            folder = os.open(path.parent, os.O_RDONLY | os.O_CLOEXEC)
            with suppress(OSError):  # some file systems cannot
                os.fsync(folder)
            os.close(folder)
        except OSError as error:
            raise WrongUsage(f"cannot write {path}: {error.strerror}") from error


_ROW = re.compile(rb"([1-9][0-9]{0,15})\t[^\t]*(?:\t *[-0-9.]+){6}\t")


def _command_of(job: Job) -> str:
    """Return what a shell would run for the same, on one line as GNU parallel writes it."""
    if job.argv is None:
        return f"{job.target} {job.view.arguments or ''}".rstrip()
    argv = list(job.argv)
    text = argv[2] if argv[:2] == _SHELL and len(argv) == len(_SHELL) + 1 else shlex.join(argv)
    return text.replace("\n", "\0")
