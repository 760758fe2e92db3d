"""Class policies: what the configuration says about the jobs of certain targets."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from bgd.core.job import ExceptionRules
from bgd.core.spec import OPTIONS, JobSpec
from bgd.core.target import Target, patterns_for

POLICY_KEYS = {
    {"retry_delay": "delay"}.get(name, name): name for name, option in OPTIONS.items() if option.in_policy
}
"""The keys of `[classes."PATTERN"]` that set an option of a job, each with the option's name."""


class ClassPolicy(Struct, frozen=True):
    """What applies to a job that does not say otherwise: options by their names in JobSpec, and rules.

    `on_exceptions` None: no pattern has rules.
    """

    options: dict[str, Any] = {}
    on_exceptions: ExceptionRules | None = None


NOTHING_SAID = ClassPolicy()


def class_policy(target: Target, policies: Mapping[str, ClassPolicy]) -> ClassPolicy:
    """Return what the configuration says about a target: each key from the longest pattern that has it."""
    merged = NOTHING_SAID
    for pattern in reversed(patterns_for(target)):
        if pattern in policies:
            policy = policies[pattern]
            rules = merged.on_exceptions if policy.on_exceptions is None else policy.on_exceptions
            merged = ClassPolicy(merged.options | policy.options, rules)
    return merged


def under_policy(spec: JobSpec, policy: ClassPolicy, among: Collection[str] | None = None) -> JobSpec:
    """Return the spec with the options of the policy that it does not have itself.

    `among`: set only these options. None: all.
    """
    if policy is NOTHING_SAID:
        return spec
    return replace(
        spec,
        **{
            name: value
            for name, value in policy.options.items()
            if getattr(spec, name) is None and (among is None or name in among)
        },
    )
