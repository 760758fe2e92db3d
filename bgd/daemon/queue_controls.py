"""Slots and queues in force: from the configuration, or set at run time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from msgspec.structs import replace

from bgd.core.breakers import BreakerRule
from bgd.core.job import State
from bgd.core.limits import QueueRule
from bgd.core.spec import DEFAULT_QUEUE, NOTIFICATION_QUEUE, problem_with_queue
from bgd.daemon.storage.records import QueueControls, QueueSetting
from bgd.errors import Full, Refused, nearest
from bgd.settings.config import Config
from bgd.wire.views import QueueView

MAX_SET_QUEUES = 1_000  # the Scheduler visits each of them whenever it starts a job


def total_slots(config: Config, controls: QueueControls) -> int:
    """Return the number of slots in force."""
    return config.daemon.slots if controls.slots is None else controls.slots


def most_slots(config: Config) -> int:
    """Return how many slots jobs may take at once as configured, those of queues on clusters included."""
    rules = [_rule(queue, config, QueueControls()) for queue in config.queues]
    return config.daemon.slots + sum(rule.slots or 0 for rule in rules if rule.elsewhere)


def queue_rules(config: Config, controls: QueueControls) -> dict[str, QueueRule]:
    """Return the rules of all queues that are limited or paused, and of the one for notifications."""
    queues = {NOTIFICATION_QUEUE, *config.queues, *controls.queues}
    rules = {queue: _rule(queue, config, controls) for queue in queues}
    return {queue: rule for queue, rule in rules.items() if rule != QueueRule()}


def breaker_rules(config: Config) -> dict[str, BreakerRule]:
    """Return the rules of the breakers, by the patterns of [classes] that have them."""
    return {
        pattern: BreakerRule(policy.pause_after, policy.pause_for)
        for pattern, policy in config.classes.items()
        if policy.pause_after is not None
    }


def set_queue(controls: QueueControls, queue: str | None, **changes: Any) -> QueueControls:
    """Return the controls with changes of a QueueSetting for a queue; None: of all queues together.

    Raises:
        Full: too many queues are set.
        Refused: it is the queue of notifications.
    """
    if queue is None:
        return replace(controls, **changes)
    return _with_setting(controls, queue, replace(_setting(queue, controls), **changes))


def reset_queue(controls: QueueControls, queue: str) -> QueueControls:
    """Return the controls without anything that was set for a queue.

    Raises:
        Refused: nothing was set for it.
    """
    if queue not in controls.queues:
        raise Refused(f"queue {queue!r} was neither set nor paused: there is nothing to remove")
    return _with_setting(controls, queue, QueueSetting())


def known_queues(config: Config, controls: QueueControls) -> set[str]:
    """Return the default queue and all queues that are configured, set or paused."""
    return {DEFAULT_QUEUE, *config.queues, *controls.queues}


def check_queue_name(queue: str | None) -> None:
    """Raise Refused for the queue of notifications, which only bgd itself uses."""
    if problem := problem_with_queue(queue):
        raise Refused(problem)


def unknown_queue(name: str, known: Iterable[str], *, pause: bool) -> Refused:
    """Return the error for a queue that does not exist, with a suggestion."""
    if name.isdecimal():
        of_job = ("hold", "keeps it from starting", "suspend", "stops a running one")
        if not pause:
            of_job = ("release", "lets it start", "continue", "continues a suspended one")
        first, does, second, does_too = of_job
        return Refused(
            f"there is no queue {name}; for job {name}: `bgctl {first} {name}` {does}, "
            f"`bgctl {second} {name}` {does_too}"
        )
    return Refused(
        f"there is no queue {name} ({nearest(name, known)}): `bgctl queue set {name} --slots N` makes it"
    )


def queue_views(
    config: Config,
    controls: QueueControls,
    counts: Mapping[tuple[str, State], int],
    openings: Mapping[str, float],
    also: Iterable[str] = (),
) -> list[QueueView]:
    """Return what clients see of every queue: the known ones, those in use, and `also` these, sorted by name.

    `counts`: number of unfinished jobs by queue and state. `openings`: for queues whose rate lets no job
    start now, when it will, epoch time.
    """
    by_queue: dict[str, dict[str, int]] = {queue: {} for queue in {*known_queues(config, controls), *also}}
    if config.notify:
        by_queue[NOTIFICATION_QUEUE] = {}
    for (queue, state), jobs in counts.items():
        by_queue.setdefault(queue, {})[state.value] = jobs
    views = []
    for queue, jobs_by_state in sorted(by_queue.items()):
        rule = _rule(queue, config, controls)
        view = QueueView(
            name=queue,
            slots=rule.slots,
            configured_slots=_configured_slots(queue, config),
            paused=rule.paused,
            counts=jobs_by_state,
            rate=None if rule.rate is None else str(rule.rate),
            weight=rule.weight,
            opens_at=openings.get(queue),
        )
        views.append(view)
    return views


def _rule(queue: str, config: Config, controls: QueueControls) -> QueueRule:
    if queue == NOTIFICATION_QUEUE:
        return QueueRule(apart=True)
    setting = _setting(queue, controls)
    slots = setting.slots if setting.has_slots else _configured_slots(queue, config)
    if queue not in config.queues:
        return QueueRule(slots=slots, paused=setting.paused)
    configured = config.queues[queue]
    executor = config.executors.get(configured.executor)
    return QueueRule(
        slots=slots,
        paused=setting.paused,
        elsewhere=slots is not None and executor is not None and executor.kind.has_nodes,
        rate=configured.rate,
        weight=configured.weight,
    )


def _configured_slots(queue: str, config: Config) -> int | None:
    return config.queues[queue].slots if queue in config.queues else None


def _with_setting(controls: QueueControls, queue: str, setting: QueueSetting) -> QueueControls:
    check_queue_name(queue)
    others = {name: each for name, each in controls.queues.items() if name != queue}
    if setting == QueueSetting():
        return replace(controls, queues=others)
    if len(others) >= MAX_SET_QUEUES:
        raise Full(f"{MAX_SET_QUEUES} queues are set or paused already: `bgctl queue remove` some")
    return replace(controls, queues={**others, queue: setting})


def _setting(queue: str, controls: QueueControls) -> QueueSetting:
    return controls.queues.get(queue, QueueSetting())
