"""info, dashboard, reload and shutdown: the daemon itself."""

from __future__ import annotations

import time

import click

from bgctl.codes import REFUSED
from bgctl.common import client, common, say, verb
from bgctl.show import iso_time, local_time, print_json
from bgd.wire.replies import Info
from bgd.wire.steering import ShutdownMode


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
    if common().json:
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
    if common().json:
        print_json({"url": link})
    else:
        click.echo(link)
    if is_to_open:
        import webbrowser  # noqa: PLC0415 - it is slow to import

        if not webbrowser.open(link):
            say("no browser can be opened here: open the link yourself")
            return REFUSED
    return 0


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
    if common().json:
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
    if common().json:
        print_json({"pid": pid, "ended": True})
    else:
        say(f"the daemon (pid {pid}) has ended")
    return 0


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
