"""The verbs that act on jobs, by id and by selection."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import psutil  # type: ignore[import-untyped]  # it has no types
import pytest

from bgctl.exit_codes import UNREACHABLE
from bgctl.program import run
from bgd import Client, DaemonUnreachable, State
from bgd.wire.replies import ActResult
from tests.support import DEADLINE, Daemon, seen, wait_until

LATER = ["--delay", "1h", "true"]


@pytest.fixture
def waiting_jobs(daemon, request):
    """Return three waiting jobs with a tag of this test, and the options that select them."""
    tag = request.node.name[:200]
    return [daemon.submit("--tag", tag, *LATER) for _ in range(3)], ["--tag", tag]


def states(daemon: Daemon, job_ids: list[str]) -> list[str]:
    with daemon.client() as client:
        return [client.job(int(job_id)).state for job_id in job_ids]


def running_job(daemon: Daemon, script: str, *options: str) -> str:
    """Submit a shell script; return the id of the job once the script has created the file `ready`."""
    mark = daemon.folder / "ready"
    mark.unlink(missing_ok=True)
    job_id = daemon.submit(*options, "sh", "-c", script)
    wait_until(mark.exists)
    return job_id


# --- each verb ---------------------------------------------------------------------------------------------


def test_a_held_job_waits_until_it_is_released(daemon):
    job_id = daemon.submit(*LATER)

    assert daemon.bgctl("hold", job_id).stdout == f"{job_id} held\n"
    assert f"  waits      until `bgctl release {job_id}`, then until 2" in daemon.bgctl("show", job_id).stdout
    assert daemon.bgctl("release", job_id).stdout == f"{job_id} scheduled\n"


def test_a_job_held_between_attempts_shows_no_run_time_in_list(daemon):
    job_id = daemon.submit("--retries", "1", "--retry-delay", "1h", "-n", "flaky", "false")
    wait_until(lambda: states(daemon, [job_id]) == ["scheduled"])

    daemon.bgctl("hold", job_id)

    (row,) = daemon.bgctl("list", "--name", "flaky").stdout.splitlines()[1:]
    assert row.split()[6:] == ["-", "flaky", "false"]


def test_a_suspended_job_stops_until_it_is_continued(daemon):
    job_id = running_job(daemon, "touch ready; exec sleep 60")
    wait_until(lambda: daemon.shown(job_id)["attempts"][0]["pid"])  # saved a moment after the start
    status = Path(f"/proc/{daemon.shown(job_id)['attempts'][0]['pid']}/status")

    assert daemon.bgctl("suspend", job_id).stdout == f"{job_id} suspended\n"
    wait_until(lambda: "State:\tT" in status.read_text())
    assert " suspended " in daemon.bgctl("list", "--state", "running").stdout
    assert f"until `bgctl continue {job_id}`" in daemon.bgctl("show", job_id).stdout
    assert daemon.bgctl("suspend", "--state", "running").stderr == "bgctl: no jobs match\n"
    assert daemon.bgctl("continue", "--state", "running").stdout == "continued 1 job\n"
    wait_until(lambda: "State:\tT" not in status.read_text())
    daemon.bgctl("cancel", job_id)


def nobody_dies(daemon, client):
    del daemon
    client.submit(["sleep", "0.1"]).wait(DEADLINE)


def launcher_dies(daemon, client):
    del daemon
    os.kill(client.info().launcher_pid, signal.SIGKILL)
    client.submit(["true"]).wait(DEADLINE)


def bgd_dies(daemon, client):
    daemon.process.kill()
    daemon.process.wait(DEADLINE)
    daemon.start()
    client.submit(["true"]).wait(DEADLINE)


def is_suspended(client, job):
    """Suspend a job unless no attempt of it runs just now."""
    return client.suspend([job])[0].state is not None


def has_grown(path, size):
    return path.stat().st_size > size


@pytest.mark.parametrize("happens", [nobody_dies, launcher_dies, bgd_dies])
def test_no_attempt_of_a_suspended_job_begins_until_it_is_continued(own_daemon, happens):
    """The attempts are so short that many end while they are being suspended."""
    own_daemon.configure("[daemon]\nslots = 2\n")
    own_daemon.stop()
    own_daemon.start()
    marks = own_daemon.folder / "marks"
    marks.touch()
    with own_daemon.client() as client:
        argv = ["sh", "-c", f"echo >> {marks}; sleep 0.02; exit 1"]
        found = set()
        for _ in range(6):
            job = client.submit(argv, retries=1000, retry_delay=0)
            wait_until(partial(is_suspended, client, job))
            begun = marks.stat().st_size
            happens(own_daemon, client)
            assert marks.stat().st_size == begun
            found.add(job.refresh().state)
            assert [each.code for each in client.continue_([job])] == [None]
            wait_until(partial(has_grown, marks, begun))
            client.cancel([job])
            job.wait(DEADLINE)
    assert found <= {State.RUNNING, State.HELD}
    assert State.HELD in found or happens is not launcher_dies


@pytest.mark.parametrize("name", ["USR1", "sigusr1", "10"])
def test_a_signal_reaches_the_job(daemon, name):
    job_id = running_job(daemon, "trap 'exit 7' USR1; touch ready; while :; do sleep 0.1; done")

    assert daemon.bgctl("signal", job_id, "-s", name).stdout == f"{job_id} signalled\n"
    assert daemon.bgctl("wait", job_id).returncode == 7


def test_signal_tree_reaches_child_processes(daemon):
    # the shell ignores the signal, its child does not
    job_id = running_job(
        daemon, "trap '' USR1; (trap 'exit 9' USR1; touch ready; while :; do sleep 0.1; done)"
    )

    assert daemon.bgctl("signal", "--tree", "-s", "USR1", job_id).returncode == 0
    assert daemon.bgctl("wait", job_id).returncode == 9


def test_remove_deletes_a_job_and_its_log(daemon):
    job_id = daemon.bgctl("submit", "--wait", "echo", "hallo").stdout.strip()
    log = Path(daemon.bgctl("logs", "--path", job_id).stdout.strip())

    assert log.exists()
    assert daemon.bgctl("remove", job_id).stdout == f"{job_id} removed\n"
    assert daemon.bgctl("show", job_id).returncode == 66
    wait_until(lambda: not log.exists())


def test_edit_changes_options_and_program_of_a_waiting_job(daemon):
    job_id = daemon.submit("--name", "old", "--timeout", "5m", *LATER)

    done = daemon.bgctl(
        "edit", job_id, "-p", "7", "-q", "mail", "--retry-on", "75", "--unset", "timeout", "--unset", "name",
        "--", "echo", "-p", "9",
    )  # fmt: skip

    assert (done.returncode, done.stdout) == (0, f"{job_id} scheduled\n")
    job = daemon.shown(job_id)
    assert (job["priority"], job["queue"], job["retry_on"]) == (7, "mail", [75])
    assert (job["timeout"], job["name"], job["argv"]) == (None, None, ["echo", "-p", "9"])


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        (["--", "no-such-program"], "no program 'no-such-program' on its PATH"),
        (["--cwd", "/no/such"], "folder /no/such does not exist"),
    ],
)
def test_edit_refuses_what_cannot_start_unless_told_otherwise(daemon, changes, problem):
    job_id = daemon.submit("--hold", "true")

    refused = daemon.bgctl("edit", job_id, *changes)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr == f"bgctl: {problem}; --no-check changes it anyway\n"
    assert daemon.bgctl("edit", "--no-check", job_id, *changes).stdout == f"{job_id} held\n"


def test_a_finished_job_cannot_be_edited(daemon):
    job_id = daemon.bgctl("submit", "--wait", "true").stdout.strip()

    done = daemon.bgctl("edit", job_id, "-p", "7")

    assert done.returncode == 1
    assert f"job {job_id}" in done.stderr


def test_cancel_ends_a_running_job_and_retry_runs_it_again(daemon):
    mark = daemon.folder / "mark"
    job_id = daemon.submit("sh", "-c", f"touch {mark}; exec sleep 60")
    wait_until(mark.exists)

    assert daemon.bgctl("cancel", job_id).stdout == f"{job_id} stopping\n"
    assert daemon.bgctl("wait", job_id).returncode == 143
    assert daemon.bgctl("cancel", job_id).returncode == 1
    assert daemon.bgctl("retry", job_id).stdout in {f"{job_id} queued\n", f"{job_id} running\n"}
    daemon.bgctl("cancel", job_id)


def test_an_error_for_one_job_does_not_stop_the_others(daemon):
    job_id = daemon.submit("--delay", "1h", "true")

    done = daemon.bgctl("cancel", "--json", "999999", job_id)

    assert done.returncode == 66
    assert "no job 999999" in done.stderr
    assert [(each["id"], each["state"]) for each in json.loads(done.stdout)] == [
        (999999, None),
        (int(job_id), "cancelled"),
    ]


def test_a_range_means_all_its_jobs(daemon):
    first, last = (int(daemon.submit("--delay", "1h", "true")) for _ in range(2))

    assert daemon.bgctl("cancel", f"{first}-{last}").stdout == f"{first} cancelled\n{last} cancelled\n"


# --- selections --------------------------------------------------------------------------------------------


def test_a_selection_skips_jobs_to_which_the_verb_does_not_apply(daemon, waiting_jobs):
    job_ids, selection = waiting_jobs
    daemon.bgctl("cancel", job_ids[0])

    done = daemon.bgctl("hold", *selection, "--yes")

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "held 2 jobs\n"
    assert states(daemon, job_ids) == ["cancelled", "held", "held"]


def test_a_dry_run_lists_the_jobs_and_changes_nothing(daemon, waiting_jobs):
    job_ids, selection = waiting_jobs
    first, *_, last = job_ids

    done = daemon.bgctl("cancel", *selection, "--dry-run")
    as_json = json.loads(daemon.bgctl("cancel", "--json", "--dry-run", *job_ids).stdout)

    assert done.stdout == f"3 jobs would be cancelled: {first}-{last}\n"
    assert as_json == [{"id": int(each), "state": "scheduled", "error": None} for each in job_ids]
    assert states(daemon, job_ids) == ["scheduled"] * 3


def test_ids_and_filters_together_select_jobs_that_match_both(own_daemon):
    first, second, third = (own_daemon.finished_job(*words) for words in (["false"], ["true"], ["false"]))

    retried = own_daemon.bgctl("retry", f"{first}-{second}", "--state", "failed", "--yes")

    assert (retried.returncode, retried.stderr) == (0, "")
    own_daemon.bgctl("wait", f"{first}-{third}")
    attempts = [own_daemon.shown(job)["attempt"] for job in (first, second, third)]
    assert attempts == [2, 1, 1]
    assert own_daemon.bgctl("remove", "--dry-run", f"{second}-{third}", "--state", "failed").stdout == (
        f"1 job would be removed: {third}\n"
    )
    assert own_daemon.bgctl("wait", first, "--state", "queued").stderr == "bgctl: no jobs match\n"


def test_several_selected_jobs_need_yes_without_a_terminal(daemon, waiting_jobs):
    job_ids, selection = waiting_jobs

    asked = daemon.bgctl("cancel", *selection)
    told = daemon.bgctl("cancel", *selection, "--yes", "--json")

    assert (asked.returncode, asked.stdout) == (2, "")
    assert "3 jobs would be cancelled: confirm with --yes; --dry-run lists them" in asked.stderr
    assert json.loads(told.stdout) == [
        {"id": int(each), "state": "cancelled", "error": None} for each in job_ids
    ]


def test_one_selected_job_needs_no_confirmation(daemon):
    daemon.submit("--name", "the-only-one", *LATER)

    assert daemon.bgctl("cancel", "--name", "the-only-*").stdout == "cancelled 1 job\n"


@pytest.mark.parametrize(("answer", "state", "code"), [("y", "cancelled", 0), ("n", "scheduled", 1)])
def test_a_user_at_a_terminal_is_asked_to_confirm(daemon, terminal, waiting_jobs, answer, state, code):
    job_ids, selection = waiting_jobs
    child = terminal("cancel", *selection)
    child.expect_exact("Cancel 3 jobs? [y/N]: ")

    child.sendline(answer)

    assert ("nothing changed" in seen(child)) == (answer == "n")
    assert child.exitstatus == code
    assert states(daemon, job_ids) == [state] * 3


@pytest.mark.parametrize(("verb", "options"), [("remove", []), ("prune", ["--keep", "0"])])
def test_the_question_warns_that_logs_are_deleted_for_good(daemon, terminal, verb, options):
    for _ in range(2):
        daemon.bgctl("run", "true")
    child = terminal(verb, "--state", "succeeded", *options)
    child.expect(rf"{verb.capitalize()} \d+ jobs and their logs for good\? \[y/N\]: ")

    child.sendline("n")

    assert "nothing changed" in seen(child)


def test_ctrl_c_at_the_question_means_no(daemon, terminal, waiting_jobs):
    job_ids, selection = waiting_jobs
    child = terminal("cancel", *selection)
    child.expect_exact("[y/N]: ")
    wait_until(
        lambda: psutil.Process(child.pid).status() == psutil.STATUS_SLEEPING
    )  # it waits for the answer

    child.sendintr()

    assert "bgctl: nothing changed" in seen(child)
    assert child.exitstatus == 130
    assert states(daemon, job_ids) == ["scheduled"] * 3


def test_without_a_state_only_failed_jobs_are_retried(daemon):
    good, bad = (daemon.bgctl("submit", "--wait", "-t", "done", each).stdout for each in ("true", "false"))

    assert daemon.bgctl("retry", "--tag", "done", "--dry-run").stdout == f"1 job would be retried: {bad}"
    assert (
        daemon.bgctl("retry", "--tag", "done", "--state", "succeeded", "--dry-run").stdout
        == f"1 job would be retried: {good}"
    )


def test_edit_has_other_options_to_select_jobs(daemon, waiting_jobs):
    job_ids, (_, tag) = waiting_jobs

    daemon.bgctl("edit", "--tagged", tag, "--tag", "new", "--yes")

    assert [daemon.shown(job_id)["tags"] for job_id in job_ids] == [["new"]] * 3


def test_an_edit_of_a_selection_changes_the_waiting_jobs_in_it_and_tells_how_many(daemon):
    first, second = (daemon.submit("--hold", "--tag", "to-edit", "--", "true") for _ in range(2))
    daemon.finished_job("--tag", "to-edit", "--", "true")

    assert daemon.bgctl("edit", "--tagged", "to-edit", "-p", "3", "--dry-run").stdout == (
        f"2 jobs would be changed: {first}-{second}\n"
    )
    done = daemon.bgctl("edit", "--tagged", "to-edit", "-p", "3", "--yes")
    assert (done.returncode, done.stdout, done.stderr) == (0, "changed 2 jobs\n", "")
    one = daemon.bgctl("edit", second, "--tagged", "to-edit", "-p", "4", "--yes")
    assert one.stdout == f"{second} held\n"

    assert [daemon.shown(job)["priority"] for job in (first, second)] == [3, 4]
    daemon.bgctl("cancel", "--tag", "to-edit", "--yes")


def test_a_retry_that_finds_no_failed_job_says_that_it_looked_for_those(daemon):
    daemon.finished_job("--tag", "went-well", "--", "true")

    done = daemon.bgctl("retry", "--tag", "went-well")

    assert (done.returncode, done.stdout) == (0, "")
    assert (
        done.stderr == "bgctl: no failed jobs match: --state cancelled or --state succeeded retries others\n"
    )
    assert daemon.bgctl("retry", "--tag", "went-well", "--state", "failed").stderr == "bgctl: no jobs match\n"


def failed_pipeline(daemon, tag):
    """Run a job that fails, and two that wait one for the other; return their ids."""
    first = daemon.submit("--tag", tag, "--hold", "false")
    second = daemon.submit("--after", first, "true")
    third = daemon.submit("--after", second, "true")
    daemon.bgctl("release", first)
    wait_until(lambda: states(daemon, [third]) == ["cancelled"])
    daemon.bgctl("pause")
    return int(first), int(second), int(third)


def test_a_retry_names_the_jobs_that_come_along(own_daemon):
    first, second, third = failed_pipeline(own_daemon, "line")

    done = own_daemon.bgctl("retry", str(first))

    assert done.stdout == f"{first} queued; also {second}-{third}, cancelled because of it\n"
    assert states(own_daemon, [str(second), str(third)]) == ["blocked", "blocked"]
    own_daemon.bgctl("resume")
    wait_until(lambda: states(own_daemon, [str(third)]) == ["cancelled"])
    done = own_daemon.bgctl("retry", "--tag", "line", "--alone")
    assert done.stdout == "retried 1 job\n"
    wait_until(lambda: states(own_daemon, [str(first)]) == ["failed"])
    assert states(own_daemon, [str(second), str(third)]) == ["cancelled", "cancelled"]
    alone = own_daemon.bgctl("retry", str(third))
    assert (alone.returncode, alone.stderr) == (
        1,
        f"bgctl: job {third} waits for job {second}, which was cancelled: retry it, too\n",
    )


def test_a_retry_of_a_selection_names_the_jobs_that_come_along(own_daemon):
    _, second, third = failed_pipeline(own_daemon, "line")

    done = own_daemon.bgctl("retry", "--tag", "line")

    assert done.stdout == f"retried 1 job; also {second}-{third}, cancelled because of it\n"


def test_a_retry_as_json_has_the_jobs_that_come_along(own_daemon):
    first, second, third = failed_pipeline(own_daemon, "line")

    [row] = json.loads(own_daemon.bgctl("--json", "retry", str(first)).stdout)

    assert row == {"id": first, "state": "queued", "error": None, "along": [second, third]}


@pytest.mark.parametrize("verb", ["cancel", "wait", "remove"])
def test_an_empty_selection_is_not_an_error(daemon, verb):
    done = daemon.bgctl(verb, "--tag", "nobody-has-this")

    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr.startswith("bgctl: no jobs match")
    assert ("`bgctl prune` removes old ones" in done.stderr) == (verb == "remove")


def test_wait_with_a_queue_waits_for_its_unfinished_jobs(daemon):
    daemon.bgctl("submit", "--wait", "-q", "waited", "true")
    job_id = daemon.submit("-q", "waited", "--hold", "true")

    waited = daemon.bgctl("wait", "--queue", "waited", "--timeout", "50ms")

    assert (waited.returncode, waited.stdout) == (75, "")
    assert f"job {job_id} has not finished" in waited.stderr


def test_a_selection_may_exceed_one_page_of_a_list(daemon):
    with daemon.client() as client:
        client.submit_many([{"argv": ["true"], "delay": 3600.0, "tags": ["legion"]}] * 10_001)

    done = daemon.bgctl("cancel", "--tag", "legion", "--yes")

    assert done.stdout == "cancelled 10001 jobs\n"


def test_a_selection_of_running_jobs_says_that_they_still_end(daemon):
    running_job(daemon, "trap '' TERM; touch ready; sleep 60", "-q", "stubborn")
    daemon.submit("-q", "stubborn", *LATER)

    done = daemon.bgctl("cancel", "-q", "stubborn", "--yes")

    assert done.stdout == "cancelled 2 jobs; 1 still stopping\n"


def test_a_bar_shows_how_far_an_action_on_many_jobs_is(daemon, terminal):
    with daemon.client() as client:
        client.submit_many([{"argv": ["true"], "hold": True, "tags": ["many"]}] * 1_500)

    child = terminal("cancel", "--tag", "many", "--yes")

    shown = seen(child)
    assert "1500/1500" in shown
    assert "cancelled 1500 jobs" in shown


def test_of_many_refusals_only_the_first_are_printed(daemon):
    with daemon.client() as client:
        first = client.submit_many(
            [{"argv": ["true"], "key": f"of-{each}", "hold": True} for each in range(12)]
        )
        client.cancel(first)
        client.submit_many([{"argv": ["true"], "key": f"of-{each}", "hold": True} for each in range(12)])

    done = daemon.bgctl("retry", "--state", "cancelled", "--yes")

    refused = [line for line in done.stderr.splitlines() if "has the key of job" in line]
    assert (done.returncode, len(refused)) == (1, 10)
    assert done.stderr.endswith("bgctl: 2 more jobs were refused\n")


def test_an_action_on_many_jobs_that_breaks_off_says_how_far_it_came(daemon, monkeypatch, capsys):
    def act_on_all(*_: object, **__: object) -> Iterator[list[ActResult]]:
        yield [ActResult(1, State.QUEUED), ActResult(2, State.QUEUED)]
        raise DaemonUnreachable("it went away")

    monkeypatch.setattr(Client, "act_on_all", act_on_all)
    monkeypatch.setenv("BGD_SOCKET", str(daemon.socket))

    assert run(["release", "--queue", "a", "--yes"]) == UNREACHABLE

    said = capsys.readouterr()
    assert (said.out, said.err) == ("released 2 jobs\n", "bgctl: it went away\n")
