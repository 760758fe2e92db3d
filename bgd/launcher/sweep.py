"""The sweep (R5): a new launcher ends what its dead predecessor's attempts left, before it answers anyone."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Collection

from bgd.clock import elapsed
from bgd.core.job import Outcome
from bgd.launcher.cgroup import Group
from bgd.launcher.journal import boot_of
from bgd.launcher.ladder import Ladder
from bgd.launcher.logfile import bytes_logged
from bgd.launcher.look import Look
from bgd.launcher.records import Recollection, Trace
from bgd.launcher.rendezvous import Busy, is_launcher
from bgd.launcher.tools import Tools
from bgd.launcher.tree import Tree, key_of
from bgd.wire.launching import Ended, Key, log_name

log = logging.getLogger(__name__)


async def sweep(left: Recollection, tools: Tools) -> list[Ended]:
    """Return every end that is still to be told, those the predecessor saw and those nobody saw."""
    ends = [trace.finished.ended for trace in left.traces.values() if trace.finished]
    unfinished = {key: trace for key, trace in left.traces.items() if not trace.finished}
    # a journal too damaged to name its boot leaves only marks to go by: pids and pipes may be others' by now
    has_boot = left.instance is not None
    is_same_boot = left.instance is None or boot_of(left.instance.id) == boot_of(tools.journal.instance.id)
    if unfinished and is_same_boot:
        log.warning("ending what a launcher left that died: %d attempts", len(unfinished))
        async with asyncio.TaskGroup() as group:
            for key, trace in unfinished.items():
                tree = _tree_of(key, trace) if has_boot else _marked_tree(key)
                if tree is not None:
                    group.create_task(_end(tree, tools))
    if is_same_boot and left.instance is not None and left.instance.groups is not None:
        Group(left.instance.groups).remove()
    for key, trace in unfinished.items():
        ended = _unseen(key, trace, tools.logs, is_same_boot=is_same_boot)
        tools.journal.finish(ended, durable=False)
        ends.append(ended)
    tools.journal.sync()
    return ends


async def end_strays(store: str, tools: Tools) -> None:
    """End all that carries a mark of this store; to be called before anything of it was started here.

    For after a journal that was lost or damaged: nothing else tells what its launcher had started.

    Raises:
        Busy: that launcher lives, as where this database is a copy of one in use.
    """
    look = await tools.looker.look(0)
    marked = {pid: key for pid, each in look.marks.items() if (key := key_of(each)) and key.store == store}
    launcher = next((each for each in _above(marked, look) if is_launcher(each)), None)
    if launcher is not None:
        raise Busy(
            f"process {launcher}, another launcher, runs jobs of this database: it is a copy of one in use. "
            "Jobs start here once those have ended"
        )
    if marked:
        keys = set(marked.values())
        log.warning("ending what no journal tells of: %d attempts", len(keys))
        async with asyncio.TaskGroup() as group:
            for key in keys:
                group.create_task(_end(_marked_tree(key), tools))
    try:
        tools.journal.end_search()
    except OSError as error:  # the next launcher will look once more
        log.warning("the journal cannot take that nothing is left: %s", error.strerror)


def _above(marked: Collection[int], look: Look) -> set[int]:
    """Return all that these processes descend from, without themselves."""
    above: set[int] = set()
    for pid in marked:
        process = look.processes.get(pid)
        while process is not None and process.parent not in above:
            above.add(process.parent)
            process = look.processes.get(process.parent)
    return above - set(marked)


async def _end(tree: Tree, tools: Tools) -> None:
    """Kill a tree at once: its output has nowhere to go, and its end can no longer be seen."""
    try:
        await Ladder(tree, tools.looker, tools.deadlines, grace=0.0).bring_down()
    except Exception:  # one job's trouble must not keep the launcher from all others
        log.exception("job %d: not all of its processes could be ended", tree.key.job)
        tree.kill_unseen()


def _marked_tree(key: Key) -> Tree:
    return Tree(key, channel=None, since=0.0, pid=None)


def _tree_of(key: Key, trace: Trace) -> Tree | None:
    began, first = trace.began, trace.first_process
    if began is None:
        return None
    pid, ticks = (first.pid, first.ticks) if first else (None, None)
    group = None if began.group is None else Group(began.group)
    return Tree(key, began.pipe, began.since, pid, ticks, stamp=began.stamp, group=group)


def _unseen(key: Key, trace: Trace, logs: str, *, is_same_boot: bool) -> Ended:
    return Ended(
        key=key,
        outcome=Outcome.UNKNOWN if is_same_boot else Outcome.INTERRUPTED,
        started_at=trace.began.started_at if trace.began else None,
        finished_at=time.time(),
        log_bytes=bytes_logged(f"{logs}/{log_name(key.job, key.attempt)}"),
        problem="its launcher died" if is_same_boot else "the machine went down",
        run_seconds=elapsed() - trace.began.since if trace.began and is_same_boot else None,
    )
