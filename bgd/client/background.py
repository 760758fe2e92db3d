"""The one call for programs that only hand over: a method of a class, to be run in the background."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Unpack

from bgd.client.blocking import Client, Job
from bgd.client.specs import FurtherOptions
from bgd.core.target import target_of_class

TIMEOUT = 5.0  # seconds; a web request cannot wait longer for a daemon that is dead


def run_background_job(
    class_path: str,
    method: str,
    params: Sequence[object] | Mapping[str, object] | None = None,
    *,
    priority: int = 0,
    delay: float = 0.0,
    timeout: float = TIMEOUT,
    **options: Unpack[FurtherOptions],
) -> Job:
    """Queue a method of a class for the background.

    Args:
        class_path: `package.module.Class`.
        method: its name.
        params: positional arguments, or a mapping of named ones.
        priority: higher runs first.
        delay: seconds before which it does not start.
        timeout: seconds to wait for the daemon; the job itself is not waited for.
        options: as of `Client.call`.

    Raises:
        DaemonUnreachable: no daemon answered in time.
        Refused: the daemon does not take the job.
        TypeError: `params` is not what JSON can say, or class or method are no texts.
    """
    if not (isinstance(class_path, str) and isinstance(method, str)):
        raise TypeError(
            f"class and method are texts, as 'package.module.Class' and 'method', "
            f"not {class_path!r} and {method!r}"
        )
    target = target_of_class(class_path, method)
    args, kwargs = ((), params) if isinstance(params, Mapping) else (params or (), {})
    with Client(timeout=timeout) as client:
        return client.call(target, args, kwargs, priority=priority, delay=delay, **options)
