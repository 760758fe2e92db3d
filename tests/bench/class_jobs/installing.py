"""Installs the peers, not into bgd's environment: Python packages, and Redis from Debian's."""

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
PACKAGES = ("rq", "huey", "celery", "redis", "packaging")  # Celery needs the last, and does not say so
# the program, and what it is linked with
REDIS_PACKAGES = ("redis-server", "redis-tools", "libatomic1", "libjemalloc2", "liblzf1")
DURABLE = ("--appendonly", "yes", "--appendfsync", "always", "--save", "")


def peers_python() -> Path:
    """Return the Python that has the peers; the first time they are installed for it."""
    folder = CACHE / "peers"
    complete = folder / "complete"
    if not complete.exists():
        say(f"installing {', '.join(PACKAGES)} into {folder}")
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
        subprocess.run([folder / "bin/pip", "install", "--quiet", *PACKAGES], check=True)
        complete.touch()
    return folder / "bin/python"


@contextmanager
def redis(folder: Path) -> Iterator[None]:
    """Run a Redis in this folder that syncs each change, listening at redis.sock there."""
    program, libraries = _redis_server()
    log = (folder / "redis.log").open("wb")
    server = subprocess.Popen(
        [program, "--port", "0", "--unixsocket", str(folder / "redis.sock"), "--dir", str(folder), *DURABLE],
        env={**os.environ, "LD_LIBRARY_PATH": libraries},
        stdout=log,
    )
    try:
        wait_until((folder / "redis.sock").exists)
        yield
    finally:
        server.kill()
        server.wait()
        log.close()


def say(message: str) -> None:
    print(message, file=sys.stderr)


def _redis_server() -> tuple[str, str]:
    """Return the program and the folders of its libraries; the first time it may be downloaded."""
    installed = shutil.which("redis-server")
    if installed is not None:
        return installed, os.environ.get("LD_LIBRARY_PATH", "")
    root = CACHE / "redis"
    if not root.exists():
        say(f"downloading {', '.join(REDIS_PACKAGES)} to {root}")
        with tempfile.TemporaryDirectory(dir=CACHE) as folder:
            _download(Path(folder))
            for package in Path(folder).glob("*.deb"):
                subprocess.run(["dpkg", "--extract", package, Path(folder, "root")], check=True)
            Path(folder, "root").rename(root)
    libraries = {str(library.parent) for library in root.rglob("*.so.*")}
    return str(root / "usr/bin/redis-server"), ":".join(sorted(libraries))


def _download(folder: Path) -> None:
    try:
        subprocess.run(
            ["apt-get", "download", "--quiet", *REDIS_PACKAGES], cwd=folder, stdout=sys.stderr, check=True
        )
    except (OSError, subprocess.CalledProcessError) as error:
        raise SystemExit(
            f"Redis is missing: install redis-server, or let apt-get download it (apt-get update): {error}"
        ) from error
