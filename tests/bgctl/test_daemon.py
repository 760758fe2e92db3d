"""The verbs for the daemon itself."""

from __future__ import annotations

import json


def test_info_prints_the_paths_of_the_daemon(daemon):
    info = json.loads(daemon.bgctl("info", "--json").stdout)

    assert (info["pid"], info["socket"]) == (daemon.process.pid, str(daemon.socket))
    assert daemon.bgctl("info", "--pid").stdout == f"{daemon.process.pid}\n"
    assert json.loads(daemon.bgctl("info", "--pid", "--json").stdout) == {"pid": daemon.process.pid}
    assert f"pid        {daemon.process.pid}\n" in daemon.bgctl("info").stdout
