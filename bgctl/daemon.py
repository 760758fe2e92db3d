"""The verbs for the daemon itself: info, dashboard, config, reload, shutdown, backup and doctor."""

from __future__ import annotations

import json
import os
import re
import shlex
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, suppress
from itertools import chain
from pathlib import Path
from stat import S_ISREG

import click
import msgspec
from msgspec import Struct
from msgspec.structs import replace

from bgctl import exit_codes
from bgctl.common import (
    answer,
    client,
    global_options,
    has_colors,
    labelled,
    replace_file,
    report,
    say,
)
from bgctl.options import FILE, NOTIFY_NAME
from bgctl.tables import local_time
from bgctl.verbs import verb, verb_group, verb_without_daemon
from bgd import BgdError, Client, State
from bgd.errors import ConfigError, DaemonUnreachable, NotAllowed, Refused
from bgd.settings import config
from bgd.settings.paths import SYSTEM_PATHS, make_private_folder, user_paths
from bgd.settings.sources import ANY, Key, Schema, Setting
from bgd.settings.values import exception_rules, rule_text, secret_url, token
from bgd.text.escape import one_line
from bgd.text.formatting import as_json, outcome_in_words, reply_as_json
from bgd.text.units import counted, format_duration, format_size, parse_duration, parse_size
from bgd.wire.replies import Info
from bgd.wire.requests import ShutdownMode
from bgd.wire.views import Finding, Level


@verb("bgctl info", "bgctl info --pid")
@click.option("--pid", is_flag=True, help="Print only the process id of the daemon.")
def info_command(daemon: Client, *, pid: bool) -> None:
    """Show the daemon, its paths and the number of jobs."""
    info = daemon.info()
    if pid:
        answer({"pid": info.pid}, info.pid)
    else:
        answer(reply_as_json(info), *labelled(_info_lines(info)))


def _info_lines(info: Info) -> list[tuple[str, object]]:
    counts = ", ".join(f"{count} {state}" for state, count in info.counts.items() if count)
    launcher = f"nothing starts: {info.obstacle}" if info.obstacle else info.launcher_pid or "not running"
    return [
        ("version", info.version),
        ("pid", info.pid),
        ("launcher", launcher),
        ("started", local_time(info.started_at, time.time())),
        ("socket", info.socket),
        ("state", info.state_dir),
        ("pages", info.http or "none"),
        ("config", info.config or "built-in defaults"),
        ("slots", f"{info.slots}, held by {counted(info.running, 'job')}"),
        ("jobs", counts or "none"),
    ]


@verb("bgctl dashboard", "bgctl dashboard --open", "bgctl dashboard --read-only")
@click.option("--open", "opens", is_flag=True, help="Open the link in your browser.")
@click.option("--read-only", is_flag=True, help="View only: the browser can change nothing.")
def dashboard_command(daemon: Client, *, opens: bool, read_only: bool) -> int:
    """Print a link that logs your browser in to the log page.

    The link works once, within a minute. The browser stays logged in for 7 days.
    """
    link = daemon.login_link(read_only=read_only)
    answer({"url": link}, link)
    return _open_in_browser(link) if opens else 0


def _open_in_browser(link: str) -> int:
    """Open the link in a browser; return the exit code.

    Every user of the machine can read the arguments of a process, and the first browser to follow the link is
    logged in. Therefore pass the browser a file that only its user can read and that redirects to the link.
    """
    import webbrowser  # noqa: PLC0415 - it is slow to import

    try:
        page = _write_login_page(link)
    except (OSError, ConfigError) as error:
        say(f"no browser was opened, because its page cannot be written ({error}): open the link yourself")
        return exit_codes.REFUSED
    if not webbrowser.open(page.as_uri()):
        page.unlink(missing_ok=True)
        say("no browser can be started here: open the link yourself")
        return exit_codes.REFUSED
    say(f"the browser opens {page}; if it cannot read that file (snap, flatpak), open the link yourself")
    return 0


def _write_login_page(link: str) -> Path:
    """Write a page that redirects to the link and that only this user can read; remove expired ones."""
    import html  # noqa: PLC0415 - slow to import

    address = html.escape(link)
    text = (
        '<!DOCTYPE html><meta charset="utf-8"><meta name="referrer" content="no-referrer">'
        f'<meta http-equiv="refresh" content="0; url={address}"><title>bgd</title>'
        f'<p><a href="{address}">Log in to the pages of bgd</a></p>\n'
    )
    folder = Path(user_paths(os.environ).state_dir)
    make_private_folder(folder)
    for old in folder.glob(f"{_PAGE_PREFIX}*.html"):
        if old.lstat().st_mtime < time.time() - _LINK_LIFETIME:
            old.unlink(missing_ok=True)
    page = folder / f"{_PAGE_PREFIX}{os.urandom(8).hex()}.html"
    descriptor = os.open(page, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
    return page


_PAGE_PREFIX = "login-"  # prefix of the file names of login pages
_LINK_LIFETIME = 60.0  # seconds


@verb_without_daemon(
    "bgctl config show",
    "bgctl config show --system",
    "bgctl config show --config new.toml",
)
def show_command() -> None:
    """Show the configuration as a daemon would read it.

    The output is TOML and valid as a configuration file. Values are shown as they are written; a comment says
    what a word or path means here, and where the value comes from.
    """
    given = global_options()
    loaded = config.load(given.config, system=given.system)
    answer(_config_as_json(loaded), *map(one_line, _toml_lines(loaded)))


config_command = verb_group("config", "Show the configuration.", show_command)


def _config_as_json(loaded: config.Config) -> dict[str, object]:
    document: dict[str, object] = {"source": loaded.source}
    for path, keys in _sections(loaded):
        table = document
        for name in path:
            below = table.setdefault(name, {})
            assert isinstance(below, dict)  # noqa: S101 - no section has the name of a key
            table = below
        table |= {name: _without_secrets(name, key, value) for name, (key, value) in keys.items()}
    return document


def _toml_lines(loaded: config.Config) -> Iterator[str]:
    found = config.settings_of(loaded.source)
    yield (
        f"# {one_line(loaded.source)}"
        if loaded.source
        else f"# built-in defaults: there is no {_usual_file()}"
    )
    for path, keys in _sections(loaded):
        yield ""
        names = (name if re.fullmatch(_BARE_KEY, name) else json.dumps(name) for name in path)
        yield f"[{'.'.join(names)}]"
        for name, (key, value) in keys.items():
            if value is not None:  # TOML has no null; a missing key means the same
                yield f"{name} = {_value_and_origin(name, key, value, _setting_of(found, (*path, name)))}"


def _usual_file() -> str:
    return one_line((SYSTEM_PATHS if global_options().system else user_paths(os.environ)).config)


KeyPath = tuple[str, ...]


def _sections(loaded: config.Config) -> Iterator[tuple[KeyPath, dict[str, tuple[Key[object], object]]]]:
    """Yield the path of each section, subsections after their section, and its keys with their values."""
    for path, schema in _section_paths(config.SCHEMA):
        keys = {name: below for name, below in schema.items() if isinstance(below, Key)}
        if path[-1] == ANY:
            for name, section in getattr(loaded, path[0]).items():
                yield (*path[:-1], name), _plain_values(section, keys)
        elif ANY in keys:  # the user chooses the names of the keys
            given = getattr(loaded, path[0])
            if given:
                yield (
                    path,
                    {name: (keys[ANY], _plain_value(keys[ANY], value)) for name, value in given.items()},
                )
        elif keys:
            section = getattr(loaded, "_".join(path))
            yield path, _plain_values(section, keys)


def _section_paths(schema: Schema, above: KeyPath = ()) -> Iterator[tuple[KeyPath, Schema]]:
    for name, below in schema.items():
        if not isinstance(below, Key):
            yield (*above, name), below
            yield from _section_paths(below, (*above, name))


def _plain_values(section: Struct, keys: Mapping[str, Key[object]]) -> dict[str, tuple[Key[object], object]]:
    return {name: (key, _plain_value(key, config.value_of(section, name))) for name, key in keys.items()}


def _plain_value(key: Key[object], value: object) -> object:
    if value is None:
        return key.none
    if key.reader is exception_rules and isinstance(value, tuple):
        return {name: rule_text(decision) for name, decision in value}
    if isinstance(value, tuple):
        return list(value)
    return str(value) if isinstance(value, Struct) else value  # for example an address


def _setting_of(found: Mapping[str, Setting], path: KeyPath) -> Setting | None:
    """Return the source of a key; for an unset key of [retry.commands], its source in [retry]."""
    setting = found.get(".".join(path))
    if setting is None and path[:-1] == ("retry", "commands") and path[-1] != "retries":
        return found.get(f"retry.{path[-1]}")
    return setting


def _without_secrets(name: str, key: Key[object], value: object) -> object:
    """Return a value, or a placeholder for a secret: the output may end up in a bug report."""
    if name == "env" and isinstance(value, dict):
        return dict.fromkeys(value, _SECRET)
    return _SECRET if value and key.reader in {token, secret_url} else value


_SECRET = "***"  # noqa: S105 - stands for one


def _value_and_origin(name: str, key: Key[object], value: object, setting: Setting | None) -> str:
    shown = _without_secrets(name, key, value)
    written = _written(key, value, setting) if shown is value else shown
    is_resolved = shown is value and _is_resolved(key, written, value)
    means = f"means {_toml_value(name, value)}; " if is_resolved else ""
    origin = "default" if setting is None else one_line(setting.origin)
    return f"{_toml_value(name, written)}  # {means}{origin}"


def _written(key: Key[object], value: object, setting: Setting | None) -> object:
    """Return what a file says for a value, in any folder: a relative path becomes the absolute one."""
    if setting is None or setting.value == key.word:
        return value if key.word is None else key.word
    if setting.is_text:  # in the environment numbers are text
        return value
    elsewhere = replace(setting, folder="/proc/self")
    return setting.value if key.reader(elsewhere) == key.reader(setting) else value


def _is_resolved(key: Key[object], written: object, value: object) -> bool:
    """Return whether a value is more than another spelling of what is written, such as 90.0 for "90s"."""
    return written != value and (written == key.word or isinstance(value, str | list))


def _toml_value(key: str, value: object) -> str:
    if key == "delay" and isinstance(value, tuple):
        return f"[{', '.join(_toml_value(key, each) for each in value)}]"
    if key in _DURATIONS and isinstance(value, float):
        text = format_duration(value)
        return json.dumps(text) if parse_duration(text) == value else repr(value)
    if key in _SIZES and isinstance(value, int):
        text = format_size(value)
        return json.dumps(text) if parse_size(text) == value else repr(value)
    if isinstance(value, dict):
        pairs = (f"{json.dumps(name)} = {json.dumps(below)}" for name, below in value.items())
        return f"{{ {', '.join(pairs)} }}"
    # strings, numbers and lists are the same in JSON and TOML
    return json.dumps(value, ensure_ascii=False)


_DURATIONS = {"grace", "delay", "max_delay", "retry_until", "timeout", "succeeded_for", "failed_for", "every"}
_SIZES = {"min_free", "recycle_memory", "max_bytes", "logs_total", "memory_max", "core_max"}
_BARE_KEY = r"[A-Za-z0-9_-]+"


@verb("bgctl reload")
def reload_command(daemon: Client) -> None:
    """Make the daemon read its configuration again.

    An invalid configuration changes nothing; the error says why.
    """
    reloaded = daemon.reload()
    report(
        {"config": reloaded.config, "postponed": reloaded.postponed},
        f"the daemon has read {reloaded.config or 'the built-in defaults'}",
        *(f"{what} takes effect at the next start" for what in reloaded.postponed),
    )


@verb("bgctl shutdown", "bgctl shutdown --wait")
@click.option("--wait", is_flag=True, help="Start no more jobs; stop once the running ones end.")
@click.option("--requeue", is_flag=True, help="Stop running jobs and rerun them at the next start.")
@click.option("--cancel", is_flag=True, help="Cancel running jobs.")
def shutdown_command(daemon: Client, **modes: bool) -> None:
    """Stop the daemon and wait until it has ended.

    What happens to running jobs depends on daemon.on_stop in the configuration. By default they keep running,
    and the next daemon takes them over.
    """
    chosen = [mode for mode, is_chosen in modes.items() if is_chosen]
    if len(chosen) > 1:
        raise click.UsageError("--wait, --requeue and --cancel cannot be combined")
    pid = daemon.info().pid
    daemon.shutdown(ShutdownMode(chosen[0]) if chosen else None)
    report({"pid": pid, "ended": True}, f"the daemon (pid {pid}) has ended")


@verb("bgctl backup ~/bgd-backup.db", "bgctl --system backup --replace /mnt/backups/bgd.db")
@click.argument("file", type=FILE, metavar="FILE")
@click.option("--replace", "may_replace", is_flag=True, help="Replace FILE if it exists.")
def backup_command(daemon: Client, file: str, *, may_replace: bool) -> None:
    """Write a copy of the database to FILE while the daemon runs.

    The copy is checked before it is sent, and gets its name only when all of it is on disk. It does not
    contain the logs of jobs. `bgd --recover FILE` restores a lost database from it.
    """
    path = Path(file).absolute()
    with closing(daemon.backup()) as pieces:
        if reason := _why_not_replaceable(path, Path(daemon.info().state_dir)):
            raise Refused(f"{reason}: choose another file")
        if os.path.exists(path) and not may_replace:  # noqa: PTH110 - False for a name that is too long
            raise Refused(f"{path} exists, so it was left unchanged: choose another file, or add --replace")
        try:
            size = replace_file(path, pieces, 0o600)
        except OSError as error:
            raise Refused(f"cannot write {path}: {error.strerror}") from error
    report({"path": str(path), "bytes": size}, f"backup written: {path} ({format_size(size)})")


def _why_not_replaceable(path: Path, state_dir: Path) -> str | None:
    """Return why the file at the path must not be replaced; None if it may. Root could replace /dev/null."""
    with suppress(OSError):  # missing or not accessible: writing will report it
        if not S_ISREG(path.stat().st_mode):
            return f"{path} is not a regular file, so it was left unchanged"
        if path.parent.samefile(state_dir):
            return f"{path} is in the folder of the daemon's own files, so it was left unchanged"
    return None


@verb_without_daemon(
    "bgctl doctor",
    "bgctl --system doctor --json",
    "bgctl doctor --notify ops",
)
@click.option("--notify", type=NOTIFY_NAME, metavar="NAME", help="Only send this [notify] target a test.")
def doctor_command(*, notify: str | None) -> int:
    """Check the installation and suggest a remedy for each finding.

    The daemon checks itself. If no daemon answers, check what a daemon would find. Exit with 1 if there is a
    warning or a problem.
    """
    if notify is not None:
        return _test_notification(notify)
    # what a remedy advises works as printed, for the same database
    command = shlex.join(["bgd", *_options_of_bgd(), "--recover"])
    findings = [
        replace(
            each,
            message=each.message.replace("bgd --recover", command),
            remedy=each.remedy and each.remedy.replace("bgd --recover", command),
        )
        for each in _findings()
    ]
    answer(as_json(findings), *chain(*map(_finding_lines, findings)))
    is_well = all(each.level in {Level.OK, Level.NOTE} for each in findings)
    return 0 if is_well else exit_codes.REFUSED


def _test_notification(target: str) -> int:
    """Send a test message and wait until it is sent or not; return the exit code."""
    with client() as daemon:
        job = daemon.test_notification(target)
        job.wait()
        is_sent = job.state == State.SUCCEEDED
        lines = [] if is_sent else job.output().splitlines()[-_MOST_LINES:]
        how = " ".join(lines).removeprefix("bgd: ") or outcome_in_words(job.view)
    sent = f"a test was sent to {target} by job {job.id}"
    answer(
        {"target": target, "job": job.id, "sent": is_sent, "problem": None if is_sent else how},
        sent if is_sent else one_line(f"no test was sent to {target}: {how} (bgctl logs {job.id})"),
    )
    return 0 if is_sent else exit_codes.REFUSED


_MOST_LINES = 5  # of the output of a job, which is usually one


def _findings() -> list[Finding]:
    try:
        with client() as daemon:
            return daemon.checkup()
    except (DaemonUnreachable, NotAllowed) as error:
        return [Finding("daemon", Level.PROBLEM, str(error)), *_findings_without_daemon()]
    except ConfigError as error:
        return [
            Finding(
                "configuration", Level.PROBLEM, str(error), "correct it, because bgd does not start with it"
            )
        ]


def _findings_without_daemon() -> list[Finding]:
    """Run bgd to check what it would find; it ends at once and starts no jobs."""
    import subprocess  # noqa: PLC0415 - slow to import

    command = [sys.executable, "-P", "-m", "bgd", "--findings", *_options_of_bgd()]
    try:
        done = subprocess.run(command, capture_output=True, check=False, timeout=_CHECK_TIMEOUT)
    except subprocess.TimeoutExpired:
        raise BgdError(f"the check did not end within {_CHECK_TIMEOUT:g} s: is the disk slow?") from None
    if done.returncode:
        raise BgdError(done.stderr.decode(errors="replace").strip().rpartition("\n")[2])
    return msgspec.json.decode(done.stdout, type=list[Finding])


def _options_of_bgd() -> list[str]:
    """Return the options with which bgd reads the same configuration."""
    options = global_options()
    return ["--system"] if options.system else ["--config", options.config] if options.config else []


_CHECK_TIMEOUT = 60.0  # seconds; bgd allows itself 20 for the database and a backup


def _finding_lines(finding: Finding) -> Iterator[str]:
    word = f"{finding.level.value:<9}"
    colored = click.style(word, fg=_LEVEL_COLORS[finding.level]) if has_colors() else word
    yield f"{colored}{finding.subject}: {one_line(finding.message)}"
    if finding.remedy is not None:
        yield f"{'':9}{one_line(finding.remedy)}"


_LEVEL_COLORS = {Level.OK: "green", Level.NOTE: "cyan", Level.WARNING: "yellow", Level.PROBLEM: "red"}
