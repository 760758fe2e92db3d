"""The verb schedule."""

from __future__ import annotations

import json
import re

import pytest
from msgspec.structs import replace

from bgctl.schedules import _UNSET
from bgd import Refused
from bgd.client.schedules import changed_schedule
from bgd.core.schedule_spec import ScheduleSpec
from bgd.core.spec import OPTIONS, JobSpec
from tests.support import wait_until


def test_a_schedule_is_added_listed_run_paused_and_removed(own_daemon):
    added = own_daemon.bgctl(
        "schedule", "add", "nightly", "0 3 * * *", "--timezone", "UTC", "--", "true", "x y"
    )
    assert added.stderr.startswith("bgctl: schedule nightly is stored; next: ")
    assert " 03:00:00 UTC, in " in added.stderr
    heading, row = own_daemon.bgctl("schedule").stdout.splitlines()
    assert heading.split() == ["NAME", "NEXT", "LAST", "WHEN", "COMMAND"]
    assert row.startswith("nightly  in ")
    assert row.endswith("/true 'x y'")

    job = own_daemon.bgctl("schedule", "run", "nightly", "--wait").stdout.strip()
    assert own_daemon.client().job(int(job)).name == "nightly"
    assert own_daemon.bgctl("schedule", "pause", "nightly").stderr == (
        "bgctl: schedule nightly is paused: `bgctl schedule resume nightly` undoes that\n"
    )
    assert "  paused  " in own_daemon.bgctl("schedule", "list").stdout
    assert "; next: " in own_daemon.bgctl("schedule", "resume", "nightly").stderr
    assert own_daemon.bgctl("schedule", "remove", "nightly").stderr == "bgctl: schedule nightly is removed\n"
    assert "no schedules" in own_daemon.bgctl("schedule").stderr
    assert f"  queued   {job}  " in own_daemon.bgctl("schedule", "history", "nightly").stdout


def test_several_schedules_are_paused_resumed_and_removed_and_each_failure_is_told(own_daemon):
    for name in ("first", "second"):
        own_daemon.bgctl("schedule", "add", name, "@daily", "--", "true")

    paused = own_daemon.bgctl("schedule", "pause", "first", "gone", "second", "first")
    assert [line.split(": ")[1] for line in paused.stderr.splitlines()] == [
        "schedule first is paused",
        "there is no schedule gone; known are first, second",
        "schedule second is paused",
    ]
    assert paused.returncode == 1
    resumed = own_daemon.bgctl("schedule", "resume", "gone", "first", "second", "--json")
    assert [
        (each["name"], each.get("paused"), bool(each["error"])) for each in json.loads(resumed.stdout)
    ] == [
        ("gone", None, True),
        ("first", False, False),
        ("second", False, False),
    ]
    removed = own_daemon.bgctl("schedule", "remove", "first", "second", "--json")
    assert (removed.returncode, json.loads(removed.stdout)) == (
        0,
        [{"name": name, "removed": True, "error": None} for name in ("first", "second")],
    )
    assert own_daemon.bgctl("schedule", "list", "--json").stdout == "[]\n"


def test_json_has_the_keys_of_the_contract(own_daemon):
    own_daemon.bgctl(
        "schedule", "add", "tick", "every 365d", "--overlap", "queue", "--except", "12-25", "--", "true"
    )
    job = json.loads(own_daemon.bgctl("schedule", "run", "tick", "--json").stdout)["id"]

    [schedule] = json.loads(own_daemon.bgctl("schedule", "list", "--json").stdout)
    [row] = json.loads(own_daemon.bgctl("schedule", "history", "tick", "--json").stdout)
    assert schedule["every"] == "365d"
    assert schedule["except"] == ["12-25"]
    assert (schedule["overlap"], schedule["paused"], schedule["configured"]) == ("queue", False, False)
    assert row.keys() == {"id", "due_at", "outcome", "job", "reason", "count", "late"}
    assert (row["outcome"], row["job"], row["count"]) == ("ran", job, 1)


def test_a_late_job_is_named_in_list_and_history_until_it_has_finished(own_daemon):
    added = own_daemon.bgctl(
        "schedule", "add", "slow", "every 1s", "--late-after", "100ms", "--", "sleep", "1000"
    )
    assert "; next: " in added.stderr
    wait_until(lambda: ", late" in own_daemon.bgctl("schedule").stdout)
    own_daemon.bgctl("schedule", "pause", "slow")

    *_, oldest = own_daemon.bgctl("schedule", "history", "slow").stdout.splitlines()
    assert "  queued, late  " in oldest
    assert json.loads(own_daemon.bgctl("schedule", "list", "--json").stdout)[0]["late"]
    *_, first = json.loads(own_daemon.bgctl("schedule", "history", "slow", "--json").stdout)
    assert first["late"]
    with own_daemon.client() as client:
        client.cancel([first["job"]])
        client.wait([first["job"]])
    assert ", late" not in own_daemon.bgctl("schedule").stdout


def test_events_tell_what_becomes_of_schedules_to_those_who_ask(own_daemon):
    own_daemon.bgctl("schedule", "add", "nightly", "0 3 * * *", "--", "true")
    job = int(own_daemon.bgctl("schedule", "run", "nightly", "--wait").stdout)

    told = [json.loads(line) for line in own_daemon.bgctl("events").stdout.splitlines()]
    [of_schedule] = [event for event in told if "schedule" in event]
    assert (of_schedule["schedule"], of_schedule["outcome"], of_schedule["job"]) == ("nightly", "ran", job)
    assert of_schedule["reason"].startswith("run by ")
    assert [event["id"] for event in told] == sorted({event["id"] for event in told})
    with own_daemon.client() as client:
        events = list(client.events(follow=False))  # as clients ask that do not know such events
        assert [event.id for event in events] == [event["id"] for event in told if "schedule" not in event]
        assert all(event.job == job for event in events)


def test_schedules_with_very_long_arguments_are_listed_and_replaced(own_daemon):
    with own_daemon.client() as client:
        for name in ("one", "two", "three"):
            client.schedules.add(name, ["true", *["x" * 1000] * 600], cron="@daily")
        assert [view.name for view in client.schedules.list()] == ["one", "three", "two"]
        client.schedules.add("two", ["true"], cron="@hourly", replace=True)

    assert len(own_daemon.bgctl("schedule").stdout.splitlines()) == 4


def test_next_names_the_zone_once(own_daemon):
    own_daemon.bgctl("schedule", "add", "paris", "@daily", "--timezone", "Europe/Paris", "--", "true")
    own_daemon.bgctl("schedule", "add", "often", "every 1h", "--timezone", "Europe/Paris", "--", "true")

    assert own_daemon.bgctl("schedule", "next", "paris").stderr.count("Europe/Paris") == 1
    assert own_daemon.bgctl("schedule", "next", "often").stderr.count("Europe/Paris") == 1


def test_the_list_names_only_zones_that_somebody_chose(own_daemon):
    own_daemon.bgctl("schedule", "add", "here", "@daily", "--", "true")
    own_daemon.bgctl("schedule", "add", "paris", "@daily", "--timezone", "Europe/Paris", "--", "true")

    _, here, paris = own_daemon.bgctl("schedule").stdout.splitlines()
    assert re.split("  +", here)[3] == "every day at 00:00"
    assert re.split("  +", paris)[3] == "every day at 00:00, Europe/Paris"


def test_days_that_are_one_text_are_refused(daemon):
    with (
        daemon.client() as client,
        pytest.raises(Refused, match=r"excluded: '12-24' must be a list of at most 400, each a day such as"),
    ):
        client.schedules.add("x", ["true"], cron="@daily", excluded="12-24")


def test_next_shows_times_in_the_zone_of_the_schedule(own_daemon):
    own_daemon.bgctl("schedule", "add", "paris", "@daily", "--timezone", "Europe/Paris", "--", "true")

    shown = own_daemon.bgctl("schedule", "next", "paris", "-n", "3")
    told = json.loads(own_daemon.bgctl("schedule", "next", "paris", "--json").stdout)
    assert len(shown.stdout.splitlines()) == 3
    assert all(" 00:00:00 CE" in line for line in shown.stdout.splitlines())
    assert told["timezone"] == "Europe/Paris"
    assert len(told["next"]) == 5


def test_an_edit_changes_what_it_names(own_daemon):
    own_daemon.bgctl("schedule", "add", "tick", "every 1h", "--retries", "2", "-e", "A=1", "--", "true", "x")
    assert "is changed" in own_daemon.bgctl("schedule", "edit", "tick", "@daily").stderr
    own_daemon.bgctl("schedule", "edit", "tick", "--timeout", "5s", "--", "true", "y")

    [schedule] = json.loads(own_daemon.bgctl("schedule", "list", "tick", "--json").stdout)
    assert schedule["cron"] == "@daily"
    assert "every" not in schedule
    assert (schedule["retries"], schedule["timeout"], schedule["env"]) == (2, 5.0, {"A": "1"})
    assert schedule["argv"][1:] == ["y"]


def test_an_edit_takes_options_away_again(own_daemon):
    options = ["--late-after", "5m", "--except", "12-25", "--resource", "gpu=1", "--retries", "2"]
    own_daemon.configure("[resources]\ngpu = 1\n")
    own_daemon.bgctl("reload")
    own_daemon.bgctl("schedule", "add", "tick", "@daily", *options, "--", "true")
    unset = [word for name in ("late-after", "except", "resource") for word in ("--unset", name)]
    own_daemon.bgctl("schedule", "edit", "tick", *unset)

    [schedule] = json.loads(own_daemon.bgctl("schedule", "list", "tick", "--json").stdout)
    assert schedule["retries"] == 2
    assert not schedule.keys() & {"late_after", "except", "resources"}
    done = own_daemon.bgctl("schedule", "edit", "tick", "--unset", "jitter", "--jitter", "5s")
    assert done.returncode == 2
    assert "--jitter and --unset jitter cannot be combined" in done.stderr


@pytest.mark.parametrize("job", [JobSpec(argv=("/bin/true",)), JobSpec(target="click:style")])
def test_each_option_of_a_schedule_can_be_taken_away(job):
    plain = ScheduleSpec(job=job, cron="@daily")
    in_job = {name for name, _ in _UNSET.values()} & OPTIONS.keys() - {"jitter", "env_pass"}
    in_schedule = {name for name, _ in _UNSET.values()} - in_job
    full = replace(
        plain, job=replace(job, **dict.fromkeys(in_job, "set")), **dict.fromkeys(in_schedule, "set")
    )

    assert full != plain
    assert changed_schedule(full, None, dict(_UNSET.values())) == plain


def test_the_jobs_of_a_schedule_may_have_a_name_of_their_own(own_daemon):
    own_daemon.bgctl("schedule", "add", "nightly", "@daily", "--name", "backup", "--", "true")
    first = own_daemon.bgctl("schedule", "run", "nightly", "--wait").stdout.strip()
    own_daemon.bgctl("schedule", "edit", "nightly", "--name", "copy")
    second = own_daemon.bgctl("schedule", "run", "nightly", "--wait").stdout.strip()

    with own_daemon.client() as client:
        assert [client.job(int(each)).name for each in (first, second)] == ["backup", "copy"]


def test_a_job_of_a_schedule_gets_the_environment_of_the_daemon_and_its_own(own_daemon):
    own_daemon.bgctl("schedule", "add", "show", "@daily", "-e", "OWN=1", "--", "env")
    job = own_daemon.bgctl("schedule", "run", "show", "--wait", env={"OF_THE_CALLER": "1"}).stdout.strip()

    variables = own_daemon.bgctl("logs", job).stdout.splitlines()
    assert "OWN=1" in variables
    assert any(line.startswith("PATH=") for line in variables)
    assert "OF_THE_CALLER=1" not in variables


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["add", "x", "0 3 * *", "--", "true"], "five fields, not 4"),
        (["add", "x", "Mon..Fri 09:00", "--", "true"], "use `calendar` (bgctl: --calendar)"),
        (["add", "x", "09:00", "--", "true"], "use --calendar 09:00"),
        (["add", "x", "@daily", "--timezone", "UTC+2", "--", "true"], "'UTC+2' is 2 h behind UTC"),
        (["add", "x", "* * * * * *", "--", "true"], "six fields"),
        (["add", "x", "@daily"], "after --"),
        (["add", "x", "--", "true"], "say when, after the name: a cron expression"),
        (["add", "x", "0", "3", "*", "*", "*", "--", "true"], "write all of it in quotes"),
        (["add", "x", "every", "15m", "--", "true"], "such as '0 3 * * *' or 'every 15m'"),
        (["add", "x", "--every", "15m", "--", "true"], "or 'every 15m' after the name"),
        (["add", "x", "@daily", "--calendar", "daily", "--", "true"], "both say when"),
        (["add", "x", "weekly", "--", "true"], "write @weekly, '0 3 * * *' or 'every 15m'"),
        (["add", "x", "--calendar", "daily", "./x.sh"], "/x.sh"),
        (["add", "x", "@daily", "--", "a | b"], "`bgctl schedule add x WHEN --shell -- 'a | b'`"),
        (["add", "x", "@daily", "--", "/bin/tar cz"], "`bgctl schedule add x WHEN --shell -- '/bin/tar cz'`"),
        (["add", "x", "@daily", "--", "A=1", "true"], "`bgctl schedule add x WHEN -e A=1 -- true` sets"),
        (["add", "x", "@daily", "--shell", "--", "a", "b"], "--shell takes one text, not 2 words"),
        (["edit", "x", "@daily", "--shell"], "--shell takes one text, at the end, after --"),
        (["add", "x y", "@daily", "--", "true"], "a NAME comes first"),
        (["add", "x", "@daily", "--except", "12-24,12-25", "--", "true"], "--except 12-24 --except 12-25"),
        (["add", "x", "@daily", "--except", "Christmas eve", "--", "true"], "'Christmas eve' is not a day"),
        (
            ["add", "x", "@daily", "--", "no-such-program"],
            "-- bash -ic no-such-program`; --no-check stores it anyway",
        ),
        (["add", "x", "@daily", "--timezone", "Mars/Phobos", "--", "true"], "Europe/Paris"),
        (["edit", "nope", "@daily"], "there is no schedule nope"),
        (["edit", "nope"], "nothing to change"),
        (["run", "nope"], "there is no schedule nope"),
        (["history", "nope"], "there is no schedule nope"),
        (["remove", "nope"], "there is no schedule nope"),
    ],
)
def test_a_mistake_is_told_in_one_line(daemon, words, told):
    done = daemon.bgctl("schedule", *words)

    assert done.returncode in {1, 2}
    assert told in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_schedule_may_be_a_line_of_shell(own_daemon):
    own_daemon.bgctl("schedule", "add", "piped", "@daily", "--shell", "--", "echo one two | wc -w")
    first = own_daemon.bgctl("schedule", "run", "piped", "--follow").stdout
    own_daemon.bgctl("schedule", "edit", "piped", "--shell", "--", "echo one | wc -w")
    second = own_daemon.bgctl("schedule", "run", "piped", "--follow").stdout

    assert [first.split()[-1], second.split()[-1]] == ["2", "1"]
    noted = own_daemon.bgctl("schedule", "edit", "piped", "--", "true", "&&", "false").stderr
    assert noted.startswith(
        "bgctl: '&&' is an argument here: for a shell type"
        " `bgctl schedule edit piped --shell -- 'true && false'`\n"
    )


def test_a_class_job_that_is_not_allowed_is_refused_at_once(own_daemon):
    done = own_daemon.bgctl(
        "schedule", "add", "report", "@daily", "--target", "app.reports:build", "--kwargs", '{"month": 3}'
    )

    assert done.returncode == 77
    assert "allowed_classes" in done.stderr
    assert own_daemon.bgctl("schedule", "list", "--json").stdout == "[]\n"


CRONTAB = """\
PATH=/usr/bin:/bin
GREETING=hello
MAILTO=ann@example.org
0 3 * * * env; cat%one%two
*/5 * * * * /usr/bin/true
61 * * * * /usr/bin/never
"""


def test_a_crontab_becomes_schedules_and_every_difference_is_told(own_daemon, tmp_path):
    file = tmp_path / "crontab"
    file.write_text(CRONTAB)

    shown = own_daemon.bgctl("schedule", "import", str(file), "--dry-run")
    assert own_daemon.bgctl("schedule", "list", "--json").stdout == "[]\n"
    done = own_daemon.bgctl("schedule", "import", "-", read=CRONTAB)

    first, second = done.stdout.split()
    assert [line.split()[0] for line in shown.stdout.splitlines()] == [first, second]
    assert "line 6: not imported: minute" in done.stderr
    assert shown.stderr.splitlines()[-1] == f"bgctl: {file}: not imported: 1 of 3 lines"
    assert done.stderr.splitlines()[-1] == "bgctl: -: not imported: 1 of 3 lines"
    assert (shown.returncode, done.returncode) == (65, 65)
    assert "line 3: MAILTO=ann@example.org: bgd keeps what commands print" in done.stderr
    job = own_daemon.bgctl("schedule", "run", first, "--wait").stdout.strip()
    lines = own_daemon.bgctl("logs", job).stdout.splitlines()
    assert lines[-2:] == ["one", "two"]
    assert "GREETING=hello" in lines
    assert not [line for line in lines if line.startswith("BGD_CONFIG=")]
    again = own_daemon.bgctl("schedule", "import", str(file))
    assert again.returncode == 1
    assert f"there are schedules already named {', '.join(sorted((first, second)))}: --re" in again.stderr
    assert own_daemon.bgctl("schedule", "import", str(file), "--dry-run").stderr == again.stderr
    others = own_daemon.bgctl("schedule", "import", str(file), "--dry-run", "--prefix", "other-")
    assert [line.split()[0] for line in others.stdout.splitlines()] == [f"other-{first}", f"other-{second}"]
    file.write_text(CRONTAB.replace("61 ", "59 "))
    assert own_daemon.bgctl("schedule", "import", str(file), "--replace").returncode == 0
    [schedule] = json.loads(own_daemon.bgctl("schedule", "list", second, "--json").stdout)
    assert (schedule["overlap"], schedule["cron"]) == ("allow", "*/5 * * * *")


@pytest.mark.parametrize("prefix", ["web:", "a b"])
def test_a_prefix_that_makes_no_name_is_refused(daemon, prefix):
    for options in ([], ["--dry-run"]):
        done = daemon.bgctl("schedule", "import", "-", "--prefix", prefix, *options, read="@daily true\n")

        assert done.returncode == 2
        assert f"{prefix}line-1' must be a name of at most 64" in done.stderr


@pytest.mark.parametrize(
    ("words", "argv"),
    [
        (["x", "0 3 * * *", "nice", "-n", "10", "/bin/true"], ["-n", "10", "/bin/true"]),
        (["x", "@daily", "find", "/", "-name", "x"], ["/", "-name", "x"]),
        (["x", "@daily", "--retries", "2", "ls", "--no-check", "-p", "7"], ["--no-check", "-p", "7"]),
        (["--retries=2", "x", "--calendar", "daily", "ls", "-l", "--", "y"], ["-l", "--", "y"]),
        (["x", "@daily", "--retries", "2", "--", "ls", "-l", "--", "y"], ["-l", "--", "y"]),
        (["x", "-p", "5", "every 1d", "df", "-h"], ["-h"]),
    ],
)
def test_the_words_of_a_program_are_its_own(daemon, words, argv):
    assert daemon.bgctl("schedule", "add", "--replace", *words).returncode == 0

    [schedule] = json.loads(daemon.bgctl("schedule", "list", "x", "--json").stdout)
    assert schedule["argv"][1:] == argv
    assert daemon.bgctl("schedule", "edit", "x", "@hourly", "nice", "-n", "5", "true").returncode == 0
    [schedule] = json.loads(daemon.bgctl("schedule", "list", "x", "--json").stdout)
    assert schedule["argv"][1:] == ["-n", "5", "true"]


def test_a_crontab_that_cannot_be_read_is_told(daemon):
    done = daemon.bgctl("schedule", "import", "/nowhere")

    assert done.stderr == "bgctl: cannot read /nowhere: No such file or directory\n"
