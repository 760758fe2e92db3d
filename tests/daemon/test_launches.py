"""What the launcher is asked to start: programs, folders, variables, warm workers."""

from __future__ import annotations

import json
import sys

import pytest
from msgspec.structs import replace

from bgd.core.job import Job, JobId, Outcome, RetryPolicy, State
from bgd.core.spec import ExecutorKind, Isolation, JobSpec
from bgd.daemon import launches
from bgd.daemon.dispatch import reported_end
from bgd.daemon.launches import build_launch
from bgd.wire.launching import AttemptEnded, AttemptKey, Place, encode
from bgd.worker import WORKER
from tests.daemon.harness import configure

JOB = Job(JobId(7), State.RUNNING, "mail", 0, RetryPolicy(), attempt=2)
KEY = AttemptKey("store", 7, 2)


@pytest.fixture(autouse=True)
def _no_cached_environment():
    launches.own_environment.cache_clear()
    launches._class_job_environment.cache_clear()


def launch(folder, spec, **configured):
    return build_launch(KEY, JOB, spec, 3, configure(folder, **configured))


def test_command_is_launched_as_it_stands(folder):
    spec = JobSpec(argv=("/bin/echo", "a b"), cwd="/srv", umask=0o077, timeout=5.0, env={"A": "1"})
    got = launch(folder, spec, daemon='grace = "3s"', rest='[logs]\nmax_bytes = 5000\non_limit = "kill"')
    assert (got.key, got.argv, got.cwd, got.umask) == (KEY, ["/bin/echo", "a b"], "/srv", 0o077)
    assert (got.timeout, got.grace, got.log_cap, got.log_kill) == (5.0, 3.0, 5000, True)
    assert (got.stdin, got.result) == (None, False)


def test_bgd_variables_override_those_of_the_job(folder):
    got = launch(folder, JobSpec(argv=("true",), env={"A": "1", "BGD_JOB_ID": "1"}))
    assert got.env == {
        "A": "1",
        "BGD_JOB_ID": "7",
        "BGD_ATTEMPT": "2",
        "BGD_QUEUE": "mail",
        "BGD_SLOT": "3",
        "BGD_SOCKET": f"{folder}/state/bgd.sock",
    }


def test_class_job_is_launched_as_the_worker_with_its_call_on_stdin(folder):
    spec = JobSpec(target="app.tasks:Mail.send", arguments='{"args": [1e400], "kwargs": {}}')
    got = launch(folder, spec, rest=f'[python]\npath = ["{folder}"]')
    assert got.argv == [sys.executable, str(WORKER)]
    assert got.result
    assert b"[1e400]" in got.stdin
    said = json.loads(got.stdin)
    assert (said["module"], said["name"], said["method"], said["path"]) == (
        "app.tasks",
        "Mail",
        "send",
        [str(folder)],
    )


@pytest.mark.parametrize("name", ["PATH", "PYTHONPATH", "LD_LIBRARY_PATH"])
def test_search_paths_of_a_class_job_do_not_include_its_folder(folder, monkeypatch, name):
    monkeypatch.setenv(name, ":lib:/usr/bin:$ORIGIN/lib")
    monkeypatch.chdir(folder)

    call = launch(folder, JobSpec(target="app.tasks:Mail.send", cwd="/srv"))
    command = launch(folder, JobSpec(argv=("true",), cwd="/srv"))

    assert call.env[name] == f"{folder}:{folder}/lib:/usr/bin:$ORIGIN/lib"
    assert command.env[name] == ":lib:/usr/bin:$ORIGIN/lib"


def test_class_job_uses_a_warm_worker_unless_it_or_the_configuration_says_otherwise(folder, monkeypatch):
    monkeypatch.setenv("BOTH", "ours")
    spec = JobSpec(target="app.tasks:Mail.send", env={"BOTH": "sent", "OWN": "1"})
    rest = f'[python]\nenv = ["BOTH", "OWN"]\npath = ["{folder}"]\npreload = ["app.models"]'

    warm = launch(folder, spec, rest=rest).warm

    assert (warm.path, warm.preload) == ([str(folder)], ["app.models"])
    marks = dict.fromkeys(("BGD_JOB_ID", "BGD_ATTEMPT", "BGD_QUEUE", "BGD_SLOT", "BGD_SOCKET"))
    assert warm.base == {**marks, "BOTH": "ours", "OWN": None}
    assert launch(folder, replace(spec, isolation=Isolation.SPAWN), rest=rest).warm is None
    spawning = f'{rest}\nisolation = "spawn"'
    assert launch(folder, spec, rest=spawning).warm is None
    assert launch(folder, replace(spec, isolation=Isolation.FORK), rest=spawning).warm is not None
    assert launch(folder, JobSpec(argv=("true",))).warm is None
    assert (warm.isolation, warm.recycle_jobs, warm.recycle_memory) == (Isolation.FORK, None, None)
    reusing = f'{rest}\nisolation = "reuse"\nrecycle_jobs = 9\nrecycle_memory = "64MB"'
    warm = launch(folder, spec, rest=reusing).warm
    assert (warm.isolation, warm.recycle_jobs, warm.recycle_memory) == (Isolation.REUSE, 9, 64_000_000)


def test_the_module_of_what_surrounds_each_job_is_imported_with_the_preload(folder):
    rest = '[python]\npreload = ["app.models"]\naround = "app.jobs:around"'
    got = launch(folder, JobSpec(target="app.tasks:Mail.send"), rest=rest)

    assert got.warm.preload == ["app.models", "app.jobs"]
    assert json.loads(got.stdin)["around"] == "app.jobs:around"


def test_job_of_a_runner_is_launched_as_configured(folder):
    rest = '[runners.php]\nargv = ["php", "artisan"]\ncwd = "/srv/shop"'
    got = launch(folder, JobSpec(target="php::Job@run", arguments='{"args": [1e400]}'), rest=rest)

    assert (got.argv, got.cwd, got.result) == (["php", "artisan"], "/srv/shop", True)
    assert got.stdin == b'{"id":7,"attempt":2,"target":"Job@run","args":[1e400],"kwargs":{}}'
    assert reported_end(
        AttemptEnded(key=KEY, outcome=Outcome.SUCCEEDED, finished_at=2.0, result=got.usual_result)
    ).result == ("null")


def test_runner_without_a_folder_runs_in_the_folder_of_the_daemon(folder, monkeypatch):
    monkeypatch.chdir(folder)

    assert launch(folder, JobSpec(target="a::b"), rest='[runners.a]\nargv = ["a"]').cwd == str(folder)


def test_class_job_gets_its_own_variables_in_addition_to_those_of_the_daemon(folder, monkeypatch):
    monkeypatch.setenv("OURS", "1")
    monkeypatch.setenv("BOTH", "ours")

    got = launch(
        folder, JobSpec(target="app.tasks:Mail.send", env={"BOTH": "sent"}), rest='[python]\nenv = ["BOTH"]'
    )

    assert (got.env["OURS"], got.env["BOTH"]) == ("1", "sent")


def test_variables_that_are_no_longer_allowed_are_left_out(folder, monkeypatch):
    monkeypatch.setenv("OURS", "1")
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    env = {"BASH_FUNC_date%%": "() { evil; }", "LD_PRELOAD": "/evil.so", "PATH": "/evil", "LEVEL": "2"}
    narrow = '[security]\nallowed_commands = ["/bin/script"]\nallowed_env = ["LEVEL"]'

    call = launch(folder, JobSpec(target="app:f", env=env)).env
    command = launch(folder, JobSpec(argv=("/bin/script",), env=env), rest=narrow).env
    bare = launch(folder, JobSpec(argv=("/bin/script",)), rest=narrow).env

    assert not call.keys() & {"BASH_FUNC_date%%", "LD_PRELOAD", "LEVEL"}
    assert (call["PATH"], call["OURS"]) == ("/usr/bin:/bin", "1")
    assert not command.keys() & {"BASH_FUNC_date%%", "LD_PRELOAD", "OURS"}
    assert (command["PATH"], command["LEVEL"], command["BGD_JOB_ID"]) == ("/usr/bin:/bin", "2", "7")
    assert command == {**bare, "LEVEL": "2"}


def test_class_job_gets_no_variables_that_concern_only_the_daemon(folder, monkeypatch):
    monkeypatch.setenv("KEPT", "yes")
    for name in ("NOTIFY_SOCKET", "LISTEN_FDS", "WATCHDOG_USEC", "BGD_CONFIG", "INVOCATION_ID"):
        monkeypatch.setenv(name, "x")
    env = launch(folder, JobSpec(target="app:f")).env
    assert env["KEPT"] == "yes"
    assert not {"NOTIFY_SOCKET", "LISTEN_FDS", "WATCHDOG_USEC", "BGD_CONFIG", "INVOCATION_ID"} & env.keys()


def test_variable_of_the_daemon_that_is_not_utf_8_is_left_out(folder, monkeypatch):
    monkeypatch.setenv("LATIN", "caf\udce9")
    got = launch(folder, JobSpec(target="app:f"))
    assert "LATIN" not in got.env
    assert encode(got)


def test_job_without_a_folder_runs_in_the_folder_of_the_daemon(folder, monkeypatch):
    monkeypatch.chdir(folder)
    assert launch(folder, JobSpec(target="app:f")).cwd == str(folder)


def test_jobs_run_in_the_root_if_the_folder_of_the_daemon_was_removed(folder, monkeypatch):
    gone = folder / "gone"
    gone.mkdir()
    config = configure(folder)
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert build_launch(KEY, JOB, JobSpec(target="app:f"), 1, config).cwd == "/"


def test_jobs_run_in_the_root_if_the_folder_of_the_daemon_is_not_utf_8(folder, monkeypatch):
    odd = folder / "caf\udce9"
    odd.mkdir()
    monkeypatch.chdir(odd)
    assert launch(folder, JobSpec(target="app:f")).cwd == "/"


# --- on Slurm


CLUSTER = """
[executors.cluster]
kind = "slurm"
folder = "/shared"
partition = "long"
account = "all"
options = ["--qos=low"]
"""


def pilot(folder, **options):
    place = Place(executor="cluster", kind=ExecutorKind.SLURM)
    config = configure(folder, rest=CLUSTER)
    got = build_launch(KEY, JOB, JobSpec(argv=("true",), **options), 0, config, place=place)
    assert got.slurm is not None
    assert got.slurm.pilot is not None
    return got.slurm.pilot


def test_the_trace_of_the_caller_reaches_every_job_and_that_of_the_daemon_none(folder, monkeypatch):
    monkeypatch.setenv("TRACEPARENT", "of the daemon")
    monkeypatch.setenv("TRACESTATE", "of the daemon")
    trace = ("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", "a=1")
    narrow = '[security]\nallowed_commands = ["/bin/script"]'
    call, command = (
        JobSpec(target="app:f"),
        JobSpec(argv=("/bin/script",), env={"TRACEPARENT": "of its shell"}),
    )

    for spec in (call, command):
        env = launch(folder, replace(spec, trace=trace), rest=narrow).env
        assert (env["TRACEPARENT"], env["TRACESTATE"]) == trace
        assert not launch(folder, spec, rest=narrow).env.keys() & {"TRACEPARENT", "TRACESTATE"}
    warm = launch(folder, replace(call, trace=trace)).warm
    assert (warm.base["TRACEPARENT"], warm.base["TRACESTATE"]) == (None, None)


def test_a_job_on_a_node_knows_that_it_cannot_reach_the_daemon(folder):
    place = Place(executor="cluster", kind=ExecutorKind.SLURM)
    config = configure(folder, rest=CLUSTER)

    there = build_launch(KEY, JOB, JobSpec(argv=("true",)), 0, config, place=place)
    here = build_launch(KEY, JOB, JobSpec(argv=("true",)), 0, config)

    assert there.env["BGD_ON_NODE_OF"] == "cluster"
    assert "BGD_ON_NODE_OF" not in here.env


@pytest.mark.parametrize(
    ("options", "argument"),
    [
        ({"nodes": 2}, None),
        ({"gpus": 1}, "--gpus=1"),
        ({"gres": "gpu:a100:1"}, "--gres=gpu:a100:1"),
        ({"partition": "short"}, "--partition=short"),
        ({"account": "physics"}, "--account=physics"),
        ({"time": "1-0"}, "--time=1-0"),
        ({"time": "30", "timeout": 5.0}, "--time=30"),
        ({"slurm_options": ("--qos=high",)}, "--qos=high"),
    ],
)
def test_a_job_that_asks_slurm_for_something_gets_a_pilot_of_its_own(folder, options, argument):
    got = pilot(folder, **options)

    assert got.alone
    assert argument is None or argument in got.own
    assert argument not in got.options  # of the pilots for many


def test_a_job_that_asks_for_processors_and_memory_shares_a_pilot(folder):
    got = pilot(folder, cpus=2, memory=10**9, timeout=30.0)

    assert not got.alone
    assert "--time=3" in got.own  # minutes, if it is too large for those that there are


def test_what_a_job_asks_for_takes_the_place_of_what_its_executor_says(folder):
    own = pilot(folder, partition="short", account="physics", slurm_options=("--qos=high", "--exclusive")).own

    assert "--partition=short" in own
    assert "--account=physics" in own
    assert not {"--partition=long", "--account=all"} & set(own)
    assert (
        own.index("--qos=low") < own.index("--qos=high") < own.index("--exclusive")
    )  # sbatch: the last wins
