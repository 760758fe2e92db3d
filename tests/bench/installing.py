"""Install and start the peers in a folder of their own, apart from bgd and from the system."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support import wait_until

CACHE = Path(os.environ.get("BGD_BENCH_CACHE") or Path.home() / ".cache/bgd-bench")

# What class_jobs/enqueue.py imports. Celery needs packaging, but does not declare it
QUEUES = (
    *("rq", "huey", "celery", "redis", "packaging", "dramatiq[redis]"),
    *("procrastinate", "psycopg[binary,pool]"),
)
PYTHON_PACKAGES = (*QUEUES, "hyperqueue", "dbos")
OBAN_PACKAGES = (*QUEUES, "oban")
OBAN_PYTHON = (3, 12)  # the oldest that it runs on

# Programs with the packages that contain them and their libraries
DEBIAN_PACKAGES = {
    "redis-server": ("redis-server", "redis-tools", "libatomic1", "libjemalloc2", "liblzf1"),
    "beanstalkd": ("beanstalkd",),
    "tsp": ("task-spooler",),
    "nq": ("nq",),
    "parallel": ("parallel",),
    "ruby3.3": (
        *("ruby3.3", "libruby3.3", "libyaml-0-2", "libgmp10", "libffi8"),
        *("ruby-sidekiq", "ruby-rack", "ruby-redis-client", "ruby-connection-pool", "ruby-concurrent"),
    ),
}
POSTGRES_PACKAGES = ("postgresql-15", "postgresql-client-15", "libllvm14", "libpq5")

MACHINE = {"aarch64": "arm64"}.get(platform.machine(), "x64")  # as npm calls it

# bun and a Node of their own run them: for an older Node, npm would choose an older Graphile Worker
NODE_PACKAGES = (
    *("bun", "bunqueue", "graphile-worker@>=0.18", "pg", f"node-linux-{MACHINE}@22"),
    *("@restatedev/restate-server", "@restatedev/restate-sdk"),
)

REDIS_DURABLE = ("--appendonly", "yes", "--appendfsync", "always", "--save", "")
NOBODY = 65534  # PostgreSQL does not run as root


def peers_python() -> Path:
    """Return the Python that has the peers; install them for it when one is missing."""
    return _python_with(PYTHON_PACKAGES, "peers", sys.executable)


def oban_python() -> Path:
    """Return the Python that has Oban. It may be newer than that of bgd and of the other peers."""
    return _python_with(
        OBAN_PACKAGES, "oban", sys.executable if sys.version_info >= OBAN_PYTHON else new_enough_python()
    )


def new_enough_python() -> str:
    """Return the oldest Python on PATH that is new enough for Oban: it is the fairest to bgd."""
    first, oldest = OBAN_PYTHON
    for minor in range(oldest, oldest + 5):
        name = f"python{first}.{minor}"
        # what is found may not run: a shim of pyenv stands for Pythons that are not chosen
        try:
            subprocess.run([name, "-c", "import ensurepip"], capture_output=True, check=True)
        except (OSError, subprocess.CalledProcessError):
            continue
        return name
    raise RuntimeError(f"no Python {first}.{oldest} or newer that can make a virtual environment is on PATH")


def program(name: str) -> tuple[str, dict[str, str]]:
    """Return a program of Debian, unpacked if it is not installed, and the environment in which it runs."""
    installed = shutil.which(name)
    if installed is not None:
        return installed, dict(os.environ)
    root = _unpacked(name, DEBIAN_PACKAGES[name])
    libraries = {str(library.parent) for library in root.rglob("*.so.*")}
    environment = {**os.environ, "LD_LIBRARY_PATH": ":".join(sorted(libraries))}
    return str(root / "usr/bin" / name), environment


def node_packages() -> Path:
    """Return the folder of the packages of npm; install them when one is missing."""
    folder = CACHE / "npm"

    def install() -> None:
        command = [
            "npm",
            "install",
            "--silent",
            "--no-audit",
            "--no-fund",
            "--ignore-scripts",
            "--prefix",
            str(folder),
        ]
        subprocess.run([*command, *NODE_PACKAGES], stdout=sys.stderr, check=True)

    _complete(folder, NODE_PACKAGES, install)
    return folder / "node_modules"


def bun() -> Path:
    return node_packages() / f"@oven/bun-linux-{MACHINE}/bin/bun"


def node() -> Path:
    return node_packages() / f"node-linux-{MACHINE}/bin/node"


def sidekiq() -> tuple[str, str, dict[str, str]]:
    """Return Ruby, the program of Sidekiq, and their environment, unpacked from Debian's packages."""
    root = _unpacked("ruby3.3", DEBIAN_PACKAGES["ruby3.3"])
    libraries = [
        *sorted(root.glob("usr/share/rubygems-integration/all/gems/*/lib")),
        *sorted(root.glob("usr/share/rubygems-integration/all/gems/concurrent-ruby-*/lib/concurrent-ruby")),
        *sorted(root.glob("usr/lib/ruby/3.*")),
        *sorted(root.glob("usr/lib/*/ruby/3.*")),
    ]
    environment = {
        **os.environ,
        "RUBYLIB": ":".join(map(str, libraries)),
        "LD_LIBRARY_PATH": ":".join(str(folder) for folder in root.glob("usr/lib/*-linux-gnu")),
    }
    (program,) = root.glob("usr/share/rubygems-integration/all/gems/sidekiq-*/bin/sidekiq")
    return str(root / "usr/bin/ruby3.3"), str(program), environment


@contextmanager
def redis(folder: Path) -> Iterator[None]:
    """Run a Redis in this folder that syncs each change, listening at redis.sock there."""
    path, environment = program("redis-server")
    with server(
        [
            path,
            "--port",
            "0",
            "--unixsocket",
            str(folder / "redis.sock"),
            "--dir",
            str(folder),
            *REDIS_DURABLE,
        ],
        environment,
        folder / "redis.sock",
    ):
        yield


@contextmanager
def beanstalkd(folder: Path) -> Iterator[None]:
    """Run a beanstalkd in this folder that syncs each change (-f0), listening at beanstalkd.sock there."""
    path, environment = program("beanstalkd")
    (folder / "binlog").mkdir()
    address = folder / "beanstalkd.sock"
    with server([path, "-b", str(folder / "binlog"), "-f0", "-l", f"unix:{address}"], environment, address):
        yield


@contextmanager
def postgresql(folder: Path) -> Iterator[None]:
    """Run a PostgreSQL in this folder, which syncs each commit; database postgres, user bench."""
    programs = _postgresql_programs()
    user = NOBODY if os.getuid() == 0 else None
    data = folder / "postgresql"
    data.mkdir(mode=0o700)
    if user is not None:
        os.chown(folder, user, user)
        os.chown(data, user, user)
    initialise = [f"{programs}/initdb", "--auth=trust", "--username=bench", f"--pgdata={data}", "--no-sync"]
    subprocess.run(initialise, user=user, stdout=subprocess.DEVNULL, cwd=folder, check=True)
    command = [f"{programs}/postgres", "-D", str(data), "-k", str(folder), "-c", "listen_addresses="]
    with server(command, dict(os.environ), folder / ".s.PGSQL.5432", user=user):
        yield


@contextmanager
def server(
    command: list[str], environment: dict[str, str], address: Path, user: int | None = None
) -> Iterator[None]:
    with address.with_suffix(".log").open("wb") as log:
        running = subprocess.Popen(
            command, env=environment, stdout=log, stderr=log, cwd=address.parent, user=user
        )
        try:
            wait_until(address.exists)
            yield
        finally:
            running.terminate()
            running.wait()


def say(message: str) -> None:
    print(message, file=sys.stderr)


def _python_with(packages: tuple[str, ...], name: str, python: str) -> Path:
    folder = CACHE / name

    def install() -> None:
        subprocess.run([python, "-m", "venv", "--clear", folder], check=True)
        subprocess.run([folder / "bin/pip", "install", "--quiet", *packages], check=True)

    _complete(folder, packages, install)
    return folder / "bin/python"


def _complete(folder: Path, packages: tuple[str, ...], install: Callable[[], None]) -> None:
    """Install the packages into this folder, unless that has been done."""
    wanted = "\n".join(packages)
    complete = folder / "complete"
    if not complete.exists() or complete.read_text() != wanted:
        say(f"installing {', '.join(packages)} into {folder}")
        install()
        complete.write_text(wanted)


def _postgresql_programs() -> Path:
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
    if installed:
        return installed[-1].parent
    return next(_unpacked("postgresql", POSTGRES_PACKAGES).glob("usr/lib/postgresql/*/bin"))


def _unpacked(name: str, packages: tuple[str, ...]) -> Path:
    root = CACHE / name
    if not root.exists():
        say(f"downloading {', '.join(packages)} to {root}")
        CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE) as folder:
            _download(name, packages, Path(folder))
            for package in Path(folder).glob("*.deb"):
                subprocess.run(["dpkg", "--extract", package, Path(folder, "root")], check=True)
            Path(folder, "root").rename(root)
    return root


def _download(name: str, packages: tuple[str, ...], folder: Path) -> None:
    try:
        subprocess.run(
            ["apt-get", "download", "--quiet", *packages], cwd=folder, stdout=sys.stderr, check=True
        )
    except (OSError, subprocess.CalledProcessError) as error:
        raise SystemExit(
            f"{name} is missing: install {packages[0]}, or let apt-get download it (apt-get update): {error}"
        ) from error
