"""service: let systemd start bgd, with the machine or with a login, however bgd was installed."""

from __future__ import annotations

import os
import pwd
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

import click

import bgd
from bgctl import exit_codes
from bgctl.common import WrongUsage, global_options, print_json, replace_file, report, say
from bgctl.verbs import verb_group, verb_without_daemon
from bgd import Client
from bgd.errors import DaemonUnreachable, NotAllowed, Refused
from bgd.settings import config
from bgd.settings.paths import SYSTEM_PATHS
from bgd.wire.requests import ShutdownMode

_MARK = "# Written by `bgctl service install`. To change it, use `systemctl edit`.\n"
_NAMES = ("bgd.service", "bgd.socket", "bgd-launcher.service")
_SYSTEM_USER = "bgd"
_SYSUSERS = Path("/etc/sysusers.d/bgd.conf")
# ProtectHome and PrivateTmp of bgd.service hide these
_HIDDEN_FROM_SYSTEM_UNITS = ("/home", "/root", "/run/user", "/tmp", "/var/tmp")  # noqa: S108
_START_TIMEOUT = 120.0  # seconds; systemd itself gives up after 90


@verb_without_daemon("bgctl service install", "sudo bgctl service install")
def install_command() -> None:
    """Write and enable the units, and start bgd as a service.

    For root, bgd becomes a service of the machine, which runs jobs as the user bgd. For other users, and with
    --user, it becomes a service of the caller. Run it again after bgd was moved or upgraded.
    """
    manager = _manager(changes=True)
    written = _write_units(manager)
    manager.run("daemon-reload")
    left = _end_started_daemon(manager)
    manager.run("enable", "bgd.service")
    manager.start("restart" if written else "start")
    status = _status(manager)
    said = [f"{manager.what} is enabled and runs (pid {status['pid']}); its units are in {status['units']}"]
    if left:
        said.append(
            f"jobs still running under the old daemon's launcher: {left}; when they have ended,"
            f" `{manager.systemctl} restart bgd` starts the service's own launcher"
        )
    if status["lingers"] is False:
        said.append(
            "it starts when you log in, and ends, with its jobs, at your last logout; to start it with the"
            " machine and keep it after a logout: loginctl enable-linger"
        )
    report(status, *said)


@verb_without_daemon("bgctl service status", "bgctl --system service status --json")
def status_command() -> int:
    """Show whether bgd is a service, and when it starts.

    Exit with 1 if bgd is not a service or does not run.
    """
    manager = _manager()
    status = _status(manager)
    if global_options().json:
        print_json(status)
    elif status["units"] is None:
        say(f"{manager.what} is not installed: `{manager.bgctl} service install` does that")
    else:
        for label, value in _status_lines(manager, status):
            click.echo(f"{label:<10}{value}")
    return 0 if status["pid"] else exit_codes.REFUSED


@verb_without_daemon("bgctl service remove", "sudo bgctl service remove")
@click.option("--interrupt", is_flag=True, help="Remove it even if that interrupts jobs.")
def remove_command(*, interrupt: bool) -> None:
    """Stop and disable the service, and delete its units.

    Units of a package are kept, and so are the configuration, all jobs and their logs.
    """
    manager = _manager(changes=True)
    status = _status(manager)
    own = [path for path in _files(manager) if _is_ours(path)]
    is_used = status["enabled"] or status["pid"] or status["launcher_pid"]
    if not (own or is_used):
        raise Refused(f"{manager.what} is not installed: `bgctl service install` installs it")
    if is_used and not interrupt and (running := _running_jobs(manager)):
        raise Refused(
            f"running jobs would be interrupted: {running}: wait for them with `bgctl wait`, or use"
            " --interrupt"
        )
    manager.run("disable", "--now", "bgd.socket", "bgd.service")
    manager.run("stop", "bgd-launcher.service")
    for path in own:
        path.unlink()
    manager.run("daemon-reload")
    kept = "" if own else f"; the units in {status['units']} are kept"
    message = f"{manager.what} is stopped and does not start again{kept}; jobs and configuration are kept"
    report({"deleted": [str(path) for path in own]}, message)


service_command = verb_group(
    "service",
    "Let systemd start bgd with the machine or with your login.",
    status_command,
    install_command,
    remove_command,
)


# --- systemd ----------------------------------------------------------------------------------------------


class _Manager:
    """The systemd that runs the services of the machine or of the caller.

    Attributes:
        what: bgd as its service, in words.
        systemctl, bgctl: the commands for it, as the caller may type them.
        folder: where its units are written.
    """

    def __init__(self, *, is_user: bool) -> None:
        self.is_user = is_user
        self.scope = "user" if is_user else "system"
        self.systemctl = "systemctl --user" if is_user else "systemctl"
        self.bgctl = "bgctl" if is_user == (os.geteuid() != 0) else f"bgctl --{self.scope}"
        self.what = f"bgd as a service of {_account().pw_name if is_user else 'this machine'}"
        self.folder = Path(f"{_account().pw_dir}/.config/systemd/user" if is_user else "/etc/systemd/system")
        # sudo and su drop the variable by which systemctl finds the user's manager
        runtime = f"/run/user/{os.geteuid()}"
        known = {"XDG_RUNTIME_DIR": runtime} if is_user and Path(runtime).is_dir() else {}
        self._environment = known | os.environ

    def run(self, *arguments: str) -> str:
        """Run systemctl and return what it prints.

        Raises:
            Refused: it failed; the message is its own.
        """
        done = self._run(*arguments)
        if done.returncode:
            raise Refused(
                f"{self.systemctl} {' '.join(arguments)}: {_last_line(done.stderr)}{self._hint(done)}"
            )
        return done.stdout

    def start(self, verb: str) -> None:
        """Start or restart bgd, and wait until it serves.

        Raises:
            Refused: it did not start; the message has the last line of its log.
        """
        if self._run(verb, "bgd.service").returncode:
            log = ["journalctl", f"--{self.scope}", "--unit=bgd", "--unit=bgd-launcher"]
            said = _run([*log, "--lines=1", "--output=cat"], env=self._environment).stdout
            raise Refused(f"bgd does not start as a service: {_last_line(said)}: see `{' '.join(log)}`")

    def properties(self, unit: str) -> dict[str, str]:
        names = "LoadState,FragmentPath,UnitFileState,ActiveState,MainPID"
        lines = self.run("show", f"--property={names}", unit).splitlines()
        return dict(line.split("=", 1) for line in lines)

    def _run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = ["systemctl", f"--{self.scope}", "--no-ask-password", *arguments]
        return _run(command, env=self._environment)

    def _hint(self, done: subprocess.CompletedProcess[str]) -> str:
        if not self.is_user or "bus" not in done.stderr:
            return ""
        name = _account().pw_name
        return (
            f"; your service manager does not run: log in as {name} (sudo and su do not count as a login),"
            f" or let root run `loginctl enable-linger {name}`"
        )


def _manager(*, changes: bool = False) -> _Manager:
    """Return the service manager that the global options select; `changes`: the caller wants to change it.

    Raises:
        NotAllowed: the caller is not root, and changes a service of the machine.
        Refused: systemd does not run here.
    """
    options = global_options()
    if options.user and options.system:
        raise WrongUsage("--user and --system cannot be combined")
    if options.socket:
        raise WrongUsage("--socket is not for service: the configuration names the socket of a service")
    is_user = options.user or not (options.system or os.geteuid() == 0)
    if not Path("/run/systemd/system").is_dir():  # as in sd_booted(3)
        raise Refused("systemd does not run here: let the service manager of this machine start `bgd`")
    if changes and not is_user and os.geteuid() != 0:
        raise NotAllowed("only root can change the services of this machine: use sudo, or leave out --system")
    return _Manager(is_user=is_user)


def _run(
    command: list[str], env: Mapping[str, str], user: str | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a program in the folder /, and take its output.

    Raises:
        Refused: it cannot be started or does not end.
    """
    try:
        return subprocess.run(
            command,
            env=env,
            cwd="/",
            user=user,
            group=user,
            extra_groups=None if user is None else [],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_START_TIMEOUT,
            check=False,
        )
    except OSError as error:
        raise Refused(f"cannot run {command[0]}: {error.strerror}") from error
    except subprocess.TimeoutExpired:
        raise Refused(f"{' '.join(command)} did not end within {_START_TIMEOUT:g} s") from None


def _last_line(text: str) -> str:
    return text.strip().rpartition("\n")[2] or "it says nothing"


def _account() -> pwd.struct_passwd:
    try:
        return pwd.getpwuid(os.geteuid())
    except KeyError:
        raise Refused(f"no user has the uid {os.geteuid()}, so there is no service manager for it") from None


# --- the daemon and its service ---------------------------------------------------------------------------


def _client(manager: _Manager) -> Client:
    options = global_options()
    return Client(autostart=False, config=options.config, user=manager.is_user, system=not manager.is_user)


def _end_started_daemon(manager: _Manager) -> int:
    """End a daemon that is not the service: it holds the state folder. Return how many jobs run on."""
    with suppress(DaemonUnreachable, NotAllowed), _client(manager) as daemon:
        info = daemon.info()
        if str(info.pid) != manager.properties("bgd.service")["MainPID"]:
            daemon.shutdown(ShutdownMode.LEAVE)
            say(f"the daemon that ran (pid {info.pid}) has ended; its jobs run on")
            return info.running
    return 0  # it does not run, or starting the service says what is wrong


def _running_jobs(manager: _Manager) -> int:
    with suppress(DaemonUnreachable, NotAllowed), _client(manager) as daemon:
        return daemon.info().running
    return 0


def _status(manager: _Manager) -> dict[str, object]:
    """Return what `service status --json` prints; `units` None: there are none."""
    daemon, launcher = (manager.properties(name) for name in ("bgd.service", "bgd-launcher.service"))
    units = Path(daemon["FragmentPath"])
    lingers = Path("/var/lib/systemd/linger", _account().pw_name).exists() if manager.is_user else None
    return {
        "scope": manager.scope,
        "units": str(units.parent) if daemon["FragmentPath"] else None,
        "enabled": daemon["UnitFileState"].startswith("enabled"),
        "state": daemon["ActiveState"],
        "pid": int(daemon["MainPID"]) or None,
        "launcher_pid": int(launcher.get("MainPID", 0)) or None,
        "lingers": lingers,
    }


def _status_lines(manager: _Manager, status: dict[str, object]) -> Iterator[tuple[str, object]]:
    yield "service", manager.what
    yield "units", status["units"]
    yield "runs", f"yes, pid {status['pid']}" if status["pid"] else f"no, it is {status['state']}"
    yield (
        "launcher",
        f"pid {status['launcher_pid']}" if status["launcher_pid"] else "does not run as a service",
    )
    if not status["enabled"]:
        yield "starts", f"by hand only: `{manager.systemctl} enable bgd`"
    elif status["lingers"] is False:
        yield "starts", "with your login, and ends at your last logout: see `loginctl enable-linger`"
    else:
        yield "starts", "with the machine"


# --- units ------------------------------------------------------------------------------------------------


def _write_units(manager: _Manager) -> bool:
    """Write the units of this bgd, unless it came with units of its own; return whether any has changed.

    Raises:
        Refused: a service could not run this bgd, or units of these names exist that bgctl did not write.
    """
    _check_place(manager)
    if not manager.is_user:
        _make_system_user()
    found = manager.properties("bgd.service")["FragmentPath"]
    if found and _names_this_installation(Path(found)):
        return False
    texts = dict(zip(_files(manager), _unit_texts(manager), strict=True))
    foreign = next((path for path in texts if path.exists() and not _is_ours(path)), None)
    if foreign is not None:
        raise Refused(f"{foreign} was not written by `bgctl service install`: move it away")
    changed = {path: text for path, text in texts.items() if not path.exists() or path.read_text() != text}
    manager.folder.mkdir(parents=True, exist_ok=True)
    for path, text in changed.items():
        replace_file(path, [text.encode()])
    return bool(changed)


def _files(manager: _Manager) -> list[Path]:
    return [manager.folder / name for name in _NAMES]


def _is_ours(path: Path) -> bool:
    return path.is_file() and path.read_text().startswith(_MARK)


def _names_this_installation(unit: Path) -> bool:
    """Return whether a unit that bgctl did not write, for example `make install`, starts this bgd."""
    command = re.search("^ExecStart=(.*)", unit.read_text(), re.MULTILINE)
    program = Path(shlex.split(command[1])[0].replace("%%", "%")) if command else Path()
    return program.name == "bgd" and program.resolve().parent == Path(sys.executable).parent.resolve()


def _unit_texts(manager: _Manager) -> Iterator[str]:
    """Yield the texts of the units, in the order of their names."""
    options, python = global_options(), _python(manager)
    loaded = config.load(options.config, system=not manager.is_user)
    folders = ["--state", loaded.daemon.state_dir, "--logs", loaded.log_dir]
    if not manager.is_user and folders[1::2] != [SYSTEM_PATHS.state_dir, SYSTEM_PATHS.log_dir]:
        raise Refused(
            f"[daemon] state_dir is {loaded.daemon.state_dir}, which bgd.service may not write:"
            " leave it out, or write the units by hand"
        )
    named = options.config or os.environ.get("BGD_CONFIG")
    daemon = ["-m", "bgd", *(["--config", str(Path(named).absolute())] if named else [])]
    values = {
        r"^Documentation=.*\n": "",
        "@bgd@": f":{quoted([*python, *daemon])}",  # a colon: $ is a plain character
        "@bgd-launcher@": f":{quoted([*python, '-m', 'bgd.launcher'])}",
        r"--state \S+ --logs \S+": quoted(folders),
        "(?<=^ListenStream=).*": loaded.daemon.socket.replace("%", "%%"),
    }
    for name in _NAMES:
        text = Path(__file__).with_name("units").joinpath(manager.scope, name).read_text()
        for pattern, value in values.items():
            text = re.sub(pattern, value.replace("\\", r"\\"), text, flags=re.MULTILINE)
        yield _MARK + text


def quoted(words: list[str]) -> str:
    """Return words as a command line of a unit, see systemd.service(5)."""
    return " ".join(word if re.fullmatch(r"[\w@.,:+/=-]+", word) else _in_quotes(word) for word in words)


def _in_quotes(word: str) -> str:
    return '"' + word.translate({ord("\\"): "\\\\", ord('"'): '\\"', ord("%"): "%%", ord("\n"): "\\n"}) + '"'


# --- how a service can run this bgd -----------------------------------------------------------------------


def _check_place(manager: _Manager) -> None:
    """Refuse an installation that a service cannot see, or that may vanish.

    Raises:
        Refused: the message says where it is.
    """
    for path in {Path(sys.executable), *map(Path, (sys.prefix, sys.base_prefix, bgd.__file__))}:
        for each in (path, path.resolve()):
            if ".cache" in each.parts:
                raise Refused(
                    f"this bgd is in {each}, which may be deleted at any time: install it, for example with"
                    " `uv tool install` or `pipx install`"
                )
            if not manager.is_user and any(map(each.is_relative_to, _HIDDEN_FROM_SYSTEM_UNITS)):
                raise Refused(
                    f"this bgd is in {each}, which a service of the machine cannot see: install it elsewhere,"
                    " with `make install` or in a virtual environment below /opt, and let its bgctl install"
                    " the service; or leave the service to one user: bgctl --user service install"
                )


def _python(manager: _Manager) -> list[str]:
    """Return the command by which a service starts this Python so that it finds this bgd.

    Raises:
        Refused: there is none; the message says what Python says.
    """
    names = ("XDG_CONFIG_HOME", "XDG_STATE_HOME") if manager.is_user else ()
    needed = {name: os.environ[name] for name in names if os.environ.get(name, "").startswith("/")}
    package = Path(bgd.__file__).parent
    said = ""
    for extra in ({}, {"PYTHONPATH": str(package.parent)}):  # a checkout that is not installed needs it
        env = needed | extra
        done = _probe(manager, env)
        if done.stdout.strip() == str(package):
            assignments = [f"{name}={value}" for name, value in env.items()]
            return [*(["/usr/bin/env", *assignments] if env else []), sys.executable, "-P"]
        said = _last_line(done.stderr)
    raise Refused(f"{sys.executable} does not find bgd in {package} when a service starts it: {said}")


def _probe(manager: _Manager, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    code = "import bgd.__main__, pathlib; print(pathlib.Path(bgd.__file__).parent)"
    plain = {"HOME": _account().pw_dir if manager.is_user else "/", "PATH": os.defpath}
    user = None if manager.is_user else _SYSTEM_USER
    return _run([sys.executable, "-P", "-c", code], env=plain | env, user=user)


def _make_system_user() -> None:
    """Make the user that runs the service of the machine, unless there is one.

    Raises:
        Refused: systemd-sysusers fails.
    """
    try:
        pwd.getpwnam(_SYSTEM_USER)
    except KeyError:
        _SYSUSERS.parent.mkdir(exist_ok=True)
        _SYSUSERS.write_text(Path(__file__).with_name("units").joinpath("sysusers.conf").read_text())
        done = _run(["systemd-sysusers", str(_SYSUSERS)], env=os.environ)
        if done.returncode:
            raise Refused(f"systemd-sysusers: {_last_line(done.stderr)}") from None
