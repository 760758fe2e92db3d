"""The verb search: lines of all kept logs, read by bgctl itself."""

from __future__ import annotations

import os
from collections.abc import Collection, Generator, Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager
from datetime import datetime
from pathlib import Path
from signal import SIGKILL

import click
import msgspec

from bgctl.common import global_options, has_colors, is_terminal, json_line, say
from bgctl.exit_codes import FAILED
from bgctl.options import whole_number
from bgctl.selecting import Selection, with_selection
from bgctl.verbs import verb
from bgd import Client, Refused, State
from bgd.logs.files import LogReader
from bgd.logs.search import LogFile, Needle, found_lines, lines_with, logs_in, read_small_logs
from bgd.text.escape import one_line
from bgd.text.formatting import iso_time

MAX_TEXT = 1000  # characters
MAX_SHOWN = 500  # characters of a line on a terminal
MAX_LINES = 2**31
PROCESSES = 4  # that search: more than processors, because each sometimes waits for the disk
_NICE = 10  # of all but the first: the daemon gets a processor before them


@verb(
    "bgctl search 'disk full'",
    "bgctl search --ids Traceback --since 1d",
    "bgctl search -n 1 'connection refused' 12 14-20",
)
@click.argument("text")
@with_selection(tuple(State), may_be_empty=True)
@click.option("-i", "--ignore-case", is_flag=True, help="Ignore case.")
@click.option("-n", "most", type=whole_number(1, MAX_LINES), metavar="N", help="Stop after N lines.")
@click.option("--ids", "only_ids", is_flag=True, help="Print only the ids of the jobs.")
def search_command(
    daemon: Client, text: str, selection: Selection, *, ignore_case: bool, most: int | None, only_ids: bool
) -> int:
    """Print the lines of all kept logs that contain TEXT.

    TEXT is not a regular expression. The newest job comes first; each line begins with job and attempt, the
    time at which it was written, and the name of the job. Without -i, upper and lower case are distinguished
    only if TEXT contains a capital letter. Without ids and filters all logs are searched. Exit with 0 if a
    line is found, else 1.

    --since and --until select jobs by the time of their submit, not lines: `bgctl logs --since WHEN ID` shows
    what a job has written since.
    """
    if not text or "\n" in text or len(text) > MAX_TEXT:
        raise click.UsageError(f"TEXT has 1 to {MAX_TEXT} characters, on one line")
    log_dir = daemon.info().log_dir
    jobs = None if selection.is_empty else set(selection.ids_in(daemon, tuple(State)))
    search = _Search(log_dir, Needle.of(text, ignores_case=ignore_case), jobs)
    names = _Names(daemon)
    found = told = 0
    with closing(search.lines()) as all_lines:
        for log, lines in all_lines:
            wanted = lines[: log.job != told] if only_ids else lines
            wanted = wanted[: None if most is None else most - found]
            if only_ids:
                print("".join(f"{log.job}\n" for _ in wanted), end="", flush=True)
            elif wanted:
                _print(log, wanted, search.needle, names.of(log.job))
            found, told = found + len(wanted), log.job
            if found == most:
                break
    if search.unreadable:
        say(f"{search.unreadable} logs could not be read: {search.problem}")
    if not found:
        say(f"no line of {search.logs} logs contains {text!r}")
    return 0 if found else FAILED


def _print(log: LogFile, lines: list[tuple[int, bytes]], needle: Needle, name: str | None) -> None:
    """Print lines of a log, each with its offset."""
    times = LogReader.at(log.path).times_of([offset for offset, _ in lines], has_parts=log.has_parts)
    most, has_marks = MAX_SHOWN if is_terminal() else None, has_colors()
    texts = []
    for (offset, line), at in zip(lines, times, strict=True):
        if global_options().json:
            text = line.decode(errors="replace").rstrip("\r")
            place = {"job": log.job, "attempt": log.attempt, "name": name, "at": iso_time(at)}
            texts.append(json_line({**place, "offset": offset, "line": text}))
        else:
            time = "" if at is None else f" {datetime.fromtimestamp(at).astimezone():%Y-%m-%d %H:%M:%S}"
            shown = needle.shown(line, most)
            label = f"{log.job}.{log.attempt}{time}{f' {one_line(name)}' if name else ''}"
            texts.append(f"{label}: {_marked(shown, needle) if has_marks else shown}")
    print("".join(f"{text}\n" for text in texts), end="", flush=True)


class _Names:
    """Names of jobs, a page at a time: what is found comes from newer jobs first."""

    def __init__(self, daemon: Client) -> None:
        self._daemon = daemon
        self._names: dict[int, str | None] = {}
        self._oldest = 1 << 63

    def of(self, job_id: int) -> str | None:
        """Return the name of a job; None: it has none, or was removed."""
        if job_id < self._oldest:
            page = self._daemon.jobs(states=tuple(State), before=job_id + 1, limit=_PAGE)
            self._names = {job.id: job.name for job in page}
            self._oldest = page[-1].id if page else 0
        return self._names.get(job_id)


_PAGE = 200  # jobs


def _marked(text: str, needle: Needle) -> str:
    """Return a line with all matches marked."""
    return "".join(
        click.style(part, fg="red", bold=True) if is_found else part for part, is_found in needle.parts(text)
    )


_Found = tuple[list[LogFile], int, int, str]
"""What another process has found in a folder: the logs with the text, and `logs`, `unreadable`, `problem`."""


class _Search:
    """Searches logs, newest first. Other processes search most of the folders, if there are several.

    Attributes:
        logs: how many were searched.
        unreadable: how many could not be, and `problem` the latest reason.
    """

    def __init__(self, folder: str, needle: Needle, jobs: Collection[int] | None) -> None:
        self._folder = Path(folder)
        self.needle = needle
        self._jobs = jobs
        self.logs = self.unreadable = 0
        self.problem = ""

    def lines(self) -> Generator[tuple[LogFile, list[tuple[int, bytes]]], None, None]:
        """Yield lines that contain the text, each with its offset: those of a log, or of a part of it."""
        with ExitStack() as processes:
            beside: list[Iterator[_Found]] = []
            folders = self._folders()
            for place, folder in enumerate(folders):
                if place == 1:  # the first may have been enough
                    beside = [
                        processes.enter_context(self._found_beside(folders[first::PROCESSES]))
                        for first in range(1, min(PROCESSES, len(folders)))
                    ]
                turn = place % PROCESSES
                found = next(beside[turn - 1], None) if turn else None
                if found is None:
                    yield from self._lines_in(self._wanted(folder))
                else:
                    hits, logs, unreadable, problem = found
                    self.logs += logs - len(hits)
                    self.unreadable += unreadable
                    self.problem = problem or self.problem
                    yield from self._lines_in(hits)

    def _lines_in(
        self, logs: Iterable[LogFile], *, is_first_enough: bool = False
    ) -> Iterator[tuple[LogFile, list[tuple[int, bytes]]]]:
        for log, data in read_small_logs(logs):
            self.logs += 1
            try:
                for lines in self._lines_of(log, data):
                    yield log, lines
                    if is_first_enough:
                        break
            except OSError as error:
                self.unreadable += 1
                self.problem = f"{log.path}: {error.strerror}"

    def _lines_of(self, log: LogFile, data: bytes | OSError | None) -> Iterable[list[tuple[int, bytes]]]:
        if isinstance(data, OSError):
            raise data
        if data is None:
            return lines_with(LogReader.at(log.path), self.needle)
        lines = found_lines(data, self.needle)
        return [lines] if lines else []

    def _folders(self) -> list[Path]:
        """Return the folders with logs, that of the newest jobs first."""
        try:
            names = [name for name in os.listdir(self._folder) if name.isdecimal()]  # noqa: PTH208 - names only
        except FileNotFoundError:
            return []
        except PermissionError as error:
            raise Refused(
                f"you may not read the logs in {self._folder}: search them on the page (`bgctl dashboard`)"
            ) from error
        return [self._folder / name for name in sorted(names, key=int, reverse=True)]

    def _wanted(self, folder: Path) -> list[LogFile]:
        """Return the logs of a folder to search, newest first."""
        found: list[tuple[int, int, str, bool]] = []
        for name, has_parts in logs_in(folder).items():
            job, _, rest = name.partition(".")
            attempt = rest.removesuffix(".log")
            if job.isdecimal() and attempt.isdecimal() and (self._jobs is None or int(job) in self._jobs):
                found.append((int(job), int(attempt), f"{folder}/{name}", has_parts))
        return [LogFile(*log) for log in sorted(found, reverse=True)]

    # --- in another process ---------------------------------------------------------------------------

    @contextmanager
    def _found_beside(self, folders: list[Path]) -> Generator[Iterator[_Found], None, None]:
        """Search folders in another process; yield its results for each, fewer if it dies."""
        reader, writer = os.pipe2(os.O_CLOEXEC)
        try:
            child = os.fork()
        except OSError:  # the user has too many processes: this one searches all
            os.close(reader)
            os.close(writer)
            yield iter(())
            return
        if not child:
            try:
                os.nice(_NICE)
                with os.fdopen(writer, "wb", buffering=0) as pipe:
                    pipe.writelines(msgspec.json.encode(self._found_in(each)) + b"\n" for each in folders)
            finally:
                os._exit(0)  # nothing of the parent is for it to clean up
        os.close(writer)
        try:
            with os.fdopen(reader, "rb") as pipe:
                yield (
                    msgspec.json.decode(line, type=_Found)
                    for line in iter(pipe.readline, b"")
                    if line.endswith(b"\n")
                )
        finally:
            os.kill(child, SIGKILL)
            os.waitpid(child, 0)

    def _found_in(self, folder: Path) -> _Found:
        search = _Search(str(self._folder), self.needle, self._jobs)
        logs = self._wanted(folder)
        hits = [log for log, _ in search._lines_in(logs, is_first_enough=True)]
        return hits, search.logs, search.unreadable, search.problem
