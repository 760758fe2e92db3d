"""The log of a batch, and what it and the daemon know about each line of a batch that is resumed."""

from __future__ import annotations

import fcntl
import json
import os
import re
import shlex
import stat
import time
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from enum import IntEnum
from hashlib import sha256
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING

from bgctl.batch_lines import words_of
from bgctl.common import WrongUsage, replace_file, say
from bgctl.exit_codes import exit_code_of_job
from bgd import Client, Job, NoSuchJob, Outcome, Refused, State
from bgd.client.portions import lines_and_jobs, new_batch
from bgd.client.session import portions
from bgd.core.job import CANCELLED_BEFORE_START
from bgd.wire.replies import Run, runs_of
from bgd.wire.requests import MAX_LIST

if TYPE_CHECKING:
    from bgd.core.spec import JobSpec

_SHELL = ["/bin/sh", "-c"]
_FINGERPRINT = (1 << 60) - 1


class Standing(IntEnum):
    """The standing of a line: from its job, or from the joblog if the daemon has deleted the job."""

    NEW = 0  # it never became a job
    UNFINISHED = 1
    SUCCEEDED = 2
    FAILED = 3
    UNSTARTED = 4  # it was cancelled before it started
    LOST = 5  # its job was deleted, and the joblog does not have it
    CANCELLED = 6  # while it ran


def runs_again(standing: Standing, *, retry_failed: bool) -> bool:
    """Return whether a line of a batch that is resumed has to run; otherwise what there is counts."""
    if standing in (Standing.FAILED, Standing.CANCELLED, Standing.LOST):
        return retry_failed
    return standing in (Standing.NEW, Standing.UNSTARTED)


def standing_of(job: Job) -> Standing:
    match job.state:
        case State.SUCCEEDED:
            return Standing.SUCCEEDED
        case State.CANCELLED if job.attempt == 0 or job.reason == CANCELLED_BEFORE_START:
            return Standing.UNSTARTED
        case State.FAILED:
            return Standing.FAILED
        case State.CANCELLED:
            return Standing.CANCELLED
        case State.HELD | State.BLOCKED | State.SCHEDULED | State.QUEUED | State.RUNNING | State.STOPPING:
            return Standing.UNFINISHED


class LineTable:
    """A number below 2**63 for each line, 0 where none was set: 8 bytes for each line."""

    def __init__(self) -> None:
        self._blocks: dict[int, array[int]] = {}

    def __getitem__(self, line: int) -> int:
        block = self._blocks.get(line >> _BLOCK_BITS)
        return 0 if block is None else block[line & _BLOCK - 1]

    def __setitem__(self, line: int, value: int) -> None:
        block = self._blocks.get(line >> _BLOCK_BITS)
        if block is None:
            block = self._blocks[line >> _BLOCK_BITS] = array("q", bytes(8 * _BLOCK))
        block[line & _BLOCK - 1] = value

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """Yield each line that has a number, with it, in order."""
        for index in sorted(self._blocks):
            for line, value in enumerate(self._blocks[index], start=index << _BLOCK_BITS):
                if value:
                    yield line, value


_BLOCK_BITS = 10
_BLOCK = 1 << _BLOCK_BITS


class Known:
    """The standing of each line at the resume, and a fingerprint of its command; 0: unknown."""

    def __init__(self) -> None:
        self._lines = LineTable()

    def __getitem__(self, line: int) -> Standing:
        return Standing(self._lines[line] & 7)

    def __iter__(self) -> Iterator[tuple[int, Standing]]:
        return ((line, Standing(value & 7)) for line, value in self._lines)

    def set(self, line: int, standing: Standing, fingerprint: int = 0) -> None:
        self._lines[line] = fingerprint << 3 | standing

    def has_changed(self, line: int, spec: JobSpec) -> bool:
        """Return whether a line has another command now; jobs with one key have that of one line."""
        known = self._lines[line] >> 3
        return bool(known) and spec.key is None and fingerprint(command_of(spec)) != known


def command_of(job: Job | JobSpec) -> str:
    """Return an equivalent shell command on one line, as GNU parallel writes it."""
    if job.argv is None:
        arguments = job.view.arguments if isinstance(job, Job) else job.arguments
        return f"{job.target} {arguments or ''}".rstrip()
    argv = list(job.argv)
    text = argv[2] if argv[:2] == _SHELL and len(argv) == len(_SHELL) + 1 else shlex.join(argv)
    return text.encode(errors="backslashreplace").decode().replace("\n", "\0")


def fingerprint(command: str) -> int:
    """Return a number that differs between different commands, whatever their quoting."""
    try:
        return hash(tuple(words_of(command))) & _FINGERPRINT or 1
    except ValueError:  # a shell may understand it
        return hash(command) & _FINGERPRINT or 1


class LinesOfJobs:
    """The line of each job. Consecutive lines with consecutive jobs take one entry."""

    def __init__(self) -> None:
        self._runs: list[Run] = []
        self._others: dict[int, list[int]] = {}  # lines with the key of an earlier job
        self.newest_job = 0

    def add(self, run: Run) -> None:
        line, job, count = run
        if job <= self.newest_job:
            for index in range(count):
                self._others.setdefault(job + index, []).append(line + index)
            return
        if self._runs and (last := self._runs[-1])[0] + last[2] == line and last[1] + last[2] == job:
            self._runs[-1] = (last[0], last[1], last[2] + count)
        else:
            self._runs.append(run)
        self.newest_job = job + count - 1

    def of(self, job_id: int) -> list[int]:
        """Return the lines of a job; none: it has no line."""
        index = bisect_right(self._runs, job_id, key=itemgetter(1)) - 1
        lines = list(self._others.get(job_id, ()))
        if index >= 0 and job_id < self._runs[index][1] + self._runs[index][2]:
            lines.insert(0, self._runs[index][0] + job_id - self._runs[index][1])
        return lines

    def __iter__(self) -> Iterator[tuple[int, int]]:
        yield from lines_and_jobs(self._runs)
        for job, lines in self._others.items():
            yield from ((line, job) for line in lines)


def runs_where(runs: Iterable[Run], wanted: Callable[[int, int], bool]) -> Iterator[Run]:
    """Yield those parts of runs whose lines and jobs are wanted."""
    for run in runs:
        pairs = [pair for pair in lines_and_jobs([run]) if wanted(*pair)]
        yield from runs_of([line for line, _ in pairs], [job for _, job in pairs])


def look_up(daemon: Client, runs: list[Run], known: Known, on_end: Callable[[int, Job], object]) -> list[Run]:
    """Find the standing of lines that became jobs. The daemon's answer replaces earlier knowledge.

    Args:
        daemon: to ask.
        runs: the lines and their jobs; of several jobs of a line the last counts.
        known: what the joblog says.
        on_end: called with each line whose job ran and ended in another way than the log says, and the job.

    Returns: the lines and jobs that count, without jobs that were deleted before they had succeeded.
    """
    latest, lines = LineTable(), LinesOfJobs()
    for line, job_id in lines_and_jobs(runs):
        latest[line] = job_id
    for run in runs_where(runs, lambda line, job_id: latest[line] == job_id):
        lines.add(run)
    for job in _jobs_of(daemon, lines, known):
        for line in lines.of(job.id):
            standing = standing_of(job)
            row = Standing.FAILED if standing is Standing.CANCELLED else standing  # as the log says it
            if row is not known[line] and row in (Standing.SUCCEEDED, Standing.FAILED):
                on_end(line, job)
            known.set(line, standing, fingerprint(command_of(job)))
            latest[line] = -job.id  # negative: it counts
    for line, job_id in latest:
        if known[line] is Standing.NEW:
            known.set(line, Standing.LOST)
        elif known[line] is Standing.SUCCEEDED:
            latest[line] = -abs(job_id)
    return list(runs_where(runs, lambda line, job_id: latest[line] == -job_id))


def _jobs_of(daemon: Client, lines: LinesOfJobs, known: Known) -> Iterator[Job]:
    """Yield the jobs of these lines that exist, and some others.

    Jobs that succeeded according to the log are left out: there may be a million.
    """
    oldest = min((job_id for _, job_id in lines), default=0)
    others, before = LineTable(), lines.newest_job + 1
    while before > oldest > 0:
        page = daemon.jobs(states=_NOT_SUCCEEDED, before=before, limit=MAX_LIST)
        for job in reversed(page):
            others[job.id] = 1
            yield job
        before = page[-1].id if len(page) == MAX_LIST else 0
    rest = (job_id for line, job_id in lines if known[line] is not Standing.SUCCEEDED and not others[job_id])
    for chunk in portions(rest):
        yield from ended_of(daemon, chunk)[0]


_NOT_SUCCEEDED = [state for state in State if state is not State.SUCCEEDED]


def ended_of(daemon: Client, job_ids: list[int]) -> tuple[list[Job], list[int]]:
    """Return those of these jobs that have ended, and the ids of those that are gone."""
    ended: list[Job] = []
    removed: list[int] = []
    try:
        with suppress(TimeoutError):  # some have not
            ended.extend(daemon.as_finished(job_ids, timeout=0))
    except NoSuchJob:
        ended.clear()
        for job_id in job_ids:
            try:
                job = daemon.job(job_id)
            except NoSuchJob:
                removed.append(job_id)
            else:
                ended += [job] if standing_of(job) is not Standing.UNFINISHED else []
    return ended, removed


# --- the log, in the format of GNU parallel ---------------------------------------------------------------

HEADER = "Seq\tHost\tStarttime\tJobRuntime\tSend\tReceive\tExitval\tSignal\tCommand\n"
SYNC_EVERY = 1.0  # seconds: the daemon still knows what a power cut removes


def key_of_batch(joblog: str | None) -> str:
    """Return the key of a batch's own limit; a batch with a log has the same one when it is resumed."""
    seed = os.urandom(16) if joblog is None else os.path.realpath(os.fsencode(joblog))
    return f"batch-{sha256(seed).hexdigest()[:12]}"


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
        replace_file(self._identity, [json.dumps({"batch": batch.hex(), "store": store}).encode()])


_HEADER = HEADER.encode()
_ROW = re.compile(
    rb"(?P<line>[1-9][0-9]{0,15})\t[^\t]*(?:\t *[-0-9.]+){4}\t *(?P<code>-?[0-9]+)\t *(?P<signal>[0-9]+)"
    rb"\t(?P<command>.*)\n",
    re.DOTALL,
)
