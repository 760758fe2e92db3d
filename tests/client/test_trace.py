"""The trace and the session of the caller go with the jobs that it submits."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest
from msgspec.structs import replace

from bgd.client.session import from_caller
from bgd.core.spec import JobSpec
from tests.support import DEADLINE

PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
SPEC = JobSpec(argv=("true",))


@pytest.fixture(autouse=True)
def _no_trace(monkeypatch):
    for name in ("TRACEPARENT", "TRACESTATE"):
        monkeypatch.delenv(name, raising=False)


def test_without_a_trace_specs_stay_as_they_are():
    assert from_caller([SPEC])[0] is SPEC


def test_a_job_that_names_no_session_is_of_that_of_the_caller(monkeypatch):
    other = replace(SPEC, session="other")
    monkeypatch.setenv("BGD_SESSION", "")
    assert from_caller([SPEC])[0] is SPEC

    monkeypatch.setenv("BGD_SESSION", "mine")
    assert [spec.session for spec in from_caller([SPEC, other])] == ["mine", "other"]


@pytest.mark.parametrize("name", ["CLAUDE_CODE_SESSION_ID", "CODEX_THREAD_ID"])
def test_a_job_of_a_coding_agent_is_of_the_session_of_that(monkeypatch, name):
    monkeypatch.setenv(name, "0199-a1")
    assert from_caller([SPEC])[0].session == "0199-a1"

    monkeypatch.setenv("BGD_SESSION", "mine")
    assert from_caller([SPEC])[0].session == "mine"

    monkeypatch.delenv("BGD_SESSION")
    monkeypatch.setenv("BGD_JOB_ID", "12")  # it is a job of the agent that submits another
    assert from_caller([SPEC])[0].session is None


def test_the_variables_of_the_caller_are_its_trace(monkeypatch):
    monkeypatch.setenv("TRACEPARENT", PARENT)
    assert [spec.trace for spec in from_caller([SPEC, SPEC])] == [(PARENT, "")] * 2

    monkeypatch.setenv("TRACESTATE", "a=1,b=2")
    assert from_caller([SPEC])[0].trace == (PARENT, "a=1,b=2")


@pytest.mark.parametrize(
    ("parent", "state"),
    [
        ("", ""),
        ("no", ""),
        (PARENT.upper(), ""),
        (PARENT.replace("00-", "ff-", 1), ""),
        (f"{PARENT}\n", ""),
        (f"{PARENT}-extra", ""),
        ("00-00000000000000000000000000000000-00f067aa0ba902b7-01", ""),
        ("00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01", ""),
        (PARENT, "é"),
        (PARENT, "a" * 513),
        (PARENT, "a\nb"),
    ],
)
def test_what_is_not_as_the_standard_says_is_ignored(monkeypatch, parent, state):
    monkeypatch.setenv("TRACEPARENT", parent)
    monkeypatch.setenv("TRACESTATE", state)

    assert from_caller([SPEC])[0].trace is None


@pytest.mark.parametrize("is_valid", [True, False])
def test_the_current_span_of_opentelemetry_comes_first_if_a_program_uses_it(monkeypatch, is_valid):
    monkeypatch.setenv("TRACEPARENT", PARENT)
    context = SimpleNamespace(
        is_valid=is_valid, trace_id=0xABC, span_id=0xDEF, trace_flags=1, trace_state=SimpleNamespace()
    )
    context.trace_state.to_header = lambda: "a=1"
    span = SimpleNamespace(get_span_context=lambda: context)
    monkeypatch.setitem(sys.modules, "opentelemetry.trace", SimpleNamespace(get_current_span=lambda: span))

    own = (f"00-{0xABC:032x}-{0xDEF:016x}-01", "a=1")
    assert from_caller([SPEC])[0].trace == (own if is_valid else (PARENT, ""))


def test_the_jobs_of_every_way_to_submit_get_it_and_those_of_a_schedule_do_not(daemon, monkeypatch):
    monkeypatch.setenv("TRACEPARENT", PARENT)
    script = ["sh", "-c", "echo $TRACEPARENT"]
    quiet = {"env_pass": ["PATH"]}
    with daemon.client() as client:
        jobs = [client.submit(script, **quiet), *client.submit_many([{"argv": script, **quiet}])]
        jobs += client.batch([{"argv": script, **quiet}]).jobs()
        client.schedules.add("later", argv=script, every="1h", **quiet)
        jobs.append(client.schedules.run("later"))
        client.schedules.remove("later")
        shells = [client.job(int(daemon.bgctl("submit", *script, env={"TRACEPARENT": PARENT}).stdout))]

        said = [job.wait(DEADLINE) and job.output() for job in (*jobs, *shells)]

    assert said == [f"{PARENT}\n"] * 3 + ["\n"] + [f"{PARENT}\n"]


def test_jobs_that_follow_a_job_or_a_batch_get_its_trace(daemon, monkeypatch):
    script = ["sh", "-c", "echo $TRACEPARENT"]
    with daemon.client() as client:
        monkeypatch.setenv("TRACEPARENT", PARENT)
        cause = client.submit(["true"], on_success=script, env_pass=["PATH"])
        batch = client.batch([["true"]], then={"argv": script, "env_pass": ["PATH"]})
        monkeypatch.delenv("TRACEPARENT")
        cause.wait(DEADLINE)
        [after_job] = cause.refresh().view.follow_ups
        then = batch.wait(DEADLINE).view.then
        assert then is not None
        following = [client.job(after_job), client.job(then.job)]

        assert [job.wait(DEADLINE) and job.output() for job in following] == [f"{PARENT}\n"] * 2


def test_the_jobs_of_every_way_to_submit_are_of_the_session_and_those_of_a_schedule_are_not(
    daemon, monkeypatch
):
    monkeypatch.setenv("BGD_SESSION", "mine")
    with daemon.client() as client:
        cause = client.submit(["false"], on_failure=["true"])
        batch = client.batch([["true"]], then=["true"], session="other")
        client.schedules.add("later", argv=["true"], every="1h")
        scheduled = client.schedules.run("later")
        client.schedules.remove("later")
        shells = [
            client.job(int(daemon.bgctl(*words, env={"BGD_SESSION": "shell"}).stdout))
            for words in (["submit", "true"], ["submit", "-p1", "true"], ["submit", "--session=x", "true"])
        ]
        cause.wait(DEADLINE)
        then = batch.wait(DEADLINE).view.then
        assert then is not None
        found = [*cause.refresh().view.follow_ups, batch.jobs()[0].id, then.job, scheduled.id]

        known = [cause.id, *found, *(job.id for job in shells)]
        sessions = [client.view(job).session for job in known]
        listed = [job.id for job in client.jobs(words="session:mine")]

    assert sessions == ["mine", "mine", "other", "other", None, "shell", "shell", "x"]
    assert listed == [found[0], cause.id]
