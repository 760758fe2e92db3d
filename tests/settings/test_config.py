"""The configuration: defaults, files, the environment, and error messages."""

from __future__ import annotations

import os
import pwd
import re
import sys
import tomllib
from pathlib import Path

import pytest
from msgspec.structs import replace

from bgd.core.breakers import BreakerRule
from bgd.core.job import Decision, NextStep, Rate, RetryPolicy
from bgd.core.spec import ExecutorKind
from bgd.core.target import ClassPolicy, class_policy, parse_target
from bgd.daemon.queue_controls import breaker_rules
from bgd.errors import ConfigError
from bgd.settings.config import (
    PORTS,
    SCHEMA,
    Auth,
    Config,
    ExecutorConfig,
    HttpConfig,
    NotifyTarget,
    QueueConfig,
    RetentionConfig,
    RunnerConfig,
    load,
)
from bgd.settings.paths import SYSTEM_PATHS
from bgd.settings.sources import MAX_FILE, names_of
from bgd.settings.values import TcpAddress, UnixAddress
from bgd.wire.requests import ShutdownMode

DOCUMENTED = Path(__file__).parents[2] / "etc" / "bgd.toml"
HOME = {"HOME": "/home/ada"}


@pytest.fixture(autouse=True)
def _without_a_file_of_this_machine(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("bgd.settings.config.SYSTEM_PATHS", replace(SYSTEM_PATHS, config="/nowhere/bgd.toml"))


@pytest.fixture
def written(tmp_path: Path):
    """Load a configuration from this text."""

    def load_text(text: str | bytes, **environ: str) -> Config:
        file = tmp_path / "bgd.toml"
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
        return load(str(file), environ={**HOME, **environ})

    return load_text


def test_a_byte_order_mark_at_the_beginning_is_ignored(written):
    assert written(b"\xef\xbb\xbf[daemon]\nslots = 7\n").daemon.slots == 7


# --- defaults and places --------------------------------------------------------------------------


def test_defaults_need_no_file():
    config = load(environ=HOME)

    assert config.source is None
    assert config.daemon.state_dir == "/home/ada/.local/state/bgd"
    assert config.daemon.socket == "/home/ada/.local/state/bgd/bgd.sock"
    assert config.log_dir == "/home/ada/.local/state/bgd/logs"
    assert config.daemon.slots == len(os.sched_getaffinity(0))
    assert config.daemon.on_stop is ShutdownMode.LEAVE
    assert config.retry == RetryPolicy(retries=3, delay=5, backoff=1, max_delay=3600, jitter=0.1)
    assert config.retry_commands == replace(config.retry, retries=0)
    assert config.security.allowed_classes == ()
    assert config.security.allowed_commands == ("*",)
    assert config.python.interpreter == sys.executable
    assert config.logs.max_bytes == 100_000_000
    assert config.queues == {}
    assert config.http == HttpConfig(listen=TcpAddress("127.0.0.1", 8643), auth=Auth.TOKEN, ports=PORTS)


def test_system_daemon_uses_the_paths_of_the_machine():
    config = load(system=True, environ=HOME)

    assert config.daemon.state_dir == "/var/lib/bgd"
    assert config.daemon.socket == "/run/bgd/bgd.sock"
    assert config.log_dir == "/var/log/bgd"
    assert config.http.ports == 1


def test_xdg_folders_are_respected_unless_relative():
    config = load(environ={**HOME, "XDG_STATE_HOME": "/var/ada"})
    assert config.daemon.state_dir == "/var/ada/bgd"

    config = load(environ={**HOME, "XDG_STATE_HOME": "here"})
    assert config.daemon.state_dir == "/home/ada/.local/state/bgd"


def test_home_comes_from_the_database_of_users_if_the_environment_has_none(monkeypatch):
    monkeypatch.setenv("HOME", "")  # of this process, which is not asked

    home = pwd.getpwuid(os.getuid()).pw_dir

    assert load(environ={}).daemon.state_dir == f"{home}/.local/state/bgd"
    assert load(environ={"HOME": ""}).daemon.state_dir == f"{home}/.local/state/bgd"
    assert load(environ={"HOME": "/"}).daemon.state_dir == "/.local/state/bgd"
    assert load(environ={"HOME": "/", "BGD_BACKUP_FOLDER": "~/copies"}).backup.folder == "/copies"


def test_user_without_a_home_is_told_so(monkeypatch):
    """As a container has one that was only given a number."""
    monkeypatch.setattr(pwd, "getpwuid", {}.__getitem__)

    with pytest.raises(
        ConfigError, match=f"HOME is not set, and no user has the uid {os.getuid()}: set HOME"
    ):
        load(environ={})


def test_home_that_is_not_an_absolute_path_is_refused():
    with pytest.raises(ConfigError, match="HOME is 'ada', which is not an absolute path: correct it"):
        load(environ={"HOME": "ada"})


def test_users_file_is_found_in_the_config_home(tmp_path):
    file = tmp_path / "bgd" / "bgd.toml"
    file.parent.mkdir()
    file.write_text("daemon.slots = 7")

    config = load(environ={**HOME, "XDG_CONFIG_HOME": str(tmp_path)})

    assert config.daemon.slots == 7
    assert config.source == str(file)


def test_environment_names_the_file(tmp_path):
    file = tmp_path / "other.toml"
    file.write_text("daemon.slots = 3")

    assert load(environ={**HOME, "BGD_CONFIG": str(file)}).daemon.slots == 3


def test_logs_and_socket_move_with_the_state_folder(written):
    config = written("[daemon]\nstate_dir = '/data/bgd'")

    assert config.daemon.socket == "/data/bgd/bgd.sock"
    assert config.log_dir == "/data/bgd/logs"


def test_system_socket_stays_when_the_state_folder_moves(tmp_path):
    file = tmp_path / "bgd.toml"
    file.write_text("daemon.state_dir = '/data/bgd'")

    config = load(str(file), system=True, environ=HOME)

    assert config.daemon.socket == "/run/bgd/bgd.sock"
    assert config.log_dir == "/data/bgd/logs"


# --- the documented file --------------------------------------------------------------------------


def test_documented_file_equals_the_built_in_defaults():
    assert replace(load(str(DOCUMENTED), environ=HOME), source=None, queues={}) == load(environ=HOME)
    assert load(str(DOCUMENTED), environ=HOME).queues == {"default": QueueConfig(slots=None)}


def test_documented_file_has_every_key_and_right_defaults(written):
    text = re.sub(r"^# (?=\w+ = )", "", DOCUMENTED.read_text(), flags=re.MULTILINE)
    without_defaults = ("classes.", "runners.", "executors.", "resources.", "schedules.", "notify.")
    keys = {  # which load refuses to exceed
        name for name in names_of(SCHEMA) if not name.startswith(without_defaults)
    }

    for section, table in tomllib.loads(text).items():
        for name, value in table.items():
            for key in [f"{name}.{below}" for below in value] if isinstance(value, dict) else [name]:
                keys.discard(f"{section}.{key}".replace("queues.default", "queues.*"))

    inherited = {f"retry.commands.{name}" for name in ("delay", "backoff", "max_delay", "jitter")}
    assert keys == inherited
    assert replace(written(text), source=None, queues={}) == load(environ=HOME)


# --- values ---------------------------------------------------------------------------------------


def test_every_key_of_a_file_has_its_effect(written, tmp_path):
    config = written("""
        [daemon]
        state_dir = "state"
        socket = "~/bgd.sock"
        slots = 4
        grace = "1m"
        on_stop = "requeue"
        [retry]
        retries = 5
        delay = "500ms"
        backoff = 2
        max_delay = 60
        jitter = 0
        [retry.commands]
        delay = 9.5
        [security]
        allowed_classes = ["app.services.*", "app.mail.Mailer"]
        allowed_commands = ["/bin/echo"]
        [python]
        interpreter = "venv/bin/python"
        path = ["src", "~/lib", "/opt/lib"]
        [logs]
        max_bytes = "64KiB"
        on_limit = "kill"
        [queues.gpu]
        slots = 1
        [queues."io.slow"]
        slots = "unlimited"
    """)

    assert config.daemon.state_dir == f"{tmp_path}/state"
    assert config.daemon.socket == "/home/ada/bgd.sock"
    assert config.daemon.slots == 4
    assert config.daemon.grace == 60
    assert config.daemon.on_stop is ShutdownMode.REQUEUE
    assert config.retry == RetryPolicy(retries=5, delay=0.5, backoff=2, max_delay=60, jitter=0)
    assert config.retry_commands == RetryPolicy(retries=0, delay=9.5, backoff=2, max_delay=60, jitter=0)
    assert config.security.allowed_classes == ("app.services.*", "app.mail.Mailer")
    assert config.security.allowed_commands == ("/bin/echo",)
    assert config.python.interpreter == f"{tmp_path}/venv/bin/python"
    assert config.python.path == (f"{tmp_path}/src", "/home/ada/lib", "/opt/lib")
    assert config.logs.max_bytes == 65_536
    assert config.logs.on_limit == "kill"
    assert config.queues == {"gpu": QueueConfig(slots=1), "io.slow": QueueConfig(slots=None)}


def test_runner_is_a_program_with_its_arguments_in_a_folder(written, tmp_path):
    config = written("""
        [runners.php]
        argv = ["php", "artisan", "bgd:run"]
        cwd = "~/shop"
        [runners.node_20]
        argv = ["bin/run", ""]
    """)

    assert config.runners == {
        "php": RunnerConfig(argv=("php", "artisan", "bgd:run"), cwd="/home/ada/shop"),
        "node_20": RunnerConfig(argv=(f"{tmp_path}/bin/run", ""), cwd=None),
    }


def test_calls_of_a_class_pause_after_failures_within_a_time(written):
    text = """
        notify.ops.mail = "root"
        [classes."app.*"]
        pause_after = "1 failure/1h"
        notify = "ops"
        delay = ["10s", 20, "40s"]
        [classes."app.Report"]
        pause_after = "5 failures/10m"
        pause_for = "1m"
    """
    config = written(text)
    assert breaker_rules(config) == {
        "app.*": BreakerRule(Rate(1, 3600.0, "1 failure/1h"), 300.0),
        "app.Report": BreakerRule(Rate(5, 600.0, "5 failures/10m"), 60.0),
    }
    of_report = class_policy(parse_target("app:Report.run"), config.classes)
    assert of_report.breaker == "app.Report"
    assert of_report.options == {"notify": "ops", "retry_delay": (10.0, 20.0, 40.0)}
    assert class_policy(parse_target("app:other"), config.classes).breaker == "app.*"


def test_pauses_may_come_from_the_environment(tmp_path):
    config = load(environ={"HOME": str(tmp_path), "BGD_RETRY_DELAY": "10s,20s"})
    assert config.retry.delay == (10.0, 20.0)


def test_a_rate_is_a_number_of_starts_and_a_time(written):
    assert written('queues.api.rate = "10/1m30s"').queues["api"].rate == Rate(10, 90.0, "10/1m30s")
    assert written('queues.api.rate = "unlimited"').queues["api"].rate is None


def test_tokens_of_resources_are_names_or_a_number(written):
    config = written('resources.gpu = ["0", "GPU-7f:1"]\nresources.license = 3\nresources.none = 0')

    assert config.resources == {"gpu": ("0", "GPU-7f:1"), "license": ("1", "2", "3"), "none": ()}
    environ = {"BGD_RESOURCES_GPU": "2", "BGD_RESOURCES_DISK": "a,b", **HOME}
    assert load(environ=environ).resources == {"gpu": ("1", "2"), "disk": ("a", "b")}


def test_executors_are_named_and_queues_are_bound_to_them(written):
    config = written(
        """
        [executors.gentle]
        kind = "prefix"
        argv = ["nice", "-n", "7"]
        [executors.plain]
        kind = "local"
        [executors.cluster]
        kind = "slurm"
        folder = "~/shared"
        partition = "short"
        requests_per_second = 1.5
        [queues.render]
        executor = "gentle"
        """
    )

    assert config.executors == {
        "gentle": ExecutorConfig(
            kind=ExecutorKind.PREFIX,
            argv=("nice", "-n", "7"),
            folder="/home/ada/.local/state/bgd/executors/gentle",
            python=sys.executable,
        ),
        "plain": ExecutorConfig(
            kind=ExecutorKind.LOCAL,
            folder="/home/ada/.local/state/bgd/executors/plain",
            python=sys.executable,
        ),
        "cluster": ExecutorConfig(
            kind=ExecutorKind.SLURM,
            folder="/home/ada/shared",
            python=sys.executable,
            partition="short",
            requests_per_second=1.5,
        ),
    }
    assert config.queues["render"].executor == "gentle"
    assert QueueConfig().executor == "local"


@pytest.mark.parametrize(
    ("words", "is_shell"),
    [
        ('argv = ["ssh", "build1", "--"]', True),
        ('argv = ["nice", "/usr/bin/ssh", "build1"]', True),
        ('argv = ["ssh", "build1"]\nshell = false', False),
        ('argv = ["su", "bob", "-c"]\nshell = true', True),
        ('argv = ["podman", "exec", "openssh"]', False),
    ],
)
def test_a_prefix_is_read_by_a_shell_if_it_is_ssh_or_says_so(written, words, is_shell):
    assert written(f'[executors.x]\nkind = "prefix"\n{words}').executors["x"].shell is is_shell


def test_yes_or_no_may_come_from_the_environment():
    environ = HOME | {"BGD_EXECUTORS_X_KIND": "prefix", "BGD_EXECUTORS_X_ARGV": "sh,-c"}

    assert load(environ=environ | {"BGD_EXECUTORS_X_SHELL": "true"}).executors["x"].shell is True
    with pytest.raises(ConfigError, match="must be true or false"):
        load(environ=environ | {"BGD_EXECUTORS_X_SHELL": "yes"})


def test_runner_may_come_from_the_environment(written):
    config = written("", BGD_RUNNERS_PHP_ARGV="/usr/bin/php, artisan", BGD_RUNNERS_PHP_CWD="/srv/shop")

    assert config.runners == {"php": RunnerConfig(argv=("/usr/bin/php", "artisan"), cwd="/srv/shop")}


def test_a_target_of_notifications_is_reached_in_one_way(written, tmp_path):
    config = written("""
        [notify.pager]
        program = ["bin/page", "--urgent"]
        [notify.ops]
        mail = "ops+bgd@example.org"
        [notify."root.mail"]
        mail = "root"
        [notify.checks]
        url = "https://hc-ping.com/c0ffee00-1234/nightly?create=1"
        [notify.own]
        url = "http://[::1]:8000"
    """)

    assert config.notify == {
        "pager": NotifyTarget(program=(f"{tmp_path}/bin/page", "--urgent")),
        "ops": NotifyTarget(mail="ops+bgd@example.org"),
        "root.mail": NotifyTarget(mail="root"),
        "checks": NotifyTarget(url="https://hc-ping.com/c0ffee00-1234/nightly?create=1"),
        "own": NotifyTarget(url="http://[::1]:8000"),
    }


def test_a_target_says_what_it_is_told(written):
    config = written(
        """
        [daemon]
        notify = "ops"
        [notify.ops]
        mail = "root"
        [notify.pager]
        mail = "root"
        on = ["recovered", "failed", "failed"]
        failures = 3
        per_minute = 2
        """,
        BGD_NOTIFY_CHECKS_URL="https://hc-ping.com/1234",
        BGD_NOTIFY_CHECKS_ON="started,succeeded,failed",
    )

    assert (config.daemon.notify, written("daemon.notify = ''").daemon.notify) == ("ops", None)
    assert config.notify["ops"] == NotifyTarget(mail="root", on=("failed",), failures=1, per_minute=10)
    assert config.notify["pager"] == NotifyTarget(
        mail="root", on=("failed", "recovered"), failures=3, per_minute=2
    )
    assert config.notify["checks"].on == ("started", "failed", "succeeded")


@pytest.mark.parametrize(
    "url",
    [
        "http://example.org/s3cret",
        "http://127.0.0.1.example.org/s3cret",
        "https://user@example.org/s3cret",
        "https://example.org/s3cret#",
        "https://example.org/s3 cret",
        "https://example.org:65536/s3cret",
        "https://example.org/s3cret\\r\\nHost: a",
        "https://ex\u00e4mple.org/s3cret",
        "https://example.org?s3cret",
        "ftp://example.org/s3cret",
        "https:///s3cret",
        "s3cret" * 400,
    ],
)
def test_a_wrong_url_is_refused_and_not_shown(written, url):
    with pytest.raises(
        ConfigError, match=r"notify\.x\.url must be .* http only for this machine$"
    ) as refusal:
        written(f'notify.x.url = "{url}"')

    assert "s3cret" not in str(refusal.value)


def test_classes_of_other_languages_may_be_allowed_and_have_policies(written):
    config = written(r"""
        [security]
        allowed_classes = ['php::App\Jobs\*', "node::mailer.send"]
        [classes.'php::App\Jobs\SendMail']
        retries = 5
        [classes."node::mailer.*".on_exceptions]
        'App\Exceptions\Busy' = "snooze 5m"
        "Net::Timeout" = "fail"
    """)

    assert config.security.allowed_classes == ("php::App\\Jobs\\*", "node::mailer.send")
    assert config.classes == {
        "php::App\\Jobs\\SendMail": ClassPolicy({"retries": 5}),
        "node::mailer.*": ClassPolicy(
            on_exceptions=(
                ("App\\Exceptions\\Busy", Decision(NextStep.SNOOZE, 300.0)),
                ("Net::Timeout", Decision(NextStep.FAIL)),
            )
        ),
    }


def test_interpreter_without_a_folder_is_left_to_the_search_path(written):
    assert written("python.interpreter = 'python3.12'").python.interpreter == "python3.12"


def test_environment_overrides_the_file(written, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = written(
        "[daemon]\nslots = 4\ngrace = 3",
        BGD_DAEMON_SLOTS="8",
        BGD_DAEMON_STATE_DIR="here",
        BGD_RETRY_COMMANDS_RETRIES="2",
        BGD_RETRY_JITTER="0.5",
        BGD_SECURITY_ALLOWED_CLASSES="app.services.*, app.mail.Mailer",
        BGD_SECURITY_ALLOWED_COMMANDS='["/bin/a,b"]',
        BGD_QUEUES_GPU_SLOTS="2",
    )

    assert config.daemon.slots == 8
    assert config.daemon.grace == 3
    assert config.daemon.state_dir == f"{tmp_path}/here"
    assert config.retry_commands.retries == 2
    assert config.retry.jitter == 0.5
    assert config.security.allowed_classes == ("app.services.*", "app.mail.Mailer")
    assert config.security.allowed_commands == ("/bin/a,b",)
    assert config.queues == {"gpu": QueueConfig(slots=2)}


def test_variables_of_jobs_are_not_settings():
    names = ("SOCKET", "JOB_ID", "ATTEMPT", "QUEUE", "SLOT", "RUN", "RESULT_FD")

    assert load(environ=HOME | {f"BGD_{name}": "17" for name in names}) == load(environ=HOME)


# --- policies of classes --------------------------------------------------------------------------


def test_policies_of_classes_are_read_by_their_patterns(written):
    config = written("""
        [classes."app.services.*"]
        retries = 5
        delay = "30s"
        backoff = 2
        max_delay = "1h"
        jitter = 0
        timeout = "10m"
        queue = "services"
        priority = -5
        nice = 5
        memory_max = "64MB"
        cpu_max = 150
        pids_max = 200
        open_files = 100
        core_max = 0
        isolation = "reuse"
        limit = ["customer:{0}", 2]
        on_limit = "skip"
        key_until = "start"
        key_for = "10m"
        [classes."app.services.Report"]
        limit = "report"
        [classes."app.services.Report".on_exceptions]
        "app.errors.Busy" = "retry 2m"
        "ValueError" = "fail"
        "OSError" = "retry"
        "app.errors.Locked" = "snooze 30s"
    """)

    assert config.classes == {
        "app.services.*": ClassPolicy(
            {
                "retries": 5,
                "retry_delay": 30.0,
                "backoff": 2.0,
                "max_delay": 3600.0,
                "jitter": 0.0,
                "timeout": 600.0,
                "queue": "services",
                "priority": -5,
                "nice": 5,
                "memory_max": 64_000_000,
                "cpu_max": 150,
                "pids_max": 200,
                "open_files": 100,
                "core_max": 0,
                "isolation": "reuse",
                "limit": ("customer:{0}", 2),
                "on_limit": "skip",
                "key_until": "start",
                "key_for": 600.0,
            }
        ),
        "app.services.Report": ClassPolicy(
            {"limit": ("report", 1)},
            on_exceptions=(
                ("app.errors.Busy", Decision(NextStep.RETRY, 120.0)),
                ("ValueError", Decision(NextStep.FAIL)),
                ("OSError", Decision(NextStep.RETRY)),
                ("app.errors.Locked", Decision(NextStep.SNOOZE, 30.0)),
            ),
        ),
    }


def test_documented_policy_can_be_read(written):
    example = re.search(r"^# \[classes.*(?:\n#   .*)+", DOCUMENTED.read_text(), flags=re.MULTILINE)
    assert example is not None

    config = written(re.sub("^# *", "", example[0], flags=re.MULTILINE))

    policy = config.classes["app.services.*"]
    named = [policy.options[name] for name in ("retries", "timeout", "queue", "priority")]
    assert named == [5, 600.0, "services", 5]
    assert [name for name, _ in policy.on_exceptions or ()] == [
        "ValueError",
        "app.errors.Busy",
        "app.errors.Locked",
    ]


def test_finished_jobs_may_be_kept_for_ever(written):
    config = written(
        """
        [retention]
        succeeded_for = "unlimited"
        failed_for = "12h"
        max_finished = 7
    """,
        BGD_RETENTION_LOGS_TOTAL="unlimited",
    )

    assert config.retention == RetentionConfig(
        succeeded_for=None, failed_for=43_200, max_finished=7, logs_total=None
    )
    assert load(environ=HOME).retention == RetentionConfig(
        succeeded_for=604_800, failed_for=2_592_000, max_finished=100_000, logs_total=5_000_000_000
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[retention]\nfailed_for = 'ever'", ["failed_for = 'ever'", "not a duration", 'write "unlimited"']),
        (
            "[retention]\nmax_finished = -1",
            ['must be a whole number from 0 to 9007199254740992; or write "unlimited"'],
        ),
        ("[retention]\nlogs_total = true", ["logs_total", "must be a size from 0B"]),
        ("[classes.services]\nretries = 1", ["classes.services.retries", "package.module.Class"]),
        ("[classes.'app.*.Report']\nretries = 1", ["'app.*.Report'", "package.module.Class"]),
        ("[classes.'app.*']\nretry = 1", ["app.*.retry is not a key", "did you mean retries?"]),
        (
            "[classes.'app.*']\ntimeout = 0",
            ["timeout = 0: must be a duration above 0s and at most 366d, such as"],
        ),
        ("[classes.'app.*']\npause_after = 5", ["pause_after = 5"]),
        ("[classes.'app.*']\npause_after = '0 failures/1m'", ['must be like "5 failures/10m"']),
        ("[classes.'app.*']\npause_after = '101 failures/1m'", ["1 to 100 failures"]),
        ("[classes.'app.*']\npause_after = '5/10m'", ['must be like "5 failures/10m"']),
        ("[classes.'app.*']\npause_after = '5 failures/0s'", ["must be a duration above 0s"]),
        ("[classes.'app.*']\nnotify = 'ops'", ["there is no [notify.ops]"]),
        (
            "[classes.'app.*']\ndelay = []",
            ["must be a duration from 0s to 366d, or a list of 1 to 100 of them"],
        ),
        ("[classes.'app.*']\ndelay = ['1s', 'x']", ["'x' is not a duration"]),
        ("[classes.'app.*']\nisolation = 'thread'", ["isolation = 'thread'", "one of fork, spawn, reuse"]),
        ("[classes.'app.*']\nmemory_max = '1kB'", ["memory_max = '1kB'", "must be a size from 1MB"]),
        ("[classes.'app.*']\nnice = 20", ["nice = 20: must be a whole number from -20 to 19"]),
        ("[daemon]\ncgroups = 'none'", ["cgroups", "must be one of limits, all"]),
        (
            "[classes.'app.*']\nlimit = 5",
            [
                "limit = 5: must be a key of 1 to 200 characters, or one and a number",
                'such as "customer:{0}" or ["{0}", 2]',
            ],
        ),
        (
            "[classes.'app.*']\nlimit = 'c:{0.id}'",
            ["limit", "'c:{0.id}': write {0} or {name} for an argument"],
        ),
        ("[classes.'app.*']\non_limit = 'fail'", ["on_limit = 'fail'", "must be one of wait, skip"]),
        ("[classes.'app.*']\nqueue = 'a b'", ["queue = 'a b'", "at most 64 letters"]),
        (
            "[classes.'app.*']\npriority = 1001",
            ["priority = 1001: must be a whole number from -1000 to 1000"],
        ),
        ("[classes.'app.*']\non_exceptions = 'fail'", ["must be a table", "snooze 5m"]),
        ("[classes.'app.*'.on_exceptions]\n'a b' = 'fail'", ["'a b' is not the name of an exception"]),
        ("[classes.'app.*'.on_exceptions]\nx = 'ignore'", ["'ignore' does not say", "snooze 5m"]),
        ("[classes.'app.*'.on_exceptions]\nx = 'snooze'", ["'snooze' does not say"]),
        ("[classes.'app.*'.on_exceptions]\nx = 'fail 5s'", ["'fail 5s' does not say"]),
        ("[classes.'app.*'.on_exceptions]\nx = 'retry soon'", ["'soon' is not a duration"]),
        ("[classes.'app.*'.on_exceptions]\nx = 'retry 999d'", ["must be a duration from 0s to 366d"]),
        ("[classes.'app.*'.on_exceptions]\nx = 3", ["3 does not say"]),
        (
            "[classes.'app.*'.on_exceptions]\n" + "".join(f"x{n} = 'fail'\n" for n in range(101)),
            ["has 101 exceptions, the limit is 100"],
        ),
    ],
)
def test_invalid_policy_is_refused_in_one_line(written, text, words):
    with pytest.raises(ConfigError) as refusal:
        written(text)

    assert "\n" not in str(refusal.value)
    for word in [*words, "bgd.toml"]:
        assert word in str(refusal.value)


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (
            "env = { A = 3 }",
            """schedules.x.env = {'A': 3}: must be at most 4096 names, each with a text""",
        ),
        ("env_pass = 'some'", """schedules.x.env_pass = 'some': must be "all", "none" or a list of names"""),
        (f"except = {['12-24'] * 401}", "schedules.x: except lists 401 days, and at most 400 are allowed"),
        (
            f"env_pass = {[f'V{n}' for n in range(4_097)]}",
            'must be "all", "none" or a list of names, such as ["PATH", "HOME"]',
        ),
    ],
)
def test_a_wrong_value_of_a_schedule_is_told_in_plain_words(written, line, told):
    with pytest.raises(ConfigError) as refusal:
        written(f"[schedules.x]\ncron = '@daily'\ncommand = ['true']\n{line}\n")

    assert told in str(refusal.value)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:80", TcpAddress("127.0.0.1", 80)),
        ("127.9.9.9:0", TcpAddress("127.9.9.9", 0)),
        ("[::1]:8080", TcpAddress("::1", 8080)),
        ("unix:/run/bgd/http.sock", UnixAddress("/run/bgd/http.sock")),
        ("", None),
    ],
)
def test_pages_are_on_a_local_port_on_a_socket_or_nowhere(written, text, address):
    config = written(f"http.listen = '{text}'")

    assert config.http.listen == address
    assert str(address or "") == text


# --- refusals -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[deamon]\nslots = 1", ["deamon is not a section", "did you mean daemon?"]),
        ('[daemon]\n"a\\nb" = 1', [r"daemon.a\nb is not a key"]),
        (f"[daemon]\n{'a' * 5000} = 1", ["daemon.aaa", "aaa... is not a key"]),
        ("[daemon]\nslotz = 1", ["daemon.slotz is not a key", "did you mean slots?"]),
        (
            "[daemon]\nxyzzy = 1",
            [
                "daemon.xyzzy is not a key",
                "known are cgroups, grace, max_load, min_free, min_memory, notify, on_stop, slots",
            ],
        ),
        ("[queues.gpu]\nslot = 1", ["queues.gpu.slot is not a key", "did you mean slots?"]),
        ("[retry.comands]\nretries = 1", ["retry.comands is not a key", "did you mean commands?"]),
        ("daemon = 3", ["daemon is a section", "[daemon]"]),
        (
            "daemon.slots = 'many'",
            ["daemon.slots = 'many': must be a whole number from 1 to 10000; or write \"auto\""],
        ),
        ("daemon.slots = 0", ["daemon.slots = 0: must be a whole number from 1 to 10000; or write"]),
        ("daemon.slots = true", ["daemon.slots = True", "whole number"]),
        ("daemon.grace = '5 parsecs'", ["daemon.grace", "not a duration", "500ms, 5s, 10m"]),
        ("daemon.grace = -1", ["daemon.grace = -1: must be a duration from 0s"]),
        ("daemon.grace = nan", ["daemon.grace = nan: must be a duration from 0s"]),
        ("daemon.on_stop = 'cancel'", ["daemon.on_stop = 'cancel'", "leave, requeue, wait"]),
        ("daemon.state_dir = ''", ["daemon.state_dir", "must be a path"]),
        ('daemon.state_dir = "a\\u0000b"', ["daemon.state_dir", "printable"]),
        ("retry.retries = 1001", ["retry.retries = 1001: must be a whole number from 0 to 1000"]),
        ("retry.retries = '3'", ["retry.retries = '3': must be a whole number"]),
        ("retry.backoff = 0.5", ["retry.backoff = 0.5: must be a number from 1 to 100"]),
        ("retry.jitter = 2", ["retry.jitter = 2: must be a number from 0 to 1"]),
        ("retry.delay = '99999d'", ["retry.delay", "must be a duration from 0s to 366d"]),
        ("retry.jitter = 'much'", ["retry.jitter = 'much': must be a number"]),
        (
            "backup.every = '2s'",
            ["backup.every = '2s': must be a duration from 1m to 366d", '; or write "never"'],
        ),
        (f"retry.retries = {2**70}", ["must be a whole number from 0 to 1000"]),
        ("security.allowed_classes = 'a.B'", ["security.allowed_classes", "a list of texts"]),
        ("security.allowed_classes = ['*']", ["security.allowed_classes", "'*' must be package.module"]),
        ("security.allowed_commands = ['echo']", ["security.allowed_commands", "'echo' must be", "absolute"]),
        ("python.path = [3]", ["python.path = [3]", "text"]),
        ("security.allowed_classes = ['php::App*']", ["security.allowed_classes", "'php::App*' must be"]),
        ('executors.x.kind = "cloud"', ["executors.x.kind", "'cloud'", "local, prefix, slurm"]),
        ('executors.x.kind = "prefix"', ["[executors.x] has no argv", '["nice", "-n", "7"]']),
        ('executors.x.argv = ["nice"]', ["executors.x.argv", "argv is not for an executor of kind local"]),
        (
            '[executors.x]\nkind = "prefix"\nargv = ["nice"]\nfolder = "/x"',
            ["executors.x.folder: folder is not for an executor of kind prefix"],
        ),
        (
            '[executors.x]\nkind = "slurm"\nrequests_per_second = 0',
            ["requests_per_second", "a number from 0.1 to 10000"],
        ),
        ('queues.api.rate = "10"', ["queues.api.rate", 'must be like "10/1m"']),
        ('queues.api.rate = "0/1m"', ["1 to 10000 starts"]),
        ('queues.api.rate = "10/m"', ['must be like "10/1m"']),
        ('queues.api.rate = "10/0s"', ["queues.api.rate"]),
        ("resources.gpu = -1", ["resources.gpu = -1", "0 to 1000"]),
        ("resources.gpu = true", ["resources.gpu", "a list of names"]),
        ('resources.gpu = ["0", "0"]', ["resources.gpu", "different names"]),
        ('resources.gpu = ["0,1"]', ["'0,1' is not a name"]),
        ("resources.GPU = 2", ["resources.GPU", "small letters"]),
        ('executors.local.kind = "prefix"', ["the executor local is always there"]),
        ('executors.Big.kind = "local"', ["executors.Big.kind", "small letters"]),
        ('queues.big.executor = "x y"', ["queues.big.executor", "small letters"]),
        ('queues.big.executor = "locl"', ["queues.big.executor", "[executors.locl]", "did you mean local?"]),
        (
            "runners.php.argv = []",
            ["runners.php.argv = []", "name a program", '["php", "artisan", "bgd:run"]'],
        ),
        ("runners.php.argv = 'php'", ["runners.php.argv = 'php'", "a list of texts"]),
        ("runners.php.argv = ['']", ["runners.php.argv = ['']", "name a program"]),
        ('runners.php.argv = ["a\\u0000"]', ["runners.php.argv", "printable"]),
        (f"runners.php.argv = {['x'] * 101}", ["runners.php.argv", "has 101 words, the limit is 100"]),
        ("runners.php.cwd = '/'", ["[runners.php] has no argv", "name a program"]),
        ("runners.php.args = ['php']", ["runners.php.args is not a key", "did you mean argv?"]),
        (
            "runners.PHP.argv = ['php']",
            ["runners.PHP.argv: 'PHP' is not the name of a runner", "small letter"],
        ),
        ("runners.'a.b'.argv = ['php']", ["'a.b' is not the name of a runner"]),
        ("[runner.php]\nargv = ['php']", ["runner is not a section", "did you mean runners?"]),
        ("notify.x.program = []", ["notify.x.program = []", "name a program", "/usr/local/bin/tell"]),
        ("notify.x.mail = '-OQueueDirectory=/tmp'", ["notify.x.mail", "one address", "ops@example.org"]),
        ("notify.x.mail = 'a@example.org, b@example.org'", ["notify.x.mail", "one address"]),
        ("notify.x.mail = '|/bin/sh'", ["notify.x.mail", "one address"]),
        ("notify.x.mail = 'root'\nnotify.x.url = 'https://example.org'", ["notify.x: a target has either"]),
        ("notify.'a b'.mail = 'root'", ["notify.a b.mail", "not the name of a target", "at most 64 letters"]),
        ("[notify.ops]\non = ['failed']", ["notify.ops: a target has either"]),
        ("notify.ops.on = ['summary']", ["notify.ops.on", "'summary' is not one of started, failed"]),
        ("notify.ops.failures = 0", ["notify.ops.failures = 0: must be a whole number from 1 to 1000"]),
        (
            "notify.ops.per_minute = 1001",
            ["notify.ops.per_minute = 1001: must be a whole number from 1 to 1000"],
        ),
        (
            "".join(f"notify.n{number}.mail = 'root'\n" for number in range(101)),
            ["101 targets are over the limit of 100"],
        ),
        ("daemon.notify = 'ops'", ["daemon.notify = 'ops'", "there is no [notify.ops]", "no target"]),
        (
            "daemon.notify = 'opps'\nnotify.ops.mail = 'root'",
            ["daemon.notify = 'opps'", "there is no [notify.opps]", "did you mean ops?"],
        ),
        ("daemon.notify = 'a b'", ["daemon.notify = 'a b'"]),
        (
            "[schedules.nightly]\ncron = '@daily'\ncommand = ['/bin/true']\nnotify = 'ops'",
            ["schedules.nightly.notify = 'ops'", "there is no [notify.ops]"],
        ),
        (
            "[queues.bgd-notifications]\nslots = 2",
            ["queues.bgd-notifications.slots", "for bgd's own notifications"],
        ),
        ("logs.max_bytes = '100 parsecs'", ["logs.max_bytes", "not a size", "100MB"]),
        ("logs.max_bytes = 10", ["logs.max_bytes = 10: must be a size from 1kB"]),
        ("logs.on_limit = 'stop'", ["logs.on_limit = 'stop'", "truncate, kill"]),
        ("http.listen = '0.0.0.0:80'", ["http.listen", "to this machine only", "a proxy that speaks TLS"]),
        ("http.listen = '[::]:80'", ["http.listen", "to this machine only"]),
        ("http.listen = 'localhost:80'", ["http.listen", '"127.0.0.1:8643"']),
        ("http.listen = '127.0.0.1'", ["http.listen", '"127.0.0.1:8643"']),
        ("http.listen = '127.0.0.1:65536'", ["http.listen", '"127.0.0.1:8643"']),
        ("http.listen = '::1:80'", ["http.listen", '"[::1]:8643"']),
        ("http.listen = 'unix:here'", ["http.listen", "absolute path"]),
        ("http.listen = 'unix:/" + "a" * 107 + "'", ["http.listen", "107 bytes"]),
        ("http.base = 'jobs'", ["http.base", 'such as "/jobs"']),
        ("http.base = '/'", ["http.base", 'such as "/jobs"']),
        ("http.base = '/jobs/'", ["http.base", "does not end with one"]),
        ("http.base = '//evil.example'", ["http.base", 'such as "/jobs"']),
        ("http.base = '/jobs/..'", ["http.base", 'such as "/jobs"']),
        ("http.base = '/a b'", ["http.base", "has only letters"]),
        ("http.base = '/" + "a" * 200 + "'", ["http.base", "at most 200 characters"]),
        ("http.base = 1", ["http.base", "must be printable text"]),
        ("http.metrics_token = 'short'", ["http.metrics_token", "16 to 200", "openssl rand -hex 16"]),
        ("http.metrics_token = 'with a space in it'", ["http.metrics_token", "16 to 200"]),
        ("http.metrics_token = '" + "a" * 201 + "'", ["http.metrics_token", "16 to 200"]),
        ("http.user_header = 'X-Remote-User'", ["http.user_header", 'needs [http] listen = "unix:/path"']),
        ("http.host = ['jobs.example.org']", ["http.host", 'needs [http] listen = "unix:/path"']),
        *(
            (f"http.host = ['{host}']", ["http.host", "without scheme and port", '"jobs.example.org"'])
            for host in (
                "jobs.example.org:443",
                "https://jobs.example.org",
                "*.example.org",
                "",
                "bücher.example",
            )
        ),
        ("http.user_header = 'X Remote User'", ["http.user_header", 'such as "X-Remote-User"']),
        ("http.user_header = 'X_Remote_User'", ["http.user_header", 'such as "X-Remote-User"']),
        ("http.user_header = 'Authorization'", ["http.user_header", 'such as "X-Remote-User"']),
        ("http.auth = 'password'", ["http.auth", "token, none"]),
        ("[queues.'a b']\nslots = 1", ["queues.a b.slots", "not the name of a queue", "at most 64 letters"]),
        ("[queues.a]\nslots = 'all'", ["queues.a.slots = 'all'", '"unlimited"']),
        ("daemon.socket = '/" + "a" * 107 + "'", ["108 bytes", "107", "[daemon] socket"]),
        ("daemon.state_dir = '/" + "a" * 95 + "'", ["110 bytes", "107", "[daemon] state_dir"]),
        ("daemon.state_dir = '~ann/bgd'", ["daemon.state_dir = '~ann/bgd': must be a full path"]),
        ("python.path = ['~ann']", ["must be a full path: ~ works only for your own home"]),
        ("slots = \n", ["not a TOML file", "line 1"]),
        ("a = " + "[" * 100_000, ["not a TOML file"]),
        (b"a = '\xff'", ["not a TOML file", "utf-8"]),
        (" " * (MAX_FILE + 1), ["over the limit of 1048576 bytes"]),
    ],
)
def test_invalid_value_is_refused_in_one_line(written, text, words):
    with pytest.raises(ConfigError) as refusal:
        written(text)

    message = str(refusal.value)
    assert "\n" not in message
    for word in words:
        assert word in message
    if "107" not in words:
        assert "bgd.toml" in message


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("BGD_DAEMON_XYZ", "1", ["BGD_DAEMON_XYZ is not a key", "did you mean BGD_DAEMON_"]),
        ("BGD_QUEUES_GPU_SLOT", "1", ["BGD_QUEUES_GPU_SLOT is not a key"]),
        ("BGD_DAEMON_SLOTS", "many", ["environment: BGD_DAEMON_SLOTS = 'many'", "whole number"]),
        ("BGD_CLASSES_APP_RETRIES", "1", ["BGD_CLASSES_APP_RETRIES", "package.module.Class"]),
        ("BGD_PYTHON_PATH", "[1", ["environment: BGD_PYTHON_PATH = '[1'"]),
    ],
)
def test_refusal_of_a_variable_names_it(variable, value, words):
    with pytest.raises(ConfigError) as refusal:
        load(environ={**HOME, variable: value})

    for word in words:
        assert word in str(refusal.value)


def test_long_value_is_shortened_in_its_refusal(written):
    with pytest.raises(ConfigError) as refusal:
        written(f"daemon.grace = {list(range(1000))}")

    assert len(str(refusal.value)) < 400


@pytest.mark.parametrize("name", ["missing.toml", ".", "nul\0.toml"])
def test_named_file_that_cannot_be_read_is_refused(tmp_path, name):
    with pytest.raises(ConfigError, match=re.escape(str(tmp_path))):
        load(f"{tmp_path}/{name}", environ=HOME)


def test_named_pipe_is_refused_without_waiting(tmp_path):
    os.mkfifo(tmp_path / "pipe")

    with pytest.raises(ConfigError, match="regular file"):
        load(str(tmp_path / "pipe"), environ=HOME)


def test_file_that_hides_its_length_is_refused(tmp_path):
    (tmp_path / "endless.toml").symlink_to("/proc/self/pagemap")  # says that it is empty, and has terabytes

    with pytest.raises(ConfigError, match="over the limit of 1048576 bytes"):
        load(str(tmp_path / "endless.toml"), environ=HOME)


def test_unreadable_file_is_refused(tmp_path):
    (tmp_path / "loop.toml").symlink_to("loop.toml")  # for root, who may read everything else

    with pytest.raises(ConfigError, match="cannot read the configuration"):
        load(str(tmp_path / "loop.toml"), environ=HOME)
