"""`run_background_job`: what it sends."""

from __future__ import annotations

import pytest

from bgd import DaemonUnreachable, run_background_job
from bgd.wire import replies


def test_positional_parameters_priority_and_delay_reach_the_daemon(play, monkeypatch):
    job_id, request = submitted(play, monkeypatch, ["param1", "param2"], priority=5, delay="2s", queue="mail")

    assert job_id == 7
    assert request.spec.target == "app.services:ExampleService.example_method"
    assert request.spec.arguments == '{"args": ["param1", "param2"], "kwargs": {}}'
    assert (request.spec.priority, request.spec.delay, request.spec.queue) == (5, 2.0, "mail")


def test_a_mapping_gives_named_parameters(play, monkeypatch):
    _, request = submitted(play, monkeypatch, {"x": 1})

    assert request.spec.arguments == '{"args": [], "kwargs": {"x": 1}}'


def test_parameters_may_be_left_out(play, monkeypatch):
    _, request = submitted(play, monkeypatch)

    assert request.spec.arguments == '{"args": [], "kwargs": {}}'


@pytest.mark.parametrize(("class_path", "method"), [(len, "run"), ("app.Service", ["param"])])
def test_a_class_or_a_method_must_be_a_string(class_path, method):
    with pytest.raises(TypeError, match=r"class and method are strings such as 'package.module.Class'"):
        run_background_job(class_path, method)


def test_a_module_is_not_a_class():
    with pytest.raises(TypeError, match=r"os.path is a module.*Client\(\).call\('os.path:join', ...\)"):
        run_background_job("os.path", "join", ["a"])


def test_a_silent_daemon_is_given_up_after_a_short_time(play, monkeypatch):
    monkeypatch.setenv("BGD_SOCKET", play(lambda peer: peer.wait_for_end()))

    with pytest.raises(DaemonUnreachable):
        run_background_job("app.Service", "run", timeout=0.05)


def submitted(play, monkeypatch, *params, **options):
    """Call it; return the job's id and the request that was sent."""
    requests = []

    def script(peer):
        peer.greet()
        requests.append(peer.receive())
        peer.send(replies.Submitted(requests[0].id, [7]))

    monkeypatch.setenv("BGD_SOCKET", play(script))
    job = run_background_job("app.services.ExampleService", "example_method", *params, **options)
    return job.id, requests[0]
