from __future__ import annotations

import pytest

from bgd.core.job import Decision, NextStep
from bgd.core.retry import decision_for
from bgd.core.spec import JobSpec
from bgd.core.target import NOTHING_SAID, ClassPolicy, class_policy, parse_target, under_policy

REPORT = parse_target("app.services:Report.build")
RULES = (("ValueError", Decision(NextStep.FAIL)), ("app.Busy", Decision(NextStep.SNOOZE, 5.0)))


def test_the_longest_pattern_that_has_a_key_decides_it():
    policies = {
        "app.services.*": ClassPolicy({"retries": 1, "priority": 1, "queue": "services"}),
        "app.services.Report": ClassPolicy({"retries": 0, "timeout": 60.0}),
        "app.services.Other": ClassPolicy({"retries": 9}),
        "app.*": ClassPolicy({"jitter": 1.0}),
    }

    assert class_policy(REPORT, policies) == ClassPolicy(
        {"retries": 0, "priority": 1, "queue": "services", "timeout": 60.0}
    )


def test_a_pattern_of_one_method_goes_before_that_of_its_class():
    policies = {
        "app.services.Report": ClassPolicy({"retries": 1, "timeout": 9.0}),
        "app.services.Report.render": ClassPolicy({"retries": 7}),
    }

    one, other = (parse_target(f"app.services:Report.{method}") for method in ("render", "send"))

    assert class_policy(one, policies).options == {"retries": 7, "timeout": 9.0}
    assert class_policy(other, policies).options == {"retries": 1, "timeout": 9.0}


def test_a_target_that_no_pattern_matches_has_no_policy():
    assert class_policy(REPORT, {"app.other.*": ClassPolicy({"retries": 1})}) == NOTHING_SAID


@pytest.mark.parametrize(
    ("name", "said", "own"),
    [
        ("retries", 7, 0),
        ("retry_delay", 7.0, 0.0),
        ("backoff", 7.0, 1.0),
        ("max_delay", 7.0, 0.0),
        ("jitter", 0.7, 0.0),
        ("timeout", 7.0, 1.0),
        ("queue", "seven", "default"),
        ("priority", 7, 0),
        ("nice", 7, 0),
        ("memory_max", 7_000_000, 2**62),
        ("cpu_max", 7, 100),
        ("pids_max", 7, 1),
        ("open_files", 77, 16),
        ("core_max", 7, 0),
        ("isolation", "reuse", "spawn"),
    ],
)
def test_a_job_overrides_its_policy(name, said, own):
    policy = ClassPolicy({name: said})
    silent, outspoken = JobSpec(target=str(REPORT)), JobSpec(target=str(REPORT), **{name: own})

    assert under_policy(silent, policy) == JobSpec(target=str(REPORT), **{name: said})
    assert under_policy(outspoken, policy) == outspoken
    assert under_policy(silent, policy, among={"tags"}) == silent


def test_an_option_that_nobody_sets_stays_unset():
    spec = JobSpec(target=str(REPORT))

    assert under_policy(spec, NOTHING_SAID) is spec


@pytest.mark.parametrize(
    ("names", "decision"),
    [
        (("ValueError", "Exception"), Decision(NextStep.FAIL, rule="ValueError")),
        (("app.TooBusy", "app.Busy", "ValueError"), Decision(NextStep.SNOOZE, 5.0, rule="app.Busy")),
        (("UnicodeDecodeError", "UnicodeError", "ValueError"), Decision(NextStep.FAIL, rule="ValueError")),
        (("KeyError", "LookupError", "Exception"), None),
        ((), None),
    ],
)
def test_the_nearest_listed_type_of_an_exception_decides(names, decision):
    assert decision_for(names, RULES) == decision
