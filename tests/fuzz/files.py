"""Files with any content: a configuration, a launcher's journal, an attempt's log."""

from __future__ import annotations

import re
import shutil
import tempfile
from contextlib import suppress
from html.parser import HTMLParser
from pathlib import Path

from bgd.core.job import Outcome
from bgd.daemon.web.log_text import linked, part_before, part_from, plain
from bgd.errors import ConfigError
from bgd.launcher.journal import (
    Began,
    Finished,
    FirstProcess,
    Forgotten,
    Journal,
    JournalContents,
    Record,
    read,
)
from bgd.logs.files import LogReader
from bgd.logs.search import Needle
from bgd.settings.config import load
from bgd.wire.launching import AttemptEnded, AttemptKey, log_name

_MEMORY = Path("/dev/shm")  # the cheapest place for files
FOLDER = Path(tempfile.mkdtemp(prefix="bgd-fuzz-", dir=_MEMORY if _MEMORY.is_dir() else None))
ENVIRONMENT = {"HOME": "/home/somebody"}


def remove_folder() -> None:
    shutil.rmtree(FOLDER, ignore_errors=True)


def configuration(data: bytes) -> None:
    """A file or variables give a configuration, or are refused in one line."""
    path = FOLDER / "bgd.toml"
    if data[:1] == b"$":  # variables: NAME=VALUE, separated by NUL
        pairs = [pair.partition("=") for pair in data[1:].decode(errors="surrogateescape").split("\0")]
        environ = ENVIRONMENT | {f"BGD_{name}": value for name, _, value in pairs}
        environ.pop("BGD_CONFIG", None)
        path.write_bytes(b"")
    else:
        environ = ENVIRONMENT
        path.write_bytes(data)
    refusal = "refused"
    try:
        load(str(path), environ=environ)
    except ConfigError as error:
        refusal = str(error)
    assert len(refusal.splitlines()) == 1, "the error is not one line"


def journal(data: bytes) -> None:
    """Any journal is read and continued; one that is cut short loses only its end."""
    path = FOLDER / "launcher.journal"
    if data[:1] == b"!":
        _tear(path, data[1:])
        return
    path.write_bytes(data)
    left = read(path)
    Journal(path, "boot:2", left).close()
    again = read(path)
    assert again.is_whole == left.is_whole
    assert again.attempts == left.attempts
    assert again.generations == left.generations


def _tear(path: Path, data: bytes) -> None:
    """Write a valid journal, cut it, and read what is left."""
    path.unlink(missing_ok=True)
    written = Journal(path, "boot:1", JournalContents())
    header = path.stat().st_size
    sizes: list[tuple[int, Record]] = []
    for number in data[2:100]:
        record = _record(number)
        with suppress(KeyError):  # the end of an attempt that never began
            _write(written, record)
            sizes.append((path.stat().st_size, record))
    written.close()
    whole = path.read_bytes()
    cut = min(int.from_bytes(data[:2], "big"), len(whole))
    path.write_bytes(whole[:cut])
    expected = JournalContents()
    for size, record in sizes:
        if size <= cut:
            expected.add(record)
    left = read(path)
    assert left.is_whole == (cut in {header, *(size for size, _ in sizes)})
    assert left.attempts == expected.attempts


def _record(number: int) -> Record:
    key = AttemptKey("store", number >> 4, 1)
    match number & 3:
        case 0:
            return Began(key, number, 1.0, 2.0)
        case 1:
            return FirstProcess(key, number, 3)
        case 2:
            return Finished(AttemptEnded(key=key, outcome=Outcome.EXIT, exit_code=number, finished_at=4.0))
        case _:
            return Forgotten(key)


def _write(written: Journal, record: Record) -> None:
    match record:
        case Began() | FirstProcess():
            written.add_step(record)
        case Finished(ended):
            written.add_end(ended, durable=False)
        case Forgotten(key):
            written.forget(key)
        case _:
            raise AssertionError(record)


class _Output(HTMLParser):
    """Refuses all markup except what bgd writes itself."""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        assert tag in {"span", "a", "mark", "details", "summary"}
        assert found.keys() <= KNOWN_ATTRIBUTES
        assert re.match(r"https?://[^\s<>\"']+\Z|view\?at=[0-9]+&", found.get("href") or "http://x")


KNOWN_ATTRIBUTES = {"class", "href", "rel", "id", "tabindex", "aria-hidden", "open"}
KNOWN_ATTRIBUTES |= {"data-n", "data-t", "data-at"}


def logs(data: bytes) -> None:
    """A log, its times and its later files are read to their end, whatever they hold, and shown as text."""
    head, times, later, later_times = (*data.split(b"\xff\xfe\xfd", 3), b"", b"", b"")[:4]
    log = FOLDER / log_name(1, 1)
    log.parent.mkdir(exist_ok=True)
    start = len(head) + 10
    names = {"": head, ".times": times, f".{start}": later, f".{start}.times": later_times}
    for old in log.parent.iterdir():
        old.unlink()
    for name, content in names.items():
        if content:
            Path(f"{log}{name}").write_bytes(content)
    reader = LogReader(str(FOLDER), 1, 1)
    offset, got = 0, b""
    while (piece := reader.read(offset, 1 + len(data) // 3)).data:
        assert piece.offset >= offset
        assert all(0 <= place < len(piece.data) for place, _ in piece.times)
        offset = piece.offset + len(piece.data)
        got += piece.data
    assert got == head + later
    assert reader.size() == offset
    needle = Needle.of(got[: len(data) % 5].decode(errors="replace") or ":")
    for part in (part_from(reader, 0), part_before(reader, offset)):
        for shown in (plain(part), linked(part, needle, 1)):
            _Output().feed(f"{shown['lines']}{shown['open']}")
    for lines in (0, 1, 5):
        assert 0 <= reader.tail_offset(lines) <= offset
