"""docs/recipes.md: its files work as the page says, with the real frameworks."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from bgd.daemon.measurements import MAX_QUEUES, OTHER_QUEUES
from tests.daemon.web.browsing import Browser
from tests.docs.pages import blocks, page, rows_of, section
from tests.support import DEADLINE, ROOT, serving

RECIPES = page("docs/recipes.md")

# Every program begins with this: a daemon that allows the modules in the folder
DAEMON = """
import os
from bgd.testing import private_daemon

serving = private_daemon(
    allowed=["shop.jobs.*", "store.jobs.*", "many.work.*", "app.services.*", "app.tasks.*"],
    settings={"retry": {"retries": 0}},
)
"""


@pytest.fixture
def folder(tmp_path):
    """Return a folder with the files of the page."""
    for block in blocks(RECIPES, "python"):
        name, rest = block.removeprefix("# ").split("\n", 1)
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(rest)
    return tmp_path


def run(folder: Path, program: str, *arguments: str) -> str:
    """Run a program in the folder to its end; return what it printed."""
    done = subprocess.run(
        [sys.executable, "-X", "dev", *(arguments or ["-c", DAEMON + program])],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": f"{folder}:{ROOT}:{ROOT}/examples", "HOME": str(folder)},
        capture_output=True,
        text=True,
        timeout=3 * DEADLINE,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_every_program_is_a_file_that_is_named():
    names = [block.partition("\n")[0] for block in blocks(RECIPES, "python")]

    assert all(name.startswith("# ") and name.endswith(".py") for name in names)
    assert len(set(names)) == len(names)


# --- cron ---------------------------------------------------------------------------------------------------


def test_crontab_line_works_with_the_environment_of_cron_and_prints_nothing(home):
    path, line = blocks(RECIPES, "crontab")[0].splitlines()
    command = line.split(maxsplit=5)[5]
    programs = home.folder / "bgd-venv/bin"
    programs.mkdir(parents=True)
    for name in ("bgd", "bgctl"):
        (programs / name).symlink_to(Path(sys.executable).with_name(name))
    (home.folder / "project").mkdir()
    (home.folder / "project/Makefile").write_text("nightly:\n\t@echo done\n")
    environment = {
        "HOME": str(home.folder),
        "PATH": path.removeprefix("PATH="),
        "SHELL": "/bin/sh",
        "BGD_HTTP_LISTEN": "",
    }

    done = run_as_cron(command, environment)

    assert (done.returncode, done.stdout) == (0, "")
    with home.client() as client:
        job = client.job().wait(timeout=DEADLINE)
        assert (job.state, job.argv, job.retries) == ("succeeded", ["make", "nightly"], 2)


def run_as_cron(command: str, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["/bin/sh", "-c", command],
        env=environment,
        cwd=environment["HOME"],
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )


# --- Django -------------------------------------------------------------------------------------------------

DJANGO = """
os.environ["DJANGO_SETTINGS_MODULE"] = "shop.settings"
import django
django.setup()
from django.core.management import call_command
from django.db import connection, transaction
from django.test import Client as Visitor
from shop.models import Order

with connection.schema_editor() as editor:
    editor.create_model(Order)
"""


def test_django_hands_over_what_was_committed_and_nothing_else(folder):
    program = """
with serving as daemon, daemon.client() as client:
    answer = Visitor().post("/orders", {"address": "ada@example.org"})
    assert answer.status_code == 201, answer.content
    [job] = client.jobs()
    assert job.result(timeout=20) == "ada@example.org"
    assert Order.objects.get(pk=answer.json()["order"]).is_confirmed
    try:
        with transaction.atomic():
            assert Visitor().post("/orders", {"address": "bob@example.org"}).status_code == 201
            raise LookupError
    except LookupError:
        pass
    with transaction.atomic():
        try:
            with transaction.atomic():
                Visitor().post("/orders", {"address": "eve@example.org"})
                raise LookupError
        except LookupError:
            pass
    assert [each.id for each in client.jobs()] == [job.id]
    assert Order.objects.count() == 1
"""
    run(folder, DJANGO + program)


def test_django_tells_that_no_daemon_answers_when_the_row_is_there(folder):
    program = """
from bgd import DaemonUnreachable

os.environ["BGD_SOCKET"] = "/nonexistent/bgd.sock"
try:
    Visitor().post("/orders", {"address": "ada@example.org"})
except DaemonUnreachable:
    assert Order.objects.count() == 1
else:
    raise AssertionError("nobody was told")
"""
    run(folder, DJANGO + program)


def test_a_django_project_tests_it_as_the_page_says(folder):
    output = subprocess.run(
        [sys.executable, "-m", "django", "test", "shop"],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": f"{folder}:{ROOT}", "DJANGO_SETTINGS_MODULE": "shop.settings"},
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )

    assert output.returncode == 0, output.stderr
    assert "Ran 1 test" in output.stderr


# --- SQLAlchemy ---------------------------------------------------------------------------------------------

STORE = """
from sqlalchemy import func, select
from store.orders import buy
from store.outbox import Parcel, drain, put
from store.tables import Base, Order, Sessions, engine

Base.metadata.create_all(engine)
"""


def test_sqlalchemy_hands_over_what_was_committed_and_nothing_else(folder):
    program = """
with serving as daemon, daemon.client() as client:
    with Sessions.begin() as session:
        buy(session, "ada@example.org")
        with session.begin_nested():
            buy(session, "bob@example.org")
            assert client.jobs() == []
        assert client.jobs() == []  # releasing a savepoint is not a commit
        outer = session.begin_nested()
        with session.begin_nested():
            buy(session, "eve@example.org")
        outer.rollback()
    jobs = client.wait(client.jobs(), timeout=20)
    assert sorted(job.result() for job in jobs) == ["ada@example.org", "bob@example.org"]
    with Sessions() as session:
        assert [order.is_confirmed for order in session.scalars(select(Order))] == [True, True]
        buy(session, "eve@example.org")
        session.rollback()
        buy(session, "mallory@example.org")
        session.close()  # it may be used again
        buy(session, "carol@example.org")
        session.commit()
        session.commit()
    [new, *known] = client.jobs()
    assert len(known) == 2
    assert new.result(timeout=20) == "carol@example.org"
"""
    run(folder, STORE + program)


def test_sqlalchemy_tells_that_no_daemon_answers_when_the_row_is_there(folder):
    program = """
from bgd import DaemonUnreachable

os.environ["BGD_SOCKET"] = "/nonexistent/bgd.sock"
try:
    with Sessions.begin() as session:
        buy(session, "ada@example.org")
except DaemonUnreachable:
    with Sessions() as session:
        assert session.scalar(select(func.count()).select_from(Order)) == 1
else:
    raise AssertionError("nobody was told")
"""
    run(folder, STORE + program)


# --- the outbox ---------------------------------------------------------------------------------------------


def test_what_lies_in_the_outbox_is_handed_over_when_there_is_a_daemon_again(folder):
    program = """
from bgd import DaemonUnreachable

with Sessions.begin() as session:
    for address in ("ada@example.org", "bob@example.org"):
        session.add(order := Order(address=address))
        session.flush()
        put(session, "store.jobs:confirm", order.id)
with Sessions() as session:
    put(session, "store.jobs:confirm", 7)
    session.rollback()
os.environ["BGD_SOCKET"] = "/nonexistent/bgd.sock"
try:
    drain()
except DaemonUnreachable:
    pass
del os.environ["BGD_SOCKET"]
with serving as daemon, daemon.client() as client:
    assert drain() == 2
    assert drain() == 0
    assert [job.result(timeout=20) for job in client.jobs()] == ["bob@example.org", "ada@example.org"]
"""
    run(folder, STORE + program)


def test_what_was_handed_over_and_not_deleted_is_the_same_job_when_it_is_handed_over_again(folder):
    program = """
import store.outbox

class Dies(BaseException): ...

class Dying:
    def begin(self): raise Dies
    def __call__(self, **options): return Sessions(**options)

with Sessions.begin() as session:
    session.add(order := Order(address="ada@example.org"))
    session.flush()
    put(session, "store.jobs:confirm", order.id)
with serving as daemon, daemon.client() as client:
    client.pause()
    store.outbox.Sessions = Dying()
    try:
        drain()
    except Dies:
        store.outbox.Sessions = Sessions
    else:
        raise AssertionError("it has not died")
    assert drain() == 1
    [job] = client.jobs()
    client.resume()
    assert job.result(timeout=20) == "ada@example.org"
"""
    run(folder, STORE + program)


def test_the_outbox_is_a_program_for_a_timer(folder):
    run(folder, STORE)

    assert run(folder, "", "-m", "store.outbox") == "0\n"


# --- maintenance --------------------------------------------------------------------------------------------


@pytest.fixture
def window():
    """A daemon with the schedules of the recipe, and the commands of the recipe."""
    recipe = section(RECIPES, "## A maintenance window")
    [configuration] = blocks(recipe, "toml")
    [commands] = blocks(recipe, "sh")
    bgctl = str(Path(sys.executable).with_name("bgctl"))
    with serving(configuration.replace('"bgctl"', json.dumps(bgctl)), {}) as daemon:
        yield daemon, [line.partition("#")[0].split()[1:] for line in commands.splitlines()]


def test_in_a_maintenance_window_jobs_wait(window):
    daemon, (pause, wait, resume) = window
    assert [daemon.bgctl(*command).returncode for command in (pause, wait)] == [0, 0]

    waiting = daemon.submit("true")
    assert daemon.shown(waiting)["state"] == "queued"

    daemon.bgctl(*resume)
    assert daemon.bgctl("wait", waiting).returncode == 0


def test_a_queue_is_paused_and_resumed_at_its_times(window):
    daemon, _ = window
    paused = []
    with daemon.client() as client:
        for name in ("window-begins", "window-ends"):
            assert client.schedules.run(name).wait().state == "succeeded"
            paused.append([queue.name for queue in client.queues().queues if queue.paused])

    assert paused == [["database"], []]


# --- graphics cards -----------------------------------------------------------------------------------------


def test_cards_go_to_those_who_asked_first():
    recipe = section(RECIPES, "## Graphics cards")
    [configuration] = blocks(recipe, "toml")
    [commands] = blocks(recipe, "sh")
    with serving(configuration + "[daemon]\nslots = 4\n", {}) as daemon:
        program = "import os; print(os.environ.get('CUDA_VISIBLE_DEVICES'))"
        for name, rest in (("train", "open('go').read()"), ("sweep", ""), ("report", "")):
            (daemon.folder / f"{name}.py").write_text(f"{program}\n{rest}")
        os.mkfifo(daemon.folder / "go")
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        train, sweep, report, *said = subprocess.run(
            ["/bin/sh", "-ec", commands],
            env=daemon.env | {"PATH": path},
            cwd=daemon.folder,
            capture_output=True,
            text=True,
            timeout=DEADLINE,
            check=True,
        ).stdout.splitlines()
        assert said[0].startswith(f"Job {report} (report): ")
        assert daemon.bgctl("wait", report).returncode == 0
        assert "for 2 gpu: 1 of 2 is taken" in daemon.bgctl("explain", sweep).stdout
        (daemon.folder / "go").write_text("")
        assert daemon.bgctl("wait", train, sweep).returncode == 0
        assert [daemon.bgctl("logs", job).stdout for job in (train, sweep)] == ["0\n", "0,1\n"]


# --- the web ------------------------------------------------------------------------------------------------


def test_a_visitor_gets_a_number_or_is_told_at_once(folder):
    program = """
from front.reports import jobs, order_report

with serving as daemon:
    status, answer = order_report("/etc/os-release", "ada")
    assert status == 202
    assert jobs.job(answer["report"]).result(timeout=20)
    assert jobs.job(answer["letter"]).result(timeout=20) == "1 for ada"
assert order_report("/etc/os-release", "ada")[0] == 503
"""
    run(folder, program)


def test_fastapi_hands_over_and_tells_what_became_of_it(folder):
    program = """
from fastapi.testclient import TestClient
from front.api import app

with serving as daemon, daemon.client() as client, TestClient(app) as visitor:
    answer = visitor.post("/letters", params={"address": "ada@example.org"})
    assert answer.status_code == 202, answer.text
    number = answer.json()["letter"]
    client.wait([number], timeout=20)
    assert visitor.get(f"/letters/{number}").json() == {
        "state": "succeeded", "result": "1 for ada@example.org"
    }
    assert visitor.get("/letters/77").status_code == 404
    many = visitor.post("/letters/all", json=["ada", "bob"]).json()["batch"]
    assert client.find_batch(many).wait(timeout=20).counts["succeeded"] == 2
    client.shutdown("cancel", timeout=20)
    assert visitor.post("/letters", params={"address": "ada@example.org"}).status_code == 503
"""
    run(folder, program)


# --- many calls --------------------------------------------------------------------------------------------


def test_many_small_calls_give_one_sum(folder):
    program = """
import runpy

with serving:
    runpy.run_path("many/run.py")
"""
    assert run(folder, program) == f"5 {sum(number * number for number in range(10_000))}\n"


def test_metrics_of_the_recipe_exist_and_all_of_them_are_explained(serving_metrics):
    recipe = section(RECIPES, "## Metrics for Prometheus")
    rules = "\n".join(blocks(recipe, "yaml"))
    explained = {name for row in rows_of(recipe, "metric") for name in re.findall(r"`(bgd_\w+)`", row[0])}

    assert len(re.findall("alert:", rules)) >= 5
    known = {family.name for family in serving_metrics} | {
        sample.name for family in serving_metrics for sample in family.samples
    }
    assert set(re.findall(r"bgd_\w+", rules)) <= known
    assert explained == {
        f"{family.name}_total" if family.type == "counter" else family.name
        for family in serving_metrics
        if family.name.startswith("bgd_")
    }
    assert str(MAX_QUEUES) in recipe
    assert f"`{OTHER_QUEUES}`" in recipe


FAILED = 'bgd_jobs_finished_total{queue="mail", state="failed"}'


@pytest.mark.parametrize(
    ("values", "minute", "fires"),
    [
        ("0x60", 30, False),
        ("0x20 1x40", 25, True),
        ("0x20 1x40", 40, False),
        ("_x20 1x40", 25, True),  # the queue's first job failed before any scrape
        ("_x20 1x40", 40, False),
        ("7x20 0x5 1x35", 28, True),  # after a restart
        ("7x20 1x40", 25, True),
    ],
)
def test_the_alert_on_failures_sees_each_first_one(tmp_path, values, minute, fires):
    if shutil.which("promtool") is None:
        pytest.skip("ALERTS NOT TESTED: promtool is not installed")
    rules = blocks(section(RECIPES, "## Metrics for Prometheus"), "yaml")[1]
    (tmp_path / "rules.yml").write_text(rules)
    alert = {"exp_labels": {"queue": "mail", "state": "failed"}}
    tests = {
        "rule_files": ["rules.yml"],
        "tests": [
            {
                "interval": "1m",
                "input_series": [{"series": FAILED, "values": values}],
                "alert_rule_test": [
                    {
                        "eval_time": f"{minute}m",
                        "alertname": "BgdJobsFail",
                        "exp_alerts": [alert] if fires else [],
                    }
                ],
            }
        ],
    }
    (tmp_path / "tests.yml").write_text(json.dumps(tests))

    done = subprocess.run(
        ["promtool", "test", "rules", "tests.yml"], cwd=tmp_path, capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture
def serving_metrics():
    """Return the metrics of a daemon that is configured as the recipe says."""
    recipe = section(RECIPES, "## Metrics for Prometheus")
    (configuration,) = blocks(recipe, "toml")
    (token,) = re.findall('metrics_token = "(.*)"', configuration)
    assert f"credentials: {token}" in recipe
    with serving(configuration, {}) as daemon:
        return list(
            text_string_to_metric_families(
                Browser(daemon).get("/metrics", f"Authorization: Bearer {token}").text
            )
        )
