from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from msgspec.structs import replace

from bgd.daemon import folder as state_folder
from bgd.daemon.folder import AlreadyRunning
from bgd.errors import ConfigError
from tests.daemon.harness import configure

STRANGER = 4_000_000  # a uid that nobody has

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="NOT TESTED: only root can give a file away")


def in_state_dir(config, path):
    daemon = replace(config.daemon, state_dir=path, socket=f"{path}/bgd.sock")
    return replace(config, daemon=daemon, log_dir=f"{path}/logs")


def mode_of(path):
    return stat.S_IMODE(Path(path).stat().st_mode)


def test_folders_are_made_private(config):
    before = os.umask(0)
    try:
        state_folder.prepare(config)
    finally:
        os.umask(before)
    assert mode_of(config.daemon.state_dir) == 0o700
    assert mode_of(config.log_dir) == 0o700


def test_folder_that_others_may_read_is_made_private(config):
    Path(config.daemon.state_dir).mkdir(mode=0o755)
    state_folder.prepare(config)
    assert mode_of(config.daemon.state_dir) == 0o700


@pytest.mark.parametrize(("mode", "name"), [(0o755, "precious"), (0o1777, None)])
def test_shared_folder_is_refused_and_left_as_it_is(config, mode, name):
    path = Path(config.daemon.state_dir)
    path.mkdir()
    path.chmod(mode)
    if name is not None:
        (path / name).touch()

    with pytest.raises(ConfigError, match="choose a folder of its own"):
        state_folder.prepare(config)

    assert mode_of(path) == mode & 0o777 | mode & 0o1000


@needs_root
def test_folder_of_somebody_else_is_refused_and_left_alone(config):
    Path(config.daemon.state_dir).mkdir(mode=0o755)
    os.chown(config.daemon.state_dir, STRANGER, STRANGER)
    with pytest.raises(ConfigError, match=f"belongs to uid {STRANGER}.*state_dir"):
        state_folder.prepare(config)
    assert mode_of(config.daemon.state_dir) == 0o755


@pytest.mark.parametrize("umask", [0, 0o077, 0o177])
def test_parent_folders_are_writable_only_by_their_owner_whatever_the_umask(folder, umask):
    config = in_state_dir(configure(folder), f"{folder}/local/state/bgd")
    before = os.umask(umask)
    try:
        state_folder.prepare(config)
    finally:
        os.umask(before)
    assert [mode_of(folder / each) for each in ("local", "local/state", "local/state/bgd")] == [
        0o755,
        0o755,
        0o700,
    ]


def test_shared_folder_with_only_a_log_of_bgd_is_refused_with_mode_and_entry(config):
    path = Path(config.daemon.state_dir)
    path.mkdir()
    path.chmod(0o755)
    for name in ("bgd.log", "autostart.lock", "precious"):
        (path / name).touch()

    with pytest.raises(ConfigError, match=r"has mode 0755.*holds 'precious'.*chmod 700"):
        state_folder.prepare(config)

    assert mode_of(path) == 0o755


@needs_root
@pytest.mark.parametrize("kind", ["folder", "link"])
def test_folder_below_one_of_another_user_is_refused(folder, kind):
    (folder / "real").mkdir()
    (folder / "way").mkdir() if kind == "folder" else (folder / "way").symlink_to("real")
    os.chown(folder / "way", STRANGER, STRANGER, follow_symlinks=False)
    config = in_state_dir(configure(folder), f"{folder}/way/bgd")

    with pytest.raises(ConfigError, match=f"the {kind} {folder}/way belongs to uid {STRANGER}"):
        state_folder.prepare(config)

    assert not (folder / "way/bgd").exists()


def test_folder_below_a_world_writable_one_is_refused_unless_that_is_sticky(folder):
    config = in_state_dir(configure(folder), f"{folder}/open/bgd")
    (folder / "open").mkdir()
    (folder / "open").chmod(0o777)
    with pytest.raises(ConfigError, match=f"every user can replace files in the folder {folder}/open"):
        state_folder.prepare(config)

    (folder / "open").chmod(0o1777)
    state_folder.prepare(config)


@needs_root
def test_folder_of_the_socket_may_belong_to_another_user(folder):
    shared = folder / "run"
    shared.mkdir(mode=0o755)
    os.chown(shared, STRANGER, STRANGER)
    config = configure(folder, f'socket = "{shared}/bgd.sock"')
    state_folder.prepare(config)
    assert mode_of(shared) == 0o755
    state_folder.listen(config).close()


@needs_root
def test_folder_that_cannot_be_written_is_refused(folder):
    """This runs in a process that has dropped root, who may write everywhere."""
    config = configure(folder)
    Path(config.daemon.state_dir).mkdir(mode=0o500)
    os.chown(config.daemon.state_dir, STRANGER, STRANGER)
    folder.chmod(0o755)
    code = (
        "import os, sys; from bgd.settings.config import load; from bgd.daemon import folder\n"
        f"config = load(sys.argv[1]); os.setuid({STRANGER})\n"
        "try: folder.prepare(config)\n"
        "except Exception as error: print(type(error).__name__, error)"
    )
    said = subprocess.run(
        [sys.executable, "-c", code, f"{folder}/bgd.toml"],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": str(Path(__file__).parents[2]), "HOME": str(folder)},
    ).stdout
    assert said.startswith(f"ConfigError the folder {config.daemon.state_dir} cannot be written")


@pytest.mark.parametrize("place", ["state", "state/logs"])
def test_file_in_place_of_a_folder_is_named_with_what_to_do(folder, config, place):
    (folder / "state").mkdir(mode=0o700)
    (folder / place).parent.mkdir(exist_ok=True)
    if place == "state":
        (folder / "state").rmdir()
    (folder / place).write_text("no folder")

    with pytest.raises(ConfigError) as refused:
        state_folder.prepare(config)

    assert str(refused.value) == (
        f"cannot make the folder {folder / place}: {folder / place} is a file, not a folder: move it away; "
        "see [daemon] state_dir"
    )


def test_launcher_names_a_file_in_place_of_its_folder(folder):
    (folder / "state").write_text("no folder")
    done = subprocess.run(
        [sys.executable, "-m", "bgd.launcher", "--state", f"{folder}/state", "--logs", f"{folder}/logs"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.endswith(f"{folder}/state is a file, not a folder: move it away\n")


def test_dangling_link_and_non_folder_parent_are_named(folder, config):
    (folder / "state").symlink_to("/nowhere/at/all")
    with pytest.raises(ConfigError, match=f"{folder}/state is a dangling link: remove it"):
        state_folder.prepare(config)

    os.mkfifo(folder / "pipe")
    above = replace(config, daemon=replace(config.daemon, state_dir=f"{folder}/pipe/state"))
    with pytest.raises(ConfigError, match=f"/pipe/state: {folder}/pipe is not a folder: move it away"):
        state_folder.prepare(above)


def test_second_lock_is_refused_and_names_the_holder(config):
    state_folder.prepare(config)
    refused = pytest.raises(
        AlreadyRunning, match=f"pid {os.getpid()} already serves {config.daemon.state_dir}"
    )
    with state_folder.locked(config), refused, state_folder.locked(config):
        pass
    with state_folder.locked(config):
        pass


def test_folder_stays_locked_if_its_lock_file_is_deleted(config):
    state_folder.prepare(config)
    refused = pytest.raises(AlreadyRunning, match="pid unknown already serves")
    with state_folder.locked(config):
        Path(config.daemon.state_dir, "bgd.lock").unlink()
        with refused, state_folder.locked(config):
            pass


def test_lock_names_only_its_latest_holder(config):
    state_folder.prepare(config)
    lock = Path(config.daemon.state_dir, "bgd.lock")
    lock.write_text("123456789012\n")
    with state_folder.locked(config):
        assert lock.read_text() == f"{os.getpid()}\n"


def test_lock_file_that_is_a_link_is_not_followed(config, folder):
    state_folder.prepare(config)
    target = folder / "target"
    target.write_text("precious")
    Path(config.daemon.state_dir, "bgd.lock").symlink_to(target)
    with pytest.raises(ConfigError, match=r"cannot open .*bgd\.lock"), state_folder.locked(config):
        pass
    assert target.read_text() == "precious"


def test_socket_is_private_from_its_birth_whatever_the_umask(config):
    state_folder.prepare(config)
    before = os.umask(0)
    try:
        with state_folder.listen(config):
            assert mode_of(config.daemon.socket) == 0o600
        assert os.umask(0) == 0
    finally:
        os.umask(before)


def test_stale_socket_is_replaced(config):
    state_folder.prepare(config)
    state_folder.listen(config).close()
    with state_folder.listen(config), socket.socket(socket.AF_UNIX) as client:
        client.connect(config.daemon.socket)


def test_socket_with_another_listening_daemon_is_left_alone(config):
    state_folder.prepare(config)
    with state_folder.listen(config) as first:
        with pytest.raises(AlreadyRunning, match=f"another daemon listens on {config.daemon.socket}"):
            state_folder.listen(config)
        first.accept()[0].close()  # the probe
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(config.daemon.socket)


def test_socket_from_systemd_is_used_if_it_is_the_configured_one(config):
    state_folder.prepare(config)
    with state_folder.listen(config) as handed:
        assert state_folder.listen(config, [handed]) is handed


def test_other_sockets_from_systemd_are_refused(config, folder):
    with socket.socket(socket.AF_UNIX) as handed:
        handed.bind(str(folder / "other.sock"))

        with pytest.raises(ConfigError, match=r"systemd listens at .*other\.sock, but the socket is"):
            state_folder.listen(config, [handed])


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_file_or_folder_in_place_of_the_socket_is_left_alone(config, kind):
    state_folder.prepare(config)
    path = Path(config.daemon.socket)
    if kind == "file":
        path.write_text("precious")
    else:
        path.mkdir()
    with pytest.raises(ConfigError, match=f"socket {path} exists and is not a socket"):
        state_folder.listen(config)
    assert path.exists()


def test_socket_in_a_missing_folder_is_refused(config):
    with pytest.raises(ConfigError, match=f"cannot listen on {config.daemon.socket}: No such file"):
        state_folder.listen(config)
