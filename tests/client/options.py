"""Writes the types of the keywords and attributes of jobs, from the fields of JobSpec and JobView.

`make client` writes them; a test compares what is committed with what this would write.
"""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from pathlib import Path
from typing import Any

from bgd.core import spec
from bgd.core.spec import OPTIONS, JobSpec, kind_of, may_be_nil
from bgd.wire import views

TARGET = Path(__file__).parents[2] / "bgd/client/options.py"

# How a caller may write values of these types; of all others it is their base type
WRITTEN: dict[Any, str] = {
    spec.Duration: "Duration",
    spec.Environment: "Mapping[str, str]",
    spec.ExitCodes: "Sequence[int] | str",
    spec.FileBytes: "int | str",
    spec.FollowUp: "str | Sequence[str | os.PathLike[str]] | Callable[..., object]",
    spec.Folder: "str | os.PathLike[str]",
    spec.Instant: "float | str | datetime",
    spec.JobNumbers: "Sequence[JobReference]",
    spec.Limit: "str | tuple[str, int]",
    spec.MemoryBytes: "int | str",
    spec.Percent: "int | str",
    spec.Resources: "Mapping[str, int]",
    spec.RetryDelay: "Duration | Sequence[Duration]",
    spec.SlurmOptions: "Sequence[str]",
    spec.Tags: "Sequence[str]",
    spec.Timeout: "Duration",
}

# The types of attributes of a job that their base types do not tell
VIEWED: dict[Any, str] = {
    spec.FollowUp: "tuple[str, ...]",
    spec.Limit: "tuple[str, int]",
    spec.Resources: "dict[str, int]",
    spec.SlurmOptions: "tuple[str, ...]",
}

BEGINNING = '''"""The keywords and attributes of a job, for type checkers and editors."""

# Made by tests/client/options.py from the fields of JobSpec and JobView: `make client` writes it.

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Literal, Protocol, TypedDict

if TYPE_CHECKING:  # a job's module that uses bgd.job imports this one in each worker
    from datetime import datetime

    from bgd.core.explain import Reason
    from bgd.core.job import Outcome, State
    from bgd.core.spec import {kinds}
    from bgd.wire.views import Progress

Duration = float | str | timedelta
"""Seconds, a text such as "10s" or "1h30m", or a timedelta."""


class HasId(Protocol):
    """Anything with a job's id: a Job, an AsyncJob, a JobView."""

    @property
    def id(self) -> int: ...


JobReference = int | HasId
"""A job's id, or an object that has one."""


'''

FURTHER = '''
class EditableOptions(TypedDict, total=False):
    """Options that mean the same in JobOptions and in EditOptions."""

{common}


class FurtherOptions(EditableOptions, total=False):
    """Options of any job. The daemon's configuration decides what is left out.

    Sizes are bytes or texts such as "2GB". Times are texts such as "tomorrow 9:00", datetimes, or epoch
    seconds; without a time zone they are local.

    * `env_pass`: variables of the caller to pass on: "all" (default for commands), "none" (default for class
      jobs) or a list of names. `env` adds to them.
    * `shell`: argv is one string for /bin/sh.
    * `check`: refuse a command whose program, folder or input is missing here, and a call that cannot
      succeed. `submit_many` does not check programs.
{described}
    """

    env_pass: str | Sequence[str]
    shell: bool
    check: bool
{fields}


class JobOptions(FurtherOptions, total=False):
    """All options of a job. `run_background_job` has these three as parameters of its own."""

{first}


class MapOptions(JobOptions, total=False):
    """Options of the jobs of a map, and of the map itself. A `key` is refused.

    * `time_limit`: for each attempt; other jobs call this `timeout`.
    * `timeout`: for all results, counted from the first step. None: no limit.
    * `buffersize`: how many jobs may be queued whose results were not taken yet.
    * `progress`: draw a bar on stderr. None: only if stderr is a terminal.
    """

    time_limit: Duration | None
    buffersize: int
    progress: bool | None


class EditOptions(EditableOptions, total=False):
    """Options that can change while a job waits; they mean what they mean in JobOptions.

    An option that is left out stays as it is. None takes an option away. `delay` and `expires` count from
    now; `env` adds variables.
    """

    argv: Sequence[str | os.PathLike[str]]
{changes}


class JobAttributes:
    """The attributes of a job, which are those of a JobView."""

{attributes}
'''

# Parameters of their own where the others are keywords
FIRST = ("priority", "delay", "timeout")


def written(name: str) -> str:
    """Return the type of an option as callers write it, without None."""
    kind = kind_of(name)
    if kind in WRITTEN:
        return WRITTEN[kind]
    base = getattr(kind, "__origin__", kind)
    if hasattr(base, "__members__"):
        return f"Literal[{', '.join(repr(each.value) for each in base)}]"
    return "bytes | str" if base is bytes else str(base.__name__)


def viewed(name: str) -> str:
    """Return the type of an option as a JobView has it."""
    kind = kind_of(name)
    text = VIEWED.get(kind) or getattr(kind, "__origin__", kind).__name__
    return f"{text}{' | None' if getattr(JobSpec(), name) is None else ''}"


def options() -> str:
    """Return the text of the module."""
    usual = JobSpec()
    fields = {
        name: f"    {name}: {written(name)}{' | None' if getattr(usual, name) is None else ''}"
        for name in OPTIONS
    }
    changes = [
        f"    {name}: {written(name)}{' | None' if may_be_nil(name) else ''}"
        for name, option in OPTIONS.items()
        if option.can_edit
    ]
    common = [line for name, line in fields.items() if line in changes and name not in FIRST]
    attributes = [each for each in _annotations(views.JobFacts) if each[0] != "id"]
    attributes += [(name, viewed(name)) for name in views.OPTIONS_AS_ASKED]
    kinds = sorted({kind.partition(" ")[0] for _, kind in attributes} & set(vars(spec)))
    text = BEGINNING.format(kinds=", ".join(kinds)) + FURTHER.format(
        described="\n".join(f"    * `{name}`: {_lowered(option.help)}." for name, option in OPTIONS.items()),
        common="\n".join(common),
        fields="\n".join(line for name, line in fields.items() if line not in common and name not in FIRST),
        first="\n".join(fields[name] for name in FIRST),
        changes="\n".join(line for line in changes if line not in common),
        attributes="\n".join(f"    {name}: {kind}" for name, kind in attributes),
    )
    command = [sys.executable, "-m", "ruff", "format", "--quiet", f"--stdin-filename={TARGET}", "-"]
    return subprocess.run(command, input=text, capture_output=True, text=True, check=True).stdout


def _lowered(text: str) -> str:
    text = text.partition(", for example ")[0]  # examples are of the command line
    return text if text[1:2].isupper() else text[0].lower() + text[1:]  # CPU is a word of its own


def _annotations(kind: type) -> list[tuple[str, str]]:
    [definition] = ast.parse(inspect.getsource(kind)).body
    assert isinstance(definition, ast.ClassDef)
    return [
        (ast.unparse(line.target), ast.unparse(line.annotation))
        for line in definition.body
        if isinstance(line, ast.AnnAssign)
    ]


def main() -> None:
    """Write the module."""
    TARGET.write_text(options())


if __name__ == "__main__":
    main()
