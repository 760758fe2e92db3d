"""info, dashboard, config, reload, shutdown, backup and doctor: the daemon itself."""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, suppress
from pathlib import Path
from stat import S_ISREG

import click
import msgspec
from msgspec import Struct

from bgctl import exit_codes
from bgctl.common import client, global_options, has_colors, local_time, print_json, say, verb, verb_group
from bgctl.exit_codes import REFUSED
from bgctl.options import FILE
from bgd import BgdError, config
from bgd.errors import ConfigError, DaemonUnreachable, NotAllowed, Refused
from bgd.escape import one_line
from bgd.formatting import iso_time
from bgd.paths import make_private_folder, user_paths
from bgd.settings import ANY, Key, Schema, Setting
from bgd.units import format_duration, format_size, parse_duration
from bgd.wire.replies import Info
from bgd.wire.requests import ShutdownMode
from bgd.wire.views import Finding, Level


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
        print_json(_info_as_json(info))
    elif pid:
        click.echo(info.pid)
    else:
        for label, value in _info_lines(info):
            click.echo(f"{label:<11}{value}")
    return 0


def _info_as_json(info: Info) -> dict[str, object]:
    fields: dict[str, object] = {name: getattr(info, name) for name in info.__struct_fields__ if name != "id"}
    return fields | {"started_at": iso_time(info.started_at)}


def _info_lines(info: Info) -> list[tuple[str, object]]:
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


def _launcher(info: Info) -> str:
    if info.obstacle is not None:
        return f"nothing starts: {info.obstacle}"
    return str(info.launcher_pid or "not running")


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
    import html  # noqa: PLC0415 - slow to import

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


_PAGE = "login-"  # how the names of files begin that lead a browser to a login link
_LINK_SECONDS = 60.0  # that a link works


@verb(
    "show",
    "bgctl config show",
    "bgctl config show --system",
    "bgctl config show --config new.toml",
)
def config_show_command() -> int:
    """Show the configuration as a daemon would read it.

    It is TOML, and would do as a configuration itself. A comment says where each value comes from
    that is not the default.
    """
    given = global_options()
    loaded = config.load(given.config, system=given.system)
    if given.json:
        print_json(_config_as_json(loaded))
    else:
        for line in _toml(loaded):
            click.echo(one_line(line))
    return 0


config_command = verb_group("config", "Show the configuration.", config_show_command)


def _config_as_json(loaded: config.Config) -> dict[str, object]:
    document: dict[str, object] = {"source": loaded.source}
    for path, values in _sections(loaded):
        table = document
        for name in path:
            below = table.setdefault(name, {})
            assert isinstance(below, dict)  # noqa: S101 - no section is called like a key
            table = below
        table |= values
    return document


def _toml(loaded: config.Config) -> Iterator[str]:
    found = config.settings_of(loaded.source)
    yield f"# {one_line(loaded.source)}" if loaded.source else "# built-in defaults: there is no file"
    for path, values in _sections(loaded):
        yield ""
        yield f"[{'.'.join(map(_key, path))}]"
        for key, value in values.items():
            if value is not None:  # which TOML cannot say; a key that is missing does
                yield f"{key} = {_value(key, value)}{_origin(found, (*path, key))}"


KeyPath = tuple[str, ...]


def _sections(loaded: config.Config) -> Iterator[tuple[KeyPath, dict[str, object]]]:
    """Yield each section with its keys, those of a section within another after it."""
    for path, schema in _paths(config.SCHEMA):
        keys = {name: below for name, below in schema.items() if isinstance(below, Key)}
        if path[-1] == ANY:
            for name, section in getattr(loaded, path[0]).items():
                yield (*path[:-1], name), _plain_values(section, keys)
        elif keys:
            section = getattr(loaded, "_".join(path))
            yield path, _plain_values(section, keys)


def _paths(schema: Schema, above: KeyPath = ()) -> Iterator[tuple[KeyPath, Schema]]:
    for name, below in schema.items():
        if not isinstance(below, Key):
            yield (*above, name), below
            yield from _paths(below, (*above, name))


def _plain_values(section: Struct, keys: Mapping[str, Key[object]]) -> dict[str, object]:
    return {name: _plain(key, config.value_of(section, name)) for name, key in keys.items()}


def _plain(key: Key[object], value: object) -> object:
    if value is None:
        return key.none
    if key.reader is config.exception_rules and isinstance(value, tuple):
        return {name: config.rule_text(decision) for name, decision in value}
    return str(value) if isinstance(value, Struct) else value  # as an address


def _origin(found: Mapping[str, Setting], path: KeyPath) -> str:
    setting = found.get(".".join(path))
    return "" if setting is None else f"  # {one_line(setting.origin)}"


def _key(name: str) -> str:
    return name if re.fullmatch(_BARE_KEY, name) else json.dumps(name)


def _value(key: str, value: object) -> str:
    if key in _DURATIONS and isinstance(value, float):
        text = format_duration(value)
        return json.dumps(text) if parse_duration(text) == value else repr(value)
    if isinstance(value, dict):
        pairs = (f"{json.dumps(name)} = {json.dumps(below)}" for name, below in value.items())
        return f"{{ {', '.join(pairs)} }}"
    # what JSON says of texts, numbers and lists means the same in TOML
    return json.dumps(value, ensure_ascii=False)


_DURATIONS = {"grace", "delay", "max_delay", "timeout", "succeeded_for", "failed_for", "every"}
_BARE_KEY = r"[A-Za-z0-9_-]+"


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


@verb(
    "backup",
    "bgctl backup ~/bgd-backup.db",
    "bgctl --system backup /mnt/backups/bgd.db",
)
@click.argument("file", type=FILE, metavar="FILE")
def backup_command(file: str) -> int:
    """Write a copy of the daemon's database to FILE, while it goes on.

    It is checked before it is sent, and takes FILE's place only when all of it is on disk.
    `bgd --recover FILE` puts it in the place of a database that is lost. Logs of jobs are not in it.
    """
    path = Path(file).absolute()
    with client() as daemon, closing(daemon.backup()) as pieces:
        if reason := _why_not(path, Path(daemon.info().state_dir)):
            raise Refused(f"{reason}: name another file")
        try:
            size = _write(path, pieces)
        except OSError as error:
            raise Refused(f"cannot write {path}: {error.strerror}") from error
    if global_options().json:
        print_json({"path": str(path), "bytes": size})
    else:
        say(f"backup written: {path} ({format_size(size)})")
    return 0


def _why_not(path: Path, state_dir: Path) -> str | None:
    """Say why nothing may take the place of what is at the path: root would lose /dev/null for good."""
    with suppress(OSError):  # nothing is there, or nobody may know: the write tells
        if not S_ISREG(path.stat().st_mode):
            return f"{path} is no regular file, and is left as it is"
        if path.parent.samefile(state_dir):
            return f"{path} is among the daemon's own files, and is left as it is"
    return None


def _write(path: Path, pieces: Iterator[bytes]) -> int:
    """Write the pieces to the file, all or none of them; return how many bytes they are."""
    new = path.with_name(f".{path.name}.{os.urandom(4).hex()}.part")
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            size = sum(map(file.write, pieces))
            file.flush()
            os.fsync(descriptor)
        new.replace(path)
    except BaseException:
        with suppress(FileNotFoundError):
            new.unlink()
        raise
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)  # else the new name may be gone after a power cut
    finally:
        os.close(folder)
    return size


@verb(
    "doctor",
    "bgctl doctor",
    "bgctl --system doctor --json",
)
def doctor_command() -> int:
    """Check the installation, and say what to do for each finding.

    The daemon looks at itself; where none answers, what it would find is looked at. Exits with 1 if there
    is a warning or a problem.
    """
    findings = _findings()
    if global_options().json:
        print_json([{name: getattr(each, name) for name in each.__struct_fields__} for each in findings])
    else:
        for each in findings:
            click.echo(_finding_line(each))
            if each.remedy is not None:
                click.echo(f"{'':9}{one_line(each.remedy)}")
    is_well = all(each.level in {Level.OK, Level.NOTE} for each in findings)
    return 0 if is_well else exit_codes.REFUSED


def _findings() -> list[Finding]:
    try:
        with client() as daemon:
            return daemon.checkup()
    except (DaemonUnreachable, NotAllowed) as error:
        return [Finding("daemon", Level.PROBLEM, str(error)), *_without_a_daemon()]
    except ConfigError as error:
        return [Finding("configuration", Level.PROBLEM, str(error), "correct it: bgd does not start with it")]


def _without_a_daemon() -> list[Finding]:
    """Have a bgd look at what it would find; it ends at once, and starts nothing."""
    import subprocess  # noqa: PLC0415 - slow to import

    options = global_options()
    command = [sys.executable, "-P", "-m", "bgd", "--findings"]
    if options.config is not None:
        command += ["--config", options.config]
    if options.system:
        command.append("--system")
    try:
        looked = subprocess.run(command, capture_output=True, check=False, timeout=_CHECK_SECONDS)
    except subprocess.TimeoutExpired:
        raise BgdError(
            f"the look around did not end in {_CHECK_SECONDS:g} s: is the disk that slow?"
        ) from None
    if looked.returncode:
        raise BgdError(looked.stderr.decode(errors="replace").strip().rpartition("\n")[2])
    return msgspec.json.decode(looked.stdout, type=list[Finding])


_CHECK_SECONDS = (
    60.0  # that a look without a daemon may take: it gives itself 20 for the database and a backup
)


def _finding_line(finding: Finding) -> str:
    word = f"{finding.level.value:<9}"
    colored = click.style(word, fg=_COLORS[finding.level]) if has_colors() else word
    return f"{colored}{finding.subject}: {one_line(finding.message)}"


_COLORS = {Level.OK: "green", Level.NOTE: "cyan", Level.WARNING: "yellow", Level.PROBLEM: "red"}
