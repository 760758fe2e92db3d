"""The verb prune: which jobs it deletes, and what it prints and asks."""

from __future__ import annotations

import json

import pytest

from bgd import NoSuchJob


@pytest.fixture
def jobs(own_daemon):
    """Return a daemon with three finished jobs; the last one failed."""
    for word in ("one", "two"):
        own_daemon.submit("--wait", "echo", word)
    own_daemon.bgctl("submit", "--wait", "false")
    return own_daemon


def test_jobs_are_pruned_by_number_age_and_state(jobs):
    dry_run = jobs.bgctl("prune", "--keep", "1", "--dry-run")
    assert dry_run.stdout == "1 job would be removed, with 4B of logs\n"
    assert jobs.bgctl("prune", "--keep", "1").stdout == "1 job removed, with 4B of logs\n"
    assert jobs.bgctl("prune", "--older-than", "1d").stdout == "no job was removed\n"
    by_age = jobs.bgctl("prune")
    assert by_age.stdout == "no job was removed\n"
    assert "`bgctl remove` removes those you name" in by_age.stderr
    done = jobs.bgctl("prune", "--older-than", "0", "--state", "failed", "--json")
    assert json.loads(done.stdout) == {"jobs": 1, "log_bytes": 0}
    assert [job["id"] for job in json.loads(jobs.bgctl("list", "--json").stdout)] == [2]
    with jobs.client() as client, pytest.raises(NoSuchJob):
        client.job(1)


def test_pruning_several_jobs_needs_confirmation(jobs):
    refused = jobs.bgctl("prune", "--logs-total", "0")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert (
        refused.stderr == "bgctl: 2 jobs would be removed: confirm with --yes; --dry-run only counts them\n"
    )

    assert jobs.bgctl("prune", "--older-than", "0", "-y").stdout == "3 jobs removed, with 8B of logs\n"
    assert jobs.submit("true") == "4"


def test_invalid_options_of_prune_are_usage_errors(daemon):
    for arguments, words in [
        (("--older-than", "soon"), "'soon' is not a duration"),
        (("--logs-total", "much"), "'much' is not a size"),
        (("--keep", "-1"), "must be a whole number from 0"),
        (("--state", "running"), "'running' is not one of"),
    ]:
        done = daemon.bgctl("prune", *arguments)
        assert done.returncode == 2
        assert words in done.stderr


def test_the_python_client_prunes(jobs):
    with jobs.client() as client:
        assert client.prune(keep=0, dry_run=True).jobs == 3
        assert client.prune(keep=1, states=["succeeded"]).jobs == 1
        assert client.prune(older_than=0).log_bytes == 4
        assert client.jobs() == []
