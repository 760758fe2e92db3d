"""Install and start the peers in a folder of their own, apart from bgd and from the system."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
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
}
POSTGRES_PACKAGES = ("postgresql-15", "postgresql-client-15", "libllvm14", "libpq5")

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


@contextmanager
def redis(folder: Path) -> Iterator[None]:
    """Run a Redis in this folder that syncs each change, listening at redis.sock there."""
    path, environment = program("redis-server")
    with _server(
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
    with _server([path, "-b", str(folder / "binlog"), "-f0", "-l", f"unix:{address}"], environment, address):
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
    with _server(command, dict(os.environ), folder / ".s.PGSQL.5432", user=user):
        yield


def say(message: str) -> None:
    print(message, file=sys.stderr)


@contextmanager
def _server(
    command: list[str], environment: dict[str, str], address: Path, user: int | None = None
) -> Iterator[None]:
    with address.with_suffix(".log").open("wb") as log:
        server = subprocess.Popen(
            command, env=environment, stdout=log, stderr=log, cwd=address.parent, user=user
        )
        try:
            wait_until(address.exists)
            yield
        finally:
            server.terminate()
            server.wait()


def _python_with(packages: tuple[str, ...], name: str, python: str) -> Path:
    folder = CACHE / name
    wanted = "\n".join(packages)
    complete = folder / "complete"
    if not complete.exists() or complete.read_text() != wanted:
        say(f"installing {', '.join(packages)} into {folder}")
        subprocess.run([python, "-m", "venv", "--clear", folder], check=True)
        subprocess.run([folder / "bin/pip", "install", "--quiet", *packages], check=True)
        complete.write_text(wanted)
    return folder / "bin/python"


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
