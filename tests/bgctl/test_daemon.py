"""The verbs for the daemon itself."""

from __future__ import annotations

import fcntl
import json

from bgctl.common import replace_file


def test_info_prints_the_paths_of_the_daemon(daemon):
    info = json.loads(daemon.bgctl("info", "--json").stdout)

    assert (info["pid"], info["socket"]) == (daemon.process.pid, str(daemon.socket))
    assert daemon.bgctl("info", "--pid").stdout == f"{daemon.process.pid}\n"
    assert json.loads(daemon.bgctl("info", "--pid", "--json").stdout) == {"pid": daemon.process.pid}
    assert f"pid        {daemon.process.pid}\n" in daemon.bgctl("info").stdout


def test_a_backup_deletes_what_a_killed_one_left_of_the_same_file_and_nothing_else(daemon, tmp_path):
    left, other = tmp_path / ".b.db.0123abcd.part", tmp_path / ".c.db.0123abcd.part"
    written = tmp_path / ".b.db.89abcdef.part"
    for part in (left, other, written):
        part.touch()
    with written.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert daemon.bgctl("backup", str(tmp_path / "b.db")).returncode == 0

    assert {path.name for path in tmp_path.iterdir()} == {"b.db", other.name, written.name}


def test_a_backup_that_is_being_written_is_not_deleted_by_another(tmp_path):
    def pieces():
        yield b"first "
        replace_file(tmp_path / "b.db", [b"another"])
        yield b"second"

    assert replace_file(tmp_path / "b.db", pieces()) == len(b"first second")
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"first second"]
