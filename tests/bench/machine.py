"""Says on which machine, and with which versions of all systems, something was measured."""

from __future__ import annotations

import gzip
import json
import os
import platform
import re
import shutil
import sqlite3
import subprocess
from pathlib import Path

from tests.bench.installing import CACHE
from tests.support import ROOT

ABOUT = ("processors", "memory", "kernel", "file system", "Python, SQLite")

# Where a version is found: a program of a Debian package, or a Python package
PROGRAMS = {
    "xargs": ("xargs", "findutils"),
    "parallel": ("parallel", "parallel"),
    "task_spooler": ("tsp", "task-spooler"),
    "nq": ("nq", "nq"),
    "beanstalkd": ("beanstalkd", "beanstalkd"),
    "redis": ("redis-server", "redis-server"),
    "postgresql": ("postgresql", "postgresql-15"),
    "sidekiq": ("ruby3.3", "ruby-sidekiq"),
}
PYTHON_PACKAGES = ("rq", "huey", "celery", "dramatiq", "procrastinate", "hyperqueue", "dbos")
NODE_PACKAGES = {
    "bunqueue": "bunqueue",
    "graphile_worker": "graphile-worker",
    "restate": "@restatedev/restate-server",
}
BROKERS = dict.fromkeys(("rq", "celery", "dramatiq", "sidekiq"), "redis")
BROKERS |= dict.fromkeys(("oban", "procrastinate", "graphile_worker"), "postgresql")


def revision() -> str:
    """Return the commit that is measured, with a plus sign if files differ from it."""

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
        return done.stdout.strip()

    changed = git("status", "--porcelain", "--untracked-files=no", "--", "bgd", "bgctl", "tests/bench")
    return (git("rev-parse", "--short", "HEAD") or "unknown") + ("+" if changed else "")


def machine() -> dict[str, str]:
    processor = re.search(r"^model name\s*:\s*(.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 << 30)
    values = (
        f"{os.cpu_count()} of {processor[1] if processor else platform.machine()}",
        f"{memory:.1f} GiB",
        platform.release(),
        _file_system(),
        f"{platform.python_version()}, {sqlite3.sqlite_version}",
    )
    return dict(zip(ABOUT, values, strict=True))


def versions() -> dict[str, str]:
    """Return the version of each system that is installed, brokers included."""
    found = {name: _of_debian(*place) for name, place in PROGRAMS.items()}
    found |= {name: _of_python(name) for name in PYTHON_PACKAGES}
    found |= {name: _of_node(package) for name, package in NODE_PACKAGES.items()}
    found |= {"bgd": revision(), "oban": _of_python("oban", "oban"), "pueue": _printed("pueue", "--version")}
    for name, broker in BROKERS.items():
        title = {"redis": "Redis", "postgresql": "PostgreSQL"}[broker]
        found[name] = f"{found[name]}, {title} {found[broker]}" if found[name] and found[broker] else ""
    if found["oban"]:
        found["oban"] += f", Python {_printed(str(CACHE / 'oban/bin/python'), '--version').split()[-1]}"
    return {name: version for name, version in found.items() if version}


def _of_debian(program: str, package: str) -> str:
    unpacked = CACHE / program / f"usr/share/doc/{package}/changelog.Debian.gz"
    if unpacked.exists():
        first = gzip.decompress(unpacked.read_bytes()).decode(errors="replace").splitlines()[0]
        return first.partition("(")[2].partition(")")[0]
    return _printed("dpkg-query", "--show", "--showformat", "${Version}", package)


def _of_python(name: str, environment: str = "peers") -> str:
    for folder in CACHE.glob(f"{environment}/lib/*/site-packages/{name}-*.dist-info"):
        return folder.name.removesuffix(".dist-info").partition("-")[2]
    return ""


def _of_node(name: str) -> str:
    path = CACHE / "npm/node_modules" / name / "package.json"
    return str(json.loads(path.read_text())["version"]) if path.exists() else ""


def _printed(*command: str) -> str:
    if shutil.which(command[0]) is None:
        return ""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else ""


def _file_system() -> str:
    folder = os.environ.get("BGD_BENCH_DIR") or "/tmp"
    return _printed("findmnt", "--noheadings", "--output", "FSTYPE", "--target", folder) or "unknown"
