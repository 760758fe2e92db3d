"""The walls between the rooms: syntax trees show who imports whom, and who does what only some may."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

import pytest

import bgd

ROOT = Path(__file__).parents[1]
SOURCES = sorted(path.relative_to(ROOT) for room in ("bgd", "bgctl") for path in (ROOT / room).rglob("*.py"))
TESTS = sorted(path.relative_to(ROOT) for path in (ROOT / "tests").rglob("*.py"))

STANDARD = " ".join(sys.stdlib_module_names)
# Modules of the standard library that deal in values only, not in the machine, the time or chance
PURE = (
    "__future__ collections dataclasses enum functools heapq itertools json keyword math operator re typing"
)
CONFIGURATION = (
    "bgd.settings.config bgd.settings.paths bgd.settings.sources bgd.settings.values bgd.text.units"
)
VERSION = "bgd bgd.__version__"

WORKER_MODULES = sorted(path.stem for path in (ROOT / "bgd/worker").glob("*.py"))

# What each room may import. A name includes everything below it, except `bgd`, which is the package alone.
# If a module is in several rooms, the innermost counts.
ROOMS = {
    "bgd/core": f"{PURE} msgspec bgd.core",
    "bgd/core/schedule_spec.py": f"{PURE} msgspec bgd.core bgd.text.units",
    "bgd/core/spec.py": f"{PURE} msgspec bgd.text.units",  # how people write the values of options
    # datetime for dates and zones that they are given; nothing asks it for the time
    "bgd/core/batches.py": f"{PURE} bisect msgspec bgd.core",
    "bgd/core/pattern.py": f"{PURE} bisect calendar datetime msgspec",
    "bgd/core/cron.py": f"{PURE} hashlib msgspec bgd.core",
    "bgd/core/when.py": f"{PURE} datetime oncalendar msgspec bgd.core bgd.text.units",
    "bgd/core/filters.py": f"{PURE} signal.NSIG signal.Signals msgspec bgd.core bgd.errors.nearest"
    " bgd.text.units",
    "bgd/core/describe.py": f"{PURE} msgspec bgd.core bgd.text.units",
    "bgd/core/occurrences.py": f"{PURE} bisect datetime msgspec bgd.core",
    "bgd/core/schedules.py": f"{PURE} datetime msgspec bgd.core",
    "bgd/core/notifications.py": f"{PURE} datetime msgspec bgd.core",
    "bgd/wire": f"{PURE} msgspec bgd.core bgd.errors bgd.wire",
    "bgd/wire/schedules.py": f"{PURE} hashlib msgspec bgd.core bgd.wire",
    "bgd/wire/http.py": f"{PURE} http.HTTPStatus h11 msgspec bgd.errors",
    "bgd/daemon/web": f"{STANDARD} {VERSION} jinja2 markupsafe msgspec {CONFIGURATION} bgd.system.clock"
    " bgd.core"
    " bgd.daemon bgd.errors bgd.text.escape bgd.text.facts bgd.text.brief bgd.text.formatting bgd.logs.files"
    " bgd.logs.search bgd.settings.startup bgd.text.terminal bgd.system.timezones bgd.wire",
    "bgd/daemon/web/metrics.py": f"{STANDARD} prometheus_client {VERSION} bgd.core bgd.daemon",
    # a message is for people, as pages are
    "bgd/daemon/storage/notifications.py": f"{STANDARD} msgspec bgd.core bgd.daemon bgd.wire"
    " bgd.text.brief bgd.text.formatting.command_line",
    # a job that follows another is told in words why that one failed
    "bgd/daemon/followups.py": f"{STANDARD} msgspec {CONFIGURATION} bgd.core bgd.daemon bgd.errors"
    " bgd.text.brief bgd.text.formatting.outcome_in_words bgd.wire.views.JobView",
    "bgd/daemon": f"{STANDARD} aiosqlite msgspec uvloop {VERSION} {CONFIGURATION} bgd.system.clock bgd.core"
    " bgd.system.timezones bgd.daemon bgd.errors bgd.text.escape bgd.system.frames bgd.logs.files"
    " bgd.system.mounts"
    " bgd.text.brief.BATCH_COUNTS bgd.settings.startup bgd.system.systemd bgd.wire"
    " bgd.launcher.journal.read bgd.worker.WORKER",
    "bgd/launcher": f"{STANDARD} msgspec {VERSION} bgd.system.clock bgd.core.job bgd.core.spec"
    " bgd.core.explain.Cause bgd.core.explain.Reason"
    " bgd.errors bgd.system.frames bgd.launcher bgd.system.mounts bgd.settings.paths bgd.settings.startup"
    " bgd.system.streams"
    " bgd.system.systemd bgd.text.units bgd.wire bgd.worker.NODE",
    # it runs in interpreters that have nothing else, where its package has another name
    "bgd/worker": f"{STANDARD} bgd_worker bgd.worker {' '.join(f'.{name}' for name in WORKER_MODULES)}",
    "bgd/worker/stopping.py": f"{STANDARD} bgd_job",  # raises what a job may catch
    "bgd/worker/job.py": f"{STANDARD} .callables .process .stopping bgd_job",  # what surrounds a job gets one
    "bgd/inside": f"{STANDARD} ._reporter ._steps ._wire .Fail .Job .StepMismatch .current",
    "bgd/inside/bgd_job/__init__.py": (
        f"{STANDARD} ._reporter ._steps bgd.client.background bgd.client.blocking.batches"
    ),
    "bgd/__init__.py": f"{STANDARD} bgd.client bgd.core.job bgd.core.spec bgd.errors bgd.jobfunction",
    # a worker imports it for each job, so what it calls is imported late
    "bgd/jobfunction.py": f"{STANDARD} bgd.client bgd.core.schedule_spec.ScheduleSpec bgd.core.spec.JobSpec",
    "bgd/executor.py": f"{STANDARD} bgd.client bgd.core.job bgd.core.spec bgd.errors bgd.jobfunction",
    # the one module that imports Django, where that is installed
    "bgd/django.py": f"{STANDARD} django django_tasks bgd_job bgd.client bgd.core.job bgd.errors"
    " bgd.wire.class_jobs bgd.wire.views",
    # it stands in for daemon and worker, and checks and runs jobs with their code
    "bgd/testing": f"{STANDARD} msgspec {CONFIGURATION} bgd.client bgd.core bgd.daemon.access bgd.errors"
    " bgd.jobfunction bgd.testing bgd.wire bgd.worker bgd_job",
    "bgd/testing/pytest.py": f"{STANDARD} pytest bgd.testing",
    "bgd/__main__.py": f"{STANDARD} msgspec uvloop {VERSION} {CONFIGURATION} bgd.system.clock bgd.core"
    " bgd.daemon"
    " bgd.client bgd.errors bgd.text.escape bgd.settings.startup bgd.system.streams bgd.system.systemd",
    "bgd/delivery.py": f"{STANDARD} msgspec {VERSION} {CONFIGURATION} bgd.core.notifications bgd.errors"
    " bgd.text.escape bgd.text.facts bgd.text.brief bgd.text.formatting bgd.logs.files bgd.system.streams",
    "bgd/errors.py": f"{PURE} difflib bgd.text.escape",
    "bgd/system/streams.py": STANDARD,
    "bgd/logs/files.py": f"{STANDARD} msgspec bgd.text.escape bgd.text.terminal bgd.wire.launching.log_name",
    "bgd/logs/search.py": f"{STANDARD} msgspec bgd.text.escape bgd.logs.files bgd.text.terminal",
    "bgd/system/mounts.py": f"{STANDARD} bgd.wire.launching.Launch",
    "bgd/system/systemd.py": STANDARD,
    "bgd/settings/startup.py": f"{STANDARD} msgspec bgd.system.clock bgd.errors"
    " bgd.settings.paths.AUTOSTART_LOG bgd.text.units",
    "bgd/system/clock.py": f"{STANDARD} bgd.core.job",
    "bgd/system/frames.py": f"{STANDARD} bgd.wire.framing",
    "bgd/text/escape.py": STANDARD,
    "bgd/text/brief.py": f"{STANDARD} bgd.core.spec.JobSpec bgd.text.escape bgd.wire.views",
    "bgd/text/terminal.py": f"{STANDARD} bgd.text.escape",
    "bgd/text/facts.py": f"{STANDARD} msgspec bgd.core.notifications bgd.text.brief bgd.text.formatting"
    " bgd.text.units bgd.wire.views",
    "bgd/text/formatting.py": f"{STANDARD} msgspec bgd.text.brief bgd.core.explain bgd.core.job.Outcome"
    " bgd.core.job.State bgd.core.job.WAITING bgd.core.spec bgd.text.escape"
    " bgd.text.units bgd.wire.views",
    "bgd/text/units.py": f"{STANDARD} msgspec bgd.errors",
    "bgd/settings": f"{STANDARD} msgspec {CONFIGURATION} bgd.core bgd.errors bgd.system.timezones"
    " bgd.wire.requests.ShutdownMode",
    **dict.fromkeys(("bgd/logs", "bgd/system", "bgd/text"), ""),  # each module is its own room
    "bgd/system/timezones.py": STANDARD,
    "bgd/client": f"{STANDARD} msgspec {VERSION} {CONFIGURATION} bgd.client bgd.core bgd.errors"
    " bgd.text.brief.BATCH_COUNTS bgd.text.escape bgd.text.terminal bgd.wire"
    " typing_extensions.TypeVar",  # for types only: type checkers bring it along
    "bgd/client/mapping.py": f"{STANDARD} msgspec bgd.client bgd.core bgd.errors bgd.jobfunction bgd.wire",
    "bgd/client/bar.py": f"{STANDARD} rich bgd.core",
    "bgctl/plain.py": f"{STANDARD} msgspec bgctl bgd.text.brief.GROUPS bgd.client.inherited"
    " bgd.core.explain.Explanation bgd.core.explain.Reason",
    "bgctl/plain_wire.py": f"{STANDARD} {VERSION} bgd.client.inherited",
    "bgctl/explaining.py": f"{STANDARD} bgctl bgd.text.brief.command_line bgd.core.explain bgd.text.escape"
    " bgd.wire.views.JobView",
    "bgctl/columns.py": f"{STANDARD} bgd.text.brief bgd.text.escape bgd.wire.views.JobView",
    "bgctl/schedules.py": f"{STANDARD} click msgspec bgctl bgd.Client bgd.Refused bgd.client.programs"
    " bgd.core.schedule_spec bgd.core.spec bgd.text.brief bgd.text.formatting bgd.system.timezones"
    " bgd.text.units"
    " bgd.wire.schedules",
    "bgctl/crontab.py": f"{STANDARD} msgspec bgd.core.cron bgd.core.when bgd.errors bgd.text.escape",
    "bgctl/arguments.py": f"{STANDARD} msgspec bgctl.common bgd.BgdError bgd.errors bgd.Client"
    " bgd.settings.config"
    " bgd.core.target",
    # the one module that imports the SDK of the Model Context Protocol, where that is installed
    "bgctl/agents/mcp.py": f"{STANDARD} {VERSION} anyio mcp msgspec bgctl bgd.client bgd.errors",
    "bgctl/agents/tools.py": f"{STANDARD} anyio msgspec bgctl bgd.AsyncClient bgd.BgdError bgd.NoSuchJob"
    " bgd.Refused bgd.text.brief bgd.client.programs bgd.core.filters bgd.core.retry.exit_code_of bgd.errors"
    " bgd.text.escape bgd.text.formatting bgd.text.terminal bgd.text.units bgd.wire.replies bgd.wire.views",
    "bgctl/waiting.py": f"{STANDARD} click rich bgctl bgd.Client bgd.Job bgd.errors bgd.text.escape"
    " bgd.text.brief"
    " bgd.text.formatting bgd.logs.search bgd.text.units bgd.wire.replies bgd.wire.requests bgd.wire.views",
    # it reads logs itself, so that the daemon serves others meanwhile
    "bgctl/searching.py": f"{STANDARD} click msgspec bgctl bgd.Client bgd.Refused bgd.State"
    " bgd.text.escape bgd.text.brief bgd.text.formatting bgd.logs.files bgd.logs.search",
    "bgctl/showing.py": f"{STANDARD} click bgctl {' '.join(f'bgd.{name}' for name in bgd.__all__)}"
    " bgd.core.explain bgd.core.job.WAITING bgd.text.escape bgd.text.facts bgd.text.brief"
    " bgd.text.formatting bgd.wire.views",
    # it types past the daemon, into the terminal itself
    "bgctl/session.py": f"{STANDARD} bgctl bgd.AsyncClient bgd.ProtocolError bgd.Refused"
    " bgd.client.keyboard bgd.text.escape bgd.wire.keyboard",
    "bgctl/terminal.py": f"{STANDARD} bgd.text.escape bgd.text.terminal",
    "bgctl": f"{STANDARD} click msgspec rich bgctl {' '.join(f'bgd.{name}' for name in bgd.__all__)}"
    f" {VERSION} {CONFIGURATION} bgd.client bgd.core.filters bgd.core.retry.exit_code_of bgd.core.spec"
    " bgd.core.job.CANCELLED_BEFORE_START bgd.core.job.VERBS bgd.errors bgd.text.escape bgd.text.brief"
    " bgd.text.formatting"
    " bgd.system.streams bgd.wire.replies bgd.wire.requests bgd.wire.views bgd.wire.launching.NotStarted",
}

MOST_LOOSE = 8  # modules at the top of bgd: a newcomer reads their names first
TASK_GROUPS = {"group", "tasks", "_group", "_tasks"}  # the names of variables that hold one
# to the Scheduler
QUESTIONS = {
    "counts",
    "holder_of",
    "kept_keys",
    "running",
    "some_dependents_of",
    "taken",
    "waits",
    "with_holders",
}
HOLDERS_OF_THE_SCHEDULER = {Path("bgd/core/scheduler.py"), Path("bgd/daemon/supervisor.py")}


def test_every_room_imports_only_what_it_may():
    allowed = {room: names.split() for room, names in ROOMS.items()}

    strangers = {
        f"{path} may not import {name}"
        for path in SOURCES
        for name in imports_of(tree_of(path))
        if not is_within(name, allowed[room_of(path)])
    }

    assert not strangers


def test_nobody_but_the_supervisor_holds_the_scheduler():
    holders = {
        path
        for path in SOURCES
        if any("Scheduler" in names_in(node) for node in run_time_nodes(tree_of(path)))
    }

    assert holders <= HOLDERS_OF_THE_SCHEDULER


def test_others_only_ask_the_scheduler_what_changes_nothing():
    asked = {
        (path, node.attr)
        for path in set(SOURCES) - HOLDERS_OF_THE_SCHEDULER
        for node in run_time_nodes(tree_of(path))
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Attribute)
        and node.value.attr == "scheduler"
    }

    assert not {(path, name) for path, name in asked if name not in QUESTIONS}


def test_only_one_function_changes_a_state():
    changes = [
        (path, *function)
        for path in SOURCES
        for function, call in calls_by_function(tree_of(path))
        if last_name(call.func) == "replace" and any(keyword.arg == "state" for keyword in call.keywords)
    ]

    assert changes == [(Path("bgd/core/scheduler.py"), "Scheduler", "_move")]


def test_only_one_function_makes_the_end_of_an_attempt():
    makers = [
        path for path in SOURCES for call in calls_in(tree_of(path)) if last_name(call.func) == "AttemptEnded"
    ]

    assert makers == [Path("bgd/launcher/attempt.py")]


def test_only_the_supervisor_commits_jobs():
    """All others write what concerns the whole database, such as its clock, or what readers did with ends."""
    writes = {
        (path.name, last_name(what))
        for path in SOURCES
        for call in calls_in(tree_of(path))
        # store.write(what, ...), or partial(store.write, what, ...)
        for function, what in pairwise([call.func, *call.args])
        if last_name(function) in {"write", "commit"} and owner_of(function) in {"store", "_store"}
    }

    assert writes == {
        ("supervisor.py", "transaction"),
        ("supervisor.py", "adopt_boot"),
        ("supervisor.py", "remove_mark"),
        ("supervisor.py", "note_held"),
        ("serving.py", "begin_generation"),
        ("serving.py", "mark_as_outdated"),
        ("serving.py", "reserve_ids"),
        ("serving.py", "write_copy"),
        ("launching.py", "begin_generation"),
        ("retention.py", "save_retention_clock"),
        ("retention.py", "delete_old"),
        ("inboxes.py", "mark_handed_out"),
        ("inboxes.py", "acknowledge"),
    }


def test_every_task_belongs_to_a_group():
    bare = [
        f"{path}: {ast.unparse(call)}"
        for path in SOURCES
        for call in calls_in(tree_of(path))
        if last_name(call.func) in {"create_task", "ensure_future"} and owner_of(call.func) not in TASK_GROUPS
    ]

    assert not bare, f"call the create_task of a TaskGroup, named one of {TASK_GROUPS}"


def test_nothing_calls_time_sleep():
    # most of them have no such word; parsing takes a hundred times as long
    suspects = [path for path in SOURCES + TESTS if "sleep" in (ROOT / path).read_text()]

    sleepers = [
        f"{path}: {ast.unparse(call)}"
        for path in suspects
        for call in calls_in(tree_of(path))
        if (owner_of(call.func), last_name(call.func)) == ("time", "sleep")
    ]

    assert not sleepers
    assert not [path for path in suspects if "time.sleep" in imports_of(tree_of(path))]


def test_no_files_import_each_other_in_a_circle():
    modules = {module_of(path): imported_at_start(tree_of(path), path) for path in SOURCES}
    left = {name: {each for each in wanted if each in modules} for name, wanted in modules.items()}
    while ready := [name for name, wanted in left.items() if not wanted]:
        left = {name: wanted - set(ready) for name, wanted in left.items() if name not in ready}

    assert not left, f"these import each other: {sorted(left)}"


def test_few_modules_lie_outside_the_rooms():
    assert len([path for path in SOURCES if path.parent == Path("bgd")]) <= MOST_LOOSE


def test_public_names_are_a_short_list():
    assert bgd.__all__ == [
        "PREVIOUS",
        "AsyncClient",
        "AsyncJob",
        "BgdError",
        "Client",
        "ConfigError",
        "DaemonUnreachable",
        "Job",
        "JobFailed",
        "JobFunction",
        "JobSpec",
        "NoSuchJob",
        "NotAllowed",
        "Outcome",
        "ProtocolError",
        "Refused",
        "State",
        "__version__",
        "job",
        "run_background_job",
        "using",
    ]


def test_public_names_exist():
    assert [name for name in bgd.__all__ if getattr(bgd, name, None) is None] == []


def test_other_names_do_not_exist():
    with pytest.raises(AttributeError, match="has no attribute 'Scheduler'"):
        _ = bgd.Scheduler


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("import os.path", {"os.path"}),
        ("from bgd.core import scheduler", {"bgd.core.scheduler"}),
        ("from bgd import __version__", {"bgd.__version__"}),
        ("def f():\n    import socket", {"socket"}),
        ("from . import store", {".store"}),
        ("from ..core.job import State", {"..core.job.State"}),
    ],
)
def test_imports_are_found_everywhere(source, names):
    assert set(imports_of(ast.parse(source))) == names


@pytest.mark.parametrize(
    ("source", "is_found"),
    [
        ("from bgd.core.scheduler import Scheduler", True),
        ("from bgd.core import scheduler\nscheduler.Scheduler", True),
        ("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from x import Scheduler", False),
        ("from bgd.core.scheduler import Save", False),
    ],
)
def test_a_name_is_found_unless_it_is_for_types_only(source, is_found):
    assert any("Scheduler" in names_in(node) for node in run_time_nodes(ast.parse(source))) is is_found


# --- reading the trees ---------------------------------------------------------------------------------


@lru_cache(1000)  # all files
def tree_of(path: Path) -> ast.Module:
    return ast.parse((ROOT / path).read_text(), filename=str(path))


def room_of(path: Path) -> str:
    rooms = [room for room in ROOMS if path.is_relative_to(room)]
    assert rooms, f"{path} belongs to no room: say in ROOMS what it may import"
    return max(rooms, key=len)


def imports_of(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (f"{node.module}." if node.module else "")
            yield from (f"{module}{alias.name}" for alias in node.names)


def module_of(path: Path) -> str:
    return ".".join(path.with_suffix("").parts).removesuffix(".__init__")


def imported_at_start(tree: ast.Module, path: Path) -> set[str]:
    """Return what is imported before any function is called: modules, and names that may be modules."""
    package = path.parent.parts
    found: set[str] = set()
    for node in tree.body:
        if isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*above, *([node.module] if node.module else [])])
            found |= {module, *(f"{module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found - {module_of(path)}


def is_within(name: str, allowed: list[str]) -> bool:
    parts = name.split(".")
    above = {".".join(parts[:count]) for count in range(1, len(parts))}
    return name in allowed or not (above - {"bgd"}).isdisjoint(allowed)


def run_time_nodes(node: ast.AST) -> Iterator[ast.AST]:
    yield node
    for child in ast.iter_child_nodes(node):
        if not (isinstance(child, ast.If) and last_name(child.test) == "TYPE_CHECKING"):
            yield from run_time_nodes(child)


def names_in(node: ast.AST) -> set[str]:
    if isinstance(node, ast.ImportFrom):
        return {alias.name for alias in node.names}
    return {last_name(node)}


def calls_in(tree: ast.Module) -> Iterator[ast.Call]:
    yield from (node for node in ast.walk(tree) if isinstance(node, ast.Call))


def calls_by_function(
    node: ast.AST, inside: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], ast.Call]]:
    """Yield each call with the names of the classes and functions around it, outermost first."""
    if isinstance(node, ast.Call):
        yield inside, node
    if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        inside = (*inside, node.name)
    for child in ast.iter_child_nodes(node):
        yield from calls_by_function(child, inside)


def last_name(node: ast.AST) -> str:
    """Return `c` for `a.b.c` and for `c`, and "" for anything else."""
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


def owner_of(node: ast.expr) -> str:
    """Return `b` for `a.b.c` and for `b.c`, and "" for anything else."""
    return last_name(node.value) if isinstance(node, ast.Attribute) else ""
