"""The verb config: it shows the configuration as a daemon would read it."""

from __future__ import annotations

import json
import os
import tomllib

from msgspec import to_builtins

from bgd.settings import config
from tests.support import ROOT

WRITTEN = """
[daemon]
slots = 3
grace = "1m30s"
[retry]
delay = 0.0004
[queues."io.slow"]
slots = 2
[classes."app.services.*"]
retries = 2
timeout = "90s"
on_exceptions = { "ValueError" = "fail", "app.Busy" = "retry 2m" }
[classes.'php::App\\Jobs\\*']
retries = 1
[runners.php]
argv = ["php", "arti san", "bgd:run"]
cwd = "~/shop"
[runners.node]
argv = ["node"]
[schedules.nightly]
cron = "0 3 * * *"
command = ["backup", "--all"]
queue = "night"
except = ["12-25"]
missed_within = "2d"
[schedules.report]
every = "15m"
target = "app.services:report"
args = [1]
kwargs = { copies = 2 }
retries = 2
timeout = "5m"
"""


def test_the_shown_configuration_reads_back_as_the_same(home):
    home.configure(WRITTEN)
    source = home.folder / ".config/bgd/bgd.toml"

    shown = home.bgctl("config", "show", env={"BGD_LOGS_ON_LIMIT": "kill"}).stdout

    again = home.folder / "again.toml"
    again.write_text(shown)
    expected = config.load(environ=home.env | {"BGD_LOGS_ON_LIMIT": "kill"})
    assert to_builtins(config.load(str(again), environ={"HOME": str(home.folder)})) == to_builtins(
        expected
    ) | {"source": str(again)}
    assert f"slots = 3  # {source}: daemon.slots\n" in shown
    assert 'on_limit = "kill"  # environment: BGD_LOGS_ON_LIMIT\n' in shown
    assert 'grace = "1m30s"  #' in shown
    assert 'argv = ["php", "arti san", "bgd:run"]  #' in shown
    assert '[classes."app.services.*"]\n' in shown
    assert 'on_exceptions = { "ValueError" = "fail", "app.Busy" = "retry 2m" }  #' in shown


def test_words_and_paths_are_shown_as_written_with_what_they_mean_here(home):
    home.configure("[retry]\nbackoff = 2\n[python]\npath = ['~/lib']\n[backup]\nfolder = 'copies'\n")
    source = home.folder / ".config/bgd/bgd.toml"
    cores = len(os.sched_getaffinity(0))

    shown = home.bgctl("config", "show").stdout
    from_environment = home.bgctl("config", "show", env={"BGD_DAEMON_SLOTS": "auto"}).stdout

    assert f'slots = "auto"  # means {cores}; default\n' in shown
    assert f'slots = "auto"  # means {cores}; environment: BGD_DAEMON_SLOTS\n' in from_environment
    assert f'path = ["~/lib"]  # means ["{home.folder}/lib"]; {source}: python.path\n' in shown
    assert f'folder = "{source.parent}/copies"  # {source}: backup.folder\n' in shown
    assert 'logs_total = "5GB"  # default\n' in shown
    assert shown.count(f"backoff = 2  # {source}: retry.backoff\n") == 2  # also in [retry.commands]


def test_the_origin_of_every_key_is_shown(home):
    lines = home.bgctl("config", "show").stdout.splitlines()

    keys = [line for line in lines if " = " in line]
    assert len(keys) > 30
    assert [line for line in keys if "  # " not in line] == []


def test_every_key_is_shown(home):
    shown = tomllib.loads(home.bgctl("config").stdout)
    as_json = json.loads(home.bgctl("config", "show", "--json").stdout)

    sample = tomllib.loads((ROOT / "etc/bgd.toml").read_text())
    for section in sample.keys() - {"queues"}:
        assert sample[section].keys() <= shown[section].keys()
        assert shown[section].keys() == as_json[section].keys()
    assert as_json["source"] is None
    usual = home.folder / ".config/bgd/bgd.toml"
    assert home.bgctl("config").stdout.startswith(f"# built-in defaults: there is no {usual}\n")
    assert as_json["retry"]["commands"]["retries"] == 0


def test_resources_executors_and_rates_are_shown(home):
    text = """
        [queues.api]
        rate = "10/1m"
        [resources]
        gpu = ["0", "1"]
        license = 3
        [executors.gentle]
        kind = "prefix"
        argv = ["nice", "-n", "7"]
    """
    home.configure(text)
    shown = tomllib.loads(home.bgctl("config").stdout)

    assert shown["queues"]["api"]["rate"] == "10/1m"
    assert "means" not in home.bgctl("config", "show").stdout.partition("rate = ")[2].partition("\n")[0]
    assert json.loads(home.bgctl("config", "show", "--json").stdout)["queues"]["api"]["rate"] == "10/1m"
    assert shown["resources"] == {"gpu": ["0", "1"], "license": 3}
    assert shown["executors"]["gentle"].items() >= {"kind": "prefix", "argv": ["nice", "-n", "7"]}.items()


def test_unlimited_values_are_shown_as_words(home):
    text = """
        [daemon]
        min_free = "1GB"
        [retention]
        succeeded_for = "unlimited"
        failed_for = "12h"
        max_finished = "unlimited"
        logs_total = "unlimited"
        keep_unread = "unlimited"
        [backup]
        every = "never"
    """
    home.configure(text)
    shown = tomllib.loads(home.bgctl("config").stdout)

    assert shown["daemon"]["min_free"] == "1GB"
    assert shown["retention"] == tomllib.loads(text)["retention"]
    assert shown["backup"]["every"] == "never"


def test_the_system_configuration_has_other_paths(home):
    assert 'state_dir = "/var/lib/bgd"  # default\n' in home.bgctl("config", "show", "--system").stdout


def test_an_invalid_configuration_is_named_in_the_error(home):
    home.configure("[daemon]\nslots = 0\n")

    done = home.bgctl("config", "show")

    assert (done.returncode, done.stdout) == (78, "")
    assert "daemon.slots" in done.stderr


def test_a_secret_is_not_shown(home):
    home.configure(
        '[http]\nmetrics_token = "0123456789abcdef"\n[notify.checks]\nurl = "https://hc-ping.com/c0ffee00"\n'
        '[schedules.x]\nevery = "1h"\ncommand = ["true"]\nenv = { PASSWORD = "s3cret" }\n'
    )

    shown = home.bgctl("config", "show").stdout

    assert 'metrics_token = "***"  # ' in shown
    assert 'url = "***"  # ' in shown
    as_json = home.bgctl("config", "show", "--json").stdout
    assert "0123456789abcdef" not in shown + as_json
    assert "c0ffee00" not in shown + as_json
    assert "s3cret" not in shown + as_json
    assert 'env = { "PASSWORD" = "***" }  # ' in shown
