"""info, dashboard, reload and shutdown: the daemon itself."""

from __future__ import annotations

import html
import os
import time
from contextlib import suppress
from pathlib import Path

import click

from bgctl.common import client, global_options, local_time, print_json, say, verb
from bgctl.exit_codes import REFUSED
from bgd.errors import ConfigError
from bgd.formatting import iso_time
from bgd.paths import make_private_folder, user_paths
from bgd.wire.replies import Info
from bgd.wire.steering import ShutdownMode

_PAGE = "login-"  # how the names of files begin that lead a browser to a login link
_LINK_SECONDS = 60.0  # that a link works


@verb(
    "info",
    "bgctl info",
    "bgctl info --pid",
)
@click.option("--pid", is_flag=True, help="Only the daemon's process id.")
def info_command(*, pid: bool) -> int:
    """Show the daemon, its places and how many jobs it has."""
    with client() as daemon:
        info = daemon.info()
    if global_options().json:
        print_json(_as_json(info))
    elif pid:
        click.echo(info.pid)
    else:
        for label, value in _sheet(info):
            click.echo(f"{label:<11}{value}")
    return 0


@verb(
    "dashboard",
    "bgctl dashboard",
    "bgctl dashboard --open",
)
@click.option("--open", "is_to_open", is_flag=True, help="Open it in your browser.")
def dashboard_command(*, is_to_open: bool) -> int:
    """Print a link that logs your browser in to the daemon's pages.

    It works once, and for a minute; the browser stays logged in for eight hours.
    """
    with client() as daemon:
        link = daemon.login_link()
    if global_options().json:
        print_json({"url": link})
    else:
        click.echo(link)
    return _open(link) if is_to_open else 0


@verb(
    "reload",
    "bgctl reload",
)
def reload_command() -> int:
    """Let the daemon read its configuration again.

    One that cannot be used changes nothing, and says why.
    """
    with client() as daemon:
        reloaded = daemon.reload()
    if global_options().json:
        print_json({"config": reloaded.config, "postponed": reloaded.postponed})
    else:
        say(f"the daemon has read {reloaded.config or 'the built-in defaults'}")
        for what in reloaded.postponed:
            say(f"{what} takes effect at the next start")
    return 0


@verb(
    "shutdown",
    "bgctl shutdown",
    "bgctl shutdown --wait",
)
@click.option("--wait", is_flag=True, help="Start nothing more; end when what runs has ended.")
@click.option("--requeue", is_flag=True, help="Stop what runs, and run it again next time.")
@click.option("--cancel", is_flag=True, help="Cancel what runs.")
def shutdown_command(**modes: bool) -> int:
    """End the daemon, and wait until it is gone.

    What runs is treated as configured (daemon.on_stop): usually it runs on under the next daemon.
    """
    chosen = [mode for mode, is_chosen in modes.items() if is_chosen]
    if len(chosen) > 1:
        raise click.UsageError("--wait, --requeue and --cancel exclude each other")
    with client() as daemon:
        pid = daemon.info().pid
        daemon.shutdown(ShutdownMode(chosen[0]) if chosen else None)
    if global_options().json:
        print_json({"pid": pid, "ended": True})
    else:
        say(f"the daemon (pid {pid}) has ended")
    return 0


def _open(link: str) -> int:
    """Open the link in a browser; return the exit code.

    Every user of the machine can read the arguments of a process, and whoever follows the link first is
    logged in. So the browser gets the address of a file that only its user can read, which leads to the link.
    """
    import webbrowser  # noqa: PLC0415 - it is slow to import

    _remove_old_pages()
    try:
        page = _write_page(link)
    except (OSError, ConfigError) as error:
        say(f"no browser was opened: no file for it can be written ({error}): open the link yourself")
        return REFUSED
    if not webbrowser.open(page.as_uri()):
        page.unlink(missing_ok=True)
        say("no browser can be opened here: open the link yourself")
        return REFUSED
    say(f"the browser was given {page}; if it cannot read that (snap, flatpak), open the link yourself")
    return 0


def _write_page(link: str) -> Path:
    """Write a page that leads to the link, for this user alone."""
    address = html.escape(link)
    text = (
        '<!DOCTYPE html><meta charset="utf-8"><meta name="referrer" content="no-referrer">'
        f'<meta http-equiv="refresh" content="0; url={address}"><title>bgd</title>'
        f'<p><a href="{address}">Log in to the pages of bgd</a></p>\n'
    )
    page = _private_folder() / f"{_PAGE}{os.urandom(8).hex()}.html"
    descriptor = os.open(page, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
    return page


def _private_folder() -> Path:
    """Return a folder that no other user can look into.

    Raises:
        ConfigError, OSError: there is none.
    """
    *others, last = _folders()
    for folder in others:
        with suppress(ConfigError, OSError):
            make_private_folder(folder)
            return folder
    make_private_folder(last)
    return last


def _folders() -> list[Path]:
    """Return where such a file may be: a folder that goes with the user's login, then the state folder."""
    state, runtime = Path(user_paths(os.environ).state_dir), os.environ.get("XDG_RUNTIME_DIR", "")
    is_there = runtime.startswith("/") and Path(runtime).is_dir()
    return [Path(runtime, "bgd"), state] if is_there else [state]


def _remove_old_pages() -> None:
    """Remove the pages of earlier calls whose links have expired."""
    with suppress(ConfigError, OSError):
        for folder in _folders():
            for page in folder.glob(f"{_PAGE}*.html"):
                if page.lstat().st_mtime < time.time() - _LINK_SECONDS:
                    page.unlink(missing_ok=True)


def _as_json(info: Info) -> dict[str, object]:
    fields: dict[str, object] = {name: getattr(info, name) for name in info.__struct_fields__ if name != "id"}
    return fields | {"started_at": iso_time(info.started_at)}


def _launcher(info: Info) -> str:
    if info.obstacle is not None:
        return f"nothing starts: {info.obstacle}"
    return str(info.launcher_pid or "not running")


def _sheet(info: Info) -> list[tuple[str, object]]:
    counts = ", ".join(f"{count} {state}" for state, count in info.counts.items() if count)
    return [
        ("version", info.version),
        ("pid", info.pid),
        ("launcher", _launcher(info)),
        ("started", local_time(info.started_at, time.time())),
        ("socket", info.socket),
        ("state", info.state_dir),
        ("pages", info.http or "none"),
        ("config", info.config or "built-in defaults"),
        ("slots", f"{info.running} of {info.slots} taken"),
        ("jobs", counts or "none"),
    ]
