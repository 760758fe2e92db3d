"""Notifications: sends messages about jobs and schedules to targets, as jobs of a queue of their own."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections import defaultdict, deque
from collections.abc import Sequence
from uuid import uuid4

import msgspec

from bgd.core.job import JobId
from bgd.core.notifications import NEVER, Decisions, Message, NotifyEvent, Waiting, instant, room, room_at
from bgd.core.spec import NOTIFICATION_QUEUE, JobSpec
from bgd.daemon.access import check_target
from bgd.daemon.job_actions import JobActions
from bgd.daemon.storage import notifications as storage
from bgd.daemon.storage.store import StoreReader
from bgd.daemon.supervisor import Supervisor
from bgd.system import clock
from bgd.wire.views import Finding, Level

logger = logging.getLogger(__name__)

RETRIES = 8  # after 15 s, 30 s, 1 min, ...: the last one is an hour after the first attempt
RETRY_DELAY = 15.0  # seconds
BACKOFF = 2.0
MAX_DELAY = 3600.0
TIMEOUT = 60.0


class Notifications:
    """Decides for each fact whether a target gets a message.

    A fact is stored in the transaction of what has happened, and deleted in the transaction of the job that
    sends the message. So each notification is one job, whenever bgd is killed.
    """

    def __init__(self, supervisor: Supervisor, actions: JobActions, store: StoreReader) -> None:
        self._supervisor = supervisor
        self._actions = actions
        self._store = store
        self._sent: defaultdict[str, deque[float]] = defaultdict(deque)
        self._waiting: dict[str, Waiting] = {}
        self._warned: set[str] = set()  # targets that are not configured
        self._woken = asyncio.Event()
        self._alarm = clock.Alarm(asyncio.get_running_loop(), self._woken.set)

    async def load(self) -> None:
        """Load waiting messages, and how many each target got in the last minute."""
        targets, read = list(self._supervisor.notify_rules), self._store.read
        self._waiting = await read(storage.waiting_messages)
        self._sent.update(await read(storage.sent_messages, targets, clock.elapsed()))
        self._forget(sorted((await read(storage.known_targets)).difference(targets)))
        self._supervisor.on_facts_saved.append(self._woken.set)
        self._supervisor.on_configured.append(self._configure)
        self._woken.set()

    async def run(self) -> None:
        """Send notifications, forever."""
        try:
            while True:
                await self._woken.wait()
                self._woken.clear()
                await self._settle()
                self._alarm.set(self._next_room_at())
        finally:
            self._alarm.close()

    def test(self, target: str) -> JobId:
        """Queue a job that sends a test message once; `Supervisor.saved` tells when it is on disk.

        Raises:
            Refused: there is no such target.
        """
        check_target(target, self._supervisor.config)
        at = instant(clock.now().wall)
        message = Message(id=_new_id(), event=NotifyEvent.TEST, at=at, target=target, subject="test")
        return self._send(message, retries=0)

    async def findings(self) -> list[Finding]:
        """Return a finding about undelivered notifications; none if no target is configured."""
        if not self._supervisor.notify_rules:
            return []
        count, newest = await self._store.read(storage.undelivered)
        if not count:
            return [Finding("notifications", Level.OK, "all could be delivered")]
        problem = f"{count} could not be delivered, the latest by job {newest}"
        remedy = f"`bgctl logs {newest}` says why; `bgctl retry {newest}` tries again"
        return [Finding("notifications", Level.WARNING, problem, remedy)]

    # --- messages --------------------------------------------------------------------------------------

    async def _settle(self) -> None:
        """Decide about all facts, some at a time, and send waiting messages as far as there is room."""
        self._send_waiting()
        while True:
            rules = self._supervisor.notify_rules
            decided = await self._store.read(
                storage.decide_page,
                rules,
                {target: self._room(target) for target in rules},
                self._waiting,
                self._supervisor.config.log_dir,
                _new_id,
            )
            if decided is None:
                return
            if self._supervisor.notify_rules is not rules:  # by others: decide again
                continue
            self._supervisor.transaction.settled.append(decided)
            self._waiting |= decided.waiting
            for message in decided.messages:
                self._send(message)
            self._warn(decided.unknown)
            await self._supervisor.saved()

    def _send_waiting(self) -> None:
        """Send waiting messages to each target with room, as one message."""
        sent = [target for target in self._waiting if self._room(target)]
        for target in sent:
            self._send(self._waiting.pop(target).message(clock.now().wall, _new_id()))
        if sent:
            self._supervisor.transaction.settled.append(Decisions(sent=tuple(sent)))

    def _send(self, message: Message, retries: int = RETRIES) -> JobId:
        self._sent[message.target].append(clock.elapsed())
        spec = job_of(message, self._supervisor.config.source, retries)
        return JobId(self._actions.submit([spec], os.geteuid()).jobs[0])

    # --- limits and targets -----------------------------------------------------------------------------

    def _room(self, target: str) -> int:
        return room(self._sent[target], clock.elapsed(), self._supervisor.notify_rules[target].per_minute)

    def _next_room_at(self) -> float | None:
        """Return when there is room for a waiting message; None: none waits."""
        rules = self._supervisor.notify_rules
        return min(
            (room_at(self._sent[target], rules[target].per_minute) for target in self._waiting), default=None
        )

    def _configure(self) -> None:
        """Apply the targets of the present configuration."""
        rules = self._supervisor.notify_rules
        self._warned.clear()
        self._forget([target for target in {**self._sent, **self._waiting} if target not in rules])
        self._woken.set()

    def _forget(self, targets: Sequence[str]) -> None:
        """Drop the state of targets that were removed from the configuration."""
        self._warn(set(targets))
        for target in targets:
            self._sent.pop(target, None)
            self._waiting.pop(target, None)
        if targets:
            self._supervisor.transaction.settled.append(Decisions(forgotten=tuple(targets)))
            self._supervisor.when_saved(lambda: None)

    def _warn(self, unknown: set[str]) -> None:
        for target in sorted(unknown - self._warned):
            logger.warning(
                "[notify.%s] was removed from the configuration: its notifications are dropped", target
            )
        self._warned |= unknown


def job_of(message: Message, config: str | None, retries: int = RETRIES) -> JobSpec:
    """Return the job that delivers a message; `config` is the configuration file that has the target."""
    options = () if config is None else ("--config", config)
    return JobSpec(
        argv=(sys.executable, "-P", "-m", "bgd.delivery", *options, message.target),
        queue=NOTIFICATION_QUEUE,
        name=storage.job_name(message.target),
        retries=retries,
        no_retry_on=(NEVER,),
        retry_delay=RETRY_DELAY,
        backoff=BACKOFF,
        max_delay=MAX_DELAY,
        timeout=TIMEOUT,
        cwd="/",
        input=msgspec.json.encode(message),
    )


def _new_id() -> str:
    return uuid4().hex
