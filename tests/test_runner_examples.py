"""The runners in examples: Node and Laravel's console run jobs in their languages under a real daemon."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bgd import JobFailed, NotAllowed, Outcome, run_background_job
from tests.support import DEADLINE, ROOT

EXAMPLES = ROOT / "examples"
PHP = shutil.which("php")
LARAVEL = "exit((int) ! stream_resolve_include_path('Illuminate/Console/autoload.php'));"
HAS_LARAVEL = PHP is not None and subprocess.run([PHP, "-r", LARAVEL], check=False).returncode == 0

needs_node = pytest.mark.skipif(not shutil.which("node"), reason="NOT TESTED: there is no node")
needs_laravel = pytest.mark.skipif(
    not HAS_LARAVEL, reason="NOT TESTED: there is no php with php-illuminate-console"
)
either = pytest.mark.parametrize(
    "target",
    [
        pytest.param("node::text.countWords", marks=needs_node),
        pytest.param("php::App\\Jobs\\CountWords", marks=needs_laravel),
        pytest.param("php::App\\Jobs\\CountWords@handle", marks=needs_laravel),
    ],
)


# The configuration of the examples, which also allows some more of their classes
MORE = [
    *("app.services.*", "php::App\\Jobs\\*", "php::app\\jobs\\*", "php::App\\Support\\*"),
    *("php::ArrayObject", "node::text.*", "node::nothing.*"),
]
pytestmark = pytest.mark.daemon(
    files={"words": "a bb bb größe"},
    env={
        "BGD_CONFIG": str(EXAMPLES / "bgd.toml"),
        "BGD_DAEMON_STATE_DIR": "{folder}/.local/state/bgd",
        "BGD_SECURITY_ALLOWED_CLASSES": json.dumps(MORE),
        "BGD_RETRY_RETRIES": "0",
    },
)


@either
def test_job_gets_positional_and_named_arguments_and_returns_a_value(daemon, target):
    with daemon.client() as client:
        job = client.call(target, [f"{daemon.folder}/words"], {"least": 2})

        assert job.result(DEADLINE) == {"words": 3, "different": 2}
        assert b"".join(part.data for part in job.logs()) == f"{daemon.folder}/words: 3 words\n".encode()


@pytest.mark.parametrize(
    ("target", "kind"),
    [
        pytest.param("node::text.countWords", "Empty", marks=needs_node),
        pytest.param("php::App\\Support\\Text@words", "UnderflowException", marks=needs_laravel),
    ],
)
def test_exception_is_reported_with_its_type_and_traceback(daemon, target, kind):
    with daemon.client() as client:
        with pytest.raises(JobFailed, match="there are no words in /dev/null") as failure:
            client.call(target, ["/dev/null"]).result(DEADLINE)

        assert failure.value.error_type == kind
        assert "words" in (failure.value.traceback or "").lower()


@pytest.mark.parametrize(
    ("target", "words"),
    [
        *(
            pytest.param(f"node::{name}", words, marks=needs_node)
            for name, words in [
                ("text.missing", "jobs/text.mjs exports no function missing"),
                ("text.toString", "exports no function toString"),
                ("nothing.run", "there is no file of jobs for nothing.run"),
            ]
        ),
        *(
            pytest.param(f"php::{name}", words, marks=needs_laravel)
            for name, words in [
                ("App\\Jobs\\Missing", r"there is no class App\\Jobs\\Missing"),
                ("app\\jobs\\countwords", r"there is no class app\\jobs\\countwords"),
                ("App\\Support\\Text@missing", r"Text has no method missing"),
                ("App\\Support\\Text@WORDS", r"Text@WORDS is no public method"),
                ("App\\Support\\Background@run", r"Background@run is no public method of an object"),
                ("ArrayObject@count", r"no class of the application"),
            ]
        ),
    ],
)
def test_runner_refuses_what_is_not_meant_to_be_called(daemon, target, words):
    with daemon.client() as client:
        job = client.call(target)
        with pytest.raises(JobFailed, match=words):
            job.result(DEADLINE)

        assert job.refresh().outcome is Outcome.REFUSED


@needs_laravel
def test_service_is_made_by_the_container_for_class_and_method(daemon, monkeypatch):
    monkeypatch.setenv("BGD_SOCKET", str(daemon.socket))

    job = run_background_job("php::App\\Support\\Text", "words", {"path": f"{daemon.folder}/words"})

    assert job.result(DEADLINE) == ["a", "bb", "bb", "größe"]


@needs_laravel
def test_arguments_go_to_handle_where_the_constructor_takes_nothing(tmp_path):
    assert PHP is not None
    application = tmp_path / "application"
    shutil.copytree(EXAMPLES / "laravel", application)
    (application / "app/Jobs/Greet.php").write_text(
        '<?php namespace App\\Jobs; class Greet { function handle($name) { return "hello $name"; } }'
    )
    job = {"id": 1, "attempt": 1, "target": "App\\Jobs\\Greet@handle", "args": ["ada"], "kwargs": {}}
    with (tmp_path / "result").open("w+") as result:
        subprocess.run(
            [PHP, "artisan", "bgd:run"],
            cwd=application,
            env=os.environ | {"BGD_RESULT_FD": str(result.fileno())},
            input=json.dumps(job),
            text=True,
            pass_fds=[result.fileno()],
            timeout=DEADLINE,
            check=True,
        )
        result.seek(0)

        assert json.load(result) == {"ok": "hello ada"}


@needs_laravel
def test_php_submits_a_job_and_learns_its_id_or_why_it_was_refused(daemon):
    assert PHP is not None
    program = """
        require 'app/Support/Background.php';
        use App\\Support\\Background;
        $params = ['path' => $argv[1], 'least' => 2];
        echo Background::run('App\\Support\\Text', 'words', $params, priority: -3, delay: 0), PHP_EOL;
        try {
            Background::run('App\\Models\\User', 'delete', [1]);
        } catch (RuntimeException $refusal) {
            echo $refusal->getMessage();
        }
    """
    done = subprocess.run(
        [PHP, "-r", program, f"{daemon.folder}/words"],
        env=daemon.env | {"PATH": f"{Path(sys.executable).parent}:{daemon.env['PATH']}"},
        cwd=EXAMPLES / "laravel",
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=True,
    )
    job_id, refusal = done.stdout.split("\n")

    with daemon.client() as client:
        job = client.job(int(job_id))
        assert job.result(DEADLINE) == ["bb", "bb", "größe"]
        assert job.refresh().priority == -3
    assert refusal.startswith("bgctl: php::App\\Models\\User@delete is not in [security] allowed_classes")


@either
def test_example_allows_its_jobs_and_nothing_beside_them(home, target):
    home.env |= {"BGD_CONFIG": str(EXAMPLES / "bgd.toml"), "BGD_DAEMON_STATE_DIR": str(home.state_dir)}

    assert home.bgctl("call", "--hold", target).returncode == 0
    with home.client() as client, pytest.raises(NotAllowed):
        client.call("php::App\\Support\\Text@words")
