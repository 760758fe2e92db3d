"""A running daemon notices that its files are removed or moved, and loses nothing acknowledged."""

from __future__ import annotations

import shutil
import socket

import pytest

from bgd.errors import Refused
from tests.support import DEADLINE, Daemon, wait_until


@pytest.fixture
def home(tmp_path):
    running = Daemon(tmp_path)
    running.start()
    yield running
    if running.process.poll() is None:
        running.stop()
    running.process.wait(DEADLINE)


def log_of(home):
    return (home.folder / "bgd.log").read_text()


@pytest.mark.parametrize("removed", [["bgd.db"], ["bgd.db-wal"], ["bgd.db", "bgd.db-wal"]])
def test_a_removed_database_is_written_again_and_jobs_run_on(home, removed):
    with home.client() as client:
        sleeper = client.submit(["sleep", "600"])
        done = client.submit(["true"])
        done.wait(DEADLINE)
    for name in removed:
        (home.state_dir / name).unlink()
    assert home.process.wait(DEADLINE) == 74
    assert "Traceback" not in log_of(home)

    home.start()
    with home.client() as client:
        assert client.job(done.id).state == "succeeded"
        assert client.job(sleeper.id).state == "running"
        assert client.submit(["true"]).id > done.id
    assert not list(home.state_dir.glob("bgd.db.saved-*"))


def test_a_replaced_database_is_kept_under_another_name(home):
    with home.client() as client:
        client.submit(["true"]).wait(DEADLINE)
    (home.folder / "another").write_bytes(b"something else")
    (home.folder / "another").rename(home.state_dir / "bgd.db")
    assert home.process.wait(DEADLINE) == 74

    (saved,) = home.state_dir.glob("bgd.db.saved-*")
    assert f"bgd's own database is in {saved}" in log_of(home)
    assert (home.state_dir / "bgd.db").read_bytes() == b"something else"
    saved.rename(home.state_dir / "bgd.db")
    (home.state_dir / "bgd.db-wal").unlink(missing_ok=True)
    home.start()
    with home.client() as client:
        assert [job.state for job in client.jobs()] == ["succeeded"]


def test_no_job_is_accepted_while_the_state_folder_is_moved(home):
    elsewhere = home.folder / "elsewhere"
    with home.client() as client:
        client.submit(["true"]).wait(DEADLINE)
        home.state_dir.rename(elsewhere)
        wait_until(lambda: f"was moved to {elsewhere}" in log_of(home))
        with pytest.raises(Refused, match=f"no new job is taken: .* was moved to {elsewhere}"):
            client.submit(["true"])
        elsewhere.rename(home.state_dir)
        wait_until(lambda: "is back in its place" in log_of(home))
        client.submit(["true"]).wait(DEADLINE)


def test_a_moved_parent_folder_is_noticed_when_jobs_come_in(home):
    with home.client() as client:
        client.submit(["true"]).wait(DEADLINE)
        (home.folder / ".local").rename(home.folder / "local")

        def is_refused():
            try:
                client.submit(["true"])
            except Refused:
                return True
            return False

        wait_until(is_refused)
        (home.folder / "local").rename(home.folder / ".local")


def is_removed(folder):
    """Try to remove a folder, in which bgd may bind its socket again meanwhile; tell whether it is gone."""
    shutil.rmtree(folder, ignore_errors=True)
    return not folder.exists()


def test_a_removed_state_folder_is_made_again_once_no_job_runs(home):
    with home.client() as client:
        job = client.submit(["sh", "-c", "until [ -e go ]; do sleep 0.05; done"], cwd=str(home.folder))
        wait_until(lambda: job.refresh().state == "running" and job.attempts()[0].pid)
        wait_until(lambda: is_removed(home.state_dir))
        wait_until(lambda: "bgd saves the database and ends" in log_of(home))
        wait_until(lambda: "stopping: running jobs 1, mode wait" in log_of(home))
        (home.folder / "go").touch()
    assert home.process.wait(DEADLINE) == 74
    home.start()
    with home.client() as client:
        assert client.job(job.id).state == "succeeded"


def test_a_removed_socket_is_bound_again(home):
    with home.client() as client:
        client.submit(["true"]).wait(DEADLINE)
        home.socket.unlink()
        wait_until(lambda: "was removed: bound again" in log_of(home))
        client.submit(["true"]).wait(DEADLINE)  # on the connection that existed before
    with home.client() as client:
        client.submit(["true"]).wait(DEADLINE)
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(home.socket))
