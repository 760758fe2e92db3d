"""The caller: what a command inherits from the process that submits it."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path

from bgd.errors import Refused
from bgd.escape import one_line

# They speak to this very process: about its service manager, its sockets, its journal and its own job
_PRIVATE_NAMES = frozenset({"NOTIFY_SOCKET", "MAINPID", "INVOCATION_ID", "JOURNAL_STREAM"})
_PRIVATE_PREFIXES = ("LISTEN_", "WATCHDOG_")
_OWN_PREFIX = "BGD_"


class Caller:
    """This process as it is now; each thing is looked at once, when it is first asked for."""

    @cached_property
    def environment(self) -> dict[str, str]:
        """What a command gets unless told otherwise: all but what was meant for the caller alone.

        Warns about variables that are not UTF-8: they are not passed on.
        """
        if names := unspeakable_names():
            warnings.warn(f"not passed on, being no UTF-8: {', '.join(names)}", stacklevel=2)
        return {
            name: value
            for name, value in _texts().items()
            if not name.startswith(_OWN_PREFIX) and _is_text(name) and _is_text(value)
        }

    def chosen_environment(self, wanted: str | Iterable[str]) -> dict[str, str]:
        """Return the part `wanted` of the environment: "all", "none" or names."""
        if wanted == "all":
            return self.environment
        if wanted == "none":
            return {}
        names = {wanted} if isinstance(wanted, str) else set(wanted)
        return {name: value for name, value in self.environment.items() if name in names}

    @property
    def folder_text(self) -> str:
        """The working directory as `system_text`."""
        return system_text(str(self.folder))

    @cached_property
    def folder(self) -> Path:
        """The working directory.

        Raises:
            Refused: it no longer exists.
        """
        try:
            return Path.cwd()
        except OSError as error:
            problem = "is gone" if isinstance(error, FileNotFoundError) else f"has no path: {error.strerror}"
            raise Refused(
                f"the working directory {problem}: name another with --cwd DIR (cwd=...)"
            ) from error

    @cached_property
    def umask(self) -> int:
        # os.umask() would have to set it to tell it, under the feet of other threads
        for line in Path("/proc/self/status").read_bytes().splitlines():
            if line.startswith(b"Umask:"):
                return int(line.split()[1], 8)
        raise Refused("/proc/self/status does not tell the umask: that takes Linux 4.7 or newer")


def public_environment() -> dict[str, str]:
    """Return this process's environment without what its service manager said to it alone."""
    return {
        name: value
        for name, value in os.environ.items()
        if name not in _PRIVATE_NAMES and not name.startswith(_PRIVATE_PREFIXES)
    }


def _texts() -> dict[str, str]:
    return {system_text(name): system_text(value) for name, value in public_environment().items()}


def unspeakable_names() -> list[str]:
    """Return the names of variables that no command gets, being no UTF-8, in a form that can be shown."""
    return [
        one_line(name.encode("utf-8", "backslashreplace").decode())
        for name, value in _texts().items()
        if not (_is_text(name) and _is_text(value))
    ]


def system_text(text: str) -> str:
    """Return a word, a path or a variable as the UTF-8 text that has the bytes this process means by it.

    Where these are no UTF-8 it has lone surrogates, as Python's own text for the system, and cannot be sent.

    Raises:
        Refused: the encoding of this process has no bytes for it.
    """
    if text.isascii() or sys.getfilesystemencoding() == "utf-8":
        return text
    try:
        return os.fsencode(text).decode("utf-8", "surrogateescape")
    except UnicodeEncodeError as error:
        raise Refused(f"{text!r} has no bytes in the encoding of this process, {error.encoding}") from error


def _is_text(text: str) -> bool:
    """Tell whether bytes of the system were UTF-8: others stand in Python's text as lone surrogates."""
    return text.isascii() or not any("\ud800" <= character <= "\udfff" for character in text)
