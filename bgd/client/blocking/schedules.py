# Generated from bgd/client/async_/schedules.py by `make client`: edit that file.
"""The schedules of a daemon: add, list, change, pause and run them, and read their history."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from bgd.client.blocking.concurrency import run
from bgd.client.blocking.job import Job
from bgd.client.schedules import changed_schedule, new_schedule, schedules_of, set_schedules, whole_spec
from bgd.client.session import UNNUMBERED, expected
from bgd.core.schedule_spec import ScheduleSpec
from bgd.errors import Refused
from bgd.wire import replies
from bgd.wire import schedules as wire
from bgd.wire.schedules import OccurrenceView, SchedulesSet, ScheduleView

if TYPE_CHECKING:
    from bgd.client.blocking.client import Client
    from bgd.client.channel import Channel


class Schedules:
    """The schedules of one daemon: the attribute `schedules` of a Client."""

    def __init__(self, client: Client, channel: Channel) -> None:
        self._client = client
        self._channel = channel

    def add(
        self,
        name: str,
        /,
        argv: Sequence[str] | None = None,
        *,
        target: str | None = None,
        args: Sequence[object] = (),
        kwargs: Mapping[str, object] | None = None,
        replace: bool = False,
        **given: Any,
    ) -> ScheduleView:
        """Store a schedule that runs a command or, with `target`, a class job.

        Args:
            name: letters, digits, ".", "_" and "-"; its jobs get it as their name, unless the option `name`
                gives them another one.
            argv: the command. It gets the daemon's environment and the variables in `env`.
            target: as of `call`.
            args: of the target.
            kwargs: of the target.
            replace: take the place of a schedule of this name; otherwise that is an error.
            given: one of `cron`, `calendar` and `every`; `timezone`, `overlap`, `missed`, `missed_within`,
                `jitter`, `late_after`, `excluded` and `paused`; and the options of `submit`, except those
                that say when a job starts.

        Raises:
            Refused: it is not valid, or there is a schedule of this name.
        """
        spec = new_schedule(argv, target=target, args=args, kwargs=kwargs, **given)
        return self._set(name, spec, replaces=replace and self.get(name) is not None)

    def add_many(self, schedules: Mapping[str, Mapping[str, Any]], *, replace: bool = False) -> SchedulesSet:
        """Store schedules in one transaction: all of them, or none.

        Args:
            schedules: for each name what `add` takes, by name, `argv` included.
            replace: also take the place of schedules of these names; otherwise that is an error.

        Returns:
            The names, by what became of them: `added`, `changed`, or `unchanged`.

        Raises:
            Refused: one is not valid, or there is a schedule of its name.
        """
        specs = {name: new_schedule(**given) for name, given in schedules.items()}
        return self._set_many(specs, replaces=replace)

    def register(self, *sources: object) -> SchedulesSet:
        """Store the schedules of functions under `@bgd.job(cron=...)`; call this when you deploy.

        A schedule that is stored already is changed if its definition has changed, and otherwise stays as it
        is; those of functions that no longer exist stay too, until you `remove` them. All are stored in one
        transaction. bgd.testing's `inline` checks and counts them, and never runs them.

        Args:
            sources: modules, which stand for the functions and methods that they define, and functions.

        Returns:
            The names, by what became of them: `added`, `changed` or `unchanged`.

        Raises:
            TypeError: a function has no schedule, or no worker would find it.
            Refused: one is not valid, or its name is in the configuration.
        """
        return self._set_many(schedules_of(sources), replaces=True)

    def edit(self, name: str, /, argv: Sequence[str] | None = None, **given: Any) -> ScheduleView:
        """Change a stored schedule.

        Raises:
            Refused: there is no such schedule, it is configured, it was changed meanwhile, it would not be
                valid, or a newer bgd stored options that would be lost.
        """
        [old] = self.list(name)
        spec = changed_schedule(whole_spec(old), argv, given)
        return self._set(name, spec, replaces=True, digest=old.digest)

    def list(self, name: str | None = None, *, upcoming: int = 1) -> Sequence[ScheduleView]:
        """Return all schedules by name, or one, each with its next occurrences.

        Raises:
            Refused: there is no such schedule.
        """
        request = wire.GetSchedules(id=UNNUMBERED, name=name, upcoming=upcoming)
        parts = run(self._channel.collect(request))
        return [view for part in parts for view in expected(part, wire.SchedulesPart).schedules]

    def get(self, name: str) -> ScheduleView | None:
        """Return one schedule; None: there is none of this name."""
        try:
            [found] = self.list(name, upcoming=0)
        except Refused:
            return None
        return found

    def remove(self, name: str) -> None:
        """Remove a stored schedule. Its history stays, and running jobs continue."""
        run(self._channel.ask(wire.RemoveSchedule(UNNUMBERED, name), replies.Done, repeatable=True))

    def pause(self, name: str) -> ScheduleView:
        """Skip the occurrences of a schedule until it is resumed."""
        return self._view(wire.PauseSchedule(UNNUMBERED, name, paused=True))

    def resume(self, name: str) -> ScheduleView:
        """Undo `pause`."""
        return self._view(wire.PauseSchedule(UNNUMBERED, name, paused=False))

    def run(self, name: str) -> Job:
        """Queue the job of a schedule now, even if an earlier one runs."""
        reply = run(self._channel.ask(wire.RunSchedule(UNNUMBERED, name), replies.Submitted))
        return Job(self._client, reply.jobs[0], is_new=True, obstacle=reply.obstacle)

    def next(self, name: str, count: int = 1) -> Sequence[float]:
        """Return the next occurrences of a schedule, in epoch seconds; none while it is paused."""
        [view] = self.list(name, upcoming=count)
        return view.upcoming

    def history(self, name: str, *, limit: int = 50, before: int | None = None) -> Sequence[OccurrenceView]:
        """Return the history of a schedule, newest first, even of a removed one."""
        request = wire.GetHistory(id=UNNUMBERED, name=name, limit=limit, before=before)
        reply = run(self._channel.ask(request, wire.HistoryPart, repeatable=True))
        return reply.occurrences

    def _set_many(self, specs: dict[str, ScheduleSpec], *, replaces: bool) -> SchedulesSet:
        return run(self._channel.ask(set_schedules(specs, replaces=replaces), SchedulesSet, repeatable=True))

    def _set(
        self, name: str, spec: ScheduleSpec, *, replaces: bool, digest: str | None = None
    ) -> ScheduleView:
        return self._view(
            wire.SetSchedule(id=UNNUMBERED, name=name, spec=spec, replaces=replaces, digest=digest)
        )

    def _view(self, request: wire.SetSchedule | wire.PauseSchedule) -> ScheduleView:
        reply = run(self._channel.ask(request, wire.SchedulesPart, repeatable=True))
        return reply.schedules[0]
