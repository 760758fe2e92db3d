"""Explain in one line why a program could not be started."""

from __future__ import annotations

import errno
import os
import resource
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from bgd.settings.paths import find_program
from bgd.settings.startup import described
from bgd.wire.launching import Launch, NotStarted

# not the job's fault, and temporary: no descriptors, processes, memory or disk space left
SHORTAGES = frozenset({errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.ENOSPC, errno.EDQUOT})


class CannotStart(Exception):
    """The attempt cannot start; the message is the `problem` of its end.

    `log_text`: more about it, for the attempt's log.
    """

    log_text = b""


@contextmanager
def explained(explain: Callable[[OSError | ValueError], str]) -> Iterator[None]:
    """Raise CannotStart for an error in the block, unless it is a shortage of the machine.

    A ValueError is about a NUL, text that cannot be encoded, or a variable named with "=".

    Raises:
        OSError: one of SHORTAGES; may be tried again.
    """
    try:
        yield
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno in SHORTAGES:
            raise
        raise CannotStart(explain(error)) from error


def reason_of(error: OSError | ValueError) -> str:
    """Return what an error says, without its number and path."""
    return str(error.strerror if isinstance(error, OSError) else error)


def shortage(error: OSError, folders: Iterable[str]) -> str:
    """Return what the machine lacks, in words; `folders`: folders that are written to."""
    match error.errno:
        case errno.EAGAIN:
            return "no more processes are allowed (a limit of the user or of bgd's control group)"
        case errno.EMFILE:
            return described(error)
        case errno.ENFILE:
            return "too many files are open on this machine"
        case errno.ENOSPC:
            disks = {folder: os.statvfs(folder) for folder in folders if Path(folder).exists()}
            without = [folder for folder, disk in disks.items() if disk.f_files and not disk.f_favail]
            return f"the disk of {without[0]} has no inodes left" if without else "the disk is full"
        case _:
            return error.strerror or str(error)


def why_not_started(launch: Launch, error: OSError | ValueError) -> str:
    """Return the `problem` of an attempt whose spawn failed with `error`.

    The kernel's error does not distinguish a missing program from a missing folder or interpreter. So this
    checks the files, from the outside in.
    """
    try:
        kind, details = _problem(launch, error)
    except OSError:  # the files changed meanwhile: use the kernel's error
        kind, details = NotStarted.OTHER, f"{launch.argv[0]}: {error}"
    return one_line(kind, details)


def no_input_problem(path: str, reason: str) -> str:
    """Return the `problem` of an attempt whose standard input cannot be read."""
    return one_line(NotStarted.NO_INPUT, f"{path}: {reason}")


def one_line(kind: NotStarted, details: str) -> str:
    """Return a problem of this kind on one line, whatever the details contain."""
    return printable(f"{kind}: {details}")


def printable(text: str) -> str:
    """Return foreign text on one line: names may contain anything, line breaks too."""
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)


def _problem(launch: Launch, error: OSError | ValueError) -> tuple[NotStarted, str]:
    if not launch.argv or not launch.argv[0]:
        return NotStarted.NO_PROGRAM, "its name is empty"
    if isinstance(error, OSError) and error.errno == errno.E2BIG:
        return NotStarted.TOO_LONG, _length(launch)
    if isinstance(error, OSError) and error.errno in _ABOUT_FILES:
        return _problem_with_folder(launch.cwd) or _problem_with_program(launch, error)
    if isinstance(error, OSError):
        return NotStarted.OTHER, f"{error.filename or launch.argv[0]}: {error.strerror}"
    if isinstance(error, UnicodeEncodeError):
        return NotStarted.OTHER, f"text that no file system can hold: {error.object!r}"
    return NotStarted.OTHER, str(error)


def _problem_with_folder(cwd: str) -> tuple[NotStarted, str] | None:
    if not cwd:
        return NotStarted.NO_DIRECTORY, "its name is empty"
    try:
        mode = Path(cwd).stat().st_mode
    except PermissionError:
        return NotStarted.NOT_PERMITTED, f"directory {cwd}"
    except OSError as error:
        is_missing = error.errno == errno.ENOENT
        return NotStarted.NO_DIRECTORY, cwd if is_missing else f"{cwd}: {error.strerror}"
    if not stat.S_ISDIR(mode):
        return NotStarted.NOT_A_DIRECTORY, cwd
    if not os.access(cwd, os.X_OK):
        return NotStarted.NOT_PERMITTED, f"directory {cwd}"
    return None


def _problem_with_program(launch: Launch, error: OSError) -> tuple[NotStarted, str]:
    name = launch.argv[0]
    try:
        return _problem_with_file(find_program(name, launch.env, launch.cwd), error)
    except PermissionError as refused:
        if os.path.exists(refused.filename):  # noqa: PTH110  plain strings here
            return _problem_with_file(refused.filename, error)
        return NotStarted.NOT_PERMITTED, name if "/" in name else refused.filename
    except FileNotFoundError:
        return NotStarted.NO_PROGRAM, name if "/" in name else f"{name} is not on its PATH"


def _problem_with_file(path: str, error: OSError) -> tuple[NotStarted, str]:
    if Path(path).is_dir():
        return NotStarted.NOT_EXECUTABLE, f"{path} is a directory"
    if error.errno == errno.ENOEXEC:
        return (
            NotStarted.NOT_EXECUTABLE,
            f"{path} is not a program (a script begins with #! and its interpreter)",
        )
    if error.errno == errno.ENOENT:
        return NotStarted.NO_INTERPRETER, f"{path} asks for {_interpreter(path)}"
    if not os.access(path, os.X_OK):
        return NotStarted.NOT_EXECUTABLE, f"{path} (chmod +x makes it so)"
    return NotStarted.NOT_PERMITTED, f"{path}: {error.strerror}"


def _interpreter(path: str) -> str:
    try:
        with open(path, "rb") as file:  # noqa: PTH123  plain strings here
            first = file.readline(256)
    except OSError:
        return "an interpreter that does not exist"
    if not first.startswith(b"#!"):
        return "a loader that does not exist (it was built for another system)"
    words = first[2:].split()
    return f"{os.fsdecode(words[0])}, which does not exist" if words else "no interpreter"


def _length(launch: Launch) -> str:
    words = [os.fsencode(each) for each in launch.argv]
    words += [os.fsencode(f"{name}={value}") for name, value in launch.env.items()]
    longest = max(map(len, words))
    if longest > _LONGEST_WORD:
        return f"one word of {longest} bytes; the kernel's limit is {_LONGEST_WORD}"
    total = sum(len(word) + 1 + _POINTER for word in words)
    # the kernel allows a quarter of the stack limit, at most 6 MiB: fs/exec.c
    stack = resource.getrlimit(resource.RLIMIT_STACK)[0]
    limit = _MOST_WORDS if stack == resource.RLIM_INFINITY else min(stack // 4, _MOST_WORDS)
    return f"arguments and environment are {total} bytes; the kernel's limit is {limit}"


_ABOUT_FILES = {
    errno.ENOENT,
    errno.ENOTDIR,
    errno.EACCES,
    errno.EPERM,
    errno.ENOEXEC,
    errno.ELOOP,
    errno.ENAMETOOLONG,
}
_LONGEST_WORD = 131_071  # MAX_ARG_STRLEN of linux/binfmts.h, less the NUL
_MOST_WORDS = 6 << 20
_POINTER = 8  # bytes; the kernel counts one for each word
