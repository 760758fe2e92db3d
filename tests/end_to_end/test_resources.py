"""Resources, rates and keys: what jobs get and when they start, also over restarts, under a real daemon."""

from __future__ import annotations

import json

import pytest

from bgd import Refused
from tests.support import DEADLINE, wait_until

CONFIGURATION = """
[daemon]
slots = 8
[resources]
gpu = ["0", "GPU-b"]
license = 2
[queues.api]
rate = "2/1h"
"""
SHOW = "echo gpu=$BGD_RESOURCE_GPU license=$BGD_RESOURCE_LICENSE"


pytestmark = pytest.mark.daemon(CONFIGURATION)


@pytest.fixture
def client(daemon):
    with daemon.client() as connected:
        yield connected


def running(client, **options):
    job = client.submit(["/bin/sleep", "600"], **options)
    wait_until(lambda: client.job(job.id).state == "running")
    return job


def tokens_of(job):
    return job.attempts()[-1].tokens


def test_jobs_get_tokens_that_nobody_else_has_and_are_told_their_names(daemon, client):
    first = running(client, resources={"gpu": 1, "license": 1})
    second = client.submit(["/bin/sh", "-c", SHOW], resources={"gpu": 1}).wait(DEADLINE)

    assert tokens_of(first) == {"gpu": ["0"], "license": ["1"]}
    assert second.output() == "gpu=GPU-b license=\n"
    wide = client.submit(["/bin/sh", "-c", SHOW], resources={"gpu": 2})
    behind = client.submit(["/bin/true"], resources={"gpu": 1})
    assert client.submit(["/bin/true"], resources={"license": 1}).wait(DEADLINE).state == "succeeded"
    assert daemon.bgctl("explain", str(wide.id)).stdout.splitlines()[1:3] == [
        "  for 2 gpu: 1 of 2 is taken",
        f"    job {first.id} holds gpu 0",
    ]
    assert (
        daemon.bgctl("explain", str(behind.id)).stdout.splitlines()[1] == "  for its turn: 1 job is before it"
    )
    assert "\n  holds      gpu 0; license 1\n" in daemon.bgctl("show", str(first.id)).stdout
    assert "\n  resources  2 gpu\n" in daemon.bgctl("show", str(wide.id)).stdout

    first.cancel()
    assert wide.wait(DEADLINE).output() == "gpu=0,GPU-b license=\n"
    assert behind.wait(DEADLINE).state == "succeeded"


def test_too_many_tokens_and_unknown_resources_are_refused(daemon, client):
    for resources, message in (
        ({"gpu": 3}, r"the job asks for 3 gpu: \[resources\] of .* has 2"),
        ({"gpus": 1}, r"there is no resource gpus .*did you mean gpu\?"),
        ({"gpu": 0}, "at most 8 resources, each with a number from 1 to 1000"),
    ):
        with pytest.raises(Refused, match=message):
            client.submit(["/bin/true"], resources=resources)
    usage = daemon.bgctl("submit", "--resource", "gpu", "true")
    assert (usage.returncode, "'gpu' must be NAME=N, a name of at most 32 small letters" in usage.stderr) == (
        2,
        True,
    )


def test_tokens_are_kept_over_a_kill_of_bgd_and_after_they_were_removed(daemon, client):
    holder = running(client, resources={"gpu": 1})
    waiting = client.submit(["/bin/sh", "-c", SHOW], resources={"gpu": 2})
    daemon.process.kill()
    daemon.process.wait(DEADLINE)
    daemon.start()
    assert tokens_of(holder) == {"gpu": ["0"]}
    other = client.submit(["/bin/sh", "-c", SHOW], resources={"gpu": 1}, priority=1).wait(DEADLINE)
    assert other.output() == "gpu=GPU-b license=\n"

    daemon.configure(CONFIGURATION.replace('"0", "GPU-b"', '"GPU-b"'))
    daemon.bgctl("reload")
    reason = json.loads(daemon.bgctl("explain", "--json", str(waiting.id)).stdout)["reasons"][0]
    assert (reason["cause"], reason["words"]) == ("tokens", "for 2 gpu: bgd has 1")
    assert client.submit(["/bin/true"], resources={"gpu": 1}).wait(DEADLINE).state == "succeeded"
    assert holder.refresh().state == "running"
    holder.cancel()
    daemon.configure(CONFIGURATION)
    daemon.bgctl("reload")
    assert waiting.wait(DEADLINE).output() == "gpu=0,GPU-b license=\n"


def test_a_rate_counts_retries_and_is_kept_over_a_kill_of_bgd(daemon, client):
    retried = client.submit(["/bin/false"], queue="api", retries=5, retry_delay=0.0)
    wait_until(lambda: client.job(retried.id).attempt == 2)
    wait_until(lambda: client.job(retried.id).state == "queued")  # both starts of this hour are used up
    waiting = client.submit(["/bin/true"], queue="api", priority=1)

    def why(job):
        return json.loads(daemon.bgctl("explain", "--json", str(job.id)).stdout)

    before = why(waiting)
    assert before["why_waiting"].startswith("for the rate of queue api, 2/1h, until 20")
    assert before["likely_start_at"] == before["reasons"][0]["at"]
    daemon.process.kill()
    daemon.process.wait(DEADLINE)
    daemon.start()
    client.job(waiting.id)
    assert [reason["cause"] for reason in why(waiting)["reasons"]] == ["rate"]

    client.cancel([retried.id])  # a finished job counts, too
    daemon.process.kill()
    daemon.process.wait(DEADLINE)
    daemon.start()
    assert [reason["cause"] for reason in why(waiting)["reasons"]] == ["rate"]
    daemon.configure(CONFIGURATION.replace('"2/1h"', '"3/1h"'))
    daemon.bgctl("reload")
    assert waiting.wait(DEADLINE).state == "succeeded"


# --- limits by key ----------------------------------------------------------------------------------------


def test_a_limit_by_key_is_kept_over_a_kill_of_bgd_and_explained(daemon, client):
    holder = running(client, limit="customer:9")
    waiting = client.submit(["/bin/true"], limit="customer:9")
    skipped = client.submit(["/bin/true"], limit="customer:9", on_limit="skip").wait(DEADLINE)
    assert (skipped.state, skipped.reason) == ("cancelled", f"skipped: job {holder.id} holds customer:9")
    assert client.submit(["/bin/true"], limit="customer:8").wait(DEADLINE).state == "succeeded"
    daemon.process.kill()
    daemon.process.wait(DEADLINE)
    daemon.start()

    assert daemon.bgctl("explain", str(waiting.id)).stdout.splitlines()[1:3] == [
        "  for limit customer:9: 1 of 1 is taken",
        f"    job {holder.id} holds customer:9",
    ]
    both = running(client, limit=("customer:9", 2))  # the newest job says how many: the waiting one may run
    assert "\n  limit      customer:9, 2 at once\n" in daemon.bgctl("show", str(both.id)).stdout
    assert waiting.wait(DEADLINE).state == "succeeded"
    holder.cancel()
    both.cancel()
    again = client.submit(["/bin/true"], limit=("a=b", 3), hold=True)
    assert again.refresh().limit == ("a=b", 3)
    daemon.bgctl("edit", str(again.id), "--limit", "a=b=1", "--on-limit", "skip")
    assert (again.refresh().limit, again.view.on_limit) == (("a=b", 1), "skip")
    refused = daemon.bgctl("edit", str(again.id), "--unset", "limit")
    assert refused.stderr == "bgctl: on_limit needs a limit: it says what happens if the limit is reached\n"
    daemon.bgctl("edit", str(again.id), "--unset", "limit", "--unset", "on-limit")
    assert (again.refresh().limit, again.view.on_limit) == (None, None)


# --- keys -------------------------------------------------------------------------------------------------


def test_a_key_stays_after_the_end_over_a_kill_of_bgd_until_the_job_is_removed(daemon, client):
    first = client.submit(["/bin/true"], key="site", key_for="10m").wait(DEADLINE)
    assert client.submit(["/bin/true"], key="site").id == first.id
    daemon.process.kill()
    daemon.process.wait(DEADLINE)
    daemon.start()

    again = client.submit(["/bin/true"], key="site")
    assert (again.id, again.is_new, again.refresh().state) == (first.id, False, "succeeded")
    assert "\n  key for    10m\n" in daemon.bgctl("show", str(first.id)).stdout
    daemon.bgctl("retry", str(first.id))
    assert first.wait(DEADLINE).refresh().attempt == 2
    daemon.bgctl("remove", str(first.id))
    assert client.submit(["/bin/true"], key="site").is_new


def test_a_key_until_the_start_lets_one_more_job_wait(daemon, client):
    first = running(client, key="build", key_until="start")
    second = client.submit(["/bin/true"], key="build", key_until="start", limit="build")
    assert second.is_new
    assert second.wait(DEADLINE).state == "succeeded"
    assert (first.refresh().key, first.view.key_until) == ("build", "start")
    first.cancel()
    words = "key_until=start and key_for cannot be combined"
    with pytest.raises(Refused, match=words):
        client.submit(["/bin/true"], key="build", key_until="start", key_for=1)
    assert (
        words
        in daemon.bgctl("submit", "--key", "a", "--key-until", "start", "--key-for", "1m", "true").stderr
    )
