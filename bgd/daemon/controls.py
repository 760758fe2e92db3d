"""Controls: slots and queues, as the configuration has them and as people have set them since."""

from __future__ import annotations

from collections.abc import Iterable

from msgspec.structs import replace

from bgd.config import Config
from bgd.core.queues import QueueRule
from bgd.core.spec import DEFAULT_QUEUE
from bgd.daemon.storage.records import Controls, QueueSetting
from bgd.errors import Full, Refused
from bgd.settings import nearest
from bgd.wire.views import QueueView

MAX_SET_QUEUES = 1_000  # each costs one look whenever a job is to start


def slots_of(config: Config, controls: Controls) -> int:
    """Return how many slots there are now."""
    return config.daemon.slots if controls.slots is None else controls.slots


def rules_of(config: Config, controls: Controls) -> dict[str, QueueRule]:
    """Return the rules of the queues that have any."""
    queues = config.queues.keys() | controls.queues.keys()
    rules = {queue: _rule_of(queue, config, controls) for queue in queues}
    return {queue: rule for queue, rule in rules.items() if rule != QueueRule()}


def with_slots_of_queue(controls: Controls, queue: str, slots: int | None) -> Controls:
    """Give a queue a number of slots, None: no limit.

    Raises:
        Full: too many queues are set.
    """
    setting = replace(_setting_of(queue, controls), has_slots=True, slots=slots)
    return _with_setting(controls, queue, setting)


def with_pause(controls: Controls, queue: str | None, *, paused: bool) -> Controls:
    """Pause or resume a queue, None: all of them together.

    Raises:
        Full: too many queues are set.
    """
    if queue is None:
        return replace(controls, paused=paused)
    return _with_setting(controls, queue, replace(_setting_of(queue, controls), paused=paused))


def without_queue(controls: Controls, queue: str) -> Controls:
    """Forget what was said of a queue.

    Raises:
        Refused: nothing was.
    """
    if queue not in controls.queues:
        raise Refused(f"queue {queue!r} was neither set nor paused: there is nothing to remove")
    return _with_setting(controls, queue, QueueSetting())


def known_queues(config: Config, controls: Controls) -> set[str]:
    """Return the default queue and all that are configured, or set or paused since."""
    return {DEFAULT_QUEUE, *config.queues, *controls.queues}


def no_queue(name: str, known: Iterable[str]) -> Refused:
    """Return the error for a queue that does not exist: it says what was probably meant."""
    if name.isdecimal():
        return Refused(
            f"there is no queue {name}; of job {name}: `bgctl hold {name}` keeps it from starting, "
            f"`bgctl suspend {name}` stops what runs"
        )
    return Refused(
        f"there is no queue {name} ({nearest(name, known)}): `bgctl queue set {name} --slots N` makes it"
    )


def views_of(config: Config, controls: Controls, counts: dict[str, dict[str, int]]) -> list[QueueView]:
    """Return the default queue and all that are configured, set or in use.

    `counts`: unfinished jobs by queue and state.
    """
    queues = known_queues(config, controls) | counts.keys()
    return [_view_of(queue, config, controls, counts) for queue in sorted(queues)]


def _view_of(queue: str, config: Config, controls: Controls, counts: dict[str, dict[str, int]]) -> QueueView:
    rule = _rule_of(queue, config, controls)
    return QueueView(
        name=queue,
        slots=rule.slots,
        configured_slots=_configured(queue, config),
        paused=rule.paused,
        counts=counts.get(queue, {}),
    )


def _rule_of(queue: str, config: Config, controls: Controls) -> QueueRule:
    setting = _setting_of(queue, controls)
    slots = setting.slots if setting.has_slots else _configured(queue, config)
    return QueueRule(slots=slots, paused=setting.paused)


def _configured(queue: str, config: Config) -> int | None:
    return config.queues[queue].slots if queue in config.queues else None


def _setting_of(queue: str, controls: Controls) -> QueueSetting:
    return controls.queues.get(queue, QueueSetting())


def _with_setting(controls: Controls, queue: str, setting: QueueSetting) -> Controls:
    others = {name: each for name, each in controls.queues.items() if name != queue}
    if setting == QueueSetting():
        return replace(controls, queues=others)
    if len(others) >= MAX_SET_QUEUES:
        raise Full(f"{MAX_SET_QUEUES} queues are set or paused already: `bgctl queue remove` some")
    return replace(controls, queues={**others, queue: setting})
