"""Where clients look for a daemon."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from msgspec.structs import replace

from bgd.client.connection import ClientSocket, client_sockets
from bgd.errors import ConfigError
from bgd.settings.paths import SYSTEM_PATHS

HOME = {"HOME": "/home/ada"}
OWN = ClientSocket("/home/ada/.local/state/bgd/bgd.sock", is_own=True)
SHARED = ClientSocket("/run/bgd/bgd.sock", is_own=False)
NAMED = ClientSocket("/tmp/other.sock", is_own=False, is_explicit=True)


def sockets(explicit: str | None = None, environ: dict[str, str] = HOME, **options) -> list[ClientSocket]:
    return list(client_sockets(explicit, environ=environ, **options))


def test_own_daemon_is_tried_before_that_of_the_system():
    assert sockets() == [OWN, SHARED]
    assert sockets(user=True) == [OWN]
    assert sockets(system=True) == [SHARED]


def test_named_socket_is_the_only_one_tried():
    in_environment = {**HOME, "BGD_SOCKET": "/tmp/other.sock"}

    assert sockets("/tmp/other.sock") == [NAMED]
    assert sockets(environ=in_environment) == [NAMED]
    assert sockets("/tmp/other.sock", environ={**HOME, "BGD_SOCKET": "/tmp/third.sock"}) == [NAMED]
    assert sockets(environ=in_environment, user=True) == [OWN]


def test_named_configuration_names_the_only_socket(tmp_path):
    file = tmp_path / "bgd.toml"
    file.write_text("daemon.socket = 'here.sock'")
    here = f"{tmp_path}/here.sock"

    assert sockets(config=str(file)) == [ClientSocket(here, is_own=True)]
    assert sockets(environ={**HOME, "BGD_CONFIG": str(file)}) == [ClientSocket(here, is_own=True)]
    assert sockets(config=str(file), system=True) == [ClientSocket(here, is_own=False)]


def test_socket_that_both_daemons_share_is_tried_once():
    both = {**HOME, "BGD_DAEMON_SOCKET": "/tmp/other.sock"}

    assert sockets(environ=both) == [ClientSocket("/tmp/other.sock", is_own=True)]


def test_named_socket_that_is_too_long_is_refused():
    with pytest.raises(ConfigError, match="107: give a shorter path"):
        sockets("/" + "a" * 107)


def test_broken_configuration_is_refused_with_the_way_around_it(tmp_path):
    file = tmp_path / ".config/bgd/bgd.toml"
    file.parent.mkdir(parents=True)
    file.write_text("daemon.slotz = 3")
    environ = {"HOME": str(tmp_path)}

    with pytest.raises(ConfigError, match=r"did you mean .*slots\?; BGD_SOCKET reaches"):
        sockets(environ=environ)
    assert sockets("/tmp/other.sock", environ=environ) == [NAMED]


def test_setting_in_the_environment_moves_the_socket(tmp_path):
    state = {**HOME, "BGD_DAEMON_STATE_DIR": str(tmp_path)}

    assert sockets(environ=state, user=True) == [ClientSocket(f"{tmp_path}/bgd.sock", is_own=True)]


def test_default_path_that_is_too_long_is_refused():
    with pytest.raises(ConfigError, match=r"107: set \[daemon\] socket to a shorter path"):
        sockets(environ={"HOME": "/" + "a" * 107})


def test_a_machines_configuration_that_is_closed_to_others_does_not_trouble_them(monkeypatch):
    with TemporaryDirectory() as folder, without_root(folder):
        file = Path(folder, "bgd.toml")
        system = replace(SYSTEM_PATHS, config=str(file))
        for module in ("bgd.settings.config", "bgd.client.connection"):
            monkeypatch.setattr(f"{module}.SYSTEM_PATHS", system)

        assert sockets() == [OWN, SHARED]
        with pytest.raises(ConfigError, match="cannot read the configuration"):
            sockets(config=str(file), system=True)


@contextmanager
def without_root(folder: str) -> Iterator[None]:
    """Be another user than root, who can see a folder but not read its configuration."""
    Path(folder).chmod(0o755)
    Path(folder, "bgd.toml").write_text("http.metrics_token = 'a secret of 32 characters......'")
    Path(folder, "bgd.toml").chmod(0)
    user = os.geteuid()
    os.seteuid(user or 65534)
    try:
        yield
    finally:
        os.seteuid(user)
