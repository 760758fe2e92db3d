from __future__ import annotations

import pytest

from bgd.core.spec import Isolation, JobSpec
from bgd.daemon.access import (
    MAX_KEPT_KEYS,
    check_keys,
    check_may_run,
    check_target,
    check_variables,
    may_connect,
)
from bgd.errors import Full, NotAllowed, Refused
from tests.daemon.harness import command, configure

DAEMON = 1000
CLASSES = '[security]\nallowed_classes = ["app.services.Report", "app.tasks.*"]'
RUNNERS = r"""
[security]
allowed_classes = ['php::App\Jobs\SendMail', "node::*"]
[runners.php]
argv = ["php"]
"""
COMMANDS = '[security]\nallowed_commands = ["/bin/true"]'


def test_options_of_sbatch_are_refused_where_only_some_programs_may_run(folder):
    spec = JobSpec(argv=("/bin/true",), slurm_options=("--container=/tmp/mine",))

    with pytest.raises(NotAllowed, match="set them in `options` of the executor"):
        check_may_run(spec, configure(folder, rest=COMMANDS))
    check_may_run(spec, configure(folder))


@pytest.mark.parametrize("uid", [DAEMON, 0])
def test_daemon_serves_its_own_user_and_root(uid):
    assert may_connect(uid, DAEMON)


@pytest.mark.parametrize("uid", [1001, 65534, -1])
def test_daemon_serves_nobody_else(uid):
    assert not may_connect(uid, DAEMON)


@pytest.mark.parametrize(
    "target", ["app.services:Report.run", "app.tasks:anything", "app.tasks:Class.method"]
)
def test_listed_class_may_run(folder, target):
    check_may_run(JobSpec(target=target), configure(folder, rest=CLASSES))


@pytest.mark.parametrize("target", ["app.services:Other.run", "app.tasks.below:x", "app:services.Other"])
def test_unlisted_class_is_refused_with_key_and_file(folder, target):
    with pytest.raises(NotAllowed, match=rf"allowed_classes of {folder}/bgd.toml: add "):
        check_may_run(JobSpec(target=target), configure(folder, rest=CLASSES))


def test_the_refusal_of_a_class_says_whether_its_module_is_on_the_path(folder, tmp_path):
    (tmp_path / "app/jobs").mkdir(parents=True)
    (tmp_path / "app/tasks.py").write_text("raise SystemExit")  # it is not imported
    closed = tmp_path / "closed"
    config = configure(folder, rest=f'[python]\npath = ["{closed}", "{tmp_path}"]')

    for target, words in {
        "app.tasks:send": f"; app.tasks is on [python] path, in {tmp_path}",
        "app.jobs:Mail.send": f"; app.jobs is on [python] path, in {tmp_path}",
        "app.other:send": "; app.other is not on [python] path: add its folder there,"
        " unless the interpreter has it installed",
        "os.path:join": "then `bgctl reload`",
    }.items():
        with pytest.raises(NotAllowed) as refused:
            check_may_run(JobSpec(target=target), config)
        assert str(refused.value).endswith(words)


@pytest.mark.parametrize(
    "name",
    [
        "DJANGO_SETTINGS_MODULE",
        "OMP_TOOL_LIBRARIES",
        "PYTHONPATH",
        "PYTHONSTARTUP",
        "LD_PRELOAD",
        "HOME",
        "PATH",
        "OPENSSL_CONF",
    ],
)
def test_unlisted_variable_is_refused_for_a_class_job(folder, name):
    spec = JobSpec(target="app.tasks:anything", env={"FINE": "1", name: "/evil"})

    with pytest.raises(NotAllowed, match=f"takes no {name} from outside"):
        check_variables(spec, configure(folder, rest=f'{CLASSES}\n[python]\nenv = ["FINE"]'))


@pytest.mark.parametrize("target", ["php::App\\Jobs\\SendMail", "php::App\\Jobs\\SendMail@handle"])
def test_listed_class_of_a_runner_may_run(folder, target):
    check_may_run(JobSpec(target=target), configure(folder, rest=RUNNERS))


@pytest.mark.parametrize(
    ("target", "add"),
    [
        ("php::App\\Jobs\\Other", r"add 'php::App\Jobs\Other' there, then"),
        ("php::App\\Jobs\\Other@run", r"add 'php::App\Jobs\Other@run' there, then"),
        ("php::app\\jobs\\sendmail", r"add 'php::app\jobs\sendmail' there, then"),
        ("php::App.other", 'add "php::App.other" there, then'),
    ],
)
def test_unlisted_class_of_a_runner_is_refused_with_what_to_add(folder, target, add):
    with pytest.raises(NotAllowed) as refusal:
        check_may_run(JobSpec(target=target), configure(folder, rest=RUNNERS))

    assert add in str(refusal.value)


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("node::send", r"there is no \[runners.node\] in .*bgd.toml; known are php"),
        ("phpp::App", r"there is no \[runners.phpp\] in .*bgd.toml; did you mean php\?"),
    ],
)
def test_unknown_runner_is_refused_with_the_known_ones(folder, target, words):
    with pytest.raises(NotAllowed, match=words):
        check_may_run(JobSpec(target=target), configure(folder, rest=RUNNERS))


def test_refusal_says_if_no_runner_is_configured(folder):
    with pytest.raises(NotAllowed, match=r"no \[runners.app\] in .*bgd.toml; it names no runner"):
        check_may_run(JobSpec(target="app::f"), configure(folder))


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("cwd", {"cwd": "/"}),
        ("NODE_OPTIONS", {"env": {"NODE_OPTIONS": "--require=/x"}}),
        ("A", {"env": {"A": ""}}),
    ],
)
def test_runner_takes_no_folder_and_no_environment_from_outside(folder, name, given):
    with pytest.raises(NotAllowed, match=f"takes no {name} from outside"):
        check_may_run(JobSpec(target="php::App\\Jobs\\SendMail", **given), configure(folder, rest=RUNNERS))


def test_a_job_of_a_runner_takes_no_isolation(folder):
    spec = JobSpec(target="php::App\\Jobs\\SendMail", isolation=Isolation.FORK)

    with pytest.raises(Refused, match="isolation is for Python class jobs"):
        check_may_run(spec, configure(folder, rest=RUNNERS))


def test_default_allows_no_class(folder):
    with pytest.raises(NotAllowed, match="allowed_classes"):
        check_may_run(JobSpec(target="app:f"), configure(folder))


def test_malformed_target_is_refused_before_any_list_is_checked(folder):
    with pytest.raises(Refused, match=r"must be package\.module:Class\.method"):
        check_may_run(JobSpec(target="app.tasks:__import__"), configure(folder, rest=CLASSES))


@pytest.mark.parametrize(
    "arguments", ["", "[", '{"args": 1}', "[1]", "\ud800", '{"args": [NaN]}', "[" * 100_000]
)
def test_arguments_that_are_not_json_are_refused(folder, arguments):
    with pytest.raises(Refused, match="arguments must be JSON") as caught:
        check_may_run(JobSpec(target="app.tasks:f", arguments=arguments), configure(folder, rest=CLASSES))
    assert not isinstance(caught.value, NotAllowed)


def test_any_command_may_run_by_default(folder):
    check_may_run(command("whatever"), configure(folder))


def test_only_listed_commands_may_run_when_there_is_a_list(folder):
    config = configure(folder, rest=COMMANDS)
    check_may_run(command("/bin/true", "x"), config)
    for program in ("true", "/bin/true ", "/bin//true", "/bin/../bin/true", "/bin/false"):
        with pytest.raises(NotAllowed, match=rf"allowed_commands of {folder}/bgd.toml"):
            check_may_run(command(program), config)


def test_a_target_where_none_is_configured_is_refused_with_file_and_lines(folder):
    with pytest.raises(Refused, match=rf"in {folder}/bgd.toml: add the lines `\[notify.ops\]` and `mail ="):
        check_target("ops", configure(folder))


def test_a_target_that_is_not_configured_is_refused_with_those_that_are(folder):
    targets = configure(folder, rest='[notify.boss]\nmail = "root"\n[notify.night]\nmail = "root"\n')

    with pytest.raises(Refused, match=r"^there is no \[notify.zzz\]; configured: boss, night$"):
        check_target("zzz", targets)


def test_the_number_of_keys_that_finished_jobs_have_is_limited():
    keeping = command(key="site", key_for=10.0)
    check_keys(keeping, MAX_KEPT_KEYS - 1)
    check_keys(command(key="site"), MAX_KEPT_KEYS)
    with pytest.raises(Full, match=r"^1000000 finished jobs still have their keys \(key_for\)"):
        check_keys(keeping, MAX_KEPT_KEYS)
