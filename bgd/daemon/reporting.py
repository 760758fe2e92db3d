"""The daemon's own messages: one line each on stderr, as text or as JSON."""

from __future__ import annotations

import logging
import sys
from datetime import UTC, datetime

import msgspec

from bgd.escape import one_line

LEVELS = ("debug", "info", "warning", "error")
FORMATS = ("text", "json")


def set_up(level: str, style: str) -> None:
    """Send the log to stderr from `level` on, in one of FORMATS."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Json() if style == "json" else _Text())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)


class _Text(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return f"{_time_of(record)} {record.levelname.lower()}: {_message_of(self, record)}"


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": _time_of(record),
            "level": record.levelname.lower(),
            "part": record.name,
            "message": _message_of(self, record),
        }
        return msgspec.json.encode(line).decode()


def _time_of(record: logging.LogRecord) -> str:
    return (
        datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    )


def _message_of(formatter: logging.Formatter, record: logging.LogRecord) -> str:
    lines = [record.getMessage()]
    if record.exc_info:
        lines += formatter.formatException(record.exc_info).splitlines()
    message = "\n".join(map(one_line, lines))
    # a file name need not be UTF-8, but JSON must
    return message.encode(errors="backslashreplace").decode()
